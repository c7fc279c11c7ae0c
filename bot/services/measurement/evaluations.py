"""Measures alternatives to fine-tuning on the frozen holdout: a person asks and agrees to the cost, and the ticks do
the rest.

| state, stage | what happens |
| --- | --- |
| asked, preparing | a worker writes the prompts, which determine the cost |
| asked, pricing | for free text: the judge's cost is added (judgements.py) |
| asked, asking | a card waits for a person to agree to the cost |
| running, choosing | the number of examples in a prompt is chosen, if requested (few_shot.py) |
| running, searching | a better prompt is searched for, if requested (prompt_search.py) |
| running, measuring | the engine asks every question that has no stored answer |
| running, consulting | the judge is asked in the same way |
| running, judging | a worker scores the answers and draws the chart |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bot.cards.common.blocks import escape
from bot.cards.evidence.evaluations import BaselineChoices
from bot.context import AppContext
from bot.rules.budgets import max_evaluation_micros
from bot.services.common import candidates, freeze_scope
from bot.services.common.candidates import LineUp
from bot.services.common.freeze_scope import HOLD_S
from bot.services.datasets import data_policy, datasets, sealed_rows
from bot.services.datasets.data_policy import EgressPermission, Forbidden, Unsure
from bot.services.datasets.dataset_worker import SEED
from bot.services.datasets.datasets import CheckedDataset
from bot.services.evidence import evaluation_worker, judge_worker
from bot.services.evidence.evaluation_worker import CandidateKeys
from bot.services.evidence.judge_worker import Conclusion
from bot.services.measurement import (
    distillations,
    evaluation_engine,
    few_shot,
    judgements,
    measurements,
    prompt_search,
    prompt_search_worker,
    receivers,
)
from bot.services.measurement.evaluation_engine import Answers, Evaluation
from bot.services.measurement.evaluation_progress import ComparisonStep, load_step
from bot.values.evaluations import (
    CandidateProgress,
    ComparisonPlan,
    ComparisonProgress,
    SearchProgress,
    Stage,
)
from bot.values.requests import Baseline
from bot.values.runs import Refusal, RunResult
from storage.evaluations import NewMeasurement
from storage.records import COMPARISON, Dataset, Document, Measurement
from trainers.evaluation.results import FREE_KINDS, Candidate, Comparison
from trainers.money import usd_micros
from trainers.providers.providers import ProviderRow

FREE = tuple(Candidate(kind) for kind in FREE_KINDS)


@dataclass(frozen=True)
class SealedConclusion:
    """The result of a test on sealed rows, which decides a promotion. `measurement` is still open."""

    measurement: Measurement
    plan: ComparisonPlan
    progress: ComparisonProgress
    comparison: Comparison


def ask(
    context: AppContext,
    command: Baseline,
    person: str,
    channel: str,
    *,
    record: Callable[[Measurement], None] = lambda _: None,
) -> Measurement | Refusal:
    """Records what to measure and posts its card in the channel; the ticks do the rest. `record` stores more about it,
    in the same transaction."""
    checked = measurements.dataset_to_measure(context, command.dataset, person, channel)
    if isinstance(checked, Refusal):
        return checked
    refusal = datasets.bar_refusal(context, command.dataset, command.bar, person, channel)
    if refusal:
        return refusal
    planned = _plan(context, checked, command)
    if isinstance(planned, Refusal):
        return planned
    plan, permission = planned
    with context.store.transaction():
        if same := measurements.find_open_duplicate(context, plan.to_json()):
            return Refusal(f"The same measurement is under way already: m{same.id}.")
        datasets.change_settings(
            context, checked.dataset, person, bar=command.bar, task=command.task, prompt=command.prompt
        )
        new = NewMeasurement(COMPARISON, checked.dataset.id, channel, person, plan.to_json())
        measurement = measurements.add(context, new, permission, action="measure")
        record(measurement)
    return measurement


def find_refusal(context: AppContext, checked: CheckedDataset, command: Baseline) -> Refusal | None:
    """Returns why this can't be measured by anybody: no key, an unknown price, a rule about data. None if it can."""
    planned = _plan(context, checked, command)
    if isinstance(planned, Refusal):
        return planned
    return None


def ask_after_run(context: AppContext, number: int, person: str) -> Measurement | Refusal:
    """Handles the button on a run's result: measures the models that its own should be compared with."""
    run = context.store.runs.get(number)
    models: tuple[str, ...] = ()
    if run and run.result:
        advice = RunResult.from_json(run.result).advice
        if advice:
            models = advice.measure
    if run is None or not models:
        return Refusal(
            f"No comparison is missing for run {number}. `/finetune baseline DATASET` measures the models you name."
        )
    command = Baseline(context.store.datasets.get(run.dataset_id).name, models=models)
    return ask(context, command, person, run.channel)


