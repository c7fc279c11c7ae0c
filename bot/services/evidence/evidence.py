"""Loads what was measured on a dataset and of a tuned model, for estimates, advice and promotions. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal

from bot.cards.common.candidates import table_name
from bot.cards.training.result_comparison import better_name
from bot.context import AppContext
from bot.rules.estimate_inputs import DEFAULT_BUSY
from bot.rules.facts import Evidence, OtherJudge, TaskKind, task_kind, without_trained_candidate
from bot.rules.judge_agreement import JudgeChecks
from bot.rules.models.promotion import (
    LabelRecall,
    ModelComparison,
    PromotionEvidence,
    best_comparison,
    compare_change,
    compare_models,
    labels_below_floor,
)
from bot.rules.plans import Plan, plan_from_json
from bot.services.common import finished_measurements
from bot.services.datasets import datasets, row_labels
from bot.services.evidence import checked_judges, looks
from bot.services.evidence.measured_candidates import load_measured
from bot.services.evidence.scored_rows import ScoredOn, find_common_places, load_scored_rows
from bot.settings import Settings
from bot.values.runs import Before, RunResult
from bot.values.targets import Target
from storage.records import AnswerRow, Dataset, Model, Run
from storage.store import Store
from trainers.dataset import Report
from trainers.dataset.rows import at
from trainers.evaluation.comparison import usd_per_1000
from trainers.evaluation.quality_threshold import judge_candidates
from trainers.evaluation.results import Candidate, Comparison, Curve, MeasuredCandidate, Reply, find_best
from trainers.evaluation.statistics import Interval
from trainers.providers.pricing import PriceList

RIGHT_OR_WRONG = ("label", "judge", "calls")  # every score is 1 or 0, as for the stored answers of a run
SIBLINGS = 10  # only the best other models are compared: a worse one can't be the strongest rival


def load_evidence(
    context: AppContext,
    dataset: Dataset,
    report: Report,
    target: Target | None,
    *,
    bar: float | None = None,
    task: TaskKind | None = None,
) -> Evidence:
    """Returns the evidence on a dataset. The tuned model is the newest one that was trained on `target`, or on any base
    model if `target` is None. `bar` and `task` default to the dataset's settings."""
    limits = context.settings.policy.promotion
    stored = context.store.dataset_settings.get(dataset.name)
    if stored and not bar:
        bar = stored.bar
    if stored and not task and stored.task_kind:
        task = task_kind(stored.task_kind)
    versions = tuple(version.id for version in context.store.datasets.versions(dataset.name))
    holdout = str(report.holdout_sha256)
    evidence = Evidence(
        bar=bar or limits.bar,
        margin=limits.margin,
        task_kind=task,
        curve=_newest_curve(context, versions, holdout),
        label_checks=row_labels.count_checks(context, dataset.id, versions),
        left_out=finished_measurements.left_out(context.store, versions, holdout),
    )
    measured = load_measured(context.store, context.settings.files, dataset.name, holdout, evidence.bar)
    if measured is not None:
        evidence = replace(
            evidence,
            comparison=measured.comparison,
            judge=measured.judge,
            judge_checks=checked_judges.checks_of(context.store, dataset.name, measured.judge),
            failed=measured.failed,
        )
    run = _newest_run(context, versions, holdout, target)
    if run is None or run.result is None:
        return evidence
    beside = RunResult.from_json(run.result).comparison
    if beside is None:
        return evidence
    return with_run_result(context, evidence, run, beside)


def _newest_curve(context: AppContext, versions: tuple[int, ...], holdout: str) -> Curve | None:
    for finished in finished_measurements.curves(context.store, versions):
        if finished.curve.holdout_sha256 == holdout:
            return finished.curve
    return None


