"""Token counts of a checked file: what is trained on, what a question costs, and what listing the labels
adds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from trainers.dataset.checks import Findings
from trainers.dataset.file_format import Sniffed
from trainers.dataset.jsonl import definitions_text
from trainers.dataset.reader import Progress, stream
from trainers.dataset.rows import Columns, Example, Limits, prompted
from trainers.dataset.stored_rows import StoredRows
from trainers.tokens import (
    Encoding,
    Spread,
    count_chat,
    count_prompts,
    count_split,
    count_tools,
    local_encoding,
    splits_chats,
    spread,
)
from trainers.types import Message


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


def tokens_of_system(system: str, encoding: Encoding) -> int:
    row = (Message("user", ""), Message("assistant", ""))
    longer, short = count_chat([(Message("system", system), *row), row], encoding).total
    return longer - short


def token_report(
    rows: StoredRows, labels: Sequence[str], held: Collection[int], encoding: Encoding
) -> TokenReport:
    """`labels` are the different ones, none for free text; `held` the rows that are not trained on."""
    facts = rows.facts
    prompt_mean = spread(facts.prompt).mean
    return TokenReport(
        encoding=encoding.name,
        assumed=encoding.assumed,
        rows=spread(facts.total),
        train=sum(facts.total) - sum([facts.total[row] for row in held]),
        prompt_mean=prompt_mean,
        prompted_mean=prompt_mean + _mean_added(rows, labels, encoding),
        answer_mean=spread(facts.answer).mean,
    )


def _mean_added(rows: StoredRows, labels: Sequence[str], encoding: Encoding) -> float:
    """Tokens a row that listing the labels adds. It depends on the instructions: counted once for each."""
    if not labels:
        return 0.0
    times = rows.facts.instructions
    examples = [_with_instructions(texts, rows.system) for texts in times]
    short = count_prompts([example.prompt for example in examples], encoding)
    longer = count_prompts([prompted(example, labels) for example in examples], encoding)
    added = [(b - a) * n for n, a, b in zip(times.values(), short, longer, strict=True)]
    return sum(added) / times.total()


def _with_instructions(texts: Sequence[bytes], system: str | None) -> Example:
    lines = [text.decode() for text in texts] or ([system] if system else [])
    messages = [Message("system", text) for text in lines]
    return Example(1, (*messages, Message("user", ""), Message("assistant", "")))


def row_lengths(rows: StoredRows, encoding: Encoding) -> list[int]:
    """Tokens of each row as another model than the usual one counts them."""
    lengths: list[int] = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        lengths += _lengths(rows[start : start + _ROWS_AT_ONCE], encoding)
    return lengths


def _lengths(examples: Sequence[Example], encoding: Encoding) -> list[int]:
    tools = count_tools([definitions_text(e.row) if e.row else "" for e in examples], encoding)
    total = count_chat([example.messages for example in examples], encoding).total
    return [row + value for row, value in zip(total, tools, strict=True)]


def local_counts(
    train: Path, local_models: Mapping[str, Path], values_by_path: Mapping[Path, int]
) -> tuple[tuple[str, int], ...]:
    """By the models' own tokenizers; a folder without one is left out. `values_by_path` are counted "
    "already, by folder."""
    with_tokenizer = {name: local_encoding(folder) for name, folder in local_models.items()}
    return tuple(
        (
            name,
            values_by_path[encoding.folder]
            if encoding.folder in values_by_path and not splits_chats(encoding)
            else sum(_counted(train, encoding)),
        )
        for name, encoding in with_tokenizer.items()
        if encoding.folder is not None
    )


def _counted(train: Path, encoding: Encoding) -> Iterator[int]:
    """Tokens of some rows at a time."""
    with train.open("rb") as file:
        rows = stream(file, Sniffed("jsonl"), Columns(), Findings(0), Limits(), Progress())
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            yield sum(_trained(some, encoding))


def _trained(examples: Sequence[Example], encoding: Encoding) -> Sequence[int]:
    """Tokens of each row that an epoch trains on."""
    if not splits_chats(encoding):
        return _lengths(examples, encoding)
    tools = count_tools([definitions_text(e.row) if e.row else "" for e in examples], encoding)
    return count_split([example.messages for example in examples], encoding, tools)


_ROWS_AT_ONCE = 2000
