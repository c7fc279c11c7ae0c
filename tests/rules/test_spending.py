"""What a measurement may cost and has cost: exact to the micro-dollar, known answers free, own machines too."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from bot.rules.budgets import max_evaluation_micros, paid_questions, spent_micros
from trainers.evaluation.results import Candidate
from trainers.pricing import PriceRow
from trainers.types import Price

SMALL, OWN, CLASSICAL = (
    Candidate("zero", "acme/small"),
    Candidate("zero", "local/tiny"),
    Candidate("classical"),
)


@dataclass(frozen=True)
class Asked:
    keys: tuple[str, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Answered:
    prompt_tokens: int
    completion_tokens: int


def price(sent: str, said: str) -> PriceRow:
    amounts = Price(None, Decimal(sent), None, Decimal(said))
    return PriceRow("acme/small", "prompted", amounts, "a test")


PRICES = {"acme/small": price("0.80", "3.20"), "local/tiny": price("0", "0")}


def test_each_unanswered_question_counts_with_the_longest_answer() -> None:
    arms = {SMALL: Asked(("a", "b", "c"), (100, 200, 300))}
    # (100 + 200 + 300) x $0.80 + 3 x 24 x $3.20, per million
    assert max_evaluation_micros(PRICES, arms, (), 24, ()) == 711  # 710.4, rounded up
    assert max_evaluation_micros(PRICES, arms, {"c"}, 24, ()) == 394
    assert max_evaluation_micros(PRICES, arms, {"a", "b", "c"}, 24, ()) == 0


def test_a_question_that_two_arms_share_is_paid_once() -> None:
    arms = {SMALL: Asked(("a",), (100,)), Candidate("kshot", "acme/small"): Asked(("a",), (100,))}
    assert max_evaluation_micros(PRICES, arms, (), 0, ()) == 80
    keys = {candidate: questions.keys for candidate, questions in arms.items()}
    assert paid_questions(PRICES, keys) == {"acme/small": {"a"}}


def test_own_machines_and_the_classical_rung_charge_nothing() -> None:
    arms = {OWN: Asked(("a",), (10_000,)), CLASSICAL: Asked(("b",), (0,))}
    assert max_evaluation_micros(PRICES, arms, (), 256, ()) == 0
    keys = {candidate: questions.keys for candidate, questions in arms.items()}
    assert paid_questions(PRICES, keys) == {"local/tiny": {"a"}}
    assert spent_micros(PRICES, {"local/tiny": Answered(10_000, 256)}) == 0


def test_answers_cost_what_their_tokens_do_rounded_up_once() -> None:
    answers = {"acme/small": Answered(100, 2), "local/tiny": Answered(5, 5)}
    assert spent_micros(PRICES, answers) == 87  # $0.80 x 100 + $3.20 x 2 = 86.4
    assert spent_micros(PRICES, {"acme/small": Answered(200, 4)}) == 173
    assert spent_micros(PRICES, {}) == 0
