"""The card of a promotion: what is in use, on which evidence, what changes for programs, and how to undo it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Message,
    Text,
    button,
    code,
    confirm,
    cut,
    escape,
)
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import (
    FRESH_ROWS,
    fact_name,
    looks_sentence,
    looks_text,
    meaning,
    opened_before,
    promotable_name,
    promotable_text,
    promotable_title,
    promote_command,
    quality,
    read_rows_sentence,
)
from bot.cards.common.general import text_message
from bot.cards.common.judge_agreement import untrusted_notes
from bot.cards.common.words import (
    by_whom,
    capitalize,
    day,
    listed,
    mention,
    percent,
    pluralize,
    points,
    points_range,
    shorten,
    usd_or_nothing,
)
from bot.cards.models.actuals import ModelActuals, actuals_table
from bot.cards.models.call_instructions import Calling, calling_blocks
from bot.cards.models.fallbacks import FallbackSummary, fallback_blocks
from bot.rules.facts import Looks
from bot.rules.models.promotion import LiveProof, ModelComparison, PromotionEvidence, alias_for
from storage.promotions import Promotion
from storage.records import Measurement, Model, Promotable
from trainers.evaluation.results import MeasuredCandidate
from trainers.evaluation.statistics import LabelLoss

PROMOTE = "put_to_work"
ROLLBACK = "roll_back"
TRY = "try_model"
SHOWN_LABELS = 5
DETAILS = "promotion_details"


@dataclass(frozen=True)
class SealedProof:
    """A model's result on sealed rows, from measurement `number`. `opened_before` counts the earlier tests on these
    rows."""

    number: int
    candidate: MeasuredCandidate
    best: ModelComparison | None
    opened_before: int


@dataclass(frozen=True)
class Machine:
    """A model's newest machine by the hour: the name that programs call, None if it is not running, and a link to its
    card."""

    called: str | None
    card: str


@dataclass(frozen=True)
class PromotionSummary:
    """A promotion with what its card shows. `model` is the tuned model in use, None if it is a candidate. `before` is
    what it replaced, `earlier` what a rollback restores. `provider` is a title. `has_alias` is True if programs call an
    alias there. `approved_by` are the people who approved it against the evidence. `left` is another provider's title
    and the model that its alias still points to. `looks` counts the looks at the rows that it was measured on. `sealed`
    is the result on sealed rows. `machine` is None if the model needs none. `calling` is how programs call it, None
    if nothing shows that. `fallback` is what stands in for it, None if nothing does."""

    promotion: Promotion
    model: Model | None
    proof: PromotionEvidence
    before: Promotable | None
    earlier: Promotable | None
    provider: str
    has_alias: bool
    approved_by: tuple[str, ...] = ()
    left: tuple[str, str] | None = None
    looks: Looks | None = None
    sealed: SealedProof | None = None
    machine: Machine | None = None
    calling: Calling | None = None
    fallback: FallbackSummary | None = None

    @property
    def dataset(self) -> str:
        return self.promotion.dataset

    @property
    def what(self) -> Promotable:
        return self.promotion.what


def promotion_card(summary: PromotionSummary) -> Message:
    """Posted once, then edited when programs get it, and when something replaces it or it is taken out of use."""
    promotion = summary.promotion
    is_in_use = promotion.ended_at is None
    state = "was in use"
    if is_in_use and promotion.is_rollback:
        state = "is in use again"
    elif is_in_use:
        state = "is in use"

    parts = Parts()
    parts.text(_who(summary))
    parts.add(*_numbers(summary))
    if promotion.reason:
        parts.text(f"*Why*: {escape(promotion.reason)}")
    # After something else has replaced it, there is nothing here to roll back.
    if is_in_use:
        parts.add(*_in_use(summary))
    if promotion.taken_out_by:
        parts.text(_taken_out(promotion, promotion.taken_out_by))
    return parts.titled(
        f"{promotable_title(summary.what)} {state} for {summary.dataset}", notice=_who(summary)
    )


def taken_out_message(promotion: Promotion) -> Message:
    """Tells the channel that nothing answers programs any more."""
    person = by_whom(promotion.taken_out_by or "")
    text = f"{person} took {promotable_text(promotion.what)} out of use for {code(promotion.dataset)}"
    if promotion.taken_out_because:
        text += f": {escape(promotion.taken_out_because)}"
    return text_message(f"{capitalize(text).rstrip('.')}. Nothing is in its place. {_afterwards(promotion)}")


def deleted_card(promotion: Promotion) -> Message:
    """Replaces a promotion's card once its data was deleted."""
    learnt = "that it was measured with" if promotion.model is None else "that it was trained on"
    why = f"It was deleted with the data {learnt}. Programs that call it get an error."
    title = f"{promotable_title(promotion.what)} was in use for {promotion.dataset}"
    return Message.titled(title, Text(why), notice=why)


