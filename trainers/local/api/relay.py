"""The trainer's side of the relay: a job on a cluster fetches its folder here and brings back what it writes.

Who asks proves itself with the token of the job's newest attempt (relay/tickets.py), not with the trainer's key, and
reaches that job's folder alone, under the names of relay/paths.py. An attempt that was replaced, cancelled or paused
away is answered 410 and ends itself.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from trainers.local.api import bodies
from trainers.local.api_errors import ApiError, invalid, missing
from trainers.local.job_directory import read_events, read_job
from trainers.local.jobs.records import Jobs
from trainers.local.ray.transfer import (
    FOLDER,
    Ticket,
    complete_folders,
    hidden,
    is_formed,
    may_come_back,
    outgoing,
    read_ticket,
)
from trainers.local.training.base_files import base_fingerprint

EVENT_FIELDS = {"created_at": int, "level": str, "type": str, "message": str, "data": dict}
WANTED = (".json", ".safetensors", ".jinja", ".model", ".txt")  # as hub.py takes them: no code, no pickles


@dataclass(frozen=True)
class RelayEndpoints:
    jobs: Jobs
    taken: dict[str, int] = field(
        default_factory=dict
    )  # events by attempt, as the job's events.jsonl has them
    lock: threading.Lock = field(default_factory=threading.Lock)

    def routes(self) -> list[Route]:
        root = "/relay/{id}"
        return [
            Route(root + "/files", self.index),
            Route(root + "/files/{path:path}", self.send),
            Route(root + "/files/{path:path}", self.receive, methods=["PUT"]),
            Route(root + "/folders/{path:path}", self.complete, methods=["POST"]),
            Route(root + "/base", self.base),
            Route(root + "/base/{name}", self.base_file),
            Route(root + "/tick", self.tick, methods=["POST"]),
        ]

    def index(self, request: Request) -> Response:
        folder, _ = self._admit(request)
        return JSONResponse({"files": outgoing(folder)})

    def send(self, request: Request) -> Response:
        folder, _ = self._admit(request)
        path = request.path_params["path"]
        if path not in outgoing(folder):
            raise missing("file", path)
        return FileResponse(folder / path)

    async def receive(self, request: Request) -> Response:
        folder, _ = await run_in_threadpool(self._admit, request)
        path = request.path_params["path"]
        if not may_come_back(path):
            raise invalid(f"'{path}' is no file that a job brings back.", "path")
        target = await run_in_threadpool(_place, folder, path)

        def check(came: Path) -> None:
            self._admit(request)
            if not is_formed(path, came):
                raise invalid(f"'{path}' doesn't say what a job says there.", "path")

        await _receive(request, target, check)
        return JSONResponse({"file": path})

    async def complete(self, request: Request) -> Response:
        """All files of the folder are there: it gets its name. `keep`: the checkpoints that the node still has."""
        folder, _ = await run_in_threadpool(self._admit, request)
        path, keep = request.path_params["path"], (await bodies.read_object(request)).get("keep")
        if not FOLDER.fullmatch(path):
            raise invalid(f"'{path}' is no folder that a job brings back.", "path")
        await run_in_threadpool(_complete, folder, path)
        if isinstance(keep, list) and keep:
            await run_in_threadpool(_prune, folder, path, {str(each) for each in keep})
        return JSONResponse({"folder": path})

    def base(self, request: Request) -> Response:
        """A hub id, which the node fetches itself, or the files of a folder on this machine."""
        folder, _ = self._admit(request)
        source = read_job(folder).base
        if not Path(source).is_dir():
            return JSONResponse({"hub_id": source})
        files = {name: path.stat().st_size for name, path in _base_files(folder).items()}
        return JSONResponse({"fingerprint": base_fingerprint(Path(source)), "files": files})

    def base_file(self, request: Request) -> Response:
        folder, _ = self._admit(request)
        name = request.path_params["name"]
        path = _base_files(folder).get(name)
        if path is None:
            raise missing("file of the base model", name)
        return FileResponse(path)

    async def tick(self, request: Request) -> Response:
        """Takes events from number `from` on; says how many it has of this attempt, and whether a pause is wanted."""
        folder, ticket = await run_in_threadpool(self._admit, request)
        body = await bodies.read_object(request)
        events, start = body.get("events", []), body.get("from", 0)
        if not isinstance(events, list) or not all(_is_event(each) for each in events):
            raise invalid("'events' must be a list of a job's events.", "events")
        if not isinstance(start, int) or start < 0:
            raise invalid("'from' must be the number of the first event.", "from")
        taken = await run_in_threadpool(self._take, folder, ticket, events, start)
        return JSONResponse({"taken": taken, "wanted": "pause" if (folder / "PAUSED").exists() else "run"})

    def _take(self, folder: Path, ticket: Ticket, events: list[dict[str, Any]], start: int) -> int:
        """Each event once, however often it is sent: its line carries the attempt and its number."""
        with self.lock:
            known = self.taken.get(ticket.submission)
            if known is None:
                known = sum(1 for each in read_events(folder) if each.get("attempt") == ticket.attempt)
            fresh = events[known - start :] if start <= known else []
            with (folder / "events.jsonl").open("ab") as file:
                file.write(
                    b"".join(orjson.dumps({**each, "attempt": ticket.attempt}) + b"\n" for each in fresh)
                )
            self.taken[ticket.submission] = known + len(fresh)
            return known + len(fresh)

    def _admit(self, request: Request) -> tuple[Path, Ticket]:
        """Raises Problem (410) where it is not this attempt's turn, or there is no such job."""
        job_id = request.path_params["id"]
        record = self.jobs.get(job_id)
        ticket = read_ticket(record.folder) if record else None
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if record is None or ticket is None or not ticket.admits(token):
            text = f"Another attempt of {job_id} has taken over, or it has ended: this one is not wanted any more."
            raise ApiError(410, text, "attempt_over")
        return record.folder, ticket


