"""Measures a run's result: compares the base model with the tuned model on the holdout, once both have answered, and
gives the advice that follows. An untrained encoder can't answer, so a free model that learnt from the same training
rows takes its place: the free encoder, or the classical model if the free encoder is what was trained or can't be used.

Questions, their cache, the parsing of labels and the judge of free text are the ladder's, so answers of the base model
that a ladder has paid for are reused. Without a judge, free text counts as right only if it matches exactly; the result
card says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from bot.cards import advice
from bot.cards import deployments as deployment_cards
from bot.cards.blocks import code, escape
from bot.cards.reasons import because_text
from bot.context import AppContext
from bot.llm_client import Question, key_of
from bot.rules import units
from bot.rules.budgets import actual_micros, is_paid_by_token
from bot.rules.estimate_inputs import NO_JUDGE
from bot.rules.facts import Evidence
from bot.rules.plans import plan_from_json
from bot.rules.promotion import find_objections
from bot.rules.reasons import Measure
from bot.services import (
    authorization,
    checked_judges,
    data_policy,
    datasets,
    deployments,
    estimate_requests,
    estimates,
    evaluation_engine,
    evaluation_worker,
    free_encoder,
    judge_worker,
    judgements,
    looks,
    models,
    notifications,
    run_states,
)
from bot.services import evidence as evidence_services
from bot.services.candidate_prompts import read_answer_format
from bot.services.data_policy import Forbidden, Unsure
from bot.services.dataset_worker import SEED
from bot.services.estimate_inputs import without_trained_rung
from bot.services.evaluation_engine import Answers, Evaluation
from bot.services.evaluation_worker import max_tokens
from bot.services.judgements import ResultStep
from bot.services.read_rows import find_read_places
from bot.services.run_worker import JudgedRun, RunComparison, judge_run
from bot.values.evaluations import ArmProgress
from bot.values.runs import Advice, Before, Progress, Refusal, RunResult
from storage.evaluations import AnswerTotals
from storage.records import Run
from trainers.chat_parameters import thinking_tokens
from trainers.dataset import Example
from trainers.dataset.rows import has_own_instructions
from trainers.errors import FileChanged, InvalidResponse, Refused, TrainerError
from trainers.evaluation import prompts
from trainers.evaluation.results import CLASSICAL, ENCODER, Candidate, Ladder
from trainers.methods import METHODS
from trainers.money import usd_micros
from trainers.pricing import PriceList
from trainers.types import Message, Metric, SweepArm

LOOK_AGAIN_S = 5.0

log = logging.getLogger(__name__)


def evaluate(context: AppContext, run: Run) -> None:
    """Takes one step: counts the answers, asks the missing questions, and judges once all answers are there.

    While answers arrive it reads no held-out rows and builds no questions, which takes a second per tick for a thousand
    rows.
    """
    step = ResultStep(context, run, plan_from_json(run.plan))
    try:
        _take_step(step)
    except FileChanged as changed:
        if context.llm.drop(step.owner):
            return
        # The held-out rows are not the approved ones. Only the approved rows would show which answers were free, so
        # all recent answers count as paid, including those of another run that asks the same base model.
        base, tuned = (
            context.store.answers.totals_of(f"{run.provider}/{model}", since=run.state_since)
            for model in (step.plan.base_model, _tuned_model(step))
        )
        model = code(run.model or "")
        sentence = f"The model was trained and is kept as {model}, but was not judged. {escape(str(changed))}"
        spent = _cost_micros(step, base, tuned) + judgements.spent_on_run(step)
        run_states.end(context, run, "failed", sentence, actual_micros=spent)


def tuned_candidate(provider: str, model: str) -> Candidate:
    """Returns the candidate for a tuned model; `model` is its name at the provider. Its prompts are those of the
    training, without a list of labels."""
    return Candidate("tuned", f"{provider}/{model}")


def questions_of(
    context: AppContext,
    candidates: Sequence[Candidate],
    *,
    labels: tuple[str, ...],
    holdout_sha256: str,
    longest: int,
    answer_format: str = "",
) -> tuple[Mapping[Candidate, Sequence[str]], Callable[[frozenset[str]], Sequence[Question]]]:
    """Returns the keys of each candidate's answers, in the order of the held-out rows, and a function that builds the
    questions for given keys. The prompt of a base model ("zero") lists the labels, or has the `answer_format` if the
    row has no instructions; a tuned model knows them. `longest` is the most tokens of an answer without thinking."""
    files = context.settings.files
    most = {  # tokens of an answer, including those for thinking
        candidate: longest + thinking_tokens(context.settings.thinks(str(candidate.model)))
        for candidate in candidates
    }
    keys = {
        candidate: _keys(files, holdout_sha256, candidate, labels, most[candidate], answer_format)
        for candidate in candidates
    }

    def questions(wanted: frozenset[str]) -> Sequence[Question]:
        holdout = evaluation_worker.examples(files, holdout_sha256)
        return [
            Question(
                key,
                str(candidate.model),
                str(candidate.model).split("/", 1)[1],
                _prompt(candidate, row, labels, answer_format),
                most[candidate],
                tools=prompts.tools_of(row),
            )
            for candidate in candidates
            for key, row in zip(keys[candidate], holdout, strict=True)
            if key in wanted
        ]

    return keys, questions


def _take_step(step: ResultStep) -> None:
    context, run, plan = step.context, step.run, step.plan
    trainer = context.trainers.get(run.provider)
    if run.cancel_asked_by:
        _end_once_idle(step, "cancelled", f"Measuring was cancelled by <@{run.cancel_asked_by}>.")
        return
    if trainer is None:
        run_states.wait_for_key(context, run)
        return
    if not (trainer.provider.can("chat") or plan.hosting):
        _end(step, "failed", f"{run.provider} doesn't serve the model, so it could not be measured.")
        return
    if context.workers.has(_judge_task(run)):
        _judge(step)
        return
    if _before(step) == "encoder":
        keys = free_encoder.load_keys(step)
        if isinstance(keys, Refusal):
            _use_classical(step, keys)
        if keys is None or isinstance(keys, Refusal):
            return
    evaluation = _evaluation(step)
    answers = evaluation_engine.collect(context, evaluation, _arms(evaluation, step.progress))
    if plan.hosting and (answers.all_missing or answers.failed):
        serving = deployments.serving_state(context, run, plan, plan.hosting)
        if not serving.is_ready:
            # Its machine is not ready or has ended, so waiting questions would fail.
            context.llm.drop(step.owner)
            if serving.is_given_up:
                _end(step, "failed", "Nobody started the model again, so it could not be measured.")
            else:
                run_states.wait(context, run, LOOK_AGAIN_S, note=serving.note)
            return
    if answers.missing.get(CLASSICAL):
        replies = context.workers.poll(
            f"classical {step.owner}", evaluation_worker.classical_answers, plan, context.settings.files, SEED
        )
        if replies is not None:
            keys, now = evaluation.keys[CLASSICAL], context.clock()
            evaluation_engine.store_free_answers(context, CLASSICAL, keys, replies, now, step.owner)
    if answers.missing.get(ENCODER):
        refusal = free_encoder.take_answers(step, evaluation.keys[ENCODER])
        if refusal:
            _use_classical(step, refusal)
            return
    cost = _cost_micros(step, *answers.paid.values()) + context.store.deployments.cost_of_run(run.id)
    if answers.failed:
        _handle_failure(step, answers)
    elif answers.all_missing and cost > plan.maximum_micros:
        most, spent = usd_micros(plan.maximum_micros), usd_micros(cost)
        limit = f"the plan allows at most {most}, and it has cost {spent}"
        _end_once_idle(step, "failed", f"Measuring was stopped because of its cost: {limit}.")
    else:
        _ask_missing(step, evaluation, answers)


def _use_classical(step: ResultStep, why: Refusal) -> None:
    """Stores that the free encoder can't be used, so that the classical model takes its place from now on."""
    context = step.context
    progress = replace(step.progress, no_encoder=why.text)
    context.store.runs.move(step.run, "evaluating", now=context.clock(), progress=progress.to_json())


