"""Rows to train on: reads them, finds what is wrong with them, reserves the holdout. No Slack and no SQL.

rows           rows, columns, caps: the words used below
checks         a finding: line, severity, code, sentence, cure
file_format, jsonl, tables, table_files, preference_pairs
               what a file is, and each record of it: a row or a fault
reader         a file: its rows and faults, one by one
fast_scan, row_facts, stored_rows
               the first pass: a few facts a row; rows again by their places
file_checks    what is wrong with the file as a whole: one function a check
sensitive_data, near_duplicates, slow_checks
               secrets and personal data, near copies, labels that look wrong
splits, versions
               train and holdout, also of later versions
token_counts   tokens of the whole file
clean_copy     a cleaned file
report         all of it in one call
"""

from trainers.dataset.checks import Finding, LabelCount, Severity
from trainers.dataset.reader import Reading, read
from trainers.dataset.report import NO_MODELS, Report, check_file, sha256_of
from trainers.dataset.rows import (
    CLASSIFY,
    DEFAULT_LIMITS,
    Choices,
    Columns,
    Example,
    Format,
    Limits,
    Task,
    lists_labels,
    normalised,
    prompted,
    with_system,
)
from trainers.dataset.splits import Shared, Split, overlap, split, store_chat
from trainers.dataset.token_counts import TokenReport
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
    "lists_labels",
    "normalised",
    "overlap",
    "prompted",
    "read",
    "sha256_of",
    "split",
    "store_chat",
    "with_system",
]
