"""Promotes a tuned model to be the one in use for its dataset, or rolls back to the one before. alias_sync.py sets the
trainer's alias.

If the dataset has a sealed part, a promotion without a reason waits for the sealed test, and that decides: the model,
the one in use and the best alternative answer the sealed rows. The test is a comparison on the sealed part, so a person
agrees to its cost, answers are stored, and a kill loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from bot.cards.common import freeze as freeze_cards
from bot.cards.common.blocks import code, escape
from bot.cards.common.candidates import promotable_name, table_name
from bot.cards.common.general import text_message
from bot.cards.common.permissions import too_few_words
from bot.cards.models import models as views
from bot.cards.models.deployments import stopped_refusal
from bot.cards.models.models import PromotionSummary
from bot.cards.training.runs import no_such_run
from bot.context import AppContext
from bot.rules.facts import Evidence
from bot.rules.models import promotion as rules
from bot.rules.models.promotion import ModelComparison, PromotionEvidence, best_comparison, compare_models
from bot.rules.permissions import has_enough_words
from bot.rules.plans import plan_from_json
from bot.services.common import authorization
from bot.services.common.candidates import LineUp
from bot.services.datasets import data_policy, datasets
from bot.services.evidence import evidence, looks, notifications
from bot.services.evidence.measured_candidates import load_measured
from bot.services.measurement import measurements
from bot.services.measurement.evaluations import SealedConclusion
from bot.services.models import deployments, models
from bot.values.evaluations import ComparisonPlan, SealedOutcome
from bot.values.runs import Refusal
from storage.evaluations import NewMeasurement
from storage.promotions import NewPromotion, Promotion
from storage.records import COMPARISON, Dataset, Measurement, Model, Promotable, Run
from trainers.dataset import Report
from trainers.evaluation.results import Candidate, Comparison, MeasuredCandidate, find_best
from trainers.providers.pricing import PriceList

OVERTAKEN = "Another model was deployed just now; `/finetune models` shows which. Try again if you still want this one."


@dataclass(frozen=True)
class DecidedPromotion:
    """A promotion that may be recorded. `instead_of` is the promotion that it replaces, `ended` the evidence for that
    one."""

    model: Model
    run: Run
    person: str
    because: str | None
    proof: PromotionEvidence
    instead_of: Promotion | None
    ended: PromotionEvidence | None


def promote(
    context: AppContext, name: str, because: str | None, person: str, channel: str
) -> PromotionSummary | Measurement | Refusal:
    """Promotes a model by name. `because` is the reason to use a model that is not shown to be better. Returns the
    sealed test if that has to decide first."""
    refusal = authorization.refusal(context, person, "promote", channel)
    if refusal:
        return refusal
    model = models.find_to_use(context, name, person, channel)
    if isinstance(model, Refusal):
        return model
    return _promote(context, model, person, because)


def promote_run(context: AppContext, number: int, person: str) -> PromotionSummary | Measurement | Refusal:
    """Handles the button on a result."""
    run = context.store.runs.get(number)
    model = context.store.model(run.model or "") if run else None
    if run is None or model is None:
        return Refusal(f"Run {number} has no model. `/finetune models` lists all models.")
    dataset = plan_from_json(run.plan).dataset
    refusal = (
        authorization.refusal(context, person, "promote", run.channel)
        or authorization.button_refusal(context, dataset, person, Refusal(no_such_run(number)))
        or models.deleted_refusal(context, model)
    )
    if refusal:
        return refusal
    return _promote(context, model, person, None)


def roll_back(
    context: AppContext, dataset: str, because: str | None, person: str, channel: str
) -> PromotionSummary | Refusal:
    refusal = authorization.refusal(context, person, "rollback")
    refusal = refusal or authorization.dataset_refusal(context, dataset, person, channel)
    if refusal:
        return refusal
    standing = context.store.promotions.current(dataset)
    if standing is None:
        return Refusal(
            f"No model is in use for {code(dataset)}, so there is nothing to roll back. `/finetune models` lists all "
            "models."
        )
    return _roll_back(context, standing, person, because)


def roll_back_from(context: AppContext, number: int, person: str) -> PromotionSummary | Refusal:
    """Handles the button on the card of the promotion with that number."""
    refusal = authorization.refusal(context, person, "rollback")
    if refusal:
        return refusal
    promotion = context.store.promotions.get(number)
    over = Refusal("This model is not in use any more, so there is nothing to roll back.")
    if promotion is None or promotion.ended_at is not None:
        return over
    refusal = authorization.button_refusal(context, promotion.dataset, person, over)
    if refusal:
        return refusal
    return _roll_back(context, promotion, person, None)


def finish_sealed_test(context: AppContext, concluded: SealedConclusion) -> None:
    """Ends a test on sealed rows with its result, and decides the promotion in the same transaction."""
    measurement = concluded.measurement
    decided = decide_by_sealed(context, measurement, concluded.plan, concluded.comparison)
    with context.store.transaction():
        moved = measurements.close(
            context,
            measurement,
            concluded.comparison.to_json(),
            spent_micros=concluded.progress.booked_micros,
        )
        if moved is None:
            return
        outcome = _record_sealed(context, moved, decided)
        progress = replace(concluded.progress, outcome=outcome)
        closed = context.store.measurements.move(
            moved, "done", now=context.clock(), progress=progress.to_json()
        )
        measurements.show_result(context, closed or moved)


def decide_by_sealed(
    context: AppContext, measurement: Measurement, plan: ComparisonPlan, comparison: Comparison
) -> DecidedPromotion | Refusal:
    """Decides a promotion once its sealed rows are answered. This looks up rights and reads files, so call it before
    the transaction of `_record_sealed`."""
    person = measurement.requested_by
    # Whether the person still has the right is asked again: answering the sealed rows may have taken days.
    refusal = authorization.refusal(context, person, "promote", measurement.channel)
    if refusal:
        return refusal
    model = context.store.model(plan.promotes or "")
    if model is None:
        return Refusal(f"{plan.promotes} is gone.")
    run = context.store.runs.of_model(model)
    standing = context.store.promotions.current(plan.dataset)
    used = _model(context, standing)
    if used and used.name == model.name:
        return Refusal(f"{code(model.name)} is already in use.")
    on_holdout = evidence.promotion_proof(context, model, used)
    proof = sealed_proof_of(context, model, used, comparison, on_holdout)
    refusal = _promotion_refusal(context, model, proof, None)
    if refusal:
        return refusal
    ended = models.proof_of(context, standing) if standing else None
    return DecidedPromotion(model, run, person, None, on_holdout, standing, ended)


def _record_sealed(
    context: AppContext, measurement: Measurement, decided: DecidedPromotion | Refusal
) -> SealedOutcome:
    """Records the promotion, or tells the requester why not. Call this in the transaction that ends the measurement."""
    if isinstance(decided, Refusal):
        refusal = decided
    else:
        result = _record(context, decided)
        if not isinstance(result, Refusal):
            return SealedOutcome(is_deployed=True)
        refusal = result
    link = context.link(f"measurement {measurement.id}", f"m{measurement.id}")
    text = f"<@{measurement.requested_by}>: the sealed rows were opened ({link}). {refusal.text}"
    once = f"sealed {measurement.id}"
    context.post(measurement.channel, text_message(text).letter(), dedupe=once)
    return SealedOutcome(is_deployed=False, why=refusal.text)


def _promote(
    context: AppContext, model: Model, person: str, because: str | None
) -> PromotionSummary | Measurement | Refusal:
    run = context.store.runs.of_model(model)
    dataset = plan_from_json(run.plan).dataset
    standing = context.store.promotions.current(dataset)
    if standing and standing.model == model.name:
        return Refusal(f"{code(model.name)} is already in use for {code(dataset)}, by <@{standing.person}>.")
    used = _model(context, standing)
    proof = evidence.promotion_proof(context, model, used)
    has_sealed = has_sealed_rows(context, run)
    to_object_to = proof
    if has_sealed:
        # All that answers sealed rows is judged by one judge, so the test settles what two judges can't.
        to_object_to = replace(proof, others_judge=None)
    refusal = _promotion_refusal(context, model, to_object_to, because)
    if refusal:
        return refusal
    if not because and has_sealed:
        return ask_sealed_test(context, model, run, used, person)
    ended = models.proof_of(context, standing) if standing else None
    return _record(context, DecidedPromotion(model, run, person, because, proof, standing, ended))


def _record(context: AppContext, decided: DecidedPromotion) -> PromotionSummary | Refusal:
    standing = decided.instead_of
    new = NewPromotion(
        dataset=plan_from_json(decided.run.plan).dataset,
        what=Promotable(decided.model.name),
        person=decided.person,
        channel=decided.run.channel,
        instead_of=standing,
        returns_to=standing.id if standing else None,
        reason=_on_one_line(decided.because),
    )
    with context.store.transaction():
        freeze = context.store.freezes.current()
        if freeze:
            return Refusal(freeze_cards.refusal(freeze, "No other model is deployed now"))
        promotion = context.store.promotions.add(new, now=context.clock())
        if promotion is None:
            return Refusal(OVERTAKEN)
        return _announce(context, promotion, decided.proof, decided.ended)


def _on_one_line(reason: str | None) -> str | None:
    return " ".join(reason.split()) if reason else None


def _promotion_refusal(
    context: AppContext, model: Model, proof: PromotionEvidence, because: str | None
) -> Refusal | None:
    """Returns why the model may not be used, None if it may. A model that its trainer doesn't have any more can't be
    used, whatever reason is given."""
    if proof.is_gone and models.has_alias(context, model):
        provider = escape(context.settings.title_of(model.provider))
        return Refusal(
            f"{code(model.name)} is gone from {provider}. Train it again, or "
            "choose another: `/finetune models` lists all."
        )
    if because is not None and not has_enough_words(because):
        why = too_few_words("this model should be used", "half the price at the same quality")
        return Refusal(f"`because=`: {why}", "because")
    objections = rules.find_objections(proof)
    if objections and not because:
        return Refusal(views.promotion_refusal(model, proof, objections))
    return None


def _roll_back(
    context: AppContext, standing: Promotion, person: str, because: str | None
) -> PromotionSummary | Refusal:
    target = _promotion(context, standing.returns_to)
    model = _model(context, target)
    if target is None or model is None:
        return Refusal(
            f"{code(promotable_name(standing.what))} is the first model in use for {code(standing.dataset)}, so there "
            "is none to roll back to. `/finetune promote MODEL` deploys another one."
        )
    if model.gone_at is not None:
        provider = escape(context.settings.title_of(model.provider))
        return Refusal(
            f"{code(model.name)}, which was in use before, is gone from {provider}. "
            "`/finetune promote MODEL` deploys another one; `/finetune models` lists all."
        )
    new = NewPromotion(
        dataset=standing.dataset,
        what=target.what,
        person=person,
        channel=target.channel,
        instead_of=standing,
        returns_to=target.returns_to,  # so that the next rollback goes one further back, not to and fro
        reason=_on_one_line(because),
        is_rollback=True,
    )
    proof = evidence.promotion_proof(context, model, _model(context, standing))
    ended = models.proof_of(context, standing)
    with context.store.transaction():
        promotion = context.store.promotions.add(new, now=context.clock())
        if promotion is None:
            return Refusal(OVERTAKEN)
        return _announce(context, promotion, proof, ended)


def _announce(
    context: AppContext, promotion: Promotion, proof: PromotionEvidence, ended: PromotionEvidence | None
) -> PromotionSummary:
    """Audits and posts the promotion. The card of the one before, whose evidence is `ended`, then says that it is
    over."""
    seen = models.card_values(context, promotion, proof)
    before = _promotion(context, promotion.instead_of)
    _audit(context, seen, before)
    _update_result(context, seen.model)
    if before and ended:
        models.show_card(context, before, ended)
        _update_result(context, models.model_of(context, before))
    card = models.card_name(promotion)
    context.show(card, promotion.channel, views.promotion_card(seen), concerns=promotion.person)
    return seen


def _update_result(context: AppContext, model: Model) -> None:
    """Has the card of the model's result say that it was deployed or replaced."""
    notifications.update_result(context, context.store.runs.of_model(model))


