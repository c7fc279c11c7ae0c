"""The approval card before and after the decision, the forms that ask for a reason, and the notice that a newer plan
replaces it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from bot.cards.advice import first_sentence
from bot.cards.blocks import (
    Block,
    CardBlock,
    Facts,
    Message,
    Note,
    Text,
    actions,
    button,
    code,
    confirm,
    cut,
    escape,
    sentence,
)
from bot.cards.budgets import owner_text
from bot.cards.calibration import alternative_bill
from bot.cards.deployments import hosting_line
from bot.cards.estimates import verdict_summary
from bot.cards.forms import modal, required_text_input
from bot.cards.general import details_modal, text_message
from bot.cards.payback import hours_caveat, net_value_text, payback_condition, share_of_draws
from bot.cards.words import (
    about_usd,
    at_most,
    charge,
    interval,
    money,
    percent,
    planned_time,
    pluralize,
    requests_text,
    share_text,
    shorten,
    volume_text,
)
from bot.rules.budgets import Budget
from bot.rules.plans import (
    BestCandidate,
    Plan,
    PlanVerdict,
    SweepConflict,
    describe_sweep,
    unusual_hyperparameters,
)
from bot.rules.units import format_months
from bot.values.runs import Progress
from storage.records import Approval, Run, RunState
from trainers.methods import option_name
from trainers.money import from_micros, usd
from trainers.pricing import PriceRow
from trainers.rentals.prices import WHO, Rental

APPROVE, APPROVE_FORM = "approve_plan", "approve_form"
REJECT, REJECT_FORM = "reject_plan", "reject_form"
DETAILS = "plan_details"
SHOWN_REASONS = 3
# share of the rented time; the rest is for loading and uploading (rentals/attempt.py)
STOPS_AT = Decimal("0.85")
DECIDED: dict[RunState, str] = {
    "rejected": "rejected",
    "expired": "expired",
    "cancelled": "withdrawn",
}


def voided_card(run: Run, plan: Plan, why: str, name: str) -> Message:
    """A message for the channel, since editing the card notifies nobody. `why` is our own mrkdwn; `name` links to the
    run's card."""
    budget = f", and {charge(plan.maximum_micros)} of the budget is free again" if plan.maximum_micros else ""
    return text_message(
        f"*The approval of run {run.id} no longer counts*: {why}. Nothing was started{budget}. "
        f"The card of {name} asks for approval again."
    )


def reminder(name: str, plan: Plan, still: int, left_s: float, whom: Sequence[str]) -> Message:
    """`name` links to the run's card. `whom` mentions the people who may approve; `still` of them are needed."""
    who = f" {', '.join(whom)}: {pluralize(still, 'more approver')} needed." if whom else ""
    return text_message(
        f"The plan of {name} ({escape(plan_title(plan))}, {at_most(plan.maximum_micros)}) is waiting for approval "
        f"and expires in {pluralize(max(round(left_s / 3600), 1), 'hour')}.{who}"
    )


def decided_card(run: Run, plan: Plan, budget: Budget, text: str) -> Message:
    """The approval card with the decision in place of the buttons. `text` is our own mrkdwn."""
    headline = f"Run {run.id} {DECIDED.get(run.state, 'approved')}: {plan_title(plan)}, {at_most(plan.maximum_micros)}"
    return Message.titled(
        headline,
        Text(text),
        Text(_short_verdict(plan)),
        Facts(_short_facts(run, plan, budget)),
        actions(_details_button(run)),
        notice=text,
    )


def approved_by(decisions: Sequence[Approval]) -> str:
    """'Approved by @Ben: “it is a test”'; if several approved, all names first, then their reasons."""
    reasons = _reasons(decisions)
    is_single = len([decision for decision in decisions if decision.decision == "approve"]) == 1
    return f"Approved by{reasons}" if is_single and reasons else f"Approved by {_people(decisions)}.{reasons}"


