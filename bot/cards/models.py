"""Tuned models: a model's promotion (objections, the card that tells the team, rollback), the list of models, and
answers to what people try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from bot.cards import forms
from bot.cards.blocks import (
    Block,
    CardBlock,
    Facts,
    Lines,
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
    quote,
)
from bot.cards.candidates import FRESH_ROWS, MEANS, looks_sentence, looks_text, quality
from bot.cards.general import text_message
from bot.cards.words import (
    capitalize,
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
from bot.rules.promotion import ModelComparison, Objection, Proof, alias_for
from storage.actuals import ActualMonth
from storage.promotions import Promotion
from storage.records import Ask, Measurement, Model
from trainers.evaluation.results import Rung
from trainers.evaluation.statistics import LabelLoss
from trainers.money import usd
from trainers.types import Answer

PROMOTE, ROLLBACK, TRY, TRY_FORM = "put_to_work", "roll_back", "try_model", "try_form"
GOOD, NOT_GOOD, BETTER_FORM = "answer_good", "answer_not_good", "better_answer"
SHOWN_LABELS, LONGEST_QUOTE = 5, 1200
DETAILS = "promotion_details"


@dataclass(frozen=True)
class SealedProof:
    """What a model got right on sealed rows, by measurement `number`. `opened_before`: how many tests had opened them
    earlier."""

    number: int
    rung: Rung
    best: ModelComparison | None
    opened_before: int


@dataclass(frozen=True)
class PromotionSummary:
    """A promotion from all sides. `before`: the model that it took the place of; `earlier`: the one that a rollback
    puts back. `provider` is its title. `has_alias`: programs call a name there that moves. `left`: another provider's
    title, whose alias goes on standing for the model beside it. `looks` at the rows that it was measured on.
    `sealed`: what the sealed rows said."""

    promotion: Promotion
    model: Model
    proof: Proof
    before: str | None
    earlier: str | None
    provider: str
    has_alias: bool
    left: tuple[str, str] | None = None
    looks: Looks | None = None
    sealed: SealedProof | None = None

    @property
    def dataset(self) -> str:
        return self.promotion.dataset


def promotion_card(summary: PromotionSummary) -> Message:
    """Posted once, edited as the trainer is told of it and when another model takes its place."""
    stands = summary.promotion.ended_at is None
    state = f"is in use{' again' if summary.promotion.is_rollback else ''}" if stands else "was in use"
    headline = f"{summary.model.name} {state} for {summary.dataset}"
    why = [Text(f"*Why*: {escape(summary.promotion.reason)}")] if summary.promotion.reason else []
    below = _in_use(summary) if stands else []
    return Message.titled(
        headline, Text(_who(summary)), *_numbers(summary), *why, *below, notice=_who(summary)
    )


def deleted_card(model: str, dataset: str) -> Message:
    """In place of a promotion's card once its data was deleted."""
    why = "It was deleted with the data that it was trained on: programs that ask for it get an error."
    return Message.titled(f"{model} was in use for {dataset}", Text(why), notice=why)


def details(actuals: ModelActuals, looks: Looks | None) -> list[CardBlock]:
    """What the card of a promotion has no room for."""
    return [*actuals_table(actuals), *([Text(looks_sentence(looks))] if looks else [])]


def card_location(summary: PromotionSummary) -> str:
    """For the person who typed the command in a channel other than the card's."""
    text = f"{code(summary.model.name)} is in use for {code(summary.dataset)}."
    return f"{text} The card is in <#{summary.promotion.channel}>."


def sealed_test_begun(measurement: Measurement) -> Message:
    """For the person who promoted it: what decides now."""
    return text_message(
        f"The sealed rows decide: measurement m{measurement.id} asks the model and what it would replace. Its card is "
        f"in <#{measurement.channel}>. If the model passes, it is deployed."
    )


