"""`finetune calibrate`: a child process measures this machine's speed, which estimates then use."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bot.results import Refusal
from bot.views.words import duration
from trainers.environment import child_environment
from trainers.presets import find_preset
from trainers.sizing.architecture import Architecture
from trainers.sizing.configs import Unsized, read_config
from trainers.sizing.timing import FILE, Calibration, Rows, read_calibration, seconds, serving_speed

BUSY = 0.5
EXAMPLE = Rows(count=1000, tokens=64, batch=8, epochs=1, shared=24)
EXAMPLES = ("smollm2-135m", "llama-3.2-1b", "llama-3.1-8b")


def calibrate(data: Path, budget_s: float, tell: Callable[[str], None]) -> Calibration | Refusal:
    """Measures for about `budget_s` seconds, and keeps what came out in `data`. `tell` hears how far it is."""
    if importlib.util.find_spec("torch") is None:
        return Refusal(
            "Measuring needs what training needs, the extra [local]: pip install 'finetune-bot[local]'"
        )
    command = [sys.executable, "-m", "trainers.local.calibrate", "--seconds", str(budget_s)]
    with tempfile.TemporaryFile("w+") as answer:
        child = subprocess.Popen(
            command,
            stdout=answer,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment(),
        )
        said = _followed(child, tell)
        answer.seek(0)
        text = answer.read()
    if child.returncode:
        return Refusal(f"The measuring process ended with code {child.returncode}: {said}. Nothing was kept.")
    return _kept(data, text)


def text(found: Calibration) -> str:
    """What was measured, and what it means for models that people know."""
    peaks = " and ".join(f"{_rate(speed)} in {name}" for name, speed in found.peaks.items())
    parts = [
        f"This machine trains at {_rate(found.speed)} in {found.number} on {found.device}, {found.threads} threads; "
        f"products of large matrices run at {peaks}.",
        "",
        f"One pass over {EXAMPLE.count:,} rows of {EXAMPLE.tokens:.0f} tokens, if nothing else is running:",
        *(f"  {name:<14} {duration(_example(name, found))}" for name in EXAMPLES),
    ]
    if speed := serving_speed(_model(EXAMPLES[0]), found):
        parts += [
            "",
            f"Asked 16 requests at a time (64 tokens in, 8 out), {EXAMPLES[0]} would read {speed[0]:,.0f} and write "
            f"{speed[1]:,.0f} tokens a second.",
        ]
    if found.load > BUSY:
        parts += [
            "",
            f"Other programs were at work while this was measured (load {found.load:.1f} a core): everything looks "
            "slower than on a quiet machine. Measure again when it is quiet.",
        ]
    return "\n".join(parts)


def _followed(child: subprocess.Popen[str], tell: Callable[[str], None]) -> str:
    """Its last line that is no progress."""
    last = "it said nothing"
    assert child.stderr is not None  # noqa: S101 - a pipe
    with child.stderr:
        for line in child.stderr:
            word, _, share = line.strip().partition(" ")
            if word == "progress":
                tell(f"measuring, {float(share):.0%}")
            elif line.strip():
                last = line.strip()
    child.wait()
    return last


def _kept(data: Path, text: str) -> Calibration:
    """By rename: a reader sees the old measurement or the new one."""
    data.mkdir(parents=True, exist_ok=True)
    temporary = data / f"{FILE}.tmp"
    temporary.write_text(text, encoding="utf-8")
    found = read_calibration(temporary)
    assert found is not None  # noqa: S101 - it was just written
    temporary.replace(data / FILE)
    return found


def _example(name: str, found: Calibration) -> float:
    return seconds(_model(name), EXAMPLE, found)


def _model(name: str) -> Architecture:
    preset = find_preset(name)
    assert preset is not None  # noqa: S101 - of presets.toml
    model = read_config(preset.config, name)
    assert not isinstance(model, Unsized)  # noqa: S101 - tests build every preset
    return model


def _rate(speed: float) -> str:
    return f"{speed / 1e9:,.0f} GFLOP/s" if speed < 1e12 else f"{speed / 1e12:,.1f} TFLOP/s"
