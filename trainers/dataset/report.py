"""Checks a file, splits it and reports in one call, for a worker process. Its values travel as JSON."""

from __future__ import annotations

import gc
import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import orjson

from trainers.dataset.checks import (
    CONTRADICTION,
    DUPLICATE,
    Finding,
    Findings,
    LabelCount,
    sort_findings,
    sort_label_counts,
)
from trainers.dataset.conversion import ConvertedFile, open_converted
from trainers.dataset.file_checks import CHECKS, CheckedFile
from trainers.dataset.preference_pairs import PairsReport, check_pairs
from trainers.dataset.reader import Progress, accept_file, report_counts
from trainers.dataset.row_facts import (
    Facts,
    StoredRows,
    histogram,
    read_facts,
    store_pairs,
    store_sealed,
    store_split,
)
from trainers.dataset.rows import (
    DEFAULT_LIMITS,
    Choices,
    Columns,
    Example,
    Format,
    Limits,
    Task,
    default_system,
    ignore_message,
    to_printable,
)
from trainers.dataset.slow_checks import NO_SLOW_FINDINGS, LabelErrors, SlowFindings, run_slow_checks
from trainers.dataset.token_counts import (
    TokenReport,
    local_counts,
    row_lengths,
    token_report,
    tokens_of_system,
)
from trainers.dataset.versions import (
    Diff,
    Parts,
    Previous,
    continue_holdout,
    draw_holdout,
    labels_by_row,
    read_stored,
    split_against,
)
from trainers.json_values import from_object
from trainers.tokens import O200K, Encoding

NO_MODELS: Mapping[str, Path] = {}


@dataclass(frozen=True)
class Report:
    """`task`, `tokens` and the counts describe the rows that could be read, also where a finding blocks.

    The files exist, as OUT_DIR/SHA256.jsonl, unless one does. Of preference pairs there are `pairs`, and as
    `pairs_sha256` the training rows as pairs; the rows of the two parts have the preferred answers. `labels` is empty
    for free text. `system` was put before the rows of a table. `seconds` of wall time. `trained_tokens` of one epoch by
    the tokenizer of each local model that was named.

    `duplicate_tokens` are those of the rows that repeat another, one epoch. `token_lengths` is a histogram of
    600 bars at most: (tokens of the longest row in the bar, rows). `stages`: seconds of each part of the check, by
    name. `diff` is from the version before, where there is one. `label_errors` is None where they were not checked, or
    there are no labels.
    """

    name: str
    format: Format | None
    rows: int
    task: Task
    labels: tuple[LabelCount, ...]
    tokens: TokenReport
    findings: tuple[Finding, ...]
    columns: Columns
    choices: Choices
    system: str | None
    source_sha256: str
    train_sha256: str | None
    holdout_sha256: str | None
    n_train: int
    n_holdout: int
    seed: int
    seconds: float
    trained_tokens: tuple[tuple[str, int], ...] = ()
    duplicate_tokens: int = 0
    token_lengths: tuple[tuple[int, int], ...] = ()
    stages: tuple[tuple[str, float], ...] = field(default=(), compare=False)
    diff: Diff | None = None
    label_errors: LabelErrors | None = None
    pairs: PairsReport | None = None
    pairs_sha256: str | None = None
    sealed_sha256: str | None = None
    n_sealed: int = 0

    @property
    def stored(self) -> tuple[str, ...]:
        """The sha256 of each of its files: its parts, and its pairs."""
        parts = (self.train_sha256, self.holdout_sha256, self.pairs_sha256, self.sealed_sha256)
        return tuple(filter(None, parts))

    @property
    def blocked(self) -> bool:
        return any(finding.blocks for finding in self.findings)

    def to_json(self) -> str:
        return orjson.dumps(asdict(self)).decode()

    @staticmethod
    def from_json(text: str | bytes) -> Report:
        return from_object(Report, orjson.loads(text))


