"""Counts the tokens of a checked file: those trained on, those of a question, and those that a list of labels or fields
adds. Also how the lengths of rows are spread."""

from __future__ import annotations

from collections import Counter
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
    with_system = (Message("system", system), *row)
    longer, short = count_chat([with_system, row], encoding).total
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
    system = 0
    if rows.system:
        system = tokens_of_system(rows.system, encoding)
    added = _mean_added(rows, labels, answer_format, encoding)
    return TokenReport(
        encoding=encoding.name,
        assumed=encoding.assumed,
        rows=spread(facts.total),
        train=sum(facts.total) - not_trained,
        prompt_mean=prompt_mean,
        prompted_mean=prompt_mean + added,
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
        system = [Message("system", text) for text in instructions]
        chat = (*system, Message("user", ""), Message("assistant", ""))
        examples.append(Example(1, chat))
    plain = [example.prompt for example in examples]
    prompted = [prompt_with_labels(example, labels, answer_format) for example in examples]
    short = count_prompts(plain, encoding)
    long = count_prompts(prompted, encoding)
    added = 0
    for n_rows, without, with_list in zip(counts.values(), short, long, strict=True):
        added += n_rows * (with_list - without)
    return added / counts.total()


def row_lengths(rows: StoredRows, encoding: Encoding) -> list[int]:
    """Returns the tokens of each row, counted by another encoding than `rows.facts`."""
    lengths: list[int] = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        batch = rows[start : start + _ROWS_AT_ONCE]
        lengths += _lengths(batch, encoding)
    return lengths


def _lengths(examples: Sequence[Example], encoding: Encoding) -> list[int]:
    tools = _tool_tokens(examples, encoding)
    total = count_chat([example.messages for example in examples], encoding).total
    return [of_row + of_tools for of_row, of_tools in zip(total, tools, strict=True)]


def _tool_tokens(examples: Sequence[Example], encoding: Encoding) -> Sequence[int]:
    """Counts the definitions of tools in each row, which are none of its messages."""
    definitions = []
    for example in examples:
        definition = ""
        if example.row:
            definition = definitions_text(example.row)
        definitions.append(definition)
    return count_tools(definitions, encoding)


def histogram(counts: Sequence[int], most: int = 600) -> tuple[tuple[int, int], ...]:
    """Returns at most `most` bars of equal width, as (tokens of the longest row in the bar, rows)."""
    if not counts:
        return ()
    least = min(counts)
    span = max(counts) - least + 1
    width = -(-span // most)  # rounded up, so that there are no more than `most`
    rows_by_tokens = Counter(counts)
    longest: dict[int, int] = {}
    rows: Counter[int] = Counter()
    for tokens in sorted(rows_by_tokens):
        bar = (tokens - least) // width
        longest[bar] = tokens
        rows[bar] += rows_by_tokens[tokens]
    return tuple((tokens, rows[bar]) for bar, tokens in longest.items())


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
    tools = _tool_tokens(examples, encoding)
    messages = [example.messages for example in examples]
    return count_split(messages, encoding, tools)
