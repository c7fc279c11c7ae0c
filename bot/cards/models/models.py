"""Tuned models: promotion (objections, the card for the team, rollback), and the list of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Facts,
    Lines,
    Listing,
    Message,
    Note,
    Table,
    Text,
    actions,
    button,
    code,
    confirm,
    cut,
    escape,
)
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
    money,
    month_name,
    percent,
    pluralize,
    points,
    points_range,
    shorten,
)
from bot.rules.facts import Looks
from bot.rules.promotion import ModelComparison, Objection, PromotionEvidence, alias_for
from storage.actuals import ActualMonth
from storage.promotions import Promotion
from storage.records import Measurement, Model
from trainers.dataset.splits import HOLDOUT_MOST
from trainers.evaluation.results import Rung
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
    rung: Rung
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
    stands = summary.promotion.ended_at is None
    state = f"is in use{' again' if summary.promotion.is_rollback else ''}" if stands else "was in use"
    headline = f"{summary.model.name} {state} for {summary.dataset}"
    why = [Text(f"*Why*: {escape(summary.promotion.reason)}")] if summary.promotion.reason else []
    below = _in_use(summary) if stands else []
    return Message.titled(
        headline, Text(_who(summary)), *_numbers(summary), *why, *below, notice=_who(summary)
    )


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
    if proof.rung is None:
        return f"not measured; {limits}"
    others = [other for other in (proof.best, proof.against_used) if other]
    compared = (
        f"against {other.other} {_gain(other)}{_price_win(other, proof.limits.margin)}" for other in others
    )
    return "; ".join([score_text(proof.rung), *compared, limits])


def not_worse_text(comparison: ModelComparison, margin: float, *, is_named: bool = False) -> str:
    """The lower end of the interval and the margin that the policy allows. `is_named` adds the other's name,
    unescaped."""
    than = f" than {shorten(comparison.other, 34)}" if is_named else ""
    return f"cheaper and not worse{than} ({points(comparison.bound)} at worst, {100 * margin:g} allowed)"


def prices_text(comparison: ModelComparison) -> str:
    """'$0.03 instead of $0.12 per 1,000 requests'; '' if a price is unknown."""
    if comparison.usd is None or comparison.other_usd is None:
        return ""
    now, before = (usd(amount) if amount else "nothing" for amount in (comparison.usd, comparison.other_usd))
    return f"{now} instead of {before} per 1,000 requests"


def worse_labels_text(labels: Sequence[LabelLoss]) -> str:
    """'refund 18 → 11 of 20 rows, …', the largest losses first."""
    lost = [
        f"{escape(shorten(loss.label))} {loss.before:,} → {loss.after:,} of {pluralize(loss.rows, 'row')}"
        for loss in labels
    ]
    return listed(lost, SHOWN_LABELS)


def score_text(rung: Rung) -> str:
    """Score, interval, measure and number of rows."""
    means = meaning(rung).partition(",")[0]
    return f"{quality(rung)} {means} on {pluralize(rung.n, 'held-out row')}"


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
    return f"{person} deployed it{f' in place of {code(summary.before)}' if summary.before else ''}."


def _numbers(summary: PromotionSummary) -> list[CardBlock]:
    proof, looks = summary.proof, summary.looks
    if proof.rung is None:
        return [Text("It has not been measured on held-out rows.")]
    rows = pluralize(proof.rung.n, "held-out row") + (f", {looks_text(looks)}" if looks else "")
    pairs = [(fact_name(proof.rung), f"{quality(proof.rung)} on {rows}")]
    for other in filter(None, (proof.best, proof.against_used)):
        on = (
            "" if other.rows == proof.rung.n else f" on the {pluralize(other.rows, 'row')} that both answered"
        )
        name = f"Against {escape(shorten(other.other, 60))}, {percent(other.score)}"
        pairs.append((name, f"{_gain(other)}{_price_win(other, proof.limits.margin)}{on}"))
    if summary.sealed:
        pairs.append(("On sealed rows", escape(sealed_text(summary.sealed))))

    blocks: list[CardBlock] = [Facts(pairs)]
    if proof.worse:
        than = f"*Right less often than {escape(shorten(proof.worse_than, 60))}*"
        blocks.append(Text(f"{than}: {worse_labels_text(proof.worse)}."))
    blocks += untrusted_notes(proof.judge)
    if proof.others_judge and not summary.sealed:
        blocks.append(Note(_other_judge(proof)))
    if looks and looks.are_spent:
        blocks.append(Note(FRESH_ROWS))
    if proof.rung.read and not summary.sealed:
        blocks.append(Note(read_rows_sentence(proof.rung)))
    if summary.sealed and summary.sealed.opened_before:
        blocks.append(Note(opened_before(summary.sealed.opened_before)))
    return blocks


def sealed_text(sealed: SealedProof) -> str:
    """As plain text."""
    score = f"{quality(sealed.rung)} on {pluralize(sealed.rung.n, 'row')} (m{sealed.number})"
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
    if summary.machine and summary.machine.called is None:
        return (
            f"*It is not running* at {escape(shorten(summary.provider))}, so programs get no answer. Press *Start "
            f"again* on {summary.machine.card}."
        )
    if not summary.has_alias:
        called = summary.machine.called if summary.machine else None
        return (
            f"*Change your programs*: {escape(shorten(summary.provider))} has no aliases, so they have to call "
            f"{code(called or summary.model.provider_model)}. `finetune current {summary.dataset}` prints this name."
            f"{_stops(summary)}"
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
    blocks: list[CardBlock] = [Text(_programs(summary))]
    if summary.promotion.trouble and summary.promotion.carried_at is None:
        trouble = escape(cut(summary.promotion.trouble, 300))
        blocks.append(Note(f"The trainer can't be reached yet; trying again: {trouble}"))
    if summary.left:
        provider, model = summary.left
        name = code(alias_for(summary.dataset))
        blocks.append(Note(f"{name} at {escape(shorten(provider))} still points to {code(model)}."))
    details = button("Details", DETAILS, str(summary.promotion.id))
    if summary.earlier is None:
        return [*blocks, actions(details)]
    sure = confirm(
        f"Roll back to {summary.earlier}?",
        f"{summary.model.name} is kept and can be deployed again.",
        "Roll back",
        "Keep it",
    )
    back = button("Roll back", ROLLBACK, str(summary.promotion.id), style="danger", confirm=sure)
    return [*blocks, actions(back, details)]


def _objection_text(proof: PromotionEvidence, doubt: Objection) -> str:
    match doubt:
        case "gone":
            return "Its provider no longer has it."
        case "unmeasured":
            return "It has not been measured on held-out rows."
        case "no_go":
            return f"The verdict on its run was against it: {escape(proof.no_go or '').rstrip('.')}."
        case "judge":
            return f"{untrusted_text(proof.judge)}." if proof.judge else ""
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
    return f" {read_rows_sentence(proof.rung)}" if proof.rung and proof.rung.read else ""


def _not_better(comparison: ModelComparison | None, margin: float) -> str:
    if comparison is None:
        return ""
    what = "It is worse than" if comparison.is_worse else "It is not clearly better than"
    text = f"{what} {escape(shorten(comparison.other, 60))}: {_gain(comparison)}."
    if not comparison.is_cheaper or not margin:
        return text
    needed = comparison.rows_for_margin(margin)
    if needed is not None and not comparison.is_worse:
        most = "1 point" if margin == 0.01 else f"{100 * margin:g} points"
        beyond = f", more than the {HOLDOUT_MOST:,} that a dataset holds out" if needed > HOLDOUT_MOST else ""
        return (
            f"{text} It costs less, but {pluralize(comparison.rows, 'row')} can't show that it is at most {most} "
            f"worse: even for an equally good model that takes {about_rows(needed)}{beyond}."
        )
    allowed = "1 point that is" if margin == 0.01 else f"{100 * margin:g} points that are"
    return f"{text} It costs less, but may be worse by more than the {allowed} allowed."


@dataclass(frozen=True)
class ModelActuals:
    """How much a dataset's models were used. `months` are newest first. `foreseen` is what the plan of the model in use
    expected to save, in words, '' if nothing. `is_counted` is False if its provider doesn't count calls by model."""

    months: tuple[ActualMonth, ...]
    foreseen: str
    provider: str
    is_counted: bool


