"""The assumptions of an estimate, each with its value and where it comes from."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

from bot.cards.decisions.assumptions import assumptions
from bot.rules.bills import Capacity, Traffic
from bot.rules.roi import Inputs, Quality, Range, Training, Usage
from bot.rules.units import MonthlyVolume
from tests.rules.builders import WITH_PEOPLE, WITHOUT_HOURS

GIVEN = Capacity(Decimal(5000), Decimal(5000), Decimal("0.2"), "given")


def assumed(inputs: Inputs) -> dict[str, str]:
    listed = assumptions(inputs, MonthlyVolume(100_000, 10_000_000, "requests"))
    assert len({assumption.name for assumption in listed}) == len(listed)
    assert all(assumption.value and assumption.why for assumption in listed)
    return {assumption.name: f"{assumption.value} | {assumption.why}" for assumption in listed}


def test_every_assumption_is_listed() -> None:
    names = (
        "volume, output, prompt, price today, price once tuned, compared with, price of the alternative, horizon, "
        "prompt caching, batches, repeated requests, training, repeated runs, evaluation, retraining, monitoring, "
        "staff time, labels, quality"
    )
    assert set(assumed(WITHOUT_HOURS)) == set(names.split(", "))


def test_staff_time_is_zero_until_it_is_given() -> None:
    assert assumed(WITHOUT_HOURS)["staff time"].startswith("0 hours")
    assert assumed(WITH_PEOPLE)["staff time"].startswith("50 hours at $100.00")


def test_the_volume_shows_its_range_and_the_price_its_source() -> None:
    texts = assumed(WITHOUT_HOURS)
    assert texts["volume"].startswith(
        "100,000 requests a month (10M input tokens), ±25% | You gave the requests"
    )
    assert "$2.50 per 1M tokens" in texts["price today"]
    assert "a list" in texts["price today"]


def test_a_shorter_prompt_is_shown_as_a_share() -> None:
    texts = assumed(replace(WITHOUT_HOURS, usage=Usage(10, 1000, 250, 50)))
    assert texts["prompt"].startswith("100 tokens a request today, 25 once tuned (25%)")
    assert texts["output"].startswith("50 output tokens per 1,000 of input")


def test_a_long_repeated_beginning_is_counted_at_the_cached_price() -> None:
    assert assumed(WITHOUT_HOURS)["prompt caching"].startswith("not counted")
    long = replace(WITHOUT_HOURS, usage=Usage(1, 1124, 100, 1))
    assert assumed(long)["prompt caching"].startswith("not counted"), "the list has no cached price"
    cached = replace(long, now=replace(long.now, cached_input=Decimal("1.25")))
    assert assumed(cached)["prompt caching"].startswith("1,024 tokens at the start of each request")


def test_an_end_date_cuts_the_horizon() -> None:
    assert "2027-01-14" in assumed(replace(WITHOUT_HOURS, ends=date(2027, 1, 14)))["horizon"]
    assert assumed(WITHOUT_HOURS)["horizon"].startswith("12 months, discounted by 10% a year")


def test_the_alternatives_price_falls_unless_no_vendor_sets_it() -> None:
    assert assumed(WITHOUT_HOURS)["price of the alternative"].startswith(
        "falls by 30% a year (between 0% and 70%)"
    )
    own = replace(WITHOUT_HOURS, now=replace(WITHOUT_HOURS.now, usd_per_hour=Decimal(1)))
    assert assumed(own)["price of the alternative"].startswith("constant")


def test_the_successor_is_shown_as_plain_words() -> None:
    """Only commands may be code in a card's sentences: other backticks would become lookalikes."""
    ended = replace(WITHOUT_HOURS.now, ends=date(2027, 1, 14))
    succeeded = replace(ended, after_end=replace(WITHOUT_HOURS.now, model="gpt-6-luna"))
    for rates, says in ((ended, "no successor is known"), (succeeded, "gpt-6-luna from 2027-01-14")):
        text = assumed(replace(WITHOUT_HOURS, now=rates))["once gpt-4o has ended"]
        assert says in text and "`" not in text


def test_inputs_from_a_person_are_shown() -> None:
    traffic = Traffic(batch_share=Decimal("0.3"))
    inputs = replace(
        WITHOUT_HOURS,
        tuned=replace(WITHOUT_HOURS.tuned, usd_per_hour=Decimal(2), capacity=GIVEN),
        now=replace(WITHOUT_HOURS.now, batch_discount=Decimal("0.5")),
        traffic=traffic,
        labels=500,
        usd_per_label=Decimal("0.10"),
        retrain_months=6,
        monitoring_usd=Decimal(20),
        quality=Quality(200, Decimal(12), Decimal(4), Decimal("0.5")),
    )
    texts = assumed(inputs)
    assert texts["hosting"].startswith("$2.00 an hour for 730 hours a month")
    assert (
        texts["machines"] == "1 of this kind | From the speed that you gave (--serving-speed, --utilisation)."
    )
    assert texts["batches"].startswith("30% of the requests: gpt-4o 50% off")
    assert texts["labels"].startswith("500 at $0.10")
    assert "count as free" in assumed(replace(inputs, usd_per_label=Decimal(0)))["labels"]
    assert texts["retraining"].startswith("every 6 months")
    assert texts["monitoring"].startswith("$20.00 a month")
    assert texts["quality"].startswith("tuned model +4 points against the alternative, $0.50")


def test_our_own_machine_counts_as_free_or_at_its_price() -> None:
    free = Training(100, 1, usd_per_hour=Decimal(0))
    assert "counted as free" in assumed(replace(WITHOUT_HOURS, training=free))["hosting"]
    paid = replace(WITHOUT_HOURS, tuned=replace(WITHOUT_HOURS.tuned, usd_per_hour=Decimal(2)))
    assert assumed(paid)["hosting"].startswith("$2.00 an hour for 730 hours a month")


def test_training_time_is_a_range_with_its_source() -> None:
    minutes = Range(Decimal("0.4"), Decimal(45), Decimal(180))
    ours = Training(100, 1, usd_per_hour=Decimal(0), minutes=minutes)
    texts = assumed(replace(WITHOUT_HOURS, training=ours))["training time"]
    assert texts.startswith("45 minutes, between under 1 minute and 3 hours")
    assert "tokens_per_second" in texts
    assert (
        "finetune calibrate"
        in assumed(replace(WITHOUT_HOURS, training=replace(ours, is_guess=True)))["training time"]
    )
    theirs = Training(100, 1, usd_per_million=Decimal(1), minutes=minutes)
    assert "queue" in assumed(replace(WITHOUT_HOURS, training=theirs))["training time"]


def test_a_speed_without_effect_is_called_so() -> None:
    vendor = replace(WITHOUT_HOURS, tuned=replace(WITHOUT_HOURS.tuned, capacity=GIVEN))
    assert assumed(vendor)["hosting"].startswith("none | It is paid per token")
