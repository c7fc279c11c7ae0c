"""What the advice rests on: facts, faults of the data, kinds of task, and the thresholds with their sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from bot.rules.forecast import Outlook
from bot.rules.permissions import DEFAULT_PROMOTION_LIMITS
from bot.rules.prices import MissingPrice
from bot.rules.reasons import SET_UP_MINUTES, Measure, MemoryShortage, SetUp, Step
from bot.rules.roi import Estimate
from trainers.dataset import Report
from trainers.dataset.checks import CONTRADICTION, DUPLICATE
from trainers.evaluation.results import DEFAULT_QUALITY_THRESHOLD, FREE_RUNGS, Curve, Ladder, Rung
from trainers.providers import ModelVerdict

TaskKind = Literal[
    "style", "format", "classification", "extraction", "knowledge", "reasoning", "quality", "latency", "cost"
]

TASK_KINDS: Mapping[TaskKind, str] = {
    "style": "Write in our tone",
    "format": "Answer in a fixed format",
    "classification": "Sort texts into our own categories",
    "extraction": "Pull fields out of texts",
    "knowledge": "Know facts about our company",
    "reasoning": "Think better than today's model",
    "quality": "Get more answers right, even if it costs more",
    "latency": "Answer faster",
    "cost": "Do the same for less money",
}


def task_kind(word: str) -> TaskKind | None:
    """Returns what a person typed as a kind, None if it is none of them."""
    return next((name for name in TASK_KINDS if name == word.strip().lower()), None)


@dataclass(frozen=True)
class RowFaults:
    """What the check of a file found that weighs in the verdict, in rows: `copies` ask and answer what an earlier row
    does, `contradicting` ones ask the same and answer otherwise. About `doubted` more have a wrong label, by the
    estimate of the check."""

    copies: int = 0
    contradicting: int = 0
    doubted: int = 0

    @property
    def repeated(self) -> int:
        return self.copies + self.contradicting

    @property
    def wrong(self) -> int:
        return self.doubted + self.contradicting


NO_FAULTS = RowFaults()


def count_row_faults(report: Report) -> RowFaults:
    """Returns the faults that a check found. Where it could not tell how many labels are wrong, none is doubted. A
    label that contradicts another is one of those that are wrong."""
    copies = sum(finding.count for finding in report.findings if finding.code == DUPLICATE.code)
    contradicting = sum(finding.count for finding in report.findings if finding.code == CONTRADICTION.code)
    errors = report.label_errors
    wrong = round(errors.wrong * report.rows) if errors and errors.is_told else 0
    return RowFaults(copies, contradicting, max(wrong - contradicting, 0))


# The article's ladder: below 200 labelled rows not yet; fine-tune when all else misses and there are 1,000.
NOT_YET_ROWS, ENOUGH_ROWS = 200, 1000
# The article: a style or format that prompting reaches 80% of the time is a good reason.
STYLE_PROMPTED = 0.80
# On banking77 10 rows a label gave 73% right, all rows (39 to 187 a label) 91%: 10 are few, fewer hopeless.
FEW_PER_LABEL = 10
# 91 of 100 is the least that claims 85%, and McNemar's test sees only gaps of 10 points and more.
SMALL_HOLDOUT = 100
# Without a simulation: a model seldom stays the best choice for longer than a year.
LONGEST_PAYBACK_MONTHS = 12
# Our own: a model that leaves more than half of the rows without any answer was not measured.
SILENT_SHARE = 0.5
# The best of 25 equally good candidates scores 1.97 standard errors too high on average (the largest of 25 normal
# draws): half the 95% interval. Choosing by each score in turn spends a holdout faster still (Dwork and others, "The
# reusable holdout", Science 2015).
SPENT_LOOKS = 25
# Our own: for speed's sake a tuned model answers at least twice as fast (p95).
FASTER = 2


@dataclass(frozen=True)
class Evidence:
    """What was measured on the frozen holdout; None: not yet. `bar` is the share right that is good enough, `margin` by
    how much a cheaper model may be worse. `judge`: the model whose verdicts the ladder's scores are. `own`: the rung
    that is the very model to be trained, and so no alternative to it."""

    bar: float = DEFAULT_QUALITY_THRESHOLD
    task_kind: TaskKind | None = None
    ladder: Ladder | None = None
    tuned: Rung | None = None
    curve: Curve | None = None
    margin: float = DEFAULT_PROMOTION_LIMITS.margin
    judge: str | None = None
    own: str | None = None

    @property
    def rungs(self) -> tuple[Rung, ...]:
        return self.ladder.rungs if self.ladder else ()

    @property
    def alternatives(self) -> tuple[Rung, ...]:
        """The alternatives to fine-tuning that answered, in climbing order."""
        return tuple(rung for rung in self.rungs if rung.arm.rung != "tuned" and not is_silent(rung))

    @property
    def trained(self) -> Rung | None:
        """The tuned model, where it was measured; the best one of a ladder that holds several."""
        own = [rung for rung in self.rungs if rung.arm.rung == "tuned"]
        return self.tuned or max(own, key=lambda rung: rung.score, default=None)

    @property
    def is_stale(self) -> bool:
        """Whether the rungs were judged by another bar."""
        return self.ladder is not None and self.ladder.bar != self.bar

    @property
    def is_good(self) -> bool:
        """Whether the tuned model was measured and may be said to meet the bar."""
        tuned = self.trained
        return bool(tuned and tuned.standing == "meets" and not is_silent(tuned) and not self.is_stale)


NOTHING_MEASURED = Evidence()


@dataclass(frozen=True)
class Looks:
    """How often people saw scores on these `rows`, held out now; of rows that came later the average."""

    count: int
    rows: int

    @property
    def are_spent(self) -> bool:
        return self.count >= SPENT_LOOKS


def count_looks(holdout: str, rows: int, counts: Mapping[str, int], sizes: Mapping[str, int]) -> Looks:
    """`counts`: looks by holdout, of all versions of a dataset; `sizes`: the rows of each. A later holdout contains the
    earlier ones, so a look at one of 100 rows is half a look at one of 200."""
    if not rows:
        return Looks(0, 0)
    weighed = sum(
        count * (rows if name == holdout else min(sizes.get(name, 0), rows)) for name, count in counts.items()
    )
    return Looks((2 * weighed + rows) // (2 * rows), rows)


@dataclass(frozen=True)
class OwnMachine:
    """What a model on a machine of one's own asks of it. `too_large`: why its training doesn't fit. `machines` serve
    the volume; None: no volume or no speed is known."""

    too_large: MemoryShortage | None
    knows_training_time: bool
    knows_serving_speed: bool
    machines: int | None
    has_price: bool


@dataclass(frozen=True)
class Facts:
    """`dataset` is its name, for commands. `smallest_label` is the rows of the rarest label, None for free text;
    `few_labels` are labels with the rows that each has, `n_labels` how many there are. `estimate` is None, and
    `missing` says why, where today's bill or the tuned model's price is not known; `run_usd`, of a training and
    its measuring, may be known all the same. `current` is the model that is asked today, as
    somebody typed it, `full_current` as a ladder calls it. `to_measure` are it and a cheap one of the same provider,
    by names 'provider/model'; both are known only where one of our providers has it. `keyless` are providers without
    a key here, each with the variable that would hold it; `has_models`: there are models that a measurement asks
    where it names none."""

    dataset: str
    rows: int
    n_holdout: int
    smallest_label: int | None
    target: ModelVerdict
    run_usd: Decimal | None
    estimate: Estimate | None
    missing: MissingPrice | None = None
    evidence: Evidence = NOTHING_MEASURED
    outlook: Outlook | None = None
    few_labels: tuple[tuple[str, int], ...] = ()
    n_labels: int | None = None
    current: str | None = None
    full_current: str | None = None
    to_measure: tuple[str, ...] = ()
    machine: OwnMachine | None = None
    faults: RowFaults = NO_FAULTS
    keyless: tuple[tuple[str, str], ...] = ()
    has_models: bool = True

    def measure_step(self, measure: Measure, usd: Decimal | None = None) -> Step:
        """Returns the step or, if it can't be done here, what has to be set up before it."""
        if measure.rungs and set(measure.rungs) <= set(FREE_RUNGS):
            return Step(measure, usd)
        sellers = {model.partition("/")[0] for model in measure.models}
        keys = tuple(key for seller, key in self.keyless if seller in sellers)
        is_nameless = not measure.models and (measure.is_of_today or not self.has_models)
        if keys or is_nameless:
            return Step(SetUp(measure, keys), usd=None, minutes=SET_UP_MINUTES)
        return Step(measure, usd)

    @property
    def questions(self) -> int:
        """How many questions differ: a copy teaches nothing that its row has not taught."""
        return self.rows - self.faults.repeated

    @property
    def wrong_share(self) -> float:
        """The share of labels that look wrong, or of which one of two must be. 0 for free text, which may well be put
        in two ways."""
        if self.smallest_label is None or not self.rows:
            return 0.0
        return self.faults.wrong / self.rows

    @property
    def task_kind(self) -> TaskKind | None:
        """As the team said; where it said nothing, labelled rows are for sorting into own categories."""
        kind = self.evidence.task_kind
        return "classification" if kind is None and self.smallest_label is not None else kind

    @property
    def has_own_classes(self) -> bool:
        return self.task_kind == "classification" or (
            self.task_kind == "quality" and self.smallest_label is not None
        )

    @property
    def is_for_money(self) -> bool:
        """False where better or faster answers are the aim: then what they cost is a price, and no reason."""
        return self.task_kind not in ("quality", "latency")

    @property
    def is_today_measured(self) -> bool:
        """True as well where nobody said what is asked today. 'gpt-4o' is 'openai/gpt-4o'."""
        models = {rung.arm.model for rung in self.evidence.alternatives if rung.arm.model}
        names = models | {model.partition("/")[2] for model in models}
        return self.current is None or self.current in names or self.full_current in models

    @property
    def lacking(self) -> tuple[tuple[str, int], ...]:
        """Labels with fewer rows than FEW_PER_LABEL and how many each lacks, the rarest first."""
        lacks = [(label, FEW_PER_LABEL - rows) for label, rows in self.few_labels if rows < FEW_PER_LABEL]
        return tuple(sorted(lacks, key=lambda lack: (-lack[1], lack[0])))

    @property
    def has_few_of_a_label(self) -> bool:
        return self.smallest_label is not None and self.smallest_label < FEW_PER_LABEL


def is_silent(rung: Rung) -> bool:
    return rung.n == 0 or rung.empty > SILENT_SHARE * rung.n
