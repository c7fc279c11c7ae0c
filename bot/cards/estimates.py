"""The estimate card and its form: the verdict first, then the numbers that carry it, then what they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from bot.cards import advice, forms
from bot.cards.assumptions import Assumption, assumptions
from bot.cards.blocks import (
    Block,
    CardBlock,
    Facts,
    Figure,
    Headline,
    Lines,
    Message,
    Note,
    Table,
    Text,
    actions,
    button,
    cut,
    escape,
    sentence,
)
from bot.cards.candidates import alternative_name, alternative_text
from bot.cards.commands import SLACK, Spelling
from bot.cards.forms import modal
from bot.cards.payback import hours_caveat, monthly_saving_text, payback_condition, share_of_draws
from bot.cards.reasons import unknown_successor
from bot.cards.words import planned_time, shorten
from bot.rules.advice import Verdict
from bot.rules.alternatives import Alternative
from bot.rules.bills import MonthlyCost
from bot.rules.facts import TASK_KINDS, Evidence
from bot.rules.forecast import LIKELY, Outlook
from bot.rules.payback import enough_volume
from bot.rules.plans import VerdictKind
from bot.rules.roi import USD_PER_HOUR, Estimate, Inputs, Range, Training
from bot.rules.units import HOURS_PER_MONTH, duration, tokens
from bot.values.runs import Refusal
from trainers.dataset import Report
from trainers.money import usd
from trainers.pricing import PriceRow

SHARE, ESTIMATE = "share_estimate", "estimate"
# The form's fields as the command's options.
TYPED = (
    "current",
    "volume",
    "target",
    "hours",
    "rate",
    "labels",
    "label_usd",
    "wrong_usd",
    "retrain",
    "bar",
    "task",
)
FIELDS = ("dataset", *TYPED)
ZERO = Decimal(0)
SELDOM = ("Machine", "Requests", "Upkeep")  # rows of the bill that are left out where all are nothing
MARKS = {"go": "for it", "no_go": "against it", "unknown": "open"}
# What carries the sum and what a reader can change: shown with its value. The others are named only.
WITH_VALUE = frozenset({"volume", "prompt", "price today", "price once tuned", "hosting", "people's time"})
NOT_NOW = {
    "rows": "Not now: too few rows",
    "one label": "Not now: there is nothing to tell apart",
    "wrong labels": "Not now: too many labels are wrong",
    "end date": "Not now: the model to train is at its end",
    "cheaper rung": "Not now: something cheaper is good enough",
    "tuned": "Not now: the tuned model is not good enough",
    "worse": "Not now: the tuned model is worse and costs as much",
    "knowledge": "Not now: facts are looked up, not learnt",
    "reasoning": "Not now: thinking calls for a better model",
    "cost": "Not now: it would cost more than it saves",
    "payback": "Not now: it pays back too late",
    "memory": "Not now: the training does not fit your machine",
}
OPEN = {
    "measure": "cheaper alternatives are not measured",
    "bar": "whether the bar is met is not known",
    "undecided": "the held-out rows can't tell yet",
    "holdout": "there are too few held-out rows",
    "unread": "no prompt's answers could be read",
    "tuned": "the tuned model is not measured well enough",
    "rows": "there are few rows",
    "wrong labels": "too many labels may be wrong",
    "today's model": "today's model is not measured",
    "cheaper rung": "what a tuned model costs is not known",
    "cost": "what it saves is not known",
    "payback": "whether it pays back in time is uncertain",
    "net value": "it pays back, and loses later",
    "people's time": "people's time is not counted",
    "successor": "the successor of today's model is not measured",
    "only way": "nobody said what better answers are worth",
    "latency": "how fast a tuned model answers is not known",
    "machine": "how much your own machine can do is not known",
}


class Estimated(Protocol):
    """What the card shows; see bot/services/estimates.py."""

    @property
    def name(self) -> str: ...
    @property
    def report(self) -> Report: ...
    @property
    def training(self) -> Training | None: ...
    @property
    def minutes(self) -> Range | None: ...
    @property
    def is_guess(self) -> bool: ...
    @property
    def memory(self) -> str | None: ...
    @property
    def of_arms(self) -> str: ...
    @property
    def estimate(self) -> Estimate | None: ...
    @property
    def outlook(self) -> Outlook | None: ...
    @property
    def alternative(self) -> Alternative | None: ...
    @property
    def prices(self) -> Sequence[PriceRow]: ...
    @property
    def evidence(self) -> Evidence: ...
    @property
    def inputs(self) -> Inputs | None: ...
    @property
    def verdict(self) -> Verdict: ...


def card(
    estimated: Estimated,
    target: str,
    *,
    number: int | None = None,
    shared_by: str | None = None,
    is_detailed: bool = False,
    spelling: Spelling = SLACK,
) -> Message:
    """`number`: of an estimate that its reader may share; `shared_by`: who has shared it. `is_detailed`: with what
    Slack has no room for."""
    verdict, alternative = estimated.verdict, estimated.alternative
    blocks: list[CardBlock] = [Headline(_headline(estimated)), Note(_subject(estimated, target))]
    blocks += _numbers(estimated, target)
    if alternative and not _hides_savings(estimated):
        blocks.append(Text(escape(cut(alternative_text(alternative), 900))))
    blocks += _reasons(verdict, spelling)
    if is_detailed:
        blocks += _details(estimated)
    elif estimated.inputs:
        blocks.append(Note(_rests_on(assumptions(estimated.inputs))))
    if estimated.prices:
        sources = (
            f"{escape(shorten(row.model))} from {escape(cut(row.said_by, 120))}" for row in estimated.prices
        )
        blocks.append(Note(f"Prices: {'; '.join(dict.fromkeys(sources))}."))
    if number is not None:
        blocks.append(actions(button("Share in the channel", SHARE, str(number))))
    elif shared_by:
        blocks.append(Note(f"Shared by <@{shared_by}>."))
    text = f"{sentence(advice.headline(verdict, spelling))} {sentence(advice.next_step(verdict, spelling))}"
    return Message(text, tuple(blocks))


def alt_text(plot: str, dataset: str) -> str:
    """`plot` as its file is called."""
    if plot == "tornado":
        return f"What the net value hangs on, {shorten(dataset)}"
    return f"Saved minus spent, month by month, {shorten(dataset)}"


def verdict_blocks(verdict: Verdict, spelling: Spelling = SLACK) -> list[CardBlock]:
    """The verdict where another subject has the headline."""
    return [
        Text(f"*To fine-tune or not*: {sentence(advice.headline(verdict, spelling))}"),
        *_reasons(verdict, spelling),
    ]


def _reasons(verdict: Verdict, spelling: Spelling) -> list[CardBlock]:
    """The verdict's reasons, and what comes next."""
    lines = [
        f"• _{MARKS[reason.kind]}_: {sentence(advice.reason_text(verdict, reason, spelling))}"
        for reason in verdict.reasons
    ]
    return [Lines(lines), Text(f"*Next*: {sentence(advice.next_step(verdict, spelling))}")]


