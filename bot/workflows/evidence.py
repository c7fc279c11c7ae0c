"""Base against tuned on the frozen holdout: asked in the background, kept as the answers come, judged at the end.

The questions, their cache and the reading of labels are the ladder's, so a base model that the ladder has asked is
not asked again. Free text counts as right only where it matches exactly, which the result card says.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bot.asking.askers import Declined, Question, key_of
from bot.decisions.actuals import Asked, actual_micros
from bot.decisions.planning import Plan, plan_from_json
from bot.results import ChangedRow, Progress, RunResult
from bot.views.blocks import code, escape
from bot.work import climbing
from bot.work.climbing import max_tokens
from bot.work.judging import ArmAnswers, Judged, judge
from bot.workflows import calibrating, in_use, outcomes, sharing, telling, training
from bot.workflows.desk import Desk
from storage.records import AnswerRow, Arm, KeptReply, Run
from trainers.chatting import room
from trainers.dataset import Example
from trainers.errors import Changed, Nonsense, Refused, TrainerError
from trainers.evaluation import exact_match
from trainers.measuring.prompts import zero_shot
from trainers.measuring.scoring import as_label, is_label
from trainers.money import usd_micros
from trainers.pricing import PriceList
from trainers.types import Message, SweepArm

ARMS: tuple[Arm, Arm] = ("base", "tuned")
SURELY_DECLINED = 5

log = logging.getLogger(__name__)


def evaluate(desk: Desk, run: Run) -> None:
    """One step: answers that came are written down, missing ones asked for; once all are there, the judgement."""
    plan = plan_from_json(run.plan)
    try:
        _evaluate(desk, run, plan)
    except Changed as changed:
        _end_unjudged(desk, run, plan, changed)


def _evaluate(desk: Desk, run: Run, plan: Plan) -> None:
    trainer = desk.trainers.get(run.provider)
    if run.cancel_asked_by:
        _cancel(desk, run, plan)
        return
    if trainer is None:
        training.wait_for_key(desk, run)
        return
    if not trainer.provider.can("chat"):
        _end(desk, run, plan, "failed", f"{run.provider} doesn't serve it, so it could not be measured.")
        return
    holdout = _holdout(desk, plan)
    questions = {arm: _questions(desk, run, plan, arm, holdout) for arm in ARMS}
    declined = desk.askers.collect(_owner(run))
    _write_down(desk, run, plan, holdout, questions, declined)
    missing = [one for arm in ARMS for one in _missing(desk, run, arm, questions[arm]).values()]
    hopeless = _hopeless(desk, run, declined)
    if hopeless:
        desk.askers.drop(_owner(run))
        _end(desk, run, plan, "failed", f"Measuring failed: {escape(hopeless)}")
    elif missing and (too_dear := _overrun(desk, run, plan, questions)):
        if not desk.askers.drop(_owner(run)):  # what is under way has to be paid: it is waited for
            _end(desk, run, plan, "failed", too_dear)
    elif missing:
        desk.askers.ask(_owner(run), run.provider, missing)
        _count(desk, run, len(holdout), len(missing))
    else:
        _judge(desk, run, plan, holdout)


def _overrun(desk: Desk, run: Run, plan: Plan, questions: Mapping[Arm, Sequence[Question]]) -> str | None:
    """The sentence for a run whose training and answers so far have cost more than was approved."""
    base, tuned = (_asked(desk, run, arm, questions[arm]) for arm in ARMS)
    spent = _cost(run, plan, base, tuned)
    if spent <= plan.maximum_micros:
        return None
    most, cost = usd_micros(plan.maximum_micros), usd_micros(spent)
    return (
        f"Measuring was stopped because of its cost: the plan allows {most} at most, and it has cost {cost}."
    )


def _cancel(desk: Desk, run: Run, plan: Plan) -> None:
    """What is under way has to be paid: it is waited for, and written down."""
    if desk.askers.drop(_owner(run)):
        return
    holdout = _holdout(desk, plan)
    questions = {arm: _questions(desk, run, plan, arm, holdout) for arm in ARMS}
    _write_down(desk, run, plan, holdout, questions, ())
    _end(desk, run, plan, "cancelled", f"Measuring was cancelled by <@{run.cancel_asked_by}>.")


def tuned_questions(
    desk: Desk, provider: str, model: str, labels: Sequence[str], holdout: Sequence[Example]
) -> list[Question]:
    """In the holdout's order. `model` is its name at the provider; it has learnt the labels."""
    return _each(desk, provider, model, labels, [_plainly(row) for row in holdout])


