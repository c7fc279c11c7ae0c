"""Values about runs that the services hand to the cards; those that must last are stored as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal

from bot.rules.judge_agreement import HumanAgreement, JudgeChecks
from bot.rules.models.promotion import ModelComparison
from bot.rules.plans import VerdictKind
from bot.rules.training.vendor_bills import VendorBill
from bot.values.evaluations import JudgeProgress
from trainers.evaluation.results import Comparison
from trainers.evaluation.statistics import LabelLoss
from trainers.json_values import JsonValue, stored_as
from trainers.money import to_micros
from trainers.types import Event, Job, Metric, SweepTrial

Points = tuple[tuple[int, float], ...]
"""Steps with their numbers, in order."""

MOST_POINTS = 20

# What answered the held-out rows before the training.
Before = Literal["base", "start", "classical", "encoder"]


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused, in sentences for the person who asked. `about` is the option at fault, if it is one."""

    text: str
    about: str | None = None


@dataclass(frozen=True)
class Reading:
    """One meaning of an ambiguous value, in words, and the whole command with it, as a person would type it."""

    words: str
    command: str


@dataclass(frozen=True)
class AskedBack(Refusal):
    """A value of a command has several meanings, of which the person has to choose one."""

    readings: tuple[Reading, ...] = ()


@dataclass(frozen=True)
class ModelEnded(Refusal):
    """The model that was named has been shut down."""


@dataclass(frozen=True)
class VendorEstimate(JsonValue):
    """The vendor's own estimate of the training's cost. `micros` is None if it gave none: `why` then says why, and is
    empty if this vendor never gives one. `is_affordable` is True if the account there has enough credit."""

    micros: int | None = None
    is_affordable: bool = True
    why: str = ""


