"""The opening of sealed rows: which measurements open them, what their cards name, and the audit of the first question.
The decision that follows is in promotions.py."""

from __future__ import annotations

from bot.cards.common.words import pluralize
from bot.cards.evidence.sealed_rows import SealedTest
from bot.context import AppContext
from bot.values.evaluations import ComparisonPlan, ComparisonProgress
from storage.records import COMPARISON, Measurement
from storage.store import Store


def opens_sealed_rows(measurement: Measurement) -> bool:
    """True if the measurement asks about sealed rows, to decide on a tuned model."""
    if measurement.kind != COMPARISON:
        return False
    plan = ComparisonPlan.from_json(measurement.plan)
    return plan.promotes is not None


def load_test(store: Store, measurement: Measurement) -> SealedTest | None:
    """Returns what the cards of a measurement on sealed rows name, None for other measurements."""
    if measurement.kind != COMPARISON:
        return None
    plan = ComparisonPlan.from_json(measurement.plan)
    if plan.promotes is None:
        return None
    names = _names_of_tuned(store, plan)
    # The plan, and not the promotions, knows which model was in use when the rows were opened.
    others = [name for name in names.values() if name != plan.promotes]
    used = None
    if others:
        used = others[0]
    before = _times_opened(store, measurement, plan)
    return SealedTest(plan.promotes, names, used, before)


def record_opening(context: AppContext, measurement: Measurement, progress: ComparisonProgress) -> None:
    """Audits that the rows are opened now. Call this in the transaction that stores the time, before the first
    question is asked: a card that nobody agreed to, or that was cancelled, has opened nothing."""
    plan = ComparisonPlan.from_json(measurement.plan)
    model = context.store.model(plan.promotes or "")
    detail = f"{plan.n_holdout} sealed rows of {plan.title} for {plan.promotes} by m{measurement.id}"
    before = _times_opened(context.store, measurement, plan)
    if before:
        detail += f", opened {pluralize(before, 'time')} before"
    person = progress.agreed_by or measurement.requested_by
    subject = f"measurement {measurement.id}"
    if model:
        subject = f"run {model.run_id}"
    context.audit(person, "open", subject, detail)


def _names_of_tuned(store: Store, plan: ComparisonPlan) -> dict[str, str]:
    """Returns the names of the tuned models that answer, by 'provider/model'."""
    tuned = [candidate.model for candidate in plan.candidates if candidate.kind == "tuned"]
    names: dict[str, str] = {}
    for full_name in filter(None, tuned):
        # Two providers may have a model of the same name.
        provider, _, own_name = full_name.partition("/")
        for model in store.models_at_provider(own_name):
            if model.provider == provider:
                names[full_name] = model.name
    return names


def _times_opened(store: Store, measurement: Measurement, plan: ComparisonPlan) -> int:
    """Returns how many earlier tests showed scores on these rows."""
    looks = store.looks([measurement.dataset_id]).get(plan.holdout_sha256, 0)
    if measurement.state == "done":
        looks -= 1  # its own
    return max(looks, 0)
