"""A judge's relatives, its missing verdicts, and its agreement with people."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Literal

import pytest

from bot.rules.judge_agreement import (
    MOST_CHECKED,
    UNCHECKED,
    CheckedJudge,
    JudgeChecks,
    find_relatives,
    is_unreadable,
    model_family,
    summarize_labels,
    summarize_verdicts,
)
from bot.values.runs import RunResult
from storage.records import HumanVerdict, Preference
from tests.cards.builders import result

Choice = Literal["first", "second", "tie"]
Verdict = Literal["yes", "no", "unsure"]


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


def verdicts(judged: str, by_people: str, person: str = "U1") -> list[HumanVerdict]:
    """What the judge and a person said about answers 0, 1, …: 'y', 'n', '?'."""
    names: dict[str, Verdict] = {"y": "yes", "n": "no", "?": "unsure"}
    return [
        HumanVerdict(
            dataset="faq",
            judge="acme/sage-1",
            measurement_id=1,
            answer=f"answer {place}",
            judged="yes" if by_judge == "y" else "no",
            person=person,
            verdict=names[by_person],
            at=0.0,
        )
        for place, (by_judge, by_person) in enumerate(zip(judged, by_people, strict=True))
    ]


def test_choices_count_for_the_candidate_whatever_the_order_on_the_card() -> None:
    agreement = summarize_labels([*labels("U1", "112"), *labels("U2", "112", first="b")], "a")
    assert (agreement.labels, agreement.people) == (6, 2)
    assert (agreement.first, agreement.second, agreement.same) == (3, 3, 0)


def test_people_are_compared_on_rows_that_both_judged() -> None:
    both = [*labels("U1", "1122112211"), *labels("U2", "1122112211=="), *labels("U3", "1")]
    agreement = summarize_labels(both, "a")
    assert agreement.between and agreement.between.n == 12 and agreement.between.agreed == 12
    assert summarize_labels(labels("U1", "1122112211"), "a").between is None


def test_ten_of_ten_agreements_are_an_interval_and_too_few_to_trust() -> None:
    checks = summarize_verdicts(verdicts("yyyyynnnnn", "yyyyynnnnn"))
    assert (checks.answers, checks.agreed, checks.trust) == (10, 10, "open")
    assert checks.interval and (round(checks.interval.low, 2), checks.interval.high) == (0.72, 1.0)


def test_ten_answers_that_all_were_accepted_are_an_interval_too() -> None:
    """Cohen's κ of these is undefined."""
    checks = summarize_verdicts(verdicts("y" * 10, "y" * 10))
    assert checks.interval and round(checks.interval.low, 2) == 0.72
    assert checks.is_lopsided and checks.trust == "open"


@pytest.mark.parametrize(
    ("accepted", "rejected", "trust"),
    [
        ((0, 0), (0, 0), "unchecked"),
        ((10, 10), (9, 9), "open"),  # 19 answers
        ((10, 10), (10, 8), "open"),
        ((10, 10), (10, 9), "trusted"),
        ((15, 14), (15, 13), "trusted"),
        ((10, 4), (10, 5), "distrusted"),
        ((10, 9), (10, 3), "open"),  # 60% on average
        # It rejects nearly nothing, so what it rejects can't be checked.
        ((56, 56), (4, 4), "open"),
        # It accepts what people reject: alone, 80% agreement would look good.
        ((40, 40), (10, 0), "distrusted"),
    ],
)
def test_a_judge_is_trusted_by_the_interval_of_its_agreement(
    accepted: tuple[int, int], rejected: tuple[int, int], trust: str
) -> None:
    assert JudgeChecks(*accepted, *rejected, people=1).trust == trust


def test_an_answer_counts_once_as_most_people_judged_it() -> None:
    judged = "yynn"
    of_three = [*verdicts(judged, "yny?"), *verdicts(judged, "yyn?", "U2"), *verdicts(judged, "nny?", "U3")]
    checks = summarize_verdicts(of_three)
    assert (checks.accepted, checks.accepted_right) == (2, 1)
    assert (checks.rejected, checks.rejected_right, checks.people) == (1, 0, 3)
    split = summarize_verdicts([*verdicts("y", "y"), *verdicts("y", "n", "U2")])
    assert (split.answers, split.trust) == (0, "unchecked")


