"""The result of a training on our own engine: which checkpoint it is, the adapter, and DONE last of all."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel

from trainers.local.spool import TrainingJob, replace_json
from trainers.local.training import team
from trainers.local.training.base import count_parameters
from trainers.local.training.checkpoints import checkpoint_folder, save_checkpoint_as_result, save_result
from trainers.local.training.course import Position, Stop, best, result_sentence, stop_sentence
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.journal import Journal, Progress


def finish(
    folder: Path,
    job: TrainingJob,
    model: PeftModel,
    position: Position,
    total: int,
    stop: Stop | None,
    journal: Journal,
) -> None:
    """Writes the result, which is the checkpoint of the lowest validation loss where there is one, and DONE.

    Of a team the first process does.
    """
    if position.step == 0:
        text = (
            f"The ceiling of {job.settings.ceiling_s:,.0f} s was reached before the first step: reading the rows and "
            f"loading the model took {position.seconds:,.0f} s. Set max_seconds or max_usd higher."
        )
        raise TrainingFailed("ceiling_reached", text, "max_seconds")
    stopped = stop_sentence(stop, position, total, job.settings) if stop else None
    if stopped:
        journal.warn(stopped)
    chosen = result_sentence(position, total)
    if chosen:
        journal.say(chosen)
    if not team.is_first():
        return
    lowest = best(position.validations)
    result_step = position.step if lowest is None else lowest.step
    if checkpoint_folder(folder, result_step).exists():
        save_checkpoint_as_result(folder, result_step)
    else:
        save_result(folder, model)
    journal.say(f"Trained on {position.trained_tokens:,} tokens in {position.seconds:,.0f} s; adapter saved")
    progress = Progress(position.step, total, position.trained_tokens, position.seconds, journal.step_s)
    journal.place(progress, is_over=True)
    done = {
        "trained_tokens": position.trained_tokens,
        "seconds": round(position.seconds, 1),
        "trainable_parameters": count_parameters(model).trainable,
        "step": position.step,
        "result_step": result_step,
        "stopped": stopped,
    }
    replace_json(folder / "DONE", done)