def _audit(context: AppContext, seen: PromotionSummary, before: Promotion | None) -> None:
    """Audits the promotion on the run of its model, and on the run of the model that it replaces."""
    promotion = seen.promotion
    detail = f"{promotion.model} for {promotion.dataset}"
    if before:
        detail += f" instead of {before.model}"
    detail += f": {views.proof_in_numbers(seen.proof)}"
    if seen.sealed:
        detail += f"; sealed rows: {views.sealed_text(seen.sealed)}"
    reason = ""
    if promotion.reason:
        reason = f". Because: {promotion.reason}"
    action = "rolled back to" if promotion.is_rollback else "promote"
    context.audit(promotion.person, action, f"run {seen.model.run_id}", f"{detail}{reason}")
    replaced = _model(context, before)
    if replaced:
        action = "roll back" if promotion.is_rollback else "replaced"
        detail = f"{replaced.name} for {promotion.dataset}: {promotion.model} is in use{reason}"
        context.audit(promotion.person, action, f"run {replaced.run_id}", detail)


def _promotion(context: AppContext, number: int | None) -> Promotion | None:
    if number is None:
        return None
    return context.store.promotions.get(number)


def _model(context: AppContext, promotion: Promotion | None) -> Model | None:
    if promotion is None:
        return None
    return context.store.model(promotion.model or "")


