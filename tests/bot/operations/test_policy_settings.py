"""[people] and [policy] of finetune.toml: all settings, and all mistakes at once with their lines and fixes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bot.rules.permissions import RULES, Data, NamedPeople, Policy
from bot.settings import Settings, SettingsProblems, load_settings

HOUR = 3600.0
FULL_POLICY = """
[people]
approvers = ["U0BEN", "U0CLEO"]
approver_groups = ["S0LEADS"]

[policy]
expires_h = 48
remind_h = [12, 2]

[policy.who]
upload = ["S0DATA"]
start = ["anyone"]
approve = ["approvers", "U0DORA"]
cancel = ["requester", "approvers"]

[[policy.tiers]]
up_to_usd = "20"
approvers = 1

[[policy.tiers]]
up_to_usd = "500"
approvers = 2

[[policy.data]]
name = "support stays here"
channels = ["C0SUPPORT"]
providers = ["local"]

[[policy.data]]
name = "personal data"
personal = true
level = "soft"
providers = ["local", "openai"]
"""


def read(folder: Path, text: str) -> Settings:
    path = folder / "finetune.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings({}, path, need_slack=False)


def problems(folder: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(SettingsProblems) as error:
        read(folder, text)
    return error.value.problems


def test_every_policy_setting_is_read_with_its_line(tmp_path: Path) -> None:
    policy = read(tmp_path, FULL_POLICY).policy
    assert (policy.expires_s, policy.remind_s) == (48 * HOUR, (12 * HOUR, 2 * HOUR))
    approve = policy.named("approve")
    assert approve.users == {"U0BEN", "U0CLEO", "U0DORA"} and approve.groups == {"S0LEADS"}
    assert approve.where == "finetune.toml, line 13: [policy.who] approve"
    assert policy.named("cancel").requester and policy.named("start").anyone
    assert [(tier.up_to_micros, tier.approvers) for tier in policy.tiers] == [
        (20_000_000, 1),
        (500_000_000, 2),
    ]
    assert policy.tiers[1].where == "finetune.toml, line 20: [policy.tiers]"
    support, personal = policy.data
    assert (support.level, personal.level) == ("hard", "soft")
    assert support.where == "finetune.toml, line 24: [policy.data]"
    assert support.covers(Data("faq", frozenset({"C0ELSE", "C0SUPPORT"}), False))
    assert not support.covers(Data("faq", frozenset({"C0ELSE"}), True))
    assert personal.allows("openai") and not support.allows("openai")


def test_nobody_has_a_right_that_the_policy_doesnt_name(tmp_path: Path) -> None:
    policy = read(tmp_path, FULL_POLICY).policy
    assert {rule for rule in RULES if policy.named(rule).is_nobody} == {
        *("read", "estimate", "measure", "bar", "freeze", "waive", "promote", "try", "delete")
    }


def test_without_a_policy_approvers_decide_and_everybody_else_takes_part(tmp_path: Path) -> None:
    policy = read(tmp_path, '[people]\napprovers = ["U0BEN"]\nquorum = 2\napprover_groups = ["S1"]').policy
    assert policy.named("upload").anyone and policy.named("try").anyone
    for rule in ("approve", "freeze", "waive", "promote"):
        assert policy.named(rule).users == {"U0BEN"}
    assert policy.named("cancel").requester and policy.named("delete").requester
    assert [(tier.up_to_micros, tier.approvers) for tier in policy.tiers] == [(None, 2)]
    assert (policy.expires_s, policy.remind_s, policy.data) == (24 * HOUR, (4 * HOUR,), ())
    assert read(tmp_path, "").policy.named("approve") == NamedPeople()


def test_every_mistake_is_reported_at_once_with_line_setting_and_fix(tmp_path: Path) -> None:
    mistakes = problems(
        tmp_path,
        """[people]
