"""The trainer as a process: its first line, refusals to start, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette

from tests.local.trainer_server import (
    KEY,
    ROOT,
    close,
    ready_url,
    serve_in_process,
    serve_in_thread,
    start_process,
    upload,
    wait_for,
)
from trainers.http.connections import server_config
from trainers.http.sockets import listen
from trainers.local import __main__ as trainer_main


def refuse_to_start(*arguments: str, key: str = "k") -> str:
    """Returns the trainer's standard error after it exits with code 2."""
    done = subprocess.run(
        [sys.executable, "-m", "trainers.local", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
        env={**os.environ, "FINETUNE_TRAINER_KEY": key},
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr.strip()


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = refuse_to_start("--data", str(tmp_path), "--port", str(port))
    assert error == (
        f"trainer: port {port} on 127.0.0.1 cannot be used: Address already in use. "
        "Try another --port; 0 picks a free one."
    )


def test_a_trainer_whose_shutdown_hangs_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(trainer_main, "LONGEST_SHUTDOWN_S", 0.0)
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    # It never runs, so nothing else ends it.
    server = trainer_main.Server(server_config(Starlette(), 1), "ready")
    server.handle_exit(signal.SIGTERM, None)
    assert server.should_exit
    assert ended.wait(30)


def test_accepted_connections_use_tcp_nodelay() -> None:
    with listen("127.0.0.1", 0) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert client.fileno() > 0


@pytest.mark.deep
@pytest.mark.parametrize(
    ("data", "model", "error"),
    [
        ("data", "toy=./no/such/folder", "model toy: ./no/such/folder is neither a folder here nor a hub id"),
        ("data", "toy=HERE", "model toy: the folder HERE has no config.json with *.safetensors files beside"),
        ("data", "toy", "--model toy: write it as NAME=FOLDER_OR_HUB_ID"),
        ("file", "", "the data folder HERE/file cannot be used: "),
    ],
)
def test_unusable_models_and_data_folders_are_refused(
    tmp_path: Path, data: str, model: str, error: str
) -> None:
    (tmp_path / "file").touch()
    here = str(tmp_path)
    arguments = ("--model", model.replace("HERE", here)) if model else ()
    assert refuse_to_start("--data", f"{here}/{data}", "--port", "0", *arguments).startswith(
        f"trainer: {error.replace('HERE', here)}"
    )


def test_a_second_trainer_with_the_same_data_is_refused(tmp_path: Path) -> None:
    with serve_in_process(tmp_path):
        error = refuse_to_start("--data", str(tmp_path), "--port", "0")
    assert error == (
        f"trainer: another trainer is using {tmp_path}. Stop it, or name another folder with --data."
    )


def test_a_key_is_created_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "trainers.local", "--port", "0", "--data", str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "FINETUNE_TRAINER_KEY"},
        )
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        process.terminate()
        assert process.wait(20) == 0
        close(process)
        files = [tmp_path / name for name in ("trainer.key", "call.key")]
        places = f"key in {files[0]} · key for calls in {files[1]}"
        assert re.fullmatch(rf"trainer ready on http://127.0.0.1:\d+/v1 · models: none · {places}", line)
        assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600, 0o600]
        keys.append([file.read_text().strip() for file in files])
    assert keys[0] == keys[1]
    assert keys[0][0] != keys[0][1]
    assert min(len(key) for key in keys[0]) > 40


def test_stored_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    with serve_in_process(tmp_path / "data") as served, served.client() as client:
        upload(client)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").rglob("*")}
    assert len(modes) > 4
    assert [path for path, mode in modes.items() if mode & 0o077] == []


def test_a_trainer_ends_when_its_parent_closes_the_pipe(tmp_path: Path) -> None:
    process = start_process(tmp_path)
    ready_url(process)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 0
    close(process)


def test_a_killed_trainers_data_stays_usable(tmp_path: Path) -> None:
    process = start_process(tmp_path)
    ready_url(process)
    process.kill()
    process.wait(10)
    close(process)
    with serve_in_process(tmp_path) as served, served.client() as client:
        assert list(client.files.list()) == []


def test_the_server_is_imported_without_training_libraries() -> None:
    code = "import sys, trainers.local.api.server, trainers.local.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30, capture_output=True, text=True)
    assert done.returncode == 0
    assert not {"torch", "transformers", "peft", "datasets"} & set(done.stdout.split())


@pytest.mark.usefixtures("real_processes")
def test_an_idle_trainer_has_no_torch_loaded(tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs Linux's /proc")
    with serve_in_process(tmp_path) as served, served.client() as client:
        assert list(client.models.list()) == []
        assert served.process is not None
        loaded = wait_for(Path(f"/proc/{served.process.pid}/maps").read_text, bool)
    assert "libtorch" not in loaded


def test_an_upload_that_breaks_off_is_not_stored_and_logs_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serve_in_thread(tmp_path, {}) as served, served.client() as client:
        address = urlsplit(served.url)
        head = (
            f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 9000\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        with socket.create_connection((str(address.hostname), address.port or 0)) as caller:
            caller.sendall(head.encode())
        assert list(client.files.list()) == []
    assert "Traceback" not in caplog.text and "ERROR" not in caplog.text
