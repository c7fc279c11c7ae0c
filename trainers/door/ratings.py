"""POST /v1/feedback: a program says whether an answer was good or bad, by the id in the header `x-finetune-call`. It is
counted before it is confirmed."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from trainers.door.call_ids import AnsweredCall, CallIds
from trainers.door.live_tests.canary import Canaries
from trainers.door.streams import read_object
from trainers.http.errors import ApiError, invalid
from trainers.recipes import feedback
from trainers.recipes.feedback import RATED_DAYS, RATINGS, FeedbackFullError, FeedbackKey, Rating
from trainers.recipes.usage import day_of

DAY_S = 24 * 3600

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ratings:
    """Counts ratings of answered calls, and reports bad ones to a canary. `clock` gives the time in unix seconds."""

    folder: Path
    ids: CallIds
    canaries: Canaries
    clock: Callable[[], float] = time.time

    async def answer(self, request: Request) -> Response:
        """Raises ApiError."""
        body = await read_object(request)
        if body is None:
            raise invalid("The request's body must be a JSON object.", None, "invalid_json")
        rating = _read_rating(body)
        id, call = self._find(body.get("id"))
        key = FeedbackKey(call.name, call.promotion, call.recipe, day_of(call.at))
        try:
            await asyncio.to_thread(feedback.add, self.folder, id, key, rating)
        except FeedbackFullError:
            text = "There is no room for more feedback until that of earlier days is deleted."
            raise ApiError(503, text, "no_room", kind="server_error") from None
        except (sqlite3.Error, OSError) as error:
            log.error("storing feedback: %s", error)
            text = "The feedback could not be stored. Try again later."
            raise ApiError(503, text, "not_stored", kind="server_error") from error
        if rating == "down" and call.canary is not None:
            self.canaries.report(call.canary, "down")
        return JSONResponse({"object": "feedback", "id": id, "model": call.name, "rating": rating})

    def _find(self, raw: object) -> tuple[str, AnsweredCall]:
        """Returns our id of the call, and the call. Raises ApiError."""
        if not isinstance(raw, str) or not raw:
            text = "'id' must be that of an answer: the text of its header 'x-finetune-call'."
            raise invalid(text, "id", "invalid_type")
        id = self.ids.find(raw)
        call = self.ids.read(id) if id is not None else None
        if id is None or call is None:
            text = (
                "No answer has this 'id'. Send the text of the answer's header 'x-finetune-call': the id in its body "
                "is known for the last calls only, and until this server restarts."
            )
            raise ApiError(404, text, "call_not_found", "id")
        if self.clock() - call.at > RATED_DAYS * DAY_S:
            raise ApiError(
                404, f"Answers can be rated for {RATED_DAYS} days; this one is older.", "too_old", "id"
            )
        return id, call


def _read_rating(body: dict[str, Any]) -> Rating:
    """Raises ApiError (400)."""
    for rating in RATINGS:
        if body.get("rating") == rating:
            return rating
    raise invalid('\'rating\' must be "up" for a good answer, or "down" for a bad one.', "rating")
