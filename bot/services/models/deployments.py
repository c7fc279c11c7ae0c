"""Runs tuned models on vendors' machines by the hour, and owns each from its start to its end.

The intent is committed before a machine is requested, a machine is looked for before a second one is requested, and a
row stays open until the vendor has not listed the machine for a while. A step polls the vendor once and bills the time
since the last poll, so that cards and budgets show what the vendor bills, up to the second of a stop.
deployment_requests.py has what people may ask for; orphan_deployments.py looks from the other side, at everything that
a vendor lists.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from bot.cards.common.general import text_message
from bot.cards.common.plan_money import an_hour
from bot.cards.models import deployments as views
from bot.cards.models import token_serving as token_views
from bot.context import AppContext
from bot.rules import units
from bot.rules.models import deployments as rules
from bot.rules.models.deployments import DeploymentFacts, Hosting, StopReason
from bot.rules.plans import Plan, plan_from_json
from bot.services.common import budgets, hourly_prices, messages
from bot.services.common.freeze_scope import HOLD_S
from bot.services.common.provider_jobs import MAX_PAUSE_S, SETTLE_S
from bot.services.evidence import notifications
from bot.services.evidence.run_states import lost_key_text
from bot.services.models import adapter_serving
from bot.services.models.deployment_summaries import audit, show, summary_of
from bot.values.runs import Refusal
from storage.deployments import DeploymentRecord, DeploymentState, NewDeployment
from storage.records import Run
from trainers.deployments.port import Deployment, Deployments
from trainers.errors import Refused, TrainerError, Uncertain
from trainers.money import to_micros

PREFIX = "ft-run"  # of our deployments' names, by which the sweep recognises them
LOOK_S = 5.0
READY_LOOK_S = 20.0
TOKEN_LOOK_S = (
    3600.0  # of what is served by the token: a look starts a process, and nothing costs money meanwhile
)
TROUBLE_S = 10.0
SHOWN_EVERY_S = 300.0
MAX_TRIES = 3
MAX_DOUBTS = 3  # early polls because of refused questions to a model that the vendor lists as running
LOST_S = 24 * 3600.0
UNUSABLE_RUN_STATES = ("failed", "cancelled")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Serving:
    """Whether a run's model answers. If not, `note` says why not yet, or that a person has to start it again;
    `is_given_up` is true if nobody has done so for a day."""

    is_ready: bool = False
    note: str | None = None
    is_given_up: bool = False


def serving_state(context: AppContext, run: Run, plan: Plan, planned: Hosting) -> Serving:
    """Returns whether the model of a run that is being measured answers now. Requests its first machine, and a second
    one if the first died while it was in use."""
    records = context.store.deployments.of_run(run.id)
    waits = Serving(note=_waits_text(context, plan, planned))
    if not records:
        return _begin_serving(context, run, plan, planned) or waits
    newest = records[0]
    if newest.state == "ready" and newest.missing_since is not None:
        return Serving(note=views.MISSING)
    if newest.state == "ready":
        return Serving(is_ready=True)
    if newest.state != "stopped":
        return waits
    # A machine that never became ready, or that a person or a limit stopped, is not started again on our own account.
    died_in_use = newest.ready_at is not None and newest.reason in ("gone", "failed")
    if died_in_use and len(records) < rules.MOST_STARTS:
        return _begin_serving(context, run, plan, planned) or waits
    lost = views.lost_text(summary_of(context, newest))
    text = f"Your {notifications.link_to(context, run)} waits. {lost}"
    notifications.tell_requester(context, run, text, topic="problems", once=f"lost {newest.name}")
    lost_for_s = context.clock() - (newest.ended_at or 0.0)
    return Serving(note=lost, is_given_up=lost_for_s > LOST_S)


def _waits_text(context: AppContext, plan: Plan, planned: Hosting) -> str:
    if planned.by_token is not None:
        title = context.settings.title_of(planned.by_token.provider)
        return token_views.waits_text(planned.by_token, title)
    return views.waits_text(context.settings.title_of(plan.provider), planned.micros_per_hour)


def _begin_serving(context: AppContext, run: Run, plan: Plan, planned: Hosting) -> Serving | None:
    """Records the intent to start a machine. Returns why not if spending is frozen."""
    if context.store.freezes.current():
        return Serving(note=views.FROZEN)
    intend(context, run, plan, planned, run.requester)
    return None


def look_soon(context: AppContext, run: Run) -> bool:
    """Polls the deployment soon, because the vendor refused a question to the run's model. Returns False if that has
    happened so often that the model itself must be at fault."""
    record = _newest(context, run.id)
    if record is None or record.state != "ready" or record.tries >= MAX_DOUBTS:
        return False
    now = context.clock()
    moved = context.store.deployments.move(record, "ready", now=now, tries=record.tries + 1)
    return moved is not None


def is_running(context: AppContext, run_id: int) -> bool:
    """True if the run's model answers now."""
    record = _newest(context, run_id)
    return record is not None and record.state == "ready"


