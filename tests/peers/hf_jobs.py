"""Stands in for Hugging Face: its Jobs API, and private repositories as far as huggingface_hub 2.4 needs them.

A job's command really runs, as a process in its own folder, and the server ends it after the job's time-out. Tests
check the ledger: what ran, for how long, and what it cost.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

TOKEN, ACCOUNT = "hf_test", "acme"
LIVE = ("SCHEDULING", "RUNNING")


@dataclass
class Repository:
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=lambda: [("0" * 40, {})])

    def at(self, revision: str) -> tuple[str, dict[str, bytes]]:
        return next((commit for commit in self.commits if commit[0] == revision), self.commits[-1])


@dataclass
class PeerJob:
    id: str
    spec: dict[str, Any]
    created: float
    micro_usd: int
    stage: str = "SCHEDULING"
    message: str | None = None
    started: float | None = None
    ended: float | None = None
    output: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def seconds(self) -> int:
        """Whole seconds that the machine has run."""
        return int((self.ended or time.time()) - self.started) if self.started else 0

    @property
    def usd(self) -> Decimal:
        return Decimal(self.micro_usd) * self.seconds / 60 / 1_000_000


@dataclass
class HfPeer:
    """Settings may be changed at any time.

    micro_usd     price per minute of each hardware
    schedule_s    seconds until a machine is there
    refusal       status and text with which every create is refused
    lost_answers  number of creates that are carried out but not answered
    list_lag_s    seconds for which a list doesn't show a new job
    pull_error    why the image can't be pulled
    files         uploaded after `stub_s` seconds by a machine that doesn't run its command
    checkpoint    uploaded by such a machine at once
    ran_s         seconds that such a machine has run by then, by its own clock
    losses        number of such machines that are lost before they upload `files`
    unseen_looks  number of looks that don't find a machine
    forgets_time  the durations of an ended machine are missing
    """

    url: str = ""
    micro_usd: dict[str, int] = field(default_factory=lambda: {"t4-small": 6_667, "cpu-basic": 167})
    schedule_s: float = 0.2
    refusal: tuple[int, str] | None = None
    lost_answers: int = 0
    list_lag_s: float = 0.0
    pull_error: str | None = None
    is_away: bool = False
    files: dict[str, bytes] | None = None
    checkpoint: dict[str, bytes] = field(default_factory=dict)
    stub_s: float = 1.0
    ran_s: float = 0.0
    losses: int = 0
    forgets_time: bool = False
    unseen_looks: int = 0
    jobs: dict[str, PeerJob] = field(default_factory=dict)
    repositories: dict[str, Repository] = field(default_factory=dict)
    ever: set[str] = field(default_factory=set)
    stored: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def running(self) -> list[PeerJob]:
        return [job for job in list(self.jobs.values()) if job.stage in LIVE]

    @property
    def usd(self) -> Decimal:
        return sum((job.usd for job in self.jobs.values()), Decimal(0))

    def end(self, job: PeerJob, stage: str, message: str | None = None) -> None:
        with self.lock:
            if job.stage not in LIVE:
                return
            job.stage = stage
            job.message = message
            job.ended = time.time()
        if job.process is not None and job.process.poll() is None:
            os.killpg(job.process.pid, signal.SIGKILL)

    def work(self, job: PeerJob) -> None:
        """Plays a machine's life, in a thread."""
        while time.time() - job.created < self.schedule_s:
            if job.stage not in LIVE:
                return
            time.sleep(0.05)
        if self.pull_error:
            return self.end(job, "ERROR", self.pull_error)
        if self.files is not None:
            return self._pretend(job, self.files)
        folder = Path(tempfile.mkdtemp(prefix="hf-machine-"))
        try:
            self._run(job, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _pretend(self, job: PeerJob, files: dict[str, bytes]) -> None:
        with self.lock:
            if job.stage not in LIVE:
                return
            began = time.time()
            job.stage, job.started = "RUNNING", began - self.ran_s
            is_lost, self.losses = self.losses > 0, max(0, self.losses - 1)
        self._upload(job, self.checkpoint)
        while job.stage in LIVE and time.time() - began < self.stub_s:
            if job.seconds >= job.spec["timeoutSeconds"]:
                return self.end(job, "ERROR", "Job timeout")
            time.sleep(0.05)
        if is_lost:
            return self.end(job, "ERROR", "Node is gone")
        self._upload(job, files)
        self.end(job, "COMPLETED")

    def _upload(self, job: PeerJob, files: dict[str, bytes]) -> None:
        repository = self.repositories.get(job.spec["environment"]["FINETUNE_REPO"])
        if repository is not None and job.stage in LIVE:
            repository.commits.append((secrets.token_hex(20), {**repository.commits[-1][1], **files}))

    def _run(self, job: PeerJob, folder: Path) -> None:
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        plain = {
            "PATH": path,
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "HF_HUB_DISABLE_XET": "1",
        }
        plain |= {"OMP_NUM_THREADS": "1", "FINETUNE_DTYPE": "fp32", "TOKENIZERS_PARALLELISM": "false"}
        environment = {**plain, **job.spec["environment"], **job.spec.get("secrets", {})}
        with self.lock:
            if job.stage not in LIVE:
                return
            job.stage, job.started = "RUNNING", time.time()
            job.process = subprocess.Popen(
                job.spec["command"],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            output, _ = job.process.communicate(timeout=job.spec["timeoutSeconds"])
            job.output = output.decode(errors="replace")
        except subprocess.TimeoutExpired:
            return self.end(job, "ERROR", "Job timeout")
        code = job.process.returncode
        self.end(
            job, "COMPLETED" if code == 0 else "ERROR", f"Job failed with exit code: {code}" if code else None
        )

    # Jobs

    def hardware(self, request: Request) -> Response:
        return JSONResponse([_hardware(name, price) for name, price in self.micro_usd.items()])

    async def create(self, request: Request) -> Response:
        spec = await request.json()
        if self.refusal:
            return JSONResponse({"error": self.refusal[1]}, self.refusal[0])
        if "timeoutSeconds" not in spec or spec.get("attempts") != 1 or spec["flavor"] not in self.micro_usd:
            return JSONResponse(
                {"error": "This stand-in needs a time-out, one attempt and known hardware."}, 400
            )
        job = PeerJob(secrets.token_hex(12), spec, time.time(), self.micro_usd[spec["flavor"]])
        self.jobs[job.id] = job
        threading.Thread(target=self.work, args=(job,), daemon=True).start()
        if self.lost_answers:
            self.lost_answers -= 1
            return JSONResponse({"error": "Gateway time-out"}, 504)
        return JSONResponse(_body(job))

    def index(self, request: Request) -> Response:
        wanted = dict(label.split("=", 1) for label in request.query_params.getlist("label"))
        shown = [job for job in list(self.jobs.values()) if time.time() - job.created >= self.list_lag_s]
        return JSONResponse(
            [_body(job) for job in shown[::-1] if wanted.items() <= job.spec["labels"].items()]
        )

    def retrieve(self, request: Request) -> Response:
        job = self.jobs.get(request.path_params["id"])
        self.unseen_looks -= 1
        if job is None or self.unseen_looks >= 0:
            return JSONResponse({"error": "Not found"}, 404)
        body = _body(job)
        is_forgotten = self.forgets_time and job.stage not in LIVE
        return JSONResponse({**body, "durations": None} if is_forgotten else body)

    def cancel(self, request: Request) -> Response:
        job = self.jobs[request.path_params["id"]]
        self.end(job, "CANCELED")
        return JSONResponse(_body(job))

    def logs(self, request: Request) -> Response:
        lines = self.jobs[request.path_params["id"]].output.splitlines()[-50:]
        events = [f"data: {json.dumps({'data': line, 'timestamp': ''})}\n\n" for line in lines]
        return Response("".join(events), media_type="text/event-stream")

    # Repositories

    def whoami(self, request: Request) -> Response:
        return JSONResponse({"type": "user", "id": "1", "name": ACCOUNT, "orgs": []})

    async def create_repository(self, request: Request) -> Response:
        body = await request.json()
        name = f"{body.get('organization') or ACCOUNT}/{body['name']}"
        assert body.get("private") is True or body.get("visibility") == "private"
        if name in self.repositories:
            return JSONResponse({"error": "You already created this repo", "url": f"{self.url}/{name}"}, 409)
        self.repositories[name] = Repository()
        self.ever.add(name)
        return JSONResponse({"url": f"{self.url}/{name}", "name": name})

    async def delete_repository(self, request: Request) -> Response:
        body = await request.json()
        gone = self.repositories.pop(f"{body.get('organization') or ACCOUNT}/{body['name']}", None)
        return Response() if gone else _no_repository()

    async def preupload(self, request: Request) -> Response:
        files = (await request.json())["files"]
        return JSONResponse(
            {
                "files": [
                    {
                        "path": each["path"],
                        "uploadMode": "lfs" if each["path"].endswith((".safetensors", ".zip")) else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for each in files
                ]
            }
        )

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
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        repository = self.repositories.get(_name(request))
        if repository is None:
            return _no_repository()
        files = dict(repository.commits[-1][1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = secrets.token_hex(20)
        repository.commits.append((oid, files))
        return JSONResponse({"commitUrl": f"{self.url}/{_name(request)}/commit/{oid}", "commitOid": oid})

    def info(self, request: Request) -> Response:
        repository = self.repositories.get(_name(request))
        if repository is None:
            return _no_repository()
        sha, files = repository.at(request.path_params.get("revision", "main"))
        siblings = [{"rfilename": path} for path in files]
        return JSONResponse(
            {"id": _name(request), "sha": sha, "siblings": siblings, "tags": [], "private": True}
        )

    def tree(self, request: Request) -> Response:
        repository = self.repositories.get(_name(request))
        if repository is None:
            return _no_repository()
        _, files = repository.at(request.path_params["revision"])
        rows = [
            {"type": "file", "path": path, "size": len(content), "oid": _digest(content)}
            for path, content in files.items()
        ]
        return JSONResponse(rows)

    def resolve(self, request: Request) -> Response:
        repository = self.repositories.get(_name(request))
        if repository is None:
            return _no_repository()
        sha, files = repository.at(request.path_params["revision"])
        content = files.get(request.path_params["path"])
        if content is None:
            return JSONResponse({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": sha, "ETag": f'"{_digest(content)}"'}
        return Response(content, headers=headers, media_type="application/octet-stream")

    def app(self) -> Starlette:
        repository = "/api/models/{org}/{name}"
        routes = [
            Route("/api/whoami-v2", self.whoami),
            Route("/api/jobs/hardware", self.hardware),
            Route("/api/jobs/{namespace}", self.create, methods=["POST"]),
            Route("/api/jobs/{namespace}", self.index),
            Route("/api/jobs/{namespace}/{id}", self.retrieve),
            Route("/api/jobs/{namespace}/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/api/jobs/{namespace}/{id}/logs", self.logs),
            Route("/api/repos/create", self.create_repository, methods=["POST"]),
            Route("/api/repos/delete", self.delete_repository, methods=["DELETE"]),
            Route(f"{repository}/preupload/main", self.preupload, methods=["POST"]),
            Route(f"{repository}/commit/main", self.commit, methods=["POST"]),
            Route(repository, self.info),
            Route(f"{repository}/revision/{{revision}}", self.info),
            Route(f"{repository}/tree/{{revision}}", self.tree),
            Route("/{org}/{name}.git/info/lfs/objects/batch", self.batch, methods=["POST"]),
            Route("/store/{oid}", self.store, methods=["PUT"]),
            Route("/{org}/{name}/resolve/{revision}/{path:path}", self.resolve, methods=["GET", "HEAD"]),
        ]
        return Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=self.guard)])

    async def guard(self, request: Request, call: RequestResponseEndpoint) -> Response:
        self.requests.append(f"{request.method} {request.url.path}")
        if self.is_away:
            return JSONResponse({"error": "Service unavailable"}, 503)
        is_known = request.headers.get("authorization") == f"Bearer {TOKEN}"
        if not is_known and not request.url.path.startswith("/store/"):
            return JSONResponse({"error": "Invalid username or password."}, 401)
        return await call(request)


def _name(request: Request) -> str:
    return f"{request.path_params['org']}/{request.path_params['name']}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:40]


def _no_repository() -> Response:
    return JSONResponse({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})


def _hardware(name: str, price: int) -> dict[str, Any]:
    count = name.partition("x")[2] or "1"
    gpu = {"type": "gpu", "model": "T4", "quantity": count, "vram": "16 GB", "manufacturer": "Nvidia"}
    return {
        "name": name,
        "prettyName": name,
        "cpu": "4 vCPU",
        "ram": "15 GB",
        "ephemeralStorage": "50 GB",
        "accelerator": gpu if name.startswith("t4") else None,
        "unitCostMicroUSD": price,
        "unitCostUSD": price / 1_000_000,
        "unitLabel": "minute",
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _body(job: PeerJob) -> dict[str, Any]:
    end = job.ended or time.time()
    return {
        "id": job.id,
        "createdAt": _time(job.created),
        "startedAt": _time(job.started),
        "finishedAt": _time(job.ended),
        "dockerImage": job.spec.get("dockerImage"),
        "command": job.spec["command"],
        "arguments": [],
        "environment": job.spec["environment"],
        "flavor": job.spec["flavor"],
        "labels": job.spec["labels"],
        "status": {"stage": job.stage, "message": job.message},
        "durations": {
            "schedulingSecs": int((job.started or end) - job.created),
            "runningSecs": job.seconds if job.started else None,
            "totalSecs": int(end - job.created),
        },
        "owner": {"id": "1", "name": ACCOUNT, "type": "user"},
    }


@contextmanager
def hf_jobs() -> Iterator[HfPeer]:
    """Serves on loopback in a thread, and ends its machines at the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    peer = HfPeer(f"http://127.0.0.1:{listener.getsockname()[1]}")
    config = uvicorn.Config(peer.app(), log_config=None, access_log=False, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield peer
    finally:
        for job in peer.running:
            peer.end(job, "CANCELED")
        server.should_exit = True
        thread.join(20)
        listener.close()
