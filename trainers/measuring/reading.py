"""What did a model mean? Its free text → one of the labels, a JSON object, a verdict; None where it isn't clear."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NoReturn

HOW_READ = (
    "An answer counts as a label if it is that label, whatever its case, quotes, hyphens or underscores, or if its "
    "first line, else the whole of it, names exactly one label. Two labels, a denied one, a refusal or nothing "
    "count as wrong."
)
LONGEST_READ = 4_000  # characters; what comes after them is rambling
_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL | re.IGNORECASE)
_LEAD = re.compile(
    r"^(the |my |best |correct |final |most |likely |right |matching |predicted )*"
    r"(label|answer|category|class|intent|topic|output|response|assistant)\b( is| would be)? ?[:=]? ?",
)
_DENIAL = re.compile(
    r"\b(not|never|neither|nor|cannot|can ?['’]?t|isn ?['’]?t|won ?['’]?t|unable|sorry|as an ai)\b|n['’]t\b"
)
_SENTENCE_END = re.compile(r"[.!?]\s|\n")
_DRESS = " \t\"'`*“”‘’«»()[]{}<>#.,:;!?。、・「」『』【】《》"
_ENDS = re.compile(r"\s*([.,:;)\]!\-–—。、」』】》]|$)")
# Scripts that set no spaces between words: two of their letters are a word of its own
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_FENCED = re.compile(r"```[\w-]*\s*\n(.*?)```", re.DOTALL)
MOST_OBJECTS_TRIED = 20

Choice = Literal["first", "second", "tie"]


@dataclass(frozen=True)
class _Labels:
    """`folded` finds a label by its folded name, None where two share it; `pattern` finds any of them, longest
    first, as whole words; `unspaced` names may stand anywhere in a sentence."""

    folded: dict[str, str | None]
    pattern: re.Pattern[str]
    unspaced: tuple[str, ...]


def read_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that an answer means, as HOW_READ says."""
    if text in labels:
        return text
    known = _known(tuple(labels))
    said = _THOUGHTS.sub("", text[:LONGEST_READ]).strip()
    lines = [_folded(line) for line in said.splitlines() if line.strip()]
    if not lines:
        return None
    for form in (" ".join(lines), lines[0], _LEAD.sub("", lines[0], count=1).strip(_DRESS)):
        if form in known.folded:
            return known.folded[form]
    return _only_one_named(lines[0], known) or _only_one_named("\n".join(lines), known)


def read_json(text: str) -> dict[str, Any] | None:
    """The object that an answer is or contains: in fenced code, else the first one in it."""
    said = _THOUGHTS.sub("", text).strip()
    fenced = _FENCED.search(said)
    if fenced:
        found = _first_object(fenced[1])
        if found is not None:
            return found
    return _first_object(said)


def read_choice(text: str) -> Choice | None:
    """Of a judge: A, B or TIE."""
    found = read_label(text, ("A", "B", "TIE"))
    choices: dict[str | None, Choice] = {"A": "first", "B": "second", "TIE": "tie"}
    return choices.get(found)


def read_yes(text: str) -> bool | None:
    """Of a judge: YES or NO. "YES and NO" is neither, while a small "no" may stand in any sentence."""
    if {"YES", "NO"} <= set(re.findall(r"\b[A-Z]+\b", text[:LONGEST_READ])):
        return None
    found = read_label(text, ("YES", "NO"))
    return None if found is None else found == "YES"


@lru_cache(32)
def _known(labels: tuple[str, ...]) -> _Labels:
    folded: dict[str, str | None] = {}
    for label in labels:
        name = _folded(label)
        same = folded.get(name, label)
        folded[name] = same if same is not None and same.casefold() == label.casefold() else None
    folded.pop("", None)
    names = "|".join(re.escape(name) for name in sorted(folded, key=len, reverse=True))
    unspaced = tuple(name for name in folded if _UNSPACED.search(name))
    return _Labels(folded, re.compile(rf"(?<!\w)(?:{names})(?!\w)" if names else r"(?!)"), unspaced)


def _folded(text: str) -> str:
    """No case, no dress, and what joins words is one space."""
    text = unicodedata.normalize("NFKC", text).casefold().strip(_DRESS)
    return re.sub(r"[\s_\-/]+", " ", text).strip(_DRESS)


def _only_one_named(text: str, known: _Labels) -> str | None:
    """Longest names are found first, so "card declined" isn't also "card". A name of one or two letters counts
    only at the beginning and alone: "no" and "a" are words of any sentence."""
    found = [match for match in known.pattern.finditer(text) if _is_a_name(match) or _stands_alone(match)]
    if len({match[0] for match in found}) != 1:
        return None
    if any(name in text and name not in found[0][0] for name in known.unspaced):
        return None
    sentence = _SENTENCE_END.split(text[: found[0].start()])[-1]
    return None if _DENIAL.search(sentence) else known.folded[found[0][0]]


def _is_a_name(match: re.Match[str]) -> bool:
    return len(match[0]) > 2 or _UNSPACED.search(match[0]) is not None


def _stands_alone(match: re.Match[str]) -> bool:
    return match.start() == 0 and _ENDS.match(match.string, match.end()) is not None


def _first_object(text: str) -> dict[str, Any] | None:
    decoder = json.JSONDecoder(parse_constant=_no_number)
    start = text.find("{")
    for _ in range(MOST_OBJECTS_TRIED):
        if start < 0:
            return None
        try:
            found = decoder.raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
        else:
            return found if isinstance(found, dict) else None
    return None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