approvers = ["ben"]
quorum = 2
[policy]
expires_h = 0
remind_h = [30]
expire = 1
[policy.who]
uplod = ["anyone"]
start = ["everyone", "requester"]
approve = ["ancyone"]
[[policy.tiers]]
approvers = 2
[[policy.tiers]]
up_to_usd = "500"
approvers = 1
[[policy.tiers]]
up_to_usd = "20"
approvers = 3
most = 1
[[policy.data]]
providers = ["opnai"]
channels = ["#support"]
level = "strict"
personal = "yes"
""",
    )
    expected = (
        'line 2: [people] approvers should be ids of users, like ["U123", "U456"], but \'ben\' is not one.',
        "line 3: [people] quorum and [[policy.tiers]] both say how many approvers a run needs; remove one of them.",
        "line 5: [policy] expires_h should be a whole number from 1 to 720, not 0.",
        "line 6: [policy] remind_h should be hours before the plan expires, fewer than 24, not 30.",
        "line 7: [policy] expire is not a setting; did you mean expires_h?",
        "line 9: [policy.who] uplod is not a setting; did you mean upload?",
        "line 10: [policy.who] start names 'everyone', which is not the id",
        "line 10: [policy.who] start names 'requester', which only `cancel` and `delete` accept; remove it.",
        "line 11: [policy.who] approve names 'ancyone', which is not the id of a user or group; "
        "did you mean 'anyone'?",
        "line 12: [policy.tiers] up_to_usd is missing",
        "line 16: [policy.tiers] approvers is fewer than the cheaper tier before it needs",
        "line 18: [policy.tiers] up_to_usd is not above the previous tier",
        "line 20: [policy.tiers] most is not a setting",
        "line 21: [policy.data] name is missing",
        "line 22: [policy.data] providers names 'opnai', which is not a provider; did you mean 'openai'?",
        "line 23: [policy.data] channels should be ids of channels, like [\"C123\"], but '#support' is not one.",
        "line 24: [policy.data] level should be one of advisory, soft, hard, not 'strict'.",
        "line 25: [policy.data] personal should be true or false, not 'yes'.",
    )
    for sentence in expected:
        assert any(text.startswith(f"finetune.toml, {sentence}") for text in mistakes), (sentence, mistakes)
    assert len(mistakes) == len(expected), mistakes


def test_a_tier_that_could_never_be_reached_is_a_mistake(tmp_path: Path) -> None:
    text = '[people]\napprovers = ["U1"]\n[[policy.tiers]]\nup_to_usd = "20"\napprovers = 2\n'
    assert problems(tmp_path, text) == (
        "finetune.toml, line 3: [policy.tiers] asks for 2 approvers, but only 1 is named; "
        "name more in [people] approvers, or ask for fewer.",
    )
    assert read(tmp_path, text.replace('["U1"]', '["U1", "U2"]')).policy.tiers[0].approvers == 2


@pytest.mark.parametrize(
    "text", ["policy = 1", "[policy]\nwho = 1", "[policy]\ntiers = 1", '[policy]\ndata = ["x"]']
)
def test_a_value_in_place_of_a_section_is_reported_once(tmp_path: Path, text: str) -> None:
    (mistake,) = problems(tmp_path, text)
    assert mistake.startswith(f"finetune.toml, line {text.count(chr(10)) + 1}: ") and "should be a" in mistake


def test_limits_of_channels_and_people_are_read(tmp_path: Path) -> None:
    budget = read(
        tmp_path,
        '[budget]\nmonthly_usd = "200"\nper_person_usd = "20"\n[budget.channels]\nC1 = "50"\n[budget.people]\nU1 = "0"',
    ).budget
    assert [str(budget.of_person(person)) for person in ("U1", "U2")] == ["0", "20"]
    assert str(budget.of_channel("C1")) == "50" and budget.of_channel("C2") is None


def test_a_budget_for_something_that_is_no_id_is_reported(tmp_path: Path) -> None:
    (mistake,) = problems(tmp_path, '[budget.channels]\nsupport = "50"')
    assert mistake == "finetune.toml, line 2: [budget.channels] support should be an id, like C0123456789."


def test_an_empty_policy_allows_nothing() -> None:
    assert all(Policy().named(rule).is_nobody for rule in RULES)


def test_the_policies_of_the_example_and_of_the_docs_are_valid(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    example = (root / "finetune.example.toml").read_text(encoding="utf-8")
    part = example[example.index("#[policy]") : example.index("#[check]")].replace("\n#", "\n")
    people = '[people]\napprovers = ["U0123456789"]\napprover_groups = ["S0123456789"]\n'
    policy = read(tmp_path, people + part[1:]).policy
    usual = read(tmp_path, people).policy
    for rule in RULES:
        assert policy.named(rule) != usual.named(rule), "they are written at different places"
        assert replace(policy.named(rule), where="") == replace(usual.named(rule), where="")
    documented = (
        (root / "docs" / "policy.md").read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    )
    assert read(tmp_path, documented).policy.named("start").groups == {"S0SUPPORT"}