def _details(estimated: Estimated) -> list[CardBlock]:
    """What moves the result, and each assumption with its reason."""
    blocks: list[CardBlock] = []
    if estimated.outlook and estimated.outlook.tornado:
        over = duration(estimated.outlook.horizon_months)
        swings = [
            f"• {swing.name}: {usd(swing.at_low)} at {swing.low_value}, {usd(swing.at_high)} at {swing.high_value}"
            for swing in estimated.outlook.tornado
        ]
        blocks += [
            Text(f"What moves the net value over {over} most, each alone"),
            Lines([*map(escape, swings)]),
        ]
    if estimated.inputs:
        lines = [
            f"• {assumption.name}: {assumption.value}. {assumption.why}"
            for assumption in assumptions(estimated.inputs)
        ]
        blocks += [Text("What this rests on"), Lines([*map(sentence, lines)])]
    return blocks


def _numbers(estimated: Estimated, target: str) -> list[CardBlock]:
    """The figures; those that carry the verdict come first."""
    estimate = estimated.estimate
    if estimate is None:
        return [_escaped_facts(_once(estimated))]
    today = [("Each month today", monthly(estimate.monthly_before)), *_other(estimated)]
    if _hides_savings(estimated):
        return [_escaped_facts([*today, *_once(estimated)])]
    is_unsure = estimate.on_own_machine and estimate.machines is None
    if_enough = ", if one machine is enough" if is_unsure else ""
    tuned = ("Each month tuned", f"{monthly(estimate.monthly_after)}{if_enough}")
    bills = Table(
        _bills(estimated, estimate),
        f"Cost a month: {shorten(estimated.name)} on {shorten(target, 60)}",
        otherwise=(_escaped_facts([*today, tuned]),),
    )
    worth = estimate.errors_avoided_usd  # with it the saving is the difference of the bills
    saved = [
        _saving(estimate, estimated.outlook),
        *_succession(estimate),
        *_machines(estimate),
        *([(f"{'Fewer' if worth > 0 else 'More'} wrong answers, a month", usd(abs(worth)))] if worth else []),
    ]
    return [_escaped_facts(saved), bills, _escaped_facts([*_chances(estimated), *_once(estimated)])]