def _reasons(decisions: Sequence[Approval]) -> str:
    """The reasons of the first few approvers. The audit log has all of them."""
    reasons = [
        f" <@{decision.person}>: “{escape(cut(decision.reason, 300))}”"
        for decision in decisions
        if decision.decision == "approve" and decision.reason
    ]
    return "".join(reasons[:SHOWN_REASONS])


def rejected_by(person: str, reason: str) -> str:
    return f"Rejected by <@{person}>: {escape(reason.strip()) or 'no reason given'}"


def reject_modal(plan_hash: str) -> Block:
    reason = required_text_input("reason", "What should change?", most=500)
    return modal("Reject this plan", REJECT_FORM, [reason], submit="Reject", private=plan_hash)


def approve_modal(run: Run, plan: Plan) -> Block:
    """Asks for a reason, for a plan whose verdict is not go."""
    text = Text(
        f"{verdict_text(plan)}\n\nThis starts the training of {escape(plan_title(plan))}. {_spends(plan)}"
    )
    hint = "Example: quality matters more than cost here. Shown to the team and kept in the audit log."
    reason = required_text_input("reason", "Why should it be trained anyway?", most=500, hint=hint)
    submit = f"Approve {charge(plan.maximum_micros)}" if plan.maximum_micros else "Approve"
    return modal("Approve this plan", APPROVE_FORM, [text, reason], submit=submit, private=run.plan_hash)


def verdict_text(plan: Plan) -> str:
    """The verdict when the plan was frozen and its reason, then the best measured candidate and the bar."""
    advised = plan.advised
    if advised is None:
        return "*No verdict*: this plan was made by an older version of the bot. Ask for it again to get a verdict."
    return f"*{verdict_summary(advised.kind, advised.rule)}*. {sentence(cut(advised.reason, 600))}\n{_best(advised)}"


def _short_verdict(plan: Plan) -> str:
    """The verdict with the first sentence of its reason. An undecided verdict names its reason already."""
    advised = plan.advised
    if advised is None:
        return verdict_text(plan)
    because = "" if advised.kind == "unknown" else f" {sentence(first_sentence(advised.reason))}"
    return f"*{verdict_summary(advised.kind, advised.rule)}*.{because}\n{_best(advised)}"


def _best(advised: PlanVerdict) -> str:
    best, bar = advised.best, share_text(advised.bar)
    if best is None:
        return f"Nothing was measured on these rows. The bar is {bar}."
    between = f"{percent(best.score)} ({interval(best.low, best.high)})"
    return f"Best measured: {escape(shorten(best.name, 80))}, {between}, {_standing(best, bar)}."


def _standing(best: BestCandidate, bar: str) -> str:
    match best.standing:
        case "meets":
            return f"meets the bar of {bar}"
        case "misses":
            return f"below the bar of {bar}"
        case "undecided":
            return f"too close to the bar of {bar} to call"
        case None:
            return f"judged by another bar than today's {bar}"


def plan_title(plan: Plan) -> str:
    """For headlines, unescaped: what is trained on what."""
    return f"{shorten(plan.base_model)} on {shorten(plan.dataset)}"


def budget_left(budget: Budget) -> str:
    if not budget.limit_micros:
        return "no budget is set, so only free work can start"
    return (
        f"{money(max(budget.left_micros, 0))} of {money(budget.limit_micros)} this month{owner_text(budget)}"
    )


def approval_card(
    run: Run,
    plan: Plan,
    budget: Budget,
    quorum: int,
    decisions: Sequence[Approval] = (),
    hours: float = 24,
) -> Message:
    """Waiting for `quorum` approvers: the verdict, what it costs and saves, and who has approved already. It expires
    after `hours`."""
    price = f"for {at_most(plan.maximum_micros)}" if plan.maximum_micros else "at no charge"
    headline = f"Run {run.id}: train {plan_title(plan)} {price}?"
    people = _people(decisions)
    so_far = Text(f"Approved so far by {people}.{_reasons(decisions)}")
    until = pluralize(round(hours), "hour")
    needed = "one approver" if quorum == 1 else f"{quorum} approvers"
    reason = "" if plan.is_advised else ", with a reason"
    rules = f"Needs {needed} other than <@{run.requester}>{reason}. Expires after {until}."
    return Message.titled(
        headline,
        Text(_short_verdict(plan)),
        Facts(_short_facts(run, plan, budget)),
        Note(f"The tuned model: {hosting_line(plan.hosting)}.") if plan.hosting else None,
        so_far if people else None,
        *_warnings(plan),
        actions(*_decisions(run, plan), _details_button(run)),
        Note(rules),
        notice=plan_verdict(plan),
    )