def form_choices(context: AppContext, person: str, channel: str) -> BaselineChoices:
    """Returns the choices that the form offers; its models are those of providers with a key."""
    today = context.today()
    rows = [row for row in context.settings.providers if row.name in context.trainers]
    models = []
    for row in rows:
        for model in row.models:
            if not model.is_encoder and not model.has_ended(today):
                models.append(f"{row.name}/{model.name}")
    # The cheapest capable model of a vendor is offered even if it can't be tuned.
    for row in rows:
        cheap = candidates.cheapest_capable(context.settings, (row.name,), today)
        if cheap is None:
            continue
        _, _, name = cheap.model.partition("/")
        if row.model(name) is None:
            models += candidates.at_each_effort(cheap.model)
    may_overrule = any(rule.level == "soft" for rule in context.settings.policy.data)
    return BaselineChoices(datasets.usable_names(context, person, channel), models, may_overrule=may_overrule)


def step(context: AppContext, measurement: Measurement) -> SealedConclusion | None:
    """Takes an open comparison one step further. Returns the result of a test on sealed rows, which the caller has to
    end (promotions.py)."""
    step = load_step(context, measurement)
    if measurement.cancel_asked_by:
        measurements.cancel(context, measurement, spent_micros=step.stop_and_book())
        return None
    if freeze_scope.measurement_freeze(context, measurement):
        context.llm.drop(step.owner)  # answers to questions under way are still stored
        now = context.clock()
        context.store.measurements.move(measurement, measurement.state, now=now, next_at=now + HOLD_S)
        return None
    match step.progress.stage:
        case "preparing":
            _prepare(step)
        case "pricing":
            most = judgements.judge_maximum(step)
            if most is not None:
                progress = step.progress
                priced = replace(progress, stage="asking", most_micros=progress.most_micros + most)
                measurements.settle_cost(context, measurement, priced)
        case "asking":
            measurements.expire_or_wait(context, measurement)
        case "choosing":
            few_shot.take_step(step)
        case "searching":
            prompt_search.take_step(step)
        case "measuring":
            _measure(step)
        case "consulting":
            judgements.take_step(step)
        case "judging" if step.plan.teaches:
            distillations.conclude(step)
        case "judging":
            return _judge(step)
    return None


def handle_step_failure(context: AppContext, measurement: Measurement) -> None:
    """Repeats a step that stopped with an error of the bot; after a few attempts the measurement fails."""
    measurements.retry_or_fail(context, measurement, lambda: load_step(context, measurement).stop_and_book())


def _prepare(step: ComparisonStep) -> None:
    """Writes the prompts, computes the maximum cost of those without a stored answer, and asks people to agree to
    it."""
    context = step.context
    plan = step.plan
    keys = step.load_keys()
    if keys is None:
        return
    built = plan.built_as(keys)
    if built is not plan:  # some candidates have fewer examples than they asked for
        replace(step, plan=built).save()
        return
    evaluation = step.evaluation(keys)
    candidates = [
        CandidateProgress(candidate, len(its.keys), failed=its.failed, work=its.work)
        for candidate, its in keys.items()
    ]
    answers = evaluation_engine.collect(context, evaluation, candidates)
    answered = frozenset(evaluation.all_keys) - answers.all_missing
    most_micros = max_evaluation_micros(
        plan.price_of,
        keys,
        answered,
        evaluation_worker.plan_max_tokens(plan),
        plan.thinking,
    )
    progress = ComparisonProgress("asking", answers.candidates, most_micros)
    if plan.search:
        replay = prompt_search.first_replay(step)
        if replay is None:
            return
        too_little = prompt_search.budget_refusal(plan.search, replay)
        if too_little:
            measurements.end(context, step.measurement, "failed", too_little)
            return
        most_micros += prompt_search_worker.max_micros(plan)
        progress = replace(progress, most_micros=most_micros, search=SearchProgress())
    if plan.chooses_shots:
        tried = few_shot.load_keys(step)
        if tried is None:
            return
        progress = _with_shots(step, progress, tried)
    if plan.judge:
        step.with_progress(replace(progress, stage="pricing")).save()
    else:
        measurements.settle_cost(context, step.measurement, progress)


def _with_shots(
    step: ComparisonStep, progress: ComparisonProgress, tried: Mapping[Candidate, CandidateKeys]
) -> ComparisonProgress:
    """Adds the calls that choose the examples, with their cost."""
    shot_candidates = []
    for candidate, its in tried.items():
        shot_candidates.append(CandidateProgress(candidate, len(its.keys), work=its.work))
    most_micros = few_shot.most_micros(step.context, step.plan, tried)
    return replace(
        progress,
        most_micros=progress.most_micros + most_micros,
        shot_candidates=tuple(shot_candidates),
    )


