"""Why a team wants to fine-tune: the kinds of task, in the phrases from which a person chooses. Judges nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

TaskKind = Literal[
    "style", "format", "classification", "extraction", "knowledge", "reasoning", "quality", "latency", "cost"
]

TASK_KINDS: Mapping[TaskKind, str] = {
    "style": "Write in our tone",
    "format": "Answer in a fixed format",
    "classification": "Sort texts into our own categories",
    "extraction": "Pull fields out of texts",
    "knowledge": "Know facts about our company",
    "reasoning": "Think better than today's model",
    "quality": "Get more answers right, even if it costs more",
    "latency": "Answer faster",
    "cost": "Do the same for less money",
}
_NAMES: tuple[TaskKind, ...] = get_args(TaskKind)


def task_kind(word: str) -> TaskKind | None:
    """What a person typed, as a kind; None where it is none of them."""
    wanted = word.strip().lower()
    return next((name for name in _NAMES if name == wanted), None)
