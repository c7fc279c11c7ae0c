"""Computes and prints `finetune models advise`: which known base model to train for a task, by size, licence, and the
memory and time that training takes on a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bot.cards.common.words import duration
from bot.cli.hardware import EXAMPLE, find_machine
from bot.values.runs import Refusal
from trainers.models.base_models import Base, Preset, find_base, presets
from trainers.sizing.hardware import Fit, Machine, adapt_to_memory, check_fit
from trainers.sizing.memory import Method, Work, with_forced_checkpoints
from trainers.sizing.training_time import (
    CALIBRATION_FILE,
    Calibration,
    InvalidCalibration,
    RowLengths,
    guess_calibration,
    read_calibration,
    training_seconds,
)

Task = Literal["labels", "texts"]
FREE = ("Apache 2.0", "MIT")
# Typical rows: a text with a label, and a letter with its reply. Both checkpoint, so that LoRA and QLoRA compare.
WORK: Mapping[Task, Work] = {
    "labels": Work("lora", length=256, batch=8, answer=8, checkpoints=True),
    "texts": Work("lora", length=2048, batch=8, answer=512, checkpoints=True),
}
# What the time of a pass is for: rows like those of `finetune calibrate`, and letters with their replies.
ROWS: Mapping[Task, RowLengths] = {
    "labels": EXAMPLE,
    "texts": replace(EXAMPLE, tokens=512, answer=256),
}
# Parameters. A rule of thumb, as no model card tells how a model does on a team's own rows.
FEWEST: Mapping[Task, float] = {"labels": 0.3e9, "texts": 3e9}
MOST: Mapping[Task, float] = {"labels": 5e9, "texts": 15e9}
MOST_ON_A_CPU = 2e9  # larger models take days there, even if they fit
NONE: Mapping[str, str] = {
    "gpu": "name a larger GPU with --gpu",
    "cpu": "a model that is large enough takes days without a GPU. Name one with --gpu, or rent one (target=hf/NAME)",
}
REASONS = {
    "labels": "A rule of thumb: labels need no large model. Start small, and try a larger one if it scores too low.",
    "texts": "A rule of thumb: texts need a larger model than labels do. Take the largest up to 15B that fits.",
}


@dataclass(frozen=True)
class Offer:
    """A model, and how it `fits` by "lora" and "qlora". Its size and licence come from the model card at `source`.
    `pass_s` are the seconds of one pass over ROWS, None if the machine's speed is unknown."""

    preset: Preset
    fits: Mapping[Method, Fit]
    pass_s: float | None = None

    @property
    def method(self) -> Method | None:
        """The first method that fits, LoRA before QLoRA; None if neither does."""
        return next((method for method, each in self.fits.items() if each.standing == "fits"), None)

    @property
    def source(self) -> str:
        return f"https://huggingface.co/{self.preset.hub_id}"


@dataclass(frozen=True)
class Advice:
    """`offers` are ordered from the smallest to the largest. `first` is the recommended one, None if none fits.
    `speed` is what the times are computed from, None if it is unknown; a guess has no day of measurement."""

    task: Task
    machine: Machine
    offers: Sequence[Offer]
    first: Offer | None
    speed: Calibration | None
    is_this_machine: bool


def advise(task: Task, gpu: str | None, data: Path | None, *, free: bool) -> Advice | Refusal:
    """`gpu` is a name or its memory in GB; None means this machine, whose measured speed is in the folder `data`.
    `free` leaves only Apache 2.0 and MIT."""
    machine = find_machine(gpu)
    if isinstance(machine, Refusal):
        return machine
    measured = None
    if gpu is None and data is not None:
        try:
            measured = read_calibration(data / CALIBRATION_FILE)
        except InvalidCalibration as problem:
            return Refusal(str(problem))
    speed = measured or guess_calibration(machine)
    listed = [preset for preset in presets() if not free or preset.licence in FREE]
    by_size = sorted(listed, key=lambda preset: preset.parameters)
    offers = [_offer(preset, task, machine, speed) for preset in by_size]
    first = _recommended(task, machine, offers)
    return Advice(task, machine, offers, first, speed, is_this_machine=gpu is None)


def _recommended(task: Task, machine: Machine, offers: Sequence[Offer]) -> Offer | None:
    """The smallest model that is large enough for labels, the largest that is not too large for texts; a licence
    without conditions comes first."""
    most = MOST[task]
    if machine.place.kind == "cpu":
        most = min(most, MOST_ON_A_CPU)
    able = [offer for offer in offers if offer.method and FEWEST[task] <= offer.preset.parameters <= most]
    if not able:
        return None
    best = [offer for offer in able if offer.preset.licence in FREE] or able
    if task == "labels":
        return best[0]
    return best[-1]


def _offer(preset: Preset, task: Task, machine: Machine, speed: Calibration | None) -> Offer:
    # Presets bring their configuration, so this works without a network.
    base = find_base(preset.hub_id, ask_the_hub=False)
    assert isinstance(base, Base)  # noqa: S101 - tests build every preset
    work = WORK[task]
    wanted: dict[Method, Work] = {"lora": work, "qlora": replace(work, method="qlora")}
    fits = {}
    for method, each in wanted.items():
        adapted = adapt_to_memory(base.architecture, each, machine)
        fits[method] = check_fit(base.architecture, adapted, machine)
    return Offer(preset, fits, _pass_seconds(base, task, machine, speed))


