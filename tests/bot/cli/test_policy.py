"""`finetune policy check` and `finetune policy explain`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result

from bot.cards.common.permissions import DOING
from bot.cli.policy import ACTIONS
from demo.people import ANA
from demo.slack_emulator import SlackEmulator, refused
from tests.bot.cli_runner import finetune
from tests.bot.operations.test_policy_settings import FULL_POLICY
from tests.bot.world import APPROVERS_GROUP, CLEO, GUS, PEOPLE, PRIVATE


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file, which a test may overwrite."""
    path = tmp_path / "finetune.toml"
    path.write_text(FULL_POLICY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("FINETUNE_CONFIG", "SLACK_BOT_TOKEN", "SLACK_APP_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return path


def run_policy(*words: str) -> Result:
    return finetune("policy", *words)


def explain(user: str, action: str, *more: str) -> Result:
    return run_policy("explain", "--user", user, "--action", action, *more)


def test_check_lists_who_may_do_what_and_what_nobody_may(policy: Path) -> None:
    result = run_policy("check")
    assert result.exit_code == 0
    for line in (
        "approve   U0BEN, U0CLEO, U0DORA, S0LEADS   (finetune.toml, line 13: [policy.who] approve)",
        "cancel    who asked for it, U0BEN",
        "try       nobody   (finetune.toml, line 10: [policy.who] names nobody for it)",
        "up to $20.00: 1 approver   (finetune.toml, line 16: [policy.tiers])",
        "above: refused",
        "expires after 48 h, reminders 12 h, 2 h before",
        "hard “support stays here”: to local   (finetune.toml, line 24: [policy.data])",
        "data that no rule covers: stays on this machine",
    ):
        assert line in result.stdout


def test_check_lists_every_mistake(policy: Path) -> None:
    policy.write_text(FULL_POLICY.replace("local", "locl").replace("anyone", "anybody"), encoding="utf-8")
    result = run_policy("check")
    assert result.exit_code == 2
    assert result.stderr.count("• finetune.toml, line ") == 3, result.stderr


@pytest.mark.parametrize(
    ("user", "action", "more", "code", "line"),
    [
        ("U0BEN", "approve", ("--cost", "120"), 0, "line 20: [policy.tiers]"),
        ("U0BEN", "approve", ("--cost", "500.01"), 1, "line 20: [policy.tiers]"),
        ("U0BEN", "approve", ("--requester", "U0BEN"), 1, "nobody approves what they asked for"),
        ("U0ANA", "approve", ("--cost", "120"), 1, "line 13: [policy.who] approve"),
        ("U0ANA", "approve", ("--member-of", "S0LEADS"), 0, "line 16: [policy.tiers]"),
        ("U0ANA", "cancel", ("--requester", "U0ANA"), 0, "line 14: [policy.who] cancel"),
        ("U0ANA", "pause", (), 1, "line 14: [policy.who] cancel"),
        ("U0ANA", "promote", (), 1, "line 10: [policy.who] names nobody for it"),
        ("U0ANA", "start", ("--provider", "openai", "--channel", "C0SUPPORT"), 1, "line 24: [policy.data]"),
        ("U0ANA", "start", ("--provider", "nebius", "--personal"), 1, "line 29: [policy.data]"),
        ("U0ANA", "start", ("--provider", "nebius", "--personal", "--because", "agreed"), 0, "line 29"),
        ("U0ANA", "start", ("--provider", "openai"), 1, "data that no [[policy.data]] covers"),
        ("U0ANA", "start", ("--provider", "local"), 0, "line 16: [policy.tiers]"),
    ],
)
def test_explain_names_the_rule_that_decides_with_its_line(
    policy: Path, user: str, action: str, more: tuple[str, ...], code: int, line: str
) -> None:
    result = explain(user, action, *more)
    decision = next(text for text in result.stdout.splitlines() if text.startswith("Decided by "))
    assert (result.exit_code, line in decision) == (code, True), result.stdout
    assert result.stdout.startswith("No. " if code else "Yes. ") and "Slack was not asked" in result.stdout


def test_an_unknown_provider_and_an_unreadable_amount_are_refused(policy: Path) -> None:
    assert "There is no provider opnai" in explain("U0BEN", "start", "--provider", "opnai").stderr
    assert "--cost should be US dollars" in explain("U0BEN", "start", "--cost", "lots").stderr


def test_with_a_token_explain_asks_slack_about_the_person(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SlackEmulator(people=PEOPLE, channels=(PRIVATE,), groups={APPROVERS_GROUP: (CLEO.id,)}) as slack:
        api = f'[slack]\napi_url = "{slack.access.api_url}"\n[people]\napprover_groups = ["{APPROVERS_GROUP}"]\n'
        policy.write_text(api, encoding="utf-8")
        monkeypatch.setenv("SLACK_BOT_TOKEN", slack.access.bot_token)
        assert explain(CLEO.id, "approve").exit_code == 0
        assert explain(ANA.id, "approve").exit_code == 1
        assert "is a guest" in explain(GUS.id, "start").stdout
        slack.share(PRIVATE.id)
        assert "Slack Connect" in explain(CLEO.id, "approve", "--channel", PRIVATE.id).stdout
        slack.fail("usergroups.users.list", refused("internal_error"), times=None)
        assert "Slack didn't say who is in the group" in explain(CLEO.id, "approve").stdout
        slack.fail("auth.test", refused("invalid_auth"), times=None)
        assert "--offline" in explain(CLEO.id, "approve").stderr
        assert explain(CLEO.id, "approve", "--offline").exit_code == 1


def test_explain_knows_every_action() -> None:
    assert set(ACTIONS.choices) == set(DOING)
