"""A training process that trains nothing: it writes what stub_train.py does, and takes a second, so that it can be
killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.local.stub_train import progress, succeed
from trainers.local.job_directory import lock_job, replace_json


def main(folder: Path) -> int:
    with lock_job(folder) as lock:
        if lock is None:
            return 4
        for _ in range(10):
            replace_json(folder / "progress.json", progress(1))
            time.sleep(0.1)
        succeed(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
