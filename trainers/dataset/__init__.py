"""Rows to train on: read them, find what is wrong with them, reserve the holdout. No Slack and no SQL.

values.py      rows, columns, caps: the words used below
findings.py    a finding: line, severity, code, sentence, cure
sniffing.py    what is this file, by its bytes
jsonl.py       one line of JSONL → a row or a fault
columns.py     which column is the text, which the label
table.py       CSV → rows
reading.py     a file → rows and faults
checks.py      rows together: size, copies, contradictions, labels
sensitive.py   secrets and personal data
prompting.py   instructions around a question
splitting.py   train and holdout
report.py      all of it in one call
"""

from trainers.dataset.checks import LabelCount, count_labels, task_of
from trainers.dataset.findings import Finding, Severity
from trainers.dataset.prompting import CLASSIFY, lists_labels, prompted, with_system
from trainers.dataset.reading import Reading, read
from trainers.dataset.report import NO_MODELS, Report, TokenReport, check_file, sha256_of
from trainers.dataset.splitting import Shared, Split, overlap, split, store_chat, write_chat
from trainers.dataset.values import (
    DEFAULT_LIMITS,
    Choices,
    Columns,
    Example,
    Format,
    Limits,
    Task,
    normalised,
)

__all__ = [
    "CLASSIFY",
    "DEFAULT_LIMITS",
    "NO_MODELS",
    "Choices",
    "Columns",
    "Example",
    "Finding",
    "Format",
    "LabelCount",
    "Limits",
    "Reading",
    "Report",
    "Severity",
    "Shared",
    "Split",
    "Task",
    "TokenReport",
    "check_file",
    "count_labels",
    "lists_labels",
    "normalised",
    "overlap",
    "prompted",
    "read",
    "sha256_of",
    "split",
    "store_chat",
    "task_of",
    "with_system",
    "write_chat",
]
