"""The work of labelling that is done in worker processes: choosing the rows to label, and writing the next version's
file with the answers. The deletion of rows writes its version's table here too."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import orjson

from bot.cards.datasets import row_labels as views
from bot.services.datasets import traced_questions
from bot.services.datasets.dataset_worker import FULL_LIST, SEED, examples
from bot.values.runs import Refusal
from trainers.dataset import Columns, Example, Report, read
from trainers.dataset.conversion import open_converted
from trainers.dataset.reader import Questions, Reading, read_questions
from trainers.dataset.rows import INSTRUCTION_ROLES, question_key
from trainers.dataset.sensitive_data import find_sensitive_rows
from trainers.dataset.splits import chat_row, store_chat
from trainers.encoders import EncoderError
from trainers.encoders.embedding import load_encoder
from trainers.evaluation.results import Reply
from trainers.evaluation.row_choice import (
    ChosenRow,
    choose_doubted,
    choose_unlabelled,
    exclude_known_questions,
)
from trainers.evaluation.scores import read_label
from trainers.types import Message

TEXT = "text"
LABEL = "label"


@dataclass(frozen=True)
class QuestionFile:
    """A file of unlabelled rows. `column` is the text column if it is a table, else None. `sheet` is the only sheet of
    a workbook to read, None if nobody has chosen one."""

    path: Path
    name: str
    column: str | None
    sheet: str | None = None


@dataclass(frozen=True)
class DatasetParts:
    """A version's parts in the folder `files`."""

    files: Path
    train_sha256: str
    holdout_sha256: str
    sealed_sha256: str | None

    @classmethod
    def of(cls, files: Path, report: Report) -> DatasetParts:
        return cls(
            files=files,
            train_sha256=str(report.train_sha256),
            holdout_sha256=str(report.holdout_sha256),
            sealed_sha256=report.sealed_sha256,
        )

    @property
    def train(self) -> tuple[Example, ...]:
        return examples(self.files, self.train_sha256)

    @property
    def set_aside(self) -> tuple[Example, ...]:
        """The holdout and the sealed part."""
        rows = examples(self.files, self.holdout_sha256)
        if self.sealed_sha256:
            rows += examples(self.files, self.sealed_sha256)
        return rows


@dataclass(frozen=True)
class RowChoice:
    """The rows to label. `left_out` lines of the file have no text, or repeat a question of the dataset."""

    rows: tuple[ChosenRow, ...]
    left_out: int = 0


@dataclass(frozen=True)
class VersionFile:
    """A version's file, as it was uploaded or written. `system` are the instructions that the check puts before a
    table's rows, None for files of chats."""

    files: Path
    sha256: str
    name: str
    columns: Columns
    system: str | None


@dataclass(frozen=True)
class DecidedRow:
    """What a batch decided about a row whose label was `given`, None if it had none: its `label`, or None to drop it.
    `key` is its question_key in hexadecimal. `teacher` is the model that labelled it, None if people did."""

    key: str
    text: str
    given: str | None
    label: str | None
    teacher: str | None = None

    @property
    def changes(self) -> bool:
        return self.label != self.given


@dataclass(frozen=True)
class OvertakenRow:
    """A decided row that is left as it is, because its label is no longer the one that was shown. `line` is where it
    begins in the version's file, None if that version no longer has it."""

    key: str
    line: int | None


@dataclass(frozen=True)
class WrittenFile:
    """The next version's file. `sha256` is None if no row would differ, so that none was written. `already` are the
    keys of rows that had the decided label before. `before` is the file that it was made from."""

    sha256: str | None
    columns: Columns
    overtaken: tuple[OvertakenRow, ...] = ()
    already: frozenset[str] = frozenset()
    before: str = ""


@dataclass(frozen=True)
class LabelledText:
    text: str
    label: str
    teacher: str | None = None


@dataclass(frozen=True)
class TeacherQuestions:
    """A file of chats for a teacher to answer. `left_out` lines were left out, `sensitive` of them for personal data or
    a secret."""

    sha256: str
    rows: int
    left_out: int
    sensitive: int


