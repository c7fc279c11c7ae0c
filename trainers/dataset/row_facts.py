"""What the first pass keeps of each row: numbers and a hash, about 100 bytes, never its text."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate, islice
from operator import itemgetter
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from trainers.dataset.checks import Fault, Findings, Repeats, is_short, task_of_counts
from trainers.dataset.fast_scan import Chunk, Group, scan
from trainers.dataset.file_format import Sniffed
from trainers.dataset.jsonl import definitions_text
from trainers.dataset.near_duplicates import as_sketches, sketch_into
from trainers.dataset.reader import Progress, capped, stream, too_many
from trainers.dataset.rows import Columns, Example, Joined, Limits, Task, ignore_message, normalise_all
from trainers.dataset.sensitive_data import faults_of_texts, once_a_row
from trainers.dataset.splits import chat_row
from trainers.tokens import ChatTokens, Encoding, RowCounter

if TYPE_CHECKING:
    from trainers.dataset.near_duplicates import Sketches

Value = TypeVar("Value")

_LONG_ANSWER = (1 << 32) - 1
_INSTRUCTIONS = 1000
_BESIDE = 1 << 30  # after all messages


class Facts:
    """Of all rows, by their place from 0. `add` takes them; the rest is there once all are in.

    `starts` and `sizes` say where a row stands in its file; a `plain` one as trainers take it. `labels` are places
    in `answers`, of short answers only. `sketched`: what each row asks is sketched for near_duplicates.py as
    it passes by, which
    spares reading all rows again; 400 bytes a row.
    """

    def __init__(self, encoding: Encoding, limits: Limits, *, sketched: bool = False) -> None:
        self.lines, self.sizes = array("I"), array("I")
        self.starts = array("Q")
        self.plain = bytearray()
        self.total, self.prompt, self.answer = array("I"), array("I"), array("I")
        self.keys: list[bytes] = []
        self.labels = array("I")
        self.answers: list[str] = []
        self.instructions: Counter[tuple[bytes, ...]] = Counter()
        self._copies = array("I")
        self.repeats, self.sensitive = Findings(limits.listed), Findings(limits.listed)
        self._counter = RowCounter(encoding)
        self._seen = Repeats(self.repeats)
        self._answer_places: dict[bytes, int] = {}
        self._listed = limits.listed
        self._sketches = array("I") if sketched else None

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, chunk: Chunk) -> None:
        if not chunk.lines:
            return
        self.lines.extend(chunk.lines)
        self.starts.extend(chunk.starts)
        self.sizes.extend(chunk.sizes)
        self.plain += chunk.plain
        groups = chunk.groups()
        columns = [column for group in groups for column in group.columns]
        joined = Joined([raw for column in columns for raw in column.raws])
        texts = [text for column in columns for text in column.texts]
        entries = [(place, example.row) for place, example in chunk.examples if example.row is not None]
        self._add_sensitive(chunk, groups, faults_of_texts(joined, texts), _faults_beside(entries))
        small = iter(normalise_all(joined, texts, chunk.one_line_texts and not chunk.examples))
        counts = iter([] if self._counter.by_rows else self._counter.texts(texts))
        self._add_rows(chunk, [self._measured(group, small, counts) for group in groups])
        if self._sketches is not None:
            rows = _Order([group.places for group in groups])
            sketch_into(self._sketches, rows.sorted([list(_questions(group)) for group in groups]))
        self._add_tools(len(self.lines) - len(chunk.lines), entries)

    def close(self) -> None:
        """All rows are in: what finds copies among them goes, a third of all that is kept."""
        del self._seen

    def take_sketches(self) -> Sketches:
        """Of all rows, once: they are kept no longer."""
        sketched, self._sketches = self._sketches, None
        if sketched is None:
            raise ValueError("nobody asked for sketches, or they were taken")
        return as_sketches(sketched)

    @property
    def duplicate_tokens(self) -> int:
        """Of the rows that repeat another."""
        return sum([self.total[row] for row in self._copies])

    @property
    def task(self) -> Task:
        return task_of_counts(self._short_counts(), len(self))

    def given_labels(self) -> Iterator[str | None]:
        """For each row; None for a long answer, which stands in the file alone."""
        labels = [answer.strip() for answer in self.answers]
        return (None if place == _LONG_ANSWER else labels[place] for place in self.labels)

    def longer_by(self, tokens: int) -> None:
        """Each row gets that many more, before its answer."""
        self.total = array("I", [count + tokens for count in self.total])
        self.prompt = array("I", [count + tokens for count in self.prompt])

    def _short_counts(self) -> Counter[str]:
        counts = Counter(self.labels)
        return Counter({answer: counts[place] for place, answer in enumerate(self.answers)})

    def _measured(self, group: Group, small: Iterator[bytes], counts: Iterator[int]) -> _Measured:
        """Takes its share of all groups' texts, made small, and of their tokens."""
        columns, shape = group.columns, group.shape
        smalls = [list(islice(small, len(column.raws))) for column in columns]
        instructions, systems = _instructions(group, smalls)
        self._add_instructions(instructions)
        request = zip(*[columns[i].by_row(smalls[i]) for i in shape.asked], strict=True)
        answer = columns[-1]
        return _Measured(
            places=group.places,
            tokens=self._tokens(group, counts),
            labels=answer.by_row(list(map(self._label_of, answer.raws, answer.texts))),
            keys=[blake2b(text, digest_size=16).digest() for text in map(shape.question.__mod__, request)],
            systems=systems,
            said=answer.by_row(list(map(hash, smalls[-1]))),
        )

    def _tokens(self, group: Group, counts: Iterator[int]) -> ChatTokens:
        columns, roles = group.columns, group.shape.roles
        if self._counter.by_rows:
            return self._counter.rows(roles, zip(*[c.by_row(c.texts) for c in columns], strict=True))
        return self._counter.sums(roles, [c.by_row(list(islice(counts, len(c.raws)))) for c in columns])

    def _label_of(self, answer: bytes, text: str) -> int:
        """Its place in `answers`, where it is short."""
        place = self._answer_places.get(answer)
        if place is not None:
            return place
        if not is_short(text):
            return _LONG_ANSWER
        place = self._answer_places[answer] = len(self.answers)
        self.answers.append(text)
        return place

    def _add_rows(self, chunk: Chunk, groups: Sequence[_Measured]) -> None:
        """Finds the copies, too. A text stands for itself by Python's hash: 64 bits, the same in one process."""
        rows = _Order([group.places for group in groups])
        self.total.extend(rows.sorted([group.tokens.total for group in groups]))
        self.prompt.extend(rows.sorted([group.tokens.prompt for group in groups]))
        self.answer.extend(rows.sorted([group.tokens.answer for group in groups]))
        self.labels.extend(rows.sorted([group.labels for group in groups]))
        keys = rows.sorted([group.keys for group in groups])
        first = len(self.keys)
        self.keys += keys
        systems = rows.sorted([group.systems for group in groups])
        copies = self._seen.add_all(chunk.lines, systems, keys, rows.sorted([group.said for group in groups]))
        self._copies.extend([first + copy for copy in copies])

    def _add_instructions(self, different: Counter[tuple[bytes, ...]]) -> None:
        for texts, rows in different.items():
            if len(self.instructions) < _INSTRUCTIONS or texts in self.instructions:
                self.instructions[texts] += rows

    def _add_tools(self, first: int, entries: Sequence[tuple[int, bytes]]) -> None:
        """What the model reads of tools stands before the answer and counts, too."""
        message = [(first + place, text) for place, row in entries if (text := definitions_text(row))]
        different = list({text for _, text in message})
        tokens = dict(zip(different, self._counter.tools(different), strict=True)) if message else {}
        for row, text in message:
            self.total[row] += tokens[text]
            self.prompt[row] += tokens[text]

    def _add_sensitive(
        self,
        chunk: Chunk,
        groups: Sequence[Group],
        held: Mapping[int, list[Fault]],
        beside: Sequence[tuple[int, list[Fault]]],
    ) -> None:
        """`held` by the text's place, `beside` the messages by the row's."""
        if not held and not beside:
            return
        columns = [(group, number) for group in groups for number in range(len(group.columns))]
        firsts = list(accumulate([len(group.columns[number].raws) for group, number in columns], initial=0))
        entries = [(place, _BESIDE, faults) for place, faults in beside]
        for text, faults in held.items():
            column = bisect_right(firsts, text) - 1
            group, message = columns[column]
            for row in group.columns[message].rows_of(text - firsts[column]):
                entries.append((group.places[row], message, faults))
        entries.sort(key=itemgetter(0, 1))
        for place, fault in once_a_row([(place, faults) for place, _, faults in entries]):
            self.sensitive.at(chunk.lines[place], fault)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Of the rows of a group, in parallel: what is kept of each, and their `places` in the chunk."""

    places: Sequence[int]
    tokens: ChatTokens
    labels: Sequence[int]
    keys: Sequence[bytes]
    systems: Sequence[int]
    said: Sequence[int]


class _Order:
    """Puts what groups of rows have into the order of the rows."""

    def __init__(self, places: Sequence[Sequence[int]]) -> None:
        self._numbers: list[int] | None = None
        if len(places) > 1:
            every = [place for some in places for place in some]
            self._numbers = sorted(range(len(every)), key=every.__getitem__)

    def sorted(self, values: Sequence[Sequence[Value]]) -> Sequence[Value]:
        """A list for each group."""
        if self._numbers is None:
            return values[0]
        every = [value for some in values for value in some]
        return [every[number] for number in self._numbers]


def _questions(group: Group) -> Iterator[str]:
    """What each row asks: as near.question_text says it of an Example."""
    columns = [group.columns[place] for place in group.shape.asked]
    if len(columns) == 1:
        return iter(columns[0].by_row(columns[0].texts))
    return map("\n".join, zip(*[column.by_row(column.texts) for column in columns], strict=True))


def _faults_beside(entries: Sequence[tuple[int, bytes]]) -> list[tuple[int, list[Fault]]]:
    """Of rows that hold more than texts, by their place: what tools and names say is looked at, too."""
    if not entries:
        return []
    held = faults_of_texts(Joined([row for _, row in entries]), [row.decode() for _, row in entries])
    return [(entries[number][0], faults) for number, faults in held.items()]


def _instructions(
    group: Group, smalls: Sequence[Sequence[bytes]]
) -> tuple[Counter[tuple[bytes, ...]], Sequence[int]]:
    """How many rows have which, and for each row a number that those share whose instructions are the same."""
    columns = [group.columns[place] for place in group.shape.system]
    rows = len(group.places)
    if all(len(column.raws) == 1 for column in columns):
        same = hash(b"\n".join([smalls[place][0] for place in group.shape.system]))
        return Counter({tuple([column.raws[0] for column in columns]): rows}), [same] * rows
    raws = zip(*[column.by_row(column.raws) for column in columns], strict=True)
    small = zip(*[group.columns[i].by_row(smalls[i]) for i in group.shape.system], strict=True)
    return Counter(raws), [hash(b"\n".join(texts)) for texts in small]


def histogram(counts: Sequence[int], most: int = 600) -> tuple[tuple[int, int], ...]:
    """At most that many bars of one width, as (tokens, rows). `tokens` are of the longest row in the bar."""
    if not counts:
        return ()
    least = min(counts)
    width = -(-(max(counts) - least + 1) // most)
    bars: dict[int, tuple[int, int]] = {}
    for tokens, rows in sorted(Counter(counts).items()):
        bar = (tokens - least) // width
        bars[bar] = (tokens, bars.get(bar, (0, 0))[1] + rows)
    return tuple(bars.values())


_ROWS_AT_ONCE = 500


def read_facts(
    facts: Facts,
    file: BinaryIO,
    spool: BinaryIO,
    sniffed: Sniffed,
    columns: Columns,
    findings: Findings,
    limits: Limits,
    progress: Progress,
    tell: Callable[[str], None] = ignore_message,
) -> None:
    """JSONL stays where it is: `facts` says where in `file` a row stands, and for other formats where in `spool`."""
    if sniffed.kind == "jsonl":
        chunks = scan(file, findings, limits, progress)
    else:
        examples = stream(file, sniffed, columns, findings, limits, progress)
        chunks = _spooled(capped(examples, findings, limits), spool)
    for chunk in chunks:
        room = limits.max_rows - len(facts)
        if len(chunk.lines) > room:
            chunk.cut(room)
            too_many(findings, limits)
            facts.add(chunk)
            return
        facts.add(chunk)
        tell(f"{len(facts):,} rows read")


def _spooled(examples: Iterator[Example], spool: BinaryIO) -> Iterator[Chunk]:
    chunk, start = Chunk(), 0
    for example in examples:
        row = chat_row(example)
        spool.write(row + b"\n")
        chunk.add_example(example, start, len(row), plain=True)
        start += len(row) + 1
        if len(chunk.lines) == _ROWS_AT_ONCE:
            yield chunk
            chunk = Chunk()
    yield chunk
