"""Preference pairs for DPO, one question with a better and a worse answer: parsing one row, and checking a
whole file.

Two forms are read: OpenAI's {"input": {"messages": […]}, "preferred_output": […], "non_preferred_output": […]}, and
TRL's {"prompt", "chosen", "rejected"} with texts or lists of messages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from trainers.dataset.checks import Fault, Finding, Findings, Rule
from trainers.dataset.rows import is_blank
from trainers.tokens import O200K, Encoding, Spread, count_texts, spread

_FORM = (
    'Write {"input": {"messages": […]}, "preferred_output": [{"role": "assistant", "content": "…"}], '
    '"non_preferred_output": […]}.'
)
PREFERENCES = Rule(
    "preference_pairs",
    "blocks",
    "Train them through the API (docs/preferences.md), or send the preferred answers: as chat rows, or as labels.",
)
BAD_PAIR = Rule("bad_preference_pair", "blocks", _FORM)
SAME_ANSWERS = Rule(
    "preference_without_difference", "blocks", "Give two different answers, or delete the line."
)

_OPENAI = ("input", "preferred_output", "non_preferred_output")
_PLAIN = ("prompt", "chosen", "rejected")
ANSWERS = frozenset(_PLAIN[1:])


@dataclass(frozen=True, slots=True)
class Pair:
    """Messages as they came, not looked into: what was asked, and both answers."""

    asked: list[Any]
    preferred: list[Any]
    other: list[Any]


def is_pair(row: dict[str, Any]) -> bool:
    return (
        "preferred_output" in row or "non_preferred_output" in row or ("chosen" in row and "rejected" in row)
    )


def parse_pair(row: dict[str, Any]) -> Pair | Fault:
    """For a row that is_pair."""
    names = _PLAIN if "chosen" in row else _OPENAI
    parts: list[list[Any]] = []
    for name, role in zip(names, ("user", "assistant", "assistant"), strict=True):
        messages = _messages(row.get(name), role)
        if messages is None:
            return Fault(
                BAD_PAIR, f"has no {name}, or one that is neither text nor a filled list of messages"
            )
        parts.append(messages)
    request, preferred, other = parts
    if names == _PLAIN:
        request, preferred, other = _without_prompt(request, preferred, other)
    return _checked(Pair(request, preferred, other))


def _messages(value: Any, role: str) -> list[Any] | None:
    if type(value) is dict:
        value = value.get("messages")
    if type(value) is str and not is_blank(value):
        return [{"role": role, "content": value}]
    return value if type(value) is list and value else None


def _without_prompt(
    request: list[Any], preferred: list[Any], other: list[Any]
) -> tuple[list[Any], list[Any], list[Any]]:
    """Some files repeat the prompt's messages in front of each answer."""
    long = len(request)
    if preferred[:long] == request and other[:long] == request and min(len(preferred), len(other)) > long:
        return request, preferred[long:], other[long:]
    return request, preferred, other


def _checked(pair: Pair) -> Pair | Fault:
    for which, answer in (("preferred", pair.preferred), ("other", pair.other)):
        last = answer[-1]
        if type(last) is not dict or last.get("role") != "assistant":
            return Fault(BAD_PAIR, f"has a {which} answer that is not the assistant's")
        if not _says(last):
            return Fault(BAD_PAIR, f"has an empty {which} answer")
    if pair.preferred == pair.other:
        return Fault(SAME_ANSWERS, "has the same answer twice")
    return pair


def _says(message: dict[str, Any]) -> bool:
    content = message.get("content")
    says = not is_blank(content) if type(content) is str else bool(content)
    return says or bool(message.get("tool_calls"))


SWAPPED = Rule(
    "preference_contradiction",
    "warns",
    "Decide which answer is better, and delete or correct the other line.",
)
COPIED = Rule("preference_repeated", "warns", "Delete the copies: they teach nothing and take time.")
LONGER = Rule(
    "preferred_is_longer",
    "warns",
    "Add pairs whose better answer is the shorter one, or the model learns to write at length.",
)
OTHER_FORM = Rule(
    "pairs_in_another_form",
    "blocks",
    "Write them in OpenAI's form: jq -c '{input: {messages: [{role: \"user\", content: .prompt}]}, preferred_output: "
    '[{role: "assistant", content: .chosen}], non_preferred_output: [{role: "assistant", content: .rejected}]}\'',
)
NOT_ONE_ANSWER = Rule(
    "not_one_answer",
    "blocks",
    "Give the one message that differs, and put all that comes before it into the input.",
)
LONGER_SHARE = 0.7  # that DPO learns length where it goes with preference: Park et al. 2024, arXiv 2403.19159
FEW_TO_TELL = 20
_AT_ONCE = 2_000


