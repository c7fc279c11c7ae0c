"""What is known of a week of calls to what is in use for a dataset, as it is stored and shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from bot.rules.monitoring.repetitions import Change, RepetitionReason
from storage.monitoring.live_tests import LiveTest
from storage.monitoring.monthly_measurements import Hindrance
from storage.records import Promotable
from trainers.evaluation.results import MeasuredCandidate, Scoring
from trainers.evaluation.statistics import Interval, wilson
from trainers.json_values import JsonValue
from trainers.monitoring.live_accuracy import Holdout, LiveAccuracy
from trainers.monitoring.shift import Shift
from trainers.monitoring.switch_tests import CallVerdict, SwitchTest
from trainers.recipes.samples import SampleCounts

NO_SAMPLES = SampleCounts()
OTHER_SCORES: tuple[Scoring, ...] = ("f1", "judge")
USUAL_LABELS = 20  # sampled calls that people are asked to label in a week

Pause = Literal["no_sample", "no_money", "no_recipe"]
"""Why no sampled call is put to it now: none is sampled, the money for this month is spent, or its recipe isn't built
yet."""


@dataclass(frozen=True)
class WeekUse:
    """The calls of a week to what people call `name`. Costs are in micro-dollars: `micros` is what they cost, and
    `saving_micros` how much more the same calls would have cost otherwise; None if that is unknown."""

    name: str
    calls: int
    failed: int
    micros: int | None
    saving_micros: int | None


@dataclass(frozen=True)
class WeekShift(JsonValue):
    """Whether a week's calls differ from those of the first weeks: in what they ask (`texts`) and in which labels they
    are answered with (`answers`). None if that was not tested, because there were too few. `words` have become more
    frequent, and `unusual` are the ids of calls unlike all earlier ones, the most unusual first."""

    texts: Shift | None = None
    answers: Shift | None = None
    words: tuple[str, ...] = ()
    unusual: tuple[str, ...] = ()

    @property
    def is_shown(self) -> bool:
        """True if the calls are shown to differ."""
        return any(test is not None and test.is_alarm for test in (self.texts, self.answers))


@dataclass(frozen=True)
class WeekFacts(JsonValue):
    """A week, called by its Monday, as it was counted. `planned_micros` is what the plan of the model in use expected
    to save in a month, None if there was none. `shift` is None if no calls are sampled, or if comparing them failed
    (`is_uncompared`). `thumbs_up` and `thumbs_down` are the verdicts of programs and their users, which are never mixed
    with labels."""

    week: str
    uses: tuple[WeekUse, ...] = ()
    planned_micros: int | None = None
    sampled: SampleCounts = NO_SAMPLES
    shift: WeekShift | None = None
    is_uncompared: bool = False
    thumbs_up: int = 0
    thumbs_down: int = 0

    @property
    def calls(self) -> int:
        return sum(use.calls for use in self.uses)

    @property
    def failed(self) -> int:
        return sum(use.failed for use in self.uses)

    @property
    def micros(self) -> int | None:
        """What the calls cost, None if some of it is unknown."""
        return _sum([use.micros for use in self.uses])

    @property
    def saving_micros(self) -> int | None:
        return _sum([use.saving_micros for use in self.uses])


@dataclass(frozen=True)
class LiveAnswers:
    """What people said of the answers to random calls since the promotion of what is in use. `accuracy` judges them by
    the weeks that have ended. `right` of the `labelled` calls of the last weeks were answered right, counted now;
    of `unclear` ones people could not tell. `holdout` is the share of the held-out rows that are answered entirely
    right. Both are None if the rows are scored in another way, or weren't measured."""

    accuracy: LiveAccuracy | None
    right: int
    labelled: int
    unclear: int
    holdout: float | None

    @property
    def is_alarm(self) -> bool:
        """True if answers are shown to be worse than on the held-out rows."""
        return self.accuracy is not None and self.accuracy.is_alarm

    @property
    def interval(self) -> Interval:
        """Raises ValueError if nothing is labelled."""
        return wilson(self.right, self.labelled)


