"""What the generator's thread sends back while an endpoint waits; a client that hung up is noticed within a
second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from starlette.requests import Request

from trainers.local.api_errors import ApiError
from trainers.local.serving.values import AnswerCalls, AnswerEnd, Likelihood, Outcome, Piece, Ticket
from trainers.local.tool_calls import ToolCall

DISCONNECT_POLL_S = 1.0


@dataclass(frozen=True)
class Answer:
    """One answer from its beginning to its `end`."""

    text: str
    tokens: Sequence[Likelihood]
    calls: Sequence[ToolCall]
    end: AnswerEnd


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
                        raise ApiError(499, "The client hung up.") from None
        except BaseException:
            self.abandon()
            raise

    async def answers(self, count: int) -> list[Answer]:
        """All of a request, in their order. Raises Problem."""
        outcomes: list[Outcome] = []
        while sum(isinstance(each, AnswerEnd) for each in outcomes) < count:
            outcomes.append(await self.next_or_hung_up())
        return [_answer(index, outcomes) for index in range(count)]

    async def parts(self, first: Outcome, count: int) -> AsyncIterator[Outcome]:
        """What is said of all answers of a request, from `first` to the last one's end. Raises Problem."""
        outcome = first
        yield outcome
        ends = int(isinstance(outcome, AnswerEnd))
        while ends < count:
            outcome = await self.next()
            yield outcome
            ends += isinstance(outcome, AnswerEnd)

    async def next(self) -> Outcome:
        """Raises what went wrong."""
        outcome = await self._outcomes.get()
        if isinstance(outcome, ApiError):
            raise outcome
        return outcome


def _answer(index: int, outcomes: Sequence[Outcome]) -> Answer:
    pieces = [each for each in outcomes if isinstance(each, Piece) and each.index == index]
    return Answer(
        text="".join(piece.text for piece in pieces),
        tokens=[token for piece in pieces for token in piece.tokens],
        calls=[
            c
            for each in outcomes
            if isinstance(each, AnswerCalls) and each.index == index
            for c in each.calls
        ],
        end=next(each for each in outcomes if isinstance(each, AnswerEnd) and each.index == index),
    )
