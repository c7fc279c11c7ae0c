"""Counts tokens of chat rows: exact for OpenAI's encodings, close for a local model's own tokenizer.

Choosing the encoding is done here and not by tiktoken, which maps `ft:gpt-4.1-…` to the wrong one and
downloads its ranks at run time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.chat_templates import EOS, describe_tools, read_chat_template, render, rewrites_answers
from trainers.types import Message, Role

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Each message is wrapped in <|start|>role<|message|>…<|end|>: three tokens beside the role and the text.
# Three more begin the assistant's reply.
_PER_MESSAGE = 3
_REPLY = 3
_CL100K_MODELS = ("gpt-4-", "gpt-3.5", "gpt-35", "text-embedding-")
_O200K_MODELS = ("gpt-4o", "gpt-4.1", "gpt-4.5", "gpt-5", "gpt-6", "chatgpt-4o", "o1", "o3", "o4")
_BATCH = 20_000
OUR_ROW_TOKENS = 1024  # our own trainer leaves longer rows out, where max_length says nothing else


@dataclass(frozen=True)
class Encoding:
    """How a model's tokens are counted. `assumed`: the model is unknown, and counts may be off by some percent.

    `folder` is set for a local model: it holds tokenizer.json and, for chat models, the template.
    """

    name: str
    assumed: bool = False
    folder: Path | None = None


O200K = Encoding("o200k_base")


@dataclass(frozen=True)
class ChatTokens:
    """Tokens per row, in the rows' order: all, what comes before the answer, and the answer's own text."""

    total: tuple[int, ...]
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Spread:
    """Tokens a row. Percentiles by nearest rank: a value that a row really has."""

    total: int
    mean: float
    p50: int
    p95: int
    max: int


def encoding_of(model: str) -> Encoding:
    """Returns a model's encoding. A tuned 'ft:gpt-4o-mini-2024-07-18:team::id' counts as its base does."""
    base = model.removeprefix("ft:").split(":")[0]
    if base.startswith(_O200K_MODELS):
        return O200K
    if base == "gpt-4" or base.startswith(_CL100K_MODELS):
        return Encoding("cl100k_base")
    return Encoding("o200k_base", assumed=True)


def local_encoding(folder: Path) -> Encoding:
    """Returns the encoding of a model's folder with a tokenizer.json; without one, o200k_base is assumed."""
    if not (folder / "tokenizer.json").is_file():
        return Encoding("o200k_base", assumed=True)
    return Encoding(folder.name, folder=folder)


def count_chat(rows: Iterable[Sequence[Message]], encoding: Encoding = O200K) -> ChatTokens:
    """Counts the tokens of chats. The last message of each row is its answer.

    OpenAI: 3 for each row + for each message 3 + tokens(role) + tokens(text), as in the OpenAI cookbook's
    "How to count tokens with tiktoken", num_tokens_from_messages. The answer's 3 + role belong to neither
    `prompt` nor `answer`: sending a prompt costs `prompt`, receiving the answer costs `answer`.
    Local: see _LocalCounter.
    """
    rows = list(rows)
    if encoding.folder is not None:
        return _count_local(rows, _LocalCounter.load(encoding.folder))
    texts = [message.content for row in rows for message in row]
    counts = iter(count_texts(texts, encoding))
    roles = _role_tokens(encoding)
    prompt: list[int] = []
    answer: list[int] = []
    for row in rows:
        before = sum([_PER_MESSAGE + roles[message.role] + next(counts) for message in row[:-1]])
        prompt.append(_REPLY + before)
        answer.append(next(counts))
    total = [p + a + _PER_MESSAGE + roles["assistant"] for p, a in zip(prompt, answer, strict=True)]
    return ChatTokens(tuple(total), tuple(prompt), tuple(answer))


def splits_chats(encoding: Encoding) -> bool:
    """Says whether our trainer makes a row for each answer of a chat: its model's template rewrites earlier ones."""
    return encoding.folder is not None and rewrites_answers(read_chat_template(encoding.folder))


