"""Budgets, and what runs, evaluations, deployments and copied rows cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from bot.cards.common.budgets import budget_refusal
from bot.rules.budgets import (
    Budget,
    DuplicateCost,
    actual_micros,
    duplicate_cost,
    max_evaluation_micros,
    paid_questions,
    seconds_since_creation,
    seconds_since_poll,
    spent_micros,
)
from bot.rules.models.deployments import (
    MEASURED_WITHIN_S,
    READY_WITHIN_S,
    DeploymentFacts,
    Hosting,
    find_unwatched_since,
    hourly_micros,
    stop_reason,
)
from bot.rules.prices import PriceRise, find_price_rise
from bot.values.runs import Progress
from storage.evaluations import AnswerTotals
from trainers.evaluation.results import Candidate
from trainers.providers.pricing import PriceList, PriceRow
from trainers.providers.providers import load_providers
from trainers.types import Event, Job, Price

DOLLAR, HOUR = 1_000_000, 3600.0
TODAY = date(2026, 11, 25)


@pytest.mark.parametrize(
    ("limit", "committed", "cost", "fits"),
    [
        (200, 150, 50, True),
        (200, 150, 51, False),
        (200, 200, 0, True),
        (0, 0, 0, True),
        (0, 0, 1, False),
        (100, 150, 0, True),
        (100, 150, 1, False),
    ],
)
def test_a_run_fits_if_its_cost_is_left_of_the_budget(
    limit: int, committed: int, cost: int, fits: bool
) -> None:
    assert Budget(limit, committed).fits(cost) == fits


@pytest.mark.parametrize(
    ("limit", "committed", "percents"),
    [
        (200, 99, ()),
        (200, 100, (50,)),
        (200, 160, (50, 80)),
        (200, 200, (50, 80, 100)),
        (200, 300, (50, 80, 100)),
        (0, 5, ()),
    ],
)
def test_warnings_come_at_half_at_four_fifths_and_at_the_end(
    limit: int, committed: int, percents: tuple[int, ...]
) -> None:
    assert Budget(limit, committed).warnings() == percents


def test_a_channel_and_a_person_pay_from_their_own_budgets_and_all_from_the_teams() -> None:
    assert Budget(1, 0).covers("C1", "U1")
    assert Budget(1, 0, "channel", "C1").covers("C1", "U2")
    assert not Budget(1, 0, "channel", "C1").covers("C2", "U1")
    assert Budget(1, 0, "person", "U1").covers("C2", "U1")
    assert not Budget(1, 0, "person", "U1").covers("C1", "U2")


def test_a_refusal_names_the_numbers_and_the_setting() -> None:
    refusal = budget_refusal(Budget(200 * DOLLAR, 175 * DOLLAR), 30 * DOLLAR)
    for part in ("$30.00", "$25.00", "$200.00", "monthly_usd"):
        assert part in refusal
    overdrawn = budget_refusal(Budget(100 * DOLLAR, 150 * DOLLAR), DOLLAR)
    assert "minus" not in overdrawn and "$0.00" in overdrawn


@pytest.mark.parametrize(
    ("limit", "committed", "cost"),
    [(100_000, 1, 100_000), (5 * DOLLAR, 0, 5_003_000), (DOLLAR, 996_000, 5_000)],
)
def test_a_refusal_never_names_the_same_amount_as_needed_and_left(
    limit: int, committed: int, cost: int
) -> None:
    refusal = budget_refusal(Budget(limit, committed), cost)
    assert "but slightly less than that is left of this month's" in refusal


def job(status: str = "succeeded", finished: float | None = 4 * HOUR) -> Job:
    return Job("j", status, "m", created_at=0, finished_at=None if finished is None else int(finished))


def events_of(*events: tuple[float, str]) -> tuple[Event, ...]:
    """Each event is its time and state, the oldest first. A trainer answers the newest first."""
    return tuple(
        Event("", int(at), "info", "Some words.", {"state": state} if state else {}) for at, state in events
    )[::-1]


BEGUN = ((0, ""), (1, "queued"), (HOUR, ""))


def test_machine_time_of_an_unwatched_job_leaves_out_the_queue() -> None:
    assert seconds_since_creation(job(), events_of(*BEGUN), are_all=True) == 3 * HOUR


def test_a_pause_is_no_machine_time() -> None:
    events = events_of(*BEGUN, (2 * HOUR, "paused"), (3 * HOUR, "resumed"))
    assert seconds_since_creation(job(), events, are_all=True) == 2 * HOUR


def test_a_job_without_a_known_beginning_counts_from_its_creation() -> None:
    assert seconds_since_creation(job(), events_of((3 * HOUR, "")), are_all=False) == 4 * HOUR
    assert seconds_since_creation(job(), (), are_all=True) == 4 * HOUR
    assert seconds_since_creation(job("cancelled"), events_of((3 * HOUR, "")), are_all=True) == 4 * HOUR, (
        "more, not less"
    )


def test_a_running_job_counts_only_the_time_that_is_known() -> None:
    events = events_of((3 * HOUR, ""), (3.5 * HOUR, ""))
    assert seconds_since_creation(job("running", None), events, are_all=False) == HOUR / 2


def test_a_job_cancelled_in_the_queue_had_no_machine_time() -> None:
    assert seconds_since_creation(job("cancelled"), events_of(*BEGUN[:2]), are_all=True) == 0


def test_an_unwatched_pause_ends_when_the_job_was_resumed() -> None:
    resumed = events_of((3 * HOUR, "resumed"))
    assert seconds_since_poll(job(), resumed, HOUR, 9 * HOUR, was_paused=True) == HOUR
    assert seconds_since_poll(job(), (), HOUR, 9 * HOUR, was_paused=True) == 3 * HOUR, "more rather than less"
    assert seconds_since_poll(job("paused", None), (), HOUR, 9 * HOUR, was_paused=True) == 0


def test_unwatched_machine_time_is_added_to_the_observed() -> None:
    seen = Progress(running_since=0.0, ran_until=HOUR, is_paused=True)
    assert seen.with_job(job(), (), None, 9 * HOUR, busy=HOUR).train_seconds == 2 * HOUR


def test_a_resumed_job_does_not_count_down_to_the_end_from_before_its_pause() -> None:
    running = Progress(running_since=0.0, ran_until=HOUR, estimated_finish=2 * HOUR)
    assert running.with_job(job("running", None), (), None, HOUR).estimated_finish == 2 * HOUR
    paused = running.with_job(job("paused", None), (), None, HOUR)
    resumed = paused.with_job(job("running", None), (), None, 2 * HOUR)
    assert (paused.estimated_finish, resumed.estimated_finish) == (None, None)


def test_the_reward_and_the_preference_accuracy_are_read_from_events() -> None:
    data = {"train_loss": 0.0, "train_reward_mean": 0.25, "train_reward_accuracy": 0.5}
    seen = Progress().with_job(job(), (Event("", 0, "info", "Step 1/2", data),), None, HOUR)
    assert (seen.reward, seen.preference_accuracy) == (0.25, 0.5)
    assert seen.with_job(job(), (), None, HOUR).reward == 0.25, "kept until there is a newer one"


def test_billed_seconds_stay_when_a_later_answer_lacks_them() -> None:
    seen = Progress(running_since=0.0, ran_until=HOUR, billed_seconds=90)
    assert seen.with_job(job(), (), None, 2 * HOUR).train_seconds == 90


def test_an_end_by_another_clock_changes_no_machine_time() -> None:
    seen = Progress(running_since=HOUR, ran_until=2 * HOUR)
    for finished in (0.5 * HOUR, HOUR, 9 * HOUR, 9_000 * HOUR):
        ended = seen.with_job(job(finished=finished), (), None, 2 * HOUR + 10)
        assert HOUR <= ended.train_seconds <= HOUR + 10
    assert seconds_since_poll(job(finished=9_000 * HOUR), (), HOUR, 2 * HOUR, was_paused=False) == HOUR


def price_list(tuned: PriceRow, base: PriceRow) -> PriceList:
    return PriceList((tuned, base), TODAY)


def row(*, training: str | None, input: str, output: str, per_hour: str | None = None) -> PriceRow:
    price = Price(Decimal(training) if training else None, Decimal(input), None, Decimal(output))
    hourly = Decimal(per_hour) if per_hour else None
    return PriceRow("some-model", "tuned", price, "a test", usd_per_hour=hourly)


def test_a_run_on_our_own_machine_costs_its_training_hours() -> None:
    ours = row(training=None, input="0", output="0", per_hour="2.00")
    assert (
        actual_micros(price_list(ours, ours), 1800, 10**6, AnswerTotals(1, 5, 5), AnswerTotals(1, 5, 5))
        == 1_000_000
    )


def test_a_run_at_a_vendor_costs_trained_tokens_and_both_models_answers() -> None:
    tuned = row(training="25", input="3", output="12")
    base = row(training=None, input="2", output="8")
    cost = actual_micros(
        price_list(tuned, base),
        0,
        1_000_000,
        AnswerTotals(1, 100_000, 10_000),
        AnswerTotals(1, 50_000, 10_000),
    )
    assert cost == 25_000_000 + (200_000 + 80_000) + (150_000 + 120_000)


def test_a_fraction_of_a_micro_dollar_is_rounded_up() -> None:
    tuned = row(training="0.10", input="0", output="0")
    assert actual_micros(price_list(tuned, tuned), 0, 1) == 1


SMALL = Candidate("zero", "acme/small")
OWN = Candidate("zero", "local/tiny")
CLASSICAL = Candidate("classical")


@dataclass(frozen=True)
class Questions:
    keys: tuple[str, ...]
    tokens: tuple[int, ...]


def price(input: str, output: str) -> PriceRow:
    amounts = Price(None, Decimal(input), None, Decimal(output))
    return PriceRow("acme/small", "prompted", amounts, "a test")


PRICES = {"acme/small": price("0.80", "3.20"), "local/tiny": price("0", "0")}


def test_an_evaluation_reserves_the_longest_answer_for_each_open_question() -> None:
    candidates = {SMALL: Questions(("a", "b", "c"), (100, 200, 300))}
    # (100 + 200 + 300) x $0.80 + 3 x 24 x $3.20, per million
    assert max_evaluation_micros(PRICES, candidates, (), 24, ()) == 711  # 710.4, rounded up
    assert max_evaluation_micros(PRICES, candidates, {"c"}, 24, ()) == 394
    assert max_evaluation_micros(PRICES, candidates, {"a", "b", "c"}, 24, ()) == 0


def test_a_question_that_two_candidates_share_is_paid_once() -> None:
    candidates = {
        SMALL: Questions(("a",), (100,)),
        Candidate("kshot", "acme/small"): Questions(("a",), (100,)),
    }
    assert max_evaluation_micros(PRICES, candidates, (), 0, ()) == 80
    keys = {candidate: questions.keys for candidate, questions in candidates.items()}
    assert paid_questions(PRICES, keys) == {"acme/small": {"a"}}


def test_own_machines_and_the_classical_model_charge_nothing() -> None:
    candidates = {OWN: Questions(("a",), (10_000,)), CLASSICAL: Questions(("b",), (0,))}
    assert max_evaluation_micros(PRICES, candidates, (), 256, ()) == 0
    keys = {candidate: questions.keys for candidate, questions in candidates.items()}
    assert paid_questions(PRICES, keys) == {"local/tiny": {"a"}}
    assert spent_micros(PRICES, {"local/tiny": AnswerTotals(1, 10_000, 256)}) == 0


def test_answers_cost_their_tokens_rounded_up_once() -> None:
    answers = {"acme/small": AnswerTotals(1, 100, 2), "local/tiny": AnswerTotals(1, 5, 5)}
    assert spent_micros(PRICES, answers) == 87  # $0.80 x 100 + $3.20 x 2 = 86.4
    assert spent_micros(PRICES, {"acme/small": AnswerTotals(1, 200, 4)}) == 173
    assert spent_micros(PRICES, {}) == 0


PROVIDERS = load_providers(
    {
        "acme": {
            "base_url": "https://tuning.example/v1",
            "models": {
                "small": {"training": "2.00", "ends": date(2026, 12, 31)},
                "large": {"training": "25.00"},
                "unpriced": {},
            },
        }
    }
)
ACME = tuple(row for row in PROVIDERS if row.name == "acme")
LOCAL = tuple(row for row in PROVIDERS if row.name == "local")


def test_copied_rows_cost_the_cheapest_trainer_s_price() -> None:
    assert duplicate_cost(500_000, (*LOCAL, *ACME), TODAY) == DuplicateCost(
        500_000, "acme/small", Decimal("1.00")
    )


def test_copied_rows_are_not_priced_at_a_model_that_has_ended() -> None:
    assert duplicate_cost(1_000_000, ACME, date(2027, 1, 1)) == DuplicateCost(
        1_000_000, "acme/large", Decimal("25.00")
    )


def test_copied_rows_cost_no_money_on_our_own_machine() -> None:
    assert duplicate_cost(500_000, LOCAL, TODAY) == DuplicateCost(500_000)


@pytest.mark.parametrize("tokens", [0, -1])
def test_no_copied_rows_cost_nothing(tokens: int) -> None:
    assert duplicate_cost(tokens, ACME, TODAY) is None


RUNNING = DeploymentFacts(
    is_ready=True,
    is_kept=False,
    is_by_token=False,
    is_measuring=False,
    is_run_over=False,
    is_deleted=False,
    is_frozen=False,
    age_s=600,
    idle_s=60,
    idle_stop_s=1800,
    day_micros=900_000,
    day_limit=20_000_000,
    all_day_micros=900_000,
    all_day_limit=20_000_000,
    budget_left=1,
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"idle_s": 1800}, "idle"),
        ({"idle_s": 1800, "is_kept": True}, None),
        ({"idle_s": 1800, "is_measuring": True}, None),
        ({"is_frozen": True}, "frozen"),
        ({"is_frozen": True, "is_kept": True}, "frozen"),
        ({"is_frozen": True, "is_measuring": True}, None),
        ({"budget_left": -1, "is_kept": True}, "budget"),
        ({"budget_left": -1, "is_measuring": True}, None),
        ({"day_micros": 20_000_000, "is_measuring": True}, "day"),
        ({"all_day_micros": 20_000_000, "is_kept": True}, "day"),
        ({"is_ready": False, "age_s": READY_WITHIN_S, "is_measuring": True}, "not ready"),
        ({"age_s": MEASURED_WITHIN_S, "is_measuring": True}, "measured too long"),
        ({"age_s": MEASURED_WITHIN_S, "is_kept": True}, None),
        ({"is_run_over": True}, "run over"),
        ({"is_deleted": True, "is_kept": True}, "deleted"),
    ],
    ids=str,
)
def test_a_deployment_is_stopped_for_these_reasons(changes: dict[str, Any], reason: str | None) -> None:
    assert stop_reason(replace(RUNNING, **changes)) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"idle_s": 30 * 24 * 3600, "is_frozen": True, "budget_left": -1}, None),
        ({"all_day_micros": 20_000_000}, None),
        ({"age_s": MEASURED_WITHIN_S, "is_measuring": True}, None),
        ({"is_deleted": True}, "deleted"),
        ({"is_ready": False, "age_s": READY_WITHIN_S}, "not ready"),
        ({"is_run_over": True}, "run over"),
    ],
    ids=str,
)
def test_what_is_served_by_the_token_is_not_stopped_to_save_money(
    changes: dict[str, Any], reason: str | None
) -> None:
    by_token = replace(RUNNING, is_by_token=True)
    assert stop_reason(replace(by_token, **changes)) == reason


def test_a_deployment_by_the_second_costs_its_price_per_hour() -> None:
    assert hourly_micros(5_500_000, 3600) == 5_500_000
    assert hourly_micros(5_500_000, 1) == 1528  # a part of a micro-dollar is one more


def test_a_measurement_is_planned_below_the_daily_limit() -> None:
    hosting = Hosting(30_000_000, 1800, 20_000_000)
    assert (hosting.expected_micros, hosting.most_micros) == (15_000_000, 20_000_000)


def test_machines_count_as_unwatched_after_ten_minutes_without_a_look() -> None:
    assert find_unwatched_since([], 5000.0) is None, "nothing runs"
    assert find_unwatched_since([4400.0, 4990.0], 5000.0) is None
    assert find_unwatched_since([4399.0, 4990.0], 5000.0) == 4399.0


def test_a_plan_is_told_of_the_first_price_that_rose() -> None:
    def row(training: str | None, output: str, hour: str) -> PriceRow:
        amount = Decimal(training) if training else None
        price = Price(amount, Decimal(1), None, Decimal(output))
        return PriceRow("acme/small", "tuned", price, "a test", usd_per_hour=Decimal(hour))

    planned = row("8", "2", "3")
    assert find_price_rise(planned, row("7", "2", "3")) is None, (
        "a lower price stays within what was approved"
    )
    assert find_price_rise(planned, row(None, "2", "3")) is None, "an unknown price can't have risen"
    assert find_price_rise(row(None, "2", "3"), planned) is None
    rise = find_price_rise(planned, row("8", "2", "3.50"))
    assert rise == PriceRise("acme/small", "hour", Decimal(3), Decimal("3.50"))