def _questions(desk: Desk, run: Run, plan: Plan, arm: Arm, holdout: Sequence[Example]) -> list[Question]:
    """In the holdout's order. The base model is told the labels."""
    if arm == "tuned":
        return tuned_questions(desk, run.provider, _tuned(desk, run), plan.labels, holdout)
    told = [zero_shot(row, plan.labels, None) for row in holdout]
    return _each(desk, run.provider, plan.base_model, plan.labels, told)


def _each(
    desk: Desk, provider: str, model: str, labels: Sequence[str], asked: Sequence[tuple[Message, ...]]
) -> list[Question]:
    name, row = f"{provider}/{model}", desk.settings.provider(provider)
    most = max_tokens(labels) + room(row is not None and row.thinks(model))
    return [Question(key_of(name, one, most), name, model, one, most) for one in asked]


def _plainly(row: Example) -> tuple[Message, ...]:
    """As it was trained; weights are for training only."""
    return tuple(replace(message, weight=None) for message in row.prompt)


def _write_down(
    desk: Desk,
    run: Run,
    plan: Plan,
    holdout: Sequence[Example],
    questions: Mapping[Arm, Sequence[Question]],
    declined: Sequence[Declined],
) -> None:
    """Answers that are not in the run's own record yet. A question that was declined counts as an empty answer."""
    refused = {one.key for one in declined if not one.of_model}
    for arm in ARMS:
        missing = _missing(desk, run, arm, questions[arm])
        found = desk.store.replies.found([one.key for one in missing.values()])
        desk.store.runs.keep_answers(
            _answer_row(run, arm, row, found.get(one.key), holdout[row], plan)
            for row, one in missing.items()
            if one.key in found or one.key in refused
        )


def _missing(desk: Desk, run: Run, arm: Arm, questions: Sequence[Question]) -> Mapping[int, Question]:
    """By row: two rows may ask the same."""
    answered = {answer.row for answer in desk.store.runs.answers(run.id, arm)}
    return {row: one for row, one in enumerate(questions) if row not in answered}


def _hopeless(desk: Desk, run: Run, declined: Sequence[Declined]) -> str | None:
    """Why a model can't be asked at all."""
    of_model = next((one.why for one in declined if one.of_model), None)
    if of_model or not declined:
        return of_model
    for arm in ARMS:
        answers = desk.store.runs.answers(run.id, arm)
        if len(answers) >= SURELY_DECLINED and not any(one.prompt_tokens for one in answers):
            return declined[0].why
    return None


def _answer_row(
    run: Run, arm: Arm, row: int, reply: KeptReply | None, example: Example, plan: Plan
) -> AnswerRow:
    text = reply.text if reply else ""
    right = is_label(example.answer, text, plan.labels) if plan.labels else exact_match(example.answer, text)
    return AnswerRow(
        run_id=run.id,
        arm=arm,
        row=row,
        text=text,
        correct=right,
        prompt_tokens=reply.prompt_tokens if reply else 0,
        completion_tokens=reply.completion_tokens if reply else 0,
        seconds=reply.seconds if reply else 0.0,
        came_at=reply.at if reply else None,
    )


def _count(desk: Desk, run: Run, rows: int, missing: int) -> None:
    """The card says how far it is, and why it waits where it does."""
    trouble = desk.askers.trouble(run.provider)
    before = Progress.from_json(run.progress)
    progress = replace(
        before,
        evaluated=len(ARMS) * rows - missing,
        to_evaluate=len(ARMS) * rows,
        note=f"{trouble} Measuring goes on by itself." if trouble else None,
    )
    if progress == before:
        return
    now = desk.clock()
    moved = desk.store.runs.move(run, "evaluating", now=now, progress=progress.to_json(), next_at=now)
    if moved:
        telling.progress(desk, moved)


def _judge(desk: Desk, run: Run, plan: Plan, holdout: Sequence[Example]) -> None:
    trainer = desk.trainers[run.provider]
    try:
        job = trainer.job(str(run.job_id))
        metrics = trainer.metrics(job)
        arms = trainer.arms(job) if plan.swept else ()
    except (Refused, Nonsense) as gone:
        log.warning("run %s: its result has no loss curve: %s", run.id, gone)
        metrics, arms = (), ()
    except TrainerError as trouble:
        training.wait(desk, run, 5.0, note=str(trouble))
        return
    judged = desk.workers.poll(
        f"judge {run.id}",
        judge,
        _arm(desk, run, plan, "base"),
        _arm(desk, run, plan, "tuned"),
        [example.answer for example in holdout],
        metrics,
        labelled=bool(plan.labels),
        title=run.model or "",
        folder=desk.settings.data / "plots" / f"run-{run.id}",
        measured=outcomes.measured(desk, run, plan),
        now=desk.clock(),
    )
    if judged is not None:
        _finish(desk, run, plan, judged, arms)


