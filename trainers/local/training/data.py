"""Chat JSONL → rows of token ids, each marked whether the model is to learn it. Knows no model, only a tokenizer.

A conversation is written out with the model's own chat template. Learnt are the assistant's turns whose
`weight` is not 0: from where generation would begin up to the token that ends the turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset, disable_progress_bars
from jinja2 import TemplateError

from trainers.local.spool import TooLong
from trainers.local.training.failures import TrainingFailed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROLES = ("system", "user", "assistant", "tool")
# For training and answering alike. Models that may think first (Qwen 3, SmolLM3) are trained and asked without: the
# trained answers have no thoughts. Llama 3's templates write today's date unless they are given one.
TEMPLATE_OPTIONS: dict[str, Any] = {"enable_thinking": False, "date_string": "26 Jul 2024"}


@dataclass(frozen=True)
class Row:
    """`supervised[i]`: token i is to be predicted. `line` counts from 1 in the file."""

    line: int
    ids: Sequence[int]
    supervised: Sequence[bool]

    @property
    def first_target(self) -> int:
        return self.supervised.index(True)

    @property
    def last_target(self) -> int:
        return len(self.supervised) - 1 - self.supervised[::-1].index(True)


@dataclass(frozen=True)
class Rows:
    """`rows` can be learnt from. Left out are lines with nothing to learn, and `too_long` lines whose last answer
    ends beyond `max_length` tokens; `cut` lines end there, because the job says so."""

    rows: Sequence[Row]
    nothing_to_learn: int
    too_long: int
    cut: int = 0

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self.rows)

    @property
    def longest(self) -> int:
        return max(len(row.ids) for row in self.rows)


def read_rows(
    path: Path,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    param: str,
    too_long: TooLong = "leave_out",
) -> Rows:
    """Raises TrainingFailed with the line's number, and where no row is left. `param` names the file to the user."""
    if not tokenizer.chat_template:
        text = "This model has no chat template, so it cannot learn chats. Choose an instruct or chat model."
        raise TrainingFailed("no_chat_template", text, "model")
    disable_progress_bars()
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingFailed(
            "unreadable_file", f"Reading {path.name}: {error}. Upload it again.", param
        ) from error
    written = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    table = Dataset.from_dict({"line": [n for n, _ in written], "text": [text for _, text in written]})

    def tokenize(one: dict[str, Any]) -> dict[str, Any]:
        row = row_of(one["line"], one["text"], tokenizer, param)
        return {"ids": row.ids, "supervised": row.supervised}

    table = table.map(tokenize, remove_columns=["text"], keep_in_memory=True, new_fingerprint="rows")
    rows = (Row(one["line"], one["ids"], one["supervised"]) for one in table)
    return sort_out(rows, max_length, param, too_long)


def sort_out(rows: Iterable[Row], max_length: int, param: str, too_long: TooLong = "leave_out") -> Rows:
    every = list(rows)
    learnable = [row for row in every if any(row.supervised)]
    long = [row for row in learnable if row.last_target >= max_length]
    if long and too_long == "refuse":
        raise TrainingFailed("rows_too_long", _refusal(long, max_length), param)
    shortened = [cut_to(row, max_length) if too_long == "truncate" else row for row in learnable]
    fitting = [row for row in shortened if any(row.supervised) and row.last_target < max_length]
    if not learnable:
        text = (
            "No line has an assistant's answer to learn from: there is none, or each has weight 0. "
            "Add answers, or set their weight to 1."
        )
        raise TrainingFailed("nothing_to_learn", text, param)
    if not fitting:
        shortest = min(row.last_target for row in learnable) + 1
        text = (
            f"All {len(learnable)} rows are longer than max_length {max_length} tokens. "
            f"Shorten them or set max_length to {shortest} or more."
        )
        raise TrainingFailed("rows_too_long", text, "max_length")
    left_out = len(learnable) - len(fitting)
    cut = len(long) - left_out
    return Rows(fitting, len(every) - len(learnable), left_out, cut)


def cut_to(row: Row, max_length: int) -> Row:
    """Its first `max_length` tokens, so that it may end in the middle of an answer; a row that fits stays whole."""
    if any(row.supervised) and row.last_target < max_length:
        return row
    return Row(row.line, row.ids[:max_length], row.supervised[:max_length])


