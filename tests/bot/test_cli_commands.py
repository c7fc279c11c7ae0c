"""`finetune` as a whole: its help, -h and --json on every command, what it prints to a terminal and to a pipe, what it
imports and what it leaves behind."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from bot.cli import FIRST, OTHERS, main
from storage.store import Store
from trainers.local.engines.__main__ import main as engines

ROOT = Path(__file__).parents[2]
TICKETS = ROOT / "examples" / "support_tickets.csv"
PROGRAM = "import sys; from bot.cli import main; main(prog_name='finetune')"
# Commands that tell nothing a program would read, each with the reason.
WITHOUT_JSON = {
    "init": "asks a person",
    "run": "stays up",
    "trainer": "stays up",
    "demo": "says where the demo is",
    "current": "prints an id alone, made for programs",
    "report": "writes a page",
    "export": "writes a model, and a card that is JSON",
    "restore": "puts a file in place; its exit code tells",
    "forget": "asks a person, and deletes",
    "engines install": "installs; its exit code tells, and list has the rest",
    "engines remove": "deletes; its exit code tells",
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("FINETUNE_CONFIG", "NO_COLOR", "SLACK_BOT_TOKEN", "SLACK_APP_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def commands(group: click.Group = main, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name in group.commands:
        command = engines if f"{path}{name}" == "engines" else group.commands[name]
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


def in_a_terminal(*arguments: str, columns: int = 60) -> str:
    """What a terminal of that width gets, on stdout and stderr."""
    control, terminal = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    ) as child:
        os.close(terminal)
        text = b""
        try:
            while part := os.read(control, 65_536):
                text += part
        except OSError:  # Linux: the other end is closed
            pass
        os.close(control)
    assert child.returncode == 0, text.decode()
    return text.decode().replace("\r\n", "\n")


def in_a_pipe(*arguments: str, code: int = 0, **environment: str) -> str:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def test_the_help_fits_a_screen_and_names_every_command_once() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    assert len(text.splitlines()) <= 25
    assert max(map(len, text.splitlines())) <= 80
    named = [*FIRST, *(name for names in OTHERS.values() for name in names)]
    assert sorted(named) == sorted(name for name in main.commands if not main.commands[name].hidden)
    assert all(re.search(rf"\b{name}\b", text) for name in named)


@pytest.mark.parametrize("name", [name for name, command in commands() if not command.hidden])
def test_every_command_takes_h(name: str) -> None:
    group, words = (engines, name.split()[1:]) if name.startswith("engines") else (main, name.split())
    if name != "trainer":  # its process has the help: below
        result = CliRunner().invoke(group, [*words, "-h"])
        assert (result.exit_code, result.output[:7]) == (0, "Usage: ")


@pytest.mark.parametrize("name", ["trainer", "engines", "engines install"])
def test_the_help_of_another_process_bears_the_name_that_was_typed(name: str) -> None:
    text = in_a_pipe(*name.split(), "-h")
    assert text.startswith(f"Usage: finetune {name} ")
    assert "Default: that of finetune.toml" in text or name != "engines"


def test_every_command_that_tells_something_tells_programs() -> None:
    groups = {name for name, command in commands() if isinstance(command, click.Group) and name != "engines"}
    silent = {
        name
        for name, command in commands()
        if name not in groups and not any("--json" in parameter.opts for parameter in command.params)
    }
    assert silent == set(WITHOUT_JSON)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("doctor", 1),
        ("policy check", 0),
        ("policy explain --user U1 --action upload --offline", 0),
        ("engines", 0),
        ("engines list", 0),
        ("prices", 0),
        ("prices gpt-4o no-such-model", 1),
        ("plan-memory smollm2-135m --gpu 24", 0),
        ("audit verify", 0),
        ("backup", 0),
        ("log AAAAAA", 1),
    ],
)
def test_what_programs_are_told_is_json(line: str, code: int) -> None:
    Path("data").mkdir()
    Store(Path("data/finetune.db")).close()
    text = in_a_pipe(*line.split(), "--json", code=code)
    assert json.loads(text or "[]") or line.startswith("log")


def test_the_chain_of_the_log_is_told_to_programs() -> None:
    Path("data").mkdir()
    store = Store(Path("data/finetune.db"))
    store.audit.add(at=1.0, who="U1", action="freeze", subject="all", detail="")
    store.close()
    log: dict[str, Any] = json.loads(in_a_pipe("audit", "verify", "--json"))
    assert (log["intact"], log["entries"], log["earlier_head_is_entry"]) == (True, 1, None)
    again = json.loads(in_a_pipe("audit", "verify", "--head", log["head"], "--json"))
    assert again["earlier_head_is_entry"] == 1


def test_a_terminal_gets_colours_and_lines_that_fit_it() -> None:
    text = in_a_terminal("prices", "gpt-4o")
    assert "\x1b[1mPrices of 2 models" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert max(map(len, plain.splitlines())) <= 60
    assert re.search(r"^gpt-4o .*\$2\.50.*\$10\.00", plain, re.MULTILINE)


def test_a_check_is_yellow_where_something_is_worth_a_look(tmp_path: Path) -> None:
    file = tmp_path / "few.csv"
    file.write_text("".join(TICKETS.read_text().splitlines(keepends=True)[:40]))
    text = in_a_terminal("check", str(file), columns=80)
    assert "\x1b[1;33mfew.csv is ready" in text
    assert "\x1b[?25h" in text, "the cursor that the bar hid is shown again"


def test_a_pipe_and_no_color_get_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = in_a_pipe("prices", "gpt-4o")
    assert "\x1b" not in piped
    monkeypatch.setenv("NO_COLOR", "1")
    assert in_a_terminal("prices", "gpt-4o") == piped


def test_a_check_imports_neither_an_sdk_nor_a_framework(tmp_path: Path) -> None:
    file = tmp_path / "few.csv"
    file.write_text("".join(TICKETS.read_text().splitlines(keepends=True)[:61]))
    heavy = "{'openai', 'torch', 'transformers', 'matplotlib', 'rich', 'scipy', 'sklearn', 'slack_sdk', 'sqlite_utils'}"
    program = f"""
import atexit, sys
atexit.register(lambda: print('LOADED', sorted({heavy} & set(sys.modules)), file=sys.stderr))
{PROGRAM}
"""
    command = [sys.executable, "-c", program, "check", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "few.csv is ready" in done.stdout
    assert "LOADED []" in done.stderr


def test_nothing_is_left_in_a_folder_without_an_installation(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["baseline", str(TICKETS), "--rungs", "classical"]).exit_code == 0
    assert list(Path.cwd().iterdir()) == []
    kept = tmp_path / "state" / "finetune"
    assert [file.name for file in kept.glob("*.db")] == ["terminal.db"]
    assert kept.stat().st_mode & 0o777 == 0o700, "answers to rows are in it"


def test_an_installation_keeps_what_the_terminal_asked_in_its_data_folder(tmp_path: Path) -> None:
    Path("finetune.toml").write_text('data = "kept"\n')
    assert CliRunner().invoke(main, ["baseline", str(TICKETS), "--rungs", "classical"]).exit_code == 0
    assert Path("kept/terminal.db").exists()
    assert not (tmp_path / "state").exists()


def test_bash_completes_commands() -> None:
    assert "complete" in in_a_pipe(_FINETUNE_COMPLETE="bash_source")
    words = {"_FINETUNE_COMPLETE": "bash_complete", "COMP_WORDS": "finetune pl", "COMP_CWORD": "1"}
    assert in_a_pipe(**words) == "plain,plan-memory\n"
