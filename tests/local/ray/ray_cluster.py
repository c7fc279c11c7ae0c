"""A real Ray on loopback: `ray start --head` with its own folder, ended by the ids of its processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.peers.s3 import KEYS


def ray_command() -> str:
    """$FINETUNE_RAY, or `ray` beside this Python or on the path."""
    beside = Path(sys.executable).with_name("ray")
    command = os.environ.get("FINETUNE_RAY") or (str(beside) if beside.exists() else shutil.which("ray"))
    assert command, "No Ray here: pip install 'ray[default]', and name its command with FINETUNE_RAY."
    return command


MARK = "FINETUNE_TEST_CLUSTER"
NODE_MARK = "FINETUNE_TEST_NODE"
NOTHING: Mapping[str, str] = {}


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
        self._ray(arguments, {})
        deadline = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < deadline, "Ray's dashboard has not come up in 60 s"
            time.sleep(0.2)

    def add_node(self, address: str, gpus: int = 0) -> None:
        """Adds what Ray takes for another machine: an address of loopback, with GPUs in name only."""
        arguments = [
            "start",
            f"--address=127.0.0.1:{self.gcs}",
            f"--node-ip-address={address}",
            "--num-cpus=2",
        ]
        arguments += ["--object-store-memory=80000000", "--disable-usage-stats"]
        self._ray([*arguments, f"--num-gpus={gpus}"], {NODE_MARK: address})

    def kill(self) -> None:
        """Kills all its processes at once, as when a machine is switched off."""
        _kill(self.processes)

    def kill_node(self, address: str) -> None:
        _kill(lambda: self.processes({NODE_MARK: address}))

    def end(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self, marks: Mapping[str, str] = NOTHING) -> list[int]:
        """Processes with our mark in their environment, jobs included, since Ray renames its processes."""
        variables = {f"{name}={value}".encode() for name, value in {MARK: self.folder, **marks}.items()}
        paths = Path("/proc").glob("[0-9]*/environ")
        return [int(path.parent.name) for path in paths if variables <= _environment(path)]

    def _ray(self, arguments: Sequence[str], marks: Mapping[str, str]) -> None:
        environment = {**os.environ, **KEYS, MARK: str(self.folder), **marks}
        command = [ray_command(), *arguments]
        with (self.folder / "start.log").open("w") as log:  # a pipe would stay open as long as Ray runs
            code = subprocess.run(command, stdout=log, stderr=log, timeout=90, env=environment).returncode
        assert code == 0, (self.folder / "start.log").read_text()

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.address}/api/version", timeout=5).is_success
        except httpx2.TransportError:
            return False


def python_with_ray(folder: Path) -> Path:
    """This Python with Ray's packages after its own, as if both were installed together."""
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    ray = Path(ray_command()).with_name("python")
    packages = subprocess.run([ray, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.path.append({packages!r})\n")
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return script


def _kill(find: Callable[[], list[int]]) -> None:
    for number in find():
        os.kill(number, signal.SIGKILL)
    while find():
        time.sleep(0.1)


def _environment(environ: Path) -> set[bytes]:
    try:
        return set(environ.read_bytes().split(b"\0"))
    except OSError:  # it has ended, or is another user's
        return set()


@contextmanager
def ray_cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


def free_ports(count: int) -> list[int]:
    """Below 10002, since Ray's workers take ports from there to 19999."""
    return [port for port in range(6400, 10000) if _is_free(port)][:count]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
