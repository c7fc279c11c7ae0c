"""What the first pass keeps of each row: numbers and a hash, about 100 bytes, but not its text. Also reads rows again
by number, and writes the parts of a split."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from operator import add, itemgetter, sub
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar, overload

from trainers.dataset.checks import Fault, Findings, RepeatFinder, may_be_label, task_of_counts
from trainers.dataset.fast_scan import Chunk, Group, scan
from trainers.dataset.file_format import Sniffed
from trainers.dataset.jsonl import called_functions, definitions_text, parse_row
from trainers.dataset.near_duplicates import sketch_into, to_sketch_array
from trainers.dataset.preference_pairs import written_pair
from trainers.dataset.reader import cap_rows, report_too_many_rows, stream
from trainers.dataset.rows import (
    Columns,
    Example,
    JoinedTexts,
    Limits,
    Task,
    ignore_message,
    normalise_all,
    with_system,
)
from trainers.dataset.sensitive_data import deduplicate_by_row, faults_of_texts
from trainers.dataset.splits import ChatFile, chat_row
from trainers.dataset.tables import Progress
from trainers.models.tokens import ChatTokens, Encoding, RowCounter, count_texts, count_tools

if TYPE_CHECKING:
    from trainers.dataset.near_duplicates import Sketches

Value = TypeVar("Value")
Instructions = tuple[bytes, ...]  # the texts of a row's system messages

_LONG_ANSWER = (1 << 32) - 1  # in `labels`: the answer is too long to be a label
_MOST_INSTRUCTIONS = 1000
_AFTER_MESSAGES = 1 << 30  # sorts faults outside a row's messages behind those inside


class RowFacts:
    """Facts about all rows, by row number from 0. Rows are added with `add`; properties are valid once all are
    added.

    `starts` and `sizes` locate a row in its file, in bytes; the file has `plain` rows in the form that trainers accept.
    `functions` are the names that the answers of `n_calling` rows call; `n_with_tools` rows call or offer some. In
    `n_begun_by_assistant` rows the assistant speaks first.
    `total`, `prompt` and `answer` are tokens. `labels` are indices into `answers`, which has only the short answers.
    With `sketched`, questions are sketched for near_duplicates.py on the way, at 400 bytes per row, which saves reading
    all rows again.
    """

    def __init__(self, encoding: Encoding, limits: Limits, *, sketched: bool = False) -> None:
        self.encoding = encoding
        self.lines = array("I")
        self.sizes = array("I")
        self.starts = array("Q")
        self.plain = bytearray()
        self.total = array("I")
        self.prompt = array("I")
        self.answer = array("I")
        self.keys: list[bytes] = []
        self.labels = array("I")
        self.answers: list[str] = []
        self.functions: set[str] = set()
        self.n_calling = 0
        self.n_with_tools = 0
        self.n_begun_by_assistant = 0
        self.instructions: Counter[Instructions] = Counter()
        self.repeats = Findings(limits.listed)
        self.sensitive = Findings(limits.listed)
        self._copies = array("I")
        self._counter = RowCounter(encoding)
        self._repeats = RepeatFinder(self.repeats)
        self._answer_indices: dict[bytes, int] = {}
        self._sketches: array[int] | None = None
        if sketched:
            self._sketches = array("I")

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, chunk: Chunk) -> None:
        if not chunk.lines:
            return
        first = len(self.lines)
        self.lines.extend(chunk.lines)
        self.starts.extend(chunk.starts)
        self.sizes.extend(chunk.sizes)
        self.plain += chunk.plain

        # Texts of all messages are searched and counted in one call; each group then takes its share of the results.
        groups = chunk.groups()
        raws: list[bytes] = []
        texts: list[str] = []
        for group in groups:
            for column in group.columns:
                raws.extend(column.raws)
                texts.extend(column.texts)
        joined = JoinedTexts(raws)
        raw_rows: list[tuple[int, bytes]] = []
        for position, example in chunk.examples:
            self._add_called(example)
            if example.row is not None:
                raw_rows.append((position, example.row))
        faults_by_text = faults_of_texts(joined, texts)
        self._add_sensitive(chunk, groups, faults_by_text, raw_rows)

        one_line = chunk.one_line_texts and not chunk.examples
        small = iter(normalise_all(joined, texts, one_line))
        counts: Iterator[int] = iter(())
        if not self._counter.by_rows:
            counts = iter(count_texts(texts, self.encoding))
        measured = [self._measure(group, small, counts) for group in groups]
        self._add_rows(chunk, measured)

        if self._sketches is not None:
            positions = [group.positions for group in groups]
            of_groups = [list(_questions(group)) for group in groups]
            questions = _Order(positions).sorted(of_groups)
            sketch_into(self._sketches, questions)
        self._add_definitions(first, raw_rows)

    def close(self) -> None:
        """Frees the data for finding copies, a third of the memory, once all rows are added."""
        del self._repeats

    def take_sketches(self) -> Sketches:
        """Returns the sketches of all rows and releases them. Raises ValueError if there are none."""
        if self._sketches is None:
            raise ValueError("there are no sketches, or they were taken already")
        sketched = self._sketches
        self._sketches = None
        return to_sketch_array(sketched)

    @property
    def duplicate_tokens(self) -> int:
        """The tokens of all rows that repeat another."""
        return sum([self.total[row] for row in self._copies])

    @property
    def task(self) -> Task:
        rows_by_index = Counter(self.labels)
        counts: Counter[str] = Counter()
        for index, answer in enumerate(self.answers):
            counts[answer] = rows_by_index[index]
        return task_of_counts(counts, len(self))

    def given_labels(self) -> Iterator[str | None]:
        """Yields the label of each row, or None for a long answer, which must be read from the file."""
        labels = [answer.strip() for answer in self.answers]
        for index in self.labels:
            if index == _LONG_ANSWER:
                yield None
            else:
                yield labels[index]

    def add_to_prompts(self, tokens: int) -> None:
        """Adds this many tokens to the prompt of each row."""
        self.total = array("I", [count + tokens for count in self.total])
        self.prompt = array("I", [count + tokens for count in self.prompt])

    def _measure(
        self,
        group: Group,
        small: Iterator[bytes],
        counts: Iterator[int],
    ) -> _Measured:
        """Computes the facts of a group. Consumes its share of all groups' normalised texts (`small`) and token counts
        (`counts`)."""
        columns = group.columns
        roles = group.shape.roles
        first_turn = group.shape.turns[0]
        if roles[first_turn] == "assistant":
            self.n_begun_by_assistant += len(group.positions)

        smalls = [list(islice(small, len(column.raws))) for column in columns]
        turns_by_row = [columns[number].by_row(smalls[number]) for number in group.shape.turns]
        # In C code, without a call of a Python function for each row.
        turns = zip(*turns_by_row, strict=True)
        questions = map(group.shape.question.__mod__, turns)
        keys = [blake2b(question, digest_size=16).digest() for question in questions]
        tokens = self._count_tokens(group, counts)

        instructions, systems = _instructions(group, smalls)
        for texts, count in instructions.items():
            has_room = len(self.instructions) < _MOST_INSTRUCTIONS
            if has_room or texts in self.instructions:
                self.instructions[texts] += count

        answer = columns[-1]
        labels = list(map(self._label_of, answer.raws, answer.texts))
        hashes = list(map(hash, smalls[-1]))
        return _Measured(
            positions=group.positions,
            tokens=tokens,
            labels=answer.by_row(labels),
            keys=keys,
            systems=systems,
            answers=answer.by_row(hashes),
        )

    def _count_tokens(self, group: Group, counts: Iterator[int]) -> ChatTokens:
        """Counts the tokens of a group's rows. Consumes its share of `counts`, if texts are counted one by one."""
        roles = group.shape.roles
        if self._counter.by_rows:
            texts_by_row = [column.by_row(column.texts) for column in group.columns]
            rows = zip(*texts_by_row, strict=True)
            return self._counter.rows(roles, rows)
        counts_by_row: list[Sequence[int]] = []
        for column in group.columns:
            of_texts = list(islice(counts, len(column.raws)))
            counts_by_row.append(column.by_row(of_texts))
        return self._counter.sums(roles, counts_by_row)

    def _add_definitions(self, first: int, raw_rows: Sequence[tuple[int, bytes]]) -> None:
        """Adds the tokens of tool definitions, which are part of the prompt. `raw_rows` are positions in a chunk, whose
        first row has the number `first`."""
        definitions: list[tuple[int, str]] = []
        for position, raw in raw_rows:
            text = definitions_text(raw)
            if text:
                definitions.append((first + position, text))
        if not definitions:
            return
        # In most files all rows offer the same tools, so each definition is counted once.
        different = list({text for _, text in definitions})
        counts = count_tools(different, self.encoding)
        tokens = dict(zip(different, counts, strict=True))
        for row, text in definitions:
            self.total[row] += tokens[text]
            self.prompt[row] += tokens[text]

    def _add_called(self, example: Example) -> None:
        if example.row is None or not example.uses_tools:
            return
        self.n_with_tools += 1
        names = called_functions(example.row)
        if names:
            self.functions.update(names)
            self.n_calling += 1

    def _label_of(self, answer: bytes, text: str) -> int:
        """Returns the index of the answer in `answers`, or _LONG_ANSWER."""
        index = self._answer_indices.get(answer)
        if index is not None:
            return index
        if not may_be_label(text):
            return _LONG_ANSWER
        index = len(self.answers)
        self._answer_indices[answer] = index
        self.answers.append(text)
        return index

    def _add_rows(self, chunk: Chunk, groups: Sequence[_Measured]) -> None:
        """Adds the facts of all groups in the order of the rows, and finds copies. Texts are compared by Python's hash
        of 64 bits, which is stable within a process."""
        positions = [group.positions for group in groups]
        order = _Order(positions)
        tokens = [group.tokens for group in groups]
        total = order.sorted([of_group.total for of_group in tokens])
        prompt = order.sorted([of_group.prompt for of_group in tokens])
        answer = order.sorted([of_group.answer for of_group in tokens])
        labels = order.sorted([group.labels for group in groups])
        keys = order.sorted([group.keys for group in groups])
        systems = order.sorted([group.systems for group in groups])
        answers = order.sorted([group.answers for group in groups])

        first = len(self.keys)
        self.total.extend(total)
        self.prompt.extend(prompt)
        self.answer.extend(answer)
        self.labels.extend(labels)
        self.keys += keys
        copies = self._repeats.add_all(chunk.lines, systems, keys, answers)
        self._copies.extend([first + copy for copy in copies])

    def _add_sensitive(
        self,
        chunk: Chunk,
        groups: Sequence[Group],
        faults_by_text: Mapping[int, list[Fault]],
        raw_rows: Sequence[tuple[int, bytes]],
    ) -> None:
        """Reports each kind of fault once per row. `raw_rows` are the rows, with their positions, that have more than
        texts: their tools and names are searched too."""
        by_raw_row: Mapping[int, list[Fault]] = {}
        if raw_rows:
            raws = [raw for _, raw in raw_rows]
            texts = [raw.decode() for raw in raws]
            by_raw_row = faults_of_texts(JoinedTexts(raws), texts)
        if not faults_by_text and not by_raw_row:
            return

        # The row, its message and the faults; they are reported in the order of rows and messages.
        entries: list[tuple[int, int, list[Fault]]] = []
        for number, faults in by_raw_row.items():
            position, _ = raw_rows[number]
            entries.append((position, _AFTER_MESSAGES, faults))

        # The texts of all columns were searched one after another: find the column, and in it the rows, of each.
        columns: list[tuple[Group, int]] = []
        firsts: list[int] = []
        n_texts = 0
        for group in groups:
            for message, column in enumerate(group.columns):
                columns.append((group, message))
                firsts.append(n_texts)
                n_texts += len(column.raws)
        for text, faults in faults_by_text.items():
            number = bisect_right(firsts, text) - 1
            group, message = columns[number]
            column = group.columns[message]
            for row in column.rows_of(text - firsts[number]):
                entries.append((group.positions[row], message, faults))

        entries.sort(key=itemgetter(0, 1))
        by_position = [(position, faults) for position, _, faults in entries]
        for position, fault in deduplicate_by_row(by_position):
            self.sensitive.add_for_line(chunk.lines[position], fault)


