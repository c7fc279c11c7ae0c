"""A job's files on their way through the storage: each event and file arrives once, whatever fails, and none of a
replaced attempt."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from trainers.local.base_files import base_fingerprint
from trainers.local.job_directory import (
    TrainingJob,
    append_event,
    read_events,
    read_job,
    read_json,
    replace_json,
    write_job,
)
from trainers.local.ray.attempt import (
    PREFIX,
    AttemptReplaced,
    AttemptStorage,
    Publisher,
    delete_leftovers,
    train_from_storage,
    train_here,
)
from trainers.local.ray.job_files import (
    ATTEMPT_FILE,
    EVENTS_PER_PIECE,
    AttemptRecord,
    close_attempt,
    mark_submitted,
    open_attempt,
    read_attempt,
)
from trainers.local.ray.storage import Stopped, Storage, StorageAway
from trainers.local.ray.takeover import Takeover
from trainers.methods import METHODS

JOB = "ftjob-" + "0" * 24
DONE = {"trained_tokens": 9, "seconds": 0.1, "step": 2, "result_step": 2, "stopped": None, "winner": None}
PROGRESS = {"step": 1, "total_steps": 2, "trained_tokens": 4, "estimated_finish": None}
CALLS = ("read", "write", "upload", "download", "delete")


class FailsOnce(Storage):
    """Fails at call number `at`: before carrying it out or, if `at` is odd, afterwards, like a lost answer."""

    def __init__(self, url: str, at: int | None = None) -> None:
        super().__init__(url)
        self.calls = 0
        for name in CALLS if at is not None else ():
            setattr(self, name, self._failing(getattr(self, name), at))

    def _failing(self, method: Callable[..., Any], at: int | None) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls - 1 != at:
                return method(*arguments)
            if at % 2:
                method(*arguments)
            raise StorageAway("HTTP 500")

        return call


@dataclass
class StoredJob:
    """One job. `folder` is the trainer's; an attempt trains in a copy of it on its node."""

    root: Path
    storage: Storage
    folder: Path = field(init=False)
    base: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder, self.base = self.root / "jobs" / JOB, self.root / "base"
        self.folder.mkdir(parents=True)
        self.base.mkdir()
        (self.base / "model.safetensors").write_bytes(b"weights")
        (self.base / "config.json").write_text("{}")
        (self.folder / "train.jsonl").write_text('{"messages": []}\n')
        settings = METHODS["supervised"].parameters()
        rows = str(self.folder / "train.jsonl")
        write_job(self.folder, TrainingJob(JOB, str(self.base), "base", rows, None, 1, settings, None, {}, 1))
        append_event(self.folder, "Created")

    def takeover(self, record: AttemptRecord, is_wanted: Callable[[], bool] = lambda: True) -> Takeover:
        return Takeover(self.storage, self.folder, record, is_wanted, threading.Lock())

    def submit(self) -> AttemptRecord:
        record = open_attempt(self.folder)
        takeover = self.takeover(record)
        retry(takeover.upload_inputs)
        retry(lambda: takeover.control("run"))
        return mark_submitted(self.folder, record)

    def begin(self, record: AttemptRecord) -> tuple[Path, Publisher]:
        node = self.root / f"node-{record.attempt}" / JOB
        link = AttemptStorage(self.storage, JOB, record.key)
        start, base = retry(lambda: link.fetch(node))
        return node, Publisher(link, node, base, start)


def retry(call: Callable[[], Any]) -> Any:
    for _ in range(3):
        try:
            return call()
        except StorageAway:
            continue
    raise AssertionError("the storage failed three times")


def save_checkpoint(node: Path, step: int, *old: int) -> None:
    folder = node / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "state.pt"):
        (folder / name).write_text(f"{name} of step {step}")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/on/the/node"}')
    replace_json(folder / "checkpoint.json", {"step": step})
    for each in old:
        shutil.rmtree(folder.with_name(f"step-{each:06d}"))


def finish(node: Path) -> None:
    shutil.copytree(node / "checkpoints" / "step-000002", node / "adapter")
    append_event(node, "Done")
    replace_json(node / "DONE", DONE)


def messages(folder: Path) -> list[str]:
    return [event["message"] for event in read_events(folder)]


