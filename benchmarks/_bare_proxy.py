"""The least that a proxy can do with the door's libraries: it parses a request, sends it to a vendor, and passes on the
answer, a stream part by part. For benchmarks/door.py, to tell the door's own work from that of its libraries.

`python -m benchmarks._bare_proxy URL` prints its address.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.peers.chat_vendor import KEY
from trainers.http.connections import server_config
from trainers.http.sockets import address_of, listen

HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}


def main(url: str) -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=1_000)
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
            app.state.session = session
            yield

    async def chat(request: Request) -> Response:
        body = orjson.loads(await request.body())
        body["model"] = "acme-small"
        answer = await request.app.state.session.post(
            f"{url}/chat/completions", data=orjson.dumps(body), headers=HEADERS
        )
        kind = {"content-type": answer.headers["content-type"]}
        if body.get("stream"):
            return StreamingResponse(answer.content.iter_any(), answer.status, kind)
        return Response(await answer.read(), answer.status, kind)

    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])], lifespan=lifespan)
    listener = listen("127.0.0.1", 0)
    print(address_of("127.0.0.1", listener), flush=True)
    uvicorn.Server(server_config(app, 1)).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])
