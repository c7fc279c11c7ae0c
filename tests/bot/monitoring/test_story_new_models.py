"""A provider lists a new model that would answer for less than what is in use: the card of a week proposes it once, and
it is measured after a click, or without asking as far as the policy allows."""

from __future__ import annotations

import json

import pytest

from bot.cards.evidence import evaluations
from bot.cards.monitoring import weeks
from bot.reconciler import maintain
from bot.rules import units
from bot.services.common import budgets
from bot.services.evidence.measured_candidates import known_comparison
from bot.settings import model_ends
from demo.people import ANA, BEN
from storage.monitoring.proposals import Proposal
from tests.bot.measurements import PRICES, comparison_of, measurement, until, until_asked
from tests.bot.models.test_story_use_candidate import answer_right
from tests.bot.monitoring.test_story_watch import DAY_S, count_calls, deploy_prompt, pass_week
from tests.bot.world import DORA, GUS, MODEL, MakeWorld, Rules, World

TINY = """[providers.acme.models."acme-tiny"]
training = "1"
input = "{price}"
output = "1.60"
[prices."acme/acme-tiny"]
input = "{price}"
output = "1.60"
{more}
"""
NEW = "*New*: acme/acme-tiny answers for 50% less"


def begin(make_world: MakeWorld, *, price: str = "0.40", more: str = "", rules: str = "") -> World:
    """A prompt is in use and watched, and the provider's first list was read. It has no acme-tiny yet."""
    world = make_world(Rules(more=f"{PRICES}{TINY.format(price=price, more=more)}{rules}"))
    world.provider.service.answer = answer_right
    deploy_prompt(world)
    world.type("/finetune watch tickets sample=0", user=DORA)
    maintain(world.service.context)
    return world


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return begin(make_world)


def list_model(world: World, *models: str) -> None:
    """The provider lists these models too from the next night on."""
    world.provider.service.models = (MODEL, *models)
    world.pass_time(DAY_S)
    maintain(world.service.context)


def proposals(world: World) -> list[Proposal]:
    waiting: list[Proposal] = world.store.proposals.open("tickets")
    return waiting


def week_card(world: World) -> str:
    return world.find_message("tickets last week:")


def look_at_tiny(world: World) -> int:
    context = world.service.context
    comparison = known_comparison(context.store, context.settings.files, measurement(world, 2))
    return next(each.look for each in comparison.candidates if each.model == "acme/acme-tiny")


def pass_week_with_calls(world: World) -> None:
    count_calls(world, 100)
    pass_week(world)


@pytest.mark.deep
def test_a_new_model_that_is_cheaper_is_proposed_once_and_measured_after_a_click(world: World) -> None:
    list_model(world, "acme-tiny")
    (proposal,) = proposals(world)
    assert (proposal.model, proposal.shown_week) == ("acme/acme-tiny", None)
    assert 2 * proposal.micros == proposal.in_use_micros
    pass_week_with_calls(world)
    card = week_card(world)
    # By the calls of the week, which had 100 and 10 tokens, at $0.80 and $3.20 or half of that.
    assert (
        f"{NEW} ($0.06 instead of $0.11 per 1,000 calls)" in card
        and "held-out rows costs under 1 cent" in card
    )
    assert world.store.measurements.get(2) is None, "nothing is measured by itself"
    world.click(ANA, weeks.MEASURE_NEW)
    until_asked(world, 2)
    assert "It is being measured" in week_card(world) and not world.has_button(weeks.MEASURE_NEW)
    world.click(BEN, evaluations.MEASURE)
    until(world, "done", 2)
    world.tick(2)
    assert [each.key for each in comparison_of(world, 2).candidates] == ["zero acme/acme-tiny"]
    assert look_at_tiny(world) == 2, "its look at the held-out rows counts"
    card = week_card(world)
    assert "Measured in" in card and "of the held-out rows; what is in use:" in card
    assert budgets.left_for_watching(world.service.context) == 0
    list_model(world, "acme-tiny")
    pass_week_with_calls(world)
    assert "*New*" not in world.cards()[-1] and len(proposals(world)) == 0


@pytest.mark.deep
def test_the_proposal_survives_a_restart_and_its_button_takes_the_right_to_measure(world: World) -> None:
    list_model(world, "acme-tiny")
    world.restart()
    pass_week_with_calls(world)
    world.restart()
    world.tick(2)
    assert NEW in week_card(world)
    assert "guest" in world.click_and_read(GUS, weeks.MEASURE_NEW)
    assert world.store.measurements.get(2) is None


