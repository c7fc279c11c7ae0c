"""Programs of a team that call what is in use, as its card says."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

import openai

ROOT = Path(__file__).parents[2]
PAUSE_S = 0.05  # between two calls: about 20 a second
_FIVE_LINES = re.compile(r"from openai import OpenAI\n.*?\nprint\([^\n]*\)", re.DOTALL)


def five_lines(card: str) -> str:
    """Returns the program in Python that a card shows."""
    program = _FIVE_LINES.search(card)
    assert program, card
    assert len(program[0].splitlines()) == 5, card
    return program[0]


def call_once(program: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in Python, as a person does who has copied it."""
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )


def open_client(program: str) -> openai.OpenAI:
    """Returns the client that the first of the five lines open; it makes no call twice."""
    names: dict[str, Any] = {}
    *opening, _call, _printing = program.splitlines()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a program of five lines leaves its key's file open
        exec("\n".join(opening), names)  # noqa: S102 - lines of our own card
    client: openai.OpenAI = names["client"]
    return client.with_options(max_retries=0, timeout=60)


def ask(client: openai.OpenAI, name: str, question: str) -> str:
    answer = client.chat.completions.create(model=name, messages=[{"role": "user", "content": question}])
    return str(answer.choices[0].message.content)


class CallingProgram:
    """Asks `question` again and again in a thread. `failures` has what went wrong."""

    def __init__(self, client: openai.OpenAI, name: str, question: str) -> None:
        self.answers: list[str] = []
        self.failures: list[str] = []
        self._client = client
        self._name = name
        self._question = question
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask_on)

    def __enter__(self) -> CallingProgram:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(60)

    def wait_for(self, count: int) -> None:
        """Waits until as many more calls have ended."""
        wanted = self._ended + count
        end = time.monotonic() + 60
        while self._ended < wanted:
            assert time.monotonic() < end, f"of {wanted} calls, only {self._ended} have ended"
            time.sleep(PAUSE_S)

    @property
    def _ended(self) -> int:
        return len(self.answers) + len(self.failures)

    def _ask_on(self) -> None:
        while not self._over.wait(PAUSE_S):
            try:
                self.answers.append(ask(self._client, self._name, self._question))
            except openai.OpenAIError as error:
                self.failures.append(repr(error))
