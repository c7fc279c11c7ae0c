"""Odd calls of every route of a running trainer's API: a refusal is a sentence in OpenAI's envelope and leaves nothing
behind. A call that happens to be valid is answered normally."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

from hypothesis import strategies as st

from tests.fuzz.mutations import Json, mutated, odd_texts, raw_json
from tests.local.trainer_server import KEY, TrainerServer, upload, wait_for, wait_for_status

LONGEST_LINE = 30_000  # beyond 64 kB uvicorn hangs up, as it should
UNKNOWN_FILE, UNKNOWN_JOB = "file-0123456789abcdef01234567", "ftjob-0123456789abcdef01234567"


@dataclass(frozen=True)
class Call:
    """An HTTP request; `path` includes the query."""

    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    status: int | None
    body: bytes


def calls(file_id: str, job_id: str, answering: str) -> st.SearchStrategy[Call]:
    """`job_id` is a job that has ended, so that no call can change it. `answering` is the model that is asked."""
    return st.one_of(
        posts("/v1/fine_tuning/jobs", _job(file_id)),
        posts("/v1/fine_tuning/jobs", {**_job(file_id), "integrations": _INTEGRATIONS}),
        posts("/v1/fine_tuning/jobs", _sweep(file_id)),
        posts("/v1/chat/completions", {**CHAT, "model": answering}),
        posts("/v1/chat/completions", {**CONSTRAINED, "model": answering}),
        posts("/v1/chat/completions", {**CALLING, "model": answering}),
        posts("/v1/responses", {**RESPONSE, "model": answering}),
        posts("/v1/completions", {**TEXT, "model": answering}),
        posts("/v1/embeddings", {"model": answering, "input": ["a"], "encoding_format": "float"}),
        _uploads(),
        _reads(file_id, job_id),
        st.builds(Call, st.sampled_from(("POST", "DELETE", "PUT", "PATCH", "HEAD")), _odd_paths()),
    )


_INTEGRATIONS = [{"type": "wandb", "wandb": {"project": "p", "name": "n", "tags": ["t"]}}]


def _job(file_id: str) -> Json:
    hyper = {"n_epochs": 1, "batch_size": 2, "learning_rate_multiplier": 1.0, "lora_r": 8, "max_usd": "1.5"}
    return {
        "model": "toy",
        "training_file": file_id,
        "seed": 1,
        "suffix": "x",
        "metadata": {"finetune_key": "k"},
        "method": {"type": "supervised", "supervised": {"hyperparameters": {**hyper, "usd_per_hour": 1}}},
        "validation_file": UNKNOWN_FILE,
    }


def _sweep(file_id: str) -> Json:
    hyper = {"n_epochs": 1, "sweep": {"lora_r": [8, 16], "learning_rate": [0.001, 0.01]}}
    dpo = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1}}}
    return {"model": "nobody", "training_file": file_id, "hyperparameters": hyper, "method": dpo}


_MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "u"}]}]
CHAT: Json = {"messages": _MESSAGES, "max_tokens": 1, "temperature": 0, "seed": 1, "stop": ["x"]}
CHAT = {**CHAT, "stream": False, "n": 1, "logprobs": True, "top_logprobs": 2, "top_p": 1, "logit_bias": {}}
_SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["b", "c"]}},
    "required": ["a"],
    "additionalProperties": False,
}
_FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": _SCHEMA, "strict": True}}
CONSTRAINED: Json = {"messages": _MESSAGES, "max_tokens": 1, "response_format": _FORMAT}
CONSTRAINED = {**CONSTRAINED, "guided_choice": ["a", "b"]}
_FUNCTION = {"name": "f", "description": "d", "parameters": _SCHEMA, "strict": True}
_TOOLS = [{"type": "function", "function": _FUNCTION}]
_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}}
_CALLED = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [_CALL]}
CALLING: Json = {
    "messages": [*_MESSAGES, _CALLED, {"role": "tool", "tool_call_id": "c", "content": "x"}],
    "tools": _TOOLS,
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "max_tokens": 1,
    "frequency_penalty": 1,
    "presence_penalty": 0.5,
    "logit_bias": {"1": 2},
    "structured_outputs": {"regex": "a"},
}
RESPONSE: Json = {
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "u"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
    ],
    "instructions": "s",
    "tools": [{"type": "function", **_FUNCTION}],
    "tool_choice": "required",
    "text": {"format": {"type": "json_schema", "name": "n", "schema": _SCHEMA}},
    "reasoning": {"effort": "low"},
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 1,
    "max_output_tokens": 1,
}
TEXT: Json = {"prompt": ["a", "b"], "max_tokens": 1, "n": 2, "logprobs": 1, "echo": False, "best_of": 1}


def posts(path: str, base: Json) -> st.SearchStrategy[Call]:
    bodies = mutated(base).map(_capped).map(lambda body: json.dumps(body).encode()) | raw_json(base)
    keys = st.none() | st.sampled_from(("", "k" * 256, "k", "é\x7f"))
    return st.builds(
        lambda body, key: Call(
            "POST", path, body, {**JSON, **({} if key is None else {"Idempotency-Key": key})}
        ),
        bodies,
        keys,
    )


JSON = {"Content-Type": "application/json"}


def _capped(body: Json) -> Json:
    """A question without its cap would be answered at length, which is valid but slow."""
    if "messages" in body and not body.get("max_tokens"):
        return {**body, "max_completion_tokens": 1}
    return {**body, "max_output_tokens": 1} if "instructions" in body else body


@st.composite
def _uploads(draw: st.DrawFn) -> Call:
    """A multipart form with odd parts, names and ends, without a purpose or a file that could be accepted."""
    name = draw(st.sampled_from(("../../x", "a.jsonl", "", 'q"; x="', "\x00", "a" * 5_000)) | odd_texts)
    content = draw(st.sampled_from((b"", b"\x00", b"{}\n", b"\xff")) | st.binary(max_size=60))
    purpose = draw(st.sampled_from(("", "assistants", "fine-tune ", "\x00", "x" * 4_000)) | odd_texts)
    seconds = draw(st.sampled_from(("0", "-1", "1e9", "9" * 40, "x")) | odd_texts)
    fields = {"purpose": purpose, "expires_after[seconds]": seconds, draw(odd_texts): "x"}
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{text}\r\n'
        for key, text in fields.items()
    ]
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = "".join([*parts, head]).encode("utf-8", "replace") + content + b"\r\n--b--\r\n"
    end = draw(st.just(len(body)) | st.integers(0, len(body)))
    form = "multipart/form-data"
    kinds = (f"{form}; boundary=b", f"{form}; boundary=b", form, f"{form}; boundary=c", "text/plain")
    return Call("POST", "/v1/files", body[:end], {"Content-Type": draw(st.sampled_from(kinds))})


def _reads(file_id: str, job_id: str) -> st.SearchStrategy[Call]:
    files = [f"/v1/files/{file}{end}" for file in (file_id, UNKNOWN_FILE) for end in ("", "/content")]
    ends = ("", "/events", "/checkpoints", "/cancel", "/pause", "/resume", "/nothing")
    jobs = [f"/v1/fine_tuning/jobs/{job}{end}" for job in (job_id, UNKNOWN_JOB) for end in ends]
    lists = ["/v1/models", "/v1/models/toy", "/v1/files", "/v1/fine_tuning/jobs", "/v1/aliases"]
    names = (
        st.sampled_from(("limit", "after", "order", "purpose", "metadata[a]", "metadata[", "metadata[]"))
        | odd_texts
    )
    queries = st.dictionaries(names, odd_texts | st.sampled_from(("0", "101", "1", "²")), max_size=3)
    return st.builds(
        lambda path, query, method: Call(
            method, (path + "?" + urlencode(query, errors="replace"))[:LONGEST_LINE]
        ),
        st.sampled_from([*files, *jobs, *lists]),
        queries,
        st.sampled_from(("GET", "GET", "POST")),
    ).filter(lambda call: call.method == "GET" or job_id in call.path or UNKNOWN_JOB in call.path)


def _odd_paths() -> st.SearchStrategy[str]:
    roots = [
        "/v1/files/",
        "/v1/fine_tuning/jobs/",
        "/v1/models/",
        "/v1/aliases/",
        "/v1/",
        "/",
        "/relay/x/files/",
    ]
    tails = st.sampled_from(
        ("..%2f..%2fetc%2fpasswd", "%00", "%ff", "a" * 3_000, "file-" + "g" * 24, "//", ";", "%2e%2e")
    )
    odd = odd_texts.map(lambda text: quote(text.encode("utf-8", "replace")))
    return st.builds(lambda root, tail: (root + tail)[:LONGEST_LINE], st.sampled_from(roots), tails | odd)


def odd_calls(
    trainer: TrainerServer, data: Path, answering: str
) -> tuple[st.SearchStrategy[Call], Callable[[Call], str | None]]:
    """Calls of a trainer that has a file and a finished job, and a function that complains about its answers."""
    with trainer.client() as client:
        file_id = upload(client)
        job_id = client.fine_tuning.jobs.create(model="toy", training_file=file_id).id
        wait_for_status(client, job_id, "succeeded")

    def complaint(call: Call) -> str | None:
        _wait_for_jobs(data)
        before = list_files(data)
        return complaint_about(call, ask(trainer.url, KEY, call), lambda: list_files(data), before)

    return calls(file_id, job_id, answering), complaint


def _wait_for_jobs(data: Path) -> None:
    """A job that a valid call created writes its folder until it has ended."""
    wait_for(lambda: all((job / "DONE").exists() for job in data.glob("jobs/ftjob-*")), bool)


def ask(url: str, key: str, call: Call) -> Answer:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        headers = {"Authorization": f"Bearer {key}", **call.headers}
        connection.request(call.method, call.path, call.body or None, _latin(headers))
        response = connection.getresponse()
        return Answer(response.status, response.read())
    except (OSError, http.client.HTTPException):
        return Answer(None, b"")
    finally:
        connection.close()


def _latin(headers: dict[str, str]) -> dict[str, str]:
    return {name: value.encode("latin-1", "replace").decode("latin-1") for name, value in headers.items()}


def list_files(data: Path) -> list[tuple[str, int]]:
    """The paths and sizes of all files below the folder."""
    return sorted(
        (str(path.relative_to(data)), path.stat().st_size) for path in data.rglob("*") if path.is_file()
    )


def complaint_about(call: Call, answer: Answer, state: Callable[[], object], before: object) -> str | None:
    if answer.status is None:
        return "no answer"
    if answer.status >= 500:
        return f"HTTP {answer.status}"
    if b"Traceback" in answer.body or b'File "/' in answer.body:
        return "a traceback"
    if answer.status >= 400 and call.method != "HEAD" and not is_envelope(answer.body):
        return "no envelope"
    if answer.status >= 400 and state() != before:
        return "a refused call left something behind"
    return None


def is_envelope(body: bytes) -> bool:
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, LookupError, TypeError):
        return False
    return isinstance(message, str) and message != ""