def actuals_table(actuals: ModelActuals) -> list[CardBlock]:
    """Calls, cost and saving by month and model."""
    if not actuals.months:
        provider = escape(shorten(actuals.provider))
        unknown = f"The number of calls is unknown: {provider} has reported nothing yet."
        if not actuals.is_counted:
            unknown = f"The number of calls is unknown: {provider} doesn't count calls by model."
        return [Text(unknown)]
    heading = ("Month", "Model", "Calls", "Tokens", "Cost", "Otherwise", "Saved")
    rows = [
        (
            month_name(each.month),
            each.model,
            f"{each.calls:,}",
            f"{each.tokens:,}",
            money(each.micros),
            money(each.alternative_micros),
            money(each.saving_micros),
        )
        for each in actuals.months
    ]
    planned = [f"Planned: {actuals.foreseen}."] if actuals.foreseen else []
    others = dict.fromkeys(each.alternative for each in actuals.months if each.alternative)
    instead = [f"Otherwise: the same calls on {escape(shorten(', '.join(others), 80))}."] if others else []
    return [Table([heading, *rows], "Calls by programs"), Note(" ".join([*planned, *instead]) or UPDATED)]


UPDATED = "Updated every five minutes."


def latest_month(actuals: ModelActuals) -> str:
    """The newest month in a few words, for all models that were in use in it."""
    if not actuals.months:
        return "calls unknown" if not actuals.is_counted else "no calls counted yet"
    month = actuals.months[0].month
    months = [each for each in actuals.months if each.month == month]
    savings = [each.saving_micros for each in months if each.saving_micros is not None]
    text = f"{pluralize(sum(each.calls for each in months), 'call')} in {month_name(month)}"
    if len(savings) < len(months):
        return text
    planned = f" (planned: {actuals.foreseen})" if actuals.foreseen else ""
    return f"{text}, {saving_text(sum(savings))}{planned}"


