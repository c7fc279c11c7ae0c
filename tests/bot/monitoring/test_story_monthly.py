"""`every=month`: with the first card of each month what is in use is measured again, as the vendor may have changed its
model, within the policy's money; the card says whether answers differ by more than chance."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bot.cards.evidence import evaluations
from bot.cards.monitoring import weeks
from bot.rules import units
from bot.rules.facts import Looks
from bot.services.common import budgets
from bot.services.datasets import datasets
from bot.services.evidence.looks import load_looks
from demo.people import ANA, BEN
from storage.monitoring.monthly_measurements import MonthlyMeasurement
from storage.monitoring.watches import WatchedWeek
from tests.bot.datasets.test_story_deletion import delete_and_wait
from tests.bot.measurements import PRICES, measurement, until, until_asked
from tests.bot.models.test_story_promote import seed_promoted
from tests.bot.models.test_story_use_candidate import answer_right
from tests.bot.monitoring.test_story_watch import count_calls, current, deploy_prompt, pass_week, promotion
from tests.bot.props import tickets_csv
from tests.bot.world import CLEO, DORA, GUS, MakeWorld, Rules, World

BUDGET = "[policy.watch]\nusd_per_month = '1'\n"


def begin(make_world: MakeWorld, rules: str = BUDGET) -> World:
    """A prompt is in use, and is to be measured every month. It is the second week of a month."""
    world = make_world(Rules(more=f"{PRICES}{rules}"))
    world.provider.service.answer = answer_right
    deploy_prompt(world)
    to_second_week(world)
    assert "asked about the held-out rows again" in world.type(
        "/finetune watch tickets every=month", user=DORA
    )
    return world


def to_second_week(world: World) -> None:
    here = datetime.fromtimestamp(world.clock, UTC)
    first = (here.replace(day=1) + timedelta(days=32)).replace(day=1)
    monday = first + timedelta(days=7 - first.weekday())
    world.pass_time((monday + timedelta(days=1)).timestamp() - world.clock)


def pass_weeks(world: World, count: int = 1) -> None:
    for _ in range(count):
        count_calls(world, 100)
        pass_week(world)


def week_card(world: World) -> str:
    return world.find_message("tickets last week:")


def months(world: World) -> list[MonthlyMeasurement]:
    rows = [world.store.monthly_measurements.shown("tickets", week.week) for week in stored_weeks(world)]
    return [row for row in rows if row is not None]


def stored_weeks(world: World) -> list[WatchedWeek]:
    weeks_so_far: list[WatchedWeek] = world.store.watched_weeks.of("tickets")
    return weeks_so_far


def looks(world: World) -> Looks:
    report = datasets.report_of(world.store.datasets.newest("tickets"))
    assert report is not None
    return load_looks(world.service.context, "tickets", report)


def asked(world: World) -> int:
    return len(world.provider.service.billed)


def answer_worse(model: str, messages: list[dict[str, Any]]) -> str:
    """The vendor has changed the model: it knows only one label."""
    return "billing"


@pytest.mark.deep
def test_each_month_the_model_is_asked_again_and_chance_is_not_reported(make_world: MakeWorld) -> None:
    world = begin(make_world)
    before = looks(world)
    billed = asked(world)
    pass_weeks(world)
    until(world, "done", 2)
    world.tick(2)
    done = measurement(world, 2)
    report = datasets.report_of(world.store.datasets.newest("tickets"))
    assert report is not None and asked(world) - billed == report.n_holdout, "no stored answer counts"
    card = week_card(world)
    assert "*Measured again* in" in card and "without asking" in card
    assert "may be chance (p = 1.000)" in card and not world.has_button(weeks.MEASURE_AGAIN)
    assert looks(world) == before, "the same candidate on the same rows shows nothing new"
    assert done.actual_micros and done.month == units.month_of(world.clock)
    assert budgets.left_for_watching(world.service.context) == 1_000_000 - done.actual_micros
    pass_weeks(world)
    assert world.store.measurements.get(3) is None and "easured again" not in world.cards()[-1]
    while len(months(world)) < 2:
        pass_weeks(world)
    until(world, "done", 3)
    first, second = months(world)
    assert first.month < second.month and (first.measurement, second.measurement) == (2, 3)


def test_a_model_that_was_changed_under_its_name_is_reported(make_world: MakeWorld) -> None:
    world = begin(make_world)
    world.provider.service.answer = answer_worse
    pass_weeks(world)
    until(world, "done", 2)
    world.tick(2)
    card = week_card(world)
    assert "*Answers are worse* on the" in card and "may have been changed under its name" in card
    assert promotion(world).measurement == 1, "nothing is switched"


@pytest.mark.deep
def test_newer_rows_are_measured_too_and_compared_on_those_that_both_have(make_world: MakeWorld) -> None:
    world = begin(make_world)
    world.upload_and_check(tickets_csv(120))
    pass_weeks(world)
    until(world, "done", 2)
    world.tick(2)
    first = datasets.report_of(world.store.datasets.get(measurement(world, 1).dataset_id))
    newest = world.store.datasets.newest("tickets")
    assert first is not None and measurement(world, 2).dataset_id == newest.id
    assert f"on the {first.n_holdout} rows that both answered may be chance" in week_card(world)


@pytest.mark.deep
def test_a_free_candidate_is_measured_without_any_budget(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.upload_and_check(tickets_csv(90))
    world.type("/finetune baseline tickets candidates=classical", user=DORA)
    until(world, "done", 1)
    world.type("/finetune promote tickets classical", user=BEN)
    world.tick_until(lambda: world.store.promotions.current("tickets").recipe, "its recipe")
    to_second_week(world)
    world.type("/finetune watch tickets every=month", user=DORA)
    pass_weeks(world)
    until(world, "done", 2)
    world.tick(2)
    assert "for no charge, without asking" in week_card(world)


@pytest.mark.deep
@pytest.mark.parametrize(
    "rules", ["", "[policy.watch]\nusd_per_month = '0.0001'\n"], ids=["none", "too little"]
)
def test_without_enough_money_the_card_asks(make_world: MakeWorld, rules: str) -> None:
    world = begin(make_world, rules)
    pass_weeks(world)
    world.tick(3)
    world.send()
    assert "which costs under 1 cent." in week_card(world)
    assert world.store.measurements.get(2) is None
    assert "guest" in world.click_and_read(GUS, weeks.MEASURE_AGAIN)
    world.click(ANA, weeks.MEASURE_AGAIN)
    until_asked(world, 2)
    assert "has not begun: its card says what it waits for" in week_card(world)
    assert not world.has_button(weeks.MEASURE_AGAIN)
    world.click(BEN, evaluations.MEASURE)
    until(world, "done", 2)
    world.tick(2)
    card = week_card(world)
    assert "*Measured again* in" in card and "without asking" not in card
    assert budgets.left_for_watching(world.service.context) in (0, 100)


def test_a_freeze_holds_it_until_it_is_lifted(make_world: MakeWorld) -> None:
    world = begin(make_world)
    world.type("/finetune freeze because=the bill looks odd today", user=BEN)
    pass_weeks(world)
    world.tick(3)
    world.send()
    assert "waits until the freeze is lifted" in week_card(world)
    assert world.store.measurements.get(2) is None
    for person in (BEN, CLEO):
        world.type("/finetune unfreeze", user=person)
    world.pass_time(3_700)
    world.tick_until(lambda: world.store.measurements.get(2), "the measurement to begin")
    until(world, "done", 2)


def test_a_kill_amid_it_neither_repeats_nor_loses_it(make_world: MakeWorld) -> None:
    world = begin(make_world)
    count_calls(world, 100)
    pass_week(world)
    world.tick_until(lambda: world.store.measurements.get(2), "the measurement to be asked for")
    for _ in range(3):
        world.restart()
        world.tick(2)
    until(world, "done", 2)
    world.restart()
    world.tick(3)
    world.send()
    assert world.store.measurements.get(3) is None
    assert "*Measured again* in" in week_card(world)
    assert len(months(world)) == 1


def test_a_dataset_that_is_deleted_meanwhile_leaves_nothing_behind(make_world: MakeWorld) -> None:
    world = begin(make_world)
    pass_weeks(world)
    world.tick_until(lambda: world.store.measurements.get(2), "the measurement to be asked for")
    world.type("/finetune cancel m2", user=BEN)
    until(world, "cancelled", 2)
    delete_and_wait(world, BEN)
    assert current(world) is None
    world.pass_time(3_700)
    world.tick(3)
    assert world.store.monthly_measurements.waiting() == [] == months(world)
    assert world.store.measurements.get(3) is None


def test_a_dataset_that_is_deleted_before_it_begins_is_never_measured(make_world: MakeWorld) -> None:
    world = begin(make_world, rules="")
    pass_weeks(world)
    world.tick(3)
    assert [due.hindrance for due in world.store.monthly_measurements.waiting()] == ["money"]
    delete_and_wait(world, BEN)
    world.pass_time(3_700)
    world.tick(3)
    assert world.store.monthly_measurements.waiting() == [] and world.store.measurements.get(2) is None


def test_never_ends_it_and_other_options_leave_it(make_world: MakeWorld) -> None:
    world = begin(make_world)
    world.type("/finetune watch tickets sample=5%", user=DORA)
    watch = current(world)
    assert watch is not None and (watch.every, watch.share) == ("month", 0.05)
    reply = world.type("/finetune watch tickets every=never", user=DORA)
    watch = current(world)
    assert watch is not None and (watch.every, watch.share) == ("never", 0.05) and "held-out" not in reply
    pass_weeks(world)
    world.tick(2)
    assert world.store.measurements.get(2) is None and months(world) == []
    assert "should be month or never" in world.type("/finetune watch tickets every=day", user=DORA)


def test_the_form_has_the_choice(make_world: MakeWorld) -> None:
    world = begin(make_world)
    world.type("/finetune watch tickets to=nothing", user=DORA)
    world.type("/finetune watch tickets", user=DORA)
    assert "Measure what is in use again" in world.read_form(DORA)
    assert world.slack.submit_modal(DORA.id, {"share": "0", "every": "month"}).accepted
    world.tick()
    watch = current(world)
    assert watch is not None and (watch.every, watch.share) == ("month", 0.0)


@pytest.mark.deep
def test_a_tuned_model_stays_as_it_is(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    seed_promoted(world)
    world.tick_until(lambda: world.store.promotions.current("tickets").recipe, "the model's recipe")
    assert "was trained and stays as it is" in world.type("/finetune watch tickets every=month", user=DORA)
    pass_weeks(world)
    assert months(world) == []
