"""Base against tuned on the frozen holdout: asked in the background, stored as answers come, judged at the
end, with the advice that follows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from bot.cards.blocks import code, escape
from bot.context import AppContext
from bot.llm_client import Declined, Question, key_of
from bot.rules import units
from bot.rules.costs import TokensUsed, actual_micros
from bot.rules.facts import Evidence
from bot.rules.plans import Plan, plan_from_json
from bot.services import (
    authorization,
    data_policy,
    datasets,
    estimate_requests,
    estimates,
    evaluation_worker,
    models,
    notifications,
    run_states,
)
from bot.services import evidence as evidence_services
from bot.services.estimates import EstimateResult
from bot.services.evaluation_worker import ArmAnswers, Judged, MeasuredRun, judge_run, max_tokens
from bot.values.runs import Advice, ChangedRow, Progress, Refusal, RunResult
from storage.evaluations import AnswerTotals
from storage.records import AnswerRow, Arm, CachedAnswer, Run
from trainers.chat_parameters import thinking_tokens
from trainers.dataset import Example
from trainers.dataset.rows import at, without_copies
from trainers.errors import Changed, Nonsense, Refused, TrainerError
from trainers.evaluation import exact_match
from trainers.evaluation.prompts import zero_shot
from trainers.evaluation.results import Candidate, Ladder
from trainers.evaluation.scoring import as_label, is_label
from trainers.money import usd_micros
from trainers.pricing import PriceList
from trainers.types import Message, Metric, SweepArm


def measured_run(context: AppContext, run: Run, plan: Plan) -> MeasuredRun:
    """For the worker: the tuned model's answers, and the alternatives that answered the same rows."""
    evidence = _evidence(context, run)
    return MeasuredRun(
        arm=Candidate("tuned", f"{plan.provider}/{run.model}"),
        replies=evidence_services.replies_of(context.store.runs.answers(run.id, "tuned")),
        labels=plan.labels,
        bar=evidence.bar,
        price=PriceList.from_json(plan.prices).rows[0],
        dataset=plan.dataset,
        version=plan.dataset_version,
        holdout=context.settings.files / f"{plan.holdout_sha256}.jsonl",
        alternatives=evidence.alternatives,
    )


def advice_for(context: AppContext, run: Run, plan: Plan, beside: Ladder) -> Advice | None:
    """None where the question can't be answered any more: its model or its price is gone from the settings."""
    made = _estimated(context, run, plan, beside)
    if isinstance(made, Refusal):
        return None
    verdict = made.verdict
    rule = verdict.main.rule if verdict.main and verdict.kind != "go" else ""
    return Advice(verdict.kind, rule, verdict.headline, verdict.next_step)


def _estimated(context: AppContext, run: Run, plan: Plan, beside: Ladder) -> EstimateResult | Refusal:
    dataset = context.store.datasets.get(run.dataset_id)
    report = datasets.report_of(dataset)
    if report is None:
        return Refusal(f"`{dataset.name}` can't be used any more.")
    return estimates.make_estimate(
        context.settings,
        dataset.name,
        report,
        estimate_requests.question_of(plan),
        units.day_of(context.clock()),
        evidence_services.with_run_result(_evidence(context, run), beside),
        is_trained=True,
    )


def _evidence(context: AppContext, run: Run) -> Evidence:
    dataset = context.store.datasets.get(run.dataset_id)
    report = datasets.report_of(dataset)
    return evidence_services.evidence_of(context, dataset, report, None) if report else Evidence()


# Base against tuned on the frozen holdout: asked in the background, kept as the answers come, judged at
# the end.
#
# The questions, their cache and the reading of labels are the ladder's, so a base model that the ladder
# has asked is not asked again. Free text counts as right only where it matches exactly, which the result
# card says.


