"""The facts that the advice is based on: measurements, faults of the data, kinds of task, and the thresholds with their
sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from bot.rules.alternatives import MeasuredCandidates, UnmeasuredModel, cheapest, is_same_model
from bot.rules.forecast import Outlook
from bot.rules.judge_agreement import UNCHECKED, JudgeChecks
from bot.rules.permissions import DEFAULT_PROMOTION_LIMITS
from bot.rules.prices import MissingPrice
from bot.rules.reasons import SET_UP_MINUTES, Measure, ModelEnd, SetUp, Step
from bot.rules.roi import Estimate
from bot.values.targets import MemoryShortage
from trainers.dataset import Report
from trainers.dataset.checks import CONTRADICTION, DUPLICATE
from trainers.evaluation.claims import PROMISED_LOOKS, least_right
from trainers.evaluation.results import (
    DEFAULT_QUALITY_THRESHOLD,
    FREE_KINDS,
    Candidate,
    CandidateKind,
    Comparison,
    Curve,
    MeasuredCandidate,
    Scoring,
    find_best,
)
from trainers.evaluation.statistics import wilson
from trainers.methods import MethodName
from trainers.providers.providers import ModelVerdict

ENCODER_KIND: CandidateKind = "encoder"  # this candidate is the same model as the method `head` trains

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
    """Parses a kind of task that a person typed; None if it is unknown."""
    typed = word.strip().lower()
    return next((name for name in TASK_KINDS if name == typed), None)


@dataclass(frozen=True)
class RowFaults:
    """Findings of the data check that weigh in the verdict, in rows. `copies` repeat the question and the answer of an
    earlier row, `contradicting` rows repeat its question with another answer. About `doubted` further rows have a wrong
    label: by a classifier's guess or, once people have `checked` enough doubted rows and found `found` of them wrong,
    by their answers, which show that at least `shown` are wrong."""

    copies: int = 0
    contradicting: int = 0
    doubted: int = 0
    shown: int = 0
    checked: int = 0
    found: int = 0

    @property
    def repeated(self) -> int:
        return self.copies + self.contradicting

    @property
    def wrong(self) -> int:
        return self.doubted + self.contradicting


NO_FAULTS = RowFaults()


@dataclass(frozen=True)
class LabelChecks:
    """People's answers to rows with doubted labels of a dataset. Of all `checked` rows, `wrong` got another label or
    were dropped. `done` of the checked rows are still among the doubted ones of the newest version, with the label that
    they had, and `uncorrected` of those are wrong: their answers are not in a version yet."""

    checked: int = 0
    wrong: int = 0
    done: int = 0
    uncorrected: int = 0


NO_CHECKS = LabelChecks()
# A usual batch has 20 rows; of fewer than 10, one answer more or less would turn the share.
FEWEST_CHECKED = 10


def count_row_faults(report: Report, checks: LabelChecks = NO_CHECKS) -> RowFaults:
    """Returns the faults in a report. `doubted` is 0 if neither the check nor people can say how many labels are wrong;
    contradicting rows are part of that estimate, so they are subtracted."""
    copies = sum(finding.count for finding in report.findings if finding.code == DUPLICATE.code)
    contradicting = sum(finding.count for finding in report.findings if finding.code == CONTRADICTION.code)
    errors = report.label_errors
    if errors is None or not errors.judged:
        return RowFaults(copies, contradicting)
    of_file = report.rows / errors.judged  # more than 1 if only a sample was judged

    if checks.checked < FEWEST_CHECKED:
        guessed = round(errors.expected * of_file) if errors.counts else 0
        return RowFaults(copies, contradicting, max(guessed - contradicting, 0))
    unchecked = max(errors.listed * of_file - checks.done, 0.0)
    low = wilson(checks.wrong, checks.checked).low
    estimated = round(checks.uncorrected + unchecked * checks.wrong / checks.checked)
    at_least = int(checks.uncorrected + unchecked * low)
    return RowFaults(
        copies=copies,
        contradicting=contradicting,
        doubted=max(estimated - contradicting, 0),
        shown=max(at_least - contradicting, 0),
        checked=checks.checked,
        found=checks.wrong,
    )


# Of the article that this app's rules started from (docs/deciding.md): below 200 labelled rows it is too early;
# fine-tune if everything else misses the bar and there are 1,000 rows.
NOT_YET_ROWS = 200
ENOUGH_ROWS = 1000
# Of the same article: a style or format that prompting gets right 80% of the time is a good reason to fine-tune.
STYLE_PROMPTED = 0.80
# On banking77, 10 rows per label gave 73% right and all rows (39 to 187 per label) 91%: 10 are few, fewer are hopeless.
FEW_PER_LABEL = 10
# With 100 rows, 91 right answers are needed to claim 85%, and McNemar's test detects only gaps of 10 points or more.
SMALL_HOLDOUT = 100
# Used without a simulation: a model seldom stays the best choice for longer than a year.
LONGEST_PAYBACK_MONTHS = 12
# Our own choice: a model that leaves more than half of the rows unanswered counts as not measured.
SILENT_SHARE = 0.5
# Our own choice: a bar is far above the best candidate if it allows a third of that one's errors or fewer.
FAR_BAR = 3
# Our own choice: a model tuned for speed has to answer at least twice as fast (p95).
FASTER = 2


@dataclass(frozen=True)
class FailedCandidate:
    """A candidate that could not be measured, with the reason as a sentence."""

    candidate: Candidate
    why: str


@dataclass(frozen=True)
class OtherJudge:
    """A tuned `model` that doesn't count as evidence, because this `judge` scored it and another one the rest."""

    model: str
    judge: str


