"""Counts the tokens of chats: exactly for OpenAI's encodings, closely with a local model's own tokenizer.

The encoding is chosen here and not by tiktoken, which maps `ft:gpt-4.1-…` to the wrong one and downloads its ranks at
run time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from operator import sub
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.models.chat_templates import EOS, describe_tools, read_chat_template, render, rewrites_answers
from trainers.types import Message, Role

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Chat = Sequence[Message]

# Each message is wrapped in <|start|>role<|message|>…<|end|>: three tokens besides the role and the text.
# The assistant's reply begins with three more.
_PER_MESSAGE = 3
_REPLY = 3
_CL100K_MODELS = ("gpt-4-", "gpt-3.5", "gpt-35", "text-embedding-")
_O200K_MODELS = ("gpt-4o", "gpt-4.1", "gpt-4.5", "gpt-5", "gpt-6", "chatgpt-4o", "o1", "o3", "o4")
_BATCH = 20_000
_LOCAL_BATCH = 1_000
_ASSUMED_AROUND = 4  # tokens around a message in a template that is not ChatML
OUR_ROW_TOKENS = 1024  # our own trainer's default max_length


@dataclass(frozen=True)
class Encoding:
    """How a model's tokens are counted. `assumed`: the model is unknown, so counts may be off by a few percent.

    `folder` is set for a local model and has its tokenizer.json and, for chat models, the template.
    """

    name: str
    assumed: bool = False
    folder: Path | None = None


O200K = Encoding("o200k_base")


@dataclass(frozen=True)
class ChatTokens:
    """Tokens of each row, in order: in total, before the answer, and of the answer's own text."""

    total: tuple[int, ...]
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Spread:
    """Summary of the tokens per row. Percentiles are by nearest rank, so some row really has that value."""

    total: int
    mean: float
    p50: int
    p95: int
    max: int


def encoding_of(model: str) -> Encoding:
    """Returns a model's encoding. A tuned 'ft:gpt-4o-mini-2024-07-18:team::id' has that of its base."""
    base, *_ = model.removeprefix("ft:").split(":")
    if base.startswith(_O200K_MODELS):
        return O200K
    if base == "gpt-4" or base.startswith(_CL100K_MODELS):
        return Encoding("cl100k_base")
    return Encoding("o200k_base", assumed=True)


def local_encoding(folder: Path) -> Encoding:
    """Returns the encoding of a local model. If its folder has no tokenizer.json, o200k_base is assumed."""
    if not (folder / "tokenizer.json").is_file():
        return Encoding("o200k_base", assumed=True)
    return Encoding(folder.name, folder=folder)


def count_chat(rows: Iterable[Chat], encoding: Encoding = O200K) -> ChatTokens:
    """Counts the tokens of chats. The last message of each row is its answer.

    OpenAI: 3 per row, plus 3 + tokens(role) + tokens(text) per message, as in num_tokens_from_messages of the OpenAI
    cookbook's "How to count tokens with tiktoken". The 3 + role of the answer are in neither `prompt` nor `answer`:
    sending a prompt costs `prompt`, receiving the answer costs `answer`. For local models see _LocalCounter.
    """
    rows = list(rows)
    if encoding.folder is not None:
        counter = _LocalCounter.load(encoding.folder)
        return _count_local(rows, counter)
    texts = [message.content for row in rows for message in row]
    counts = iter(count_texts(texts, encoding))
    roles = _role_tokens(encoding)
    around_answer = _PER_MESSAGE + roles["assistant"]
    total: list[int] = []
    prompt: list[int] = []
    answer: list[int] = []
    for row in rows:
        in_prompt = _REPLY
        for message in row[:-1]:
            in_prompt += _PER_MESSAGE + roles[message.role] + next(counts)
        in_answer = next(counts)
        prompt.append(in_prompt)
        answer.append(in_answer)
        total.append(in_prompt + around_answer + in_answer)
    return ChatTokens(tuple(total), tuple(prompt), tuple(answer))


def splits_chats(encoding: Encoding) -> bool:
    """True if our trainer makes one row per answer of a chat, because the model's template rewrites earlier answers."""
    if encoding.folder is None:
        return False
    template = read_chat_template(encoding.folder)
    return rewrites_answers(template)


