"""Rows to train on: read them, find what is wrong with them, reserve the holdout. No Slack and no SQL.

values.py      rows, columns, caps: the words used below
findings.py    a finding: line, severity, code, sentence, cure
sniffing.py    what is this file, by its bytes
lines.py       a file's lines, some hundred at a time
jsonl.py       one line of JSONL → a row or a fault
preferences.py a preference pair → its answers or a fault
columns.py     which column is the text, which the label
table.py       a table's records → rows
sheets.py      .xlsx → records (unpacking.py: after a look at how big it would get)
parquet.py     Parquet → rows
reading.py     a file → rows and faults, one by one
shapes.py      what a row's roles alone tell
scanning.py    JSONL → chunks of rows, quickly
facts.py       what is kept of each row: numbers and a hash
intake.py      the first pass: a file → facts
checks.py      rows together: size, copies, contradictions, labels
sensitive.py   secrets, personal data, marks of chat templates
prompting.py   instructions around a question
splitting.py   train and holdout
versions.py    train and holdout of a later version
parts.py       which of these rules is followed
stored.py      rows read again by their place, and the two files
near.py        near copies (shingles.py, sets.py)
doubts.py      labels that are probably wrong
deep.py        both of them over a file
cleaning.py    a cleaned file
counting.py    tokens of the whole file
report.py      all of it in one call
"""

from trainers.dataset.checks import LabelCount, count_labels, task_of
from trainers.dataset.counting import TokenReport
from trainers.dataset.findings import Finding, Severity
from trainers.dataset.prompting import CLASSIFY, lists_labels, prompted, with_system
from trainers.dataset.reading import Reading, read
from trainers.dataset.report import NO_MODELS, Report, check_file, sha256_of
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
from trainers.dataset.versions import Diff, Previous

__all__ = [
    "CLASSIFY",
    "DEFAULT_LIMITS",
    "NO_MODELS",
    "Choices",
    "Columns",
    "Diff",
    "Example",
    "Finding",
    "Format",
    "LabelCount",
    "Limits",
    "Previous",
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
