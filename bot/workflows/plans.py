"""Estimates, plans and the team's decision about them."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import date
from decimal import Decimal

from bot.commands import Start
from bot.decisions.approval import Denied, Policy, Request, has_quorum, is_expired, may, may_take_part
from bot.decisions.budget import Budget
from bot.decisions.planning import Plan, canonical_json, plan_from_json, plan_hash, plan_key
from bot.decisions.worth.quotes import Gap
from bot.results import Refusal
from bot.views import plans as views
from bot.views import replacing as replacing_views
from bot.views.blocks import Message, escape
from bot.views.runs import SAID
from bot.workflows import datasets, estimates, replacing, telling
from bot.workflows.datasets import SEED, Checked
from bot.workflows.desk import Desk
from bot.workflows.estimating import Estimated, RunCost
from bot.workflows.stopping import stopping_early
from bot.workflows.sweeping import sweeping
from storage.records import Approval, Run
from storage.runs import NewRun
from trainers.errors import TrainerError
from trainers.money import to_micros
from trainers.pricing import PriceList

LOOK_FOR_EXPIRY_S = 60.0
LEAST_MAXIMUM_USD = Decimal("0.10")

log = logging.getLogger(__name__)


def start(desk: Desk, command: Start, person: str, channel: str) -> Run | Refusal:
    """Freeze a plan and ask the channel to approve it."""
    denied = may_take_part(desk.directory.person(person))
    if denied:
        return Refusal(denied.reason)
    checked = datasets.ready(desk, command.dataset)
    if isinstance(checked, Refusal):
        return checked
    estimated = estimates.of_question(desk, checked, command.question)
    if isinstance(estimated, Refusal):
        return estimated
    row = estimated.target.row
    refusal = _cannot_start(desk, estimated, person) or datasets.needs_waiver(
        desk, checked.dataset, estimated.report, row
    )
    if refusal:
        return refusal
    if isinstance(estimated.cost, Gap):
        return Refusal(f"A run whose cost is unknown can't be approved. {estimated.cost.sentence}")
    plan = _plan(desk, checked, estimated, estimated.cost, person, channel)
    stopping = stopping_early(desk, plan, estimated)
    if isinstance(stopping, Refusal):
        return stopping
    swept = sweeping(desk, plan, estimated)
    if isinstance(swept, Refusal):
        return swept
    return _ask(desk, replace(plan, stopping=stopping, swept=swept))


def approve(desk: Desk, hash_in_button: str, person: str) -> Run | Refusal:
    """Record a person's yes; at quorum reserve the money and hand the run over, all in one transaction."""
    look_up = desk.directory.person(person)
    rules = policy(desk)
    now = desk.clock()
    with desk.store.transaction():
        run = desk.store.runs.by_plan(hash_in_button)
        if run is None or run.state != "awaiting_approval":
            return Refusal(_too_late(desk, run))
        plan = plan_from_json(run.plan)
        request = Request(run.requester, plan.uploaded_by, run.created_at)
        denied = may(look_up, "approve", request, rules)
        if denied:
            return Refusal(denied.reason)
        if is_expired(request, now):
            return Refusal("This plan has expired. `/finetune start` makes a new one.")
        if plan_hash(plan) != hash_in_button:
            return Refusal("This plan was changed after it was posted, so it can't be approved.")
        return _record_yes(desk, run, plan, person, rules)


def may_reject(desk: Desk, hash_in_button: str, person: str) -> Refusal | None:
    run = desk.store.runs.by_plan(hash_in_button)
    if run is None or run.state != "awaiting_approval":
        return Refusal(_too_late(desk, run))
    denied = _may_reject(desk, run, person)
    return Refusal(denied.reason) if denied else None


def reject(desk: Desk, hash_in_button: str, person: str, reason: str) -> Run | Refusal:
    refusal = may_reject(desk, hash_in_button, person)
    run = desk.store.runs.by_plan(hash_in_button)
    if refusal or run is None:
        return refusal or Refusal(_too_late(desk, run))
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.runs.move(run, "rejected", now=now, error=reason)
        if moved is None:
            return Refusal(_too_late(desk, desk.store.runs.get(run.id)))
        desk.store.runs.decide(moved, person, "reject", reason=reason, now=now)
        desk.store.audit.add(at=now, who=person, action="reject", subject=f"run {run.id}", detail=reason)
        show_decision(desk, moved, views.rejected_by(person, reason))
    return moved


def expire_or_wait(desk: Desk, run: Run) -> None:
    """A plan that nobody decided on is over after a day; a cancelled or impossible one at once."""
    now = desk.clock()
    plan = plan_from_json(run.plan)
    if run.cancel_asked_by:
        _close(desk, run, "cancelled", f"Withdrawn by <@{run.cancel_asked_by}>.")
    elif is_expired(Request(run.requester, plan.uploaded_by, run.created_at), now):
        _close(desk, run, "expired", "Nobody decided within 24 hours, so the plan has expired.")
    elif run.tries == 0 and (refused := _refused_by_trainer(desk, run)):
        _close(desk, run, "cancelled", f"Withdrawn before anybody spent time on it: {refused}")
    elif run.tries == 0:
        desk.store.runs.move(run, run.state, now=now, tries=1)
    elif run.tries > 1 or _has_plots(desk, run, plan):
        desk.store.runs.move(run, run.state, now=now, tries=2, next_at=now + LOOK_FOR_EXPIRY_S)