def _warnings(plan: Plan) -> list[CardBlock]:
    return [Text("\n".join(f"• {escape(warning)}" for warning in plan.warnings))] if plan.warnings else []


def plan_verdict(plan: Plan) -> str:
    """The verdict without its reason, as a sentence."""
    advised = plan.advised
    return f"{verdict_summary(advised.kind, advised.rule)}." if advised else "No verdict."


def details_form(run: Run, plan: Plan, budget: Budget) -> Block:
    """Exact figures, rows, method and the plan's hash."""
    hosting = [Text(f"*The tuned model*: {hosting_line(plan.hosting)}.")] if plan.hosting else []
    exactly = f"Plan {code(run.plan_hash)}. An approval covers exactly this plan."
    facts = Facts(_facts(run, plan, budget))
    blocks = [Text(verdict_text(plan)), facts, *hosting, *_warnings(plan), Text(exactly)]
    return details_modal(f"Run {run.id}, in detail", blocks)


def buttons(run: Run, plan: Plan) -> CardBlock:
    return actions(*_decisions(run, plan))


def _decisions(run: Run, plan: Plan) -> tuple[Block, Block]:
    return _approve_button(run, plan), button("Reject", REJECT, run.plan_hash)


def _details_button(run: Run) -> Block:
    return button("Details", DETAILS, str(run.id))


def _short_facts(run: Run, plan: Plan, budget: Budget) -> list[tuple[str, str]]:
    """The facts that an approver decides by, rounded; only the maximum cost is exact."""
    uploaded = f"; data uploaded by <@{plan.uploaded_by}>" if plan.uploaded_by != run.requester else ""
    return [
        ("Cost", f"{_short_cost(plan)}{_vendor_estimate(run, plan)}"),
        _short_saving(plan),
        *_net_value(plan),
        ("Budget left", budget_left(budget)),
        ("Requested by", f"<@{run.requester}>{uploaded}"),
    ]


def _short_cost(plan: Plan) -> str:
    most, advised = plan.maximum_micros, plan.advised
    run = f"{about_usd(from_micros(plan.expected_micros))}, at most {money(most)}" if most else "no charge"
    work = advised.people_micros + advised.labels_micros if advised else 0
    return f"{run}; {about_usd(from_micros(work))} of staff time and labels on top" if work else run


def _vendor_estimate(run: Run, plan: Plan) -> str:
    """The vendor's own estimate of the training's cost; '' if there is none."""
    estimate = Progress.from_json(run.progress).vendor
    if estimate is None:
        return ""
    name = escape(cut(run.provider, 40))
    if estimate.micros is None:
        return f"; {name} gives no price: {escape(cut(estimate.why, 160))}"
    high = ", above this plan's maximum" if estimate.micros > plan.maximum_micros else ""
    short = "" if estimate.is_affordable else ", more than your account there holds: add credit"
    return (
        f"; {name}'s own estimate for the training is {about_usd(from_micros(estimate.micros))}{high}{short}"
    )


