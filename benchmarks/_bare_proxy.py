"""The least that a proxy can do with the door's libraries: it parses a request, sends it to a vendor, and passes on the
answer. For benchmarks/door.py, to tell the door's own work from that of its libraries.

`python -m benchmarks._bare_proxy URL` prints its address.
"""

from __future__ import annotations

import itertools
import sys

import httpx2
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.peers.chat_vendor import KEY
from trainers.http.connections import server_config
from trainers.http.sockets import address_of, listen

HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}


def main(url: str) -> None:
    limits = httpx2.Limits(max_connections=1_000, max_keepalive_connections=1_000)
    clients = itertools.cycle(
        [httpx2.AsyncClient(verify=False, trust_env=False, limits=limits, timeout=60) for _ in range(16)]
    )

    async def chat(request: Request) -> Response:
        body = orjson.loads(await request.body())
        body["model"] = "acme-small"
        content = orjson.dumps(body)
        answer = await next(clients).post(f"{url}/chat/completions", content=content, headers=HEADERS)
        return Response(answer.content, answer.status_code, {"content-type": "application/json"})

    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    listener = listen("127.0.0.1", 0)
    print(address_of("127.0.0.1", listener), flush=True)
    uvicorn.Server(server_config(app, 1)).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])