def _arm(desk: Desk, run: Run, plan: Plan, arm: Arm) -> ArmAnswers:
    """Answers as the labels that they mean, where there are labels."""
    rows = desk.store.runs.answers(run.id, arm)
    return ArmAnswers(
        texts=tuple(as_label(row.text, plan.labels) if plan.labels else row.text for row in rows),
        correct=tuple(row.correct for row in rows),
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        completion_tokens=sum(row.completion_tokens for row in rows),
        seconds=tuple(row.seconds for row in rows),
    )


def _finish(desk: Desk, run: Run, plan: Plan, judged: Judged, arms: tuple[SweepArm, ...]) -> None:
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
        beside=judged.beside.to_json() if judged.beside else None,
        advice=outcomes.advice(desk, run, plan, judged.beside) if judged.beside else None,
        arms=arms,
        at_once=_at_once(desk, plan, judged.tuned.n),
    )
    # what is to be said is gathered before the write lock is taken
    ended = replace(run, result=result.to_json())
    may_be_used, errors = in_use.may_be_offered(desk, ended), calibrating.running(desk, ended)
    may_show = sharing.may_show_rows(desk, desk.store.datasets.get(run.dataset_id), run.channel)
    changed = changed_rows(desk, run, plan) if may_show else []
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
            errors,
            may_be_used=may_be_used,
        )


def _at_once(desk: Desk, plan: Plan, asked: int) -> int | None:
    row = desk.settings.provider(plan.provider)
    return min(row.callers, asked) if row else None


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
    return climbing.examples(desk.settings.files, plan.holdout_sha256)


def _tuned(desk: Desk, run: Run) -> str:
    return next(model.provider_model for model in desk.store.models() if model.name == run.model)


def _end(desk: Desk, run: Run, plan: Plan, state: telling.EndState, why: str) -> None:
    """Without a result; the training and the answers so far have to be paid all the same."""
    kept = f"The model is trained and kept as {code(run.model or '')}. {why}"
    training.end(desk, run, state, kept, actual_micros=_spent(desk, run, plan))


def _end_unjudged(desk: Desk, run: Run, plan: Plan, changed: Changed) -> None:
    """The held-out rows are not those that were approved. Which answers were free is known by those rows alone, so
    all of them count as paid."""
    if desk.askers.drop(_owner(run)):
        return
    base, tuned = (_all_asked(desk, run, arm) for arm in ARMS)
    kept = f"The model is trained and kept as {code(run.model or '')}, and was not judged. {escape(str(changed))}"
    training.end(desk, run, "failed", kept, actual_micros=_cost(run, plan, base, tuned))


def _all_asked(desk: Desk, run: Run, arm: Arm) -> Asked:
    answers = desk.store.runs.answers(run.id, arm)
    return Asked(sum(one.prompt_tokens for one in answers), sum(one.completion_tokens for one in answers))


def _spent(desk: Desk, run: Run, plan: Plan) -> int:
    holdout = _holdout(desk, plan)
    base, tuned = (_asked(desk, run, arm, _questions(desk, run, plan, arm, holdout)) for arm in ARMS)
    return _cost(run, plan, base, tuned)


def _cost(run: Run, plan: Plan, base: Asked, tuned: Asked) -> int:
    progress = Progress.from_json(run.progress)
    prices = PriceList.from_json(plan.prices)
    return actual_micros(prices, progress.train_seconds, progress.trained_tokens, base, tuned)


def _asked(desk: Desk, run: Run, arm: Arm, questions: Sequence[Question]) -> Asked:
    """What this run has paid for, each question once: answers that were known before it asked are free."""
    found = desk.store.replies.found([one.key for one in questions])
    known = {
        row for row, one in enumerate(questions) if one.key in found and found[one.key].at < run.state_since
    }
    answers = desk.store.runs.answers(run.id, arm)
    paid = {questions[one.row].key: one for one in answers if one.row not in known}.values()
    return Asked(sum(one.prompt_tokens for one in paid), sum(one.completion_tokens for one in paid))


def _owner(run: Run) -> str:
    return f"run {run.id}"
