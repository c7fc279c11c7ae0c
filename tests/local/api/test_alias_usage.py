"""Counts of calls by alias, model and day: they survive a restart and a torn file, and end with the alias."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from trainers.local.alias_usage import AliasCounts, CountingEngine
from trainers.local.serving.values import (
    AnswerEnd,
    EmbeddingRequest,
    Embeddings,
    PendingRequest,
    Piece,
    Request,
    Sampling,
    Target,
    Ticket,
)

GREEDY = Sampling(0.0, 1.0, None, (), None)


def totals(usage: AliasCounts, alias: str = "team/tickets") -> list[tuple[str, int, int, int]]:
    return [
        (day.model, day.calls, day.prompt_tokens, day.completion_tokens)
        for day in usage.usage_since(alias, "")
    ]


def test_calls_from_many_threads_are_counted_and_survive_a_restart(tmp_path: Path) -> None:
    usage = AliasCounts(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(40):
            pool.submit(usage.count, "team/tickets", "ft:1", 1, 10, 2)
    restarted = AliasCounts(tmp_path)
    restarted.count("team/tickets", "ft:2", 1, 7, 1)
    assert totals(AliasCounts(tmp_path)) == [("ft:1", 40, 400, 80), ("ft:2", 1, 7, 1)]


def test_a_file_torn_by_a_power_cut_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "2026-01-01.json").write_text('{"team/tickets": {"ft:1"')
    usage = AliasCounts(tmp_path)
    usage.count("team/tickets", "ft:1", 1, 10, 2)
    assert totals(usage) == [("ft:1", 1, 10, 2)]


def test_older_days_are_left_out_and_a_deleted_alias_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "2026-01-31.json").write_text(
        '{"team/tickets": {"ft:1": [5, 50, 5]}, "team/faq": {"ft:3": [1, 1, 1]}}'
    )
    usage = AliasCounts(tmp_path)
    assert [day.day for day in usage.usage_since("team/tickets", "2026-01-31")] == ["2026-01-31"]
    assert usage.usage_since("team/tickets", "2026-02-01") == []
    usage.forget("team/tickets")
    assert totals(usage) == [] and totals(usage, "team/faq") == [("ft:3", 1, 1, 1)]


class Echo:
    """An engine that answers immediately with these outcomes."""

    def __init__(self, *outcomes: Piece | AnswerEnd | Embeddings) -> None:
        self.outcomes = outcomes

    def submit(self, request: PendingRequest) -> Ticket:
        for outcome in self.outcomes:
            request.emit(outcome)
        return request.ticket

    def stop(self) -> None:
        raise AssertionError("not stopped in these tests")


def chat(emit: Callable[[object], None]) -> PendingRequest:
    return Request(Target("b", None), (), GREEDY, True, emit)


def embed(emit: Callable[[object], None]) -> PendingRequest:
    return EmbeddingRequest(Target("b", None), ("a", "b"), emit)


TWO_ANSWERS = Echo(Piece(1, "b"), AnswerEnd(1, "stop", 9, 3), Piece(0, "a"), AnswerEnd(0, "stop", 9, 2))


@pytest.mark.parametrize(
    ("engine", "request_with", "expected"),
    [
        pytest.param(TWO_ANSWERS, chat, [("ft:1", 1, 9, 5)], id="two answers: one call, one prompt"),
        pytest.param(Echo(Embeddings(((1.0,), (1.0,)), 8)), embed, [("ft:1", 1, 8, 0)], id="embeddings"),
        pytest.param(Echo(Piece(0, "a")), chat, [], id="an answer that was cut off"),
    ],
)
def test_an_answered_request_is_counted_as_one_call(
    tmp_path: Path, engine: Echo, request_with: Callable[[Any], PendingRequest], expected: object
) -> None:
    usage, outcomes = AliasCounts(tmp_path), list[object]()
    CountingEngine(engine, usage, "team/tickets", "ft:1").submit(request_with(outcomes.append))
    assert outcomes == list(engine.outcomes)
    assert totals(usage) == expected
