"""Writes a training run's reports: events.jsonl, progress.json, results.csv and curves. Processes other than the first
have a logger that writes nothing."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from trainers.local.job_directory import (
    RESULTS_HEADER,
    Integration,
    TrainingJob,
    append_event,
    read_json,
    replace_json,
)
from trainers.local.training import distributed
from trainers.local.training.trackers import Curves

INTERVAL_S = 1.0  # between two reports of progress: a small model takes many steps in a second
RECENT = 0.1  # the weight of the last step in step_s, a moving average
# The metrics of Scores.more that an event's sentence names, in people's words. The others are in its data only.
IN_SENTENCE = {
    "reward_mean": "mean reward",
    "reward_accuracy": "preference accuracy",
    "reward_margin": "reward margin",
}


@dataclass(frozen=True)
class Scores:
    """`loss` is in nats per supervised token. `accuracy` is the share of supervised tokens that the model predicts as
    the likeliest, or None if not measured. `more` are a method's other metrics by name."""

    loss: float
    accuracy: float | None
    more: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Step `number` of `total`, from 1. `trained_tokens` and `seconds` count from the beginning of the run."""

    number: int
    total: int
    train: Scores
    learning_rate: float
    trained_tokens: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Progress:
    """The content of progress.json. `step_s` is the recent seconds per step, or None before the first step."""

    step: int
    total_steps: int
    trained_tokens: int
    seconds: float
    step_s: float | None


class MetricsLogger:
    """`ceiling_s` is the run's maximum duration in seconds. `more` are the names of Scores.more. `step_s` is the recent
    seconds per step."""

    def __init__(
        self,
        folder: Path,
        integrations: Sequence[Integration] = (),
        ceiling_s: float | None = None,
        more: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._more = more
        self._ceiling_s = ceiling_s
        self._curves = Curves(folder, integrations)
        self._logged_at = 0.0
        self._stepped_at = time.monotonic()
        self._is_first = True  # the next step is this process's first
        self._is_rough = False  # step_s is that of a first step
        before = read_json(folder / "progress.json") or {}
        self.step_s: float | None = before.get("step_s")

    @property
    def seconds_known(self) -> float:
        """The seconds in progress.json. Unlike a checkpoint's, they include work that was lost in a kill."""
        progress = read_json(self._folder / "progress.json") or {}
        return float(progress.get("seconds") or 0.0)

    def begin(self, after: int) -> None:
        """Creates results.csv or truncates it to the first `after` steps, and continues the curves from there."""
        rows = _read_rows(self._folder / "results.csv")
        self._write_results(rows[:after])
        self._curves.begin(after)
        self._stepped_at = time.monotonic()

    def log(
        self, message: str, level: Literal["info", "warn"] = "info", data: Mapping[str, object] | None = None
    ) -> None:
        append_event(self._folder, message, level=level, data=data)

    def warn(self, message: str) -> None:
        self.log(message, "warn")

    def record(self, step: Step, *, is_validated_next: bool = False) -> None:
        """Records one step. If a validation follows, both are reported in one event."""
        now = time.monotonic()
        self._update_step_s(now - self._stepped_at)
        self._stepped_at = now
        loss = format_number(step.train.loss)
        accuracy = format_number(step.train.accuracy)
        not_validated = [""] * len(self._more)
        row = [step.number, loss, accuracy, "", "", *self._format_more(step.train), *not_validated]
        with (self._folder / "results.csv").open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow(row)
        curves = _curves("train", step.train)
        curves["train/learning_rate"] = step.learning_rate
        curves["train/tokens"] = float(step.trained_tokens)
        self._curves.log(step.number, curves)

        is_last = step.number == step.total
        is_soon = now - self._logged_at < INTERVAL_S
        if is_soon and not is_validated_next and not is_last:
            return
        self._logged_at = now
        progress = Progress(step.number, step.total, step.trained_tokens, step.seconds, self.step_s)
        self.write_progress(progress)
        if not is_validated_next:
            self._tell(step, None)

    def _update_step_s(self, taken: float) -> None:
        """Updates the seconds per step. A process's first step may take ten times as long as the others, because it
        also reads the weights and prepares kernels: it counts only until the second step, and only if nothing else is
        known."""
        is_first = self._is_first
        self._is_first = False
        if self.step_s is None or self._is_rough:
            self.step_s = taken
            self._is_rough = is_first
        elif not is_first:
            self.step_s = (1 - RECENT) * self.step_s + RECENT * taken

    def record_validation(self, step: Step, valid: Scores) -> None:
        """Records the validation of the last recorded step."""
        *before, last = _read_rows(self._folder / "results.csv")
        step_and_training = last[:3]
        after_usual = last[len(RESULTS_HEADER) :]
        more_training = after_usual[: len(self._more)]
        validated = [
            *step_and_training,
            format_number(valid.loss),
            format_number(valid.accuracy),
            *more_training,
            *self._format_more(valid),
        ]
        self._write_results([*before, validated])
        self._curves.log(step.number, _curves("valid", valid))
        self._tell(step, valid)

    def last_scores(self) -> Scores:
        """Returns the training scores of the last step in results.csv, as rounded there."""
        *_, last = _read_rows(self._folder / "results.csv")
        _, loss, train_accuracy, _, _, *more = last
        # The columns of the validation follow, so there are more values than names.
        named = {name: float(value) for name, value in zip(self._more, more, strict=False) if value}
        accuracy = None
        if train_accuracy:
            accuracy = float(train_accuracy)
        return Scores(float(loss), accuracy, named)

    def write_progress(self, progress: Progress, *, is_paused: bool = False, is_over: bool = False) -> None:
        """Writes progress.json. The estimated finish is None for a paused run, and now for one that is over."""
        finish = None
        if is_over:
            finish = round(time.time())
        elif progress.step_s is not None and not is_paused:
            left_steps = progress.total_steps - progress.step
            left = left_steps * progress.step_s
            if self._ceiling_s is not None:
                left_to_ceiling = max(0.0, self._ceiling_s - progress.seconds)
                left = min(left, left_to_ceiling)
            finish = round(time.time() + left)
        content = {**asdict(progress), "estimated_finish": finish}
        replace_json(self._folder / "progress.json", content)

    def end(self, *, is_done: bool) -> None:
        self._curves.end(is_done=is_done)

    def _format_more(self, scores: Scores) -> list[str]:
        return [format_number(scores.more.get(name)) for name in self._more]

    def _write_results(self, rows: list[list[str]]) -> None:
        path = self._folder / "results.csv"
        more = [f"{when}_{name}" for when in ("train", "valid") for name in self._more]
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*RESULTS_HEADER, *more])
            writer.writerows(rows)
        temporary.replace(path)

    def _tell(self, step: Step, valid: Scores | None) -> None:
        message = (
            f"Step {step.number}/{step.total}: training loss={step.train.loss:.2f}{_sentence(step.train)}"
        )
        data: dict[str, object] = {
            "step": step.number,
            "total_steps": step.total,
            "train_loss": step.train.loss,
            "train_mean_token_accuracy": step.train.accuracy,
            "learning_rate": step.learning_rate,
        }
        data |= {f"train_{name}": value for name, value in step.train.more.items()}
        if valid:
            message += f", validation loss={valid.loss:.2f}{_sentence(valid)}"
            data["valid_loss"] = valid.loss
            data["valid_mean_token_accuracy"] = valid.accuracy
            data |= {f"valid_{name}": value for name, value in valid.more.items()}
        measured = {name: value for name, value in data.items() if value is not None}
        self.log(message, data=measured)


