"""Something is tried on live calls: what it answers to sampled calls is compared, people judge where the two differ
without knowing who is who, and what comes of it is evidence. Nothing is switched by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from bot.cards.monitoring import compared_calls as forms
from bot.cards.monitoring import live_tests as cards
from bot.rules import units
from demo.people import ANA, BEN
from demo.workspace import Person
from storage.monitoring.live_tests import LiveTest
from storage.monitoring.watches import LiveLabel
from tests.bot.decisions.test_story_policy import rule
from tests.bot.measurements import PRICES, measure, until
from tests.bot.models.test_story_use_candidate import answer_right
from tests.bot.monitoring.test_story_watch import (
    ALIAS,
    count_calls,
    current,
    deploy_prompt,
    pass_week,
    promotion,
    published,
    sample_calls,
)
from tests.bot.props import tickets_csv
from tests.bot.world import DORA, MakeWorld, Rules, World
from tests.patience import wait_until
from trainers.money import to_micros
from trainers.recipes import canary_events, samples, shadow_answers
from trainers.recipes.canary_events import CanaryEvent
from trainers.recipes.shadow_answers import ShadowAnswer
from trainers.recipes.values import PublishedTest

DAY_S = 86_400.0
WATCH = "[policy.watch]\nusd_per_month = '1'\n"
numbers = count()


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    world = make_world(Rules(more=PRICES))
    world.provider.service.answer = answer_right
    deploy_prompt(world)
    return world


@pytest.fixture
def watched(world: World) -> World:
    world.type("/finetune watch tickets sample=100%", user=DORA)
    watch = current(world)
    assert watch is not None and watch.samples
    return world


def current_test(world: World) -> LiveTest:
    newest = world.store.database.value("SELECT max(id) FROM live_tests")
    test = world.store.live_tests.get(newest)
    assert test is not None
    return test


def live_test(world: World) -> PublishedTest | None:
    world.tick()
    now = published(world)
    assert now is not None
    return now.live_test


def verdicts(world: World) -> list[str]:
    """In the order of kinds, and of the calls' arrival among those that differ."""
    calls = world.store.compared_calls.of(current_test(world).id)
    return sorted((call.verdict for call in calls), key=lambda verdict: verdict != "same")


def choose(world: World, label: str) -> None:
    before = world.slack.view(ANA.id)
    assert before is not None
    options = [option for block in before.blocks for option in block.get("accessory", {}).get("options", ())]
    value = next(option["value"] for option in options if option["text"]["text"] == label)
    world.slack.press(ANA.id, forms.CHOOSE, value=value)
    wait_until(lambda: world.slack.view(ANA.id) != before, "the next call")


def begin(world: World, line: str = "/finetune test tickets classical", person: Person = ANA) -> LiveTest:
    assert world.type(line, user=person) == ""
    world.tick_until(lambda: current_test(world).recipe is not None, "the recipe of what is tried")
    world.tick()
    return current_test(world)


def to_the_twentieth(world: World) -> None:
    """Passes the time until the next 20th, so that the next month begins within four weeks."""
    here = datetime.fromtimestamp(world.clock, UTC)
    twentieth = here.replace(day=20)
    if twentieth < here:
        twentieth = (here.replace(day=1) + timedelta(days=32)).replace(day=20)
    world.pass_time((twentieth - here).total_seconds())


def answer_calls(world: World, answers: Sequence[str | None], theirs: str = "refund") -> None:
    """The door has sampled calls, answered with `theirs`, and has put them to what is tried."""
    folder = world.service.settings.recipes
    before = set(samples.ids(folder, ALIAS))
    questions = [f"Where is parcel {next(numbers)}?" for _ in answers]
    sample_calls(world, questions, theirs)
    new = [each for each in samples.ids(folder, ALIAS) if each not in before]
    for number, answer in zip(new, answers, strict=True):
        shadow_answers.add(folder, ShadowAnswer(current_test(world).id, number, answer, 100, 10, world.clock))
    world.tick()
    world.send()


@pytest.mark.deep
def test_a_cheaper_candidate_that_is_not_worse_is_shown_so_and_deployed_by_a_click(watched: World) -> None:
    test = begin(watched)
    assert (test.question, test.margin, test.canary, test.is_shadow) == ("not_worse", 0.05, 0.0, True)
    now = live_test(watched)
    assert now is not None and now.asks_sampled and now.share == 0 and now.recipe == test.recipe
    answer_calls(watched, ["refund"] * 130)
    ended = current_test(watched)
    assert ended.outcome == "not_worse" and ended.ended_by is None
    assert live_test(watched) is None, "it is no longer asked"
    text = watched.find_message("is not worse on live calls, and cheaper")
    assert "the same in" in text and "Yes (evidence" in text
    assert "not worse by more than 5 points" in watched.find_message("and on live calls not worse")
    assert promotion(watched).what != ended.what, "nothing is switched by itself"
    watched.click(BEN, cards.USE)
    watched.tick_until(lambda: watched.store.promotions.current("tickets").recipe is not None, "its recipe")
    assert promotion(watched).what == ended.what
    watched.send()
    assert "cheaper than what is in use, and not worse by more than 5 points" in watched.find_message(
        "is in use for tickets"
    )


