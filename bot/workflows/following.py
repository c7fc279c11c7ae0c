"""Many jobs at one provider: a page of its list says of a hundred which of them need a look of their own.

A thousand open jobs are seen at least every 20 s and cost a dozen calls a tick. `training.follow` is the look of its
own: at a job that ended or moved, that costs too much, that the list doesn't show, or whose card is to be shown again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bot.results import Progress
from bot.workflows import jobs, training
from bot.workflows.desk import Desk
from storage.records import Run
from trainers.errors import Refused, TrainerError
from trainers.types import Job

ALONE = 3  # so few are asked for by themselves
MANY = 300
PAGES = 10  # of a hundred each
CLOCKS_DIFFER_S = 3600.0
RUNS_A_WRITE = 50  # so that the write lock is never held for long


def to_look_at(desk: Desk, runs: Sequence[Run]) -> Sequence[Run]:
    """Those that need a look of their own now, of these runs, which train at one provider; the others are put off."""
    trainer = desk.trainers.get(runs[0].provider) if runs else None
    if trainer is None or len(runs) <= ALONE:
        return runs
    oldest = min(run.state_since for run in runs) - CLOCKS_DIFFER_S
    try:
        listed = trainer.newest_jobs({str(run.job_id) for run in runs}, oldest, PAGES)
    except Refused:
        return runs[:ALONE]  # a look of its own says what is refused
    except TrainerError as trouble:  # the jobs themselves may answer: so each has its turn
        _wait(desk, runs[ALONE:], trouble)
        return runs[:ALONE]
    every, now = training.shown_every(desk), desk.clock()
    looks = [run for run in runs if _needs_a_look(run, listed.get(str(run.job_id)), every, now)]
    alone = {run.id for run in looks}
    _put_off(desk, [run for run in runs if run.id not in alone], now)
    at_once, a_second = (1, ALONE) if len(runs) <= MANY else (0, 1)  # the list of many took a tick's calls
    for number, later in enumerate(_parts(looks[at_once:], a_second), start=2):
        desk.store.runs.put_off([run.id for run in later], now + number)
    return looks[:at_once]


def _needs_a_look(run: Run, job: Job | None, shown_every: float, now: float) -> bool:
    known = Progress.from_json(run.progress)
    if job is None or job.is_final or job.status != known.status or now - known.shown_at >= shown_every:
        return True
    seen = known.with_job(job, (), None, now)
    return training.overrun(replace(run, progress=seen.to_json())) is not None


def _put_off(desk: Desk, runs: Sequence[Run], now: float) -> None:
    when = {run.id: jobs.next_look(now, run.state_since) for run in runs}
    for next_at in sorted(set(when.values())):
        desk.store.runs.put_off([number for number, at in when.items() if at == next_at], next_at)


def _wait(desk: Desk, runs: Sequence[Run], trouble: TrainerError) -> None:
    for some in _parts(runs, RUNS_A_WRITE):
        with desk.store.transaction():
            for run in some:
                training.unseen(desk, run, trouble)


def _parts(runs: Sequence[Run], size: int) -> Iterator[Sequence[Run]]:
    for start in range(0, len(runs), size):
        yield runs[start : start + size]
