"""Responses that a program may continue by `previous_response_id`, read again and delete. They are texts of people, so
they are in memory only, for a limited time, and nobody but the holder of the same key gets them."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request

from trainers.http.errors import ApiError, invalid
from trainers.http.guard import sent_key

MOST_RESPONSES = 1_000
MOST_BYTES = 64 * 1024**2
LONGEST_S = 24 * 3600.0

Body = Mapping[str, Any]


@dataclass(frozen=True)
class StoredResponse:
    """A response's body, with all items of the conversation that it answers and ends. `owner` is a digest of the key
    that asked."""

    owner: str
    body: Body
    items: Sequence[object]
    nbytes: int
    stored_at: float

    @property
    def model(self) -> str:
        return str(self.body["model"])


class StoredResponses:
    """May be used from several threads. The oldest responses go first if there are too many."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, StoredResponse] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def add(self, owner: str, body: Body, items: Sequence[object]) -> None:
        """Stores a response and the items of its conversation, which don't include its output yet."""
        conversation = [*items, *body["output"]]
        nbytes = len(orjson.dumps([body, conversation]))
        response = StoredResponse(owner, body, conversation, nbytes, time.monotonic())
        with self._lock:
            self._by_id[str(body["id"])] = response
            self._nbytes += nbytes
            self._drop_old()

    def get(self, owner: str, response_id: str) -> StoredResponse:
        """Raises ApiError (404), also for what another key has stored."""
        response = self._find(owner, response_id)
        if response is None:
            text = f"Response with id '{response_id}' not found. It was not stored, or its time here is over."
            raise ApiError(404, text, "response_not_found")
        return response

    def items_before(self, owner: str, body: Body) -> Sequence[object]:
        """Returns the items of the conversation that a request continues, none if it begins one. Raises ApiError
        (400)."""
        response_id = body.get("previous_response_id")
        if response_id is None:
            return ()
        if not isinstance(response_id, str):
            raise invalid("'previous_response_id' must be text.", "previous_response_id", "invalid_type")
        response = self._find(owner, response_id)
        if response is None:
            text = (
                f"Previous response with id '{response_id}' not found: 'previous_response_id' must name a response "
                "that this trainer still has. Send the conversation in full as 'input'."
            )
            raise invalid(text, "previous_response_id", "previous_response_not_found")
        return response.items

    def delete(self, owner: str, response_id: str) -> None:
        """Raises ApiError (404)."""
        self.get(owner, response_id)
        self._drop(lambda candidate_id, _: candidate_id == response_id)

    def delete_of_model(self, name: str) -> None:
        """Deletes what a tuned model and its checkpoints have answered."""
        checkpoints = f"{name}:ckpt-step-"
        self._drop(
            lambda _, response: response.model == name or response.model.startswith(checkpoints),
        )

    def _find(self, owner: str, response_id: str) -> StoredResponse | None:
        with self._lock:
            self._drop_old()
            response = self._by_id.get(response_id)
        if response is None or response.owner != owner:
            return None
        return response

    def _drop(self, leaves: Callable[[str, StoredResponse], bool]) -> None:
        with self._lock:
            for response_id, response in list(self._by_id.items()):
                if leaves(response_id, response):
                    self._remove(response_id)

    def _drop_old(self) -> None:
        """Call it with the lock held."""
        oldest = time.monotonic() - LONGEST_S
        while self._by_id:
            response_id, response = next(iter(self._by_id.items()))
            is_full = len(self._by_id) > MOST_RESPONSES or self._nbytes > MOST_BYTES
            if not is_full and response.stored_at >= oldest:
                return
            self._remove(response_id)

    def _remove(self, response_id: str) -> None:
        response = self._by_id.pop(response_id)
        self._nbytes -= response.nbytes


def owner_of(request: Request) -> str:
    """Returns a digest of the key that a request was sent with."""
    return hashlib.sha256(sent_key(request.headers).encode()).hexdigest()