@pytest.mark.parametrize("at", [None, *range(0, 60, 4), *range(1, 60, 4)])
def test_each_file_and_event_arrives_once_whichever_call_fails(tmp_path: Path, at: int | None) -> None:
    job = StoredJob(tmp_path, FailsOnce(str(tmp_path / "storage"), at))
    record = job.submit()
    node, publisher = job.begin(record)
    append_event(node, "Step 1")
    replace_json(node / "progress.json", PROGRESS)
    save_checkpoint(node, 1)
    (node / "results.csv").write_text("1\n")
    retry(lambda: publisher.publish(is_over=False))
    retry(job.takeover(record).download_new_files)  # each time as after a restart of the trainer
    assert read_json(job.folder / "progress.json") == PROGRESS
    replace_json(node / "checkpoints" / "step-000001" / "checkpoint.json", {"step": 1, "validated": True})
    retry(lambda: publisher.publish(is_over=False))
    retry(job.takeover(record).download_new_files)
    checkpoint_values = read_json(job.folder / "checkpoints" / "step-000001" / "checkpoint.json")
    assert checkpoint_values == {"step": 1, "validated": True}
    save_checkpoint(node, 2, 1)
    (node / "results.csv").write_text("1\n2\n")
    finish(node)
    retry(lambda: publisher.publish(is_over=True))
    retry(job.takeover(record).download_new_files)
    assert messages(job.folder) == ["Created", "Step 1", "Done"]
    assert (job.folder / "results.csv").read_text() == "1\n2\n"
    assert read_json(job.folder / "DONE") == DONE
    checkpoint = job.folder / "checkpoints" / "step-000002"
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["step-000002"]
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        *("adapter_config.json", "adapter_model.safetensors", "checkpoint.json"),
    ]
    config = json.loads((job.folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(job.base)
    assert not list(job.folder.rglob("*.tmp"))


def test_a_replaced_attempt_changes_nothing_of_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = StoredJob(tmp_path, Storage(str(tmp_path / "storage")))
    first = job.submit()
    node, publisher = job.begin(first)
    append_event(node, "Step 1 of the first")
    save_checkpoint(node, 1)
    publisher.publish(is_over=False)
    job.takeover(first).download_new_files()
    assert open_attempt(job.folder).after == first.key  # never submitted, since the trainer was killed
    second = job.submit()
    assert second.after == first.key
    assert second.key != first.key
    other, successor = job.begin(second)
    assert (other / "checkpoints" / "step-000001" / "state.pt").exists()
    with pytest.raises(AttemptReplaced):
        publisher.publish(is_over=False)
    save_checkpoint(node, 2, 1)
    finish(node)
    with monkeypatch.context() as late:
        late.setattr(AttemptStorage, "wants_pause", lambda self: False)  # it had checked a moment before
        publisher.publish(is_over=True)
    job.takeover(second).download_new_files()
    assert messages(job.folder) == ["Created", "Step 1 of the first"]
    assert not (job.folder / "DONE").exists()
    append_event(other, "Step 2 of the second")
    save_checkpoint(other, 2, 1)
    finish(other)
    successor.publish(is_over=True)
    job.takeover(second).download_new_files()
    assert messages(job.folder) == ["Created", "Step 1 of the first", "Step 2 of the second", "Done"]
    assert read_json(job.folder / "DONE") == DONE


def test_an_attempt_given_up_during_its_download_leaves_no_done_mark(tmp_path: Path) -> None:
    job = StoredJob(tmp_path, Storage(str(tmp_path / "storage")))
    record = job.submit()
    node, publisher = job.begin(record)
    save_checkpoint(node, 2)
    finish(node)
    publisher.publish(is_over=True)
    is_wanted = iter([True, False])
    with pytest.raises(Stopped):
        job.takeover(record, lambda: next(is_wanted)).download_new_files()
    assert not (job.folder / "DONE").exists()


def test_an_attempt_ends_when_its_job_is_deleted_from_the_storage(tmp_path: Path) -> None:
    job = StoredJob(tmp_path, Storage(str(tmp_path / "storage")))
    _, publisher = job.begin(job.submit())
    job.storage.delete_folder(JOB)
    with pytest.raises(AttemptReplaced):
        publisher.publish(is_over=False)


def test_a_pause_reaches_the_nodes_folder_and_is_not_copied_back(tmp_path: Path) -> None:
    job = StoredJob(tmp_path, Storage(str(tmp_path / "storage")))
    record = job.submit()
    node, publisher = job.begin(record)
    job.takeover(record).control("pause")
    publisher.publish(is_over=False)
    assert (node / "PAUSED").exists()
    publisher.publish(is_over=True)
    job.takeover(record).download_new_files()
    assert not (job.folder / "PAUSED").exists()


def test_many_events_are_sent_in_pieces(tmp_path: Path) -> None:
    job = StoredJob(tmp_path, Storage(str(tmp_path / "storage")))
    record = job.submit()
    node, publisher = job.begin(record)
    takeover = job.takeover(record)
    expected = ["Created"]
    for count in (3, EVENTS_PER_PIECE + 4, 2 * EVENTS_PER_PIECE):
        for number in range(count):
            append_event(node, f"{count} {number}")
            expected.append(f"{count} {number}")
        publisher.publish(is_over=False)
        takeover.download_new_files()
        assert messages(job.folder) == expected


def test_a_base_on_the_trainers_disk_is_uploaded_once_and_cached_on_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_BASES", str(tmp_path / "bases"))
    monkeypatch.setattr(Storage, "local", None)  # as an object store: the node can't use it where it lies
    monkeypatch.setattr(Storage, "_path", lambda self, name: str(tmp_path / "storage" / name))
    monkeypatch.setattr(Storage, "_put", put_file)
    from pyarrow import fs

    monkeypatch.setattr(Storage, "_system", fs.LocalFileSystem())
    job = StoredJob(tmp_path, Storage("s3://bucket/team"))
    node, _ = job.begin(job.submit())
    fingerprint = base_fingerprint(job.base)
    assert read_job(node).base == str(tmp_path / "bases" / fingerprint)
    assert (tmp_path / "bases" / fingerprint / "config.json").read_text() == "{}"
    shutil.rmtree(tmp_path / "storage" / "bases" / fingerprint)
    assert read_job(job.begin(job.submit())[0]).base


def put_file(storage: Storage, name: str, chunks: Any) -> None:
    path = Path(storage._path(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(chunks))


def test_the_previous_versions_attempt_record_can_be_read(tmp_path: Path) -> None:
    previous = {"submission": f"{JOB}-2", "attempt": 2, "token": "secret", "is_submitted": True}
    replace_json(tmp_path / ATTEMPT_FILE, previous)
    assert read_attempt(tmp_path) == AttemptRecord(f"{JOB}-2", 2, "2", True, True)
    replace_json(tmp_path / ATTEMPT_FILE, {**previous, "token": ""})
    record = read_attempt(tmp_path)
    assert record is not None
    assert not record.is_open
    assert open_attempt(tmp_path).attempt == 3


def test_leftovers_deleted_by_another_attempt_are_no_error(tmp_path: Path) -> None:
    old = tmp_path / f"{PREFIX}old"
    old.mkdir()
    os.utime(old, (0, 0))
    (tmp_path / f"{PREFIX}gone").symlink_to(tmp_path / "deleted")
    delete_leftovers(tmp_path)
    assert not old.exists()


def test_on_a_shared_disk_only_the_newest_attempt_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = open_attempt(tmp_path)
    second = open_attempt(tmp_path)
    close_attempt(tmp_path, first)
    assert read_attempt(tmp_path) == second
    assert train_here(tmp_path, first.key, 1) == 0
    assert "no longer needed" in capsys.readouterr().err
    assert train_here(tmp_path / "elsewhere", first.key, 1) == 1
    assert "Set --storage to one that all nodes can access." in capsys.readouterr().err


def test_writing_twice_replaces_the_content_and_a_truncated_file_is_not_read(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}/deep")
    storage.check()
    storage.write_json("a/b.json", asdict(AttemptRecord("s", 1, "k")))
    storage.write("a/b.json", b"[]")
    assert storage.read("a/b.json") == b"[]"
    assert storage.read_json("a/b.json") is None
    with pytest.raises(StorageAway, match="doesn't have the 3 bytes"):
        storage.download("a/b.json", tmp_path / "b", 3)
    assert not (tmp_path / "b").exists()
    storage.delete("a/b.json")
    storage.delete("a/b.json")
    storage.delete_folder("nothing")
    assert storage.read("a/b.json") is None


def test_a_node_without_the_job_in_its_storage_says_which_storage_it_sees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_from_storage(f"file://{tmp_path}", "ftjob-1", "1", 1) == 0
    assert f"this node sees another storage at file://{tmp_path} than the trainer" in capsys.readouterr().err