@dataclass(frozen=True)
class TaughtRow:
    """A row with people's label of the same question (`given`) and the teacher's (`label`); None if there is none, or
    the teacher's answer is not one of the labels."""

    key: str
    text: str
    given: str | None
    label: str | None


def choose(
    dataset: str, parts: DatasetParts, file: QuestionFile | None, count: int, encoder: str
) -> RowChoice | Refusal:
    """Chooses rows to label, from the file or, without one, from the training rows whose label is in doubt."""
    try:
        if file is None:
            rows = choose_doubted(parts.train, count, SEED, load_encoder(encoder))
            if not rows:
                return Refusal(views.no_doubted_rows(dataset))
            return RowChoice(rows)
        questions = _read_questions(file)
        if isinstance(questions, Refusal):
            return questions
        fresh = exclude_known_questions(questions.examples, parts.train, parts.set_aside)
        if not fresh:
            return Refusal(views.no_new_rows(file.name))
        rows = choose_unlabelled(fresh, parts.train, count, SEED, load_encoder(encoder))
        n_known = len(questions.examples) - len(fresh)
        return RowChoice(rows, questions.unread + n_known)
    except EncoderError as error:
        return Refusal(str(error))


def _read_questions(file: QuestionFile) -> Questions | Refusal:
    """Reads rows without labels, or the questions of recorded calls."""
    traced = traced_questions.read_questions(file.path, file.name)
    if traced is not None:
        return traced
    questions = read_questions(file.path, file.name, file.column, file.sheet)
    if isinstance(questions, str):
        return Refusal(questions)
    return questions


def stand_in(labels: Collection[str]) -> str:
    """Returns what stands for the answer that is not known yet, since a chat must have one: none of the labels."""
    answer = "?"
    while answer in labels:
        answer += "?"
    return answer


def write_questions(
    parts: DatasetParts, file: QuestionFile, names: Sequence[str], *, leaves: bool, presidio: bool
) -> TeacherQuestions | Refusal:
    """Writes the file's rows as chats for a teacher to answer with one of the labels `names`. New questions can become
    training rows; questions that a training row asks too are included with its label, for comparison. With `leaves` the
    teacher runs elsewhere, so rows with personal data or a secret are left out."""
    questions = _read_questions(file)
    if isinstance(questions, Refusal):
        return questions
    train = parts.train
    labels = {question_key(row): row.answer.strip() for row in train}
    labelled: dict[bytes, Example] = {}  # one row of each question, however often the file asks it
    for row in questions.examples:
        key = question_key(row)
        if key in labels:
            labelled[key] = row
    new = exclude_known_questions(questions.examples, train, parts.set_aside)
    rows = [*new, *labelled.values()]
    sensitive = frozenset[int]()
    if leaves:
        sensitive = find_sensitive_rows(rows, presidio=presidio)
        rows = [row for index, row in enumerate(rows) if index not in sensitive]
    if all(question_key(row) in labels for row in rows):
        return Refusal(views.no_new_rows(file.name, len(sensitive)))
    systems = Counter(row.system for row in train)
    (system, _), *_ = systems.most_common(1)
    unknown = stand_in(names)
    chats = []
    for row in rows:
        label = labels.get(question_key(row), unknown)
        text = LabelledText(_question_text(row), label)
        chats.append(_as_chat(text, system))
    left_out = questions.unread + len(questions.examples) - len(rows)
    sha256 = store_chat(parts.files, chats)
    return TeacherQuestions(sha256, len(chats), left_out, len(sensitive))


def read_teacher(
    files: Path, sha256: str, labels: Sequence[str], replies: Sequence[Reply]
) -> tuple[TaughtRow, ...]:
    """Reads a teacher's answers to the rows that `write_questions` wrote."""
    rows = examples(files, sha256)
    unknown = stand_in(labels)
    taught = []
    for row, reply in zip(rows, replies, strict=True):
        of_people = None
        if row.answer != unknown:
            of_people = row.answer
        label = None
        if reply.text.strip():
            label = read_label(reply.text, labels)
        key = question_key(row).hex()
        taught.append(TaughtRow(key, _question_text(row), of_people, label))
    return tuple(taught)


