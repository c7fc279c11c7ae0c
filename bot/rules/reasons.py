"""Reasons for and against a fine-tune, and the steps that would settle them, as values with their numbers. The
sentences are in bot/cards/common/reasons.py and bot/cards/common/advice.py; no decision depends on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

from bot.rules.forecast import Outlook
from bot.rules.plans import VerdictKind
from bot.rules.prices import MissingPrice
from bot.rules.roi import USD_PER_HOUR, Estimate, Succession
from bot.rules.swings import Swing
from bot.values.targets import MemoryShortage
from trainers.dataset.splits import HOLDOUT_SHARE
from trainers.evaluation.results import Candidate, CandidateKind, MeasuredCandidate, Prediction

# Our own guesses of people's minutes, priced at USD_PER_HOUR. They only serve to rank steps.
LABEL_MINUTES = Decimal("0.5")
SAY_MINUTES = Decimal(1)
# 1,000 rows of 2,000 tokens at $2.50 per 1M tokens: the assumed cost of asking a large model if the price is unknown.
UNPRICED_USD = Decimal(5)
SET_UP_MINUTES = Decimal(30)

PlainReason = Literal[
    "nothing measured",
    "target ended",
    "no volume",
    "facts are looked up",
    "retrieval may serve better",
    "reasoning is not taught",
    "reasoning was measured",
]


@dataclass(frozen=True)
class ModelEnd:
    """The first `day` on which a `model` no longer answers. `successor` is None if its maker named none."""

    day: date
    model: str
    successor: str | None = None


@dataclass(frozen=True)
class QuotedSentence:
    """A sentence from elsewhere: from the list of models or from the memory plan."""

    text: str


@dataclass(frozen=True)
class SpeedUnknown:
    """`of_vendor`: the machine is a vendor's, and not the team's own."""

    of_training: bool
    of_serving: bool
    of_vendor: bool = False


@dataclass(frozen=True)
class MachinesUnpriced:
    machines: int


@dataclass(frozen=True)
class AlternativeEnds:
    """The model that the saving is compared with will be shut down."""

    succession: Succession
    is_measured: bool


@dataclass(frozen=True)
class CheapModelUntried:
    """A model that was not measured would cost `monthly_usd`. If it is good enough, training saves `left_month` a month
    instead of `saving_month`; `left_month` may be a loss."""

    model: str
    monthly_usd: Decimal
    saving_month: Decimal
    left_month: Decimal


@dataclass(frozen=True)
class OneLabel:
    rows: int


@dataclass(frozen=True)
class NotTrainedYet:
    n_holdout: int


@dataclass(frozen=True)
class NoAnswer:
    candidate: MeasuredCandidate


@dataclass(frozen=True)
class NotMeasurable:
    """A measurement left this candidate out; `why` is its sentence."""

    candidate: Candidate
    why: str


@dataclass(frozen=True)
class MeetsBar:
    """A candidate meets the bar; `tuned` says how the tuned model compares. `worth_usd` is the value per month of fewer
    errors, None if they are the aim themselves."""

    candidate: MeasuredCandidate
    bar: float
    tuned: Literal[
        "is right more often", "is faster", "is cheaper", "is not needed", "may be faster", "may be cheaper"
    ]
    worth_usd: Decimal | None = None


@dataclass(frozen=True)
class NotMeasured:
    kinds: tuple[CandidateKind, ...]


@dataclass(frozen=True)
class TodayNotMeasured:
    model: str


@dataclass(frozen=True)
class TooCloseToBar:
    candidates: tuple[MeasuredCandidate, ...]
    bar: float


@dataclass(frozen=True)
class AllMissBar:
    """All `measured` alternatives miss the bar. `missing` of them would even if all unreadable answers were right;
    `best` is the best of those."""

    missing: int
    measured: int
    best: MeasuredCandidate
    bar: float


@dataclass(frozen=True)
class BarFar:
    """The bar is far above the `best` candidate."""

    best: MeasuredCandidate
    bar: float


@dataclass(frozen=True)
class TunedScore:
    candidate: MeasuredCandidate
    bar: float


@dataclass(frozen=True)
class TunedVersusBest:
    """The tuned model beside the best alternative. `gap` is the smallest difference that the holdout can show. `low` is
    the lower end of the difference's interval, and `margin` how much worse a cheaper model may be: `low` is above
    -`margin` if the tuned model is "not worse", and not if it "may be worse"."""

    tuned: MeasuredCandidate
    best: MeasuredCandidate
    tuned_is: Literal[
        "not shown to be better",
        "worse",
        "worse and costs as much",
        "not worse and cheaper",
        "cheaper and may be worse",
    ]
    gap: float | None = None
    low: float = 0.0
    margin: float = 0.0


@dataclass(frozen=True)
class UnreadableAnswers:
    """`is_settled` is true if other models' answers were readable, or if the tuned model is good."""

    candidates: tuple[MeasuredCandidate, ...]
    is_settled: bool


