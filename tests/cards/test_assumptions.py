from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

from bot.cards.assumptions import assumptions
from bot.rules.bills import Speed, Traffic
from bot.rules.roi import Inputs, Quality, Range, Training, Usage
from tests.rules.test_roi import ARTICLE


def named(inputs: Inputs) -> dict[str, str]:
    found = assumptions(inputs)
    assert len({one.name for one in found}) == len(found)
    assert all(one.value and one.why for one in found)
    return {one.name: f"{one.value} | {one.why}" for one in found}


def test_each_thing_taken_for_granted_is_named() -> None:
    assert set(named(ARTICLE)) == {
        "volume",
        "output",
        "prompt",
        "price today",
        "price once tuned",
        "compared with",
        "price of the alternative",
        "horizon",
        "prompt caching",
        "batches",
        "repeated requests",
        "training",
        "repeated runs",
        "evaluation",
        "retraining",
        "monitoring",
        "staff time",
        "labels",
        "quality",
    }


def test_peoples_time_is_zero_until_somebody_says_it() -> None:
    assert named(ARTICLE)["staff time"].startswith("0 hours")
    asked = replace(ARTICLE, people_hours=Decimal(50), people_usd_per_hour=Decimal(100))
    assert named(asked)["staff time"].startswith("50 hours at $100.00")


def test_the_volume_shows_its_range_and_the_price_its_source() -> None:
    found = named(ARTICLE)
    assert found["volume"].startswith("10M input tokens a month, ±25%")
    assert "$2.50 per 1M tokens" in found["price today"]
    assert "a list" in found["price today"]


def test_a_shorter_prompt_is_said() -> None:
    found = named(replace(ARTICLE, usage=Usage(10, 1000, 250, 50)))
    assert found["prompt"].startswith("100 tokens a request today, 25 once tuned (25%)")
    assert found["output"].startswith("50 output tokens per 1,000 of input")


def test_a_long_repeated_beginning_is_counted_at_the_cached_price() -> None:
    assert named(ARTICLE)["prompt caching"].startswith("not counted")
    long = replace(ARTICLE, usage=Usage(1, 1124, 100, 1))
    assert named(long)["prompt caching"].startswith("not counted"), "the list has no cached price"
    cached = replace(long, now=replace(long.now, cached_input=Decimal("1.25")))
    assert named(cached)["prompt caching"].startswith("1,024 tokens at the start of each request")


def test_an_end_date_cuts_the_horizon() -> None:
    assert "2027-01-14" in named(replace(ARTICLE, ends=date(2027, 1, 14)))["horizon"]
    assert named(ARTICLE)["horizon"].startswith("12 months, discounted by 10% a year")


def test_the_alternatives_price_falls_unless_no_vendor_sets_it() -> None:
    assert named(ARTICLE)["price of the alternative"].startswith("falls by 30% a year (between 0% and 70%)")
    own = replace(ARTICLE, now=replace(ARTICLE.now, usd_per_hour=Decimal(1)))
    assert named(own)["price of the alternative"].startswith("constant")


def test_what_a_person_said_is_shown_as_said() -> None:
    traffic = Traffic(batch_share=Decimal("0.3"), speed=Speed(Decimal(5000), Decimal("0.2")))
    said = replace(
        ARTICLE,
        tuned=replace(ARTICLE.tuned, usd_per_hour=Decimal(2)),
        now=replace(ARTICLE.now, batch_discount=Decimal("0.5")),
        traffic=traffic,
        labels=500,
        usd_per_label=Decimal("0.10"),
        retrain_months=6,
        monitoring_usd=Decimal(20),
        quality=Quality(200, Decimal(12), Decimal(4), Decimal("0.5")),
    )
    found = named(said)
    assert found["hosting"].startswith("$0.56 per 1M tokens, by use")
    assert found["batches"].startswith("30% of the requests: gpt-4o 50% off")
    assert found["labels"].startswith("500 at $0.10")
    assert found["retraining"].startswith("every 6 months")
    assert found["monitoring"].startswith("$20.00 a month")
    assert found["quality"].startswith("tuned model +4 points against the alternative, $0.50")


def test_our_own_machine_is_said_to_be_counted_as_free_or_at_its_price() -> None:
    free = Training(100, 1, usd_per_hour=Decimal(0))
    assert "counted as free" in named(replace(ARTICLE, training=free))["hosting"]
    paid = replace(ARTICLE, tuned=replace(ARTICLE.tuned, usd_per_hour=Decimal(2)))
    assert named(paid)["hosting"].startswith("$2.00 an hour for 730 hours a month")


def test_the_time_is_a_range_with_its_origin() -> None:
    minutes = Range(Decimal("0.4"), Decimal(45), Decimal(180))
    ours = Training(100, 1, usd_per_hour=Decimal(0), minutes=minutes)
    found = named(replace(ARTICLE, training=ours))["training time"]
    assert found.startswith("45 minutes, between under 1 minute and 3 hours")
    assert "tokens_per_second" in found
    assert (
        "finetune calibrate"
        in named(replace(ARTICLE, training=replace(ours, is_guess=True)))["training time"]
    )
    theirs = Training(100, 1, usd_per_million=Decimal(1), minutes=minutes)
    assert "queue" in named(replace(ARTICLE, training=theirs))["training time"]


def test_a_speed_that_changes_nothing_is_said_to() -> None:
    traffic = Traffic(speed=Speed(Decimal(5000), Decimal("0.2")))
    vendor = replace(ARTICLE, traffic=traffic)
    assert named(vendor)["hosting"].startswith("none | It is paid per token")
    free = replace(vendor, training=Training(1, 1, usd_per_hour=Decimal(0)))
    assert named(free)["hosting"].endswith("without it, the speed that you gave has no effect.")
