"""The report of a run or a measurement: gathered from the store, written in a worker process as one HTML page for
people outside the channel, and posted once, with the charts, in the thread of the result. A page never shows held-out
rows."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bot.cards.common.general import Attachment
from bot.cards.evidence import evaluation_results
from bot.cards.evidence.sealed_rows import SealedTest
from bot.cards.training import reports as cards
from bot.cards.training import results as result_cards
from bot.charts.evaluations import draw_comparison
from bot.context import AppContext
from bot.rules.judge_agreement import UNCHECKED, CheckedJudge
from bot.rules.plans import Plan, plan_from_json
from bot.rules.training.calibration import Actual
from bot.services.common import finished_measurements, messages
from bot.services.common.model_history import is_machine_stopped, load_after_result
from bot.services.datasets import sealed_rows
from bot.services.evidence import checked_judges, measurement_notes, notifications
from bot.services.evidence.measured_candidates import folder_of, known_comparison, load_measured
from bot.services.measurement import measurements
from bot.values.runs import AfterResult, Refusal, RunResult
from storage.records import COMPARISON, Approval, AuditEntry, Measurement, Run
from storage.store import Store
from trainers.evaluation.quality_threshold import rejudge_comparison
from trainers.evaluation.results import Comparison

DAY_S = 24 * 3600.0

log = logging.getLogger(__name__)


def measurement_report(store: Store, files: Path, number: int) -> MeasurementReport | Refusal:
    """Gathers the report of a measurement of alternatives; a learning curve has none."""
    measurement = store.measurements.get(number)
    if measurement is None or measurement.kind != COMPARISON:
        return Refusal(f"There is no measurement m{number} of alternatives.")
    if measurement.result is None:
        return Refusal(f"Measurement m{number} has no result to report: it is {measurement.state}.")
    comparison = known_comparison(store, files, measurement)
    judge = checked_judges.judge_for_page(store, measurement)
    people = judge.checks if judge else UNCHECKED
    return MeasurementReport(
        measurement,
        comparison,
        sealed_rows.load_test(store, measurement),
        judge,
        tuple(measurement_notes.card_notes(store, measurement, comparison, people)),
    )


def run_report(store: Store, files: Path, number: int) -> RunReport | Refusal:
    """Gathers the report of a run."""
    run = store.runs.get(number)
    if run is None:
        return Refusal(f"There is no run {number}.")
    if run.result is None:
        return Refusal(f"Run {number} has no result to report: it is {run.state.replace('_', ' ')}.")
    plan = plan_from_json(run.plan)
    result = checked_judges.with_checks_for_page(store, plan, RunResult.from_json(run.result))
    return RunReport(
        run,
        plan,
        result,
        load_after_result(store, run, plan, result),
        is_machine_stopped(store, run, plan),
        _everything_measured(store, files, run, plan, result),
        notifications.actuals_of(run, plan, result),
        store.runs.valid_approvals(number),
        store.audit.entries(f"run {number}"),
    )


def find_unreported(context: AppContext) -> tuple[Run | None, Measurement | None]:
    """Returns the oldest run and the oldest measurement of the last day that have a result and no report yet."""
    since = context.clock() - DAY_S
    # One that a newer version stored waits for that version, and the others are reported meanwhile.
    readable = filter(finished_measurements.is_readable, context.store.measurements.unreported(since))
    return context.store.runs.unreported(since), next(readable, None)


def step(context: AppContext) -> None:
    """Has a worker write the reports that are missing, and posts them once they are written."""
    files = context.settings.files
    run, measurement = find_unreported(context)
    if run:
        gather = partial(run_report, context.store, files, run.id)
        pages = _write_page(context, f"run-{run.id}", gather, _folder(context, run))
        if pages is not None:
            _post_run(context, run, pages)
    if measurement:
        gather_other = partial(measurement_report, context.store, files, measurement.id)
        pages = _write_page(context, f"m{measurement.id}", gather_other, folder_of(context, measurement))
        if pages is not None:
            _post_measurement(context, measurement, pages)


def _write_page(
    context: AppContext,
    name: str,
    gather: Callable[[], RunReport | MeasurementReport | Refusal],
    folder: Path,
) -> list[Path] | None:
    """Returns the page that a worker wrote, None while it is at work. Returns no page if writing it failed, so that the
    message with the charts is posted without it."""
    key = f"report {name}"
    try:
        if context.workers.has(key):
            path: Path | None = context.workers.take(key)
        else:
            report = gather()
            if isinstance(report, Refusal):
                return []
            names = {person: context.directory.name(person) for person in report.people}
            out = folder / f"report-{name}.html"
            path = context.workers.poll(key, write_page, report, context.settings.data, names, out)
    except Exception:
        # Whatever went wrong, the charts are worth posting without the page. `finetune report` in a terminal shows the
        # same error again.
        log.exception("writing the report of %s", name)
        return []
    if path is None:
        return None
    return [path]


def _folder(context: AppContext, run: Run) -> Path:
    return context.settings.data / "plots" / f"run-{run.id}"


def _post_run(context: AppContext, run: Run, pages: Sequence[Path]) -> None:
    plan = plan_from_json(run.plan)
    assert run.result is not None  # noqa: S101 - those to report have one
    result = RunResult.from_json(run.result)
    folder = _folder(context, run)
    files = []
    for stem in (*result_cards.TRAINING_CHARTS, "quality"):
        path = folder / f"{stem}.png"
        if path.exists():
            files.append(result_cards.chart(path, plan, result))
    title = cards.run_title(run, plan)
    files += [Attachment(path, title) for path in pages]
    with context.store.transaction():
        messages.put_files(
            context,
            notifications.result_card_of(run),
            run.channel,
            files,
            topic="results",
            once=f"report of run {run.id}",
            comment=cards.run_notice(run, has_page=bool(pages)),
            concerns=run.requester,
        )
        # The run's card links to the result, which is posted by now.
        notifications.show_progress(context, run)


def _post_measurement(context: AppContext, measurement: Measurement, pages: Sequence[Path]) -> None:
    comparison = known_comparison(context.store, context.settings.files, measurement)
    plot = folder_of(context, measurement) / "comparison.png"
    files = []
    if plot.exists():
        files.append(evaluation_results.chart(plot, comparison))
    title = cards.measurement_title(measurement, comparison)
    files += [Attachment(path, title) for path in pages]
    test = sealed_rows.load_test(context.store, measurement)
    comment = cards.measurement_notice(measurement, comparison, test, has_page=bool(pages))
    headline = cards.measurement_headline(measurement, comparison, test)
    with context.store.transaction():
        messages.put_files(
            context,
            measurements.result_card_of(context, measurement),
            measurement.channel,
            files,
            topic="results",
            once=f"report of measurement {measurement.id}",
            comment=comment,
            concerns=measurement.requested_by,
        )
        measurements.tell_result_directly(context, measurement, headline)


def _everything_measured(
    store: Store, files: Path, run: Run, plan: Plan, result: RunResult
) -> Comparison | None:
    """Returns all that was measured on the same held-out rows with the tuned model added, judged by the result's bar.
    Without a measurement: the result's own comparison, None if it has none."""
    beside = result.comparison
    if beside is None:
        return None
    measured = load_measured(store, files, plan.dataset, plan.holdout_sha256, beside.bar)
    if measured is None:
        return beside
    comparison = measured.comparison
    tuned = beside.of_kind("tuned")
    for candidate in tuned:
        if candidate.scoring != comparison.scoring or candidate.n != comparison.n:
            return beside
    with_tuned = replace(comparison, candidates=(*comparison.candidates, *tuned))
    return rejudge_comparison(with_tuned, beside.bar)


