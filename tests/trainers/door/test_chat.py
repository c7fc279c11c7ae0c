"""Chats through the door: asked as measured, passed on as they come, counted, and refused with sentences."""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.patience import wait_until
from tests.peers.chat_vendor import KEY, ChatVendor, error, serve_vendor
from tests.prometheus_text import complaints, listed_metrics, read_families, read_values
from tests.trainers.door.doors import NAME, PROMPT, ROOT, Door, add_vendor, put_in_use, serve_door
from trainers.client.client import Trainer
from trainers.evaluation.prompts import k_shot
from trainers.recipes import usage
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.library import example_of
from trainers.recipes.prompts import as_row
from trainers.recipes.usage import Usage
from trainers.recipes.values import Published, Recipe, Unavailable, Upstream, Upstreams
from trainers.types import Provider

ASKED = [{"role": "user", "content": "My card was charged twice: billing"}]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object"}},
}


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model=NAME, messages=ASKED, **more)


def counted(door: Door, promotion: int) -> Usage:
    """What is stored for a promotion; it is stored each second."""
    sums = [each for key, each in usage.read(door.folder.root).items() if key.promotion == promotion]
    return sum(sums, Usage())


@pytest.mark.parametrize("model", ["acme-small", "gpt-5-nano", "gpt-5.4-mini", "gpt-5.4-mini@low"])
def test_the_request_is_the_one_that_was_measured(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, model: str
) -> None:
    thinks = model in ("gpt-5-nano", "gpt-5.4-mini@low")
    put_in_use(door.folder, replace(PROMPT, model=model, is_thinking=thinks))
    add_vendor(door.folder, vendor.url, chat_extra='{"chat_template_kwargs": {"enable_thinking": false}}')
    provider = Provider("acme", vendor.url, chat_extra={"chat_template_kwargs": {"enable_thinking": False}})
    shots = [example_of(shot) for shot in PROMPT.shots]
    prompt = k_shot(replace(as_row(ASKED)), PROMPT.labels, PROMPT.prompt, shots)
    prompt = tuple(replace(message, extra="") for message in prompt)
    with Trainer(provider, KEY) as trainer:
        trainer.chat(model, prompt, max_tokens=16 + (1024 if thinks else 0), thinks=thinks)
    ask(client)
    measured, forwarded = vendor.requests
    assert forwarded == measured


def test_tools_and_structured_outputs_go_through_unchanged(
    door: Door, client: openai.OpenAI, vendor: ChatVendor
) -> None:
    put_in_use(door.folder, PROMPT)
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}
    answer = ask(client, tools=[TOOL], tool_choice="auto", response_format=form, max_tokens=3, user="u1")
    assert answer.choices[0].message.tool_calls[0].function.name == "get_weather"
    sent = vendor.requests[0]
    assert (sent["tools"], sent["response_format"]) == ([TOOL], form)
    assert (sent["max_tokens"], sent["user"], sent["model"]) == (3, "u1", "acme-small")


@pytest.mark.deep
@pytest.mark.parametrize("options", [None, {"include_usage": True}, {"include_usage": False}])
def test_a_stream_is_what_the_program_asked_for_and_counted(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, options: dict[str, bool] | None
) -> None:
    promotion = {None: 10, True: 11, False: 12}[(options or {}).get("include_usage")]
    put_in_use(door.folder, PROMPT, promotion)
    more = {"stream_options": options} if options else {}
    chunks = list(ask(client, stream=True, **more))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "billing " * 3
    has_usage = [chunk for chunk in chunks if chunk.usage]
    assert len(has_usage) == (options == {"include_usage": True})
    count = wait_until(
        lambda: counted(door, promotion) if counted(door, promotion).calls else None, "a count"
    )
    is_known = options != {"include_usage": False}
    assert (count.calls, count.failed, count.unknown) == (1, 0, not is_known)
    assert (count.completion_tokens, count.cached_tokens > 0) == ((7, True) if is_known else (0, False))


