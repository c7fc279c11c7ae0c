"""Programs of a team that call what is in use, by the lines that a card shows."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import warnings
from types import TracebackType
from typing import Any

import openai

PAUSE_S = 0.05  # between two calls: about 20 a second
QUESTION = "The courier says delivered, but there is no parcel here"


def call_once(program: str) -> subprocess.CompletedProcess[str]:
    """Runs the program as a person does who has copied it."""
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


class CallingProgram:
    """Calls again and again in a thread, without a retry, with the client that the program's lines open."""

    def __init__(self, program: str) -> None:
        self.answers: list[str] = []
        self.failures: list[str] = []
        names: dict[str, Any] = {}
        *opening, _call, _printing = program.splitlines()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ResourceWarning
            )  # a program of five lines leaves its key's file open
            exec("\n".join(opening), names)  # noqa: S102 - lines of our own card
        self._client: openai.OpenAI = names["client"].with_options(max_retries=0, timeout=30)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._call)

    def __enter__(self) -> CallingProgram:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(60)
        self._client.close()

    def wait_for(self, count: int) -> None:
        """Waits until as many more calls have ended."""
        wanted = len(self.answers) + len(self.failures) + count
        end = time.monotonic() + 60
        while len(self.answers) + len(self.failures) < wanted:
            assert time.monotonic() < end, f"of {wanted} calls, only {len(self.answers)} have ended"
            time.sleep(PAUSE_S)

    def _call(self) -> None:
        while not self._over.wait(PAUSE_S):
            try:
                answer = self._client.chat.completions.create(
                    model="team/tickets", messages=[{"role": "user", "content": QUESTION}]
                )
            except openai.OpenAIError as error:
                self.failures.append(repr(error))
            else:
                self.answers.append(str(answer.choices[0].message.content))