_PERSON = re.compile(r"<@([A-Z0-9]+)>")


@dataclass(frozen=True)
class MeasurementReport:
    """A measurement. `comparison` has everything that was known on its held-out rows when it ended, `sealed` is what it
    decided if its rows were sealed. `judge` is the model whose verdicts are the scores, and `notes` are the sentences
    of the result's card."""

    measurement: Measurement
    comparison: Comparison
    sealed: SealedTest | None = None
    judge: CheckedJudge | None = None
    notes: tuple[str, ...] = ()

    @property
    def people(self) -> frozenset[str]:
        """The Slack ids of the people on the page."""
        return frozenset({self.measurement.requested_by})

    def draw(self, folder: Path) -> None:
        """Draws the chart that is posted beside the page."""
        draw_comparison(self.comparison, folder / "comparison.png")

    def html(self, data: Path, name_of: Callable[[str], str]) -> str:
        """`data` is the bot's data folder; `name_of` gives a person's name by their id in Slack."""
        with tempfile.TemporaryDirectory() as folder:
            drawn = draw_comparison(self.comparison, Path(folder) / "comparison.png")
            return cards.measurement_report(
                self.measurement,
                self.comparison,
                drawn,
                name_of,
                test=self.sealed,
                judge=self.judge,
                notes=self.notes,
            )


