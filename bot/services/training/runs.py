"""Answers people's questions about runs (lists, one run, its audit history), and records their wishes to cancel, pause
or resume."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from bot.cards.common import freeze as freeze_cards
from bot.cards.common.blocks import escape
from bot.cards.training.audits import History
from bot.cards.training.runs import STATE_TEXTS, RunSummary, no_such_run
from bot.context import AppContext
from bot.rules.permissions import Action, Request
from bot.rules.plans import plan_from_json
from bot.services.common import authorization
from bot.services.common.model_history import is_machine_stopped, load_after_result, load_last_use
from bot.services.evidence import checked_judges, notifications
from bot.services.evidence.looks import load_looks_at_run
from bot.services.models import models
from bot.values.runs import AfterResult, Progress, Refusal, RunResult
from storage.jobs import InterventionDecision
from storage.records import OPEN_RUN_STATES, Run

LATEST = 15
# A pause asked for before the job exists is carried out once it does.
PAUSABLE = ("approved", "creating", "training")


def open_runs(context: AppContext, names: Collection[str]) -> list[RunSummary]:
    """Returns the open runs on these datasets."""
    open_runs = context.store.runs.open()
    visible = authorization.filter_known(context, open_runs, names)
    return [overview_of(context, run) for run in visible]


def latest(context: AppContext, names: Collection[str]) -> list[RunSummary]:
    """Returns the newest runs on these datasets."""
    runs = context.store.runs.newest_on(names, LATEST)
    return [overview_of(context, run) for run in runs]


def with_results(context: AppContext, names: Collection[str]) -> list[Run]:
    """Returns the newest runs on these datasets that have a result."""
    return context.store.runs.newest_results_on(names, LATEST)


def summarize(context: AppContext, number: int, person: str, channel: str | None) -> RunSummary | Refusal:
    summary = details(context, number, person, channel)
    if isinstance(summary, Refusal):
        return summary
    may_be_used = models.may_be_offered(context, summary.run)
    return replace(summary, may_be_used=may_be_used)


def refresh_result(context: AppContext, run: Run) -> None:
    """Edits the card of a result somebody asks about: a key that was added since, or a newer version, may allow more
    with its model than the card offers."""
    with context.store.transaction():
        notifications.update_result(context, run)


def details(context: AppContext, number: int, person: str, channel: str | None) -> RunSummary | Refusal:
    """Returns the run with the accuracy of its estimates. Unlike `summarize` it reads no files, which are needed to
    tell whether the model may be promoted."""
    run = context.store.runs.get(number)
    if run is None or not may_see(context, run, person, channel):
        return Refusal(no_such_run(number))
    summary = overview_of(context, run)
    if summary.result is None:
        return summary
    plan = summary.plan
    return replace(
        summary,
        actuals=notifications.actuals_of(run, plan, summary.result),
        running=notifications.running_errors(context),
        looks=load_looks_at_run(context, run),
        after=load_after_result(context.store, run, plan, summary.result),
    )


def audit_history(context: AppContext, number: int, person: str, channel: str) -> History | Refusal:
    run = context.store.runs.get(number)
    if run is None or not may_see(context, run, person, channel):
        return Refusal(no_such_run(number))
    entries = context.store.audit.entries(f"run {number}")
    return History(number, entries)


def ask_cancel(context: AppContext, number: int, person: str, here: str | None = None) -> str | Refusal:
    """Records the wish; the next tick carries it out at the trainer. `here` is as in `_find_visible`."""
    run = _find_visible(context, number, person, here, "cancel")
    if isinstance(run, Refusal):
        return run
    if run.state not in OPEN_RUN_STATES:
        return _over_refusal(run)
    refusal = _refusal(context, run, person, "cancel")
    if refusal:
        return refusal
    if run.cancel_asked_by:
        first = f"<@{run.cancel_asked_by}>"
        return Refusal(f"{first} has already asked for that: run {number} is being cancelled.")
    if not _record(context, run, person, "cancel", cancel_asked_by=person):
        return _moved_refusal(run)
    return f"Cancelling run {number} …"


def ask_pause(context: AppContext, number: int, person: str, here: str | None = None) -> str | Refusal:
    """Records the wish; the next poll of the job carries it out."""
    run = _find_visible(context, number, person, here, "pause")
    if isinstance(run, Refusal):
        return run
    # By the wish, too: a second click before the next poll should not pause it again.
    if run.state in PAUSABLE and _will_be_paused(run):
        return Refusal(f"Run {number} is already paused. `/finetune resume {number}` continues it.")
    refusal = _pause_refusal(context, run, person)
    if refusal:
        return refusal
    if not _record(context, run, person, "pause", wish="pause", wished_by=person):
        return _moved_refusal(run)
    return f"Pausing run {number} …"


def ask_resume(context: AppContext, number: int, person: str, here: str | None = None) -> str | Refusal:
    run = _find_visible(context, number, person, here, "pause")
    if isinstance(run, Refusal):
        return run
    if run.state in OPEN_RUN_STATES and not _will_be_paused(run):
        return Refusal(f"Run {number} is not paused: it {STATE_TEXTS[run.state]}.")
    refusal = _pause_refusal(context, run, person)
    if refusal:
        return refusal
    # A resumed job costs money again.
    freeze = context.store.freezes.current()
    if freeze:
        return Refusal(freeze_cards.refusal(freeze, f"Run {number} stays paused"))
    if not _record(context, run, person, "resume", wish="resume", wished_by=person):
        return _moved_refusal(run)
    return f"Run {number} goes on …"


def is_paused(run: Run) -> bool:
    if run.state != "training":
        return False
    progress = Progress.from_json(run.progress)
    return progress.is_paused


def _will_be_paused(run: Run) -> bool:
    """True if the run is paused once the newest wish is carried out."""
    if run.wish is None:
        return is_paused(run)
    return run.wish == "pause"


def _pause_refusal(context: AppContext, run: Run, person: str) -> Refusal | None:
    if run.state not in OPEN_RUN_STATES:
        return _over_refusal(run)
    if run.state not in PAUSABLE:
        return Refusal(f"Only training can be paused, and run {run.id} {STATE_TEXTS[run.state]}.")
    if not notifications.can_pause(context, run):
        title = escape(context.settings.title_of(run.provider))
        return Refusal(f"{title} can't pause a training. `/finetune cancel {run.id}` would end it.")
    return _refusal(context, run, person, "pause")


def _over_refusal(run: Run) -> Refusal:
    return Refusal(f"Run {run.id} is over already: it {STATE_TEXTS[run.state]}.")


def _moved_refusal(run: Run) -> Refusal:
    return Refusal(f"Run {run.id} moved on just now; try again.")


def _record(context: AppContext, run: Run, person: str, action: str, **wish: str) -> bool:
    """Records a wish. Returns False if the run has moved meanwhile."""
    now = context.clock()
    with context.store.transaction():
        # `next_at=now` lets the next tick carry it out, however long the run was put off.
        moved = context.store.runs.move(run, run.state, now=now, next_at=now, **wish)
        if moved:
            context.audit(person, action, f"run {run.id}")
    return moved is not None


def overview_of(context: AppContext, run: Run) -> RunSummary:
    """Returns what a list shows of the run."""
    plan = plan_from_json(run.plan)
    result = None
    if run.result:
        stored = RunResult.from_json(run.result)
        result = checked_judges.with_current_checks(context, plan, stored)
    decisions: Sequence[InterventionDecision] = ()
    if run.state == "needs_human":
        decisions = context.store.interventions.of(run)
    version = context.store.datasets.get(run.dataset_id)
    last_use = load_last_use(context.store, run, plan)
    return RunSummary(
        run=run,
        plan=plan,
        progress=Progress.from_json(run.progress),
        result=result,
        now=context.clock(),
        can_pause=notifications.can_pause(context, run),
        decisions=decisions,
        is_deleted=version.forgotten_at is not None,
        is_stopped=is_machine_stopped(context.store, run, plan),
        after=AfterResult(use=last_use),
    )


def may_see(context: AppContext, run: Run, person: str, channel: str | None) -> bool:
    plan = plan_from_json(run.plan)
    return authorization.may_use_dataset(context, plan.dataset, person, channel)


def _find_visible(
    context: AppContext, number: int, person: str, here: str | None, action: Action
) -> Run | Refusal:
    """Returns the run if the person may know about it, or if it is open and they may stop it. `here` is the channel in
    which they typed its number, None if they pressed a button on its card."""
    hidden = Refusal(no_such_run(number))
    run = context.store.runs.get(number)
    if run is None:
        return hidden
    # Who presses a button on its card, or is in its channel, has seen it.
    if here is None or here == run.channel or may_see(context, run, person, here):
        return run
    # Who may stop spending can do so from outside a private channel, as long as there is something to stop.
    if run.state not in OPEN_RUN_STATES:
        return hidden
    if _refusal(context, run, person, action):
        return hidden
    return run


def _refusal(context: AppContext, run: Run, person: str, action: Action) -> Refusal | None:
    plan = plan_from_json(run.plan)
    request = Request(
        requester=run.requester,
        uploader=plan.uploaded_by,
        asked_at=run.created_at,
    )
    return authorization.refusal(context, person, action, request=request)