def count_split(
    rows: Iterable[Chat],
    encoding: Encoding,
    before: Sequence[int],
) -> tuple[int, ...]:
    """Returns the tokens that each chat is trained on if `splits_chats`: for each answer to learn, the chat up to and
    including it, plus the chat's `before` tokens in front."""
    assert encoding.folder is not None  # noqa: S101
    counter = _LocalCounter.load(encoding.folder)
    rows = list(rows)
    messages = [message for row in rows for message in row]
    wrapped = iter(counter.wrapped(messages))
    totals: list[int] = []
    added = cache(counter.added)  # rendering is slow, and most chats have the same roles
    for row, in_front in zip(rows, before, strict=True):
        so_far = in_front
        total = 0
        roles = tuple([message.role for message in row])
        for count, message in enumerate(row, 1):
            so_far += next(wrapped)
            if message.role == "assistant" and message.weight != 0:
                by_template = added(roles[:count])
                total += so_far + by_template.in_all
        totals.append(total)
    return tuple(totals)


def count_tools(lines: Sequence[str], encoding: Encoding) -> list[int]:
    """Counts the tokens that each row's tool definitions, given as JSON, add to its prompt. Vendors convert them to a
    form of their own of about the same length. A local model's template writes them, or they are described in words."""
    different = list(dict.fromkeys(lines))
    if encoding.folder is None:
        counts = count_texts(different, encoding)
    else:
        counter = _LocalCounter.load(encoding.folder)
        counts = list(map(counter.tools, different))
    by_text = dict(zip(different, counts, strict=True))
    return [by_text[text] for text in lines]


class RowCounter:
    """Counts as `count_chat` does, for many rows with the same roles at once. If `by_rows`, texts can't be counted one
    by one for this model, only as whole rows."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._local: _LocalCounter | None = None
        self._roles: dict[str, int] = {}
        if encoding.folder:
            self._local = _LocalCounter.load(encoding.folder)
        else:
            self._roles = _role_tokens(encoding)

    @property
    def by_rows(self) -> bool:
        return self._local is not None

    def rows(self, roles: Sequence[Role], texts: Iterable[Sequence[str]]) -> ChatTokens:
        """Counts rows, given the texts of each."""
        chats: list[Chat] = []
        for row in texts:
            pairs = zip(roles, row, strict=True)
            chats.append([Message(role, text) for role, text in pairs])
        if self._local:
            return _count_local(chats, self._local)
        return count_chat(chats, self._encoding)

    def sums(self, roles: Sequence[Role], counts: Sequence[Sequence[int]]) -> ChatTokens:
        """Counts rows, given the token counts of their texts: one list for each message."""
        around_messages = [_PER_MESSAGE + self._roles[role] for role in roles]
        beside = _REPLY + sum(around_messages)
        around_answer = _PER_MESSAGE + self._roles["assistant"]
        in_texts = map(sum, zip(*counts, strict=True))
        total = tuple([beside + count for count in in_texts])
        answer = tuple(counts[-1])
        without_answer = map(sub, total, answer)
        prompt = tuple([count - around_answer for count in without_answer])
        return ChatTokens(total, prompt, answer)


def training_limit(model: str) -> int:
    """Returns the tokens after which OpenAI truncates rows when it tunes `model`, from OpenAI's guide to supervised
    fine-tuning. Models that it doesn't name are assumed to have the current limit."""
    base, *_ = model.removeprefix("ft:").split(":")
    if base == "gpt-3.5-turbo":
        return 16_385
    if base.startswith(("gpt-3.5-turbo-0125", "gpt-3.5-turbo-1106")):
        return 16_385
    if base.startswith(("gpt-3.5", "gpt-35")):
        return 4_096
    return 65_536


def count_prompts(rows: Iterable[Chat], encoding: Encoding = O200K) -> tuple[int, ...]:
    """Counts the tokens of prompts, which have no answer."""
    nothing = Message("assistant", "")
    chats = [[*row, nothing] for row in rows]
    return count_chat(chats, encoding).prompt


def count_texts(texts: Sequence[str], encoding: Encoding = O200K) -> list[int]:
    """Counts the tokens of texts. The names of special tokens count as ordinary text."""
    if encoding.folder is not None:
        return _LocalCounter.load(encoding.folder).texts(texts)
    import toktok

    counts: list[int] = []
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        counts += toktok.batch_count(batch, encoding.name, threads=1)
    return counts