def opened_before(times: int) -> str:
    """What a sealed part is worth that was opened before."""
    return (
        f"These rows were opened {pluralize(times, 'time')} before, so they prove less: upload a version with new rows "
        "to seal."
    )


def promotion_refusal(model: Model, proof: Proof, doubts: Sequence[Objection]) -> str:
    """What speaks against it, a line for each, and how to use it all the same."""
    against = "\n".join(f"• {_doubt(proof, doubt)}" for doubt in doubts)
    return (
        f"{code(model.name)} was not deployed:\n{against}\nTo deploy it anyway, say why: "
        f"`/finetune promote {model.name} because=…`. The reason is kept in the audit log and shown to the team."
    )


def proof_in_numbers(proof: Proof) -> str:
    """The proof on one line, for the audit log, with the limits that it was judged by."""
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
    """The interval's lower end beside the margin that the policy allows. `is_named`: with the name of the other,
    unescaped."""
    than = f" than {shorten(comparison.other, 60)}" if is_named else ""
    return f"cheaper and not worse{than} ({points(comparison.low)} at worst, {100 * margin:g} allowed)"


def prices_text(comparison: ModelComparison) -> str:
    """'$0.03 instead of $0.12 per 1,000 requests'; '' where a price is not known."""
    if comparison.usd is None or comparison.other_usd is None:
        return ""
    now, before = (usd(amount) if amount else "nothing" for amount in (comparison.usd, comparison.other_usd))
    return f"{now} instead of {before} per 1,000 requests"


def worse_labels_text(labels: Sequence[LabelLoss]) -> str:
    """'refund 18 → 11 of 20 rows, …', those that lost most first."""
    lost = [
        f"{escape(shorten(loss.label))} {loss.before:,} → {loss.after:,} of {pluralize(loss.rows, 'row')}"
        for loss in labels
    ]
    return listed(lost, SHOWN_LABELS)


def score_text(rung: Rung) -> str:
    """Score and interval, what they count, on how many rows."""
    means = MEANS[rung.scoring].partition(",")[0]
    return f"{quality(rung)} {means} on {pluralize(rung.n, 'held-out row')}"


def promotion_button(number: int, model: str) -> Block:
    """On the result of a run whose model is shown to be better."""
    sure = confirm(
        f"Deploy {model}?",
        "It replaces the model that is in use for its dataset, which is kept for a rollback.",
        "Deploy",
        "Not yet",
    )
    return button("Deploy", PROMOTE, str(number), confirm=sure)


def try_button(number: int) -> Block:
    return button("Try it", TRY, str(number))


def try_form(model: str, channel: str) -> Block:
    hint = f"{model} answers in a moment, for you alone."
    text = forms.required_text_input("text", "Ask it something", most=forms.LONGEST_TEXT, hint=hint)
    return forms.modal("Try the tuned model", TRY_FORM, [text], submit="Ask", private=f"{channel} {model}")


def model_lost(model: Model, dataset: str, provider: str) -> Message:
    """`provider` is its title."""
    return text_message(
        f"{code(model.name)}, in use for {code(dataset)}, is gone from {escape(shorten(provider))}, so "
        f"programs that ask for it get no answer. `/finetune rollback {dataset}` puts the one before it back, "
        "`/finetune models` lists all."
    )


def alias_mismatch(dataset: str, model: Model, other: str | None, provider: str) -> Message:
    """The trainer's alias stood for the `other` model instead of the one in use; None: there was no such alias."""
    result = f"stood for {code(other)}" if other else "was not there"
    return text_message(
        f"{code(alias_for(dataset))} {result} at {escape(shorten(provider))}, though {code(model.name)} is in use for "
        f"{code(dataset)}: a backup was put back, or somebody changed it there. It is set to {code(model.name)} again."
    )


def _who(summary: PromotionSummary) -> str:
    person = f"<@{summary.promotion.person}>"
    if summary.promotion.is_rollback:
        return f"{person} rolled back from {code(summary.before or '')}."
    return f"{person} deployed it{f' in place of {code(summary.before)}' if summary.before else ''}."