def _handle_failure(step: ResultStep, answers: Answers) -> None:
    """Ends the run, with two exceptions: if the tuned model's machine may be at fault, it is checked first; and if the
    base model can't be asked by the token, the classical model replaces it."""
    context, run, plan = step.context, step.run, step.plan
    context.llm.drop(step.owner)
    (failed,) = [arm for arm in answers.arms if arm.failed is not None][:1]
    if plan.hosting and failed.arm.rung == "tuned" and deployments.look_soon(context, run):
        run_states.wait(context, run, LOOK_AGAIN_S, note=answers.failed)
    elif plan.hosting and failed.arm.rung == "zero" and plan.labels:
        progress = replace(step.progress, is_base_unasked=True).to_json()
        context.store.runs.move(run, "evaluating", now=context.clock(), progress=progress)
    elif plan.hosting and failed.arm.rung == "tuned":
        title = context.settings.title_of(plan.provider)
        _end(step, "failed", deployment_cards.expired_text(title, str(answers.failed)))
    else:
        _end(step, "failed", f"Measuring failed: {escape(str(answers.failed))}")


def _ask_missing(step: ResultStep, evaluation: Evaluation, answers: Answers) -> None:
    """Asks the questions that have no answer and are not under way, if the rows may be sent. Once all answers are
    there, has them judged."""
    context, run, plan = step.context, step.run, step.plan
    against = None
    if answers.unasked:
        against = data_policy.egress_now(context, run.dataset_id, [run.provider], plan.overridden)
    if isinstance(against, Forbidden):
        _end_once_idle(step, "failed", against.reason)
        return
    counted = _save(step, evaluation, answers, against)
    if counted is None:
        return
    if answers.all_missing:
        if against is None:
            evaluation_engine.ask(context, evaluation, answers.unasked)
        return
    step = replace(step, run=counted)
    arms, spent = _arms(evaluation, step.progress), _cost_micros(step, *answers.paid.values())
    if judgements.take_run_step(step, evaluation, arms, spent):
        _judge(step)


