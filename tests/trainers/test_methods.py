"""Declared hyperparameters, and everything that reads the declarations."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from bot.command_parser import parse_question
from bot.rules.estimate_inputs import Question
from trainers.local.engines.plan import HYPERPARAMETER_KEYS
from trainers.methods import METHODS, Basis, all_specs, options, resolve, specs

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_hyperparameters_is_up_to_date() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "hyperparameters.py"))["page"]
    written = (ROOT / "docs" / "hyperparameters.md").read_text(encoding="utf-8")
    assert page() == written, "run python docs/hyperparameters.py"


def test_each_example_is_within_its_limits_and_its_help_fits_into_a_sentence() -> None:
    for name, spec in all_specs().items():
        assert spec.parse(spec.declared.example) is not None, name
        assert not spec.declared.help.endswith("."), name


def test_each_option_can_be_typed_after_start() -> None:
    for option, spec in options().items():
        method = next(name for name in METHODS if spec.name in specs(name))
        question = parse_question(f"method={method} {option}={spec.declared.example}")
        assert isinstance(question, Question), option
        assert question.chosen == {spec.name: spec.parse(spec.declared.example)}


def test_all_hyperparameters_of_engines_are_declared() -> None:
    assert set(HYPERPARAMETER_KEYS) <= {spec.field for spec in all_specs().values()}


def test_auto_values_follow_the_rules_and_explicit_values_win() -> None:
    resolved = resolve("supervised", {"lora_r": 8, "learning_rate_multiplier": 0.5}, Basis(1000, 1e-3))
    assert (resolved.n_epochs, resolved.batch_size, resolved.lora_alpha) == (2, 8, 16)
    assert resolved.learning_rate == 5e-4
    assert resolve("supervised", {"lora_r": 8, "lora_alpha": 8}, Basis(1000, None)).lora_alpha == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_epochs", True),
        ("n_epochs", "2"),
        ("learning_rate", float("nan")),
        ("lora_dropout", 1),
        ("target_modules", "a,,b"),
        ("target_modules", ["q_proj", 3]),
        ("max_usd", 0.00005),
        ("quantization", "NF4"),
        ("engine", ["unsloth"]),
    ],
)
def test_a_value_outside_the_limits_is_refused_with_what_it_must_be(name: str, value: object) -> None:
    spec = all_specs()[name]
    with pytest.raises(ValueError, match=f"'{name}' is .*; it must be "):
        spec.read(value)


def test_money_is_read_in_dollars_and_stored_in_micro_dollars() -> None:
    micros = [all_specs()["max_usd"].read(value) for value in (2, 2.5, "2.50")]
    assert micros == [2_000_000, 2_500_000, 2_500_000]
