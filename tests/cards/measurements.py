"""Builders of comparisons, their measurements, curves, outlooks, documents and prices, each with what a test
changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

from bot.rules.forecast import Month, Outlook, Quantiles
from bot.rules.judge_agreement import HumanAgreement, JudgeChecks
from bot.rules.swings import Swing
from bot.rules.training.calibration import run_actuals, running_error
from bot.values.evaluations import (
    CandidateProgress,
    ComparisonPlan,
    ComparisonProgress,
    JudgedPair,
    JudgeProgress,
    SearchPlan,
    SearchProgress,
)
from storage.records import Document, DocumentState, Measurement, MeasurementState
from tests.cards.builders import ANA, HASH, NOW
from trainers.dataset.versions import Diff
from trainers.evaluation.results import (
    FREE_KINDS,
    Candidate,
    CandidateKind,
    Comparison,
    Curve,
    CurvePoint,
    EncoderUse,
    LabelNeed,
    MeasuredCandidate,
    Pair,
    Prediction,
    Retrieval,
    Scoring,
    Standing,
)
from trainers.evaluation.statistics import Agreement
from trainers.providers.pricing import PriceRow, UnknownPrice
from trainers.types import Price

MODEL = "local/smollm2-135m"
BIG = "openai/gpt-4.1-mini-2025-04-14"
SECONDS = {"classical": (0.0004, 0.0007), "encoder": (0.015, 0.021)}
"""The median and the 95th percentile of the time that an answer takes; others take longer."""


def candidate(
    name: CandidateKind,
    model: str | None,
    right: int,
    usd: str | None = "0",
    *,
    n: int = 200,
    standing: Standing | None = None,
    **other: Any,
) -> MeasuredCandidate:
    share = right / n
    half = 1.96 * (share * (1 - share) / n) ** 0.5 + 0.005
    low = max(share - half, 0.0)
    high = min(share + half, 1.0)
    p50_s, p95_s = SECONDS.get(name, (0.41, 0.92))
    default = MeasuredCandidate(
        identity=Candidate(name, model),
        scoring="label",
        scores=(1.0,) * right + (0.0,) * (n - right),
        score=share,
        low=low,
        high=high,
        standing=standing or standing_of(low, high),
        rows_to_decide=None,
        macro_f1=share - 0.02,
        unread=0 if name in (*FREE_KINDS, "tuned") else 14,
        empty=0 if name in (*FREE_KINDS, "tuned") else 2,
        prompt_tokens=0 if name in FREE_KINDS else 132 * n,
        completion_tokens=0 if name in FREE_KINDS else 4 * n,
        p50_s=p50_s,
        p95_s=p95_s,
        usd_per_1000=None if usd is None else Decimal(usd),
    )
    return replace(default, **other)


def standing_of(low: float, high: float) -> Standing:
    """By the bar of 85%."""
    if low >= 0.85:
        return "meets"
    return "misses" if high < 0.85 else "undecided"


NEAREST_ROWS = Retrieval("examples", 10, 745, 745, hits=166, asked=200)
NEAREST_PASSAGES = Retrieval("passages", 4, 37_000, 20_000, hits=81, asked=120, documents=3, copied=12)
CANDIDATES = (
    candidate("classical", None, 184),
    candidate("encoder", None, 187),
    candidate("zero", MODEL, 21),
    candidate("kshot", MODEL, 88),
    candidate("retrieval", MODEL, 141, retrieval=NEAREST_ROWS),
    candidate("zero", BIG, 158, "0.16"),
    candidate("kshot", BIG, 171, "0.41", rows_to_decide=310),
    candidate("retrieval", BIG, 186, "0.39", retrieval=NEAREST_ROWS),
)

IDENTITIES = tuple(candidate.identity for candidate in CANDIDATES)


def comparison(candidates: Sequence[MeasuredCandidate] = CANDIDATES, **other: Any) -> Comparison:
    meeting = [candidate for candidate in candidates if candidate.standing == "meets"]
    cheapest = min(meeting, key=lambda candidate: candidate.usd_per_1000 or 0, default=None)
    ranked = sorted(candidates, key=lambda candidate: -candidate.score)
    default = Comparison(
        dataset="tickets",
        version=1,
        holdout_sha256=HASH,
        bar=0.85,
        candidates=tuple(candidates),
        cheapest=cheapest.identity if cheapest else None,
        pairs=tuple(pair(ranked[0], worse) for worse in ranked[1:]),
        detectable_gap=0.07,
        never_answered=(),
        prices_said_by=("genai-prices 0.2.3 (OpenAI)", "finetune.toml"),
        measured_at=NOW,
        is_bar_set=False,
    )
    return replace(default, **other)


def rewritten_comparison(**other: Any) -> Comparison:
    """In the fourth look a rewritten prompt has two more right answers than the best before."""
    before = candidate("kshot", BIG, 174, "0.41", standing="undecided")
    after = candidate("zero", BIG, 176, "0.16", standing="undecided", look=4, choices=3, rows_to_decide=760)
    return comparison([before, replace(after, **other)])


def comparison_with_documents() -> Comparison:
    return comparison(
        [
            replace(candidate, retrieval=NEAREST_PASSAGES if candidate.retrieval else None)
            for candidate in CANDIDATES[2:]
        ]
    )


def pair(better: MeasuredCandidate, worse: MeasuredCandidate) -> Pair:
    gap = better.score - worse.score
    p_value = 0.61
    if gap > 0.06:
        p_value = 0.0004
    elif gap > 0.04:
        p_value = 0.02
    return Pair(better.identity, worse.identity, gap, gap - 0.05, gap + 0.05, p_value)


def plan(candidates: Sequence[Candidate] = IDENTITIES, **other: Any) -> ComparisonPlan:
    default = ComparisonPlan(
        dataset="tickets",
        version=1,
        task="labels",
        train_sha256=HASH,
        holdout_sha256=HASH,
        n_holdout=200,
        labels=("card_arrival", "lost_parcel", "refund", "opening hours"),
        candidates=tuple(candidates),
        prompt=None,
        bar=0.85,
        documents=(),
        prices="{}",
    )
    return replace(default, **other)


def measurement(state: MeasurementState = "running", **other: Any) -> Measurement:
    default = Measurement(
        id=3,
        kind="ladder",
        state=state,
        dataset_id=3,
        channel="C0TICKETS",
        requested_by=ANA,
        plan="{}",
        progress=None,
        result=None,
        error=None,
        month=None,
        reserved_micros=0,
        actual_micros=None,
        cancel_asked_by=None,
        tries=0,
        next_at=0.0,
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(default, **other)


def judged_plan() -> ComparisonPlan:
    """One of its models is a relative of the judge."""
    return plan(IDENTITIES[2:], task="free_text", labels=(), judge="openai/gpt-4o")


JUDGED = JudgeProgress(
    judged=600,
    unread=3,
    pair=JudgedPair(
        IDENTITIES[4], IDENTITIES[3], ("first",) * 70 + ("second",) * 31 + ("tie",) * 80 + (None,) * 19
    ),
)
COMPARED = HumanAgreement(30, 3, 17, 8, 5, None, Agreement(20, 17, 0.74, 0.48, 1.0))
NOBODY = JudgeChecks()
SOME = JudgeChecks(accepted=5, accepted_right=5, rejected=5, rejected_right=5, people=1)
TRUSTING = JudgeChecks(15, 14, 15, 13, people=3, between=Agreement(20, 17, 0.74, 0.48, 1.0))
DISTRUSTING = JudgeChecks(accepted=14, accepted_right=6, rejected=12, rejected_right=6, people=2)
LOPSIDED = JudgeChecks(accepted=36, accepted_right=35, rejected=2, rejected_right=2, people=1)


def asking_progress(most_micros: int = 640_000) -> ComparisonProgress:
    candidates = [
        CandidateProgress(candidate.identity, candidate.n, answered=50 if candidate.kind == "zero" else 0)
        for candidate in CANDIDATES
    ]
    return ComparisonProgress("asking", tuple(candidates), most_micros)


def half_way_progress(**other: Any) -> ComparisonProgress:
    answered = (200, 200, 200, 200, 120, 80, 0, 0)
    candidates = [
        CandidateProgress(candidate.identity, candidate.n, done)
        for candidate, done in zip(CANDIDATES, answered, strict=True)
    ]
    candidates[5] = replace(candidates[5], declined=("a", "b", "c"))
    candidates[7] = replace(candidates[7], failed="openai says that there is no such model.")
    default = ComparisonProgress(
        "measuring", tuple(candidates), 640_000, 210_000, NOW - 300, paced_at=NOW - 300
    )
    return replace(default, **other)


SEARCH = SearchProgress(
    answered=842,
    tried=14,
    rows=60,
    start="Sort the message.",
    prompt="Sort the customer's message.\nA card that is on its way is `card_arrival`, one that is late `lost_parcel`.",
    start_share=0.6,
    share=56 / 60,
    spent_micros=430_000,
    is_over=True,
)
FOUND_NOTHING = replace(SEARCH, prompt=SEARCH.start, share=0.6, ended="Its budget was used up.")


def search_plan(**other: Any) -> ComparisonPlan:
    return plan(search=SearchPlan(BIG, "openai/gpt-4.1-2025-04-14", 2_000_000), prompt=SEARCH.start, **other)


def optimised_comparison() -> Comparison:
    candidates = [
        candidate("classical", None, 120),
        candidate("zero", BIG, 122, "0.16"),
        candidate("optimised", BIG, 188, "0.29"),
    ]
    return comparison(candidates)


def comparison_that_none_meets() -> Comparison:
    free = (candidate("classical", None, 120), candidate("encoder", None, 140))
    candidates = [*free, *(replace(candidate, standing="misses") for candidate in CANDIDATES[2:6])]
    return comparison(candidates, never_answered=("opening hours", "lost_parcel"))


def comparison_of_a_babbling_model() -> Comparison:
    """Without examples it names no label; with them it repeats one."""
    babble = candidate("zero", MODEL, 6, "0.03", unread=192)
    return comparison(
        (*comparison_that_none_meets().candidates[:2], babble, candidate("kshot", MODEL, 28, "0.02"))
    )


def comparison_that_encoder_meets() -> Comparison:
    return comparison((candidate("classical", None, 120), candidate("encoder", None, 187), *CANDIDATES[2:5]))


def undecided_comparison() -> Comparison:
    return comparison(
        [candidate("classical", None, 34, n=40, rows_to_decide=160), candidate("zero", MODEL, 9, n=40)]
    )


def silent_comparison() -> Comparison:
    """One model thinks and has no tokens left for an answer. Its requests cost next to nothing."""
    thinking = candidate("zero", "acme/thinker", 40, "0.004", unread=0, empty=150)
    return comparison(
        [CANDIDATES[0], thinking, replace(thinking, identity=Candidate("kshot", "acme/thinker"), empty=90)]
    )


def unreadable_comparison() -> Comparison:
    """A small model that names hardly any label, whatever its prompt."""
    return comparison(
        [
            candidate("zero", MODEL, 0, unread=193, standing="misses"),
            candidate("kshot", MODEL, 9, unread=160, standing="misses"),
        ]
    )


def comparison_with_cheaper_undecided() -> Comparison:
    near = candidate("classical", None, 172, rows_to_decide=120)
    return comparison((near, *CANDIDATES[5:]))


def comparison_of_many(
    count: int = 12, name: str = "provider/a-rather-long-model-name-2025-04-14"
) -> Comparison:
    names: tuple[CandidateKind, ...] = ("zero", "kshot", "retrieval")
    candidates = [
        candidate(names[at % 3], f"{name}-{at}", 100 + (at * 37) % 95, f"{0.02 * 1.7**at:.4f}")
        for at in range(count - 1)
    ]
    return comparison((candidate("classical", None, 184), *candidates))


def comparison_by_f1() -> str:
    """Free text scored by F1: retrieval and the tuned model."""
    retrieval = candidate("retrieval", BIG, 141, scoring="f1", unread=0)
    tuned = candidate("tuned", "local/tickets-7", 158, scoring="f1", unread=0)
    return comparison((retrieval, tuned), pairs=(pair(tuned, retrieval),)).to_json()


MIXED = 53  # of 80 rows expect function calls


def comparison_of_calls_and_texts() -> Comparison:
    """Two thirds of the rows expect function calls, the others texts."""
    candidates = (
        candidate("zero", MODEL, 31, n=80, scoring="f1", unread=0, calls=MIXED),
        candidate("kshot", BIG, 66, "0.41", n=80, scoring="f1", unread=0, calls=MIXED),
    )
    return comparison(candidates, pairs=(pair(candidates[1], candidates[0]),))


def comparison_of_tuned_calls_and_texts() -> str:
    prompted = candidate("kshot", BIG, 150, scoring="f1", unread=0, calls=133)
    tuned = candidate("tuned", "local/tickets-7", 188, scoring="f1", unread=0, calls=133)
    return comparison((prompted, tuned), pairs=(pair(tuned, prompted),)).to_json()


def fields_candidate(
    name: CandidateKind, model: str | None, right: int, in_full: int, **other: Any
) -> MeasuredCandidate:
    """A candidate that answers in JSON, with `right` of 200 in fields and `in_full` of 200 answers right in all."""
    others = 200 - in_full
    scores = (1.0,) * in_full + ((right - in_full) / others,) * others
    return candidate(name, model, right, scoring="json", scores=scores, unread=0, empty=0, **other)


def comparison_in_german(use: EncoderUse) -> Comparison:
    return comparison(CANDIDATES[:4], encoder=use)


def comparison_of_fields() -> Comparison:
    """Answers in JSON: the classical model gets enough of their fields right."""
    candidates = (
        fields_candidate("classical", None, 181, 96),
        fields_candidate("encoder", None, 178, 90),
        fields_candidate("zero", MODEL, 2, 0),
        fields_candidate("kshot", MODEL, 84, 9),
    )
    return comparison(candidates, dataset="orders", floor=0.131)


def comparison_of_fields_beside_tuned() -> str:
    best, tuned = (
        fields_candidate("classical", None, 110, 18),
        fields_candidate("tuned", "local/orders-7", 168, 105),
    )
    return comparison((best, tuned), pairs=(pair(tuned, best),), floor=0.131).to_json()


def comparison_beside_prompted(tuned: int = 184, scoring: Scoring = "label") -> str:
    """Ten examples in a large model's prompt, with 186 of 200 right, and the tuned model."""
    prompted = candidate("kshot", BIG, 186, "0.41", scoring=scoring, unread=0)
    cheaper = candidate("tuned", "local/tickets-7", tuned, "0.03", scoring=scoring, unread=0)
    return comparison((prompted, cheaper), pairs=(pair(prompted, cheaper),)).to_json()


