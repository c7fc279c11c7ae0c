"""Seconds that a job had on its machine while nobody watched it, by the states that the trainer's events tell. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from trainers.types import Event, Job


def since_creation(job: Job, events: Sequence[Event], *, are_all: bool) -> float:
    """`events` newest first, `are_all` from the first one on. Of a job that has ended and doesn't say when it began
    all its time counts: more rather than less. One that was stopped before it began had none."""
    end, start = _end(job, events), _start(events) if are_all else None
    has_queued = any(event.tells("queued") for event in events)
    if start is None and are_all and has_queued and job.status != "succeeded":
        return 0.0
    if start is None:
        start = job.created_at if job.is_final else min([end, *(event.created_at for event in events)])
    return max(0.0, end - start - _paused(events, start, end, was_paused=False))


def since_look(job: Job, events: Sequence[Event], looked: float, now: float, *, was_paused: bool) -> float:
    """Since we `looked` last, at a job that was running or paused then."""
    is_resumed = any(event.tells("resumed") for event in events)
    if job.status == "paused" and was_paused and not is_resumed:
        return 0.0
    end = float(job.finished_at or now)
    return max(0.0, end - looked - _paused(events, looked, end, was_paused=was_paused and is_resumed))


def _end(job: Job, events: Sequence[Event]) -> float:
    """By the trainer's clock, which may differ from ours."""
    return float(job.finished_at or max([job.created_at, *(event.created_at for event in events)]))


def _start(events: Sequence[Event]) -> float | None:
    """When it left the queue: the first event after those about waiting in it. None: it has not, or nobody says."""
    oldest_first = list(reversed(events))
    waited = [place for place, event in enumerate(oldest_first) if event.tells("queued")]
    begun = oldest_first[waited[-1] + 1 :] if waited else []
    return float(begun[0].created_at) if begun else None


def _paused(events: Sequence[Event], start: float, end: float, *, was_paused: bool) -> float:
    seconds, since = 0.0, start if was_paused else None
    for event in reversed(events):
        at = min(max(float(event.created_at), start), end)
        if event.tells("resumed") and since is not None:
            seconds, since = seconds + at - since, None
        elif event.tells("paused") and since is None and event.created_at >= start:
            since = at
    return seconds if since is None else seconds + end - since
