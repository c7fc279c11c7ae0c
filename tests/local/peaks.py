"""`python -m tests.local.peaks FOLDER …`: train the job in each folder, all of one method, each in a process of its
own, and print how far resident memory grew at its peak over the process before it had a model, in bytes, one JSON line
a job.

The processes are forked once all is imported: nothing has computed yet, so no thread is left behind.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    from trainers.local.job_directory import read_job
    from trainers.local.training.methods import sft

    train, folders = sft.train, [Path(each) for each in sys.argv[1:]]
    if read_job(folders[0]).method == "dpo":
        from trainers.local.training.methods import dpo  # with TRL, which counts as the program

        train = dpo.train
    for folder in folders:
        child = os.fork()
        if child == 0:
            before = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the highest mark counts from here
            train(folder, read_job(folder))
            told = {"folder": folder.name, "grown": resident("VmHWM") - before, "program": before}
            print(json.dumps(told), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"the training in {folder} failed")


def resident(key: str) -> int:
    """Bytes, out of Linux's own accounts."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()
