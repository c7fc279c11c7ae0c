"""The approval card, before and after the decision, and the form for a reason."""

from __future__ import annotations

from collections.abc import Sequence

from bot.decisions.budget import Budget
from bot.decisions.planning import Plan
from bot.views.blocks import (
    Block,
    Message,
    actions,
    button,
    confirm,
    context,
    escape,
    fields,
    header,
    modal,
    plain,
    section,
)
from bot.views.words import duration_range, money
from storage.records import Approval, Run
from trainers.money import usd_micros

APPROVE, REJECT, REJECT_FORM = "approve_plan", "reject_plan", "reject_form"


def approval_card(run: Run, plan: Plan, budget: Budget, quorum: int) -> Message:
    """Waiting for approvers: who, what, what it costs now and by the month, what is left."""
    headline = f"Run {run.id}: train {plan.base_model} on {plan.dataset} for up to {usd_micros(plan.maximum_micros)}?"
    return Message(
        headline,
        (
            header(headline),
            fields(_facts(run, plan, budget)),
            actions(_approve_button(run, plan), _reject_button(run)),
            context(
                f"{_wanted(quorum)} Not <@{run.requester}>, who asked. The plan expires after 24 hours. {_hash(run)}"
            ),
        ),
    )


def partly_approved(
    run: Run, plan: Plan, budget: Budget, decisions: Sequence[Approval], quorum: int
) -> Message:
    card = approval_card(run, plan, budget, quorum)
    approved = ", ".join(f"<@{one.person}>" for one in decisions if one.decision == "approve")
    return Message(card.text, (*card.blocks, context(f"Approved so far by {approved}.")))


def decided_card(run: Run, plan: Plan, budget: Budget, said: str) -> Message:
    """The buttons gave way to what was decided. `said` is ours and may hold mrkdwn."""
    headline = f"Run {run.id}: {plan.base_model} on {plan.dataset}, up to {usd_micros(plan.maximum_micros)}"
    return Message(
        f"{headline}. {said}",
        (header(headline), fields(_facts(run, plan, budget)), section(said), context(_hash(run))),
    )


def approved_by(decisions: Sequence[Approval]) -> str:
    return (
        "Approved by " + ", ".join(f"<@{one.person}>" for one in decisions if one.decision == "approve") + "."
    )


def rejected_by(person: str, reason: str) -> str:
    return f"Rejected by <@{person}>: {escape(reason)}"


def reject_modal(plan_hash: str) -> Block:
    reason = {
        "type": "input",
        "block_id": "reason",
        "label": plain("What should change?", 75),
        "element": {"type": "plain_text_input", "action_id": "value", "multiline": True, "max_length": 500},
    }
    return modal("Reject this plan", REJECT_FORM, [reason], submit="Reject", private=plan_hash)


def _facts(run: Run, plan: Plan, budget: Budget) -> list[tuple[str, str]]:
    return [
        ("Asked for by", f"<@{run.requester}>"),
        ("Dataset", f"{escape(plan.dataset)} version {plan.dataset_version}, from <@{plan.uploaded_by}>"),
        ("Model", f"{escape(plan.base_model)} on {escape(plan.provider)}"),
        ("Rows", f"{plan.n_train:,} to train on, {plan.n_holdout:,} held out"),
        ("Cost now", f"{money(plan.expected_micros)}, at most {money(plan.maximum_micros)}"),
        ("Takes", duration_range(plan.seconds_low, plan.seconds_high)),
        ("Each month", _monthly(plan)),
        ("Budget left", f"{money(max(budget.left_micros, 0))} of {money(budget.limit_micros)} this month"),
    ]


def _monthly(plan: Plan) -> str:
    if plan.monthly_before_micros is None:
        return "not said: name `current=` and `volume=` to see it"
    return f"{money(plan.monthly_before_micros)} → {money(plan.monthly_after_micros)}"


def _approve_button(run: Run, plan: Plan) -> Block:
    asked = confirm(
        f"Spend up to {usd_micros(plan.maximum_micros)}?",
        f"This starts the training of {plan.base_model} on {plan.dataset} and reserves "
        f"{usd_micros(plan.maximum_micros)} of this month's budget.",
        f"Approve {usd_micros(plan.maximum_micros)}",
        "Not now",
    )
    return button("Approve", APPROVE, run.plan_hash, style="primary", confirm=asked)


def _reject_button(run: Run) -> Block:
    return button("Reject", REJECT, run.plan_hash)


def _wanted(quorum: int) -> str:
    return "One approver is needed." if quorum == 1 else f"{quorum} approvers are needed."


def _hash(run: Run) -> str:
    return f"Plan {run.plan_hash[:12]}: what is approved is exactly this plan."
