"""A model put to work: why it may not be better, the card that tells the team, one that a rollback brings back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.decisions.promoting import Against, Doubt, Proof, alias_of
from bot.views.blocks import (
    Block,
    Message,
    actions,
    button,
    code,
    confirm,
    context,
    cut,
    escape,
    fields,
    header,
    section,
)
from bot.views.rungs import MEANS, quality
from bot.views.words import counted, percent, points, points_range, short
from storage.promotions import Promotion
from storage.records import Model
from trainers.measuring.values import Rung

PROMOTE, ROLLBACK = "put_to_work", "roll_back"


@dataclass(frozen=True)
class InUse:
    """A promotion from all sides. `before`: the model that it took the place of; `earlier`: the one that a rollback
    puts back. `provider` is its title. `has_alias`: programs call a name there that moves. `left`: another provider's
    title, whose alias goes on standing for the model beside it."""

    promotion: Promotion
    model: Model
    proof: Proof
    before: str | None
    earlier: str | None
    provider: str
    has_alias: bool
    left: tuple[str, str] | None = None

    @property
    def dataset(self) -> str:
        return self.promotion.dataset


def card(seen: InUse) -> Message:
    """Posted once, edited as the trainer is told of it and when another model takes its place."""
    headline = _headline(seen)
    stands = seen.promotion.ended_at is None
    why = [section(f"*Why*: {escape(seen.promotion.reason)}")] if seen.promotion.reason else []
    below = [section(_programs(seen)), *_trouble(seen), *_left(seen), *_way_back(seen)] if stands else []
    return Message(
        f"{escape(headline)}. {_who(seen)}",
        (header(headline), section(_who(seen)), *_numbers(seen.proof), *why, *below),
    )


def whereabouts(seen: InUse) -> str:
    """To who typed the command in another channel than that of the card."""
    said = f"{code(seen.model.name)} is in use for {code(seen.dataset)}."
    return f"{said} The card stands in <#{seen.promotion.channel}>."


def refused(model: Model, proof: Proof, doubts: Sequence[Doubt]) -> str:
    """What speaks against it, and how it is used all the same."""
    return (
        f"{code(model.name)} was not put to work. {against_it(proof, doubts)} If it shall be used all the same, say "
        f"why: `/finetune promote {model.name} because=…`. The reason is kept in the audit log and shown to the team."
    )


def against_it(proof: Proof, doubts: Sequence[Doubt]) -> str:
    """Sentences."""
    return " ".join(_doubt(proof, one) for one in doubts)


def in_numbers(proof: Proof) -> str:
    """On one line, for the audit log and lists."""
    if proof.rung is None:
        return "not measured"
    held = [one for one in (proof.best, proof.against_used) if one]
    return "; ".join([scored(proof.rung), *(f"against {one.other} {_gain(one)}" for one in held)])


def scored(rung: Rung) -> str:
    """Score and interval, what they count, on how many rows."""
    means = MEANS[rung.scoring].partition(",")[0]
    return f"{quality(rung)} {means} on {counted(rung.n, 'held-out row')}"


def offer(number: int, model: str) -> Block:
    """On the result of a run whose model is shown to be better."""
    sure = confirm(
        f"Put {model} to work?",
        "It takes the place of the model that is in use for its dataset, which is kept for a rollback.",
        "Put to work",
        "Not yet",
    )
    return actions(button("Put to work", PROMOTE, str(number), confirm=sure))


def lost(model: Model, dataset: str, provider: str) -> Message:
    """`provider` is its title."""
    said = (
        f"{code(model.name)}, in use for {code(dataset)}, is gone: {escape(short(provider))} has it no more, so "
        f"programs that ask for it get no answer. `/finetune rollback {dataset}` puts the one before it back, "
        "`/finetune models` lists all."
    )
    return Message(said, (section(said),))


def strayed(dataset: str, model: Model, there: str | None, provider: str) -> Message:
    """The trainer's alias stood for something else than what is in use."""
    found = f"stood for {code(there)}" if there else "was not there"
    said = (
        f"{code(alias_of(dataset))} {found} at {escape(short(provider))}, though {code(model.name)} is in use for "
        f"{code(dataset)}: a backup was put back, or somebody changed it there. It is set to {code(model.name)} again."
    )
    return Message(said, (section(said),))


