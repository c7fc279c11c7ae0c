"""Recorded calls that somebody uploads instead of rows: what they say for an estimate, and their questions as rows
to label. Runs in a worker process; no model is called.

Questions with a secret are left out, and placeholders stand for personal data, as people will read them in Slack.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import orjson

from bot.cards.datasets.traces import TracedUpload, TraceImport, facts_of_upload
from bot.services.datasets.traces import TraceChoice, import_traces
from bot.values.runs import Refusal
from trainers.dataset import Example
from trainers.dataset.clean_copy import FORMULA_STARTS
from trainers.dataset.file_format import HEAD_BYTES
from trainers.dataset.reader import Questions
from trainers.traces.reader import detect
from trainers.types import Message

LABEL_COLUMN = "label"
TEXT_COLUMN = "text"


@dataclass(frozen=True)
class QuestionTable:
    """A CSV at `out` with `rows` questions and an empty column for their labels. `formulas` of them begin like a
    spreadsheet's formula."""

    out: Path
    rows: int
    formulas: int


def is_traced(path: Path) -> bool:
    """True if the file has recorded calls, by its content. Raises OSError as open() does."""
    with path.open("rb") as file:
        return detect(file.read(HEAD_BYTES)) is not None


def read_upload(path: Path, name: str) -> TracedUpload | None:
    """Returns what the calls of an uploaded file say, None if it has none that can be read."""
    imported = _read(path, name)
    if imported is None or isinstance(imported, Refusal):
        return None
    return facts_of_upload(imported)


def read_questions(path: Path, name: str) -> Questions | Refusal | None:
    """Returns the different questions of recorded calls as rows without labels; None if the file has no such calls."""
    imported = _read(path, name)
    if imported is None or isinstance(imported, Refusal):
        return imported
    examples = []
    for line, text in enumerate(_texts(imported), 1):
        examples.append(Example(line, (Message("user", text), Message("assistant", ""))))
    if not examples:
        return Refusal(f"'{imported.file.name}' has no call with a question of a single turn.")
    calls = imported.group_facts.calls
    return Questions(tuple(examples), calls - len(examples))


def write_table(path: Path, name: str, out: Path) -> QuestionTable | Refusal | None:
    """Writes the questions at `out`, to be labelled in a spreadsheet; None if the file has no recorded calls. Raises
    OSError as open() does."""
    questions = read_questions(path, name)
    if questions is None or isinstance(questions, Refusal):
        return questions
    texts = [example.prompt[-1].content for example in questions.examples]
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([TEXT_COLUMN, LABEL_COLUMN])
        writer.writerows([text, ""] for text in texts)
    formulas = sum(text.startswith(FORMULA_STARTS) for text in texts)
    return QuestionTable(out, len(texts), formulas)


def _read(path: Path, name: str) -> TraceImport | Refusal | None:
    if not is_traced(path):
        return None
    return import_traces(path, name, TraceChoice(masks=True))


def _texts(imported: TraceImport) -> list[str]:
    return [str(orjson.loads(line)["text"]) for line in imported.rows.lines]
