"""The command that trains a job's folder: one process, or a team of several (training/distributed.py).

`python -m trainers.local.launch --processes N JOB_DIR` works like torchrun on one machine, but exits with the code of
the process that failed first instead of 1. For a team on several machines, each runs it with --nodes, --node and
--meet."""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

TRAIN_COMMAND = (sys.executable, "-m", "trainers.local.train")
PROCESSES_VARIABLE = "FINETUNE_PROCESSES"  # the number of processes that each member of a team has to find
# torch reads the first of these that is set
ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
PR_SET_PDEATHSIG = 1  # prctl(2)
SHUTDOWN_S = 3
# Exit codes of `python -m trainers.local.train`
BUSY = 75  # EX_TEMPFAIL
PAUSED = 76
SHORT_OF_MEMORY = 77  # the job has to start again, with fewer tokens at a time (training/memory.py)
MEET_S = 12 * 3600  # another machine may have a large base to fetch; a lost one is noticed in other ways


@dataclass(frozen=True)
class Meeting:
    """How the machines of a team find each other. `address` is HOST:PORT of the first, `node` this one's number from
    0."""

    nodes: int
    node: int
    address: str

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("--nodes", str(self.nodes), "--node", str(self.node), "--meet", self.address)


def train_command(processes: int, meeting: Meeting | None = None) -> tuple[str, ...]:
    """Returns the command that trains a folder, which has to be appended as its last argument, with `processes` on this
    machine. Without a `meeting` the team has this machine only."""
    if processes == 1 and meeting is None:
        return TRAIN_COMMAND
    arguments = meeting.arguments if meeting else ()
    return (sys.executable, "-m", "trainers.local.launch", "--processes", str(processes), *arguments)


def add_meeting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="machines of the team")
    parser.add_argument("--node", type=int, default=0, metavar="K", help="this machine's number, from 0")
    parser.add_argument("--meet", metavar="HOST:PORT", help="where the first one listens")


def read_meeting(namespace: argparse.Namespace) -> Meeting | None:
    if not namespace.meet:
        return None
    return Meeting(namespace.nodes, namespace.node, namespace.meet)


def die_with_parent() -> None:
    """Makes the kernel send SIGTERM to this process when its parent dies. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def grow_segments() -> None:
    """Lets CUDA's allocator grow its segments, before torch is imported. Packs of ever other lengths would leave gaps
    that none of the next ones fits into. Whoever has set the allocator's options keeps them. Linux only."""
    if sys.platform == "linux" and not any(name in os.environ for name in ALLOCATOR_VARIABLES):
        os.environ[ALLOCATOR_VARIABLES[0]] = "expandable_segments:True"


@contextmanager
def quick_imports() -> Iterator[None]:
    """Turns garbage collection off for the block's imports. torch, transformers and peft create a million objects that
    stay, and scanning them again and again takes a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def shell_exit_code(code: int) -> int:
    """Returns a child's exit code as a shell reports it: 128 plus the number of the signal that killed it."""
    if code < 0:
        return 128 - code
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the job in a folder with several processes.")
    parser.add_argument("--processes", type=int, required=True, metavar="N")
    add_meeting(parser)
    parser.add_argument("folder", metavar="JOB_DIR")
    namespace = parser.parse_args()
    return launch(namespace.processes, read_meeting(namespace), namespace.folder)


def launch(processes: int, meeting: Meeting | None, folder: str) -> int:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, launch_agent

    nodes = 1
    rendezvous: dict[str, Any] = {
        "run_id": secrets.token_hex(8),
        "rdzv_backend": "c10d",
        "rdzv_endpoint": "localhost:0",
    }
    if meeting:
        nodes = meeting.nodes
        rendezvous = {
            "run_id": "job",
            "rdzv_backend": "static",
            "rdzv_endpoint": meeting.address,
            "rdzv_configs": {"rank": meeting.node, "timeout": MEET_S},
        }
    os.environ[PROCESSES_VARIABLE] = str(nodes * processes)
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        max_restarts=0,  # the server starts the job again, from its checkpoint
        shutdown_timeout=SHUTDOWN_S,
        **rendezvous,
    )
    python, *arguments = TRAIN_COMMAND
    try:
        launch_agent(config, python, [*arguments, folder])
    except ChildFailedError as error:
        if any(failure.exitcode == SHORT_OF_MEMORY for failure in error.failures.values()):
            return SHORT_OF_MEMORY  # even if it wasn't the first: the others may have failed because of it
        _, first_failure = error.get_first_failure()
        return shell_exit_code(int(first_failure.exitcode))
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main())
