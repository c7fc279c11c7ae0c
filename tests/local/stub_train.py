"""A fake trainers.local.train: writes a job's files without training, as `metadata.stub` asks.

(nothing)   succeeds at once                stubborn   ignores SIGTERM and keeps running
slow        runs until it is ended          crash      exits 3 with a traceback, every time
crash_once  crashes, then succeeds          refuse     writes FAILED
short       exits 4 times for lack of memory, then succeeds
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from trainers.local.job_directory import append_event, lock_job, read_job, replace_json
from trainers.local.launch import SHORT_OF_MEMORY


def main(folder: Path) -> None:
    with lock_job(folder) as lock:
        if lock is None:
            sys.exit(4)
        with (folder / "starts").open("a") as starts:
            starts.write("x")
        act(folder, read_job(folder).metadata.get("stub", "succeed"))


def act(folder: Path, how: str) -> None:
    append_event(folder, "Step 1/2", data={"step": 1, "train_loss": 2.5})
    replace_json(folder / "progress.json", progress(1))
    first = (folder / "starts").read_text() == "x"
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if how in ("slow", "stubborn"):
        (folder / "sleeping").touch()
        time.sleep(600)
    if how == "crash" or (how == "crash_once" and first):
        raise RuntimeError("the disk of the toy is full")
    if how == "short" and len((folder / "starts").read_text()) < 5:
        sys.exit(SHORT_OF_MEMORY)
    if how == "refuse":
        replace_json(folder / "FAILED", {"code": "too_long", "message": "Line 3 is too long.", "param": None})
        return
    succeed(folder)


def succeed(folder: Path) -> None:
    (folder / "checkpoints" / "step-000001").mkdir(parents=True, exist_ok=True)
    (folder / "adapter").mkdir(exist_ok=True)
    for place in ("checkpoints/step-000001", "adapter"):
        (folder / place / "adapter_config.json").write_text('{"base_model_name_or_path": "here"}')
    head = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n"
    (folder / "results.csv").write_text(head + "1,2.5,0.1,,\n2,1.5,0.2,,\n")
    replace_json(folder / "progress.json", progress(2))
    replace_json(folder / "DONE", {"trained_tokens": 120, "seconds": 0.1, "trainable_parameters": 8})


def progress(step: int) -> dict[str, int]:
    return {
        "step": step,
        "total_steps": 2,
        "trained_tokens": 60 * step,
        "estimated_finish": int(time.time()) + 60,  # in the future even on a busy machine
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