def count_split(
    rows: Iterable[Sequence[Message]], encoding: Encoding, before: Sequence[int]
) -> tuple[int, ...]:
    """Returns for each chat all that is trained where `splits_chats`: up to each learnt answer, from its first message
    on, with the `before` tokens that stand in front of them."""
    assert encoding.folder is not None  # noqa: S101
    counter, rows = _LocalCounter.load(encoding.folder), list(rows)
    wrapped = iter(counter.wrapped([message for row in rows for message in row]))
    totals: list[int] = []
    added = cache(counter.added)
    for row, in_front in zip(rows, before, strict=True):
        so_far, total, roles = in_front, 0, tuple([message.role for message in row])
        for place, message in enumerate(row, 1):
            so_far += next(wrapped)
            if message.role == "assistant" and message.weight != 0:
                total += so_far + added(roles[:place])[0]
        totals.append(total)
    return tuple(totals)


def count_tools(lines: Sequence[str], encoding: Encoding) -> list[int]:
    """Counts what rows' definitions of tools, as JSON, add to what a model reads. Vendors write them in a form of their
    own, about as long; a local model's template writes them, or they are described in words."""
    different = list(dict.fromkeys(lines))
    if encoding.folder is None:
        counts = count_texts(different, encoding)
    else:
        counts = list(map(_LocalCounter.load(encoding.folder).tools, different))
    by_text = dict(zip(different, counts, strict=True))
    return [by_text[text] for text in lines]


class RowCounter:
    """Counts as `count_chat` does, for many rows with the same roles at once. `by_rows`: this model's texts can't be
    counted each by itself."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._local = _LocalCounter.load(encoding.folder) if encoding.folder else None
        self._roles = {} if encoding.folder else _role_tokens(encoding)

    @property
    def by_rows(self) -> bool:
        return self._local is not None

    def rows(self, roles: Sequence[Role], texts: Iterable[Sequence[str]]) -> ChatTokens:
        """Counts from the rows' texts."""
        messages = [[Message(*message) for message in zip(roles, row, strict=True)] for row in texts]
        return _count_local(messages, self._local) if self._local else count_chat(messages, self._encoding)

    def sums(self, roles: Sequence[Role], counts: Sequence[Sequence[int]]) -> ChatTokens:
        """Counts from the tokens of the rows' texts: a list for each message."""
        beside = _REPLY + sum([_PER_MESSAGE + self._roles[role] for role in roles])
        last = _PER_MESSAGE + self._roles["assistant"]
        total = tuple([beside + count for count in map(sum, zip(*counts, strict=True))])
        answer = tuple(counts[-1])
        return ChatTokens(total, tuple([t - a - last for t, a in zip(total, answer, strict=True)]), answer)


def training_limit(model: str) -> int:
    """Returns the tokens a row at most when OpenAI tunes `model`; what is beyond is cut off there. From OpenAI's
    guide to supervised fine-tuning; models that it doesn't name are taken to be like the current ones."""
    base = model.removeprefix("ft:").split(":")[0]
    if base.startswith(("gpt-3.5-turbo-0125", "gpt-3.5-turbo-1106")) or base == "gpt-3.5-turbo":
        return 16_385
    if base.startswith(("gpt-3.5", "gpt-35")):
        return 4_096
    return 65_536


def count_prompts(rows: Iterable[Sequence[Message]], encoding: Encoding = O200K) -> tuple[int, ...]:
    """Counts rows without their answer: what sending them costs."""
    nothing = Message("assistant", "")
    return count_chat([[*row, nothing] for row in rows], encoding).prompt


def count_texts(texts: Sequence[str], encoding: Encoding = O200K) -> list[int]:
    """Counts texts. That of special tokens counts as the ordinary text that it is."""
    if encoding.folder is not None:
        return _LocalCounter.load(encoding.folder).texts(texts)
    import toktok

    counts: list[int] = []
    for start in range(0, len(texts), _BATCH):
        counts += toktok.batch_count(texts[start : start + _BATCH], encoding.name, threads=1)
    return counts


