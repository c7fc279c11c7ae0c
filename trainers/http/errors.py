"""Errors of our HTTP servers in OpenAI's envelope. Every message may be shown to a user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.responses import JSONResponse

from trainers.typed_tables import Fault, KeyPath, read_table

T = TypeVar("T")
# A value that isn't one of these has the wrong type; for all other expectations the value is wrong.
AN_OBJECT = "an object"
FILLED_TEXT = "text that is not empty"
OBJECTS = "a list of objects"
TYPES = frozenset({AN_OBJECT, FILLED_TEXT, OBJECTS, "true or false"})


@dataclass
class ApiError(Exception):
    """An answer other than 2xx. `param` names the field of the request that is at fault."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    kind: str = "invalid_request_error"
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> JSONResponse:
        content = {"error": self.body()}
        return JSONResponse(content, self.status, headers=dict(self.headers))

    def body(self) -> dict[str, str | None]:
        return {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }


def invalid(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    return ApiError(400, message, code, param)


def not_found(noun: str, identifier: str, code: str = "not_found", param: str | None = None) -> ApiError:
    return ApiError(404, f"There is no {noun} '{identifier}' on this trainer.", code, param)


def as_object(value: object, path: str) -> dict[str, Any]:
    """Returns an object in a request's body, {} if it is missing. Raises ApiError (400)."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"'{path}' must be an object.", path, "invalid_type")
    return value


def read_body(kind: type[T], body: Mapping[str, Any], at: KeyPath = (), *, takes_others: bool = False) -> T:
    """Returns `body` as a `kind`. Raises ApiError (400) about the first field that is wrong; unknown fields come first,
    unless `takes_others`, for callers that check them themselves."""
    faults: list[Fault] = []
    value = read_table(kind, body, faults, at)
    unknown = [fault for fault in faults if fault.kind == "unknown"]
    wrong = [fault for fault in faults if fault.kind != "unknown"]
    if unknown and not takes_others:
        raise _to_api_error(unknown[0])
    if wrong:
        raise _to_api_error(wrong[0])
    return value


def _to_api_error(fault: Fault) -> ApiError:
    path = _dotted(fault.path)
    if fault.kind == "unknown":
        names = ", ".join(fault.names)
        return invalid(f"Unknown parameter '{path}'. Known are {names}.", path, "unknown_parameter")
    if fault.kind == "missing":
        return invalid(f"Missing required parameter '{path}'.", path, "missing_required_parameter")
    if fault.kind == "key":
        table = _dotted(fault.path[:-1])
        return invalid(f"A key of '{table}' must be {fault.wants}.", table)
    code = "invalid_value"
    if fault.wants in TYPES:
        code = "invalid_type"
    return invalid(f"'{path}' must be {fault.wants}.", path, code)


def _dotted(path: KeyPath) -> str:
    """Returns, for example, "integrations[0].wandb.name"."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}"
    return text[1:]
