"""`finetune init`: from an empty folder to valid settings, with each answer checked by Slack."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bot.cli import main
from bot.installation import dollars
from bot.resources import read_resource
from bot.settings import load_settings
from demo.people import ANA, BEN, TICKETS
from demo.slack_emulator import SlackEmulator
from demo.slack_emulator.state import ALL_SCOPES
from tests.bot.cli_runner import ROOT
from trainers.models.base_models import why_no_base

APP_TOKEN = "xapp-1-stand-in"


@pytest.fixture
def slack() -> Iterator[SlackEmulator]:
    with SlackEmulator() as slack:
        yield slack


def run_init(folder: Path, slack: SlackEmulator, *lines: str) -> Result:
    arguments = ["init", str(folder), "--slack-api", slack.access.api_url]
    return CliRunner().invoke(main, arguments, input="\n".join(lines) + "\n", catch_exceptions=False)


def test_an_empty_folder_becomes_an_installation(tmp_path: Path, slack: SlackEmulator) -> None:
    folder = tmp_path / "new"
    result = run_init(
        folder,
        slack,
        slack.access.bot_token,
        APP_TOKEN,
        ANA.email,
        BEN.id,
        "",
        "$1,200.50",
        f"#{TICKETS.name}",
    )
    assert result.exit_code == 0, result.output
    assert f"{ANA.real_name} ({ANA.id})" in result.output
    assert "From a manifest" in result.output and "manifest_yaml" not in result.output, "a pipe has no links"
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    assert (folder / "manifest.yml").read_text() == (ROOT / "manifest.yml").read_text()
    settings = load_settings(
        {
            "FINETUNE_CONFIG": str(folder / "finetune.toml"),
            "SLACK_BOT_TOKEN": slack.access.bot_token,
            "SLACK_APP_TOKEN": APP_TOKEN,
        }
    )
    assert settings.policy.named("approve").users == {ANA.id, BEN.id}
    assert str(settings.budget.monthly_usd) == "1200.50"
    assert settings.slack.fallback_channel == TICKETS.id
    env = dict(
        line.split("=", 1) for line in (folder / ".env").read_text().splitlines() if line.startswith("SLACK_")
    )
    assert env == {"SLACK_BOT_TOKEN": slack.access.bot_token, "SLACK_APP_TOKEN": APP_TOKEN}


def test_a_wrong_answer_is_explained_and_asked_for_again(tmp_path: Path, slack: SlackEmulator) -> None:
    result = run_init(
        tmp_path,
        slack,
        *("xoxb-…", "xoxb-not-the-one", slack.access.bot_token),
        *("xoxb-1-something", APP_TOKEN),
        *("ada", "nobody@example.com", ANA.id, "U0GONE1", ""),
        *("lots", "-3", "0"),
        *("#no-such-channel", ""),
    )
    assert result.exit_code == 0, result.output
    for part in (
        "That is not a bot token",
        "Slack doesn't know the token",
        "That is not an app-level token",
        "neither an e-mail address nor a member's id",
        "Nobody in this workspace has the address nobody@example.com",
        "There is no member U0GONE1",
        "'lots' is not an amount",
        "'-3' is not an amount",
        "The bot can't see a channel #no-such-channel",
    ):
        assert part in result.output


def start_init(folder: Path, slack: SlackEmulator, stdin: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bot", "init", str(folder), "--slack-api", slack.access.api_url]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # else the token would be asked for in the terminal of these tests
    )


def test_a_terminal_never_shows_a_token(tmp_path: Path, slack: SlackEmulator) -> None:
    keyboard, terminal = pty.openpty()
    with start_init(tmp_path / "new", slack, terminal) as process:
        seen = ""
        # Only once the question is there does the terminal hide what is typed.
        while "Bot User OAuth Token (OAuth & Permissions)" not in seen:
            seen += process.stdout.read(1)
        os.write(keyboard, f"{slack.access.bot_token}\n".encode())
        while "App-Level Token" not in seen:
            seen += process.stdout.read(1)
        process.terminate()
    os.set_blocking(keyboard, False)
    with suppress(BlockingIOError, OSError):
        seen += os.read(keyboard, 4096).decode()
    os.close(terminal)
    os.close(keyboard)
    assert "✓ signed in" in seen and slack.access.bot_token not in seen


def test_without_a_terminal_it_ends_with_one_sentence(tmp_path: Path, slack: SlackEmulator) -> None:
    with start_init(tmp_path / "new", slack, subprocess.DEVNULL) as process:
        words = process.stdout.read()
    assert process.returncode == 2
    assert words.count("Bot User OAuth Token") == 1 and "Warning" not in words
    last = words.splitlines()[-1]
    assert last.startswith("finetune init asks questions") and ".env.example" in last
    assert not (tmp_path / "new" / ".env").exists()


def test_a_program_that_answers_wrongly_for_ever_is_stopped(tmp_path: Path, slack: SlackEmulator) -> None:
    result = run_init(tmp_path, slack, *["y"] * 50)
    assert result.exit_code == 2
    assert result.output.count("That is not a bot token") == 10


def test_missing_scopes_of_the_app_are_named_at_once(tmp_path: Path) -> None:
    with SlackEmulator(scopes=ALL_SCOPES - {"files:read"}) as slack:
        result = run_init(tmp_path, slack, slack.access.bot_token)
    assert "The app lacks files:read" in result.output
    assert not (tmp_path / ".env").exists()


def test_an_existing_installation_is_not_overwritten(tmp_path: Path, slack: SlackEmulator) -> None:
    (tmp_path / ".env").write_text("SLACK_BOT_TOKEN=mine\n")
    result = run_init(tmp_path, slack)
    assert result.exit_code == 2
    assert "exists already" in result.output
    assert (tmp_path / ".env").read_text() == "SLACK_BOT_TOKEN=mine\n"
    assert not (tmp_path / "finetune.toml").exists()


def test_a_read_only_folder_is_refused_before_the_first_question(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(main, ["init", str(tmp_path / "file" / "bot")])
    assert result.exit_code == 2
    assert result.output.strip().endswith("Name another folder, or fix its permissions.")


@pytest.mark.parametrize(
    ("text", "usd"), [("0", "0"), ("200", "200"), ("$1,000", "1000"), ("12.34", "12.34")]
)
def test_a_budget_is_dollars_and_cents(text: str, usd: str) -> None:
    result = dollars(text)
    assert not isinstance(result, str)
    assert result[0] == usd


@pytest.mark.parametrize("text", ["", "1.234", "NaN", "1e400", "٣", "two"])
def test_an_unreadable_budget_is_refused(text: str) -> None:
    assert isinstance(dollars(text), str)


def test_the_resources_are_the_files_at_the_top() -> None:
    for name, path in {
        "manifest.yml": "manifest.yml",
        "finetune.example.toml": "finetune.example.toml",
        "env.example": ".env.example",
    }.items():
        assert read_resource(name) == (ROOT / path).read_text(encoding="utf-8")
    assert tomllib.loads(read_resource("finetune.example.toml"))["people"]


def test_the_models_of_the_example_need_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models = tomllib.loads(read_resource("finetune.example.toml"))["trainer"]["models"]
    assert [why_no_base(source) for source in models.values()] == [None]
