"""What the workflows hand to the views: frozen values, kept as JSON in the store where they must last."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """An expected no, as sentences for the person who asked."""

    text: str


@dataclass(frozen=True)
class Progress:
    """How far a run is. Losses in nats per supervised token; times in unix seconds."""

    step: int = 0
    total_steps: int = 0
    train_loss: float | None = None
    valid_loss: float | None = None
    estimated_finish: float | None = None
    evaluated: int = 0
    to_evaluate: int = 0
    queued_behind: int = 0
    note: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | None) -> Progress:
        return Progress(**json.loads(text)) if text else Progress()


@dataclass(frozen=True)
class ArmScore:
    """One arm on the frozen holdout: `low`, `high` are Wilson's 95% bounds of the share correct."""

    correct: int
    n: int
    low: float
    high: float
    prompt_tokens: int
    completion_tokens: int
    p50_s: float
    p95_s: float

    @property
    def share(self) -> float:
        return self.correct / self.n


@dataclass(frozen=True)
class RunResult:
    """Base against tuned on the same rows, and the actual beside the estimate.

    `better` and `worse` count rows that only the tuned or only the base model got right; `p_value` is the
    exact McNemar test's; `gain_low`, `gain_high` bound the paired difference of shares (95%).
    Money is in micro-dollars, `usd_per_hour` machines included.
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
    estimated_seconds_low: float
    estimated_seconds_high: float
    estimated_tokens: int
    base_prompt: str
    tuned_prompt: str
    labels: tuple[str, ...] = field(default=())

    @property
    def gain(self) -> float:
        return self.tuned.share - self.base.share

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> RunResult:
        raw: dict[str, Any] = json.loads(text)
        base, tuned = ArmScore(**raw.pop("base")), ArmScore(**raw.pop("tuned"))
        return RunResult(base=base, tuned=tuned, **{**raw, "labels": tuple(raw["labels"])})


@dataclass(frozen=True)
class ChangedRow:
    """A held-out row that one arm got right and the other wrong. Customers' words: private channels only."""

    text: str
    expected: str
    base: str
    tuned: str
