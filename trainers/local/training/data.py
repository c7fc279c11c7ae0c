"""Turns JSONL into rows of token ids, and marks the tokens to learn. Needs a tokenizer but no model.

A conversation is rendered with the model's own chat template. The assistant's turns whose `weight` is not 0 are learnt,
from the point where generation would begin up to the token that ends the turn. Some templates (Qwen 3, gpt-oss) write
an answer differently once the conversation goes on; such an answer becomes a separate row, which ends with it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np
from datasets import Dataset, Features, List, Value, disable_progress_bars
from jinja2 import TemplateError

from trainers.local.chat_renderer import (
    BREAK,
    break_special_tokens,
    chat_for_template,
    render_chat,
    special_texts,
    tools_for_template,
)
from trainers.local.stored_rows import Numbers, StoredRows
from trainers.local.training.errors import TrainingFailed
from trainers.methods import TooLong
from trainers.models.chat_templates import template_variables

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from trainers.local.training.metrics_logger import MetricsLogger

ROW_FEATURES = Features(
    {"line": Value("int64"), "ids": List(Value("int32")), "supervised": List(Value("bool"))}
)
# ValueError is transformers' own, for a chat without messages.
UNRENDERABLE = (TemplateError, TypeError, ValueError)
VERSION = 4  # of how rows are made from a chat; cached rows of another version are discarded
L = TypeVar("L", bound="LearnableRow")
V = TypeVar("V")


@dataclass(frozen=True)
class Row:
    """`supervised[i]` is True if token i is learnt. `line` is the line in the file, from 1."""

    line: int
    ids: Sequence[int]
    supervised: Sequence[bool]

    @property
    def first_target(self) -> int:
        return self.supervised.index(True)

    @property
    def last_target(self) -> int:
        from_end = self.supervised[::-1].index(True)
        return len(self.supervised) - 1 - from_end

    @property
    def is_learnable(self) -> bool:
        return any(self.supervised)

    @property
    def length(self) -> int:
        """The number of tokens up to the end of the last answer."""
        return self.last_target + 1

    def cut_to(self, max_length: int) -> Row:
        return Row(self.line, self.ids[:max_length], self.supervised[:max_length])


@dataclass(frozen=True)
class Rows:
    """The rows to learn from. `nothing_to_learn` rows without a supervised token and `too_long` rows beyond max_length
    were left out; `cut` rows were shortened to max_length. The job's setting too_long decides between the last two."""

    rows: Sequence[Row]
    nothing_to_learn: int
    too_long: int
    cut: int = 0

    @property
    def chats(self) -> int:
        """The number of lines that the rows come from. Smaller than the number of rows if a chat became several
        rows."""
        if isinstance(self.rows, StoredRows):
            return len(np.unique(self.rows.lines))
        return len({row.line for row in self.rows})

    @property
    def tokens(self) -> int:
        return int(row_lengths(self.rows).sum())

    @property
    def longest(self) -> int:
        return int(row_lengths(self.rows).max())

    @property
    def largest_id(self) -> int:
        if isinstance(self.rows, StoredRows):
            return self.rows.largest_id
        return max(max(row.ids) for row in self.rows)


def row_lengths(rows: Sequence[Row]) -> Numbers:
    """Returns the number of tokens of each row, which of stored rows are known without reading them."""
    if isinstance(rows, StoredRows):
        return rows.lengths
    return np.array([len(row.ids) for row in rows], np.int64)


def by_length(rows: Sequence[Row]) -> Sequence[Row]:
    """Returns the rows, the shortest first."""
    order = np.argsort(row_lengths(rows), kind="stable")
    if isinstance(rows, StoredRows):
        return rows.take(order)
    return [rows[place] for place in order]


def report_rows(logger: MetricsLogger, what: str, rows: Rows, max_length: int) -> None:
    """Logs the number of rows, and how many were cut or left out and why. `what` is "Training" or "Validation"."""
    logger.log(f"{what} rows: {len(rows.rows):,} with {rows.tokens:,} tokens")
    if rows.chats < len(rows.rows):
        logger.log(
            f"They are {rows.chats:,} chats: the template rewrites earlier answers, so each answer is a row"
        )
    if rows.too_long:
        logger.warn(f"{what} rows left out because they are longer than max_length: {rows.too_long:,}")
    if rows.cut:
        text = f"{what} rows cut to max_length {max_length} tokens, perhaps in the middle of an answer: "
        logger.warn(f"{text}{rows.cut:,}")
    if rows.nothing_to_learn:
        logger.warn(f"{what} rows left out because they have no answer to learn: {rows.nothing_to_learn:,}")


