"""Preference pairs about support tickets, in OpenAI's form: the right label before the wrong one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

QUESTIONS = {"billing": "my card was charged twice", "shipping": "the parcel has not arrived"}


def pair(
    chosen: str = "billing",
    rejected: str = "shipping",
    question: str = "my card was charged twice",
    **more: Any,
) -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": question}]},
        "preferred_output": [{"role": "assistant", "content": chosen}],
        "non_preferred_output": [{"role": "assistant", "content": rejected}],
        **more,
    }


def pairs(count: int, start: int = 0, *, is_wrong: bool = False) -> bytes:
    """JSONL, in which `is_wrong` prefers the wrong label."""
    lines = []
    for number in range(start, start + count):
        right, wrong = list(QUESTIONS)[:: 1 if number % 2 else -1]
        answers = (wrong, right) if is_wrong else (right, wrong)
        lines.append(json.dumps(pair(*answers, question=f"{QUESTIONS[right]} ({number})")))
    return "\n".join(lines).encode()


def write_pairs(path: Path, count: int, start: int = 0, *, is_wrong: bool = False) -> Path:
    path.write_bytes(pairs(count, start, is_wrong=is_wrong))
    return path