def _hides_savings(estimated: Estimated) -> bool:
    """Whether no saving is shown: one by a model that may not, or need not, be used is none."""
    estimate = estimated.estimate
    return estimated.verdict.withholds_saving or (estimate is not None and estimate.months_left == 0)


def monthly(bill: MonthlyCost) -> str:
    if not bill.total:
        return "no charge"
    parts = (
        (bill.input, "input"),
        (bill.output, "output"),
        (bill.hosting, "machine"),
        (bill.requests, "requests"),
        (bill.upkeep, "upkeep"),
    )
    lines = [f"{usd(amount)} {name}" for amount, name in parts if amount]
    return f"{usd(bill.total)} ({', '.join(lines)})" if len(lines) > 1 else lines[0]


def _headline(estimated: Estimated) -> str:
    verdict, estimate = estimated.verdict, estimated.estimate
    rule = verdict.rule
    if verdict.kind == "no_go":
        return verdict_in_short("no_go", rule)
    saves = f"it would save {monthly_saving_text(estimate)}" if estimate else "what it saves is not known yet"
    if verdict.kind == "go":
        outlook = estimated.outlook
        if estimate is None or outlook is None:
            return f"Go: {saves}"
        back = f" back within {duration(outlook.target_months)}" if estimate.one_off_usd else ""
        timed = payback_condition(is_good=True, is_time_said=outlook.is_time_said)
        return f"Go: {saves},{back} in {share_of_draws(outlook.p_payback)}{timed}"
    if estimated.evidence.ladder is None and estimated.evidence.trained is None:
        return f"Worth measuring: {saves}" if estimate else f"Worth measuring; {saves}"
    return verdict_in_short("unknown", rule)


def verdict_in_short(kind: VerdictKind, rule: str) -> str:
    """The verdict and the rule that decided it, without a sum."""
    match kind:
        case "go":
            return "Go"
        case "no_go":
            return NOT_NOW.get(rule, "Not now")
        case "unknown":
            return f"Not decided yet: {OPEN.get(rule, 'something is still open')}"


def _subject(estimated: Estimated, target: str) -> str:
    estimate = estimated.estimate
    volume = f", {tokens(estimate.monthly_input_tokens)} input tokens a month" if estimate else ""
    return f"{escape(shorten(estimated.name))} on {escape(shorten(target, 60))}{volume}"


def _dollars(amount: Decimal) -> Figure:
    return Figure(usd(amount), amount)


def _once(estimated: Estimated) -> list[tuple[str, str]]:
    """The facts that do not come back every month."""
    minutes = estimated.minutes
    low, high = (float(minutes.low) * 60, float(minutes.high) * 60) if minutes else (None, None)
    takes = planned_time(low, high, is_guess=estimated.is_guess)
    pairs = [("Training, once", _training(estimated)), ("Training takes", takes)]
    if estimated.memory:
        pairs.append(("Memory", estimated.memory))
    estimate = estimated.estimate
    if estimate is None or _hides_savings(estimated):
        return pairs
    pairs.append(("Pays back", payback_text(estimate.payback_months) + _paid_between(estimated.outlook)))
    enough = enough_volume(estimate, estimated.outlook)
    if enough is None:
        pairs.append(("Pays from", "no volume: a token costs as much or more"))
    elif enough:
        likely = f" (in {LIKELY:.0%} of draws)" if estimated.outlook else ""
        pairs.append(("Pays from", f"{tokens(enough)} input tokens a month{likely}"))
    return pairs


