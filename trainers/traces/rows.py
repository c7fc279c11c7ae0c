"""Turns recorded calls into rows: the different questions without labels, in random order, or with the answers that the
model gave, which nobody has checked. Rows with a secret are left out."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from trainers.dataset.checks import Fault
from trainers.dataset.rows import JoinedTexts, normalise_text
from trainers.dataset.sensitive_data import PERSONAL, SECRET, faults_of_texts
from trainers.traces.calls import TracedCall

SEED = 20261201  # the same file gives the same rows in the same order
_TEXTS_AT_ONCE = 200


@dataclass(frozen=True)
class TracedRows:
    """Lines of JSON, each a row. The other numbers count what was left out, and why:

    - `failed` calls have no answer; `without_question` have no recorded text of a single turn, `without_answer` no
      text as an answer, if the rows have answers.
    - `repeated` calls ask what another one asks.
    - `secret` rows hold what looks like a secret. `personal` rows hold personal data and were not left out;
      `personal_kinds` are their numbers by kind.
    - `disagreeing` questions got different answers, of which the most frequent counts.
    """

    lines: tuple[bytes, ...]
    failed: int
    without_question: int
    without_answer: int
    repeated: int
    secret: int
    personal: int
    personal_kinds: tuple[tuple[str, int], ...]
    disagreeing: int


@dataclass(frozen=True)
class _Row:
    question: str
    answer: str | None
    instructions: str
    model: str

    @property
    def texts(self) -> list[str]:
        """Everything that is written."""
        if self.answer is None:
            return [self.question]
        return [self.instructions, self.question, self.answer]

    def line(self) -> bytes:
        if self.answer is None:
            return orjson.dumps({"text": self.question})
        messages = [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}]
        if self.instructions:
            messages.insert(0, {"role": "system", "content": self.instructions})
        # Named as in labels of a teacher, so that a reader of the file sees whose answer it is.
        return orjson.dumps({"messages": messages, "teacher": self.model})


def make_rows(calls: Sequence[TracedCall], *, with_answers: bool = False, seed: int = SEED) -> TracedRows:
    """Makes a row of each different question."""
    answered = [call for call in calls if not call.is_error]
    with_question = [call for call in answered if call.question is not None]
    usable = with_question
    if with_answers:
        usable = [call for call in with_question if call.answer is not None and call.answer.strip()]
    calls_by_question: dict[str, list[TracedCall]] = defaultdict(list)
    for call in usable:
        calls_by_question[normalise_text(call.question or "")].append(call)
    rows = [_row(same, with_answers) for same in calls_by_question.values()]
    random.Random(seed).shuffle(rows)  # noqa: S311 - no secret
    faults = _faults(rows)
    clean = [place for place in range(len(rows)) if not _has(SECRET.code, faults[place])]
    personal = [place for place in clean if _has(PERSONAL.code, faults[place])]
    kinds = Counter(
        fault.text for place in personal for fault in set(faults[place]) if fault.rule.code == PERSONAL.code
    )
    return TracedRows(
        lines=tuple(rows[place].line() for place in clean),
        failed=len(calls) - len(answered),
        without_question=len(answered) - len(with_question),
        without_answer=len(with_question) - len(usable),
        repeated=len(usable) - len(rows),
        secret=len(rows) - len(clean),
        personal=len(personal),
        personal_kinds=tuple(kinds.most_common()),
        disagreeing=sum(_disagree(same) for same in calls_by_question.values()) if with_answers else 0,
    )


def _row(same: Sequence[TracedCall], with_answers: bool) -> _Row:
    """Returns the row of calls that ask the same. Of several answers the most frequent one counts, of equally frequent
    ones the first."""
    first = same[0]
    question = first.question or ""
    if not with_answers:
        return _Row(question, None, "", first.model)
    counts = Counter(call.answer for call in same)
    answer = counts.most_common(1)[0][0]
    chosen = next(call for call in same if call.answer == answer)
    return _Row(question, answer, chosen.instructions, chosen.model)


def _disagree(same: Sequence[TracedCall]) -> bool:
    return len({(call.answer or "").strip() for call in same}) > 1


def _faults(rows: Sequence[_Row]) -> list[list[Fault]]:
    """Returns what each row holds of secrets and personal data."""
    faults: list[list[Fault]] = [[] for _ in rows]
    texts: list[str] = []
    owners: list[int] = []
    for place, row in enumerate(rows):
        for text in row.texts:
            texts.append(text)
            owners.append(place)
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        chunk = texts[start : start + _TEXTS_AT_ONCE]
        joined = JoinedTexts([text.encode() for text in chunk])
        for index, held in faults_of_texts(joined, chunk).items():
            faults[owners[start + index]] += held
    return faults


def _has(code: str, faults: Iterable[Fault]) -> bool:
    return any(fault.rule.code == code for fault in faults)
