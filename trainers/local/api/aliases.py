"""The endpoints of aliases, an extension of OpenAI's API: names that programs call, and the models they stand for.

GET    /v1/aliases               all of them
PUT    /v1/aliases/team/tickets  {"model": "ft:…"}; the same once more changes nothing
DELETE /v1/aliases/team/tickets
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trainers.local.aliases import Alias, Aliases
from trainers.local.api import answers, bodies
from trainers.local.problems import invalid

ROOT = "/v1/aliases"


@dataclass(frozen=True)
class AliasEndpoints:
    aliases: Aliases

    def routes(self) -> list[Route]:
        return [
            Route(ROOT, self.index),
            Route(ROOT + "/{name:path}", self.put, methods=["PUT"]),
            Route(ROOT + "/{name:path}", self.delete, methods=["DELETE"]),
        ]

    def index(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_body(alias) for alias in self.aliases.all()]})

    async def put(self, request: Request) -> Response:
        model = _model(await bodies.json_object(request))
        name = request.path_params["name"]
        return JSONResponse(_body(await run_in_threadpool(self.aliases.point, name, model)))

    def delete(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.aliases.remove(name)
        return JSONResponse({"id": name, "object": "alias", "deleted": True})


def _model(body: answers.Body) -> str:
    for name in body:
        if name != "model":
            raise invalid(f"An alias has no '{name}'. Send the model alone.", name, "unknown_parameter")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("Missing required parameter 'model'.", "model", "missing_required_parameter")
    return model


def _body(alias: Alias) -> answers.Body:
    return {"id": alias.name, "object": "alias", "model": alias.model, "set_at": alias.set_at}
