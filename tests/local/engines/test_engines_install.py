"""Installs all three engines and trains by each: about 10 GB, 10 minutes and the network. `pytest -m slow`"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.local.engines import stories
from trainers.local.engines.catalog import ENGINES

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ENGINES))
def test_an_engine_installs_trains_answers_and_goes(name: str, tmp_path: Path, tiny_model_dir: Path) -> None:
    command = [sys.executable, "-m", "trainers.local.engines", "--data", str(tmp_path)]
    done = subprocess.run([*command, "install", name], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with stories.trainer_with(tmp_path, tmp_path / "engines", tiny_model_dir) as client:
        stories.same_plan_as_builtin(client, name)
    subprocess.run([*command, "remove", name], cwd=ROOT, check=True)
    assert not (tmp_path / "engines" / name).exists()
