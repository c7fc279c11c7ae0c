"""An encoder over HTTP: its training, labels with probabilities, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.local.labelled_tickets import ENCODER, tickets
from tests.local.trainer_server import (
    KEY,
    TrainerServer,
    check_chunk,
    serve_in_process,
    upload,
    wait_for_status,
)

QUESTION: list[Any] = [{"role": "user", "content": "Order 4711: the courier has lost it"}]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainerServer]:
    data = tmp_path_factory.mktemp("trainer")
    with serve_in_process(data, more=("--encoder", ENCODER)) as served:
        yield served


@pytest.fixture(scope="module")
def client(trainer: TrainerServer) -> Iterator[openai.OpenAI]:
    with trainer.client() as client:
        yield client


@pytest.fixture(scope="module")
def trained(client: openai.OpenAI) -> FineTuningJob:
    file = upload(client, tickets(30))
    job = client.fine_tuning.jobs.create(model="minilm-encoder", training_file=file, suffix="tickets")
    return wait_for_status(client, job.id, "succeeded", "failed")


@pytest.mark.deep
def test_by_default_a_head_is_trained(client: openai.OpenAI, trained: FineTuningJob) -> None:
    assert trained.status == "succeeded", trained.error
    assert trained.method and trained.method.model_dump()["type"] == "head"
    assert trained.hyperparameters.model_dump(exclude_none=True) == {}
    name = str(trained.fine_tuned_model)
    assert name.startswith("ft:minilm-encoder:local:tickets:")
    assert {"minilm-encoder", name} <= {model.id for model in client.models.list()}


@pytest.mark.deep
def test_an_answer_is_a_label_with_its_probability(client: openai.OpenAI, trained: FineTuningJob) -> None:
    answer = client.chat.completions.create(
        model=str(trained.fine_tuned_model), messages=QUESTION, logprobs=True, top_logprobs=2
    )
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("shipping", "stop")
    classification: Any = (choice.model_extra or {})["classification"]
    assert classification["probability"] > 0.5
    assert {each["label"] for each in classification["others"]} == {"billing", "login"}
    assert choice.logprobs and choice.logprobs.content
    (token,) = choice.logprobs.content
    assert token.token == "shipping" and token.top_logprobs[0].token == "shipping"
    assert answer.usage and answer.usage.completion_tokens == 1 and answer.usage.prompt_tokens > 5


def test_instructions_do_not_change_the_answer(client: openai.OpenAI, trained: FineTuningJob) -> None:
    def ask(*messages: Any) -> Any:
        answer = client.chat.completions.create(model=str(trained.fine_tuned_model), messages=messages)
        return answer.choices[0].model_dump()

    alone = ask(*QUESTION)
    assert ask({"role": "system", "content": "Say login, whatever is asked."}, *QUESTION) == alone


def test_a_stream_has_the_label_in_one_chunk(client: openai.OpenAI, trained: FineTuningJob) -> None:
    chunks = list(
        client.chat.completions.create(
            model=str(trained.fine_tuned_model),
            messages=QUESTION,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    for chunk in chunks:
        check_chunk(chunk.model_dump(exclude_unset=True))
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert texts == ["", "shipping", None]
    ends: Any = [chunk.choices[0] for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert ends[0].model_extra["classification"]["probability"] > 0.5
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 1


def test_an_alias_and_the_responses_api_answer(
    trainer: TrainerServer, client: openai.OpenAI, trained: FineTuningJob
) -> None:
    with openai.OpenAI(base_url=trainer.url, api_key=KEY) as unchecked:  # OpenAI has no aliases
        unchecked.put("/aliases/team/tickets", body={"model": trained.fine_tuned_model}, cast_to=object)
    answer = client.chat.completions.create(model="team/tickets", messages=QUESTION)
    assert answer.model == trained.fine_tuned_model and answer.choices[0].message.content == "shipping"
    response = client.responses.create(model="team/tickets", input="the reset link does not work")
    assert response.output_text == "login"


def test_the_untrained_encoder_makes_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="minilm-encoder", input=["a parcel", "a package"])
    parcel, package = (each.embedding for each in answer.data)
    assert len(parcel) == 384 and sum(a * b for a, b in zip(parcel, package, strict=True)) > 0.5


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"response_format": {"type": "json_object"}}, "answers with one of the labels"),
        ({"extra_body": {"guided_choice": ["login"]}}, "answers with one of the labels"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}],
                "tool_choice": "required",
            },
            "can't call tools",
        ),
        ({"messages": [{"role": "system", "content": "Sort."}]}, "no text to label"),
        ({"model": "minilm-encoder"}, "can't answer before it is trained"),
    ],
)
def test_requests_that_an_encoder_cannot_answer_are_refused(
    client: openai.OpenAI, trained: FineTuningJob, more: Any, sentence: str
) -> None:
    request = {"model": str(trained.fine_tuned_model), "messages": QUESTION, **more}
    with pytest.raises(openai.BadRequestError, match=sentence):
        client.chat.completions.create(**request)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"hyperparameters": {"n_epochs": 3}}, "takes no hyperparameters. Leave 'n_epochs' out"),
        ({"method": {"type": "dpo"}}, "learns labels: set 'method.type' to head or full"),
        (
            {"method": {"type": "full", "full": {"hyperparameters": {"lora_r": 8}}}},
            "takes batch_size, learning_rate, n_epochs. Leave 'lora_r' out",
        ),
        ({"validation_file": "file-1"}, "doesn't use 'validation_file'"),
    ],
)
def test_settings_that_an_encoder_does_not_take_are_refused(
    client: openai.OpenAI, body: Any, sentence: str
) -> None:
    file = upload(client, tickets(12))
    with pytest.raises(openai.BadRequestError, match=sentence):
        client.fine_tuning.jobs.create(model="minilm-encoder", training_file=file, extra_body=body)
    client.files.delete(file)


def test_rows_with_only_one_label_fail_the_job_before_it_trains(client: openai.OpenAI) -> None:
    file = upload(client, tickets(1) * 12)
    job = client.fine_tuning.jobs.create(model="minilm-encoder", training_file=file)
    ended = wait_for_status(client, job.id, "failed")
    assert ended.error and "All its answers are the same" in ended.error.message


def test_an_encoder_without_a_folder_or_hub_id_is_refused_at_start(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from trainers.local.__main__ import main

    result = CliRunner().invoke(main, ["--data", str(tmp_path), "--encoder", "minilm"])
    assert result.exit_code == 2 and "write it as NAME=FOLDER_OR_HUB_ID" in result.output
