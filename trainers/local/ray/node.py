"""`python -m trainers.local.ray.node`: runs one attempt at one job (attempt.py) on a node.

$FINETUNE_JOB is the job's folder on a shared disk, or its id in $FINETUNE_STORAGE. The exit code is that of the
training process (train.py), or 3 if this node can't train. For a job over several nodes, launcher.py runs this on
each."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

from trainers.local.launch import add_meeting, read_meeting, shell_exit_code

NEEDED = ("torch", "transformers", "peft", "datasets", "httpx2", "pyarrow", "tensorboard")
UNABLE = 3


def main() -> int:
    parser = argparse.ArgumentParser(description="One attempt at a job, or one node's part of it.")
    add_meeting(parser)
    meeting = read_meeting(parser.parse_args())
    job = os.environ.pop("FINETUNE_JOB")
    key = os.environ.pop("FINETUNE_ATTEMPT")
    url = os.environ.pop("FINETUNE_STORAGE", "")
    processes = int(os.environ.pop("FINETUNE_PROCESSES", "1"))
    lacking = [name for name in NEEDED if find_spec(name) is None]
    if lacking:
        print(
            f"The node's Python, {sys.executable}, lacks {', '.join(lacking)}. Install finetune-bot[local] there, or "
            "set --ray-python to another Python.",
            file=sys.stderr,
        )
        return UNABLE
    from trainers.local.ray.attempt import train_from_storage, train_here

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if url:
        return shell_exit_code(train_from_storage(url, job, key, processes, meeting))
    return shell_exit_code(train_here(Path(job), key, processes, meeting))


if __name__ == "__main__":
    sys.exit(main())
