"""The approval card, before and after the decision, and the form for a reason."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from bot.decisions.amounts import duration
from bot.decisions.budget import Budget
from bot.decisions.planning import Plan
from bot.decisions.sweeping import in_words
from bot.decisions.verdict.paying import chance
from bot.views.actuals import other_bill
from bot.views.blocks import (
    Block,
    Message,
    actions,
    button,
    confirm,
    context,
    cut,
    escape,
    fields,
    header,
    modal,
    plain,
    section,
)
from bot.views.words import at_most, charge, counted, duration_range, money, short
from storage.records import Approval, Run, RunState

APPROVE, REJECT, REJECT_FORM = "approve_plan", "reject_plan", "reject_form"
DECIDED: dict[RunState, str] = {
    "rejected": "rejected",
    "expired": "expired",
    "cancelled": "withdrawn",
}


def approval_card(run: Run, plan: Plan, budget: Budget, quorum: int, hours: float = 24) -> Message:
    """Waiting for approvers: who, what, what it costs now and by the month, what is left. It expires after `hours`."""
    return _asking(run, plan, budget, quorum, (), hours)


def partly_approved(
    run: Run, plan: Plan, budget: Budget, decisions: Sequence[Approval], quorum: int, hours: float = 24
) -> Message:
    return _asking(run, plan, budget, quorum, decisions, hours)


def voided(run: Run, plan: Plan, why: str) -> Message:
    """Said in the channel: an edit of the card notifies nobody. `why` is ours and may hold mrkdwn."""
    text = (
        f"*The approval of run {run.id} is void*: {why}. Nothing was started, and {charge(plan.maximum_micros)} of "
        "budget is free again. The plan waits for approval anew, on its card."
    )
    return Message(text, (section(text),))


def reminder(run: Run, plan: Plan, still: int, left_s: float, whom: Sequence[str]) -> Message:
    """`whom`: mentions of those who may approve; `still`: how many of them it takes."""
    who = f" {', '.join(whom)}: it takes {counted(still, 'more approver')}." if whom else ""
    text = (
        f"*Run {run.id}* ({escape(what(plan))}, {at_most(plan.maximum_micros)}) waits for approval and expires in "
        f"{counted(max(round(left_s / 3600), 1), 'hour')}.{who}"
    )
    return Message(text, (section(text),))


def decided_card(run: Run, plan: Plan, budget: Budget, said: str) -> Message:
    """The buttons gave way to what was decided. `said` is ours and may hold mrkdwn."""
    headline = (
        f"Run {run.id} {DECIDED.get(run.state, 'approved')}: {what(plan)}, {at_most(plan.maximum_micros)}"
    )
    return Message(
        f"{escape(headline)}. {said}",
        (header(headline), section(said), fields(_facts(run, plan, budget)), context(_exactly(run))),
    )


def approved_by(decisions: Sequence[Approval]) -> str:
    return f"Approved by {_people(decisions)}."


def rejected_by(person: str, reason: str) -> str:
    return f"Rejected by <@{person}>: {escape(reason.strip()) or 'no reason given'}"


def reject_modal(plan_hash: str) -> Block:
    reason = {
        "type": "input",
        "block_id": "reason",
        "label": plain("What should change?", 75),
        "element": {"type": "plain_text_input", "action_id": "value", "multiline": True, "max_length": 500},
    }
    return modal("Reject this plan", REJECT_FORM, [reason], submit="Reject", private=plan_hash)


def what(plan: Plan) -> str:
    """For headlines, unescaped: what is trained on what."""
    return f"{short(plan.base_model)} on {short(plan.dataset)}"


def budget_left(budget: Budget) -> str:
    if not budget.limit_micros:
        return "none is set, so only what costs nothing can start"
    return f"{money(max(budget.left_micros, 0))} of {money(budget.limit_micros)} this month{budget.owner}"


def _asking(
    run: Run, plan: Plan, budget: Budget, quorum: int, decisions: Sequence[Approval], hours: float
) -> Message:
    price = f"for {at_most(plan.maximum_micros)}" if plan.maximum_micros else "at no charge"
    headline = f"Run {run.id}: train {what(plan)} {price}?"
    so_far = [section(f"Approved so far by {_people(decisions)}.")] if _people(decisions) else []
    until = counted(round(hours), "hour")
    rules = f"{_wanted(quorum)} Not <@{run.requester}>, who asked. The plan expires after {until}."
    return Message(
        escape(headline),
        (
            header(headline),
            fields(_facts(run, plan, budget)),
            *so_far,
            *_warnings(plan),
            buttons(run, plan),
            context(f"{rules} {_exactly(run)}"),
        ),
    )


def buttons(run: Run, plan: Plan) -> Block:
    return actions(_approve_button(run, plan), _reject_button(run))


def _warnings(plan: Plan) -> list[Block]:
    return [section("\n".join(f"• {escape(one)}" for one in plan.warnings))] if plan.warnings else []


def _facts(run: Run, plan: Plan, budget: Budget) -> list[tuple[str, str]]:
    version = f" version {plan.dataset_version}" if plan.dataset_version > 1 else ""
    return [
        ("Cost now", _cost_now(plan)),
        ("Each month", _monthly(plan)),
        ("Budget left", budget_left(budget)),
        ("Asked for by", f"<@{run.requester}>"),
        ("Dataset", f"{escape(short(plan.dataset))}{version}, from <@{plan.uploaded_by}>"),
        ("Rows", _rows(plan)),
        ("Model", _model(plan)),
        ("Training takes", _takes(plan)),
        *_foreseen(plan),
    ]


def _model(plan: Plan) -> str:
    """And how it is trained, where not as usual: a section has no room for a field of its own."""
    model = f"{escape(cut(plan.base_model, 120))} on {escape(cut(plan.provider, 60))}{_otherwise(plan)}"
    swept = plan.swept
    if swept is None:
        return model
    return f"{model}. Sweep: {escape(in_words(swept.sweep))}: {swept.arms} arms, at most {swept.steps:,} steps in all"


def _otherwise(plan: Plan) -> str:
    """Than by our own engine over the base in full; and the learning rate."""
    chosen = dict(plan.hyperparameters)
    said = [f"trained by {chosen['engine']}"] if chosen.get("engine", "builtin") != "builtin" else []
    if "learning_rate" in chosen:
        said.append(f"learning rate {chosen['learning_rate']:g}")
    elif "lora_r" in chosen and plan.swept is None:
        said.append("learning rate by the trainer's own rule")
    if chosen.get("quantization", "none") != "none":
        said.append(f"the base in {chosen['quantization']}")
    return escape("".join(f", {one}" for one in said))


def _rows(plan: Plan) -> str:
    swept, stop = plan.swept, plan.stopping
    if swept is not None:
        return (
            f"{swept.n_fitted:,} to train on, {swept.n_validation:,} of the training rows to choose by, "
            f"{plan.n_holdout:,} held out"
        )
    if stop is None:
        return f"{plan.n_train:,} to train on, {plan.n_holdout:,} held out"
    looks = counted(stop.patience, "look")
    return (
        f"{stop.n_fitted:,} to train on, {stop.n_validation:,} to tell when to stop (after {looks} without "
        f"improvement), {plan.n_holdout:,} held out"
    )


def _takes(plan: Plan) -> str:
    """Time, and memory where it trains on this machine: a section has no room for a field of its own."""
    time = duration_range(plan.seconds_low, plan.seconds_high)
    memory = plan.predicted.memory if plan.predicted else None
    return f"{time}. Memory: {escape(memory)}" if memory else time


def _foreseen(plan: Plan) -> list[tuple[str, str]]:
    """How likely it pays back, and against what that is reckoned."""
    foreseen = plan.predicted
    if foreseen is None or foreseen.p_payback is None or foreseen.target_months is None:
        return []
    within = duration(Decimal(foreseen.target_months))
    return [(f"Back within {within}", f"in {chance(foreseen.p_payback)} of cases"), *other_bill(plan)]


def _cost_now(plan: Plan) -> str:
    expected, most = charge(plan.expected_micros), charge(plan.maximum_micros)
    return expected if expected == most else f"{expected} expected, at most {most}"


def _monthly(plan: Plan) -> str:
    if plan.monthly_before_micros is None:
        return "not said: `current=` and `volume=` at the start would show it"
    return f"{money(plan.monthly_before_micros)} → {money(plan.monthly_after_micros)}"


def _approve_button(run: Run, plan: Plan) -> Block:
    most = at_most(plan.maximum_micros)
    spends = (
        f"It reserves {charge(plan.maximum_micros)} of this month's budget."
        if plan.maximum_micros
        else "It costs nothing but the machine's time."
    )
    asked = confirm(
        f"Spend {most}?" if plan.maximum_micros else "Start this training?",
        f"This starts the training of {what(plan)}. {spends}",
        f"Approve {charge(plan.maximum_micros)}" if plan.maximum_micros else "Approve",
        "Not now",
    )
    return button("Approve", APPROVE, run.plan_hash, style="primary", confirm=asked)


def _reject_button(run: Run) -> Block:
    return button("Reject", REJECT, run.plan_hash)


def _wanted(quorum: int) -> str:
    return "One approver is needed." if quorum == 1 else f"{quorum} approvers are needed."


def _people(decisions: Sequence[Approval]) -> str:
    return ", ".join(f"<@{one.person}>" for one in decisions if one.decision == "approve")


def _exactly(run: Run) -> str:
    """The fingerprint, for whoever wants to compare it with the audit log."""
    return f"Plan {run.plan_hash[:12]}: what is approved is exactly this plan."
