"""Stands in for a model hub: creates repositories, says which files are large, and stores what is committed.

It has the part of Hugging Face's API that create_repo and upload_folder of huggingface_hub 2.4 use, without Xet.
"""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

TOKEN = "hf_test"
COMMIT = "0" * 40


@dataclass
class Hub:
    """`repos` says whether each repository is private. `files` has what was committed, and `stored` large files by
    sha256."""

    url: str = ""
    repos: dict[str, bool] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)

    async def create(self, request: Request) -> Response:
        body = await request.json()
        name = "/".join(filter(None, (body.get("organization"), body["name"])))
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return JSONResponse({"error": "Invalid username or password."}, 401)
        self.repos[name] = body.get("private") is True or body.get("visibility") == "private"
        return JSONResponse({"url": f"{self.url}/{name}", "name": name})

    async def card(self, request: Request) -> Response:
        return JSONResponse({"errors": [], "warnings": []})

    async def preupload(self, request: Request) -> Response:
        files = (await request.json())["files"]
        modes = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for each in files
        ]
        return JSONResponse({"files": modes})

    async def batch(self, request: Request) -> Response:
        objects = (await request.json())["objects"]
        actions = [
            {**each, "actions": {"upload": {"href": f"{self.url}/store/{each['oid']}"}}} for each in objects
        ]
        return JSONResponse({"transfer": "basic", "objects": actions})

    async def store(self, request: Request) -> Response:
        self.stored[request.path_params["oid"]] = await request.body()
        return Response()

    async def commit(self, request: Request) -> Response:
        for line in (await request.body()).splitlines():
            entry: dict[str, Any] = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.files[value["path"]] = self.stored[value["oid"]]
        name = f"{request.path_params['org']}/{request.path_params['name']}"
        return JSONResponse({"commitUrl": f"{self.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    async def info(self, request: Request) -> Response:
        name = f"{request.path_params['org']}/{request.path_params['name']}"
        return JSONResponse({"id": name, "sha": COMMIT, "siblings": [], "tags": [], "private": True})

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/api/repos/create", self.create, methods=["POST"]),
                Route("/api/validate-yaml", self.card, methods=["POST"]),
                Route("/api/models/{org}/{name}/preupload/main", self.preupload, methods=["POST"]),
                Route("/api/models/{org}/{name}/commit/main", self.commit, methods=["POST"]),
                Route("/api/models/{org}/{name}", self.info),
                Route("/api/models/{org}/{name}/revision/main", self.info),
                Route("/{org}/{name}.git/info/lfs/objects/batch", self.batch, methods=["POST"]),
                Route("/store/{oid}", self.store, methods=["PUT"]),
            ]
        )


@contextmanager
def model_hub() -> Iterator[Hub]:
    """Serves on loopback in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    hub = Hub(f"http://127.0.0.1:{listener.getsockname()[1]}")
    config = uvicorn.Config(hub.app(), log_config=None, access_log=False, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield hub
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
