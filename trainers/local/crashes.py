"""How often a job's training may die before the job has failed, and what is said then. Starts nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trainers.local.jobs import Failure
from trainers.local.kept import steps_kept

MAX_CRASHES = 3
LOG_TAIL_BYTES = 4096


@dataclass
class Crash:
    """How often in a row a job's process died, and the checkpoint it had then."""

    count: int
    checkpoint: int


@dataclass
class Crashes:
    _by_job: dict[str, Crash] = field(default_factory=dict)

    def add(self, job_id: str, folder: Path, why: str) -> Failure | None:
        """A failure at the third crash in a row without a new checkpoint between."""
        checkpoint = steps_kept(folder)
        crash = self._by_job.get(job_id)
        if crash is None or crash.checkpoint < checkpoint:
            crash = self._by_job[job_id] = Crash(0, checkpoint)
        crash.count += 1
        if crash.count < MAX_CRASHES:
            return None
        return Failure("training_crashed", _sentence(why, checkpoint, folder), None)


def _sentence(why: str, checkpoint: int, folder: Path) -> str:
    where = f"after {checkpoint} steps that are kept" if checkpoint else "before its first checkpoint"
    said = " / ".join(_last_words(folder / "train.log")) or "nothing"
    return f"Training stopped {MAX_CRASHES} times {where}: the process {why}. It last said: {said}"


def _last_words(log: Path) -> list[str]:
    """Its last three different lines outside a traceback's listing, 200 characters each at most."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    words = [line for line in lines if line.strip() and not line.startswith((" ", "Traceback"))]
    return [line[:200] for line in list(dict.fromkeys(words))[-3:]]