def comparison_of_silent_tuned() -> str:
    return comparison([candidate("tuned", "local/tickets-7", 12, empty=180)], pairs=()).to_json()


def comparison_of_tuned_alone(tuned: int) -> str:
    return comparison([candidate("tuned", "local/tickets-7", tuned)], pairs=()).to_json()


def comparison_beside_classical(other: int, tuned: int) -> str:
    """The classical and the tuned model, with `other` and `tuned` of 200 rows right."""
    candidates = candidate("classical", None, other), candidate("tuned", "local/tickets-7", tuned)
    better, worse = sorted(candidates, key=lambda candidate: -candidate.score)
    return comparison(candidates, pairs=(pair(better, worse),)).to_json()


def comparison_beside_encoder(other: int, tuned: int) -> str:
    """The free encoder and the tuned model, which is better, with `other` and `tuned` of 200 rows right."""
    candidates = candidate("encoder", None, other), candidate("tuned", "local/tickets-7", tuned)
    return comparison(candidates, pairs=(pair(candidates[1], candidates[0]),)).to_json()


def curve(**other: Any) -> Curve:
    default = Curve(
        dataset="tickets",
        version=1,
        holdout_sha256=HASH,
        candidate=Candidate("classical"),
        points=(
            CurvePoint(1_250, 0.748, (0.741, 0.755, 0.748)),
            CurvePoint(2_500, 0.833, (0.829, 0.837)),
            CurvePoint(5_001, 0.881, (0.881,)),
        ),
        a=0.04,
        b=20.4,
        c=0.643,
        predicted=(Prediction(7_500, 0.896, 0.889, 0.905), Prediction(10_003, 0.907, 0.894, 0.919)),
        points_per_100=0.08,
        needs=(
            LabelNeed("card_arrival", 31, 12, 5),
            LabelNeed("lost_parcel", 44, 11, 6),
            LabelNeed("opening hours", 12, 3, 1),
        ),
    )
    return replace(default, **other)