def _newest(context: AppContext, run_id: int) -> DeploymentRecord | None:
    records = context.store.deployments.of_run(run_id)
    if not records:
        return None
    return records[0]


def step(context: AppContext, record: DeploymentRecord) -> None:
    """Polls one deployment and takes its next step, in the vendor's thread."""
    vendor = context.deployments.get(record.provider)
    latest = context.store.deployments.get(record.id)
    if latest is None or latest.state == "stopped":
        return
    if vendor is None:
        _wait(context, latest, TROUBLE_S, lost_key_text(context, record.provider))
        return
    try:
        _step(context, vendor, latest)
    except TrainerError as trouble:
        wished_s = 0.0
        if isinstance(trouble, Uncertain) and trouble.retry_after is not None:
            wished_s = trouble.retry_after
        # Not longer, even if the vendor asks for it: the machine costs money meanwhile.
        seconds = min(max(wished_s, TROUBLE_S), MAX_PAUSE_S)
        _wait(context, latest, seconds, f"{trouble} Trying again.")


def handle_step_failure(context: AppContext, record: DeploymentRecord) -> None:
    _wait(context, record, TROUBLE_S, None)


def _step(context: AppContext, vendor: Deployments, record: DeploymentRecord) -> None:
    running = vendor.find(record.name, _vendors_model(context, record))
    # A request whose answer was lost may have started a machine all the same; then a second one was requested.
    for extra in running[1:]:
        log.error("%s runs twice at %s: %s is stopped", record.name, record.provider, extra.id)
        vendor.stop(extra)
    first = None
    if running:
        first = running[0]
    reason = _find_stop_reason(context, record)
    was_seen = record.billed_until is not None
    if first is None and was_seen and record.ended_at is None:
        _handle_missing(context, record, reason)
        return
    if record.state == "stopping":
        _stop(context, vendor, record, first)
    elif first is None:
        _request(context, vendor, record, reason)
    elif reason or first.state == "failed":
        stopping = begin_to_stop(context, record, reason or "failed")
        if stopping:
            _stop(context, vendor, stopping, first)
    else:
        _take_status(context, record, first)


def _vendors_model(context: AppContext, record: DeploymentRecord) -> str:
    """Returns the trainer's name of the deployed model, '' if the model is gone."""
    model = context.store.model(record.model)
    return model.provider_model if model else ""


def _request(
    context: AppContext, vendor: Deployments, record: DeploymentRecord, reason: StopReason | None
) -> None:
    """Requests a machine that the vendor doesn't list, unless one that was requested may still appear."""
    if not _is_settled(context, record):
        _wait(context, record, LOOK_S, record.detail)
    elif reason or record.tries >= MAX_TRIES:
        _end(context, record, reason or "unknown")
    else:
        _send(context, vendor, record)


def _is_settled(context: AppContext, record: DeploymentRecord) -> bool:
    """True if a machine that was requested would be listed by now."""
    if record.sent_at is None:
        return True
    return context.waits.since(record.sent_at) >= SETTLE_S


def _handle_missing(context: AppContext, record: DeploymentRecord, reason: StopReason | None) -> None:
    """Handles a list that lacks a machine which ran before, and which nobody has stopped yet. Lists lag and flap, so
    the machine is gone only if several in SETTLE_S lack it. It is billed until the first of them, since nobody saw when
    it ended; if it is listed again, the time between is billed too."""
    now = context.clock()
    since = record.missing_since
    if since is None:
        # From now on the wait is measured by a clock that a change of the machine's time can't move.
        context.waits.begin(now)
        changes = {
            "missing_since": now,
            "next_at": now + LOOK_S,
            "detail": views.MISSING,
        }
        with context.store.transaction():
            billed = _bill(context, record, None, now)
            moved = context.store.deployments.move(billed, record.state, now=now, **changes)
            if moved:
                show(context, moved)
    elif context.waits.since(since) >= SETTLE_S:
        _end(context, record, record.reason or "gone")
    elif reason and record.state != "stopping":
        begin_to_stop(context, record, reason)
    else:
        _wait(context, record, LOOK_S, views.MISSING)