@dataclass(frozen=True)
class Progress(JsonValue):
    """How far a run is. Losses are in nats per supervised token, times in unix seconds.

    `running_since` and `ran_until` bound the time on the machine. `note` is a sentence about a delay. `status` is the
    trainer's last word for the job. `shown_at` is when the card last got these numbers. `percent` is the progress of
    training if the trainer counts no steps. `succeeded_at` is when the job was first seen to have succeeded.
    `billed_micros` is the cost that the trainer reports; `billed_seconds` are those of a rented machine, as its vendor
    bills them. `vendor` is the vendor's estimate from before the approval, and `away` are the approvers who were no
    active members of the workspace when the bot last looked.

    `declined` are the keys of questions about held-out rows that the provider refuses to answer. `judge` is None until
    a judge is asked. `is_base_unasked` is True if no provider serves the base model by the token. `no_encoder` says why
    the free encoder can't be used, '' if it can. `lost_micros` is the highest cost of questions whose answers were
    lost, which may have been paid for too.
    """

    step: int = 0
    total_steps: int = 0
    train_loss: float | None = None
    valid_loss: float | None = None
    trained_tokens: int = 0
    running_since: float | None = None
    ran_until: float | None = None
    estimated_finish: float | None = None
    evaluated: int = 0
    to_evaluate: int = 0
    note: str | None = None
    is_paused: bool = False
    status: str = ""
    shown_at: float = 0.0
    declined: tuple[str, ...] = ()
    judge: JudgeProgress | None = None
    percent: int | None = None
    billed_micros: int | None = None
    succeeded_at: float | None = None
    is_base_unasked: bool = False
    no_encoder: str = ""
    vendor: VendorEstimate | None = None
    billed_seconds: int | None = None
    reward: float | None = None
    preference_accuracy: float | None = None
    reward_margin: float | None = None
    away: tuple[str, ...] = ()
    lost_micros: int = 0

    @property
    def train_seconds(self) -> float:
        if self.billed_seconds is not None:
            return float(self.billed_seconds)
        if self.running_since is None or self.ran_until is None:
            return 0.0
        return max(self.ran_until - self.running_since, 0.0)

    @property
    def share_trained(self) -> Decimal:
        """From 0 to 1; 1 if the trainer doesn't say how far it is."""
        if self.total_steps:
            return min(Decimal(self.step) / self.total_steps, Decimal(1))
        if self.percent is None:
            return Decimal(1)
        return Decimal(self.percent) / 100

    @property
    def is_uncounted(self) -> bool:
        """True if the job succeeded, but its trainer reports neither the tokens it trained nor what it billed."""
        return bool(self.succeeded_at) and not self.trained_tokens and self.billed_micros is None

    def with_job(
        self, job: Job, events: tuple[Event, ...], note: str | None, now: float, busy: float | None = None
    ) -> Progress:
        """Returns the progress with the trainer's latest news. `busy` is the seconds on the machine since the job was
        last seen, if the bot wasn't watching; None: it was running all the time unless paused."""
        newest = next((event.data for event in events if "train_loss" in event.data), {})
        validated = next((event.data for event in events if "valid_loss" in event.data), {})
        since, ran_until = self._time_on_machine(job, now, busy)
        finish = self.estimated_finish
        if self.is_paused or job.status == "paused":
            # While a paused job's process loads again, its old end would count down although nothing runs.
            finish = None
        succeeded_at = self.succeeded_at
        if not succeeded_at and job.status == "succeeded":
            succeeded_at = now
        # What this answer of the trainer leaves out stays as it was.
        percent = self.percent
        if job.percent is not None:
            percent = job.percent
        billed_micros = self.billed_micros
        if job.billed_usd is not None:
            billed_micros = to_micros(job.billed_usd)
        billed_seconds = self.billed_seconds
        if job.billed_seconds is not None:
            billed_seconds = job.billed_seconds
        return replace(
            self,
            step=job.trained_steps or _whole(newest.get("step")) or self.step,
            total_steps=job.total_steps or _whole(newest.get("total_steps")) or self.total_steps,
            train_loss=_number(newest.get("train_loss"), self.train_loss),
            reward=_number(newest.get("train_reward_mean"), self.reward),
            preference_accuracy=_number(newest.get("train_reward_accuracy"), self.preference_accuracy),
            reward_margin=_number(newest.get("train_reward_margin"), self.reward_margin),
            valid_loss=_number(validated.get("valid_loss"), self.valid_loss),
            trained_tokens=job.trained_tokens or self.trained_tokens,
            running_since=since,
            ran_until=ran_until,
            estimated_finish=job.estimated_finish or finish,
            note=note,
            is_paused=job.status == "paused",
            status=job.status,
            percent=percent,
            billed_micros=billed_micros,
            succeeded_at=succeeded_at,
            billed_seconds=billed_seconds,
        )

    def _time_on_machine(self, job: Job, now: float, busy: float | None) -> tuple[float | None, float | None]:
        """The new `running_since` and `ran_until`."""
        ended_at = now
        if job.finished_at is not None:
            ended_at = float(job.finished_at)
        # The trainer's clock may differ from ours: the end can't be before we last saw the job running, nor after now.
        ran_until = min(max(ended_at, self.ran_until or 0.0), now)
        if busy is not None:
            return ran_until - self.train_seconds - busy, ran_until
        since = self.running_since
        if not since and (job.status == "running" or job.is_final):
            since = now
        if self.is_paused and since is not None and self.ran_until is not None:
            # Time in a pause doesn't count.
            since += now - self.ran_until
        return since, ran_until

    def with_unseen_job(self, note: str | None) -> Progress:
        """Returns the progress when the trainer can't be reached. The status is emptied so that its next answer counts
        as news."""
        return replace(self, note=note, status="")


def _number(value: object, otherwise: float | None) -> float | None:
    if not isinstance(value, int | float):
        return otherwise
    return float(value)


def _whole(value: object) -> int:
    if not isinstance(value, int | float):
        return 0
    return int(value)


@dataclass(frozen=True)
class ModelScore:
    """One model's result on the frozen holdout. `low` and `high` are Wilson's 95% bounds of the share correct.
    `unlisted` counts answers that are not one of the labels; it is 0 for free text."""

    correct: int
    n: int
    low: float
    high: float
    prompt_tokens: int
    completion_tokens: int
    p50_s: float
    p95_s: float
    unlisted: int = 0

    @property
    def share(self) -> float:
        return self.correct / self.n


@dataclass(frozen=True)
class MeasuredScore:
    """The mean score of the held-out rows, with its 95% interval."""

    score: float
    low: float
    high: float