@dataclass(frozen=True)
class Evidence:
    """What was measured on the frozen holdout; None means not yet. `bar` is the share of right answers that is good
    enough, `margin` how much worse a cheaper model may be. `judge` is the model whose verdicts the comparison's scores
    are. `failed` are candidates that a measurement left out, and why; none of them is in the comparison. `own_kind` is
    the kind of candidate that is the very model to be trained, and so no alternative to it. `label_checks` are people's
    answers to doubted labels, `judge_checks` what they said about the judge's verdicts. `tuned_look` is which of the
    tuned models that were measured on these rows the tuned one is: a promotion gets harder with each. `other_judge` is
    the tuned model that another judge scored than the comparison, in place of `tuned`. `left_out` are the numbers of
    measurements that a newer version of the bot stored, and this one can't read."""

    bar: float = DEFAULT_QUALITY_THRESHOLD
    task_kind: TaskKind | None = None
    comparison: Comparison | None = None
    tuned: MeasuredCandidate | None = None
    curve: Curve | None = None
    margin: float = DEFAULT_PROMOTION_LIMITS.margin
    judge: str | None = None
    failed: tuple[FailedCandidate, ...] = ()
    own_kind: CandidateKind | None = None
    label_checks: LabelChecks = NO_CHECKS
    judge_checks: JudgeChecks = UNCHECKED
    tuned_look: int = 1
    other_judge: OtherJudge | None = None
    left_out: tuple[int, ...] = ()

    @property
    def candidates(self) -> tuple[MeasuredCandidate, ...]:
        return self.comparison.candidates if self.comparison else ()

    @property
    def is_judged(self) -> bool:
        """True if the scores are a judge's verdicts."""
        if self.judge is None:
            return False
        is_tuned_judged = self.tuned is not None and self.tuned.scoring == "judge"
        return is_tuned_judged or any(candidate.scoring == "judge" for candidate in self.candidates)

    @property
    def is_judge_distrusted(self) -> bool:
        return self.is_judged and self.judge_checks.trust == "distrusted"

    @property
    def alternatives(self) -> tuple[MeasuredCandidate, ...]:
        """The alternatives to fine-tuning that answered, in the comparison's order."""
        return tuple(
            candidate
            for candidate in self.candidates
            if candidate.kind != "tuned" and not is_silent(candidate)
        )

    @property
    def measured_alternatives(self) -> MeasuredCandidates:
        return MeasuredCandidates(self.alternatives, self.bar)

    @property
    def tried(self) -> frozenset[str]:
        """The kinds of candidates that need no first measurement any more: one of that kind is in the comparison, even
        if it gave no answers, or could not be measured. Measuring the same again would tell nothing new."""
        measured = [candidate.identity for candidate in self.candidates]
        failed = [each.candidate for each in self.failed]
        kinds: set[CandidateKind] = {candidate.kind for candidate in (*measured, *failed)}
        # a prompt for which examples were tried on training rows, and did not help
        if any(candidate.shots == 0 for candidate in measured):
            kinds.add("kshot")
        return frozenset(kinds)

    @property
    def trained(self) -> MeasuredCandidate | None:
        """The measured tuned model, None if there is none. If the comparison has several, the best of them."""
        return self.tuned or find_best(
            candidate for candidate in self.candidates if candidate.kind == "tuned"
        )

    @property
    def is_good(self) -> bool:
        """True if the tuned model was measured and is shown to meet the bar."""
        tuned = self.trained
        return bool(tuned and tuned.standing == "meets" and not is_silent(tuned))