def _numbers(summary: PromotionSummary) -> list[CardBlock]:
    proof, looks = summary.proof, summary.looks
    if proof.rung is None:
        return [Text("It was never measured on held-out rows.")]
    measure = capitalize(MEANS[proof.rung.scoring].partition(",")[0])
    rows = pluralize(proof.rung.n, "held-out row") + (f", {looks_text(looks)}" if looks else "")
    pairs = [(measure, f"{quality(proof.rung)} on {rows}")]
    for other in filter(None, (proof.best, proof.against_used)):
        on = (
            "" if other.rows == proof.rung.n else f" on the {pluralize(other.rows, 'row')} that both answered"
        )
        name = f"Against {escape(shorten(other.other, 60))}, {percent(other.score)}"
        pairs.append((name, f"{_gain(other)}{_price_win(other, proof.limits.margin)}{on}"))
    lost = [Text(f"*Right less often*: {worse_labels_text(proof.worse)}.")] if proof.worse else []
    notes = [Note(FRESH_ROWS)] if looks and looks.are_spent else []
    if summary.sealed:
        pairs.append(("On sealed rows", escape(sealed_text(summary.sealed))))
        before = summary.sealed.opened_before
        notes += [Note(opened_before(before))] if before else []
    return [Facts(pairs), *lost, *notes]


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
    """What changes for anyone who asks the model."""
    if not summary.has_alias:
        return (
            f"*Programs have to be changed*: {escape(shorten(summary.provider))} has no name that moves. "
            f"Put {code(summary.model.provider_model)} where they name the model; `finetune current {summary.dataset}` "
            "prints it."
        )
    programs = f"Programs that ask {escape(shorten(summary.provider))} for {code(alias_for(summary.dataset))}"
    if summary.promotion.carried_at is None:
        return f"{programs} get it as soon as the trainer has been told."
    return f"{programs} get it; none has to be changed."


def _in_use(summary: PromotionSummary) -> list[CardBlock]:
    """What programs have to do, how far the trainer knows of it, and the way back."""
    blocks: list[CardBlock] = [Text(_programs(summary))]
    if summary.promotion.trouble and summary.promotion.carried_at is None:
        trouble = escape(cut(summary.promotion.trouble, 300))
        blocks.append(Note(f"The trainer could not be told yet; it is tried again: {trouble}"))
    if summary.left:
        provider, model = summary.left
        name = code(alias_for(summary.dataset))
        blocks.append(Note(f"{name} at {escape(shorten(provider))} goes on standing for {code(model)}."))
    details = button("Details", DETAILS, str(summary.promotion.id))
    if summary.earlier is None:
        nothing = Note("There was none before it, so there is nothing to roll back to.")
        return [*blocks, actions(details), nothing]
    sure = confirm(
        f"Roll back to {summary.earlier}?",
        f"{summary.model.name} is kept and can be deployed again.",
        "Roll back",
        "Leave it",
    )
    back = button("Roll back", ROLLBACK, str(summary.promotion.id), style="danger", confirm=sure)
    how = Note(f"`/finetune rollback {summary.dataset}` does the same: it puts {code(summary.earlier)} back.")
    return [*blocks, actions(back, details), how]


def _doubt(proof: Proof, doubt: Objection) -> str:
    match doubt:
        case "gone":
            return "Its provider no longer has it."
        case "unmeasured":
            return "It was never measured on held-out rows."
        case "no_go":
            return f"The verdict on its run was no: {escape(proof.no_go or '').rstrip('.')}."
        case "nothing_beside":
            return "Nothing else answered the same held-out rows, so there is nothing to hold it against."
        case "not_better":
            return _not_better(proof.best, proof.limits.margin)
        case "other_rows":
            return f"{code(proof.used or '')}, in use now, answered other rows, so the two can't be compared."
        case "not_better_than_used":
            return _not_better(proof.against_used, proof.limits.margin)
        case "below_floor":
            labels = ", ".join(
                f"{escape(shorten(low.label))} {low.right:,} of {low.rows:,}"
                for low in proof.low[:SHOWN_LABELS]
            )
            return f"Labels shown to be below the floor of {100 * (proof.limits.floor or 0):g}%: {labels}."


