"""Trainers to test against: in a process of their own, or in a thread with another training command.

Every response to `client` is checked against OpenAI's own description of the API.
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import openai
import uvicorn
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from trainers.http.connections import server_config
from trainers.http.sockets import listen
from trainers.local.api.server import Config, build_app

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT.parent / "shared" / "data" / "openai-training-api.yaml"
STUB = (sys.executable, str(Path(__file__).with_name("stub_train.py")))
KEY = "sk-test-key"
T = TypeVar("T")


@dataclass
class TrainerServer:
    """`checked` lists the checked responses in order, each as 'METHOD /path/template'."""

    url: str
    process: subprocess.Popen[str] | None = None
    timeout_s: float = 60
    checked: list[str] = field(default_factory=list)

    def client(self, key: str = KEY) -> openai.OpenAI:
        checks = {"response": [lambda r: check_answer(r, self.checked)]}
        http = openai.DefaultHttpxClient(event_hooks=checks, verify=False)  # plain HTTP needs no certificates
        return openai.OpenAI(
            base_url=self.url, api_key=key, max_retries=0, timeout=self.timeout_s, http_client=http
        )


@contextmanager
def serve_in_process(data: Path, *models: str, more: tuple[str, ...] = ()) -> Iterator[TrainerServer]:
    """Runs `python -m trainers.local` as users start it, and ends it with SIGTERM."""
    process = start_process(data, *models, more=more)
    try:
        yield TrainerServer(ready_url(process), process)
    finally:
        process.terminate()
        process.wait(60)
        close(process)


def start_process(data: Path, *models: str, more: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    arguments = ["--port", "0", "--data", str(data), "--exit-with-parent", *more]
    environment = {
        **os.environ,
        "FINETUNE_TRAINER_KEY": KEY,
        "FINETUNE_DTYPE": "fp32",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "trainers.local", *arguments, *(f"--model={model}" for model in models)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def ready_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.match(r"trainer ready on (\S+) ", line)
    assert match, f"the trainer printed {line!r} instead of its address"
    return match[1]


def close(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


@contextmanager
def serve_in_thread(
    data: Path, models: dict[str, str], command: tuple[str, ...] = STUB, port: int = 0, **more: Any
) -> Iterator[TrainerServer]:
    """Runs a trainer in a thread. stub_train.py 'trains' its jobs. `more` are fields of Config."""
    listener = listen("127.0.0.1", port)
    app = build_app(Config(data, KEY, models, train_command=command, **more))
    server = uvicorn.Server(server_config(app, 2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield TrainerServer(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(look: Callable[[], T], is_right: Callable[[T], bool], seconds: float = 60) -> T:
    started = time.monotonic()
    while not is_right(value := look()):
        waited_s = time.monotonic() - started
        assert waited_s < seconds, f"still {value!r} after {seconds} s"
        time.sleep(0.05 if waited_s < 1 else 0.2)  # each look takes CPU time from what is waited for
    return value


def wait_for_status(client: openai.OpenAI, job_id: str, *statuses: str, seconds: float = 60) -> Any:
    """Returns the job, a FineTuningJob with fields of our trainer's own, once it has one of these statuses."""
    return wait_for(
        lambda: client.fine_tuning.jobs.retrieve(job_id), lambda job: job.status in statuses, seconds=seconds
    )


def examples(count: int = 12) -> bytes:
    """Returns chat JSONL: tickets and their labels."""
    labels = ("billing", "shipping", "login")
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Sort this support ticket."},
                {"role": "user", "content": f"Ticket {number}: my card was charged for the parcel."},
                {"role": "assistant", "content": labels[number % 3]},
            ]
        }
        for number in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def upload(client: openai.OpenAI, content: bytes | None = None, name: str = "tickets.jsonl") -> str:
    return client.files.create(file=(name, content or examples()), purpose="fine-tune").id


# Requests that OpenAI's description, or the part of it that we have, leaves out.
OUR_OWN = (
    "DELETE /fine_tuning/jobs/{fine_tuning_job_id}",
    "POST /responses",
    "GET /responses/{response_id}",
    "DELETE /responses/{response_id}",
    "POST /completions",
)


def check_answer(response: Any, checked: list[str]) -> None:
    """Raises if the body departs from OpenAI's description. Does nothing without that description."""
    response.read()
    template = _template(response.request.url.path)
    checked.append(f"{response.request.method} {template}")
    if not SCHEMA.exists() or response.headers["content-type"].startswith("text/event-stream"):
        return
    if response.status_code >= 400:
        _validator("ErrorResponse").validate(response.json())
    elif not template.endswith("/content") and checked[-1] not in OUR_OWN:
        body = _without_departures(response.json())
        _path_validator(template, response.request.method.lower()).validate(body)


def _without_departures(body: Any) -> Any:
    """Removes what we have beyond OpenAI's description: a status 'paused', which is in its example but not in its list
    of statuses, MLflow, methods of our own, and embeddings in base64, which the SDK requests."""
    if body.get("object") == "list":
        return {**body, "data": [_without_departures(item) for item in body["data"]]}
    if isinstance(body.get("embedding"), str):
        return {**body, "embedding": array("f", base64.b64decode(body["embedding"])).tolist()}
    if body.get("object") != "fine_tuning.job":
        return body
    integrations = [item for item in body["integrations"] if item["type"] != "mlflow"]
    status = "running" if body["status"] == "paused" else body["status"]
    kind = body["method"]["type"]
    method = {"type": "supervised"} if kind in ("head", "full", "all_weights") else body["method"]
    return {**body, "status": status, "integrations": integrations, "method": method}


def check_chunk(chunk: Any) -> None:
    if SCHEMA.exists():
        _validator("CreateChatCompletionStreamResponse").validate(chunk)


def _template(path: str) -> str:
    path = re.sub(r"^/v1", "", path)
    path = re.sub(r"/file-[\w-]+", "/{file_id}", path)
    path = re.sub(r"/ftjob-\w+", "/{fine_tuning_job_id}", path)
    path = re.sub(r"/resp_\w+", "/{response_id}", path)
    return re.sub(r"^/models/.+", "/models/{model}", path)


@cache
def _description() -> dict[str, Any]:
    return dict(yaml.load(SCHEMA.read_text(), Loader=yaml.CSafeLoader))


@cache
def _validator(name: str) -> Draft202012Validator:
    return _validator_of({"$ref": f"#/components/schemas/{name}"})


@cache
def _path_validator(template: str, method: str) -> Draft202012Validator:
    answer = _description()["paths"][template][method]["responses"]["200"]
    return _validator_of(next(iter(answer["content"].values()))["schema"])


def _validator_of(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": _description()["components"]})
