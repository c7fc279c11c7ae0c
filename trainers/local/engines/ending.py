"""How a training by another engine ends: its result, the sentences about it, and DONE last of all, as result.py's does.

The result is a checkpoint: an engine that is ended early leaves nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from trainers.local.engines.publishing import last_position, publish_result, published_steps
from trainers.local.spool import TrainingJob, replace_json
from trainers.local.training.course import Position, Stop, best, result_sentence, stop_sentence
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.journal import Journal, Progress


@dataclass(frozen=True)
class Ended:
    """Where a training of `total` steps ended, and why if before the last."""

    position: Position
    total: int
    stop: Stop | None


def finish(folder: Path, job: TrainingJob, output: Path, ended: Ended, journal: Journal) -> None:
    """`folder` is the job's, `output` the engine's. Raises TrainingFailed where there is no result."""
    at, total = ended.position, ended.total
    stopped = _stopped(folder, job, ended, journal)
    saved = _with_saved(folder, at)
    chosen, lowest = result_sentence(saved, total), best(saved.validations)
    if chosen:
        journal.say(chosen)
    result_step = lowest.step if lowest else max(published_steps(folder), default=total)
    trainable = publish_result(folder, output, result_step, job.settings.engine)
    journal.say(f"Trained on {at.trained_tokens:,} tokens in {at.seconds:,.0f} s; adapter saved")
    journal.place(Progress(at.step, total, at.trained_tokens, at.seconds, journal.step_s), is_over=True)
    done = {
        "trained_tokens": at.trained_tokens,
        "seconds": round(at.seconds, 1),
        "trainable_parameters": trainable,
        "step": at.step,
        "result_step": result_step,
        "stopped": stopped,
    }
    replace_json(folder / "DONE", done)


def _stopped(folder: Path, job: TrainingJob, ended: Ended, journal: Journal) -> str | None:
    """Raises TrainingFailed where nothing was kept."""
    if ended.stop is None or ended.position.step == ended.total:
        return None
    kept, at = last_position(folder).step, ended.position
    if not kept:
        text = (
            f"The ceiling of {job.settings.ceiling_s:,.0f} s was reached before the first checkpoint: reading the "
            f"rows, loading the model and {at.step} steps took {at.seconds:,.0f} s. Set max_seconds or max_usd higher."
        )
        raise TrainingFailed("ceiling_reached", text, "max_seconds")
    sentence = stop_sentence(ended.stop, at, ended.total, job.settings)
    journal.warn(sentence)
    if ended.stop == "ceiling" and kept < at.step:
        journal.warn(f"What was learnt after the checkpoint of step {kept} is lost")
    return sentence


def _with_saved(folder: Path, at: Position) -> Position:
    """With all its validations, or, where the best of them has no checkpoint, with those that have."""
    kept = published_steps(folder)
    saved = tuple(each for each in at.validations if each.step in kept)
    return at if best(saved) == best(at.validations) else replace(at, validations=saved)