def spread(counts: Sequence[int]) -> Spread:
    if not counts:
        return Spread(0, 0.0, 0, 0, 0)
    ordered, n = sorted(counts), len(counts)
    p50, p95 = (ordered[max(0, -(-percent * n // 100) - 1)] for percent in (50, 95))
    return Spread(sum(ordered), sum(ordered) / n, p50, p95, ordered[-1])


def _role_tokens(encoding: Encoding) -> dict[str, int]:
    roles = ["system", "developer", "user", "assistant", "tool"]
    return dict(zip(roles, count_texts(roles, encoding), strict=True))


@dataclass(frozen=True)
class _LocalCounter:
    """Counts by a local model's own tokenizer.

    ChatML templates (`<|im_start|>role\\ntext<|im_end|>\\n`) are counted as they are rendered. For others four tokens a
    message are assumed. What a template adds to that, as a standard system message, is found by rendering a chat of the
    same roles; where it can't be rendered here, it is missed.
    """

    tokenizer: Tokenizer
    is_chatml: bool
    template: str = ""

    @staticmethod
    def load(folder: Path) -> _LocalCounter:
        from tokenizers import Tokenizer

        template, tokenizer = read_chat_template(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
        return _LocalCounter(tokenizer, "<|im_start|>" in template, template)

    def texts(self, texts: Sequence[str]) -> list[int]:
        counts: list[int] = []
        for start in range(0, len(texts), 1000):
            encoded = self.tokenizer.encode_batch_fast(
                list(texts[start : start + 1000]), add_special_tokens=False
            )
            counts += [len(encoding.ids) for encoding in encoded]
        return counts

    def wrapped(self, messages: Sequence[Message]) -> list[int]:
        if not self.is_chatml:
            return [count + 4 for count in self.texts([message.content for message in messages])]
        return self.texts([f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages])

    def added(self, roles: tuple[Role, ...]) -> tuple[int, int]:
        """Returns what the template adds to `wrapped` in a chat of these roles: in all, and up to the answer."""
        chat = [Message(role, "text") for role in roles]
        entries = [{"role": message.role, "content": message.content} for message in chat]
        text, question = render(self.template, entries), render(self.template, entries[:-1], asks=True)
        if not self.template or text is None or question is None:
            return 0, 0
        counts = self.wrapped(chat)
        return self._rendered(text) - sum(counts), self._rendered(question) - sum(counts[:-1]) - self.reply

    def tools(self, text: str) -> int:
        """Counts definitions of tools; as the JSON that they are where the template can't be rendered here."""
        if not text:
            return 0
        row = json.loads(text)
        functions = [{"type": "function", "function": function} for function in row.get("functions", ())]
        tools = row.get("tools") or functions
        words = describe_tools(self.template, tools)
        if self.template and words:
            return self.texts([f"\n\n{words}"])[0]
        chat = [{"role": "system", "content": "text"}, {"role": "user", "content": "text"}]
        without, with_tools = render(self.template, chat), render(self.template, chat, tools=tools)
        if not self.template or without is None or with_tools is None:
            return self.texts([text])[0]
        return self._rendered(with_tools) - self._rendered(without)

    def _rendered(self, text: str) -> int:
        return self.texts([text.replace(EOS, "")])[0] + text.count(EOS)

    @property
    def reply(self) -> int:
        return self.texts(["<|im_start|>assistant\n"])[0] if self.is_chatml else 4


def _count_local(rows: Sequence[Sequence[Message]], counter: _LocalCounter) -> ChatTokens:
    wrapped = iter(counter.wrapped([message for row in rows for message in row]))
    answer = counter.texts([row[-1].content for row in rows])
    reply = counter.reply
    prompt: list[int] = []
    total: list[int] = []
    added = cache(counter.added)
    for row in rows:
        added_in_all, added_before = added(tuple([message.role for message in row]))
        before = sum([next(wrapped) for _ in row[:-1]])
        prompt.append(before + reply + added_before)
        total.append(before + next(wrapped) + added_in_all)
    return ChatTokens(tuple(total), tuple(prompt), tuple(answer))