def test_a_program_that_hangs_up_ends_the_vendors_stream(
    door: Door, client: openai.OpenAI, vendor: ChatVendor
) -> None:
    put_in_use(door.folder, PROMPT, 20)
    vendor.parts = 10_000
    vendor.part_s = 0.01
    stream = ask(client, stream=True)
    next(iter(stream))
    stream.close()
    wait_until(lambda: vendor.hung_up, "the vendor's stream to end")
    wait_until(lambda: counted(door, 20) == Usage(calls=1, failed=1, unknown=1), "the count")


def test_a_stream_that_breaks_off_ends_with_an_error(
    door: Door, client: openai.OpenAI, vendor: ChatVendor
) -> None:
    put_in_use(door.folder, PROMPT)
    vendor.breaks_after = 2
    with pytest.raises(openai.APIError, match="acme broke off its answer"):
        list(ask(client, stream=True))


@pytest.mark.deep
def test_a_stream_that_stalls_ends_with_an_error(
    door: Door, client: openai.OpenAI, vendor: ChatVendor
) -> None:
    put_in_use(door.folder, PROMPT)
    vendor.part_s = 30.0
    with pytest.raises(openai.APIError, match="acme gave no answer in time"):
        list(ask(client, stream=True))
    wait_until(lambda: vendor.hung_up, "the vendor's stream to end")


def test_what_the_model_refuses_of_our_parameters_is_left_out(
    door: Door, client: openai.OpenAI, vendor: ChatVendor
) -> None:
    put_in_use(door.folder, replace(PROMPT, model="picky"))
    vendor.refuses = {
        name: f"Unsupported parameter: '{name}'." for name in ("temperature", "max_tokens", "stream_options")
    }
    list(ask(client, stream=True))
    ask(client)
    assert vendor.requests[-2].keys() == {"model", "messages", "max_completion_tokens", "stream"}
    assert vendor.requests[-1].keys() == {"model", "messages", "max_completion_tokens"}
    assert len(vendor.requests) == 5, "a refused parameter is tried once"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        ask(client, temperature=0.5)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
def test_a_vendors_error_is_passed_on(
    door: Door, client: openai.OpenAI, vendor: ChatVendor, status: int, kind: type[openai.APIStatusError]
) -> None:
    stored = put_in_use(door.folder, PROMPT)
    content = error(f"It is {KEY} that I say.", "odd")
    vendor.failures = deque([(status, content)])
    with pytest.raises(kind, match=r"It is \(the key\) that I say") as caught:
        ask(client)
    headers = caught.value.response.headers
    assert (headers["x-request-id"], headers["retry-after"]) == ("req_1", "1")
    assert headers["x-finetune-recipe"] == stored.sha256[:12]
    assert caught.value.code == "odd" and KEY not in caught.value.response.text


def test_a_refused_or_missing_key_of_ours_is_not_the_programs_fault(
    door: Door, client: openai.OpenAI, vendor: ChatVendor
) -> None:
    put_in_use(door.folder, PROMPT)
    vendor.failures = deque([(401, error("Incorrect API key", "invalid_api_key"))])
    with pytest.raises(openai.InternalServerError, match="acme refused this server's key"):
        ask(client)
    put_in_use(door.folder, replace(PROMPT, provider="other"))
    with pytest.raises(
        openai.InternalServerError, match="other, which answers as team/tickets, has no address"
    ):
        ask(client)
    door.folder.publish_upstreams(Upstreams((Upstream("other", vendor.url, key_file="/nowhere/call.key"),)))
    with pytest.raises(openai.InternalServerError, match=r"no key for other .*: call\.key is missing"):
        ask(client)
    assert len(vendor.requests) == 1


def test_a_program_that_hangs_up_early_is_counted_as_lost(
    door: Door, client: openai.OpenAI, vendor: ChatVendor
) -> None:
    put_in_use(door.folder, PROMPT, 21)
    vendor.delay_s = 1.5
    with pytest.raises(openai.APITimeoutError):
        ask(client, timeout=0.3)
    wait_until(lambda: counted(door, 21) == Usage(calls=1, failed=1, unknown=1), "the count")


