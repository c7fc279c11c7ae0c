"""Tickets that an encoder can tell apart, and jobs on them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.local.runs import make_job
from trainers.encoders import DEFAULT_ENCODER
from trainers.methods import MethodName, Parameters

ENCODER = f"minilm-encoder={DEFAULT_ENCODER}"
PROBLEMS = {
    "billing": (
        "my card was charged twice",
        "the invoice shows the wrong amount",
        "please refund my payment",
    ),
    "shipping": ("the parcel has not arrived", "the courier lost my package", "when is it delivered"),
    "login": ("I can't sign in", "my password is not accepted", "the reset link does not work"),
}


def tickets(count: int) -> bytes:
    rows = []
    for number in range(count):
        label = list(PROBLEMS)[number % 3]
        question = f"Order {number}: {PROBLEMS[label][number // 3 % 3]}"
        rows.append(
            {
                "messages": [
                    {"role": "system", "content": "Sort this support ticket."},
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": label},
                ]
            }
        )
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def encoder_job(
    folder: Path,
    method: MethodName = "head",
    *,
    base: str = DEFAULT_ENCODER,
    rows: bytes | None = None,
    settings: Parameters | None = None,
) -> Path:
    """The folder of a job that waits."""
    folder.mkdir(parents=True)
    path = folder / "train.jsonl"
    path.write_bytes(rows or tickets(60))
    return make_job(folder, Path(base), path, settings or Parameters(), method=method)
