"""The ladder: what each rung scores, what may be said of it, which one is the cheapest, what nobody can
tell."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from decimal import Decimal

import pytest

from tests.trainers.evaluation.builders import example, price, replies, right_on, rows
from trainers.dataset import Example
from trainers.evaluation.ladder import Prices, build_ladder, usd_per_1000
from trainers.evaluation.results import NO_ANSWER, Candidate, Ladder, Reply
from trainers.evaluation.statistics import wilson
from trainers.pricing import UnknownPrice

LABELS = ("card", "login", "refund")
CLASSICAL, ZERO, SHOTS = Candidate("classical"), Candidate("zero", "a/small"), Candidate("kshot", "a/small")
NEAR, BIG = Candidate("retrieval", "a/small"), Candidate("zero", "a/big")
PRICES: Prices = {
    "a/small": price("a/small", "1.00", "4.00"),
    "a/big": price("a/big", "10.00", "40.00"),
    "a/unknown": UnknownPrice("a/unknown", (), "No price is known."),
    "own/box": price("own/box", "0", "0", usd_per_hour="3.60"),
}


def ladder(
    said: Mapping[Candidate, Sequence[Reply]],
    examples: Sequence[Example],
    bar: float = 0.85,
    labels: Sequence[str] = LABELS,
    verdicts: Mapping[Candidate, Sequence[float]] | None = None,
) -> Ladder:
    return build_ladder(
        said,
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


def test_a_rung_has_its_score_interval_standing_tokens_times_and_price() -> None:
    held = rows(200)

    (rung,) = ladder({ZERO: right_on(held, 170)}, held).rungs

    assert (rung.arm, rung.scoring, rung.n, rung.score) == (ZERO, "label", 200, 0.85)
    assert (round(rung.low, 4), round(rung.high, 4)) == (0.7939, 0.8929)
    assert (rung.standing, rung.rows_to_decide) == ("undecided", None)
    assert (rung.unread, rung.empty) == (30, 0)
    assert (rung.prompt_tokens, rung.completion_tokens) == (20_000, 2_000)
    assert (rung.p50_s, rung.p95_s) == (0.5, 0.5)
    assert rung.usd_per_1000 == Decimal("0.14")  # 1,000 · (100 · $1 + 10 · $4) / 1M
    assert rung.macro_f1 is not None and 0.85 < rung.macro_f1 < 1


def test_190_right_of_200_rows_of_20_questions_are_19_of_20() -> None:
    held = [one for one in rows(20) for _ in range(10)]
    said = [*right_on(held, 190)]

    copied, plain = (
        ladder({ZERO: said}, held).rungs[0],
        ladder({ZERO: right_on(rows(20), 19)}, rows(20)).rungs[0],
    )

    assert (
        (copied.n, copied.score, copied.standing)
        == (plain.n, plain.score, plain.standing)
        == (20, 0.95, "undecided")
    )
    assert (copied.low, copied.high) == (plain.low, plain.high)
    assert copied.usd_per_1000 == plain.usd_per_1000


def test_each_alternative_more_makes_the_bar_harder_to_claim() -> None:
    held = rows(500)
    said = {ZERO: right_on(held, 439)}

    assert ladder(said, held).cheapest == ZERO
    beside = ladder(said | {arm: right_on(held, 300) for arm in (CLASSICAL, SHOTS, NEAR, BIG)}, held)
    assert beside.cheapest is None
    assert {rung.standing for rung in beside.rungs} == {"undecided", "misses"}


def test_rungs_stand_in_the_order_in_which_they_are_climbed() -> None:
    held = rows(30)
    said = {arm: right_on(held, 15) for arm in (NEAR, ZERO, SHOTS, BIG, CLASSICAL)}

    assert [rung.arm for rung in ladder(said, held).rungs] == [CLASSICAL, ZERO, BIG, SHOTS, NEAR]


def test_the_cheapest_rung_that_meets_the_bar_is_marked() -> None:
    held = rows(200)

    found = ladder(
        {CLASSICAL: right_on(held, 150), BIG: right_on(held, 200), ZERO: right_on(held, 190)}, held
    )

    assert [rung.standing for rung in found.rungs] == ["misses", "meets", "meets"]
    assert found.cheapest == ZERO
    assert ladder({ZERO: right_on(held, 100)}, held).cheapest is None


def test_an_unknown_price_comes_last_and_of_equals_the_lower_rung_wins() -> None:
    held = rows(100)
    unknown, own = Candidate("zero", "a/unknown"), Candidate("zero", "nobody/knows")
    everything = right_on(held, 100)

    assert ladder({unknown: everything, BIG: everything}, held).cheapest == BIG
    assert ladder({unknown: everything, own: everything}, held).cheapest == unknown
    assert ladder({SHOTS: everything, ZERO: everything}, held).cheapest == ZERO
    assert ladder({ZERO: everything, CLASSICAL: everything}, held).cheapest == CLASSICAL


def test_the_best_is_compared_with_each_other_one_and_corrected_for_it() -> None:
    held = rows(200)
    # 8 rows only the classical rung has right, 20 only the best one
    classical = replies(["x" if i < 20 else e.answer if i < 178 else "x" for i, e in enumerate(held)])
    best = replies([e.answer if i < 170 else "x" for i, e in enumerate(held)])

    one = ladder({CLASSICAL: classical, ZERO: best}, held)
    two = ladder({CLASSICAL: classical, ZERO: best, SHOTS: right_on(held, 169)}, held)

    assert (one.pairs[0].better, one.pairs[0].worse) == (ZERO, CLASSICAL)
    assert one.pairs[0].p == pytest.approx(0.0357, abs=0.0001)
    assert one.pairs[0].is_significant
    assert one.pairs[0].difference == pytest.approx(0.06)
    assert 0 < one.pairs[0].low < 0.06 < one.pairs[0].high
    assert two.pairs[0].p == pytest.approx(2 * 0.0357, abs=0.0002)
    assert not two.pairs[0].is_significant
    assert two.pairs[1].p == 1.0


def test_the_detectable_gap_follows_from_how_often_the_best_two_disagree() -> None:
    held = rows(312)
    said = {ZERO: right_on(held, 300), SHOTS: right_on(held, 269)}  # they disagree on one row in ten

    assert ladder(said, held).detectable_gap == pytest.approx(0.05, abs=0.001)
    assert ladder({ZERO: right_on(held, 300)}, held).detectable_gap is None
    assert ladder({ZERO: right_on(held, 9), SHOTS: right_on(held, 9)}, held).detectable_gap is None


def test_labels_that_no_rung_ever_says_are_named() -> None:
    held = rows(30)
    never = replies(["refund" if e.answer == "login" else e.answer.upper() for e in held])

    assert ladder({ZERO: never, CLASSICAL: never}, held).never_answered == ("login",)
    assert ladder({ZERO: never, CLASSICAL: right_on(held, 30)}, held).never_answered == ()
    assert ladder({}, held).never_answered == ()


@pytest.mark.parametrize("text", ["", "I'm sorry, I can't help with that.", "🙂"])
def test_silence_and_refusals_are_wrong_answers_and_counted(text: str) -> None:
    held = rows(50)

    found = ladder({ZERO: replies([text] * 50)}, held)

    assert (found.rungs[0].score, found.rungs[0].macro_f1, found.rungs[0].standing) == (0.0, 0.0, "misses")
    assert (found.rungs[0].unread, found.rungs[0].empty) == ((0, 50) if not text else (50, 0))
    assert found.never_answered == LABELS


def test_questions_that_were_declined_are_wrong_and_neither_quick_nor_cheap() -> None:
    held = rows(50)
    half = (*right_on(held, 50)[:25], *[NO_ANSWER] * 25)

    whole, some, none = (
        ladder({ZERO: said}, held).rungs[0] for said in (right_on(held, 50), half, [NO_ANSWER] * 50)
    )

    assert (some.score, some.empty) == (0.5, 25)
    assert (some.usd_per_1000, some.p50_s) == (whole.usd_per_1000, whole.p50_s)
    assert none.usd_per_1000 is None


def test_one_label_only_is_measured_like_any() -> None:
    held = rows(20, ["refund"])

    found = ladder({CLASSICAL: right_on(held, 20)}, held, labels=["refund"])

    assert (found.rungs[0].score, found.rungs[0].macro_f1, found.cheapest) == (1.0, 1.0, CLASSICAL)


def test_a_holdout_of_12_claims_little() -> None:
    held = rows(12)

    found = ladder({CLASSICAL: right_on(held, 11), ZERO: right_on(held, 9)}, held)

    assert [rung.standing for rung in found.rungs] == ["undecided", "undecided"]
    assert found.cheapest is None
    assert found.detectable_gap is None
    assert not found.pairs[0].is_significant


def test_json_and_free_text_have_shares_with_a_bootstrap_interval() -> None:
    held = [example(f"q {i}", f'{{"a": {i}, "b": 1}}') for i in range(200)]
    half = replies([e.answer if i % 2 else '{"a": -1, "b": 1}' for i, e in enumerate(held)])
    none = replies(["no"] * 200)

    found = ladder({ZERO: half, SHOTS: none}, held, bar=0.7, labels=())

    first = found.rungs[0]
    assert (first.scoring, first.score, first.macro_f1) == ("json", 0.75, None)
    narrow, wide = first.high - first.low, wilson(150, 200).high - wilson(150, 200).low
    assert first.low < 0.75 < first.high
    assert narrow == pytest.approx(4 * 0.25 / 200**0.5, rel=0.1)
    assert narrow < wide
    assert (first.standing, found.rungs[1].unread) == ("meets", 200)
    assert found.pairs[0].difference == pytest.approx(0.75)
    assert found.pairs[0].p < 0.01
    assert found.detectable_gap == pytest.approx(2.8 * 0.25 / 200**0.5, rel=0.02)


def test_a_judges_verdicts_decide_where_they_are_given() -> None:
    held = [example(f"q {i}", f"answer {i}") for i in range(40)]
    said = {ZERO: replies(["fine"] * 39 + [""]), SHOTS: replies(["bad"] * 40)}

    found = ladder(said, held, labels=(), verdicts={ZERO: [1.0] * 40, SHOTS: [0.0] * 40})

    assert [rung.scoring for rung in found.rungs] == ["judge", "judge"]
    assert [rung.score for rung in found.rungs] == [39 / 40, 0.0]
    with pytest.raises(ValueError, match="have no verdict of the judge"):
        ladder(said, held, labels=(), verdicts={ZERO: [1.0] * 40})


def test_an_hour_of_an_own_machine_is_shared_by_its_requests() -> None:
    arm = Candidate("zero", "own/box")

    assert usd_per_1000(arm, replies(["a"] * 4, seconds=2.0), PRICES) == Decimal("2.00")
    assert usd_per_1000(CLASSICAL, replies(["a"]), {}) == 0
    assert usd_per_1000(ZERO, replies(["a"]), {}) is None
    assert usd_per_1000(ZERO, (), PRICES) is None


def test_sources_of_the_prices_are_named_and_the_ladder_travels() -> None:
    held = rows(30)

    found = ladder({ZERO: right_on(held, 10), BIG: right_on(held, 20)}, held)

    assert found.prices_said_by == ("a list",)
    assert (found.dataset, found.version, found.holdout_sha256, found.measured_at) == (
        "tickets",
        2,
        "ab",
        5.0,
    )
    assert Ladder.from_json(found.to_json()) == found == pickle.loads(pickle.dumps(found))  # noqa: S301


def test_the_late_time_is_one_that_was_seen() -> None:
    held = rows(20)
    said = tuple(Reply("card", 1, 1, float(second)) for second in range(1, 21))

    (rung,) = ladder({ZERO: said}, held).rungs

    assert (rung.p50_s, rung.p95_s) == (11.0, 20.0)


def test_nothing_is_judged_on_no_rows_or_on_some_of_them() -> None:
    with pytest.raises(ValueError, match="0 held-out rows"):
        ladder({ZERO: ()}, ())
    with pytest.raises(ValueError, match="'zero a/small': it has 2 answers to 3 held-out rows"):
        ladder({ZERO: replies(["a", "b"])}, rows(3))


def test_six_rungs_of_a_thousand_rows_and_77_labels_are_read() -> None:
    labels = [f"label_number_{i}" for i in range(77)]
    held = rows(1_000, labels)
    chatty = replies([f"I think that this is about {e.answer.replace('_', ' ')}." for e in held])
    arms = (ZERO, BIG, SHOTS, NEAR, Candidate("kshot", "a/big"), Candidate("retrieval", "a/big"))
    found = ladder(dict.fromkeys(arms, chatty), held, labels=labels)
    assert [rung.score for rung in found.rungs] == [1.0] * 6


def test_six_rungs_of_shares_are_compared() -> None:
    held = [example(f"q {i}", f"one two three {i}") for i in range(1_000)]
    said = {
        arm: replies([f"one {i % (k + 2)} two" for i in range(1_000)])
        for k, arm in enumerate(
            (ZERO, BIG, SHOTS, NEAR, Candidate("kshot", "a/big"), Candidate("retrieval", "a/big"))
        )
    }
    found = ladder(said, held, labels=())
    assert all(rung.scoring == "f1" for rung in found.rungs)


def test_answers_that_were_under_way_together_share_the_hour() -> None:
    arm = Candidate("zero", "own/box")
    beside = [Reply("a", 1, 1, 2.0, 10.0), Reply("a", 1, 1, 2.0, 10.0), Reply("a", 1, 1, 1.0, 10.5)]
    apart = [Reply("a", 1, 1, 2.0, 10.0), Reply("a", 1, 1, 2.0, 20.0)]
    assert usd_per_1000(arm, beside, PRICES) == pytest.approx(Decimal("0.8333"), abs=Decimal("0.0001"))
    assert usd_per_1000(arm, apart, PRICES) == Decimal("2.00")
