"""Kills a step at each fdatasync, when the database is only partly on the disk. Needs strace, which sends the signal.

Without strace it reports that it was not run, and fails only if it was requested by name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.bot.world import Rules, SharedWorkers, world
from tests.chaos.fork_host import ForkHost
from tests.chaos.sweep import STEPS, Sweep
from tests.peers.hosted import KEY

SYNCS = "fdatasync,fsync"
TRACED = (
    "approve",
    "create",
    "create again after SETTLE",
    "take a model that is trained",
    "cancel a job that trains",
)


class SyncSweep(Sweep):
    """A sweep whose 'lines' are a step's syncs."""

    def _count_lines(self) -> int:
        self._run_traced("trace=" + SYNCS)
        log = self._log.read_text(encoding="utf-8")
        return sum(log.count(f" {name}(") for name in SYNCS.split(","))

    def _die(self, line: int) -> int:
        return self._run_traced(f"inject={SYNCS}:signal=KILL:when={line}")

    def _run_traced(self, expression: str) -> int:
        self._restore()
        self._log = self._world.folder / "strace.txt"
        pid = self._start("die", line=10**9, count_file=str(self._line_count), is_traced=True)
        strace = subprocess.Popen(
            ["strace", "-q", "-f", "-p", str(pid), "-o", str(self._log), "-e", expression],
            stderr=subprocess.DEVNULL,
        )
        status = self._forks.wait(pid)
        strace.wait(10)
        return status


def find_obstacle() -> str | None:
    if shutil.which("strace") is None:
        return "strace is not installed"
    trial = subprocess.run(["strace", "-f", "-o", os.devnull, "true"], capture_output=True)
    return "strace is not permitted to trace here" if trial.returncode else None


def run(*, is_requested: bool) -> bool:
    obstacle = find_obstacle()
    if obstacle:
        print(f"kill at each fdatasync: not run: {obstacle}", flush=True)
        return not is_requested
    os.environ["ACME_KEY"] = KEY
    workers, wrong = SharedWorkers(), list[str]()
    print(
        f"{'kill at each fdatasync of a step':<44}{'syncs':>6}{'kills':>8}{'states':>8}{'wrong':>7}",
        flush=True,
    )
    with ForkHost() as forks:
        for step in STEPS:
            if step.name in TRACED:
                with (
                    tempfile.TemporaryDirectory() as folder,
                    world(Path(folder), workers, Rules()) as prepared,
                ):
                    result = SyncSweep(prepared, forks, step).try_every_line()
                wrong += result.wrong
                print(
                    f"  {step.name:<42}{result.lines:>6}{result.deaths:>8}{result.states:>8}{len(result.wrong):>7}",
                    flush=True,
                )
    workers.close_processes()
    for problem in wrong:
        print(f"    {problem}", flush=True)
    return not wrong
