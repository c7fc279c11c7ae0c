"""A job's files on their way by the storage: each event and file once, whatever fails between, and nothing of an
attempt that was given up."""

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
    """At the call number `at`, before it is carried out or, where `at` is odd, afterwards: as a lost answer."""

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
class Story:
    """One job: `folder` is the trainer's, `node` the copy of it where attempt `record` trains."""

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
        patiently(takeover.upload_inputs)
        patiently(lambda: takeover.control("run"))
        return mark_submitted(self.folder, record)

    def begin(self, record: AttemptRecord) -> tuple[Path, Publisher]:
        node = self.root / f"node-{record.attempt}" / JOB
        link = AttemptStorage(self.storage, JOB, record.key)
        start, base = patiently(lambda: link.fetch(node))
        return node, Publisher(link, node, base, start)


def patiently(ask: Callable[[], Any]) -> Any:
    for _ in range(3):
        try:
            return ask()
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


@pytest.mark.parametrize("at", [None, *range(0, 60, 3), *range(1, 60, 3)])
def test_each_file_and_event_arrives_once_whichever_call_fails(tmp_path: Path, at: int | None) -> None:
    story = Story(tmp_path, FailsOnce(str(tmp_path / "storage"), at))
    record = story.submit()
    node, publisher = story.begin(record)
    append_event(node, "Step 1")
    replace_json(node / "progress.json", PROGRESS)
    save_checkpoint(node, 1)
    (node / "results.csv").write_text("1\n")
    patiently(lambda: publisher.publish(is_over=False))
    patiently(story.takeover(record).download_new_files)  # each time as after a restart of the trainer
    assert read_json(story.folder / "progress.json") == PROGRESS
    replace_json(node / "checkpoints" / "step-000001" / "checkpoint.json", {"step": 1, "validated": True})
    patiently(lambda: publisher.publish(is_over=False))
    patiently(story.takeover(record).download_new_files)
    kept = read_json(story.folder / "checkpoints" / "step-000001" / "checkpoint.json")
    assert kept == {"step": 1, "validated": True}
    save_checkpoint(node, 2, 1)
    (node / "results.csv").write_text("1\n2\n")
    finish(node)
    patiently(lambda: publisher.publish(is_over=True))
    patiently(story.takeover(record).download_new_files)
    assert messages(story.folder) == ["Created", "Step 1", "Done"]
    assert (story.folder / "results.csv").read_text() == "1\n2\n"
    assert read_json(story.folder / "DONE") == DONE
    checkpoint = story.folder / "checkpoints" / "step-000002"
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["step-000002"]
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        *("adapter_config.json", "adapter_model.safetensors", "checkpoint.json"),
    ]
    config = json.loads((story.folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(story.base)
    assert not list(story.folder.rglob("*.tmp"))


def test_an_attempt_that_was_given_up_changes_nothing_of_its_successor_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(tmp_path, Storage(str(tmp_path / "storage")))
    first = story.submit()
    node, publisher = story.begin(first)
    append_event(node, "Step 1 of the first")
    save_checkpoint(node, 1)
    publisher.publish(is_over=False)
    story.takeover(first).download_new_files()
    assert open_attempt(story.folder).after == first.key  # never submitted: the trainer was killed before
    second = story.submit()
    assert second.after == first.key
    assert second.key != first.key
    other, successor = story.begin(second)
    assert (other / "checkpoints" / "step-000001" / "state.pt").exists()
    with pytest.raises(AttemptReplaced):
        publisher.publish(is_over=False)
    save_checkpoint(node, 2, 1)
    finish(node)
    with monkeypatch.context() as late:
        late.setattr(AttemptStorage, "wants_pause", lambda self: False)  # it had looked a moment before
        publisher.publish(is_over=True)
    story.takeover(second).download_new_files()
    assert messages(story.folder) == ["Created", "Step 1 of the first"]
    assert not (story.folder / "DONE").exists()
    append_event(other, "Step 2 of the second")
    save_checkpoint(other, 2, 1)
    finish(other)
    successor.publish(is_over=True)
    story.takeover(second).download_new_files()
    assert messages(story.folder) == ["Created", "Step 1 of the first", "Step 2 of the second", "Done"]
    assert read_json(story.folder / "DONE") == DONE


def test_what_is_given_up_while_it_is_taken_over_gets_no_end_mark(tmp_path: Path) -> None:
    story = Story(tmp_path, Storage(str(tmp_path / "storage")))
    record = story.submit()
    node, publisher = story.begin(record)
    save_checkpoint(node, 2)
    finish(node)
    publisher.publish(is_over=True)
    asked = iter([True, False])
    with pytest.raises(Stopped):
        story.takeover(record, lambda: next(asked)).download_new_files()
    assert not (story.folder / "DONE").exists()


def test_a_job_that_is_gone_from_the_storage_ends_its_attempt(tmp_path: Path) -> None:
    story = Story(tmp_path, Storage(str(tmp_path / "storage")))
    _, publisher = story.begin(story.submit())
    story.storage.delete_folder(JOB)
    with pytest.raises(AttemptReplaced):
        publisher.publish(is_over=False)


def test_a_pause_is_marked_in_the_node_s_folder_and_not_told_back(tmp_path: Path) -> None:
    story = Story(tmp_path, Storage(str(tmp_path / "storage")))
    record = story.submit()
    node, publisher = story.begin(record)
    story.takeover(record).control("pause")
    publisher.publish(is_over=False)
    assert (node / "PAUSED").exists()
    publisher.publish(is_over=True)
    story.takeover(record).download_new_files()
    assert not (story.folder / "PAUSED").exists()


def test_a_long_journal_goes_in_pieces(tmp_path: Path) -> None:
    story = Story(tmp_path, Storage(str(tmp_path / "storage")))
    record = story.submit()
    node, publisher = story.begin(record)
    taking = story.takeover(record)
    wanted = ["Created"]
    for count in (3, EVENTS_PER_PIECE + 4, 2 * EVENTS_PER_PIECE):
        for number in range(count):
            append_event(node, f"{count} {number}")
            wanted.append(f"{count} {number}")
        publisher.publish(is_over=False)
        taking.download_new_files()
        assert messages(story.folder) == wanted


def test_a_base_of_the_trainer_s_disk_is_stored_once_and_kept_on_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_BASES", str(tmp_path / "bases"))
    monkeypatch.setattr(Storage, "local", None)  # as an object store: the node can't use it where it lies
    monkeypatch.setattr(Storage, "_path", lambda self, name: str(tmp_path / "storage" / name))
    monkeypatch.setattr(Storage, "_put", put_file)
    from pyarrow import fs

    monkeypatch.setattr(Storage, "_system", fs.LocalFileSystem())
    story = Story(tmp_path, Storage("s3://bucket/team"))
    node, _ = story.begin(story.submit())
    fingerprint = base_fingerprint(story.base)
    assert read_job(node).base == str(tmp_path / "bases" / fingerprint)
    assert (tmp_path / "bases" / fingerprint / "config.json").read_text() == "{}"
    shutil.rmtree(tmp_path / "storage" / "bases" / fingerprint)
    assert read_job(story.begin(story.submit())[0]).base


def put_file(storage: Storage, name: str, chunks: Any) -> None:
    path = Path(storage._path(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(chunks))


def test_what_an_attempt_of_the_former_version_wrote_down_is_read(tmp_path: Path) -> None:
    former = {"submission": f"{JOB}-2", "attempt": 2, "token": "secret", "is_submitted": True}
    replace_json(tmp_path / ATTEMPT_FILE, former)
    assert read_attempt(tmp_path) == AttemptRecord(f"{JOB}-2", 2, "2", True, True)
    replace_json(tmp_path / ATTEMPT_FILE, {**former, "token": ""})
    found = read_attempt(tmp_path)
    assert found is not None
    assert not found.is_open
    assert open_attempt(tmp_path).attempt == 3


def test_leftovers_that_another_attempt_deletes_meanwhile_are_no_error(tmp_path: Path) -> None:
    old = tmp_path / f"{PREFIX}old"
    old.mkdir()
    os.utime(old, (0, 0))
    (tmp_path / f"{PREFIX}gone").symlink_to(tmp_path / "deleted")
    delete_leftovers(tmp_path)
    assert not old.exists()


def test_on_a_common_disk_only_the_newest_attempt_trains(
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


def test_a_name_written_twice_has_the_second_content_and_a_cut_off_one_is_not_read(tmp_path: Path) -> None:
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
