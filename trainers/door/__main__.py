"""`python -m trainers.door --folder DIR --address HOST:PORT`: the door as a process.

This process only keeps the listening socket and a worker (worker.py) that answers on it. If the worker dies, the calls
under way fail, and those that come next wait in the socket's queue until another worker answers. If this process dies,
the worker goes on, and hands the socket to the next start.

Prints one line when the door answers. A second start with the same folder takes the socket over from the first, which
then drains. If it can't start, it exits with code 2 and a sentence that says why.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

import click

from trainers.door.handover import (
    START_S,
    HandoverError,
    Predecessor,
    find_predecessor,
    is_another_running,
    only_successor,
)
from trainers.http.sockets import allow_more_files, listen, why_no_port
from trainers.log_lines import write_log

DEFAULT_ADDRESS = "127.0.0.1:8024"
ANSWER_S = 600.0  # OpenAI's clients wait as long
# The earlier door waits START_S for its successor. A later one would not be heard, and both would go on.
LONGEST_START_S = START_S - 10
STEADY_S = 10.0  # a worker that answered as long died of something new
RESTART_PAUSES_S = (0.0, 0.2, 1.0, 5.0)

log = logging.getLogger("trainers.door")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--folder", type=click.Path(path_type=Path), required=True, help="The folder of what is in use."
)
@click.option(
    "--address", default=DEFAULT_ADDRESS, show_default=True, help="HOST:PORT. Port 0 picks a free one."
)
@click.option("--allow-host", multiple=True, help="Another host name that programs may use. Repeatable.")
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
    _create(folder)
    _write_log(log_path)
    with only_successor(folder) as starting:
        predecessor = _find_predecessor(folder)
        listener = _take_or_open(predecessor, host, port)
        options = _worker_options(host, allow_host, answer_seconds, log_path)
        keeper = Keeper(folder, listener, options)
        signal.signal(signal.SIGTERM, keeper.stop)
        signal.signal(signal.SIGINT, keeper.stop)
        ready = keeper.start_worker(starting)
        if ready and predecessor is not None:
            predecessor.release()
        starting.close()
        if ready:
            click.echo(ready)  # flushes, and writes every letter where the locale is C
        sys.exit(keeper.keep())


def _parse_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or int(port) > 65535:
        _refuse(f"--address {address}: write it as HOST:PORT, for example {DEFAULT_ADDRESS}")
    return host, int(port)


def _create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _refuse(f"the folder {folder} can't be used: {error.strerror}. Name another with --folder.")


def _write_log(path: Path | None) -> None:
    try:
        write_log((), path=path, is_rotated=False)  # the worker rotates it
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


def _worker_options(
    host: str, allow_host: Sequence[str], answer_seconds: float, log_path: Path | None
) -> list[str]:
    options = ["--host", host, "--answer-seconds", str(answer_seconds)]
    for name in allow_host:
        options += ["--allow-host", name]
    if log_path is not None:
        options += ["--log", str(log_path)]
    return options


class Keeper:
    """Keeps a worker running on `listener`, until it is stopped or another door has taken over."""

    def __init__(self, folder: Path, listener: socket.socket, options: Sequence[str]) -> None:
        self._folder = folder
        self._listener = listener
        self._command = [sys.executable, "-m", "trainers.door.worker", "--folder", str(folder), *options]
        self._command += ["--listener", str(listener.fileno())]
        self._worker: subprocess.Popen[str] | None = None
        self._is_stopping = False
        self._has_answered = False

    def start_worker(self, lock: IO[str]) -> str:
        """Starts a worker and waits until it answers. Returns the line that says where, "" if it has ended instead, or
        was ended because it took too long.

        The worker has `lock` too until it can hand the socket over, so that another door waits for it even if this
        process dies meanwhile.
        """
        self._worker = subprocess.Popen(
            [*self._command, "--lock", str(lock.fileno())],
            stdout=subprocess.PIPE,
            encoding="utf-8",
            pass_fds=[self._listener.fileno(), lock.fileno()],
            process_group=0,  # a terminal's Ctrl-C reaches this process alone, which passes it on once
        )
        if self._is_stopping:  # the signal came when there was no worker to pass it on to
            self._worker.terminate()
        assert self._worker.stdout is not None  # noqa: S101 - a pipe
        ready = ""
        with self._worker.stdout as output:
            has_output, _, _ = select.select([output], [], [], LONGEST_START_S)
            if has_output:
                ready = output.readline().rstrip("\n")
            else:
                log.error("ending the worker, which has not answered in %s s", LONGEST_START_S)
                self._worker.kill()
        self._has_answered = self._has_answered or bool(ready)
        return ready

    def keep(self) -> int:
        """Starts another worker whenever one dies. Returns the exit code of the last: of one that drained, or of the
        first if it never answered; 0 if one died when this door was stopped or another had taken over."""
        deaths = 0
        while True:
            assert self._worker is not None  # noqa: S101 - started before
            began = time.monotonic()
            code = self._worker.wait()
            if self._is_stopping and code == -signal.SIGTERM:
                return 0  # it was not answering yet, so there was nothing to drain
            if code == 0 or self._is_stopping or not self._has_answered:
                return code
            if time.monotonic() - began > STEADY_S:
                deaths = 0
            pause = RESTART_PAUSES_S[min(deaths, len(RESTART_PAUSES_S) - 1)]
            deaths += 1
            log.error("the worker ended with code %s; another starts in %s s", code, pause)
            with only_successor(self._folder) as starting:
                time.sleep(pause)
                # It may have died after, or while, another door took over.
                if self._is_stopping or is_another_running(self._folder):
                    return 0
                self.start_worker(starting)

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Has the worker drain. If none runs, the one that is being started ends at once."""
        self._is_stopping = True
        if self._worker is not None and self._worker.poll() is None:
            self._listener.close()  # no connection waits in the queue for a worker that doesn't come
            self._worker.terminate()


def _refuse(sentence: str) -> NoReturn:
    click.echo(f"door: {sentence}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main(prog_name="python -m trainers.door")
