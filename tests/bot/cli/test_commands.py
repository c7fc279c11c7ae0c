"""What all commands of `finetune` have in common: help, -h, --json, what they print to a terminal and to a pipe, what
they import and which files they leave behind."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bot.cli import main
from bot.command_options import ESTIMATE_KEYS, QUESTION_OPTIONS
from bot.option_groups import GROUPS, UNGROUPED
from bot.slack.commands import finetune as slack
from bot.values.terminal_commands import FIRST, OTHERS, SUBCOMMANDS, TERMINAL_COMMANDS
from storage.store import Store
from tests.bot.cli_runner import ROOT, finetune, finetune_json, write_tickets
from tests.databases import put_database
from trainers.local.engines.__main__ import main as engines

PROGRAM = "import sys; from bot.cli import main; main(prog_name='finetune')"
# Commands that print nothing for programs, each with the reason.
WITHOUT_JSON = {
    "init": "asks a person",
    "run": "runs until it is stopped",
    "trainer": "runs until it is stopped",
    "serve": "runs until it is stopped",
    "mcp": "speaks a protocol on stdout until its editor ends it",
    "demo": "prints where the demo is",
    "current": "prints an id alone, made for programs",
    "promote": "its exit code says how it went, and current has the rest",
    "fallback": "its exit code says how it went, and models has the rest",
    "rollback": "its exit code says how it went, and current has the rest",
    "report": "writes a page",
    "wrong": "prints rows for a person to read",
    "export": "writes a model, and a card that is JSON",
    "restore": "puts a file in place; its exit code says how it went",
    "forget": "asks a person, and deletes",
    "engines install": "installs; its exit code says how it went, and list has the rest",
    "engines remove": "deletes; its exit code says how it went",
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def run_in_terminal(*arguments: str, columns: int = 60) -> str:
    """Returns what a terminal of that width gets, on stdout and stderr."""
    control, terminal = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "bot", *arguments]
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


@pytest.mark.parametrize("name", ["trainer", "engines"])
def test_the_help_of_a_command_in_another_process_names_what_was_typed(name: str) -> None:
    command = [sys.executable, "-c", PROGRAM, name, "-h"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout.startswith(f"Usage: finetune {name} ")
    assert "Default: that of finetune.toml" in process.stdout or name == "trainer"


def test_slack_is_told_of_every_subcommand() -> None:
    groups = {name: command for name, command in commands() if isinstance(command, click.Group)}
    assert {name: set(group.commands) for name, group in groups.items()} == {
        name: set(words) for name, words in SUBCOMMANDS.items()
    }


@pytest.mark.parametrize("name", sorted(slack.commands.keys() - set(TERMINAL_COMMANDS) - {"help"}))
def test_a_command_of_slack_is_answered_with_its_line(name: str) -> None:
    result = CliRunner().invoke(main, [name, "tickets", "target=local/tiny"])
    assert (result.exit_code, result.output) == (
        2,
        f"{name} is a command of Slack, not of the terminal. In a channel with the bot: "
        f"/finetune {name} tickets target=local/tiny\n",
    )


@pytest.mark.parametrize(
    ("word", "near"),
    [("reprt", " Did you mean report?"), ("statsu", " Did you mean status in Slack?"), ("xyz", "")],
)
def test_an_unknown_command_suggests_the_nearest(word: str, near: str) -> None:
    result = CliRunner().invoke(main, [word])
    assert (result.exit_code, result.output) == (
        2,
        f"There is no command {word}.{near} finetune --help lists all commands.\n",
    )


def test_help_can_be_typed_as_in_slack() -> None:
    runner = CliRunner()
    assert runner.invoke(main, ["help"]).output == runner.invoke(main, ["--help"]).output
    assert runner.invoke(main, ["help", "curve"]).output == runner.invoke(main, ["curve", "--help"]).output


def test_the_help_of_an_estimate_groups_its_options() -> None:
    text = CliRunner().invoke(main, ["estimate", "-h"]).output
    groups = re.split(r"^(\w[\w ]*):$", text, flags=re.MULTILINE)
    titles = groups[1::2]
    assert titles == [*GROUPS.values(), UNGROUPED]
    by_title = dict(zip(titles, groups[2::2], strict=True))
    for option in map(QUESTION_OPTIONS.__getitem__, ESTIMATE_KEYS):
        flag = f"--{option.key.replace('_', '-')}"
        assert re.search(rf"^  .*{flag}\b", by_title[GROUPS[option.group]], re.MULTILINE), option.key


def test_every_command_prints_json_or_has_a_reason_not_to() -> None:
    groups = {name for name, command in commands() if isinstance(command, click.Group) and name != "engines"}
    without_json = {
        name
        for name, command in commands()
        if name not in groups and not any("--json" in parameter.opts for parameter in command.params)
    }
    assert without_json == set(WITHOUT_JSON)


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
        ("backup", 0),
        ("log AAAAAA", 1),
    ],
)
def test_json_is_valid_and_the_exit_code_is_that_of_the_text(line: str, code: int) -> None:
    Path("data").mkdir()
    put_database(Path("data/finetune.db"))
    group, words = (engines, line.split()[1:]) if line.startswith("engines") else (main, line.split())
    result = CliRunner().invoke(group, [*words, "--json"])
    assert result.exit_code == code, result.output
    assert json.loads(result.stdout or "[]") or line.startswith("log")


def test_the_list_of_prices_says_what_each_road_was_tried_with() -> None:
    output = " ".join(finetune("prices").stdout.split())
    assert "Tried: local live; " in output
    assert re.search(r"crusoe[\w, -]* with a stand-in, not live", output), output


def test_a_provider_stands_for_its_models_in_the_list_of_prices() -> None:
    output = finetune("prices", "crusoe").stdout
    assert output.startswith("Prices of 3 models")
    assert "crusoe/Qwen/Qwen3.5-9B" in output
    assert "gpt-4" not in output


def test_the_doctor_lists_problems_for_people_too() -> None:
    result = finetune("doctor")
    assert result.exit_code == 1
    assert "problem  settings: SLACK_BOT_TOKEN is not set" in result.stdout
    assert "ok       SQLite: " in result.stdout


def test_the_former_demo_command_names_its_successor() -> None:
    result = finetune("demo", "--model", "some")
    assert result.exit_code == 2 and "make demo" in result.stderr


def test_the_audit_log_is_verified_as_json() -> None:
    Path("data").mkdir()
    store = Store(put_database(Path("data/finetune.db")))
    store.audit.add(at=1.0, who="U1", action="freeze", subject="all", detail="")
    store.close()
    log = finetune_json("audit", "verify")
    assert (log["intact"], log["entries"], log["earlier_head_is_entry"]) == (True, 1, None)
    assert finetune_json("audit", "verify", "--head", log["head"])["earlier_head_is_entry"] == 1


def test_a_terminal_gets_colours_and_fitting_lines_but_a_pipe_and_no_color_get_plain_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = run_in_terminal("prices", "gpt-4o")
    assert "\x1b[1mPrices of 2 models" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert max(map(len, plain.splitlines())) <= 60
    assert re.search(r"^gpt-4o .*\$2\.50.*\$10\.00", plain, re.MULTILINE)

    piped = finetune("prices", "gpt-4o").stdout
    assert "\x1b" not in piped
    monkeypatch.setenv("NO_COLOR", "1")
    assert run_in_terminal("prices", "gpt-4o") == piped


def test_a_check_is_yellow_if_something_is_worth_a_look(tmp_path: Path) -> None:
    text = run_in_terminal("check", str(write_tickets(tmp_path / "few.csv", 39)), columns=80)
    assert "\x1b[1;33mfew.csv is readable" in text
    assert "\x1b[?25h" in text, "the cursor that the bar hid is shown again"


@pytest.mark.deep
def test_a_check_imports_neither_an_sdk_nor_a_framework(tmp_path: Path) -> None:
    heavy = "{'openai', 'torch', 'transformers', 'matplotlib', 'rich', 'scipy', 'sklearn', 'slack_sdk', 'sqlite_utils'}"
    program = f"""