def with_run_result(context: AppContext, evidence: Evidence, run: Run, beside: Comparison) -> Evidence:
    """Adds the result of a run, unless another judge scored it than the comparison: their verdicts don't compare."""
    plan = plan_from_json(run.plan)
    if beside.scoring == "judge":
        if _has_other_judge(evidence, plan):
            return replace(evidence, other_judge=OtherJudge(str(run.model), str(plan.judge)))
        checks = checked_judges.checks_of(context.store, plan.dataset, plan.judge)
        evidence = replace(evidence, judge=plan.judge, judge_checks=checks)
    (tuned,) = beside.of_kind("tuned")
    if beside.bar != evidence.bar:
        # Judged without a correction for having picked the best of several: it was chosen before it was measured.
        (tuned,) = judge_candidates((tuned,), evidence.bar)
    history = looks.history(context.store, plan.dataset, plan.holdout_sha256)
    return replace(
        evidence,
        comparison=_with_pairs(evidence.comparison, beside),
        tuned=tuned,
        tuned_look=looks.number_of_tuned(history, run),
    )


def _with_pairs(comparison: Comparison | None, beside: Comparison) -> Comparison | None:
    """Adds a result's comparison of the tuned model with the best alternative, if the comparison still has that
    alternative with the same scores."""
    best = next((candidate for candidate in beside.candidates if candidate.kind != "tuned"), None)
    if comparison is None or best is None:
        return comparison
    is_unchanged = any(
        (candidate.identity, candidate.scores) == (best.identity, best.scores)
        for candidate in comparison.candidates
    )
    if not is_unchanged:
        return comparison
    return replace(comparison, pairs=(*comparison.pairs, *beside.pairs))


def without_other_judge(evidence: Evidence, plan: Plan) -> Evidence:
    """Leaves out what another judge scored than the plan's, for a verdict on the plan's own run."""
    if not _has_other_judge(evidence, plan):
        return evidence
    return replace(evidence, comparison=None, tuned=None)


def _has_other_judge(evidence: Evidence, plan: Plan) -> bool:
    return evidence.is_judged and plan.judge is not None and evidence.judge != plan.judge


def best_candidate(evidence: Evidence) -> MeasuredCandidate | None:
    """Returns the best candidate, the tuned model included."""
    candidates = [*evidence.candidates]
    if evidence.tuned is not None:
        candidates.append(evidence.tuned)
    return find_best(candidates)


def judge_checks(context: AppContext, plan: Plan) -> JudgeChecks | None:
    """Returns what people said about the plan's judge on this dataset, None without a judge."""
    if plan.judge is None:
        return None
    return checked_judges.checks_of(context.store, plan.dataset, plan.judge)


def comparable_alternatives(evidence: Evidence, judge: str | None) -> tuple[MeasuredCandidate, ...]:
    """Returns the alternatives whose scores can be compared with those of a model that `judge` scored."""
    if evidence.judge not in (None, judge):
        return ()
    return evidence.alternatives


def _newest_run(
    context: AppContext, versions: tuple[int, ...], holdout: str, target: Target | None
) -> Run | None:
    for run in context.store.runs.done(versions):
        plan = plan_from_json(run.plan)
        is_target = target is None or _is_target(plan, target)
        if plan.holdout_sha256 == holdout and is_target:
            return run
    return None


def _is_target(plan: Plan, target: Target) -> bool:
    trained = (plan.provider, plan.base_model, plan.starts_from)
    return trained == (target.row.name, target.model.name, target.start)


def tuned_candidate(store: Store, run: Run) -> MeasuredCandidate | None:
    """Returns a run's model with its scores, None if the run has no result or its dataset was deleted."""
    if run.result is None or store.datasets.get(run.dataset_id).forgotten_at is not None:
        return None
    beside = RunResult.from_json(run.result).comparison
    if beside is None:
        return None
    (tuned,) = beside.of_kind("tuned")
    return tuned


