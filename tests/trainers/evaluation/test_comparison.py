"""The comparison: score and standing of each candidate, the cheapest one that meets the bar, and what can't be told
apart."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from decimal import Decimal

import pytest

from tests.trainers.evaluation.builders import answer_first, make_example, make_price, make_replies, make_rows
from trainers.dataset import Example
from trainers.evaluation.comparison import Prices, build_comparison, merge_comparisons, usd_per_1000
from trainers.evaluation.results import NO_ANSWER, Candidate, Comparison, Reply
from trainers.evaluation.statistics import wilson
from trainers.providers.pricing import UnknownPrice

LABELS = ("card", "login", "refund")
CLASSICAL = Candidate("classical")
ZERO = Candidate("zero", "a/small")
SHOTS = Candidate("kshot", "a/small")
NEAR, BIG = Candidate("retrieval", "a/small"), Candidate("zero", "a/big")
PRICES: Prices = {
    "a/small": make_price("a/small", "1.00", "4.00"),
    "a/big": make_price("a/big", "10.00", "40.00"),
    "a/unknown": UnknownPrice("a/unknown", (), "No price is known."),
    "own/box": make_price("own/box", "0", "0", usd_per_hour="3.60"),
}


def build(
    replies: Mapping[Candidate, Sequence[Reply]],
    examples: Sequence[Example],
    bar: float = 0.85,
    labels: Sequence[str] = LABELS,
    verdicts: Mapping[Candidate, Sequence[float]] | None = None,
) -> Comparison:
    return build_comparison(
        replies,
        examples,
        labels,
        bar,
        PRICES,
        dataset="tickets",
        version=2,
        holdout_sha256="ab",
        measured_at=5.0,
        verdicts=verdicts,
    )


def test_a_candidate_has_score_interval_standing_tokens_times_and_price() -> None:
    holdout = make_rows(200)

    (candidate,) = build({ZERO: answer_first(holdout, 170)}, holdout).candidates

    assert (candidate.identity, candidate.scoring, candidate.n, candidate.score) == (ZERO, "label", 200, 0.85)
    assert (round(candidate.low, 4), round(candidate.high, 4)) == (0.7939, 0.8929)
    assert (candidate.standing, candidate.rows_to_decide) == ("undecided", None)
    assert (candidate.unread, candidate.empty) == (30, 0)
    assert (candidate.prompt_tokens, candidate.completion_tokens) == (20_000, 2_000)
    assert (candidate.p50_s, candidate.p95_s) == (0.5, 0.5)
    assert candidate.usd_per_1000 == Decimal("0.14")  # 1,000 · (100 · $1 + 10 · $4) / 1M
    assert candidate.macro_f1 is not None and 0.85 < candidate.macro_f1 < 1


def test_copies_of_a_question_count_once() -> None:
    copies = [row for row in make_rows(20) for _ in range(10)]
    (with_copies,) = build({ZERO: answer_first(copies, 190)}, copies).candidates
    (without,) = build({ZERO: answer_first(make_rows(20), 19)}, make_rows(20)).candidates
    assert (without.n, without.score, without.standing) == (20, 0.95, "undecided")
    for name in ("n", "score", "standing", "low", "high", "usd_per_1000"):
        assert getattr(with_copies, name) == getattr(without, name)


def test_each_further_alternative_makes_the_bar_harder_to_meet() -> None:
    holdout = make_rows(500)
    replies = {ZERO: answer_first(holdout, 440)}
    assert build(replies, holdout).cheapest == ZERO
    among_five = build(
        replies | {candidate: answer_first(holdout, 300) for candidate in (CLASSICAL, SHOTS, NEAR, BIG)},
        holdout,
    )
    assert among_five.cheapest is None
    assert {candidate.standing for candidate in among_five.candidates} == {"undecided", "misses"}


def test_candidates_are_in_order_of_effort() -> None:
    holdout = make_rows(30)
    replies = {candidate: answer_first(holdout, 15) for candidate in (NEAR, ZERO, SHOTS, BIG, CLASSICAL)}
    assert [candidate.identity for candidate in build(replies, holdout).candidates] == [
        CLASSICAL,
        ZERO,
        BIG,
        SHOTS,
        NEAR,
    ]


def test_the_cheapest_candidate_that_meets_the_bar_is_named() -> None:
    holdout = make_rows(200)

    result = build(
        {
            CLASSICAL: answer_first(holdout, 150),
            BIG: answer_first(holdout, 200),
            ZERO: answer_first(holdout, 190),
        },
        holdout,
    )

    assert [candidate.standing for candidate in result.candidates] == ["misses", "meets", "meets"]
    assert result.cheapest == ZERO
    assert build({ZERO: answer_first(holdout, 100)}, holdout).cheapest is None


def test_an_unknown_price_comes_last_and_of_equals_the_lower_candidate_wins() -> None:
    holdout = make_rows(100)
    unpriced, unlisted = Candidate("zero", "a/unknown"), Candidate("zero", "nobody/knows")
    right = answer_first(holdout, 100)
    assert build({unpriced: right, BIG: right}, holdout).cheapest == BIG
    assert build({unpriced: right, unlisted: right}, holdout).cheapest == unpriced
    assert build({SHOTS: right, ZERO: right}, holdout).cheapest == ZERO
    assert build({ZERO: right, CLASSICAL: right}, holdout).cheapest == CLASSICAL


def test_the_best_is_compared_with_each_other_one_with_a_correction() -> None:
    holdout = make_rows(200)
    # 8 rows only the classical candidate has right, 20 only the best one
    classical = make_replies([e.answer if 20 <= i < 178 else "x" for i, e in enumerate(holdout)])
    best = make_replies([e.answer if i < 170 else "x" for i, e in enumerate(holdout)])

    (pair,) = build({CLASSICAL: classical, ZERO: best}, holdout).pairs
    corrected, other = build(
        {CLASSICAL: classical, ZERO: best, SHOTS: answer_first(holdout, 169)}, holdout
    ).pairs

    assert (pair.better, pair.worse) == (ZERO, CLASSICAL)
    assert pair.p == pytest.approx(0.0357, abs=0.0001)
    assert pair.is_significant
    assert pair.difference == pytest.approx(0.06)
    assert 0 < pair.low < 0.06 < pair.high
    assert corrected.p == pytest.approx(2 * 0.0357, abs=0.0002)
    assert not corrected.is_significant
    assert other.p == 1.0


def test_the_detectable_gap_follows_from_how_often_the_best_two_disagree() -> None:
    holdout = make_rows(312)
    replies = {
        ZERO: answer_first(holdout, 300),
        SHOTS: answer_first(holdout, 269),
    }  # they disagree on one row in ten

    assert build(replies, holdout).detectable_gap == pytest.approx(0.05, abs=0.001)
    assert build({ZERO: answer_first(holdout, 300)}, holdout).detectable_gap is None
    assert (
        build({ZERO: answer_first(holdout, 9), SHOTS: answer_first(holdout, 9)}, holdout).detectable_gap
        is None
    )


def test_labels_that_no_candidate_ever_answers_are_named() -> None:
    holdout = make_rows(30)
    never = make_replies(["refund" if e.answer == "login" else e.answer.upper() for e in holdout])
    assert build({ZERO: never, CLASSICAL: never}, holdout).never_answered == ("login",)
    assert build({ZERO: never, CLASSICAL: answer_first(holdout, 30)}, holdout).never_answered == ()
    assert build({}, holdout).never_answered == ()


@pytest.mark.parametrize("text", ["", "I'm sorry, I can't help with that.", "🙂"])
def test_empty_answers_and_refusals_are_wrong_and_counted(text: str) -> None:
    holdout = make_rows(50)
    result = build({ZERO: make_replies([text] * 50)}, holdout)
    (candidate,) = result.candidates
    assert (candidate.score, candidate.macro_f1, candidate.standing) == (0.0, 0.0, "misses")
    assert (candidate.unread, candidate.empty) == ((50, 0) if text else (0, 50))
    assert result.never_answered == LABELS


def test_declined_questions_are_wrong_and_do_not_count_as_quick_or_cheap() -> None:
    holdout = make_rows(50)
    right = answer_first(holdout, 50)
    answered, half_answered, declined = (
        build({ZERO: replies}, holdout).candidates[0]
        for replies in (right, (*right[:25], *[NO_ANSWER] * 25), [NO_ANSWER] * 50)
    )
    assert (half_answered.score, half_answered.empty) == (0.5, 25)
    assert (half_answered.usd_per_1000, half_answered.p50_s) == (answered.usd_per_1000, answered.p50_s)
    assert declined.usd_per_1000 is None


def test_a_holdout_of_12_rows_decides_little() -> None:
    holdout = make_rows(12)
    result = build({CLASSICAL: answer_first(holdout, 11), ZERO: answer_first(holdout, 9)}, holdout)
    assert [candidate.standing for candidate in result.candidates] == ["undecided", "undecided"]
    assert result.cheapest is None
    assert result.detectable_gap is None
    assert not result.pairs[0].is_significant


def test_json_and_free_text_have_shares_with_a_bootstrap_interval() -> None:
    holdout = [make_example(f"q {i}", f'{{"a": {i}, "b": 1}}') for i in range(200)]
    half = make_replies([e.answer if i % 2 else '{"a": -1, "b": 1}' for i, e in enumerate(holdout)])
    none = make_replies(["no"] * 200)

    result = build({ZERO: half, SHOTS: none}, holdout, bar=0.7, labels=())

    first, second = result.candidates
    assert (first.scoring, first.score, first.macro_f1) == ("json", 0.75, None)
    narrow, wide = first.high - first.low, wilson(150, 200).high - wilson(150, 200).low
    assert first.low < 0.75 < first.high
    assert narrow == pytest.approx(4 * 0.25 / 200**0.5, rel=0.1)
    assert narrow < wide
    assert (first.standing, second.unread) == ("meets", 200)
    assert result.pairs[0].difference == pytest.approx(0.75)
    assert result.pairs[0].p < 0.01
    assert result.detectable_gap == pytest.approx(2.8 * 0.25 / 200**0.5, rel=0.02)


def test_calls_among_texts_are_compared_exactly_and_counted() -> None:
    calls = [f'{{"name":"track","arguments":"{{\\"parcel\\": {i}}}"}}' for i in range(53)]
    texts = [f"Parcel {i} is on its way" for i in range(27)]
    holdout = [make_example(f"q {i}", answer) for i, answer in enumerate([*calls, *texts])]
    other_call = calls[0].replace("track", "send")
    answers = make_replies([other_call, *calls[1:], "Parcel 0 comes later", *texts[1:]])

    result = build({ZERO: answers}, holdout, labels=())

    assert (result.scoring, result.calls, result.n) == ("f1", 53, 80)
    assert result.candidates[0].scores[:2] == (0.0, 1.0) and 0 < result.candidates[0].scores[53] < 1
    judged = build({ZERO: answers}, holdout, labels=(), verdicts={ZERO: [1.0] * 80})
    assert (judged.scoring, judged.calls) == ("judge", 53)
    only_calls = build({ZERO: make_replies(calls)}, holdout[:53], labels=())
    assert (only_calls.scoring, only_calls.calls) == ("calls", 0)
    before = json.loads(result.to_json())
    for candidate in before["rungs"]:
        del candidate["calls"]
    assert Comparison.from_json(json.dumps(before)).calls == 0, "it was stored before calls were counted"


def test_a_judges_verdicts_replace_the_scores() -> None:
    holdout = [make_example(f"q {i}", f"answer {i}") for i in range(40)]
    replies = {ZERO: make_replies(["fine"] * 39 + [""]), SHOTS: make_replies(["bad"] * 40)}
    result = build(replies, holdout, labels=(), verdicts={ZERO: [1.0] * 40, SHOTS: [0.0] * 40})
    assert [(candidate.scoring, candidate.score) for candidate in result.candidates] == [
        ("judge", 39 / 40),
        ("judge", 0.0),
    ]
    assert [candidate.scoring for candidate in build(replies, holdout, labels=()).candidates] == ["f1", "f1"]
    with pytest.raises(ValueError, match="have no verdict of the judge"):
        build(replies, holdout, labels=(), verdicts={ZERO: [1.0] * 40})


def test_the_hours_of_an_own_machine_are_divided_by_its_requests() -> None:
    candidate = Candidate("zero", "own/box")
    assert usd_per_1000(candidate, make_replies(["a"] * 4, seconds=2.0), PRICES) == Decimal("2.00")
    assert usd_per_1000(CLASSICAL, make_replies(["a"]), {}) == 0
    assert usd_per_1000(ZERO, make_replies(["a"]), {}) is None
    assert usd_per_1000(ZERO, (), PRICES) is None


def test_a_comparison_names_its_price_sources_and_survives_json_and_pickle() -> None:
    holdout = make_rows(30)
    result = build({ZERO: answer_first(holdout, 10), BIG: answer_first(holdout, 20)}, holdout)
    assert result.prices_said_by == ("a list",)
    assert (result.dataset, result.version, result.holdout_sha256) == ("tickets", 2, "ab")
    assert result.measured_at == 5.0
    assert Comparison.from_json(result.to_json()) == result == pickle.loads(pickle.dumps(result))  # noqa: S301


def test_the_95th_percentile_of_times_is_one_that_occurred() -> None:
    holdout = make_rows(20)
    replies = tuple(Reply("card", 1, 1, float(second)) for second in range(1, 21))
    (candidate,) = build({ZERO: replies}, holdout).candidates
    assert (candidate.p50_s, candidate.p95_s) == (11.0, 20.0)


def test_replies_to_no_rows_or_only_some_are_refused() -> None:
    with pytest.raises(ValueError, match="0 held-out rows"):
        build({ZERO: ()}, ())
    with pytest.raises(ValueError, match="'zero a/small': it has 2 answers to 3 held-out rows"):
        build({ZERO: make_replies(["a", "b"])}, make_rows(3))


def test_chatty_answers_with_one_of_77_labels_are_read() -> None:
    labels = [f"label_number_{i}" for i in range(77)]
    holdout = make_rows(300, labels)
    chatty = make_replies([f"I think that this is about {e.answer.replace('_', ' ')}." for e in holdout])
    candidates = (ZERO, BIG, SHOTS, NEAR, Candidate("kshot", "a/big"), Candidate("retrieval", "a/big"))
    result = build(dict.fromkeys(candidates, chatty), holdout, labels=labels)
    assert [candidate.score for candidate in result.candidates] == [1.0] * 6


def test_answers_that_were_in_progress_together_share_the_hours() -> None:
    candidate = Candidate("zero", "own/box")
    together = [Reply("a", 1, 1, 2.0, 10.0), Reply("a", 1, 1, 2.0, 10.0), Reply("a", 1, 1, 1.0, 10.5)]
    in_turn = [Reply("a", 1, 1, 2.0, 10.0), Reply("a", 1, 1, 2.0, 20.0)]
    assert usd_per_1000(candidate, together, PRICES) == pytest.approx(
        Decimal("0.8333"), abs=Decimal("0.0001")
    )
    assert usd_per_1000(candidate, in_turn, PRICES) == Decimal("2.00")


def test_joined_comparisons_keep_each_candidate_by_its_newest_measurement() -> None:
    holdout = make_rows(200)
    first = build({ZERO: answer_first(holdout, 187), SHOTS: answer_first(holdout, 150)}, holdout)
    second = build({NEAR: answer_first(holdout, 160), SHOTS: answer_first(holdout, 155)}, holdout, bar=0.9)

    joined = merge_comparisons([second, first], 0.85)

    assert {candidate.identity: round(candidate.score * 200) for candidate in joined.candidates} == {
        ZERO: 187,
        SHOTS: 155,
        NEAR: 160,
    }
    assert joined.cheapest == ZERO, "the older measurement still counts"
    assert (joined.bar, joined.measured_at) == (0.85, second.measured_at)
    assert {(pair.better, pair.worse) for pair in joined.pairs} == {(ZERO, SHOTS), (ZERO, NEAR)}
    at_once = build(
        {
            ZERO: answer_first(holdout, 187),
            SHOTS: answer_first(holdout, 155),
            NEAR: answer_first(holdout, 160),
        },
        holdout,
    )
    assert (joined.candidates, joined.pairs, joined.detectable_gap) == (
        at_once.candidates,
        at_once.pairs,
        at_once.detectable_gap,
    )


def test_a_label_that_any_joined_candidate_answered_is_not_called_unanswered() -> None:
    holdout = make_rows(30)
    nothing = build({ZERO: answer_first(holdout, 0)}, holdout)
    everything = build({SHOTS: answer_first(holdout, 30)}, holdout)
    assert nothing.never_answered and not everything.never_answered
    assert merge_comparisons([nothing, everything], 0.85).never_answered == ()


def test_comparisons_of_other_rows_can_not_be_joined() -> None:
    ten, twenty = make_rows(10), make_rows(20)
    comparisons = [build({ZERO: answer_first(rows, 5)}, rows) for rows in (ten, twenty)]
    with pytest.raises(ValueError, match="one has 20 held-out rows, another has 10"):
        merge_comparisons(comparisons, 0.85)
