"""A question that is formatted as a person would type it parses to the same question again."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.command_options import HYPERPARAMETERS, QUESTION_OPTIONS
from bot.command_parser import format_question, parse, parse_question
from bot.rules import estimate_inputs
from bot.rules.estimate_inputs import Figure, Question
from bot.rules.units import Volume
from bot.slack.commands import finetune
from bot.values.runs import Refusal
from trainers import methods
from trainers.hyperparameters import Sweep
from trainers.types import Hyperparameter

RATES = st.lists(st.floats(1e-9, 1.0), min_size=2, max_size=16, unique=True).map(tuple)
NAME = st.from_regex(r"[a-z0-9][a-z0-9./:-]{0,30}", fullmatch=True)

FIGURES = {name.lower(): kind for name, kind in vars(estimate_inputs).items() if isinstance(kind, Figure)}
FIGURE_KEYS = [option.key for option in QUESTION_OPTIONS.values() if option.field in FIGURES]


def figure(kind: Figure) -> st.SearchStrategy[Decimal | int | None]:
    if kind.is_whole:
        return st.none() | st.integers(int(kind.least), int(kind.most))
    return st.none() | st.decimals(kind.least, kind.most, places=4)


@pytest.mark.deep
@given(
    current=st.none() | NAME,
    volume=st.none() | st.builds(Volume, st.integers(0, 10**12), st.sampled_from(["requests", "tokens"])),
    target=st.none() | NAME,
    chosen=st.fixed_dictionaries(
        {},
        optional={
            "n_epochs": st.integers(1, 50),
            "learning_rate": st.floats(1e-9, 1.0),
            "lora_dropout": st.floats(1e-9, 0.9),
            "target_modules": st.sampled_from(["all-linear", "q_proj,v_proj"]),
            "engine": st.sampled_from((*methods.TRAINING_ENGINES, methods.VLLM)),
            "quantization": st.sampled_from(["none", "nf4", "int8"]),
        },
    ),
    figures=st.fixed_dictionaries({field: figure(kind) for field, kind in FIGURES.items()}),
    sweep=st.just(()) | st.tuples(st.just("learning_rate"), RATES).map(lambda axis: (axis,)),
)
def test_a_formatted_question_parses_to_itself(
    current: str | None,
    volume: Volume | None,
    target: str | None,
    chosen: dict[str, Hyperparameter],
    figures: dict[str, Decimal | int | None],
    sweep: Sweep,
) -> None:
    options = {"hyperparameters": tuple(sorted(chosen.items())), "sweep": sweep, **figures}
    question = Question(current, volume, target, **options)  # type: ignore[arg-type]
    assert parse_question(format_question(question)) == question


def test_a_method_is_formatted_with_its_own_hyperparameters() -> None:
    question = Question(method="dpo", hyperparameters=(("beta", 0.2),))
    assert parse_question(format_question(question)) == question


@pytest.mark.parametrize("option", FIGURE_KEYS)
def test_every_number_is_an_option_of_estimate_and_start(option: str) -> None:
    for command in ("estimate", "start"):
        parsed = parse(finetune, f"{command} tickets {option}=1")
        assert not isinstance(parsed, Refusal)
        assert parsed.values[QUESTION_OPTIONS[option].field] == 1


@pytest.mark.parametrize("option", [*FIGURE_KEYS, "volume", "bar", "task"])
def test_a_refusal_names_its_option(option: str) -> None:
    answer = parse(finetune, f"estimate tickets {option}=§")
    assert isinstance(answer, Refusal) and answer.about == option


def test_every_field_of_a_question_has_one_option() -> None:
    fields = {option.field for option in QUESTION_OPTIONS.values()}
    assert fields == {*Question.__dataclass_fields__} - {"hyperparameters"} | HYPERPARAMETERS
    assert len(fields) == len(QUESTION_OPTIONS)
