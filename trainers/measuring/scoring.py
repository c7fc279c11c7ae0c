"""One answer beside the right one: a score between 0 and 1. Which kind of score depends on the data."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

from trainers.dataset.values import Example, Task
from trainers.evaluation import normalise
from trainers.measuring.reading import read_json, read_label
from trainers.measuring.values import Scoring

MOSTLY = 0.9
# Scripts that set no spaces between words: a character counts as a word (as in MLQA's evaluation)
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "“”‘’«»…–—¿¡。，、！？：；")


def scoring_of(examples: Sequence[Example], task: Task) -> Scoring:
    """'json' where nine answers in ten are JSON objects and nothing else, 'label' for labels, else 'f1'."""
    objects = sum(_is_object(example.answer) for example in examples)
    if examples and objects >= MOSTLY * len(examples):
        return "json"
    return "label" if task == "labels" else "f1"


def score(scoring: Scoring, expected: str, text: str, labels: Sequence[str]) -> float:
    """1 or 0 for labels, a share for the others. ValueError for 'judge': only a judge can tell."""
    match scoring:
        case "label":
            return float(is_label(expected, text, labels))
        case "json":
            return json_share(expected, text)
        case "f1":
            return token_f1(expected, text)
        case "judge":
            raise ValueError("scoring an answer by a judge: its verdicts are needed, the text doesn't tell")


def is_label(expected: str, text: str, labels: Sequence[str]) -> bool:
    return normalise(as_label(text, labels)) == normalise(expected)


def as_label(text: str, labels: Sequence[str]) -> str:
    """The label that was meant, else what was said."""
    return read_label(text, labels) or text


def json_share(expected: str, text: str) -> float:
    """Fields that are right, out of all that are expected or answered: what is made up counts against it.

    Fields of fields count one by one, a list as one value. Texts may differ in case and spacing, numbers may be
    written 1 or 1.0. 0 where there is no object.
    """
    right, said = read_json(expected), read_json(text)
    if right is None or said is None:
        return 0.0
    wanted, given = dict(_leaves(right, ())), dict(_leaves(said, ()))
    fields = wanted.keys() | given.keys()
    same = sum(key in wanted and key in given and _same(wanted[key], given[key]) for key in fields)
    return same / len(fields) if fields else 1.0


def token_f1(expected: str, text: str) -> float:
    """Shared words: harmonic mean of the share of the answer's and of the expected ones, as in SQuAD's
    evaluation (Rajpurkar and others 2016): no case, punctuation and articles. 1 where both have no word."""
    wanted, said = _tokens(expected), _tokens(text)
    if not wanted or not said:
        return float(wanted == said)
    shared = (Counter(wanted) & Counter(said)).total()
    return 2 * shared / (len(wanted) + len(said))


def is_unread(scoring: Scoring, text: str, labels: Sequence[str]) -> bool:
    """Was something said that is none of the labels, or no JSON?"""
    if not text.strip():
        return False
    if scoring == "label":
        return read_label(text, labels) is None
    return scoring == "json" and read_json(text) is None


def _is_object(text: str) -> bool:
    try:
        return text.lstrip().startswith("{") and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _leaves(value: dict[str, Any], path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for key, inner in value.items():
        here = (*path, key)
        found += _leaves(inner, here) if isinstance(inner, dict) and inner else [(here, inner)]
    return found


def _same(wanted: Any, given: Any) -> bool:
    if isinstance(wanted, str) and isinstance(given, str):
        return normalise(wanted) == normalise(given)
    if isinstance(wanted, list) and isinstance(given, list):
        return len(wanted) == len(given) and all(map(_same, wanted, given))
    if isinstance(wanted, dict) and isinstance(given, dict):
        return wanted.keys() == given.keys() and all(_same(wanted[key], given[key]) for key in wanted)
    return isinstance(wanted, bool) == isinstance(given, bool) and bool(wanted == given)


def _tokens(text: str) -> list[str]:
    bare = text.casefold().translate(_PUNCTUATION)
    return _UNSPACED.sub(r" \1 ", _ARTICLES.sub(" ", bare)).split()