@dataclass(frozen=True)
class ScoreChange:
    """The score before and after training, as the quality bar counts. `gain` is their difference with its 95% bounds
    and the p-value of its test."""

    before: MeasuredScore
    after: MeasuredScore
    gain: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Advice:
    """The verdict on a result. `rule` is the rule that decided, '' if all agree; `reason` is its reason. `measure` are
    the models to measure next, if that is the next step and they can be asked here."""

    kind: VerdictKind
    rule: str
    headline: str
    next_step: str
    reason: str = ""
    measure: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelChange:
    """Of the `rows` with this label, how many each model got right."""

    label: str
    rows: int
    base: int
    tuned: int


@dataclass(frozen=True)
class RunResult(JsonValue):
    """The base model against the tuned one on the same rows, and the actual cost beside the estimate.

    `base` is the score of what answered before the training: the untuned model, or, if that can't answer, a free model
    that learnt from the same training rows. `before` says which. `better` and `worse` count rows that only the tuned
    model or only that one got right. `no_encoder` says why it isn't the free encoder, '' if nothing prevented that.
    `p_value` is that of the exact McNemar test; `gain_low` and `gain_high` are 95% bounds of the paired difference of
    shares. The curves have at most 20 points (step, number), each the mean of the steps since the previous one; GRPO's
    has no loss.
    `labels` is empty for free text.

    Money is in micro-dollars and includes machines that are billed by the hour. `hosting_micros` is the part of the
    actual cost that the tuned model's machine had caused by then, and up to `lost_micros` of it may have been paid for
    answers that were lost; `vendor_micros` is the vendor's estimate of the training. `is_uncounted` is True if the
    trainer reported no trained tokens: the planned ones are booked instead. `bill` is what the vendor bills for the
    training, once that is final; None where the list price was booked. `names_fields` is True if the base model's
    prompt named the fields of answers in JSON.

    `beside` is a Comparison as JSON: the tuned model, the best alternative measured on the same rows, and the test of
    the two. `is_base_ahead` is True if `base` is shown to be better than that alternative, None if there is none, if
    they are scored differently, or in older results. `advice` follows from `beside`. `worse_labels` are significantly
    less often right than with the best alternative. `not_worse` is the model than which this one is shown to be cheaper
    and, within `margin`, not worse. `judge` is the outcome of the judge of free text and `judge_checks` what people had
    said about its verdicts by then; both are None without one. `agreement` is in results of older versions, in which
    people compared answers. `trials` are those of a sweep, one of which is the tuned model. `at_once` is the
    maximum number of questions under way at a time, on which the latencies depend. `shown_rows` held-out rows were
    shown in the result's thread. `is_offered` is whether the card offers to deploy the model, None in results from
    before it was stored. `reward` is the mean reward of GRPO's last step, `preference_accuracy` the share of its pairs
    of which DPO preferred the right answer. `checkable` is the measurement whose answers people could check to see
    whether the judge is right. `partial` compares the two by shares of a row, such as the fields of a JSON object, if
    that is how the bar counts; `better`, `worse`, `p_value` and both gains count rows that are wholly right. It is None
    if a row is right or wrong. Fields with a default are missing in results of older versions.
    """

    base: ModelScore
    tuned: ModelScore
    better: int
    worse: int
    p_value: float
    gain_low: float
    gain_high: float
    train_seconds: float
    trained_tokens: int
    steps: int
    estimated_micros: int
    actual_micros: int
    labelled: bool
    loss_curve: Points = ()
    beside: str | None = None
    advice: Advice | None = None
    # Older versions called a sweep's trials arms, and stored them so.
    trials: tuple[SweepTrial, ...] = field(default=(), metadata=stored_as("arms"))
    at_once: int | None = None
    labels: tuple[LabelChange, ...] = ()
    worse_labels: tuple[LabelLoss, ...] = ()
    not_worse: ModelComparison | None = None
    margin: float = 0.0
    judge: JudgeProgress | None = None
    agreement: HumanAgreement | None = None
    before: Before = "base"
    vendor_micros: int | None = None
    hosting_micros: int = 0
    lost_micros: int = 0
    is_uncounted: bool = False
    shown_rows: int = 0
    judge_checks: JudgeChecks | None = None
    reward: float | None = None
    preference_accuracy: float | None = None
    is_offered: bool | None = None
    names_fields: bool = False
    reward_curve: Points = ()
    preference_curve: Points = ()
    margin_curve: Points = ()
    no_encoder: str = ""
    checkable: int | None = None
    partial: ScoreChange | None = None
    is_base_ahead: bool | None = None
    start: str = ""
    bill: VendorBill | None = None

    def with_bill(self, bill: VendorBill, change: int) -> RunResult:
        """Returns the result with the vendor's bill, which changes the actual cost by so many micro-dollars."""
        return replace(self, bill=bill, actual_micros=self.actual_micros + change)

    @property
    def comparison(self) -> Comparison | None:
        if not self.beside:
            return None
        return Comparison.from_json(self.beside)

    @property
    def quality(self) -> float:
        """The tuned model's share of right answers; its score on the comparison if there is one, as free text needs."""
        comparison = self.comparison
        if comparison is None:
            return self.tuned.share
        return comparison.of_kind("tuned")[0].score

    @property
    def change(self) -> ScoreChange:
        """What the training changed, by the measure of the quality bar if it is known for both."""
        if self.partial is not None:
            return self.partial
        return ScoreChange(
            before=MeasuredScore(self.base.share, self.base.low, self.base.high),
            after=MeasuredScore(self.tuned.share, self.tuned.low, self.tuned.high),
            gain=self.tuned.share - self.base.share,
            low=self.gain_low,
            high=self.gain_high,
            p=self.p_value,
        )


