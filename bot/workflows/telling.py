"""What a run tells the channel: drafts for the outbox, written in the transaction of what they tell.

An edit notifies nobody, so the start, the end and a failure are messages of their own; between them one card
is edited in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

from bot.decisions.actuals import actual_micros
from bot.decisions.calibration import RunningError
from bot.decisions.planning import Plan, plan_from_json
from bot.results import ChangedRow, Progress, RunResult
from bot.views import actuals, freezing, sweeps
from bot.views import doubts as doubt_views
from bot.views import results as result_views
from bot.views import runs as views
from bot.views.blocks import Message
from bot.workflows import holding
from bot.workflows.calibrating import pairs
from bot.workflows.desk import Desk
from storage.doubts import Word
from storage.records import OPEN_RUN_STATES, Draft, OutboxKind, Run
from trainers.pricing import PriceList

EndState = Literal["failed", "cancelled"]
ClosedState = Literal["expired", "cancelled"]


def month(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m")


def day(now: float) -> date:
    return datetime.fromtimestamp(now, UTC).date()


def asked(desk: Desk, run: Run, message: Message) -> None:
    """The approval card."""
    _put(desk, run, "post", message, card=f"plan {run.id}", once=f"plan {run.id}")


def decided(desk: Desk, run: Run, message: Message) -> None:
    """The approval card's buttons give way to who decided what, and the requester hears of it."""
    _put(desk, run, "edit", message, card=f"plan {run.id}")


def to_requester(desk: Desk, run: Run, text: str, *, once: str) -> None:
    body = Message(text).body()
    desk.store.outbox.put(
        Draft(kind="direct", channel=run.channel, person=run.requester, body=body, dedupe=once),
        now=desk.clock(),
    )


def progress(desk: Desk, run: Run) -> None:
    """The card: posted when the run first has something to show, edited from then on."""
    plan = plan_from_json(run.plan)
    known_so_far = Progress.from_json(run.progress)
    spent = training_cost(plan, known_so_far)
    message = views.card(
        run, plan, known_so_far, desk.clock(), spent_micros=spent, can_pause=can_pause(desk, run)
    )
    freeze = holding.on_run(desk, run)
    message = freezing.held(message, freeze) if freeze else message
    known = desk.store.outbox.card(f"run {run.id}") or desk.store.outbox.is_waiting(f"run {run.id}")
    once = None if known else f"run {run.id}"
    kind: OutboxKind = "edit" if known else "post"
    is_open = run.state in OPEN_RUN_STATES
    _put(desk, run, kind, message, card=f"run {run.id}", once=once, progress=is_open)


def can_pause(desk: Desk, run: Run) -> bool:
    trainer = desk.trainers.get(run.provider)
    return trainer is not None and trainer.provider.can("pause")


def in_doubt(desk: Desk, run: Run, why: str) -> None:
    """A person is needed: a card of its own, with the buttons to decide."""
    progress(desk, run)
    doubt(desk, run, ())
    to_requester(desk, run, views.ended_short(run, why), once=f"dm of {_doubt_card(run)}")


def doubt(desk: Desk, run: Run, words: Sequence[Word], *, note: str | None = None) -> None:
    """The card of the doubt that the run is in: posted once, edited from then on."""
    card = _doubt_card(run)
    message = doubt_views.card(run, plan_from_json(run.plan), words, note)
    known = desk.store.outbox.card(card) or desk.store.outbox.is_waiting(card)
    _put(desk, run, "edit" if known else "post", message, card=card, once=None if known else card)


def doubt_over(desk: Desk, run: Run, words: Sequence[Word], said: str) -> None:
    """`run` as it was in doubt. Nothing where no card was posted."""
    card = _doubt_card(run)
    if desk.store.outbox.card(card) or desk.store.outbox.is_waiting(card):
        message = doubt_views.settled(run, plan_from_json(run.plan), words, said)
        _put(desk, run, "edit", message, card=card)


def _doubt_card(run: Run) -> str:
    return f"doubt {run.id} {run.state_since:.0f}"


def ended(desk: Desk, run: Run, why: str) -> None:
    """Failed or cancelled: said anew, so that people notice."""
    progress(desk, run)
    _put(desk, run, "post", views.ended(run, plan_from_json(run.plan), why), once=f"end {run.id}")
    to_requester(desk, run, views.ended_short(run, why), once=f"end dm {run.id}")


def result(
    desk: Desk,
    run: Run,
    plan: Plan,
    found: RunResult,
    changed: Sequence[ChangedRow],
    plots: Sequence[Path | None],
    errors: Sequence[RunningError],
    *,
    may_be_used: bool = False,
) -> None:
    """The result card; in its thread the estimate beside it, the plots, and the rows that changed for members."""
    card = f"result {run.id}"
    message = result_views.card(run, plan, found, errors, may_be_used=may_be_used)
    _put(desk, run, "post", message, card=card, once=card)
    beside = actuals.held_against(plan, found, pairs(run, plan, found))
    _put(desk, run, "post", beside, thread=card, once=f"estimate of {card}")
    if found.arms:
        table = sweeps.table(plan, found.arms)
        _put(desk, run, "post", table, thread=card, once=f"arms of {card}")
    for plot in plots:
        if plot:
            _put_file(desk, run, card, plot, result_views.alt_text(plot.stem, plan))
    if changed:
        body = result_views.changed(changed).letter()
        once = f"changed {run.id}"
        desk.store.outbox.put(
            Draft(
                kind="post",
                channel=run.channel,
                body=body,
                thread=card,
                dedupe=once,
                private=True,
                concerns=run.requester,
            ),
            now=desk.clock(),
        )


def training_cost(plan: Plan, progress: Progress) -> int:
    """Micro-dollars for a run that ended before its model was measured."""
    prices = PriceList.from_json(plan.prices)
    return actual_micros(prices, progress.train_seconds, progress.trained_tokens)


def _put(
    desk: Desk,
    run: Run,
    kind: OutboxKind,
    message: Message,
    *,
    card: str | None = None,
    thread: str | None = None,
    once: str | None = None,
    progress: bool = False,
) -> None:
    desk.store.outbox.put(
        Draft(
            kind=kind,
            channel=run.channel,
            body=message.letter(),
            card=card,
            thread=thread,
            dedupe=once,
            concerns=run.requester,
            progress=progress,
        ),
        now=desk.clock(),
    )


def _put_file(desk: Desk, run: Run, thread: str, path: Path, alt: str) -> None:
    body = {"file": str(path), "filename": path.name, "title": alt, "alt_txt": alt}
    once = f"{path.stem} of run {run.id}"
    draft = Draft("file", run.channel, body, dedupe=once, thread=thread, concerns=run.requester)
    desk.store.outbox.put(draft, now=desk.clock())
