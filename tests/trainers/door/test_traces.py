"""POST /v1/traces: spans of other models' calls are sampled for the dataset that they name, and only for one whose
calls are stored."""

from __future__ import annotations

import gzip
import json
import secrets
import time
from typing import Any

import httpx2
import pytest

from tests.trainers.dataset.test_sensitive_data import SECRETS
from tests.trainers.door.doors import Door
from tests.trainers.door.test_samples import EVERY, MAIL, counted, put_in_use, wait_for
from tests.trainers.traces.exports import CURRENT, SYSTEM, otlp, span
from trainers.door.traces.endpoint import MOST_BYTES
from trainers.recipes import samples
from trainers.recipes.samples import TRACED, SampleCounts
from trainers.recipes.values import Published, Sampling

JSON = {"content-type": "application/json"}


@pytest.fixture
def dataset(door: Door) -> str:
    """A dataset of its own for each test, whose calls are stored, and which has nothing in use."""
    name = f"t{secrets.token_hex(4)}"
    door.folder.publish(Published(f"team/{name}", sampling=EVERY))
    return name


def now_span(
    question: str = "Where is my parcel?", number: int = 1, at: float | None = None, **more: Any
) -> Any:
    begin = int((time.time() if at is None else at) * 1e9)
    messages = json.dumps([{"role": "user", "parts": [{"type": "text", "content": question}]}])
    times = {"startTimeUnixNano": str(begin), "endTimeUnixNano": str(begin + 10**8)}
    return span({**CURRENT, "gen_ai.input.messages": messages}, number, **{**times, **more})


def post(door: Door, document: Any, *, key: str | None = None, **headers: str) -> httpx2.Response:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    authorization = {"authorization": f"Bearer {door.folder.call_key() if key is None else key}"}
    return httpx2.post(
        f"{door.url}/traces",
        content=content,
        headers={**JSON, **authorization, **named},
        trust_env=False,
        timeout=60,
    )


def test_spans_are_stored_as_calls_of_another_model(door: Door, dataset: str) -> None:
    answer = post(door, otlp(now_span(), resource={"finetune.dataset": dataset}))
    assert (answer.status_code, answer.json()) == (200, {"partialSuccess": {}})
    name = f"team/{dataset}"
    assert wait_for(door, name) == ()  # what is in use has answered none of them
    root = door.folder.root
    (call,) = samples.read(root, name, traced=True)
    assert (call.promotion, call.recipe, call.answer) == (TRACED, "gpt-4o", "delivery")
    assert json.loads(call.messages) == [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "Where is my parcel?"},
    ]
    assert (call.prompt_tokens, call.completion_tokens) == (120, 3)
    assert abs(call.at - time.time()) < 600
    assert (samples.ids(root, name), samples.ids(root, name, traced=True)) == ((), (call.id,))
    assert (samples.count(root, name), samples.count(root, name, traced=True)) == (0, 1)
    assert samples.forget_name(root, name, now=time.time()) == 1


def test_a_header_names_the_dataset_and_gzip_is_read(door: Door, dataset: str) -> None:
    packed = gzip.compress(json.dumps(otlp(now_span(), now_span(number=2))).encode())
    answer = post(door, packed, content_encoding="gzip", x_finetune_dataset=f"team/{dataset}")
    assert answer.json() == {"partialSuccess": {}}
    wait_for(door, f"team/{dataset}", 2)
    assert samples.count(door.folder.root, f"team/{dataset}", traced=True) == 2


def test_secrets_are_left_out_and_personal_data_is_masked(door: Door, dataset: str) -> None:
    spans = (now_span(f"My key is {SECRETS['OpenAI key']}"), now_span(f"Write to {MAIL}", 2))
    assert post(door, otlp(*spans), x_finetune_dataset=dataset).status_code == 200
    name = f"team/{dataset}"
    wait_for(door, name, 2)
    (call,) = samples.read(door.folder.root, name, traced=True)
    assert json.loads(call.messages)[-1]["content"] == "Write to [e-mail address]"
    assert call.is_masked
    assert counted(door.folder.root, name) == SampleCounts(stored=1, secret=1)


