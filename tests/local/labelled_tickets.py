"""Labelled tickets that an encoder can tell apart, and jobs that train on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
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

# Names that mean nothing to an encoder.
HALLS = {
    "north": ("zorvex", "quilban", "fermit", "jaxolo", "brindel", "tovask", "ulmira", "peskon"),
    "south": ("kelvar", "wumbit", "drasno", "hixeta", "lorpan", "gevrik", "olsuna", "mitrab"),
}


def machines(count: int) -> tuple[tuple[str, str], ...]:
    """Questions that name a machine, labelled with its hall."""
    halls = [(list(HALLS)[number % 2], number // 2 % 8) for number in range(count)]
    return tuple(
        (f"Please look at machine {HALLS[hall][place]}, it is report {number}.", hall)
        for number, (hall, place) in enumerate(halls)
    )


def tickets(count: int) -> bytes:
    labels = [list(PROBLEMS)[number % 3] for number in range(count)]
    return chats(
        [
            (f"Order {number}: {PROBLEMS[label][number // 3 % 3]}", label)
            for number, label in enumerate(labels)
        ]
    )


def chats(pairs: Sequence[tuple[str, str]]) -> bytes:
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Sort this support ticket."},
                {"role": "user", "content": question},
                {"role": "assistant", "content": label},
            ]
        }
        for question, label in pairs
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def encoder_job(
    folder: Path,
    method: MethodName = "head",
    *,
    base: str = DEFAULT_ENCODER,
    rows: bytes | None = None,
    settings: Parameters | None = None,
) -> Path:
    """Returns the folder of a waiting job."""
    folder.mkdir(parents=True)
    path = folder / "train.jsonl"
    path.write_bytes(rows or tickets(60))
    return make_job(folder, Path(base), path, settings or Parameters(), method=method)
