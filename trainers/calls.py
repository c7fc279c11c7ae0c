"""How a trainer is called: what is being done in words, a GET that is repeated after a hiccup, all else once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from trainers import faults
from trainers.errors import Refused
from trainers.types import Provider

if TYPE_CHECKING:  # as in client.py
    import openai

_PAUSES_S = (0.2, 0.8)


class Calls:
    """What every call goes through. Raises only TrainerError's family.

    Repeating is done here, not by the SDK: it would sleep for as long as a Retry-After says inside a tick.
    """

    provider: Provider

    @property
    def _client(self) -> openai.OpenAI:
        raise NotImplementedError

    def _doing(self, what: str) -> str:
        return f"{what} on {self.provider.name}"

    def _get(self, doing: str, ask: Callable[[], bytes]) -> bytes:
        import openai

        for pause in _PAUSES_S:
            try:
                return ask()
            except openai.OpenAIError as error:
                if not faults.is_hiccup(error):
                    raise faults.as_fault(error, doing, self.provider) from error
            time.sleep(pause)
        return self._once(doing, ask)

    def _once(self, doing: str, ask: Callable[[], bytes]) -> bytes:
        import openai

        try:
            return ask()
        except openai.OpenAIError as error:
            raise faults.as_fault(error, doing, self.provider) from error

    def _gone(self, doing: str, delete: Callable[[], bytes]) -> None:
        try:
            self._once(doing, delete)
        except Refused as refusal:
            if not refusal.is_missing:
                raise