def has_sealed_rows(context: AppContext, run: Run) -> bool:
    """True if the version that a run trained on has a sealed part."""
    report = datasets.report_of(context.store.datasets.get(run.dataset_id))
    return report is not None and report.sealed_sha256 is not None


def ask_sealed_test(
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
    plan = _sealed_plan(context, model, run, used, version, report)
    if isinstance(plan, Refusal):
        return plan
    rows = []
    for name in plan.price_of:
        row = context.settings.provider(name.partition("/")[0])
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
    used: Model | None,
    comparison: Comparison,
    on_holdout: PromotionEvidence,
) -> PromotionEvidence:
    """Returns the proof with the scores and comparisons on the sealed rows in place of those on the holdout."""
    candidates = {candidate.identity: candidate for candidate in comparison.candidates}
    own = candidates.pop(_candidate_of(model), None)
    theirs = candidates.pop(_candidate_of(used), None) if used else None
    if own is None:
        return replace(on_holdout, candidate=None, best=None, against_used=None)
    opened = looks.next_look(looks.history(context.store, comparison.dataset, comparison.holdout_sha256))
    others = [
        _compare_candidates(context, table_name(candidate.identity), own, candidate, opened)
        for candidate in candidates.values()
    ]
    against_used = None
    if used and theirs:
        against_used = _compare_candidates(context, used.name, own, theirs, opened)
    return replace(
        on_holdout,
        candidate=own,
        best=best_comparison(others, on_holdout.limits.margin),
        against_used=against_used,
        others_judge=None,
    )


