"""One call that checks a file, splits it and reports: for a worker process. Values that travel as JSON."""

from __future__ import annotations

import gc
import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from trainers.dataset.checks import LabelCount, check_rows, count_labels, task_of
from trainers.dataset.findings import Fault, Finding, Findings, Rule, in_order
from trainers.dataset.prompting import default_system, prompted, with_system
from trainers.dataset.reading import Reading, read
from trainers.dataset.sensitive import check_sensitive
from trainers.dataset.splitting import Split, overlap, split, store_chat
from trainers.dataset.values import (
    DEFAULT_LIMITS,
    Choices,
    Columns,
    Example,
    Format,
    Limits,
    Task,
    question_keys,
)
from trainers.tokens import (
    O200K,
    ChatTokens,
    Encoding,
    Spread,
    count_chat,
    count_prompts,
    local_encoding,
    spread,
)

LONG_ROW = Rule("row_too_long", "warns", "Shorten the row: trainers cut off what is beyond their limit.")
OVERLAP = Rule("overlap", "blocks", "Delete the line: who trains on the test's questions measures nothing.")


NO_MODELS: Mapping[str, Path] = {}


@dataclass(frozen=True)
class TokenReport:
    """Of all rows, in one pass. `train` is what one epoch trains on.

    Means a row: `prompt` as trained, `prompted` with the labels listed for an untuned model, `answer`.
    """

    encoding: str
    assumed: bool
    rows: Spread
    train: int
    prompt_mean: float
    prompted_mean: float
    answer_mean: float


@dataclass(frozen=True)
class Report:
    """`task`, `tokens` and the counts describe the rows that could be read, also where a finding blocks.

    The two files exist, as OUT_DIR/SHA256.jsonl, unless one does. `labels` is empty for free text. `system`
    was put before the rows of a table. `seconds` of wall time. `trained_tokens` of one epoch by the tokenizer of
    each local model that was named.
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

    @property
    def blocked(self) -> bool:
        return any(finding.blocks for finding in self.findings)

    def to_json(self) -> str:
        return orjson.dumps(asdict(self)).decode()

    @staticmethod
    def from_json(text: str | bytes) -> Report:
        raw = orjson.loads(text)
        raw["labels"] = tuple(LabelCount(**count) for count in raw["labels"])
        raw["findings"] = tuple(Finding(**finding) for finding in raw["findings"])
        raw["tokens"] = TokenReport(**{**raw["tokens"], "rows": Spread(**raw["tokens"]["rows"])})
        raw["columns"] = Columns(**raw["columns"])
        raw["trained_tokens"] = tuple((name, count) for name, count in raw.get("trained_tokens", ()))
        raw["choices"] = Choices(tuple(raw["choices"]["text"]), tuple(raw["choices"]["label"]))
        return Report(**raw)


def check_file(
    path: Path,
    name: str,
    columns: Columns,
    out_dir: Path,
    seed: int,
    *,
    limits: Limits = DEFAULT_LIMITS,
    system: str | None = None,
    encoding: Encoding = O200K,
    holdout: Path | None = None,
    local_models: Mapping[str, Path] = NO_MODELS,
) -> Report:
    """Read, check, split, write. `system` goes before a table's rows; None: one that fits the task.

    `holdout` is one that was frozen earlier (chat JSONL): it stays the holdout, every row is for training,
    and rows that ask what it asks block. Nothing in the file raises; OSError where the disk does, ValueError
    where `holdout` is not what we wrote.
    """
    started = time.monotonic()
    with _collector_paused():
        reading = read(path, name, columns=columns, limits=limits)
        task = task_of(reading.examples)
        system = (system or default_system(task)) if reading.format == "csv" else None
        examples = with_system(reading.examples, system) if system else reading.examples
        counts = count_chat([e.messages for e in examples], encoding)
        rows = _Rows(examples, question_keys(examples), task, counts, encoding)
        found = _findings(reading, rows, limits)
        parts = (
            split(examples, seed, task, keys=rows.keys) if holdout is None else _against(holdout, rows, found)
        )
        findings = in_order([*reading.findings, *found.sorted()])
        written = None if any(f.blocks for f in findings) else _written(out_dir, parts)
        return Report(
            name=reading.name,
            format=reading.format,
            rows=len(examples),
            task=task,
            labels=rows.labels,
            tokens=_token_report(rows, parts),
            findings=findings,
            columns=reading.columns,
            choices=reading.choices,
            system=system,
            source_sha256=sha256_of(path),
            train_sha256=written.train if written else None,
            holdout_sha256=written.holdout if written else None,
            n_train=len(parts.train) if written else 0,
            n_holdout=len(parts.holdout) if written else 0,
            seed=seed,
            trained_tokens=_local_counts(parts, local_models) if written else (),
            seconds=time.monotonic() - started,
        )


@dataclass(frozen=True)
class _Rows:
    """What was read, and what was worked out about it once. All in the rows' order."""

    examples: tuple[Example, ...]
    keys: list[bytes]
    task: Task
    counts: ChatTokens
    encoding: Encoding

    @property
    def labels(self) -> tuple[LabelCount, ...]:
        return count_labels(self.examples) if self.task == "labels" else ()


