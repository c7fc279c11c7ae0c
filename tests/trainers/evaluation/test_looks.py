"""Looks at held-out rows are counted, and what people made after them is known by what is stored."""

from __future__ import annotations

from dataclasses import replace

from trainers.evaluation.looks import DistinctCandidate, Look, Origin, find_new_looks, find_origin
from trainers.evaluation.results import CLASSICAL, Candidate

FREE = DistinctCandidate(CLASSICAL)
SMALL, BIG = (Candidate("zero", f"vendor/{name}") for name in ("small", "big"))
EXAMPLES = DistinctCandidate(Candidate("kshot", "vendor/small"))
FIRST = Look("m1", "rows", (FREE, DistinctCandidate(SMALL)))


def rewrite(number: int, candidate: Candidate = SMALL) -> DistinctCandidate:
    return DistinctCandidate(candidate, by_people=f"prompt {number}")


def look(name: str, *candidates: DistinctCandidate, holdout: str = "rows", shows_rows: bool = False) -> Look:
    return Look(name, holdout, candidates, shows_rows)


def test_a_candidate_keeps_the_look_that_measured_it_first() -> None:
    looks = [FIRST, look("m2", EXAMPLES), look("m3", DistinctCandidate(SMALL), FREE)]
    assert find_origin(FREE, "rows", looks) == Origin(1)
    assert find_origin(EXAMPLES, "rows", looks) == Origin(2)


def test_repeating_a_measurement_is_no_look_but_repeating_it_on_more_rows_is() -> None:
    repeated, grown = look("m2", FREE), look("m3", FREE, holdout="more rows")
    assert find_new_looks([FIRST, repeated, grown]) == (FIRST, grown)
    assert find_origin(FREE, "more rows", [FIRST, repeated, grown]) == Origin(2)


def test_a_candidate_that_nobody_measured_would_be_the_next_look() -> None:
    assert find_origin(EXAMPLES, "rows", [FIRST]) == Origin(2)


def test_what_people_did_not_change_by_hand_is_not_fitted_to_the_rows() -> None:
    searched = DistinctCandidate(Candidate("optimised", "vendor/small"), made_of="a prompt")
    shown = look("run 1", DistinctCandidate(Candidate("tuned", "a/b")), shows_rows=True)
    assert find_origin(searched, "rows", [FIRST, shown]) == Origin(3)


def test_a_model_chosen_by_the_scores_of_others_is_one_of_them() -> None:
    """People measure a relative of the best: one of three could have been. Measuring all of them is no choice."""
    third = DistinctCandidate(Candidate("zero", "vendor/third"))
    first = look("m1", DistinctCandidate(SMALL), DistinctCandidate(BIG), third)
    assert find_origin(EXAMPLES, "rows", [first, look("m2", EXAMPLES)]) == Origin(2, choices=3)
    all_three = look(
        "m2", *(DistinctCandidate(replace(each.identity, kind="kshot")) for each in first.candidates)
    )
    assert find_origin(EXAMPLES, "rows", [first, all_three]) == Origin(2)
    assert find_origin(FREE, "rows", [first, look("m2", FREE)]) == Origin(2), (
        "nobody chooses among the free ones"
    )


def test_wrong_rows_that_somebody_asked_for_are_no_look_but_wear_the_rows() -> None:
    shown = look("wrong rows of m1", shows_rows=True)
    before = look("m2", rewrite(1))
    looks = [FIRST, before, shown]
    assert find_new_looks(looks) == (FIRST, before)
    assert find_origin(rewrite(1), "rows", looks).seen is None, "it was written before"
    assert find_origin(rewrite(2), "rows", looks) == Origin(3, seen=("rows",))
    assert find_origin(EXAMPLES, "rows", looks).seen is None, "nobody wrote it"


def test_the_settings_of_a_training_follow_one_of_the_earlier_trainings() -> None:
    runs = [
        DistinctCandidate(Candidate("tuned", f"local/{number}"), made_of=f"run {number}")
        for number in range(4)
    ]
    looks = [FIRST, *(look(f"run {number}", run) for number, run in enumerate(runs))]
    assert [find_origin(run, "rows", looks).choices for run in runs] == [1, 1, 2, 3]


def test_what_learns_from_other_training_rows_is_something_new() -> None:
    first, second = (DistinctCandidate(CLASSICAL, rows=rows) for rows in ("a", "b"))
    assert find_origin(second, "rows", [look("m1", first), look("m2", second)]) == Origin(2)


def test_the_first_prompt_of_people_is_a_candidate_like_others() -> None:
    assert find_origin(rewrite(1), "rows", [look("m1", FREE), look("m2", rewrite(1))]) == Origin(2)


def test_each_rewrite_starts_from_one_of_the_known_scores() -> None:
    """After two models and no rewrite there are two candidates to start from, then three, then four."""
    looks = [look("m1", DistinctCandidate(SMALL), DistinctCandidate(BIG))]
    origins = []
    for number in (1, 2, 3):
        looks.append(look(f"m{number + 1}", rewrite(number)))
        origins.append(find_origin(rewrite(number), "rows", looks))
    assert origins == [Origin(2, 2), Origin(3, 2 * 3), Origin(4, 2 * 3 * 4)]


def test_rewriting_the_prompt_of_all_models_is_no_choice_of_one() -> None:
    both = look("m1", DistinctCandidate(SMALL), DistinctCandidate(BIG))
    again = look("m2", rewrite(1), rewrite(1, BIG))
    assert find_origin(rewrite(1), "rows", [both, again]) == Origin(2, 1)


def test_the_choices_of_a_rewrite_do_not_grow_with_later_looks() -> None:
    looks = [FIRST, look("m2", rewrite(1))]
    at_first = find_origin(rewrite(1), "rows", looks)
    assert find_origin(rewrite(1), "rows", [*looks, look("m3", rewrite(2)), look("m4", EXAMPLES)]) == at_first


def test_a_prompt_written_after_wrong_rows_were_shown_needs_other_rows() -> None:
    shown = look("run 1", DistinctCandidate(Candidate("tuned", "a/b")), shows_rows=True)
    origin = find_origin(rewrite(1), "rows", [FIRST, shown, look("m2", rewrite(1))])
    assert origin == Origin(3, seen=("rows",))
    before = find_origin(rewrite(1), "rows", [FIRST, look("m2", rewrite(1)), shown])
    assert before.seen is None, "it was written before"


def test_measured_again_on_more_rows_a_prompt_is_still_the_one_that_was_fitted() -> None:
    shown = look("run 1", DistinctCandidate(Candidate("tuned", "a/b")), shows_rows=True)
    grown = look("m3", rewrite(1), holdout="more rows")
    origin = find_origin(rewrite(1), "more rows", [FIRST, shown, look("m2", rewrite(1)), grown])
    assert origin == Origin(4, seen=("rows",))
