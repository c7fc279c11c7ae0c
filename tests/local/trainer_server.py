"""Trainers to test against: as a process of its own, or in this process with another training command.

Every answer that passes through `client` is checked against OpenAI's own description of the API.
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
from openai.types.fine_tuning import FineTuningJob

from trainers.local.__main__ import listen
from trainers.local.api.guard import server_config
from trainers.local.api.server import Config, build_app

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT.parent / "shared" / "data" / "openai-training-api.yaml"
STUB = (sys.executable, str(Path(__file__).with_name("stub_train.py")))
KEY = "sk-test-key"
T = TypeVar("T")


@dataclass
class Checked:
    """Bodies that were checked: 'METHOD /path/template' of each, in order."""

    seen: list[str] = field(default_factory=list)


@dataclass
class TrainerServer:
    url: str
    process: subprocess.Popen[str] | None = None
    timeout_s: float = 60
    checked: Checked = field(default_factory=Checked)

    def client(self, key: str = KEY) -> openai.OpenAI:
        http = openai.DefaultHttpxClient(event_hooks={"response": [lambda r: check_answer(r, self.checked)]})
        return openai.OpenAI(
            base_url=self.url, api_key=key, max_retries=0, timeout=self.timeout_s, http_client=http
        )


@contextmanager
def serve_in_process(data: Path, *models: str, more: tuple[str, ...] = ()) -> Iterator[TrainerServer]:
    """`python -m trainers.local` as users start it, ended with SIGTERM."""
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
    found = re.match(r"trainer ready on (\S+) ", line)
    assert found, f"the trainer said {line!r} instead of being ready"
    return found[1]


def close(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


@contextmanager
def serve_in_thread(
    data: Path, models: dict[str, str], command: tuple[str, ...] = STUB, port: int = 0, **more: Any
) -> Iterator[TrainerServer]:
    """In a thread of this process; jobs are 'trained' by stub_train.py. `more` are Config's fields."""
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
        time.sleep(0.05 if waited_s < 1 else 0.2)  # each look costs the processor that is waited for
    return value


def wait_for_status(client: openai.OpenAI, job_id: str, *statuses: str, seconds: float = 60) -> FineTuningJob:
    return wait_for(
        lambda: client.fine_tuning.jobs.retrieve(job_id), lambda job: job.status in statuses, seconds=seconds
    )


def examples(count: int = 12) -> bytes:
    """Chat JSONL: tickets and their labels."""
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


# Requests that OpenAI's description hasn't, and those that the part of it at hand leaves out.
OUR_OWN = ("DELETE /fine_tuning/jobs/{fine_tuning_job_id}", "POST /responses", "POST /completions")


def check_answer(response: Any, checked: Checked) -> None:
    """Raises where a body departs from OpenAI's description; does nothing where that isn't at hand."""
    response.read()
    template = _template(response.request.url.path)
    checked.seen.append(f"{response.request.method} {template}")
    if not SCHEMA.exists() or response.headers["content-type"].startswith("text/event-stream"):
        return
    if response.status_code >= 400:
        _validator("ErrorResponse").validate(response.json())
    elif not template.endswith("/content") and checked.seen[-1] not in OUR_OWN:
        body = _without_departures(response.json())
        _path_validator(template, response.request.method.lower()).validate(body)


def _without_departures(body: Any) -> Any:
    """Where we leave OpenAI's description knowingly: a status 'paused', which their own example has and their list
    of statuses lacks, MLflow beside W&B, and the methods of encoders. It knows embeddings as numbers only; the SDK
    asks for base64."""
    if body.get("object") == "list":
        return {**body, "data": [_without_departures(each) for each in body["data"]]}
    if isinstance(body.get("embedding"), str):
        return {**body, "embedding": array("f", base64.b64decode(body["embedding"])).tolist()}
    if body.get("object") != "fine_tuning.job":
        return body
    integrations = [each for each in body["integrations"] if each["type"] != "mlflow"]
    status = "running" if body["status"] == "paused" else body["status"]
    kind = body["method"]["type"]
    method = {"type": "supervised"} if kind in ("head", "full") else body["method"]
    return {**body, "status": status, "integrations": integrations, "method": method}


def check_chunk(chunk: Any) -> None:
    if SCHEMA.exists():
        _validator("CreateChatCompletionStreamResponse").validate(chunk)


def _template(path: str) -> str:
    path = re.sub(r"^/v1", "", path)
    path = re.sub(r"/file-[\w-]+", "/{file_id}", path)
    path = re.sub(r"/ftjob-\w+", "/{fine_tuning_job_id}", path)
    return re.sub(r"^/models/.+", "/models/{model}", path)


@cache
def _description() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(SCHEMA.read_text(), Loader=yaml.CSafeLoader)
    return loaded


@cache
def _validator(name: str) -> Draft202012Validator:
    return _validator_of({"$ref": f"#/components/schemas/{name}"})


@cache
def _path_validator(template: str, method: str) -> Draft202012Validator:
    answer = _description()["paths"][template][method]["responses"]["200"]
    return _validator_of(next(iter(answer["content"].values()))["schema"])


def _validator_of(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": _description()["components"]})
