"""Turns recorded calls into rows: the different questions without labels, in random order, or with the answers that the
model gave, which nobody has checked. Rows with a secret are left out."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from trainers.dataset.checks import Fault
from trainers.dataset.rows import join_texts, normalise_text
from trainers.dataset.sensitive_data import PERSONAL, SECRET, faults_of_texts
from trainers.recipes.placeholders import Masked, mask
from trainers.traces.calls import TracedCall

SEED = 20261201  # the same file gives the same rows in the same order
_TEXTS_AT_ONCE = 200


@dataclass(frozen=True)
class TracedRows:
    """Lines of JSON, each a row. `has_answers`: with the answers of the model. The other numbers count what was left
    out, and why:

    - `failed` calls have no answer; `without_question` have no recorded text of a single turn, `without_answer` no
      text as an answer, if the rows have answers.
    - `repeated` calls ask what another one asks.
    - `secret` rows hold what looks like a secret.

    `personal` rows hold personal data and were not left out; `personal_kinds` are their numbers by kind. `masked` rows
    have placeholders instead. `disagreeing` questions got different answers, of which the most frequent counts.
    """

    lines: tuple[bytes, ...]
    has_answers: bool
    failed: int
    without_question: int
    without_answer: int
    repeated: int
    secret: int
    personal: int
    personal_kinds: tuple[tuple[str, int], ...]
    masked: int
    disagreeing: int


@dataclass(frozen=True)
class _Row:
    """`answer` is None for a row without one, and then `instructions` are empty."""

    question: str
    answer: str | None
    instructions: str
    model: str

    @property
    def texts(self) -> tuple[str, ...]:
        """Everything that is written."""
        if self.answer is None:
            return (self.question,)
        return (self.question, self.answer, self.instructions)

    def with_texts(self, texts: Sequence[str]) -> _Row:
        if self.answer is None:
            return _Row(texts[0], None, "", self.model)
        question, answer, instructions = texts
        return _Row(question, answer, instructions, self.model)

    def line(self) -> bytes:
        if self.answer is None:
            return orjson.dumps({"text": self.question})
        messages = [
            {"role": "user", "content": self.question},
            {"role": "assistant", "content": self.answer},
        ]
        if self.instructions:
            messages.insert(0, {"role": "system", "content": self.instructions})
        # Named as in labels of a teacher, so that a reader of the file sees whose answer it is.
        return orjson.dumps({"messages": messages, "teacher": self.model})


def make_rows(
    calls: Sequence[TracedCall], *, with_answers: bool = False, masks: bool = False, seed: int = SEED
) -> TracedRows:
    """Makes a row of each different question. With `masks`, placeholders stand for personal data."""
    answered = [call for call in calls if not call.is_error]
    with_question = [call for call in answered if call.question is not None]
    usable = with_question
    if with_answers:
        usable = [call for call in with_question if call.answer is not None and call.answer.strip()]
    calls_by_question: dict[str, list[TracedCall]] = defaultdict(list)
    for call in usable:
        question = normalise_text(call.question or "")
        calls_by_question[question].append(call)
    disagreeing = 0
    if with_answers:
        disagreeing = sum(map(_disagree, calls_by_question.values()))
    rows = [_row(same, with_answers) for same in calls_by_question.values()]
    random.Random(seed).shuffle(rows)  # noqa: S311 - no secret
    clean = _without_secrets(rows, masks=masks)
    return TracedRows(
        lines=tuple(row.line() for row in clean.rows),
        has_answers=with_answers,
        failed=len(calls) - len(answered),
        without_question=len(answered) - len(with_question),
        without_answer=len(with_question) - len(usable),
        repeated=len(usable) - len(rows),
        secret=len(rows) - len(clean.rows),
        personal=clean.personal,
        personal_kinds=tuple(clean.kinds.most_common()),
        masked=clean.masked,
        disagreeing=disagreeing,
    )


def _row(same: Sequence[TracedCall], with_answers: bool) -> _Row:
    """Returns the row of calls that ask the same. Of several answers the most frequent one counts, of equally frequent
    ones the first."""
    first = same[0]
    if not with_answers:
        return _Row(first.question or "", None, "", first.model)
    counts = Counter(call.answer for call in same)
    [(answer, _)] = counts.most_common(1)
    chosen = next(call for call in same if call.answer == answer)
    return _Row(chosen.question or "", answer, chosen.instructions, chosen.model)


def _disagree(same: Sequence[TracedCall]) -> bool:
    answers = {(call.answer or "").strip() for call in same}
    return len(answers) > 1


@dataclass(frozen=True)
class _Clean:
    """Rows without secrets. `personal` of them hold personal data, by kind in `kinds`; `masked` have placeholders."""

    rows: tuple[_Row, ...]
    personal: int
    kinds: Counter[str]
    masked: int


def _without_secrets(rows: Sequence[_Row], *, masks: bool) -> _Clean:
    clean: list[_Row] = []
    personal = 0
    masked = 0
    kinds: Counter[str] = Counter()
    for row, faults in zip(rows, _faults(rows), strict=True):
        if _has(SECRET.code, faults):
            continue
        is_personal = _has(PERSONAL.code, faults)
        if is_personal and masks:
            texts = mask(row.texts, "mask")
            # What still looks personal or secret once it is masked is not written.
            if isinstance(texts, Masked):
                clean.append(row.with_texts(texts.texts))
                masked += 1
            continue
        clean.append(row)
        if is_personal:
            personal += 1
            kinds.update({fault.text for fault in faults if fault.rule.code == PERSONAL.code})
    return _Clean(tuple(clean), personal, kinds, masked)


def _faults(rows: Sequence[_Row]) -> list[list[Fault]]:
    """Returns what each row holds of secrets and personal data."""
    faults: list[list[Fault]] = [[] for _ in rows]
    texts: list[str] = []
    owners: list[int] = []
    for number, row in enumerate(rows):
        for text in row.texts:
            texts.append(text)
            owners.append(number)
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        chunk = texts[start : start + _TEXTS_AT_ONCE]
        joined = join_texts(chunk)
        for index, held in faults_of_texts(joined, chunk).items():
            faults[owners[start + index]] += held
    return faults


def _has(code: str, faults: Iterable[Fault]) -> bool:
    return any(fault.rule.code == code for fault in faults)