def _measure(step: ComparisonStep) -> None:
    """Asks the questions without an answer; once every candidate is done or has failed, the comparison is judged."""
    context = step.context
    progress = step.progress
    keys = step.load_keys()
    if keys is None:
        return
    # Recorded before the first question, so that rows that a model has seen never count as sealed.
    if step.plan.promotes and progress.opened_at is None:
        _open_sealed_rows(step)
        return
    evaluation = step.evaluation(keys)
    answers = evaluation_engine.collect(context, evaluation, progress.candidates)
    spent = evaluation_engine.spent_micros(
        context, step.plan.price_of, evaluation.keys, progress.started_at or 0.0
    )
    models = [str(candidate.model) for candidate, left in answers.missing.items() if candidate.model and left]
    updated = replace(
        progress,
        candidates=answers.candidates,
        spent_micros=spent + progress.before_measuring_micros,
        note=evaluation_engine.waiting_note(context, models),
    ).start_pace(context.clock())
    step = step.with_progress(updated)
    # Possible despite the computed maximum, because a vendor may count more tokens than we do.
    if updated.spent_micros > updated.most_micros:
        agreed = usd_micros(updated.most_micros)
        step.fail(f"It was stopped because its answers cost more than was agreed ({agreed}).")
    elif not answers.all_missing:
        _end_measuring(step)
    else:
        step = _store_free_answers(step, evaluation, answers)
        # Saved before more is asked, because the client reports a declined question only once.
        step.save()
        step.ask(evaluation, answers.unasked)


def _open_sealed_rows(step: ComparisonStep) -> None:
    """Records that the sealed rows are opened now; the next tick asks. Waits if the rows may not leave yet."""
    match receivers.egress_refusal(step.context, step.measurement):
        case Forbidden(reason):
            step.fail(reason)
        case Unsure():
            step.save()
        case None:
            with step.context.store.transaction():
                sealed_rows.record_opening(step.context, step.measurement, step.progress)
                progress = replace(step.progress, opened_at=step.context.clock())
                step.with_progress(progress).save()


def _store_free_answers(step: ComparisonStep, evaluation: Evaluation, answers: Answers) -> ComparisonStep:
    """Has workers compute the answers of the free candidates, and stores them. One that can't answer is left out with
    the reason."""
    context = step.context
    files = context.settings.files
    failed: dict[Candidate, str] = {}
    for candidate in FREE:
        if not answers.missing.get(candidate):
            continue
        work = f"{candidate.kind} {step.owner}"
        replies = context.workers.poll(
            work, evaluation_worker.free_answers, candidate, step.plan, files, step.folder, SEED
        )
        if isinstance(replies, Refusal):
            failed[candidate] = replies.text
        elif replies is not None:
            keys = evaluation.keys[candidate]
            evaluation_engine.store_free_answers(
                context, candidate, keys, replies, context.clock(), evaluation.owner
            )
    candidates = (
        replace(candidate, failed=failed.get(candidate.identity, candidate.failed))
        for candidate in step.progress.candidates
    )
    return step.with_progress(replace(step.progress, candidates=tuple(candidates)))


def _end_measuring(step: ComparisonStep) -> None:
    context = step.context
    progress = step.progress
    if all(candidate.failed is not None for candidate in progress.candidates):
        if context.llm.drop(step.owner):
            step.save()
            return  # questions under way may still be answered and billed, so wait for them
        # Candidates of one model fail for the same reason, which is said once.
        reasons = dict.fromkeys(escape(str(candidate.failed)) for candidate in progress.candidates)
        why = " ".join(reasons)
        measurements.end(context, step.measurement, "failed", why, actual_micros=progress.booked_micros)
        return
    stage: Stage = "judging"
    if step.plan.judge:
        stage = "consulting"
    step.with_progress(replace(progress, stage=stage, note=None)).save()


def _judge(step: ComparisonStep) -> SealedConclusion | None:
    context = step.context
    plan = step.plan
    progress = step.progress
    keys = step.load_keys()
    if keys is None:
        return None
    from_judge = None
    if progress.judge:
        from_judge = judgements.read_judge_answers(context, plan, step.folder, progress.judge)
    if from_judge and from_judge.acceptable is None and from_judge.failed is None:  # the folder was lost
        step.with_progress(replace(progress, stage="consulting")).save()
        return None
    answer_keys = evaluation_worker.keys_by_candidate(keys)
    conclusion = context.workers.poll(
        f"judge {step.owner}",
        judge_worker.conclude,
        plan,
        evaluation_engine.replies(context, answer_keys, progress.candidates),
        from_judge,
        context.settings.files,
        step.folder,
        context.clock(),
    )
    if conclusion is None:
        return None
    return _finish(step, conclusion)


