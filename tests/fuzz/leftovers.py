"""Odd files that an attempt, or somebody else, may leave in the storage. The trainer takes them over or waits, its own
files stay as they are, and the job can still be read."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz.api_calls import list_files
from tests.fuzz.mutations import Json, mutated, odd_texts, odd_values, raw_json
from trainers.local.job_directory import TrainingJob, append_event, read_events, replace_json, write_job
from trainers.local.jobs.records import Jobs
from trainers.local.ray.job_files import open_attempt
from trainers.local.ray.storage import Storage, StorageAway
from trainers.local.ray.takeover import Takeover
from trainers.methods import METHODS

JOB = "ftjob-" + "0" * 24
OURS = ("job.json", "train.jsonl", "ray.json", "request.json")
_EVENT: Json = {"created_at": 1, "level": "info", "type": "message", "message": "m", "data": {"step": 1}}
_DONE: Json = {"trained_tokens": 1, "step": 1, "stopped": None}
_FAILED: Json = {"code": "c", "message": "m", "param": None}
_PATHS = (
    "results.csv", "adapter/a", ".adapter/x.json", "checkpoints/step-000001/a", "checkpoints/.step-000001/a",
    "checkpoints", "checkpoints/step-000001", "checkpoints/step-x1/a", "a/checkpoints/step-000001/b", "adapter",
    *OURS, "DONE", "DONE/x", "lock", "x" * 201, "é" * 150, "/".join(["x" * 200] * 5), "..", "../x", "/etc/x",
)  # fmt: skip
_OBJECTS = (
    "attempts/1-a/files/x", "inputs/x", "../x", "attempts/../../x", "/etc/passwd", "attempts/1-a/files/../x",
)  # fmt: skip


@dataclass(frozen=True)
class Left:
    """`state` and `events` are the bytes of those objects."""

    state: bytes
    events: bytes


def leftovers() -> st.SearchStrategy[Left]:
    stored = {
        "object": st.sampled_from(_OBJECTS) | odd_texts,
        "bytes": st.just(3) | odd_values,
        "version": st.just(1) | odd_values,
    }
    paths = st.sampled_from(_PATHS) | odd_texts
    files = st.dictionaries(paths, st.fixed_dictionaries(stored) | odd_values, max_size=3)
    valid: Json = {
        "files": {"results.csv": {"object": _OBJECTS[0], "bytes": 3, "version": 1}},
        "events": 2,
        "records": {"progress.json": {"step": 1}, "FAILED": _FAILED, "DONE": _DONE},
    }
    with_files = st.builds(lambda odd, more: {**odd, "files": more}, mutated(valid), files)
    states = (with_files | mutated(valid) | st.just(valid)).map(_encoded) | raw_json(valid)
    events = st.lists(st.just(_EVENT) | mutated(_EVENT), max_size=3).map(_encoded) | st.binary(max_size=9)
    return st.builds(Left, states, events)


def _encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def complaint_checker(root: Path) -> Callable[[Left], str | None]:
    """A function that complains about one leftover once it was taken over into a job's folder."""
    numbers = iter(range(10**9))

    def complaint_about(left: Left) -> str | None:
        place = root / str(next(numbers))
        folder = place / "data" / "jobs" / JOB
        _make_job(folder)
        record = open_attempt(folder)
        ours = {name: (folder / name).read_bytes() for name in OURS}
        storage = Storage(str(place / "storage"))
        storage.write(f"{JOB}/attempts/1-a/files/x", b"abc")
        storage.write(f"{JOB}/attempts/{record.key}/state.json", left.state)
        storage.write(f"{JOB}/attempts/{record.key}/events/000000.json", left.events)
        before = {path for path, _ in list_files(place)}
        with suppress(StorageAway):  # the trainer would try again
            Takeover(storage, folder, record, lambda: True, threading.Lock()).download_new_files()
        changed = [name for name, content in ours.items() if (folder / name).read_bytes() != content]
        new = {path for path, _ in list_files(place)} - before
        outside = [path for path in new if not path.startswith(f"data/jobs/{JOB}/")]
        if changed or outside:
            return f"changed: {', '.join([*changed, *outside])}"
        job = Jobs(folder.parent).get(JOB)
        return None if job is not None and len(read_events(folder)) >= 1 else "the job is gone"

    return complaint_about


def _make_job(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("{}\n")
    replace_json(
        folder / "request.json", {"training_file": "file-1", "validation_file": None, "fingerprint": "f"}
    )
    rows = str(folder / "train.jsonl")
    write_job(
        folder,
        TrainingJob(JOB, "org/base", "base", rows, None, 1, METHODS["supervised"].parameters(), None, {}, 1),
    )
    append_event(folder, "Created")
