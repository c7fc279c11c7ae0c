"""Runs local-slack as a child process: finds its binary, configures its workspace, and stops it.

local-slack is a third party's Slack on localhost (npm `local-slack-linux-x64`). docs/local-slack.md lists its quirks.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from demo.people import BOT
from demo.workspace import Channel, Person, WorkspaceError

APP = "A0FINETUNE"
TEAM = "T0LOCAL"
BOT_TOKEN = "xoxb-local-slack"  # noqa: S105  opens nothing but this process
APP_TOKEN = "xapp-local-slack"  # noqa: S105
SIGNING_SECRET = "local-slack-signing-secret"  # noqa: S105

_BINARY = "node_modules/local-slack-linux-x64/bin/local-slack"
_READY = re.compile(r"Web UI:\s+http://127\.0\.0\.1:(\d+)")


def find_local_slack() -> Path | None:
    """Returns the binary: FINETUNE_LOCAL_SLACK if set, else the one that `npm i --prefix .cache` installed in the
    project, else None.

    Raises WorkspaceError if the variable names no file.
    """
    named = os.environ.get("FINETUNE_LOCAL_SLACK")
    if named:
        if not Path(named).is_file():
            raise WorkspaceError(f"FINETUNE_LOCAL_SLACK names {named}, which does not exist")
        return Path(named)
    cached = Path(__file__).resolve().parents[2] / ".cache" / _BINARY
    return cached if cached.is_file() else None


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    port: int

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/"

    def stop(self) -> None:
        """Sends SIGTERM, and SIGKILL after five seconds."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def start(binary: Path, folder: Path, people: tuple[Person, ...], channels: tuple[Channel, ...]) -> Running:
    """Starts it on a free port that it chooses. `folder` receives its configuration and its files."""
    config = folder / "workspace.json"
    config.write_text(json.dumps(workspace_config(people, channels), indent=1))
    (folder / "files").mkdir(exist_ok=True)
    where = ["--config", str(config), "--files-dir", str(folder / "files")]
    process = subprocess.Popen(
        [str(binary), *where, "--port", "0", "--base-host", "127.0.0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None  # noqa: S101  a pipe was asked for
    try:
        return Running(process, _port(process.stdout))
    except BaseException:  # a signal, too: nobody else would end it
        Running(process, 0).stop()
        raise


def workspace_config(people: tuple[Person, ...], channels: tuple[Channel, ...]) -> dict[str, object]:
    """Returns its configuration: Socket Mode, and direct messages between the bot and everybody."""
    return {
        "workspace": {"name": "Example Inc.", "domain": "example", "teamId": TEAM},
        "app": {
            "appId": APP,
            "botUserId": BOT.id,
            "botName": BOT.real_name,
            "botToken": BOT_TOKEN,
            "appToken": APP_TOKEN,
            "signingSecret": SIGNING_SECRET,
            "mode": "socket",
        },
        "users": [
            {"id": person.id, "name": person.name, "real_name": person.real_name, "email": person.email}
            for person in people
        ],
        "channels": [_channel(channel) for channel in channels] + [_dm(person) for person in people],
    }


def dm_of(user: str) -> str:
    return f"D{user[1:]}"


def _channel(channel: Channel) -> dict[str, object]:
    members = list(channel.members)
    return {"id": channel.id, "name": channel.name, "is_private": channel.private, "members": members}


def _dm(person: Person) -> dict[str, object]:
    kind = {"is_channel": False, "is_private": True, "is_im": True}
    return {"id": dm_of(person.id), "name": f"dm-{person.name}", "members": [person.id, BOT.id], **kind}


def _port(output: IO[str], seconds: float = 15.0) -> int:
    text = ""
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while selector.select(max(0.0, end - time.monotonic())):
            line = os.read(output.fileno(), 4096).decode(errors="replace")
            text += line
            match = _READY.search(text)
            if match:
                return int(match[1])
            if not line:
                break
    raise WorkspaceError(f"starting local-slack: it printed no address. Its output: {text.strip()!r}")