ARMS: tuple[Arm, Arm] = ("base", "tuned")
SURELY_DECLINED = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Measuring:
    """A run whose model is asked: the keys of its questions, how many have their answer, what those have cost."""

    run: Run
    plan: Plan
    keys: Mapping[Arm, tuple[str, ...]]
    heard: Mapping[Arm, AnswerTotals]

    @property
    def wanted(self) -> int:
        return sum(len(set(keys)) for keys in self.keys.values())

    @property
    def answered(self) -> int:
        return sum(heard.answers for heard in self.heard.values())

    @property
    def cost(self) -> int:
        asked = {arm: TokensUsed(one.prompt_tokens, one.completion_tokens) for arm, one in self.heard.items()}
        return _cost(self.run, self.plan, asked["base"], asked["tuned"])


def evaluate(context: AppContext, run: Run) -> None:
    """One step: answers are counted, missing ones asked for; once all are there, they are written down and judged.

    While answers come it reads no held-out row and builds no question: with a thousand rows that took a second a tick.
    """
    plan = plan_from_json(run.plan)
    try:
        _evaluate(context, run, plan)
    except Changed as changed:
        _end_unjudged(context, run, plan, changed)


def _evaluate(context: AppContext, run: Run, plan: Plan) -> None:
    trainer = context.trainers.get(run.provider)
    if run.cancel_asked_by:
        _cancel(context, run, plan)
        return
    if trainer is None:
        run_states.wait_for_key(context, run)
        return
    if not trainer.provider.can("chat"):
        _end(context, run, plan, "failed", f"{run.provider} doesn't serve it, so it could not be measured.")
        return
    if context.workers.has(_judging(run)):
        _judge(context, run, plan)
        return
    keys = {arm: _keys(context, run, plan, arm) for arm in ARMS}
    declined = context.askers.collect(_owner(run))
    if declined:
        _write_down(context, run, plan, declined)
    # Before the answers are counted: one that comes between the two looks is counted, and not asked for again.
    idle = context.askers.idle(run.provider, frozenset(key for arm in ARMS for key in keys[arm]))
    known = _Measuring(run, plan, keys, _heard(context, run, keys))
    missing = known.wanted - known.answered - context.store.runs.silent(run.id)
    if hopeless := _hopeless(context, known, declined):
        context.askers.drop(_owner(run))
        _end(context, run, plan, "failed", f"Measuring failed: {escape(hopeless)}")
    elif missing > 0 and (too_dear := _overrun(known)):
        if not context.askers.drop(_owner(run)):  # what is under way has to be paid: it is waited for
            _end(context, run, plan, "failed", too_dear)
    elif missing > 0:
        if len(idle) > known.wanted - missing:  # some neither have an answer nor are on their way to one
            if not _may_leave(context, run, plan):
                return
            context.askers.ask(_owner(run), run.provider, _write_down(context, run, plan, ()))
        context.askers.wake()
        _count(context, known, missing)
    elif unanswered := _write_down(context, run, plan, ()):
        if _may_leave(context, run, plan):
            context.askers.ask(_owner(run), run.provider, unanswered)
    else:
        _judge(context, run, plan)


def _may_leave(context: AppContext, run: Run, plan: Plan) -> bool:
    """By what was found in its held-out rows and the rules as they are. A run from before an update waits until they
    were looked through as they are written."""
    waits = data_policy.unscanned(context, run.dataset_id, [run.provider])
    forbidden = None if waits else data_policy.plan_refusal(context, plan)
    if waits:
        run_states.wait(context, run, 5.0, note=waits)
    elif forbidden and not context.askers.drop(
        _owner(run)
    ):  # what is under way has to be paid: it is waited for
        _end(context, run, plan, "failed", forbidden)
    return not (waits or forbidden)


def _heard(context: AppContext, run: Run, keys: Mapping[Arm, Sequence[str]]) -> Mapping[Arm, AnswerTotals]:
    """Answers that were known before this run asked are free."""
    return {arm: context.store.replies.heard(keys[arm], since=run.state_since) for arm in ARMS}


def _overrun(known: _Measuring) -> str | None:
    """The sentence for a run whose training and answers so far have cost more than was approved."""
    if known.cost <= known.plan.maximum_micros:
        return None
    most, cost = usd_micros(known.plan.maximum_micros), usd_micros(known.cost)
    return (
        f"Measuring was stopped because of its cost: the plan allows {most} at most, and it has cost {cost}."
    )


