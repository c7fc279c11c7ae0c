"""Putting a tuned model to work for its dataset, and the one before it back. A tick tells the trainer (carrying.py).

A freeze holds up a promotion, asked in its own transaction, and no rollback (holding.py).
"""

from __future__ import annotations

from bot.commands import Promote, Rollback
from bot.decisions import promoting as rules
from bot.decisions.planning import plan_from_json
from bot.decisions.promoting import Proof
from bot.results import Refusal
from bot.views import freezing
from bot.views import promoting as views
from bot.views.blocks import code, escape
from bot.views.promoting import InUse
from bot.workflows import holding, in_use, models, permits, proving, runs, sharing
from bot.workflows.desk import Desk
from storage.promotions import NewPromotion, Promotion
from storage.records import Draft, Model

MOVED = "Another model was put to work just now; `/finetune models` shows which. Try again if this one still shall be."


def promote(desk: Desk, command: Promote, person: str, channel: str) -> InUse | Refusal:
    refused = permits.may(desk, person, "promote", channel)
    if refused:
        return refused
    model = models.find(desk, command.model, sharing.visible(desk, person, channel))
    return model if isinstance(model, Refusal) else _promote(desk, model, person, command.because)


def promote_run(desk: Desk, number: int, person: str) -> InUse | Refusal:
    """The button on a result."""
    run = desk.store.runs.get(number)
    model = desk.store.model(run.model or "") if run else None
    if run is None or model is None:
        return Refusal(f"Run {number} has no model. `/finetune models` lists all.")
    refused = permits.may(desk, person, "promote", run.channel)
    if not refused and not runs.may_look(desk, run, person, run.channel):
        refused = runs.no_such_run(number)
    return refused or _promote(desk, model, person, None)


def roll_back(desk: Desk, command: Rollback, person: str, channel: str) -> InUse | Refusal:
    refused = permits.may(desk, person, "rollback")
    refused = refused or sharing.refused(desk, command.dataset, person, channel)
    if refused:
        return refused
    standing = desk.store.promotions.standing(command.dataset)
    if standing is None:
        return Refusal(
            f"No model is in use for {code(command.dataset)}, so there is none to roll back. `/finetune models` lists "
            "all."
        )
    return _roll_back(desk, standing, person, command.because)


def roll_back_from(desk: Desk, number: int, person: str) -> InUse | Refusal:
    """The button on the card of the promotion of that number."""
    refused = permits.may(desk, person, "rollback")
    if refused:
        return refused
    promotion = desk.store.promotions.get(number)
    if promotion is None or promotion.ended_at is not None:
        return Refusal("This model is not in use any more, so there is nothing to roll back.")
    return _roll_back(desk, promotion, person, None)


def _promote(desk: Desk, model: Model, person: str, because: str | None) -> InUse | Refusal:
    run = desk.store.runs.get(model.run_id)
    if run is None:
        raise KeyError(model.run_id)
    dataset = plan_from_json(run.plan).dataset
    standing = desk.store.promotions.standing(dataset)
    if standing and standing.model == model.name:
        return Refusal(f"{code(model.name)} is in use for {code(dataset)} already, by <@{standing.person}>.")
    proof = proving.prove(desk, model, _model(desk, standing))
    refusal = _not_to_be_used(desk, model, proof, because)
    if refusal:
        return refusal
    new = NewPromotion(
        dataset=dataset,
        model=model.name,
        person=person,
        channel=run.channel,
        instead_of=standing,
        returns_to=standing.id if standing else None,
        reason=" ".join(because.split()) if because else None,
        is_carried=not in_use.has_alias(desk, model),
    )
    ended = in_use.proof_of(desk, standing) if standing else None
    with desk.store.transaction():
        freeze = holding.on_promotion(desk)
        if freeze:
            return Refusal(freezing.refused(freeze, "No other model is put to work now"))
        made = desk.store.promotions.add(new, now=desk.clock())
        return Refusal(MOVED) if made is None else _told(desk, made, proof, ended)


