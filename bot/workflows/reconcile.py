"""One tick: reads what is not final and moves each one step. A kill at any line loses nothing.

Whatever may speak to a provider is done in that provider's own thread (bot/provider_threads.py), and each file comes
from Slack in a thread of its own; the tick itself waits for none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import assert_never

from bot import heartbeat, logs
from bot.tuned_curves import TunedCurvePlan, plan_of
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
    following,
    forgetting,
    linking,
    models,
    nightly,
    retention,
    scanning,
    strays,
    training,
    uploads,
)
from bot.workflows.desk import Desk
from bot.workflows.measuring import curves, knowledge, ladder
from storage.promotions import Promotion
from storage.records import OPEN_RUN_STATES, Dataset, Document, Measurement, Run, RunState

TROUBLE_PAUSE_S = 30.0
LONGEST_S = 10.0  # of a provider's thread, step under way apart
WITHOUT_A_PROVIDER: tuple[RunState, ...] = ("awaiting_approval",)
AT_A_PROVIDER: tuple[RunState, ...] = tuple(one for one in OPEN_RUN_STATES if one not in WITHOUT_A_PROVIDER)

log = logging.getLogger(__name__)


def reconcile(desk: Desk) -> None:
    """Everything that is due, each behind its own guard: one broken thing holds up no other."""
    now = desk.clock()
    for dataset in desk.store.datasets.due(now):
        if dataset.state == "received":
            desk.threads.begin(f"dataset {dataset.id}", partial(_fetch_dataset, desk, dataset))
        else:
            _step_dataset(desk, dataset)
    for document in desk.store.documents.due(now):
        if document.sha256 is None:
            desk.threads.begin(f"document {document.id}", partial(_fetch_document, desk, document))
        else:
            _step_document(desk, document)
    for sha256, scanner in desk.store.scans.wanted():
        _guarded(partial(scanning.step, desk, sha256, scanner), f"the scan of {sha256}")
    for measurement in desk.store.measurements.due(now):
        if _provider_of(measurement) is None:
            _measure(desk, measurement)
    for run in desk.store.runs.due(now, WITHOUT_A_PROVIDER):
        if not _is_at_its_provider(run):
            _step(desk, run)
    _guarded(partial(_begin_at_providers, desk, now), "what is due at providers")
    _guarded(partial(linking.link, desk), "links between plans")
    _guarded(partial(budgets.warn, desk), "the budget's warning")
    for wish in desk.store.cleanings.waiting():
        _guarded(partial(cleaning.step, desk, wish), f"cleaning {wish.id}")
    _guarded(partial(cleaning.tidy, desk), "cleaned files")
    for kept in desk.store.estimates.wanted():
        _guarded(partial(estimates.step, desk, kept), f"estimate {kept.id}")
    if desk.store.forgettings.open(now):  # trainers that don't answer hold up nothing else
        desk.threads.begin("deletions", partial(_forget, desk, now))
    for ask in desk.store.questions.waiting():
        _guarded(partial(models.step, desk, ask), f"ask {ask.id}")


def _fetch_dataset(desk: Desk, dataset: Dataset) -> None:
    if desk.store.datasets.get(dataset.id) == dataset:  # no thread before this one has fetched it meanwhile
        _step_dataset(desk, dataset)


def _step_dataset(desk: Desk, dataset: Dataset) -> None:
    after_trouble = partial(datasets.after_trouble, desk, dataset)
    _guarded(partial(datasets.step, desk, dataset), f"dataset {dataset.id}", after_trouble)


def _fetch_document(desk: Desk, document: Document) -> None:
    if desk.store.documents.get(document.id) == document:
        _step_document(desk, document)


def _step_document(desk: Desk, document: Document) -> None:
    after_trouble = partial(knowledge.after_trouble, desk, document)
    _guarded(partial(knowledge.step, desk, document), f"document {document.id}", after_trouble)


def _forget(desk: Desk, now: float) -> None:
    for forgotten in desk.store.forgettings.open(now):
        after_trouble = partial(forgetting.after_trouble, desk, forgotten)
        _guarded(partial(forgetting.step, desk, forgotten), f"forgetting {forgotten.id}", after_trouble)


def _begin_at_providers(desk: Desk, now: float) -> None:
    for provider in _with_something_due(desk, now):
        desk.threads.begin(provider, partial(at_provider, desk, provider))


def at_provider(desk: Desk, provider: str) -> None:
    """What is due at one provider, in its thread. Wishes come first, and what is left over is due at the next tick:
    so nobody's cancel waits for all else, however long it takes."""
    until = time.monotonic() + LONGEST_S
    for work in _due_at(desk, provider, desk.clock()):
        if desk.threads.is_closing or time.monotonic() > until:
            return
        work()