def spread(counts: Sequence[int]) -> Spread:
    if not counts:
        return Spread(0, 0.0, 0, 0, 0)
    n = len(counts)
    ordered = sorted(counts)
    total = sum(ordered)

    def percentile(percent: int) -> int:
        rank = -(-percent * n // 100)  # rounded up
        return ordered[max(0, rank - 1)]

    return Spread(
        total=total,
        mean=total / n,
        p50=percentile(50),
        p95=percentile(95),
        max=ordered[-1],
    )


def _role_tokens(encoding: Encoding) -> dict[str, int]:
    roles = ["system", "developer", "user", "assistant", "tool"]
    counts = count_texts(roles, encoding)
    return dict(zip(roles, counts, strict=True))


@dataclass(frozen=True)
class _Added:
    """The tokens that a template adds to the messages of a chat: in all, and before the answer."""

    in_all: int
    before: int


@dataclass(frozen=True)
class _LocalCounter:
    """Counts with a local model's own tokenizer.

    ChatML templates (`<|im_start|>role\\ntext<|im_end|>\\n`) are counted as rendered; for others, four tokens per
    message are assumed. Anything else that a template adds, such as a default system message, is found by rendering a
    chat with the same roles; it is missed if the template can't be rendered here.
    """

    tokenizer: Tokenizer
    is_chatml: bool
    template: str = ""

    @staticmethod
    def load(folder: Path) -> _LocalCounter:
        from tokenizers import Tokenizer

        template = read_chat_template(folder)
        file = folder / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(file))
        is_chatml = "<|im_start|>" in template
        return _LocalCounter(tokenizer, is_chatml, template)

    def texts(self, texts: Sequence[str]) -> list[int]:
        counts: list[int] = []
        for start in range(0, len(texts), _LOCAL_BATCH):
            batch = list(texts[start : start + _LOCAL_BATCH])
            encoded = self.tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            counts += [len(encoding.ids) for encoding in encoded]
        return counts

    def wrapped(self, messages: Chat) -> list[int]:
        if not self.is_chatml:
            contents = [message.content for message in messages]
            counts = self.texts(contents)
            return [count + _ASSUMED_AROUND for count in counts]
        written = [f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n" for message in messages]
        return self.texts(written)

    def added(self, roles: tuple[Role, ...]) -> _Added:
        """Returns the tokens that the template adds to `wrapped` in a chat with these roles."""
        chat = [Message(role, "text") for role in roles]
        entries = [{"role": role, "content": "text"} for role in roles]
        text = render(self.template, entries)
        question = render(self.template, entries[:-1], asks=True)
        if not self.template or text is None or question is None:
            return _Added(0, 0)
        counts = self.wrapped(chat)
        *before_answer, _ = counts
        in_question = sum(before_answer) + self.reply
        return _Added(
            in_all=self._rendered(text) - sum(counts),
            before=self._rendered(question) - in_question,
        )

    def tools(self, text: str) -> int:
        """Counts tool definitions as the template writes them, or as JSON if it can't be rendered here."""
        if not text:
            return 0
        row = json.loads(text)
        tools = row.get("tools")
        if not tools:  # an older row, whose functions stand by themselves
            functions = row.get("functions", ())
            tools = [{"type": "function", "function": function} for function in functions]
        words = describe_tools(self.template, tools)
        if self.template and words:
            return self._text(f"\n\n{words}")
        chat = [{"role": "system", "content": "text"}, {"role": "user", "content": "text"}]
        without = render(self.template, chat)
        with_tools = render(self.template, chat, tools=tools)
        if not self.template or without is None or with_tools is None:
            return self._text(text)
        return self._rendered(with_tools) - self._rendered(without)

    def _rendered(self, text: str) -> int:
        # EOS stands for the model's own end, which is one token whatever its text is.
        n_ends = text.count(EOS)
        without_ends = text.replace(EOS, "")
        return self._text(without_ends) + n_ends

    @property
    def reply(self) -> int:
        if not self.is_chatml:
            return _ASSUMED_AROUND
        return self._text("<|im_start|>assistant\n")

    def _text(self, text: str) -> int:
        (count,) = self.texts([text])
        return count


def _count_local(rows: Sequence[Chat], counter: _LocalCounter) -> ChatTokens:
    messages = [message for row in rows for message in row]
    wrapped = iter(counter.wrapped(messages))
    answers = [row[-1].content for row in rows]
    answer = counter.texts(answers)
    reply = counter.reply
    prompt: list[int] = []
    total: list[int] = []
    added = cache(counter.added)  # rendering is slow, and most chats have the same roles
    for row in rows:
        roles = tuple([message.role for message in row])
        by_template = added(roles)
        before = sum([next(wrapped) for _ in row[:-1]])
        in_answer = next(wrapped)
        prompt.append(before + reply + by_template.before)
        total.append(before + in_answer + by_template.in_all)
    return ChatTokens(tuple(total), tuple(prompt), tuple(answer))
