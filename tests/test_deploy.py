"""What deploy/ says of the bot is true of it. The image itself is built where Docker is."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path

import yaml

from bot.cli import main
from bot.process_health import EXIT_HUNG, HEARTBEAT_FILE

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"


def test_the_unit_starts_the_bot_again_whatever_ended_it_and_keeps_its_files_private() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "finetune.service")
    service = unit["Service"]
    assert (service["Restart"], unit["Unit"]["StartLimitIntervalSec"]) == ("always", "0")
    assert (service["UMask"], service["StateDirectoryMode"]) == ("0077", "0700")
    command = service["ExecStart"].split()
    assert Path(command[0]).name == "finetune" and command[1] in main.commands
    assert f"exit code {EXIT_HUNG} is the watchdog's" in (DEPLOY / "finetune.service").read_text()


def test_compose_builds_what_is_there_and_starts_it_again() -> None:
    (service,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
    context = DEPLOY / service["build"]["context"]
    assert (context / service["build"]["dockerfile"]).is_file()
    assert (service["restart"], service["read_only"]) == ("always", True)


def test_the_image_holds_every_package_and_no_secret() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages | {"deploy/locks"} <= let_in and all((ROOT / name).exists() for name in let_in)
    assert not [name for name in let_in if name.startswith((".env", "data", "finetune.toml"))]


def test_the_container_s_health_is_the_heartbeat() -> None:
    assert re.search(
        rf"HEALTHCHECK.*\n.*find data/{HEARTBEAT_FILE} -mmin", (DEPLOY / "Dockerfile").read_text()
    )
