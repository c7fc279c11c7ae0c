"""The values of an evaluation: candidates, their replies to held-out rows and what was measured of them, comparisons,
and learning curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import pstdev
from typing import Literal

from trainers.json_values import JsonValue, stored_as

CandidateKind = Literal["classical", "encoder", "zero", "optimised", "kshot", "retrieval", "tuned"]
Scoring = Literal["label", "json", "calls", "f1", "judge"]
Standing = Literal["meets", "misses", "undecided"]

CANDIDATE_KINDS: tuple[CandidateKind, ...] = (
    "classical",
    "encoder",
    "zero",
    "optimised",
    "kshot",
    "retrieval",
    "tuned",
)
# These learn from the rows on this machine and ask no model, so they are free and take a few seconds.
FREE_KINDS: tuple[CandidateKind, ...] = ("classical", "encoder")
DEFAULT_QUALITY_THRESHOLD = 0.85
USUAL_SHOTS = 10  # examples in a prompt if nobody has asked for another number
SURE_ERRORS = 2  # standard errors by which a later candidate has to be ahead of the best so far
NEGLIGIBLE_GAIN = 1.0  # percentage points; a smaller gain is no reason to label more rows


@dataclass(frozen=True)
class Candidate:
    """An alternative to measure: a kind of prompting or training, and a model ('provider/model').

    `model` is None for the free candidates, which ask no model. `shots` is the number of examples in the prompt; None
    means ten. For a prompt without examples, 0 means that examples were tried on training rows and didn't help.
    """

    kind: CandidateKind = field(metadata=stored_as("rung"))
    model: str | None = None
    shots: int | None = None

    @property
    def key(self) -> str:
        """The name under which results are stored, such as 'classical' or 'zero local/smollm2-135m'."""
        name: str = self.kind
        if self.shots is not None:
            name = f"{name}-{self.shots}"
        if self.model is not None:
            name = f"{name} {self.model}"
        return name

    @property
    def is_free(self) -> bool:
        return self.kind in FREE_KINDS

    @property
    def examples(self) -> int:
        """The number of examples in the prompt of a candidate that has any."""
        if self.shots is None:
            return USUAL_SHOTS
        return self.shots


CLASSICAL = Candidate("classical")
ENCODER = Candidate("encoder")


@dataclass(frozen=True)
class Reply:
    """A candidate's answer to one held-out row. `seconds` is wall time; `came_at` is the time of its arrival in unix
    seconds."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    came_at: float | None = None


NO_ANSWER = Reply("", 0, 0, 0.0)  # the provider declined the question; an empty answer has seconds > 0


def free_replies(answers: Sequence[str], elapsed: float) -> tuple[Reply, ...]:
    """Returns the answers of a candidate that asks no model. It answered all rows together in `elapsed` seconds, of
    which each answer gets the same part."""
    seconds = elapsed / max(len(answers), 1)
    replies = []
    for answer in answers:
        replies.append(Reply(answer, prompt_tokens=0, completion_tokens=0, seconds=seconds))
    return tuple(replies)


@dataclass(frozen=True)
class Retrieval:
    """What a retrieval candidate was shown with each question: the `k` nearest of `texts` texts. All were compared by
    words, and `read` of them also by meaning.

    Of `asked` held-out rows, `hits` were shown a row with the right label or a passage with the answer; `asked` is 0 if
    that can't be determined. `documents` is the number of documents that the passages come from, and `copied` the
    number of held-out questions that occur in them word for word.
    """

    kind: Literal["examples", "passages"]
    k: int
    texts: int
    read: int
    hits: int = 0
    asked: int = 0
    documents: int = 0
    copied: int = 0


