"""A real Ray on loopback: `ray start --head`, with a folder of its own, ended by the ids of its processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2


def ray_command() -> str:
    """$FINETUNE_RAY, or `ray` beside this Python or on the path."""
    beside = Path(sys.executable).with_name("ray")
    found = os.environ.get("FINETUNE_RAY") or (str(beside) if beside.exists() else shutil.which("ray"))
    assert found, "No Ray here: pip install 'ray[default]', and name its command with FINETUNE_RAY."
    return found


class Cluster:
    def __init__(self, dashboard: int, gcs: int) -> None:
        self.dashboard = dashboard
        self.gcs = gcs
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))  # its sockets' paths have to be short

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def start(self) -> None:
        arguments = [
            "start",
            "--head",
            f"--port={self.gcs}",
            f"--dashboard-port={self.dashboard}",
            "--num-cpus=2",
        ]
        arguments += ["--dashboard-host=127.0.0.1", "--disable-usage-stats", f"--temp-dir={self.folder}"]
        arguments += ["--object-store-memory=80000000", "--node-ip-address=127.0.0.1"]
        done = subprocess.run([ray_command(), *arguments], capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stdout + done.stderr
        deadline = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < deadline, "Ray's dashboard has not come up in 60 s"
            time.sleep(0.2)

    def kill(self) -> None:
        """All its processes at once, as when a machine is switched off."""
        for number in self.processes():
            os.kill(number, signal.SIGKILL)
        while self.processes():
            time.sleep(0.1)

    def end(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self) -> list[int]:
        """Those whose command line, or whose parent's, names our folder or our port."""
        marks = (str(self.folder), f"--port={self.gcs}", f":{self.gcs}")
        lines = subprocess.run(
            ["ps", "-eo", "pid,stat,args"], capture_output=True, text=True
        ).stdout.splitlines()
        found = [line.split(None, 2) for line in lines[1:]]
        return [
            int(pid) for pid, stat, args in found if any(mark in args for mark in marks) and "Z" not in stat
        ]

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.address}/api/version", timeout=5).is_success
        except httpx2.TransportError:
            return False


@contextmanager
def ray_cluster() -> Iterator[Cluster]:
    cluster = Cluster(free_port(), free_port())
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


def free_port() -> int:
    """Ray's workers take ports from 10002 to 19999."""
    for port in range(6400, 10000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port
    raise AssertionError("no free port below Ray's own")
