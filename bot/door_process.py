"""The process that answers programs at [serving] address: started by `finetune run` if none answers, restarted when it
dies, and replaced by a successor when its program or its keys have changed. It goes on when the bot ends, so that a
restart of the bot is no outage.

A door that somebody else started, such as a unit of systemd, is left alone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import trainers
from bot.settings import Settings
from trainers.host import child_environment
from trainers.json_values import JsonValue
from trainers.recipes.folder import RecipeFolder, replace_file

STARTED_FILE = "door.json"
LOG_FILE = "door.log"
OUTPUT_FILE = "door.out"
LOOK_S = 5.0
ANSWER_S = 3.0
RESTART_PAUSES_S = (1.0, 2.0, 5.0, 15.0, 60.0)
LONGEST_START_S = 120.0  # it loads encoders first, and gives up by itself before

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DoorAnswer:
    """What a door says of itself at /healthz. If `pid` died, its `worker` goes on alone and is no longer kept: nobody
    would start another."""

    version: str
    pid: int
    worker: int
    is_kept: bool


@dataclass(frozen=True)
class StartedDoor(JsonValue):
    """The door that the bot started last. `fingerprint` covers its program, its options and its keys, and reveals none
    of them. `predecessor` is the process id of the one that answers until this one does, 0 if there was none."""

    pid: int = 0
    address: str = ""
    fingerprint: str = ""
    predecessor: int = 0


Step = Literal["nothing", "start", "replace"]


def next_step(answer: DoorAnswer | None, started: StartedDoor, fingerprint: str) -> Step:
    """Decides what to do about the door at our address, which has answered like this. `fingerprint` is that of the door
    that we would start."""
    if answer is None:
        return "start"
    if answer.pid == started.predecessor:
        return "replace"
    is_ours = answer.pid == started.pid
    if is_ours and (started.fingerprint != fingerprint or not answer.is_kept):
        return "replace"
    return "nothing"


def ask_door(host: str, port: int) -> DoorAnswer | None:
    """Returns what the door at this address says of itself, None if none answers there."""
    connection = HTTPConnection(host, port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        said_of_itself = json.loads(response.read())
        return DoorAnswer(
            version=str(said_of_itself["version"]),
            pid=int(said_of_itself["pid"]),
            worker=int(said_of_itself["worker"]),
            is_kept=bool(said_of_itself["is_kept"]),
        )
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def door_environment(settings: Settings) -> dict[str, str]:
    """Returns the environment of the door: what every child inherits, and the keys of the providers that it may ask."""
    return child_environment(*_key_names(settings))


def door_command(settings: Settings) -> list[str]:
    folder = settings.recipes.resolve()
    command = [
        sys.executable,
        "-m",
        "trainers.door",
        "--folder",
        str(folder),
        "--address",
        settings.serving.address,
    ]
    # A proxy passes on the host name that programs call.
    name = urlsplit(settings.serving.url).hostname
    if name:
        command += ["--allow-host", name]
    return command


@dataclass
class DoorProcess:
    """`environment` is captured when this object is made: the bot takes the keys out of its own afterwards."""

    settings: Settings
    environment: Mapping[str, str] = field(init=False, repr=False)
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _newest: subprocess.Popen[bytes] | None = None
    _newest_since: float = 0.0
    _failures: int = 0
    _next_start: float = 0.0
    _answers: bool = True  # until a look shows otherwise
    _stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.environment = door_environment(self.settings)

    def start(self) -> None:
        """Begins to look after the door, in a thread."""
        threading.Thread(target=self._watch, name="door", daemon=True).start()

    def stop(self) -> None:
        """Looks after it no more. The door itself goes on."""
        self._stopping.set()

    @property
    def trouble(self) -> str | None:
        """What is wrong with the door, by the last look; None if it answers, or if there is to be none."""
        if not self.settings.serving.address or self._answers:
            return None
        return f"nothing answers programs at {self.settings.serving.address}; its log is {self.log_path}"

    @property
    def state(self) -> str:
        """For /healthz."""
        serving = self.settings.serving
        if not serving.address:
            return "off"
        if self._answers:
            return f"answers at {serving.base_url}"
        return f"doesn't answer at {serving.address}"

    @property
    def log_path(self) -> Path:
        return self.settings.recipes / LOG_FILE

    def look(self) -> None:
        """Starts the door, or its successor, if it is time for one."""
        serving = self.settings.serving
        if not serving.address:
            self._end_started()
            return
        if not serving.start:
            self._answers = ask_door(serving.host, serving.port) is not None
            return
        # Those that have ended are no zombies then; one that was replaced may still answer its last calls.
        self._children = [child for child in self._children if child.poll() is None]
        fingerprint = self._fingerprint()
        answer = ask_door(serving.host, serving.port)
        self._answers = answer is not None
        earlier = self._read_started()
        step = next_step(answer, earlier, fingerprint)
        if step == "nothing":
            self._failures = 0
        elif time.monotonic() >= self._next_start and not self._is_starting():
            pause = RESTART_PAUSES_S[min(self._failures, len(RESTART_PAUSES_S) - 1)]
            self._failures += 1
            self._next_start = time.monotonic() + pause + LOOK_S
            predecessor = earlier.pid
            if answer is not None:
                predecessor = answer.pid
            self._spawn(fingerprint, predecessor)

    def _is_starting(self) -> bool:
        """True if the door that was started last may still come to answer. Another one would only wait for it."""
        if self._newest is None or self._newest.poll() is not None:
            return False
        return time.monotonic() - self._newest_since < LONGEST_START_S

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except OSError as error:  # no process, no memory or no disk now: the next look tries again
                log.error("starting the process that answers programs: %s", error)
            self._stopping.wait(LOOK_S)

    def _spawn(self, fingerprint: str, predecessor: int) -> None:
        folder = self.settings.recipes
        RecipeFolder(folder).call_key()  # which creates the folder too
        # What it prints before its log is open, such as why it can't start. The log itself is rotated.
        with (folder / OUTPUT_FILE).open("wb") as output:
            child = subprocess.Popen(
                [*door_command(self.settings), "--log", str(self.log_path.resolve())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
                start_new_session=True,  # Ctrl-C in the bot's terminal must not end it
            )
        self._children.append(child)
        self._newest = child
        self._newest_since = time.monotonic()
        started = StartedDoor(child.pid, self.settings.serving.address, fingerprint, predecessor)
        replace_file(folder / STARTED_FILE, started.to_json())
        log.info("started the process that answers programs at %s, pid %s", started.address, started.pid)

    def _end_started(self) -> None:
        """Ends the door that the bot had started, once the settings say that there should be none."""
        started = self._read_started()
        if not started.pid:
            return
        host, _, port = started.address.rpartition(":")
        answer = ask_door(host.strip("[]"), int(port))
        # Its number may belong to another process by now.
        if answer is not None and answer.pid in (started.pid, started.predecessor):
            os.kill(answer.pid if answer.is_kept else answer.worker, signal.SIGTERM)
        self._started_path.unlink(missing_ok=True)

    @property
    def _started_path(self) -> Path:
        return self.settings.recipes / STARTED_FILE

    def _read_started(self) -> StartedDoor:
        try:
            return StartedDoor.from_json(self._started_path.read_bytes())
        except FileNotFoundError:
            return StartedDoor()

    def _fingerprint(self) -> str:
        """Returns a hash of everything for which a running door has to be replaced. It is keyed, so that nobody can try
        out keys on it."""
        keys = [self.environment.get(name, "") for name in _key_names(self.settings)]
        text = json.dumps([_hash_program(), door_command(self.settings), keys])
        secret = RecipeFolder(self.settings.recipes).call_key()
        return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def _key_names(settings: Settings) -> list[str]:
    return [row.provider.key_env for row in settings.providers if row.provider.key_env]


@cache
def _hash_program() -> str:
    """Returns a hash of the code that the door runs, which an update changes whatever it calls itself. It is that of
    the bot's own version: files that change under a running bot are not read again."""
    folder = Path(trainers.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        if not path.is_relative_to(folder / "local"):
            digest.update(path.read_bytes())
    return digest.hexdigest()
