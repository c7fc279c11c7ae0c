"""Base against tuned on the frozen holdout: asked a few rows a tick, kept as they come, judged at the end.

Only exact matches count as right; free text is held to the same rule, which the result card says.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from bot.decisions.actuals import Asked, actual_micros
from bot.decisions.planning import Plan, plan_from_json
from bot.judging import ArmAnswers, Judged, judge
from bot.results import ChangedRow, Progress, RunResult
from bot.views.blocks import code, escape
from bot.workflows import telling, training
from bot.workflows.desk import Desk
from storage.records import AnswerRow, Arm, Run
from trainers.client import Trainer
from trainers.dataset import Example, prompted, read
from trainers.errors import Nonsense, Refused, TrainerError
from trainers.evaluation import exact_match
from trainers.pricing import PriceList
from trainers.types import Answer, Message

ROWS_A_STEP = 32
CALLERS = 16
MAX_TOKENS_LABEL, MAX_TOKENS_TEXT = 24, 256
ARMS: tuple[Arm, Arm] = ("base", "tuned")
TIMEOUT_S = 120.0

log = logging.getLogger(__name__)


def evaluate(desk: Desk, run: Run) -> None:
    """One step: the next rows of an arm, or the judgement once both arms are whole."""
    plan, trainer = plan_from_json(run.plan), desk.trainers.get(run.provider)
    if run.cancel_asked_by:
        _end(desk, run, plan, "cancelled", f"Measuring was cancelled by <@{run.cancel_asked_by}>.")
        return
    if trainer is None:
        training.wait_for_key(desk, run)
        return
    if not trainer.provider.can("chat"):
        _end(desk, run, plan, "failed", f"{run.provider} doesn't serve it, so it could not be measured.")
        return
    holdout = _holdout(desk, plan)
    for arm in ARMS:
        answered = {answer.row for answer in desk.store.runs.answers(run.id, arm)}
        missing = [row for row in range(len(holdout)) if row not in answered]
        if missing:
            _ask_rows(desk, run, plan, arm, holdout, missing[:ROWS_A_STEP])
            return
    _judge(desk, run, plan, holdout)


def _ask_rows(
    desk: Desk, run: Run, plan: Plan, arm: Arm, holdout: Sequence[Example], rows: Sequence[int]
) -> None:
    trainer = desk.trainers[run.provider]
    model = plan.base_model if arm == "base" else _tuned(desk, run)
    ask = partial(_ask, trainer, model, MAX_TOKENS_LABEL if plan.labels else MAX_TOKENS_TEXT)
    with ThreadPoolExecutor(CALLERS) as callers:
        asked = {row: callers.submit(ask, _prompt(plan, arm, holdout[row])) for row in rows}
    # an answer that came was paid for: it is kept, whatever became of its neighbours
    desk.store.runs.keep_answers(
        _answer_row(run, arm, row, future.result(), holdout[row].answer)
        for row, future in asked.items()
        if future.exception() is None
    )
    run = _count(desk, run, len(holdout))
    for future in asked.values():
        trouble = future.exception()
        if trouble is not None:
            _answer_trouble(desk, run, plan, trouble)
            return


def _answer_trouble(desk: Desk, run: Run, plan: Plan, trouble: BaseException) -> None:
    match trouble:
        case Refused():
            _end(desk, run, plan, "failed", f"Measuring failed: {escape(str(trouble))}")
        case TrainerError():
            training.wait(desk, run, 5.0, note=f"{trouble} Measuring goes on by itself.")
        case _:
            raise trouble


def _ask(trainer: Trainer, model: str, max_tokens: int, messages: Sequence[Message]) -> Answer:
    return trainer.chat(model, messages, max_tokens=max_tokens, timeout_s=TIMEOUT_S)


def _prompt(plan: Plan, arm: Arm, example: Example) -> Sequence[Message]:
    """The base model is told the labels; the tuned one has learnt them."""
    return prompted(example, plan.labels) if arm == "base" else example.prompt


def _answer_row(run: Run, arm: Arm, row: int, answer: Answer, expected: str) -> AnswerRow:
    return AnswerRow(
        run_id=run.id,
        arm=arm,
        row=row,
        text=answer.text,
        correct=exact_match(expected, answer.text),
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        seconds=answer.seconds,
    )


def _count(desk: Desk, run: Run, rows: int) -> Run:
    """The run with its new progress."""
    done = sum(len(desk.store.runs.answers(run.id, arm)) for arm in ARMS)
    progress = replace(
        Progress.from_json(run.progress), evaluated=done, to_evaluate=len(ARMS) * rows, note=None
    )
    now = desk.clock()
    moved = desk.store.runs.move(run, "evaluating", now=now, progress=progress.to_json(), next_at=now)
    if moved is None:
        return run
    telling.progress(desk, moved)
    return moved


def _judge(desk: Desk, run: Run, plan: Plan, holdout: Sequence[Example]) -> None:
    trainer = desk.trainers[run.provider]
    try:
        metrics = trainer.metrics(trainer.job(str(run.job_id)))
    except (Refused, Nonsense) as gone:
        log.warning("run %s: its result has no loss curve: %s", run.id, gone)
        metrics = ()
    except TrainerError as trouble:
        training.wait(desk, run, 5.0, note=str(trouble))
        return
    judged = desk.workers.poll(
        f"judge {run.id}",
        judge,
        _arm(desk, run, "base"),
        _arm(desk, run, "tuned"),
        [example.answer for example in holdout],
        metrics,
        labelled=bool(plan.labels),
        title=run.model or "",
        folder=desk.settings.data / "plots" / f"run-{run.id}",
    )
    if judged is not None:
        _finish(desk, run, plan, judged)


def _arm(desk: Desk, run: Run, arm: Arm) -> ArmAnswers:
    rows = desk.store.runs.answers(run.id, arm)
    return ArmAnswers(
        texts=tuple(row.text for row in rows),
        correct=tuple(row.correct for row in rows),
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        completion_tokens=sum(row.completion_tokens for row in rows),
        seconds=tuple(row.seconds for row in rows),
    )


def _finish(desk: Desk, run: Run, plan: Plan, judged: Judged) -> None:
    now = desk.clock()
    progress = Progress.from_json(run.progress)
    actual = _spent(desk, run, plan)
    result = RunResult(
        base=judged.base,
        tuned=judged.tuned,
        better=judged.better,
        worse=judged.worse,
        p_value=judged.p_value,
        gain_low=judged.gain_low,
        gain_high=judged.gain_high,
        train_seconds=progress.train_seconds,
        trained_tokens=progress.trained_tokens,
        steps=progress.step,
        estimated_micros=plan.expected_micros,
        actual_micros=actual,
        labelled=bool(plan.labels),
        loss_curve=judged.loss_curve,
    )
    changed = changed_rows(desk, run, plan) if desk.directory.is_private(run.channel) else []
    with desk.store.transaction():
        moved = desk.store.runs.move(run, "done", now=now, result=result.to_json(), actual_micros=actual)
        if moved is None:
            return
        desk.store.runs.book(moved, "settle", actual, month=telling.month(now), now=now)
        desk.store.audit.add(at=now, who="finetune", action="done", subject=f"run {run.id}")
        telling.progress(desk, moved)
        telling.result(
            desk,
            moved,
            plan,
            result,
            changed,
            (judged.loss_plot, judged.confusion_plot),
        )


def changed_rows(desk: Desk, run: Run, plan: Plan) -> list[ChangedRow]:
    """Held-out rows that one arm got right and the other wrong, the losses first."""
    holdout = _holdout(desk, plan)
    base, tuned = (desk.store.runs.answers(run.id, arm) for arm in ARMS)
    changed = [
        ChangedRow(example.prompt[-1].content, example.answer, before.text, after.text, after.correct)
        for example, before, after in zip(holdout, base, tuned, strict=True)
        if before.correct != after.correct
    ]
    return sorted(changed, key=lambda row: row.is_better)


def _holdout(desk: Desk, plan: Plan) -> tuple[Example, ...]:
    path = desk.settings.files / f"{plan.holdout_sha256}.jsonl"
    return read(path, path.name).examples


def _tuned(desk: Desk, run: Run) -> str:
    return next(model.provider_model for model in desk.store.models() if model.name == run.model)


def _end(desk: Desk, run: Run, plan: Plan, state: telling.EndState, why: str) -> None:
    """Without a result; the training and the answers so far have to be paid all the same."""
    kept = f"The model is trained and kept as {code(run.model or '')}. {why}"
    training.end(desk, run, state, kept, actual_micros=_spent(desk, run, plan))


def _spent(desk: Desk, run: Run, plan: Plan) -> int:
    base, tuned = (_arm(desk, run, arm) for arm in ARMS)
    progress = Progress.from_json(run.progress)
    return actual_micros(
        PriceList.from_json(plan.prices),
        progress.train_seconds,
        progress.trained_tokens,
        Asked(base.prompt_tokens, base.completion_tokens),
        Asked(tuned.prompt_tokens, tuned.completion_tokens),
    )
