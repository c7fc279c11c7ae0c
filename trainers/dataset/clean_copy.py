"""Writes a cleaned copy of an uploaded file, without duplicates, unreadable rows, blank lines and rows with secrets. If
there is a frozen test, rows that ask one of its questions are left out too.

The remaining lines keep their exact bytes. Decisions that need a person are left to people: contradictions stay and are
listed, and personal data stays unmasked. The uploaded file is read twice, never changed, and never held in memory.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from io import StringIO
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Literal

from trainers.dataset.checks import DUPLICATE, Findings
from trainers.dataset.conversion import open_converted
from trainers.dataset.file_format import Sniffed, blocks
from trainers.dataset.formats import FORMATS
from trainers.dataset.formats.text_files import text_lines
from trainers.dataset.reader import BLANK_LINES, accept_file, stream
from trainers.dataset.rows import (
    DEFAULT_LIMITS,
    Columns,
    Example,
    Limits,
    join_texts,
    normalise_text,
    question_key,
    to_printable,
)
from trainers.dataset.sensitive_data import SECRET, faults_of_texts
from trainers.dataset.splits import chat_row
from trainers.dataset.tables import EMPTY_LABEL, NO_HEADER, Progress
from trainers.dataset.versions import OVERLAP

WrittenAs = Literal["jsonl", "csv"]
# A spreadsheet may read a cell with such a beginning as a formula or split it (OWASP, CSV injection). The last four are
# full-width.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
# The reason of every line is needed, not only of the first ones that a report lists.
_LIST_ALL = 1 << 62
_ROWS_AT_ONCE = 200


@dataclass(frozen=True)
class LeftOutRows:
    """Rows left out for one reason. `code` is that of a finding, such as 'duplicate', 'secret' or 'not_json'. `lines`
    has the first of them."""

    code: str
    count: int
    lines: tuple[int, ...]


@dataclass(frozen=True)
class Contradiction:
    """Two lines that ask the same but have different answers. Both are in the cleaned file."""

    earlier: int
    later: int


@dataclass(frozen=True)
class CleanedFile:
    """The cleaned file, at `out`, with `rows` rows. `converted`: its format differs from that of the uploaded file.

    `formulas` rows of a CSV have a cell, in any of its columns, that a spreadsheet would take for a formula. They are
    not escaped, since a model would learn the apostrophes.

    `left_out` has the most frequent reason first. `contradictions` has the first of `contradicting` ones. Line numbers
    refer to the uploaded file.
    """

    out: Path
    written_as: WrittenAs
    converted: bool
    rows: int
    left_out: tuple[LeftOutRows, ...]
    contradictions: tuple[Contradiction, ...]
    contradicting: int
    formulas: int = 0

    @property
    def n_left_out(self) -> int:
        return sum(reason.count for reason in self.left_out)


@dataclass(frozen=True)
class CleaningRefusal:
    """Nothing was written. `reason` is a sentence."""

    reason: str


def clean(
    path: Path,
    name: str,
    columns: Columns,
    out: Path,
    *,
    limits: Limits = DEFAULT_LIMITS,
    held: Collection[bytes] = (),
) -> CleanedFile | CleaningRefusal:
    """Writes the cleaned file to `out`. JSONL and CSV keep their format, and a CSV its header; XLSX becomes CSV, and
    Parquet becomes JSONL. The same input gives the same bytes.

    `name` is the file's name for people. Rows whose question_key is in `held`, a frozen test's, are left out. Raises
    OSError as open() does.
    """
    if out.exists():
        return CleaningRefusal(
            f"'{to_printable(out.name)}' exists already; choose another name for the cleaned file."
        )
    findings = Findings(_LIST_ALL)
    progress = Progress()
    with open_converted(path, limits) as source:
        file = source.file
        sniffed = accept_file(source, name, findings, limits)
        if sniffed is None:
            return CleaningRefusal(_worst(findings))
        row_format = FORMATS[sniffed.kind]
        examples = stream(file, sniffed, columns, findings, limits, progress)
        verdict = _judge(examples, findings, frozenset(held))
        if progress.pairs:
            return CleaningRefusal(
                f"'{to_printable(name)}' has preference pairs, and only files of single answers can be cleaned."
            )
        if not verdict.rows:
            return CleaningRefusal(_worst(findings))
        names_header = [finding for finding in findings.sorted() if finding.code == NO_HEADER.code]
        if len(verdict.rows) == 1 and names_header:
            return CleaningRefusal(
                f"Only one row of '{to_printable(name)}' would stay. Without a header it would be mistaken for "
                "one: add a first line such as text,label."
            )
        pieces = _pieces(file, sniffed, columns, limits, progress)
        rows, formulas = _write(out, pieces, verdict)
    return CleanedFile(
        out=out,
        written_as=row_format.cleaned_as,
        converted=bool(source.notes) or not row_format.keeps_bytes,
        rows=rows,
        left_out=verdict.left_out(limits.listed),
        contradictions=tuple(verdict.contradictions[: limits.listed]),
        contradicting=len(verdict.contradictions),
        formulas=formulas,
    )


def _worst(findings: Findings) -> str:
    blocking = [finding for finding in findings.sorted() if finding.blocks]
    if not blocking:
        return "No row would be left."
    return blocking[0].message


@dataclass
class _Verdict:
    """The lines of good rows, the reasons for leaving out others, by line, and the contradictions."""

    rows: set[int] = field(default_factory=set)
    reasons: dict[int, str] = field(default_factory=dict)
    contradictions: list[Contradiction] = field(default_factory=list)

    def leave_out(self, piece: _Piece) -> None:
        """Records why a piece is not written. All lines swallowed by an open quote get the reason of the first one."""
        reason = self.reasons.get(piece.first, BLANK_LINES.code)
        for line in range(piece.first, piece.last + 1):
            self.reasons.setdefault(line, reason)

    def left_out(self, listed: int) -> tuple[LeftOutRows, ...]:
        lines_by_code: dict[str, list[int]] = defaultdict(list)
        for line, code in sorted(self.reasons.items()):
            lines_by_code[code].append(line)
        reasons = []
        for code, lines in lines_by_code.items():
            first = tuple(lines[:listed])
            reasons.append(LeftOutRows(code, len(lines), first))
        reasons.sort(key=lambda reason: (-reason.count, reason.code))
        return tuple(reasons)


def _judge(examples: Iterable[Example], findings: Findings, held: frozenset[bytes]) -> _Verdict:
    """Decides about every row. Iterating over `examples` adds the unreadable rows to `findings`."""
    verdict = _Verdict()
    first_lines: dict[bytes, int] = {}
    seen: set[bytes] = set()
    for example, has_secret in _with_secrets(iter(examples)):
        # Like the checks, this takes rows for copies if their instructions, question and answer are the same.
        key = question_key(example)
        question = _digest(example.system) + key
        row = question + _digest(example.answer)
        # First, since a secret also has to be revoked.
        if has_secret:
            verdict.reasons[example.line] = SECRET.code
        elif key in held:
            verdict.reasons[example.line] = OVERLAP.code
        elif row in seen:
            verdict.reasons[example.line] = DUPLICATE.code
        else:
            verdict.rows.add(example.line)
            seen.add(row)
            earlier = first_lines.setdefault(question, example.line)
            if earlier != example.line:
                verdict.contradictions.append(Contradiction(earlier, example.line))
    for finding in findings.sorted():
        is_unread = finding.blocks or finding.code == EMPTY_LABEL.code
        if is_unread and finding.line is not None:
            verdict.reasons[finding.line] = finding.code
    return verdict


def _with_secrets(examples: Iterator[Example]) -> Iterator[tuple[Example, bool]]:
    """Yields each row and whether it contains a secret. Rows are searched in batches, since most have none."""
    while batch := list(islice(examples, _ROWS_AT_ONCE)):
        rows: list[int] = []  # of each text
        texts: list[str] = []
        for row, example in enumerate(batch):
            for text in _texts(example):
                rows.append(row)
                texts.append(text)
        faults_by_text = faults_of_texts(join_texts(texts), texts)
        with_secret = set()
        for index, faults in faults_by_text.items():
            if any(fault.rule == SECRET for fault in faults):
                with_secret.add(rows[index])
        for row, example in enumerate(batch):
            yield example, row in with_secret


def _texts(example: Example) -> list[str]:
    texts = [message.content for message in example.messages]
    if example.row is not None:
        texts.append(example.row.decode())
    return texts


def _digest(text: str) -> bytes:
    return blake2b(normalise_text(text).encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class _Piece:
    """The bytes to write for the lines from `first` to `last` of the file; empty for blank lines. `cells` are those of
    a row of a CSV."""

    first: int
    last: int
    raw: bytes
    cells: Sequence[str] = ()

    @property
    def has_formula(self) -> bool:
        return any(cell.startswith(FORMULA_STARTS) for cell in self.cells)


def _pieces(
    file: BinaryIO, sniffed: Sniffed, columns: Columns, limits: Limits, progress: Progress
) -> Iterator[_Piece]:
    ignored = Findings(0)  # the first pass has already reported them
    row_format = FORMATS[sniffed.kind]
    is_csv = row_format.cleaned_as == "csv"
    if row_format.keeps_bytes and is_csv:
        yield from _table_pieces(file, sniffed.separator, ignored, limits)
        return
    if row_format.keeps_bytes:
        for block in blocks(file, ignored, limits):
            for line, raw in enumerate(block.lines, block.first):
                written = b""
                if raw.strip():
                    written = raw + b"\n"
                yield _Piece(line, line, written)
        return

    if is_csv:
        names = (progress.columns.text or "text", progress.columns.label or "label")
        yield _Piece(0, 0, _csv_row(names))
    for example in stream(file, sniffed, columns, ignored, limits, Progress()):
        line = example.line
        if is_csv:
            cells = (example.messages[0].content, example.answer)
            yield _Piece(line, line, _csv_row(cells), cells)
        else:
            yield _Piece(line, line, chat_row(example) + b"\n")


def _table_pieces(file: BinaryIO, separator: str, ignored: Findings, limits: Limits) -> Iterator[_Piece]:
    """Splits a table into the same records as the first pass, by using the same reader on the same lines."""
    taken: list[bytes] = []
    lines = _lines_into(taken, file, ignored, limits)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        first = reader.line_num + 1
        taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield _Piece(first, reader.line_num, b"")  # the first pass recorded a reason for its first line
            continue
        raw = b""
        if any(cell and not cell.isspace() for cell in cells):
            raw = b"".join(taken)
        yield _Piece(first, reader.line_num, raw, cells)


def _lines_into(taken: list[bytes], file: BinaryIO, ignored: Findings, limits: Limits) -> Iterator[str]:
    """Yields the lines as the first pass read them, and appends the bytes of each to `taken`."""
    for raw, text in text_lines(file, ignored, limits):
        taken.append(raw)
        yield text


def _csv_row(cells: Sequence[str]) -> bytes:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _write(out: Path, pieces: Iterable[_Piece], verdict: _Verdict) -> tuple[int, int]:
    """Writes the pieces that are not left out, to a file that only its owner can read. Returns the number of rows, and
    of those with a formula."""
    first_row = min(chain(verdict.rows, verdict.reasons))  # a table's header comes before this line
    rows = 0
    formulas = 0
    # x, so that a file that has appeared since the check is not overwritten.
    with out.open("xb") as file:
        try:
            out.chmod(0o600)
            for piece in pieces:
                lines = range(piece.first, piece.last + 1)
                is_left_out = any(line in verdict.reasons for line in lines)
                if not piece.raw:
                    verdict.leave_out(piece)
                elif not is_left_out:
                    file.write(piece.raw)
                    if piece.first >= first_row:
                        rows += 1
                        formulas += piece.has_formula
        except BaseException:
            out.unlink()  # a partial file would look like a complete one
            raise
    return rows, formulas
