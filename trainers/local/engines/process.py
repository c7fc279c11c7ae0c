"""Runs an engine: starts its run.sh, follows its log, and ends it together with our process.

The engine stays in our process group, so that a signal to the job reaches it too. It holds engine/lock as long as it
runs. If our process was killed, the next attempt finds the engine by that lock and kills it before starting another.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

POLL_INTERVAL_S = 0.2
GRACE_S = 3.0  # shorter than in jobs/backends.py, which kills the whole process group after 5 s
LOG = "log.txt"
LOCK = "lock"
PID = "pid"


@contextmanager
def run_engine(
    folder: Path, script: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the engine until the end of the block, or until our own process receives SIGTERM."""

    def exit_on_signal(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    kill_leftover(folder)
    with (folder / LOCK).open("a") as lock, (folder / LOG).open("ab") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = signal.signal(signal.SIGTERM, exit_on_signal)
        process = subprocess.Popen(
            ["/bin/sh", str(script)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(environment),
            pass_fds=(lock.fileno(),),
        )
        try:
            (folder / PID).write_text(str(process.pid), encoding="ascii")
            yield process
        finally:
            end_process(process)
            signal.signal(signal.SIGTERM, before)


def end_process(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def kill_leftover(folder: Path) -> None:
    """Kills an engine that outlived the process that started it, since it would write to the same output folder."""
    folder.mkdir(exist_ok=True)
    with (folder / LOCK).open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # After the engine itself a child of it may hold the lock a little longer.
                with suppress(ProcessLookupError):
                    os.kill(int((folder / PID).read_text(encoding="ascii")), signal.SIGKILL)
                time.sleep(POLL_INTERVAL_S)
            else:
                return


def follow_log(path: Path, start: int, process: subprocess.Popen[bytes]) -> Iterator[str | None]:
    """Yields the log's lines from byte `start` on until the process has ended, and None whenever there are no new
    lines. A progress bar's carriage return also ends a line."""
    with path.open("rb") as file:
        file.seek(start)
        rest = b""
        while True:
            has_ended = process.poll() is not None
            *lines, rest = re.split(rb"[\r\n]+", rest + file.read())
            yield from (line.decode(errors="replace") for line in lines)
            if has_ended:
                break
            yield None
            time.sleep(POLL_INTERVAL_S)
        if rest:
            yield rest.decode(errors="replace")
