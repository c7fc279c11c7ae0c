"""Tuned models: promotion (objections, the card for the team, rollback), and the list of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Lines,
    Listing,
    Message,
    Note,
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
    quality,
    read_rows_sentence,
)
from bot.cards.common.general import text_message, unchecked_notes, unchecked_text
from bot.cards.common.judge_agreement import untrusted_notes, untrusted_text
from bot.cards.common.words import (
    about_rows,
    day,
    listed,
    percent,
    pluralize,
    points,
    points_range,
    shorten,
)
from bot.cards.models.actuals import ModelActuals, actuals_table, latest_month
from bot.rules.facts import Looks
from bot.rules.models.promotion import ModelComparison, Objection, PromotionEvidence, alias_for
from storage.promotions import Promotion
from storage.records import Measurement, Model
from trainers.dataset.splits import HOLDOUT_MOST
from trainers.evaluation.results import MeasuredCandidate
from trainers.evaluation.statistics import LabelLoss
from trainers.money import usd

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
    """A promotion with what its card shows. `before` is the model that it replaced, `earlier` the one that a rollback
    restores. `provider` is a title. `has_alias` is True if programs call an alias there. `left` is another provider's
    title and the model that its alias still points to. `looks` counts the looks at the rows that it was measured on.
    `sealed` is the result on sealed rows. `machine` is None if the model needs none."""

    promotion: Promotion
    model: Model
    proof: PromotionEvidence
    before: str | None
    earlier: str | None
    provider: str
    has_alias: bool
    left: tuple[str, str] | None = None
    looks: Looks | None = None
    sealed: SealedProof | None = None
    machine: Machine | None = None

    @property
    def dataset(self) -> str:
        return self.promotion.dataset


def promotion_card(summary: PromotionSummary) -> Message:
    """Posted once, then edited when the trainer's alias is updated and when another model replaces it."""
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
    # After another model has replaced it, there is nothing here to roll back.
    if is_in_use:
        parts.add(*_in_use(summary))
    return parts.titled(f"{summary.model.name} {state} for {summary.dataset}", notice=_who(summary))


def deleted_card(model: str, dataset: str) -> Message:
    """Replaces a promotion's card once its data was deleted."""
    why = "It was deleted with the data that it was trained on. Programs that call it get an error."
    return Message.titled(f"{model} was in use for {dataset}", Text(why), notice=why)


def details(actuals: ModelActuals, looks: Looks | None) -> list[CardBlock]:
    """What a promotion's card has no room for."""
    blocks = actuals_table(actuals)
    if looks:
        blocks.append(Text(looks_sentence(looks)))
    return blocks


def card_location(summary: PromotionSummary) -> str:
    """For a person who typed the command in another channel than the card's."""
    text = f"{code(summary.model.name)} is in use for {code(summary.dataset)}."
    return f"{text} The card is in <#{summary.promotion.channel}>."


def sealed_test_begun(measurement: Measurement) -> Message:
    """For the person who promoted the model: the measurement on sealed rows that decides."""
    return text_message(
        f"The sealed rows decide: measurement m{measurement.id} compares the model with what it would replace. Its "
        f"card in <#{measurement.channel}> asks before they are opened. If the model passes, it is deployed."
    )


def promotion_refusal(model: Model, proof: PromotionEvidence, doubts: Sequence[Objection]) -> str:
    """The objections, a line for each, and how to deploy the model anyway."""
    against = "\n".join(f"• {_objection_text(proof, doubt)}" for doubt in doubts)
    return (
        f"{code(model.name)} was not deployed:\n{against}\nTo deploy it anyway, say why: "
        f"`/finetune promote {model.name} because=…`. The reason is kept in the audit log and shown to the team."
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
        f"against {other.other} {_gain(other)}{_price_win(other, proof.limits.margin)}" for other in others
    )
    return "; ".join([score_text(proof.candidate), *compared, limits])


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
    now = usd(comparison.usd) if comparison.usd else "nothing"
    before = usd(comparison.other_usd) if comparison.other_usd else "nothing"
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
        f"Deploy {model}?",
        "It replaces the model in use for its dataset, if there is one, which is kept for a rollback. If rows of the "
        "dataset are sealed, a card asks first whether to open them.",
        "Deploy",
        "Not yet",
    )
    return button("Deploy", PROMOTE, str(number), confirm=sure)


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
    person = f"<@{summary.promotion.person}>"
    if summary.promotion.is_rollback:
        return f"{person} rolled back from {code(summary.before or '')}."
    if summary.before:
        return f"{person} deployed it in place of {code(summary.before)}."
    return f"{person} deployed it."


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
        parts.note(_other_judge(proof))
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
        difference = f"{_gain(other)}{_price_win(other, proof.limits.margin)}"
        # A comparison counts only the rows that both have answered.
        if other.rows != candidate.n:
            difference += f" on the {pluralize(other.rows, 'row')} that both answered"
        pairs.append((name, difference))
    if summary.sealed:
        pairs.append(("On sealed rows", escape(sealed_text(summary.sealed))))
    return pairs