def _save(step: ResultStep, evaluation: Evaluation, answers: Answers, against: Unsure | None) -> Run | None:
    """Stores and shows the progress, and why the run waits. Returns None if the run was moved meanwhile."""
    context, run, before, judge = step.context, step.run, step.progress, step.judge
    missing = sum(len(keys) for keys in answers.missing.values())
    models = [str(candidate.model) for candidate, keys in answers.missing.items() if keys and candidate.model]
    waits = before.note if before.judge and not missing else evaluation_engine.waiting_note(context, models)
    progress = replace(
        before,
        evaluated=len(evaluation.all_keys) - missing + judge.answered,
        to_evaluate=len(evaluation.all_keys) + judge.of,
        note=against.reason if against else waits,
        declined=tuple(key for arm in answers.arms for key in arm.declined),
    )
    now = context.clock()
    if progress == before and against is None:
        return run
    next_at = run_states.due_unless_wished(context, run, now + LOOK_AGAIN_S) if against else now
    with context.store.transaction():
        moved = context.store.runs.move(
            run, "evaluating", now=now, progress=progress.to_json(), next_at=next_at
        )
        if moved and progress != before:
            notifications.show_progress(context, moved)
    return moved


def _before(step: ResultStep) -> Before:
    """Returns what the tuned model is compared with."""
    progress, method = step.progress, step.plan.method
    if progress.is_base_unasked:
        return "classical"
    if not METHODS[method].is_for_encoders:
        return "base"
    if method == "head" or progress.no_encoder:  # what `head` trains is the free encoder
        return "classical"
    return "encoder"


