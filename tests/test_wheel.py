"""The wheel has the files that the product reads at run time, and works without a checkout nearby."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.bot.cli_runner import write_tickets

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import setuptools.build_meta as build, sys; print(build.build_wheel(sys.argv[1]))"
NEEDED = {
    "bot/resources/manifest.yml",
    "bot/resources/finetune.example.toml",
    "bot/resources/env.example",
    "bot/resources/DroidSansFallback.ttf",
    "bot/resources/report.css",
    "trainers/providers.toml",
    "trainers/presets.toml",
    "trainers/local/engines/pins/unsloth-2026.10.9.txt",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's contents, unpacked as pip would."""
    source = tmp_path_factory.mktemp("source")
    skip = shutil.ignore_patterns(".*cache*", ".venv", ".git", "__pycache__", "*.egg-info", "tests", "data")
    shutil.copytree(ROOT, source, symlinks=True, ignore=skip, dirs_exist_ok=True)
    wheels = tmp_path_factory.mktemp("wheels")
    subprocess.run([sys.executable, "-c", BUILD, str(wheels)], cwd=source, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.deep
def test_the_wheel_has_the_files_read_at_run_time_and_no_demo(installed: Path) -> None:
    names = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert names >= NEEDED
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"bot", "storage", "trainers"}


@pytest.mark.deep
def test_commands_work_without_a_checkout(installed: Path, tmp_path: Path) -> None:
    imported = run(installed, tmp_path, "-c", "import bot; print(bot.__file__)")
    assert Path(imported.stdout.strip()).is_relative_to(installed)
    write_tickets(tmp_path / "tickets.csv", 60)
    for command in (("init", "--help"), ("prices",), ("check", "tickets.csv")):
        result = run(installed, tmp_path, "-m", "bot", *command)
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr and result.stdout


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