NOTHING_MEASURED = Evidence()


@dataclass(frozen=True)
class Standard:
    """What a team requires for a dataset. `is_bar_set` is False if nobody has set a bar, so that the policy's counts.
    `task` is None if nobody has set one."""

    bar: float
    is_bar_set: bool
    task: TaskKind | None


@dataclass(frozen=True)
class Looks:
    """How often people have seen scores of something new on the `rows` of the current holdout. Looks at an earlier
    version's rows count whole, because these rows are still among them. `bar` is the dataset's. `scoring` says what the
    scores count, as far as the rows alone tell: a judge may have scored free text."""

    count: int
    rows: int
    bar: float = DEFAULT_QUALITY_THRESHOLD
    scoring: Scoring = "label"

    @property
    def are_spent(self) -> bool:
        """True after as many looks as the promise about false claims covers."""
        return self.count >= PROMISED_LOOKS

    @property
    def needed_now(self) -> int | None:
        """How many rows a new candidate has to get right to be shown to meet the bar; None if all are too few. Where
        rows can be partly right, this share of the score is always enough: such scores vary less."""
        return least_right(self.rows, self.bar, self.count + 1)

    @property
    def needed_at_first(self) -> int | None:
        return least_right(self.rows, self.bar, 1)


@dataclass(frozen=True)
class OwnMachine:
    """What is known about running a model on the team's own machine. `too_large` says why its training doesn't fit,
    None if it does. It takes `machines` to serve the volume; None if the volume or the speed is unknown. `is_free`: an
    hour of it costs nothing."""

    too_large: MemoryShortage | None
    knows_training_time: bool
    knows_serving_speed: bool
    machines: int | None
    has_price: bool
    is_free: bool = False


