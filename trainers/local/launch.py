"""The command that trains a job's folder: one process, or a team of several on this machine (training/team.py).

`python -m trainers.local.launch --processes N JOB_DIR` is torchrun on one machine, with the exit code of the process
that ended first instead of 1.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import secrets
import signal
import sys

TRAIN = (sys.executable, "-m", "trainers.local.train")
VARIABLE = "FINETUNE_PROCESSES"  # how many the training process is to find
PR_SET_PDEATHSIG = 1  # prctl(2)
SHUTDOWN_S = 3


def train_command(processes: int) -> tuple[str, ...]:
    """Takes the folder as its last argument."""
    if processes == 1:
        return TRAIN
    return (sys.executable, "-m", "trainers.local.launch", "--processes", str(processes))


def die_with_parent() -> None:
    """SIGTERM reaches this process when its parent is killed. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the job in a folder with several processes.")
    parser.add_argument("--processes", type=int, required=True, metavar="N")
    parser.add_argument("folder", metavar="JOB_DIR")
    given = parser.parse_args()
    return launch(given.processes, given.folder)


def launch(processes: int, folder: str) -> int:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, launch_agent

    os.environ[VARIABLE] = str(processes)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=secrets.token_hex(8),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,  # the server starts the job again, from its checkpoint
        shutdown_timeout=SHUTDOWN_S,
    )
    python, *arguments = TRAIN
    try:
        launch_agent(config, python, [*arguments, folder])
    except ChildFailedError as error:
        return int(error.get_first_failure()[1].exitcode)
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main())
