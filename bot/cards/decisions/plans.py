"""The approval card before and after the decision, the forms that ask for a reason, and the notice that a newer plan
replaces it. Its money is in plan_money.py, its details in plan_details.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bot.cards.common.advice import Offered, first_sentence, in_use_text, use_button
from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Facts,
    Message,
    Text,
    actions,
    button,
    confirm,
    cut,
    escape,
    sentence,
)
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import SHORT_MEANINGS, candidate_name, floor_text
from bot.cards.common.forms import modal, required_text_input
from bot.cards.common.general import text_message
from bot.cards.common.judge_agreement import untrusted_notes
from bot.cards.common.permissions import NAME_OTHERS, gone_text
from bot.cards.common.plan_money import (
    budget_left,
    hosting_line,
    leaves_line,
    net_value,
    short_cost,
    short_saving,
    vendor_estimate,
)
from bot.cards.common.words import at_most, charge, interval, listed, percent, pluralize, share_text, shorten
from bot.cards.decisions.aims import plan_aim_text
from bot.cards.decisions.estimates import verdict_summary
from bot.cards.decisions.plan_training import (
    EarlierRun,
    PlanBeside,
    again_text,
    beside_text,
    continued_text,
    earlier_text,
    method_suffix,
    retraining_text,
    taught_facts,
    training_facts,
    without_training_facts,
)
from bot.rules.budgets import Budget
from bot.rules.facts import TASK_KINDS, task_kind
from bot.rules.judge_agreement import CheckedJudge
from bot.rules.plans import BestCandidate, Plan, PlanVerdict
from storage.money import Freeze
from storage.records import Approval, Run, RunState
from trainers.evaluation.results import Candidate

APPROVE = "approve_plan"
APPROVE_FORM = "approve_form"
REJECT = "reject_plan"
REJECT_FORM = "reject_form"
DETAILS = "plan_details"
SHOWN_REASONS = 3
SHOWN_PEOPLE = 10
DECIDED: dict[RunState, str] = {
    "rejected": "rejected",
    "expired": "expired",
    "cancelled": "withdrawn",
}


def voided_card(run: Run, plan: Plan, why: str, name: str) -> Message:
    """A message for the channel, since editing the card notifies nobody. `why` is our own mrkdwn; `name` links to the
    run's card."""
    outcome = "Nothing was started"
    if plan.maximum_micros:
        outcome += f", and {charge(plan.maximum_micros)} of the budget is free again"
    return text_message(
        f"*The approval of run {run.id} no longer counts*: {why}. {outcome}. "
        f"The card of {name} asks for approval again."
    )


def reminder(name: str, plan: Plan, pending: Pending, left_s: float) -> Message:
    """`name` links to the run's card."""
    who = ""
    if pending.is_stuck:
        who = f" {_stuck_text(pending)}"
    elif pending.others:
        # A new message notifies these people, unlike an edit of the card.
        who = f" {', '.join(pending.others)}: {pluralize(pending.missing, 'more approver')} needed."
    title = escape(plan_title(plan))
    left = pluralize(max(round(left_s / 3600), 1), "hour")
    return text_message(
        f"The plan of {name} ({title}, {at_most(plan.maximum_micros)}) is waiting for approval and expires in "
        f"{left}.{who}"
    )


def decided_card(run: Run, plan: Plan, budget: Budget, text: str) -> Message:
    """The approval card with the decision in place of the buttons. `text` is our own mrkdwn."""
    # An approved run may be in any later state when its card is edited.
    headline = f"Run {run.id} {DECIDED.get(run.state, 'approved')}: {plan_title(plan)}, {at_most(plan.maximum_micros)}"
    return Message.titled(
        headline,
        Text(text),
        Text(_short_verdict(plan)),
        Facts([*_short_facts(run, plan, budget), ("Requested by", _requester(run, plan))]),
        actions(_details_button(run)),
        notice=text,
    )


def approved_by(decisions: Sequence[Approval]) -> str:
    """'Approved by @Ben: “it is a test”'; if several approved, all names first, then their reasons."""
    reasons = _reasons(decisions)
    approvals = [decision for decision in decisions if decision.decision == "approve"]
    if len(approvals) == 1 and reasons:
        return f"Approved by{reasons}"
    return f"Approved by {_people(decisions)}.{reasons}"


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


