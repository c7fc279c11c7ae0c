"""The alternative to a tuned model: the cheapest measured candidate that is good enough, or today's model."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

from bot.cards.common.candidates import alternative_name, alternative_text
from bot.rules.alternatives import (
    CurrentModel,
    MeasuredCandidates,
    MonthlyUse,
    choose_alternative,
    find_dominated,
    measured_tokens,
)
from bot.rules.bills import Rates, Tokens, Traffic
from tests.rules.builders import comparison
from trainers.evaluation.results import Candidate, CandidateKind, MeasuredCandidate, Pair, Standing

TODAY = CurrentModel(Tokens(1, 1000, 10), Rates("gpt-4o", Decimal("2.50"), Decimal(10), "a list"))
USE = MonthlyUse(Fraction(1000), Fraction(50), Traffic())  # $2.60 a month today
FREE = Rates("classical", Decimal(0), Decimal(0), "nobody")
CLASSICAL = "the classical model"


def candidate(
    name: CandidateKind,
    standing: Standing,
    usd_per_1000: str | None = "0",
    model: str | None = None,
    prompt: int = 0,
) -> MeasuredCandidate:
    return MeasuredCandidate(
        identity=Candidate(name, model),
        scoring="label",
        scores=(1.0,) * 180 + (0.0,) * 20,
        score=0.9,
        low=0.85,
        high=0.93,
        standing=standing,
        rows_to_decide=None,
        macro_f1=0.9,
        unread=0,
        empty=0,
        prompt_tokens=prompt,
        completion_tokens=200,
        p50_s=0.1,
        p95_s=0.2,
        usd_per_1000=None if usd_per_1000 is None else Decimal(usd_per_1000),
    )


def test_a_candidate_that_is_worse_dearer_and_no_faster_is_dominated() -> None:
    free = candidate("encoder", "meets")
    clearly_worse = (1.0,) * 110 + (0.0,) * 90
    worse = replace(candidate("zero", "misses", "0.20", "openai/m"), scores=clearly_worse, p95_s=0.9)
    assert find_dominated(comparison(free, worse)) == (worse,)
    close = replace(worse, scores=(1.0,) * 178 + (0.0,) * 22)
    faster, unpriced = replace(worse, p95_s=0.1), replace(worse, usd_per_1000=None)
    for other in (close, faster, unpriced):
        assert find_dominated(comparison(free, other)) == ()
    # the paired test, where it was made, sees what intervals don't
    pair = Pair(free.identity, close.identity, 0.1, 0.02, 0.18, 0.01)
    assert find_dominated(replace(comparison(free, close), pairs=(pair,))) == (close,)


def test_today_s_model_is_the_alternative_if_nothing_is_measured() -> None:
    alternative = choose_alternative(TODAY, MeasuredCandidates((), 0.85), None, USE)
    assert (alternative_name(alternative), alternative.candidate) == ("today's model, gpt-4o", None)
    assert "nothing else has been measured" in alternative_text(alternative)


def test_the_cheapest_candidate_that_meets_the_bar_is_the_alternative() -> None:
    candidates = (
        candidate("kshot", "meets", "0.20", "openai/m"),
        candidate("classical", "meets"),
        candidate("zero", "misses", "0"),
    )
    measured = MeasuredCandidates(candidates, 0.85)
    assert measured.cheapest == candidates[1]
    alternative = choose_alternative(TODAY, measured, FREE, USE)
    assert (alternative_name(alternative), alternative.candidate) == (CLASSICAL, candidates[1])
    assert "90.0% right" in alternative_text(alternative)
    assert "bar of 85%" in alternative_text(alternative)


def test_today_s_model_is_the_alternative_if_no_candidate_meets_the_bar() -> None:
    measured = MeasuredCandidates(
        (candidate("classical", "undecided"), candidate("zero", "misses", "0.2", "openai/m")), 0.85
    )
    alternative = choose_alternative(TODAY, measured, None, USE)
    assert alternative_name(alternative) == "today's model, gpt-4o"
    assert "no measured alternative clearly meets the bar of 85%" in alternative_text(alternative)


def test_a_candidate_dearer_than_today_s_model_counts_only_if_that_misses_the_bar() -> None:
    dear = candidate("kshot", "meets", "9", "openai/big", prompt=200 * 2000)
    rates = Rates("openai/big", Decimal(5), Decimal(10), "a list")
    alternative = choose_alternative(TODAY, MeasuredCandidates((dear,), 0.85), rates, USE)
    assert alternative_name(alternative) == "today's model, gpt-4o"
    assert "costs less than the prompt with ten examples on openai/big" in alternative_text(alternative)
    missed = replace(TODAY, candidate=candidate("zero", "misses", "2.6", "openai/gpt-4o"))
    assert choose_alternative(missed, MeasuredCandidates((dear,), 0.85), rates, USE).candidate == dear


def test_a_candidate_without_a_price_is_mentioned() -> None:
    measured = MeasuredCandidates((candidate("zero", "meets", None, "x/y"),), 0.85)
    assert measured.cheapest is None
    assert "their price is unknown" in alternative_text(choose_alternative(TODAY, measured, None, USE))


def test_today_s_model_is_found_by_its_name_with_or_without_the_seller() -> None:
    prompted = candidate("zero", "misses", "1", "openai/gpt-4o")
    measured = MeasuredCandidates((candidate("kshot", "meets", "1", "openai/gpt-4o"), prompted), 0.85)
    assert measured.prompted("gpt-4o") == measured.prompted("openai/gpt-4o") == prompted
    assert measured.prompted("gpt-4o-mini") is None


def test_retrieved_passages_are_no_repeated_beginning() -> None:
    own = Fraction(50)
    kshot, retrieval = (
        candidate(name, "meets", "1", "x/y", prompt=200 * 2000) for name in ("kshot", "retrieval")
    )
    assert measured_tokens(kshot, own) == Tokens(200, 400_000, 200, shared=200 * 1950)
    assert measured_tokens(retrieval, own).shared == 0