@dataclass(frozen=True)
class PairsReport:
    """`prompt` and `longer` (what was asked with the longer answer) in tokens; `preferred_longer` of 0 to 1."""

    pairs: int
    prompts: int
    prompt: Spread
    longer: Spread
    preferred_longer: float
    findings: tuple[Finding, ...]

    def to_dict(self) -> Mapping[str, Any]:
        return asdict(self)


def check_pairs(path: Path, listed: int, encoding: Encoding = O200K) -> PairsReport | None:
    """None where the file holds no good pair. At most `listed` lines of a rule are listed."""
    findings, seen = Findings(listed), _Seen()
    lengths: list[tuple[int, int, int]] = []
    plain = 0
    for chunk in _chunks(path):
        for line, pair, is_plain in chunk:
            plain += is_plain
            fault = _not_one(pair) or seen.fault(line, pair)
            if fault is not None:
                findings.at(line, fault)
        lengths += _lengths([pair for _, pair, _ in chunk], encoding)
    if not lengths:
        return None
    if plain:
        are = "pair is" if plain == 1 else "pairs are"
        findings.about_file(OTHER_FORM, f"{plain:,} {are} written as prompt, chosen and rejected.", plain)
    share = sum(preferred > other for _, preferred, other in lengths) / len(lengths)
    if share > LONGER_SHARE and len(lengths) >= FEW_TO_TELL:
        findings.about_file(LONGER, f"The preferred answer is the longer one in {share:.0%} of the pairs.")
    return PairsReport(
        pairs=len(lengths),
        prompts=len(seen.prompts),
        prompt=spread([value for value, _, _ in lengths]),
        longer=spread([value + max(preferred, other) for value, preferred, other in lengths]),
        preferred_longer=share,
        findings=findings.sorted(),
    )


def _not_one(pair: Pair) -> Fault | None:
    """The API takes one message an answer."""
    last = pair.asked[-1]
    ends_in_answer = type(last) is dict and last.get("role") == "assistant"
    if len(pair.preferred) == len(pair.other) == 1 and not ends_in_answer:
        return None
    return Fault(NOT_ONE_ANSWER, "has an answer of more than one message")


class _Seen:
    """Digests of what came before: 16 bytes a pair."""

    def __init__(self) -> None:
        self.prompts: set[bytes] = set()
        self._lines: dict[bytes, int] = {}

    def fault(self, line: int, pair: Pair) -> Fault | None:
        self.prompts.add(_digest(pair.asked))
        own = _digest([pair.asked, pair.preferred, pair.other])
        swapped = _digest([pair.asked, pair.other, pair.preferred])
        earlier, contrary = self._lines.get(own), self._lines.get(swapped)
        self._lines.setdefault(own, line)
        if contrary is not None:
            return Fault(SWAPPED, f"prefers the answer that line {contrary} rejects for the same prompt")
        return None if earlier is None else Fault(COPIED, f"repeats line {earlier}")


def _digest(value: object) -> bytes:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()[:16]


def _chunks(path: Path) -> Iterator[list[tuple[int, Pair, bool]]]:
    chunk: list[tuple[int, Pair, bool]] = []
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            pair = _pair(raw.removeprefix(b"\xef\xbb\xbf"))
            if pair is not None:
                chunk.append((line, *pair))
            if len(chunk) == _AT_ONCE:
                yield chunk
                chunk = []
    yield chunk


def _pair(raw: bytes) -> tuple[Pair, bool] | None:
    """With whether it is written as prompt, chosen and rejected."""
    try:
        row = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    pair = parse_pair(row) if type(row) is dict and is_pair(row) else None
    return (pair, "chosen" in row) if isinstance(pair, Pair) else None


def _lengths(pairs: Sequence[Pair], encoding: Encoding) -> list[tuple[int, int, int]]:
    """Of each pair: what was asked, the preferred answer, the other; texts alone, without what a template adds."""
    texts = [_text(part) for pair in pairs for part in (pair.asked, pair.preferred, pair.other)]
    counts = count_texts(texts, encoding)
    return [(counts[i], counts[i + 1], counts[i + 2]) for i in range(0, len(counts), 3)]


def _text(messages: Sequence[Any]) -> str:
    contents = [message.get("content") for message in messages if type(message) is dict]
    return "\n".join(each if type(each) is str else orjson.dumps(each).decode() for each in contents if each)