def payback_text(months: Decimal | None) -> str:
    """What stands after "Pays back"."""
    if months is None:
        return "never at this volume"
    if not months:
        return "at once"
    is_soon = months * HOURS_PER_MONTH < 24
    return "within a day" if is_soon else f"in {duration(months)}"


def _paid_between(outlook: Outlook | None) -> str:
    """The range in which 9 in 10 draws pay back."""
    if outlook is None or outlook.payback_months.p5 is None:
        return ""
    early, late = outlook.payback_months.p5, outlook.payback_months.p95
    soon = duration(early) if early else "at once"
    return f" ({soon} to {'never' if late is None else duration(late)})" if early != late else ""


def _bills(estimated: Estimated, estimate: Estimate) -> list[tuple[str, ...]]:
    """A month's bills beside each other, as a table's rows."""
    alternative = estimated.alternative if _other(estimated) else None
    bills = [
        ("Today", estimate.monthly_before),
        *([(shorten(alternative_name(alternative)), estimate.monthly_alternative)] if alternative else []),
        ("Tuned", estimate.monthly_after),
    ]
    rows = [
        ("A month", *(name for name, _ in bills)),
        ("Input", *(_dollars(bill.input) for _, bill in bills)),
        ("Output", *(_dollars(bill.output) for _, bill in bills)),
        ("Machine", *(_dollars(bill.hosting) for _, bill in bills)),
        ("Requests", *(_dollars(bill.requests) for _, bill in bills)),
        ("Upkeep", *(_dollars(bill.upkeep) for _, bill in bills)),
        ("Total", *(_dollars(bill.total) for _, bill in bills)),
    ]
    return [row for row in rows if row[0] not in SELDOM or set(row[1:]) != {usd(ZERO)}]


def _training(estimated: Estimated) -> str:
    training = estimated.training
    if training is None:
        return "unknown"
    cost = _range(training.usd) if training.usd.high else "no charge"
    in_runs = f" in {training.runs} runs" if training.runs > 1 else ""
    count = f"{'about ' if training.is_estimated else ''}{tokens(training.billed_tokens)}"
    text = f"{cost} for {count} tokens{estimated.of_arms}{in_runs}"
    estimate = estimated.estimate
    work = estimate.people_usd + estimate.labels_usd if estimate else ZERO
    return f"{text}; people and labels {usd(work)}" if work else text


def _saving(estimate: Estimate, outlook: Outlook | None) -> tuple[str, str]:
    """The saving a month; a loss is shown as a cost: "minus $48.00" saved is hard to read."""
    a_month = estimate.saving_month_range
    if outlook and outlook.saving_month.p5 is not None and outlook.saving_month.p95 is not None:
        a_month = Range(outlook.saving_month.p5, estimate.saving_month, outlook.saving_month.p95)
    if estimate.saving_month >= 0:
        return "Saves a month", _range(a_month) if a_month.high else "nothing"
    return "Costs more a month", _range(Range(-a_month.high, -a_month.expected, -a_month.low))


def _machines(estimate: Estimate) -> list[tuple[str, str]]:
    if not estimate.on_own_machine:
        return []
    count = estimate.machines
    if count is None:
        return [("Machines", "how many it takes is not known: the speed of yours is not measured")]
    return [("Machines", "1 like yours is enough" if count == 1 else f"{count:,} like yours")]


def _succession(estimate: Estimate) -> list[tuple[str, str]]:
    """The saving from the day on which the model that it is held against has ended."""
    succession = estimate.succession
    if succession is None:
        return []
    name, saving = f"From {succession.ends} on", succession.saving_month
    if saving is None:
        unknown = unknown_successor(succession.successor)
        return [(name, f"not known: {succession.model} ends, and {unknown}")]
    difference = f"saves {usd(saving)}" if saving >= 0 else f"costs {usd(-saving)} more"
    successor = f"{succession.successor}, the successor of {succession.model}"
    return [(name, f"{difference} a month against {successor}")]