@dataclass(frozen=True, slots=True)
class _Measured:
    """The facts of a group's rows, in parallel lists. `positions` are the rows' positions in the chunk; `systems` and
    `answers` are hashes."""

    positions: Sequence[int]
    tokens: ChatTokens
    labels: Sequence[int]
    keys: Sequence[bytes]
    systems: Sequence[int]
    answers: Sequence[int]


class _Order:
    """Restores the order of rows in values that are grouped by shape."""

    def __init__(self, positions: Sequence[Sequence[int]]) -> None:
        self._numbers: list[int] | None = None
        if len(positions) > 1:
            joined = list(chain.from_iterable(positions))
            self._numbers = sorted(range(len(joined)), key=joined.__getitem__)

    def sorted(self, values: Sequence[Sequence[Value]]) -> Sequence[Value]:
        """Returns `values`, which has a list for each group, as one list in the order of the rows."""
        if self._numbers is None:
            return values[0]
        joined = list(chain.from_iterable(values))
        return [joined[number] for number in self._numbers]


def _questions(group: Group) -> Iterator[str]:
    """Yields the question of each row, as near_duplicates.question_text returns it for an Example."""
    columns = [group.columns[number] for number in group.shape.turns]
    by_row = [column.by_row(column.texts) for column in columns]
    if len(by_row) == 1:
        return iter(by_row[0])
    return map("\n".join, zip(*by_row, strict=True))


