"""Runs in LLaMA-Factory's environment: `python rows.py rows/train.jsonl [rows/valid.jsonl]` writes tokenized/.

Our own environment can't write it, because the format on disk differs between versions of `datasets`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import Dataset, DatasetDict


def rows(path: str) -> Dataset:
    with Path(path).open(encoding="utf-8") as file:
        return Dataset.from_list([json.loads(line) for line in file])


if __name__ == "__main__":
    names = ("train", "validation")
    parts = {name: rows(path) for name, path in zip(names, sys.argv[1:], strict=False)}
    DatasetDict(parts).save_to_disk("tokenized")