import atexit, sys
atexit.register(lambda: print('LOADED', sorted({heavy} & set(sys.modules)), file=sys.stderr))
{PROGRAM}
"""
    command = [sys.executable, "-c", program, "check", str(write_tickets(tmp_path / "few.csv", 60))]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "few.csv is readable" in process.stdout
    assert "LOADED []" in process.stderr


def test_stored_answers_lie_in_the_installations_data_folder_or_else_in_the_users_own(
    tmp_path: Path,
) -> None:
    tickets = write_tickets(tmp_path / "few.csv", 60)
    assert finetune("baseline", tickets, "--candidates", "classical").exit_code == 0
    assert list(Path.cwd().iterdir()) == []
    state = tmp_path / "state" / "finetune"
    assert [file.name for file in state.glob("*.db")] == ["terminal.db"]
    assert state.stat().st_mode & 0o777 == 0o700, "answers to rows are in it"

    shutil.rmtree(tmp_path / "state")
    Path("finetune.toml").write_text('data = "installed"\n')
    assert finetune("baseline", tickets, "--candidates", "classical").exit_code == 0
    assert Path("installed/terminal.db").exists()
    assert not (tmp_path / "state").exists()


def test_bash_completes_commands() -> None:
    def complete(**environment: str) -> str:
        return CliRunner().invoke(main, [], prog_name="finetune", env=environment).stdout

    assert "complete" in complete(_FINETUNE_COMPLETE="bash_source")
    words = {"_FINETUNE_COMPLETE": "bash_complete", "COMP_WORDS": "finetune pl", "COMP_CWORD": "1"}
    assert complete(**words) == "plain,plan-memory\n"


def test_where_the_system_is_not_supported_every_command_says_so_in_a_sentence(tmp_path: Path) -> None:
    """As on Windows, whose Python has neither of these modules."""
    hidden = "import sys; sys.modules['fcntl'] = sys.modules['resource'] = None"
    for command in ("check rows.csv", "doctor", "run", "trainer --data x"):
        code = f"{hidden}; sys.argv = ['finetune', *{command.split()}]; from bot.cli import main; main()"
        process = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert process.returncode == 2
        assert process.stderr.startswith("finetune runs on Linux and macOS."), process.stderr
