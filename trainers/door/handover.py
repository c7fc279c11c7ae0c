"""Hands the listening socket from the door that runs to its successor, over a socket in the folder, so that no
connection is refused in between.

The successor connects, gets the socket, starts to answer, takes over door.sock by a rename and says READY; only then
does the old door drain. If either dies before, the other goes on alone. A lock lets only one successor begin at a time.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SOCKET = "door.sock"
LOCK = "door.lock"
READY = b"ready\n"
ANSWER_S = 5.0
START_S = 120.0  # a successor may have encoders to load
LONGEST_PATH = 100  # bytes; the system's limit is 104 or 108

log = logging.getLogger(__name__)


class HandoverError(Exception):
    """The running door can't be succeeded."""


@dataclass
class Predecessor:
    """A door that runs: its listening socket, the address for which it was opened, and the connection to tell it."""

    host: str
    port: int
    pid: int
    listener: socket.socket
    connection: socket.socket

    def release(self) -> None:
        """Has it drain: we answer now."""
        try:
            self.connection.sendall(READY)
        except OSError as error:  # it died; nothing is left to drain
            log.warning("telling the earlier door to drain: %s", error)
        self.connection.close()


@contextmanager
def only_successor(folder: Path) -> Iterator[IO[str]]:
    """Waits until no other door is starting with this folder. Closing the handle lets the next one start."""
    with (folder / LOCK).open("a", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle


def find_predecessor(folder: Path) -> Predecessor | None:
    """Asks the door that runs for its socket. Returns None if none does. Raises HandoverError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_S)
    try:
        with _short_path(folder / SOCKET) as path:
            connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    try:
        _check_peer(connection)
        content, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
        if not descriptors:  # it is draining already
            connection.close()
            return None
        about = json.loads(content)
    except (OSError, ValueError) as error:
        connection.close()
        raise HandoverError(f"the door that runs with {folder} gives no answer ({error})") from error
    listener = socket.socket(fileno=descriptors[0])
    listener.set_inheritable(False)
    return Predecessor(about["host"], about["port"], about["pid"], listener, connection)


def is_another_running(folder: Path) -> bool:
    """True if a door with this folder answers a successor; for a door whose own worker has ended."""
    try:
        other = find_predecessor(folder)
    except HandoverError as error:
        log.warning("looking for another door: %s", error)
        return False
    if other is None:
        return False
    other.listener.close()
    other.connection.close()
    return True


class Successors:
    """Waits for a successor in a thread, and calls `on_taken` once one answers in our place."""

    def __init__(
        self, folder: Path, listener: socket.socket, host: str, on_taken: Callable[[], None]
    ) -> None:
        self._path = folder / SOCKET
        self._listener = listener
        self._host = host
        self._on_taken = on_taken
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def open(self) -> None:
        """Takes over door.sock."""
        aside = self._path.with_name(f"{SOCKET}.{os.getpid()}")
        aside.unlink(missing_ok=True)
        with _short_path(aside) as path:
            self._socket.bind(path)
        aside.chmod(0o600)
        self._socket.listen(1)
        aside.rename(self._path)
        threading.Thread(target=self._wait, name="handover", daemon=True).start()

    def _wait(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                try:
                    if self._hand_over(connection):
                        break
                except OSError as error:
                    log.warning("handing over to another door: %s", error)
        self._socket.close()  # not unlinked: door.sock is the successor's
        self._on_taken()

    def _hand_over(self, connection: socket.socket) -> bool:
        """Returns True if the successor answers now."""
        _check_peer(connection)
        connection.settimeout(START_S)
        host_and_port = {"host": self._host, "port": self._listener.getsockname()[1], "pid": os.getpid()}
        socket.send_fds(connection, [json.dumps(host_and_port).encode()], [self._listener.fileno()])
        return connection.recv(len(READY)) == READY


def _check_peer(connection: socket.socket) -> None:
    """Raises PermissionError unless the other process runs as our user. Where the system can't say, the mode of the
    socket decides."""
    if sys.platform != "linux":
        return
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", raw)
    if user != os.geteuid():
        raise PermissionError(f"the process at {SOCKET} belongs to another user ({user})")


@contextmanager
def _short_path(path: Path) -> Iterator[str]:
    """Yields a path for the system, which takes no long ones for sockets."""
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield str(path)
        return
    if sys.platform != "linux":
        raise HandoverError(f"the path {path} is too long for a socket; choose a shorter folder")
    folder = os.open(path.parent, os.O_PATH)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
