"""Base against tuned on the frozen holdout: asked in the background, kept as the answers come, judged at the end.

The questions, their cache and the reading of labels are the ladder's, so a base model that the ladder has asked is
not asked again. Free text counts as right only where it matches exactly, which the result card says.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from bot.asking.askers import key_of
from bot.asking.lanes import Declined, Question
from bot.decisions.actuals import Asked, actual_micros
from bot.decisions.planning import Plan, plan_from_json
from bot.results import ChangedRow, Progress, RunResult
from bot.views.blocks import code, escape
from bot.work import climbing
from bot.work.climbing import max_tokens
from bot.work.judging import ArmAnswers, Judged, judge
from bot.workflows import calibrating, in_use, leaving, outcomes, sharing, telling, training
from bot.workflows.desk import Desk
from storage.records import AnswerRow, Arm, KeptReply, Run
from storage.replies import Heard
from trainers.chatting import room
from trainers.dataset import Example
from trainers.dataset.values import at, without_copies
from trainers.errors import Changed, Nonsense, Refused, TrainerError
from trainers.evaluation import exact_match
from trainers.measuring.prompts import zero_shot
from trainers.measuring.scoring import as_label, is_label
from trainers.money import usd_micros
from trainers.pricing import PriceList
from trainers.types import Message, Metric, SweepArm

ARMS: tuple[Arm, Arm] = ("base", "tuned")
SURELY_DECLINED = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Measuring:
    """A run whose model is asked: the keys of its questions, how many have their answer, what those have cost."""

    run: Run
    plan: Plan
    keys: Mapping[Arm, tuple[str, ...]]
    heard: Mapping[Arm, Heard]

    @property
    def wanted(self) -> int:
        return sum(len(set(keys)) for keys in self.keys.values())

    @property
    def answered(self) -> int:
        return sum(heard.answers for heard in self.heard.values())

    @property
    def cost(self) -> int:
        asked = {arm: Asked(one.prompt_tokens, one.completion_tokens) for arm, one in self.heard.items()}
        return _cost(self.run, self.plan, asked["base"], asked["tuned"])


def evaluate(desk: Desk, run: Run) -> None:
    """One step: answers are counted, missing ones asked for; once all are there, they are written down and judged.

    While answers come it reads no held-out row and builds no question: with a thousand rows that took a second a tick.
    """
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
    if desk.workers.has(_judging(run)):
        _judge(desk, run, plan)
        return
    keys = {arm: _keys(desk, run, plan, arm) for arm in ARMS}
    declined = desk.askers.collect(_owner(run))
    if declined:
        _write_down(desk, run, plan, declined)
    # Before the answers are counted: one that comes between the two looks is counted, and not asked for again.
    idle = desk.askers.idle(run.provider, frozenset(key for arm in ARMS for key in keys[arm]))
    known = _Measuring(run, plan, keys, _heard(desk, run, keys))
    missing = known.wanted - known.answered - desk.store.runs.silent(run.id)
    if hopeless := _hopeless(desk, known, declined):
        desk.askers.drop(_owner(run))
        _end(desk, run, plan, "failed", f"Measuring failed: {escape(hopeless)}")
    elif missing > 0 and (too_dear := _overrun(known)):
        if not desk.askers.drop(_owner(run)):  # what is under way has to be paid: it is waited for
            _end(desk, run, plan, "failed", too_dear)
    elif missing > 0:
        if len(idle) > known.wanted - missing:  # some neither have an answer nor are on their way to one
            if not _may_leave(desk, run, plan):
                return
            desk.askers.ask(_owner(run), run.provider, _write_down(desk, run, plan, ()))
        desk.askers.wake()
        _count(desk, known, missing)
    elif unanswered := _write_down(desk, run, plan, ()):
        if _may_leave(desk, run, plan):
            desk.askers.ask(_owner(run), run.provider, unanswered)
    else:
        _judge(desk, run, plan)


def _may_leave(desk: Desk, run: Run, plan: Plan) -> bool:
    """By what was found in its held-out rows and the rules as they are. A run from before an update waits until they
    were looked through as they are written."""
    waits = leaving.not_looked_through(desk, run.dataset_id, [run.provider])
    forbidden = None if waits else leaving.still(desk, plan)
    if waits:
        training.wait(desk, run, 5.0, note=waits)
    elif forbidden and not desk.askers.drop(
        _owner(run)
    ):  # what is under way has to be paid: it is waited for
        _end(desk, run, plan, "failed", forbidden)
    return not (waits or forbidden)


def _heard(desk: Desk, run: Run, keys: Mapping[Arm, Sequence[str]]) -> Mapping[Arm, Heard]:
    """Answers that were known before this run asked are free."""
    return {arm: desk.store.replies.heard(keys[arm], since=run.state_since) for arm in ARMS}


def _overrun(known: _Measuring) -> str | None:
    """The sentence for a run whose training and answers so far have cost more than was approved."""
    if known.cost <= known.plan.maximum_micros:
        return None
    most, cost = usd_micros(known.plan.maximum_micros), usd_micros(known.cost)
    return (
        f"Measuring was stopped because of its cost: the plan allows {most} at most, and it has cost {cost}."
    )


def _cancel(desk: Desk, run: Run, plan: Plan) -> None:
    """What is under way has to be paid: it is waited for, and written down."""
    if desk.askers.drop(_owner(run)):
        return
    _write_down(desk, run, plan, ())
    _end(desk, run, plan, "cancelled", f"Measuring was cancelled by <@{run.cancel_asked_by}>.")


def _keys(desk: Desk, run: Run, plan: Plan, arm: Arm) -> tuple[str, ...]:
    if arm == "tuned":
        return tuned_keys(desk, run.provider, _tuned(desk, run), plan.labels, plan.holdout_sha256)
    name, most = _asked_as(desk, run.provider, plan.base_model, plan.labels)
    return _keys_of(desk.settings.files, plan.holdout_sha256, name, plan.labels, most, is_told=True)


def tuned_keys(
    desk: Desk, provider: str, model: str, labels: tuple[str, ...], holdout_sha256: str
) -> tuple[str, ...]:
    """Those of `tuned_questions`, without building these."""
    name, most = _asked_as(desk, provider, model, labels)
    return _keys_of(desk.settings.files, holdout_sha256, name, labels, most, is_told=False)


@lru_cache(maxsize=64)
def _keys_of(
    files: Path, holdout_sha256: str, name: str, labels: tuple[str, ...], most: int, *, is_told: bool
) -> tuple[str, ...]:
    """Of the questions about each held-out row, worked out once a process."""
    rows = climbing.examples(files, holdout_sha256)
    return tuple(key_of(name, _prompt(row, labels, is_told=is_told), most) for row in rows)


def tuned_questions(
    desk: Desk, provider: str, model: str, labels: Sequence[str], holdout: Sequence[Example]
) -> list[Question]:
    """In the holdout's order. `model` is its name at the provider; it has learnt the labels."""
    return _each(desk, provider, model, labels, [_prompt(row, labels, is_told=False) for row in holdout])