def _is_event(raw: object) -> bool:
    if not isinstance(raw, dict) or raw.keys() != EVENT_FIELDS.keys():
        return False
    return all(isinstance(raw[name], kind) for name, kind in EVENT_FIELDS.items())


def _place(folder: Path, path: str) -> Path:
    """Where the file goes, in folders that are made for it. Raises Problem (400) where a file stands in their place."""
    target = folder / path
    above = [folder / part for part in Path(path).parents]
    if target.is_dir() or any(part.exists() and not part.is_dir() for part in above):
        raise invalid(f"'{path}' can't be a file here: what stands there is of another kind.", "path")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


async def _receive(request: Request, target: Path, check: Callable[[Path], None]) -> None:
    """Whole or not at all, and not where the job was cancelled while the bytes came."""
    temporary = target.with_name(target.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
            file.flush()
            await run_in_threadpool(os.fsync, file.fileno())
        await run_in_threadpool(check, temporary)
        temporary.replace(target)
    except ClientDisconnect as error:
        raise ApiError(400, f"'{target.name}' broke off on its way.", "incomplete") from error
    finally:
        temporary.unlink(missing_ok=True)


def _complete(folder: Path, path: str) -> None:
    """A second time changes nothing: the answer to the first may have got lost."""
    temporary, target = folder / hidden(path), folder / path
    if target.is_file():
        raise invalid(f"'{path}' can't be a folder here: a file stands there.", "path")
    if temporary.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    elif not target.is_dir():
        raise missing("folder", path)


def _prune(folder: Path, path: str, keep: set[str]) -> None:
    for old in complete_folders(folder):
        if old not in keep and old != path:
            shutil.rmtree(folder / old)


def _base_files(folder: Path) -> Mapping[str, Path]:
    """Of a hub id none: the node fetches those itself."""
    source = Path(read_job(folder).base)
    if not source.is_dir():
        return {}
    found = (path for path in source.iterdir() if path.is_file() and path.name.endswith(WANTED))
    return {path.name: path for path in found}