def _instructions(
    group: Group,
    smalls: Sequence[Sequence[bytes]],
) -> tuple[Counter[Instructions], Sequence[int]]:
    """Counts the rows by instructions, and returns for each row a hash of its normalised instructions."""
    columns = [group.columns[number] for number in group.shape.system]
    small_columns = [smalls[number] for number in group.shape.system]
    if all(len(column.raws) == 1 for column in columns):
        # All rows have the same instructions, or none.
        rows = len(group.positions)
        raw = tuple([column.raws[0] for column in columns])
        small = [texts[0] for texts in small_columns]
        same = hash(b"\n".join(small))
        return Counter({raw: rows}), [same] * rows

    raws_by_row: list[Sequence[bytes]] = []
    smalls_by_row: list[Sequence[bytes]] = []
    for column, texts in zip(columns, small_columns, strict=True):
        raws_by_row.append(column.by_row(column.raws))
        smalls_by_row.append(column.by_row(texts))
    raws = zip(*raws_by_row, strict=True)
    small_texts = zip(*smalls_by_row, strict=True)
    hashes = [hash(b"\n".join(of_row)) for of_row in small_texts]
    return Counter(raws), hashes


_ROWS_AT_ONCE = 500


def read_facts(
    facts: RowFacts,
    file: BinaryIO,
    spool: BinaryIO,
    sniffed: Sniffed,
    columns: Columns,
    findings: Findings,
    limits: Limits,
    progress: Progress,
    on_progress: Callable[[str], None] = ignore_message,
) -> None:
    """Reads all rows into `facts`. Their positions refer to `file` for JSONL, and to `spool`, to which rows of other
    formats are written."""
    if sniffed.kind == "jsonl":
        chunks = scan(file, findings, limits, progress)
    else:
        examples = stream(file, sniffed, columns, findings, limits, progress)
        capped = cap_rows(examples, findings, limits)
        chunks = _spool_rows(capped, spool)
    for chunk in chunks:
        room = limits.max_rows - len(facts)
        if len(chunk.lines) > room:
            chunk.cut(room)
            report_too_many_rows(findings, limits)
            facts.add(chunk)
            return
        facts.add(chunk)
        on_progress(f"{len(facts):,} rows read")


