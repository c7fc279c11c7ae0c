"""Rows as token ids for an engine: the same tokens, and the same ones to learn, as the built-in engine has.

So no engine needs to know the model's chat template, nor the weights of turns.
"""

from __future__ import annotations

import json
from pathlib import Path

from trainers.local.training.data import Rows

IGNORED = -100  # torch's cross entropy skips it


def write_rows(path: Path, rows: Rows) -> None:
    """JSON lines with input_ids, attention_mask and labels. What stands behind a row's last answer is left out."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows.rows:
            ids = list(row.ids[: row.last_target + 1])
            labels = [each if learnt else IGNORED for each, learnt in zip(ids, row.supervised, strict=False)]
            line = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}
            file.write(json.dumps(line) + "\n")