def _send(context: AppContext, vendor: Deployments, record: DeploymentRecord) -> None:
    """Requests the machine once, after the intent is committed."""
    run = context.store.runs.get(record.run_id or 0)
    model = context.store.model(record.model)
    if run is None or model is None:
        _end(context, record, "deleted")
        return
    base = plan_from_json(run.plan).base_model
    deployed = model.provider_model
    if record.by_token and vendor.takes_folders:
        adapter = adapter_serving.adapter_of(context, run, record)
        if isinstance(adapter, Refusal):
            _end(context, record, "refused", adapter.text)
            return
        base = adapter.base_model
        deployed = str(adapter.folder)
    if context.store.freezes.current():
        _wait(context, record, HOLD_S, views.FROZEN)
        return
    try:
        price = hourly_prices.ask_vendor(context, vendor, record.provider, base)
        hour = record.micros_per_hour
        if price is not None:
            hour = price
        # People agreed to the price of the record. A cheaper hour is billed as such, a dearer one needs their yes.
        if hour > record.micros_per_hour:
            _end(context, record, "dearer", f"It now costs {an_hour(hour)}.")
            return
        now = context.clock()
        with context.store.transaction():  # so that a freeze comes either before or after the intent
            if context.store.freezes.current():
                return
            context.waits.begin(now)
            changes = {
                "sent_at": now,
                "tries": record.tries + 1,
                "next_at": now + LOOK_S,
                "micros_per_hour": hour,
            }
            sent = context.store.deployments.move(record, "starting", now=now, **changes)
        if sent is None:
            return
        deployment = vendor.start(record.name, deployed, base, record.idle_stop_s)
    except Refused as refused:
        _end(context, record, "refused", str(refused))
    else:
        _take_status(context, sent, deployment)


def _take_status(context: AppContext, record: DeploymentRecord, deployment: Deployment) -> None:
    """Bills the time since the last poll, stores the vendor's state, and shows it on the card if it is news."""
    now = context.clock()
    was_ready = record.state == "ready"
    is_ready = was_ready or deployment.state == "ready"
    state: DeploymentState = "starting"
    pause = LOOK_S
    if is_ready:
        state = "ready"
        pause = READY_LOOK_S
        if record.by_token:
            pause = TOKEN_LOOK_S
    detail = None
    if deployment.state == "stopping":
        detail = views.GOING_DOWN
        pause = LOOK_S
    changes = {
        "is_billed": deployment.is_billed,
        "chat_model": deployment.chat_model,
        "detail": detail,
        "missing_since": None,
        "next_at": now + pause,
    }
    if is_ready and not was_ready:
        changes |= {"ready_at": now, "used_at": now, "tries": 0}
    is_new = record.billed_until is None or record.missing_since is not None
    is_news = is_new or state != record.state or detail != record.detail
    # Without news the card still follows the growing cost, but not at each poll.
    period = now // SHOWN_EVERY_S
    is_due = period != record.updated_at // SHOWN_EVERY_S
    with context.store.transaction():
        billed = _bill(context, record, deployment, now)
        moved = context.store.deployments.move(billed, state, now=now, **changes)
        if moved and (is_news or is_due):
            show(context, moved, is_progress=not is_news)


def _bill(
    context: AppContext, record: DeploymentRecord, deployment: Deployment | None, until: float
) -> DeploymentRecord:
    """Bills the time until `until`, starting from the time that the vendor reports."""
    if record.billed_until is None:
        since = _find_beginning(context, record, deployment)
        record = replace(record, billed_until=min(since, until))
    context.store.deployments.bill(record, until)
    return record


def _find_beginning(context: AppContext, record: DeploymentRecord, deployment: Deployment | None) -> float:
    """Returns when a machine was started. Some vendors report the year 1 for an unknown time, which is replaced by the
    time of our request: no machine is older than the run that it is named after. It may be older than the record, if a
    backup was restored."""
    earliest = record.created_at
    run = context.store.runs.get(record.run_id or 0)
    if run:
        earliest = run.created_at
    if deployment is None or deployment.started_at is None or deployment.started_at < earliest:
        return record.sent_at or record.created_at
    return deployment.started_at