def _cancel(context: AppContext, run: Run, plan: Plan) -> None:
    """What is under way has to be paid: it is waited for, and written down."""
    if context.askers.drop(_owner(run)):
        return
    _write_down(context, run, plan, ())
    _end(context, run, plan, "cancelled", f"Measuring was cancelled by <@{run.cancel_asked_by}>.")


def _keys(context: AppContext, run: Run, plan: Plan, arm: Arm) -> tuple[str, ...]:
    if arm == "tuned":
        return tuned_keys(context, run.provider, _tuned(context, run), plan.labels, plan.holdout_sha256)
    name, most = _asked_as(context, run.provider, plan.base_model, plan.labels)
    return _keys_of(context.settings.files, plan.holdout_sha256, name, plan.labels, most, is_told=True)


def tuned_keys(
    context: AppContext, provider: str, model: str, labels: tuple[str, ...], holdout_sha256: str
) -> tuple[str, ...]:
    """Those of `tuned_questions`, without building these."""
    name, most = _asked_as(context, provider, model, labels)
    return _keys_of(context.settings.files, holdout_sha256, name, labels, most, is_told=False)


@lru_cache(maxsize=64)
def _keys_of(
    files: Path, holdout_sha256: str, name: str, labels: tuple[str, ...], most: int, *, is_told: bool
) -> tuple[str, ...]:
    """Of the questions about each held-out row, worked out once a process."""
    rows = evaluation_worker.examples(files, holdout_sha256)
    return tuple(key_of(name, _prompt(row, labels, is_told=is_told), most) for row in rows)


def tuned_questions(
    context: AppContext, provider: str, model: str, labels: Sequence[str], holdout: Sequence[Example]
) -> list[Question]:
    """In the holdout's order. `model` is its name at the provider; it has learnt the labels."""
    return _each(context, provider, model, labels, [_prompt(row, labels, is_told=False) for row in holdout])


def _questions(
    context: AppContext, run: Run, plan: Plan, arm: Arm, holdout: Sequence[Example]
) -> list[Question]:
    """In the holdout's order."""
    if arm == "tuned":
        return tuned_questions(context, run.provider, _tuned(context, run), plan.labels, holdout)
    told = [_prompt(row, plan.labels, is_told=True) for row in holdout]
    return _each(context, run.provider, plan.base_model, plan.labels, told)


def _each(
    context: AppContext,
    provider: str,
    model: str,
    labels: Sequence[str],
    asked: Sequence[tuple[Message, ...]],
) -> list[Question]:
    name, most = _asked_as(context, provider, model, labels)
    return [Question(key_of(name, one, most), name, model, one, most) for one in asked]


def _asked_as(context: AppContext, provider: str, model: str, labels: Sequence[str]) -> tuple[str, int]:
    """The model's full name, and the most tokens of an answer."""
    row = context.settings.provider(provider)
    return f"{provider}/{model}", max_tokens(labels) + thinking_tokens(row is not None and row.thinks(model))


def _prompt(row: Example, labels: Sequence[str], *, is_told: bool) -> tuple[Message, ...]:
    """The base model is told the labels. The tuned one is asked as it was trained; weights are for training only."""
    if is_told:
        return zero_shot(row, labels, None)
    return tuple(replace(message, weight=None) for message in row.prompt)


def _write_down(context: AppContext, run: Run, plan: Plan, declined: Sequence[Declined]) -> list[Question]:
    """Answers that are not in the run's own record yet; the questions that still lack one are given back. One that was
    declined counts as an empty answer."""
    holdout = _holdout(context, plan)
    refused = {one.key for one in declined if not one.of_model}
    unanswered: list[Question] = []
    for arm in ARMS:
        missing = _missing(context, run, arm, _questions(context, run, plan, arm, holdout))
        found = context.store.replies.found([one.key for one in missing.values()])
        context.store.runs.keep_answers(
            _answer_row(run, arm, row, found.get(one.key), holdout[row], plan)
            for row, one in missing.items()
            if one.key in found or one.key in refused
        )
        unanswered += [one for one in missing.values() if one.key not in found and one.key not in refused]
    return unanswered