def read_rows(
    path: Path,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    param: str,
    too_long: TooLong = "leave_out",
    cache: Path | None = None,
) -> Rows:
    """Raises TrainingFailed for an invalid line, with its number, and if no row is left. `param` is the API parameter
    that names the file. `cache` is a folder for the tokens, so that a restarted job doesn't tokenize again."""
    check_tokenizer(tokenizer)
    template = Template.of(tokenizer)
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        sentence = f"Reading {path.name}: {error}. Upload it again."
        raise TrainingFailed("unreadable_file", sentence, param) from error
    if cache is None:
        table = tokenize_lines(text, template, param, None)
    else:
        cache.mkdir(exist_ok=True)
        file = cache / f"{template.fingerprint(content)}.arrow"
        if file.exists():
            table = Dataset.from_file(str(file))
        else:
            table = tokenize_lines(text, template, param, file)
    return filter_rows(StoredRows.of(table.data.table, Row), max_length, param, too_long)


def tokenize_lines(text: str, template: Template, param: str, file: Path | None) -> Dataset:
    """Returns the rows of a file's `text` as a table, which is mapped into memory from `file` if one is to be
    written."""
    disable_progress_bars()
    numbers: list[int] = []
    texts: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            numbers.append(number)
            texts.append(line)

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows: list[Row] = []
        for line, text in zip(batch["line"], batch["text"], strict=True):
            rows += rows_of_line(line, text, template, param)
        return {
            "line": [row.line for row in rows],
            "ids": [row.ids for row in rows],
            "supervised": [row.supervised for row in rows],
        }

    return Dataset.from_dict({"line": numbers, "text": texts}).map(
        tokenize,
        batched=True,
        batch_size=100,  # the lists of 1,000 rows, as usual, stay in the allocator: 36 MB
        remove_columns=["text"],
        features=ROW_FEATURES,
        keep_in_memory=file is None,
        cache_file_name=None if file is None else str(file),
        load_from_cache_file=False,
        new_fingerprint="rows" if file is None else file.stem,
    )


def check_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    """Raises TrainingFailed if chats can't be rendered or tokenized."""
    if not tokenizer.chat_template:
        text = "This model has no chat template, so it can't learn chats. Choose an instruct or chat model."
        raise TrainingFailed("no_chat_template", text, "model")
    if not tokenizer.is_fast:
        text = "This model's tokenizer has no tokenizer.json, which training needs. Choose another model."
        raise TrainingFailed("no_fast_tokenizer", text, "model")


def filter_rows(rows: StoredRows[Row], max_length: int, param: str, too_long: TooLong = "leave_out") -> Rows:
    learnable = rows.take(rows.ends > 0)
    if not learnable:
        text = (
            f"No line of the {describe_file(param)} has an assistant's answer to learn from: there are no answers, "
            "nobody asks before them, or all have weight 0. Add questions and answers, or set the weight to 1."
        )
        raise TrainingFailed("nothing_to_learn", text, param)
    is_long = learnable.ends > max_length
    long = learnable.take(is_long)
    if long and too_long == "refuse":
        raise refuse_long(len(long), "row", int(long.lines[0]), int(long.ends.max()), max_length, param)
    fits = ~is_long
    if too_long == "truncate":
        learnable = learnable.cut_to(np.where(is_long, max_length, learnable.lengths))
        fits |= learnable.firsts < max_length  # otherwise nothing to learn is left
    fitting = learnable.take(fits)
    if not fitting:
        raise refuse_all(len(learnable), "row", int(learnable.ends.min()), max_length, param)
    left_out = len(learnable) - len(fitting)
    return Rows(fitting, len(rows) - len(learnable), left_out, len(long) - left_out)


def describe_file(param: str) -> str:
    """Turns an API parameter like "training_file" into words, since a job may have two files."""
    return param.replace("_", " ")


class LearnableRow(Protocol):
    """A row of a chat, or a preference pair."""

    @property
    def line(self) -> int: ...

    @property
    def length(self) -> int: ...

    @property
    def is_learnable(self) -> bool: ...

    def cut_to(self, max_length: int) -> Self:
        """Returns the first `max_length` tokens. They may end in the middle of an answer, or have nothing to learn."""
        ...


