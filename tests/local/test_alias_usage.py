"""Counts of calls by alias, model and day: they survive a restart and a torn file, and end with the alias."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


def count_calls(tmp_path: Path, engine: Echo, request: Callable[[list[object]], PendingRequest]) -> object:
    usage, outcomes = AliasCounts(tmp_path), list[object]()
    CountingEngine(engine, usage, "team/tickets", "ft:1").submit(request(outcomes))
    assert outcomes == list(engine.outcomes)
    return totals(usage)


def test_two_answers_to_a_prompt_count_as_one_call_with_one_prompt(tmp_path: Path) -> None:
    engine = Echo(Piece(1, "b"), AnswerEnd(1, "stop", 9, 3), Piece(0, "a"), AnswerEnd(0, "stop", 9, 2))
    ask = lambda outcomes: Request(Target("b", None), (), GREEDY, True, outcomes.append)  # noqa: E731
    assert count_calls(tmp_path, engine, ask) == [("ft:1", 1, 9, 5)]


def test_embeddings_count_as_one_call(tmp_path: Path) -> None:
    ask = lambda outcomes: EmbeddingRequest(Target("b", None), ("a", "b"), outcomes.append)  # noqa: E731
    assert count_calls(tmp_path, Echo(Embeddings(((1.0,), (1.0,)), 8)), ask) == [("ft:1", 1, 8, 0)]


def test_an_answer_that_was_cut_off_is_not_counted(tmp_path: Path) -> None:
    ask = lambda outcomes: Request(Target("b", None), (), GREEDY, True, outcomes.append)  # noqa: E731
    assert count_calls(tmp_path, Echo(Piece(0, "a")), ask) == []