def _evaluation(step: ResultStep) -> Evaluation:
    """Returns the evaluation of what answered before the training and of the tuned model, in this order. The free
    encoder has no keys before they were loaded."""
    run, plan, before = step.run, step.plan, _before(step)
    tuned = tuned_candidate(run.provider, _tuned_model(step))
    base = Candidate("zero", f"{run.provider}/{plan.base_model}")
    asked_models = [base, tuned] if before == "base" else [tuned]
    keys, questions = questions_of(
        step.context,
        asked_models,
        labels=plan.labels,
        holdout_sha256=plan.holdout_sha256,
        longest=longest_answer(step.context, run.dataset_id, plan.labels),
        answer_format=_answer_format(step) if before == "base" else "",
    )
    if before == "encoder":
        keys = {ENCODER: free_encoder.stored_keys(step), **keys}
    elif before == "classical":
        rows = len(keys[tuned])
        classical = evaluation_worker.classical_keys(plan.train_sha256, plan.holdout_sha256, rows, SEED)
        keys = {CLASSICAL: classical, **keys}
    return Evaluation(step.owner, keys, questions, since=run.state_since)


def _answer_format(step: ResultStep) -> str:
    """Returns the default instruction of the base model, the same as in a measurement of this version, so that its
    answers are not paid for twice. It is read from the version's own training rows: those of a run may be pairs."""
    report = datasets.report_of(step.context.store.datasets.get(step.run.dataset_id))
    if report is None or report.scoring != "json" or step.plan.labels:
        return ""
    return read_answer_format(step.context.settings.files, str(report.train_sha256))


def _names_fields(step: ResultStep) -> bool:
    """True if the base model's prompt names the fields of the answer where the tuned model's does not."""
    if _before(step) != "base" or not _answer_format(step):
        return False
    rows = evaluation_worker.examples(step.context.settings.files, step.plan.holdout_sha256)
    return not all(map(has_own_instructions, rows))


def longest_answer(context: AppContext, dataset_id: int, labels: Sequence[str]) -> int:
    """Returns the most tokens of an answer without thinking, the same as in a measurement of this version."""
    report = datasets.report_of(context.store.datasets.get(dataset_id))
    if report is None:  # it was deleted
        return max_tokens(labels, 0, None)
    return max_tokens(labels, report.tokens.answer_most, report.scoring)


def _arms(evaluation: Evaluation, progress: Progress) -> list[ArmProgress]:
    declined = set(progress.declined)
    return [
        ArmProgress(
            candidate, len(keys), declined=tuple(dict.fromkeys(key for key in keys if key in declined))
        )
        for candidate, keys in evaluation.keys.items()
    ]


@lru_cache(maxsize=64)
def _keys(
    files: Path,
    holdout_sha256: str,
    candidate: Candidate,
    labels: tuple[str, ...],
    most: int,
    answer_format: str,
) -> tuple[str, ...]:
    """Returns the keys of the questions about each held-out row. Cached, since computing them reads all rows."""
    rows = evaluation_worker.examples(files, holdout_sha256)
    return tuple(
        key_of(
            str(candidate.model), _prompt(candidate, row, labels, answer_format), most, prompts.tools_of(row)
        )
        for row in rows
    )


def _prompt(
    candidate: Candidate, row: Example, labels: Sequence[str], answer_format: str
) -> tuple[Message, ...]:
    if candidate.rung == "zero":
        return prompts.zero_shot(row, labels, None, answer_format)
    return prompts.trained_prompt(row)


def _judge(step: ResultStep) -> None:
    """Has a worker judge the answers. Its arguments are gathered once; later steps only poll for its result."""
    context, run, plan = step.context, step.run, step.plan
    is_begun, trainer = context.workers.has(_judge_task(run)), context.trainers[run.provider]
    try:
        job = None if is_begun and not plan.swept else trainer.job(str(run.job_id))
        metrics = trainer.metrics(job) if job and not is_begun else ()
        arms = trainer.arms(job) if job and plan.swept else ()
    except (Refused, InvalidResponse) as gone:
        log.warning("run %s: its result has no charts of the training: %s", run.id, gone)
        metrics, arms = (), ()
    except TrainerError as trouble:
        run_states.wait(context, run, LOOK_AGAIN_S, note=str(trouble))
        return
    judged = context.workers.take(_judge_task(run)) if is_begun else _begin_judging(step, metrics)
    if judged is not None:
        _finish(step, judged, arms)