def filter_by_length(
    rows: Sequence[L], noun: str, max_length: int, param: str, too_long: TooLong
) -> tuple[list[L], int, int]:
    """Returns the rows of at most `max_length` tokens, the number of longer ones left out, and the number cut. Raises
    TrainingFailed if there are longer rows and `too_long` is "refuse", and if no row is left."""
    long = [row for row in rows if row.length > max_length]
    if long and too_long == "refuse":
        raise refuse_long(len(long), noun, long[0].line, max(row.length for row in long), max_length, param)
    shortened = rows
    if too_long == "truncate":
        shortened = []
        for row in rows:
            if row.length > max_length:
                row = row.cut_to(max_length)
            shortened.append(row)
    fitting = [row for row in shortened if row.is_learnable and row.length <= max_length]
    if not fitting:
        raise refuse_all(len(rows), noun, min(row.length for row in rows), max_length, param)
    left_out = len(rows) - len(fitting)
    return fitting, left_out, len(long) - left_out


def refuse_long(
    count: int, noun: str, line: int, longest: int, max_length: int, param: str
) -> TrainingFailed:
    """`count` rows or pairs are too long, the first in `line` and the longest with `longest` tokens."""
    which = f"{count} {noun}s"
    verb = "are"
    if count == 1:
        which = f"1 {noun}"
        verb = "is"
    text = (
        f"{which} of the {describe_file(param)} {verb} longer than max_length {max_length} tokens, the first in "
        f"line {line}, and too_long is 'refuse'. Shorten them, set max_length to {longest}, or set "
        "too_long to 'leave_out' or 'truncate'."
    )
    return TrainingFailed("rows_too_long", text, param)


def refuse_all(count: int, noun: str, shortest: int, max_length: int, param: str) -> TrainingFailed:
    """All `count` rows or pairs are too long, the shortest with `shortest` tokens."""
    text = (
        f"Each {noun} of the {describe_file(param)} ({count}) is longer than max_length {max_length} tokens. "
        f"Shorten them or set max_length to {shortest} or more."
    )
    return TrainingFailed("rows_too_long", text, "max_length")


def rows_of_line(line: int, text: str, template: Template, param: str) -> list[Row]:
    """Returns the rows of one line of the file: one for the whole chat, and one for each answer that the template
    rewrites later in the chat. Raises TrainingFailed."""
    try:
        raw = json.loads(text)
        messages = chat_for_template(raw["messages"])
        learnt = []
        for message, written in zip(messages, raw["messages"], strict=True):
            weight = written.get("weight", 1)
            learnt.append(message["role"] == "assistant" and weight != 0)
        tools = tools_for_template(raw)
        chat = Chat.of(template, messages, tools)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        sentence = (
            f'Line {line} is not a chat: {error!r}. Write {{"messages": [{{"role": …, "content": …}}, …]}}.'
        )
        raise TrainingFailed("invalid_row", sentence, param) from error
    with translate_template_errors(line, param):
        if chat.opening and not chat.can_render(len(chat.messages)):
            chat, learnt = chat.without_opening(learnt)
            if not any(learnt):
                return [Row(line, [], [])]
        full_text = chat.text(len(chat.messages))
        answers = [chat.answer(turn) for turn in chat.asked_turns if learnt[turn]]
    inside = []
    rows = []
    for answer in answers:
        if answer.is_unchanged_in(full_text):
            inside.append(answer)
        else:
            rows.append(template.row(line, answer.text, [answer]))
    # A chat without any answer becomes a row too, with nothing to learn, so that it is counted.
    if inside or not rows:
        rows.append(template.row(line, full_text, inside))
    return rows


@contextmanager
def translate_template_errors(line: int, param: str) -> Iterator[None]:
    """Turns the errors of rendering a line into TrainingFailed."""
    try:
        yield
    except UNRENDERABLE as error:
        text = f"This model's chat template can't render line {line}: {error}. Change it, or choose another model."
        raise TrainingFailed("invalid_row", text, param) from error
    except AnswerLost as error:
        text = f"Line {line}: {error}"
        raise TrainingFailed("answer_not_written", text, "model") from error


class AnswerLost(Exception):
    """The template leaves out what should be learnt, or writes it elsewhere than the model would generate it. The
    message says which."""