def test_people_are_compared_on_answers_that_both_judged() -> None:
    judged = "yyyyynnnnn"
    checks = summarize_verdicts([*verdicts(judged, "yyyyynnnnn"), *verdicts(judged, "yyyynnnnnn", "U2")])
    assert checks.between and (checks.between.n, checks.between.agreed) == (10, 9)


@pytest.mark.parametrize(
    ("kappa", "at_least", "at_most"), [(0.2, 0.0, 0.01), (0.4, 0.0, 0.1), (0.8, 0.97, 1.0)]
)
def test_bad_judges_are_seldom_trusted_and_good_ones_mostly(
    kappa: float, at_least: float, at_most: float
) -> None:
    """By simulation, with a look after each answer: people stop at the first that settles it."""
    chance = random.Random(1)
    settle = cache(lambda *counts: JudgeChecks(*counts).trust)
    draws = 2_000
    trusted = 0
    for _ in range(draws):
        counts = [0, 0, 0, 0]
        for place in range(MOST_CHECKED):
            side = 2 * (place % 2)
            counts[side] += 1
            counts[side + 1] += chance.random() < (1 + kappa) / 2
            trust = settle(*counts)
            if trust in ("trusted", "distrusted"):
                trusted += trust == "trusted"
                break
    assert at_least <= trusted / draws <= at_most


def test_values_of_earlier_versions_are_read() -> None:
    """A run's result kept how people had compared answers, and no checks."""
    stored = json.loads(result().to_json())
    del stored["judge_checks"]
    stored["agreement"] = {
        "labels": 14,
        "people": 1,
        "first": 4,
        "second": 8,
        "same": 2,
        "beside_judge": {"n": 14, "agreed": 5, "kappa": -0.07, "low": -0.41, "high": 0.27},
        "between": None,
    }
    read = RunResult.from_json(json.dumps(stored))
    assert read.judge_checks is None and read.agreement and read.agreement.labels == 14


OPEN = JudgeChecks(accepted=10, accepted_right=8, rejected=10, rejected_right=8)


@pytest.mark.parametrize(
    ("checks", "can_be_checked", "step"),
    [
        (JudgeChecks(), True, "check"),
        (JudgeChecks(), False, None),
        (OPEN, True, "check"),
        (OPEN, False, None),
        (JudgeChecks(20, 20, 20, 20), True, None),
        (JudgeChecks(20, 9, 20, 9), True, "replace"),
        (JudgeChecks(20, 9, 20, 9), False, "replace"),
        (JudgeChecks(MOST_CHECKED // 2, 22, MOST_CHECKED // 2, 22), True, "replace"),  # too close to tell
        (JudgeChecks(MOST_CHECKED - 2, MOST_CHECKED - 2, 2, 2), False, None),  # it hardly rejects anything
    ],
)
def test_a_judge_is_checked_or_replaced_before_anything_rests_on_it(
    checks: JudgeChecks, can_be_checked: bool, step: str | None
) -> None:
    judge = CheckedJudge("sage", checks, measurement=3 if can_be_checked else None)
    assert judge.next_step == step


@pytest.mark.parametrize(
    ("checks", "lack"),
    [
        (UNCHECKED, "answers"),
        (JudgeChecks(9, 9, 10, 10), "answers"),
        (JudgeChecks(MOST_CHECKED - 2, MOST_CHECKED - 2, 2, 2), "answers of a side"),
        (JudgeChecks(15, 11, 15, 11), "a few more"),
        (JudgeChecks(MOST_CHECKED // 2, 22, MOST_CHECKED // 2, 22), "another judge"),
        (JudgeChecks(30, 30, 30, 30), None),
    ],
)
def test_what_it_takes_to_trust_a_judge(checks: JudgeChecks, lack: str | None) -> None:
    assert checks.lack == lack