def _questions(desk: Desk, run: Run, plan: Plan, arm: Arm, holdout: Sequence[Example]) -> list[Question]:
    """In the holdout's order."""
    if arm == "tuned":
        return tuned_questions(desk, run.provider, _tuned(desk, run), plan.labels, holdout)
    told = [_prompt(row, plan.labels, is_told=True) for row in holdout]
    return _each(desk, run.provider, plan.base_model, plan.labels, told)


def _each(
    desk: Desk, provider: str, model: str, labels: Sequence[str], asked: Sequence[tuple[Message, ...]]
) -> list[Question]:
    name, most = _asked_as(desk, provider, model, labels)
    return [Question(key_of(name, one, most), name, model, one, most) for one in asked]


def _asked_as(desk: Desk, provider: str, model: str, labels: Sequence[str]) -> tuple[str, int]:
    """The model's full name, and the most tokens of an answer."""
    row = desk.settings.provider(provider)
    return f"{provider}/{model}", max_tokens(labels) + room(row is not None and row.thinks(model))


def _prompt(row: Example, labels: Sequence[str], *, is_told: bool) -> tuple[Message, ...]:
    """The base model is told the labels. The tuned one is asked as it was trained; weights are for training only."""
    if is_told:
        return zero_shot(row, labels, None)
    return tuple(replace(message, weight=None) for message in row.prompt)


def _write_down(desk: Desk, run: Run, plan: Plan, declined: Sequence[Declined]) -> list[Question]:
    """Answers that are not in the run's own record yet; the questions that still lack one are given back. One that was
    declined counts as an empty answer."""
    holdout = _holdout(desk, plan)
    refused = {one.key for one in declined if not one.of_model}
    unanswered: list[Question] = []
    for arm in ARMS:
        missing = _missing(desk, run, arm, _questions(desk, run, plan, arm, holdout))
        found = desk.store.replies.found([one.key for one in missing.values()])
        desk.store.runs.keep_answers(
            _answer_row(run, arm, row, found.get(one.key), holdout[row], plan)
            for row, one in missing.items()
            if one.key in found or one.key in refused
        )
        unanswered += [one for one in missing.values() if one.key not in found and one.key not in refused]
    return unanswered


