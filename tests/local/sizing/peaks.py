"""`python -m tests.local.sizing.peaks FOLDER …` trains the job in each folder in a process of its own.

All have one method. It prints one JSON line per job: how many bytes resident memory grew, at its peak, over the process
without a model.

The processes are forked when everything is imported. Nothing has been computed by then, so no threads are lost.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path


def main() -> None:
    from trainers.local.job_directory import read_job

    folders = [Path(each) for each in sys.argv[1:]]
    if read_job(folders[0]).method == "dpo":
        from trainers.local.training.methods.dpo import train  # with TRL, which counts as the program
    else:
        from trainers.local.training.methods.sft import train
    for folder in folders:
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).malloc_trim(0)  # memory freed by the imports would hide some growth
            before = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
            train(folder, read_job(folder))
            grown = resident("VmHWM") - before
            print(json.dumps({"folder": folder.name, "grown": grown, "program": before}), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"the training in {folder} failed")


def resident(key: str) -> int:
    """Returns bytes, from /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()
