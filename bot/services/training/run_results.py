"""Measures a run's result: compares the base model with the tuned model on the holdout, once both have answered, and
gives the advice that follows. An untrained encoder can't answer, so a free model that learnt from the same training
rows takes its place: the free encoder, or the classical model if the free encoder is what was trained or can't be used.

Questions, their cache, the parsing of labels and the judge of free text are the comparison's, so answers of the base
model that a comparison has paid for are reused. Without a judge, free text counts as right only if it matches exactly;
the result card says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from bot.cards.common import advice
from bot.cards.common.blocks import code, escape
from bot.cards.common.reasons import because_text
from bot.cards.models import deployments as deployment_cards
from bot.context import AppContext
from bot.rules import units
from bot.rules.budgets import actual_micros, is_paid_by_token
from bot.rules.estimate_inputs import NO_JUDGE
from bot.rules.facts import Evidence, without_trained_candidate
from bot.rules.models.deployments import Hosting
from bot.rules.models.promotion import find_objections
from bot.rules.plans import plan_from_json
from bot.rules.reasons import Measure
from bot.services.common import authorization
from bot.services.datasets import data_policy, dataset_worker, datasets
from bot.services.datasets.data_policy import Forbidden, Unsure
from bot.services.datasets.dataset_worker import SEED
from bot.services.decisions import estimate_requests, estimates
from bot.services.evidence import (
    checked_judges,
    evaluation_worker,
    judge_worker,
    looks,
    notifications,
    run_states,
)
from bot.services.evidence import evidence as evidence_services
from bot.services.evidence.read_rows import find_read_positions
from bot.services.measurement import evaluation_engine, free_encoder, judgements
from bot.services.measurement.evaluation_engine import Answers, Evaluation
from bot.services.measurement.judgements import ResultStep
from bot.services.models import deployments, models
from bot.services.training.run_questions import (
    asked_before,
    before_training,
    evaluation_of,
    names_fields,
    tuned_model,
)
from bot.services.training.run_worker import JudgedRun, RunReplies, judge_run
from bot.values.evaluations import CandidateProgress
from bot.values.runs import Advice, Progress, Refusal, RunResult
from storage.evaluations import AnswerTotals
from storage.records import Run
from trainers.errors import FileChanged, InvalidResponse, Refused, TrainerError
from trainers.evaluation.results import CLASSICAL, ENCODER, Candidate, Comparison
from trainers.money import usd_micros
from trainers.providers.pricing import PriceList
from trainers.types import Metric, SweepTrial

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
        stored = context.store.answers
        base = stored.totals_of(str(asked_before(step.plan).model), since=run.state_since)
        tuned = stored.totals_of(f"{run.provider}/{tuned_model(step)}", since=run.state_since)
        model = code(run.model or "")
        sentence = f"The model was trained and is kept as {model}, but was not judged. {escape(str(changed))}"
        spent = _cost_micros(step, base, tuned) + judgements.spent_on_run(step) + _lost_micros(step)
        run_states.end(context, run, "failed", sentence, actual_micros=spent)


def _take_step(step: ResultStep) -> None:
    context = step.context
    run = step.run
    plan = step.plan
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
    if before_training(step) == "encoder":
        keys = free_encoder.load_keys(step)
        if isinstance(keys, Refusal):
            _use_classical(step, keys)
        if keys is None or isinstance(keys, Refusal):
            return
    evaluation = evaluation_of(step)
    answers = evaluation_engine.collect(context, evaluation, _candidates(evaluation, step.progress))
    needs_machine = bool(answers.all_missing or answers.failed)
    if plan.hosting and needs_machine and _waits_for_machine(step, plan.hosting):
        return
    if answers.missing.get(CLASSICAL):
        _take_classical_answers(step, evaluation.keys[CLASSICAL])
    if answers.missing.get(ENCODER):
        refusal = free_encoder.take_answers(step, evaluation.keys[ENCODER])
        if refusal:
            _use_classical(step, refusal)
            return
    cost = _cost_micros(step, *answers.paid.values()) + context.store.deployments.cost_of_run(run.id)
    if answers.failed:
        _handle_failure(step, answers)
    elif answers.all_missing and cost > plan.maximum_micros:
        most = usd_micros(plan.maximum_micros)
        spent = usd_micros(cost)
        limit = f"the plan allows at most {most}, and it has cost {spent}"
        _end_once_idle(step, "failed", f"Measuring was stopped because of its cost: {limit}.")
    else:
        _ask_missing(step, evaluation, answers)


def _waits_for_machine(step: ResultStep, hosting: Hosting) -> bool:
    """True if the machine that serves the model is not ready. Waits for it then, or ends the run if it was given up."""
    context = step.context
    serving = deployments.serving_state(context, step.run, step.plan, hosting)
    if serving.is_ready:
        return False
    context.llm.drop(step.owner)  # its machine is not ready or has ended, so waiting questions would fail
    if serving.is_given_up:
        _end(step, "failed", "Nobody started the model again, so it could not be measured.")
    else:
        run_states.wait(context, step.run, LOOK_AGAIN_S, note=serving.note)
    return True


def _take_classical_answers(step: ResultStep, keys: Sequence[str]) -> None:
    """Has a worker answer all rows with the classical model, and stores the answers."""
    context = step.context
    work = f"classical {step.owner}"
    replies = context.workers.poll(
        work, evaluation_worker.classical_answers, step.plan, context.settings.files, SEED
    )
    if replies is not None:
        evaluation_engine.store_free_answers(context, CLASSICAL, keys, replies, context.clock(), step.owner)


def _use_classical(step: ResultStep, why: Refusal) -> None:
    """Stores that the free encoder can't be used, so that the classical model takes its place from now on."""
    context = step.context
    progress = replace(step.progress, no_encoder=why.text)
    context.store.runs.move(step.run, "evaluating", now=context.clock(), progress=progress.to_json())


