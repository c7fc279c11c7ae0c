"""The stories' data: sixty tickets with three labels, and two models that answer them."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

from bot.services.datasets.dataset_worker import SEED
from trainers.dataset import Columns, Report, check_file

LABELS = ("billing", "shipping", "refund")
TUNED = (
    "ft:",
    "ftmodel-",
    "ml_",
    "accounts/acme/models/",
)  # the beginnings of tuned models' names, by vendor


def answer(model: str, messages: list[dict[str, Any]]) -> str:
    """The base model always says 'billing'; a tuned one repeats the label that the text names."""
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


_checked: dict[int, tuple[Report, Path]] = {}


def checked_tickets(files: Path, rows: int = 60) -> Report:
    """The report on `tickets_csv`, which is checked once. Copies the two parts to the bot's `files`."""
    if rows not in _checked:
        folder = files.parents[3] / f"checked-{rows}"
        folder.mkdir(exist_ok=True)
        source = folder / "tickets.csv"
        source.write_text(tickets_csv(rows), encoding="utf-8")
        _checked[rows] = check_file(source, source.name, Columns(None, None), folder, SEED), folder
    report, folder = _checked[rows]
    for digest in (report.train_sha256, report.holdout_sha256):
        shutil.copy(folder / f"{digest}.jsonl", files)
    return report
