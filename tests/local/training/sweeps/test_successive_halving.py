"""Successive halving as a rule: how far each trial trains, what all cost, and which sweeps are accepted."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from trainers.http.errors import ApiError
from trainers.hyperparameters import halving_rounds, halving_steps, halving_total
from trainers.local.engines.catalog import UNSLOTH
from trainers.local.engines.compatibility import refuse_unsupported
from trainers.local.jobs.requests import parse_job_request
from trainers.local.training.sweeps.successive_halving import (
    TrialScore,
    find_winner,
    list_rounds,
    next_decision,
    steps_left,
)
from trainers.methods import Parameters


@pytest.mark.parametrize(
    ("trials", "rounds"),
    [
        (2, [(2, "1/2"), (1, "1")]),
        (3, [(3, "1/4"), (2, "1/2"), (1, "1")]),
        (4, [(4, "1/4"), (2, "1/2"), (1, "1")]),
        (5, [(5, "1/8"), (3, "1/4"), (2, "1/2"), (1, "1")]),
        (16, [(16, "1/16"), (8, "1/8"), (4, "1/4"), (2, "1/2"), (1, "1")]),
    ],
)
def test_the_better_half_continues_to_twice_the_share_of_its_steps(trials: int, rounds: list[Any]) -> None:
    assert [(planned.trials, planned.share) for planned in halving_rounds(trials)] == [
        (count, Fraction(share)) for count, share in rounds
    ]


@pytest.mark.parametrize(("trials", "times"), [(2, 1.5), (4, 2), (8, 2.5), (16, 3)])
def test_all_trials_together_cost_1_plus_half_log2_of_their_number(trials: int, times: float) -> None:
    assert halving_steps([160] * trials) == 160 * times
    assert halving_total([7.0] * trials) == pytest.approx(7 * times)


def test_if_lengths_differ_the_longest_trials_are_assumed_to_continue() -> None:
    assert halving_steps([10, 20]) == 5 + 10 + 10
    assert halving_total([10.0, 20.0]) == 25.0


def play(
    trials: int, course: int, losses: dict[int, float], fails: dict[int, int] | None = None
) -> list[TrialScore]:
    """`losses` by trial are the same at every round. A trial in `fails` is out when it should train in that round."""
    trial_scores = [TrialScore(number, course) for number in range(1, trials + 1)]
    while decision := next_decision(trial_scores):
        trial = trial_scores[decision.number - 1]
        assert trial.step <= decision.until <= trial.step + steps_left(trial_scores)
        if (fails or {}).get(decision.number) == decision.round:
            trial_scores[decision.number - 1] = replace(trial, out="its loss is no number")
            continue
        measured = {**(trial.losses or {}), decision.until: losses[decision.number]}
        trial_scores[decision.number - 1] = replace(trial, step=decision.until, losses=measured)
    return trial_scores


LOSSES = {1: 0.4, 2: 0.1, 3: 0.3, 4: 0.2}


def test_the_losses_alone_decide_which_trials_continue_and_win() -> None:
    scores = play(4, 16, LOSSES)
    assert [trial.step for trial in scores] == [4, 16, 4, 8]
    best = find_winner(scores)
    assert best is not None
    assert best.number == 2
    assert steps_left(scores) == 0
    assert [[trial.number for trial in each.trials] for each in list_rounds(scores)] == [
        [1, 2, 3, 4],
        [2, 4],
        [2],
    ]


def test_of_equal_losses_the_first_trial_continues() -> None:
    assert [trial.step for trial in play(4, 16, dict.fromkeys(LOSSES, 0.5))] == [16, 8, 4, 4]


def test_the_next_best_trial_replaces_one_that_is_out() -> None:
    scores = play(4, 16, LOSSES, fails={2: 2})
    assert [trial.step for trial in scores] == [4, 4, 8, 16]
    assert [trial.step for trial in play(4, 16, LOSSES, fails={2: 3})] == [4, 8, 8, 16]


def test_if_all_trials_are_out_there_is_no_winner() -> None:
    scores = play(3, 16, LOSSES, fails={1: 1, 2: 1, 3: 1})
    assert find_winner(scores) is None
    assert steps_left(scores) == 0


def test_a_course_shorter_than_its_rounds_repeats_no_step() -> None:
    losses = {number: 1 / number for number in range(1, 17)}
    assert sum(trial.step for trial in play(16, 5, losses)) == halving_steps([5] * 16)


def parse(validation: str | None = "file-b", **hyperparameters: Any) -> Any:
    body = {"model": "m", "training_file": "file-a", "hyperparameters": hyperparameters}
    return parse_job_request(body | ({"validation_file": validation} if validation else {}))


def test_trials_are_all_combinations_with_the_rules_of_single_values() -> None:
    hyperparameters = parse(
        sweep={"lora_r": [4, 64], "learning_rate": [1e-3, 2e-3]}, n_epochs=2
    ).hyperparameters
    trials = hyperparameters.trials(1000, 5e-4)
    assert [(trial.lora_r, trial.lora_alpha, trial.learning_rate) for trial in trials] == [
        (4, 8, 1e-3),
        (4, 8, 2e-3),
        (64, 128, 1e-3),
        (64, 128, 2e-3),
    ]
    assert {(trial.n_epochs, trial.batch_size, trial.sweep) for trial in trials} == {(2, 8, ())}
    assert parse().hyperparameters.trials(1000, 5e-4) == ()


@pytest.mark.parametrize(
    ("hyperparameters", "param", "message"),
    [
        ({"sweep": [1]}, "sweep", "'sweep' must be an object of lists, like {\"lora_r\": [8, 16]}"),
        ({"sweep": {}}, "sweep", "The sweep is empty; it takes 2 to 16"),
        ({"sweep": {"lora_r": [8]}}, "sweep", "The sweep has 1 trial; it takes 2 to 16"),
        ({"sweep": {"lora_r": list(range(1, 18))}}, "sweep", "has 17 trials; it takes 2 to 16"),
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
            "can't be swept. You can sweep n_epochs",
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
            "A sweep stops its weaker trials itself",
        ),
    ],
)
def test_invalid_sweeps_are_refused(hyperparameters: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**hyperparameters)
    assert (caught.value.status, caught.value.param) == (400, f"hyperparameters.{param}")
    assert message in caught.value.message


def test_a_sweep_without_a_validation_file_is_refused() -> None:
    with pytest.raises(ApiError, match="Give 'validation_file', or leave 'sweep' out"):
        parse(None, sweep={"lora_r": [8, 16]})


def test_auto_is_no_single_value_beside_a_sweep() -> None:
    assert parse(sweep={"lora_r": [8, 16]}, lora_r="auto").hyperparameters.sweep == (("lora_r", (8, 16)),)


def test_other_engines_cannot_sweep() -> None:
    refusal = refuse_unsupported(UNSLOTH, Parameters(engine="unsloth", sweep=(("lora_r", (8, 16)),)))
    assert refusal is not None
    assert refusal.message.startswith("The engine unsloth does not support sweep. Leave sweep out")
