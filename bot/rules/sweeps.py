"""Hyperparameter sweeps as people type them: parsing, wording, who can run one, and which single values it
replaces."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from bot.rules.estimate_inputs import Question
from bot.rules.units import Misread
from trainers import hyperparameters, methods
from trainers.hyperparameters import Sweep, Value
from trainers.types import Hyperparameter

EXAMPLE = "sweep=lora_r:8,16;learning_rate:0.0005,0.001"
# Of what a sweep may vary, the numbers that people choose; a plan costs one number of epochs.
NAMES = tuple(
    spec.name
    for spec in methods.options().values()
    if spec.declared.sweeps and spec.is_number and spec.name != "n_epochs"
)
OTHER_NAMES: Mapping[str, str] = {
    other: name for name in NAMES for other in methods.SWEEPABLE[name].declared.other_names
}


def parse_sweep(text: str) -> Sweep | Misread:
    """'lora_r:8,16;learning_rate:5e-4,1e-3'."""
    entries: list[tuple[str, tuple[Value, ...]]] = []
    for part in filter(None, text.lower().split(";")):
        name, colon, values = part.partition(":")
        existing = OTHER_NAMES.get(name, name)
        if existing not in NAMES:
            return Misread(f"“{name[:40]}” can't be swept.{_near(name)} Those that can: {', '.join(NAMES)}.")
        numbers = [methods.parse_number(number) for number in filter(None, values.split(","))]
        if not colon or any(number is None for number in numbers):
            return Misread(f"I can't read “{part[:60]}”. Write it like {EXAMPLE}.")
        if existing in dict(entries):
            return Misread(f"“{existing}” stands there twice. Write all its values once, like {EXAMPLE}.")
        entries.append((existing, tuple(number for number in numbers if number is not None)))
    problem = methods.sweep_problem(tuple(entries))
    return Misread(problem[0]) if problem else tuple(entries)


def format_sweep(sweep: Sweep) -> str:
    """What `read_sweep` reads as this sweep again."""
    return ";".join(f"{name}:{','.join(map(str, values))}" for name, values in sweep)


def describe_sweep(sweep: Sweep) -> str:
    """'lora_r 8 or 16, learning_rate 5e-4 or 1e-3'."""
    return ", ".join(f"{name} {' or '.join(map(format_value, values))}" for name, values in sweep)


def format_value(value: Value) -> str:
    """With three digits, small ones by their power: '0.1', '5e-4'. Text that is no number stays as it is."""
    try:
        amount = float(value)
    except ValueError:
        return str(value)
    if not 0 < amount < 0.01:
        return f"{amount:.3g}"
    digits, power = f"{amount:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def arm_count_text(sweep: Sweep) -> str:
    return f" of {len(hyperparameters.combinations(sweep))} arms, by halving" if sweep else ""


def refusal(question: Question, title: str, *, can_sweep: bool) -> str | None:
    """Why this can't be swept there."""
    if not question.sweep:
        return None
    if not can_sweep:
        return (
            f"`sweep=` needs our own trainer, and {title} trains one set of hyperparameters a job. Leave it out, or "
            "choose a target that starts with `local/`."
        )
    engine = question.chosen.get("engine", methods.BUILTIN)
    if engine != methods.BUILTIN:
        return f"`engine={engine}` can't sweep. Leave `engine=` out, or `sweep=`."
    twice = next((name for name, _ in question.sweep if name in question.chosen), None)
    if twice:
        return f"`{methods.option_of(twice)}=` is given singly and in the sweep. Say it in one of the two places."
    if question.patience is not None:
        return "A sweep stops its weaker arms itself: leave `patience=` out, or `sweep=`."
    return None


def without_swept(
    chosen: Mapping[str, Hyperparameter], sweep: Sweep, fixed: Mapping[str, Hyperparameter]
) -> dict[str, Hyperparameter]:
    """Single values beside a sweep. lora_alpha follows lora_r, twice as large, unless it is `fixed`."""
    swept = {name for name, _ in sweep}
    if "lora_r" in swept and "lora_alpha" not in fixed:
        swept.add("lora_alpha")
    return {name: value for name, value in chosen.items() if name not in swept}


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, [*NAMES, *OTHER_NAMES], n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""