@dataclass(frozen=True)
class RunReport:
    """A run with its result, and what happened to its model `after` that. `is_stopped` is True if the machine that
    serves it is stopped. `comparison` has everything that was measured on the same held-out rows, with the tuned model
    added."""

    run: Run
    plan: Plan
    result: RunResult
    after: AfterResult
    is_stopped: bool
    comparison: Comparison | None
    actuals: Sequence[Actual]
    approvals: Sequence[Approval]
    history: Sequence[AuditEntry]

    @property
    def people(self) -> frozenset[str]:
        """The Slack ids of the people on the page."""
        people = {self.run.requester, self.plan.uploaded_by}
        people |= {approval.person for approval in self.approvals}
        for entry in self.history:
            people.add(entry.who)
            people.update(_PERSON.findall(entry.detail or ""))
        return frozenset(people)

    def draw(self, folder: Path) -> None:
        """Draws nothing: the charts of a run were drawn with its result."""

    def html(self, data: Path, name_of: Callable[[str], str]) -> str:
        """`data` is the bot's data folder; `name_of` gives a person's name by their id in Slack."""
        plots = data / "plots"
        with tempfile.TemporaryDirectory() as folder:
            drawn = self._draw_comparison(plots, Path(folder) / "comparison.png")
            folders = (plots / f"run-{self.run.id}", plots / f"plan-{self.run.id}")
            pictures = [path for folder in folders for path in sorted(folder.glob("*.png"))]
            if drawn is not None:
                pictures.append(drawn)
            return cards.run_report(
                self.run,
                self.plan,
                self.result,
                after=self.after,
                is_stopped=self.is_stopped,
                comparison=self.comparison,
                actuals=self.actuals,
                approvals=self.approvals,
                history=self.history,
                plots=pictures,
                name_of=name_of,
            )

    def _draw_comparison(self, plots: Path, path: Path) -> Path | None:
        """Returns the result's own chart if nothing else was measured, else a new one. None without a comparison."""
        before = plots / f"run-{self.run.id}" / "quality.png"
        if self.comparison is None:
            return None
        if self.comparison == self.result.comparison and before.exists():
            return Path(shutil.copy(before, path))
        return draw_comparison(self.comparison, path)


def write_page(
    report: RunReport | MeasurementReport, data: Path, names: Mapping[str, str], out: Path
) -> Path:
    """Writes the page and its charts, in a worker process. `data` is the bot's data folder, `names` are people's names
    by their Slack ids."""
    out.parent.mkdir(parents=True, exist_ok=True)
    report.draw(out.parent)
    new = out.with_suffix(".new")  # replaced atomically: an earlier page may be on its way to Slack
    page = report.html(data, lambda person: names.get(person, person))
    new.write_text(page, encoding="utf-8")
    return new.replace(out)