def _compare_candidates(
    context: AppContext, name: str, candidate: MeasuredCandidate, other: MeasuredCandidate, opened: int
) -> ModelComparison:
    """Compares two models on sealed rows that were opened for the `opened`-th time."""
    prices = _usd(context, candidate), _usd(context, other)
    return compare_models(name, candidate.scores, other.scores, *prices, look=opened)


def _usd(context: AppContext, candidate: MeasuredCandidate) -> Decimal | None:
    """Returns the USD of 1,000 requests in production."""
    provider, _, model = (candidate.model or "").partition("/")
    return evidence.request_usd(context.settings, provider, model, candidate.usd_per_1000)


def _candidate_of(model: Model) -> Candidate:
    return Candidate("tuned", f"{model.provider}/{model.provider_model}")


def _sealed_plan(
    context: AppContext, model: Model, run: Run, used: Model | None, version: Dataset, report: Report
) -> ComparisonPlan | Refusal:
    """Plans a comparison on the sealed rows with the settings of the one that measured the best alternative. If nothing
    was measured, what the run compared its model with takes the alternative's place."""
    measured = evidence.load_evidence(context, version, report, None)
    before, alternative = _best_alternative(context, measured, version, report)
    trained = plan_from_json(run.plan)
    is_base_asked = False
    if alternative is None:
        compared_with = evidence.what_answered_before(run)
        # The tuned model that a training went on from may be gone, or the one in use, which is compared in any case.
        is_base_asked = compared_with in ("base", "start")
        alternative = Candidate("zero", f"{run.provider}/{trained.base_model}")
        if compared_with in ("classical", "encoder"):
            alternative = Candidate(compared_with)
    like = before or LineUp((), (), "").plan(
        version.name,
        version.version,
        report,
        context.today(),
        prompt=None,
        bar=measured.bar,
        is_bar_set=datasets.is_bar_set(context, version.name),
    )
    tuned = [each for each in (used, model) if each and each.gone_at is None]
    models_to_ask = {alternative.model, like.judge}
    prices = [row for row in PriceList.from_json(like.prices).rows if row.model in models_to_ask]
    if is_base_asked:
        # The first two prices of a run's plan are the tuned model's and the base model's
        prices.append(replace(PriceList.from_json(trained.prices).rows[1], model=str(alternative.model)))
    for each in tuned:
        price = models.price_of(context, each)
        if isinstance(price, Refusal):
            return price
        prices.append(replace(price, model=str(_candidate_of(each).model)))
    return replace(
        like,
        version=version.version,
        bar=measured.bar,
        holdout_sha256=str(report.sealed_sha256),
        n_holdout=report.n_sealed,
        candidates=(alternative, *map(_candidate_of, tuned)),
        prices=PriceList(tuple(prices), context.today()).to_json(),
        thinking=tuple(row.model for row in prices if context.settings.thinks(row.model)),
        search=None,
        floor=None,  # it was found on the holdout
        encoder=like.encoder or context.settings.encoder,
        promotes=model.name,
    )


def _best_alternative(
    context: AppContext, measured: Evidence, version: Dataset, report: Report
) -> tuple[ComparisonPlan | None, Candidate | None]:
    """Returns the plan that measured the best alternative on this version's holdout, and that alternative; (None, None)
    if nothing was measured."""
    best = find_best(measured.alternatives)
    holdout = load_measured(
        context.store, context.settings.files, version.name, str(report.holdout_sha256), measured.bar
    )
    if best is None or holdout is None:
        return None, None
    return holdout.plan_of(best.identity), best.identity