def _begin_judging(step: ResultStep, metrics: Sequence[Metric]) -> JudgedRun | None:
    context, run, plan = step.context, step.run, step.plan
    evaluation, evidence = _evaluation(step), without_trained_rung(_evidence(step), plan.method)
    replies = evaluation_engine.replies(context, evaluation.keys, _arms(evaluation, step.progress))
    (base_arm, base), (tuned_arm, tuned) = replies.items()
    report = datasets.report_of(context.store.datasets.get(run.dataset_id))
    from_judge, verdicts, judge = judgements.answers_about_run(step), None, None
    if from_judge:
        texts = {arm: [reply.text for reply in theirs] for arm, theirs in replies.items()}
        rows = evaluation_worker.examples(context.settings.files, plan.holdout_sha256)
        verdicts, judge = judge_worker.verdicts_of(texts, from_judge, rows)
    comparison = RunComparison(
        run_id=run.id,
        arm=Candidate("tuned", f"{plan.provider}/{run.model}"),
        base=base,
        tuned=tuned,
        labels=plan.labels,
        bar=evidence.bar,
        is_bar_set=datasets.is_bar_set(context, plan.dataset),
        price=PriceList.from_json(plan.prices).rows[0],
        dataset=plan.dataset,
        version=plan.dataset_version,
        holdout=context.settings.files / f"{plan.holdout_sha256}.jsonl",
        origin=looks.origin_of_run(context.store, run),
        read=find_read_places(
            context.store, context.settings.files, plan.dataset, plan.holdout_sha256, plan.train_sha256
        ),
        alternatives=evidence_services.comparable_alternatives(evidence, plan.judge if verdicts else None),
        judge=judge,
        floor=report.floor if report else None,
        verdicts=(verdicts[base_arm], verdicts[tuned_arm]) if verdicts else None,
    )
    title, now = run.model or "", context.clock()
    return context.workers.poll(
        _judge_task(run), judge_run, comparison, metrics, title=title, folder=step.folder, now=now
    )


def _judge_task(run: Run) -> str:
    return f"judge {run.id}"


def _finish(step: ResultStep, judged: JudgedRun, arms: tuple[SweepArm, ...]) -> None:
    context, run, plan, progress = step.context, step.run, step.plan, step.progress
    settled, hosting = _spent_micros(step), context.store.deployments.cost_of_run(run.id)
    actual = settled + hosting
    row = context.settings.provider(plan.provider)
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
        hosting_micros=hosting,
        labelled=bool(plan.labels),
        names_fields=_names_fields(step),
        no_encoder=progress.no_encoder,
        loss_curve=judged.curves.loss,
        beside=judged.beside.to_json(),
        is_base_ahead=judged.is_base_ahead,
        advice=_advice(step, judged.beside),
        arms=arms,
        at_once=(min(row.callers, judged.tuned.n) if row else None),
        labels=judged.labels,
        worse_labels=judged.worse_labels,
        judge=judged.judge,
        partial=judged.partial,
        judge_checks=evidence_services.judge_checks(context, plan),
        checkable=checked_judges.find_checkable(context, plan.dataset, plan.judge),
        before=_before(step),
        vendor_micros=progress.vendor.micros if progress.vendor else None,
        reward=progress.reward,
        preference_accuracy=progress.preference_accuracy,
        reward_curve=judged.curves.reward,
        preference_curve=judged.curves.preference_accuracy,
        margin_curve=judged.curves.reward_margin,
        is_uncounted=progress.is_uncounted and is_paid_by_token(PriceList.from_json(plan.prices)),
    )
    context.store.runs.keep_answers(judged.answers)  # the model's proof below is read from them
    # Everything slow is done before the transaction, which holds the write lock.
    proof = models.proof_of_run(context, replace(run, result=result.to_json()))
    may_be_used = proof is not None and not find_objections(proof)
    if proof and proof.best and proof.best.wins_by_price(proof.limits.margin):
        # The model is good because it is cheaper and not worse than this one, so the card has to show it.
        result = replace(result, not_worse=proof.best, margin=proof.limits.margin)
    may_show = authorization.may_show_rows(context, context.store.datasets.get(run.dataset_id), run.channel)
    changed = judged.changed if may_show else ()
    result = replace(result, shown_rows=len(changed), is_offered=may_be_used)
    now = context.clock()
    with context.store.transaction():
        moved = context.store.runs.move(run, "done", now=now, result=result.to_json(), actual_micros=actual)
        if moved is None:
            return
        context.store.runs.book(moved, "settle", settled, month=units.month_of(now), now=now)
        context.audit("finetune", "done", f"run {run.id}")
        notifications.show_progress(context, moved)
        notifications.post_result(context, moved, plan, result, changed)