def test_people_judge_where_the_two_differ_without_seeing_who_answered_what(watched: World) -> None:
    test = begin(watched)
    answer_calls(watched, ["refund"] * 3 + ["shipping", "shipping", None])
    assert verdicts(watched) == ["same"] * 3 + ["unlabelled"] * 3
    watched.click(ANA, cards.COMPARE)
    for label in ("shipping", "refund", "billing"):
        assert "*First answer*" not in watched.read_form(ANA), "labels are chosen before an answer is seen"
        choose(watched, label)
    assert "No call waits any more" in watched.read_form(ANA)
    watched.slack.close_modal(ANA.id)
    # The calls in order of arrival: the last one of the list came first.
    assert verdicts(watched)[3:] == ["candidate", "incumbent", "tie"]
    judged = [call for call in watched.store.compared_calls.of(test.id) if call.person]
    assert {(call.person, call.label) for call in judged} == {
        (ANA.id, "shipping"),
        (ANA.id, "refund"),
        (ANA.id, "billing"),
    }
    details = [entry.detail for entry in watched.store.audit.entries() if entry.action == "compare answers"]
    assert len(details) == 3 and not any("refund" in detail for detail in details)
    assert watched.store.live_labels.of("tickets") == [], "calls that differ are no random calls"


def test_a_label_of_a_random_call_also_judges_it_here(watched: World) -> None:
    begin(watched)
    answer_calls(watched, [])
    sample_calls(watched, ["where is it?"])
    (number,) = samples.ids(watched.service.settings.recipes, ALIAS)
    label = LiveLabel("tickets", number, "r", watched.clock, ANA.id, "shipping", False, watched.clock)
    watched.store.live_labels.add(label)
    answer = ShadowAnswer(current_test(watched).id, number, "shipping", 0, 0, watched.clock)
    shadow_answers.add(watched.service.settings.recipes, answer)
    watched.tick()
    assert verdicts(watched) == ["candidate"]


def test_a_call_whose_text_is_deleted_waits_for_nobody_and_counts_against_what_is_to_be_shown(
    watched: World,
) -> None:
    begin(watched)
    answer_calls(watched, ["shipping"])
    samples.forget_before(watched.service.settings.recipes, watched.clock + 1)
    watched.pass_time(3_700)
    watched.tick()
    watched.send()
    assert verdicts(watched) == ["unlabelled"]
    assert not watched.has_button(cards.COMPARE)


def test_what_is_tried_is_over_once_something_else_is_in_use(watched: World) -> None:
    begin(watched)
    watched.type("/finetune rollback tickets to=nothing", user=BEN)
    watched.tick()
    assert current_test(watched).outcome == "outdated"


def test_an_answer_without_tokens_counts_as_much_as_one_when_it_was_measured(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES + WATCH))
    world.provider.service.answer = answer_right
    deploy_prompt(world)
    few = measure(world, "/finetune baseline tickets candidates=few models=acme/acme-small", 2)
    world.type("/finetune watch tickets sample=100%", user=DORA)
    test = begin(world, "/finetune test tickets few")
    folder = world.service.settings.recipes
    sample_calls(world, ["where is it?"])
    (number,) = samples.ids(folder, ALIAS)
    shadow_answers.add(folder, ShadowAnswer(test.id, number, None, None, None, world.clock))
    world.tick()
    (call,) = world.store.compared_calls.of(test.id)
    (measured,) = [each for each in few.candidates if each.kind == "kshot"]
    usd_per_1000 = measured.usd_per_1000
    assert usd_per_1000 and call.micros == to_micros(usd_per_1000 / 1_000) > 0


def test_a_model_that_costs_nothing_is_tried_without_money_to_watch(make_world: MakeWorld) -> None:
    prices = PRICES.replace("0.80", "0").replace("3.20", "0")
    world = make_world(Rules(more=prices))
    world.provider.service.answer = answer_right
    world.upload_and_check(tickets_csv(90))
    world.type("/finetune baseline tickets candidates=classical,few models=acme/acme-small")
    until(world, "done")
    assert world.type("/finetune promote tickets classical", user=BEN) == ""
    world.tick_until(lambda: published(world) is not None, "the recipe of what is in use")
    world.type("/finetune watch tickets sample=100%", user=DORA)
    begin(world, "/finetune test tickets few")
    now = live_test(world)
    assert now is not None and now.asks_sampled