@dataclass(frozen=True)
class Answer:
    """`text[start:end]` is learnt; `text[:start]` is exactly the model's prompt. `has_end`: the answer's last token
    ends the turn. `is_verbatim`: `text` is what the template renders, not spliced together from two renderings."""

    text: str
    start: int
    end: int
    has_end: bool
    is_verbatim: bool

    def is_unchanged_in(self, text: str) -> bool:
        """True if the longer conversation `text` has the same answer at the same position."""
        if not self.has_end or not self.is_verbatim:
            return False
        return text.startswith(self.text[: self.end])


@dataclass(frozen=True)
class Template:
    """A tokenizer's chat template. `special` matches one special token, and `ends` one or more in a row."""

    tokenizer: PreTrainedTokenizerFast
    special: re.Pattern[str]
    ends: re.Pattern[str]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Template:
        special = special_texts(tokenizer)
        return cls(tokenizer, special, re.compile(f"(?:{special.pattern})+"))

    def fingerprint(self, content: bytes) -> str:
        """Returns a hash of everything that a file's rows depend on."""
        backend = self.tokenizer.backend_tokenizer.to_str()
        template = self.tokenizer.chat_template
        variables = template_variables(str(template))
        rendering = json.dumps([VERSION, variables, template, self.tokenizer.eos_token_id])
        parts = (content, backend.encode(), rendering.encode(), self.ends.pattern.encode())
        # Hashed one by one, so that no part can pass for the end of another.
        digests = b"".join(sha256(part).digest() for part in parts)
        return sha256(digests).hexdigest()

    def row(self, line: int, text: str, answers: Sequence[Answer]) -> Row:
        """Tokenizes `text`, which contains `answers` in this order. The last answer gets the tokenizer's end token if
        it has none."""
        ids, starts = self._tokens(text)
        supervised = [False] * len(ids)
        for answer in answers:
            start = max(1, bisect_left(starts, answer.start))  # the first token can't be predicted
            end = bisect_left(starts, answer.end)
            supervised[start:end] = [True] * (end - start)
            if not answer.has_end and self.tokenizer.eos_token_id is not None:
                ids = [*ids[:end], self.tokenizer.eos_token_id]
                supervised = [*supervised[:end], True]
        return Row(line, ids, supervised)

    def _tokens(self, text: str) -> tuple[list[int], list[int]]:
        """Returns the ids and the position in `text` where each begins. White space that the tokenizer assigns to no
        token, and a BREAK, belong to the next token."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        offset = 0
        for part in text.split(BREAK):
            result = self.tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)
            ids += result["input_ids"]
            for start, end in result["offset_mapping"]:
                offsets.append((offset + start, offset + end))
            offset += len(part) + len(BREAK)
        # A token begins where the one before it ends, at the latest.
        starts: list[int] = []
        end_before = 0
        for start, end in offsets:
            starts.append(min(start, end_before))
            end_before = end
        return ids, starts


@dataclass(frozen=True)
class Chat:
    """One conversation, with its messages in the format that templates take."""

    template: Template
    messages: Sequence[dict[str, Any]]
    tools: Any

    @classmethod
    def of(cls, template: Template, messages: list[dict[str, Any]], tools: Any) -> Chat:
        """Escapes the messages, so that a special token written in one is treated as plain text."""
        return cls(template, break_special_tokens(template.special, messages), tools)

    def text(self, turns: int, *, asks: bool = False) -> str:
        """Renders the first `turns` messages. `asks` adds the generation prompt, after which the model would answer."""
        messages = self.messages[:turns]
        return render_chat(self.template.tokenizer, messages, tools=self.tools, add_generation_prompt=asks)

    @property
    def opening(self) -> list[int]:
        """The assistant's messages before anybody has asked, as in "Hello, how can I help?"."""
        opening = []
        for turn, message in enumerate(self.messages):
            if message["role"] not in ("system", "assistant"):
                break
            if message["role"] == "assistant":
                opening.append(turn)
        return opening

    @property
    def asked_turns(self) -> list[int]:
        """The turns at which a model can be asked for a message. A chat may begin with the assistant, but most
        templates write no prompt before the user has said something."""
        opening = self.opening
        turns = range(len(self.messages))
        return [turn for turn in turns if turn not in opening or self.can_render(turn, asks=True)]

    def without_opening(self, values: Sequence[V]) -> tuple[Chat, list[V]]:
        """Leaves the opening out, for a template that refuses it (Gemma, Cohere): its model never sees a chat with
        one. `values` are about the messages; those about the rest are returned."""
        opening = self.opening
        rest = [turn for turn in range(len(self.messages)) if turn not in opening]
        messages = [self.messages[turn] for turn in rest]
        shorter = Chat(self.template, messages, self.tools)
        return shorter, [values[turn] for turn in rest]

    def can_render(self, turns: int, *, asks: bool = False) -> bool:
        if not turns:
            return False
        try:
            self.text(turns, asks=asks)
        except UNRENDERABLE:
            return False
        return True

    def answer(self, turn: int) -> Answer:
        """Renders the assistant's message `turn` as the last one of the conversation. Raises AnswerLost."""
        message = self.messages[turn]
        prompt = self.text(turn, asks=True)
        after = self.text(turn + 1)
        if after.startswith(prompt):
            end, has_end = self._end(message, after, len(prompt))
            return Answer(after, len(prompt), end, has_end, is_verbatim=True)

        # DeepSeek's template opens a thought in the generation prompt but not in a rendered answer. So the answer is
        # cut out where the two renderings part, and put behind the prompt.
        same = common_prefix_length(prompt, after)
        question = common_prefix_length(self.text(turn), prompt)
        if same < question:
            raise AnswerLost("this model's chat template rewrites the question once it is answered.")
        text = _answer_text(message)
        begin = after.rfind(text)
        if text and begin >= question:
            # The answer may begin with the same letters as the thought.
            same = min(same, begin)
        end, has_end = self._end(message, after, same)
        moved = len(prompt) - same
        return Answer(prompt + after[same:], len(prompt), end + moved, has_end, is_verbatim=False)

    def _end(self, message: dict[str, Any], text: str, start: int) -> tuple[int, bool]:
        """Returns the end of the answer, and whether a special token ends it. The end is after that token, where
        generation stops, or after the last letter if there is no such token. More text may follow: ChatML writes a line
        break after <|im_end|>, and Phi-3 an end-of-text token. Raises AnswerLost."""
        answer = _answer_text(message)
        _check_rendered(message, text[start:])
        if not message.get("tool_calls"):
            begin = self._find_answer(answer, text, start)
            if begin is not None:
                match = self.template.ends.search(text, begin + len(answer))
                if match:
                    return match.end(), True
        stripped = text.rstrip()
        endings = [match.end() for match in self.template.ends.finditer(stripped, start)]
        has_end = bool(endings) and endings[-1] == len(stripped)
        return len(stripped), has_end

    def _find_answer(self, answer: str, text: str, start: int) -> int | None:
        """Returns the last position of `answer` outside special tokens, or None. A plain search could match inside one:
        the answer may be "end" or, in gpt-oss's format, "final"."""
        last: int | None = None
        searched = start
        spans = [match.span() for match in self.template.ends.finditer(text, start)]
        for begin, end in (*spans, (len(text), len(text))):
            position = text.find(answer, searched, begin)
            if position >= 0:
                last = position
            searched = end
        return last