def _not_better(comparison: ModelComparison | None, margin: float) -> str:
    if comparison is None:
        return ""
    what = "It is worse than" if comparison.is_worse else "It is not shown to be better than"
    text = f"{what} {escape(shorten(comparison.other, 60))}: {_gain(comparison)}."
    if not comparison.is_cheaper or not margin:
        return text
    allowed = "1 point that is" if margin == 0.01 else f"{100 * margin:g} points that are"
    return f"{text} It costs less, but may be worse by more than the {allowed} allowed."


@dataclass(frozen=True)
class ModelActuals:
    """What a dataset's models in use were asked: `months`, the newest first. `expected_micros`: what the plan of the
    one in use said it would save a month. `is_counted` False: its provider tells no calls of one model."""

    months: tuple[ActualMonth, ...]
    expected_micros: int | None
    provider: str
    is_counted: bool


def actuals_table(actuals: ModelActuals) -> list[CardBlock]:
    """Each month and model, beside the estimate."""
    if not actuals.months:
        provider = escape(shorten(actuals.provider))
        unknown = f"How much it is called is not known yet: {provider} has told nothing so far."
        if not actuals.is_counted:
            unknown = f"How much it is called is not known: {provider} doesn't count calls by model."
        return [Text(unknown)]
    heading = ("Month", "Model", "Calls", "Tokens", "Cost", "Instead", "Saved")
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
    expected = actuals.expected_micros
    planned = [] if expected is None else [f"Its plan expected {money(expected)} saved a month."]
    others = dict.fromkeys(each.alternative for each in actuals.months if each.alternative)
    instead = [f"Instead: the same calls on {escape(shorten(', '.join(others), 80))}."] if others else []
    return [Table([heading, *rows], "What programs asked"), Note(" ".join([*planned, *instead]) or WHEN)]


WHEN = "Counted every five minutes."


def latest_month(actuals: ModelActuals) -> str:
    """The newest month in a few words, of all models in use in it."""
    if not actuals.months:
        return "calls not known" if not actuals.is_counted else "no calls counted yet"
    month = actuals.months[0].month
    months = [each for each in actuals.months if each.month == month]
    savings = [each.saving_micros for each in months if each.saving_micros is not None]
    text = f"{pluralize(sum(each.calls for each in months), 'call')} in {month_name(month)}"
    if len(savings) < len(months):
        return text
    expected = actuals.expected_micros
    planned = "" if expected is None else f" (planned: {money(expected)} a month)"
    return f"{text}, {saved(sum(savings))}{planned}"


def saved(micros: int) -> str:
    return f"saved {money(micros)}" if micros >= 0 else f"cost {money(-micros)} more than the alternative"


@dataclass(frozen=True)
class ModelEntry:
    """A tuned model as it stands in a list. `promotion`: by which it is in use; `rung` None: not measured; `ends`: the
    first day on which it is gone."""

    model: Model
    dataset: str
    version: int
    base: str
    rung: Rung | None
    promotion: Promotion | None
    ends: date | None = None
    actuals: ModelActuals | None = None


def listing(entries: Sequence[ModelEntry]) -> Message:
    if not entries:
        return text_message("There is no tuned model yet: `/finetune start DATASET` makes one.")
    title = pluralize(len(entries), "tuned model")
    how = "`/finetune promote MODEL` deploys one for its dataset, `/finetune rollback DATASET` undoes that."
    return Message.titled(title, Lines([_entry(entry) for entry in entries]), Note(how))


