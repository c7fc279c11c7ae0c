"""What the server answers when it refuses a request: OpenAI's error envelope. Every message can be shown to
a user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.responses import JSONResponse


@dataclass
class ApiError(Exception):
    """`code` and `param` are the envelope's; `param` names the field that was wrong."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    kind: str = "invalid_request_error"
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> JSONResponse:
        return JSONResponse({"error": self.body()}, self.status, headers=dict(self.headers))

    def body(self) -> dict[str, str | None]:
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}


def invalid(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    return ApiError(400, message, code, param)


def missing(what: str, identifier: str, code: str = "not_found", param: str | None = None) -> ApiError:
    return ApiError(404, f"There is no {what} '{identifier}' on this trainer.", code, param)