def _pass_seconds(base: Base, task: Task, machine: Machine, speed: Calibration | None) -> float | None:
    """Returns the seconds of one pass. Unlike memory, time is that without checkpointing if the trainer can do
    without."""
    if speed is None:
        return None
    work = adapt_to_memory(base.architecture, replace(WORK[task], checkpoints=False), machine)
    recomputes = with_forced_checkpoints(base.architecture, work).checkpoints
    return training_seconds(base.architecture, replace(ROWS[task], recomputes=recomputes), speed)


def advice_text(advice: Advice) -> str:
    # If nothing fits, all are listed: their memory shows how far away they are.
    fitting = [offer for offer in advice.offers if offer.method]
    rows: list[tuple[str, ...]] = [("model", "size", "licence", "context", "LoRA", "QLoRA", "a pass", "")]
    rows += [_row(offer) for offer in fitting or advice.offers]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())

    notes = []
    if advice.first:
        notes.append(_next_step(advice.first))
    if advice.machine.place.kind == "cpu":
        notes.append(
            "• Without a GPU, none larger than 2B is recommended: it would take days until one is good."
        )
    n_larger = len(advice.offers) - len(fitting)
    if fitting and n_larger:
        notes.append(f"• {n_larger} others need more memory; --json lists them too.")
    notes += [
        _time_note(advice),
        "• A pass is for LoRA; in 4 bits it takes longer. A training has one to ten of them, the more the fewer rows.",
        "• LoRA and QLoRA: peak memory in GB, with checkpointing; `finetune plan-memory MODEL` shows its parts.",
        "• Sizes and licences: from https://huggingface.co/MODEL. Gated models: accept their terms there first.",
        "• Only a measurement shows how good a model is on your rows: one run each, on the same held-out rows.",
    ]
    return "\n".join([_recommendation(advice), REASONS[advice.task], "", *lines, "", *notes])


def _time_note(advice: Advice) -> str:
    """What the times are for, and how certain they are."""
    rows = ROWS[advice.task]
    what = f"• A pass: the time to train once on {rows.count:,} rows of {rows.tokens:g} tokens"
    if advice.speed is None and advice.is_this_machine:
        return f"{what}. It is unknown: `finetune calibrate` measures this machine's speed in half a minute."
    if advice.speed is None:
        return f"{what}. It is unknown for a GPU without a name: name it, like --gpu rtx4090."
    if advice.speed.measured_at:
        day = datetime.fromtimestamp(advice.speed.measured_at, UTC).date()
        return f"{what}, if nothing else is running, from this machine's speed as measured on {day}."
    guess = f"{what}, guessed: it may be a third or three times as much"
    if advice.is_this_machine:
        return f"{guess}. `finetune calibrate` measures this machine's speed in half a minute."
    return f"{guess}."


def _recommendation(advice: Advice) -> str:
    first = advice.first
    purpose = f"{advice.task} on {advice.machine.name}"
    if first is None:
        return f"No model is recommended for {purpose}: {NONE[advice.machine.place.kind]}."
    about = f"{_size(first.preset)}, {first.preset.licence}"
    start = f"For {purpose}, start with {first.preset.aliases[0]} ({about})"
    if first.method == "qlora":
        start += " in 4 bits (quantization=nf4)"
    return f"{start}."


def _next_step(first: Offer) -> str:
    name = first.preset.aliases[0]
    command = f"/finetune estimate DATASET target=local/{name}"
    if first.method == "qlora":
        command += " quantization=nf4"
    return f'• Next: add "{name}" = "{first.preset.hub_id}" under [trainer.models] in finetune.toml, and type {command}'


def _row(offer: Offer) -> tuple[str, ...]:
    preset = offer.preset
    licence = preset.licence
    if preset.is_gated:
        licence += ", gated"
    needs = (f"{each.needed / 1e9:,.1f}" for each in offer.fits.values())
    fits = {"lora": "fits", "qlora": "fits in 4 bits", None: ""}[offer.method]
    takes = "unknown"
    if offer.pass_s is not None:
        takes = duration(offer.pass_s)
    return (preset.hub_id, _size(preset), licence, f"{preset.context:,}", *needs, takes, fits)


def _size(preset: Preset) -> str:
    return f"{preset.parameters / 1e9:.2f}B"


def advice_json(advice: Advice) -> dict[str, Any]:
    first = None
    if advice.first:
        first = advice.first.preset.hub_id
    rows = ROWS[advice.task]
    return {
        "task": advice.task,
        "machine": advice.machine.name,
        "pass": {"rows": rows.count, "tokens": rows.tokens, "speed": _speed_source(advice.speed)},
        "first": first,
        "reason": REASONS[advice.task],
        "models": [
            {
                "model": offer.preset.hub_id,
                "aliases": offer.preset.aliases,
                "parameters": offer.preset.parameters,
                "licence": offer.preset.licence,
                "gated": offer.preset.is_gated,
                "context": offer.preset.context,
                "bytes": {method: each.needed for method, each in offer.fits.items()},
                "fits": offer.method,
                "pass_seconds": offer.pass_s,
                "source": offer.source,
            }
            for offer in advice.offers
        ],
    }


def _speed_source(speed: Calibration | None) -> str | None:
    if speed is None:
        return None
    if speed.measured_at:
        return "measured"
    return "guessed"
