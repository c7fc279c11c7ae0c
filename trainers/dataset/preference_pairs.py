"""Preference pairs for DPO, each a prompt with a better and a worse answer: parses rows and checks files of them.

Two formats are read: OpenAI's {"input": {"messages": […]}, "preferred_output": […], "non_preferred_output": […]}, and
TRL's {"prompt", "chosen", "rejected"} with texts or lists of messages. Trainers always get OpenAI's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from trainers.dataset.checks import Fault, Findings, Rule
from trainers.dataset.rows import is_blank, is_empty, join_texts, written_message
from trainers.dataset.sensitive_data import faults_of_texts
from trainers.models.tokens import O200K, Encoding, Spread, count_texts, spread

_FORM = (
    'Write {"input": {"messages": […]}, "preferred_output": [{"role": "assistant", "content": "…"}], '
    '"non_preferred_output": […]}.'
)
PREFERENCES = Rule(
    "preference_pairs",
    "tells",
    "Nothing to do: method=dpo trains on both answers, all other methods on the preferred ones.",
)
IN_A_TABLE = Rule("pairs_in_a_table", "blocks", f"Send them as JSONL, one pair per line. {_FORM}")
BAD_PAIR = Rule("bad_preference_pair", "blocks", _FORM)
SAME_ANSWERS = Rule(
    "preference_without_difference", "blocks", "Give two different answers, or delete the line."
)

NOT_ONE_ANSWER = Rule(
    "not_one_answer",
    "blocks",
    "Make each answer a single message, and put everything before it into the input.",
)

_OPENAI = ("input", "preferred_output", "non_preferred_output")
_PLAIN = ("prompt", "chosen", "rejected")
_TOOLS = ("tools", "functions", "parallel_tool_calls")
ANSWERS = frozenset(_PLAIN[1:])


@dataclass(frozen=True, slots=True)
class Pair:
    """An unchecked prompt with two answers, each of one message. `tools` has the prompt's keys about tools, and
    `dropped` the names of all other keys."""

    prompt: list[Any]
    preferred: list[Any]
    other: list[Any]
    tools: dict[str, Any]
    dropped: frozenset[str]

    def row(self) -> bytes:
        """Returns the pair as a line in OpenAI's format, without keys that no trainer reads."""
        request = {"messages": _written(self.prompt), **self.tools}
        values = (request, _written(self.preferred), _written(self.other))
        pair = dict(zip(_OPENAI, values, strict=True))
        return orjson.dumps(pair)


def is_pair(row: dict[str, Any]) -> bool:
    if "preferred_output" in row or "non_preferred_output" in row:
        return True
    return "chosen" in row and "rejected" in row


def parse_pair(row: dict[str, Any]) -> Pair | Fault:
    """Parses a row for which `is_pair` is true."""
    names = _OPENAI
    if "chosen" in row:
        names = _PLAIN
    parts: list[list[Any]] = []
    for name, role in zip(names, ("user", "assistant", "assistant"), strict=True):
        value = row.get(name)
        if type(value) is dict:
            value = value.get("messages")
        if type(value) is str and not is_blank(value):
            value = [{"role": role, "content": value}]
        if type(value) is not list or not value:
            return Fault(BAD_PAIR, f"has no {name}, or one that is neither text nor a list of messages")
        parts.append(value)
    prompt, preferred, other = parts
    size = len(prompt)
    repeats_prompt = preferred[:size] == prompt == other[:size]
    are_longer = len(preferred) > size and len(other) > size
    if names == _PLAIN and repeats_prompt and are_longer:
        # Some files repeat the prompt before each answer.
        preferred = preferred[size:]
        other = other[size:]

    fault = _answer_fault(preferred, "preferred") or _answer_fault(other, "other")
    if fault is not None:
        return fault
    if _is_from_assistant(prompt[-1]) or len(preferred) != 1 or len(other) != 1:
        return Fault(NOT_ONE_ANSWER, "has an answer of more than one message")
    if _written(preferred) == _written(other):
        return Fault(SAME_ANSWERS, "has the same answer twice")

    request = row
    if names == _OPENAI and type(row["input"]) is dict:
        request = row["input"]
    tools = {key: request[key] for key in _TOOLS if request.get(key)}
    read = {*names, *_TOOLS}
    dropped = _filled_keys(row, besides=read)
    dropped |= _filled_keys(request, besides={*read, "messages"})
    return Pair(prompt, preferred, other, tools, frozenset(dropped))


def _answer_fault(answer: list[Any], kind: str) -> Fault | None:
    last = answer[-1]
    if not _is_from_assistant(last):
        return Fault(BAD_PAIR, f"has a {kind} answer that is not from the assistant")
    content = last.get("content")
    if type(content) is str:
        says_nothing = is_blank(content)
    else:
        says_nothing = not content
    if says_nothing and not last.get("tool_calls"):
        return Fault(BAD_PAIR, f"has an empty {kind} answer")
    return None


