"""The files in deploy/ fit the bot. The image is not built, since a container engine may be missing: the Dockerfile's
own steps (pip, command, health check) run without one."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from bot.cli import main
from bot.door_process import ask_door, door_command, door_environment
from bot.process_health import EXIT_HUNG, HEARTBEAT_FILE
from bot.settings import load_settings
from demo.slack_emulator import SlackEmulator
from tests.local.trainer_server import free_port
from tests.prometheus_text import listed_metrics
from trainers.door.worker import DRAIN_S, STOP_S

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
USER = 10001  # the image's
SYSTEM = "/usr/local/bin:/usr/bin:/bin"


@pytest.mark.parametrize("name", ["finetune.service", "finetune-serve.service"])
def test_each_unit_always_restarts_and_keeps_its_files_private(name: str) -> None:
    unit = read_unit(name)
    service = unit["Service"]
    assert (service["Restart"], unit["Unit"]["StartLimitIntervalSec"]) == ("always", "0")
    assert (service["UMask"], service["StateDirectoryMode"]) == ("0077", "0700")
    command = service["ExecStart"].split()
    assert Path(command[0]).name == "finetune" and command[1] in main.commands


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd reads its own units")
def test_systemd_understands_each_unit(tmp_path: Path) -> None:
    units = []
    for path in DEPLOY.glob("*.service"):
        unit = tmp_path / path.name
        unit.write_text(path.read_text().replace("/opt/finetune/bin/finetune", "/bin/true"))
        units.append(str(unit))
    verified = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_what_answers_programs_finds_its_folders_port_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = read_unit("finetune-serve.service")["Service"]
    service = read_services()["serve"]
    state = f"/var/lib/{unit['StateDirectory']}"
    assert unit["WorkingDirectory"] == state == re.findall(r"^WORKDIR (.*)", DOCKERFILE, re.MULTILINE)[0]
    assert service["volumes"] == [f"./state:{state}"]
    # What it reads and writes is below the folder in which it starts, which alone may be written.
    monkeypatch.chdir(tmp_path)
    Path("finetune.toml").touch()
    settings = load_settings({}, Path("finetune.toml"), need_slack=False)
    assert not settings.recipes.is_absolute() and settings.recipes.is_relative_to(settings.data)
    assert str(settings.recipes.resolve()) in door_command(settings)
    name, _, cache = unit["Environment"].partition("=")
    assert cache.startswith(f"/var/cache/{unit['CacheDirectory']}/")
    assert service["environment"][name].startswith(state)
    monkeypatch.setenv(name, cache)
    assert door_environment(settings)[name] == cache

    port = settings.serving.port
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    seconds = float(unit["TimeoutStopSec"])
    assert seconds > DRAIN_S + STOP_S and service["stop_grace_period"] == f"{seconds:.0f}s"
    assert (service["mem_limit"].upper(), str(service["pids_limit"])) == (unit["MemoryMax"], unit["TasksMax"])


@pytest.mark.deep
def test_serve_answers_and_ends_when_its_unit_stops_it(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "finetune.toml").write_text(f'[serving]\naddress = "127.0.0.1:{port}"\n')
    command = [sys.executable, "-c", "from bot.cli import main; main(prog_name='finetune')", "serve"]
    environment = {"PATH": SYSTEM, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as door:
        try:
            assert door.stdout is not None
            assert f"door ready on http://127.0.0.1:{port}" in door.stdout.readline()
            answer = ask_door("127.0.0.1", port)
            assert answer is not None and answer.pid == door.pid, "systemd's main process"
            door.send_signal(signal.SIGTERM)
            assert door.wait(float(read_unit("finetune-serve.service")["Service"]["TimeoutStopSec"])) == 0
            assert ask_door("127.0.0.1", port) is None
        finally:
            door.kill()


def test_the_unit_explains_the_watchdogs_exit_code() -> None:
    assert f"exit code {EXIT_HUNG} is the watchdog's" in (DEPLOY / "finetune.service").read_text()


def read_unit(name: str = "finetune.service") -> configparser.RawConfigParser:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / name)
    return unit


def test_compose_builds_the_image_and_restarts_it() -> None:
    services = read_services()
    for service in services.values():
        context = DEPLOY / service["build"]["context"]
        assert (context / service["build"]["dockerfile"]).is_file()
        assert (service["restart"], service["read_only"]) == ("always", True)
    assert services["serve"]["command"][1] in main.commands


def read_services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return services


def test_every_alarm_reads_a_metric_that_exists_and_has_a_line_of_advice() -> None:
    (group,) = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    advice = (ROOT / "docs" / "operations.md").read_text()
    alarms = {rule["alert"] for rule in group["rules"]}
    assert alarms == set(re.findall(r"^\| `(Finetune\w+)` \|", advice, re.MULTILINE))
    for rule in group["rules"]:
        for name in re.findall(r"finetune_\w+", rule["expr"]):
            assert re.sub("_(bucket|count)$", "", name) in listed_metrics("bot"), rule["alert"]
        assert_rates_are_of_counters(rule["expr"])


def assert_rates_are_of_counters(expression: str) -> None:
    for name in re.findall(r"(?:rate|increase)\((\w+)", expression):
        assert name.endswith(("_total", "_bucket", "_count")), expression
    assert "delta(" not in expression


def test_unit_and_compose_limit_memory_and_processes_alike() -> None:
    unit = read_unit()["Service"]
    service = read_services()["finetune"]
    memory, processes = unit["MemoryMax"], unit["TasksMax"]
    assert (service["mem_limit"].upper(), str(service["pids_limit"])) == (memory, processes)
    half_of_usual = (unit["CPUWeight"], service["cpu_shares"])
    assert half_of_usual == ("50", 512)
    page = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    assert (
        f"limit the bot to {memory[:-1]} GB, {int(processes):,} processes and threads, and half the" in page
    )


def test_the_base_image_can_be_pinned_with_and_without_docker(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    for name in ("Makefile", "deploy/Dockerfile"):
        shutil.copy(ROOT / name, tmp_path / name)
    make = [shutil.which("make") or "make", "pin", "PYTHON=python3"]
    alone = {"PATH": str(tmp_path / "nothing")}
    output = subprocess.run(make, cwd=tmp_path, env=alone, capture_output=True, text=True, check=True).stdout
    assert "docker buildx imagetools inspect python:3.12-slim" in output
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho sha256:0123\n")
    docker.chmod(0o755)
    with_docker = {"PATH": f"{tmp_path}:{SYSTEM}"}
    for _ in range(2):  # a newer digest replaces an older one
        subprocess.run(make, cwd=tmp_path, env=with_docker, check=True)
    lines = (tmp_path / "deploy" / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("FROM")] == ["FROM python:3.12-slim@sha256:0123"]


def test_the_image_has_every_package_and_no_secret() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages | {"deploy/locks"} <= allowed and all((ROOT / name).exists() for name in allowed)
    assert not [
        name for name in allowed - {".env.example"} if name.startswith((".env", "data", "finetune.toml"))
    ]
    links = [path.readlink() for path in (ROOT / "bot" / "resources").iterdir() if path.is_symlink()]
    assert links and {link.name for link in links} <= allowed


def test_the_containers_health_check_reads_the_heartbeat() -> None:
    assert re.search(
        rf"HEALTHCHECK.*\n.*find data/{HEARTBEAT_FILE} -mmin", (DEPLOY / "Dockerfile").read_text()
    )


@pytest.mark.slow
def test_the_images_steps_end_in_a_healthy_bot(tmp_path: Path) -> None:
    """The locked packages are installed. The base image, its read-only files and its mounts are not tested."""
    home, image = tmp_path / "home", tmp_path / "image"
    subprocess.run([public_python(), "-m", "venv", str(image)], check=True, timeout=120)
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PATH": f"{image}/bin:{SYSTEM}", "LOCK": "bot"}
    copy_context(tmp_path / "src")
    (install,) = re.findall(r"^RUN (pip install .*)", DOCKERFILE, re.MULTILINE)
    subprocess.run(
        ["sh", "-ec", install.replace("/src", f"{tmp_path}/src")], env=environment, check=True, timeout=900
    )
    assert not (tmp_path / "src").exists()
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    home.mkdir(mode=0o700)
    with SlackEmulator() as slack:
        (home / "finetune.toml").write_text(settings_for(slack))
        environment |= {
            "HOME": str(home),
            "SLACK_BOT_TOKEN": slack.access.bot_token,
            "SLACK_SIGNING_SECRET": "s",
        }
        give_to_user(home)
        with container(home, environment) as bot:
            wait_for_health(home, environment, bot)
            bot.send_signal(getattr(signal, re.findall(r"^STOPSIGNAL (\w+)", DOCKERFILE, re.MULTILINE)[0]))
            assert bot.wait(timeout=60) == 0


def public_python() -> str:
    """Returns an interpreter that the container's user may run too: one in root's home is root's alone."""
    system = [
        path
        for name in ("python3.12", "python3.13", "python3.11")
        if (path := shutil.which(name, path=SYSTEM))
    ]
    for python in (sys.executable, *system):
        if not is_root() or all(folder.stat().st_mode & 0o001 for folder in Path(python).resolve().parents):
            return python
    return pytest.fail("there is no Python 3.11 to 3.13 that another user may run")