def sealed_text(sealed: SealedProof) -> str:
    """As plain text."""
    score = f"{quality(sealed.candidate)} on {pluralize(sealed.candidate.n, 'row')} (m{sealed.number})"
    if sealed.best is None:
        return score
    return f"{score}; against {shorten(sealed.best.other, 40)} {_gain(sealed.best)}"


def _gain(comparison: ModelComparison) -> str:
    return f"{points(comparison.difference)} ({points_range(comparison.low, comparison.high)})"


def _price_win(comparison: ModelComparison, margin: float) -> str:
    if not comparison.wins_by_price(margin):
        return ""
    return f"; {not_worse_text(comparison, margin)}, {prices_text(comparison)}"


def _programs(summary: PromotionSummary) -> str:
    """What changes for programs that call the model."""
    # First, as a stopped machine answers nobody, whichever name programs call.
    if summary.machine and summary.machine.called is None:
        return (
            f"*It is not running* at {escape(shorten(summary.provider))}, so programs get no answer. Press *Start "
            f"again* on {summary.machine.card}."
        )
    if not summary.has_alias:
        called = summary.model.provider_model
        if summary.machine and summary.machine.called:
            called = summary.machine.called
        return (
            f"*Change your programs*: {escape(shorten(summary.provider))} has no aliases, so they have to call "
            f"{code(called)}. `finetune current {summary.dataset}` prints this name.{_stops(summary)}"
        )
    programs = f"Programs that call {code(alias_for(summary.dataset))} at {escape(shorten(summary.provider))}"
    if summary.promotion.carried_at is None:
        return f"{programs} get it as soon as the trainer knows."
    return f"{programs} now get it, without a change."


def _stops(summary: PromotionSummary) -> str:
    """What ends the answers of a model on a machine by the hour."""
    if summary.machine is None:
        return ""
    return (
        f" It changes whenever the machine is started again. The bot can't see questions from programs and stops the "
        f"machine as idle: press *Keep it running* on {summary.machine.card}."
    )


def _in_use(summary: PromotionSummary) -> list[CardBlock]:
    """What changes for programs, whether the trainer knows, and the button to roll back."""
    parts = Parts()
    parts.text(_programs(summary))
    if summary.promotion.trouble and summary.promotion.carried_at is None:
        trouble = escape(cut(summary.promotion.trouble, 300))
        parts.note(f"The trainer can't be reached yet; trying again: {trouble}")
    if summary.left:
        provider, model = summary.left
        name = code(alias_for(summary.dataset))
        parts.note(f"{name} at {escape(shorten(provider))} still points to {code(model)}.")
    buttons = [button("Details", DETAILS, str(summary.promotion.id))]
    if summary.earlier is not None:
        buttons.insert(0, _rollback_button(summary, summary.earlier))
    parts.buttons(*buttons)
    return parts


def _rollback_button(summary: PromotionSummary, earlier: str) -> Block:
    sure = confirm(
        f"Roll back to {earlier}?",
        f"{summary.model.name} is kept and can be deployed again.",
        "Roll back",
        "Keep it",
    )
    return button("Roll back", ROLLBACK, str(summary.promotion.id), style="danger", confirm=sure)


def _objection_text(proof: PromotionEvidence, doubt: Objection) -> str:
    match doubt:
        case "gone":
            return "Its provider no longer has it."
        case "unmeasured":
            return "It has not been measured on held-out rows."
        case "no_go":
            return f"The verdict on its run was against it: {escape(proof.no_go or '').rstrip('.')}."
        case "judge":
            if proof.judge is None:
                return ""
            return f"{untrusted_text(proof.judge)}."
        case "other_judge":
            return f"{_other_judge(proof)} Start its training again to have it judged by the new one."
        case "nothing_beside":
            return "Nothing else answered the same held-out rows, so there is nothing to compare it with."
        case "not_better":
            return f"{_not_better(proof.best, proof.limits.margin)}{_read_rows(proof)}"
        case "other_rows":
            return (
                f"{code(proof.used or '')}, the model in use, answered other rows or was judged by another model, "
                "so they can't be compared."
            )
        case "not_better_than_used":
            return f"{_not_better(proof.against_used, proof.limits.margin)}{_read_rows(proof)}"
        case "below_floor":
            labels = ", ".join(
                f"{escape(shorten(low.label))} {low.right:,} of {low.rows:,}"
                for low in proof.low[:SHOWN_LABELS]
            )
            return f"Labels clearly below the minimum of {100 * (proof.limits.floor or 0):g}%: {labels}."


