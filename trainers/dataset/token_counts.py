"""Counts the tokens of a checked file: those trained on, those of a question, and those that a list of labels or fields
adds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from trainers.dataset.checks import Findings
from trainers.dataset.file_format import Sniffed
from trainers.dataset.jsonl import definitions_text
from trainers.dataset.reader import stream
from trainers.dataset.row_facts import StoredRows
from trainers.dataset.rows import Columns, Example, Limits, prompt_with_labels
from trainers.dataset.tables import Progress
from trainers.models.tokens import (
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
    """Token counts of a file. `rows` describes all rows; `train` is the number of tokens in one epoch.

    The means are per row: of the prompt as trained, of the prompt with a list of labels or fields for an untuned
    model (`prompted_mean`), and of the answer. `answer_most` is the longest answer, or 0 in reports from before it was
    stored. `system` are the tokens of the system message that the team gave all rows, or 0 in reports from before they
    were stored.
    """

    encoding: str
    assumed: bool
    rows: Spread
    train: int
    prompt_mean: float
    prompted_mean: float
    answer_mean: float
    answer_most: int = 0
    system: int = 0


def tokens_of_system(system: str, encoding: Encoding) -> int:
    """Returns the tokens that a system message adds to a row."""
    row = (Message("user", ""), Message("assistant", ""))
    longer, short = count_chat([(Message("system", system), *row), row], encoding).total
    return longer - short


def token_report(
    rows: StoredRows,
    labels: Sequence[str],
    held: Collection[int],
    encoding: Encoding,
    answer_format: str = "",
) -> TokenReport:
    """Counts tokens. `labels` are the distinct labels, none for free text; `held` are the rows that are not trained
    on. `answer_format` is the plain instruction for answers in JSON, "" for others."""
    facts = rows.facts
    prompt_mean = spread(facts.prompt).mean
    answers = spread(facts.answer)
    not_trained = sum([facts.total[row] for row in held])
    system = tokens_of_system(rows.system, encoding) if rows.system else 0
    return TokenReport(
        encoding=encoding.name,
        assumed=encoding.assumed,
        rows=spread(facts.total),
        train=sum(facts.total) - not_trained,
        prompt_mean=prompt_mean,
        prompted_mean=prompt_mean + _mean_added(rows, labels, answer_format, encoding),
        answer_mean=answers.mean,
        answer_most=answers.max,
        system=system,
    )


def _mean_added(rows: StoredRows, labels: Sequence[str], answer_format: str, encoding: Encoding) -> float:
    """Returns the mean number of tokens that listing the labels, or the fields of JSON, adds to a row. It depends only
    on the instructions, so each distinct instruction is counted once."""
    if not labels and not answer_format:
        return 0.0
    counts = rows.facts.instructions
    examples = []
    for texts in counts:
        instructions = [text.decode() for text in texts]
        if not instructions and rows.system:
            instructions = [rows.system]
        messages = [Message("system", text) for text in instructions]
        examples.append(Example(1, (*messages, Message("user", ""), Message("assistant", ""))))
    short = count_prompts([example.prompt for example in examples], encoding)
    prompted = [prompt_with_labels(example, labels, answer_format) for example in examples]
    longer = count_prompts(prompted, encoding)
    added = [(b - a) * count for count, a, b in zip(counts.values(), short, longer, strict=True)]
    return sum(added) / counts.total()


def row_lengths(rows: StoredRows, encoding: Encoding) -> list[int]:
    """Returns the tokens of each row, counted by another encoding than `rows.facts`."""
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
    """Returns the tokens per epoch for each model, given by name and folder, counted with its own tokenizer. Models
    whose folder has no tokenizer are left out. `counted` has the counts that are already known, by folder."""
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
                tokens += sum(_trained_tokens(batch, encoding))
        counts.append((name, tokens))
    return tuple(counts)


def _trained_tokens(examples: Sequence[Example], encoding: Encoding) -> Sequence[int]:
    """Returns the tokens that an epoch trains on, for each row."""
    if not splits_chats(encoding):
        return _lengths(examples, encoding)
    tools = count_tools([definitions_text(e.row) if e.row else "" for e in examples], encoding)
    return count_split([example.messages for example in examples], encoding, tools)
