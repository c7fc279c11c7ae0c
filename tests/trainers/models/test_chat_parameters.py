"""Parameters of chats: which models think, which parameters are sent, and what is learnt from a refusal."""

from __future__ import annotations

import pytest

from trainers.errors import Refused
from trainers.models.chat_parameters import (
    ChatParameters,
    parameters_for,
    refused_parameters,
    thinking_tokens,
    thinks,
)

NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("model", "does_think"),
    [
        ("gpt-5", True),
        ("gpt-5.4-nano", False),
        ("GPT-6.1-sol", True),
        ("gpt-6.1-terra", False),
        ("gpt-6-luna@low", True),
        ("gpt-4o@low", False),
        ("gpt-5.1-codex-mini", True),
        ("openai/gpt-5-mini", True),
        ("o3-mini", True),
        ("ft:o4-mini-2025-04-16:org::a1", True),
        ("gpt-5-chat-latest", False),
        ("gpt-4.1-mini", False),
        ("ft:gpt-4o-mini-2024-07-18:o3:gpt-5:a1", False),
        ("omni-1", False),
        ("o10-large", False),
        ("", False),
    ],
)
def test_a_models_name_shows_whether_it_thinks(model: str, does_think: bool) -> None:
    assert thinks(model) is does_think


def test_a_model_that_does_not_think_gets_the_usual_parameters() -> None:
    assert (thinking_tokens(True), thinking_tokens(False)) == (1_024, 0)
    assert parameters_for("gpt-4.1", False, 24, 0) == ChatParameters(24, None, 0, None)


def test_a_model_that_thinks_gets_the_newer_cap_little_effort_and_no_temperature() -> None:
    assert parameters_for("o4-mini", True, 1_048, 0) == ChatParameters(None, 1_048, None, "low")
    assert parameters_for("gpt-5-mini", True, 1_048, 0) == ChatParameters(None, 1_048, None, "minimal")
    assert parameters_for("gpt-5.1-codex", True, 1_048, 0) == ChatParameters(None, 1_048, None, "low")


@pytest.mark.parametrize("model", ["gpt-6-luna", "openai/gpt-5.4-nano", "gpt-5.1-2025-11-13"])
def test_a_model_with_optional_thinking_is_asked_not_to_think(model: str) -> None:
    assert parameters_for(model, thinks(model), 24, 0) == ChatParameters(None, 24, 0, "none")


def test_a_model_with_optional_thinking_can_be_asked_to_think() -> None:
    assert parameters_for("gpt-6-luna", True, 1_048, 0) == ChatParameters(None, 1_048, None, "low")


def test_a_refused_effort_becomes_low_and_is_then_left_out() -> None:
    refusal = refused("Unsupported value: 'none'", code="unsupported_value", param="reasoning_effort")
    once = refused_parameters(parameters_for("gpt-6-x", False, 24, 0), NONE, refusal)
    assert once is not None
    assert parameters_for("gpt-6-x", False, 24, 0, once).reasoning_effort == "low"
    twice = refused_parameters(parameters_for("gpt-6-x", False, 24, 0, once), once, refusal)
    assert twice is not None
    assert parameters_for("gpt-6-x", False, 24, 0, twice).reasoning_effort is None


@pytest.mark.parametrize(
    "model", ["gpt-5-pro", "o3-pro-2025-06-10", "gpt-5.1-chat-latest", "o1-mini", "o1-preview"]
)
def test_models_with_a_fixed_effort_get_none(model: str) -> None:
    assert thinks(model)
    assert parameters_for(model, True, 24, 0).reasoning_effort is None


def test_a_model_that_thinks_only_by_its_row_gets_no_effort() -> None:
    assert parameters_for("qwen3-thinking", True, 1_048, 0) == ChatParameters(None, 1_048, None, None)


def test_refused_parameters_are_left_out_and_the_cap_is_sent_under_its_other_name() -> None:
    assert parameters_for("x", False, 24, 0, {"max_tokens"}) == ChatParameters(None, 24, 0, None)
    both = frozenset({"max_tokens", "temperature"})
    assert parameters_for("x", False, 24, 0, both) == ChatParameters(None, 24, None, None)
    other_cap = {"max_completion_tokens"}
    assert parameters_for("o3", True, 24, 0, other_cap) == ChatParameters(24, None, None, "low")
    assert parameters_for("o3", True, 24, 0, {"reasoning_effort"}) == ChatParameters(None, 24, None, None)


def refused(message: str, *, code: str | None = None, param: str | None = None, status: int = 400) -> Refused:
    return Refused(f"asking the model 'x' on acme: refused: {message}", code=code, status=status, param=param)


@pytest.mark.parametrize(
    ("refusal", "learnt"),
    [
        (refused("Unsupported parameter", code="unsupported_parameter", param="max_tokens"), {"max_tokens"}),
        (refused("Only 1", code="unsupported_value", param="temperature"), {"temperature"}),
        (refused("Unknown parameter: max_tokens.", code="unknown_parameter"), {"max_tokens"}),
        (refused("Unsupported: 'max_tokens'. Use 'max_completion_tokens'."), {"max_tokens"}),
        (refused("temperature is not supported by this model"), {"temperature"}),
        (refused("max_tokens: Extra inputs are not permitted", status=422), {"max_tokens"}),
        (refused("'max_tokens' is too large: 300", param="max_tokens"), None),
        (refused("max_tokens is too large. This model supports at most 16.", param="max_tokens"), None),
        (refused("The context is 8,192 tokens; reduce the messages or max_tokens"), None),
        (refused("Unsupported parameter: 'logprobs'", code="unsupported_parameter", param="logprobs"), None),
        (refused("Unsupported", code="unsupported_parameter", param="max_completion_tokens"), None),
        (refused("temperature not supported", status=403), None),
        (refused("The prompt is unsafe"), None),
    ],
)
def test_only_the_parameter_named_in_a_refusal_is_learnt(refusal: Refused, learnt: set[str] | None) -> None:
    assert refused_parameters(parameters_for("x", False, 24, 0), NONE, refusal) == learnt


def test_the_last_name_of_the_cap_is_never_left_out() -> None:
    once = frozenset({"max_tokens"})
    refusal = refused("Unknown parameter", code="unknown_parameter", param="max_completion_tokens")
    assert refused_parameters(parameters_for("x", False, 24, 0, once), once, refusal) is None
