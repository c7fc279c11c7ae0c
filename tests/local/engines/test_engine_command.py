"""`finetune engines`: what it lists, refuses and removes. test_engines_install.py installs for real."""

from __future__ import annotations

import ensurepip
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trainers.local.engines.__main__ import main
from trainers.local.engines.catalog import LLAMAFACTORY, UNSLOTH, lock_engine
from trainers.local.engines.installation import InstallationFailed, PipProgress, install, remove

ROOT = Path(__file__).resolve().parents[3]


def run(data: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--data", str(data), *arguments])


def test_the_list_shows_what_is_installed_and_what_the_rest_would_take(engines: Path) -> None:
    output = run(engines.parent).output
    assert output == run(engines.parent, "list").output
    assert "llamafactory  installed · 0.9.5 · 2.1 GB, PyTorch 2.13.0 (CPU only)\n" in output
    command = "finetune engines install unsloth: version 2026.10.9, about 2.9 GB and 2.5 minutes\n"
    assert f"unsloth       not installed · {command}" in output
    assert "AGPL-3.0" in output
    assert output.startswith("builtin ")


def test_the_list_shows_incomplete_and_changed_installations(engines: Path) -> None:
    (engines / "unsloth" / "env").mkdir(parents=True)
    packages = engines / "llamafactory" / "env" / "lib" / "python3.11" / "site-packages"
    (packages / "llamafactory-0.9.5.dist-info").rename(packages / "llamafactory-1.0.dist-info")
    output = run(engines.parent).output
    assert "unsloth       not installed (incomplete; the command continues it)" in output
    assert "installed · 0.9.5 (now 1.0: install it again)" in output


def test_remove_deletes_an_engine_once(engines: Path) -> None:
    assert run(engines.parent, "remove", "llamafactory").output == "llamafactory is removed.\n"
    assert not (engines / "llamafactory").exists()
    output = run(engines.parent, "remove", "llamafactory").output
    assert output == "llamafactory is not installed; nothing was removed.\n"


@pytest.mark.deep
@pytest.mark.parametrize("is_last", [True, False])
def test_the_data_option_may_come_first_or_last(tmp_path: Path, is_last: bool) -> None:
    arguments, data = ["remove", "axolotl"], ["--data", str(tmp_path)]
    line = [*arguments, *data] if is_last else [*data, *arguments]
    command = [sys.executable, "-c", "from bot.cli import main; main()", "engines", *line]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "axolotl is not installed; nothing was removed.\n"), (
        done.stderr
    )


def test_an_engine_used_by_two_jobs_is_neither_removed_nor_installed(engines: Path) -> None:
    home = engines / "llamafactory"
    with lock_engine(home, alone=False), lock_engine(home, alone=False) as second:
        assert second
        with pytest.raises(InstallationFailed, match="is in use by a job"):
            remove(engines, LLAMAFACTORY)
        with pytest.raises(InstallationFailed, match="a job is training with it"):
            install(engines, LLAMAFACTORY, print)
    assert (home / "engine.json").exists()


def test_too_little_space_is_refused_before_anything_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(InstallationFailed, match=r"needs 1200000\.0 GB more on the disk of .* GB are free"):
        install(tmp_path, replace(UNSLOTH, gigabytes=1e6), print)
    assert not (tmp_path / "unsloth" / "env").exists()


@pytest.mark.deep
def test_an_installation_that_fails_quotes_pip_and_can_be_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make_environment(tmp_path / "engines" / "unsloth" / "env")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    done = run(tmp_path, "install", "unsloth")
    assert done.exit_code == 2
    assert "about 2.9 GB (with CUDA about 4 GB more) and 2.5 minutes" in done.output
    assert "Installing unsloth in" in done.output
    assert "updating pip: ERROR: No matching distribution found for pip" in done.output
    assert "not installed (incomplete; the command continues it)" in run(tmp_path).output
    assert (env / "begun").exists()


def make_environment(env: Path) -> Path:
    """Makes a virtual environment with Python's bundled pip, without the seconds of CPU that installing it takes."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    (wheel,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    packages = next(env.glob("lib/python3*/site-packages"))
    shutil.unpack_archive(wheel, packages, "zip")
    (env / "bin" / "pip").touch()
    (env / "begun").touch()
    return env


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "install", "../unsloth")
    assert done.exit_code == 2
    assert "'unsloth', 'axolotl', 'llamafactory'" in done.output


def test_progress_follows_pips_log_and_the_installed_packages(tmp_path: Path) -> None:
    log, env = tmp_path / "install.log", tmp_path / "env"
    packages = env / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    progress = PipProgress(UNSLOTH, env, log, packages=4, started=0.0)
    log.write_text("Collecting a==1\n")
    assert progress.line().endswith("collecting a==1")
    assert "███················· 15% " in progress.line()
    log.write_text("Collecting a==1\nCollecting b\nDownloading b.whl\nProgress 1500000 of 3000000\n")
    assert progress.line().endswith("downloading 2 of 3 MB")
    log.write_text(
        "Collecting a\nCollecting b\nCollecting c\nCollecting d\nInstalling collected packages: a, b\n"
    )
    (packages / "a-1.dist-info").mkdir()
    (packages / "b-1.dist-info").mkdir()
    assert " 80% " in progress.line()
    assert progress.line().endswith("installing")


def test_the_command_imports_neither_torch_nor_a_web_framework() -> None:
    code = "import sys, trainers.local.engines.__main__; sys.exit(bool({'torch', 'starlette'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
