"""Successive halving as a rule: how far who trains, what all take together, what a body may ask for."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from trainers.hyperparameters import halving_rungs, halving_steps, halving_total
from trainers.local.api_errors import ApiError
from trainers.local.engines.catalog import UNSLOTH
from trainers.local.engines.compatibility import refuse_unsupported
from trainers.local.jobs.requests import parse_job_request
from trainers.local.training.successive_halving import (
    TrialScore,
    find_winner,
    list_rounds,
    next_decision,
    steps_left,
)
from trainers.methods import Parameters


@pytest.mark.parametrize(
    ("arms", "ladder"),
    [
        (2, [(2, "1/2"), (1, "1")]),
        (3, [(3, "1/4"), (2, "1/2"), (1, "1")]),
        (4, [(4, "1/4"), (2, "1/2"), (1, "1")]),
        (5, [(5, "1/8"), (3, "1/4"), (2, "1/2"), (1, "1")]),
        (16, [(16, "1/16"), (8, "1/8"), (4, "1/4"), (2, "1/2"), (1, "1")]),
    ],
)
def test_the_better_half_goes_on_to_twice_the_share_of_its_course(arms: int, ladder: list[Any]) -> None:
    assert [(rung.arms, rung.share) for rung in halving_rungs(arms)] == [
        (n, Fraction(share)) for n, share in ladder
    ]


@pytest.mark.parametrize(("arms", "times"), [(2, 1.5), (4, 2), (8, 2.5), (16, 3)])
def test_all_arms_take_1_plus_half_the_binary_logarithm_of_their_number_courses(
    arms: int, times: float
) -> None:
    assert halving_steps([160] * arms) == 160 * times
    assert halving_total([7.0] * arms) == pytest.approx(7 * times)


def test_where_courses_differ_the_dearest_arms_are_taken_to_go_on() -> None:
    assert halving_steps([10, 20]) == 5 + 10 + 10
    assert halving_total([10.0, 20.0]) == 25.0


def play(
    arms: int, course: int, losses: dict[int, float], fails: dict[int, int] | None = None
) -> list[TrialScore]:
    """Losses by arm, the same at every rung; `fails`: an arm is out once it is to train in that round."""
    trial_scores = [TrialScore(number, course) for number in range(1, arms + 1)]
    while move := next_decision(trial_scores):
        arm = trial_scores[move.number - 1]
        assert arm.step <= move.until <= arm.step + steps_left(trial_scores)
        if (fails or {}).get(move.number) == move.round:
            trial_scores[move.number - 1] = replace(arm, out="its loss is no number")
            continue
        known = {**(arm.losses or {}), move.until: losses[move.number]}
        trial_scores[move.number - 1] = replace(arm, step=move.until, losses=known)
    return trial_scores


LOSSES = {1: 0.4, 2: 0.1, 3: 0.3, 4: 0.2}


def test_who_goes_on_and_who_wins_follows_from_the_losses_alone() -> None:
    ended = play(4, 16, LOSSES)
    assert [arm.step for arm in ended] == [4, 16, 4, 8]
    best = find_winner(ended)
    assert best is not None
    assert best.number == 2
    assert steps_left(ended) == 0
    assert [[arm.number for arm in each.arms] for each in list_rounds(ended)] == [[1, 2, 3, 4], [2, 4], [2]]


def test_of_equal_losses_the_first_arm_goes_on() -> None:
    assert [arm.step for arm in play(4, 16, dict.fromkeys(LOSSES, 0.5))] == [16, 8, 4, 4]


def test_an_arm_that_is_out_makes_place_for_the_next_best() -> None:
    ended = play(4, 16, LOSSES, fails={2: 2})
    assert [arm.step for arm in ended] == [4, 4, 8, 16]
    assert [arm.step for arm in play(4, 16, LOSSES, fails={2: 3})] == [4, 8, 8, 16]


def test_where_all_are_out_nobody_wins() -> None:
    ended = play(3, 16, LOSSES, fails={1: 1, 2: 1, 3: 1})
    assert find_winner(ended) is None
    assert steps_left(ended) == 0


def test_a_course_shorter_than_its_rungs_is_never_trained_twice() -> None:
    losses = {number: 1 / number for number in range(1, 17)}
    assert sum(arm.step for arm in play(16, 5, losses)) == halving_steps([5] * 16)


def order(validation: str | None = "file-b", **hyperparameters: Any) -> Any:
    body = {"model": "m", "training_file": "file-a", "hyperparameters": hyperparameters}
    return parse_job_request(body | ({"validation_file": validation} if validation else {}))


def test_arms_are_all_combinations_and_follow_the_rules_of_single_values() -> None:
    chosen = order(sweep={"lora_r": [4, 64], "learning_rate": [1e-3, 2e-3]}, n_epochs=2).hyperparameters
    arms = chosen.arms(1000, 5e-4)
    assert [(arm.lora_r, arm.lora_alpha, arm.learning_rate) for arm in arms] == [
        (4, 8, 1e-3),
        (4, 8, 2e-3),
        (64, 128, 1e-3),
        (64, 128, 2e-3),
    ]
    assert {(arm.n_epochs, arm.batch_size, arm.sweep) for arm in arms} == {(2, 8, ())}
    assert order().hyperparameters.arms(1000, 5e-4) == ()


@pytest.mark.parametrize(
    ("hyperparameters", "param", "message"),
    [
        ({"sweep": [1]}, "sweep", "'sweep' must be an object of lists, like {\"lora_r\": [8, 16]}"),
        ({"sweep": {}}, "sweep", "The sweep is empty; it takes 2 to 16"),
        ({"sweep": {"lora_r": [8]}}, "sweep", "The sweep has 1 arm; it takes 2 to 16"),
        ({"sweep": {"lora_r": list(range(1, 18))}}, "sweep", "has 17 arms; it takes 2 to 16"),
        ({"sweep": {"lora_r": [8, 8]}}, "sweep.lora_r", "'lora_r' needs several different values"),
        (
            {"sweep": {"lora_r": [8, 0]}},
            "sweep.lora_r",
            "is 0 in the sweep; it must be a whole number from 1 to 512",
        ),
        ({"sweep": {"lora_r": [8, "auto"]}}, "sweep.lora_r", "'lora_r' is 'auto' in the sweep"),
        (
            {"sweep": {"quantization": ["none", "nf4"]}},
            "sweep.quantization",
            "can't be swept, since all arms share the base",
        ),
        (
            {"sweep": {"lora_r": [8, 16]}, "lora_r": 4},
            "lora_r",
            "'lora_r' has a single value, but the sweep has 'lora_r' too",
        ),
        (
            {"sweep": {"learning_rate": [1e-3, 1e-4]}, "learning_rate_multiplier": 2},
            "learning_rate_multiplier",
            "'learning_rate_multiplier' has a single value, but the sweep has 'learning_rate' too",
        ),
        (
            {"sweep": {"lora_r": [8, 16]}, "patience": 2},
            "patience",
            "A sweep stops its weaker arms itself",
        ),
    ],
)
def test_sweeps_that_make_no_sense_are_refused(
    hyperparameters: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(ApiError) as caught:
        order(**hyperparameters)
    assert (caught.value.status, caught.value.param) == (400, f"hyperparameters.{param}")
    assert message in caught.value.message


def test_a_sweep_without_a_validation_file_is_refused_with_its_cure() -> None:
    with pytest.raises(ApiError, match="Give 'validation_file', or leave 'sweep' out"):
        order(None, sweep={"lora_r": [8, 16]})


def test_auto_beside_a_sweep_is_not_given_singly() -> None:
    assert order(sweep={"lora_r": [8, 16]}, lora_r="auto").hyperparameters.sweep == (("lora_r", (8, 16)),)


def test_other_engines_cannot_sweep() -> None:
    refused = refuse_unsupported(UNSLOTH, Parameters(engine="unsloth", sweep=(("lora_r", (8, 16)),)))
    assert refused is not None
    assert refused.message.startswith("The engine unsloth does not support sweep. Leave sweep out")
