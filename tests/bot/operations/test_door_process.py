"""What answers programs: `finetune run` starts it, finds it again, replaces and ends it, and never takes it along."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bot import door_process
from bot.door_process import DoorAnswer, DoorProcess, StartedDoor, ask_door, door_command, next_step
from bot.settings import Settings, load_settings
from tests.local.trainer_server import free_port
from tests.patience import wait_until

STARTED = StartedDoor(7, "127.0.0.1:8024", "keys and program", predecessor=6)


@pytest.mark.parametrize(
    ("answer", "fingerprint", "step"),
    [
        (None, "keys and program", "start"),
        (DoorAnswer("1", 7, 17, is_kept=True), "keys and program", "nothing"),
        (DoorAnswer("1", 7, 17, is_kept=True), "other keys", "replace"),
        (
            DoorAnswer("1", 7, 17, is_kept=False),
            "keys and program",
            "replace",
        ),  # nobody would restart its worker
        (DoorAnswer("1", 6, 16, is_kept=True), "keys and program", "replace"),  # its successor has failed
        (DoorAnswer("1", 8, 17, is_kept=True), "other keys", "nothing"),  # a unit of systemd started that one
    ],
)
def test_only_our_own_door_is_replaced(answer: DoorAnswer | None, fingerprint: str, step: str) -> None:
    assert next_step(answer, STARTED, fingerprint) == step


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ACME_KEY", "acme-1")
    config = tmp_path / "finetune.toml"
    config.write_text(
        f'[serving]\naddress = "127.0.0.1:{free_port()}"\n'
        '[providers.acme]\ntitle = "Acme"\nbase_url = "http://127.0.0.1:9/v1"\nkey_env = "ACME_KEY"\n'
        'abilities = ["chat"]\n'
    )
    return load_settings({}, config, need_slack=False)


@pytest.fixture
def look_after(settings: Settings) -> Iterator[Callable[[], DoorProcess]]:
    """Looks after the door once, as a bot that has just started does. No door is left behind."""
    bots: list[DoorProcess] = []

    def look() -> DoorProcess:
        bots.append(DoorProcess(settings))
        bots[-1].look()
        return bots[-1]

    yield look
    DoorProcess(replace(settings, serving=replace(settings.serving, address=""))).look()
    for bot in bots:
        for child in bot._children:
            child.wait(60)


def pid_at(settings: Settings) -> int | None:
    answer = ask_door(settings.serving.host, settings.serving.port)
    return answer.pid if answer else None


def answer_at(settings: Settings) -> DoorAnswer:
    answer = ask_door(settings.serving.host, settings.serving.port)
    assert answer is not None
    return answer


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for_pid(settings: Settings, but: int | None = None) -> int:
    def another() -> int | None:
        pid = pid_at(settings)
        return None if pid == but else pid

    return wait_until(another, "a door that answers", seconds=60)


@pytest.mark.deep
def test_the_door_survives_the_bot_and_is_replaced_once_a_key_changes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, look_after: Callable[[], DoorProcess]
) -> None:
    look_after().stop()
    pid = wait_for_pid(settings)
    assert os.getsid(pid) != os.getsid(0), "Ctrl-C in the bot's terminal doesn't reach it"

    again = look_after()
    again.look()
    assert pid_at(settings) == pid and again.trouble is None
    assert again.state == f"answers at http://{settings.serving.address}/v1"
    log = again.log_path.read_text(encoding="utf-8")
    assert "acme-1" not in log and (again.settings.recipes / "door.json").stat().st_mode & 0o077 == 0

    monkeypatch.setenv("ACME_KEY", "acme-2")
    look_after()
    successor = wait_for_pid(settings, but=pid)
    os.kill(successor, signal.SIGKILL)
    wait_until(lambda: not answer_at(settings).is_kept, "the kill", seconds=30)
    orphan = answer_at(settings).worker
    look_after()
    third = wait_for_pid(settings, but=successor)
    # It drains once the third door has told it to. A third that is killed before leaves it answering.
    wait_until(lambda: has_ended(orphan), "the worker whose keeper was killed to end", seconds=60)
    worker = answer_at(settings).worker
    os.kill(third, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: pid_at(settings) is None, "both kills", seconds=60)
    look_after()
    wait_for_pid(settings, but=third)


def test_a_door_that_does_not_answer_is_a_trouble_with_its_log(settings: Settings) -> None:
    elsewhere = replace(settings, serving=replace(settings.serving, start=False))
    door = DoorProcess(elsewhere)
    assert door.trouble is None, "nobody has looked yet"
    door.look()
    assert "nothing answers programs at 127.0.0.1:" in str(door.trouble) and "door.log" in str(door.trouble)
    assert "doesn't answer" in door.state
    off = DoorProcess(replace(settings, serving=replace(settings.serving, address="")))
    off.look()
    assert (off.trouble, off.state) == (None, "off")


def test_a_door_that_still_starts_is_waited_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(door_process, "door_command", lambda settings: sleeper)
    monkeypatch.setattr(door_process, "LOOK_S", 0.0)
    monkeypatch.setattr(door_process, "RESTART_PAUSES_S", (0.0,))
    door = DoorProcess(settings)
    door.look()
    door.look()
    assert len(door._children) == 1
    monkeypatch.setattr(door_process, "LONGEST_START_S", 0.0)
    door.look()
    first, second = door._children
    started = StartedDoor.from_json((settings.recipes / "door.json").read_bytes())
    assert (started.pid, started.predecessor) == (second.pid, first.pid)
    for child in (first, second):
        child.kill()
        child.wait(20)


def test_the_host_name_that_programs_call_is_allowed(settings: Settings) -> None:
    behind_proxy = replace(settings.serving, url="https://Models.example.com/v1")
    command = door_command(replace(settings, serving=behind_proxy))
    assert command[-2:] == ["--allow-host", "models.example.com"]
    assert "--allow-host" not in door_command(settings)
