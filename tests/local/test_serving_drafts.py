"""Guessed answers: what is remembered, what is guessed, and that no guess, right or wrong, changes an
answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.local.test_serving_batches import SYSTEM, TICKETS, Caller, reference
from trainers.local.serving import sequences
from trainers.local.serving.answers import Preparation
from trainers.local.serving.decoding import decode
from trainers.local.serving.model_cache import Base
from trainers.local.serving.sequences import Drafts, Row, count_agreeing
from trainers.local.serving.values import ChatMessage, Request, Sampling, Target

LIMIT = 12


def test_what_followed_nearly_always_is_guessed_to_the_end() -> None:
    known = Drafts()
    for answer in (*[(5, 6, 7)] * 12, (5, 8), (9,)):
        known.remember(answer)
    assert known.guess((5,)) == (6, 7)
    assert known.guess((5, 6)) == (7,)
    assert known.guess((5, 6, 7)) == known.guess((9,)) == known.guess((4,)) == ()


def test_what_came_once_or_often_otherwise_is_no_guess_and_a_long_answer_is_not_remembered() -> None:
    known = Drafts()
    long = tuple(range(100, 101 + sequences.LONGEST))
    for answer in (*[(5, 6)] * 7, *[(5, 7)] * 3, (8, 9), *[long] * 9):
        known.remember(answer)
    assert known.guess((5,)) == known.guess((8,)) == known.guess((100,)) == ()


def test_a_guess_ends_where_all_of_it_together_is_too_unsure() -> None:
    known = Drafts()
    for answer in (*[(1, 2, 3, 4)] * 8, (1, 2, 5), (1, 6)):
        known.remember(answer)
    assert known.guess((1,)) == (2,)
    assert known.guess((1, 2)) == (3,)
    assert known.guess((1, 2, 3)) == (4,)


def test_the_memory_is_bounded_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "MOST_BEGINNINGS", 4)
    known = Drafts()
    known.remember((1, 2, 3))
    for _ in range(4):
        known.remember((7, 8))
    assert (known.guess((1,)), known.guess((7,))) == ((), (8,))


@pytest.mark.parametrize(
    ("guess", "chosen", "right"), [((1, 2, 3), (1, 2, 9, 4), 2), ((), (1,), 0), ((1, 2), (1, 2, 5), 2)]
)
def test_a_guess_is_right_up_to_its_first_error(
    guess: Sequence[int], chosen: Sequence[int], right: int
) -> None:
    assert count_agreeing(guess, chosen) == right


@pytest.fixture
def base(babbling_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    monkeypatch.setenv("FINETUNE_DTYPE", "fp32")
    return Base(str(babbling_model_dir), "none", torch.device("cpu"))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Tokens a row in each of the model's passes."""
    forward, seen = LlamaForCausalLM.forward, list[int]()

    def counted(self: LlamaForCausalLM, input_ids: torch.Tensor, **more: Any) -> Any:
        seen.append(input_ids.shape[1])
        return forward(self, input_ids=input_ids, **more)

    monkeypatch.setattr(LlamaForCausalLM, "forward", counted)
    return seen


def rows_of_line(
    base: Base, tickets: Sequence[str], stop: tuple[str, ...] = (), limit: int = LIMIT
) -> tuple[list[Row], list[Caller]]:
    callers = [Caller() for _ in tickets]
    rows = []
    for ticket, caller in zip(tickets, callers, strict=True):
        messages = (ChatMessage("system", SYSTEM), ChatMessage("user", ticket))
        sampling = Sampling(0, 1, limit, stop, None)
        asked = Request(Target(base._source, None), messages, sampling, False, caller.heard.put)
        prepared = Preparation(base.vocabulary.encode(asked), limit, None, None)
        rows.append(Row(asked, 0, prepared, base.vocabulary))
    return rows, callers


def said(base: Base, tickets: Sequence[str], stop: tuple[str, ...] = (), limit: int = LIMIT) -> list[str]:
    rows, callers = rows_of_line(base, tickets, stop, limit)
    decode(base, rows, lambda _: ())
    return [caller.answer() for caller in callers]


def test_answers_that_come_again_take_fewer_passes_and_are_the_same(
    base: Base, babbling_model_dir: Path, passes: list[int]
) -> None:
    alone = reference(babbling_model_dir, None)
    expected = [alone.answer(ticket, LIMIT) for ticket in TICKETS]
    passes.clear()
    assert said(base, TICKETS) == expected
    first = len(passes)
    for _ in range(5):
        said(base, TICKETS)
    passes.clear()
    assert said(base, TICKETS) == expected
    assert len(passes) < first
    assert max(passes[1:]) > 1


@pytest.mark.parametrize("right", [0, 1, 3])
def test_a_wrong_guess_costs_time_alone(
    base: Base, babbling_model_dir: Path, right: int, passes: list[int]
) -> None:
    """Rows beside each other, some guessed `right` tokens far and some not at all, so that the cache has gaps."""
    alone = reference(babbling_model_dir, None)
    rows, _ = rows_of_line(base, TICKETS)
    decode(base, rows, lambda _: ())
    wrong = sequences.Drafts()
    for row in rows[::2]:
        begun = row.tokens[: 1 + right]
        for _ in range(12):
            wrong.remember([*begun, *(token + 1 for token in row.tokens[1 + right :])])
    base._drafts[None] = wrong
    passes.clear()
    assert said(base, TICKETS) == [alone.answer(ticket, LIMIT) for ticket in TICKETS]
    assert max(passes[1:]) > 1


def test_a_guess_goes_no_further_than_a_limit_or_a_stop_text(base: Base, babbling_model_dir: Path) -> None:
    (whole,) = said(base, TICKETS[:1])
    stop = whole[len(whole) // 2 :][:2]
    assert said(base, TICKETS[:1], (stop,)) == [whole[: whole.index(stop)]]
    assert said(base, TICKETS[:1], limit=5) == [reference(babbling_model_dir, None).answer(TICKETS[0], 5)]
