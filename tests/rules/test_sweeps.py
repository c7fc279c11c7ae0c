"""A sweep as people type it, and what conflicts with it."""

from __future__ import annotations

import pytest

from bot.command_parser import parse_question
from bot.rules.estimate_inputs import Question
from bot.rules.plans import (
    SweepConflict,
    describe_sweep,
    drop_swept,
    find_sweep_conflict,
    format_sweep,
    parse_sweep,
)
from bot.rules.units import Misread
from bot.values.runs import Refusal
from trainers.hyperparameters import Sweep, count_full_trainings

SWEEP: Sweep = (("lora_r", (8, 16)), ("learning_rate", (0.0005, 0.001)))


@pytest.mark.parametrize(
    "text",
    [
        "lora_r:8,16;learning_rate:0.0005,0.001",
        "lora_r:8,16;learning_rate:5e-4,1e-3;",
        "rank:8,16;lr:.0005,.001",
    ],
)
def test_a_sweep_is_read_as_it_is_typed(text: str) -> None:
    assert parse_sweep(text) == SWEEP
    assert parse_sweep(format_sweep(SWEEP)) == SWEEP


def test_a_sweep_may_contain_spaces() -> None:
    question = parse_question("sweep = lora_r: 8, 16; learning_rate: 0.0005, 0.001 epochs=2")
    assert question == Question(sweep=SWEEP, hyperparameters=(("n_epochs", 2),))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lora_rank:8,16", "“lora_rank” can't be swept. Did you mean lora_r?"),
        ("lora_r=8,16", "I can't read “lora_r=8,16”. Write it like sweep=lora_r:8,16"),
        ("lora_r", "I can't read “lora_r”. Write it like sweep=lora_r:8,16"),
        ("lora_r:8,high", "I can't read “lora_r:8,high”"),
        ("quantization:nf4,none", "“quantization” can't be swept"),
        ("lora_r:8,", "The sweep has 1 trial; it takes 2 to 16"),
        ("lora_r:8,8", "'lora_r' needs several different values"),
        ("lora_r:8,900", "'lora_r' is 900 in the sweep; it must be a whole number from 1 to 512"),
        ("lr:0.1,2", "'learning_rate' is 2 in the sweep; it must be a number above 0, at most 1"),
        ("lr:1e-3,1e-4;lora_r:1,2,3,4,5,6,7,8,9", "The sweep has 18 trials"),
        ("lora_r:8,16;r:4,2", "“lora_r” is given twice"),
        (";", "The sweep is empty"),
    ],
)
def test_an_unreadable_sweep_is_answered_with_what_was_meant(text: str, sentence: str) -> None:
    read = parse_sweep(text)
    assert isinstance(read, Misread)
    assert sentence in read.sentence
    answer = parse_question(f"sweep={text}")
    assert isinstance(answer, Refusal)
    assert answer.about == "sweep"


def test_a_sweep_needs_our_own_trainer_and_engine_and_no_patience() -> None:
    question = Question(sweep=SWEEP)
    assert find_sweep_conflict(question, can_sweep=True) is None
    assert find_sweep_conflict(question, can_sweep=False) == SweepConflict("one set a job")
    for other, conflict in (
        ({"hyperparameters": (("engine", "unsloth"),)}, SweepConflict("engine", "unsloth")),
        ({"patience": 2}, SweepConflict("patience")),
        ({"hyperparameters": (("lora_r", 8),)}, SweepConflict("given twice", "lora_r")),
    ):
        assert find_sweep_conflict(Question(sweep=SWEEP, **other), can_sweep=True) == conflict
    assert find_sweep_conflict(Question(), can_sweep=False) is None


def test_swept_values_are_dropped_and_lora_alpha_follows_the_rank() -> None:
    chosen = {"n_epochs": 2, "lora_r": 16, "lora_alpha": 32, "learning_rate": 1e-3}
    assert drop_swept(chosen, SWEEP, {}) == {"n_epochs": 2}
    assert drop_swept(chosen, SWEEP, {"lora_alpha": 32}) == {"n_epochs": 2, "lora_alpha": 32}
    assert drop_swept(chosen, (), {}) == chosen


def test_a_sweep_is_described_in_words_and_counted_in_full_trainings() -> None:
    assert describe_sweep(SWEEP) == "lora_r 8 or 16, learning_rate 5e-4 or 1e-3"
    assert (count_full_trainings(SWEEP), count_full_trainings(())) == (2.0, 1.0)
