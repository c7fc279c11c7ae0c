"""A bot that kills itself before or after a function has done its work: `python -m tests.bot.slack.dying_bot MODULE
FUNCTION WHEN [BODY]`. It serves over HTTP, or handles one command that a socket delivers, whose body is JSON."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from typing import Any

from slack_bolt.adapter.socket_mode.internals import run_bolt_app
from slack_sdk.socket_mode.request import SocketModeRequest

from bot.app import Service
from bot.cli import main
from bot.settings import load_settings

CARRYING_OUT_S = 20.0


def die_at(module_name: str, name: str, when: str) -> None:
    module = importlib.import_module(module_name)
    original = getattr(module, name)

    def cut_off(*args: Any, **kwargs: Any) -> None:
        if when == "after":
            original(*args, **kwargs)
        if when == "after the ack":
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, name, cut_off)


def handle_from_socket(body: dict[str, Any]) -> None:
    service = Service(load_settings())
    run_bolt_app(service.app, SocketModeRequest("slash_commands", "envelope-1", body))
    time.sleep(CARRYING_OUT_S)  # it is killed while it carries out what it has acked


if __name__ == "__main__":
    die_at(*sys.argv[1:4])
    if len(sys.argv) > 4:
        handle_from_socket(json.loads(sys.argv[4]))
    else:
        main(["run"])