def write_version(before: VersionFile, decided: Sequence[DecidedRow]) -> WrittenFile:
    """Writes the next version's file: the rows of the version `before` with the decided labels, then the new rows. Rows
    that still have no label stay in the file, so that they can be labelled later.

    `before` may be newer than the version that people were shown. A row whose label has changed since is left as it is:
    the newer label may be a correction.

    A table becomes JSON objects with a text and a label, without the instructions that a check puts before them;
    anything else becomes chats. The same answers give the same bytes.
    """
    path = before.files / before.sha256
    reading = read(path, before.name, columns=before.columns, limits=FULL_LIST)
    rows_by_key = _labelled_rows(reading.examples)
    applied = []
    already = set()
    overtaken = []
    for row in decided:
        current = rows_by_key.get(row.key, [])
        standing = _standing(row, current)
        if standing == "overtaken":
            line = current[0].line if current else None
            overtaken.append(OvertakenRow(row.key, line))
        elif standing == "already":
            already.add(row.key)
        elif row.changes:
            applied.append(row)
    sha256 = None
    if applied:
        sha256 = _store_version(before, reading, applied)
    columns = Columns(TEXT, LABEL)
    if before.system is None:
        columns = Columns()
    return WrittenFile(
        sha256=sha256,
        columns=columns,
        overtaken=tuple(overtaken),
        already=frozenset(already),
        before=before.sha256,
    )


def _labelled_rows(rows: Iterable[Example]) -> dict[str, list[Example]]:
    """Returns the rows by their question_key in hexadecimal. Rows with tools are left out: their answer may be a call,
    so nobody is asked for its label."""
    rows_by_key: dict[str, list[Example]] = {}
    for row in rows:
        if not row.uses_tools:
            key = question_key(row).hex()
            rows_by_key.setdefault(key, []).append(row)
    return rows_by_key


def _standing(row: DecidedRow, current: Sequence[Example]) -> Literal["open", "already", "overtaken"]:
    """Compares what was decided with the version's rows of the same question."""
    labels = {other.answer.strip() for other in current}
    if row.given is None and not labels:
        return "open"
    if row.given is None:
        # Somebody has labelled the row since, in another batch or in an upload.
        return "already" if row.label in labels else "overtaken"
    if not labels:
        # Somebody has deleted the row since.
        return "already" if row.label is None else "overtaken"
    if labels == {row.label}:
        return "already"
    # Copies of a question may have different labels: it is enough if one has the label that was shown.
    if labels.isdisjoint({row.given, row.label}):
        return "overtaken"
    return "open"


def _store_version(before: VersionFile, reading: Reading, decided: Sequence[DecidedRow]) -> str:
    """Stores the reading's rows with the decided labels, and then the new rows. Returns the file's sha256."""
    labels: dict[str, str | None] = {}
    added = []
    for decision in decided:
        if decision.given is not None:
            labels[decision.key] = decision.label
        elif decision.label is not None:
            added.append(LabelledText(decision.text, decision.label, decision.teacher))
    rows = []
    unchanged = set()
    for row in reading.examples:
        changed = _apply_label(row, labels)
        if changed is not None:
            rows.append(changed)
        if changed is row:
            unchanged.add(row.line)

    if before.system is None:
        system = ""
        if rows:
            systems = Counter(row.system for row in rows)
            (system, _), *_ = systems.most_common(1)
        written = _chat_lines(before, unchanged)
        chats = [written.get(row.line) or chat_row(row) for row in rows]
        chats += [_chat_line(row, system) for row in added]
        return store_lines(before.files, chats)
    labelled = set(labels)  # dropped rows too, which must not come back as unlabelled ones
    labelled.update(key_of_text(row.text).hex() for row in added)
    labelled.update(question_key(row).hex() for row in rows)
    objects: list[Mapping[str, str | None]] = []
    objects += map(_row_object, rows)
    objects += map(_as_object, added)
    objects += _unlabelled_objects(reading, labelled)
    return store_lines(before.files, map(orjson.dumps, objects))


