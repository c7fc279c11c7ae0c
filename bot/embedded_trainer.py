"""Our own trainer as a child process of `finetune run`: started on loopback, restarted when it dies, stopped with the
bot."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from bot import logs
from bot.settings import Settings
from trainers.host import trainer_environment
from trainers.models.base_models import why_not_served

RESTART_PAUSES_S = (1, 2, 5, 15, 60)
STEADY_S = 600.0  # a trainer that ran for longer is restarted after the shortest pause again
GRACE_S = 10
READ_S = 2.0  # a grandchild may keep the pipe open for longer
KEY_VARIABLE = "FINETUNE_TRAINER_KEY"

log = logging.getLogger(__name__)


@dataclass
class EmbeddedTrainer:
    """`models` are folders or hub ids by name. `port` 0 chooses a free port. `arguments` are added to the command line.
    `environment` is captured when this object is made. The output goes to `data`/trainer.log, which is rotated."""

    data: Path
    models: Mapping[str, str]
    port: int = 0
    slots: int = 1
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(init=False, repr=False)
    _child: subprocess.Popen[bytes] | None = None
    _log: logging.Handler = field(default_factory=logging.NullHandler)
    _reader: threading.Thread | None = None
    _last_line: str = ""
    _stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.port = self.port or free_port()
        self.environment = trainer_environment(self.arguments)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def key(self) -> str:
        """The trainer's API key; created at first use in a file that only this user can read."""
        path = self.data / "trainer.key"
        if not path.exists():
            self.data.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".tmp")  # a full disk must not leave an empty key
            aside.unlink(missing_ok=True)
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(32))
            aside.rename(path)
        return path.read_text(encoding="utf-8").strip()

    def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        self._log = logs.rotating_handler(self.data / "trainer.log")
        self._child = self._spawn()
        threading.Thread(target=self._keep_alive, name="embedded-trainer", daemon=True).start()

    def stop(self) -> None:
        with self._lock:  # from here on no new child is started
            self._stopping.set()
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        _close_input(self._child)
        if self._reader is not None:
            self._reader.join(READ_S)
        self._log.close()

    def _keep_alive(self) -> None:
        deaths = 0
        while not self._stopping.is_set() and self._child is not None:
            began = time.monotonic()
            code = self._child.wait()
            _close_input(self._child)
            if self._stopping.is_set():
                return
            if time.monotonic() - began > STEADY_S:
                deaths = 0
            pause = RESTART_PAUSES_S[min(deaths, len(RESTART_PAUSES_S) - 1)]
            log.error(
                "the trainer ended with code %s: %s; restarting it in %s s",
                code,
                self._read_last_line(),
                pause,
            )
            deaths += 1
            self._stopping.wait(pause)
            with self._lock:
                if not self._stopping.is_set():
                    try:
                        self._child = self._spawn()
                    except OSError as error:  # no process or no memory now: the next round tries again
                        log.error("the trainer could not be started: %s", error)

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "trainers.local"]
        command += ["--port", str(self.port), "--data", str(self.data), "--slots", str(self.slots)]
        for name, where in self._usable_models():
            command += ["--model", f"{name}={where}"]
        command += [*self.arguments, "--exit-with-parent"]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # if this process dies, the pipe closes and the child ends
            stdout=subprocess.PIPE,  # not the log file itself, which could not be rotated while the child has it open
            stderr=subprocess.STDOUT,
            env={**self.environment, KEY_VARIABLE: self.key},
        )
        self._reader = threading.Thread(target=self._copy_output, args=(child,), daemon=True)
        self._reader.start()
        return child

    def _usable_models(self) -> Iterator[tuple[str, str]]:
        """Yields the models without those that the trainer would refuse: one bad row must not stop the others."""
        for name, where in self.models.items():
            why = why_not_served(name, where)
            if why is None:
                yield name, where
            else:
                log.error("the base model %s of [trainer.models] is left out: %s", name, why)

    def _copy_output(self, child: subprocess.Popen[bytes]) -> None:
        """Copies the child's output to the log until it ends. On a full disk lines are lost (`handle` raises nothing),
        and the child goes on."""
        assert child.stdout is not None  # noqa: S101 - a pipe
        with child.stdout:
            for line in child.stdout:
                text = line.decode(errors="replace").rstrip("\n")
                self._last_line = text.strip() or self._last_line
                self._log.handle(logging.makeLogRecord({"msg": text}))

    def _read_last_line(self) -> str:
        if self._reader is not None:
            self._reader.join(READ_S)
        if not self._last_line:
            return "it printed nothing"
        return logs.words(self._last_line)


def missing_packages() -> tuple[str, ...]:
    """Returns the packages of the extra 'local' that our own trainer needs and that are not installed."""
    needed = ("torch", "transformers", "peft", "datasets", "starlette", "uvicorn")
    return tuple(name for name in needed if find_spec(name) is None)


def own_keys(embedded: EmbeddedTrainer | None) -> Mapping[str, str]:
    """Returns our own trainer's key by its address."""
    return {embedded.base_url: embedded.key} if embedded else {}


def with_trainer_address(settings: Settings, embedded: EmbeddedTrainer) -> Settings:
    """Returns the settings with the trainer's address in the rows of the providers that it serves."""
    rows = []
    for row in settings.providers:
        if row.is_started_by_us:
            row = row.at_address(embedded.base_url)
        rows.append(row)
    return replace(settings, providers=tuple(rows))


def _close_input(child: subprocess.Popen[bytes]) -> None:
    if child.stdin is not None:
        child.stdin.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
