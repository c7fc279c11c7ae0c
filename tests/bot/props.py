"""What the stories are played with: sixty tickets of three labels, and two models that answer them."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

from bot.services.dataset_worker import SEED
from trainers.dataset import Columns, Report, check_file

LABELS = ("billing", "shipping", "refund")
TUNED = ("ft:", "ftmodel-", "ml_", "accounts/acme/models/")  # as vendors begin the names of tuned models


def answer(model: str, messages: list[dict[str, Any]]) -> str:
    """A base model that always says 'billing'; a tuned one that has learnt what the text says."""
    if not model.startswith(TUNED):
        return "billing"
    return next(label for label in LABELS if label in messages[-1]["content"])


def tickets_csv(rows: int = 60) -> str:
    sheet = io.StringIO()
    writer = csv.writer(sheet)
    writer.writerow(["text", "label"])
    for number in range(rows):
        label = LABELS[number % 3]
        writer.writerow([f"Order {number * 37}: a question about {label}, and {number} more words", label])
    return sheet.getvalue()


_known: dict[int, tuple[Report, Path]] = {}


def checked_tickets(files: Path, rows: int = 60) -> Report:
    """The report of `tickets_csv`, made once; its files are copied to where the bot keeps them."""
    if rows not in _known:
        folder = files.parents[3] / f"checked-{rows}"
        folder.mkdir(exist_ok=True)
        source = folder / "tickets.csv"
        source.write_text(tickets_csv(rows), encoding="utf-8")
        _known[rows] = check_file(source, source.name, Columns(None, None), folder, SEED), folder
    report, folder = _known[rows]
    for digest in (report.train_sha256, report.holdout_sha256):
        shutil.copy(folder / f"{digest}.jsonl", files)
    return report
