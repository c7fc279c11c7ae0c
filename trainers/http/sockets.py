"""Listening sockets and open files of our HTTP servers. Imports no web framework, so that a small process can open a
socket for another."""

from __future__ import annotations

import logging
import resource
import socket
import time
import traceback
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM
from types import TracebackType

MAX_OPEN_FILES = 65_536
LOG_INTERVAL_S = 60.0
# With each of these asyncio can't accept a connection now; a container of little memory has the last two.
OUT_OF_RESOURCES = (EMFILE, ENFILE, ENOBUFS, ENOMEM)
ACCEPT_AGAIN = "_start_serving"  # asyncio's, when it listens again after such an error


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket with Nagle's algorithm off. asyncio turns it off only for sockets that name their
    protocol, which those of create_server don't; with it each answer waits 40 ms for an acknowledgement of its head.
    Raises OSError."""
    family = socket.AF_INET
    if ":" in host:
        family = socket.AF_INET6
    listener = socket.create_server((host, port), family=family)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def why_no_port(host: str, port: int, error: OSError) -> str:
    """Returns the beginning of a sentence about `listen`'s error."""
    why = str(error.strerror).partition(" (while")[0]
    return f"port {port} on {host} cannot be used: {why}."


def address_of(host: str, listener: socket.socket) -> str:
    """Returns the address for clients, whose port the system may have chosen."""
    port = listener.getsockname()[1]
    if ":" in host:  # IPv6
        host = f"[{host}]"
    return f"http://{host}:{port}/v1"


def allow_more_files() -> None:
    """Raises this process's limit of open files as far as the system allows. The default of 1,024 exists for programs
    that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(hard, MAX_OPEN_FILES)
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class AcceptErrorFilter(logging.Filter):
    """Lets the error that no connection can be accepted through once a minute: asyncio logs it over and over, for each
    connection of its backlog. It listens again a second later, and that the socket was closed meanwhile is no error."""

    def __init__(self) -> None:
        super().__init__()
        self._last = -LOG_INTERVAL_S

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.exc_info:
            return True
        _, error, trace = record.exc_info
        if isinstance(error, ValueError) and _is_from(trace, ACCEPT_AGAIN):
            return False
        if not (isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES):
            return True
        is_due = time.monotonic() - self._last >= LOG_INTERVAL_S
        if is_due:
            self._last = time.monotonic()
        return is_due


def _is_from(trace: TracebackType | None, function: str) -> bool:
    """True if the function, by its name, is on the way to the error."""
    return any(frame.f_code.co_name == function for frame, _ in traceback.walk_tb(trace))