@dataclass(frozen=True)
class NeverAnswered:
    labels: tuple[str, ...]


@dataclass(frozen=True)
class StoredByNewerVersion:
    """Measurements that this version of the bot can't read, so that nothing they measured counts."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class RetrievalMissed:
    candidate: MeasuredCandidate


@dataclass(frozen=True)
class StyleReached:
    """`share` is what the best prompt gets right, `needed` from where on making that reliable is a good reason."""

    of: Literal["style", "format"]
    share: float
    needed: float

    @property
    def is_enough(self) -> bool:
        return self.share >= self.needed


@dataclass(frozen=True)
class OwnClasses:
    """`share` is what the best prompt gets right."""

    share: float


@dataclass(frozen=True)
class Speeds:
    """Seconds within which 95 of 100 answers arrive. `free` is the best measured free candidate."""

    prompted: float
    free: MeasuredCandidate | None
    tuned: float | None


@dataclass(frozen=True)
class RowCount:
    rows: int
    questions: int
    standing: Literal["enough", "few, and it is good", "too few", "enough for the task", "worth a try"]
    is_style: bool = False
    few_of_a_label: bool = False
    rare_labels: int = 0


@dataclass(frozen=True)
class RareLabels:
    """`labels` is the number of rare labels, None if unknown; `rarest` is the number of rows of the rarest one."""

    labels: int | None
    rarest: int | None


@dataclass(frozen=True)
class BarUnprovable:
    bar: float


@dataclass(frozen=True)
class HoldoutTooSmall:
    rows: int
    needed: int
    bar: float


@dataclass(frozen=True)
class HoldoutSmall:
    rows: int


@dataclass(frozen=True)
class MoreRows:
    """`points_per_100` is the gain from 100 more rows, None if unclear. `reached` is the first size predicted to meet
    the bar."""

    kind: CandidateKind
    points_per_100: float | None
    reached: Prediction | None


@dataclass(frozen=True)
class JudgeDistrusted:
    """People agree with the judge of the scores on `agreed` of `answers` answers only."""

    judge: str
    agreed: int
    answers: int


@dataclass(frozen=True)
class WrongLabels:
    """Of `checked` doubted labels people found `found` wrong; 0 of 0 if nobody has checked enough of them."""

    doubted: int
    contradicting: int
    share: float
    rows: int
    bar: float
    effect: Literal["none", "misleads", "hides the bar"]
    checked: int = 0
    found: int = 0


AimWords = Literal["faster answers", "better answers", "answers in your tone"]


@dataclass(frozen=True)
class PriceGap:
    """`is_free` is true if a run costs nothing but the machine's time."""

    missing: MissingPrice
    is_free: bool


@dataclass(frozen=True)
class PriceOfBetter:
    estimate: Estimate
    aim: AimWords


@dataclass(frozen=True)
class Payback:
    """`outlook` is None if nothing was simulated. `hours` belongs to the caveat "hours are not said": with more of
    people's time it is no longer likely to pay back."""

    estimate: Estimate
    outlook: Outlook | None
    is_good: bool
    caveat: Literal[
        "",
        "unlikely",
        "loses later",
        "hours are not said",
        "too little at stake",
        "longer than a year",
        "longer than the target",
    ] = ""
    hours: Decimal = Decimal(0)


@dataclass(frozen=True)
class OnlyWay:
    money: Payback
    bar: float


ModelReason = (
    QuotedSentence | MemoryShortage | SpeedUnknown | MachinesUnpriced | AlternativeEnds | CheapModelUntried
)
MeasurementReason = (
    NotTrainedYet
    | NoAnswer
    | NotMeasurable
    | MeetsBar
    | NotMeasured
    | TodayNotMeasured
    | TooCloseToBar
    | AllMissBar
    | BarFar
    | TunedScore
    | TunedVersusBest
    | UnreadableAnswers
    | NeverAnswered
    | StoredByNewerVersion
    | JudgeDistrusted
)
TaskReason = RetrievalMissed | StyleReached | OwnClasses | Speeds
RowReason = (
    OneLabel | RowCount | RareLabels | BarUnprovable | HoldoutTooSmall | HoldoutSmall | MoreRows | WrongLabels
)
MoneyReason = PriceGap | PriceOfBetter | Payback | OnlyWay
Because = PlainReason | ModelReason | MeasurementReason | TaskReason | RowReason | MoneyReason