def _chances(estimated: Estimated) -> list[tuple[str, str]]:
    """How likely it pays back, and the net value, over the draws of everything uncertain."""
    outlook = estimated.outlook
    if outlook is None:
        return []
    rests_on = payback_condition(is_good=estimated.evidence.is_good, is_time_said=outlook.is_time_said)
    is_free = estimated.estimate is not None and not estimated.estimate.one_off_usd
    end = hours_caveat(
        outlook.bearable_hours, f"back within {duration(outlook.target_months)} " if is_free else ""
    )
    within = f"in {share_of_draws(outlook.p_payback, outlook.draws)}{rests_on}{end}"
    pairs = [("Saves money" if is_free else f"Back within {duration(outlook.target_months)}", within)]
    npv = outlook.npv
    if npv.p5 is None or npv.p50 is None or npv.p95 is None:
        return pairs
    over = duration(outlook.horizon_months)
    return [*pairs, (f"Net over {over}", f"{usd(npv.p50)} ({usd(npv.p5)} to {usd(npv.p95)})")]


def _other(estimated: Estimated) -> list[tuple[str, str]]:
    """The bill of what the saving is held against, where that is not today's model."""
    estimate, other = estimated.estimate, estimated.alternative
    if estimate is None or other is None or estimate.monthly_alternative == estimate.monthly_before:
        return []
    return [(f"Each month, {shorten(alternative_name(other), 60)}", monthly(estimate.monthly_alternative))]


def _escaped_facts(pairs: Sequence[tuple[str, str]]) -> Facts:
    return Facts([(escape(name), escape(value)) for name, value in pairs])


def _range(amounts: Range) -> str:
    expected, low, high = usd(amounts.expected), usd(amounts.low), usd(amounts.high)
    return expected if low == high else f"{expected} ({low} to {high})"


def _rests_on(assumed: Sequence[Assumption]) -> str:
    shown = [
        f"{assumption.name}: {escape(assumption.value)}"
        for assumption in assumed
        if assumption.name in WITH_VALUE
    ]
    named = ", ".join(assumption.name for assumption in assumed if assumption.name not in WITH_VALUE)
    more = f"Taken for granted as well: {named}. `finetune estimate` in a terminal says why, for each."
    return "\n".join(["*What this rests on*", *(f"• {line}" for line in shown), *([more] if named else [])])


@dataclass(frozen=True)
class EstimateChoices:
    """What the form offers. Empty where there is nothing to choose from yet."""

    datasets: Sequence[str]
    targets: Sequence[str]


def form(channel: str, choices: EstimateChoices, dataset: str | None = None) -> Block:
    """`dataset` is chosen at first."""
    blocks = [
        forms.select_input("dataset", "Dataset", choices.datasets, initial=dataset),
        forms.text_input("current", "Model that you prompt today", "gpt-4o"),
        forms.text_input("volume", "Input tokens a month", "10M"),
        forms.select_input("target", "Model to train", choices.targets),
        forms.text_input("hours", "Hours of people's time, once", "16", hint="Empty: none are counted."),
        forms.text_input(
            "rate", "Dollars for an hour of a person", "75", hint=f"Empty: {usd(USD_PER_HOUR)}."
        ),
        forms.text_input("labels", "Rows still to be labelled", "500", hint="Empty: none."),
        forms.text_input(
            "label_usd", "Dollars for one label", "0.10", hint="Empty: nothing beside the hours."
        ),
        forms.text_input(
            "wrong_usd", "Dollars that a wrong answer costs", "0.50", hint="Empty: not counted."
        ),
        forms.text_input("retrain", "Months until it is trained again", "6", hint="Empty: never."),
        forms.text_input(
            "bar", "Good enough from", "85%", hint="The share of right answers. Empty: as it is set."
        ),
        forms.choice_input(
            "task",
            "What should the model get better at?",
            list(TASK_KINDS.items()),
            placeholder="Not said",
            hint="Empty: as it is set for the dataset.",
        ),
    ]
    return modal("Estimate a fine-tune", ESTIMATE, blocks, submit="Estimate", private=channel)


def refused_field(refused: object) -> str:
    """The field of the form under which a refusal or an answer stands."""
    about = refused.about if isinstance(refused, Refusal) else None
    return about if about in FIELDS else "dataset"
