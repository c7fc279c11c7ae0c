"""Compares each vendor's list of machines with the store, every few minutes, so that none runs unnoticed.

A deployment is followed by its own steps (deployments.py). This looks from the other side: for a machine that counted
as gone and is listed again, for one that a restored backup doesn't know, and for one that nobody here started.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from bot.cards.models import deployments as views
from bot.context import AppContext
from bot.rules.plans import plan_from_json
from bot.services.common import authorization, messages
from bot.services.models import deployments
from bot.services.models.deployments import PREFIX
from bot.values.runs import Refusal
from storage.deployments import DeploymentRecord, NewDeployment
from storage.records import OPEN_RUN_STATES, Run
from trainers.deployments.port import Deployment, Deployments
from trainers.errors import TrainerError

JUST_STOPPED_S = 600.0  # a vendor's list may still show a machine that was stopped
NAME = re.compile(rf"{PREFIX}([0-9]{{1,9}})-([0-9a-f]{{8}})-[0-9]{{1,9}}")  # as deployments.py names them

log = logging.getLogger(__name__)


def sweep(context: AppContext) -> None:
    """Reads one list of machines per vendor. A vendor that can't be reached is tried again next time."""
    for provider, vendor in context.deployments.items():
        if vendor.bills_tokens:
            continue  # what nobody asks there costs nothing, and a look may start a process
        try:
            _sweep(context, provider, vendor)
        except TrainerError as trouble:
            log.info("looking for models that run at %s: %s", provider, trouble)


def _sweep(context: AppContext, provider: str, vendor: Deployments) -> None:
    strays = list[Deployment]()
    for deployment in vendor.list_running():
        record = context.store.deployments.find_by_name(provider, deployment.name)
        run = _find_run(context, provider, deployment.name)
        if record:
            _check_known(context, vendor, record, deployment)
        elif run:
            _check_own(context, run, deployment)
        else:
            strays.append(deployment)
    _tell_strays(context, provider, strays)


def _find_run(context: AppContext, provider: str, name: str) -> Run | None:
    """Returns the run that a machine was started for, by its name, which has the run's number and its plan's hash."""
    match = NAME.fullmatch(name)
    if match is None:
        return None
    number, plan_hash = match.groups()
    run = context.store.runs.get(int(number))
    if run is None or run.plan_hash[:8] != plan_hash:
        return None
    # Several providers in the settings may share one account, whose machines each of them lists.
    if run.provider not in context.settings.beside(provider):
        return None
    return run


def _check_known(
    context: AppContext, vendor: Deployments, record: DeploymentRecord, deployment: Deployment
) -> None:
    if record.state != "stopped":
        return
    if record.reason == "gone" and deployments.take_back(context, record, deployment):
        return
    if context.clock() - (record.ended_at or 0.0) > JUST_STOPPED_S:
        deployments.stop_again(context, vendor, record, deployment)


def _check_own(context: AppContext, run: Run, deployment: Deployment) -> None:
    """Handles a run's machine that is not in the database, so a backup must have been restored that was made before
    its start. An open run without a model finds the machine itself once it has its model."""
    planned = plan_from_json(run.plan).hosting
    is_later = run.model is None and run.state in OPEN_RUN_STATES
    if planned and not is_later:
        deployments.take_over(context, run, planned, deployment.name)


def _tell_strays(context: AppContext, provider: str, strays: Sequence[Deployment]) -> None:
    """Reports new strays once. While there is no channel to tell, the log and /healthz name them as long as they
    run."""
    now = context.clock()
    subject = f"machines at {provider}"
    channel = messages.team_channel(context)
    if strays and not channel:
        names = ", ".join(stray.name for stray in strays)
        log.warning("running at %s by the hour, and started by nobody here: %s", provider, names)
        context.troubles[subject] = f"started by nobody here, and in no budget: {names}"
        return
    context.troubles.pop(subject, None)
    title = context.settings.title_of(provider)
    with context.store.transaction():
        new = []
        for stray in strays:
            if context.store.interventions.record_orphan(provider, stray.id, stray.name, now=now):
                new.append(stray)
        if new and channel:
            log.error("running at %s, and started by nobody here: %s", provider, new)
            message = views.strays_card(title, provider, new, PREFIX)
            once = f"strays {provider} {now:.0f}"
            context.post(channel, message.letter(), topic="questions", dedupe=once)


def stop_stray(context: AppContext, value: str, person: str) -> Refusal | None:
    """Takes over a deployment that nobody here started, so that it gets stopped."""
    provider, _, name = value.partition(" ")
    # Anyone who may freeze spending may end it: the machine belongs to no dataset that could be asked for a right.
    refused = authorization.refusal(context, person, "freeze")
    if refused:
        return refused
    now = context.clock()
    new = NewDeployment(
        run_id=None,
        provider=provider,
        model=name,
        name=name,
        channel=messages.team_channel(context),
        person=person,
        micros_per_hour=0,
        idle_stop_s=0,
        day_micros=0,
    )
    with context.store.transaction():
        record = context.store.deployments.add_orphan(new, reason="asked", now=now)
        if record:
            context.audit(person, "hosting stopped", f"deployment {record.id}", name)
    if record is None:
        return Refusal("It is already stopped, or is being stopped.")
    return None