def _missing(
    context: AppContext, run: Run, arm: Arm, questions: Sequence[Question]
) -> Mapping[int, Question]:
    """By row: two rows may ask the same."""
    answered = {answer.row for answer in context.store.runs.answers(run.id, arm)}
    return {row: one for row, one in enumerate(questions) if row not in answered}


def _hopeless(context: AppContext, known: _Measuring, declined: Sequence[Declined]) -> str | None:
    """Why a model can't be asked at all."""
    of_model = next((one.why for one in declined if one.of_model), None)
    if of_model or not declined:
        return of_model
    for arm in ARMS:
        answers = context.store.runs.answers(known.run.id, arm)
        if len(answers) >= SURELY_DECLINED and not any(one.prompt_tokens for one in answers):
            return declined[0].why if not known.heard[arm].answers else None
    return None


def _answer_row(
    run: Run, arm: Arm, row: int, reply: CachedAnswer | None, example: Example, plan: Plan
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


def _count(context: AppContext, known: _Measuring, missing: int) -> None:
    """The card says how far it is, and why it waits where it does."""
    run, rows = known.run, sum(len(keys) for keys in known.keys.values())
    trouble = context.askers.trouble(run.provider)
    before = Progress.from_json(run.progress)
    progress = replace(
        before,
        evaluated=rows - missing,
        to_evaluate=rows,
        note=f"{trouble} Measuring goes on by itself." if trouble else None,
    )
    if progress == before:
        return
    now = context.clock()
    moved = context.store.runs.move(run, "evaluating", now=now, progress=progress.to_json(), next_at=now)
    if moved:
        notifications.show_progress(context, moved)


def _judge(context: AppContext, run: Run, plan: Plan) -> None:
    """The worker's arguments are gathered once; from then on its answer is only looked for."""
    is_begun, trainer = context.workers.has(_judging(run)), context.trainers[run.provider]
    try:
        job = None if is_begun and not plan.swept else trainer.job(str(run.job_id))
        metrics = trainer.metrics(job) if job and not is_begun else ()
        arms = trainer.arms(job) if job and plan.swept else ()
    except (Refused, Nonsense) as gone:
        log.warning("run %s: its result has no loss curve: %s", run.id, gone)
        metrics, arms = (), ()
    except TrainerError as trouble:
        run_states.wait(context, run, 5.0, note=str(trouble))
        return
    judged = context.workers.take(_judging(run)) if is_begun else _begin_judging(context, run, plan, metrics)
    if judged is not None:
        _finish(context, run, plan, judged, arms)


def _begin_judging(context: AppContext, run: Run, plan: Plan, metrics: Sequence[Metric]) -> Judged | None:
    holdout = _holdout(context, plan)
    places = without_copies(holdout)
    return context.workers.poll(
        _judging(run),
        judge_run,
        _arm(context, run, plan, "base", places),
        _arm(context, run, plan, "tuned", places),
        [holdout[place].answer for place in places],
        metrics,
        labelled=bool(plan.labels),
        title=run.model or "",
        folder=context.settings.data / "plots" / f"run-{run.id}",
        measured=measured_run(context, run, plan),
        now=context.clock(),
    )


def _judging(run: Run) -> str:
    return f"judge {run.id}"


def _arm(context: AppContext, run: Run, plan: Plan, arm: Arm, places: Sequence[int]) -> ArmAnswers:
    """Answers to the rows in these places, as the labels that they mean where there are labels."""
    rows = at(places, context.store.runs.answers(run.id, arm))
    return ArmAnswers(
        texts=tuple(as_label(row.text, plan.labels) if plan.labels else row.text for row in rows),
        correct=tuple(row.correct for row in rows),
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        completion_tokens=sum(row.completion_tokens for row in rows),
        seconds=tuple(row.seconds for row in rows),
    )


def _finish(context: AppContext, run: Run, plan: Plan, judged: Judged, arms: tuple[SweepArm, ...]) -> None:
    now = context.clock()
    progress = Progress.from_json(run.progress)
    actual = _spent(context, run, plan)
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
        advice=advice_for(context, run, plan, judged.beside) if judged.beside else None,
        arms=arms,
        at_once=_at_once(context, plan, judged.tuned.n),
    )
    # what is to be said is gathered before the write lock is taken
    ended = replace(run, result=result.to_json())
    may_be_used, errors = models.may_be_offered(context, ended), notifications.running_errors(context, ended)
    may_show = authorization.may_show_rows(context, context.store.datasets.get(run.dataset_id), run.channel)
    changed = changed_rows(context, run, plan) if may_show else []
    with context.store.transaction():
        moved = context.store.runs.move(run, "done", now=now, result=result.to_json(), actual_micros=actual)
        if moved is None:
            return
        context.store.runs.book(moved, "settle", actual, month=units.month_of(now), now=now)
        context.store.audit.add(at=now, who="finetune", action="done", subject=f"run {run.id}")
        notifications.show_progress(context, moved)
        notifications.post_result(
            context,
            moved,
            plan,
            result,
            changed,
            (judged.loss_plot, judged.confusion_plot),
            errors,
            may_be_used=may_be_used,
        )