def _finish(step: ComparisonStep, concluded: Conclusion) -> SealedConclusion | None:
    """Ends the measurement with its result. One on sealed rows ends together with the promotion that it decides."""
    progress = step.progress
    judge = concluded.judge
    if progress.judge and judge:
        before = progress.judge
        judge = replace(judge, of=before.of, answered=before.answered, declined=before.declined)
        progress = replace(progress, judge=judge)
    if step.plan.promotes is not None:
        return SealedConclusion(step.measurement, step.plan, progress, concluded.comparison)
    with step.context.store.transaction():
        measurements.finish(
            step.context,
            step.measurement,
            concluded.comparison.to_json(),
            spent_micros=progress.booked_micros,
            progress=progress.to_json(),
        )
    return None


def _plan(
    context: AppContext, checked: CheckedDataset, command: Baseline
) -> tuple[ComparisonPlan, EgressPermission] | Refusal:
    dataset = checked.dataset
    report = checked.report
    if not report.n_holdout:
        return Refusal(f"`{dataset.name}` has no held-out rows, so nothing can be measured on it.")
    today = context.today()
    optimised = None
    if not command.optimise:
        optimised = prompt_search.latest_prompt(context, dataset.name)
    line_up = candidates.line_up(
        context.settings, context.trainers, command, report, today, has_prompt=optimised is not None
    )
    if isinstance(line_up, Refusal):
        return line_up
    if command.optimise:
        few = prompt_search.too_few_rows_refusal(report.n_train)
        if few:
            return few
    receivers = [model.row for model in line_up.all_models]
    permission = data_policy.decide_egress(context, dataset, report, receivers, command.because)
    if isinstance(permission, Refusal):
        return permission

    prompt = command.prompt
    settings = context.store.dataset_settings.get(dataset.name)
    if settings and not prompt:
        prompt = settings.prompt
    reused = None
    if any(candidate.kind == "optimised" for candidate in line_up.candidates):
        reused = optimised
    refusal = _prompt_refusal(context, dataset, prompt, reused, receivers)
    if refusal:
        return refusal

    documents = context.store.documents.ready(dataset.name)
    has_shots = any(candidate.kind == "kshot" for candidate in line_up.candidates)
    plan = line_up.plan(
        dataset.name,
        dataset.version,
        report,
        today,
        prompt=prompt,
        bar=command.bar or datasets.bar_of(context, dataset.name),
        is_bar_set=command.bar is not None or datasets.is_bar_set(context, dataset.name),
        documents=tuple(str(document.sha256) for document in documents),
        optimise=command.optimise,
        chooses_shots=command.shots == 0 and has_shots,
        optimised=optimised,
        withheld_from=_withheld_from(context, dataset, documents, line_up),
    )
    if command.asks_again:
        plan = replace(plan, asked_on=f"{today}")
    return plan, permission


def _withheld_from(
    context: AppContext, dataset: Dataset, documents: Sequence[Document], line_up: LineUp
) -> tuple[str, ...]:
    """Returns the models that may be shown no passage with personal data: all through which it could leave this
    machine, unless a waiver covers the documents. It can't cover those that were added after it."""
    if not documents:
        return ()
    waiver = context.store.waivers.of(dataset.id)
    if waiver and all(document.created_at <= waiver.at for document in documents):
        return ()
    # A judge elsewhere reads the answers, and even a model on this machine may repeat a passage in its answer.
    if line_up.judge and not line_up.judge.row.stays_here:
        return tuple(model.name for model in line_up.models)
    return tuple(model.name for model in line_up.models if not model.row.stays_here)


def _prompt_refusal(
    context: AppContext,
    dataset: Dataset,
    prompt: str | None,
    optimised: str | None,
    rows: Sequence[ProviderRow],
) -> Refusal | None:
    """Returns why the prompt that a person typed, or the one that an earlier measurement found, may not be sent to
    these providers, None if both may. The earlier one may quote a row that only an older version's waiver covers."""
    typed = data_policy.typed_text_refusal(context, prompt or "", "The prompt", dataset.id, rows)
    if typed:
        return replace(typed, about="prompt")
    name = "The optimised prompt of an earlier measurement"
    cure = "`optimise=5` searches for another one, for up to $5."
    return data_policy.typed_text_refusal(context, optimised or "", name, dataset.id, rows, cure)
