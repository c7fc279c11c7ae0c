"""Families of models, verdicts that are missing, and people beside a judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from bot.rules.judge_agreement import find_relatives, is_unreadable, model_family, summarize_labels

Choice = Literal["first", "second", "tie"]


@dataclass(frozen=True)
class Label:
    row: int
    first_arm: str
    person: str
    choice: Choice


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("openai/gpt-4o-mini", "gpt"),
        ("openai/chatgpt-4o-latest", "gpt"),
        ("openai/o3-mini", "gpt"),
        ("openai/ft:gpt-4.1-mini-2025-04-14:acme::x", "gpt"),
        ("nebius/meta-llama/Meta-Llama-3.1-8B-Instruct", "llama"),
        ("local/smollm2-135m", "smollm"),
        ("together/Qwen/Qwen3-8B", "qwen"),
        ("mistral/ministral-8b", "mistral"),
        ("acme/7b", "7b"),
    ],
)
def test_a_model_s_family_is_how_its_name_begins(model: str, name: str) -> None:
    assert model_family(model) == name


def test_a_judge_is_warned_of_its_own_and_its_relatives_answers() -> None:
    judge = "openai/gpt-4o"
    assert find_relatives(judge, [judge, "local/smollm2-135m"]) == (judge,)
    assert find_relatives(judge, ["azure/gpt-4o-mini"]) == ("azure/gpt-4o-mini",)
    assert (
        find_relatives(judge, ["local/smollm2-135m", "anthropic/claude-x"]) == find_relatives(judge, []) == ()
    )


@pytest.mark.parametrize(
    ("unread", "of", "is_doubted"), [(0, 0, False), (10, 100, False), (11, 100, True), (1, 1, True)]
)
def test_more_than_one_missing_verdict_in_ten_is_too_many(unread: int, of: int, is_doubted: bool) -> None:
    assert is_unreadable(unread, of) == is_doubted


def labels(person: str, choices: str, first: str = "a") -> list[Label]:
    names: dict[str, Choice] = {"1": "first", "2": "second", "=": "tie"}
    return [Label(row, first, person, names[one]) for row, one in enumerate(choices)]


def verdicts(choices: str) -> dict[int, Choice | None]:
    names: dict[str, Choice | None] = {"1": "first", "2": "second", "=": "tie", "?": None}
    return {row: names[one] for row, one in enumerate(choices)}


def test_choices_are_turned_to_the_same_arms_whatever_the_order_on_the_card() -> None:
    found = summarize_labels([*labels("U1", "112"), *labels("U2", "112", first="b")], "a", {})
    assert (found.labels, found.people) == (6, 2)
    assert (found.first, found.second, found.same) == (3, 3, 0)


def test_below_ten_labels_nothing_is_said_of_agreement() -> None:
    nine = summarize_labels(labels("U1", "112112112"), "a", verdicts("112112112"))
    assert nine.beside_judge is None and nine.kappa is None and not nine.distrusts
    ten = summarize_labels(labels("U1", "1121121121"), "a", verdicts("1121121121"))
    assert ten.kappa == 1.0 and not ten.distrusts


def test_rows_without_a_verdict_are_no_agreement() -> None:
    found = summarize_labels(labels("U1", "1212121212=="), "a", verdicts("1212121212??"))
    assert found.labels == 12 and found.beside_judge and found.beside_judge.n == 10


def test_a_judge_below_0_4_is_distrusted_by_a_figure_worked_out_by_hand() -> None:
    # agree on 9 of 10: by chance .5 x .4 + .5 x .6 = .5; kappa = (.9 - .5) / .5. On 6 of 10: (.6 - .5) / .5
    exact = summarize_labels(labels("U1", "1111122222"), "a", verdicts("1111222222"))
    assert exact.kappa == pytest.approx(0.8) and not exact.distrusts
    worse = summarize_labels(labels("U1", "1111122222"), "a", verdicts("1112222211"))
    assert worse.kappa == pytest.approx(0.2) and worse.distrusts


def test_two_people_are_compared_on_rows_that_both_judged() -> None:
    both = [*labels("U1", "1122112211"), *labels("U2", "1122112211=="), *labels("U3", "1")]
    found = summarize_labels(both, "a", {})
    assert found.between and found.between.n == 12 and found.between.agreed == 12
    assert summarize_labels(labels("U1", "1122112211"), "a", {}).between is None
