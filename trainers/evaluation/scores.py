"""Interprets a model's text (as a label, a JSON object, tool calls or a verdict) and scores it against the right
answer, from 0 to 1. The kind of score depends on the data."""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NoReturn

from trainers.dataset.rows import Example, Task
from trainers.evaluation.results import Scoring
from trainers.evaluation.statistics import exact_match, normalise

HOW_READ = (
    "An answer counts as a label if it is that label, whatever its case, quotes, hyphens or underscores, or if its "
    "first line, else the whole of it, names exactly one label; 4/5 is a 4 if the labels are numbers up to 5. Two "
    "labels, a denied one, a refusal or nothing count as wrong."
)
LONGEST_READ = 4_000  # characters; anything after them is ignored
# If the template itself writes <think>, the text has only the closing tag.
_THOUGHTS = re.compile(r"\A((?!<think>).)*?</think>|<think>.*?(</think>|\Z)", re.DOTALL | re.IGNORECASE)
_LEAD = re.compile(
    r"^(the |my |best |correct |final |most |likely |right |matching |predicted )*"
    r"(label|answer|category|class|intent|topic|output|response|assistant)\b( is| would be)? ?[:=]? ?",
)
_DENIAL = re.compile(
    r"\b(not|never|neither|nor|cannot|can ?['’]?t|isn ?['’]?t|won ?['’]?t|unable|sorry|as an ai)\b|n['’]t\b"
)
_RATING = re.compile(r"([0-9]++) ?(?:/|out of) ?([0-9]++)")
_SENTENCE_END = re.compile(r"[.!?]\s|\n")
_DRESS = " \t\"'`*“”‘’«»()[]{}<>#.,:;!?。、・「」『』【】《》"
_AROUND = ("**", "*", "__", "`", '"', "'", "“", "‘", "«", "(", "[")
_CLOSING = {"“": "”", "‘": "’", "«": "»", "(": ")", "[": "]"}
_SEPARATORS = re.compile(r"(?:[\s_/]|(?<=[^\s_/])-|-(?!\d))++")
_ENDS = re.compile(r"\s*([.,:;)\]!\-–—。、」』】》]|$)")
# Scripts without spaces between words, in which two letters may be a complete name
_UNSPACED_LETTER = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_FENCED = re.compile(r"```[\w-]*\s*\n(.*?)```", re.DOTALL)
_CALL_KEYS = frozenset({"name", "arguments"})
MOST_OBJECTS_TRIED = 20
MOSTLY = 0.9
# Scripts without spaces between words, in which each character counts as a word (as in MLQA's evaluation)
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "“”‘’«»…–—¿¡。，、！？：；")

Choice = Literal["first", "second", "tie"]
Call = tuple[str, Any]  # the name of a tool and its arguments
FieldPath = tuple[str, ...]  # the keys that lead to a field


@dataclass(frozen=True)
class _Names:
    """The names of labels. `verbatim` has them in lower case, with all their symbols; `marked` are those that begin or
    end with one, like C#. `folded` maps folded names to labels, or to None if two labels share a name. `pattern`
    matches any name as a whole word, the longest first. `unspaced` names may occur anywhere in a sentence.
    `highest_rating` is the highest label if all are whole numbers, and more than two: "4/5" then is a 4."""

    verbatim: dict[str, str]
    marked: tuple[str, ...]
    folded: dict[str, str | None]
    pattern: re.Pattern[str]
    unspaced: tuple[str, ...]
    highest_rating: str | None


def strip_thoughts(text: str) -> str:
    """Returns a model's text without its thoughts, or "" if the text ends within them."""
    if "think>" not in text.lower():
        return text
    return _THOUGHTS.sub("", text).strip()


def read_label(text: str, labels: Sequence[str]) -> str | None:
    """Returns the label that an answer means, or None. HOW_READ describes the rules."""
    answer = strip_thoughts(text)[:LONGEST_READ].strip()
    if answer in labels:
        return answer
    written = answer.splitlines()
    first_line = "".join(written[:1])
    names = _names(tuple(labels))
    # First with all symbols, which may be all that a label has: C# is not C, and "-" is a label too.
    for form in (*_verbatim_forms(answer), *_verbatim_forms(first_line)):
        if form in names.verbatim:
            return names.verbatim[form]
        rating = _RATING.fullmatch(form)
        if rating and rating[2] == names.highest_rating:
            return names.verbatim.get(rating[1])

    lines = [_folded(line) for line in written if line.strip()]
    if not lines:
        return None
    first = lines[0]
    without_lead = _LEAD.sub("", first, count=1).strip(_DRESS)
    for form in (" ".join(lines), first, without_lead):
        if form in names.folded:
            return names.folded[form]

    label = _only_one_named(first, names) or _only_one_named("\n".join(lines), names)
    if label is None or _names_another(_verbatim(answer), label, names):
        return None
    return label


