"""`python -m trainers.door --folder DIR --address HOST:PORT`: the door as a process.

Prints one line when it answers. A second start with the same folder takes the socket over from the first, which then
drains. If it can't start, it exits with code 2 and a sentence that says why.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
import uvicorn

from trainers.door.handover import HandoverError, Predecessor, Successors, find_predecessor, only_successor
from trainers.door.server import DoorState, build_app
from trainers.http.connections import (
    AcceptErrorFilter,
    address_of,
    allow_more_files,
    listen,
    server_config,
    why_no_port,
)
from trainers.log_lines import write_log
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.values import Upstreams

DEFAULT_ADDRESS = "127.0.0.1:8021"
DRAIN_S = 5.0  # for connections to end with an answer
STOP_S = 80  # for answers under way, when the door is stopped; systemd kills after 90
ANSWER_S = 600.0  # OpenAI's clients wait as long

log = logging.getLogger(__name__)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--folder", type=click.Path(path_type=Path), required=True, help="The folder of what is in use."
)
@click.option(
    "--address", default=DEFAULT_ADDRESS, show_default=True, help="HOST:PORT. Port 0 picks a free one."
)
@click.option(
    "--allow-host", multiple=True, help="Another host name that programs may use for this door. Repeatable."
)
@click.option(
    "--answer-seconds",
    type=click.FloatRange(1, 3600),
    default=ANSWER_S,
    show_default=True,
    help="How long a provider may take for an answer, or for the next part of a stream.",
)
@click.option(
    "--log",
    "log_path",
    type=click.Path(path_type=Path),
    help="A file for the log, which is rotated; else stderr.",
)
def main(
    folder: Path, address: str, allow_host: tuple[str, ...], answer_seconds: float, log_path: Path | None
) -> None:
    """Answer programs that call team/NAME with what is in use."""
    os.umask(0o077)
    allow_more_files()
    host, port = _parse_address(address)
    recipes = RecipeFolder(folder)
    _write_log(_keys(recipes), log_path)
    state = DoorState()
    app = build_app(recipes, frozenset({host.lower(), *map(str.lower, allow_host)}), answer_seconds, state)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again after its shutdown: exit 0 then
    with only_successor(folder) as starting:
        predecessor = _find_predecessor(folder)
        listener = _take_or_open(predecessor, host, port)
        server = DoorServer(server_config(app, STOP_S), state, answer_seconds)
        successors = Successors(folder, listener, host, server.hand_over)

        def begin() -> None:
            successors.open()
            if predecessor is not None:
                predecessor.release()
            starting.close()
            print(f"door ready on {address_of(host, listener)} · key in {recipes.key_path}", flush=True)

        server.on_start = begin
        server.run(sockets=[listener])


def _parse_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or int(port) > 65535:
        _refuse(f"--address {address}: write it as HOST:PORT, for example {DEFAULT_ADDRESS}")
    return host, int(port)


def _keys(folder: RecipeFolder) -> list[str]:
    """Returns the keys that no line of the log may have. Creates the key of programs, if it is missing."""
    try:
        keys = [folder.call_key()]
    except OSError as error:
        _refuse(f"the folder {folder.root} can't be used: {error.strerror}. Name another with --folder.")
    if folder.upstreams_path.exists():
        for upstream in Upstreams.from_json(folder.upstreams_path.read_bytes()).upstreams:
            keys.append(os.environ.get(upstream.key_variable or "", ""))
    return keys


def _write_log(keys: list[str], path: Path | None) -> None:
    try:
        write_log(keys, AcceptErrorFilter(), path=path)
    except OSError as error:
        _refuse(f"the log {path} can't be written: {error.strerror}. Name another with --log.")


def _find_predecessor(folder: Path) -> Predecessor | None:
    try:
        return find_predecessor(folder)
    except HandoverError as error:
        _refuse(f"{error}. Stop it, then start again.")


def _take_or_open(predecessor: Predecessor | None, host: str, port: int) -> socket.socket:
    """Returns the running door's socket if it is the right one, or a new one."""
    if predecessor is not None:
        if predecessor.host == host and port in (0, predecessor.port):
            log.info("taking over from the door with the process id %s", predecessor.pid)
            return predecessor.listener
        predecessor.listener.close()
    try:
        return listen(host, port)
    except OSError as error:
        _refuse(f"{why_no_port(host, port, error)} Choose another --address.")


class DoorServer(uvicorn.Server):
    """A server that drains before it ends: it closes each connection with the next answer, for up to DRAIN_S, then
    waits for the answers under way. Without that, connections would be closed with requests on their way."""

    def __init__(self, config: uvicorn.Config, state: DoorState, answer_s: float) -> None:
        super().__init__(config)
        self.on_start: Callable[[], None] = lambda: None
        self._state = state
        self._answer_s = answer_s

    def hand_over(self) -> None:
        """Ends the server, from any thread. There is no hurry, since another one answers."""
        self.config.timeout_graceful_shutdown = int(self._answer_s)
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        log.info("stopping: answers under way have %s s", STOP_S)
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self._state.is_draining = True
        until = time.monotonic() + DRAIN_S
        while self.server_state.connections and time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def _refuse(sentence: str) -> NoReturn:
    click.echo(f"door: {sentence}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main(prog_name="python -m trainers.door")
