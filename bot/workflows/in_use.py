"""Which models are in use, as people see it: the card of each, lists, the overview."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bot.decisions.planning import plan_from_json
from bot.decisions.promoting import Proof, doubts
from bot.views import promoting as views
from bot.views.models import Shelved
from bot.views.promoting import InUse
from bot.workflows import proving, sharing
from bot.workflows.desk import Backroom, Desk
from storage.promotions import Promotion
from storage.records import Draft, Model, Run

SHOWN = 40  # more lines no card has room for


def listing(desk: Desk, person: str, channel: str) -> Sequence[Shelved]:
    """The tuned models that a person may know of: those in use first, then newest first."""
    standing = {one.model: one for one in desk.store.promotions.all_standing()}
    known = desk.store.models_of(sharing.visible(desk, person, channel))
    models = sorted(known, key=lambda one: one.name not in standing)
    return [_shelved(desk, one, standing.get(one.name), at < SHOWN) for at, one in enumerate(models)]


def all_in_use(desk: Desk, known: Collection[str]) -> Sequence[Shelved]:
    """For the datasets that are known to who asks, by dataset."""
    promotions = [one for one in desk.store.promotions.all_standing() if one.dataset in known]
    return [_shelved(desk, _model(desk, one), one, at < SHOWN) for at, one in enumerate(promotions)]


def proof_of(desk: Desk, promotion: Promotion) -> Proof:
    """Against what it took the place of. May read two files of held-out rows, so ask for it before a transaction."""
    before = _name(desk, promotion.instead_of)
    return proving.prove(desk, _model(desk, promotion), desk.store.model(before) if before else None)


def look(desk: Desk, promotion: Promotion, proof: Proof) -> InUse:
    model = _model(desk, promotion)
    before, earlier = (_name(desk, number) for number in (promotion.instead_of, promotion.returns_to))
    return InUse(
        promotion=promotion,
        model=model,
        proof=proof,
        before=before,
        earlier=earlier,
        provider=title(desk, model),
        has_alias=has_alias(desk, model),
        left=_left(desk, promotion, model),
    )


def show(desk: Desk, promotion: Promotion, proof: Proof) -> None:
    """Its card as it is now."""
    body = views.card(look(desk, promotion, proof)).letter()
    to, who = promotion.channel, promotion.person
    draft = Draft(kind="edit", channel=to, body=body, card=card_name(promotion), concerns=who)
    desk.store.outbox.put(draft, now=desk.clock())


def card_name(promotion: Promotion) -> str:
    return f"promotion {promotion.id}"


def may_be_offered(desk: Desk, run: Run) -> bool:
    """Nothing speaks against its model, and it is not in use."""
    model = desk.store.model(run.model or "")
    if run.result is None or model is None or model.state == "promoted":
        return False
    standing = desk.store.promotions.standing(plan_from_json(run.plan).dataset)
    used = desk.store.model(standing.model) if standing else None
    return not doubts(proving.prove(desk, model, used, run))


def has_alias(desk: Backroom, model: Model) -> bool:
    """Does its provider have names that move?"""
    row = desk.settings.provider(model.provider)
    return row is not None and row.provider.can("aliases")


def title(desk: Desk, model: Model) -> str:
    row = desk.settings.provider(model.provider)
    return row.title if row else model.provider


def _shelved(desk: Desk, model: Model, promotion: Promotion | None, is_shown: bool) -> Shelved:
    plan, rung = proving.score(desk, model)
    return Shelved(
        model, plan.dataset, plan.dataset_version, plan.base_model, rung if is_shown else None, promotion
    )


def _model(desk: Desk, promotion: Promotion) -> Model:
    model = desk.store.model(promotion.model)
    if model is None:
        raise KeyError(promotion.model)
    return model


def _left(desk: Desk, promotion: Promotion, model: Model) -> tuple[str, str] | None:
    """The newest one before it at another provider, where an alias still stands for it."""
    number = promotion.instead_of
    while number is not None:
        earlier = desk.store.promotions.get(number)
        if earlier is None:
            return None
        other = _model(desk, earlier)
        if other.provider != model.provider and earlier.carried_at is not None and has_alias(desk, other):
            return title(desk, other), other.name
        number = earlier.instead_of
    return None


def _name(desk: Desk, number: int | None) -> str | None:
    promotion = desk.store.promotions.get(number) if number else None
    return promotion.model if promotion else None