def _advice(step: ResultStep, beside: Ladder) -> Advice | None:
    """Returns the verdict with the measured result, None if it can't be computed any more because the dataset, the
    model or its price is gone."""
    context, plan = step.context, step.plan
    dataset = context.store.datasets.get(step.run.dataset_id)
    report = datasets.report_of(dataset)
    if report is None:
        return None
    evidence = evidence_services.without_other_judge(_evidence(step), plan)
    estimate = estimates.make_estimate(
        context.settings,
        dataset.name,
        report,
        replace(estimate_requests.question_of(plan), judge=NO_JUDGE),  # judging is done, so it costs no more
        context.today(),
        evidence_services.with_run_result(context, evidence, step.run, beside),
        is_trained=True,
        reachable=context.trainers,
    )
    if isinstance(estimate, Refusal):
        return None
    verdict = estimate.verdict
    rule = verdict.rule if verdict.kind != "go" else ""
    todo = verdict.deciding.step.todo if verdict.deciding.step else None
    models = todo.models if isinstance(todo, Measure) else ()
    measure = tuple(name for name in models if name.partition("/")[0] in context.trainers)
    reason = because_text(verdict.deciding.because)
    return Advice(verdict.kind, rule, advice.headline(verdict), advice.next_step(verdict), reason, measure)


def _evidence(step: ResultStep) -> Evidence:
    dataset = step.context.store.datasets.get(step.run.dataset_id)
    report = datasets.report_of(dataset)
    return evidence_services.load_evidence(step.context, dataset, report, None) if report else Evidence()


def _tuned_model(step: ResultStep) -> str:
    model = step.context.store.model(str(step.run.model))
    if model is None:
        raise KeyError(step.run.model)
    return model.provider_model


def _end_once_idle(step: ResultStep, state: notifications.EndState, why: str) -> None:
    """Asks no more questions, and ends the run once those under way, which have to be paid for, are answered."""
    if not step.context.llm.drop(step.owner):
        _end(step, state, why)


def _end(step: ResultStep, state: notifications.EndState, why: str) -> None:
    """Ends the run without a result. The training and the answers so far are still charged."""
    sentence = f"The model was trained and is kept as {code(step.run.model or '')}. {why}"
    run_states.end(step.context, step.run, state, sentence, actual_micros=_spent_micros(step))


def _spent_micros(step: ResultStep) -> int:
    """Returns the run's cost without its machine's. Answers that were stored before this run asked are free."""
    keys, since = _evaluation(step).keys.values(), step.run.state_since
    base, tuned = (step.context.store.answers.totals(theirs, since=since) for theirs in keys)
    return _cost_micros(step, base, tuned) + judgements.spent_on_run(step)


def _cost_micros(step: ResultStep, base: AnswerTotals, tuned: AnswerTotals) -> int:
    trained = notifications.trained_amounts(step.plan, step.progress)
    return actual_micros(*trained, base, tuned, step.progress.billed_micros)