def in_use_line(entry: ModelEntry) -> str:
    """One line of the overview."""
    ends = f". *Ends {day(entry.ends)}*" if entry.ends else ""
    used = f"; {latest_month(entry.actuals)}" if entry.actuals else ""
    name = f"{code(entry.model.name)} for {code(entry.dataset)}{_since(entry.promotion)}"
    return f"• {name}: {_measured(entry)}{used}{ends}"


def _entry(entry: ModelEntry) -> str:
    version = "" if entry.version == 1 else f", version {entry.version}"
    result = (
        f"{escape(shorten(entry.base))} at {escape(entry.model.provider)} "
        f"on {escape(shorten(entry.dataset))}{version}"
    )
    used = f"\n      {latest_month(entry.actuals)}" if entry.actuals else ""
    return f"• {code(entry.model.name)}, {_state(entry)}\n      {result}: {_measured(entry)}{used}"


def _state(entry: ModelEntry) -> str:
    gone = ", *gone from its provider*" if entry.model.gone_at is not None else ""
    if entry.promotion:
        return f"*in use for {escape(entry.dataset)}*{_since(entry.promotion)}{gone}"
    return f"{'was in use' if entry.model.state == 'retired' else 'not in use'}{gone}"


def _since(promotion: Promotion | None) -> str:
    if promotion is None:
        return ""
    return f" since {day(promotion.at)} by <@{promotion.person}>"


def _measured(entry: ModelEntry) -> str:
    return score_text(entry.rung) if entry.rung else "not measured"


def pending_card(ask: Ask) -> Message:
    return text_message(f"Asking {code(ask.model)} …")


def answer_card(ask: Ask, answer: Answer) -> Message:
    used = pluralize(answer.prompt_tokens + answer.completion_tokens, "token")
    return Message(
        f"{code(ask.model)} answers: {escape(cut(answer.text.strip(), 500) or '(nothing)')}",
        (
            Text(f"{code(ask.model)} was asked:\n{quote(ask.text, LONGEST_QUOTE)}"),
            Text(f"It answers:\n{quote(answer.text, LONGEST_QUOTE)}"),
            actions(button("👍 Good", GOOD, str(ask.id)), button("👎 Not good", NOT_GOOD, str(ask.id))),
            Note(f"{max(answer.seconds, 0.1):.1f} seconds, {used}. Only you see this."),
        ),
    )


def better_form(number: int) -> Block:
    """Asks for a better answer than the one that was not good."""
    hint = "Your answer and the model's become a preference pair. Write no names or addresses."
    text = forms.required_text_input(
        "text", "What would be a better answer?", most=forms.LONGEST_TEXT, hint=hint
    )
    return forms.modal("A better answer", BETTER_FORM, [text], submit="Keep it", private=str(number))


def verdict_noted(dataset: str, pairs: int, least: int) -> str:
    """`pairs`: so many preference pairs the verdicts on the dataset's models make so far; a dataset takes `least`."""
    noted = (
        f"Noted. The verdicts on models of {code(dataset)} make {pluralize(pairs, 'preference pair')} so far"
    )
    if pairs < least:
        return f"{noted}; {least} are the least to train on. A 👎 with a better answer makes one."
    return f"{noted}: {code(f'/finetune pairs {dataset}')} makes a dataset of them."


def too_few_pairs(dataset: str, pairs: int, least: int) -> str:
    return (
        f"The verdicts on models of {code(dataset)} make {pluralize(pairs, 'preference pair')}, and {least} are the "
        f"least to train on. Ask its model with {code('/finetune try')}, press 👎 and say what would be better."
    )


def failure_card(ask: Ask, why: str) -> Message:
    """`why` is a sentence with its cure, from anywhere."""
    text = f"{code(ask.model)} could not be asked: {escape(why)}"
    return Message(text, (Text(text), Note(f"You asked: {escape(cut(ask.text, 200))}")))
