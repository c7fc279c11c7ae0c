"""A forked child process looks to its parent like one that was started as usual."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import forked

FACTS = """
import json, os, resource, sys
print(json.dumps({
    "argv": sys.argv, "arguments": open("/proc/self/cmdline").read().rstrip(chr(0)).split(chr(0)),
    "folder": os.getcwd(), "input": sys.stdin.read(), "is_child": os.getppid() == int(sys.argv[1]),
    "is_leader": (os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()), "umask": os.umask(0),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE), "environment": dict(os.environ),
    "passed": os.pread(int(sys.argv[2]), 99, 0).decode(),
}))
print("an error", file=sys.stderr)
sys.exit(7)
"""
STARTS_ANOTHER = """
import subprocess, sys
with open(__file__) as file:
    command = [sys.executable, "benchmarks/facts.py", "0", str(file.fileno())]
    done = subprocess.run(command, input="", capture_output=True, text=True, pass_fds=[file.fileno()])
sys.exit(str(done.returncode))
"""
CLOSES = """
import os, sys, time
os.close(int(sys.argv[1]))
time.sleep(600)
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are forked on Linux alone")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "facts.py").write_text(FACTS)
    (tmp_path / "benchmarks" / "another.py").write_text(STARTS_ANOTHER)
    (tmp_path / "benchmarks" / "closes.py").write_text(CLOSES)
    (tmp_path / "benchmarks" / "waits.py").write_text("import time; print('up', flush=True); time.sleep(600)")
    return tmp_path


def run_facts(folder: Path, passed: int, **how: Any) -> tuple[int, dict[str, object], str]:
    process = subprocess.run(
        [sys.executable, "benchmarks/facts.py", str(os.getpid()), str(passed), "an argument"],
        input="some words",
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PLANTED": "1"},
        pass_fds=[passed],
        **how,
    )
    return process.returncode, json.loads(process.stdout), process.stderr


@pytest.mark.parametrize("how", [{"start_new_session": True}, {"process_group": 0}, {}])
def test_a_forked_child_looks_like_a_started_one(
    folder: Path, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "passed").write_text("a file")
    before = os.umask(0o027)
    try:
        with (folder / "passed").open() as file:
            by_forking = run_facts(folder, file.fileno(), **how)
            monkeypatch.setattr(subprocess.Popen, "_execute_child", forked.UNCHANGED)
            assert run_facts(folder, file.fileno(), **how) == by_forking
    finally:
        os.umask(before)
    code, facts, error = by_forking
    assert (code, error, facts["is_child"], facts["input"]) == (7, "an error\n", True, "some words")
    assert facts["passed"] == "a file"


def test_a_forked_child_forks_its_own(folder: Path) -> None:
    command = [sys.executable, "benchmarks/another.py"]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (1, "7\n")


def test_a_forked_child_is_ended_by_a_signal_to_its_group(folder: Path) -> None:
    command = [sys.executable, "benchmarks/waits.py"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        os.killpg(child.pid, signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
        assert child.stdout.read() == b""


def test_what_a_forked_child_closes_is_open_nowhere(folder: Path) -> None:
    reader, writer = os.pipe()
    command = [sys.executable, "benchmarks/closes.py", str(writer)]
    with subprocess.Popen(command, cwd=folder, pass_fds=[writer]) as child:
        os.close(writer)
        is_closed, _, _ = select.select([reader], [], [], 60)
        child.kill()
        assert is_closed and os.read(reader, 1) == b""
    os.close(reader)