def approve_modal(run: Run, plan: Plan, pending: Pending) -> Block:
    """Asks for a reason, for a plan whose verdict is not go."""
    parts = Parts()
    parts.text(verdict_text(plan))
    parts.facts(
        [
            *training_facts(plan, pending.before),
            *taught_facts(plan),
            *without_training_facts(plan),
        ]
    )
    parts.add(*untrusted_notes(pending.judge))
    parts.add(*_background(plan, pending))
    parts.text(_effect(plan, pending, escape(plan_title(plan))))
    hint = "Example: quality matters more than cost here. Shown to the team and kept in the audit log."
    reason = required_text_input("reason", "Why should it be trained anyway?", most=500, hint=hint)
    return modal(
        "Approve this plan",
        APPROVE_FORM,
        [*parts, reason],
        submit=_approve_words(plan),
        private=run.plan_hash,
    )


def _approve_words(plan: Plan) -> str:
    """The button's words, with the money that it releases."""
    if not plan.maximum_micros:
        return "Approve"
    return f"Approve {charge(plan.maximum_micros)}"


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
    verdict = f"*{verdict_summary(advised.kind, advised.rule)}*."
    if advised.kind != "unknown":
        verdict += f" {sentence(first_sentence(advised.reason))}"
    return f"{verdict}\n{_best(advised)}"


def _best(advised: PlanVerdict) -> str:
    best = advised.best
    bar = share_text(advised.bar)
    if best is None:
        return f"Nothing was measured on these rows. The bar is {bar}.{plan_aim_text(advised)}"
    score = percent(best.score)
    # Right or wrong needs no word; a share of fields or of shared words does.
    if advised.scoring != "label":
        score += f" {SHORT_MEANINGS[advised.scoring]}"
    between = interval(best.low, best.high)
    name = escape(shorten(best.name, 80))
    text = f"Best measured: {name}, {score} ({between}), {_standing(best, bar)}."
    if advised.floor is not None:
        text += f" {floor_text('json', advised.floor)}"
    aim = task_kind(advised.task)
    if aim:
        text += f" The aim: {TASK_KINDS[aim].lower()}.{plan_aim_text(advised)}"
    return text


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
    """For headlines, unescaped: what is trained on what, and how if it is no plain run."""
    return f"{shorten(plan.trained_model)} on {shorten(plan.dataset)}{method_suffix(plan)}"


@dataclass(frozen=True)
class Pending:
    """What stands between a waiting plan and its training. It takes `quorum` approvers, of whom `approved` have
    approved; `others` mentions the people who may still approve, and is empty if everybody may. `away` are people who
    are named and can't approve any more, and `is_stuck` is True if too few are left. `over_budget` says why the plan
    doesn't fit into a budget, '' if it does. `freeze` is the current freeze. `before` is the run before it on the same
    target. `judge` is the model whose verdicts its scores are. `beside` are other waiting plans of the dataset;
    `is_too_much_together` is True if the budget doesn't hold all of them."""

    quorum: int = 1
    approved: int = 0
    others: Sequence[str] = ()
    away: Sequence[str] = ()
    is_stuck: bool = False
    over_budget: str = ""
    freeze: Freeze | None = None
    before: EarlierRun | None = None
    judge: CheckedJudge | None = None
    beside: Sequence[PlanBeside] = ()
    is_too_much_together: bool = False

    @property
    def missing(self) -> int:
        return max(self.quorum - self.approved, 0)

    @property
    def is_last(self) -> bool:
        """True if one more approval starts the training."""
        return self.missing <= 1


ONE_APPROVER = Pending()


@dataclass(frozen=True)
class UseInstead:
    """What the plan's own verdict says to use instead of training."""

    candidate: Candidate
    offered: Offered