def _spool_rows(examples: Iterator[Example], spool: BinaryIO) -> Iterator[Chunk]:
    """Writes the rows to `spool` as chat JSONL and yields them in chunks."""
    chunk = Chunk()
    start = 0
    for example in examples:
        row = chat_row(example)
        spool.write(row + b"\n")
        chunk.add_example(example, start, len(row), plain=True)
        start += len(row) + 1
        if len(chunk.lines) == _ROWS_AT_ONCE:
            yield chunk
            chunk = Chunk()
    yield chunk


class StoredRows(Sequence[Example]):
    """The rows of a checked file, each read when it is needed: from JSONL files directly, for other formats from the
    temporary file that `read_facts` filled. `system` is put before rows without instructions.

    Raises ValueError if the file has changed since it was checked.
    """

    def __init__(
        self,
        file: BinaryIO,
        facts: RowFacts,
        limits: Limits,
        system: str | None,
    ) -> None:
        self.file = file
        self.facts = facts
        self.system = system
        self._limits = limits

    def __len__(self) -> int:
        return len(self.facts)

    @overload
    def __getitem__(self, row: int) -> Example: ...
    @overload
    def __getitem__(self, row: slice) -> list[Example]: ...
    def __getitem__(self, row: int | slice) -> Example | list[Example]:
        if isinstance(row, slice):
            rows = range(*row.indices(len(self)))
            return [self[number] for number in rows]
        line = self.facts.lines[row]
        raw = self.raw(row)
        parsed = parse_row(line, raw, self._limits)
        if isinstance(parsed, Fault):
            raise ValueError(f"reading row {row + 1} again: the file has changed since it was checked")
        _, example = parsed
        if self.system:
            [completed] = with_system([example], self.system)
            return completed
        return example

    def raw(self, row: int) -> bytes:
        """Returns the original bytes of the row, without the added system prompt."""
        start = self.facts.starts[row]
        size = self.facts.sizes[row]
        return self.span(start, size)

    def span(self, start: int, size: int) -> bytes:
        self.file.seek(start)
        return self.file.read(size)

    def trained_row(self, row: int) -> bytes:
        """Returns the row as a line to train on."""
        if self.facts.plain[row] and not self.system:
            return self.raw(row)
        return chat_row(self[row])