def document_removed_card(promotion: Promotion, filename: str) -> Message:
    """Replaces a promotion's card once a document in which it looked things up was removed."""
    why = (
        f"It was taken out of use, because {escape(shorten(filename))}, from which it answers, was removed by "
        f"{by_whom(promotion.taken_out_by or '')}. Programs that call {code(alias_for(promotion.dataset))} get an "
        f"error (404) that says so. {code(f'/finetune baseline {promotion.dataset}')} measures what can be deployed."
    )
    title = f"{promotable_title(promotion.what)} was in use for {promotion.dataset}"
    return Message.titled(title, Text(why), notice=why)


def details(actuals: ModelActuals, looks: Looks | None, hint: str = "") -> list[CardBlock]:
    """What a promotion's card has no room for, and a `hint` at what could be done."""
    blocks = actuals_table(actuals)
    if looks:
        blocks.append(Text(looks_sentence(looks)))
    if hint:
        blocks.append(Text(hint))
    return blocks


def card_location(summary: PromotionSummary) -> str:
    """For a person who typed the command in another channel than the card's."""
    state = "is in use"
    if summary.promotion.ended_at is not None:
        state = "is no longer in use"
    text = f"{capitalize(promotable_text(summary.what))} {state} for {code(summary.dataset)}."
    return f"{text} The card is in <#{summary.promotion.channel}>."


def sealed_test_begun(measurement: Measurement) -> Message:
    """For the person who promoted the model: the measurement on sealed rows that decides."""
    return text_message(
        f"The sealed rows decide: measurement m{measurement.id} compares the model with what it would replace. Its "
        f"card in <#{measurement.channel}> asks before they are opened. If the model passes, it is deployed."
    )


def proof_in_numbers(proof: PromotionEvidence) -> str:
    """The proof and the limits that it was judged by, on one line for the audit log."""
    limits = f"margin {100 * proof.limits.margin:g} points"
    if proof.limits.floor is not None:
        limits += f", floor {100 * proof.limits.floor:g}%"
    if proof.candidate is None:
        return f"not measured; {limits}"
    others = [other for other in (proof.best, proof.against_used) if other]
    compared = (
        f"against {other.other} {gain_text(other)}{_price_win(other, proof.limits.margin)}"
        for other in others
    )
    live = []
    if proof.live is not None:
        live.append(f"live: {live_text(proof.live)}")
    return "; ".join([score_text(proof.candidate), *compared, *live, limits])


def other_judge(proof: PromotionEvidence) -> str:
    """Says that the alternatives have scores of another judge than the model, and so were not compared with it."""
    own = escape(shorten(proof.judge.name)) if proof.judge else "another model"
    others = escape(shorten(proof.others_judge or ""))
    return (
        f"It is not compared with the alternatives: {own} judged it, {others} the others since, and verdicts of two "
        "judges don't compare."
    )


def not_worse_text(comparison: ModelComparison, margin: float, *, is_named: bool = False) -> str:
    """The lower end of the interval and the margin that the policy allows. `is_named` adds the other's name,
    unescaped."""
    win = "cheaper and not worse"
    if is_named:
        win += f" than {shorten(comparison.other, 34)}"
    return f"{win} ({points(comparison.bound)} at worst, {100 * margin:g} allowed)"


def prices_text(comparison: ModelComparison) -> str:
    """'$0.03 instead of $0.12 per 1,000 requests'; '' if a price is unknown."""
    if comparison.usd is None or comparison.other_usd is None:
        return ""
    now = usd_or_nothing(comparison.usd)
    before = usd_or_nothing(comparison.other_usd)
    return f"{now} instead of {before} per 1,000 requests"


def worse_labels_text(labels: Sequence[LabelLoss]) -> str:
    """'refund 18 → 11 of 20 rows, …', the largest losses first."""
    lost = [
        f"{escape(shorten(loss.label))} {loss.before:,} → {loss.after:,} of {pluralize(loss.rows, 'row')}"
        for loss in labels
    ]
    return listed(lost, SHOWN_LABELS)


