"""What is open, runs and measurements together, and what came out lately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.views import freezing, measurements, models, runs
from bot.views.blocks import Block, Message, context, header, listed, section
from bot.views.measurements import MeasurementLook
from bot.views.models import Shelved
from bot.views.runs import Look
from bot.views.words import counted
from storage.freezes import Freeze


@dataclass(frozen=True)
class Status:
    """`latest`: those that have a result, newest first. `freeze`: the one that stands, and who spoke against it.
    `in_use`: models, by dataset."""

    runs: Sequence[Look]
    measurements: Sequence[MeasurementLook]
    latest: Sequence[Look | MeasurementLook]
    freeze: Freeze | None = None
    against: Sequence[str] = ()
    in_use: Sequence[Shelved] = ()


def card(status: Status) -> Message:
    lines = [*map(runs.entry, status.runs), *map(measurements.entry, status.measurements)]
    frozen = [section(freezing.standing(status.freeze, status.against))] if status.freeze else []
    if not lines and not status.latest and not frozen and not status.in_use:
        text = (
            "Nothing is running. `/finetune baseline DATASET` measures alternatives, "
            "`/finetune start DATASET` starts a run."
        )
        return Message(text, (section(text),))
    title = _title(status)
    numbers = "`/finetune results 7` shows a run, `/finetune results m3` a measurement."
    below = (*_list(lines), *_in_use(status), *_latest(status), context(numbers))
    return Message(title, (header(title), *frozen, *below))


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


def _in_use(status: Status) -> list[Block]:
    lines = [models.in_use(one) for one in status.in_use]
    return [section("*Models in use*"), listed(lines)] if lines else []


def _latest(status: Status) -> list[Block]:
    return [section("*Latest results*"), listed([*map(entry, status.latest)])] if status.latest else []
