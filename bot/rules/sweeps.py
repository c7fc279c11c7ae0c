"""Hyperparameter sweeps as people type them: parsing, wording, who can run one, and which single values it
replaces."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from bot.rules.estimate_inputs import Question
from bot.rules.units import Misread
from trainers import hyperparameters
from trainers.hyperparameters import Sweep, Value
from trainers.types import Hyperparameter

EXAMPLE = "sweep=lora_r:8,16;learning_rate:0.0005,0.001"
NAMES = ("lora_r", "learning_rate", "lora_alpha", "lora_dropout", "batch_size")
OTHER_NAMES: Mapping[str, str] = {
    "r": "lora_r",
    "rank": "lora_r",
    "lr": "learning_rate",
    "rate": "learning_rate",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "batch": "batch_size",
}
WHOLE = re.compile(r"[0-9]{1,9}")
NUMBER = re.compile(r"[0-9]{0,9}(\.[0-9]{1,20})?(e-?[0-9]{1,2})?", re.ASCII)


def parse_sweep(text: str) -> Sweep | Misread:
    """'lora_r:8,16;learning_rate:5e-4,1e-3'."""
    found: list[tuple[str, tuple[Value, ...]]] = []
    for part in filter(None, text.lower().split(";")):
        name, colon, values = part.partition(":")
        known = OTHER_NAMES.get(name, name)
        if known not in NAMES:
            return Misread(f"“{name[:40]}” can't be swept.{_near(name)} Those that can: {', '.join(NAMES)}.")
        read = [_number(one) for one in filter(None, values.split(","))]
        if not colon or any(one is None for one in read):
            return Misread(f"I can't read “{part[:60]}”. Write it like {EXAMPLE}.")
        if known in dict(found):
            return Misread(f"“{known}” stands there twice. Write all its values once, like {EXAMPLE}.")
        found.append((known, tuple(one for one in read if one is not None)))
    wrong = hyperparameters.sweep_problem(tuple(found))
    return Misread(wrong[0]) if wrong else tuple(found)


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
    if question.engine not in (None, "builtin"):
        return f"`engine={question.engine}` can't sweep. Leave `engine=` out, or `sweep=`."
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


def _number(text: str) -> Value | None:
    if WHOLE.fullmatch(text):
        return int(text)
    return float(text) if text[:1] not in ("", "e") and NUMBER.fullmatch(text) else None


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, [*NAMES, *OTHER_NAMES], n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""