def _sentence(scores: Scores) -> str:
    named = []
    for name, value in scores.more.items():
        if name in IN_SENTENCE:
            named.append(f", {IN_SENTENCE[name]}={value:.2f}")
    return "".join(named)


def _curves(when: str, scores: Scores) -> dict[str, float]:
    named = {"loss": scores.loss, "accuracy": scores.accuracy, **scores.more}
    return {f"{when}/{name}": value for name, value in named.items() if value is not None}


def _read_rows(path: Path) -> list[list[str]]:
    """Returns the rows without the header. The last row may be incomplete after a kill."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return rows[1:]


def format_number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}"


def create_logger(folder: Path, job: TrainingJob, more: Sequence[str] = ()) -> MetricsLogger:
    """Returns a logger that writes in the first process only. A sweep writes no curves itself, since its trials do.
    `more` are the names of Scores.more."""
    if not distributed.is_first():
        return NullLogger(folder)
    integrations: Sequence[Integration] = job.integrations
    if job.trials:
        integrations = ()
    return MetricsLogger(folder, integrations, job.settings.ceiling_s, more)


class NullLogger(MetricsLogger):
    """A logger that writes nothing, for processes other than the first."""

    def begin(self, after: int) -> None: ...

    def log(
        self, message: str, level: Literal["info", "warn"] = "info", data: Mapping[str, object] | None = None
    ) -> None: ...

    def record(self, step: Step, *, is_validated_next: bool = False) -> None: ...

    def record_validation(self, step: Step, valid: Scores) -> None: ...

    def last_scores(self) -> Scores:
        return Scores(0.0, None)

    def write_progress(
        self, progress: Progress, *, is_paused: bool = False, is_over: bool = False
    ) -> None: ...

    def end(self, *, is_done: bool) -> None: ...