def store_split(
    folder: Path,
    rows: StoredRows,
    held: Collection[int],
    examples: Sequence[Example] = (),
    left_out: Collection[int] = (),
) -> tuple[str, str]:
    """Writes two files FOLDER/SHA256.jsonl, one with the training rows and one with the `held` rows followed by
    `examples`. Rows in `left_out` are in neither. Returns both sha256."""
    apart = (*held, *left_out)
    needs_system = rows.system is not None
    with ChatFile(folder) as train, ChatFile(folder) as holdout:
        first = 0
        for end in _run_ends(rows.facts, apart, needs_system=needs_system):
            if first in left_out:
                pass
            elif first in held:
                holdout.write(rows.trained_row(first))
            elif end - first == 1:
                train.write(rows.trained_row(first))
            else:
                _copy_run(train, rows, first, end)
            first = end
        for example in examples:
            holdout.write(chat_row(example))
        return train.close(), holdout.close()


def _copy_run(file: ChatFile, rows: StoredRows, first: int, end: int) -> None:
    """Copies rows that follow each other in the file, in pieces, without parsing them."""
    facts = rows.facts
    last = end - 1
    start = facts.starts[first]
    stop = facts.starts[last] + facts.sizes[last]
    for piece in range(start, stop, _PIECE):
        size = min(_PIECE, stop - piece)
        file.write_part(rows.span(piece, size))
    file.write_part(b"\n")


def store_sealed(
    folder: Path,
    rows: StoredRows,
    sealed: Collection[int],
    earlier: Sequence[Example],
) -> str | None:
    """Writes FOLDER/SHA256.jsonl with the `sealed` rows, followed by those of an `earlier` version. Returns the
    sha256, or None if there are no rows."""
    if not sealed and not earlier:
        return None
    with ChatFile(folder) as file:
        for row in sorted(sealed):
            file.write(rows.trained_row(row))
        for example in earlier:
            file.write(chat_row(example))
        return file.close()


def store_pairs(folder: Path, rows: StoredRows, left_out: Collection[int]) -> str:
    """Writes FOLDER/SHA256.jsonl with the training rows of a file of preference pairs, as pairs. Returns the sha256."""
    with ChatFile(folder) as file:
        for row in range(len(rows)):
            if row not in left_out:
                file.write(written_pair(rows.raw(row)))
        return file.close()


_PIECE = 1 << 20


def _run_ends(facts: RowFacts, apart: Collection[int], *, needs_system: bool) -> Sequence[int]:
    """Returns the ends of runs of rows that can be copied together: plain rows that follow each other in the file. Rows
    in `apart` are runs of their own."""
    if needs_system:
        return range(1, len(facts) + 1)
    not_plain = [row for row, is_plain in enumerate(facts.plain) if not is_plain]
    ends = {len(facts)}
    for row in (*apart, *not_plain):
        ends.add(row)
        ends.add(row + 1)
    # A gap of more than a line break: a blank or faulty line is between two rows.
    next_starts = facts.starts[1:]
    row_ends = map(add, facts.starts, facts.sizes)
    gaps = map(sub, next_starts, row_ends)
    # A gap of 1 is a line break.
    ends.update(row for row, gap in enumerate(gaps, 1) if gap != 1)
    return sorted(ends - {0})