def inconclusive_curve() -> Curve:
    """What more rows bring is within chance."""
    points = tuple(
        CurvePoint(rows, share, (share,)) for rows, share in ((93, 0.48), (186, 0.52), (372, 0.55))
    )
    return curve(
        points=points, predicted=(Prediction(744, 0.565, 0.49, 0.64), Prediction(1_490, 0.58, 0.462, 0.693))
    )


def outlook(scale: str = "1", p: float = 0.87, **other: Any) -> Outlook:
    by = Decimal(scale)
    lines = ((90, 600), (280, 450), (520, 300))
    months = tuple(
        Month(Decimal(month), *((Decimal(saving * month) - cost) * by for saving, cost in lines))
        for month in range(13)
    )
    swings = (
        Swing("volume", "456,000 requests a month", "1.22M requests a month", 900 * by, 5_200 * by),
        Swing("price of the alternative", "falls 60% a year", "stays", 1_200 * by, 2_900 * by),
        Swing("people's time", "60 hours", "20 hours", 1_700 * by, 2_900 * by),
        Swing("accuracy", "82%", "90%", 2_300 * by, 2_700 * by),
    )
    default = Outlook(
        draws=10_000,
        seed=1,
        target_months=Decimal(3),
        horizon_months=Decimal(12),
        p_payback=p,
        p_gain=p,
        payback_months=Quantiles(Decimal("0.6"), Decimal("1.6"), Decimal("6.7")),
        saving_month=Quantiles(90 * by, 280 * by, 520 * by),
        npv=Quantiles(480 * by, 2_900 * by, 5_900 * by),
        swings=swings,
        months=months,
        expected=2_600 * by,
    )
    return replace(default, **other)


