"""The values of an evaluation: candidates, their replies to held-out rows, rungs, the ladder and learning
curves. Computes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from trainers.json_values import JsonValue

RungName = Literal["classical", "encoder", "zero", "optimised", "kshot", "retrieval", "tuned"]
Scoring = Literal["label", "json", "calls", "f1", "judge"]
Standing = Literal["meets", "misses", "undecided"]

RUNG_NAMES: tuple[RungName, ...] = (
    "classical",
    "encoder",
    "zero",
    "optimised",
    "kshot",
    "retrieval",
    "tuned",
)
# These learn from the rows on this machine and ask nobody: free, and done in seconds.
FREE_RUNGS: tuple[RungName, ...] = ("classical", "encoder")
DEFAULT_QUALITY_THRESHOLD = 0.85
NEGLIGIBLE_GAIN = 1.0  # point: what is less is no reason to label


@dataclass(frozen=True)
class Candidate:
    """One alternative that is measured: how it is asked, and which model ('provider/model') is.

    `model` is None for the free rungs, which ask nobody. `shots`: how many examples the prompt has; None: ten. 0
    of the prompt alone: examples were tried on training rows, and were no help.
    """

    rung: RungName
    model: str | None = None
    shots: int | None = None

    @property
    def key(self) -> str:
        """The name that results are stored by: 'classical', 'zero local/smollm2-135m'."""
        name = self.rung if self.shots is None else f"{self.rung}-{self.shots}"
        return name if self.model is None else f"{name} {self.model}"

    @property
    def is_free(self) -> bool:
        return self.rung in FREE_RUNGS


CLASSICAL = Candidate("classical")


@dataclass(frozen=True)
class Reply:
    """An arm's answer to one held-out row and what it took. `seconds` of wall time, `came_at` in unix seconds."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    came_at: float | None = None


NO_ANSWER = Reply("", 0, 0, 0.0)  # the provider declined the question; an empty answer took its time


@dataclass(frozen=True)
class Retrieval:
    """What a retrieval rung was shown with each question: the `k` nearest of `texts`, all of which were compared by
    words and `read` ones by meaning as well. Of `asked` held-out rows `hits` were shown a row with the right label, or
    a passage with the answer; `asked` is 0 where that can't be told. `documents`: where the passages come from.
    `copied`: held-out questions that stand in them word for word."""

    kind: Literal["examples", "passages"]
    k: int
    texts: int
    read: int
    hits: int = 0
    asked: int = 0
    documents: int = 0
    copied: int = 0