def _at_once(context: AppContext, plan: Plan, asked: int) -> int | None:
    row = context.settings.provider(plan.provider)
    return min(row.callers, asked) if row else None


def changed_rows(context: AppContext, run: Run, plan: Plan) -> list[ChangedRow]:
    """Held-out rows that one arm got right and the other wrong, the losses first."""
    holdout = _holdout(context, plan)
    base, tuned = (context.store.runs.answers(run.id, arm) for arm in ARMS)
    changed = [
        ChangedRow(example.prompt[-1].content, example.answer, before.text, after.text, after.correct)
        for example, before, after in zip(holdout, base, tuned, strict=True)
        if before.correct != after.correct
    ]
    return sorted(changed, key=lambda row: row.is_better)


def _holdout(context: AppContext, plan: Plan) -> tuple[Example, ...]:
    return evaluation_worker.examples(context.settings.files, plan.holdout_sha256)


def _tuned(context: AppContext, run: Run) -> str:
    return next(model.provider_model for model in context.store.models() if model.name == run.model)


def _end(context: AppContext, run: Run, plan: Plan, state: notifications.EndState, why: str) -> None:
    """Without a result; the training and the answers so far have to be paid all the same."""
    kept = f"The model is trained and kept as {code(run.model or '')}. {why}"
    run_states.end(context, run, state, kept, actual_micros=_spent(context, run, plan))


def _end_unjudged(context: AppContext, run: Run, plan: Plan, changed: Changed) -> None:
    """The held-out rows are not those that were approved. Which answers were free is known by those rows alone, so
    all of them count as paid."""
    if context.askers.drop(_owner(run)):
        return
    models = {"base": plan.base_model, "tuned": _tuned(context, run)}
    base, tuned = (_all_asked(context, run, models[arm]) for arm in ARMS)
    kept = f"The model is trained and kept as {code(run.model or '')}, and was not judged. {escape(str(changed))}"
    run_states.end(context, run, "failed", kept, actual_micros=_cost(run, plan, base, tuned))


def _all_asked(context: AppContext, run: Run, model: str) -> TokensUsed:
    """Of another run that asks the same base model meanwhile too."""
    heard = context.store.replies.heard_of(f"{run.provider}/{model}", since=run.state_since)
    return TokensUsed(heard.prompt_tokens, heard.completion_tokens)


def _spent(context: AppContext, run: Run, plan: Plan) -> int:
    keys = {arm: _keys(context, run, plan, arm) for arm in ARMS}
    return _Measuring(run, plan, keys, _heard(context, run, keys)).cost


def _cost(run: Run, plan: Plan, base: TokensUsed, tuned: TokensUsed) -> int:
    progress = Progress.from_json(run.progress)
    prices = PriceList.from_json(plan.prices)
    return actual_micros(prices, progress.train_seconds, progress.trained_tokens, base, tuned)


def _owner(run: Run) -> str:
    return f"run {run.id}"