def common_prefix_length(entries: Sequence[Any], other: Sequence[Any]) -> int:
    """Returns the number of equal characters or tokens with which both begin."""
    for index, (entry, counterpart) in enumerate(zip(entries, other, strict=False)):
        if entry != counterpart:
            return index
    return min(len(entries), len(other))


def _answer_text(message: dict[str, Any]) -> str:
    """Returns the answer without its thought, which templates format differently and later leave out."""
    content = str(message["content"])
    _, _, answer = content.rpartition("</think>")
    return answer.strip()


def _check_rendered(message: dict[str, Any], text: str) -> None:
    """Raises AnswerLost unless `text` contains the answer (ignoring white space) and the names of its tool calls."""
    leaves_out = (
        "this model's chat template leaves the {} out, so it can't be learnt. Choose another model{}."
    )
    answer = "".join(_answer_text(message).split())
    shown = "".join(text.split())
    if answer not in shown:
        raise AnswerLost(leaves_out.format("answer", ""))
    names = [call["function"]["name"] for call in message.get("tool_calls", ())]
    for name in names:
        if text.count(name) < names.count(name):
            advice = ""
            if len(names) > 1:
                advice = ", or put each call into a message of its own"
            raise AnswerLost(leaves_out.format(f"call of {name!r}", advice))
