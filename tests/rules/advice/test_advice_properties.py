"""What holds for every verdict, whatever the facts."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.rules import advice as verdicts
from bot.rules.bills import Rates
from bot.rules.facts import TASK_KINDS, Evidence, Facts, TaskKind
from bot.rules.plans import VerdictKind
from bot.rules.roi import estimate
from tests.rules.advice.worded_verdict import advise, assert_reads_well
from tests.rules.builders import (
    ALL_MISS,
    ARTICLE,
    FACTS,
    TUNED_MEETS,
    WITH_GOOD_PROMPT,
    candidate,
    comparison,
    facts_with,
    outlook,
    simulated,
)
from trainers.evaluation.results import MeasuredCandidate
from trainers.providers.providers import ModelVerdict

ORDER: dict[VerdictKind, int] = {"no_go": 0, "unknown": 1, "go": 2}

scores = st.integers(0, 200)


def tuned_candidate(right: int) -> MeasuredCandidate:
    """As a measurement would judge it: 180 of 200 are the least that show 85%, and 160 or fewer miss it."""
    price = Decimal("0.03")
    if right >= 180:
        return candidate("tuned", "meets", right, usd=price, rows_to_decide=None)
    if right > 160:
        return candidate("tuned", "undecided", right, usd=price, rows_to_decide=100)
    return candidate("tuned", "misses", right, usd=price, rows_to_decide=None)


some_candidates = st.builds(
    lambda name, standing, right, usd, unread, empty: candidate(
        name, standing, right, usd=usd, unread=unread, empty=empty
    ),
    st.sampled_from(["classical", "zero", "kshot", "retrieval"]),
    st.sampled_from(["meets", "misses", "undecided"]),
    scores,
    st.sampled_from([None, Decimal(0), Decimal("0.02"), Decimal(3)]),
    st.integers(0, 200),
    st.integers(0, 200),
)
few_labels = st.lists(st.tuples(st.text(min_size=1, max_size=60), st.integers(0, 30)), max_size=8).map(tuple)
some_facts = st.builds(
    lambda rows, n, smallest, few, kind, measured, run_usd, costs, p: Facts(
        dataset="tickets",
        rows=rows,
        n_holdout=n,
        smallest_label=smallest,
        target=ModelVerdict("ok"),
        run_usd=run_usd,
        estimate=costs,
        outlook=outlook(p) if costs and p is not None else None,
        few_labels=few,
        evidence=Evidence(task_kind=kind, comparison=comparison(*measured)),
    ),
    st.integers(0, 5000),
    st.integers(0, 1000),
    st.none() | st.integers(0, 50),
    few_labels,
    st.none() | st.sampled_from(list(TASK_KINDS)),
    st.lists(some_candidates, max_size=6) | st.just(list(ALL_MISS)),
    st.sampled_from([None, Decimal(0), Decimal(25)]),
    st.sampled_from([None, FACTS.estimate, estimate(replace(ARTICLE, now=ARTICLE.tuned))]),
    st.none() | st.floats(0, 1),
)


@pytest.mark.deep
@given(some_facts, scores, scores)
@settings(max_examples=120, deadline=None)
def test_a_worse_tuned_score_never_improves_the_verdict(facts: Facts, first: int, second: int) -> None:
    worse, better = (
        verdicts.advise(replace(facts, evidence=replace(facts.evidence, tuned=tuned_candidate(right)))).kind
        for right in sorted((first, second))
    )
    assert ORDER[worse] <= ORDER[better]


@given(some_facts, st.none() | scores)
@settings(max_examples=120, deadline=None)
def test_every_verdict_reads_well(facts: Facts, tuned: int | None) -> None:
    measured = None if tuned is None else tuned_candidate(tuned)
    plain = tuple((f"label {i}", rows) for i, (_, rows) in enumerate(facts.few_labels))
    evidence = replace(facts.evidence, tuned=measured)
    assert_reads_well(advise(replace(facts, few_labels=plain, evidence=evidence)))


volumes = st.integers(10_000, 10**10)
tuned_rates = st.builds(
    lambda price, hourly: Rates("tuned", price, price * 4, "a list", hourly),
    st.sampled_from([Decimal("0.2"), Decimal("1"), Decimal("2.4")]),
    st.sampled_from([Decimal(0), Decimal(2)]),
)


bases = [facts_with(*ALL_MISS), facts_with(*ALL_MISS, tuned=TUNED_MEETS), facts_with(*WITH_GOOD_PROMPT)]


@given(
    volumes,
    volumes,
    tuned_rates,
    st.sampled_from([None, 10, 60]),
    st.sampled_from([*TASK_KINDS, None]),
    st.sampled_from(bases),
)
@settings(max_examples=15, deadline=None)
def test_more_volume_never_worsens_the_verdict_of_a_cheaper_tuned_model(
    first: int, second: int, tuned: Rates, hours: int | None, kind: TaskKind | None, base: Facts
) -> None:
    people = None if hours is None else Decimal(hours)
    inputs = replace(ARTICLE, tuned=tuned, people_hours=people)
    facts = replace(base, evidence=replace(base.evidence, task_kind=kind))
    less, more = (
        verdicts.advise(simulated(facts, replace(inputs, monthly_input_tokens=volume))).kind
        for volume in sorted((first, second))
    )
    assert ORDER[less] <= ORDER[more]
