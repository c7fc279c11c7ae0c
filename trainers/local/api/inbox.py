"""Passes an engine's outcomes from its thread to the endpoint that waits for them. A client that hangs up is noticed
within a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from starlette.requests import Request

from trainers.http.errors import ApiError
from trainers.local.serving.values import AnswerCalls, AnswerEnd, Likelihood, Outcome, Piece, Ticket
from trainers.local.tool_calls import ToolCall

DISCONNECT_POLL_S = 1.0


@dataclass(frozen=True)
class Answer:
    """One complete answer."""

    text: str
    tokens: Sequence[Likelihood]
    calls: Sequence[ToolCall]
    end: AnswerEnd


class Inbox:
    """`put` may be called from any thread. `ticket` is abandoned as soon as nobody waits for the outcomes."""

    def __init__(self, request: Request) -> None:
        self.ticket = Ticket()
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._outcomes: asyncio.Queue[Outcome] = asyncio.Queue()

    def put(self, outcome: Outcome) -> None:
        # An engine may finish an answer after the server has stopped.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._outcomes.put_nowait, outcome)

    def abandon(self) -> None:
        self.ticket.abandon()

    async def next_outcome(self) -> Outcome:
        """Returns the next outcome, or raises it if it is an ApiError. Raises ApiError (499) if the client hung up."""
        try:
            while True:
                try:
                    return await asyncio.wait_for(self._next(), DISCONNECT_POLL_S)
                except TimeoutError:
                    if await self._request.is_disconnected():
                        raise ApiError(499, "The client hung up.") from None
        # Also if the task is cancelled: nobody would read what the engine goes on writing.
        except BaseException:
            self.abandon()
            raise

    async def answers(self, count: int) -> list[Answer]:
        """Waits for all `count` answers to a request and returns them in order. Raises ApiError."""
        outcomes: list[Outcome] = []
        while sum(isinstance(outcome, AnswerEnd) for outcome in outcomes) < count:
            outcomes.append(await self.next_outcome())
        return [_answer(index, outcomes) for index in range(count)]

    async def parts(self, first: Outcome, count: int) -> AsyncIterator[Outcome]:
        """Yields the outcomes of all `count` answers to a request, from `first` to the last answer's end. Raises
        ApiError."""
        outcome = first
        yield outcome
        ends = int(isinstance(outcome, AnswerEnd))
        while ends < count:
            # Without the poll: while an answer is streamed, Starlette notices a client that hangs up.
            outcome = await self._next()
            yield outcome
            ends += isinstance(outcome, AnswerEnd)

    async def _next(self) -> Outcome:
        outcome = await self._outcomes.get()
        if isinstance(outcome, ApiError):
            raise outcome
        return outcome


def _answer(index: int, outcomes: Sequence[Outcome]) -> Answer:
    pieces = [outcome for outcome in outcomes if isinstance(outcome, Piece) and outcome.index == index]
    calls = [outcome for outcome in outcomes if isinstance(outcome, AnswerCalls) and outcome.index == index]
    return Answer(
        text="".join(piece.text for piece in pieces),
        tokens=[token for piece in pieces for token in piece.tokens],
        calls=[call for part in calls for call in part.calls],
        end=next(end for end in outcomes if isinstance(end, AnswerEnd) and end.index == index),
    )
