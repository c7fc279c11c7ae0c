"""`finetune init`: from an empty folder to files that the settings accept, each answer checked by Slack."""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Iterator
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
from trainers.base_models import why_no_base

ROOT = Path(__file__).resolve().parents[2]
APP_TOKEN = "xapp-1-stand-in"


@pytest.fixture
def slack() -> Iterator[SlackEmulator]:
    with SlackEmulator() as slack:
        yield slack


def answer(folder: Path, slack: SlackEmulator, *lines: str) -> Result:
    arguments = ["init", str(folder), "--slack-api", slack.access.api_url]
    return CliRunner().invoke(main, arguments, input="\n".join(lines) + "\n", catch_exceptions=False)


def test_an_empty_folder_becomes_an_installation(tmp_path: Path, slack: SlackEmulator) -> None:
    folder = tmp_path / "new"
    result = answer(
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
    assert slack.access.bot_token not in result.output
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


def test_a_wrong_answer_is_asked_for_again_with_its_cure(tmp_path: Path, slack: SlackEmulator) -> None:
    result = answer(
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


def test_an_app_without_its_scopes_is_named(tmp_path: Path) -> None:
    with SlackEmulator(scopes=ALL_SCOPES - {"files:read"}) as slack:
        result = answer(tmp_path, slack, slack.access.bot_token)
    assert "The app lacks files:read" in result.output
    assert not (tmp_path / ".env").exists()


def test_an_installation_that_is_there_is_not_overwritten(tmp_path: Path, slack: SlackEmulator) -> None:
    (tmp_path / ".env").write_text("SLACK_BOT_TOKEN=mine\n")
    result = answer(tmp_path, slack)
    assert result.exit_code == 2
    assert "exists already" in result.output
    assert (tmp_path / ".env").read_text() == "SLACK_BOT_TOKEN=mine\n"
    assert not (tmp_path / "finetune.toml").exists()


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(main, ["init", str(tmp_path / "file" / "bot")])
    assert result.exit_code == 2
    assert result.output.strip().endswith("Name another folder, or fix its permissions.")


@pytest.mark.parametrize(
    ("text", "kept"), [("0", "0"), ("200", "200"), ("$1,000", "1000"), ("12.34", "12.34")]
)
def test_a_budget_is_dollars_and_cents(text: str, kept: str) -> None:
    result = dollars(text)
    assert not isinstance(result, str)
    assert result[0] == kept


@pytest.mark.parametrize("text", ["", "1.234", "NaN", "1e400", "٣", "two"])
def test_what_is_no_budget_is_refused(text: str) -> None:
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