def score_text(candidate: MeasuredCandidate) -> str:
    """Score, interval, measure and number of rows."""
    means = meaning(candidate).partition(",")[0]
    return f"{quality(candidate)} {means} on {pluralize(candidate.n, 'held-out row')}"


def promotion_button(number: int, model: str) -> Block:
    """The button on the result of a run whose model is better."""
    sure = confirm(
        f"Use {shorten(model, 60)}?",
        "It replaces what is in use for its dataset, if anything is, which is kept for a rollback. If rows of the "
        "dataset are sealed, a card asks first whether to open them.",
        "Use it",
        "Not yet",
    )
    return button("Use it", PROMOTE, str(number), confirm=sure)


def try_button(number: int) -> Block:
    return button("Try it", TRY, str(number))


def model_lost(model: Model, dataset: str, provider: str) -> Message:
    """`provider` is its title."""
    return text_message(
        f"{code(model.name)}, in use for {code(dataset)}, no longer exists at {escape(shorten(provider))}, so "
        f"programs that call it get no answer. `/finetune rollback {dataset}` restores the previous model; "
        "`/finetune models` lists all."
    )


def model_back(model: Model, dataset: str, provider: str) -> Message:
    """The model was reported as lost. `provider` is its title."""
    return text_message(
        f"{code(model.name)}, in use for {code(dataset)}, exists at {escape(shorten(provider))} after all: programs "
        "that call it get answers again."
    )


def alias_mismatch(dataset: str, model: Model, other: str | None, provider: str) -> Message:
    """The trainer's alias pointed to the `other` model instead of the one in use, or was missing if `other` is None."""
    result = f"pointed to {code(other)}" if other else "was missing"
    return text_message(
        f"{code(alias_for(dataset))} {result} at {escape(shorten(provider))}, although {code(model.name)} is in use "
        f"for {code(dataset)}. A backup was restored, or somebody changed it there. It now points to "
        f"{code(model.name)} again."
    )


def _who(summary: PromotionSummary) -> str:
    person = mention(summary.promotion.person)
    before = ""
    if summary.before:
        before = promotable_text(summary.before)
    if summary.promotion.is_rollback:
        return f"{person} rolled back from {before}."
    text = f"{person} deployed it"
    if before:
        text += f" in place of {before}"
    if summary.approved_by:
        people = " and ".join(f"<@{approver}>" for approver in summary.approved_by)
        return f"{text}; approved by {people}."
    return f"{text}."


def _taken_out(promotion: Promotion, person: str) -> str:
    """Who took it out of use and why, what programs get now, and how to deploy it again."""
    text = f"*Taken out of use* by {by_whom(person)}"
    if promotion.ended_at is not None:
        text += f" on {day(promotion.ended_at)}"
    if promotion.taken_out_because:
        text += f": {escape(promotion.taken_out_because)}"
    return f"{text.rstrip('.')}. {_afterwards(promotion)}"


def _afterwards(promotion: Promotion) -> str:
    """What programs get once nothing is in use, and how to deploy it again."""
    command = code(promote_command(promotion.dataset, promotion.what))
    return (
        f"Programs that call {code(alias_for(promotion.dataset))} get an error (404) that says so. "
        f"{command} deploys it again; its recipe is kept for a month."
    )


def _numbers(summary: PromotionSummary) -> list[CardBlock]:
    proof = summary.proof
    looks = summary.looks
    if proof.candidate is None:
        return [Text("It has not been measured on held-out rows.")]

    parts = Parts()
    parts.facts(_scores(summary, proof.candidate))
    if proof.worse:
        than = f"*Right less often than {escape(shorten(proof.worse_than, 60))}*"
        parts.text(f"{than}: {worse_labels_text(proof.worse)}.")
    parts.add(*untrusted_notes(proof.judge))
    if proof.others_judge and not summary.sealed:
        parts.note(other_judge(proof))
    if looks and looks.are_spent:
        parts.note(FRESH_ROWS)
    if proof.candidate.read and not summary.sealed:
        parts.note(read_rows_sentence(proof.candidate))
    if summary.sealed and summary.sealed.opened_before:
        parts.note(opened_before(summary.sealed.opened_before))
    return parts


