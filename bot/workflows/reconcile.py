"""One tick: reads what is not final and moves each one step. A kill at any line loses nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import assert_never

from bot import heartbeat, logs
from bot.views.runs import UNDER_WAY
from bot.workflows import (
    approving,
    budgets,
    carrying,
    cleaning,
    datasets,
    doubts,
    estimates,
    evidence,
    linking,
    models,
    nightly,
    strays,
    training,
    uploads,
)
from bot.workflows.desk import Desk
from bot.workflows.measuring import curves, knowledge, ladder
from storage.records import Run

TROUBLE_PAUSE_S = 30.0

log = logging.getLogger(__name__)


def reconcile(desk: Desk) -> None:
    """Everything that is due, each behind its own guard: one broken thing holds up no other."""
    now = desk.clock()
    for dataset in desk.store.datasets.due(now):
        after_trouble = partial(datasets.after_trouble, desk, dataset)
        _guarded(partial(datasets.step, desk, dataset), f"dataset {dataset.id}", after_trouble)
    for document in desk.store.documents.due(now):
        after_trouble = partial(knowledge.after_trouble, desk, document)
        _guarded(partial(knowledge.step, desk, document), f"document {document.id}", after_trouble)
    for measurement in desk.store.measurements.due(now):
        kind = curves if measurement.kind == "curve" else ladder
        after_trouble = partial(kind.after_trouble, desk, measurement)
        _guarded(partial(kind.step, desk, measurement), f"measurement {measurement.id}", after_trouble)
    for run in desk.store.runs.due(now):
        _guarded(partial(step, desk, run), f"run {run.id}", partial(_postpone, desk, run))
    for number in desk.store.doubts.runs_with_words():
        _guarded(partial(doubts.step, desk, number), f"the doubt of run {number}")
    _guarded(partial(linking.link, desk), "links between plans")
    _guarded(partial(budgets.warn, desk), "the budget's warning")
    for wish in desk.store.cleanings.waiting():
        _guarded(partial(cleaning.step, desk, wish), f"cleaning {wish.id}")
    _guarded(partial(cleaning.tidy, desk), "cleaned files")
    for kept in desk.store.estimates.wanted():
        _guarded(partial(estimates.step, desk, kept), f"estimate {kept.id}")
    for promotion in desk.store.promotions.to_carry(now):
        after_trouble = partial(carrying.after_trouble, desk, promotion)
        _guarded(partial(carrying.step, desk, promotion), f"promotion {promotion.id}", after_trouble)
    for ask in desk.store.questions.waiting():
        _guarded(partial(models.step, desk, ask), f"ask {ask.id}")


def look_after(desk: Desk) -> None:
    """What may take long and can wait: every few minutes."""
    _guarded(partial(nightly.back_up, desk), "the backup")
    _guarded(partial(nightly.shrink, desk), "shrinking the database")
    _guarded(partial(strays.sweep, desk), "stray jobs")
    _guarded(partial(uploads.tidy, desk), "uploaded files")
    _guarded(partial(carrying.sweep, desk), "models in use")


def step(desk: Desk, run: Run) -> None:
    """One step of one run."""
    match run.state:
        case "awaiting_approval":
            approving.expire_or_wait(desk, run)
        case "approved" | "creating" if run.cancel_asked_by:
            training.cancel_before_training(desk, run)
        case "approved" | "creating":
            training.create(desk, run)
        case "training":
            training.follow(desk, run)
        case "evaluating":
            evidence.evaluate(desk, run)
        case "done" | "rejected" | "expired" | "cancelled" | "failed" | "needs_human":
            pass
        case _:
            assert_never(run.state)


def _guarded(work: Callable[[], None], what: str, after_trouble: Callable[[], None] | None = None) -> None:
    """The tick's one boundary: a fault of ours is logged with what it was about, and the tick goes on."""
    heartbeat.step()
    with logs.referenced():
        try:
            work()
        except Exception:
            log.exception("%s: its step failed", what)
            if after_trouble:
                _guarded_once(after_trouble, what)


def _guarded_once(after_trouble: Callable[[], None], what: str) -> None:
    try:
        after_trouble()
    except Exception:
        log.exception("%s: even putting it off failed", what)


def _postpone(desk: Desk, run: Run) -> None:
    """Its card says so: it may stay like this until somebody mends the cause."""
    if run.state in UNDER_WAY:
        note = f"Something in the bot went wrong at this step; it is tried again. {logs.sorry()}"
        training.wait(desk, run, TROUBLE_PAUSE_S, note=note)
    else:
        desk.store.runs.move(run, run.state, now=desk.clock(), next_at=desk.clock() + TROUBLE_PAUSE_S)