def test_what_a_rule_forbids_by_now_is_no_longer_tried(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES + WATCH))
    world.provider.service.answer = answer_right
    deploy_prompt(world)
    measure(world, "/finetune baseline tickets candidates=few models=acme/acme-small", 2)
    world.type("/finetune watch tickets sample=100%", user=DORA)
    begin(world, "/finetune test tickets few")
    assert live_test(world) is not None
    world.rules.more = PRICES + WATCH + rule("hard", "local")
    world.restart()
    world.tick()
    assert current_test(world).outcome == "ended" and live_test(world) is None
    world.send()
    assert "doesn't let this data go to acme" in world.find_message("is no longer tried on the calls to")


def test_somebody_ends_it_by_command_or_click(watched: World) -> None:
    begin(watched)
    assert "already" in watched.type("/finetune test tickets classical")
    assert "no longer tried" in watched.type("/finetune test tickets to=nothing")
    assert current_test(watched).outcome == "ended" and current_test(watched).ended_by == ANA.id
    assert "Nothing is tried" in watched.type("/finetune test tickets to=nothing")
    begin(watched)
    watched.tick()
    watched.send()
    watched.click(ANA, cards.END)
    watched.tick()
    assert current_test(watched).outcome == "ended"
    assert live_test(watched) is None


def test_paid_answers_end_with_the_money_and_go_on_next_month(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES + WATCH))
    world.provider.service.answer = answer_right
    deploy_prompt(world)
    world.type("/finetune watch tickets sample=100%", user=DORA)
    measure(world, "/finetune baseline tickets candidates=few models=acme/acme-small", 2)
    to_the_twentieth(world)
    test = begin(world, "/finetune test tickets few")
    assert test.question == "better", "its prompt is longer, so it costs more"
    now = live_test(world)
    assert now is not None and now.asks_sampled
    answer_calls(world, ["refund"] * 10)
    calls = world.store.compared_calls.of(test.id)
    cost = sum(call.micros or 0 for call in calls)
    assert cost > 0 and all(call.micros for call in calls)
    assert world.store.committed(calls[0].month) >= cost, "it is in the ledger"
    expensive = replace(calls[0], call="another", micros=1_000_000)
    world.store.compared_calls.add(expensive)
    now = live_test(world)
    assert now is not None and not now.asks_sampled
    world.pass_time(3_700)
    world.tick()
    world.send()
    assert "nothing is put to it until next month" in world.find_message("is tried on live calls")
    world.pass_time(12 * DAY_S)
    assert units.month_of(world.clock) > calls[0].month
    now = live_test(world)
    assert now is not None and now.asks_sampled


def test_a_canary_is_stopped_by_the_door_and_the_channel_hears_why(watched: World) -> None:
    assert "Only an approver may do that" in watched.type("/finetune test tickets classical canary=10%")
    test = begin(watched, "/finetune test tickets classical canary=10%", BEN)
    now = live_test(watched)
    assert now is not None and now.share == 0.1 and now.slow_s == 30
    folder = watched.service.settings.recipes
    canary_events.add(folder, [CanaryEvent(test.id, "aa", True, "error", watched.clock)])
    canary_events.stop(folder, test.id, watched.clock)
    watched.tick()
    assert current_test(watched).outcome == "stopped" and live_test(watched) is None
    watched.send()
    assert "canary was stopped" in watched.find_message("so its canary was stopped. What")


def test_what_misses_the_bar_is_tried_unseen_but_answers_no_program(watched: World) -> None:
    watched.type("/finetune baseline tickets candidates=classical bar=99.5%")
    until(watched, "done", 2)
    refused = watched.type("/finetune test tickets classical canary=10%", user=BEN)
    assert "can't answer programs" in refused and "99.5%" in refused
    assert watched.store.live_tests.current("tickets") is None
    assert begin(watched).canary == 0


def test_without_a_sample_only_a_canary_can_be_tried(world: World) -> None:
    assert "No calls of `tickets` are sampled" in world.type("/finetune test tickets classical")
    test = begin(world, "/finetune test tickets classical canary=50%", BEN)
    assert not test.is_shadow
    now = live_test(world)
    assert now is not None and not now.asks_sampled


def test_the_card_of_the_week_says_what_is_tried(watched: World) -> None:
    begin(watched)
    answer_calls(watched, ["refund", "shipping"])
    count_calls(watched, 2)
    pass_week(watched)
    assert "*Tried*: The classical model" in watched.find_message("tickets last week")