def read_json(text: str) -> dict[str, Any] | None:
    """Returns the JSON object in an answer, or None: the first one in fenced code, or else the first one anywhere."""
    answer = strip_thoughts(text)
    fenced = _FENCED.search(answer)
    if fenced:
        body = _first_object(fenced[1])
        if body is not None:
            return body
    return _first_object(answer)


def read_calls(text: str) -> tuple[Call, ...] | None:
    """Returns the name and arguments of each tool call in an answer, which are JSON on its last line, or None if there
    are no calls. Arguments that can't be read are None and never match."""
    *_, last = text.rstrip().rpartition("\n")
    if not last.startswith(("[{", '{"')):
        return None
    try:
        raw = json.loads(last)
    except (ValueError, RecursionError):
        return None
    functions = [raw]  # an older function_call is a single function
    if isinstance(raw, list):
        functions = [call.get("function") for call in raw if isinstance(call, dict)]
    calls: list[Call] = []
    for function in functions:
        if not isinstance(function, dict):
            continue
        if _CALL_KEYS - function.keys():
            continue
        arguments = function["arguments"]
        if not isinstance(arguments, str):
            return None
        call = (str(function["name"]), read_json(arguments))
        calls.append(call)
    return tuple(calls) or None


def read_choice(text: str) -> Choice | None:
    """Reads a judge's A, B or TIE."""
    choices: dict[str | None, Choice] = {"A": "first", "B": "second", "TIE": "tie"}
    verdict = read_label(text, ("A", "B", "TIE"))
    return choices.get(verdict)


def consolidate(verdict: Choice | None, swapped: Choice | None) -> Choice | None:
    """Combines a judge's two verdicts, the second of which was given with the answers swapped. Returns None unless both
    prefer the same answer: the judge then went by position, or a verdict could not be read."""
    turned: dict[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}
    if verdict is None or swapped is None:
        return None
    if turned[swapped] != verdict:
        return None
    return verdict


def read_yes(text: str) -> bool | None:
    """Reads a judge's YES or NO, or returns None. "YES and NO" is neither, but a lower-case "no" may be part of a
    sentence."""
    verdict = strip_thoughts(text)
    capitals = set(re.findall(r"\b[A-Z]+\b", verdict[:LONGEST_READ]))
    if {"YES", "NO"} <= capitals:
        return None
    label = read_label(verdict, ("YES", "NO"))
    if label is None:
        return None
    return label == "YES"


@lru_cache(32)
def _names(labels: tuple[str, ...]) -> _Names:
    folded: dict[str, str | None] = {}
    verbatim: dict[str, str] = {}
    for label in labels:
        verbatim.setdefault(_verbatim(label), label)
        name = _folded(label)
        same = folded.get(name, label)
        if same is not None and same.casefold() != label.casefold():
            same = None  # two labels share the name, so it means neither
        folded[name] = same
    folded.pop("", None)
    verbatim.pop("", None)

    pattern = r"(?!)"  # matches nothing
    if folded:
        longest_first = sorted(folded, key=len, reverse=True)
        names = "|".join(map(re.escape, longest_first))
        pattern = rf"(?<![\w-])(?:{names})(?!\w)"
    return _Names(
        verbatim=verbatim,
        marked=tuple(name for name in verbatim if name.strip(_DRESS) != name),
        folded=folded,
        pattern=re.compile(pattern),
        unspaced=tuple(name for name in folded if _UNSPACED_LETTER.search(name)),
        highest_rating=_highest_rating(labels),
    )


def _highest_rating(labels: Sequence[str]) -> str | None:
    are_numbers = all(label.isascii() and label.isdigit() for label in labels)
    if len(labels) > 2 and are_numbers:
        return max(labels, key=int)
    return None


