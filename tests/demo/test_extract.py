"""What the second story says at its end: it follows from the two scores of the model in use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from demo.extract import in_use, last_lines, lesson
from demo.summary import Summary
from demo.workspace import WorkspaceError
from tests.cards.builders import result
from tests.cards.measurements import comparison_beside_classical
from trainers.evaluation.results import Candidate, Comparison, MeasuredCandidate, Standing


def standing(which: Standing) -> MeasuredCandidate:
    (tuned,) = Comparison.from_json(comparison_beside_classical(61, 70)).of_kind("tuned")
    return replace(tuned, standing=which)


@pytest.mark.parametrize(
    ("own", "other", "words"),
    [
        ("meets", "meets", "other teams may call it"),
        ("meets", "misses", "not yet on other people's: collect rows by more authors"),
        ("meets", "undecided", "these rows can't tell"),
        ("misses", "meets", "not shown to be good enough"),
        ("undecided", "undecided", "not shown to be good enough"),
    ],
)
def test_the_lesson_takes_both_scores_into_account(own: Standing, other: Standing, words: str) -> None:
    assert words in lesson(standing(own), standing(other))


def test_the_last_lines_show_the_other_authors_after_the_teams_own_rows() -> None:
    with_tuned = Comparison.from_json(comparison_beside_classical(61, 70))
    measured = replace(with_tuned, candidates=with_tuned.candidates[:1])
    tuned = result(beside=with_tuned.to_json())
    own = Summary(measured, tuned, "Go", "{}", "refused", Path("a.db"), Path("adapter"))
    at_the_door = replace(standing("misses"), identity=Candidate("zero", "door/team/shifts"))
    others = replace(measured, candidates=(*measured.candidates, at_the_door))

    lines = last_lines(own, others, {"all": 60.0})

    title = next(place for place, line in enumerate(lines) if "rows by other authors" in line)
    assert lines.index("verdict:         Go") < title
    assert "classical" in lines[title + 1] and "tuned, as programs get it" in lines[title + 2]
    assert any(line.startswith("not shown:") and "135M" in line for line in lines)


def test_rows_on_which_programs_got_nothing_stop_the_story() -> None:
    measured = Comparison.from_json(comparison_beside_classical(61, 70))
    with pytest.raises(WorkspaceError, match="what is in use could not be measured"):
        in_use(measured)
