"""`python -m trainers.local.ray.node`: what a Ray job runs on its node: one attempt at one job (attempt.py).

$FINETUNE_JOB is the job's address on the trainer's relay, or its folder where the disk is common. The exit code is that
of the training process (train.py); 3 where this node can't train. Of several nodes (gathering.py) each runs it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NoReturn

from trainers.local.launch import add_meeting, as_shells_tell, read_meeting

NEEDED = ("torch", "transformers", "peft", "datasets", "httpx2", "tensorboard")
UNABLE = 3


def main() -> int:
    parser = argparse.ArgumentParser(description="One attempt at a job, or one node's part of it.")
    add_meeting(parser)
    meeting = read_meeting(parser.parse_args())
    job, token = os.environ.pop("FINETUNE_JOB"), os.environ.pop("FINETUNE_JOB_TOKEN")
    processes = int(os.environ.pop("FINETUNE_PROCESSES", "1"))
    lacking = [name for name in NEEDED if find_spec(name) is None]
    if lacking:
        print(
            f"The node's Python, {sys.executable}, lacks {', '.join(lacking)}. Install finetune-bot[local] there, or "
            "name another Python with --ray-python.",
            file=sys.stderr,
        )
        return UNABLE
    from trainers.local.ray.attempt import train_afar, train_here

    signal.signal(signal.SIGTERM, _end)
    if job.startswith("/"):
        return as_shells_tell(train_here(Path(job), token, processes, meeting))
    return as_shells_tell(train_afar(job, token, processes, meeting))


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