def _has_plots(desk: Desk, run: Run, plan: Plan) -> bool:
    """What the estimate looks ahead to, in the card's thread; False while a worker draws it."""
    dataset = desk.store.datasets.get(run.dataset_id)
    checked = Checked(dataset, datasets.report_of(dataset))
    made = estimates.of_question(desk, checked, estimates.question_of(plan))
    outlook = None if isinstance(made, Refusal) else made.outlook
    plots = estimates.drawn(desk, f"plan {run.id}", outlook, desk.settings.data / "plots" / f"plan-{run.id}")
    if plots is None:
        return False
    estimates.put_plots(desk, run.channel, f"plan {run.id}", plots, plan.dataset)
    return True


def _refused_by_trainer(desk: Desk, run: Run) -> str | None:
    """A no that can be had for free, asked once. A trainer that is down now may be up when it is needed."""
    try:
        refused = desk.trainers[run.provider].probe()
    except TrainerError as trouble:
        log.warning("run %s: %s", run.id, trouble)
        return None
    return str(refused) if refused else None


def policy(desk: Desk) -> Policy:
    """With the groups' members as they are now."""
    people = desk.settings.people
    groups = {group: desk.directory.members(group) for group in people.approver_groups}
    members = frozenset(one for found in groups.values() for one in found or ())
    unknown = tuple(group for group, found in groups.items() if found is None)
    return Policy(frozenset(people.approvers) | members, people.quorum, unknown)


def budget(desk: Desk) -> Budget:
    """Of this month."""
    limit = to_micros(desk.settings.monthly_budget_usd)
    return Budget(limit, desk.store.committed(telling.month(desk.clock())))


def today(desk: Desk) -> date:
    return telling.day(desk.clock())


def _cannot_start(desk: Desk, estimated: Estimated, person: str) -> Refusal | None:
    verdict = next(
        (one for one in estimated.verdict.reasons if one.rule == "end date" and one.kind == "no_go"), None
    )
    if verdict:
        return Refusal(f"{verdict.text} {estimated.verdict.next_step}")
    row = estimated.target.row
    if estimated.question.engine and not row.provider.can("extra_hyperparameters"):
        return Refusal(
            f"{row.title} trains by its own means: leave `engine=` out, or choose a model of our trainer."
        )
    if row.name not in desk.trainers:
        return Refusal(f"There is no key for {row.title}: set {row.provider.key_env} where the bot runs.")
    if policy(desk).approvers <= {person} and not policy(desk).unknown_groups:
        return Refusal(
            "Nobody but you could approve this, and nobody approves their own run: whoever runs the bot "
            "names approvers in finetune.toml, [people]."
        )
    return None


def _plan(
    desk: Desk, checked: Checked, estimated: Estimated, cost: RunCost, person: str, channel: str
) -> Plan:
    dataset, report, made = checked.dataset, estimated.report, estimated.estimate
    return Plan(
        dataset=dataset.name,
        dataset_version=dataset.version,
        dataset_id=dataset.id,
        uploaded_by=dataset.uploaded_by,
        source_sha256=report.source_sha256,
        train_sha256=str(report.train_sha256),
        holdout_sha256=str(report.holdout_sha256),
        n_train=report.n_train,
        n_holdout=report.n_holdout,
        labels=tuple(sorted(count.label for count in report.labels)),
        system=report.system,
        provider=estimated.target.row.name,
        base_model=estimated.target.model.name,
        current=estimated.question.current,
        method="supervised",
        hyperparameters=estimated.hyperparameters,
        seed=SEED,
        suffix=dataset.name,
        prices=PriceList(estimated.prices, today(desk)).to_json(),
        training_tokens=cost.training.billed_tokens,
        expected_micros=to_micros(cost.training.usd.expected + cost.evaluation_usd),
        maximum_micros=_maximum(cost),
        seconds_low=round(estimated.minutes.low * 60),
        seconds_high=round(estimated.minutes.high * 60),
        warnings=_warnings(estimated),
        monthly_before_micros=to_micros(made.monthly_before.total) if made else None,
        monthly_after_micros=to_micros(made.monthly_after.total) if made else None,
        requester=person,
        channel=channel,
        asked_at=desk.clock(),
        predicted=estimates.predicted(estimated),
    )


def _maximum(cost: RunCost) -> int:
    """By the hour ten cents at least: the time is known within a factor only, and a training that passes its maximum
    is stopped, which nobody wants for less."""
    most = cost.training.usd.high
    if cost.training.usd_per_hour:
        most = max(most, LEAST_MAXIMUM_USD)
    return to_micros(most + cost.evaluation_usd)