def _chat_lines(before: VersionFile, numbers: Collection[int]) -> dict[int, bytes]:
    """Returns these lines of the file as they stand there, if they are chats. Written in another way, a held-out row
    would be another one, and nothing that was measured could be compared any more."""
    lines = {}
    with open_converted(before.files / before.sha256, FULL_LIST) as converted:
        converted.file.seek(0)
        for number, line in enumerate(converted.file, 1):
            if number not in numbers or not line.lstrip().startswith(b"{"):
                continue
            if "messages" in orjson.loads(line):
                lines[number] = line.rstrip()
    return lines


def write_table(
    name: str, source: Path, columns: Columns, parts: Sequence[Path], without: Collection[bytes], target: Path
) -> Columns:
    """Writes the rows of a version's parts as JSON objects with a text and a label, then the rows of its file `source`
    that have no label, except for the questions in `without`. Returns the columns."""
    rows: list[Example] = []
    for part in parts:
        rows += read(part, part.name, limits=FULL_LIST).examples
    reading = read(source, name, columns=columns, limits=FULL_LIST)
    left_out = {key.hex() for key in without}
    labelled = {question_key(row).hex() for row in rows}
    unlabelled = _unlabelled_objects(reading, labelled | left_out)
    objects = [*map(_row_object, rows), *unlabelled]
    with target.open("wb") as file:
        file.writelines(orjson.dumps(row) + b"\n" for row in objects)
    return Columns(TEXT, LABEL)


def _unlabelled_objects(reading: Reading, without: Collection[str]) -> Iterator[dict[str, str | None]]:
    """Yields the reading's rows that have no label, except for the questions whose keys are in `without`."""
    for row in reading.unlabelled:
        key = key_of_text(row.text).hex()
        if key not in without:
            yield {TEXT: row.text, LABEL: None}


def _apply_label(row: Example, labels: Mapping[str, str | None]) -> Example | None:
    key = question_key(row).hex()
    if key not in labels or row.uses_tools:
        return row
    label = labels[key]
    if label is None:
        return None
    answer = replace(row.messages[-1], content=label)
    changed = replace(row, messages=(*row.prompt, answer))
    if row.row is None:
        return changed
    written = orjson.loads(row.row)
    written["messages"][-1]["content"] = label
    return replace(changed, row=orjson.dumps(written))


def as_unanswered(text: str) -> Example:
    """Returns a row without a label as a row whose answer is empty."""
    return _as_chat(LabelledText(text, ""), "")


def key_of_text(text: str) -> bytes:
    """Returns the question's key of a row without a label, the same as with one."""
    return question_key(as_unanswered(text))


def _question_text(row: Example) -> str:
    texts = [message.content for message in row.prompt if message.role not in INSTRUCTION_ROLES]
    return "\n".join(texts)


def _row_object(row: Example) -> dict[str, str]:
    return {TEXT: _question_text(row), LABEL: row.answer}


def _as_object(row: LabelledText) -> dict[str, str]:
    labelled = {TEXT: row.text, LABEL: row.label}
    if row.teacher:
        labelled["teacher"] = row.teacher
    return labelled


def _as_chat(row: LabelledText, system: str) -> Example:
    messages = [Message("user", row.text), Message("assistant", row.label)]
    if system:
        messages.insert(0, Message("system", system))
    return Example(0, tuple(messages))


def _chat_line(row: LabelledText, system: str) -> bytes:
    """Returns the row as a line of JSON. A teacher is named beside the messages, where trainers ignore it."""
    chat = chat_row(_as_chat(row, system))
    if row.teacher is None:
        return chat
    return orjson.dumps({**orjson.loads(chat), "teacher": row.teacher})


def store_lines(folder: Path, lines: Iterable[bytes]) -> str:
    """Writes lines into a file that is named by its sha256, as uploads are. Returns the sha256."""
    digest = hashlib.sha256()
    descriptor, name = tempfile.mkstemp(dir=folder, prefix="written-", suffix=".tmp")
    with os.fdopen(descriptor, "wb") as file:
        for line in lines:
            digest.update(line + b"\n")
            file.write(line + b"\n")
        # On the disk before it gets its name: after a loss of power, no file has a hash that isn't that of its bytes.
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(folder / digest.hexdigest())
    return digest.hexdigest()
