"""A process that has imported the bot once and forks processes on demand, which start within milliseconds.

It reads lines from its standard input: it answers `start {…}` with a pid, and `wait PID` with the exit status.
`multiprocessing` could do the same, but has only one fork server for all tests, and others have it import torch.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class ForkHost:
    """A context manager, at whose end its processes are killed."""

    def __enter__(self) -> ForkHost:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.fork_host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self._alive: set[int] = set()
        return self

    def __exit__(self, *_: object) -> None:
        for pid in tuple(self._alive):
            self.kill(pid)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def start(self, work: str, **arguments: Any) -> int:
        """Calls `module:function` with arguments that JSON can hold, in a new process, and returns its pid."""
        pid = int(self._ask("start", json.dumps({"work": work, "arguments": arguments})))
        self._alive.add(pid)
        return pid

    def kill(self, pid: int) -> int:
        """Returns the exit status as `subprocess` counts it, also if the process is dead already."""
        os.kill(pid, signal.SIGKILL)  # the pid isn't reused before `wait`
        return self.wait(pid)

    def wait(self, pid: int) -> int:
        code = int(self._ask("wait", str(pid)))
        self._alive.discard(pid)
        return code

    def _ask(self, word: str, rest: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{word} {rest}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the fork host has died"
        return answer


def main() -> None:
    import_module("tests.chaos.preloaded")
    for line in iter(sys.stdin.readline, ""):
        word, rest = line.split(" ", 1)
        answer = _fork(json.loads(rest)) if word == "start" else _exit_status(int(rest))
        print(answer, flush=True)


def _fork(order: Mapping[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)  # the pipes are the fork host's
        os.dup2(0, 1)
        module, function = order["work"].split(":")
        import_module(module).__dict__[function](**order["arguments"])
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def _exit_status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()