def begin_to_stop(
    context: AppContext, record: DeploymentRecord, reason: StopReason, person: str = "finetune"
) -> DeploymentRecord | None:
    now = context.clock()
    with context.store.transaction():
        moved = context.store.deployments.move(record, "stopping", now=now, reason=reason, ended_at=None)
        if moved:
            audit(context, moved, person, "hosting stopped", reason)
            show(context, moved)
    return moved


def _stop(
    context: AppContext, vendor: Deployments, record: DeploymentRecord, deployment: Deployment | None
) -> None:
    """Stops the machine and polls until the vendor no longer lists it. A machine that was requested a moment ago may
    still appear."""
    if deployment is None:
        was_stopped = record.ended_at is not None
        if was_stopped or _is_settled(context, record):
            _end(context, record, record.reason)
        else:
            _wait(context, record, LOOK_S, record.detail)
        return
    vendor.stop(deployment)
    now = context.clock()
    changes = {
        "ended_at": now,
        "next_at": now + LOOK_S,
        "detail": None,
        "missing_since": None,
    }
    with context.store.transaction():
        billed = _bill(context, record, deployment, now)
        context.store.deployments.move(billed, "stopping", now=now, **changes)


def _end(
    context: AppContext, record: DeploymentRecord, reason: StopReason | str | None, detail: str | None = None
) -> None:
    """Records that the machine is gone."""
    now = context.clock()
    # What nobody has seen since ended then, not now: it isn't billed for the time in which we looked for it.
    ended_at = record.ended_at or record.missing_since or now
    changes = {
        "reason": reason,
        "detail": detail,
        "ended_at": ended_at,
        "missing_since": None,
    }
    with context.store.transaction():
        if record.billed_until is not None:
            context.store.deployments.bill(record, ended_at)
        moved = context.store.deployments.move(record, "stopped", now=now, **changes)
        if moved:
            if record.state != "stopping":
                audit(context, moved, "finetune", "hosting stopped", str(reason))
            show(context, moved)
            _update_result(context, moved)
            _tell_users(context, moved)


def _tell_users(context: AppContext, record: DeploymentRecord) -> None:
    """Tells the channel, and the person who deployed it, that a model in use doesn't answer any more. Editing the
    machine's card notifies nobody."""
    if record.reason == "deleted":
        return
    summary = summary_of(context, record)
    machine = context.link(f"deployment {record.id}", "its card")
    once = f"not running {record.id} {record.ended_at:.0f}"
    for promotion in context.store.promotions.all_current():
        if promotion.model != record.model:
            continue
        text = views.in_use_stopped(summary, promotion.dataset, machine)
        message = text_message(text)
        channel = promotion.channel
        context.post(channel, {"text": text}, topic="problems", dedupe=once)
        messages.tell_person(context, f"{once} direct", promotion.person, channel, message, topic="problems")


def _find_stop_reason(context: AppContext, record: DeploymentRecord) -> StopReason | None:
    """Returns why the deployment has to be stopped now, None if it may continue."""
    now = context.clock()
    store = context.store
    run = store.runs.get(record.run_id or 0)
    if run is None:
        return "deleted"
    day = units.day_of(now).isoformat()
    dataset = store.datasets.get(run.dataset_id)
    # A machine that was requested after the run's end was requested for something else than its measurement.
    ended_meanwhile = run.updated_at > record.created_at
    facts = DeploymentFacts(
        is_ready=record.state == "ready",
        is_kept=record.kept_by is not None,
        is_by_token=record.by_token,
        is_measuring=run.state == "evaluating",
        is_run_over=run.state in UNUSABLE_RUN_STATES and ended_meanwhile,
        is_deleted=dataset is None or dataset.forgotten_at is not None,
        is_frozen=store.freezes.current() is not None,
        age_s=context.waits.since(record.created_at),
        idle_s=now - record.used_at,
        idle_stop_s=record.idle_stop_s,
        day_micros=store.deployments.cost_of_day(day, record.id),
        day_limit=record.day_micros,
        all_day_micros=store.deployments.cost_of_day(day),
        all_day_limit=day_limit(context),
        budget_left=budgets.team_budget(context).left_micros,
    )
    return rules.stop_reason(facts)


