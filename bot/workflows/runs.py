"""What people ask about runs, and their wishes: to cancel one, to pause it, to let it go on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import islice

from bot.decisions.approval import Request
from bot.decisions.planning import plan_from_json
from bot.decisions.policy import Action
from bot.results import Progress, Refusal, RunResult
from bot.views import freezing
from bot.views.blocks import escape
from bot.views.runs import SAID, Look
from bot.workflows import calibrating, holding, in_use, permits, sharing, telling
from bot.workflows.desk import Desk
from storage.records import OPEN_RUN_STATES, Run, Wish

LATEST, SEARCHED = 15, 200


def open_runs(desk: Desk, known: Collection[str]) -> list[Look]:
    """Of the datasets that are `known` to who asks, as below."""
    return [_look(desk, run) for run in sharing.of_known(desk, desk.store.runs.open(), known)]


def latest(desk: Desk, known: Collection[str]) -> list[Look]:
    runs = sharing.of_known(desk, desk.store.runs.newest(SEARCHED), known)
    return [_look(desk, run) for run in islice(runs, LATEST)]


def listing(desk: Desk, person: str, channel: str) -> list[Look]:
    return latest(desk, sharing.visible(desk, person, channel))


def look(desk: Desk, number: int, person: str, channel: str | None) -> Look | Refusal:
    run = desk.store.runs.get(number)
    if run is None or not may_look(desk, run, person, channel):
        return no_such_run(number)
    if run.result is None:
        return _look(desk, run)
    may_be_used = in_use.may_be_offered(desk, run)
    return replace(_look(desk, run), running=calibrating.running(desk), may_be_used=may_be_used)


def ask_cancel(desk: Desk, number: int, person: str, here: str | None = None) -> str | Refusal:
    """Note the wish; the next tick carries it out at the trainer. `here` as in `_known`."""
    run = _known(desk, number, person, here, "cancel")
    if run is None:
        return no_such_run(number)
    if run.state not in OPEN_RUN_STATES:
        return Refusal(f"Run {number} is over already: it {SAID[run.state]}.")
    plan = plan_from_json(run.plan)
    request = Request(run.requester, plan.uploaded_by, run.created_at)
    refused = permits.may(desk, person, "cancel", request=request)
    if refused:
        return refused
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.runs.move(run, run.state, now=now, cancel_asked_by=person, next_at=now)
        if moved:
            desk.store.audit.add(at=now, who=person, action="cancel", subject=f"run {run.id}")
    return f"Cancelling run {number} …" if moved else Refusal(f"Run {number} moved on just now; try again.")


def ask_pause(desk: Desk, number: int, person: str, here: str | None = None) -> str | Refusal:
    """Note the wish; the next look at the job carries it out."""
    run = _known(desk, number, person, here, "pause")
    if run is None:
        return no_such_run(number)
    if run.state in OPEN_RUN_STATES and (run.wish == "pause" or (is_paused(run) and run.wish is None)):
        return Refusal(f"Run {number} is paused already. `/finetune resume {number}` lets it go on.")
    denied = _may_not_pause(desk, run, person)
    return denied or _wish(desk, run, "pause", person, f"Pausing run {number} …")


def ask_resume(desk: Desk, number: int, person: str, here: str | None = None) -> str | Refusal:
    run = _known(desk, number, person, here, "pause")
    if run is None:
        return no_such_run(number)
    if run.state in OPEN_RUN_STATES and run.wish != "pause" and (run.wish or not is_paused(run)):
        return Refusal(f"Run {number} is not paused: it {SAID[run.state]}.")
    denied = _may_not_pause(desk, run, person)
    freeze = holding.on_resume(desk)
    if freeze and not denied:
        return Refusal(freezing.refused(freeze, f"Run {number} stays paused"))
    return denied or _wish(desk, run, "resume", person, f"Run {number} goes on …")


def is_paused(run: Run) -> bool:
    return run.state == "training" and Progress.from_json(run.progress).is_paused


def _may_not_pause(desk: Desk, run: Run, person: str) -> Refusal | None:
    if run.state not in OPEN_RUN_STATES:
        return Refusal(f"Run {run.id} is over already: it {SAID[run.state]}.")
    if run.state not in ("approved", "creating", "training"):
        return Refusal(f"Only training can be paused, and run {run.id} {SAID[run.state]}.")
    if not telling.can_pause(desk, run):
        row = desk.settings.provider(run.provider)
        title = escape(row.title if row else run.provider)
        return Refusal(f"{title} can't pause a training. `/finetune cancel {run.id}` would end it.")
    request = Request(run.requester, plan_from_json(run.plan).uploaded_by, run.created_at)
    return permits.may(desk, person, "pause", request=request)


def _wish(desk: Desk, run: Run, wish: Wish, person: str, said: str) -> str | Refusal:
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.runs.move(run, run.state, now=now, wish=wish, wished_by=person, next_at=now)
        if moved:
            desk.store.audit.add(at=now, who=person, action=wish, subject=f"run {run.id}")
    return said if moved else Refusal(f"Run {run.id} moved on just now; try again.")


def _look(desk: Desk, run: Run) -> Look:
    return Look(
        run=run,
        plan=plan_from_json(run.plan),
        progress=Progress.from_json(run.progress),
        result=RunResult.from_json(run.result) if run.result else None,
        now=desk.clock(),
        can_pause=telling.can_pause(desk, run),
        words=desk.store.doubts.of(run) if run.state == "needs_human" else (),
    )


def may_look(desk: Desk, run: Run, person: str, channel: str | None) -> bool:
    return sharing.may_use(desk, plan_from_json(run.plan).dataset, person, channel)


def _known(desk: Desk, number: int, person: str, here: str | None, action: Action) -> Run | None:
    """The run, if the person may know of it, or it is open and they may stop it, wherever they are. `here`: the channel
    where they typed its number; None: they pressed a button on its card."""
    run = desk.store.runs.get(number)
    if run is None or here in (None, run.channel) or may_look(desk, run, person, here):
        return run
    request = Request(run.requester, plan_from_json(run.plan).uploaded_by, run.created_at)
    may_stop = run.state in OPEN_RUN_STATES and permits.may(desk, person, action, request=request) is None
    return run if may_stop else None


def no_such_run(number: int) -> Refusal:
    return Refusal(f"There is no run {number}. `/finetune runs` lists them.")