def check_file(
    path: Path,
    name: str,
    columns: Columns,
    out_dir: Path | None,
    seed: int,
    *,
    limits: Limits = DEFAULT_LIMITS,
    system: str | None = None,
    encoding: Encoding = O200K,
    holdout: Path | Sequence[Example] | None = None,
    previous: Previous | None = None,
    deep: bool = False,
    presidio: bool = False,
    local_models: Mapping[str, Path] = NO_MODELS,
    lengths_by: Encoding | None = None,
    on_progress: Callable[[str], None] = ignore_message,
    n_sealed: int = 0,
) -> Report:
    """Read, check, split, write. `system` goes before a table's rows; None: one that fits the task. Without an
    `out_dir` nothing is written, and nothing counted for `local_models`.

    `holdout` is one that was frozen earlier (chat JSONL, or its rows): it stays the holdout, every row is for
    training, and rows that ask what it asks block. `previous` is the version before: its holdout stays, and a share
    of the new questions joins it. About `n_sealed` rows are sealed: set aside beside it, for a promotion. `deep` also
    looks for near copies and for labels that are probably wrong; it takes longer, and with `presidio`, which must be
    installed, looks for more kinds of personal data. `lengths_by` counts how long rows are, where that is another
    encoding than the one that counts what vendors are paid for. `on_progress` is told how far it is. Nothing in the
    file raises; OSError where the disk does, ValueError where `holdout` or `previous` is not what we wrote.
    """
    clock = _Clock()
    frozen = read_stored(holdout, "reading the frozen holdout") if isinstance(holdout, Path) else holdout
    with open_converted(path, limits) as source, tempfile.TemporaryFile() as spool:
        with _collector_paused():
            taken = _taken(source, name, spool, columns, system, encoding, limits, on_progress, sketched=deep)
        clock.stage("rows")
        slow = NO_SLOW_FINDINGS
        if deep:
            # A preferred answer is no label that could be wrong.
            labels = [""] * len(taken.rows) if taken.is_pairs else taken.labels
            slow = run_slow_checks(
                taken.rows, labels, frozen or (), seed, limits.listed, on_progress, presidio=presidio
            )
        clock.stage("near copies and doubted labels")
        of_split = Findings(limits.listed)
        with _collector_paused():
            parts = _parts(
                taken, seed, frozen, previous, slow.groups, of_split, presidio=presidio, n_sealed=n_sealed
            )
        checked = _checked(taken, lengths_by or encoding, parts, slow, of_split)
        files = checked.write(out_dir) if out_dir else None
        clock.stage("split")
        tokens = (
            checked.count_for(local_models, out_dir / f"{files.train}.jsonl") if out_dir and files else ()
        )
        return checked.report(to_printable(name), seed, encoding, sha256_of(path), files, tokens, clock)


def _checked(
    taken: _Taken, counted_by: Encoding, parts: Parts, slow: SlowFindings, of_split: Findings
) -> _Checked:
    """Brings the findings of all checks into one order. `counted_by`: what counts how long rows are; `of_split`: what
    dealing the rows into parts met."""
    facts = taken.rows.facts
    lengths = facts.total if counted_by == facts.encoding else row_lengths(taken.rows, counted_by)
    of_pairs = Findings(taken.limits.listed)
    pairs = check_pairs(taken.raw_rows(), of_pairs, counted_by) if taken.is_pairs else None
    every = (*taken.findings(lengths, counted_by), of_split, *slow.findings, of_pairs)
    findings = [finding for part in every for finding in part.sorted()]
    if pairs:
        findings = [finding for finding in findings if finding.code not in _OF_CHATS]
    return _Checked(taken, counted_by, lengths, parts, sort_findings(findings), slow.label_errors, pairs)


# Two rows with one question and answer may be two pairs, and two preferred answers no contradiction.
_OF_CHATS = {DUPLICATE.code, CONTRADICTION.code}


@dataclass(frozen=True)
class _Taken:
    """The rows after the first pass. `faults` are of single rows, and why the file was refused. `labels` has one for
    each row, all empty for free text."""

    faults: Findings
    progress: Progress
    rows: StoredRows
    task: Task
    labels: list[str]
    limits: Limits

    @property
    def is_pairs(self) -> bool:
        return self.progress.format == "preference"

    def raw_rows(self) -> Iterator[tuple[int, bytes]]:
        """Yields each row's line, and the row as it stands in the file."""
        return ((line, self.rows.raw(row)) for row, line in enumerate(self.rows.facts.lines))

    @cached_property
    def label_counts(self) -> tuple[LabelCount, ...]:
        return sort_label_counts(Counter(self.labels)) if self.task == "labels" else ()

    def findings(self, lengths: Sequence[int], encoding: Encoding) -> tuple[Findings, ...]:
        """Adds the checks of the file as a whole, unless it was refused and has no rows. `lengths`: tokens of each
        row as `encoding` counts them."""
        facts = self.rows.facts
        if not len(facts) and any(finding.blocks for finding in self.faults.sorted()):
            return (self.faults,)
        labels = () if self.is_pairs else self.label_counts
        file = CheckedFile(facts, labels, lengths, encoding, self.limits)
        return (self.faults, *(check(file) for check in CHECKS))


@dataclass(frozen=True)
class _Written:
    train: str
    holdout: str
    pairs: str | None
    sealed: str | None