def _short_saving(plan: Plan) -> tuple[str, str]:
    before, after, foreseen = plan.monthly_before_micros, plan.monthly_after_micros, plan.predicted
    if before is None or after is None:
        return "Saves", "unknown: ask again with `current=` and `volume=`"
    today = about_usd(from_micros(before))
    if plan.withholds_saving:
        return "Each month", f"{today} today. No saving is shown, because the verdict is against training"
    if foreseen is None or foreseen.saving_micros is None:
        return "Each month", f"{today} → {about_usd(from_micros(after))}, if it is good enough"
    saved = foreseen.saving_micros
    if saved <= 0:
        more = f"{about_usd(from_micros(-saved))} a month"
        return ("Costs more", f"{more}{_at_requests(plan)}") if saved else ("Saves", "nothing")
    until = f" until {plan.advised.saves_until}" if plan.advised and plan.advised.saves_until else ""
    condition = payback_condition(is_good=False, is_time_said=foreseen.is_time_said)
    return "Saves", f"{about_usd(from_micros(saved))} a month{until}{condition}{_at_requests(plan)}"


def _at_requests(plan: Plan) -> str:
    """The requests that the amounts are for; '' for plans that don't know them."""
    volume = plan.predicted.volume if plan.predicted else None
    return f"; at {requests_text(volume)} a month" if volume else ""


def _at_volume(plan: Plan) -> str:
    """Like `_at_requests`, with the tokens."""
    volume = plan.predicted.volume if plan.predicted else None
    return f"; at {volume_text(volume)}" if volume else ""


def _net_value(plan: Plan) -> list[tuple[str, str]]:
    """What is gained or lost in all, after the costs; the monthly saving alone may hide a later loss."""
    net = plan.advised.net if plan.advised else None
    if net is None or plan.withholds_saving:
        return []
    points = map(from_micros, (net.low_micros, net.micros, net.high_micros))
    in_total = f"{net_value_text(*points)}{_after_machine(plan)}"
    return [(f"Over {format_months(Decimal(net.months))}", in_total)]


def _after_machine(plan: Plan) -> str:
    """The monthly bill of the machines that would serve the model, which the run's own cost doesn't include."""
    bill = plan.advised.machine_micros if plan.advised else 0
    a_month = about_usd(from_micros(bill), per="a month").removeprefix("about ")
    return f", after {a_month} for its machine" if bill else ""


def _facts(run: Run, plan: Plan, budget: Budget) -> list[tuple[str, str]]:
    version = f" version {plan.dataset_version}" if plan.dataset_version > 1 else ""
    return [
        ("Cost", f"{_exact_cost(plan)}{_vendor_estimate(run, plan)}"),
        ("Each month", _monthly(plan)),
        ("Budget left", budget_left(budget)),
        ("Requested by", f"<@{run.requester}>"),
        ("Dataset", f"{escape(shorten(plan.dataset))}{version}, from <@{plan.uploaded_by}>"),
        ("Rows", _rows(plan)),
        ("Model", _model(plan)),
        ("Training takes", _takes(plan)),
        *_forecast(plan),
    ]


def _model(plan: Plan) -> str:
    """The model, with unusual settings and the sweep, since a section has no room for more fields."""
    model = (
        f"{escape(cut(plan.base_model, 120))} on {escape(cut(plan.provider, 60))}{_unusual_settings(plan)}"
    )
    swept = plan.swept
    if swept is None:
        return model
    return (
        f"{model}. Sweep: {escape(describe_sweep(swept.sweep))}: {swept.arms} trials, at most "
        f"{swept.steps:,} steps in total"
    )


def _unusual_settings(plan: Plan) -> str:
    """The learning rate, and settings other than our own engine's defaults."""
    chosen = dict(plan.hyperparameters)
    lines = [f"method {plan.method}"] if plan.method != "supervised" else []
    lines += [f"engine {chosen['engine']}"] if chosen.get("engine", "builtin") != "builtin" else []
    if "learning_rate" in chosen:
        lines.append(f"learning rate {chosen['learning_rate']:g}")
    elif "lora_r" in chosen and plan.swept is None:
        lines.append("learning rate chosen by the trainer")
    if chosen.get("quantization", "none") != "none":
        lines.append(f"base in {chosen['quantization']}")
    lines += [
        f"{option_name(name)} {value}"
        for name, value in unusual_hyperparameters(plan)
        if name not in ("engine", "learning_rate", "quantization")
    ]
    return escape("".join(f", {name}" for name in lines))


