"""The test on sealed rows that decides a promotion: the model, what is in use and the best alternative answer them.

The test is a comparison on the sealed part, so a person agrees to its cost, answers are stored, and a kill loses
nothing.
"""

from __future__ import annotations

from dataclasses import replace

from bot.cards.common import freeze as freeze_cards
from bot.cards.common.candidates import promotable_name, table_name
from bot.cards.models.deployments import stopped_refusal
from bot.context import AppContext
from bot.rules.facts import Evidence
from bot.rules.models.promotion import ModelComparison, PromotionEvidence, best_comparison, compare_models
from bot.rules.plans import Plan, plan_from_json
from bot.services.common.candidates import LineUp
from bot.services.datasets import data_policy, datasets
from bot.services.evidence import evidence, looks
from bot.services.evidence.measured_candidates import load_measured
from bot.services.measurement import measurements
from bot.services.models import deployments, models
from bot.values.evaluations import ComparisonPlan, promoted_candidate
from bot.values.runs import Refusal
from storage.evaluations import NewMeasurement
from storage.records import COMPARISON, Dataset, Measurement, Model, Promotable, Run
from trainers.dataset import Report
from trainers.evaluation.results import Candidate, Comparison, MeasuredCandidate, find_best
from trainers.providers.pricing import PriceList


def has_sealed_rows(context: AppContext, run: Run) -> bool:
    """True if the version that a run trained on has a sealed part."""
    dataset = context.store.datasets.get(run.dataset_id)
    report = datasets.report_of(dataset)
    return report is not None and report.sealed_sha256 is not None


def without_test(context: AppContext, what: Promotable, proof: PromotionEvidence) -> PromotionEvidence:
    """Returns the evidence for somebody who wants to use a tuned model without opening the sealed rows, if there are
    any."""
    model = context.store.model(what.model or "")
    if model is None:
        return proof
    run = context.store.runs.of_model(model)
    return replace(proof, skips_sealed=has_sealed_rows(context, run))


def ask_sealed_test(
    context: AppContext, model: Model, run: Run, used: Promotable | None, person: str
) -> Measurement | Refusal:
    """Records the request to open the sealed rows for this model; the ticks do the rest. `used` is what is in use."""
    version = context.store.datasets.get(run.dataset_id)
    report = datasets.report_of(version)
    if report is None:
        return Refusal(f"The rows that {model.name} was trained on were deleted.")
    freeze = context.store.freezes.current()
    if freeze:
        return Refusal(freeze_cards.refusal(freeze, "No other model is deployed now"))
    is_hosted = plan_from_json(run.plan).hosting is not None
    if is_hosted and not deployments.is_running(context, run.id):
        return Refusal(stopped_refusal(model.name, model.provider))
    plan = _sealed_plan(context, model, run, used, version, report)
    if isinstance(plan, Refusal):
        return plan
    rows = []
    for name in plan.price_of:
        provider, _, _ = name.partition("/")
        row = context.settings.provider(provider)
        if row:
            rows.append(row)
    permission = data_policy.decide_egress(context, version, report, rows, None)
    if isinstance(permission, Refusal):
        return permission
    new = NewMeasurement(COMPARISON, version.id, run.channel, person, plan.to_json())
    with context.store.transaction():
        same = measurements.find_open_duplicate(context, new.plan)
        if same:
            return Refusal(f"The sealed rows are being measured already: m{same.id} decides.")
        return measurements.add(context, new, permission, action="measure")


def sealed_proof_of(
    context: AppContext,
    model: Model,
    used: Promotable | None,
    plan: ComparisonPlan,
    comparison: Comparison,
    on_holdout: PromotionEvidence,
) -> PromotionEvidence:
    """Returns the proof with the scores and comparisons on the sealed rows in place of those on the holdout. `plan` is
    that of the comparison."""
    candidates = {candidate.identity: candidate for candidate in comparison.candidates}
    own = candidates.pop(_candidate_of(model), None)
    theirs = None
    if used is not None:
        # Taken out, so that it isn't among the alternatives as well.
        theirs = candidates.pop(_identity_of(context, used), None)
    if own is None:
        return replace(on_holdout, candidate=None, best=None, against_used=None)
    seen = looks.history(context.store, comparison.dataset, comparison.holdout_sha256)
    opened = looks.next_look(seen)
    others = []
    for candidate in candidates.values():
        name = table_name(candidate.identity)
        others.append(_compare_candidates(context, plan, name, own, candidate, opened))
    against_used = None
    if used and theirs:
        against_used = _compare_candidates(context, plan, promotable_name(used), own, theirs, opened)
    return replace(
        on_holdout,
        candidate=own,
        best=best_comparison(others, on_holdout.limits.margin),
        against_used=against_used,
        others_judge=None,
    )


