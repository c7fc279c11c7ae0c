"""Tinker's HTTP API in memory, as the package `tinker` types it.

`python -m tests.peers.tinker_server FOLDER` runs in an environment with that package, whose own types parse each
request and write each answer. It is strict: a key has to be the right one, a run's requests have to come in their
order, each once, and a base has to be trainable. A run's loss falls with the tokens that it has learnt.

FOLDER/faults.json, read at each request, has `lose`: paths whose answers are lost after they were carried out;
`refuse`: paths with the status to answer; and `gone`: runs whose session has ended. FOLDER/state.json has what a test
looks at.

FOLDER/billing.json, read at each request too, has what a test decides about the bill, in unix seconds: `now`, the time;
`listed_until`, up to which usage is listed; `invoiced_until`, up to which its prices follow from an invoice, at `rate`
USD per million tokens; and `usage` of others to add. Usage of a day that is over has no price before its invoice.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from tinker import types
from tinker.proto import tinker_public_pb2 as pb

KEY = "tml-stand-in"
ADMIN_KEY = "tml-stand-in-admin"  # of somebody who may see the bill
LIST_RATE = 0.44  # USD per million tokens
STORAGE_RATE = 0.10  # USD per GB and month
HOUR_S = 3600
BASES = ("Qwen/Qwen3-8B", "Qwen/Qwen3.5-4B")
MOST_RANK = 32
FIRST_LOSS = 3.0
LABELS = ("billing", "refund", "shipping")


@dataclass
class Run:
    """A training run. `learnt` are the tokens of its optimizer steps, `steps` their number."""

    id: str
    base: str
    rank: int
    metadata: dict[str, str]
    steps: int = 0
    learnt: int = 0
    pending: int = 0
    seq: int = 0
    checkpoints: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Tinker:
    """`folder` has adapter/, the files of each export. `trained` are the tokens of all passes, which are billed."""

    folder: Path
    address: str = ""
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    models: dict[tuple[str, int], str] = field(default_factory=dict)
    answers: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    done: dict[tuple[str, int], str] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    chats: list[dict[str, Any]] = field(default_factory=list)
    optimizer: list[dict[str, float]] = field(default_factory=list)
    trained: int = 0
    usage: list[dict[str, Any]] = field(default_factory=list)
    gone: tuple[str, ...] = ()
    looked_for: set[str] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def write_state(self) -> None:
        state = {
            "runs": [
                {
                    "id": run.id,
                    "base": run.base,
                    "rank": run.rank,
                    "metadata": run.metadata,
                    "steps": run.steps,
                    "checkpoints": sorted(run.checkpoints),
                    "expiring": sorted(
                        name for name, stored in run.checkpoints.items() if stored["expires_at"]
                    ),
                }
                for run in self.runs.values()
            ],
            "trained": self.trained,
            "deleted": self.deleted,
            "calls": self.calls,
            "chats": self.chats,
            "optimizer": self.optimizer,
        }
        temporary = self.folder / "state.tmp"
        temporary.write_text(json.dumps(state))
        temporary.replace(self.folder / "state.json")

    # What a person's program asks for.

    def create_session(self, body: dict[str, Any]) -> dict[str, Any]:
        request = types.CreateSessionRequest.model_validate(body)
        session = str(uuid.uuid4())
        self.sessions[session] = dict(request.user_metadata or {})
        return types.CreateSessionResponse(session_id=session).model_dump()

    def create_model(self, body: dict[str, Any]) -> dict[str, Any]:
        request = types.CreateModelRequest.model_validate(body)
        if request.base_model not in BASES:
            raise Refused(400, f"{request.base_model} can't be trained")
        rank = request.lora_config.rank if request.lora_config else 0
        if not 1 <= rank <= MOST_RANK:
            raise Refused(400, f"rank {rank} is above {MOST_RANK}")
        place = (request.session_id, request.model_seq_id)
        if place not in self.models:  # a retry of the same request makes no second one
            run = Run(f"{request.session_id}:train:{request.model_seq_id}", request.base_model, rank, {})
            run.metadata = dict(request.user_metadata or {})
            self.models[place] = run.id
            self.runs[run.id] = run
        return self.promise(types.CreateModelResponse(model_id=self.models[place]))

    def load_weights(self, body: dict[str, Any]) -> dict[str, Any]:
        request = types.LoadWeightsRequest.model_validate(body)
        source, stored = self.find(request.path)
        if request.session_id is None:
            raise Refused(400, "this stand-in loads into new runs only")
        place = (request.session_id, request.model_seq_id)
        if place not in self.models:
            run = Run(f"{request.session_id}:train:{request.model_seq_id}", source.base, source.rank, {})
            run.metadata = dict(request.user_metadata or {})
            run.steps = stored["steps"]
            run.learnt = stored["learnt"]
            self.models[place] = run.id
            self.runs[run.id] = run
        return self.promise(types.LoadWeightsResponse(path=request.path, model_id=self.models[place]))

    def forward_backward(self, raw: bytes) -> dict[str, Any]:
        request = pb.ForwardBackwardRequest()
        request.ParseFromString(raw)
        run = self.run(request.model_id)
        earlier = self.in_order(run, request.seq_id)
        if earlier:
            return earlier
        if request.loss_fn != "cross_entropy":
            raise Refused(400, f"unknown loss {request.loss_fn}")
        output = pb.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord")
        record = output.loss_fn_outputs.add(num_datums=len(request.data))
        logprobs = []
        offsets = [0]
        for datum in request.data:
            inputs = np.frombuffer(datum.model_input[0].encoded_text.tokens, np.int32)
            targets = np.frombuffer(datum.loss_fn_inputs["target_tokens"].dense, np.int64)
            weights = np.frombuffer(datum.loss_fn_inputs["weights"].dense, np.float32)
            if not len(inputs) == len(targets) == len(weights):
                raise Refused(400, "inputs, targets and weights differ in length")
            values = np.full(len(targets), -self.loss(run), np.float32)
            logprobs.append(values)
            offsets.append(offsets[-1] + values.nbytes)
            run.pending += int((weights > 0).sum())
            self.trained += len(inputs)
            self.note_usage(run, {"type": "training", "token_count": len(inputs)})
        tensor = record.fields["logprobs"]
        tensor.dtype = pb.DTYPE_FLOAT32
        tensor.data = np.concatenate(logprobs).tobytes()
        tensor.offsets = np.asarray(offsets, np.int64).tobytes()
        return self.remember(run, request.seq_id, output)

    def optim_step(self, body: dict[str, Any]) -> dict[str, Any]:
        request = types.OptimStepRequest.model_validate(body)
        run = self.run(request.model_id)
        earlier = self.in_order(run, request.seq_id)
        if earlier:
            return earlier
        run.steps += 1
        run.learnt += run.pending
        run.pending = 0
        self.optimizer.append({**body["adam_params"], "step": run.steps})
        return self.remember(run, request.seq_id, types.OptimStepResponse(metrics={}))

    def save_weights(self, body: dict[str, Any]) -> dict[str, Any]:
        request = types.SaveWeightsRequest.model_validate(body)
        path = self.save(request, "training", "weights")
        return (
            path if isinstance(path, dict) else self.remember_path(request, path, types.SaveWeightsResponse)
        )

    def save_weights_for_sampler(self, body: dict[str, Any]) -> dict[str, Any]:
        request = types.SaveWeightsForSamplerRequest.model_validate(body)
        path = self.save(request, "sampler", "sampler_weights")
        kind = types.SaveWeightsForSamplerResponseInternal
        return path if isinstance(path, dict) else self.remember_path(request, path, kind)

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answers like a program with OpenAI's API: a tuned model with the label that the text names."""
        model = str(body["model"])
        text = str(body["messages"][-1]["content"])
        answer = LABELS[0]
        if model.startswith("tinker://"):
            _, stored = self.find(model)
            if stored["checkpoint_type"] != "sampler":
                raise Refused(400, "these weights are not for answers")
            answer = next((label for label in LABELS if label in text), LABELS[0])
        elif model not in BASES:
            raise Refused(404, f"no model {model}")
        usage = {"prompt_tokens": len(text.split()), "completion_tokens": 1}
        usage["total_tokens"] = usage["prompt_tokens"] + 1
        self.chats.append({"model": model, **usage})
        message = {"role": "assistant", "content": answer}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {
            "id": f"chatcmpl-{uuid.uuid4()}",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [choice],
            "usage": usage,
        }

    def save_weights_external(self, body: dict[str, Any]) -> dict[str, Any]:
        request = types.SaveWeightsExternalRequest.model_validate(body)
        path = self.save(request, "external", "external_weights")
        kind = types.SaveWeightsExternalResponse
        return path if isinstance(path, dict) else self.remember_path(request, path, kind)

    def save(self, request: Any, kind: str, part: str) -> str | dict[str, Any]:
        run = self.run(request.model_id)
        earlier = self.in_order(run, request.seq_id)
        if earlier:
            return earlier
        if request.ttl_seconds is not None and request.ttl_seconds < 3600:
            raise Refused(422, "ttl_seconds is at least 3600")
        if f"{part}/{request.path}" in run.checkpoints:
            raise Refused(409, f"{request.path} exists")
        expires = None
        if request.ttl_seconds:
            expires = (datetime.now(UTC) + timedelta(seconds=request.ttl_seconds)).isoformat()
        run.checkpoints[f"{part}/{request.path}"] = {
            "checkpoint_id": f"{part}/{request.path}",
            "checkpoint_type": kind,
            "time": datetime.now(UTC).isoformat(),
            "tinker_path": f"tinker://{run.id}/{part}/{request.path}",
            "size_bytes": 1000,
            "user_metadata": getattr(request, "user_metadata", None),
            "expires_at": expires,
            "steps": run.steps,
            "learnt": run.learnt,
        }
        self.note_usage(run, {"type": "checkpoint", "count": 1})
        self.note_usage(None, {"type": "storage", "gigabyte_hours": 0.5})
        return f"tinker://{run.id}/{part}/{request.path}"

    def remember_path(self, request: Any, path: str, kind: Any) -> dict[str, Any]:
        return self.remember(self.run(request.model_id), request.seq_id, kind(path=path))

    # What an administrator asks for.

    def note_usage(self, run: Run | None, info: dict[str, Any]) -> None:
        """Notes usage of this hour for the session that has created the run; storage belongs to none."""
        event: dict[str, Any] = {"at": self.billing_settings()["now"], "event_info": info}
        if run is not None:
            session, _, _ = run.id.partition(":train:")
            event |= {"session_id": session, "base_model": run.base}
        self.usage.append(event)

    def billing_settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "now": time.time(),
            "listed_until": math.inf,
            "invoiced_until": None,
            "rate": LIST_RATE,
            "usage": [],
        }
        path = self.folder / "billing.json"
        if path.exists():
            settings |= json.loads(path.read_text())
        return settings

    def list_usage(self, query: dict[str, list[str]]) -> dict[str, Any]:
        settings = self.billing_settings()
        values = {name: value for name, (value,) in query.items()}
        try:
            request = types.GetBillingUsageRequest.model_validate(values)
        except ValueError as error:
            raise Refused(422, str(error)) from error
        start = request.starting_on.timestamp()
        end = request.ending_before.timestamp()
        if start % HOUR_S or end % HOUR_S or not start < end <= start + 14 * 24 * HOUR_S:
            raise Refused(422, "a window has whole hours, and 14 days at most")
        if start > settings["now"]:
            raise Refused(422, "the window begins in the future")
        events = [billing_event(noted, settings) for noted in (*self.usage, *settings["usage"])]
        listed = []
        for event in events:
            ended_at = event["bucket_end"].timestamp()
            if start <= event["bucket_start"].timestamp() < end and ended_at <= settings["listed_until"]:
                listed.append(event)
        ids = {event.get("session_id") for event in listed} - {None}
        metadata = {
            **self.sessions,
            **{noted.get("session_id"): noted.get("metadata") for noted in settings["usage"]},
        }
        body: dict[str, Any] = {
            "data": sorted(listed, key=lambda event: event["bucket_start"]),
            "sessions": {session: {"user_metadata": metadata[session]} for session in ids},
        }
        if settings["invoiced_until"] is not None:
            body["cost_data_through"] = datetime.fromtimestamp(settings["invoiced_until"], UTC)
        return types.BillingUsageResponse.model_validate(body).model_dump(mode="json")

    # Parts of these.

    def loss(self, run: Run) -> float:
        return FIRST_LOSS * math.exp(-run.learnt / 400)

    def run(self, name: str) -> Run:
        if name not in self.runs:
            raise Refused(404, f"no run {name}")
        if name in self.gone:
            raise Refused(410, f"the session of {name} has ended")
        return self.runs[name]

    def find(self, path: str) -> tuple[Run, dict[str, Any]]:
        parsed = types.ParsedCheckpointTinkerPath.from_tinker_path(path)
        run = self.run(parsed.training_run_id)
        if parsed.checkpoint_id not in run.checkpoints:
            raise Refused(404, f"no checkpoint {path}")
        return run, run.checkpoints[parsed.checkpoint_id]

    def in_order(self, run: Run, seq: int) -> dict[str, Any] | None:
        """Returns the answer to the same request, which a client repeats if it got none."""
        if (run.id, seq) in self.done:
            return {"request_id": self.done[(run.id, seq)]}
        if seq != run.seq + 1:
            raise Refused(400, f"request {seq} of {run.id} comes after {run.seq}")
        run.seq = seq
        return None

    def remember(self, run: Run, seq: int, answer: Any) -> dict[str, Any]:
        promised = self.promise(answer)
        self.done[(run.id, seq)] = promised["request_id"]
        return promised

    def promise(self, answer: Any) -> dict[str, Any]:
        name = str(uuid.uuid4())
        if isinstance(answer, pb.ForwardBackwardOutput):
            self.answers[name] = ("application/x-protobuf", answer.SerializeToString())
        else:
            self.answers[name] = ("application/json", answer.model_dump_json().encode())
        return {"request_id": name}

    def retrieve(self, name: str) -> tuple[str, bytes]:
        """Returns what a request has come to, at the second look."""
        if name not in self.looked_for:
            self.looked_for.add(name)
            raise Refused(408, "not done yet")
        return self.answers[name]

    def info(self, body: dict[str, Any]) -> dict[str, Any]:
        run = self.run(types.GetInfoRequest.model_validate(body).model_id)
        data = {
            "model_data": {"model_name": run.base},
            "model_id": run.id,
            "is_lora": True,
            "lora_rank": run.rank,
        }
        return types.GetInfoResponse.model_validate(data).model_dump(mode="json")

    def capabilities(self) -> dict[str, Any]:
        models = [{"model_name": base, "trainable": True, "sampleable": True} for base in BASES]
        models.append({"model_name": "openai/gpt-oss-120b", "trainable": False, "sampleable": True})
        return types.GetServerCapabilitiesResponse.model_validate({"supported_models": models}).model_dump()

    def list_runs(self, query: dict[str, list[str]]) -> dict[str, Any]:
        offset = int(query["offset"][0])
        limit = int(query["limit"][0])
        rows = [self.run_body(run) for run in reversed(self.runs.values())]
        cursor = {"offset": offset, "limit": limit, "total_count": len(rows)}
        body = {"training_runs": rows[offset : offset + limit], "cursor": cursor}
        return types.TrainingRunsResponse.model_validate(body).model_dump(mode="json")

    def run_body(self, run: Run) -> dict[str, Any]:
        return {
            "training_run_id": run.id,
            "base_model": run.base,
            "model_owner": "acme",
            "is_lora": True,
            "lora_rank": run.rank,
            "last_request_time": datetime.now(UTC).isoformat(),
            "user_metadata": run.metadata,
        }

    def list_checkpoints(self, run: Run) -> dict[str, Any]:
        rows = list(run.checkpoints.values())
        return types.CheckpointsListResponse.model_validate({"checkpoints": rows}).model_dump(mode="json")

    def all_checkpoints(self, query: dict[str, list[str]]) -> dict[str, Any]:
        offset = int(query["offset"][0])
        limit = int(query["limit"][0])
        rows = [stored for run in self.runs.values() for stored in run.checkpoints.values()]
        cursor = {"offset": offset, "limit": limit, "total_count": len(rows)}
        body = {"checkpoints": rows[offset : offset + limit], "cursor": cursor}
        return types.CheckpointsListResponse.model_validate(body).model_dump(mode="json")

    def urls(self, run: Run, checkpoint: str) -> dict[str, Any]:
        self.find(f"tinker://{run.id}/{checkpoint}")
        files = sorted(path.name for path in (self.folder / "adapter").iterdir())
        body = {
            "urls": {name: f"{self.address}/signed/{name}" for name in files},
            "expires": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        }
        return types.ExternalWeightsUrlsResponse.model_validate(body).model_dump(mode="json")