def _rows(plan: Plan) -> str:
    swept, stop = plan.swept, plan.stopping
    if swept is not None:
        return (
            f"{swept.n_fitted:,} to train on, {swept.n_validation:,} training rows to choose the best trial, "
            f"{plan.n_holdout:,} held out"
        )
    if stop is None:
        return f"{plan.n_train:,} to train on, {plan.n_holdout:,} held out"
    checks = pluralize(stop.patience, "validation")
    return (
        f"{stop.n_fitted:,} to train on, {stop.n_validation:,} to decide when to stop (after {checks} without "
        f"improvement), {plan.n_holdout:,} held out"
    )


def _takes(plan: Plan) -> str:
    """The training time, and the memory on this machine, since a section has no room for more fields."""
    is_guess = plan.predicted is not None and plan.predicted.is_speed_guessed
    time = planned_time(plan.seconds_low, plan.seconds_high, is_guess=is_guess)
    memory = plan.predicted.memory if plan.predicted else None
    return f"{time}. Memory: {escape(memory)}" if memory else time


def _forecast(plan: Plan) -> list[tuple[str, str]]:
    """How likely it pays back, and the alternative that this is compared with."""
    foreseen = plan.predicted
    if foreseen is None or foreseen.p_payback is None or foreseen.target_months is None:
        return []
    months = Decimal(foreseen.target_months)
    rests_on = payback_condition(is_good=False, is_time_said=foreseen.is_time_said)
    hours = foreseen.advised.bearable_hours if foreseen.advised else ""
    end = hours_caveat(Decimal(hours)) if hours else ""
    likely = f"in {share_of_draws(foreseen.p_payback)}{rests_on}{end}"
    return [(f"Pays back within {format_months(months)}", likely), *alternative_bill(plan)]


def _exact_cost(plan: Plan) -> str:
    """The cost of the run, and of staff time and labels on top of it."""
    expected, most = charge(plan.expected_micros), charge(plan.maximum_micros)
    run = expected if expected == most else f"{expected} expected, at most {most}"
    advised = plan.advised
    if plan.predicted is None or advised is None or plan.monthly_before_micros is None:
        return run
    parts = [f"staff time {money(advised.people_micros)}"] if advised.people_micros else []
    parts += [f"labels {money(advised.labels_micros)}"] if advised.labels_micros else []
    work = f"; {' and '.join(parts)} on top" if parts else ""
    unknown = "" if plan.predicted.is_time_said else "; staff time was not given"
    return f"{run}{work}{unknown}"


def _monthly(plan: Plan) -> str:
    if plan.monthly_before_micros is None:
        return "unknown: ask again with `current=` and `volume=`"
    if plan.withholds_saving:
        return f"{money(plan.monthly_before_micros)} today. No saving is shown, because the verdict is against training"
    bills = f"{money(plan.monthly_before_micros)} → {money(plan.monthly_after_micros)}"
    saved = plan.predicted.saving_micros if plan.predicted else None
    if saved is None:
        return f"{bills}, if it is good enough"
    if saved <= 0:
        loses = f"costs {money(-saved)} more" if saved else "saves nothing"
        return f"{bills}; {loses}{_at_volume(plan)}"
    until = f" until {plan.advised.saves_until}" if plan.advised and plan.advised.saves_until else ""
    return f"{bills}; saves {money(saved)}{until} if it is good enough{_at_volume(plan)}{_in_total(plan)}"


def _in_total(plan: Plan) -> str:
    """The net value, beside the monthly saving, since a section has no room for more fields."""
    return "".join(f". {name} it {value}" for name, value in _net_value(plan))


