"""Time on the machine that nobody watched: the trainer's own span, without queue and pauses, never 0."""

from __future__ import annotations

from bot.rules.budgets import seconds_since_creation, seconds_since_poll
from bot.values.runs import Progress
from trainers.types import Event, Job

HOUR = 3600.0


def job(status: str = "succeeded", finished: float | None = 4 * HOUR) -> Job:
    return Job("j", status, "m", created_at=0, finished_at=None if finished is None else int(finished))


def said(*events: tuple[float, str]) -> tuple[Event, ...]:
    """When and which state, in the order in which they happened; a trainer answers the newest first."""
    return tuple(
        Event("", int(at), "info", "Some words.", {"state": state} if state else {}) for at, state in events
    )[::-1]


BEGUN = ((0, ""), (1, "queued"), (HOUR, ""))


def test_what_began_and_ended_unseen_had_its_time_without_the_queue() -> None:
    assert seconds_since_creation(job(), said(*BEGUN), are_all=True) == 3 * HOUR


def test_a_pause_within_is_no_time_on_the_machine() -> None:
    events = said(*BEGUN, (2 * HOUR, "paused"), (3 * HOUR, "resumed"))
    assert seconds_since_creation(job(), events, are_all=True) == 2 * HOUR


def test_an_end_whose_beginning_nobody_tells_counts_from_its_creation() -> None:
    assert seconds_since_creation(job(), said((3 * HOUR, "")), are_all=False) == 4 * HOUR
    assert seconds_since_creation(job(), (), are_all=True) == 4 * HOUR
    assert seconds_since_creation(job("cancelled"), said((3 * HOUR, "")), are_all=True) == 4 * HOUR, (
        "more, not less"
    )


def test_one_that_goes_on_counts_what_is_known_alone() -> None:
    events = said((3 * HOUR, ""), (3.5 * HOUR, ""))
    assert seconds_since_creation(job("running", None), events, are_all=False) == HOUR / 2


def test_what_was_cancelled_in_the_queue_had_none() -> None:
    assert seconds_since_creation(job("cancelled"), said(*BEGUN[:2]), are_all=True) == 0


def test_a_pause_that_ended_unseen_is_over_when_it_was_resumed() -> None:
    resumed = said((3 * HOUR, "resumed"))
    assert seconds_since_poll(job(), resumed, HOUR, 9 * HOUR, was_paused=True) == HOUR
    assert seconds_since_poll(job(), (), HOUR, 9 * HOUR, was_paused=True) == 3 * HOUR, "more rather than less"
    assert seconds_since_poll(job("paused", None), (), HOUR, 9 * HOUR, was_paused=True) == 0


def test_unwatched_time_comes_on_top_of_what_was_seen() -> None:
    seen = Progress(running_since=0.0, ran_until=HOUR, is_paused=True)
    assert seen.with_job(job(), (), None, 9 * HOUR, busy=HOUR).train_seconds == 2 * HOUR


def test_an_end_by_another_clock_takes_no_time_away_and_adds_none() -> None:
    seen = Progress(running_since=HOUR, ran_until=2 * HOUR)
    for said in (0.5 * HOUR, HOUR, 9 * HOUR, 9_000 * HOUR):
        ended = seen.with_job(job(finished=said), (), None, 2 * HOUR + 10)
        assert HOUR <= ended.train_seconds <= HOUR + 10
    assert seconds_since_poll(job(finished=9_000 * HOUR), (), HOUR, 2 * HOUR, was_paused=False) == HOUR


def test_billed_seconds_stay_when_a_later_answer_lacks_them() -> None:
    seen = Progress(running_since=0.0, ran_until=HOUR, billed_seconds=90)
    assert seen.with_job(job(), (), None, 2 * HOUR).train_seconds == 90
