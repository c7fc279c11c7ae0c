"""Preference pairs for DPO, a prompt with a better and a worse answer each: parses one row, and checks a file of them.

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
    """Messages as they came, unchecked: the prompt and both answers."""

    prompt: list[Any]
    preferred: list[Any]
    other: list[Any]


def is_pair(row: dict[str, Any]) -> bool:
    return (
        "preferred_output" in row or "non_preferred_output" in row or ("chosen" in row and "rejected" in row)
    )


def parse_pair(row: dict[str, Any]) -> Pair | Fault:
    """Parses a row that is_pair."""
    names = _PLAIN if "chosen" in row else _OPENAI
    parts: list[list[Any]] = []
    for name, role in zip(names, ("user", "assistant", "assistant"), strict=True):
        value = row.get(name)
        if type(value) is dict:
            value = value.get("messages")
        if type(value) is str and not is_blank(value):
            value = [{"role": role, "content": value}]
        if type(value) is not list or not value:
            return Fault(
                BAD_PAIR, f"has no {name}, or one that is neither text nor a filled list of messages"
            )
        parts.append(value)
    prompt, preferred, other = parts
    size = len(prompt)
    if names == _PLAIN and preferred[:size] == prompt == other[:size] and len(preferred) > size < len(other):
        preferred, other = preferred[size:], other[size:]  # some files repeat the prompt before each answer

    for kind, answer in (("preferred", preferred), ("other", other)):
        last = answer[-1]
        if type(last) is not dict or last.get("role") != "assistant":
            return Fault(BAD_PAIR, f"has a {kind} answer that is not the assistant's")
        content = last.get("content")
        is_empty = is_blank(content) if type(content) is str else not content
        if is_empty and not last.get("tool_calls"):
            return Fault(BAD_PAIR, f"has an empty {kind} answer")
    if preferred == other:
        return Fault(SAME_ANSWERS, "has the same answer twice")
    return Pair(prompt, preferred, other)


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
_PAIRS_AT_ONCE = 2_000


@dataclass(frozen=True)
class PairsReport:
    """`prompt` and `longer` (the prompt with the longer answer) in tokens; `preferred_longer` from 0 to 1."""

    pairs: int
    prompts: int
    prompt: Spread
    longer: Spread
    preferred_longer: float
    findings: tuple[Finding, ...]

    def to_dict(self) -> Mapping[str, Any]:
        return asdict(self)


def check_pairs(path: Path, listed: int, encoding: Encoding = O200K) -> PairsReport | None:
    """Checks a file of pairs; returns None where it holds no good one. At most `listed` lines of a rule are listed."""
    findings, earlier = Findings(listed), _EarlierPairs()
    lengths: list[tuple[int, int, int]] = []
    plain = 0
    for chunk in _chunks(path):
        for line, pair, is_plain in chunk:
            plain += is_plain
            last = pair.prompt[-1]
            ends_in_answer = type(last) is dict and last.get("role") == "assistant"
            is_one_answer = len(pair.preferred) == len(pair.other) == 1 and not ends_in_answer
            longer = Fault(NOT_ONE_ANSWER, "has an answer of more than one message")
            fault = earlier.compare(line, pair) if is_one_answer else longer
            if fault is not None:
                findings.at(line, fault)
        # Texts alone are counted, without what a template adds.
        parts = [part for _, pair, _ in chunk for part in (pair.prompt, pair.preferred, pair.other)]
        counts = count_texts(list(map(_text, parts)), encoding)
        lengths += zip(counts[::3], counts[1::3], counts[2::3], strict=True)
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
        prompts=len(earlier.prompts),
        prompt=spread([prompt for prompt, _, _ in lengths]),
        longer=spread([prompt + max(preferred, other) for prompt, preferred, other in lengths]),
        preferred_longer=share,
        findings=findings.sorted(),
    )


class _EarlierPairs:
    """Digests of the pairs that came before, 16 bytes each."""

    def __init__(self) -> None:
        self.prompts: set[bytes] = set()
        self._lines: dict[bytes, int] = {}

    def compare(self, line: int, pair: Pair) -> Fault | None:
        """Returns how the pair repeats or contradicts an earlier one."""
        self.prompts.add(_digest(pair.prompt))
        own = _digest([pair.prompt, pair.preferred, pair.other])
        swapped = _digest([pair.prompt, pair.other, pair.preferred])
        copied, contrary = self._lines.get(own), self._lines.get(swapped)
        self._lines.setdefault(own, line)
        if contrary is not None:
            return Fault(SWAPPED, f"prefers the answer that line {contrary} rejects for the same prompt")
        return None if copied is None else Fault(COPIED, f"repeats line {copied}")


def _digest(value: object) -> bytes:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()[:16]


def _chunks(path: Path) -> Iterator[list[tuple[int, Pair, bool]]]:
    """Yields good pairs with their lines and whether they are written as prompt, chosen and rejected."""
    chunk: list[tuple[int, Pair, bool]] = []
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            try:
                row = orjson.loads(raw.removeprefix(b"\xef\xbb\xbf"))
            except orjson.JSONDecodeError:
                continue
            pair = parse_pair(row) if type(row) is dict and is_pair(row) else None
            if isinstance(pair, Pair):
                chunk.append((line, pair, "chosen" in row))
            if len(chunk) == _PAIRS_AT_ONCE:
                yield chunk
                chunk = []
    yield chunk


def _text(messages: Sequence[Any]) -> str:
    contents = [message.get("content") for message in messages if type(message) is dict]
    return "\n".join(
        content if type(content) is str else orjson.dumps(content).decode() for content in contents if content
    )
