"""Counts the tokens of a checked file: what is trained on, what a question costs, and what listing the
labels adds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from trainers.dataset.checks import Findings
from trainers.dataset.file_format import Sniffed
from trainers.dataset.jsonl import definitions_text
from trainers.dataset.reader import Progress, stream
from trainers.dataset.row_facts import StoredRows
from trainers.dataset.rows import Columns, Example, Limits, prompt_with_labels
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

_ROWS_AT_ONCE = 2000


@dataclass(frozen=True)
class TokenReport:
    """Tokens of all rows, in one pass. `train` is what one epoch trains on.

    Means a row: `prompt` as trained, `prompted` with the labels listed for an untuned model, `answer`. `answer_most` of
    the longest answer; 0 in reports of before.
    """

    encoding: str
    assumed: bool
    rows: Spread
    train: int
    prompt_mean: float
    prompted_mean: float
    answer_mean: float
    answer_most: int = 0


def tokens_of_system(system: str, encoding: Encoding) -> int:
    """Returns the tokens that a system message adds to a row."""
    row = (Message("user", ""), Message("assistant", ""))
    longer, short = count_chat([(Message("system", system), *row), row], encoding).total
    return longer - short


def token_report(
    rows: StoredRows, labels: Sequence[str], held: Collection[int], encoding: Encoding
) -> TokenReport:
    """`labels` are the different ones, none for free text; `held` the rows that are not trained on."""
    facts = rows.facts
    prompt_mean, answers = spread(facts.prompt).mean, spread(facts.answer)
    return TokenReport(
        encoding=encoding.name,
        assumed=encoding.assumed,
        rows=spread(facts.total),
        train=sum(facts.total) - sum([facts.total[row] for row in held]),
        prompt_mean=prompt_mean,
        prompted_mean=prompt_mean + _mean_added(rows, labels, encoding),
        answer_mean=answers.mean,
        answer_most=answers.max,
    )


def _mean_added(rows: StoredRows, labels: Sequence[str], encoding: Encoding) -> float:
    """Returns the tokens that listing the labels adds to a row, on average. They depend on the instructions alone, so
    they are counted once for each."""
    if not labels:
        return 0.0
    counts = rows.facts.instructions
    examples = []
    for texts in counts:
        instructions = [text.decode() for text in texts] or ([rows.system] if rows.system else [])
        messages = [Message("system", text) for text in instructions]
        examples.append(Example(1, (*messages, Message("user", ""), Message("assistant", ""))))
    short = count_prompts([example.prompt for example in examples], encoding)
    longer = count_prompts([prompt_with_labels(example, labels) for example in examples], encoding)
    added = [(b - a) * count for count, a, b in zip(counts.values(), short, longer, strict=True)]
    return sum(added) / counts.total()


def row_lengths(rows: StoredRows, encoding: Encoding) -> list[int]:
    """Returns the tokens of each row by another encoding than that of `rows.facts`."""
    lengths: list[int] = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        lengths += _lengths(rows[start : start + _ROWS_AT_ONCE], encoding)
    return lengths


def _lengths(examples: Sequence[Example], encoding: Encoding) -> list[int]:
    tools = count_tools([definitions_text(e.row) if e.row else "" for e in examples], encoding)
    total = count_chat([example.messages for example in examples], encoding).total
    return [row + value for row, value in zip(total, tools, strict=True)]


def local_counts(
    train: Path, local_models: Mapping[str, Path], counted: Mapping[Path, int]
) -> tuple[tuple[str, int], ...]:
    """Returns the tokens that an epoch trains on by the tokenizer of each model, which lies in a folder; a folder
    without one is left out. `counted` has what is counted already, by folder."""
    counts = []
    for name, model in local_models.items():
        encoding = local_encoding(model)
        if encoding.folder is None:
            continue
        if encoding.folder in counted and not splits_chats(encoding):
            counts.append((name, counted[encoding.folder]))
            continue
        tokens = 0
        with train.open("rb") as file:
            rows = stream(file, Sniffed("jsonl"), Columns(), Findings(0), Limits(), Progress())
            while batch := list(islice(rows, _ROWS_AT_ONCE)):
                tokens += sum(_trained(batch, encoding))
        counts.append((name, tokens))
    return tuple(counts)


def _trained(examples: Sequence[Example], encoding: Encoding) -> Sequence[int]:
    """Returns the tokens of each row that an epoch trains on."""
    if not splits_chats(encoding):
        return _lengths(examples, encoding)
    tools = count_tools([definitions_text(e.row) if e.row else "" for e in examples], encoding)
    return count_split([example.messages for example in examples], encoding, tools)