def test_the_log_has_neither_texts_nor_keys(door: Door, client: openai.OpenAI, vendor: ChatVendor) -> None:
    put_in_use(door.folder, PROMPT)
    vendor.failures = deque([(502, error("My card was charged twice: never mind", "odd"))])
    with pytest.raises(openai.InternalServerError):
        ask(client)
    add_vendor(door.folder, "http://no.such.host.invalid:1/v1")
    with pytest.raises(openai.InternalServerError):
        ask(client)
    assert "acme: HTTP 502" in door.log
    for secret in ("charged twice", "Which team", "parcel", KEY, door.folder.call_key()):
        assert secret not in door.log


@pytest.mark.deep
@pytest.mark.usefixtures("real_processes")
def test_a_door_is_light(tmp_path: Path) -> None:
    """It loads no machine learning, no Slack and no bot before a recipe needs it."""
    heavy = {
        "torch",
        "transformers",
        "sklearn",
        "scipy",
        "numpy",
        "onnxruntime",
        "slack_sdk",
        "openai",
        "bot",
        "storage",
    }
    code = "import sys, trainers.door.__main__, trainers.door.worker; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert heavy & set(loaded.stdout.split()) == set()
    with serve_door(RecipeFolder(tmp_path / "serving")) as door:
        lines = Path(f"/proc/{door.worker_pid()}/status")
        if lines.exists():
            (size,) = [line for line in lines.read_text().splitlines() if line.startswith("VmRSS")]
            assert int(size.split()[1]) < 100 * 1024


@pytest.mark.deep
def test_a_vendor_that_is_down_or_hangs(door: Door, client: openai.OpenAI, vendor: ChatVendor) -> None:
    put_in_use(door.folder, PROMPT)
    vendor.delay_s = 4
    with pytest.raises(openai.InternalServerError, match="acme gave no answer in time") as caught:
        ask(client)
    assert caught.value.status_code == 504
    add_vendor(door.folder, "http://127.0.0.1:9/v1")
    with pytest.raises(openai.InternalServerError, match="acme can't be reached") as caught:
        ask(client)
    assert (caught.value.status_code, caught.value.type) == (502, "server_error")


def test_names_that_answer_nothing(door: Door, client: openai.OpenAI) -> None:
    put_in_use(door.folder, PROMPT)
    with pytest.raises(openai.NotFoundError, match=f"Nothing is in use as 'team/x'. In use: {NAME}."):
        client.chat.completions.create(model="team/x", messages=ASKED)
    for name in ("../upstreams", "team/..", "a\0b", "x" * 5_000):
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model=name, messages=ASKED)
    gone = Unavailable(404, "out_of_use", "tickets is out of use since Monday.")
    door.folder.publish(Published(NAME, unavailable=gone))
    with pytest.raises(openai.NotFoundError, match="out of use since Monday") as caught:
        ask(client)
    assert caught.value.code == "out_of_use"
    assert client.models.list().data == []
    put_in_use(door.folder, PROMPT)
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME


def test_a_fallback_answers_only_if_somebody_chose_one(
    door: Door, client: openai.OpenAI, vendor: ChatVendor
) -> None:
    other: Recipe = replace(PROMPT, model="acme-large", prompt="Other?")
    stored = put_in_use(door.folder, PROMPT, 30, fallback=other)
    vendor.failures = deque([(503, error("busy", "busy"))])
    raw = client.chat.completions.with_raw_response.create(model=NAME, messages=ASKED)
    assert raw.headers["x-finetune-recipe"] == door.folder.add(other, {}).sha256[:12] != stored.sha256[:12]
    assert raw.headers["x-finetune-fallback"] == "upstream_503"
    assert [body["model"] for body in vendor.requests] == ["acme-small", "acme-large"]
    vendor.failures = deque([(400, error("bad", "bad"))])
    with pytest.raises(openai.BadRequestError):
        ask(client)
    gone = Unavailable(503, "machine_stopped", "The machine is stopped.")
    put_in_use(door.folder, PROMPT, 31, fallback=other, unavailable=gone)
    assert (
        client.chat.completions.with_raw_response.create(model=NAME, messages=ASKED).headers[
            "x-finetune-fallback"
        ]
        == "unavailable"
    )
    put_in_use(door.folder, PROMPT, 32, unavailable=gone)
    with pytest.raises(openai.InternalServerError, match="The machine is stopped"):
        ask(client)