def copy_context(to: Path) -> None:
    """Copies what `COPY . /src` copies: git's files that the ignore file allows."""
    allowed = [
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *allowed], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in listed.rstrip("\0").split("\0"):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to / name, follow_symlinks=False)


def settings_for(slack: SlackEmulator) -> str:
    return (
        f'[slack]\nmode = "http"\nport = 0\nhost = "0.0.0.0"\napi_url = "{slack.access.api_url}"\n'
        '[people]\napprovers = ["U0BEN"]\n[providers.local]\nbase_url = "http://127.0.0.1:9/v1"\n'
        '[serving]\naddress = ""\n'
    )


def is_root() -> bool:
    return os.geteuid() == 0


def give_to_user(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")) if is_root() else ():
        os.chown(path, USER, USER)


@contextmanager
def container(home: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    (command,) = re.findall(r"^CMD \[(.*)\]", DOCKERFILE, re.MULTILINE)
    arguments = [word.strip('" ') for word in command.split(",")]
    user = USER if is_root() else None
    with subprocess.Popen(
        arguments, cwd=home, env=environment, user=user, group=user, extra_groups=[] if user else None
    ) as bot:
        try:
            yield bot
        finally:
            bot.kill()


def wait_for_health(home: Path, environment: dict[str, str], bot: subprocess.Popen[bytes]) -> None:
    (check,) = re.findall(r"^HEALTHCHECK .*CMD (.*)", DOCKERFILE, re.MULTILINE)
    until = time.monotonic() + 120
    while subprocess.run(["sh", "-c", check], cwd=home, env=environment, capture_output=True).returncode:
        assert bot.poll() is None and time.monotonic() < until
        time.sleep(0.5)
