"""What the generator's thread says, as an endpoint waits for it; who hung up is noticed within a second."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from trainers.local.problems import Problem
from trainers.local.serving.values import Outcome, Ticket

DISCONNECT_POLL_S = 1.0


class Inbox:
    """`put` may be called from any thread. `ticket` is given up when nobody waits any more."""

    def __init__(self, request: Request) -> None:
        self.ticket = Ticket()
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._outcomes: asyncio.Queue[Outcome] = asyncio.Queue()

    def put(self, outcome: Outcome) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._outcomes.put_nowait, outcome)

    def abandon(self) -> None:
        self.ticket.abandon()

    async def next_or_hung_up(self) -> Outcome:
        """As `next`, and a client that hung up in the meantime raises Problem, which nobody will read."""
        try:
            while True:
                try:
                    return await asyncio.wait_for(self.next(), DISCONNECT_POLL_S)
                except TimeoutError:
                    if await self._request.is_disconnected():
                        raise Problem(499, "The client hung up.") from None
        except BaseException:
            self.abandon()
            raise

    async def next(self) -> Outcome:
        """Raises what went wrong."""
        outcome = await self._outcomes.get()
        if isinstance(outcome, Problem):
            raise outcome
        return outcome