def _compare_candidates(
    context: AppContext,
    plan: ComparisonPlan,
    name: str,
    candidate: MeasuredCandidate,
    other: MeasuredCandidate,
    opened: int,
) -> ModelComparison:
    """Compares two models on sealed rows that were opened for the `opened`-th time."""
    prices = PriceList.from_json(plan.prices)
    own_usd = evidence.request_usd_at(context.settings, prices, candidate)
    other_usd = evidence.request_usd_at(context.settings, prices, other)
    return compare_models(name, candidate.scores, other.scores, own_usd, other_usd, look=opened)


def _candidate_of(model: Model) -> Candidate:
    return Candidate("tuned", f"{model.provider}/{model.provider_model}")


def _identity_of(context: AppContext, what: Promotable) -> Candidate:
    candidate = promoted_candidate(what)
    if candidate is not None:
        return candidate
    model = context.store.model(what.model or "")
    if model is None:
        raise KeyError(what.model)
    return _candidate_of(model)


def _sealed_plan(
    context: AppContext, model: Model, run: Run, used: Promotable | None, version: Dataset, report: Report
) -> ComparisonPlan | Refusal:
    """Plans a comparison on the sealed rows with the settings of the one that measured the best alternative, or a
    candidate that is in use, which has to answer as it answers programs. If nothing was measured, what the run compared
    its model with takes the alternative's place."""
    measured = evidence.load_evidence(context, version, report, None)
    before, alternative = _best_alternative(context, measured, version, report)
    used_model, used_candidate, used_plan = _parts_of(context, used)
    trained = plan_from_json(run.plan)
    price_of_base = None
    if alternative is None:
        alternative = _compared_by_run(run, trained)
        if alternative.model is not None:
            # The first two prices of a run's plan are the tuned model's and the base model's.
            base = PriceList.from_json(trained.prices).rows[1]
            price_of_base = replace(base, model=alternative.model)
    like = used_plan or before or _plain_plan(context, version, report, measured)
    tuned = [model]
    if used_model is not None:
        tuned.insert(0, used_model)
    # A model that is gone from its provider can't answer.
    tuned = [other for other in tuned if other.gone_at is None]
    untrained = [alternative]
    if used_candidate is not None and used_candidate != alternative:
        untrained.append(used_candidate)
    models_to_ask = {like.judge, *(candidate.model for candidate in untrained)}
    prices = [row for row in PriceList.from_json(like.prices).rows if row.model in models_to_ask]
    if price_of_base is not None:
        prices.append(price_of_base)
    for other in tuned:
        price = models.price_of(context, other)
        if isinstance(price, Refusal):
            return price
        prices.append(replace(price, model=str(_candidate_of(other).model)))
    return replace(
        like,
        version=version.version,
        bar=measured.bar,
        holdout_sha256=str(report.sealed_sha256),
        n_holdout=report.n_sealed,
        candidates=(*untrained, *map(_candidate_of, tuned)),
        prices=PriceList(tuple(prices), context.today()).to_json(),
        thinking=tuple(row.model for row in prices if context.settings.thinks(row.model)),
        search=None,
        floor=None,  # it was found on the holdout
        encoder=like.encoder or context.settings.encoder,
        promotes=model.name,
    )


def _compared_by_run(run: Run, trained: Plan) -> Candidate:
    """Returns what a run compared its model with. The tuned model that a training went on from may be gone, or is the
    one in use, which is compared in any case: then it is the base."""
    compared_with = evidence.what_answered_before(run)
    if compared_with in ("classical", "encoder"):
        return Candidate(compared_with)
    return Candidate("zero", f"{run.provider}/{trained.base_model}")


def _plain_plan(context: AppContext, version: Dataset, report: Report, measured: Evidence) -> ComparisonPlan:
    """Returns the plan of a comparison with the usual settings, for a dataset on which nothing was measured."""
    return LineUp((), (), "").plan(
        version.name,
        version.version,
        report,
        context.today(),
        prompt=None,
        bar=measured.bar,
        is_bar_set=datasets.is_bar_set(context, version.name),
    )


def _parts_of(
    context: AppContext, used: Promotable | None
) -> tuple[Model | None, Candidate | None, ComparisonPlan | None]:
    """Returns the tuned model that is in use; or the candidate that is, and the plan by which it was measured."""
    if used is None:
        return None, None, None
    measurement = context.store.measurements.get(used.measurement or 0)
    if measurement is None:
        return context.store.model(used.model or ""), None, None
    return None, promoted_candidate(used), ComparisonPlan.from_json(measurement.plan)


def _best_alternative(
    context: AppContext, measured: Evidence, version: Dataset, report: Report
) -> tuple[ComparisonPlan | None, Candidate | None]:
    """Returns the plan that measured the best alternative on this version's holdout, and that alternative; (None, None)
    if nothing was measured."""
    best = find_best(measured.alternatives)
    holdout_sha256 = str(report.holdout_sha256)
    holdout = load_measured(context.store, context.settings.files, version.name, holdout_sha256, measured.bar)
    if best is None or holdout is None:
        return None, None
    return holdout.plan_of(best.identity), best.identity