def promotion_proof(
    context: AppContext, model: Model, used: Model | None, run: Run | None = None
) -> PromotionEvidence:
    """Returns what speaks for and against using a model. `used` is the model that it would replace. `run` is the
    model's own run if it is newer than the stored one."""
    stored, plan = _run(context, model)
    run = run or stored
    candidate = tuned_candidate(context.store, run)
    proof = PromotionEvidence(
        candidate,
        used=used.name if used else None,
        is_gone=model.gone_at is not None,
        limits=context.settings.policy.promotion,
    )
    if run.result is None:
        return proof
    result = RunResult.from_json(run.result)
    if candidate is not None:
        history = looks.history(context.store, plan.dataset, plan.holdout_sha256)
        look = looks.number_of_tuned(history, run)
        comparisons = [
            *_compare_with_alternatives(context, run, plan, result, candidate, look),
            *_find_better_models(context, model, plan, candidate),
        ]
        proof = replace(
            proof,
            best=best_comparison(comparisons, proof.limits.margin),
            others_judge=_others_judge(context, plan, candidate),
        )
        if used:
            proof = replace(proof, against_used=_compare_with_model(context, plan, candidate, used, look))
    no_go = None
    if result.advice is not None and result.advice.kind == "no_go":
        no_go = result.advice.headline
    labels = (LabelRecall(label.label, label.rows, label.tuned) for label in result.labels)
    return replace(
        proof,
        no_go=no_go,
        low=labels_below_floor(labels, proof.limits),
        worse=result.worse_labels,
        worse_than=better_name(result),
        judge=checked_judges.judge_of_result(context, plan, result),
    )


def _others_judge(context: AppContext, plan: Plan, candidate: MeasuredCandidate) -> str | None:
    """Returns the judge that scored the alternatives since, None if no other judge did than the model's own."""
    if candidate.scoring != "judge":
        return None
    files = context.settings.files
    measured = load_measured(context.store, files, plan.dataset, plan.holdout_sha256)
    if measured is None or measured.judge in (None, plan.judge):
        return None
    return measured.judge


def what_answered_before(run: Run) -> Before:
    """Returns what a run's tuned model was compared with. Its base may be one that can't be asked."""
    if run.result is None:
        return "base"
    return RunResult.from_json(run.result).before


def measured_score(context: AppContext, model: Model) -> tuple[Plan, MeasuredCandidate | None]:
    """Returns the plan of the model's run, and the model's score, None if there is none."""
    run, plan = _run(context, model)
    return plan, tuned_candidate(context.store, run)


def _run(context: AppContext, model: Model) -> tuple[Run, Plan]:
    run = context.store.runs.get(model.run_id)
    if run is None:
        raise KeyError(model.run_id)
    return run, plan_from_json(run.plan)


def _compare_with_alternatives(
    context: AppContext, run: Run, plan: Plan, result: RunResult, tuned: MeasuredCandidate, look: int
) -> Iterator[ModelComparison]:
    """Yields comparisons with what answered before the training, and with each alternative that answered the same rows
    and was scored in the same way."""
    usd = request_usd(context.settings, plan.provider, plan.base_model, tuned.usd_per_1000)
    with_base = _compare_with_base(context, run, plan, result, tuned, usd, look)
    if with_base is not None:
        yield with_base
    dataset = context.store.datasets.get(run.dataset_id)
    report = datasets.report_of(dataset)
    if report is None or report.holdout_sha256 != plan.holdout_sha256:
        return
    evidence = without_trained_candidate(load_evidence(context, dataset, report, None), plan.method)
    comparable = [
        candidate
        for candidate in comparable_alternatives(evidence, plan.judge)
        if (candidate.scoring, candidate.n) == (tuned.scoring, tuned.n)
    ]
    best = None if result.is_base_ahead else find_best(comparable)
    for candidate in comparable:
        provider, _, model = (candidate.model or "").partition("/")
        compared = compare_models(
            table_name(candidate.identity),
            tuned.scores,
            candidate.scores,
            usd,
            request_usd(context.settings, provider, model, candidate.usd_per_1000),
            look=look,
            read=tuned.read,
        )
        yield replace(compared, is_best=candidate is best)


