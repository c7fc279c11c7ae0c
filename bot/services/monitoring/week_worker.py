"""Compares a week's sampled calls with those of the first weeks, in a worker process: what they ask, how they are
answered, and which words have become more frequent.

Of the first weeks numbers are kept, since their texts are deleted after some days: vectors, how many texts have a word
(only of words that several have), and how many answers were which label.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from bot.values.monitoring import WeekShift
from trainers.dataset.rows import INSTRUCTION_ROLES
from trainers.encoders.embedding import load_encoder
from trainers.monitoring import shift
from trainers.monitoring.changed_words import WordCounts, changed_words, count_words
from trainers.monitoring.shift import RECENT_WEEKS, Shift, TooFewCalls
from trainers.monitoring.shift import REFERENCE_WEEKS as FIRST_WEEKS
from trainers.recipes import samples
from trainers.recipes.samples import SampledCall

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

WEEK_S = 7 * 24 * 3600.0
MOST_UNUSUAL = 60  # some of them are to be measured, and are not labelled for training
TESTS = 2  # a week for each dataset: of the texts and of the answers


@dataclass(frozen=True)
class WeekOfCalls:
    """The sampled calls under `name` in `recipes` until before `until` (unix seconds), the end of the `week` of that
    Monday. `labels` is the hash of the recipe whose answers are labels and are counted, None if they aren't labels.
    `first_weeks` is the folder of what is kept of the first weeks, which were read by this `encoder`. `level` is that
    of each test."""

    recipes: Path
    name: str
    week: str
    until: float
    labels: str | None
    first_weeks: Path
    encoder: str
    level: float


def compare(calls: WeekOfCalls) -> WeekShift:
    """Compares a week with the weeks before it, of which the first four that were no different are kept. A week is
    among them from the next one on. Once there are four, the last two weeks are compared with them, which sees more."""
    earlier = _load_first_weeks(calls)
    is_complete = len(earlier) == FIRST_WEEKS
    last_week = _week_before(calls)
    # Two weeks would include the last one, which may itself be among the first four.
    is_last_week_first = any(each.week == last_week for each in earlier)
    weeks = 1
    if is_complete and not is_last_week_first:
        weeks = RECENT_WEEKS
    recent = _read(calls, weeks)
    compared = _compare(earlier, recent, calls.level)
    if not is_complete and not compared.is_shown and len(recent.vectors):
        _keep(calls.first_weeks, recent)
    return compared


def _week_before(calls: WeekOfCalls) -> str:
    return f"{date.fromisoformat(calls.week) - timedelta(days=7)}"


@dataclass(frozen=True)
class _Week:
    """The calls until the end of the `week` of this Monday, read by this `encoder`. `texts`, their calls' ids, and who
    they are from are empty for earlier weeks. `answers` counts labels by the recipe that gave them."""

    week: str
    encoder: str
    vectors: Vectors
    words: WordCounts
    answers: Mapping[str, Mapping[str, int]]
    texts: Sequence[str] = ()
    ids: Sequence[str] = ()
    sources: Sequence[str] = ()


def _read(calls: WeekOfCalls, weeks: int) -> _Week:
    """Reads the calls of the last weeks."""
    since = calls.until - weeks * WEEK_S
    sampled = samples.read(calls.recipes, calls.name, since=since, until=calls.until)
    firsts = _first_calls(sampled)
    texts = [question_of(call) for call in firsts]
    answers: dict[str, Counter[str]] = {}
    if calls.labels is not None:
        # Another recipe may answer in other shares although the calls are the same.
        labels = Counter(call.answer.strip() for call in firsts if call.recipe == calls.labels)
        answers[calls.labels] = labels
    return _Week(
        week=calls.week,
        encoder=calls.encoder,
        vectors=load_encoder(calls.encoder).embed(texts),
        words=count_words(texts),
        answers=answers,
        texts=texts,
        ids=[call.id for call in firsts],
        sources=[call.conversation for call in firsts],
    )


def _first_calls(sampled: Sequence[SampledCall]) -> list[SampledCall]:
    """Returns the first call of each conversation, since its later ones depend on it. Calls that begin alike have the
    same hash as those of one conversation; each that is the first of its own counts."""
    firsts = [call for call in sampled if _count_questions(call) == 1]
    begun = {call.conversation for call in firsts}
    for call in sampled:
        if call.conversation not in begun:
            firsts.append(call)
            begun.add(call.conversation)
    return firsts


def _count_questions(call: SampledCall) -> int:
    return sum(turn.role == "user" for turn in call.example.prompt)


def question_of(call: SampledCall) -> str:
    """Returns a call's text without its instructions."""
    turns = [turn.content for turn in call.example.prompt if turn.role not in INSTRUCTION_ROLES]
    return "\n".join(turns)


def _compare(earlier: Sequence[_Week], week: _Week, level: float) -> WeekShift:
    import numpy as np

    if not earlier:
        return WeekShift()
    vectors = np.concatenate([each.vectors for each in earlier])
    texts = _certain(shift.vector_shift(vectors, week.vectors, level))
    answers = None
    for recipe, now in week.answers.items():
        before: Counter[str] = Counter()
        for each in earlier:
            before.update(each.answers.get(recipe, {}))
        answers = _certain(shift.label_shift(before, now, level))
    if texts is None or not texts.is_alarm:
        return WeekShift(texts, answers)
    counted = sum((each.words for each in earlier[1:]), earlier[0].words)
    changed = changed_words(counted, week.texts, week.sources)
    unusual = shift.choose_new(vectors, week.vectors, MOST_UNUSUAL)
    return WeekShift(
        texts=texts,
        answers=answers,
        words=tuple(word.words for word in changed),
        unusual=tuple(week.ids[index] for index in unusual),
    )


def _certain(result: Shift | TooFewCalls) -> Shift | None:
    if isinstance(result, TooFewCalls):
        return None
    return result


def _load_first_weeks(calls: WeekOfCalls) -> list[_Week]:
    """Returns what is kept of the first weeks, without this week, which a kill may have left, and without those that
    another encoder has read: vectors of two encoders don't compare."""
    weeks = [_load(path) for path in sorted(calls.first_weeks.glob("*.npz"))]
    earlier = [each for each in weeks if each.week != calls.week and each.encoder == calls.encoder]
    return earlier[:FIRST_WEEKS]


def _keep(folder: Path, week: _Week) -> None:
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    counts = {
        "encoder": week.encoder,
        "texts": week.words.texts,
        "words": week.words.frequent,
        "answers": week.answers,
    }
    path = folder / f"{week.week}.npz"
    # By way of a second file, so that a kill leaves no half week to compare with.
    partial = path.with_suffix(".tmp")
    with partial.open("wb") as file:
        np.savez(file, vectors=week.vectors, counts=np.array(json.dumps(counts)))
    partial.replace(path)


def _load(path: Path) -> _Week:
    import numpy as np

    with np.load(path) as arrays:
        counts = json.loads(str(arrays["counts"]))
        vectors: Vectors = arrays["vectors"]
    return _Week(
        week=path.stem,
        encoder=counts["encoder"],
        vectors=vectors,
        words=WordCounts(counts["texts"], counts["words"]),
        answers=counts["answers"],
    )
