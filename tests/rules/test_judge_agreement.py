"""A judge's relatives, its missing verdicts, and its agreement with people."""

from __future__ import annotations

from typing import Literal

import pytest

from bot.rules.judge_agreement import find_relatives, is_unreadable, model_family, summarize_labels
from storage.records import Preference

Choice = Literal["first", "second", "tie"]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("openai/gpt-4o-mini", "gpt"),
        ("openai/o3-mini", "gpt"),
        ("openai/ft:gpt-4.1-mini-2025-04-14:acme::x", "gpt"),
        ("nebius/meta-llama/Meta-Llama-3.1-8B-Instruct", "llama"),
        ("mistral/ministral-8b", "mistral"),
        ("acme/7b", "7b"),
    ],
)
def test_a_model_s_family_is_the_start_of_its_name(model: str, name: str) -> None:
    assert model_family(model) == name


def test_a_judge_s_own_model_and_its_relatives_are_named() -> None:
    judge = "openai/gpt-4o"
    assert find_relatives(judge, [judge, "local/smollm2-135m"]) == (judge,)
    assert find_relatives(judge, ["azure/gpt-4o-mini"]) == ("azure/gpt-4o-mini",)
    assert (
        find_relatives(judge, ["local/smollm2-135m", "anthropic/claude-x"]) == find_relatives(judge, []) == ()
    )


@pytest.mark.parametrize(
    ("unread", "of", "is_doubted"), [(0, 0, False), (10, 100, False), (11, 100, True), (1, 1, True)]
)
def test_a_judge_is_unreadable_if_more_than_one_verdict_in_ten_is_missing(
    unread: int, of: int, is_doubted: bool
) -> None:
    assert is_unreadable(unread, of) == is_doubted


def labels(person: str, choices: str, first: str = "a") -> list[Preference]:
    names: dict[str, Choice] = {"1": "first", "2": "second", "=": "tie"}
    return [
        Preference(1, row, first, "c", person, names[choice], at=0.0) for row, choice in enumerate(choices)
    ]


def verdicts(choices: str) -> dict[int, Choice | None]:
    names: dict[str, Choice | None] = {"1": "first", "2": "second", "=": "tie", "?": None}
    return {row: names[choice] for row, choice in enumerate(choices)}


def test_choices_count_for_the_candidate_whatever_the_order_on_the_card() -> None:
    agreement = summarize_labels([*labels("U1", "112"), *labels("U2", "112", first="b")], "a", {})
    assert (agreement.labels, agreement.people) == (6, 2)
    assert (agreement.first, agreement.second, agreement.same) == (3, 3, 0)


def test_agreement_needs_ten_labels() -> None:
    nine = summarize_labels(labels("U1", "112112112"), "a", verdicts("112112112"))
    assert nine.beside_judge is None and nine.kappa is None and not nine.distrusts
    ten = summarize_labels(labels("U1", "1121121121"), "a", verdicts("1121121121"))
    assert ten.kappa == 1.0 and not ten.distrusts


def test_rows_without_a_verdict_don_t_count_for_agreement() -> None:
    agreement = summarize_labels(labels("U1", "1212121212=="), "a", verdicts("1212121212??"))
    assert agreement.labels == 12 and agreement.beside_judge and agreement.beside_judge.n == 10


def test_a_judge_with_a_kappa_below_0_4_is_distrusted() -> None:
    # agree on 9 of 10: by chance .5 x .4 + .5 x .6 = .5; kappa = (.9 - .5) / .5. On 6 of 10: (.6 - .5) / .5
    exact = summarize_labels(labels("U1", "1111122222"), "a", verdicts("1111222222"))
    assert exact.kappa == pytest.approx(0.8) and not exact.distrusts
    worse = summarize_labels(labels("U1", "1111122222"), "a", verdicts("1112222211"))
    assert worse.kappa == pytest.approx(0.2) and worse.distrusts


def test_people_are_compared_on_rows_that_both_judged() -> None:
    both = [*labels("U1", "1122112211"), *labels("U2", "1122112211=="), *labels("U3", "1")]
    agreement = summarize_labels(both, "a", {})
    assert agreement.between and agreement.between.n == 12 and agreement.between.agreed == 12
    assert summarize_labels(labels("U1", "1122112211"), "a", {}).between is None