def _due_at(desk: Desk, provider: str, now: float) -> Iterator[Callable[[], None]]:
    due = desk.store.runs.due(now, OPEN_RUN_STATES)
    runs = [run for run in due if run.provider == provider and _is_at_its_provider(run)]
    wished = [run for run in runs if run.cancel_asked_by or run.wish]
    train = [run for run in runs if run.state == "training" and run not in wished]
    others = [run for run in runs if run.state != "training" and run not in wished]
    for run in (*wished, *others):
        yield partial(_step_if_unmoved, desk, run)
    for run in following.to_look_at(desk, train):
        yield partial(_step_if_unmoved, desk, run)
    for measurement in desk.store.measurements.due(now):
        if _provider_of(measurement) == provider:
            yield partial(_measure, desk, measurement)
    for number in desk.store.doubts.runs_with_words():
        if _provider_of_run(desk, number) == provider:
            yield partial(_guarded, partial(doubts.step, desk, number), f"the doubt of run {number}")
    for promotion in desk.store.promotions.to_carry(now):
        if carrying.provider_of(desk, promotion) == provider:
            yield partial(_carry, desk, promotion)


def _with_something_due(desk: Desk, now: float) -> list[str]:
    """Names of providers, those too whose key has gone."""
    names = desk.store.runs.providers_due(now, AT_A_PROVIDER)
    names |= {
        run.provider for run in desk.store.runs.due(now, WITHOUT_A_PROVIDER) if _is_at_its_provider(run)
    }
    names |= {_provider_of_run(desk, number) for number in desk.store.doubts.runs_with_words()}
    names |= {carrying.provider_of(desk, promotion) for promotion in desk.store.promotions.to_carry(now)}
    curves_due = (_provider_of(measurement) for measurement in desk.store.measurements.due(now))
    return sorted(names | {name for name in curves_due if name is not None})


def _is_at_its_provider(run: Run) -> bool:
    """A plan that waits for people is, once: its provider is asked whether it may train at all."""
    return run.state != "awaiting_approval" or run.tries == 0


def _provider_of(measurement: Measurement) -> str | None:
    """None where its step speaks to no provider: a ladder's questions have threads of their own."""
    plan = plan_of(measurement.plan) if measurement.kind == "curve" else None
    return plan.provider if isinstance(plan, TunedCurvePlan) else None


def _provider_of_run(desk: Desk, number: int) -> str:
    run = desk.store.runs.get(number)
    if run is None:
        raise KeyError(number)
    return run.provider


def _measure(desk: Desk, measurement: Measurement) -> None:
    kind = curves if measurement.kind == "curve" else ladder
    after_trouble = partial(kind.after_trouble, desk, measurement)
    _guarded(partial(kind.step, desk, measurement), f"measurement {measurement.id}", after_trouble)


def _step_if_unmoved(desk: Desk, run: Run) -> None:
    """Steps before it may have taken long: what somebody has wished meanwhile counts."""
    now = desk.store.runs.get(run.id)
    if now is not None and now.state == run.state:
        _step(desk, now)


def _step(desk: Desk, run: Run) -> None:
    _guarded(partial(step, desk, run), f"run {run.id}", partial(_postpone, desk, run))


def _carry(desk: Desk, promotion: Promotion) -> None:
    after_trouble = partial(carrying.after_trouble, desk, promotion)
    _guarded(partial(carrying.step, desk, promotion), f"promotion {promotion.id}", after_trouble)


def look_after(desk: Desk) -> None:
    """What may take long and can wait: every few minutes."""
    _guarded(partial(nightly.check, desk), "the check of the database")
    _guarded(partial(nightly.back_up, desk), "the backup")
    _guarded(partial(nightly.shrink, desk), "shrinking the database")
    _guarded(partial(nightly.ask_for_ends, desk), "when models end")
    _guarded(partial(retention.sweep, desk), "what is kept no longer")
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