@dataclass(frozen=True)
class Rung:
    """An arm, measured on every row of the frozen holdout.

    `scores[i]` is row i's: 1 or 0 for labels, a share between for JSON fields, token F1 and a judge. `score` is
    their mean, `low` and `high` its 95% interval, `macro_f1` that of the labels. `standing` says whether the
    quality bar may be claimed (one-sided 95%), `rows_to_decide` how many more held-out rows would probably
    settle an undecided one. `unread` answers were none of the labels (or no JSON), `empty` none at all.
    Tokens are sums over the rows. Times and `usd_per_1000` requests are those of questions that were answered;
    the price is None where none was, or where it is not known.
    """

    arm: Candidate
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

    @property
    def n(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Pair:
    """Two rungs on the same rows: `difference` is better minus worse, with its 95% interval. `p` is McNemar's
    exact one for right and wrong, the paired bootstrap's else, and Holm's correction over all pairs is in it."""

    better: Candidate
    worse: Candidate
    difference: float
    low: float
    high: float
    p: float

    @property
    def is_told_apart(self) -> bool:
        return self.p < 0.05


@dataclass(frozen=True)
class Ladder(JsonValue):
    """All rungs on one frozen holdout, in the order in which they are climbed.

    `cheapest` is the cheapest rung that meets `bar`, None where none does. `pairs` compare the best rung with
    each other one. `detectable_gap` is the smallest true difference that this holdout would show 4 times in 5.
    `never_answered` are labels that are expected and that no rung ever answered. `measured_at` is unix seconds.
    `weights`: whose weights were used, each with its licence.
    """

    dataset: str
    version: int
    holdout_sha256: str
    bar: float
    rungs: tuple[Rung, ...]
    cheapest: Candidate | None
    pairs: tuple[Pair, ...]
    detectable_gap: float | None
    never_answered: tuple[str, ...]
    prices_said_by: tuple[str, ...]
    measured_at: float
    weights: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return self.rungs[0].n if self.rungs else 0

    @property
    def scoring(self) -> Scoring:
        return self.rungs[0].scoring if self.rungs else "label"

    def rung(self, name: RungName) -> tuple[Rung, ...]:
        return tuple(rung for rung in self.rungs if rung.arm.rung == name)

    @property
    def best(self) -> Rung | None:
        return max(self.rungs, key=lambda rung: rung.score, default=None)


@dataclass(frozen=True)
class CurvePoint:
    """The mean share right over several draws of `rows` training rows, and each draw's."""

    rows: int
    score: float
    draws: tuple[float, ...]


@dataclass(frozen=True)
class Prediction:
    """`least` and `most`: the gain over today's score; None in curves that were drawn before that was stored."""

    rows: int
    score: float
    low: float
    high: float
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Gain:
    """Percentage points that growing to `rows` rows is predicted to bring, with its band (95%)."""

    rows: int
    points: float
    low: float
    high: float

    @property
    def is_told(self) -> bool:
        """Whether the band leaves no doubt that it is a gain."""
        return self.low > 0

    @property
    def is_negligible(self) -> bool:
        return self.high < NEGLIGIBLE_GAIN

    @property
    def digits(self) -> int:
        """After the point; no more than the band bears out."""
        return 0 if self.high - self.low >= 2 else 1


@dataclass(frozen=True)
class LabelNeed:
    """A label that is worth more rows: it has `rows`, and `right` of its `held` held-out rows were right."""

    label: str
    rows: int
    held: int
    right: int


@dataclass(frozen=True)
class Curve(JsonValue):
    """Is more data worth it? err / (1 - err) = b·n^(-c), fitted to the points, with a bootstrap band (95%).
    `a` is 0; in curves of before, err = a + b·n^(-c).

    `points_per_100` are percentage points that the next 100 rows are predicted to bring. `arm` is whose curve
    it is: the classical rung's at once, the tuned model's if asked. `is_crossed`: measured on all rows, each asked by
    those who had not seen it, as there are too few held-out ones.
    """

    dataset: str
    version: int
    holdout_sha256: str
    arm: Candidate
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
        """What each predicted size brings, beside what was measured with the most rows."""
        if not self.points:
            return ()
        now = self.points[-1].score
        return tuple(
            Gain(
                prediction.rows,
                100 * (prediction.score - now),
                100 * (prediction.low - now if prediction.least is None else prediction.least),
                100 * (prediction.high - now if prediction.most is None else prediction.most),
            )
            for prediction in self.predicted
        )

    @property
    def farthest(self) -> Gain | None:
        return max(self.gains, key=lambda gain: gain.rows, default=None)

    @property
    def next_useful(self) -> int | None:
        """The number of rows, to two digits, from which on the line is above today's score by more than the band is
        wide below it; None where it never is, or from a hundred times as many."""
        far = self.farthest
        if far is None or self.b <= 0 or self.a > 0:
            return None
        wrong = 1 - self.points[-1].score - (far.points - far.low) / 100
        if self.c <= 0 or not 0 < wrong < 1:
            return None
        # first its logarithm: the number itself overflows where the line is all but flat
        log_rows = math.log(self.b * (1 - wrong) / wrong) / self.c
        if log_rows > math.log(100 * self.points[-1].rows):
            return None
        rows = math.exp(log_rows)
        step = int(10 ** max(len(str(int(rows))) - 2, 0))
        return math.ceil(rows / step) * step
