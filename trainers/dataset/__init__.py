"""Training data: reads rows, reports problems with them, and reserves the holdout. Knows neither Slack nor SQL.

rows           rows, columns and limits: the terms used below
checks         findings: line, severity, code, message, cure
conversion, file_format
               other encodings and JSON layouts; recognises texts, splits them into lines
jsonl, tables, table_columns, preference_pairs
               parse one record: a row or a fault
formats        the formats of files, a line each in formats/__init__.py
reader         all rows and faults of a file, one by one
fast_scan, row_facts
               the first pass: a few facts per row, and access to rows by number
file_checks    checks of the file as a whole, one function each
sensitive_data, near_duplicates, slow_checks
               secrets and personal data, near copies, labels that look wrong
splits, versions
               training rows and holdout, also for later versions
token_counts   tokens of the whole file
clean_copy     writes a cleaned file
report         everything in one call
"""

from trainers.dataset.checks import Finding as Finding
from trainers.dataset.checks import LabelCount as LabelCount
from trainers.dataset.checks import Severity as Severity
from trainers.dataset.reader import Reading as Reading
from trainers.dataset.reader import read as read
from trainers.dataset.report import NO_MODELS as NO_MODELS
from trainers.dataset.report import CheckSettings as CheckSettings
from trainers.dataset.report import Report as Report
from trainers.dataset.report import check_file as check_file
from trainers.dataset.rows import CLASSIFY as CLASSIFY
from trainers.dataset.rows import DEFAULT_LIMITS as DEFAULT_LIMITS
from trainers.dataset.rows import Choices as Choices
from trainers.dataset.rows import Columns as Columns
from trainers.dataset.rows import Example as Example
from trainers.dataset.rows import Format as Format
from trainers.dataset.rows import Limits as Limits
from trainers.dataset.rows import Task as Task
from trainers.dataset.rows import lists_labels as lists_labels
from trainers.dataset.rows import normalise_text as normalise_text
from trainers.dataset.rows import prompt_with_labels as prompt_with_labels
from trainers.dataset.rows import with_system as with_system
from trainers.dataset.splits import Split as Split
from trainers.dataset.splits import overlap as overlap
from trainers.dataset.splits import split as split
from trainers.dataset.splits import store_chat as store_chat
from trainers.dataset.token_counts import TokenReport as TokenReport
from trainers.dataset.versions import Diff as Diff
from trainers.dataset.versions import Previous as Previous

PUBLIC_MODULES = (
    "checks",
    "clean_copy",
    "conversion",
    "file_checks",
    "file_format",
    "formats",
    "formats.text_files",
    "jsonl",
    "near_duplicates",
    "preference_pairs",
    "reader",
    "rows",
    "sensitive_data",
    "slow_checks",
    "splits",
    "tables",
    "token_counts",
    "versions",
)
