"""What a job's node may send, odd in every way: a refusal is a sentence and leaves nothing behind, and whatever is
taken leaves the job's own files as they are and the job's API answering."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import openai
from hypothesis import strategies as st
from trainers.local.ray.transfer import read_ticket

from tests.fuzz.bodies import JSON, UNKNOWN_JOB, Answer, Call, ask, kept, wrong_with
from tests.fuzz.odd import Json, mutated, odd_texts, odd_values, raw_json
from tests.local.served import KEY, Served, free_port, served_here, upload, wait_for, wait_for_status
from tests.peers.ray_head import ray_head
from trainers.local.ray.backend import RayOptions

LONG = json.dumps({"step": 1, "trained_tokens": 1, "code": "c", "message": "m" * 70_000}).encode()
GARBAGE = (b"", b"\xff", b"[]", b"{}", b'{"code": 1, "message": [], "param": {}, "at": "x"}', LONG)
OURS = ("job.json", "train.jsonl", "ray.json", "request.json")
_EVENT: Json = {"created_at": 1, "level": "info", "type": "message", "message": "m", "data": {"step": 1}}
_PATHS = (
    *("summary.json", "adapter", "adapter/x", ".adapter/x.json", "checkpoints", "checkpoints/.step-000001/a"),
    *(
        "checkpoints/step-000001",
        "checkpoints/step-000001/a",
        "a/checkpoints/step-000001",
        "checkpoints/step-x1/a",
        "tensorboard/a",
    ),
    *(*OURS, "DONE/x", "lock", "x" * 201, "é" * 150, "/".join(["x" * 200] * 5), "..", "../x", "events.jsonl"),
)


@dataclass(frozen=True)
class Relayed:
    """A trainer with one job that runs on a cluster, whose node holds `token`."""

    trainer: Served
    data: Path
    job_id: str
    token: str

    @property
    def folder(self) -> Path:
        return self.data / "jobs" / self.job_id


@contextmanager
def relayed(data: Path) -> Iterator[Relayed]:
    port = free_port()
    with (
        ray_head() as head,
        served_here(
            data,
            {"toy": "/nowhere"},
            ray=RayOptions(head.address, f"http://127.0.0.1:{port}", gpus=1),
            port=port,
        ) as trainer,
        trainer.client() as client,
    ):
        job_id = client.fine_tuning.jobs.create(model="toy", training_file=upload(client)).id
        wait_for_status(client, job_id, "running")
        ticket = wait_for(
            lambda: read_ticket(data / "jobs" / job_id), lambda one: one is not None and one.is_submitted
        )
        assert ticket is not None
        yield Relayed(trainer, data, job_id, ticket.token)
        client.fine_tuning.jobs.cancel(job_id)


def calls(job_id: str) -> st.SearchStrategy[Call]:
    ticks = mutated({"events": [_EVENT, _EVENT], "from": 0}) | st.builds(
        lambda events, start: {"events": events, "from": start},
        st.lists(mutated(_EVENT) | odd_values, max_size=3),
        st.integers(0, 9) | odd_values,
    )
    return st.one_of(
        _to(job_id, "POST", st.just("tick"), ticks.map(_encoded) | raw_json({"events": [_EVENT], "from": 0})),
        _to(job_id, "PUT", _paths("files/"), st.binary(max_size=20)),
        _to(job_id, "POST", _paths("folders/"), mutated({"keep": ["checkpoints/step-000001"]}).map(_encoded)),
        _to(job_id, "GET", _paths("files/") | _paths("base/") | st.just("base"), st.just(b"")),
    )


def _encoded(body: Json) -> bytes:
    return json.dumps(body).encode()


def _to(
    job_id: str, method: str, ends: st.SearchStrategy[str], bodies: st.SearchStrategy[bytes]
) -> st.SearchStrategy[Call]:
    roots = st.sampled_from((job_id, job_id, job_id, UNKNOWN_JOB)).map(lambda one: f"/relay/{one}/")
    return st.builds(lambda root, end, body: Call(method, root + end, body, JSON), roots, ends, bodies)


def _paths(root: str) -> st.SearchStrategy[str]:
    odd = odd_texts.map(lambda text: text[:2_000])
    joined = st.lists(st.sampled_from(_PATHS) | odd, min_size=1, max_size=3).map("/".join)
    return (st.sampled_from(_PATHS) | joined).map(
        lambda path: root + quote(path.encode("utf-8", "replace"))[:20_000]
    )


def complaining(at: Relayed, client: openai.OpenAI) -> Callable[[Call], str | None]:
    """What is wrong with what the relay made of a call."""
    ours = {name: (at.folder / name).read_bytes() for name in OURS}

    def complaint(call: Call) -> str | None:
        before = kept(at.data)
        answer = ask(at.trainer.url, at.token, call)
        wrong = wrong_with(call, answer, lambda: kept(at.data), before)
        return wrong or _changed(at, ours) or _unwell(at, client)

    return complaint


def _changed(at: Relayed, ours: dict[str, bytes]) -> str | None:
    gone = [name for name, content in ours.items() if (at.folder / name).read_bytes() != content]
    return f"changed: {', '.join(gone)}" if gone else None


def _unwell(at: Relayed, client: openai.OpenAI) -> str | None:
    """Whether the job can still be looked at."""
    for end in ("", "/events?limit=3", "/checkpoints"):
        answer: Answer = ask(at.trainer.url, KEY, Call("GET", f"/v1/fine_tuning/jobs/{at.job_id}{end}"))
        if answer.status != 200:
            return f"after it the job's {end or 'status'} is answered with HTTP {answer.status}"
    for event in client.fine_tuning.jobs.list_events(at.job_id, limit=3).data:
        if not isinstance(event.message, str) or not isinstance(event.created_at, int):
            return "after it an event is not of OpenAI's form"
    return None