@pytest.mark.deep
def test_the_first_list_and_a_model_that_comes_back_propose_nothing(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=f"{PRICES}{TINY.format(price='0.40', more='')}"))
    world.provider.service.answer = answer_right
    world.provider.service.models = (MODEL, "acme-tiny")
    deploy_prompt(world)
    world.type("/finetune watch tickets sample=0", user=DORA)
    maintain(world.service.context)
    list_model(world)
    list_model(world, "acme-tiny")
    assert proposals(world) == []


@pytest.mark.deep
@pytest.mark.parametrize(
    ("price", "more", "rules"),
    [
        ("0.75", "", ""),
        ("0.40", "ends = 2026-12-31", ""),
        ("0.40", "", '[[policy.data]]\nname = "tickets stay here"\nproviders = ["local"]\n'),
    ],
    ids=["hardly cheaper", "ends soon", "rows may not go there"],
)
def test_what_is_not_worth_it_or_not_allowed_is_not_proposed(
    make_world: MakeWorld, price: str, more: str, rules: str
) -> None:
    world = begin(make_world, price=price, more=more)
    if rules:
        world.rules.more += rules
        world.restart()
    list_model(world, "acme-tiny")
    assert proposals(world) == []


@pytest.mark.deep
def test_a_model_that_vanished_or_was_measured_meanwhile_is_not_shown(world: World) -> None:
    list_model(world, "acme-tiny")
    list_model(world)
    assert proposals(world) == []
    pass_week_with_calls(world)
    assert "*New*" not in week_card(world)


@pytest.mark.deep
def test_nothing_is_proposed_for_a_dataset_that_is_not_watched(world: World) -> None:
    world.type("/finetune watch tickets to=nothing", user=DORA)
    list_model(world, "acme-tiny")
    assert proposals(world) == []


@pytest.mark.deep
def test_the_policy_has_it_measured_without_asking_within_its_budget(make_world: MakeWorld) -> None:
    world = begin(make_world, rules="[policy.watch]\nusd_per_month = '1'\n")
    list_model(world, "acme-tiny")
    pass_week_with_calls(world)
    until(world, "done", 2)
    world.tick(2)
    card = week_card(world)
    assert "as `[policy.watch]` allows without asking:" in card and not world.has_button(weeks.MEASURE_NEW)
    done = measurement(world, 2)
    assert done.actual_micros and done.month == units.month_of(world.clock)
    assert budgets.left_for_watching(world.service.context) == 1_000_000 - done.actual_micros
    agreed = [entry for entry in world.store.audit.entries("measurement 2") if entry.action == "agree"]
    assert [entry.who for entry in agreed] == ["finetune"] and "usd_per_month" in agreed[0].detail


@pytest.mark.deep
def test_without_enough_left_this_month_the_card_asks(make_world: MakeWorld) -> None:
    world = begin(make_world, rules="[policy.watch]\nusd_per_month = '0.0001'\n")
    list_model(world, "acme-tiny")
    pass_week_with_calls(world)
    world.tick(5)
    assert NEW in week_card(world) and world.has_button(weeks.MEASURE_NEW)
    assert world.store.measurements.get(2) is None


@pytest.mark.deep
def test_a_freeze_holds_what_nobody_was_asked_about(make_world: MakeWorld) -> None:
    world = begin(make_world, rules="[policy.watch]\nusd_per_month = '1'\n")
    world.type("/finetune freeze because=the bill looks odd today", user=BEN)
    list_model(world, "acme-tiny")
    pass_week_with_calls(world)
    world.tick(5)
    assert world.store.measurements.get(2) is None and world.has_button(weeks.MEASURE_NEW)


@pytest.mark.deep
def test_a_list_from_an_older_version_counts_as_the_first(world: World) -> None:
    path = world.service.settings.data / model_ends.MODEL_ENDS_FILE
    stored = json.loads(path.read_text(encoding="utf-8"))
    for key in ("since", "first_days"):
        del stored["acme"][key]
    path.write_text(json.dumps(stored), encoding="utf-8")
    list_model(world, "acme-tiny")
    assert [proposal.model for proposal in proposals(world)] == ["acme/acme-tiny"]