def _scores(summary: PromotionSummary, candidate: MeasuredCandidate) -> list[tuple[str, str]]:
    """The model's score, and the difference from each model that it was compared with."""
    rows = pluralize(candidate.n, "held-out row")
    if summary.looks:
        rows += f", {looks_text(summary.looks)}"
    pairs = [(fact_name(candidate), f"{quality(candidate)} on {rows}")]

    proof = summary.proof
    for other in (proof.best, proof.against_used):
        if other is None:
            continue
        name = f"Against {escape(shorten(other.other, 60))}, {percent(other.score)}"
        difference = f"{gain_text(other)}{_price_win(other, proof.limits.margin)}"
        # A comparison counts only the rows that both have answered.
        if other.rows != candidate.n:
            difference += f" on the {pluralize(other.rows, 'row')} that both answered"
        pairs.append((name, difference))
    if proof.live is not None:
        pairs.append(("On live calls", live_text(proof.live)))
    if summary.sealed:
        pairs.append(("On sealed rows", escape(sealed_text(summary.sealed))))
    return pairs


def live_text(live: LiveProof) -> str:
    """What a live test has shown of it beside what is in use."""
    claim = "right more often than what is in use"
    if live.margin is not None:
        claim = f"cheaper than what is in use, and not worse by more than {100 * live.margin:g} points"
    judged = f"it alone was right in {live.candidate:,}, what is in use alone in {live.incumbent:,}"
    return f"{claim}: {pluralize(live.calls, 'call')} that both answered; {judged}"


def sealed_text(sealed: SealedProof) -> str:
    """As plain text."""
    score = f"{quality(sealed.candidate)} on {pluralize(sealed.candidate.n, 'row')} (m{sealed.number})"
    if sealed.best is None:
        return score
    return f"{score}; against {shorten(sealed.best.other, 40)} {gain_text(sealed.best)}"


def gain_text(comparison: ModelComparison) -> str:
    return f"{points(comparison.difference)} ({points_range(comparison.low, comparison.high)})"


def _price_win(comparison: ModelComparison, margin: float) -> str:
    if not comparison.wins_by_price(margin):
        return ""
    return f"; {not_worse_text(comparison, margin)}, {prices_text(comparison)}"


def _programs(summary: PromotionSummary) -> str:
    """What changes for programs that call it."""
    # First, as a stopped machine answers nobody.
    if summary.machine and summary.machine.called is None:
        return (
            f"*It is not running* at {escape(shorten(summary.provider))}, so programs get no answer. Press *Start "
            f"again* on {summary.machine.card}."
        )
    programs = f"Programs that call {code(alias_for(summary.dataset))}"
    promotion = summary.promotion
    # Also a recipe that programs got once may be lost, and be impossible to build again.
    if promotion.recipe is None and promotion.trouble:
        return f"{programs} get it as soon as it is published."
    if promotion.carried_at is None and summary.has_alias and summary.model is not None:
        return f"{programs} get it as soon as the trainer knows."
    if promotion.carried_at is None:
        return f"{programs} get it as soon as it is published."
    return f"{programs} now get it, without a change."


def _in_use(summary: PromotionSummary) -> list[CardBlock]:
    """What changes for programs, whether they get it yet, and the button to undo it."""
    parts = Parts()
    promotion = summary.promotion
    parts.text(_programs(summary))
    if promotion.trouble:
        trouble = escape(cut(promotion.trouble, 300))
        failed = "The trainer can't be reached yet"
        if promotion.recipe is None:
            failed = "It can't be published yet"
        parts.note(f"{failed}, so the bot keeps trying. Reason: {trouble}")
    if summary.fallback:
        parts.add(*fallback_blocks(summary.fallback))
    if summary.left:
        provider, model = summary.left
        name = code(alias_for(summary.dataset))
        parts.note(f"{name} at {escape(shorten(provider))} still points to {code(model)}.")
    if summary.calling:
        parts.add(*calling_blocks(summary.calling))
    show_details = button("Details", DETAILS, str(promotion.id))
    parts.buttons(_rollback_button(summary), show_details)
    return parts


def _rollback_button(summary: PromotionSummary) -> Block:
    """The button to go back to what was in use before, or to take the first one out of use."""
    name = shorten(promotable_title(summary.what), 60)
    words = "Roll back"
    title = "Roll back?"
    effect = f"{name} can be deployed again; its recipe is kept for a month."
    if summary.earlier is None:
        words = "Take out of use"
        title = f"Take it out of use for {shorten(summary.dataset, 40)}?"
        effect = f"Nothing was in use before: programs that call {alias_for(summary.dataset)} get an error. {effect}"
    else:
        title = f"Roll back to {shorten(promotable_name(summary.earlier), 60)}?"
    sure = confirm(title, effect, words, "Keep it")
    return button(words, ROLLBACK, str(summary.promotion.id), style="danger", confirm=sure)