def test_spans_that_are_not_taken_are_counted_with_the_reason(door: Door, dataset: str) -> None:
    unwatched = f"u{secrets.token_hex(4)}"
    put_in_use(door, f"team/{unwatched}", None)
    document = otlp(
        now_span(at=time.time() - 40 * 86400),
        now_span(number=2, at=time.time() + 7200),
        span({"gen_ai.operation.name": "chat"}, 3),
        span({"http.request.method": "GET"}, 4),
        resource={"finetune.dataset": dataset},
    )
    document["resourceSpans"] += otlp(now_span(number=5), resource={"finetune.dataset": unwatched})[
        "resourceSpans"
    ]
    document["resourceSpans"] += otlp(now_span(number=6), now_span(number=7))["resourceSpans"]
    answer = post(door, document).json()["partialSuccess"]
    assert answer["rejectedSpans"] == "6"
    message = answer["errorMessage"]
    assert "2 that began more than 30 days ago, in the future or at no recorded time" in message
    assert "1 without a model" in message
    assert f"1 for 'team/{unwatched}', whose calls are not stored" in message
    assert "2 without a dataset (set the header x-finetune-dataset" in message
    assert post(door, otlp(now_span("The last", 8)), x_finetune_dataset=dataset).status_code == 200
    wait_for(door, f"team/{dataset}")  # nothing but the last one
    assert samples.count(door.folder.root, f"team/{unwatched}", traced=True) == 0


def test_the_share_and_the_opt_out_count_here_too(door: Door, dataset: str) -> None:
    name = f"team/{dataset}"
    assert post(door, otlp(now_span()), x_finetune_dataset=dataset, x_finetune_sample="no").status_code == 200
    failed = now_span(number=3, status={"code": 2})
    silent = now_span(number=4)
    silent["attributes"] = [pair for pair in silent["attributes"] if "messages" not in pair["key"]]
    assert post(door, otlp(failed, silent), x_finetune_dataset=dataset).status_code == 200
    wait_for(door, name, 2)
    assert counted(door.folder.root, name) == SampleCounts(opted_out=1, not_text=1)
    door.folder.publish(Published(name, sampling=Sampling(0.0, "mask")))
    assert post(door, otlp(now_span(number=5)), x_finetune_dataset=dataset).json() == {"partialSuccess": {}}
    door.folder.publish(Published(name, sampling=EVERY))
    assert post(door, otlp(now_span(number=6)), x_finetune_dataset=dataset).status_code == 200
    wait_for(door, name, 3)
    assert samples.count(door.folder.root, name, traced=True) == 1


@pytest.mark.parametrize(
    ("content", "headers", "status", "text"),
    [
        (
            b"\x0a\x02",
            {"content_type": "application/x-protobuf"},
            415,
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/json",
        ),
        (b"{}", {"content_encoding": "br"}, 415, "send gzip or none"),
        (b"{}", {"content_encoding": "gzip"}, 400, "is not gzip"),
        (gzip.compress(b"{}")[:-4], {"content_encoding": "gzip"}, 400, "is not complete gzip"),
        (b"{", {}, 400, "is not valid JSON"),
        (b"[]", {}, 400, "must be an object with a list 'resourceSpans'"),
        (b'{"resourceSpans": 1}', {}, 400, "must be an object with a list 'resourceSpans'"),
        (b" " * (MOST_BYTES + 1), {}, 413, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"),
        (gzip.compress(b" " * (10 * MOST_BYTES)), {"content_encoding": "gzip"}, 413, "4 MB unpacked"),
        (b"{}", {"key": "wrong"}, 401, "Incorrect API key"),
    ],
)
def test_other_requests_are_refused_with_the_cure(
    door: Door, content: bytes, headers: dict[str, str], status: int, text: str
) -> None:
    answer = post(door, content, **headers)
    assert answer.status_code == status
    assert text in answer.json()["error"]["message"]


def test_an_empty_export_is_a_success(door: Door) -> None:
    assert post(door, {}).json() == {"partialSuccess": {}}
    assert post(door, {"resourceSpans": [1, {"scopeSpans": 2}]}).json() == {"partialSuccess": {}}