@dataclass(frozen=True)
class _Checked:
    """A file after all checks. `lengths`: tokens of each row as `counted_by` counts them."""

    taken: _Taken
    counted_by: Encoding
    lengths: Sequence[int]
    parts: Parts
    findings: tuple[Finding, ...]
    label_errors: LabelErrors | None
    pairs: PairsReport | None

    @property
    def is_blocked(self) -> bool:
        return any(finding.blocks for finding in self.findings)

    def write(self, folder: Path) -> _Written | None:
        """Writes the parts, and pairs as such, unless something blocks."""
        if self.is_blocked:
            return None
        rows, parts = self.taken.rows, self.parts
        both = store_split(folder, rows, parts.held, parts.earlier, parts.copies | parts.sealed)
        sealed = store_sealed(folder, rows, parts.sealed, parts.earlier_sealed)
        return _Written(*both, store_pairs(folder, rows, parts.not_trained) if self.pairs else None, sealed)

    def count_for(self, local_models: Mapping[str, Path], train: Path) -> tuple[tuple[str, int], ...]:
        """Returns the tokens that each of these models trains on, by its own tokenizer. `train`: the file with the
        rows; one whose tokenizer counted the lengths needs no second count."""
        counted = {}
        if self.counted_by.folder:
            trained = sum(self.lengths) - sum(self.lengths[row] for row in self.parts.not_trained)
            counted = {self.counted_by.folder: trained}
        return local_counts(train, local_models, counted)

    def report(
        self,
        name: str,
        seed: int,
        encoding: Encoding,
        source_sha256: str,
        files: _Written | None,
        trained_tokens: tuple[tuple[str, int], ...],
        clock: _Clock,
    ) -> Report:
        taken, parts, facts = self.taken, self.parts, self.taken.rows.facts
        labels = [count.label for count in taken.label_counts]
        return Report(
            name=name,
            format=taken.progress.format,
            rows=len(facts),
            task=taken.task,
            labels=taken.label_counts,
            tokens=token_report(taken.rows, labels, parts.not_trained, encoding),
            findings=self.findings,
            columns=taken.progress.columns,
            choices=taken.progress.choices,
            system=taken.rows.system,
            source_sha256=source_sha256,
            train_sha256=files.train if files else None,
            holdout_sha256=files.holdout if files else None,
            n_train=0 if self.is_blocked else len(facts) - len(parts.not_trained),
            n_holdout=0 if self.is_blocked else len(parts.held) + len(parts.earlier),
            seed=seed,
            trained_tokens=trained_tokens,
            duplicate_tokens=0 if self.pairs else facts.duplicate_tokens,
            token_lengths=histogram(self.lengths),
            stages=clock.stages,
            diff=parts.diff,
            label_errors=self.label_errors,
            pairs=self.pairs,
            pairs_sha256=files.pairs if files else None,
            sealed_sha256=files.sealed if files else None,
            n_sealed=0 if self.is_blocked else parts.n_sealed,
            seconds=clock.seconds,
        )


class _Clock:
    def __init__(self) -> None:
        self._started = self._last = time.monotonic()
        self.stages: tuple[tuple[str, float], ...] = ()

    def stage(self, name: str) -> None:
        now = time.monotonic()
        self.stages, self._last = (*self.stages, (name, now - self._last)), now

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pauses Python's collector. Rows have no cycles, yet it walks them again and again: half the time of reading."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _taken(
    source: ConvertedFile,
    name: str,
    spool: BinaryIO,
    columns: Columns,
    system: str | None,
    encoding: Encoding,
    limits: Limits,
    on_progress: Callable[[str], None],
    *,
    sketched: bool,
) -> _Taken:
    findings, progress, facts = (
        Findings(limits.listed),
        Progress(),
        Facts(encoding, limits, sketched=sketched),
    )
    sniffed = accept_file(source, name, findings, limits)
    if sniffed:
        read_facts(facts, source.file, spool, sniffed, columns, findings, limits, progress, on_progress)
    facts.close()
    report_counts(findings, progress)
    task = facts.task
    if progress.columns.text is None:  # not a table: its rows have the instructions that they need
        system = None
    else:
        system = system or default_system(task)
        facts.add_to_prompts(tokens_of_system(system, encoding))
    rows = StoredRows(source.file if sniffed and sniffed.kind == "jsonl" else spool, facts, limits, system)
    return _Taken(findings, progress, rows, task, labels_by_row(facts, rows, task), limits)


def _parts(
    taken: _Taken,
    seed: int,
    holdout: Sequence[Example] | None,
    previous: Previous | None,
    groups: Sequence[int] | None,
    findings: Findings,
    *,
    presidio: bool,
    n_sealed: int,
) -> Parts:
    facts = taken.rows.facts
    if holdout is not None:
        return split_against(holdout, facts, findings)
    if previous is not None:
        return continue_holdout(
            previous,
            taken.rows,
            facts.keys,
            taken.task,
            seed,
            groups,
            presidio=presidio,
            n_sealed=n_sealed,
        )
    return draw_holdout(facts, taken.labels, seed, groups, findings, n_sealed)
