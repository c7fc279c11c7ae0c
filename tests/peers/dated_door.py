"""The door's app in a thread, answering on loopback by a clock that a story sets. Its processes and their hand-over are
tried elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import openai
import uvicorn

from trainers.door.server import DoorState, build_app
from trainers.http.connections import server_config
from trainers.http.sockets import address_of, listen
from trainers.recipes.folder import RecipeFolder

ANSWER_S = 60.0
STOP_S = 5


@contextmanager
def serve_dated_door(folder: RecipeFolder, clock: Callable[[], float]) -> Iterator[openai.OpenAI]:
    """Yields a client of a door whose calls happen at the time that `clock` gives, in unix seconds. At the end all
    counts and samples are stored."""
    listener = listen("127.0.0.1", 0)
    app = build_app(folder, frozenset({"127.0.0.1"}), ANSWER_S, DoorState(), clock)
    server = uvicorn.Server(server_config(app, STOP_S))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = address_of("127.0.0.1", listener)
    try:
        with openai.OpenAI(base_url=url, api_key=folder.call_key(), max_retries=0) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
