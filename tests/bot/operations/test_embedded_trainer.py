"""Our own trainer as a child process: it starts, restarts after it died, and ends with the bot."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

from bot import logs
from bot.embedded_trainer import EmbeddedTrainer
from tests.patience import wait_until

START_S = 30.0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder that the trainer takes for a model's. It would be loaded at the first job, and here is none."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def trainer(tmp_path: Path, base: Path) -> Iterator[EmbeddedTrainer]:
    trainer = EmbeddedTrainer(tmp_path / "trainer", {"tiny": str(base)})
    trainer.start()
    yield trainer
    trainer.stop()


def models(trainer: EmbeddedTrainer, key: str | None = None) -> list[str] | None:
    """Returns None while nobody answers."""
    request = urllib.request.Request(f"{trainer.base_url}/models")  # noqa: S310
    request.add_header("Authorization", f"Bearer {key or trainer.key}")
    try:
        with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
            return [model["id"] for model in json.load(response)["data"]]
    except HTTPError:
        raise
    except (URLError, ConnectionError):
        return None


def wait_for(trainer: EmbeddedTrainer) -> list[str]:
    return wait_until(lambda: models(trainer), "the trainer's answer", seconds=START_S)


def child(trainer: EmbeddedTrainer) -> int:
    assert trainer._child is not None
    return trainer._child.pid


def is_alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.usefixtures("real_processes")
def test_the_trainer_starts_with_its_models_behind_its_key(trainer: EmbeddedTrainer) -> None:
    assert wait_for(trainer) == ["tiny"]
    with pytest.raises(HTTPError, match="401") as refused:
        models(trainer, "another key")
    refused.value.close()
    log = (trainer.data / "trainer.log").read_text()
    assert f"trainer ready on {trainer.base_url}" in log
    assert trainer.key not in log
    argv = Path(f"/proc/{child(trainer)}/cmdline").read_text()
    assert trainer.key not in argv


def test_a_killed_trainer_restarts_at_the_same_address_with_the_same_key(
    trainer: EmbeddedTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    wait_for(trainer)
    first, key = child(trainer), trainer.key
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: child(trainer) != first, "the second child")
    assert wait_for(trainer) == ["tiny"]
    assert trainer.key == key
    assert "the trainer ended with code -9" in caplog.text


@pytest.mark.deep
def test_a_restart_that_the_system_refuses_is_retried(
    trainer: EmbeddedTrainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wait_for(trainer)
    first = child(trainer)
    spawn = trainer._spawn
    refusals = [BlockingIOError(11, "no more processes")]

    def refuse_once() -> subprocess.Popen[bytes]:
        if refusals:
            raise refusals.pop()
        return spawn()

    monkeypatch.setattr(trainer, "_spawn", refuse_once)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: child(trainer) != first, "the second child")
    assert "the trainer could not be started" in caplog.text


def test_a_stopped_trainer_stays_down(trainer: EmbeddedTrainer) -> None:
    wait_for(trainer)
    pid = child(trainer)
    trainer.stop()
    assert not is_alive(pid)
    assert models(trainer) is None
    keepers = [thread for thread in threading.enumerate() if thread.name == "embedded-trainer"]
    wait_until(lambda: not any(thread.is_alive() for thread in keepers), "the end of its keeper")
    trainer.stop()
    assert child(trainer) == pid, "nothing new was started"


def test_a_wrong_folder_of_one_model_does_not_stop_the_others(
    tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bases = {"gone": str(tmp_path / "nowhere"), "a name": str(base), "tiny": str(base)}
    trainer = EmbeddedTrainer(tmp_path / "trainer", bases)
    trainer.start()
    try:
        assert wait_for(trainer) == ["tiny"]
    finally:
        trainer.stop()
    assert re.search(r"base model gone of \[trainer.models\] is left out: \S+nowhere is neither", caplog.text)
    assert "base model a name of [trainer.models] is left out: a name has at most 128 letters" in caplog.text


def test_the_log_says_why_the_trainer_ended(
    tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = EmbeddedTrainer(tmp_path / "trainer", {"tiny": str(base)}, arguments=("--storage", "elsewhere"))
    trainer.start()
    wait_until(lambda: "restarting it in 1 s" in caplog.text, "the message", seconds=START_S)
    trainer.stop()
    assert re.search(r"ended with code 2: trainer: --storage needs --executor ray", caplog.text)


@pytest.mark.deep
def test_the_trainer_ends_when_its_bot_is_killed(tmp_path: Path, base: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from bot.embedded_trainer import EmbeddedTrainer\n"
        "trainer = EmbeddedTrainer(Path(sys.argv[1]), {'tiny': sys.argv[2]}); trainer.start()\n"
        "print(trainer._child.pid, flush=True); time.sleep(60)"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "trainer"), str(base)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        log = tmp_path / "trainer" / "trainer.log"
        wait_until(lambda: "trainer ready" in log.read_text(), "the trainer", seconds=START_S)
        parent.kill()
    wait_until(lambda: not is_alive(pid), "its end", seconds=START_S)


def test_the_key_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    data = tmp_path / "trainer"
    before = os.umask(0)
    try:
        key = EmbeddedTrainer(data, {}).key
    finally:
        os.umask(before)
    assert len(key) > 30
    assert stat.S_IMODE((data / "trainer.key").stat().st_mode) == 0o600
    assert EmbeddedTrainer(data, {}).key == key
    assert EmbeddedTrainer(tmp_path / "another", {}).key != key
    assert key not in repr(EmbeddedTrainer(data, {}))


def test_a_key_that_a_full_disk_cut_off_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_length: int) -> str:
        raise OSError(28, "No space left on device")

    data = tmp_path / "trainer"
    with monkeypatch.context() as full, pytest.raises(OSError, match="No space left"):
        full.setattr("bot.embedded_trainer.secrets.token_urlsafe", fail)
        _ = EmbeddedTrainer(data, {}).key
    assert len(EmbeddedTrainer(data, {}).key) > 30


def test_the_trainer_takes_the_configured_port_or_else_a_free_one(tmp_path: Path) -> None:
    assert EmbeddedTrainer(tmp_path, {}, port=8021).base_url == "http://127.0.0.1:8021/v1"
    assert EmbeddedTrainer(tmp_path, {}).port > 1024


def test_the_trainers_log_is_rotated_however_much_it_writes(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 1_000)
    trainer = EmbeddedTrainer(tmp_path / "trainer", {"tiny": str(base)})
    trainer.start()
    try:
        wait_for(trainer)
        for _ in range(40):
            with socket.create_connection(("127.0.0.1", trainer.port)) as client:
                client.sendall(b"no request\r\n\r\n")  # costs a line
                client.recv(1000)
    finally:
        trainer.stop()
    files = list(trainer.data.glob("trainer.log*"))
    assert len(files) == logs.FILES
    assert all(file.stat().st_size <= 1_000 for file in files)


def test_lines_of_the_trainers_older_logs_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "trainer"
    folder.mkdir()
    (folder / "trainer.log.2").write_text('{"ref": "ABCDEFGH", "message": "long ago"}\n')
    assert [line["message"] for line in logs.find(tmp_path, "ABCDEFGH")] == ["long ago"]