@dataclass(frozen=True)
class Facts:
    """Everything that the rules look at.

    - `dataset` is the dataset's name, used in commands.
    - `smallest_label` is the number of rows of the rarest label, None for free text. `few_labels` are labels with their
      numbers of rows; `n_labels` is the number of labels.
    - `estimate` is None if today's bill or the tuned model's price is unknown; `missing` then says which. `run_usd`,
      the price of training and measuring, may still be known.
    - `current` is today's model as somebody typed it, and `full_current` is its name in a comparison. `to_measure` are
      today's model and a cheap one of the same provider, as 'provider/model'. These two are known only if one of the
      configured providers offers the model.
    - `has_objects` is true if answers are JSON objects. `floor` is the score of always giving the commonest answer.
    - `n_combined` is the number of labels that the answers are combinations of, 0 if each answer is one label.
    - `offered` is the cheapest capable model that costs less than today's, None if it was measured or its bill is
      unknown. `model_ends` are the near ends of measured models, by the names in the comparison.
    - `is_vendor_speed_unknown`: a vendor serves the tuned model by the hour, on machines of unknown throughput.
    - `providers_without_key` are the providers without a key here, each with the environment variable for it.
      `has_models` is true if a measurement without `models=` has any model to ask.
    """

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
    n_combined: int = 0
    current: str | None = None
    full_current: str | None = None
    to_measure: tuple[str, ...] = ()
    machine: OwnMachine | None = None
    faults: RowFaults = NO_FAULTS
    providers_without_key: tuple[tuple[str, str], ...] = ()
    has_models: bool = True
    has_objects: bool = False
    floor: float | None = None
    offered: UnmeasuredModel | None = None
    model_ends: tuple[tuple[str, ModelEnd], ...] = ()
    is_vendor_speed_unknown: bool = False

    @property
    def has_free_candidates(self) -> bool:
        """True if models that learn on this machine can give such answers."""
        return self.smallest_label is not None or self.has_objects

    def end_of(self, model: str | None) -> ModelEnd | None:
        """The near end of a measured model; None if no near one is known."""
        return dict(self.model_ends).get(model or "")

    def is_measured(self, model: str) -> bool:
        """'gpt-4o' also matches 'openai/gpt-4o'."""
        measured = (candidate.model for candidate in self.evidence.candidates if candidate.model)
        return any(is_same_model(model, name) for name in measured)

    def measure_step(self, measure: Measure, usd: Decimal | None = None) -> Step:
        """Returns the step for a measurement, or a step to set it up first if a key or a model is missing. The new
        candidates are scored by the judge of the others, since other scores could not be compared with theirs."""
        measure = replace(measure, judge=self.evidence.judge)
        if measure.kinds and set(measure.kinds) <= set(FREE_KINDS):
            return Step(measure, usd)
        sellers = {model.partition("/")[0] for model in measure.models}
        keys = tuple(key for seller, key in self.providers_without_key if seller in sellers)
        is_nameless = not measure.models and (measure.is_of_today or not self.has_models)
        if keys or is_nameless:
            return Step(SetUp(measure, keys), usd=None, minutes=SET_UP_MINUTES)
        return Step(measure, usd)

    @property
    def questions(self) -> int:
        """The number of different questions: a copy adds nothing to learn."""
        return self.rows - self.faults.repeated

    @property
    def wrong_share(self) -> float:
        """The share of labels that look wrong or contradict another row. 0 for free text, where two different answers
        may both be right."""
        if self.smallest_label is None or not self.rows:
            return 0.0
        return self.faults.wrong / self.rows

    @property
    def shown_wrong_share(self) -> float:
        """Like `wrong_share`, without what only a classifier suspects."""
        if self.smallest_label is None or not self.rows:
            return 0.0
        return (self.faults.shown + self.faults.contradicting) / self.rows

    @property
    def task_kind(self) -> TaskKind | None:
        """The kind that the team set. If it set none, data with labels is a classification, and data with answers in
        JSON an extraction."""
        if self.evidence.task_kind is not None:
            return self.evidence.task_kind
        if self.smallest_label is not None:
            return "classification"
        return "extraction" if self.has_objects else None

    @property
    def has_own_classes(self) -> bool:
        return self.task_kind == "classification" or (
            self.task_kind == "quality" and self.smallest_label is not None
        )

    @property
    def is_for_money(self) -> bool:
        """False if better or faster answers are the aim: their cost is then no reason for or against."""
        return self.task_kind != "latency" and not self.is_for_better

    @property
    def is_for_better(self) -> bool:
        """True if the aim is what the answers say or how they sound, so that an alternative that meets the bar is only
        beaten by a better one. A style is known from a judge only: without one, its cost still decides."""
        return self.task_kind == "quality" or (self.task_kind == "style" and self.evidence.is_judged)

    @property
    def is_today_measured(self) -> bool:
        """True also if nobody named today's model. 'gpt-4o' also matches 'openai/gpt-4o'."""
        if self.current is None or self.is_measured(self.current):
            return True
        return self.full_current is not None and self.is_measured(self.full_current)

    @property
    def lacking(self) -> tuple[tuple[str, int], ...]:
        """The labels with fewer rows than FEW_PER_LABEL and the number that each lacks, the rarest label first."""
        lacks = [(label, FEW_PER_LABEL - rows) for label, rows in self.few_labels if rows < FEW_PER_LABEL]
        return tuple(sorted(lacks, key=lambda lack: (-lack[1], lack[0])))

    @property
    def has_few_of_a_label(self) -> bool:
        return self.smallest_label is not None and self.smallest_label < FEW_PER_LABEL


def is_silent(candidate: MeasuredCandidate) -> bool:
    return candidate.n == 0 or candidate.empty > SILENT_SHARE * candidate.n


def without_trained_candidate(evidence: Evidence, method: MethodName) -> Evidence:
    """Removes the candidate `encoder` if the method is `head`: both train the same model, which is no alternative to
    itself."""
    if method != "head":
        return evidence
    evidence = replace(evidence, own_kind=ENCODER_KIND)
    if evidence.comparison is None:
        return evidence
    return keep_candidates(
        evidence,
        [candidate for candidate in evidence.comparison.candidates if candidate.kind != ENCODER_KIND],
    )


def keep_candidates(evidence: Evidence, candidates: Sequence[MeasuredCandidate]) -> Evidence:
    """Returns the evidence with only these candidates of its comparison, and what follows from them."""
    comparison = evidence.comparison
    if comparison is None or len(candidates) == len(comparison.candidates):
        return evidence
    identities = {candidate.identity for candidate in candidates}
    best = cheapest([candidate for candidate in candidates if candidate.standing == "meets"])
    pairs = tuple(pair for pair in comparison.pairs if {pair.better, pair.worse} <= identities)
    left = replace(
        comparison, candidates=tuple(candidates), pairs=pairs, cheapest=best.identity if best else None
    )
    return replace(evidence, comparison=left)