def _refusal(long: Sequence[Row], max_length: int) -> str:
    longest = max(row.last_target for row in long) + 1
    count = "1 row is" if len(long) == 1 else f"{len(long)} rows are"
    return (
        f"{count} longer than max_length {max_length} tokens, the first in line {long[0].line}, and too_long is "
        f"'refuse'. Shorten them, set max_length to {longest}, or set too_long to 'leave_out' or 'truncate'."
    )


def row_of(line: int, text: str, tokenizer: PreTrainedTokenizerFast, param: str) -> Row:
    """One line of the file. Raises TrainingFailed."""
    try:
        raw = json.loads(text)
        messages = [message_of(each) for each in raw["messages"]]
        weights = [each.get("weight", 1) for each in raw["messages"]]
        tools = raw.get("tools")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        sentence = f'Line {line} is no chat example: {error!r}. Write {{"messages": [{{"role": …, "content": …}}, …]}}.'
        raise TrainingFailed("invalid_row", sentence, param) from error
    template = Template(tokenizer, tools)
    try:
        ids = template.ids(template.render(messages))
        supervised = [False] * len(ids)
        for number, message in enumerate(messages):
            if message["role"] == "assistant" and weights[number] != 0:
                start, end = template.span(messages, number, ids)
                supervised[start:end] = [True] * (end - start)
    except TemplateError as error:
        sentence = f"Line {line} does not suit this model's chat template: {error}. Change the row's roles."
        raise TrainingFailed("invalid_row", sentence, param) from error
    except Rewritten as error:
        sentence = (
            f"Line {line}: this model's chat template rewrites an earlier answer once the conversation goes on. "
            "Give earlier answers weight 0, keep one answer a row, or choose another model."
        )
        raise TrainingFailed("rewriting_template", sentence, param) from error
    return Row(line, ids, supervised)


class Rewritten(Exception):
    """A turn's text is not where it stood when the conversation ended with it."""


@dataclass(frozen=True)
class Template:
    """A tokenizer's chat template, for one row."""

    tokenizer: PreTrainedTokenizerFast
    tools: Any

    def render(self, messages: Sequence[dict[str, Any]], *, asks: bool = False) -> str:
        """`asks`: up to where the model would begin to answer."""
        text = self.tokenizer.apply_chat_template(
            list(messages), tools=self.tools, tokenize=False, add_generation_prompt=asks, **TEMPLATE_OPTIONS
        )
        assert isinstance(text, str)  # noqa: S101  tokenize=False promises it, the signature does not
        return text

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def span(self, messages: Sequence[dict[str, Any]], turn: int, ids: Sequence[int]) -> tuple[int, int]:
        """First token of the assistant's `turn` in `ids`, and the token after its last."""
        whole = self.render(messages)
        before, after = self.render(messages[:turn], asks=True), self.render(messages[: turn + 1])
        if not whole.startswith(after) or not after.startswith(before):
            raise Rewritten
        start = max(1, self._boundary(before, ids))  # nothing comes before the first token to predict it
        return start, max(start, self._boundary(self._up_to_end_token(after), ids))

    def _up_to_end_token(self, text: str) -> str:
        """Without the white space that ChatML puts behind <|im_end|>: generation has stopped by then."""
        stripped = text.rstrip()
        added = self.tokenizer.added_tokens_decoder.values()
        ends = tuple(token.content for token in added if token.special)
        return stripped if ends and stripped.endswith(ends) else text

    def _boundary(self, text: str, ids: Sequence[int]) -> int:
        """How many of `ids` write `text`. A token that also writes what follows counts as part of `text`."""
        own = self.ids(text)
        same = next((i for i, (a, b) in enumerate(zip(own, ids, strict=False)) if a != b), len(own))
        return same if same == len(own) else same + 1


def message_of(raw: dict[str, Any]) -> dict[str, Any]:
    """As templates want it: 'developer' is written as 'system', a list of text parts as one text."""
    message = {key: value for key, value in raw.items() if key != "weight"}
    message["role"] = "system" if raw["role"] == "developer" else raw["role"]
    content = raw.get("content")
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    message["content"] = "" if content is None else content
    if message["role"] not in ROLES or not isinstance(message["content"], str):
        raise ValueError(f"a message of role {raw['role']!r} with content {content!r}")
    return message