def saving_text(micros: int) -> str:
    return f"saved {money(micros)}" if micros >= 0 else f"cost {money(-micros)} more than the alternative"


@dataclass(frozen=True)
class ModelEntry:
    """A tuned model in a list. `promotion` is None if it is not in use, `rung` if it was not measured. `ends` is the
    first day on which its provider no longer offers it. `is_stopped` is True if it needs a machine by the hour and none
    runs."""

    model: Model
    dataset: str
    version: int
    base: str
    rung: Rung | None
    promotion: Promotion | None
    ends: date | None = None
    actuals: ModelActuals | None = None
    is_stopped: bool = False


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
    ends = f". *Ends {day(entry.ends)}*" if entry.ends else ""
    used = f"; {latest_month(entry.actuals)}" if entry.actuals else ""
    name = f"{code(entry.model.name)} for {code(entry.dataset)}{_since(entry.promotion)}"
    stopped = ", *not running*" if entry.is_stopped else ""
    return f"• {name}{stopped}: {_measured(entry)}{used}{ends}"


def _entry(entry: ModelEntry) -> str:
    version = "" if entry.version == 1 else f", version {entry.version}"
    result = (
        f"{escape(shorten(entry.base))} at {escape(entry.model.provider)} "
        f"on {escape(shorten(entry.dataset))}{version}"
    )
    used = f"\n      {latest_month(entry.actuals)}" if entry.actuals else ""
    return f"• {code(entry.model.name)}, {_state(entry)}\n      {result}: {_measured(entry)}{used}"


def _state(entry: ModelEntry) -> str:
    gone = ", *no longer at its provider*" if entry.model.gone_at is not None else ""
    if entry.promotion:
        stopped = ", *not running*: `/finetune try` links the card to start it" if entry.is_stopped else ""
        return f"*in use for {escape(entry.dataset)}*{_since(entry.promotion)}{stopped}{gone}"
    return f"{'no longer in use' if entry.model.state == 'retired' else 'not in use'}{gone}"


def _since(promotion: Promotion | None) -> str:
    if promotion is None:
        return ""
    return f" since {day(promotion.at)} by <@{promotion.person}>"


def _measured(entry: ModelEntry) -> str:
    return score_text(entry.rung) if entry.rung else "not measured"
