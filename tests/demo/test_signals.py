"""A demo that is told to end leaves no process behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.local.conftest import make_model, make_tokenizer
from tests.patience import wait_until

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120


def processes_of(folder: Path) -> list[str]:
    """The command lines of running processes whose environment or arguments name the folder."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            named = command + (process / "environ").read_bytes()
        except OSError:  # it has ended, or is somebody else's
            continue
        if os.fsencode(folder) in named:
            lines.append(command.replace(b"\0", b" ").decode())
    return lines


@pytest.mark.deep
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_a_signal_ends_the_bot_its_trainer_and_the_workspace_too(tmp_path: Path, number: int) -> None:
    model = tmp_path / "model"
    make_tokenizer(model)
    make_model(model)
    folder = tmp_path / "demo"
    command = [sys.executable, "-m", "demo", "--stay", "--folder", str(folder), "--model", str(model)]
    with (tmp_path / "output").open("w") as output:
        demo = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        wait_until(lambda: "trainers.local" in "".join(processes_of(folder)), "the trainer")
        assert "bot run" in "".join(processes_of(folder))
        demo.send_signal(number)
        assert demo.wait(PATIENCE_S) == 128 + number, (tmp_path / "output").read_text()
    finally:
        demo.kill()
        demo.wait()
    wait_until(lambda: not processes_of(folder), "the end of the others")
