"""Writes a run or a measurement as one HTML page for people outside the channel, in a worker process. The page never
shows held-out rows."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bot.cards import reports as cards
from bot.charts.evaluations import draw_ladder
from bot.rules.calibration import Actual
from bot.rules.plans import Plan
from bot.values.runs import RunResult
from storage.records import Approval, AuditEntry, Measurement, Run
from trainers.evaluation.results import Ladder

_PERSON = re.compile(r"<@([A-Z0-9]+)>")


@dataclass(frozen=True)
class MeasurementReport:
    """A measurement with its ladder."""

    measurement: Measurement
    ladder: Ladder

    @property
    def people(self) -> frozenset[str]:
        """The Slack ids of the people on the page."""
        return frozenset({self.measurement.requested_by})

    def html(self, plots: Path, name_of: Callable[[str], str]) -> str:
        """`plots` is the folder of the bot's charts; `name_of` a person's id in Slack."""
        with tempfile.TemporaryDirectory() as folder:
            drawn = draw_ladder(self.ladder, Path(folder) / "ladder.png")
            return cards.measurement_report(self.measurement, self.ladder, drawn, name_of)


@dataclass(frozen=True)
class RunReport:
    """A run with its result. `ladder` is the newest measurement on the same held-out rows, with the tuned model
    added."""

    run: Run
    plan: Plan
    result: RunResult
    ladder: Ladder | None
    actuals: Sequence[Actual]
    approvals: Sequence[Approval]
    history: Sequence[AuditEntry]

    @property
    def people(self) -> frozenset[str]:
        """The Slack ids of the people on the page."""
        texts = [entry.detail or "" for entry in self.history]
        people = {self.run.requester, self.plan.uploaded_by, *_PERSON.findall(" ".join(texts))}
        return frozenset(
            people | {each.person for each in self.approvals} | {entry.who for entry in self.history}
        )

    def html(self, plots: Path, name_of: Callable[[str], str]) -> str:
        """`plots` is the folder of the bot's charts; `name_of` a person's id in Slack."""
        with tempfile.TemporaryDirectory() as folder:
            drawn = self._draw_ladder(plots, Path(folder) / "ladder.png")
            folders = (plots / f"run-{self.run.id}", plots / f"plan-{self.run.id}")
            drawn_before = [path for place in folders for path in sorted(place.glob("*.png"))]
            return cards.run_report(
                self.run,
                self.plan,
                self.result,
                ladder=self.ladder,
                actuals=self.actuals,
                approvals=self.approvals,
                history=self.history,
                plots=[*drawn_before, *([drawn] if drawn else [])],
                name_of=name_of,
            )

    def _draw_ladder(self, plots: Path, path: Path) -> Path | None:
        """Returns the result's own chart if nothing else was measured, else a new one. None without a ladder."""
        before = plots / f"run-{self.run.id}" / "quality.png"
        if self.ladder is None:
            return None
        if self.ladder == self.result.ladder and before.exists():
            return Path(shutil.copy(before, path))
        return draw_ladder(self.ladder, path)


def write(report: RunReport | MeasurementReport, plots: Path, names: Mapping[str, str], out: Path) -> Path:
    """Writes the page, in a worker process. `names` are people's names by their Slack ids."""
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_suffix(".new")  # replaced atomically: an earlier page may be on its way to Slack
    new.write_text(report.html(plots, lambda person: names.get(person, person)), encoding="utf-8")
    return new.replace(out)