def billing_event(noted: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the event of some usage, priced as far as it can be by now."""
    start = datetime.fromtimestamp(noted["at"] // HOUR_S * HOUR_S, UTC)
    event = {
        "bucket_start": start,
        "bucket_end": start + timedelta(hours=1),
        "base_model": noted.get("base_model"),
        "session_id": noted.get("session_id"),
        "event_info": noted["event_info"],
    }
    invoiced_until = settings["invoiced_until"]
    is_invoiced = invoiced_until is not None and event["bucket_end"].timestamp() <= invoiced_until
    is_of_today = start.date() == datetime.fromtimestamp(settings["now"], UTC).date()
    info = noted["event_info"]
    if info["type"] == "checkpoint" or not (is_invoiced or is_of_today):
        return event
    if info["type"] == "storage":
        event["effective_rate_usd_per_gigabyte_month"] = STORAGE_RATE
        event["estimated_cost_usd"] = STORAGE_RATE * info["gigabyte_hours"] / 720
        return event
    rate = settings["rate"] if is_invoiced else LIST_RATE
    event["effective_rate_usd_per_million_tokens"] = rate
    event["estimated_cost_usd"] = rate * info["token_count"] / 1_000_000
    return event


class Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    peer: Tinker

    def log_message(self, format: str, *arguments: Any) -> None:
        return

    def do_GET(self) -> None:
        self.serve(b"")

    def do_POST(self) -> None:
        self.serve(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def do_DELETE(self) -> None:
        self.serve(b"")

    def serve(self, raw: bytes) -> None:
        split = urlsplit(self.path)
        path = split.path.removeprefix("/api/v1")
        try:
            kind, content = self.answer(path, parse_qs(split.query), raw)
            status = 200
        except Refused as refused:
            status = refused.status
            kind = "application/json"
            content = json.dumps({"detail": refused.text}).encode()
        if self.is_lost(path):
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def faults(self) -> dict[str, Any]:
        path = self.peer.folder / "faults.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def is_lost(self, path: str) -> bool:
        """True if the answer is lost, as in a kill: the test then ends the process that waits for it."""
        return path in self.faults().get("lose", ())

    def answer(self, path: str, query: dict[str, list[str]], raw: bytes) -> tuple[str, bytes]:
        if path.startswith("/signed/"):
            if self.headers.get("X-API-Key"):
                raise Refused(400, "a signed address gets no key")
            return "application/octet-stream", (self.peer.folder / "adapter" / Path(path).name).read_bytes()
        if path == "/oai/api/v1/chat/completions":
            if self.headers.get("Authorization") != f"Bearer {KEY}":
                raise Refused(401, "this key is not valid")
            with self.peer.lock:
                body = self.peer.chat(json.loads(raw))
                self.peer.write_state()
            return as_json(body)
        if path == "/billing/usage/events":
            return self.answer_administrator(query)
        if self.headers.get("X-API-Key") not in (KEY, ADMIN_KEY):
            raise Refused(401, "this key is not valid")
        refusals = self.faults().get("refuse", {})
        for start, status in refusals.items():
            if path.startswith(start) and (start != "/training_runs/" or self.command == "DELETE"):
                raise Refused(status, "refused, as the test wants it")
        with self.peer.lock:
            self.peer.gone = ()
            if not path.startswith("/training_runs"):
                self.peer.gone = tuple(self.faults().get("gone", ()))
            self.peer.calls.append(f"{self.command} {path}")
            try:
                return self.answer_to(path, query, raw)
            finally:
                self.peer.write_state()

    def answer_administrator(self, query: dict[str, list[str]]) -> tuple[str, bytes]:
        key = self.headers.get("X-API-Key")
        with self.peer.lock:
            self.peer.calls.append("GET /billing/usage/events")
            self.peer.write_state()
            if key == KEY:
                raise Refused(403, "this takes billing view access")
            if key != ADMIN_KEY:
                raise Refused(401, "this key is not valid")
            return as_json(self.peer.list_usage(query))

    def answer_to(self, path: str, query: dict[str, list[str]], raw: bytes) -> tuple[str, bytes]:
        peer = self.peer
        if path == "/forward_backward":
            return as_json(peer.forward_backward(raw))
        body = json.loads(raw) if raw else {}
        match (self.command, *path.strip("/").split("/")):
            case ("POST", "retrieve_future"):
                return peer.retrieve(types.FutureRetrieveRequest.model_validate(body).request_id)
            case ("POST", "client", "config"):
                return as_json({"use_pyqwest_transport": False})
            case ("POST", "client", "dynamic_config"):
                return as_json({})
            case ("POST", "create_session"):
                return as_json(peer.create_session(body))
            case ("POST", "session_heartbeat"):
                return as_json({"type": "session_heartbeat"})
            case ("POST", "create_model"):
                return as_json(peer.create_model(body))
            case ("POST", "load_weights"):
                return as_json(peer.load_weights(body))
            case ("POST", "optim_step"):
                return as_json(peer.optim_step(body))
            case ("POST", "save_weights"):
                return as_json(peer.save_weights(body))
            case ("POST", "save_weights_external"):
                return as_json(peer.save_weights_external(body))
            case ("POST", "save_weights_for_sampler"):
                return as_json(peer.save_weights_for_sampler(body))
            case ("POST", "sessions", _, "finish"):
                return as_json({})
            case ("GET", "checkpoints"):
                return as_json(peer.all_checkpoints(query))
            case ("POST", "get_info"):
                return as_json(peer.info(body))
            case ("GET", "get_server_capabilities"):
                return as_json(peer.capabilities())
            case ("GET", "training_runs"):
                return as_json(peer.list_runs(query))
            case ("GET", "training_runs", run, "checkpoints"):
                return as_json(peer.list_checkpoints(peer.run(run)))
            case ("GET", "training_runs", run, "checkpoints", part, name, "external_weights_urls"):
                return as_json(peer.urls(peer.run(run), f"{part}/{name}"))
            case ("DELETE", "training_runs", run, "checkpoints", part, name):
                owner, stored = peer.find(f"tinker://{run}/{part}/{name}")
                del owner.checkpoints[stored["checkpoint_id"]]
                peer.deleted.append(stored["tinker_path"])
                return "application/json", b"null"
        raise Refused(404, f"this stand-in has no {self.command} {path}")


def as_json(body: dict[str, Any]) -> tuple[str, bytes]:
    return "application/json", json.dumps(body).encode()


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    folder = Path(sys.argv[1])
    Handler.peer = Tinker(folder, f"http://127.0.0.1:{server.server_port}")
    Handler.peer.write_state()
    (folder / "address.tmp").write_text(Handler.peer.address)
    (folder / "address.tmp").replace(folder / "address")
    server.serve_forever()


if __name__ == "__main__":
    main()
