"""A plan: frozen out of an estimate, and posted for the team to decide on (approving.py)."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

from bot.commands import Start
from bot.decisions.approval import Request
from bot.decisions.permission import who_may
from bot.decisions.planning import Plan, ascii_name, canonical_json, plan_from_json, plan_hash, plan_key
from bot.decisions.worth.quotes import Gap
from bot.results import Refusal
from bot.views import plans as views
from bot.workflows import (
    datasets,
    destination,
    eligibility,
    estimates,
    leaving,
    money,
    permits,
    replacing,
    telling,
)
from bot.workflows.datasets import SEED, Checked
from bot.workflows.desk import Desk
from bot.workflows.efforts import RunCost
from bot.workflows.estimating import Estimated
from bot.workflows.inputs import OTHER_TOKENIZER
from bot.workflows.leaving import Leave
from bot.workflows.stopping import stopping_early
from bot.workflows.sweeping import sweeping
from storage.records import Run
from storage.runs import NewRun
from trainers.money import to_micros
from trainers.pricing import PriceList

LEAST_MAXIMUM_USD = Decimal("0.10")


def start(desk: Desk, command: Start, person: str, channel: str) -> Run | Refusal:
    """Freeze a plan and ask the channel to approve it."""
    asked = permits.asking(desk, person, "start", channel)
    refused = permits.refused(asked, "start") or permits.unreachable(desk, channel, by_others=True)
    if refused:
        return refused
    checked = datasets.ready(desk, command.dataset, person, channel, is_posted=True)
    if isinstance(checked, Refusal):
        return checked
    estimated = estimates.of_question(desk, checked, command.question)
    if isinstance(estimated, Refusal):
        return estimated
    row = estimated.target.row
    refusal = _cannot_start(desk, estimated)
    if refusal:
        return refusal
    leave = leaving.ask(desk, checked.dataset, estimated.report, [row], command.because)
    if isinstance(leave, Refusal):
        return leave
    if isinstance(estimated.cost, Gap):
        return Refusal(f"A run whose cost is unknown can't be approved. {estimated.cost.sentence}")
    plan = _plan(desk, checked, estimated, estimated.cost, person, channel)
    refusal = permits.refused(asked, "start", request_of(plan)) or _nobody_to_approve(desk, plan)
    if refusal:
        return refusal
    stopping = stopping_early(desk, plan, estimated)
    if isinstance(stopping, Refusal):
        return stopping
    swept = sweeping(desk, plan, estimated)
    if isinstance(swept, Refusal):
        return swept
    warnings = (*plan.warnings, *leave.notes)
    whole = replace(plan, stopping=stopping, swept=swept, warnings=warnings, overridden=leave.overridden)
    return _ask(desk, whole, leave)


def request_of(plan: Plan) -> Request:
    return Request(plan.requester, plan.uploaded_by, plan.asked_at, plan.maximum_micros)


def needed(desk: Desk, plan: Plan) -> int:
    """How many approvers it takes."""
    tier = desk.settings.policy.tier(plan.maximum_micros)
    return tier.approvers if tier else 0


def today(desk: Desk) -> date:
    return telling.day(desk.clock())


def _cannot_start(desk: Desk, estimated: Estimated) -> Refusal | None:
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
    closed = eligibility.closed_to_us(desk, row) or eligibility.untrainable(desk.settings, estimated.target)
    return Refusal(closed) if closed else None


def _nobody_to_approve(desk: Desk, plan: Plan) -> Refusal | None:
    """A plan that too few could approve would wait in vain. Where Slack doesn't tell who is in a group, it may wait."""
    rules = permits.rules(desk, "approve")
    tier = rules.policy.tier(plan.maximum_micros)
    if tier is None or rules.unknown("approve") or rules.policy.named("approve").anyone:
        return None
    others = rules.named("approve") - {plan.requester, plan.uploaded_by}
    if len(others) >= tier.approvers:
        return None
    if not others:
        return Refusal(
            "Nobody but you or who uploaded the data could approve this, and nobody approves their own: whoever "
            "runs the bot names approvers in finetune.toml, [people]."
        )
    return Refusal(
        f"It takes {tier.approvers} approvers who neither asked nor uploaded the data, and there are {len(others)}: "
        f"{who_may('approve', rules, but={plan.requester, plan.uploaded_by})} Whoever runs the bot names more in "
        "finetune.toml, [people]."
    )


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
        suffix=ascii_name(dataset.name),
        prices=PriceList(estimated.prices, today(desk)).to_json(),
        training_tokens=cost.training.billed_tokens,
        expected_micros=to_micros(cost.training.usd.expected + cost.evaluation_usd),
        maximum_micros=_maximum(cost),
        seconds_low=round(estimated.minutes.low * 60) if estimated.minutes else None,
        seconds_high=round(estimated.minutes.high * 60) if estimated.minutes else None,
        warnings=_warnings(estimated),
        monthly_before_micros=to_micros(made.monthly_before.total) if made else None,
        monthly_after_micros=to_micros(made.monthly_after.total) if made else None,
        requester=person,
        channel=channel,
        asked_at=desk.clock(),
        predicted=estimates.predicted(estimated),
        destination=destination.of(
            desk,
            estimated.target.row,
            estimated.target.model.name,
            estimated.question.engine or destination.BUILTIN,
        ),
    )


def _maximum(cost: RunCost) -> int:
    """A run that passes it is stopped, while it trains and while it is measured, which nobody wants for a few cents.
    By the hour ten cents at least: the time is known within a factor only. By the token as many as another tokenizer
    may count; and the longest answers, not those expected."""
    most = cost.training.usd.high
    if cost.training.usd_per_hour:
        most = max(most, LEAST_MAXIMUM_USD)
    elif cost.training.usd_per_million:
        most *= Decimal(str(OTHER_TOKENIZER))
    return to_micros(most + cost.evaluation_most_usd)


def _warnings(estimated: Estimated) -> tuple[str, ...]:
    """What an approver reads beside the figures."""
    memory = estimated.room.warning if estimated.room else None
    ends = [one.text for one in estimated.verdict.reasons if one.rule == "end date"]
    return (*ends, *([memory] if memory else []))


def _ask(desk: Desk, plan: Plan, leave: Leave) -> Run | Refusal:
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
        leaving.record(desk, leave, plan.requester, f"run {run.id}")
        for one in former:
            replacing.replace_by(desk, one, run, money.team(desk))
        hours = desk.settings.policy.expires_s / 3600
        left = money.tightest(desk, run.channel, run.requester)
        card = views.approval_card(run, plan, left, needed(desk, plan), hours)
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