PlainTodo = Literal[
    "calibrate",
    "train something smaller",
    "say the machine's price",
    "say the serving speed",
    "choose another target",
    "add rows of other labels",
    "see why it does not answer",
    "measure speed by a run",
    "say model and volume",
    "look at wrong rows",
    "clearer prompt",
    "measure another model",
    "collect rows",
    "say the task",
    "lower the bar",
    "decide by the score",
    "decide by the difference",
    "correct rows",
    "check labels",
    "another judge",
    "stay",
    "use what is cheaper",
    "say the volume",
    "say what a wrong answer costs",
    "say the hours",
]


@dataclass(frozen=True)
class Measure:
    """A measurement that one command starts. No `kinds` means all of them. `usd` is None if unknown; the command then
    shows its price first. `judge` is the model that scores the answers, None if they are scored without one. A
    successor is measured before the model that it `follows` ends."""

    what: Literal[
        "successor",
        "cheap model",
        "prompts",
        "free",
        "kind",
        "today",
        "today alone",
        "knowledge",
        "stronger base",
    ]
    dataset: str
    kinds: tuple[CandidateKind, ...] = ()
    models: tuple[str, ...] = ()
    usd: Decimal | None = None
    today: str | None = None
    has_knowledge: bool = False
    judge: str | None = None
    follows: ModelEnd | None = None

    @property
    def is_of_today(self) -> bool:
        return self.what in ("today", "today alone")

    @property
    def is_command(self) -> bool:
        """True if the command is all that it takes. The other two need documents, or somebody who names a model."""
        return self.what not in ("knowledge", "stronger base")


@dataclass(frozen=True)
class SetUp:
    """What a measurement lacks here: the environment variables in `keys`, or, if that is empty, a provider or a model
    to ask."""

    measure: Measure
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class UseCandidate:
    """`end` is that of the candidate's model, None if no near end is known."""

    candidate: Candidate
    instead_of_worse: bool = False
    end: ModelEnd | None = None


@dataclass(frozen=True)
class WritePrice:
    model: str | None


@dataclass(frozen=True)
class HoldOut:
    """`candidate` is the one that this many more held-out rows would decide on: whether it meets the bar or, if
    `beside` is given, whether it is not worse than that. They are a fifth of `new` rows."""

    rows: int
    candidate: Candidate
    beside: Candidate | None = None

    @property
    def new(self) -> int:
        return math.ceil(self.rows / HOLDOUT_SHARE)


@dataclass(frozen=True)
class HoldOutAtLeast:
    rows: int


@dataclass(frozen=True)
class LabelFirst:
    labels: tuple[str, ...]


@dataclass(frozen=True)
class LabelRows:
    rows: int
    is_another_way: bool = False


@dataclass(frozen=True)
class LabelMore:
    """The rows that each label lacks, or, if the labels are unknown, the rows that the rarest one lacks (`rarest`)."""

    lacking: tuple[tuple[str, int], ...]
    rarest: int = 0


@dataclass(frozen=True)
class PinDown:
    """An input of the estimate that has to be known better. `swing` says how much it moves the net value, None
    if that is unknown."""

    name: str
    dataset: str
    swing: Swing | None = None


@dataclass(frozen=True)
class FillGap:
    missing: MissingPrice


Todo = (
    PlainTodo
    | Measure
    | SetUp
    | UseCandidate
    | WritePrice
    | HoldOut
    | HoldOutAtLeast
    | LabelFirst
    | LabelRows
    | LabelMore
    | PinDown
    | FillGap
)


@dataclass(frozen=True)
class Step:
    """Something to do that may settle an open question. `usd` is None if its price is unknown."""

    todo: Todo
    usd: Decimal | None = Decimal(0)
    minutes: Decimal = Decimal(0)

    @property
    def cost(self) -> Decimal:
        """USD including people's time, only used to rank steps."""
        usd = self.usd
        if usd is None:
            usd = UNPRICED_USD
        return usd + self.minutes * USD_PER_HOUR / 60


@dataclass(frozen=True)
class Reason:
    """`rule` is a word for the rule, `kind` the verdict that it argues for. A reason that doesn't weigh is shown, but
    doesn't change the verdict. `step` would settle it."""

    rule: str
    kind: VerdictKind
    because: Because
    weighs: bool = True
    step: Step | None = None


def labelling_step(rows: int, todo: Todo) -> Step:
    return Step(todo, minutes=rows * LABEL_MINUTES)


def answer_step(todo: Todo) -> Step:
    return Step(todo, minutes=SAY_MINUTES)
