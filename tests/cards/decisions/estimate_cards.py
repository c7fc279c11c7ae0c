"""Cards of estimates."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

from bot.cards.common.advice import Offered
from bot.cards.common.blocks import Message
from bot.cards.decisions import estimates
from bot.rules.estimates import EstimateSummary
from bot.rules.facts import Evidence, RowFaults, Standard
from bot.rules.prices import MissingPrice
from bot.rules.roi import Quality
from tests.cards import builders, measurements
from tests.cards.builders import ANA, ENDING, FREE, HOSTED, MINI, OWN
from tests.cards.measurements import CANDIDATES
from trainers.providers.pricing import PriceRow
from trainers.types import Price

TARGET = "local/smollm2-135m"
TRAINED = Evidence(
    comparison=measurements.comparison_that_none_meets(),
    tuned=measurements.candidate("tuned", TARGET, 190),
    task_kind="classification",
)
CLASSICAL = Evidence(comparison=measurements.comparison())
MISSED = Evidence(comparison=measurements.comparison_that_none_meets())
TODAY = {
    "current": "gpt-4o",
    "full_current": "openai/gpt-4o",
    "to_measure": ("openai/gpt-4o", "openai/gpt-4o-mini"),
}
PROMPTED = Evidence(
    comparison=measurements.comparison(CANDIDATES[2:]), tuned=measurements.candidate("tuned", TARGET, 190)
)


def estimate_beside_a_candidate() -> EstimateSummary:
    quality = Quality(200, Decimal(14), Decimal(4), Decimal("0.02"))
    machine = replace(FREE, usd_per_hour=Decimal("0.10"))
    paid = replace(OWN, usd_per_hour=Decimal("0.10"))
    return builders.estimate_summary(
        rows=2_400, evidence=PROMPTED, tuned=machine, training=paid, quality=quality
    )


def estimate_of_fields() -> EstimateSummary:
    """Answers in JSON, of which the classical model gets enough fields right."""
    evidence = Evidence(comparison=measurements.comparison_of_fields())
    about = {"has_objects": True, "floor": 0.131}
    return builders.estimate_summary(rows=2_400, evidence=evidence, smallest_label=None, about=about)


def cards() -> dict[str, Message]:
    machine = replace(FREE, usd_per_hour=Decimal("0.10"))
    paid = replace(OWN, usd_per_hour=Decimal("0.10"))
    cases = {
        "estimate-free-machine": builders.estimate_summary(),
        "estimate-paid-machine": builders.estimate_summary(tuned=machine, training=paid),
        "estimate-hosted": builders.estimate_summary(
            tuned=MINI, training=HOSTED, evaluation_usd=Decimal("0.02")
        ),
        "estimate-loss": builders.estimate_summary(tuned=machine, training=paid, volume=10_000_000),
        "estimate-ending": _with_doubtful_successor(
            builders.estimate_summary(now=ENDING, tuned=machine, training=paid)
        ),
        "estimate-few-rows": builders.estimate_summary(rows=120),
        "estimate-combined": _with_combined_labels(builders.estimate_summary(rows=120)),
        "estimate-without-volume": builders.estimate_summary(volume=None, missing=MissingPrice("today")),
        "estimate-go": builders.estimate_summary(
            rows=2_400, evidence=TRAINED, tuned=machine, training=paid, people_hours=Decimal(4)
        ),
        "estimate-cheaper-candidate": builders.estimate_summary(
            rows=2_400, evidence=CLASSICAL, training=HOSTED
        ),
        "estimate-with-people": builders.estimate_summary(
            people_hours=Decimal(20), labels=500, usd_per_label=Decimal("0.10"), retrain_months=6
        ),
    }
    cases |= _for_aims()
    missed: dict[str, Any] = {"rows": 2_400, "evidence": MISSED, "tuned": machine, "training": paid}
    cases["estimate-start"] = builders.estimate_summary(**missed, people_hours=Decimal(4))
    cases["estimate-hours-unsaid"] = builders.estimate_summary(**missed)
    some_rows = {**missed, "rows": 600, "evidence": replace(MISSED, task_kind="extraction")}
    cases["estimate-more-rows-or-start"] = builders.estimate_summary(**some_rows, people_hours=Decimal(4))
    cases["estimate-today-unmeasured"] = builders.estimate_summary(
        **missed, people_hours=Decimal(4), about=TODAY
    )
    priced = {**missed, "people_hours": Decimal(4)}
    cheap = builders.estimate_summary(**priced, about={"offered": builders.CHEAP_MODEL})
    cases["estimate-cheap-model-untried"] = replace(cheap, offered=builders.CHEAP_MODEL)
    without_key = {**TODAY, "providers_without_key": (("openai", "OPENAI_API_KEY"),)}
    cases["estimate-without-key"] = builders.estimate_summary(
        **missed, people_hours=Decimal(4), about=without_key
    )
    paid_by_hours = {**missed, "people_hours": Decimal(4)}
    doubted = {"faults": RowFaults(doubted=190)}
    shown = {"faults": RowFaults(doubted=900, shown=700, checked=20, found=18)}
    cases["estimate-labels-doubted"] = builders.estimate_summary(**paid_by_hours, about=doubted)
    cases["estimate-labels-wrong"] = builders.estimate_summary(**paid_by_hours, about=shown)
    judged = replace(
        MISSED,
        judge="openai/gpt-4o",
        comparison=measurements.comparison(
            [replace(candidate, scoring="judge") for candidate in CANDIDATES[2:5]]
        ),
    )
    cases["estimate-judge-unchecked"] = builders.estimate_summary(rows=2_400, evidence=judged)
    cases["estimate-judge-distrusted"] = builders.estimate_summary(
        rows=2_400, evidence=replace(judged, judge_checks=measurements.DISTRUSTING)
    )
    cases |= _at_a_vendor()
    return {
        **{name: estimates.card(case, TARGET, number=4) for name, case in cases.items()},
        "estimate-beside-a-candidate": estimates.card(estimate_beside_a_candidate(), TARGET, number=4),
        "estimate-use-encoder": estimates.card(
            builders.estimate_summary(
                evidence=Evidence(comparison=measurements.comparison_that_encoder_meets())
            ),
            TARGET,
            number=4,
            offered=Offered(4),
        ),
        "estimate-encoder-in-use": estimates.card(
            builders.estimate_summary(
                evidence=Evidence(comparison=measurements.comparison_that_encoder_meets())
            ),
            TARGET,
            number=4,
            offered=Offered(in_use_since=builders.NOW),
        ),
        "estimate-fields": estimates.card(estimate_of_fields(), TARGET, number=4),
        "estimate-shared": estimates.card(builders.estimate_summary(), TARGET, number=4, shared_by=ANA),
        "estimate-tried-out": estimates.card(
            builders.estimate_summary(**missed, people_hours=Decimal(4)),
            TARGET,
            number=4,
            tried=estimates.TriedOut(0.7, "style", Standard(0.85, is_bar_set=False, task=None)),
        ),
        "estimate-tried-out-to-measure": estimates.card(
            cases["estimate-today-unmeasured"],
            TARGET,
            number=4,
            tried=estimates.TriedOut(None, "extraction", Standard(0.85, is_bar_set=False, task=None)),
        ),
        "estimate-tried-out-in-vain": estimates.card(
            cases["estimate-cheaper-candidate"],
            TARGET,
            number=4,
            tried=estimates.TriedOut(None, "classification", Standard(0.85, is_bar_set=False, task=None)),
        ),
        "estimate-without-buttons": estimates.card(builders.estimate_summary(), TARGET),
    }


def _with_doubtful_successor(summary: EstimateSummary) -> EstimateSummary:
    tuned, now = summary.prices
    doubtful = replace(
        now,
        ends=ENDING.ends,
        successor=ENDING.successor,
        ends_said_by="a page that names no model, 2026-11-20; unconfirmed",
        is_successor_doubtful=True,
    )
    return replace(summary, prices=(tuned, doubtful), made_on=date(2026, 11, 25))


def _with_combined_labels(summary: EstimateSummary) -> EstimateSummary:
    facts = replace(summary.verdict.facts, n_combined=7)
    return replace(summary, verdict=replace(summary.verdict, facts=facts))


def _for_aims() -> dict[str, EstimateSummary]:
    """What the task puts first, instead of money."""
    measured = measurements.comparison_that_none_meets()
    judged = replace(
        measured, candidates=tuple(replace(candidate, scoring="judge") for candidate in measured.candidates)
    )
    evidence = {
        "speed": replace(TRAINED, task_kind="latency"),
        "quality": replace(MISSED, task_kind="quality"),
        "style": Evidence(comparison=judged, judge="openai/gpt-4.1", task_kind="style"),
        "style-unjudged": replace(MISSED, task_kind="style"),
    }
    return {
        f"estimate-for-{aim}": builders.estimate_summary(rows=2_400, evidence=each, training=HOSTED)
        for aim, each in evidence.items()
    }


def _at_a_vendor() -> dict[str, EstimateSummary]:
    """On a machine by the hour, and with an unknown price."""
    unknown = Price(None, None, None, None)
    row = PriceRow("acme/llama-8b", "tuned", unknown, "Acme's page", date(2026, 9, 20), is_hosted=True)
    nothing_known = replace(builders.estimate_summary(volume=None), training=None, prices=(row,))
    by_the_hour = replace(
        row, price=Price(Decimal("0.40"), *(Decimal(0),) * 3), hosted_usd_per_hour=Decimal("5.50")
    )
    today = builders.estimate_summary().estimate
    hosted: dict[str, Any] = {
        "prices": (by_the_hour,),
        "measuring_usd": Decimal("2.77"),
        "machine_usd": Decimal("2.75"),
        "asks_vendor": True,
    }
    return {
        "estimate-by-the-hour": replace(builders.estimate_summary(training=HOSTED), **hosted),
        "estimate-by-the-hour-first": replace(
            builders.estimate_summary(training=HOSTED, volume=None), **hosted
        ),
        "estimate-price-missing": replace(nothing_known, today=today.monthly_before if today else None),
    }
