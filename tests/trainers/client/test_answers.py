"""How the client reads answers: statuses, errors, result files, chat and models."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from tests.peers.hosted import Fault, Hosted
from tests.trainers.client.conftest import MODEL, spec
from trainers.client.client import Trainer
from trainers.errors import InvalidResponse
from trainers.types import Message


@pytest.mark.parametrize(("status", "is_known"), [("paused", True), ("weird", False)])
def test_an_unknown_status_is_kept_and_not_final(
    server: Hosted, trainer: Trainer, data: Path, status: str, is_known: bool
) -> None:
    server.service.stages = (status,)
    job = trainer.create(spec(trainer, data))
    assert (job.status, job.has_known_status, job.is_final) == (status, is_known, False)


@pytest.mark.parametrize(
    ("status", "failure", "error"),
    [
        ("succeeded", {}, (None, None)),
        ("running", {"code": "old", "message": "left over from a first try", "param": None}, (None, None)),
        ("failed", {"code": "bad_file", "message": "Row 7 is bad.", "param": None}, ("bad_file", "Row 7 is bad.")),
    ],
)  # fmt: skip
def test_only_a_failed_job_has_an_error(
    server: Hosted,
    trainer: Trainer,
    data: Path,
    status: str,
    failure: dict[str, str | None],
    error: tuple[str | None, str | None],
) -> None:
    server.service.failure, server.service.stages = failure, (status,)
    job = trainer.create(spec(trainer, data))
    assert (job.status, job.error_code, job.error_message) == (status, *error)


@pytest.mark.parametrize("is_base64", [False, True])
def test_result_files_are_read_plain_and_in_base64(
    server: Hosted, trainer: Trainer, data: Path, is_base64: bool
) -> None:
    server.service.base64_results = is_base64
    server.service.stages = ("succeeded",)
    lines = trainer.metrics(trainer.create(spec(trainer, data)))
    assert len(lines) == 12
    assert (lines[0].step, lines[0].train_loss, lines[0].valid_loss) == (1, 2.0, None)
    assert (lines[3].valid_loss, lines[3].valid_accuracy) == (0.625, 0.85)


@pytest.mark.parametrize(
    ("csv", "losses"),
    [
        ("step,train_loss\n1,0.5\n\n2,\n", [0.5, None]),
        ("step\n1\n", [None]),
        ("\ufeffstep,train_loss,new\r\n1,nan,x\r\n", [None]),
    ],
)
def test_missing_columns_and_cells_of_a_result_file_are_none(
    server: Hosted, trainer: Trainer, data: Path, csv: str, losses: list[float | None]
) -> None:
    server.service.results_csv = csv
    server.service.stages = ("succeeded",)
    assert [line.train_loss for line in trainer.metrics(trainer.create(spec(trainer, data)))] == losses


def test_what_dpo_and_rewards_improve_is_read_under_each_trainer_s_names(
    server: Hosted, trainer: Trainer, data: Path
) -> None:
    server.service.stages = ("succeeded",)
    server.service.results_csv = (
        "step,train_loss,train_reward_accuracy,valid_reward_accuracy,train_reward_margin,valid_reward_margin\n"
        "1,0.69,0,0.75,-0.1,0.2\n"
    )
    (pairs,) = trainer.metrics(trainer.create(spec(trainer, data)))
    assert (pairs.train_preference_accuracy, pairs.valid_preference_accuracy) == (0, 0.75)
    assert (pairs.train_reward_margin, pairs.valid_reward_margin) == (-0.1, 0.2)
    for names in ("train_reward_mean,valid_reward_mean", "train_mean_reward,full_valid_mean_reward"):
        server.service.results_csv = f"step,{names}\n1,0.25,0.5\n"
        (sampled,) = trainer.metrics(trainer.create(spec(trainer, data)))
        assert (sampled.train_reward, sampled.valid_reward) == (0.25, 0.5)


@pytest.mark.parametrize(
    "csv", ["<html></html>", "a,b\n1,2\n", "step,train_loss\n1,lots\n", "step,x\n,1\n", "\0"]
)
def test_an_unreadable_result_file_is_an_invalid_response(
    server: Hosted, trainer: Trainer, data: Path, csv: str
) -> None:
    server.service.results_csv = csv
    server.service.stages = ("succeeded",)
    job = trainer.create(spec(trainer, data))
    with pytest.raises(InvalidResponse, match=r"the results of job 'ftjob-1' on openai: .*result file"):
        trainer.metrics(job)


def test_a_chat_answer_has_text_tokens_and_seconds(server: Hosted, trainer: Trainer) -> None:
    server.slow_s = 0.05
    server.service.answer = lambda model, messages: messages[-1]["content"].upper()
    answer = trainer.chat(MODEL, [Message("system", "be brief"), Message("user", "hi you")], max_tokens=5)
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("HI YOU", 4, 2)
    assert answer.seconds >= 0.05
    assert server.requests[-1].body["temperature"] == 0


def test_tools_are_sent_and_calls_are_returned_as_text(server: Hosted, trainer: Trainer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "order", "arguments": "{}"}}
    server.service.answer = lambda model, messages: [call]
    messages = [
        Message("user", "where is order 7"),
        Message("assistant", "", extra=json.dumps({"tool_calls": [call]})),
        Message("tool", "on its way", extra='{"tool_call_id": "c1"}'),
    ]
    answer = trainer.chat(MODEL, messages, max_tokens=5, tools=json.dumps([{"type": "function"}]))
    assert json.loads(answer.text) == [call]
    body = server.requests[-1].body
    assert body["tools"] == [{"type": "function"}]
    assert body["messages"] == [
        {"role": "user", "content": "where is order 7"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "on its way", "tool_call_id": "c1"},
    ]


def test_a_chat_may_take_longer_than_other_calls(server: Hosted, trainer: Trainer) -> None:
    server.slow_s = 0.6
    assert trainer.chat(MODEL, [Message("user", "hi")], max_tokens=5, timeout_s=5).text


@pytest.mark.parametrize("message", ['{"content": null}', '{"content": "", "refusal": null}', "{}"])
def test_an_answer_without_content_is_empty(server: Hosted, trainer: Trainer, message: str) -> None:
    """A thinking model may spend all its tokens before it answers; they are billed all the same."""
    usage = '{"prompt_tokens": 7, "completion_tokens": 24}'
    body = f'{{"choices": [{{"message": {message}}}], "usage": {usage}}}'.encode()
    server.fail("POST /chat/completions", Fault(commit=False, status=200, body=body))
    answer = trainer.chat(MODEL, [Message("user", "hi")], max_tokens=24)
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("", 7, 24)


@pytest.mark.parametrize("body", [b'{"choices": []}', b'{"choices": [{"message": {"content": "a"}}]}', b"{}"])
def test_a_chat_answer_without_message_or_usage_is_invalid(
    server: Hosted, trainer: Trainer, body: bytes
) -> None:
    server.fail("POST /chat/completions", Fault(commit=False, status=200, body=body))
    with pytest.raises(InvalidResponse, match="asking the model"):
        trainer.chat(MODEL, [Message("user", "hi")], max_tokens=5)
    assert server.count("POST /chat/completions") == 1


@pytest.mark.parametrize("end", ["2027-01-14", "2027-01-14T00:00:00Z", 1_799_884_800])
def test_a_models_shutdown_date_is_read(server: Hosted, trainer: Trainer, end: str | int) -> None:
    server.service.shutdowns = {MODEL: end}
    ends = {model.id: model.shutdown_date for model in trainer.models()}
    assert ends[MODEL] == date(2027, 1, 14)
    assert [day for day in ends.values() if day] == [ends[MODEL]]


@pytest.mark.parametrize("end", ["next year", 10**18])
def test_a_shutdown_date_that_is_no_date_is_invalid(server: Hosted, trainer: Trainer, end: str | int) -> None:
    server.service.shutdowns = {MODEL: end}
    with pytest.raises(InvalidResponse, match="is not a date"):
        trainer.models()


def test_events_are_read_up_to_the_requested_number_of_pages(
    server: Hosted, trainer: Trainer, data: Path
) -> None:
    job = trainer.create(spec(trainer, data))
    server.service.stages = ("running",) * 200
    server.service.jobs[job.id].polls = 150
    assert trainer.events_since(job.id, 0, pages=10)[1]
    events, is_complete = trainer.events_since(job.id, 0, pages=1)
    assert (len(events), is_complete) == (100, False)
    gone = Fault(commit=False, status=404, code="not_found")
    server.fail(f"GET /fine_tuning/jobs/{job.id}/events", gone)
    assert trainer.events_since(job.id, 0, pages=10) == ((), False)
