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


MARK = "FINETUNE_TEST_CLUSTER"


class Cluster:
    def __init__(self) -> None:
        self.dashboard, self.gcs, self.agent, self.clients = free_ports(4)
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))  # its sockets' paths have to be short

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def start(self) -> None:
        arguments = ["start", "--head", f"--port={self.gcs}", f"--dashboard-port={self.dashboard}"]
        arguments += [f"--dashboard-agent-listen-port={self.agent}", "--num-cpus=2"]
        arguments += [f"--ray-client-server-port={self.clients}"]
        arguments += ["--dashboard-host=127.0.0.1", "--disable-usage-stats", f"--temp-dir={self.folder}"]
        arguments += ["--object-store-memory=80000000", "--node-ip-address=127.0.0.1"]
        environment = {**os.environ, MARK: str(self.folder)}
        command = [ray_command(), *arguments]
        with (self.folder / "start.log").open("w") as said:  # a pipe would stay open as long as Ray runs
            code = subprocess.run(command, stdout=said, stderr=said, timeout=90, env=environment).returncode
        assert code == 0, (self.folder / "start.log").read_text()
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
        """All that began with our mark in their environment, jobs included: Ray gives its processes other names."""
        return [
            int(found.parent.name) for found in Path("/proc").glob("[0-9]*/environ") if self._is_marked(found)
        ]

    def _is_marked(self, environ: Path) -> bool:
        try:
            return f"{MARK}={self.folder}".encode() in environ.read_bytes().split(b"\0")
        except OSError:  # it ended, or is another user's
            return False

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.address}/api/version", timeout=5).is_success
        except httpx2.TransportError:
            return False


@contextmanager
def ray_cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


def free_ports(count: int) -> list[int]:
    """Ray's workers take ports from 10002 to 19999."""
    return [port for port in range(6400, 10000) if _is_free(port)][:count]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