def _handle_failure(step: ResultStep, answers: Answers) -> None:
    """Ends the run, with two exceptions: if the tuned model's machine may be at fault, it is checked first; and if the
    base model can't be asked by the token, the classical model replaces it."""
    context = step.context
    run = step.run
    plan = step.plan
    context.llm.drop(step.owner)
    failed = next(candidate.identity for candidate in answers.candidates if candidate.failed is not None)
    if plan.hosting and failed.kind == "tuned" and deployments.look_soon(context, run):
        run_states.wait(context, run, LOOK_AGAIN_S, note=answers.failed)
    elif plan.hosting and failed.kind == "zero" and plan.labels:
        progress = replace(step.progress, is_base_unasked=True).to_json()
        context.store.runs.move(run, "evaluating", now=context.clock(), progress=progress)
    elif plan.hosting and failed.kind == "tuned":
        title = context.settings.title_of(plan.provider)
        _end(step, "failed", deployment_cards.expired_text(title, str(answers.failed)))
    else:
        _end(step, "failed", f"Measuring failed: {escape(str(answers.failed))}")


def _ask_missing(step: ResultStep, evaluation: Evaluation, answers: Answers) -> None:
    """Asks the questions that have no answer and are not under way, if the rows may be sent. Once all answers are
    there, has them judged."""
    context = step.context
    run = step.run
    against = None
    if answers.unasked:  # at each step, as the rules in finetune.toml may have changed since
        against = data_policy.egress_now(context, run.dataset_id, step.plan.receivers, step.plan.overridden)
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
    candidates = _candidates(evaluation, step.progress)
    spent = _cost_micros(step, *answers.paid.values())
    if judgements.take_run_step(step, evaluation, candidates, spent):
        _judge(step)


