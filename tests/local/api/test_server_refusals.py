"""Requests that the server refuses, each with its status and complete error object."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import pytest

from tests.local.trainer_server import (
    KEY,
    TrainerServer,
    check_answer,
    examples,
    serve_in_thread,
    upload,
    wait_for_status,
)
from trainers.local.api import guard

UNKNOWN_FILE = "file-0123456789abcdef01234567"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainerServer]:
    with serve_in_thread(
        tmp_path_factory.mktemp("trainer"),
        {"toy": "/nowhere", "no-template": base_without_template(tmp_path_factory.mktemp("base"))},
    ) as served:
        yield served


def base_without_template(folder: Path) -> str:
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer_config.json").write_text("{}")
    return str(folder)


@pytest.fixture(scope="module")
def client(trainer: TrainerServer) -> Iterator[openai.OpenAI]:
    with trainer.client() as client:
        yield client


@pytest.fixture(scope="module")
def file_id(client: openai.OpenAI) -> str:
    return upload(client)


@dataclass(frozen=True)
class Case:
    name: str
    method: str
    path: str
    status: int
    code: str | None
    param: str | None
    message: str
    body: Any = None
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "invalid_request_error"


def job(**fields: Any) -> dict[str, Any]:
    return {"model": "toy", "training_file": "FILE", **fields}


def test_a_base_that_cannot_be_trained_is_refused(client: openai.OpenAI, file_id: str) -> None:
    with pytest.raises(openai.BadRequestError, match="has no chat template") as caught:
        client.fine_tuning.jobs.create(model="no-template", training_file=file_id)
    assert (caught.value.code, caught.value.param) == ("base_not_trainable", "model")
    assert all(job.model != "no-template" for job in client.fine_tuning.jobs.list())


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "toy", "messages": [{"role": "user", "content": "hi"}], **fields}


def schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


JOBS = "/fine_tuning/jobs"
CHAT = "/chat/completions"
SCHEMA = "response_format.json_schema"
KNOWN = (
    "n_epochs, batch_size, learning_rate, learning_rate_multiplier, weight_decay, lora_r, lora_alpha, "
    "lora_dropout, target_modules, max_length, too_long, quantization, eval_steps, patience, max_seconds, max_usd, "
    "usd_per_hour, sharding, engine, beta, samples, temperature, max_new_tokens, reward, sweep"
)

CASES = [
    Case(
        *("wrong key", "GET", "/models", 401, "invalid_api_key", None),
        "Incorrect API key. Send the trainer's key as 'Authorization: Bearer KEY'.",
        headers={"Authorization": "Bearer sk-wrong"},
    ),
    Case(
        *("rebound name", "GET", "/models", 403, "host_not_allowed", None),
        "This trainer does not answer to the host name 'evil.example'. Start it with --allow-host evil.example.",
        headers={"Host": "evil.example:8021"},
    ),
    Case(
        *("unknown endpoint", "POST", "/images/generations", 404, "unknown_url", None),
        "This trainer has no endpoint POST /v1/images/generations.",
        body={},
    ),
    Case(
        *("wrong method", "PUT", JOBS, 405, "method_not_allowed", None),
        "This trainer has no endpoint PUT /v1/fine_tuning/jobs.",
        body={},
    ),
    Case(
        *("body is no JSON", "POST", JOBS, 400, "invalid_json", None),
        "The request's body is not valid JSON at line 1, character 1.",
        raw=b"model=toy",
    ),
    Case(
        *("body of 3 MB", "POST", JOBS, 413, "request_too_large", None),
        "The request's body is too large. The limit for JSON is 2 MB.",
        raw=b" " * 3_000_000,
    ),
    Case(
        *("no model", "POST", JOBS, 400, "missing_required_parameter", "model"),
        "Missing required parameter 'model'.",
        body={"training_file": "FILE"},
    ),
    Case(
        *("unknown model", "POST", JOBS, 404, "model_not_found", "model"),
        "There is no model 'gpt-9' here to fine-tune. This trainer has: toy, no-template; and the models tuned here.",
        body=job(model="gpt-9"),
    ),
    Case(
        *("unknown file", "POST", JOBS, 400, "file_not_found", "training_file"),
        f"There is no file '{UNKNOWN_FILE}' on this trainer. Upload it first.",
        body=job(training_file=UNKNOWN_FILE),
    ),
    Case(
        *("a path as file", "POST", JOBS, 400, "file_not_found", "validation_file"),
        "There is no file '../trainer.key' on this trainer. Upload it first.",
        body=job(validation_file="../trainer.key"),
    ),
    Case(
        *("load_in_4bit", "POST", JOBS, 400, "unknown_parameter", "hyperparameters.load_in_4bit"),
        "'load_in_4bit' is an argument for loading a model with transformers, not a hyperparameter. Write "
        '"quantization": "nf4" instead: the frozen base in 4-bit NormalFloat with double quantisation, the adapter '
        "in full (QLoRA).",
        body=job(hyperparameters={"load_in_4bit": True}),
    ),
    Case(
        *("quantization", "POST", JOBS, 400, "invalid_value", "hyperparameters.quantization"),
        "'quantization' is 'fp4'; it must be 'none', 'nf4' or 'int8', or \"auto\".",
        body=job(hyperparameters={"quantization": "fp4"}),
    ),
    Case(
        *("epochs", "POST", JOBS, 400, "invalid_value", "hyperparameters.n_epochs"),
        "'n_epochs' is 51; it must be a whole number from 1 to 50, or \"auto\".",
        body=job(hyperparameters={"n_epochs": 51}),
    ),
    Case(
        *("rate", "POST", JOBS, 400, "invalid_value", "method.supervised.hyperparameters.learning_rate"),
        "'learning_rate' is 'fast'; it must be a number above 0, at most 1, or \"auto\".",
        body=job(method={"type": "supervised", "supervised": {"hyperparameters": {"learning_rate": "fast"}}}),
    ),
    Case(
        *("two rates", "POST", JOBS, 400, "invalid_value", "hyperparameters.learning_rate"),
        "Give 'learning_rate' or 'learning_rate_multiplier', not both.",
        body=job(hyperparameters={"learning_rate": 1e-4, "learning_rate_multiplier": 2}),
    ),
    Case(
        *("unknown hyperparameter", "POST", JOBS, 400, "unknown_parameter", "hyperparameters.epochs"),
        f"Unknown hyperparameter 'epochs'. Known are {KNOWN}.",
        body=job(hyperparameters={"epochs": 3}),
    ),
    Case(
        *("unknown field", "POST", JOBS, 400, "unknown_parameter", "learning_rate"),
        "Unknown parameter 'learning_rate'. Known are model, training_file, validation_file, hyperparameters, "
        "method, suffix, seed, metadata, integrations.",
        body=job(learning_rate=1e-4),
    ),
    Case(
        *("unknown method", "POST", JOBS, 400, "invalid_value", "method.type"),
        "'method.type' is 'reinforcement'; allowed are supervised, dpo, grpo, head, full, all_weights.",
        body=job(method={"type": "reinforcement"}),
    ),
    Case(
        *("two methods", "POST", JOBS, 400, "invalid_value", "method.supervised"),
        "'method.supervised' does not belong to the type dpo. Change 'method.type', or leave it out.",
        body=job(method={"type": "dpo", "supervised": {}}),
    ),
    Case(
        *("beta too high", "POST", JOBS, 400, "invalid_value", "method.dpo.hyperparameters.beta"),
        "'beta' is 2.5; it must be a number above 0, at most 2, or \"auto\".",
        body=job(method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.5}}}),
    ),
    Case(
        *("beta without pairs", "POST", JOBS, 400, "invalid_value", "hyperparameters.beta"),
        "'beta' belongs to the method dpo. Set method.type to dpo for preference pairs, or leave 'beta' out.",
        body=job(hyperparameters={"beta": 0.1}),
    ),
    Case(
        *("a sweep over pairs", "POST", JOBS, 400, "invalid_value", "hyperparameters.sweep"),
        "A sweep compares supervised trainings. Leave 'sweep' out, and create a job for each choice.",
        body=job(
            method={"type": "dpo"}, validation_file="FILE", hyperparameters={"sweep": {"lora_r": [4, 8]}}
        ),
    ),
    Case(
        *("pairs by another engine", "POST", JOBS, 400, "engine_cannot", "hyperparameters.engine"),
        "The engine unsloth can't train with the method dpo. Leave 'engine' out.",
        body=job(method={"type": "dpo"}, hyperparameters={"engine": "unsloth"}),
    ),
    Case(
        *("long suffix", "POST", JOBS, 400, "invalid_value", "suffix"),
        "'suffix' must be text of at most 64 characters.",
        body=job(suffix="s" * 65),
    ),
    Case(
        *("much metadata", "POST", JOBS, 400, "invalid_value", "metadata"),
        "'metadata' must be an object with at most 16 pairs.",
        body=job(metadata={str(n): "" for n in range(17)}),
    ),
    Case(
        *("long metadata", "POST", JOBS, 400, "invalid_value", "metadata.note"),
        "'metadata.note' must be text of at most 512 characters.",
        body=job(metadata={"note": "n" * 513}),
    ),
    Case(
        *("unknown job", "GET", JOBS + "/ftjob-1", 404, "not_found", None),
        "There is no fine-tuning job 'ftjob-1' on this trainer.",
    ),
    Case(
        *("limit", "GET", JOBS + "?limit=0", 400, "invalid_value", "limit"),
        "'limit' must be a whole number from 1 to 100.",
    ),
    Case(
        *("limit of 5,000 digits", "GET", JOBS + "?limit=" + "9" * 5000, 400, "invalid_value", "limit"),
        "'limit' must be a whole number from 1 to 100.",
    ),
    Case(
        *("unknown cursor", "GET", JOBS + "?after=ftjob-1", 400, "invalid_value", "after"),
        "'after' names 'ftjob-1', which is not in this list.",
    ),
    Case(
        *("a path as file id", "GET", "/files/..%2Ftrainer.key", 404, "unknown_url", None),
        "This trainer has no endpoint GET /v1/files/../trainer.key.",
    ),
    Case(
        *("unknown file id", "DELETE", f"/files/{UNKNOWN_FILE}", 404, "not_found", None),
        f"There is no file '{UNKNOWN_FILE}' on this trainer.",
    ),
    Case(
        *("chat with nobody", "POST", CHAT, 404, "model_not_found", "model"),
        "There is no model 'ft:toy:local::00000000' on this trainer.",
        body=chat(model="ft:toy:local::00000000"),
    ),
    Case(
        *("chat without messages", "POST", CHAT, 400, "invalid_value", "messages"),
        "'messages' must be a list with at least one message.",
        body=chat(messages=[]),
    ),
    Case(
        *("chat with a wrong role", "POST", CHAT, 400, "invalid_value", "messages[0].role"),
        "'messages[0].role' is 'robot'; allowed are system, developer, user, assistant, tool.",
        body=chat(messages=[{"role": "robot", "content": "hi"}]),
    ),
    Case(
        *("two calls with one id", "POST", CHAT, 400, "invalid_value", "messages[0].tool_calls"),
        "Two calls of 'messages[0].tool_calls' have the same id.",
        body=chat(
            messages=[
                {
                    "role": "assistant",
                    "tool_calls": 2 * [{"id": "1", "function": {"name": "f", "arguments": ""}}],
                }
            ]
        ),
    ),
    Case(
        *("chat with a picture", "POST", CHAT, 400, "invalid_type", "messages[0].content"),
        "'messages[0].content' must be text, or a list of parts of type 'text'.",
        body=chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
    ),
    Case(
        *("hot chat", "POST", CHAT, 400, "invalid_value", "temperature"),
        "'temperature' must be a number from 0 to 2.",
        body=chat(temperature=3),
    ),
    Case(
        *("too many answers", "POST", CHAT, 400, "invalid_value", "n"),
        "'n' must be a whole number from 1 to 128.",
        body=chat(n=100_000),
    ),
    Case(
        *("others without logprobs", "POST", CHAT, 400, "invalid_value", "top_logprobs"),
        "'top_logprobs' needs 'logprobs' to be true.",
        body=chat(top_logprobs=3),
    ),
    Case(
        *("no choices", "POST", CHAT, 400, "invalid_value", "guided_choice"),
        "'guided_choice' has 0 choices; it must have 1 to 2000.",
        body=chat(guided_choice=[]),
    ),
    Case(
        *("an empty choice", "POST", CHAT, 400, "invalid_type", "guided_choice"),
        "'guided_choice' must be a list of texts, none of them empty.",
        body=chat(guided_choice=["billing", ""]),
    ),
    Case(
        *("choices and a schema", "POST", CHAT, 400, "invalid_value", "guided_choice"),
        "Give 'guided_choice' or 'response_format', not both.",
        body=chat(guided_choice=["a"], response_format={"type": "json_object"}),
    ),
    Case(
        *("an unknown format", "POST", CHAT, 400, "invalid_value", "response_format.type"),
        "'response_format.type' is 'xml'; allowed are text, json_object, json_schema.",
        body=chat(response_format={"type": "xml"}),
    ),
    Case(
        *("a schema without a name", "POST", CHAT, 400, "invalid_value", SCHEMA + ".name"),
        "'response_format.json_schema.name' must be 1 to 64 letters, digits, _ or -.",
        body=chat(response_format={"type": "json_schema", "json_schema": {"schema": {}}}),
    ),
    Case(
        *("a schema that can't be kept", "POST", CHAT, 400, "unsupported_schema", SCHEMA + ".schema"),
        "Answers cannot be restricted to 'response_format.json_schema.schema': Unimplemented keys: [\"not\"]. "
        "Change or leave out that part.",
        body=chat(response_format=schema({"not": {"type": "string"}})),
    ),
    Case(
        *("a schema from elsewhere", "POST", CHAT, 400, "unsupported_schema", SCHEMA + ".schema"),
        "Answers cannot be restricted to 'response_format.json_schema.schema': Resource 'http://127.0.0.1/x' is not "
        "present in a registry and retrieving it failed: Default retriever does not fetch resources. "
        "Change or leave out that part.",
        body=chat(response_format=schema({"$ref": "http://127.0.0.1/x"})),
    ),
    Case(
        *("a schema that llguidance panics at", "POST", CHAT, 400, "unsupported_schema", SCHEMA + ".schema"),
        "Answers cannot be restricted to 'response_format.json_schema.schema': it is not a schema that can be read. "
        "Change or leave out that part.",
        body=chat(response_format=schema({"type": "object", "required": [{"ab": "é" * 200}]})),
    ),
    Case(
        *("embedding nothing", "POST", "/embeddings", 400, "invalid_value", "input"),
        "'input' has 0 texts; it must have 1 to 2048.",
        body={"model": "toy", "input": []},
    ),
    Case(
        *("embedding token ids", "POST", "/embeddings", 400, "invalid_type", "input"),
        "'input' must be text or a list of texts, none of them empty. Token ids are not supported.",
        body={"model": "toy", "input": [1, 2]},
    ),
    Case(
        *("unknown chat parameter", "POST", CHAT, 400, "unknown_parameter", "ignore_eos"),
        "This trainer does not know the parameter 'ignore_eos'.",
        body=chat(ignore_eos=True),
    ),
    Case(
        *("a wrong top_k", "POST", CHAT, 400, "invalid_value", "top_k"),
        "'top_k' must be a whole number from -1 to 1000000.",
        body=chat(top_k=-2),
    ),
    Case(
        *("a wrong repetition penalty", "POST", CHAT, 400, "invalid_value", "repetition_penalty"),
        "'repetition_penalty' must be a number above 0, at most 10.",
        body=chat(repetition_penalty=0),
    ),
    Case(
        *("template options of another type", "POST", CHAT, 400, "invalid_type", "chat_template_kwargs"),
        "'chat_template_kwargs' must be an object.",
        body=chat(chat_template_kwargs=["enable_thinking"]),
    ),
    Case(
        *("a verbosity that doesn't exist", "POST", CHAT, 400, "unsupported_value", "verbosity"),
        "This trainer does not support 'verbosity' at 'wordy'. Leave it out.",
        body=chat(verbosity="wordy"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_refusal_has_status_code_parameter_and_message(
    trainer: TrainerServer, file_id: str, case: Case
) -> None:
    content = case.raw if case.body is None else json.dumps(case.body).replace("FILE", file_id).encode()
    headers = {"Authorization": f"Bearer {KEY}", **case.headers}
    answer = httpx2.request(case.method, trainer.url + case.path, content=content, headers=headers)
    error = {"message": case.message, "type": case.kind, "param": case.param, "code": case.code}
    assert (answer.status_code, answer.json()) == (case.status, {"error": error})
    check_answer(answer, trainer.checked)


def examples_with_line(number: int, line: bytes) -> bytes:
    lines = examples().splitlines()
    lines[number - 1] = line
    return b"\n".join(lines)


def test_a_quantised_job_is_refused_without_bitsandbytes(
    client: openai.OpenAI, file_id: str, without_bitsandbytes: None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(
            model="toy", training_file=file_id, extra_body={"hyperparameters": {"quantization": "nf4"}}
        )
    assert (caught.value.code, caught.value.param) == (
        "quantization_unavailable",
        "hyperparameters.quantization",
    )
    assert "needs the package bitsandbytes, which this trainer's environment lacks" in str(caught.value)


FILES = {
    "a picture": (PNG, "Line 1 is not text: the file looks like a PNG picture."),
    "three rows": (examples(3), "The file has 3 examples; at least 10 are needed."),
    "no JSON": (examples_with_line(7, b'{"messages": [}'), "Line 7 is not valid JSON from character 15 on."),
    "a list": (examples_with_line(2, b"[]"), "Line 2 is not a JSON object."),
    "a wrong role": (
        examples_with_line(4, b'{"messages": [{"role": "robot", "content": "hi"}]}'),
        "Line 4 has a bad message at messages[0]: its role is 'robot'; allowed are ",
    ),
    "an empty answer": (
        examples_with_line(3, b'{"messages": [{"role": "assistant", "content": " \\n"}]}'),
        "Line 3 has a bad message at messages[0]: its content must be text that is not empty.",
    ),
    "an empty answer in parts": (
        examples_with_line(
            3, b'{"messages": [{"role": "assistant", "content": [{"type": "text", "text": " "}]}]}'
        ),
        "Line 3 has a bad message at messages[0]: its content must be text that is not empty.",
    ),
    "no answer": (
        examples_with_line(5, b'{"messages": [{"role": "user", "content": "hi"}]}'),
        "Line 5 has no assistant message to learn from.",
    ),
    "a wrong weight": (
        examples_with_line(6, b'{"messages": [{"role": "assistant", "content": "hi", "weight": 0.5}]}'),
        "Line 6 has a bad message at messages[0]: its weight is 0.5; allowed are 0 and 1.",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_training_file_fails_its_job(client: openai.OpenAI, name: str) -> None:
    content, problem = FILES[name]
    file_id = upload(client, content)
    job = client.fine_tuning.jobs.create(model="toy", training_file=file_id)
    failed = wait_for_status(client, job.id, "failed", "succeeded")
    assert failed.error is not None
    assert failed.error.message.startswith(f"The training file cannot be used. {problem}")
    assert (failed.error.code, failed.error.param) == ("invalid_training_file", "training_file")
    assert failed.fine_tuned_model is None


def test_a_bad_validation_file_fails_its_job(client: openai.OpenAI, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(
        model="toy", training_file=file_id, validation_file=upload(client, PNG)
    )
    failed = wait_for_status(client, job.id, "failed", "succeeded")
    assert failed.error is not None
    assert (failed.error.code, failed.error.param) == ("invalid_validation_file", "validation_file")


def test_an_empty_upload_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("nothing.jsonl", b""), purpose="fine-tune")
    assert caught.value.body == {
        "message": "The file 'nothing.jsonl' is empty. Send one example per line.",
        "type": "invalid_request_error",
        "param": "file",
        "code": "empty_file",
    }


def test_another_purpose_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("a.jsonl", examples()), purpose="assistants")
    assert caught.value.param == "purpose"


def test_an_upload_beyond_512_mb_is_refused_before_it_is_sent(trainer: TrainerServer) -> None:
    connection = http.client.HTTPConnection(urlsplit(trainer.url).netloc, timeout=10)
    with closing(connection):
        connection.putrequest("POST", "/v1/files")
        connection.putheader("Authorization", f"Bearer {KEY}")
        connection.putheader("Content-Length", str(600 * 1024 * 1024))
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)["error"]["code"]) == (413, "file_too_large")


def test_a_body_without_a_declared_length_is_cut_off_at_its_cap(trainer: TrainerServer) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx2.post(f"{trainer.url}{JOBS}", headers=headers, content=iter([b" " * 1_000_000] * 3))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_an_upload_without_a_declared_length_is_cut_off_at_its_cap(
    trainer: TrainerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MAX_FILE_BYTES", 1000)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'
    answer = httpx2.post(f"{trainer.url}/files", headers=headers, content=iter([part, b" " * 100_000]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")


def test_a_finished_job_cannot_be_cancelled(client: openai.OpenAI, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(model="toy", training_file=file_id)
    wait_for_status(client, job.id, "succeeded")
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.cancel(job.id)
    assert caught.value.code == "job_already_final"


def test_a_chat_with_a_model_that_cannot_be_loaded_is_an_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="toy", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "base_not_loaded"
    assert "Loading the base model /nowhere: " in str(caught.value)


def test_loopback_host_names_are_accepted_with_any_port(trainer: TrainerServer) -> None:
    for host in ("localhost:1", "127.0.0.1", "[::1]:80"):
        headers = {"Authorization": f"Bearer {KEY}", "Host": host}
        assert httpx2.get(f"{trainer.url}/models", headers=headers).status_code == 200