@dataclass(frozen=True)
class _Written:
    train: str
    holdout: str


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Rows have no cycles, yet Python's collector walks them again and again: half the time of reading."""
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


def _findings(reading: Reading, rows: _Rows, limits: Limits) -> Findings:
    """About the rows. A file that was refused as a whole has none to speak of."""
    found = Findings(limits.listed)
    if not rows.examples and reading.refused:
        return found
    check_rows(rows.examples, rows.keys, rows.task, found)
    check_sensitive(rows.examples, found)
    for example, tokens in zip(rows.examples, rows.counts.total, strict=True):
        if tokens > limits.max_row_tokens:
            said = f"has {tokens:,} tokens, more than {limits.max_row_tokens:,}"
            found.at(example.line, Fault(LONG_ROW, said))
    return found


def _against(holdout: Path, rows: _Rows, found: Findings) -> Split:
    frozen = read(holdout, holdout.name)
    if frozen.refused or not frozen.examples:
        raise ValueError(f"reading the frozen holdout '{holdout.name}': it is not the file that was written")
    for shared in overlap(rows.examples, frozen.examples):
        found.at(
            shared.train_line, Fault(OVERLAP, f"asks what the holdout asks in line {shared.holdout_line}")
        )
    return Split(rows.examples, frozen.examples)


def _written(out_dir: Path, parts: Split) -> _Written:
    return _Written(store_chat(out_dir, parts.train), store_chat(out_dir, parts.holdout))


def _token_report(rows: _Rows, parts: Split) -> TokenReport:
    counts, lines = rows.counts, {example.line for example in parts.train}
    prompt_mean = spread(counts.prompt).mean
    return TokenReport(
        encoding=rows.encoding.name,
        assumed=rows.encoding.assumed,
        rows=spread(counts.total),
        train=sum(n for e, n in zip(rows.examples, counts.total, strict=True) if e.line in lines),
        prompt_mean=prompt_mean,
        prompted_mean=prompt_mean + _mean_added(rows),
        answer_mean=spread(counts.answer).mean,
    )


def _local_counts(parts: Split, local_models: Mapping[str, Path]) -> tuple[tuple[str, int], ...]:
    """By the models' own tokenizers; a folder without one is left out."""
    rows = [example.messages for example in parts.train]
    with_tokenizer = {name: local_encoding(folder) for name, folder in local_models.items()}
    return tuple(
        (name, sum(count_chat(rows, encoding).total))
        for name, encoding in with_tokenizer.items()
        if encoding.folder is not None
    )


def _mean_added(rows: _Rows) -> float:
    """Tokens a row that listing the labels adds. It depends on the instructions: counted once for each."""
    labels = [count.label for count in rows.labels]
    if not labels:
        return 0.0
    times = Counter(example.system for example in rows.examples)
    one_of_each = list({example.system: example for example in rows.examples}.values())
    short = count_prompts([e.prompt for e in one_of_each], rows.encoding)
    longer = count_prompts([prompted(e, labels) for e in one_of_each], rows.encoding)
    added = [(b - a) * times[e.system] for e, a, b in zip(one_of_each, short, longer, strict=True)]
    return sum(added) / len(rows.examples)