def _save(step: ResultStep, evaluation: Evaluation, answers: Answers, against: Unsure | None) -> Run | None:
    """Stores and shows the progress, and why the run waits. Returns None if the run was moved meanwhile."""
    context = step.context
    run = step.run
    before = step.progress
    missing = sum(len(keys) for keys in answers.missing.values())
    if against:
        note: str | None = against.reason
    elif before.judge and not missing:
        note = before.note  # the judge's, whose questions are counted elsewhere
    else:
        models = [
            str(candidate.model) for candidate, keys in answers.missing.items() if keys and candidate.model
        ]
        note = evaluation_engine.waiting_note(context, models)
    progress = replace(
        before,
        evaluated=len(evaluation.all_keys) - missing + step.judge.answered,
        to_evaluate=len(evaluation.all_keys) + step.judge.of,
        note=note,
        declined=tuple(key for candidate in answers.candidates for key in candidate.declined),
        lost_micros=_lost_micros(step),
    )
    now = context.clock()
    if progress == before and against is None:
        return run
    next_at = now
    if against:
        next_at = run_states.due_unless_wished(context, run, now + LOOK_AGAIN_S)
    changes = {"progress": progress.to_json(), "next_at": next_at}
    with context.store.transaction():
        moved = context.store.runs.move(run, "evaluating", now=now, **changes)
        if moved and progress.lost_micros:  # budgets never see less than was spent
            spent = _cost_micros(step, *answers.paid.values()) + judgements.spent_on_run(step)
            context.store.runs.raise_reservation(moved, spent + progress.lost_micros)
        if moved and progress != before:
            notifications.show_progress(context, moved)
    return moved


def _candidates(evaluation: Evaluation, progress: Progress) -> list[CandidateProgress]:
    declined = set(progress.declined)
    candidates = []
    for candidate, keys in evaluation.keys.items():
        own = dict.fromkeys(key for key in keys if key in declined)
        candidates.append(CandidateProgress(candidate, len(keys), declined=tuple(own)))
    return candidates


def _judge(step: ResultStep) -> None:
    """Has a worker judge the answers. Its arguments are gathered once; later steps only poll for its result."""
    context = step.context
    run = step.run
    is_begun = context.workers.has(_judge_task(run))
    trainer = context.trainers[run.provider]
    metrics: Sequence[Metric] = ()
    trials: tuple[SweepTrial, ...] = ()
    try:
        if not is_begun or step.plan.swept:
            job = trainer.job(str(run.job_id))
            if not is_begun:
                metrics = trainer.metrics(job)
            if step.plan.swept:
                trials = trainer.trials(job)
    except (Refused, InvalidResponse) as gone:
        log.warning("run %s: its result has no charts of the training: %s", run.id, gone)
        metrics = ()
    except TrainerError as trouble:
        run_states.wait(context, run, LOOK_AGAIN_S, note=str(trouble))
        return
    if is_begun:
        judged: JudgedRun | None = context.workers.take(_judge_task(run))
    else:
        judged = _begin_judging(step, metrics)
    if judged is not None:
        _finish(step, judged, trials)


def _begin_judging(step: ResultStep, metrics: Sequence[Metric]) -> JudgedRun | None:
    run_replies = _gather_replies(step)
    return step.context.workers.poll(
        _judge_task(step.run),
        judge_run,
        run_replies,
        metrics,
        title=step.run.model or "",
        folder=step.folder,
        now=step.context.clock(),
    )