def count_right(candidate: MeasuredCandidate | None) -> Holdout | None:
    """Returns how many held-out rows a candidate answers entirely right, as people judge calls. None if it wasn't
    measured, or if its scores are shares of words or a judge's verdicts, which say nothing of that."""
    if candidate is None or candidate.scoring in OTHER_SCORES:
        return None
    right = sum(score == 1 for score in candidate.scores)
    return Holdout(right / candidate.n, candidate.n)


@dataclass(frozen=True)
class NewModelScore:
    """The measurement of a new model: its `name` for people, which may be a link, and what it has cost. `score` is None
    while it is under way, and if it ended without a result (`is_over`). `in_use` is the share of right answers of what
    is in use, None if unknown. `is_unasked`: the policy had it measured."""

    name: str
    is_over: bool
    is_unasked: bool
    micros: int | None = None
    score: MeasuredCandidate | None = None
    in_use: float | None = None


@dataclass(frozen=True)
class NewModel:
    """A new model that is proposed. Per 1,000 calls it costs `micros` micro-dollars instead of `in_use_micros`. Its
    measurement asks it about `rows` held-out rows, for about `cost_micros`; None if a judge is asked too."""

    proposal: int
    model: str
    micros: int
    in_use_micros: int
    rows: int
    cost_micros: int | None
    measured: NewModelScore | None = None


@dataclass(frozen=True)
class CanaryErrors:
    """In how many conversations each of the two erred or was too slow, since the canary began."""

    candidate: int
    incumbent: int


@dataclass(frozen=True)
class LiveTestSummary:
    """A live test with what its card shows. `used` is what is in use. `standing` judges the `verdicts` on the calls
    that both answered, so far. `micros` is what the candidate's answers have cost, None if some of it is unknown.
    `to_label` counts the calls that wait for people. `errors` are None without a canary. Per 1,000 calls it costs `usd`
    instead of `used_usd` USD, by the measurements; None if unknown."""

    test: LiveTest
    used: Promotable
    standing: SwitchTest
    verdicts: Counter[CallVerdict]
    micros: int | None
    to_label: int = 0
    pause: Pause | None = None
    errors: CanaryErrors | None = None
    usd: Decimal | None = None
    used_usd: Decimal | None = None


@dataclass(frozen=True)
class Repetition:
    """Why what is in use, called `name` by people, should be trained again (`is_tuned`) or else measured again.
    `new_rows` is how many more rows the dataset has by now."""

    reason: RepetitionReason
    name: str
    is_tuned: bool
    new_rows: int

    @property
    def has_button(self) -> bool:
        """False if there is nothing new to measure it on."""
        return self.is_tuned or self.new_rows > 0


@dataclass(frozen=True)
class RepeatedScore:
    """A new measurement of what is in use: its `name` for people, which may be a link, and what it has cost. `score` is
    None while it is under way, and if it ended without a result (`is_over`). `before` is its score when it was chosen,
    in the measurement that people call `before_name`. `change` is None if the two can't be compared. `is_unasked`: it
    began without anybody's click; `is_waiting`: it has not begun yet."""

    name: str
    is_over: bool
    is_unasked: bool
    is_waiting: bool = False
    micros: int | None = None
    score: MeasuredCandidate | None = None
    before: MeasuredCandidate | None = None
    before_name: str = ""
    change: Change | None = None


@dataclass(frozen=True)
class MonthlyScore:
    """What a week's card says of the measurement that is due this month. It asks about `rows` held-out rows, for about
    `cost_micros`; None if that is unknown. `hindrance` says why it hasn't begun, with the words of a `refusal`."""

    rows: int
    cost_micros: int | None
    hindrance: Hindrance | None = None
    refusal: str | None = None
    measured: RepeatedScore | None = None

    @property
    def has_button(self) -> bool:
        """True if somebody has to click for it."""
        if self.measured is not None:
            return self.measured.is_over and self.measured.score is None
        return self.hindrance in ("money", "refused")


def _sum(amounts: Sequence[int | None]) -> int | None:
    if None in amounts:
        return None
    return sum(amount for amount in amounts if amount is not None)
