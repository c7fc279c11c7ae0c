"""Odd calls of every endpoint of a running door, whatever is in use: a refusal is a sentence in OpenAI's envelope, and
leaves what is published as it was. The vendor behind it answers everything, so that each fault is the door's own.

And odd answers of the vendor to usual calls: what can't be read is a 502 with a sentence, in a stream that the door
writes itself an event with an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.fuzz.api_calls import (
    CALLING,
    CHAT,
    CONSTRAINED,
    RESPONSE,
    TEXT,
    Call,
    ask,
    complaint_about,
    is_envelope,
    posts,
)
from tests.fuzz.mutations import Json, mutated, odd_texts, raw_json
from tests.patience import wait_until
from tests.peers.chat_vendor import ChatVendor, serve_vendor
from tests.trainers.door.doors import PROMPT, Door, serve_door
from trainers.dataset.rows import Example
from trainers.recipes import samples, usage
from trainers.recipes.classical import freeze_classical
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.values import Published, Recipe, Sampling, Upstream, Upstreams
from trainers.types import Message

PROMPTED = "team/tickets"
CLASSIFIED = "team/labels"
PASSED_ON = "team/stored"
LABELS = ("billing", "delivery")
EVERY = Sampling(1.0, "mask")
RATING: Json = {"id": "chatcmpl-1", "rating": "up"}
INPUTS: Json = {"input": ["Where is my parcel?", "I paid twice."]}


@dataclass
class OddVendor(ChatVendor):
    """A vendor that sends `content` as it is, with a status of success."""

    content: bytes = b""

    def app(self) -> Starlette:
        paths = ("/v1/chat/completions", "/v1/responses")
        return Starlette(routes=[Route(path, self._send, methods=["POST"]) for path in paths])

    async def _send(self, request: Request) -> Response:
        body = json.loads(await request.body())
        kind = "application/json"
        if body.get("stream"):
            kind = "text/event-stream"
        return Response(self.content, media_type=kind)


@contextmanager
def running_door(root: Path, vendor: ChatVendor) -> Iterator[Door]:
    """A door with a prompt at a vendor of chats, the same at one of Responses, and a classical model in use. Every
    answered call is stored."""
    folder = RecipeFolder(root / "serving")
    with serve_vendor(vendor):
        chats = Upstream("acme", vendor.url, "ACME_KEY")
        stored = Upstream("other", vendor.url, "ACME_KEY", has_responses=True)
        folder.publish_upstreams(Upstreams((chats, stored)))
        free = Recipe("classical", "labels", 1, "labels", "label", labels=LABELS)
        trained = freeze_classical(_rows(), 0, has_labels=True)
        other = replace(PROMPT, dataset="stored", provider="other")
        recipes = {
            PROMPTED: folder.add(PROMPT, {}),
            CLASSIFIED: folder.add(free, trained),
            PASSED_ON: folder.add(other, {}),
        }
        for promotion, (name, recipe) in enumerate(recipes.items(), 1):
            folder.publish(Published(name, recipe.sha256, promotion, sampling=EVERY))
        with serve_door(folder) as door:
            yield door


def _rows() -> list[Example]:
    rows = []
    for number in range(12):
        label = LABELS[number % 2]
        question = Message("user", f"A question about {label}, number {number}")
        rows.append(Example(number, (question, Message("assistant", label))))
    return rows


def odd_calls(door: Door) -> tuple[st.SearchStrategy[Call], Callable[[Call], str | None]]:
    """Calls of the door, and a function that complains about its answers."""
    published = door.folder.root / "names"
    url = door.url.removesuffix("/v1")
    key = door.folder.call_key()

    def state() -> object:
        return sorted((path.name, path.read_bytes()) for path in published.iterdir())

    def complaint(call: Call) -> str | None:
        before = state()
        return complaint_about(call, ask(url, key, call), state, before)

    return _calls(), complaint


def _calls() -> st.SearchStrategy[Call]:
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    bodies = [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, **streamed}),
        ("/v1/chat/completions", CONSTRAINED),
        ("/v1/chat/completions", CALLING),
        ("/v1/responses", RESPONSE),
        ("/v1/responses", {**RESPONSE, "stream": True}),
        ("/v1/classify", INPUTS),
        ("/v1/completions", TEXT),
    ]
    names = (PROMPTED, CLASSIFIED, PASSED_ON)
    posted = [posts(path, {**body, "model": name}) for path, body in bodies for name in names]
    posted.append(posts("/v1/feedback", RATING))
    paths = st.sampled_from(("/v1/models", "/v1/models/team/tickets", "/v1/models/", "/metrics", "/v1/", "/"))
    methods = st.sampled_from(("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD"))
    queries = odd_texts.map(lambda text: "?" + "".join(filter(str.isalnum, text))[:200])
    reads = st.builds(
        lambda method, path, query: Call(method, path + query.encode("ascii", "ignore").decode()),
        methods,
        paths,
        queries,
    )
    return st.one_of(*posted, reads)


def odd_answers(
    door: Door, vendor: OddVendor
) -> tuple[st.SearchStrategy[bytes], Callable[[bytes], str | None]]:
    """What the vendor might send, and a function that complains about what programs get then."""
    url = door.url.removesuffix("/v1")
    key = door.folder.call_key()

    def complaint(content: bytes) -> str | None:
        vendor.content = content
        for call in USUAL_CALLS:
            answer = ask(url, key, call)
            if answer.status is None:
                return f"{call.path} broke off"
            if answer.status not in (200, 502):
                return f"{call.path}: HTTP {answer.status}"
            if answer.status == 502 and not is_envelope(answer.body):
                return f"{call.path}: no envelope"
            is_stream = answer.status == 200 and call == TRANSLATED_STREAM
            if is_stream and not any(event in answer.body for event in LAST_EVENTS):
                return f"{call.path}: neither an end nor an error"
        return None

    return _answers(), complaint


def _call(path: str, name: str, **more: object) -> Call:
    return Call("POST", path, json.dumps({"model": name, **more}).encode())


_ASKED = [{"role": "user", "content": "Where is my parcel?"}]
TRANSLATED_STREAM = _call("/v1/responses", PROMPTED, input="Where is my parcel?", stream=True)
LAST_EVENTS = (b"event: response.completed", b"event: response.incomplete", b"event: error")
USUAL_CALLS = (
    _call("/v1/chat/completions", PROMPTED, messages=_ASKED),
    _call("/v1/chat/completions", PROMPTED, messages=_ASKED, stream=True),
    _call("/v1/responses", PROMPTED, input="Where is my parcel?"),
    TRANSLATED_STREAM,
    _call("/v1/responses", PASSED_ON, input="Where is my parcel?", stream=True),
    _call("/v1/classify", PROMPTED, input="Where is my parcel?"),
)
_TOOL_CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_SENT = {"role": "assistant", "content": "billing", "refusal": None, "tool_calls": [_TOOL_CALL]}
_USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 7,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
_ANSWER: Json = {"choices": [{"index": 0, "message": _SENT, "finish_reason": "stop"}], "usage": _USAGE}
_CHUNK: Json = {"choices": [{"index": 0, "delta": _SENT, "finish_reason": None}], "usage": _USAGE}


def _answers() -> st.SearchStrategy[bytes]:
    answers = mutated(_ANSWER).map(lambda body: json.dumps(body).encode())
    chunks = st.lists(mutated(_CHUNK), min_size=1, max_size=3)
    return st.one_of(answers, raw_json(_ANSWER), chunks.map(_as_stream))


def _as_stream(chunks: list[Json]) -> bytes:
    events = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    return b"".join([*events, b"data: [DONE]\n\n"])


def wait_until_counted(door: Door, calls: int) -> None:
    """Waits until so many calls are counted, from which odd numbers of tokens must not keep the door."""

    def counted() -> bool:
        counts = usage.read(door.folder.root)
        return sum(each.calls for each in counts.values()) >= calls

    wait_until(counted, "the counts")


def check_samples(door: Door) -> None:
    """Checks of a door that has ended that the texts of every answered call could be read and stored."""
    counts = samples.counts(door.folder.root).values()
    assert sum(each.stored for each in counts) > 0
    assert sum(each.lost for each in counts) == 0
    assert "storing a sample" not in door.log
