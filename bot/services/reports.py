"""A run or a measurement as one page for those who were not in the channel. Held-out rows are never on it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bot.cards import reports as cards
from bot.charts.evaluations import draw_ladder
from bot.rules.plans import Plan, plan_from_json
from bot.services.notifications import actuals_of
from bot.values.runs import Refusal, RunResult
from storage.records import Run
from storage.store import Store
from trainers.evaluation.quality_threshold import rejudge_ladder
from trainers.evaluation.results import Ladder


def measurement_report(store: Store, number: int, name_of: Callable[[str], str]) -> str | Refusal:
    """HTML of what was measured on held-out rows. `name_of` a person's id in Slack."""
    measurement = store.measurements.get(number)
    if measurement is None or measurement.kind != "ladder":
        return Refusal(f"There is no measurement m{number} of alternatives.")
    if measurement.result is None:
        return Refusal(f"Measurement m{number} has no result to report: it is {measurement.state}.")
    ladder = Ladder.from_json(measurement.result)
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_ladder(ladder, Path(folder) / "ladder.png")
        return cards.measurement_report(measurement, ladder, drawn, name_of)


def run_report(store: Store, plots: Path, number: int, name_of: Callable[[str], str]) -> str | Refusal:
    """HTML. `plots` is the folder of the bot's charts; `name_of` a person's id in Slack."""
    run = store.runs.get(number)
    if run is None:
        return Refusal(f"There is no run {number}.")
    if run.result is None:
        return Refusal(f"Run {number} has no result to report: it is {run.state.replace('_', ' ')}.")
    plan, result = plan_from_json(run.plan), RunResult.from_json(run.result)
    ladder = _everything_measured(store, run, plan, result)
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_ladder(ladder, Path(folder) / "ladder.png") if ladder else None
        drawn_before = [
            path for name in (f"run-{number}", f"plan-{number}") for path in (plots / name).glob("*.png")
        ]
        return cards.run_report(
            run,
            plan,
            result,
            ladder=ladder,
            actuals=actuals_of(run, plan, result),
            approvals=store.runs.standing(number),
            history=store.audit.entries(f"run {number}"),
            plots=[*drawn_before, *([drawn] if drawn else [])],
            name_of=name_of,
        )


def _everything_measured(store: Store, run: Run, plan: Plan, result: RunResult) -> Ladder | None:
    """The newest measurement on the same held-out rows, with the tuned model; all judged by the result's bar."""
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