def document(state: DocumentState = "ready", **other: Any) -> Document:
    default = Document(
        id=2,
        dataset="tickets",
        filename="returns policy.md",
        source="F0DOC",
        state=state,
        channel="C0TICKETS",
        uploaded_by=ANA,
        sha256=HASH,
        passages=48 if state == "ready" else None,
        refusal="It is no text." if state == "refused" else None,
        tries=0,
        next_at=0.0,
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(default, **other)


def price(model: str, **other: Any) -> PriceRow:
    default = PriceRow(
        model,
        "prompted",
        Price(None, Decimal("2.5"), Decimal("1.25"), Decimal(10)),
        "genai-prices 0.2.3 (OpenAI)",
    )
    return replace(default, **other)


PRICES: tuple[PriceRow | UnknownPrice, ...] = (
    price(
        "gpt-4o",
        ends=date(2027, 1, 14),
        successor="gpt-6-luna",
        ends_said_by="a page that names no model, 2026-11-20; unconfirmed",
        is_successor_doubtful=True,
    ),
    price(
        "gpt-4.1-nano",
        price=Price(None, Decimal("0.10"), Decimal("0.025"), Decimal("0.40")),
        ends=date(2026, 10, 23),
    ),
    price(
        "openai/gpt-4.1-mini-2025-04-14",
        kind="tuned",
        price=Price(Decimal(5), Decimal("0.80"), Decimal("0.20"), Decimal("3.20")),
        source="openai.toml",
        as_of=date(2026, 11, 1),
        note="Requests of more than 200,000 tokens cost more per token; yours are assumed to be shorter.",
    ),
    price(
        MODEL,
        kind="tuned",
        price=Price(None, Decimal(0), Decimal(0), Decimal(0)),
        usd_per_hour=Decimal("0.10"),
        source="finetune.toml",
    ),
    UnknownPrice("gpt-99", ("gpt-4o",), "No price is known for “gpt-99”. Did you mean gpt-4o?"),
)

ERRORS = running_error(
    [
        *run_actuals(1, tokens=(108_600, 108_400), micros=(43_000, 45_000), seconds=(1_500, 4_900)),
        *run_actuals(2, tokens=(90_000, 90_000), micros=(0, 0), seconds=(1_000, 1_300), quality=(0.9, 0.86)),
    ]
)

MANY_ERRORS = running_error(
    pair for run in range(6) for pair in run_actuals(run, tokens=(108_600, 109_000), seconds=(1_500, 2_900))
)

DIFF = Diff(
    added=220,
    removed=14,
    relabelled=3,
    held_out_added=44,
    held_out_relabelled=1,
    held_out_missing=2,
    by_label=(("card_arrival", 120, 180), ("lost_parcel", 104, 90), ("refund", 98, 98)),
)
SAME = Diff(0, 0, 0, 0, 0, 0, ())
