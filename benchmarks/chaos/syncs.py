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
        self._traced("trace=" + SYNCS)
        said = self._log.read_text(encoding="utf-8")
        return sum(said.count(f" {name}(") for name in SYNCS.split(","))

    def _die(self, line: int) -> int:
        return self._traced(f"inject={SYNCS}:signal=KILL:when={line}")

    def _traced(self, what: str) -> int:
        self._restore()
        self._log = self._world.folder / "strace.txt"
        pid = self._start("die", line=10**9, count_file=str(self._line_count), is_traced=True)
        strace = subprocess.Popen(
            ["strace", "-q", "-f", "-p", str(pid), "-o", str(self._log), "-e", what],
            stderr=subprocess.DEVNULL,
        )
        code = self._forks.wait(pid)
        strace.wait(10)
        return code


def why_not() -> str | None:
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-f", "-o", os.devnull, "true"], capture_output=True)
    return "strace is not permitted to trace here" if tried.returncode else None


def run(*, is_asked_for: bool) -> bool:
    obstacle = why_not()
    if obstacle:
        print(f"kill at each fdatasync: not run: {obstacle}", flush=True)
        return not is_asked_for
    os.environ["ACME_KEY"] = KEY
    workers, wrong = SharedWorkers(), list[str]()
    print(
        f"{'kill at each fdatasync of a step':<44}{'syncs':>6}{'kills':>8}{'states':>8}{'wrong':>7}",
        flush=True,
    )
    with ForkHost() as forks:
        for step in STEPS:
            if step.name in TRACED:
                with tempfile.TemporaryDirectory() as folder, world(Path(folder), workers, Rules()) as made:
                    found = SyncSweep(made, forks, step).try_every_line()
                wrong += found.wrong
                print(
                    f"  {step.name:<42}{found.lines:>6}{found.deaths:>8}{found.states:>8}{len(found.wrong):>7}",
                    flush=True,
                )
    workers.close_processes()
    for one in wrong:
        print(f"    {one}", flush=True)
    return not wrong
