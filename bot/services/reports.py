"""The report of a run or a measurement: gathered from the store, written in a worker process (report_worker.py), and
put with the charts into the thread of the result, once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bot.cards import evaluation_results
from bot.cards import reports as cards
from bot.cards import results as result_cards
from bot.context import AppContext
from bot.rules.plans import Plan, plan_from_json
from bot.services import measurements, notifications
from bot.services.report_worker import MeasurementReport, RunReport, write
from bot.values.runs import Refusal, RunResult
from storage.records import Measurement, Run
from storage.store import Store
from trainers.evaluation.quality_threshold import rejudge_ladder
from trainers.evaluation.results import Ladder

DAY_S = 24 * 3600.0

log = logging.getLogger(__name__)


def measurement_report(store: Store, number: int) -> MeasurementReport | Refusal:
    measurement = store.measurements.get(number)
    if measurement is None or measurement.kind != "ladder":
        return Refusal(f"There is no measurement m{number} of alternatives.")
    if measurement.result is None:
        return Refusal(f"Measurement m{number} has no result to report: it is {measurement.state}.")
    return MeasurementReport(measurement, Ladder.from_json(measurement.result))


def run_report(store: Store, number: int) -> RunReport | Refusal:
    run = store.runs.get(number)
    if run is None:
        return Refusal(f"There is no run {number}.")
    if run.result is None:
        return Refusal(f"Run {number} has no result to report: it is {run.state.replace('_', ' ')}.")
    plan, result = plan_from_json(run.plan), RunResult.from_json(run.result)
    return RunReport(
        run,
        plan,
        result,
        _everything_measured(store, run, plan, result),
        notifications.actuals_of(run, plan, result),
        store.runs.standing(number),
        store.audit.entries(f"run {number}"),
    )


def find_unreported(context: AppContext) -> tuple[Run | None, Measurement | None]:
    """Returns the oldest run and the oldest measurement that have a result and no report yet."""
    since = context.clock() - DAY_S
    return context.store.runs.unreported(since), context.store.measurements.unreported(since)


def step(context: AppContext) -> None:
    """Puts the reports that wait once a worker has written them."""
    run, measurement = find_unreported(context)
    if run:
        gather = partial(run_report, context.store, run.id)
        if (page := _page(context, f"run-{run.id}", gather, _folder(context, run))) is not None:
            _put_run(context, run, page)
    if measurement:
        gather_other = partial(measurement_report, context.store, measurement.id)
        folder = measurements.folder_of(context, measurement)
        if (page := _page(context, f"m{measurement.id}", gather_other, folder)) is not None:
            _put_measurement(context, measurement, page)


def _page(
    context: AppContext,
    name: str,
    gather: Callable[[], RunReport | MeasurementReport | Refusal],
    folder: Path,
) -> list[Path] | None:
    """Returns None while a worker writes it, nothing if that failed: no fault of the page holds up its message."""
    key = f"report {name}"
    try:
        if context.workers.has(key):
            path: Path | None = context.workers.take(key)
        else:
            report = gather()
            if isinstance(report, Refusal):
                return []
            names = {person: context.directory.name(person) for person in report.people}
            plots, out = context.settings.data / "plots", folder / f"report-{name}.html"
            path = context.workers.poll(key, write, report, plots, names, out)
    except Exception:
        # whatever it is, `finetune report` in a terminal shows it again
        log.exception("writing the report of %s", name)
        return []
    return None if path is None else [path]


def _folder(context: AppContext, run: Run) -> Path:
    return context.settings.data / "plots" / f"run-{run.id}"


def _put_run(context: AppContext, run: Run, page: Sequence[Path]) -> None:
    plan = plan_from_json(run.plan)
    plots = (_folder(context, run) / f"{stem}.png" for stem in ("loss", "quality"))
    files = [(path, result_cards.alt_text(path.stem, plan)) for path in plots if path.exists()]
    files += [(path, cards.run_title(run, plan)) for path in page]
    comment = cards.run_notice(run, has_page=bool(page))
    card = notifications.result_card_of(run)
    with context.store.transaction():
        once = f"report of run {run.id}"
        notifications.put_files(
            context, card, run.channel, files, once=once, comment=comment, concerns=run.requester
        )
        notifications.show_progress(context, run)  # its card links to the result, which is posted by now


def _put_measurement(context: AppContext, measurement: Measurement, page: Sequence[Path]) -> None:
    ladder = Ladder.from_json(measurement.result or "")
    plot = measurements.folder_of(context, measurement) / "ladder.png"
    files = [(plot, evaluation_results.alt_text(ladder.dataset))] if plot.exists() else []
    files += [(path, cards.measurement_title(measurement, ladder)) for path in page]
    comment = cards.measurement_notice(measurement, ladder, has_page=bool(page))
    notifications.put_files(
        context,
        measurements.result_card_of(context, measurement),
        measurement.channel,
        files,
        once=f"report of measurement {measurement.id}",
        comment=comment,
        concerns=measurement.requested_by,
    )


def _everything_measured(store: Store, run: Run, plan: Plan, result: RunResult) -> Ladder | None:
    """Returns the newest measurement on the same held-out rows, with the tuned model, judged by the result's bar."""
    beside = result.ladder
    if beside is None:
        return None
    done = store.measurements.done((run.dataset_id,), "ladder")
    ladders = (Ladder.from_json(measurement.result) for measurement in done if measurement.result)
    ladder = next((each for each in ladders if each.holdout_sha256 == plan.holdout_sha256), None)
    if ladder is None:
        return beside
    tuned = beside.rung("tuned")
    return rejudge_ladder(replace(ladder, rungs=(*ladder.rungs, *tuned)), beside.bar)
