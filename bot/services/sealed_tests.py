"""The final test of a promotion: the model, the one in use and the best alternative answer the dataset's sealed rows,
and the result decides.

It is a ladder on the sealed part, so a person agrees to its cost, answers are stored, and a kill loses nothing.
promotions.py asks for it and records its outcome.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from bot.cards import freeze as freeze_cards
from bot.cards.candidates import arm_name
from bot.cards.deployments import stopped_refusal
from bot.cards.models import opened_before
from bot.cards.words import pluralize
from bot.context import AppContext
from bot.rules.facts import Evidence
from bot.rules.plans import plan_from_json
from bot.rules.promotion import ModelComparison, PromotionEvidence, best_comparison, compare_models
from bot.services import data_policy, datasets, deployments, evidence, measurements, models
from bot.services.candidates import LineUp
from bot.values.evaluations import LadderPlan
from bot.values.runs import Refusal
from storage.evaluations import NewMeasurement
from storage.records import Dataset, Measurement, Model, Run
from trainers.dataset import Report
from trainers.evaluation.results import Candidate, Ladder, Rung
from trainers.pricing import PriceList


def has_sealed_rows(context: AppContext, run: Run) -> bool:
    """True if the version that a run trained on has a sealed part."""
    report = datasets.report_of(context.store.datasets.get(run.dataset_id))
    return report is not None and report.sealed_sha256 is not None


def ask(
    context: AppContext, model: Model, run: Run, used: Model | None, person: str
) -> Measurement | Refusal:
    """Records the request to open the sealed rows for this model; the ticks do the rest. `used` is the model in use."""
    version = context.store.datasets.get(run.dataset_id)
    report = datasets.report_of(version)
    if report is None:
        return Refusal(f"The rows that {model.name} was trained on were deleted.")
    freeze = context.store.freezes.current()
    if freeze:
        return Refusal(freeze_cards.refusal(freeze, "No other model is deployed now"))
    if plan_from_json(run.plan).hosting and not deployments.is_running(context, run.id):
        return Refusal(stopped_refusal(model.name, model.provider))
    plan = _plan(context, model, run, used, version, report)
    if isinstance(plan, Refusal):
        return plan
    rows = [context.settings.provider(name.partition("/")[0]) for name in plan.price_of]
    permission = data_policy.decide_egress(context, version, report, [row for row in rows if row], None)
    if isinstance(permission, Refusal):
        return permission
    new = NewMeasurement("ladder", version.id, run.channel, person, plan.to_json())
    before = context.store.looks([version.id]).get(plan.holdout_sha256, 0)
    if before:
        permission = replace(permission, notes=(*permission.notes, opened_before(before)))
    with context.store.transaction():
        if same := measurements.find_open_duplicate(context, new.plan):
            return Refusal(f"The sealed rows are being measured already: m{same.id} decides.")
        measurement = measurements.add(context, new, permission, action="measure")
        detail = f"{plan.n_holdout} sealed rows of {plan.title} for {model.name} by m{measurement.id}"
        opened = f", opened {pluralize(before, 'time')} before" if before else ""
        context.audit(person, "open", f"run {run.id}", f"{detail}{opened}")
    return measurement


def proof_of(
    context: AppContext, model: Model, used: Model | None, ladder: Ladder, on_holdout: PromotionEvidence
) -> PromotionEvidence:
    """Returns the proof with the scores and comparisons on the sealed rows in place of those on the holdout."""
    rungs = {rung.arm: rung for rung in ladder.rungs}
    own, theirs = rungs.pop(_arm(model), None), rungs.pop(_arm(used), None) if used else None
    if own is None:
        return replace(on_holdout, rung=None, best=None, against_used=None)
    others = [_compare(context, arm_name(rung.arm), own, rung) for rung in rungs.values()]
    return replace(
        on_holdout,
        rung=own,
        best=best_comparison(others, on_holdout.limits.margin),
        against_used=_compare(context, used.name, own, theirs) if used and theirs else None,
    )


def _compare(context: AppContext, name: str, rung: Rung, other: Rung) -> ModelComparison:
    return compare_models(name, rung.scores, other.scores, _usd(context, rung), _usd(context, other))


def _usd(context: AppContext, rung: Rung) -> Decimal | None:
    """Returns the USD of 1,000 requests in production."""
    provider, _, model = (rung.arm.model or "").partition("/")
    return evidence.request_usd(context, provider, model, rung.usd_per_1000)


def _arm(model: Model) -> Candidate:
    return Candidate("tuned", f"{model.provider}/{model.provider_model}")


def _plan(
    context: AppContext, model: Model, run: Run, used: Model | None, version: Dataset, report: Report
) -> LadderPlan | Refusal:
    """Plans a ladder on the sealed rows with the settings of the one that measured the best alternative. If nothing was
    measured, the untuned base takes the alternative's place."""
    measured = evidence.load_evidence(context, version, report, None)
    before, best = _best_alternative(context, measured, version, report)
    trained = plan_from_json(run.plan)
    alternative = best or Candidate("zero", f"{run.provider}/{trained.base_model}")
    like = before or LineUp((), (), "").plan(
        version.name,
        version.version,
        report,
        context.today(),
        prompt=None,
        bar=measured.bar,
    )
    tuned = [each for each in (used, model) if each and each.gone_at is None]
    models_to_ask = {alternative.model, like.judge}
    prices = [row for row in PriceList.from_json(like.prices).rows if row.model in models_to_ask]
    if best is None:
        # the first two prices of a run's plan are the tuned model's and the base model's
        prices.append(replace(PriceList.from_json(trained.prices).rows[1], model=str(alternative.model)))
    for each in tuned:
        price = models.price_of(context, each)
        if isinstance(price, Refusal):
            return price
        prices.append(replace(price, model=str(_arm(each).model)))
    return replace(
        like,
        version=version.version,
        bar=measured.bar,
        holdout_sha256=str(report.sealed_sha256),
        n_holdout=report.n_sealed,
        arms=(alternative, *map(_arm, tuned)),
        prices=PriceList(tuple(prices), context.today()).to_json(),
        thinking=tuple(row.model for row in prices if context.settings.thinks(row.model)),
        search=None,
        promotes=model.name,
    )


def _best_alternative(
    context: AppContext, measured: Evidence, version: Dataset, report: Report
) -> tuple[LadderPlan | None, Candidate | None]:
    """Returns the plan that measured the best alternative on this version's holdout, and that alternative; (None, None)
    if nothing was measured."""
    best = max(measured.alternatives, key=lambda rung: rung.score, default=None)
    versions = tuple(each.id for each in context.store.datasets.versions(version.name))
    for measurement in context.store.measurements.done(versions, "ladder"):
        plan = LadderPlan.from_json(measurement.plan)
        if best and plan.holdout_sha256 == report.holdout_sha256 and best.arm in plan.arms:
            return plan, best.arm
    return None, None
