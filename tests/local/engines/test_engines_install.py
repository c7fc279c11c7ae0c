"""Installs all three engines and trains with each: about 10 GB, 10 minutes and the network."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.local.engines import stories
from tests.local.trainer_server import wait_for
from trainers.local.engines.catalog import ON_THIS_MACHINE

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_THIS_MACHINE)
def test_an_engine_is_installed_trains_and_is_removed(
    name: str, tmp_path: Path, tiny_model_dir: Path
) -> None:
    command = [sys.executable, "-m", "trainers.local.engines", "--data", str(tmp_path)]
    interrupt(command, name, tmp_path / "engines" / name / "install.log")
    done = subprocess.run([*command, "install", name], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with stories.start_trainer(tmp_path, tmp_path / "engines", tiny_model_dir) as client:
        stories.check_same_plan_as_builtin(client, name)
    subprocess.run([*command, "remove", name], cwd=ROOT, check=True)
    assert not (tmp_path / "engines" / name).exists()


def interrupt(command: list[str], name: str, log: Path) -> None:
    """Presses Ctrl-C in the middle. The next call continues from there."""
    first = subprocess.Popen([*command, "install", name], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: log.exists() and log.read_text().count("Collecting ") > 10, bool, seconds=300)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    assert (first.returncode, errors.splitlines()[-1]) == (
        2,
        "Stopped. Run the same command again to continue.",
    )
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "not installed (incomplete; the command continues it)" in listing
