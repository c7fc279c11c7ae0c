"""Builders of what a verdict is made of: candidates, comparisons, outlooks and facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

from bot.rules.bills import Rates
from bot.rules.facts import Evidence, Facts
from bot.rules.forecast import Month, Outlook, Quantiles, simulate
from bot.rules.roi import Inputs, Training, Usage, estimate
from bot.rules.swings import Swing
from trainers.evaluation.results import (
    FREE_KINDS,
    Candidate,
    CandidateKind,
    Comparison,
    MeasuredCandidate,
    Standing,
)
from trainers.providers.providers import ModelVerdict

MINI = "openai/gpt-4o-mini"
OK = ModelVerdict("ok")
# The article's case: 10M input tokens a month on gpt-4o, $25 of training, a tuned nano, no staff time.
ARTICLE = Inputs(
    monthly_input_tokens=10_000_000,
    usage=Usage(requests=100, prompt_before=12_000, prompt_after=12_000, output=0),
    now=Rates("gpt-4o", Decimal("2.50"), Decimal("10.00"), "a list"),
    tuned=Rates("openai/gpt-4.1-nano-2025-04-14", Decimal("0.20"), Decimal("0.80"), "a list"),
    training=Training(tokens=1_000_000, epochs=1, usd_per_million=Decimal(25)),
    today=date(2026, 11, 24),
    people_hours=Decimal(0),
)
WITHOUT_HOURS = replace(ARTICLE, people_hours=None)
WITH_PEOPLE = replace(ARTICLE, people_hours=Decimal(50), people_usd_per_hour=Decimal(100))
FACTS = Facts(
    dataset="tickets",
    rows=1200,
    n_holdout=240,
    smallest_label=90,
    target=OK,
    run_usd=Decimal(25),
    estimate=estimate(ARTICLE),
)
MONEY = Decimal("0.12")


def candidate(
    name: CandidateKind,
    standing: Standing,
    right: int = 150,
    n: int = 200,
    *,
    usd: Decimal | None = MONEY,
    rows_to_decide: int | None = None,
    unread: int = 0,
    empty: int = 0,
    p95_s: float = 1.5,
) -> MeasuredCandidate:
    """`right` of `n`, with an interval of five points on either side."""
    score = right / n if n else 0.0
    return MeasuredCandidate(
        identity=Candidate(name, None if name in FREE_KINDS else MINI),
        scoring="label",
        scores=(1.0,) * right + (0.0,) * (n - right),
        score=score,
        low=max(score - 0.05, 0.0),
        high=min(score + 0.05, 1.0),
        standing=standing,
        rows_to_decide=rows_to_decide,
        macro_f1=score,
        unread=unread,
        empty=empty,
        prompt_tokens=100 * n,
        completion_tokens=3 * n,
        p50_s=p95_s / 2,
        p95_s=0.001 if name in FREE_KINDS else p95_s,
        usd_per_1000=Decimal(0) if name in FREE_KINDS else usd,
    )


def comparison(
    *candidates: MeasuredCandidate, bar: float = 0.85, never_answered: tuple[str, ...] = ()
) -> Comparison:
    return Comparison(
        dataset="tickets",
        version=1,
        holdout_sha256="ab" * 32,
        bar=bar,
        candidates=candidates,
        cheapest=None,
        pairs=(),
        detectable_gap=0.062,
        never_answered=never_answered,
        prices_said_by=("a list",),
        measured_at=1_790_000_000.0,
    )


ALL_MISS = (
    candidate("classical", "misses", 140),
    candidate("encoder", "misses", 145),
    candidate("zero", "misses", 120),
    candidate("kshot", "misses", 150),
    candidate("retrieval", "misses", 156),
)


def outlook(p: float, *, never: bool = False) -> Outlook:
    """The widest swing is the volume's."""
    last = None if never else Decimal("2.5")
    some = Quantiles(Decimal(15), Decimal(23), Decimal(35))
    volume = Swing(
        "volume", "80,000 requests a month", "125,000 requests a month", Decimal("40.00"), Decimal("310.00")
    )
    people = Swing("people's time", "0 hours", "40 hours at $75.00", Decimal(200), Decimal(90))
    return Outlook(
        draws=10_000,
        seed=1,
        target_months=Decimal(3),
        horizon_months=Decimal(12),
        p_payback=p,
        p_gain=p,
        payback_months=Quantiles(None if never else Decimal("0.5"), None if never else Decimal(1), last),
        saving_month=some,
        npv=some,
        swings=(volume, people),
        months=(Month(Decimal(0), Decimal(-25), Decimal(-25), Decimal(-25)),),
    )


LIKELY = outlook(0.93)
OPEN = outlook(0.5)
UNLIKELY = outlook(0.07)
CLASSICAL_MEETS = candidate("classical", "meets", 182)
KSHOT_MEETS = candidate("kshot", "meets", 182)
TUNED_MEETS = candidate("tuned", "meets", 186, usd=Decimal("0.03"))
UNDECIDED = candidate("retrieval", "undecided", 172, rows_to_decide=140)
WITH_UNDECIDED_RETRIEVAL = (*ALL_MISS[:4], UNDECIDED)
WITH_GOOD_PROMPT = (*ALL_MISS[:3], KSHOT_MEETS, ALL_MISS[4])


def facts_with(*candidates: MeasuredCandidate, **other: object) -> Facts:
    """Facts with a comparison of these candidates. `other` are fields of Evidence and of Facts."""
    fields = {key: other.pop(key) for key in list(other) if key in Evidence.__dataclass_fields__}
    evidence = replace(Evidence(comparison=comparison(*candidates)), **fields)  # type: ignore[arg-type]
    return replace(FACTS, **{"outlook": LIKELY, "evidence": evidence, **other})  # type: ignore[arg-type]


def facts_from(inputs: Inputs) -> Facts:
    costs = estimate(inputs)
    return replace(FACTS, run_usd=costs.training_usd, estimate=costs)


def simulated(facts: Facts, inputs: Inputs) -> Facts:
    return replace(facts, estimate=estimate(inputs), outlook=simulate(inputs, draws=200))