def _verbatim(text: str) -> str:
    """Returns the text in lower case, with all its symbols."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).replace("−", "-")


def _verbatim_forms(text: str) -> Iterator[str]:
    """Yields what an answer says if it is nothing but a label: as it is, without words like "Label:" before it, without
    a full stop, without quotes or emphasis around it."""
    line = _verbatim(text)
    without_lead = _LEAD.sub("", line, count=1).strip()
    for form in (line, without_lead):
        yield form
        ended = form.removesuffix(".").rstrip()
        yield ended
        for mark in _AROUND:
            size = len(mark)
            closing = _CLOSING.get(mark, mark)
            is_inside = ended.startswith(mark) and ended.endswith(closing)
            if is_inside and len(ended) > 2 * size:
                yield ended[size:-size].strip()


def _folded(text: str) -> str:
    """Returns the text in lower case, without surrounding marks, and with single spaces in place of word separators.
    The minus of a number is none."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    bare = folded.strip(_DRESS)
    return _SEPARATORS.sub(" ", bare).strip(_DRESS)


def _only_one_named(text: str, names: _Names) -> str | None:
    """Returns the label that the text names, if it names exactly one without denying it, else None.

    The longest names are matched first, so "card declined" doesn't also count as "card". A name of one or two letters
    counts only at the beginning and by itself, because "no" and "a" occur in any sentence.
    """
    matches = [match for match in names.pattern.finditer(text) if _counts_as_name(match)]
    distinct = {match[0] for match in matches}
    if len(distinct) != 1:
        return None
    first = matches[0]
    named = first[0]
    if any(name in text and name not in named for name in names.unspaced):
        return None
    before = text[: first.start()]
    *_, sentence = _SENTENCE_END.split(before)
    if _DENIAL.search(sentence):
        return None
    return names.folded[named]


def _counts_as_name(match: re.Match[str]) -> bool:
    name = match[0]
    if len(name) > 2 or _UNSPACED_LETTER.search(name):
        return True
    is_alone = _ENDS.match(match.string, match.end()) is not None
    return match.start() == 0 and is_alone


def _names_another(text: str, label: str, names: _Names) -> bool:
    """True if the text has another label as a word by itself that its symbol tells apart, as in "C# or C++"."""
    words = set(text.split())
    return any(name in words and names.verbatim[name] != label for name in names.marked)


def _first_object(text: str) -> dict[str, Any] | None:
    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not valid JSON")

    decoder = json.JSONDecoder(parse_constant=refuse)
    start = text.find("{")
    for _ in range(MOST_OBJECTS_TRIED):
        if start < 0:
            return None
        try:
            result, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
        else:
            if isinstance(result, dict):
                return result
            return None
    return None


def task_of(labels: Sequence[str]) -> Task:
    """Returns the task of rows with these labels, which are empty for free text."""
    if labels:
        return "labels"
    return "free_text"


def scoring_of(examples: Sequence[Example], task: Task) -> Scoring:
    """Returns 'calls' if at least 90% of the answers call tools, 'json' if as many are JSON objects, 'label' for
    labels, and otherwise 'f1'."""
    if examples:
        needed = MOSTLY * len(examples)
        if count_calls(examples) >= needed:
            return "calls"
        objects = sum(_is_object(example.answer) for example in examples)
        if objects >= needed:
            return "json"
    if task == "labels":
        return "label"
    return "f1"


def _is_object(answer: str) -> bool:
    """True if the whole answer is a JSON object."""
    if not answer.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(answer), dict)
    except (ValueError, RecursionError):
        return False


def count_calls(examples: Iterable[Example]) -> int:
    """Returns the number of rows whose answer calls tools."""
    calls = [read_calls(example.answer) for example in examples]
    return sum(call is not None for call in calls)


def score(scoring: Scoring, expected: str, text: str, labels: Sequence[str]) -> float:
    """Scores an answer from 0 to 1: 1 or 0 for labels and tool calls, a share for other kinds. An expected tool call
    among texts is scored as a call. Raises ValueError for 'judge', because only a judge can score that."""
    if scoring in ("json", "f1") and read_calls(expected) is not None:
        scoring = "calls"
    match scoring:
        case "label":
            return float(is_label(expected, text, labels))
        case "json":
            return json_share(expected, text)
        case "f1":
            return token_f1(expected, text)
        case "calls":
            return float(is_same_call(expected, text))
        case "judge":
            raise ValueError("scoring an answer by a judge: this needs the judge's verdicts")


