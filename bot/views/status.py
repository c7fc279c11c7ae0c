"""What is open, runs and measurements together, and what came out lately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.views import freezing, measurements, runs
from bot.views.blocks import Block, Message, context, header, listed, section
from bot.views.measurements import MeasurementLook
from bot.views.runs import Look
from bot.views.words import counted
from storage.freezes import Freeze


@dataclass(frozen=True)
class Status:
    """`latest`: those that have a result, newest first. `freeze`: the one that stands, and who spoke against it."""

    runs: Sequence[Look]
    measurements: Sequence[MeasurementLook]
    latest: Sequence[Look | MeasurementLook]
    freeze: Freeze | None = None
    against: Sequence[str] = ()


def card(status: Status) -> Message:
    lines = [*map(runs.entry, status.runs), *map(measurements.entry, status.measurements)]
    frozen = [section(freezing.standing(status.freeze, status.against))] if status.freeze else []
    if not lines and not status.latest and not frozen:
        text = (
            "Nothing is running. `/finetune baseline DATASET` measures alternatives, "
            "`/finetune start DATASET` starts a run."
        )
        return Message(text, (section(text),))
    title = _title(status)
    numbers = "`/finetune results 7` shows a run, `/finetune results m3` a measurement."
    return Message(title, (header(title), *frozen, *_list(lines), *_latest(status), context(numbers)))


def entry(one: Look | MeasurementLook) -> str:
    return runs.entry(one) if isinstance(one, Look) else measurements.entry(one)


def _title(status: Status) -> str:
    open_ones = [
        *([counted(len(status.runs), "run")] if status.runs else []),
        *([counted(len(status.measurements), "measurement")] if status.measurements else []),
    ]
    return f"{' and '.join(open_ones)} open" if open_ones else "Nothing is running"


def _list(lines: Sequence[str]) -> list[Block]:
    return [listed(lines)] if lines else []


def _latest(status: Status) -> list[Block]:
    return [section("*Latest results*"), listed([*map(entry, status.latest)])] if status.latest else []
