"""`python -m trainers.door.worker`: answers on the socket that the door's own process keeps (__main__.py). Prints one
line when it answers, and drains before it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import click
import uvicorn

from trainers.door.handover import Successors
from trainers.door.server import DoorState, build_app
from trainers.http.connections import server_config
from trainers.http.sockets import AcceptErrorFilter, address_of
from trainers.log_lines import write_log
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.values import Upstreams

OBJECTS_A_ROUND = 10_000
DRAIN_S = 5.0  # for connections to end with an answer
STDOUT = 1
STOP_S = 80  # for answers under way, when the door is stopped; systemd kills after 90

log = logging.getLogger(__name__)


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--host", required=True, help="The host for which the socket was opened.")
@click.option("--listener", type=int, required=True, help="The number of the listening socket.")
@click.option("--lock", type=int, required=True, help="A file to close once another door may take over.")
@click.option("--allow-host", multiple=True)
@click.option("--answer-seconds", type=float, required=True)
@click.option("--log", "log_path", type=click.Path(path_type=Path))
def main(
    folder: Path,
    host: str,
    listener: int,
    lock: int,
    allow_host: tuple[str, ...],
    answer_seconds: float,
    log_path: Path | None,
) -> None:
    os.umask(0o077)
    recipes = RecipeFolder(folder)
    write_log(_keys(recipes), AcceptErrorFilter(), path=log_path)
    state = DoorState()
    app = build_app(recipes, frozenset({host.lower(), *map(str.lower, allow_host)}), answer_seconds, state)
    listening = socket.socket(fileno=listener)
    server = DoorServer(server_config(app, STOP_S), state, answer_seconds)
    # uvicorn sets it too, but later, and raises the signal again after its shutdown: exit 0 then
    signal.signal(signal.SIGTERM, server.handle_exit)
    successors = Successors(folder, listening, host, server.hand_over)

    def begin() -> None:
        successors.open()
        os.close(lock)
        _announce(f"door ready on {address_of(host, listening)} · key in {recipes.key_path}")

    server.on_start = begin
    server.run(sockets=[listening])


def _announce(line: str) -> None:
    try:
        os.write(STDOUT, f"{line}\n".encode())
    except BrokenPipeError:
        log.warning("the process that keeps this worker has died; the worker goes on")


def _keys(folder: RecipeFolder) -> list[str]:
    """Returns the keys that no line of the log may have. Creates the key of programs, if it is missing."""
    try:
        keys = [folder.call_key()]
    except OSError as error:
        click.echo(f"door: {folder.key_path} can't be used: {error.strerror}.", err=True)
        sys.exit(2)
    if folder.upstreams_path.exists():
        for upstream in Upstreams.from_json(folder.upstreams_path.read_bytes()).upstreams:
            keys.append(os.environ.get(upstream.key_variable or "", ""))
    return keys


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
        if not self.should_exit:
            log.info("stopping: answers under way have %s s", STOP_S)
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # One that is stopped while it starts leaves the calls to the earlier door.
        if self.started and not self.should_exit:
            _collect_less_garbage()
            self.on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self._state.is_draining = True
        log.info("draining: %s connections are open", len(self.server_state.connections))
        until = time.monotonic() + DRAIN_S
        while self.server_state.connections and time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def _collect_less_garbage() -> None:
    """Leaves what is imported out of the collector's rounds and makes them rarer: Python's usual ones, after every 700
    new objects, take up to a quarter of a call's CPU time while 200 are open."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_A_ROUND)


if __name__ == "__main__":
    main(prog_name="python -m trainers.door.worker")
