"""What the services hand to the cards about runs: frozen values, stored as JSON where they must last."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from bot.rules.judge_agreement import HumanAgreement
from bot.rules.plans import VerdictKind
from bot.rules.promotion import ModelComparison
from bot.values.evaluations import JudgeProgress
from trainers.evaluation.results import Ladder
from trainers.evaluation.statistics import LabelLoss
from trainers.json_values import JsonValue
from trainers.money import to_micros
from trainers.types import Event, Job, SweepArm


@dataclass(frozen=True)
class Refusal:
    """An expected no, as sentences for the person who asked. `about` is the option that it is about, if one."""

    text: str
    about: str | None = None


@dataclass(frozen=True)
class ModelEnded(Refusal):
    """The model that was named does not answer any more."""


@dataclass(frozen=True)
class VendorEstimate(JsonValue):
    """What the vendor itself expects the training to cost. `micros` None: it was not told, and `why` says why, empty
    where such a vendor tells nothing beforehand. `is_affordable`: the account there has the credit for it."""

    micros: int | None = None
    is_affordable: bool = True
    why: str = ""


@dataclass(frozen=True)
class Progress(JsonValue):
    """How far a run is. Losses in nats per supervised token; times in unix seconds.

    `running_since` and `ran_until` bound the time on the machine, `note` is a sentence about a hiccup. `status` is the
    trainer's word when it was last seen; `shown_at`: when the card last got these numbers. `declined` are keys of
    questions about held-out rows that get no answer. `judge` None: no model was asked to judge yet. `percent` of the
    training is done, where the trainer counts no steps; `billed_micros`: what it says that the training cost;
    `succeeded_at`: when the job was first seen to have succeeded. `is_base_unasked`: the base model answers nowhere by
    the token. `vendor`: its own estimate, which was asked before the approval. `billed_seconds`: of a machine
    that is rented, by who rents it out.
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
    vendor: VendorEstimate | None = None
    billed_seconds: int | None = None

    @property
    def train_seconds(self) -> float:
        if self.billed_seconds is not None:
            return float(self.billed_seconds)
        if self.running_since is None or self.ran_until is None:
            return 0.0
        return max(self.ran_until - self.running_since, 0.0)

    @property
    def share_trained(self) -> Decimal:
        """0 to 1; 1 where the trainer doesn't say how far it is."""
        if self.total_steps:
            return min(Decimal(self.step) / self.total_steps, Decimal(1))
        return Decimal(1) if self.percent is None else Decimal(self.percent) / 100

    @property
    def is_uncounted(self) -> bool:
        """Returns whether it succeeded, and its trainer says neither how many tokens it trained nor what it billed."""
        return bool(self.succeeded_at) and not self.trained_tokens and self.billed_micros is None

    def with_job(
        self, job: Job, events: tuple[Event, ...], note: str | None, now: float, busy: float | None = None
    ) -> Progress:
        """Adds what the trainer says now to what was known. `busy`: seconds on the machine since it was last seen,
        where nobody watched."""
        newest = next((event.data for event in events if "train_loss" in event.data), {})
        validated = next((event.data for event in events if "valid_loss" in event.data), {})
        runs = job.status == "running" or job.is_final
        # Its clock may differ from ours: it ended no earlier than when it was last seen, and no later than now.
        ended_at = now if job.finished_at is None else float(job.finished_at)
        ran_until = min(max(ended_at, self.ran_until or 0.0), now)
        since = self.running_since or (now if runs else None)
        if busy is not None:
            since = ran_until - self.train_seconds - busy
        elif self.is_paused and since is not None and self.ran_until is not None:
            since += now - self.ran_until  # a pause is no time on the machine
        return replace(
            self,
            step=job.trained_steps or _whole(newest.get("step")) or self.step,
            total_steps=job.total_steps or _whole(newest.get("total_steps")) or self.total_steps,
            train_loss=_number(newest.get("train_loss"), self.train_loss),
            valid_loss=_number(validated.get("valid_loss"), self.valid_loss),
            trained_tokens=job.trained_tokens or self.trained_tokens,
            running_since=since,
            ran_until=ran_until,
            estimated_finish=job.estimated_finish or self.estimated_finish,
            note=note,
            is_paused=job.status == "paused",
            status=job.status,
            percent=self.percent if job.percent is None else job.percent,
            billed_micros=self.billed_micros if job.billed_usd is None else to_micros(job.billed_usd),
            succeeded_at=self.succeeded_at or (now if job.status == "succeeded" else None),
            billed_seconds=job.billed_seconds,
        )

    def with_unseen_job(self, note: str | None) -> Progress:
        """Notes that it could not be looked at: whatever the trainer says next is news."""
        return replace(self, note=note, status="")


