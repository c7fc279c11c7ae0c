"""Stands in for a Ray cluster's head: its Jobs API over real HTTP. What a job does is a function of the test.

It answers as Ray 2.60 does: 404 for unknown things, 500 for a submission id that exists already.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

Run = Callable[[Mapping[str, str]], int]


class Head:
    """`jobs` has jobs by submission id. `run` gets a job's environment and returns its exit code; without it a job
    runs until `finish`. `version` is the one in /api/version."""

    def __init__(self, run: Run | None = None, version: str = "2.60.0") -> None:
        self.run = run
        self.version = version
        self.jobs: dict[str, dict[str, Any]] = {}
        self.bodies: list[dict[str, Any]] = []
        self.packages: dict[str, bytes] = {}
        self.stops: list[str] = []
        self.nodes: list[dict[str, float]] = [{"CPU": 2.0}]  # the resources of each
        self.grows = False  # by an autoscaler like KubeRay's
        self.placed: list[str] = []  # names of the placement groups that have their nodes
        self.loses_answers = False  # accepts a submission and closes the connection
        self.answers = threading.Event()  # while it is clear, requests wait for an answer
        self.answers.set()
        self.waiting = 0  # requests that have come while it was clear
        self._server = self._listen(0)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def go_away(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def come_back(self, *, knows_its_jobs: bool) -> None:
        if not knows_its_jobs:
            self.jobs = {}
        self._server = self._listen(self._server.server_port)

    def finish(self, submission: str, status: str, code: int | None, message: str = "") -> None:
        self.jobs[submission] |= {"status": status, "driver_exit_code": code, "message": message}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        path, _, query = path.partition("?")
        match (method, path.strip("/").split("/")):
            case "GET", ["api", "version"]:
                return 200, {"version": "4", "ray_version": self.version, "session_name": "s"}
            case "GET", ["api", "packages", "gcs", name]:
                return (200, "") if name in self.packages else (404, f"Package {name} does not exist")
            case "PUT", ["api", "packages", "gcs", name]:
                self.packages[name] = body
                return 200, ""
            case "POST", ["api", "jobs"]:
                return self._submit(json.loads(body))
            case "GET", ["api", "jobs", name] if name in self.jobs:
                return 200, self.jobs[name]
            case "GET", ["api", "jobs", name, "logs"] if name in self.jobs:
                return 200, {"logs": f"the log of {name}\n"}
            case "POST", ["api", "jobs", name, "stop"] if name in self.jobs:
                self.stops.append(name)
                self.finish(name, "STOPPED", None)
                return 200, {"stopped": True}
            case "GET", ["api", "v0", what]:
                return 200, {
                    "result": True,
                    "msg": "",
                    "data": {"result": {"result": self._listed(what, query)}},
                }
            case "GET", ["api", "cluster_status"]:
                names = ["headgroup", "gpus"] if self.grows else [f"node{number:056X}" for number in range(2)]
                report = {"autoscalerReport": {"activeNodes": dict.fromkeys(names, 1)}}
                return 200, {"result": True, "data": {"clusterStatus": report}}
        return 404, f"{path} does not exist"

    def _listed(self, what: str, query: str) -> list[dict[str, Any]]:
        if what == "nodes":
            return [{"state": "ALIVE", "resources_total": each} for each in self.nodes]
        (name,) = parse_qs(query)["filter_values"]
        state = "CREATED" if name in self.placed else "PENDING"
        is_submitted = any(body["submission_id"] == name for body in self.bodies)
        return [{"name": name, "state": state}] if is_submitted else []

    def _submit(self, body: dict[str, Any]) -> tuple[int, object]:
        name = body["submission_id"]
        if name in self.jobs:
            return 500, f"Traceback …\nValueError: Job with submission_id {name} already exists."
        self.bodies.append(body)
        self.jobs[name] = {"status": "RUNNING", "message": "", "driver_exit_code": None}
        threading.Thread(target=self._work, args=(name, body), daemon=True).start()
        return 200, {"job_id": name, "submission_id": name}

    def _work(self, name: str, body: dict[str, Any]) -> None:
        if self.run is not None:
            code = self.run(body["runtime_env"]["env_vars"])
            self.finish(name, "FAILED" if code else "SUCCEEDED", code)

    def _listen(self, port: int) -> ThreadingHTTPServer:
        head = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if not head.answers.is_set():
                    head.waiting += 1
                    head.answers.wait()
                status, content = head.answer(self.command, self.path, body)
                if head.loses_answers and self.command == "POST":
                    return self.connection.close()
                text = (content if isinstance(content, str) else json.dumps(content)).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = handle_any

            def log_message(self, format: str, *args: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server


@contextmanager
def ray_head(**more: Any) -> Iterator[Head]:
    head = Head(**more)
    try:
        yield head
    finally:
        head.go_away()