def approval_card(
    run: Run,
    plan: Plan,
    budget: Budget,
    pending: Pending,
    decisions: Sequence[Approval] = (),
    hours: float = 24,
    *,
    instead: UseInstead | None = None,
) -> Message:
    """Waiting for approvers: the verdict, what it costs and saves, who has approved already, and what it waits for. It
    expires after `hours`. `instead` is what was measured and is good enough, if that is the verdict."""
    price = f"for {at_most(plan.maximum_micros)}" if plan.maximum_micros else "at no charge"
    headline = f"Run {run.id}: train {plan_title(plan)} {price}?"

    parts = Parts()
    parts.text(_short_verdict(plan))
    parts.facts(_short_facts(run, plan, budget, pending.before))
    if plan.hosting:
        parts.note(f"The tuned model: {hosting_line(plan.hosting)}.")
    if plan.hosting and plan.hosting.by_token:
        parts.note(leaves_line(plan.hosting.by_token))
    parts.add(*untrusted_notes(pending.judge))
    parts.add(*_background(plan, pending))
    parts.add(*_obstacles(pending))
    people = _people(decisions)
    if people:
        parts.text(f"Approved so far by {people}.{_reasons(decisions)}")
    parts.add(*warning_lines(plan))
    if instead:
        parts.add(*_instead(instead))
    # add_replacement_note relies on the buttons and the note being the last two.
    can_use = instead is not None and instead.offered.measurement is not None
    parts.buttons(*_decisions(run, plan, pending, stands_out=not can_use), _details_button(run))
    expires = f"Expires after {pluralize(round(hours), 'hour')}."
    parts.note(f"{_needed(run, plan, pending)} {expires}")
    return parts.titled(headline, notice=plan_verdict(plan))


def ping(name: str, run: Run, plan: Plan, pending: Pending, hours: float) -> Message:
    """For the card's thread, once: the people who may approve. `name` links to the card."""
    count = pluralize(pending.quorum, "approval")
    return text_message(
        f"{', '.join(pending.others)}: {name} by <@{run.requester}> needs {count} "
        f"({escape(plan_title(plan))}, {at_most(plan.maximum_micros)}), within {pluralize(round(hours), 'hour')}."
    )


def _needed(run: Run, plan: Plan, pending: Pending) -> str:
    """How many approvers are missing and, once somebody has approved, who they can be."""
    reason = "" if plan.is_advised else ", with a reason"
    requested = f"Requested by {_requester(run, plan)}."
    if not pending.approved:
        needed = "one approver" if pending.quorum == 1 else f"{pending.quorum} approvers"
        them = f"<@{run.requester}>" if plan.uploaded_by == run.requester else "these two"
        return f"{requested} Needs {needed} other than {them}{reason}."
    approvers = pluralize(pending.missing, "more approver")
    if pending.others:
        # An edit notifies nobody, so these mentions only name people.
        approvers += f": {listed(pending.others, SHOWN_PEOPLE)}"
    return f"{requested} Needs {approvers}{reason}."


def _background(plan: Plan, pending: Pending) -> list[CardBlock]:
    """Where its figures come from, why it is trained again, and what the last model on this target reached."""
    parts = Parts()
    lines = []
    if pending.beside:
        lines.append(beside_text(pending.beside, is_too_much=pending.is_too_much_together))
    if plan.again:
        lines.append(again_text(plan.again))
    if plan.continued:
        lines.append(continued_text(plan, plan.continued))
    if plan.retrains:
        lines.append(retraining_text(plan.retrains))
    if pending.before:
        lines.append(earlier_text(plan, pending.before))
    parts.text("\n".join(filter(None, lines)))
    return parts


def _obstacles(pending: Pending) -> list[CardBlock]:
    """What keeps the plan from starting although people approve."""
    lines = []
    if pending.is_stuck:
        lines.append(_stuck_text(pending))
    if pending.over_budget:
        lines.append(f"*It can't be approved now*: {pending.over_budget}")
    if pending.freeze:
        lines.append(
            f"*Spending is frozen by <@{pending.freeze.person}>*: it can be approved, and starts after "
            "`/finetune unfreeze`."
        )
    parts = Parts()
    parts.text("\n".join(lines))
    return parts


def _stuck_text(pending: Pending) -> str:
    """Why the plan can't get its approvals, and who can change that."""
    left = "nobody is left who may approve it"
    if pending.others:
        left = "too few people are left who may approve it"
    return f"*It can't be approved now*: {left}. {gone_text(pending.away)} {NAME_OTHERS}"


def warning_lines(plan: Plan) -> list[CardBlock]:
    parts = Parts()
    parts.text("\n".join(f"• {escape(warning)}" for warning in plan.warnings))
    return parts