def _warnings(estimated: Estimated) -> tuple[str, ...]:
    """What an approver reads beside the figures."""
    memory = estimated.room.warning if estimated.room else None
    ends = [one.text for one in estimated.verdict.reasons if one.rule == "end date"]
    return (*ends, *([memory] if memory else []))


def _ask(desk: Desk, plan: Plan) -> Run | Refusal:
    now, hash_of_plan = desk.clock(), plan_hash(plan)
    with desk.store.transaction():
        waiting = _same_waiting(desk, plan)
        if waiting:
            return Refusal(f"The same plan waits for approval already: it is run {waiting.id}.")
        former = replacing.waiting(desk, plan)
        run = desk.store.runs.add(
            NewRun(
                plan_hash=hash_of_plan,
                plan=canonical_json(plan),
                key=plan_key(hash_of_plan),
                dataset_id=plan.dataset_id,
                requester=plan.requester,
                channel=plan.channel,
                provider=plan.provider,
            ),
            now=now,
        )
        if run is None:
            return Refusal("This very plan was posted before; `/finetune runs` shows what became of it.")
        desk.store.audit.add(
            at=now, who=plan.requester, action="ask", subject=f"run {run.id}", detail=hash_of_plan
        )
        for one in former:
            replacing.replace_by(desk, one, run, budget(desk))
        card = views.approval_card(run, plan, budget(desk), policy(desk).quorum)
        telling.asked(desk, run, replacing.noted(desk, run, card))
    return run


def _same_waiting(desk: Desk, plan: Plan) -> Run | None:
    """An open request that differs in nothing but the time and the person who asked."""
    for run in desk.store.runs.open():
        other = plan_from_json(run.plan)
        same = replace(other, asked_at=plan.asked_at, requester=plan.requester, channel=plan.channel)
        if run.state == "awaiting_approval" and same == plan:
            return run
    return None


def _record_yes(desk: Desk, run: Run, plan: Plan, person: str, rules: Policy) -> Run | Refusal:
    now, month = desk.clock(), telling.month(desk.clock())
    money = budget(desk)
    decided = [one.person for one in desk.store.runs.decisions(run.id) if one.decision == "approve"]
    is_last = has_quorum([*decided, person], rules)
    refusal = money.refusal(plan.maximum_micros) if is_last else None
    if refusal:
        return Refusal(refusal)
    if not desk.store.runs.decide(run, person, "approve", now=now):
        return Refusal("You have approved this plan already; it waits for somebody else.")
    desk.store.audit.add(at=now, who=person, action="approve", subject=f"run {run.id}", detail=run.plan_hash)
    if not is_last:
        telling.decided(desk, run, _so_far(desk, run, plan, money, rules))
        return run
    moved = desk.store.runs.move(run, "approved", now=now, reserved_micros=plan.maximum_micros)
    if moved is None:
        return Refusal(_too_late(desk, desk.store.runs.get(run.id)))
    desk.store.runs.book(moved, "reserve", plan.maximum_micros, month=month, now=now)
    show_decision(desk, moved, views.approved_by(_approvals(desk, run)))
    telling.progress(desk, moved)
    return moved


def _so_far(desk: Desk, run: Run, plan: Plan, money: Budget, rules: Policy) -> Message:
    card = views.partly_approved(run, plan, money, _approvals(desk, run), rules.quorum)
    return replacing.noted(desk, run, card)


def show_decision(desk: Desk, run: Run, said: str) -> None:
    plan = plan_from_json(run.plan)
    telling.decided(desk, run, views.decided_card(run, plan, budget(desk), said))
    text = f"Your run {run.id} ({escape(views.what(plan))}) {SAID[run.state]}. {said}"
    telling.to_requester(desk, run, text, once=f"decision {run.id}")


def _close(desk: Desk, run: Run, state: telling.ClosedState, said: str) -> None:
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.runs.move(run, state, now=now, error=said)
        if moved:
            desk.store.audit.add(at=now, who="finetune", action=state, subject=f"run {run.id}")
            show_decision(desk, moved, said)


def _may_reject(desk: Desk, run: Run, person: str) -> Denied | None:
    plan = plan_from_json(run.plan)
    request = Request(run.requester, plan.uploaded_by, run.created_at)
    return may(desk.directory.person(person), "reject", request, policy(desk))


def _approvals(desk: Desk, run: Run) -> list[Approval]:
    return [one for one in desk.store.runs.decisions(run.id) if one.decision == "approve"]


def _too_late(desk: Desk, run: Run | None) -> str:
    if run is None:
        return "There is no such plan any more. `/finetune start` makes a new one."
    by = desk.store.replacements.by(run.id)
    if by is not None:
        return replacing_views.too_late(run.id, by)
    return f"Run {run.id} has moved on: it {SAID[run.state]}."