def _headline(seen: InUse) -> str:
    if seen.promotion.ended_at is not None:
        return f"{seen.model.name} was in use for {seen.dataset}"
    again = " again" if seen.promotion.is_rollback else ""
    return f"{seen.model.name} is in use{again} for {seen.dataset}"


def _who(seen: InUse) -> str:
    person = f"<@{seen.promotion.person}>"
    if seen.promotion.is_rollback:
        return f"{person} rolled back from {code(seen.before or '')}."
    return f"{person} put it to work{f' instead of {code(seen.before)}' if seen.before else ''}."


def _numbers(proof: Proof) -> list[Block]:
    if proof.rung is None:
        return [section("It was never measured on held-out rows.")]
    pairs = [(_measure(proof.rung), f"{quality(proof.rung)} on {counted(proof.rung.n, 'held-out row')}")]
    if proof.best:
        pairs.append(
            (f"Against {escape(short(proof.best.other, 60))}, {percent(proof.best.score)}", _gain(proof.best))
        )
    if proof.against_used:
        held = proof.against_used
        on = "" if held.rows == proof.rung.n else f" on the {counted(held.rows, 'row')} that both answered"
        pairs.append(
            (f"Against {escape(short(held.other, 60))}, {percent(held.score)}", f"{_gain(held)}{on}")
        )
    return [fields(pairs)]


def _measure(rung: Rung) -> str:
    means = MEANS[rung.scoring].partition(",")[0]
    return means[:1].upper() + means[1:]


def _gain(held: Against) -> str:
    return f"{points(held.difference)} ({points_range(held.low, held.high)})"


def _programs(seen: InUse) -> str:
    """What changes for whoever asks the model."""
    if not seen.has_alias:
        return (
            f"*Programs have to be changed*: {escape(short(seen.provider))} has no name that moves. Put "
            f"{code(seen.model.provider_model)} where they name the model; `finetune current {seen.dataset}` prints it."
        )
    programs = f"Programs that ask {escape(short(seen.provider))} for {code(alias_of(seen.dataset))}"
    if seen.promotion.carried_at is None:
        return f"{programs} get it as soon as the trainer has been told."
    return f"{programs} get it; none has to be changed."


def _left(seen: InUse) -> list[Block]:
    if seen.left is None:
        return []
    there, model = seen.left
    name = code(alias_of(seen.dataset))
    return [context(f"{name} at {escape(short(there))} goes on standing for {code(model)}.")]


def _trouble(seen: InUse) -> list[Block]:
    trouble = seen.promotion.trouble if seen.promotion.carried_at is None else None
    return [context(f"Not told yet, tried again: {escape(cut(trouble, 300))}")] if trouble else []


def _way_back(seen: InUse) -> list[Block]:
    if seen.earlier is None:
        return [context("There was none before it, so there is nothing to roll back to.")]
    sure = confirm(
        f"Roll back to {seen.earlier}?",
        f"{seen.model.name} is kept and can be put to work again.",
        "Roll back",
        "Leave it",
    )
    return [
        actions(button("Roll back", ROLLBACK, str(seen.promotion.id), style="danger", confirm=sure)),
        context(f"`/finetune rollback {seen.dataset}` does the same: it puts {code(seen.earlier)} back."),
    ]


def _doubt(proof: Proof, doubt: Doubt) -> str:
    match doubt:
        case "gone":
            return "Its provider has it no more."
        case "unmeasured":
            return "It was never measured on held-out rows."
        case "no_go":
            return f"The verdict on its run was no: {escape(proof.no_go or '').rstrip('.')}."
        case "nothing_beside":
            return "Nothing else answered the same held-out rows, so there is nothing to hold it against."
        case "not_better":
            return _not_better(proof.best)
        case "other_rows":
            return f"{code(proof.used or '')}, in use now, answered other rows, so the two can't be compared."
        case "not_better_than_used":
            return _not_better(proof.against_used)


def _not_better(held: Against | None) -> str:
    if held is None:
        return ""
    what = "It is worse than" if held.is_worse else "It is not shown to be better than"
    return f"{what} {escape(short(held.other, 60))}: {_gain(held)}."