def _number(value: object, otherwise: float | None) -> float | None:
    return float(value) if isinstance(value, int | float) else otherwise


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0


@dataclass(frozen=True)
class ArmScore:
    """One arm on the frozen holdout: `low`, `high` are Wilson's 95% bounds of the share correct.

    `unlisted` counts answers that are none of the labels; 0 for free text.
    """

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
class Advice:
    """The verdict that follows from a result; `rule` is the one that decided, '' where all agree, and `reason` what it
    said. `measure`: models that the next step is to measure, and that can be asked here."""

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
    """Base against tuned on the same rows, and the actual beside the estimate.

    `better` and `worse` count rows that only the tuned or only the base model got right; `p_value` is the
    exact McNemar test's; `gain_low`, `gain_high` bound the paired difference of shares (95%).
    Money is in micro-dollars, `usd_per_hour` machines included. `loss_curve`: (step, training loss), at most
    20 points, each the mean of the steps since the one before.

    `beside` is a Ladder as JSON: the tuned model as a rung, beside the best alternative that was measured on the
    same rows, and the test of the two; None in a result of before there were any. `advice` follows from it.
    `arms` of a sweep, one of which is the tuned model. `at_once`: so many questions were under way at a time, at most;
    an answer that is asked for alone comes sooner. None: a result of before that was written down. `labels` are empty
    for free text, and for such an older result. `worse_labels` are told to be right less often than with the best
    alternative. `not_worse`: than which model it is shown to be cheaper and, within `margin`, not worse. `judge`: what
    became of the model that judges free text, and how far people agreed with it by then; None without one. `before`:
    what stands in the place of `base`, which an encoder has not: untuned it answers nothing, and the classical model
    that needs no encoder answers instead. `hosting_micros`: of the actual, what the tuned model's machine had cost by
    then. `vendor_micros`: what the vendor itself expected the training to cost. `is_uncounted`: it named no tokens that
    it trained, so those of the plan are paid.
    """

    base: ArmScore
    tuned: ArmScore
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
    loss_curve: tuple[tuple[int, float], ...] = ()
    beside: str | None = None
    advice: Advice | None = None
    arms: tuple[SweepArm, ...] = ()
    at_once: int | None = None
    labels: tuple[LabelChange, ...] = ()
    worse_labels: tuple[LabelLoss, ...] = ()
    not_worse: ModelComparison | None = None
    margin: float = 0.0
    judge: JudgeProgress | None = None
    agreement: HumanAgreement | None = None
    before: Literal["base", "classical"] = "base"
    vendor_micros: int | None = None
    hosting_micros: int = 0
    is_uncounted: bool = False

    @property
    def ladder(self) -> Ladder | None:
        return Ladder.from_json(self.beside) if self.beside else None

    @property
    def quality(self) -> float:
        """The share right; for free text the tuned model's score by the ladder's measure, where there is one."""
        ladder = self.ladder
        return ladder.rung("tuned")[0].score if ladder else self.tuned.share

    @property
    def gain(self) -> float:
        return self.tuned.share - self.base.share


@dataclass(frozen=True)
class ChangedRow:
    """A held-out row that one arm got right and the other wrong. Customers' words: private channels only."""

    text: str
    expected: str
    base: str
    tuned: str
    is_better: bool