def _not_to_be_used(desk: Desk, model: Model, proof: Proof, because: str | None) -> Refusal | None:
    """A model that our own trainer has no more can't be used whatever the reason."""
    if proof.is_gone and in_use.has_alias(desk, model):
        return Refusal(
            f"{code(model.name)} is gone: {escape(in_use.title(desk, model))} has it no more. Train it again, or "
            "choose another: `/finetune models` lists all."
        )
    nothing_said = rules.is_no_reason(because) if because is not None else None
    if nothing_said:
        return Refusal(f"`because=`: {nothing_said.reason}", "because")
    found = rules.doubts(proof)
    return Refusal(views.refused(model, proof, found)) if found and not because else None


def _roll_back(desk: Desk, standing: Promotion, person: str, because: str | None) -> InUse | Refusal:
    target = desk.store.promotions.get(standing.returns_to) if standing.returns_to else None
    model = _model(desk, target)
    if target is None or model is None:
        return Refusal(
            f"{code(standing.model)} is the first model in use for {code(standing.dataset)}, so there is none to roll "
            "back to. `/finetune promote MODEL` puts another one to work."
        )
    if model.gone_at is not None:
        return Refusal(
            f"{code(model.name)}, which was in use before, is gone: {escape(in_use.title(desk, model))} has it no "
            "more. `/finetune promote MODEL` puts another one to work; `/finetune models` lists all."
        )
    new = NewPromotion(
        dataset=standing.dataset,
        model=model.name,
        person=person,
        channel=target.channel,
        instead_of=standing,
        returns_to=target.returns_to,
        reason=" ".join(because.split()) if because else None,
        is_rollback=True,
        is_carried=not in_use.has_alias(desk, model),
    )
    proof, ended = proving.prove(desk, model, _model(desk, standing)), in_use.proof_of(desk, standing)
    with desk.store.transaction():
        made = desk.store.promotions.add(new, now=desk.clock())
        return Refusal(MOVED) if made is None else _told(desk, made, proof, ended)


def _told(desk: Desk, made: Promotion, proof: Proof, ended: Proof | None) -> InUse:
    """In the log and in the channel; the card of the one before, whose proof is `ended`, says that it is over."""
    seen = in_use.look(desk, made, proof)
    before = desk.store.promotions.get(made.instead_of) if made.instead_of else None
    _audit(desk, seen, before)
    if before and ended:
        in_use.show(desk, before, ended)
    card = in_use.card_name(made)
    body, to, who = views.card(seen).letter(), made.channel, made.person
    draft = Draft(kind="post", channel=to, body=body, card=card, dedupe=card, concerns=who)
    desk.store.outbox.put(draft, now=desk.clock())
    return seen


def _audit(desk: Desk, seen: InUse, before: Promotion | None) -> None:
    """On the run of the model that comes, and on that of the one that goes."""
    made, now = seen.promotion, desk.clock()
    reason = f". Because: {made.reason}" if made.reason else ""
    instead = f" instead of {before.model}" if before else ""
    detail = f"{made.model} for {made.dataset}{instead}: {views.in_numbers(seen.proof)}{reason}"
    action = "rolled back to" if made.is_rollback else "promote"
    desk.store.audit.add(
        at=now, who=made.person, action=action, subject=f"run {seen.model.run_id}", detail=detail
    )
    went = _model(desk, before)
    if went:
        action = "roll back" if made.is_rollback else "replaced"
        detail = f"{went.name} for {made.dataset}: {made.model} is in use{reason}"
        desk.store.audit.add(
            at=now, who=made.person, action=action, subject=f"run {went.run_id}", detail=detail
        )


def _model(desk: Desk, promotion: Promotion | None) -> Model | None:
    return desk.store.model(promotion.model) if promotion else None