def intend(
    context: AppContext, run: Run, plan: Plan, planned: Hosting, person: str
) -> DeploymentRecord | None:
    """Records that a machine may exist from now on. Returns None if the run already has an open deployment."""
    now = context.clock()
    name = _next_name(context, run)
    new = _new_deployment(run, planned, name, person)
    with context.store.transaction():
        record = context.store.deployments.intend(new, now=now)
        if record:
            audit(context, record, person, "hosting started", record.name)
            show(context, record)
            _update_result(context, record)
    return record


def _next_name(context: AppContext, run: Run) -> str:
    """Returns a name that no machine of this run has had. After a restore the first known one may be its third."""
    last = 0
    for record in context.store.deployments.of_run(run.id):
        _, _, number = record.name.rpartition("-")
        last = max(last, int(number))
    return f"{PREFIX}{run.id}-{run.plan_hash[:8]}-{last + 1}"


def _new_deployment(run: Run, planned: Hosting, name: str, person: str) -> NewDeployment:
    provider = run.provider
    if planned.by_token is not None:
        provider = planned.by_token.provider
    return NewDeployment(
        run_id=run.id,
        provider=provider,
        model=run.model or name,
        name=name,
        channel=run.channel,
        person=person,
        micros_per_hour=planned.micros_per_hour,
        idle_stop_s=planned.idle_stop_s,
        day_micros=planned.day_micros,
        by_token=planned.by_token is not None,
    )


def take_over(context: AppContext, run: Run, planned: Hosting, name: str) -> None:
    """Records a run's own machine that a restored backup doesn't know. The steps then bill it from its start and apply
    the limits. If the run has ended without a model, nobody needs the machine, and it is stopped."""
    now = context.clock()
    new = _new_deployment(run, planned, name, run.requester)
    with context.store.transaction():
        if run.model:
            record = context.store.deployments.take_over(new, now=now)
        else:
            record = context.store.deployments.add_orphan(new, reason="run over", now=now)
        if record:
            audit(context, record, "finetune", "hosting taken over", name)
            show(context, record)
            _update_result(context, record)


def take_back(context: AppContext, record: DeploymentRecord, deployment: Deployment) -> bool:
    """Continues with a machine that counted as gone and is listed again, if its run, its keeper and the limits still
    allow it to run. Returns False if they don't, or if the run has another machine now."""
    records = context.store.deployments.of_run(record.run_id or 0)
    if any(other.state != "stopped" for other in records):
        return False
    state: DeploymentState = "ready"
    if record.ready_at is None:
        state = "starting"
    if _find_stop_reason(context, replace(record, state=state)):
        return False
    now = context.clock()
    changes = {
        "reason": None,
        "ended_at": None,
        "detail": None,
        "chat_model": deployment.chat_model,
    }
    with context.store.transaction():
        billed = _bill(context, record, deployment, now)
        moved = context.store.deployments.move(billed, state, now=now, **changes)
        if moved:
            audit(context, moved, "finetune", "hosting found again", record.name)
            show(context, moved)
            _update_result(context, moved)
            title = context.settings.title_of(record.provider)
            text = views.found_again(record.model, title)
            # With the time, because a list may flap more than once.
            once = f"found {record.name} {now:.0f}"
            context.post(record.channel, {"text": text}, topic="money", dedupe=once)
    return moved is not None


def stop_again(
    context: AppContext, vendor: Deployments, record: DeploymentRecord, deployment: Deployment
) -> None:
    """Stops a machine that is listed although it should be gone."""
    vendor.stop(deployment)
    now = context.clock()
    with context.store.transaction():
        _bill(context, record, deployment, now)
        _update_result(context, record)
        audit(context, record, "finetune", "hosting stopped", "again")
        title = context.settings.title_of(record.provider)
        text = views.still_running(record.name, title)
        once = f"again {record.name} {now:.0f}"
        context.post(record.channel, {"text": text}, topic="money", dedupe=once)


def _update_result(context: AppContext, record: DeploymentRecord) -> None:
    run = context.store.runs.get(record.run_id or 0)
    if run:
        notifications.update_result(context, run)


def _wait(context: AppContext, record: DeploymentRecord, seconds: float, detail: str | None) -> None:
    now = context.clock()
    changes = {"next_at": now + seconds, "detail": detail}
    with context.store.transaction():
        moved = context.store.deployments.move(record, record.state, now=now, **changes)
        if moved and detail != record.detail:
            show(context, moved)


def day_limit(context: AppContext) -> int:
    """Returns the most that all machines together may cost in a day, in micro-dollars."""
    return to_micros(context.settings.budget.hosting_usd_per_day)
