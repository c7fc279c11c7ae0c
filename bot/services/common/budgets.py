"""The monthly budgets of the team, channels and people: their limits, what is reserved and spent, and warnings as they
are used up, each once a month."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from bot.cards.common import budgets as views
from bot.cards.common.blocks import Message
from bot.context import AppContext, CoreContext
from bot.rules import budgets as rules
from bot.rules import units
from bot.rules.budgets import Budget
from bot.rules.monitoring.proposals import left_micros
from bot.services.common import authorization, messages
from storage.records import Draft, Run
from trainers.money import to_micros


def team_budget(context: CoreContext) -> Budget:
    limit = to_micros(context.settings.budget.monthly_usd)
    committed = context.store.committed(_this_month(context))
    return Budget(limit, committed)


def all_budgets(context: CoreContext, channel: str, person: str) -> tuple[Budget, ...]:
    """Returns every budget that a run or measurement has to fit into, the team's first."""
    limits = context.settings.budget
    of_channel = _own_budget(context, "channel", channel, limits.of_channel(channel))
    of_person = _own_budget(context, "person", person, limits.of_person(person))
    budgets = (team_budget(context), of_channel, of_person)
    return tuple(filter(None, budgets))


def tightest(context: CoreContext, channel: str, person: str) -> Budget:
    return rules.tightest(all_budgets(context, channel, person))


def refusal(
    context: AppContext, channel: str, person: str, asked_micros: int, what: str = "run"
) -> str | None:
    """Returns why this amount may not be spent now, None if it fits."""
    budget = tightest(context, channel, person)  # an amount that fits into this one fits into all
    if budget.fits(asked_micros):
        return None
    return views.budget_refusal(budget, asked_micros, what)


def refusal_in_a_new_month(context: AppContext, run: Run) -> str | None:
    """Returns why a run that was approved in an earlier month doesn't fit into this month's budget, None if it does."""
    reserved_in = context.store.runs.reservation_month(run)
    is_of_this_month = reserved_in == _this_month(context)
    if reserved_in is None or is_of_this_month:
        return None
    why = refusal(context, run.channel, run.requester, run.reserved_micros)
    if why is None:
        return None
    return f"It was approved in a month that is over. {why}"


def left_for_watching(context: CoreContext) -> int:
    """Returns the micro-dollars that watching may still spend this month without asking anybody: on measurements, and
    on answers of candidates that are tried on live calls."""
    month = _this_month(context)
    limit = context.settings.policy.watch.usd_per_month
    measured = context.store.watch_measurements.committed(month)
    answered = context.store.compared_calls.committed(month)
    return left_micros(limit, measured + answered)


def budgets_in_use(context: AppContext) -> tuple[Budget, ...]:
    """Returns the team's budget and those of every channel and person with a limit that has commitments this month."""
    limits = context.settings.budget
    if not limits.has_own:
        return (team_budget(context),)
    # Of the others nothing is used, so there is nothing to show.
    commitments = context.store.ledger.commitments(_this_month(context))
    channels = {commitment.channel for commitment in commitments}
    people = {commitment.person for commitment in commitments}
    budgets: list[Budget | None] = [team_budget(context)]
    for channel in sorted(channels):
        limit = limits.of_channel(channel)
        budgets.append(_own_budget(context, "channel", channel, limit))
    for person in sorted(people):
        limit = limits.of_person(person)
        budgets.append(_own_budget(context, "person", person, limit))
    return tuple(filter(None, budgets))


def _own_budget(
    context: CoreContext, kind: Literal["channel", "person"], name: str, limit: Decimal | None
) -> Budget | None:
    if limit is None:
        return None
    committed = context.store.ledger.committed(_this_month(context), kind, name)
    return Budget(to_micros(limit), committed, kind, name)


def _this_month(context: CoreContext) -> str:
    return units.month_of(context.clock())


def month_for(context: AppContext, person: str, channel: str) -> views.Month:
    """Returns this month (UTC) with the limits of the person and the channel. It has all amounts, but not the names of
    datasets that the person may not know about."""
    # The team's budget is in the summary already.
    _, *own = all_budgets(context, channel, person)
    month = _month_summary(context, tuple(own))
    names = authorization.visible_datasets(context, person, channel)
    visible = []
    for commitment in month.commitments:
        if commitment.dataset not in names:
            commitment = replace(commitment, dataset="")
        visible.append(commitment)
    return replace(month, commitments=visible)


def warn(context: AppContext) -> None:
    """Posts a warning for each budget that has passed a threshold. If it passed several at once, only the highest is
    posted, and the lower ones never are."""
    now = context.clock()
    ledger = context.store.ledger
    month = units.month_of(now)
    for budget in budgets_in_use(context):
        passed = budget.warnings()
        # Read first without a transaction, because nearly every tick finds nothing new.
        if set(passed) <= ledger.warned(month, budget.whose):
            continue
        with context.store.transaction():
            # All are recorded, and only those that no other tick has recorded meanwhile are new.
            new = []
            for percent in passed:
                if ledger.warn(month, percent, budget.whose, now=now):
                    new.append(percent)
            if new:
                _post_warning(context, budget, max(new), month)


def _post_warning(context: AppContext, budget: Budget, percent: int, month: str) -> None:
    figures = _month_summary(context)
    subject = f"budget {month}"
    whose = ""
    if budget.kind != "team":
        whose = f" of {budget.whose}"
    context.audit("finetune", "budget warning", subject, f"{percent}%{whose}")
    message = views.warning(figures, budget, percent)
    once = f"{subject} {percent}{whose}"
    draft = _warning_draft(context, figures, budget, message, once)
    if draft:
        context.store.outbox.put(draft, now=context.clock())


def _warning_draft(
    context: AppContext, month: views.Month, budget: Budget, message: Message, once: str
) -> Draft | None:
    """Returns the warning, addressed to the channel or person whose budget it is. The team's goes to the team's
    channel, else to that of the newest commitment; None if there is neither."""
    body = message.letter()
    newest = None
    if month.commitments:
        newest = month.commitments[0].channel
    match budget.kind:
        case "channel":
            return Draft("post", budget.id, body, dedupe=once, topic="money")
        case "person":
            # If the direct message can't be sent, the channel of the newest commitment gets it.
            channel = newest or budget.id
            return Draft("direct", channel, body, person=budget.id, dedupe=once, topic="money")
        case "team":
            team_channel = messages.team_channel(context) or newest
            if not team_channel:
                return None
            return Draft("post", team_channel, body, dedupe=once, topic="money")


def _month_summary(context: AppContext, own: tuple[Budget, ...] = ()) -> views.Month:
    now = context.clock()
    name = datetime.fromtimestamp(now, UTC).strftime("%B %Y")
    commitments = context.store.ledger.commitments(units.month_of(now))
    return views.Month(name, team_budget(context), commitments, own)