def _compare_with_base(
    context: AppContext,
    run: Run,
    plan: Plan,
    result: RunResult,
    tuned: MeasuredCandidate,
    usd: Decimal | None,
    look: int,
) -> ModelComparison | None:
    """Compares with what answered before the training; `usd` is the price of 1,000 requests to the tuned model. Returns
    None if the two did not answer the same rows, or if older results don't tell how they compare by shares of a row."""
    base: Sequence[AnswerRow] = context.store.runs.answers(run.id, "base")
    if len(base) != tuned.n:
        # All rows were asked, and copies of a row count once in the tuned model's score.
        scored = load_scored_rows(context.settings.files, plan.holdout_sha256)
        base = at([place for place in scored.positions if place < len(base)], base)
    if len(base) != tuned.n:
        return None
    name, base_usd = _describe_base(context, plan, result.before, base)
    if tuned.scoring in RIGHT_OR_WRONG:
        scores = [float(answer.correct) for answer in base]
        return compare_models(name, tuned.scores, scores, usd, base_usd, look=look, read=tuned.read)
    change = result.partial
    if change is None:
        return None
    shown = Interval(change.low, change.high)
    return compare_change(name, change.before.score, shown, tuned, usd, base_usd, look=look)


def _describe_base(
    context: AppContext, plan: Plan, before: Before, answers: Sequence[AnswerRow]
) -> tuple[str, Decimal | None]:
    """Returns the name of what answered before the training, and the USD of 1,000 requests to it."""
    if before in ("classical", "encoder"):
        return table_name(Candidate(before)), Decimal(0)
    usd = request_usd(context.settings, plan.provider, plan.base_model, _base_usd(plan, answers))
    if plan.starts_from is not None:
        return plan.starts_from.name, usd
    return f"the untuned base, {plan.base_model}", usd


def _base_usd(plan: Plan, answers: Sequence[AnswerRow]) -> Decimal | None:
    """Returns the USD of 1,000 requests to the untuned base, computed from its answers."""
    candidate = Candidate("zero", f"{plan.provider}/{plan.base_model}")
    replies = [
        Reply(answer.text, answer.prompt_tokens, answer.completion_tokens, answer.seconds, answer.came_at)
        for answer in answers
    ]
    return usd_per_1000(candidate, replies, {str(candidate.model): PriceList.from_json(plan.prices).rows[1]})


def request_usd(settings: Settings, provider: str, model: str, usd: Decimal | None) -> Decimal | None:
    """Returns the USD of 1,000 requests in production, given `usd` as it was measured. A machine that is billed by the
    hour is busy during a measurement, but in production it idles for part of the hours that it costs."""
    row = settings.provider(provider)
    model_row = row.model(model) if row else None
    if usd is None or model_row is None or model_row.usd_per_hour is None:
        return usd
    return usd / DEFAULT_BUSY


def _find_better_models(
    context: AppContext, model: Model, plan: Plan, candidate: MeasuredCandidate
) -> Iterator[ModelComparison]:
    """Yields comparisons with the tuned models that are shown to be better than this one."""
    for other in context.store.best_models(plan.holdout_sha256, SIBLINGS, but=model.name):
        compared = _compare_with_model(context, plan, candidate, other)
        if compared and compared.is_worse:
            yield compared


def _compare_with_model(
    context: AppContext, plan: Plan, candidate: MeasuredCandidate, used: Model, look: int = 1
) -> ModelComparison | None:
    """Compares two tuned models on the rows that both answered; the holdout of a later version contains the earlier
    one's. `look` is the number of the first of them among the tuned models measured on its rows. Returns None if they
    have no rows in common or were scored differently."""
    other_plan, other = measured_score(context, used)
    if other is None or other.scoring != candidate.scoring:
        return None
    if candidate.scoring == "judge" and other_plan.judge != plan.judge:
        return None
    prices = (
        request_usd(context.settings, plan.provider, plan.base_model, candidate.usd_per_1000),
        request_usd(context.settings, other_plan.provider, other_plan.base_model, other.usd_per_1000),
    )
    common = find_common_places(
        context.settings.files,
        (ScoredOn(plan.holdout_sha256, candidate), ScoredOn(other_plan.holdout_sha256, other)),
    )
    mine, theirs = common
    if not mine:
        return None
    return compare_models(
        used.name,
        at(mine, candidate.scores),
        at(theirs, other.scores),
        *prices,
        look=look,
        read=[number for number, place in enumerate(mine) if place in candidate.read],
    )