def is_same_call(expected: str, text: str) -> bool:
    """True if an answer calls the same tools with the same arguments, in any order, as in the AST check of the Berkeley
    Function-Calling Leaderboard. Ids are ignored. If no call is expected, an answer without calls is right."""
    wanted = read_calls(expected) or ()
    left = list(read_calls(text) or ())
    for call in wanted:
        match = next((other for other in left if _is_equal_call(call, other)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def _is_equal_call(call: Call, other: Call) -> bool:
    name, arguments = call
    other_name, other_arguments = other
    return name == other_name and _same(arguments, other_arguments)


def is_right_call(expected: str, text: str) -> bool:
    """True if a call is expected and the answer is that call."""
    return read_calls(expected) is not None and is_same_call(expected, text)


def is_label(expected: str, text: str, labels: Sequence[str]) -> bool:
    answer = label_or_text(text, labels)
    return exact_match(expected, answer)


def label_or_text(text: str, labels: Sequence[str]) -> str:
    """Returns the label that an answer means, or its text if it means none."""
    return read_label(text, labels) or text


def json_share(expected: str, text: str) -> float:
    """Returns the share of right fields among all fields that are expected or answered, so invented fields lower it.

    Nested fields count individually, a list as one value. Texts may differ in case and spacing, and 1 equals 1.0. The
    share is 0 if the answer has no object. If no object is expected ("none"), the text must be the same.
    """
    right = read_json(expected)
    if right is None:
        return float(exact_match(expected, strip_thoughts(text)))
    body = read_json(text)
    if body is None:
        return 0.0
    wanted = dict(json_leaves(right))
    answered = dict(json_leaves(body))
    fields = wanted.keys() | answered.keys()
    if not fields:  # {} was expected and answered
        return 1.0
    shared = wanted.keys() & answered.keys()
    same = [_same(wanted[key], answered[key]) for key in shared]
    return sum(same) / len(fields)


def json_leaves(value: dict[str, Any], path: FieldPath = ()) -> list[tuple[FieldPath, Any]]:
    """Returns the path and value of each field inside an object, in its order. An empty object is a value."""
    leaves: list[tuple[FieldPath, Any]] = []
    for key, inner in value.items():
        inner_path = (*path, key)
        if isinstance(inner, dict) and inner:
            leaves += json_leaves(inner, inner_path)
        else:
            leaves.append((inner_path, inner))
    return leaves


def token_f1(expected: str, text: str) -> float:
    """Returns the F1 score of the answer's words, the harmonic mean of precision and recall, as in SQuAD's evaluation
    (Rajpurkar and others 2016). Ignores case, punctuation and articles. Returns 1 if both texts have no words."""
    wanted = _tokens(expected)
    answered = _tokens(text)
    if not wanted or not answered:
        return float(wanted == answered)
    shared = Counter(wanted) & Counter(answered)
    # The harmonic mean of shared / answered and shared / wanted.
    return 2 * shared.total() / (len(wanted) + len(answered))


def is_unread(scoring: Scoring, text: str, labels: Sequence[str]) -> bool:
    """True if a non-empty answer is not one of the labels, has no JSON object, or has no call, depending on the
    scoring."""
    if not text.strip():
        return False
    if scoring == "label":
        return read_label(text, labels) is None
    if scoring == "calls":
        return read_calls(text) is None
    return scoring == "json" and read_json(text) is None


def _same(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, str) and isinstance(value, str):
        return normalise(wanted) == normalise(value)
    if isinstance(wanted, list) and isinstance(value, list):
        if len(wanted) != len(value):
            return False
        return all(map(_same, wanted, value))
    if isinstance(wanted, dict) and isinstance(value, dict):
        if wanted.keys() != value.keys():
            return False
        return all(_same(wanted[key], value[key]) for key in wanted)
    if isinstance(wanted, bool) != isinstance(value, bool):
        return False  # in Python, true equals 1
    return bool(wanted == value)


def _tokens(text: str) -> list[str]:
    bare = strip_thoughts(text).casefold().translate(_PUNCTUATION)
    without_articles = _ARTICLES.sub(" ", bare)
    return _UNSPACED.sub(r" \1 ", without_articles).split()