def _gather_replies(step: ResultStep) -> RunReplies:
    context = step.context
    run = step.run
    plan = step.plan
    files = context.settings.files
    evaluation = evaluation_of(step)
    replies = evaluation_engine.replies(context, evaluation.keys, _candidates(evaluation, step.progress))
    (base_candidate, base), (tuned_candidate, tuned) = replies.items()
    verdicts = None
    judge = None
    judge_of_verdicts = None
    from_judge = judgements.answers_about_run(step)
    if from_judge:
        texts = {candidate: [reply.text for reply in theirs] for candidate, theirs in replies.items()}
        rows = dataset_worker.examples(files, plan.holdout_sha256)
        by_candidate, judge = judge_worker.verdicts_of(texts, from_judge, rows)
        if by_candidate:
            verdicts = (by_candidate[base_candidate], by_candidate[tuned_candidate])
            judge_of_verdicts = plan.judge
    evidence = without_trained_candidate(_evidence(step), plan.method)
    report = datasets.report_of(context.store.datasets.get(run.dataset_id))
    return RunReplies(
        run_id=run.id,
        candidate=Candidate("tuned", f"{plan.provider}/{run.model}"),
        base=base,
        tuned=tuned,
        labels=plan.labels,
        bar=evidence.bar,
        is_bar_set=datasets.is_bar_set(context, plan.dataset),
        price=PriceList.from_json(plan.prices).rows[0],
        dataset=plan.dataset,
        version=plan.dataset_version,
        holdout=files / f"{plan.holdout_sha256}.jsonl",
        origin=looks.origin_of_run(context.store, run),
        read=find_read_positions(context.store, files, plan.dataset, plan.holdout_sha256, plan.train_sha256),
        alternatives=evidence_services.comparable_alternatives(evidence, judge_of_verdicts),
        judge=judge,
        floor=report.floor if report else None,
        verdicts=verdicts,
    )


def _judge_task(run: Run) -> str:
    return f"judge {run.id}"


def _finish(step: ResultStep, judged: JudgedRun, trials: tuple[SweepTrial, ...]) -> None:
    """Stores the result and posts it. Everything slow is done before the transaction, which holds the write lock."""
    context = step.context
    run = step.run
    settled = _spent_micros(step)
    hosting = context.store.deployments.cost_of_run(run.id)
    result = _build_result(step, judged, trials, actual_micros=settled + hosting, hosting_micros=hosting)
    context.store.runs.keep_answers(judged.answers)  # the model's proof is read from them
    proof = models.proof_of_run(context, replace(run, result=result.to_json()))
    may_be_used = proof is not None and not find_objections(proof)
    if proof and proof.best and proof.best.wins_by_price(proof.limits.margin):
        # The model is good because it is cheaper and not worse than this one, so the card has to show it.
        result = replace(result, not_worse=proof.best, margin=proof.limits.margin)
    dataset = context.store.datasets.get(run.dataset_id)
    may_show = authorization.may_show_rows(context, dataset, run.channel)
    changed = judged.changed if may_show else ()
    result = replace(result, shown_rows=len(changed), is_offered=may_be_used)
    now = context.clock()
    changes = {"result": result.to_json(), "actual_micros": result.actual_micros}
    with context.store.transaction():
        moved = context.store.runs.move(run, "done", now=now, **changes)
        if moved is None:
            return
        context.store.runs.book(moved, "settle", settled, month=units.month_of(now), now=now)
        context.audit("finetune", "done", f"run {run.id}")
        notifications.post_result(context, moved, step.plan, result, changed)
        notifications.show_progress(context, moved)  # it says where the result is