def _approve_button(run: Run, plan: Plan) -> Block:
    """Approves after a confirmation. If the verdict is not go, a form asks for a reason instead."""
    if not plan.is_advised:
        return button("Approve", APPROVE, run.plan_hash, style="primary")
    most = at_most(plan.maximum_micros)
    values = confirm(
        f"Spend {most}?" if plan.maximum_micros else "Start this training?",
        f"This starts the training of {plan_title(plan)}. {_spends(plan)}",
        f"Approve {charge(plan.maximum_micros)}" if plan.maximum_micros else "Approve",
        "Not now",
    )
    return button("Approve", APPROVE, run.plan_hash, style="primary", confirm=values)


def _spends(plan: Plan) -> str:
    if not plan.maximum_micros:
        return "It costs only the machine's time."
    return f"It reserves {charge(plan.maximum_micros)} of this month's budget."


def _people(decisions: Sequence[Approval]) -> str:
    return ", ".join(f"<@{decision.person}>" for decision in decisions if decision.decision == "approve")


def superseded_by(by: int, requester: str, link: str | None = None) -> str:
    """A sentence for the old plan's card. `link` is the address of the new plan's card."""
    which = f"<{link}|run {by}>" if link else f"run {by}"
    return f"Replaced by {which}, requested by <@{requester}>. Earlier approvals no longer count."


def superseded_refusal(number: int, by: int) -> str:
    """For a person who clicks a button on the old plan's card."""
    return f"Nothing was done: run {number} was replaced by run {by}. Decide on the card of run {by}."


def add_replacement_note(card: Message, former: Sequence[int]) -> Message:
    """Adds a line above the buttons of the new plan's card that names the plans it replaces."""
    if not former:
        return card
    whose = " and ".join(f"run {value}" for value in former)
    note = Text(f"It replaces {whose} on the same target. Earlier approvals no longer count.")
    return replace(card, parts=(*card.parts[:-2], note, *card.parts[-2:]))


def rent_text(rental: Rental, expected_minutes: Decimal | None) -> str:
    """For approvers: what is rented, at what price, and for how long."""
    minutes = pluralize(rental.minutes, "minute")
    text = (
        f"It rents {rental.hardware} from {WHO} at {usd(rental.usd_per_hour)} an hour for at most {minutes}. Whether "
        "time spent waiting for the machine is billed is unknown."
    )
    if expected_minutes is not None and expected_minutes > STOPS_AT * rental.minutes:
        text += f" The training may need more than {minutes} and would then stop early: raise [hf] minutes."
    return text


def price_rise_text(approved: Rental, now: Rental) -> str:
    return (
        f"{WHO} now charges {usd(now.usd_per_hour)} an hour for {now.hardware}, and {usd(approved.usd_per_hour)} was "
        "approved."
    )


def listed_price_rise_text(before: PriceRow, now: PriceRow) -> str | None:
    """Which of the target's prices has risen, None if none has. That of the machine which serves it is compared when it
    is started, with the vendor's own (services/deployments.py)."""
    prices = (
        ("1M tokens of training", before.price.training, now.price.training),
        ("1M tokens of input", before.price.input, now.price.input),
        ("1M tokens of output", before.price.output, now.price.output),
        ("an hour of training", before.usd_per_hour, now.usd_per_hour),
    )
    for unit, old, new in prices:
        if old is not None and new is not None and new > old:
            return f"{code(now.model)} costs ${new:f} for {unit} now, and it was ${old:f} when the plan was made."
    return None


def unswept_text(unswept: SweepConflict, title: str) -> str:
    """Why a sweep is refused. `title` is the provider's."""
    match unswept.why:
        case "one set a job":
            return (
                f"`sweep=` needs our own trainer; {title} trains one set of hyperparameters per job. Leave it out, or "
                "choose a target that starts with `local/`."
            )
        case "method" | "engine":
            return f"`{unswept.why}={unswept.name}` can't be combined with `sweep=`. Leave one of them out."
        case "given twice":
            return f"`{unswept.name}=` is given twice: alone and in the sweep. Remove one."
        case "patience":
            return "A sweep stops weaker trials itself, so `patience=` can't be combined with `sweep=`. Leave one out."
