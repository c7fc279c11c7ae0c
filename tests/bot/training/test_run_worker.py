"""A run's result beside the best alternative: one rule says on every card which one that is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bot.rules.training.results import best_alternative
from bot.services.training.run_worker import JudgedRun, RunReplies, judge_run
from tests.cards import measurements
from tests.trainers.evaluation.builders import (
    WORDS,
    answer_first,
    make_orders,
    make_price,
    make_replies,
    make_rows,
)
from trainers.dataset import Example
from trainers.evaluation.results import Candidate

ROWS = make_rows(100)
TUNED = "acme/tickets-1"


@pytest.fixture
def holdout(tmp_path: Path) -> Path:
    return write_holdout(tmp_path, ROWS)


def write_holdout(folder: Path, rows: Sequence[Example]) -> Path:
    lines = [
        json.dumps({"messages": [vars(message) for message in row.messages]}, default=list) for row in rows
    ]
    content = "\n".join(lines).encode()
    path = folder / f"{hashlib.sha256(content).hexdigest()}.jsonl"
    path.write_bytes(content)
    return path


def judge(holdout: Path, *, base_right: int) -> JudgedRun:
    """The tuned model gets 95 rows right, the base model the first `base_right`, and those that it calls "card" because
    it calls all the rest so. Before it, the classical model got 65 right, and a prompt that was measured in a later
    look got 67 others right."""
    classical = measurements.candidate("classical", None, 65, n=100)
    prompt = measurements.candidate("zero", "acme/small", 67, n=100, look=2)
    run_replies = RunReplies(
        run_id=1,
        candidate=Candidate("tuned", TUNED),
        base=answer_first(ROWS, base_right, "card"),
        tuned=answer_first(ROWS, 95, "card"),
        labels=tuple(WORDS),
        bar=0.85,
        is_bar_set=False,
        price=make_price(TUNED, "1", "1"),
        dataset="tickets",
        version=1,
        holdout=holdout,
        alternatives=(classical, replace(prompt, scores=prompt.scores[::-1])),
    )
    return judge_run(run_replies, (), title=TUNED, folder=holdout.parent / "charts", now=0.0)


def test_the_best_alternative_is_not_a_later_one_whose_lead_may_be_luck(holdout: Path) -> None:
    judged = judge(holdout, base_right=20)
    best = best_alternative(judged.beside)
    assert best is not None and best.kind == "classical"


@pytest.mark.deep
@pytest.mark.parametrize(("base_right", "is_ahead"), [(20, False), (55, False), (90, True)])
def test_the_base_model_is_measured_last_and_has_to_be_clearly_ahead(
    holdout: Path, base_right: int, is_ahead: bool
) -> None:
    assert judge(holdout, base_right=base_right).is_base_ahead is is_ahead


@pytest.mark.parametrize(("fields_right", "is_ahead"), [(0, False), (3, True)])
def test_with_json_answers_the_base_model_is_compared_by_fields(
    tmp_path: Path, fields_right: int, is_ahead: bool
) -> None:
    """Neither it nor the best alternative, with half of the fields, has a row that is wholly right."""
    rows = make_orders(60)
    best = replace(
        measurements.candidate("classical", None, 0, n=60, scoring="json"), score=0.5, scores=(0.5,) * 60
    )
    run_replies = RunReplies(
        run_id=1,
        candidate=Candidate("tuned", TUNED),
        base=make_replies([keep_fields(row.answer, fields_right) for row in rows]),
        tuned=answer_first(rows, 55, "{}"),
        labels=(),
        bar=0.85,
        is_bar_set=False,
        price=make_price(TUNED, "1", "1"),
        dataset="orders",
        version=1,
        holdout=write_holdout(tmp_path, rows),
        alternatives=(best,),
    )
    judged = judge_run(run_replies, (), title=TUNED, folder=tmp_path / "charts", now=0.0)
    assert (judged.base.correct, judged.is_base_ahead) == (0, is_ahead)


def keep_fields(answer: str, count: int) -> str:
    """The answer with all but `count` of its fields empty, and always without the order's number."""
    fields = json.loads(answer)
    names = [name for name in fields if name != "order"][:count]
    return json.dumps({name: fields[name] if name in names else None for name in fields})