@dataclass(frozen=True)
class TimeInUse:
    """The last time that a run's model was in use, from when `person` deployed it. `until` is None while it is; then
    `ended_by` had `other` deployed in its place, which is a rollback if `is_rolled_back`. Times are in unix seconds."""

    person: str
    since: float
    until: float | None = None
    other: str = ""
    ended_by: str = ""
    is_rolled_back: bool = False


@dataclass(frozen=True)
class AfterResult:
    """What is known of a run's model now and was not when its result was computed. `use` is None if it was never in
    use. `is_gone` is True if its provider has lost it. `is_current_measured` is True if today's model has answered the
    same held-out rows."""

    use: TimeInUse | None = None
    is_gone: bool = False
    is_current_measured: bool = False

    @property
    def is_in_use(self) -> bool:
        return self.use is not None and self.use.until is None

    @property
    def is_nothing(self) -> bool:
        """True if nothing happened to the model, so that what its result offered still stands."""
        return self.use is None and not self.is_gone


NOTHING_SINCE = AfterResult()


@dataclass(frozen=True)
class ChangedRow:
    """A held-out row that one model got right and the other wrong. Holds customers' words: for private channels
    only."""

    text: str
    expected: str
    base: str
    tuned: str
    is_better: bool


@dataclass(frozen=True)
class TrainingCurves:
    """The numbers that trainers.types.Metric has for the training rows. Each has at most 20 points (step, number), each
    the mean of the steps since the previous one."""

    loss: Points = ()
    reward: Points = ()
    preference_accuracy: Points = ()
    reward_margin: Points = ()


def training_curves(metrics: Sequence[Metric]) -> TrainingCurves:
    reward = points(metrics, lambda line: line.train_reward)
    loss: Points = ()
    if not reward:
        # GRPO's loss is near 0 by construction, so that it would say nothing.
        loss = points(metrics, lambda line: line.train_loss)
    accuracy = points(metrics, lambda line: line.train_preference_accuracy)
    margin = points(metrics, lambda line: line.train_reward_margin)
    return TrainingCurves(
        loss=stretch_means(loss),
        reward=stretch_means(reward),
        preference_accuracy=stretch_means(accuracy),
        reward_margin=stretch_means(margin),
    )


def points(metrics: Sequence[Metric], number_of: Callable[[Metric], float | None]) -> Points:
    """The steps at which a number was measured, with the number."""
    measured = ((line.step, number_of(line)) for line in metrics)
    return tuple((step, number) for step, number in measured if number is not None)


def stretch_means(trained: Points, most: int = MOST_POINTS) -> Points:
    """Divides the training into at most `most` stretches of equal length, and returns the last step and the mean number
    of each."""
    stretch = max(math.ceil(len(trained) / most), 1)
    means = []
    for start in range(0, len(trained), stretch):
        part = trained[start : start + stretch]
        last_step, _ = part[-1]
        total = sum(number for _, number in part)
        means.append((last_step, total / len(part)))
    return tuple(means)