@dataclass(frozen=True)
class MeasuredCandidate:
    """A candidate that was measured on every row of the frozen holdout.

    `scores[i]` is the score of row i: 1 or 0 for labels, or a share for JSON fields, token F1 and a judge's verdicts.
    `score` is their mean, `low` and `high` its 95% interval, and `macro_f1` the labels' macro F1. `standing` says
    whether the quality bar is met, and `rows_to_decide` how many more held-out rows would settle an undecided case with
    a probability of 80%. `unread` counts answers that are not one of the labels (or not JSON), `empty` those
    without text. Tokens are sums over all rows. Times and `usd_per_1000`, the price of 1,000 requests, are based on
    questions that were answered; the price is None if there were none or it is unknown.

    `look` is the number of the look at these rows in which it was first measured; claims get harder with each
    (claims.py). `choices` is greater than 1 if people rewrote or chose it after they had seen scores on these rows
    (looks.py). `fresh` are the indices of the rows that people had not seen when they wrote it, if they had been shown
    wrong rows: only these can show that it meets the bar. None means that all rows can. `read` are the indices of the
    rows that people had read with a wrong answer before they made the training rows that it learnt from: to show that
    it meets the bar, or may replace another, these count as wrong.

    `calls` is the number of rows of a mixed set that expect function calls. Those are right or wrong, whatever the
    scoring of its texts, by F1 or by a judge. It is 0 if there are none, for other scorings, and in comparisons from
    before it was stored.
    """

    identity: Candidate = field(metadata=stored_as("arm"))
    scoring: Scoring
    scores: tuple[float, ...]
    score: float
    low: float
    high: float
    standing: Standing
    rows_to_decide: int | None
    macro_f1: float | None
    unread: int
    empty: int
    prompt_tokens: int
    completion_tokens: int
    p50_s: float
    p95_s: float
    usd_per_1000: Decimal | None
    retrieval: Retrieval | None = None
    look: int = 1
    choices: int = 1
    fresh: tuple[int, ...] | None = None
    read: tuple[int, ...] = ()
    calls: int = 0

    @property
    def kind(self) -> CandidateKind:
        return self.identity.kind

    @property
    def model(self) -> str | None:
        return self.identity.model

    @property
    def shots(self) -> int | None:
        return self.identity.shots

    @property
    def key(self) -> str:
        return self.identity.key

    @property
    def is_free(self) -> bool:
        return self.identity.is_free

    @property
    def n(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Pair:
    """Two candidates on the same rows. `difference` is better minus worse, with its 95% interval. `p` is that of
    McNemar's exact test for right or wrong answers, or else of a paired bootstrap, with Holm's correction over all
    pairs."""

    better: Candidate
    worse: Candidate
    difference: float
    low: float
    high: float
    p: float

    @property
    def is_significant(self) -> bool:
        return self.p < 0.05


@dataclass(frozen=True)
class EncoderUse:
    """The encoder that was used. If `rows` isn't 0, the training rows chose it: of that many guesses, `right` were
    right with it, and `other_right` with the `other` encoder. `is_english` is a guess about the rows' texts."""

    name: str
    right: int = 0
    other: str = ""
    other_right: int = 0
    rows: int = 0
    is_english: bool = True


@dataclass(frozen=True)
class Comparison(JsonValue):
    """All candidates on one frozen holdout, in the order of their effort.

    `cheapest` is the cheapest candidate that meets `bar`, or None. `pairs` compares the best candidate with each of the
    others. `detectable_gap` is the smallest true difference that this holdout would detect in 80% of cases.
    `never_answered` are expected labels that no candidate ever answered. `measured_at` is in unix seconds. `weights`
    names the model weights that were used, each with its licence. `floor` is the score of always giving the commonest
    answer. `is_bar_set` is False if nobody had set the bar, so that the usual one counted; None if that was not
    recorded. `encoder` is the one of the candidate "encoder".
    """

    dataset: str
    version: int
    holdout_sha256: str
    bar: float
    candidates: tuple[MeasuredCandidate, ...] = field(metadata=stored_as("rungs"))
    cheapest: Candidate | None
    pairs: tuple[Pair, ...]
    detectable_gap: float | None
    never_answered: tuple[str, ...]
    prices_said_by: tuple[str, ...]
    measured_at: float
    weights: tuple[str, ...] = ()
    floor: float | None = None
    is_bar_set: bool | None = None
    encoder: EncoderUse | None = None

    @property
    def n(self) -> int:
        if not self.candidates:
            return 0
        return self.candidates[0].n

    @property
    def scoring(self) -> Scoring:
        if not self.candidates:
            return "label"
        return self.candidates[0].scoring

    @property
    def calls(self) -> int:
        """The number of rows of a mixed set that expect function calls. An older candidate doesn't know it."""
        return max((candidate.calls for candidate in self.candidates), default=0)

    def of_kind(self, kind: CandidateKind) -> tuple[MeasuredCandidate, ...]:
        return tuple(candidate for candidate in self.candidates if candidate.kind == kind)

    @property
    def best(self) -> MeasuredCandidate | None:
        """The best candidate (see `find_best`)."""
        return find_best(self.candidates)

    @property
    def unproven_leader(self) -> MeasuredCandidate | None:
        """The candidate with a higher score than `best`, which may be luck; None if there is none."""
        highest = max(self.candidates, key=lambda candidate: candidate.score, default=None)
        best = self.best
        if highest is None or best is None:
            return None
        if highest.score <= best.score:
            return None
        return highest


def find_best(candidates: Iterable[MeasuredCandidate]) -> MeasuredCandidate | None:
    """Returns the candidate with the highest score. One that was measured in a later look has to be ahead by more than
    two standard errors: people who start from the best each time otherwise collect luck, not quality."""
    by_look: dict[int, list[MeasuredCandidate]] = {}
    for candidate in candidates:
        by_look.setdefault(candidate.look, []).append(candidate)
    best: MeasuredCandidate | None = None
    for look in sorted(by_look):
        leader = max(by_look[look], key=lambda candidate: candidate.score)
        if best is None or _is_clearly_ahead(leader, best):
            best = leader
    return best


def _is_clearly_ahead(later: MeasuredCandidate, best: MeasuredCandidate) -> bool:
    if later.n != best.n:
        return False
    pairs = zip(later.scores, best.scores, strict=True)
    differences = [score - other for score, other in pairs]
    error = 0.0
    if differences:
        error = pstdev(differences) / math.sqrt(len(differences))
    return later.score - best.score > SURE_ERRORS * error


@dataclass(frozen=True)
class CurvePoint:
    """The share of right answers after training on `rows` rows: the mean over several draws, and each draw's."""

    rows: int
    score: float
    draws: tuple[float, ...]


@dataclass(frozen=True)
class Prediction:
    """The predicted score at a size, with its band. `least` and `most` are the band of the gain over today's score;
    None in curves from before they were stored."""

    rows: int
    score: float
    low: float
    high: float
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Gain:
    """The predicted gain, in percentage points, of growing to `rows` rows, with its 95% band."""

    rows: int
    points: float
    low: float
    high: float

    @property
    def is_certain(self) -> bool:
        """True if the whole band is above zero."""
        return self.low > 0

    @property
    def is_negligible(self) -> bool:
        return self.high < NEGLIGIBLE_GAIN

    @property
    def digits(self) -> int:
        """The number of decimals that the width of the band justifies."""
        width = self.high - self.low
        if width >= 2:
            return 0
        return 1


@dataclass(frozen=True)
class LabelNeed:
    """A label that needs more rows. It has `rows` training rows, and `right` of its `held` held-out rows were right."""

    label: str
    rows: int
    held: int
    right: int


@dataclass(frozen=True)
class Curve(JsonValue):
    """A learning curve err / (1 - err) = b·n^(-c), fitted to the points, with a 95% bootstrap band. `a` is 0 except in
    older curves, where err = a + b·n^(-c).

    `points_per_100` is the predicted gain of the next 100 rows, in percentage points. `candidate` is the classical
    model or a tuned model. `is_crossed`: there are too few held-out rows, so the curve was cross-validated on all rows.
    """

    dataset: str
    version: int
    holdout_sha256: str
    candidate: Candidate = field(metadata=stored_as("arm"))
    points: tuple[CurvePoint, ...]
    a: float
    b: float
    c: float
    predicted: tuple[Prediction, ...]
    points_per_100: float
    needs: tuple[LabelNeed, ...]
    is_crossed: bool = False

    @property
    def gains(self) -> tuple[Gain, ...]:
        """The gain of each predicted size over the score measured with the most rows."""
        if not self.points:
            return ()
        now = self.points[-1].score
        gains = []
        for prediction in self.predicted:
            least = prediction.least
            if least is None:
                least = prediction.low - now
            most = prediction.most
            if most is None:
                most = prediction.high - now
            gain = Gain(
                prediction.rows,
                100 * (prediction.score - now),
                100 * least,
                100 * most,
            )
            gains.append(gain)
        return tuple(gains)

    @property
    def farthest(self) -> Gain | None:
        return max(self.gains, key=lambda gain: gain.rows, default=None)

    @property
    def next_useful_size(self) -> int | None:
        """The number of rows, rounded up to two digits, at which the predicted gain would exceed its uncertainty (the
        lower half of the band). None if that never happens, or takes more than a hundred times as many rows."""
        far = self.farthest
        if far is None or self.b <= 0 or self.a > 0:
            return None
        wrong = 1 - self.points[-1].score - (far.points - far.low) / 100
        if self.c <= 0 or not 0 < wrong < 1:
            return None
        # compute the logarithm first, because the number itself overflows if the curve is almost flat
        log_rows = math.log(self.b * (1 - wrong) / wrong) / self.c
        if log_rows > math.log(100 * self.points[-1].rows):
            return None
        rows = math.exp(log_rows)
        step = int(10 ** max(len(str(int(rows))) - 2, 0))
        return math.ceil(rows / step) * step