@pytest.mark.deep
def test_a_fallback_answers_once_what_is_in_use_takes_too_long(
    door: Door, client: openai.OpenAI, vendor: ChatVendor
) -> None:
    other = replace(PROMPT, provider="quick", model="acme-large")
    put_in_use(door.folder, PROMPT, 33, fallback=other, fallback_after_s=0.5)
    with serve_vendor(ChatVendor()) as quick:
        upstreams = (Upstream("acme", vendor.url, "ACME_KEY"), Upstream("quick", quick.url, "ACME_KEY"))
        door.folder.publish_upstreams(Upstreams(upstreams))
        vendor.delay_s = 60.0
        raw = client.chat.completions.with_raw_response.create(model=NAME, messages=ASKED)
        assert raw.headers["x-finetune-fallback"] == "too_slow"
        assert raw.parse().choices[0].message.content == "billing"
        with client.chat.completions.with_streaming_response.create(
            model=NAME, messages=ASKED, stream=True
        ) as streamed:
            assert streamed.headers["x-finetune-fallback"] == "too_slow"
            assert "[DONE]" in streamed.read().decode()
        # A stream that has begun is not begun again, however long it takes.
        vendor.delay_s = 0.0
        vendor.part_s = 0.3
        with client.chat.completions.with_streaming_response.create(
            model=NAME, messages=ASKED, stream=True
        ) as streamed:
            assert "x-finetune-fallback" not in streamed.headers
            assert "[DONE]" in streamed.read().decode()
    wait_until(lambda: counted(door, 33).calls == 5, "the counts")
    assert counted(door, 33).failed == 2


def test_prometheus_reads_requests_without_names(door: Door, client: openai.OpenAI) -> None:
    put_in_use(door.folder, PROMPT)
    ask(client)
    address = f"{door.url.removesuffix('/v1')}/metrics"
    assert httpx2.get(address).status_code == 401
    text = httpx2.get(address, headers={"authorization": f"Bearer {client.api_key}"}).text
    values = read_values(text)
    assert values["finetune_door_requests_total", "200", "/v1/chat/completions"] >= 1
    assert values["finetune_door_requests_total", "401", "/metrics"] >= 1
    assert values["finetune_door_open_requests",] == 1
    assert complaints(text) == [] and "tickets" not in text
    assert {name for name in read_families(text) if name.startswith("finetune_")} == listed_metrics("door")


def test_only_the_key_and_our_host_names_are_let_in(door: Door) -> None:
    put_in_use(door.folder, PROMPT)
    with pytest.raises(openai.AuthenticationError, match=r"call\.key"):
        openai.OpenAI(base_url=door.url, api_key="wrong", max_retries=0).models.list()
    root = door.url.removesuffix("/v1")
    answer = httpx2.get(f"{root}/healthz")
    assert (answer.status_code, answer.json()["pid"]) == (200, door.process.pid)
    assert httpx2.get(f"{root}/healthz", headers={"host": "evil.example"}).status_code == 403
    assert httpx2.get(f"{root}/healthz", headers={"host": "models.example.com"}).status_code == 200
    headers = {"authorization": f"Bearer {door.folder.call_key()}"}
    assert httpx2.post(f"{door.url}/files", headers=headers).json()["error"]["code"] == "unknown_url"
    assert httpx2.post(f"{door.url}/chat/completions", headers=headers, content=b"[1]").status_code == 400
    connection = HTTPConnection("127.0.0.1", door.port)
    connection.putrequest("POST", "/v1/chat/completions")
    for name, value in {**headers, "content-length": str(10**9)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
