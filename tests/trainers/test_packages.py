"""Which extra brings a package, and the line that installs it."""

import re
import subprocess
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from trainers import packages
from trainers.packages import EXTRA_OF, Source, install_line, needs_extra, source_of

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GIT = {"url": "https://example.com/team/finetune", "vcs_info": {"vcs": "git", "commit_id": "0" * 40}}


def names_in(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def test_every_package_of_an_extra_is_said_to_be_in_that_extra() -> None:
    core = names_in(PROJECT["dependencies"])
    extras = PROJECT["optional-dependencies"]
    for package, distributions in packages_distributions().items():
        names = {canonicalize_name(name) for name in distributions}
        extra = EXTRA_OF.get(package)
        if extra:
            assert names & names_in(extras[extra]), f"{package} is not in the extra [{extra}]"
            assert not names & core, f"{package} is always installed"


def test_no_text_leads_anybody_to_somebody_elses_package() -> None:
    install = r"(pip install|pipx (install|run)|uvx|uv (tool (install|run)|pip install|add))( -[^ ]+)*"
    wrong = re.compile(rf"{install} ['\"]?finetune(?!-bot)\b")
    assert wrong.search("pip install finetune") and wrong.search("uvx finetune check")
    assert not wrong.search("uvx --from git+ADDRESS finetune check")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.splitlines():
        path = ROOT / name
        if path != Path(__file__):
            # Some examples aren't UTF-8.
            assert not wrong.search(path.read_text(encoding="utf-8", errors="replace")), name


def test_an_extra_that_is_named_exists() -> None:
    assert set(EXTRA_OF.values()) <= set(PROJECT["optional-dependencies"])


def test_the_slack_app_is_installed_whole() -> None:
    (included,) = (
        line for line in PROJECT["optional-dependencies"]["slack"] if line.startswith("finetune-bot")
    )
    assert Requirement(included).extras == {"files", "plots", "serve"}


@pytest.mark.parametrize(
    ("record", "source"),
    [
        ({}, Source()),
        ({"url": "file:///src/it%20here", "dir_info": {}}, Source(Path("/src/it here"))),
        ({"url": "file:///src", "dir_info": {"editable": True}}, Source(Path("/src"), is_editable=True)),
        (GIT, Source(address="git+https://example.com/team/finetune")),
        (
            {"url": "https://example.com/it", "vcs_info": {"vcs": "git", "requested_revision": "v0.2.0"}},
            Source(address="git+https://example.com/it@v0.2.0"),
        ),
        (
            {"url": "https://example.com/it.whl", "archive_info": {}},
            Source(address="https://example.com/it.whl"),
        ),
    ],
)
def test_an_installers_record_says_where_this_copy_came_from(
    record: dict[str, object], source: Source
) -> None:
    assert source_of(record) == source


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (Source(), "pip install 'finetune-bot[slack]'"),
        (Source(Path("/src")), "pip install '/src[slack]'"),
        (Source(Path("/src"), is_editable=True), "pip install -e '/src[slack]'"),
        (source_of(GIT), "pip install 'finetune-bot[slack] @ git+https://example.com/team/finetune'"),
    ],
)
def test_the_line_installs_from_there_again(
    monkeypatch: pytest.MonkeyPatch, source: Source, line: str
) -> None:
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setattr(packages, "_installed_from", lambda: source)
    assert install_line("slack") == line
    assert needs_extra("Running", "slack") == f"Running needs the extra [slack]. Install it: {line}"


def test_under_uvx_the_line_runs_the_command_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV", "/usr/bin/uv")
    monkeypatch.setattr(packages, "_installed_from", lambda: source_of(GIT))
    assert install_line("files", ["check", "my rows.parquet"]) == (
        "uvx --from 'finetune-bot[files] @ git+https://example.com/team/finetune' finetune check 'my rows.parquet'"
    )
    # an environment of the user's own is kept, also by `uv run`
    monkeypatch.setattr(packages, "_installed_from", lambda: Source(Path("/src"), is_editable=True))
    assert install_line("files", ["check"]) == "pip install -e '/src[files]'"