def plan_verdict(plan: Plan) -> str:
    """The verdict without its reason, as a sentence."""
    advised = plan.advised
    if advised is None:
        return "No verdict."
    return f"{verdict_summary(advised.kind, advised.rule)}."


def buttons(run: Run, plan: Plan, pending: Pending) -> CardBlock:
    return actions(*_decisions(run, plan, pending))


def _instead(instead: UseInstead) -> list[CardBlock]:
    """What the verdict advises, with its button, or since when it is done."""
    offered = instead.offered
    if offered.in_use_since is not None:
        return [Text(in_use_text(instead.candidate, offered.in_use_since))]
    if offered.measurement is None:
        return []
    advice = f"*Instead*: use {escape(candidate_name(instead.candidate))}, without a training."
    return [Text(advice, use_button(instead.candidate, offered.measurement))]


def _decisions(run: Run, plan: Plan, pending: Pending, *, stands_out: bool = True) -> tuple[Block, Block]:
    # By the plan's hash, so that a click decides on exactly the plan that the card shows.
    approve = _approve_button(run, plan, pending, stands_out=stands_out)
    return approve, button("Reject", REJECT, run.plan_hash)


def _details_button(run: Run) -> Block:
    return button("Details", DETAILS, str(run.id))


def _short_facts(
    run: Run, plan: Plan, budget: Budget, before: EarlierRun | None = None
) -> list[tuple[str, str]]:
    """The facts that an approver decides by, rounded; only the maximum cost is exact."""
    return [
        ("Cost", f"{short_cost(plan)}{vendor_estimate(run, plan)}"),
        short_saving(plan),
        *net_value(plan),
        *without_training_facts(plan),
        *training_facts(plan, before),
        *taught_facts(plan),
        ("Budget left", budget_left(budget)),
    ]


def _requester(run: Run, plan: Plan) -> str:
    if plan.uploaded_by == run.requester:
        return f"<@{run.requester}>"
    return f"<@{run.requester}>; data uploaded by <@{plan.uploaded_by}>"


def _approve_button(run: Run, plan: Plan, pending: Pending, *, stands_out: bool) -> Block:
    """Approves after a confirmation. If the verdict is not go, a form asks for a reason instead. It is not green while
    nobody can approve, or an approval would be refused, or without `stands_out`."""
    style: str | None = "primary"
    if pending.over_budget or pending.is_stuck or not stands_out:
        style = None
    # A confirmation in Slack has no field for a reason.
    if not plan.is_advised:
        return button("Approve", APPROVE, run.plan_hash, style=style)
    question = "Start this training?"
    if plan.maximum_micros:
        question = f"Spend {at_most(plan.maximum_micros)}?"
    # Confirmations are plain text, so the title is not escaped here.
    effect = _effect(plan, pending, plan_title(plan))
    sure = confirm(question, effect, _approve_words(plan), "Not now")
    return button("Approve", APPROVE, run.plan_hash, style=style, confirm=sure)


def _effect(plan: Plan, pending: Pending, title: str) -> str:
    """What one more approval does. `title` is the plan's."""
    most = charge(plan.maximum_micros)
    if not pending.is_last:
        starts = f"The training of {title} starts"
        if plan.maximum_micros:
            starts += f" and {most} is reserved"
        after = pluralize(pending.missing - 1, "more approval")
        return f"This is one of {pending.quorum} approvals. {starts} after {after}."
    spends = f"It reserves {most} of this month's budget."
    if not plan.maximum_micros:
        spends = "It costs only the machine's time."
    return f"This starts the training of {title}. {spends}"


def _people(decisions: Sequence[Approval]) -> str:
    return ", ".join(f"<@{decision.person}>" for decision in decisions if decision.decision == "approve")


def add_replacement_note(card: Message, former: Sequence[int]) -> Message:
    """Adds a line above the buttons of the new plan's card that names the plans it replaces."""
    if not former:
        return card
    whose = " and ".join(f"run {value}" for value in former)
    note = Text(f"It replaces {whose}, which tried the same. Earlier approvals no longer count.")
    return replace(card, parts=(*card.parts[:-2], note, *card.parts[-2:]))
