"""A forked child process looks to its parent like one that was started as usual."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked

FACTS = """
import json, os, resource, sys
print(json.dumps({
    "argv": sys.argv, "arguments": open("/proc/self/cmdline").read().rstrip(chr(0)).split(chr(0)),
    "folder": os.getcwd(), "input": sys.stdin.read(), "is_child": os.getppid() == int(sys.argv[1]),
    "is_leader": (os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()), "umask": os.umask(0),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE), "environment": dict(os.environ),
}))
print("an error", file=sys.stderr)
sys.exit(7)
"""
STARTS_ANOTHER = """
import subprocess, sys
done = subprocess.run([sys.executable, "benchmarks/facts.py", *sys.argv[1:]], input="", capture_output=True, text=True)
sys.exit(str(done.returncode))
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are forked on Linux alone")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "facts.py").write_text(FACTS)
    (tmp_path / "benchmarks" / "another.py").write_text(STARTS_ANOTHER)
    (tmp_path / "benchmarks" / "waits.py").write_text("import time; print('up', flush=True); time.sleep(600)")
    return tmp_path


def run_facts(folder: Path, *, own_session: bool) -> tuple[int, dict[str, object], str]:
    process = subprocess.run(
        [sys.executable, "benchmarks/facts.py", str(os.getpid()), "an argument"],
        input="some words",
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PLANTED": "1"},
        start_new_session=own_session,
    )
    return process.returncode, json.loads(process.stdout), process.stderr


@pytest.mark.parametrize("own_session", [True, False])
def test_a_forked_child_looks_like_a_started_one(
    folder: Path, own_session: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o027)
    try:
        by_forking = run_facts(folder, own_session=own_session)
        monkeypatch.setattr(subprocess.Popen, "_execute_child", forked.UNCHANGED)
        assert run_facts(folder, own_session=own_session) == by_forking
    finally:
        os.umask(before)
    code, facts, error = by_forking
    assert (code, error, facts["is_child"], facts["input"]) == (7, "an error\n", True, "some words")


def test_a_forked_child_forks_its_own(folder: Path) -> None:
    process = subprocess.run(
        [sys.executable, "benchmarks/another.py", "0"], cwd=folder, capture_output=True, text=True
    )
    assert (process.returncode, process.stderr) == (1, "7\n")


def test_a_forked_child_is_ended_by_a_signal_to_its_group(folder: Path) -> None:
    command = [sys.executable, "benchmarks/waits.py"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        os.killpg(child.pid, signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
        assert child.stdout.read() == b""
