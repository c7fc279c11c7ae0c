"""Drafts: what is remembered and guessed, and that no guess, right or wrong, changes an answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.local.reference import SYSTEM, TICKETS, load_reference
from tests.local.serving.test_batches import Caller
from trainers.local.serving import sequences
from trainers.local.serving.answers import Preparation
from trainers.local.serving.decoding import decode
from trainers.local.serving.model_cache import Base
from trainers.local.serving.sequences import Drafts, Row, count_agreeing
from trainers.local.serving.values import ChatMessage, Request, Sampling, Target

LIMIT = 12


def test_a_nearly_certain_continuation_is_guessed_to_its_end() -> None:
    drafts = Drafts()
    for answer in (*[(5, 6, 7)] * 12, (5, 8), (9,)):
        drafts.remember(answer)
    assert drafts.guess((5,)) == (6, 7)
    assert drafts.guess((5, 6)) == (7,)
    assert drafts.guess((5, 6, 7)) == drafts.guess((9,)) == drafts.guess((4,)) == ()


def test_rare_or_uncertain_continuations_and_long_answers_are_not_guessed() -> None:
    drafts = Drafts()
    long = tuple(range(100, 101 + sequences.LONGEST))
    for answer in (*[(5, 6)] * 7, *[(5, 7)] * 3, (8, 9), *[long] * 9):
        drafts.remember(answer)
    assert drafts.guess((5,)) == drafts.guess((8,)) == drafts.guess((100,)) == ()


def test_a_guess_ends_where_it_gets_too_uncertain() -> None:
    drafts = Drafts()
    for answer in (*[(1, 2, 3, 4)] * 8, (1, 2, 5), (1, 6)):
        drafts.remember(answer)
    assert drafts.guess((1,)) == (2,)
    assert drafts.guess((1, 2)) == (3,)
    assert drafts.guess((1, 2, 3)) == (4,)


def test_full_drafts_are_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "MOST_BEGINNINGS", 4)
    drafts = Drafts()
    drafts.remember((1, 2, 3))
    for _ in range(4):
        drafts.remember((7, 8))
    assert (drafts.guess((1,)), drafts.guess((7,))) == ((), (8,))


@pytest.mark.parametrize(
    ("guess", "chosen", "agreeing"), [((1, 2, 3), (1, 2, 9, 4), 2), ((), (1,), 0), ((1, 2), (1, 2, 5), 2)]
)
def test_a_guess_agrees_up_to_its_first_error(
    guess: Sequence[int], chosen: Sequence[int], agreeing: int
) -> None:
    assert count_agreeing(guess, chosen) == agreeing


@pytest.fixture
def base(babbling_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    monkeypatch.setenv("FINETUNE_DTYPE", "fp32")
    return Base(str(babbling_model_dir), "none", torch.device("cpu"))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens per row of each of the model's passes."""
    forward, widths = LlamaForCausalLM.forward, list[int]()

    def counted(self: LlamaForCausalLM, input_ids: torch.Tensor, **more: Any) -> Any:
        widths.append(input_ids.shape[1])
        return forward(self, input_ids=input_ids, **more)

    monkeypatch.setattr(LlamaForCausalLM, "forward", counted)
    return widths


def make_rows(
    base: Base, tickets: Sequence[str], stop: tuple[str, ...] = (), limit: int = LIMIT
) -> tuple[list[Row], list[Caller]]:
    callers = [Caller() for _ in tickets]
    rows = []
    for ticket, caller in zip(tickets, callers, strict=True):
        messages = (ChatMessage("system", SYSTEM), ChatMessage("user", ticket))
        sampling = Sampling(0, 1, limit, stop, None)
        request = Request(Target(base._source, None), messages, sampling, False, caller.outcomes.put)
        prepared = Preparation(base.vocabulary.encode(request), limit, None, None)
        rows.append(Row(request, 0, prepared, base.vocabulary))
    return rows, callers


def answers_of(
    base: Base, tickets: Sequence[str], stop: tuple[str, ...] = (), limit: int = LIMIT
) -> list[str]:
    rows, callers = make_rows(base, tickets, stop, limit)
    decode(base, rows, lambda _: ())
    return [caller.answer() for caller in callers]


def test_repeated_answers_take_fewer_passes_and_stay_the_same(
    base: Base, babbling_model_dir: Path, passes: list[int]
) -> None:
    alone = load_reference(babbling_model_dir)
    expected = [alone.answer(ticket, LIMIT) for ticket in TICKETS]
    passes.clear()
    assert answers_of(base, TICKETS) == expected
    first = len(passes)
    for _ in range(5):
        answers_of(base, TICKETS)
    passes.clear()
    assert answers_of(base, TICKETS) == expected
    assert len(passes) < first
    assert max(passes[1:]) > 1


@pytest.mark.parametrize("right", [0, 3])
def test_a_wrong_guess_changes_no_answer(
    base: Base, babbling_model_dir: Path, right: int, passes: list[int]
) -> None:
    """Every second row of a batch is guessed, rightly for `right` tokens, so that the cache has gaps."""
    alone = load_reference(babbling_model_dir)
    rows, _ = make_rows(base, TICKETS)
    decode(base, rows, lambda _: ())
    wrong = sequences.Drafts()
    for row in rows[::2]:
        beginning = row.tokens[: 1 + right]
        for _ in range(12):
            wrong.remember([*beginning, *(token + 1 for token in row.tokens[1 + right :])])
    base._drafts[None] = wrong
    passes.clear()
    assert answers_of(base, TICKETS) == [alone.answer(ticket, LIMIT) for ticket in TICKETS]
    assert max(passes[1:]) > 1


def test_a_guess_ends_at_a_limit_and_before_a_stop_text(base: Base, babbling_model_dir: Path) -> None:
    (text,) = answers_of(base, TICKETS[:1])
    stop = text[len(text) // 2 :][:2]
    assert answers_of(base, TICKETS[:1], (stop,)) == [text[: text.index(stop)]]
    assert answers_of(base, TICKETS[:1], limit=5) == [
        load_reference(babbling_model_dir).answer(TICKETS[0], 5)
    ]
