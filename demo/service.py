"""Runs `finetune run` as a child process, with settings for a local workspace, and ends what it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bot.door_process import ask_door
from bot.embedded_trainer import free_port
from demo.people import BEN
from demo.workspace import BotAccess, WorkspaceError

GRACE_S = 20


class RunningBot:
    """A context manager that runs the bot. `folder` receives settings, database and log; `model` is the base model's
    folder; `approvers` are user ids. If it `serves`, programs can call what is in use."""

    def __init__(
        self,
        folder: Path,
        access: BotAccess,
        model: Path,
        *,
        approvers: tuple[str, ...] = (BEN.id,),
        serves: bool = False,
    ) -> None:
        self._folder = folder
        self._access = access
        self._model = model
        self._approvers = approvers
        self._port = free_port()
        self._serving_port = free_port() if serves else None
        self._process: subprocess.Popen[str] | None = None

    @property
    def request_url(self) -> str:
        """The URL to which a workspace in HTTP mode sends its requests."""
        return f"http://127.0.0.1:{self._port}/slack/events"

    @property
    def call_url(self) -> str:
        """The URL at which programs call what is in use, if the bot serves."""
        return f"http://127.0.0.1:{self._serving_port}/v1"

    @property
    def call_key(self) -> Path:
        """The file with the key that programs use."""
        return self._folder / "data" / "serving" / "call.key"

    @property
    def config(self) -> Path:
        return self._folder / "finetune.toml"

    @property
    def pid(self) -> int:
        assert self._process is not None  # noqa: S101 - entered
        return self._process.pid

    @property
    def log(self) -> Path:
        return self._folder / "finetune.log"

    def __enter__(self) -> RunningBot:
        self.config.write_text(self._settings(), encoding="utf-8")
        access = self._access
        environment = {
            **os.environ,
            "FINETUNE_CONFIG": str(self.config),
            "SLACK_BOT_TOKEN": access.bot_token,
            "SLACK_APP_TOKEN": access.app_token or "",
            "SLACK_SIGNING_SECRET": access.signing_secret,
            "PYTHONUNBUFFERED": "1",
        }
        with self.log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bot", "run"],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        try:
            self._wait_until_ready()
        except BaseException:  # a signal, too: nobody else would end it
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._end_door()

    def _end_door(self) -> None:
        """Ends the process that answers programs, which outlives the bot."""
        if self._serving_port is None:
            return
        door = ask_door("127.0.0.1", self._serving_port)
        if door is None:
            return
        os.kill(door.pid, signal.SIGTERM)
        end = time.monotonic() + GRACE_S
        while ask_door("127.0.0.1", self._serving_port) and time.monotonic() < end:
            time.sleep(0.1)

    def check_alive(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            raise WorkspaceError(f"finetune run has ended; see its log {self.log}")

    def _wait_until_ready(self) -> None:
        assert self._process is not None  # noqa: S101 - started above
        assert self._process.stdout is not None  # noqa: S101
        if not self._process.stdout.readline():
            self._process.wait()
            raise WorkspaceError(
                f"finetune run did not start: {self.log.read_text(encoding='utf-8').strip()}"
            )

    def _settings(self) -> str:
        mode = "socket" if self._access.app_token else "http"
        serving = f"127.0.0.1:{self._serving_port}" if self._serving_port else ""
        return f"""data = "data"

[slack]
mode = "{mode}"
port = {self._port}
api_url = "{self._access.api_url}"
blocks = "classic"

[people]
approvers = {json.dumps(self._approvers)}

[serving]
address = "{serving}"

[budget]
monthly_usd = "20"

[trainer]
usd_per_hour = "0.10"
tokens_per_second = 450

[trainer.models]
"smollm2-135m" = "{self._model.resolve()}"
"""