def _other_judge(proof: PromotionEvidence) -> str:
    """Says that the alternatives have scores of another judge than the model, and so were not compared with it."""
    own = escape(shorten(proof.judge.name)) if proof.judge else "another model"
    others = escape(shorten(proof.others_judge or ""))
    return (
        f"It is not compared with the alternatives: {own} judged it, {others} the others since, and verdicts of two "
        "judges don't compare."
    )


def _read_rows(proof: PromotionEvidence) -> str:
    if proof.candidate is None or not proof.candidate.read:
        return ""
    return f" {read_rows_sentence(proof.candidate)}"


def _not_better(comparison: ModelComparison | None, margin: float) -> str:
    if comparison is None:
        return ""
    what = "It is worse than" if comparison.is_worse else "It is not clearly better than"
    text = f"{what} {escape(shorten(comparison.other, 60))}: {_gain(comparison)}."
    # Only a cheaper model may win without being better, and only if a margin is allowed.
    if not comparison.is_cheaper or not margin:
        return text

    is_one_point = margin == 0.01
    needed = comparison.rows_for_margin(margin)
    if needed is None or comparison.is_worse:
        allowed = "1 point that is" if is_one_point else f"{100 * margin:g} points that are"
        return f"{text} It costs less, but may be worse by more than the {allowed} allowed."

    most = "1 point" if is_one_point else f"{100 * margin:g} points"
    takes = about_rows(needed)
    if needed > HOLDOUT_MOST:
        takes += f", more than the {HOLDOUT_MOST:,} that a dataset holds out"
    return (
        f"{text} It costs less, but {pluralize(comparison.rows, 'row')} can't show that it is at most {most} "
        f"worse: even for an equally good model that takes {takes}."
    )


@dataclass(frozen=True)
class ModelEntry:
    """A tuned model in a list. `promotion` is None if it is not in use, `candidate` if it was not measured. `ends` is
    the first day on which its provider no longer offers it. `is_stopped` is True if it needs a machine by the hour and
    none runs. `ancestors` are the tuned models from which its training went on, the nearest first."""

    model: Model
    dataset: str
    version: int
    base: str
    candidate: MeasuredCandidate | None
    promotion: Promotion | None
    ends: date | None = None
    actuals: ModelActuals | None = None
    is_stopped: bool = False
    ancestors: tuple[str, ...] = ()


NONE_IN_USE: Listing[ModelEntry] = Listing()


def listing(models: Listing[ModelEntry]) -> Message:
    if not models.total and models.unchecked:
        return text_message(unchecked_text(models.unchecked))
    if not models.total:
        return text_message("There are no tuned models yet. `/finetune start DATASET` trains one.")
    title = pluralize(models.total, "tuned model")
    lines = Lines([_entry(entry) for entry in models.entries], models.left_out)
    how = "`/finetune promote MODEL` deploys one for its dataset, `/finetune rollback DATASET` undoes that."
    return Message.titled(title, lines, *unchecked_notes(models.unchecked), Note(how))


def in_use_lines(models: Listing[ModelEntry]) -> Lines:
    return Lines([*map(in_use_line, models.entries)], models.left_out)


def in_use_line(entry: ModelEntry) -> str:
    """A line in status and Home."""
    line = f"• {code(entry.model.name)} for {code(entry.dataset)}{_since(entry.promotion)}"
    if entry.is_stopped:
        line += ", *not running*"
    line += f": {_measured(entry)}"
    if entry.actuals:
        line += f"; {latest_month(entry.actuals)}"
    if entry.ends:
        line += f". *Ends {day(entry.ends)}*"
    return line


def _entry(entry: ModelEntry) -> str:
    dataset = escape(shorten(entry.dataset))
    if entry.version != 1:
        dataset += f", version {entry.version}"
    trained = f"{escape(shorten(entry.base))} at {escape(entry.model.provider)} on {dataset}"
    if entry.ancestors:
        trained += f", going on from {', '.join(map(code, entry.ancestors))}"
    lines = [
        f"• {code(entry.model.name)}, {_state(entry)}",
        f"      {trained}: {_measured(entry)}",
    ]
    if entry.actuals:
        lines.append(f"      {latest_month(entry.actuals)}")
    return "\n".join(lines)


def _state(entry: ModelEntry) -> str:
    state = "not in use"
    if entry.promotion:
        state = f"*in use for {escape(entry.dataset)}*{_since(entry.promotion)}"
        if entry.is_stopped:
            state += ", *not running*: `/finetune try` links the card to start it"
    elif entry.model.state == "retired":
        state = "no longer in use"
    if entry.model.gone_at is not None:
        state += ", *no longer at its provider*"
    return state


def _since(promotion: Promotion | None) -> str:
    if promotion is None:
        return ""
    return f" since {day(promotion.at)} by <@{promotion.person}>"


def _measured(entry: ModelEntry) -> str:
    if entry.candidate is None:
        return "not measured"
    return score_text(entry.candidate)
