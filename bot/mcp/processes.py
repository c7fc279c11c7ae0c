"""Runs a command of the terminal as a child process, reads its reports while it runs, and ends it when its caller is
cancelled. A process of its own keeps stdout for the protocol, and memory and a crash to the call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.text import TextReceiveStream

from bot.mcp.reports import Report

GRACE_S = 5.0  # from the interrupt to the kill; our own trainer needs a second to stop
LOOK_S = 0.02
Listener = Callable[[Report], Awaitable[None]]


@dataclass(frozen=True)
class Outcome:
    """How a command ended. `sentences` are what it told people on stderr."""

    code: int
    stdout: str
    sentences: str


async def run_command(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], listen: Listener
) -> Outcome:
    """Runs `finetune --for-program WORDS` in the folder. `listen` receives its reports as they come."""
    # -P, as Python would otherwise import modules from the folder, which is data.
    command = [sys.executable, "-P", "-m", "bot", "--for-program", *words]
    process = await anyio.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**environment, "PYTHONSAFEPATH": "1"},  # for what the command starts
        start_new_session=True,
    )
    try:
        return await _follow(process, listen)
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)
            await process.aclose()


async def _follow(process: Process, listen: Listener) -> Outcome:
    answer: list[str] = []
    sentences: list[str] = []
    assert process.stdout and process.stderr  # noqa: S101 - they are pipes

    async def read_answer(stream: ByteReceiveStream) -> None:
        async for part in TextReceiveStream(stream):
            answer.append(part)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read_answer, process.stdout)
        async for line in _lines(process.stderr):
            report = Report.from_line(line)
            if report is None:
                sentences.append(line)
            else:
                await listen(report)
    code = await _wait(process)
    return Outcome(code, "".join(answer), "\n".join(sentences).strip())


async def _lines(stream: ByteReceiveStream) -> AsyncIterator[str]:
    rest = ""
    async for part in TextReceiveStream(stream, errors="replace"):
        *lines, rest = (rest + part).split("\n")
        for line in lines:
            yield line
    if rest:
        yield rest


async def _wait(process: Process) -> int:
    # Not process.wait(), which also waits for pipes that a grandchild may hold open.
    while process.returncode is None:
        await anyio.sleep(LOOK_S)
    return process.returncode


async def _end(process: Process) -> None:
    """Interrupts the process and what it has started, as Ctrl-C does, so that it stops our own trainer and keeps what
    it has paid for; kills them if they don't stop."""
    if process.returncode is not None:
        return
    _signal(process, signal.SIGINT)
    with anyio.move_on_after(GRACE_S):
        await _wait(process)
    if process.returncode is None:
        _signal(process, signal.SIGKILL)
        await _wait(process)


def _signal(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