def _build_result(
    step: ResultStep,
    judged: JudgedRun,
    trials: tuple[SweepTrial, ...],
    *,
    actual_micros: int,
    hosting_micros: int,
) -> RunResult:
    """Returns the result without what the model's proof decides, which is computed from it."""
    context = step.context
    plan = step.plan
    progress = step.progress
    row = context.settings.provider(plan.provider)
    at_once = min(row.callers, judged.tuned.n) if row else None
    vendor_micros = progress.vendor.micros if progress.vendor else None
    is_uncounted = progress.is_uncounted and is_paid_by_token(PriceList.from_json(plan.prices))
    return RunResult(
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
        actual_micros=actual_micros,
        hosting_micros=hosting_micros,
        lost_micros=_lost_micros(step),
        labelled=bool(plan.labels),
        names_fields=names_fields(step),
        no_encoder=progress.no_encoder,
        loss_curve=judged.curves.loss,
        beside=judged.beside.to_json(),
        is_base_ahead=judged.is_base_ahead,
        advice=_advice(step, judged.beside),
        trials=trials,
        at_once=at_once,
        labels=judged.labels,
        worse_labels=judged.worse_labels,
        judge=judged.judge,
        partial=judged.partial,
        judge_checks=evidence_services.judge_checks(context, plan),
        checkable=checked_judges.find_checkable(context, plan.dataset, plan.judge),
        before=before_training(step),
        start=plan.starts_from.name if plan.starts_from else "",
        vendor_micros=vendor_micros,
        reward=progress.reward,
        preference_accuracy=progress.preference_accuracy,
        reward_curve=judged.curves.reward,
        preference_curve=judged.curves.preference_accuracy,
        margin_curve=judged.curves.reward_margin,
        is_uncounted=is_uncounted,
    )


def _advice(step: ResultStep, beside: Comparison) -> Advice | None:
    """Returns the verdict with the measured result, None if it can't be computed any more because the dataset, the
    model or its price is gone."""
    context = step.context
    plan = step.plan
    dataset = context.store.datasets.get(step.run.dataset_id)
    report = datasets.report_of(dataset)
    if report is None:
        return None
    # Judging is done, so it costs no more.
    question = replace(estimate_requests.question_of(plan), judge=NO_JUDGE)
    before = evidence_services.without_other_judge(_evidence(step), plan)
    evidence = evidence_services.with_run_result(context, before, step.run, beside)
    estimate = estimates.make_estimate(
        context.settings,
        dataset.name,
        report,
        question,
        context.today(),
        evidence,
        is_trained=True,
        reachable=context.trainers,
        start=plan.starts_from,
    )
    if isinstance(estimate, Refusal):
        return None
    verdict = estimate.verdict
    next_step = verdict.deciding.step
    measure = []
    if next_step and isinstance(next_step.todo, Measure):
        for name in next_step.todo.models:
            provider, _, _ = name.partition("/")
            if provider in context.trainers:
                measure.append(name)
    return Advice(
        kind=verdict.kind,
        rule="" if verdict.kind == "go" else verdict.rule,
        headline=advice.headline(verdict),
        next_step=advice.next_step(verdict),
        reason=because_text(verdict.deciding.because),
        measure=tuple(measure),
    )


def _evidence(step: ResultStep) -> Evidence:
    dataset = step.context.store.datasets.get(step.run.dataset_id)
    report = datasets.report_of(dataset)
    if report is None:
        return Evidence()
    return evidence_services.load_evidence(step.context, dataset, report, None)


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
    since = step.run.state_since
    keys = evaluation_of(step).keys.values()
    totals = [step.context.store.answers.totals(theirs, since=since) for theirs in keys]
    return _cost_micros(step, *totals) + judgements.spent_on_run(step) + _lost_micros(step)


def _lost_micros(step: ResultStep) -> int:
    """Returns the highest cost of the questions whose answers were lost, the judge's included."""
    plan = step.plan
    listed = PriceList.from_json(plan.prices)
    tuned = listed.rows[0]
    if tuned.answers_by_hour:  # a machine is paid by the hour, however often it is asked
        prices = {}
    else:
        provider = step.run.provider
        prices = {
            str(asked_before(plan).model): listed.rows[1],
            f"{provider}/{tuned_model(step)}": tuned,
        }
    if plan.judge:
        prices[plan.judge] = judgements.price_of_judge(plan)
    return evaluation_engine.lost_micros(step.context, prices, step.owner)


def _cost_micros(step: ResultStep, base: AnswerTotals, tuned: AnswerTotals) -> int:
    trained = notifications.trained_amounts(step.plan, step.progress)
    return actual_micros(*trained, base, tuned, step.progress.billed_micros)