def _missing(desk: Desk, run: Run, arm: Arm, questions: Sequence[Question]) -> Mapping[int, Question]:
    """By row: two rows may ask the same."""
    answered = {answer.row for answer in desk.store.runs.answers(run.id, arm)}
    return {row: one for row, one in enumerate(questions) if row not in answered}


def _hopeless(desk: Desk, known: _Measuring, declined: Sequence[Declined]) -> str | None:
    """Why a model can't be asked at all."""
    of_model = next((one.why for one in declined if one.of_model), None)
    if of_model or not declined:
        return of_model
    for arm in ARMS:
        answers = desk.store.runs.answers(known.run.id, arm)
        if len(answers) >= SURELY_DECLINED and not any(one.prompt_tokens for one in answers):
            return declined[0].why if not known.heard[arm].answers else None
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


def _count(desk: Desk, known: _Measuring, missing: int) -> None:
    """The card says how far it is, and why it waits where it does."""
    run, rows = known.run, sum(len(keys) for keys in known.keys.values())
    trouble = desk.askers.trouble(run.provider)
    before = Progress.from_json(run.progress)
    progress = replace(
        before,
        evaluated=rows - missing,
        to_evaluate=rows,
        note=f"{trouble} Measuring goes on by itself." if trouble else None,
    )
    if progress == before:
        return
    now = desk.clock()
    moved = desk.store.runs.move(run, "evaluating", now=now, progress=progress.to_json(), next_at=now)
    if moved:
        telling.progress(desk, moved)


def _judge(desk: Desk, run: Run, plan: Plan) -> None:
    """The worker's arguments are gathered once; from then on its answer is only looked for."""
    is_begun, trainer = desk.workers.has(_judging(run)), desk.trainers[run.provider]
    try:
        job = None if is_begun and not plan.swept else trainer.job(str(run.job_id))
        metrics = trainer.metrics(job) if job and not is_begun else ()
        arms = trainer.arms(job) if job and plan.swept else ()
    except (Refused, Nonsense) as gone:
        log.warning("run %s: its result has no loss curve: %s", run.id, gone)
        metrics, arms = (), ()
    except TrainerError as trouble:
        training.wait(desk, run, 5.0, note=str(trouble))
        return
    judged = desk.workers.take(_judging(run)) if is_begun else _begin_judging(desk, run, plan, metrics)
    if judged is not None:
        _finish(desk, run, plan, judged, arms)


def _begin_judging(desk: Desk, run: Run, plan: Plan, metrics: Sequence[Metric]) -> Judged | None:
    holdout = _holdout(desk, plan)
    places = without_copies(holdout)
    return desk.workers.poll(
        _judging(run),
        judge,
        _arm(desk, run, plan, "base", places),
        _arm(desk, run, plan, "tuned", places),
        [holdout[place].answer for place in places],
        metrics,
        labelled=bool(plan.labels),
        title=run.model or "",
        folder=desk.settings.data / "plots" / f"run-{run.id}",
        measured=outcomes.measured(desk, run, plan),
        now=desk.clock(),
    )


def _judging(run: Run) -> str:
    return f"judge {run.id}"


def _arm(desk: Desk, run: Run, plan: Plan, arm: Arm, places: Sequence[int]) -> ArmAnswers:
    """Answers to the rows in these places, as the labels that they mean where there are labels."""
    rows = at(places, desk.store.runs.answers(run.id, arm))
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
    models = {"base": plan.base_model, "tuned": _tuned(desk, run)}
    base, tuned = (_all_asked(desk, run, models[arm]) for arm in ARMS)
    kept = f"The model is trained and kept as {code(run.model or '')}, and was not judged. {escape(str(changed))}"
    training.end(desk, run, "failed", kept, actual_micros=_cost(run, plan, base, tuned))


def _all_asked(desk: Desk, run: Run, model: str) -> Asked:
    """Of another run that asks the same base model meanwhile too."""
    heard = desk.store.replies.heard_of(f"{run.provider}/{model}", since=run.state_since)
    return Asked(heard.prompt_tokens, heard.completion_tokens)


def _spent(desk: Desk, run: Run, plan: Plan) -> int:
    keys = {arm: _keys(desk, run, plan, arm) for arm in ARMS}
    return _Measuring(run, plan, keys, _heard(desk, run, keys)).cost


def _cost(run: Run, plan: Plan, base: Asked, tuned: Asked) -> int:
    progress = Progress.from_json(run.progress)
    prices = PriceList.from_json(plan.prices)
    return actual_micros(prices, progress.train_seconds, progress.trained_tokens, base, tuned)


def _owner(run: Run) -> str:
    return f"run {run.id}"
