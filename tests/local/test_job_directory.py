"""A file of a job's folder is whole or not there."""

from __future__ import annotations

import threading
from pathlib import Path

from trainers.local.job_directory import read_json, replace_json


def test_a_file_is_whole_whenever_it_is_read(tmp_path: Path) -> None:
    """It is written beside its name and renamed: a reader in between finds the former one or the new one."""
    path, stop = tmp_path / "DONE", threading.Event()
    replace_json(path, {"step": 0, "rest": "x" * 100_000})

    def write() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            replace_json(path, {"step": step, "rest": "x" * 100_000})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [read_json(path) for _ in range(200)]
    finally:
        stop.set()
        writer.join()
    assert all(one is not None and len(one["rest"]) == 100_000 for one in seen)
    assert sorted(one["step"] for one in seen if one) == [one["step"] for one in seen if one]