def _is_from_assistant(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant"


def _filled_keys(row: dict[str, Any], besides: set[str]) -> set[str]:
    return {key for key, value in row.items() if key not in besides and not is_empty(value)}


def _written(messages: list[Any]) -> list[dict[str, Any]]:
    """Returns the messages as trainers get them. Pairs have no weights."""
    written = [written_message(message) for message in messages]
    for message in written:
        message.pop("weight", None)
    return written


SWAPPED = Rule(
    "preference_contradiction",
    "warns",
    "Decide which answer is better, and delete or correct the other line.",
)
COPIED = Rule("preference_repeated", "warns", "Delete the copies: they teach nothing new and take time.")
LONGER = Rule(
    "preferred_is_longer",
    "warns",
    "Add pairs whose better answer is the shorter one; otherwise the model learns to write long answers.",
)
OTHER_FORM = Rule(
    "pairs_in_another_form",
    "tells",
    "Nothing to do in Slack. For the trainer's API, write them in OpenAI's format: jq -c '{input: {messages: [{role: "
    '"user", content: .prompt}]}, preferred_output: [{role: "assistant", content: .chosen}], non_preferred_output: '
    '[{role: "assistant", content: .rejected}]}\'',
)
LONGER_SHARE = 0.7  # DPO learns length if it correlates with preference: Park et al. 2024, arXiv 2403.19159
FEW_TO_TELL = 20
_PAIRS_AT_ONCE = 2_000


@dataclass(frozen=True)
class PairsReport:
    """`prompt` and `longer` are tokens per pair: of the prompt, and of the prompt with the longer answer.
    `preferred_longer` is the share, from 0 to 1, of pairs whose preferred answer is the longer one."""

    pairs: int
    prompts: int
    prompt: Spread
    longer: Spread
    preferred_longer: float


def check_pairs(
    rows: Iterable[tuple[int, bytes]],
    findings: Findings,
    encoding: Encoding = O200K,
) -> PairsReport | None:
    """Checks pairs, given as (line number, line), and skips unreadable ones. Returns None if there are no pairs.

    Secrets and personal data in rejected answers are reported too, unless the rest of the pair has the same kind, which
    other checks report.
    """
    earlier = _EarlierPairs()
    lengths: list[tuple[int, int, int]] = []
    plain = 0
    # Lazily, since the pairs of a file may not fit into the memory.
    parsed = ((line, raw, _pair(raw)) for line, raw in rows)
    pairs = ((line, raw, pair) for line, raw, pair in parsed if isinstance(pair, Pair))
    while chunk := list(islice(pairs, _PAIRS_AT_ONCE)):
        # Only texts are counted, not what a template adds. Each pair has three, one after the other.
        lines: list[int] = []
        texts: list[str] = []
        for line, raw, pair in chunk:
            plain += b'"chosen"' in raw
            fault = earlier.compare(line, pair)
            if fault is not None:
                findings.add_for_line(line, fault)
            lines.append(line)
            texts += [_text(pair.prompt), _text(pair.preferred), _text(pair.other)]
        counts = count_texts(texts, encoding)
        lengths += zip(counts[::3], counts[1::3], counts[2::3], strict=True)
        _report_rejected(lines, texts, findings)
    if not lengths:
        return None

    if plain:
        are = "pairs are"
        if plain == 1:
            are = "pair is"
        text = f"{plain:,} {are} in TRL's format (prompt, chosen, rejected)."
        findings.add_for_file(OTHER_FORM, text, plain)
    n_longer = sum(preferred > other for _, preferred, other in lengths)
    share = n_longer / len(lengths)
    if share > LONGER_SHARE and len(lengths) >= FEW_TO_TELL:
        findings.add_for_file(LONGER, f"The preferred answer is the longer one in {share:.0%} of the pairs.")
    prompts = [prompt for prompt, _, _ in lengths]
    longer = [prompt + max(preferred, other) for prompt, preferred, other in lengths]
    return PairsReport(
        pairs=len(lengths),
        prompts=len(earlier.prompts),
        prompt=spread(prompts),
        longer=spread(longer),
        preferred_longer=share,
    )


def _report_rejected(lines: Sequence[int], texts: Sequence[str], findings: Findings) -> None:
    """Reports sensitive data that only the rejected answer has. `texts` are prompt, preferred and other answer of each
    line's pair."""
    faults = faults_of_texts(join_texts(texts), texts)
    for number, line in enumerate(lines):
        first = 3 * number
        prompt = faults.get(first, [])
        preferred = faults.get(first + 1, [])
        other = faults.get(first + 2, [])
        shared = {fault.text for fault in (*prompt, *preferred)}
        for fault in other:
            if fault.text not in shared:
                findings.add_for_line(line, fault)


def _pair(raw: bytes) -> Pair | Fault:
    return parse_pair(orjson.loads(raw))


def written_pair(raw: bytes) -> bytes:
    """Converts a line with a valid pair to OpenAI's format. Raises ValueError if the line has no valid pair."""
    pair = _pair(raw)
    if isinstance(pair, Fault):
        raise ValueError(f"writing a preference pair: the line {pair.text}")
    return pair.row()


class _EarlierPairs:
    """Remembers a digest of 16 bytes for each earlier pair."""

    def __init__(self) -> None:
        self.prompts: set[bytes] = set()
        self._lines: dict[bytes, int] = {}

    def compare(self, line: int, pair: Pair) -> Fault | None:
        """Returns a fault if the pair repeats or contradicts an earlier one."""
        self.prompts.add(_digest(pair.prompt))
        own = _digest([pair.prompt, pair.preferred, pair.other])
        swapped = _digest([pair.prompt, pair.other, pair.preferred])
        copied = self._lines.get(own)
        contrary = self._lines.get(swapped)
        self._lines.setdefault(own, line)
        if contrary is not None:
            return Fault(SWAPPED, f"prefers the answer that line {contrary} rejects for the same prompt")
        if copied is not None:
            return Fault(COPIED, f"repeats line {copied}")
        return None


def _digest(value: object) -> bytes:
    # Sorted, so that two programs' orders of the same keys make no difference.
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).digest()[:16]


def _text(messages: Sequence[Any]) -> str:
    parts: list[str] = []
    for message in messages:
        for part in (message.get("content"), message.get("tool_calls")):
            if type(part) is str and part:
                parts.append(part)
            elif part:
                parts.append(orjson.dumps(part).decode())
    return "\n".join(parts)
