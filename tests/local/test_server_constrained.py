"""Chat with several answers, likelihoods, labels and schemas, and embeddings: over HTTP, beside transformers itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from jsonschema import validate  # type: ignore[import-untyped]
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel

from tests.local.trainer_server import TrainerServer, check_chunk, serve_in_process

QUESTION = [{"role": "user", "content": "My card was charged twice and the parcel is late"}]
LABELS = ["billing", "billing late", "shipping", 'a "quoted"\nlabel, with ü and 🎈']
SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["billing", "login"]}, "sure": {"type": "boolean"}},
    "required": ["label", "sure"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def embedding_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("model") / "embedder"
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=384,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}', encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trainer(
    tmp_path_factory: pytest.TempPathFactory, babbling_model_dir: Path, embedding_dir: Path
) -> Iterator[TrainerServer]:
    models = (f"tiny={babbling_model_dir}", f"embedder={embedding_dir}")
    with serve_in_process(tmp_path_factory.mktemp("trainer"), *models) as served:
        yield served


@pytest.fixture(scope="module")
def client(trainer: TrainerServer) -> Iterator[openai.OpenAI]:
    with trainer.client() as client:
        yield client


def ask(client: openai.OpenAI, messages: Sequence[Any] = QUESTION, **more: Any) -> ChatCompletion:
    options = {"temperature": 0, "max_tokens": 12, **more}
    answer: ChatCompletion = client.chat.completions.create(model="tiny", messages=messages, **options)
    return answer


def texts(answer: ChatCompletion) -> list[str]:
    return [choice.message.content or "" for choice in answer.choices]


def told(choice: Choice) -> list[Any]:
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    return choice.logprobs.content


def test_several_answers_to_one_prompt_differ_and_can_be_repeated(client: openai.OpenAI) -> None:
    first, second = (ask(client, n=5, temperature=1.5, seed=3) for _ in range(2))
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3, 4]
    assert texts(first) == texts(second)
    assert len(set(texts(first))) == 5


def test_more_answers_than_a_batch_holds_count_the_prompt_once(client: openai.OpenAI) -> None:
    answer, one = ask(client, n=20, max_tokens=3), ask(client, max_tokens=3)
    assert set(texts(answer)) == set(texts(one))
    assert len(answer.choices) == 20
    assert answer.usage is not None
    assert one.usage is not None
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens
    assert answer.usage.completion_tokens == 20 * one.usage.completion_tokens


def test_a_stream_of_several_answers_says_whose_each_part_is(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"n": 3, "temperature": 1.5, "seed": 3}
    whole = ask(client, **options)
    stream = client.chat.completions.create(
        model="tiny", messages=QUESTION, max_tokens=12, stream=True, **options
    )
    said, ends = ["", "", ""], []
    for chunk in stream:
        check_chunk(chunk.to_dict())
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            ends += [choice.index] if choice.finish_reason else []
    assert said == texts(whole)
    assert sorted(ends) == [0, 1, 2]


def test_log_probabilities_are_those_of_the_model(client: openai.OpenAI, babbling_model_dir: Path) -> None:
    tokens = told(ask(client, logprobs=True, top_logprobs=3, max_tokens=6).choices[0])
    model: Any = AutoModelForCausalLM.from_pretrained(babbling_model_dir)
    tokenizer = AutoTokenizer.from_pretrained(babbling_model_dir)
    text = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    for token in tokens:
        with torch.no_grad():
            expected = torch.log_softmax(model(ids).logits[0, -1].float(), -1).topk(3)
        assert token.logprob == pytest.approx(float(expected.values[0]), abs=1e-3)
        assert [one.logprob for one in token.top_logprobs] == pytest.approx(
            expected.values.tolist(), abs=1e-3
        )
        assert token.token == token.top_logprobs[0].token
        ids = torch.cat([ids, expected.indices[None, :1]], -1)


@pytest.mark.parametrize("stop", [None, "cut"])
def test_the_named_tokens_are_the_answer(client: openai.OpenAI, stop: str | None) -> None:
    whole = texts(ask(client))[0]
    stops = [whole[5:7]] if stop else None
    choice = ask(client, logprobs=True, stop=stops).choices[0]
    content = choice.message.content or ""
    named = b"".join(bytes(token.bytes) for token in told(choice)).decode(errors="replace")
    assert named.startswith(content)
    assert len(told(choice)) <= 12
    assert (content == whole) == (stop is None)


def test_a_stream_names_the_same_tokens(client: openai.OpenAI) -> None:
    whole = told(ask(client, logprobs=True).choices[0])
    stream = client.chat.completions.create(
        model="tiny", messages=QUESTION, max_tokens=12, temperature=0, logprobs=True, stream=True
    )
    streamed = [
        token
        for chunk in stream
        for choice in chunk.choices
        for token in (choice.logprobs.content or [] if choice.logprobs else [])
    ]
    assert [token.bytes for token in streamed] == [token.bytes for token in whole]


@pytest.mark.parametrize("temperature", [0, 2])
def test_a_choice_is_one_of_the_labels_and_nothing_else(client: openai.OpenAI, temperature: float) -> None:
    answer = ask(
        client, n=12, temperature=temperature, seed=1, max_tokens=60, extra_body={"guided_choice": LABELS}
    )
    assert set(texts(answer)) <= set(LABELS)
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert len(set(texts(answer))) == (1 if temperature == 0 else 4)


def test_a_choice_is_the_likeliest_way_through_the_labels(client: openai.OpenAI) -> None:
    """With the likelihoods asked for, each token goes through the model; without, what is certain is not computed."""
    shortened, full = (
        ask(client, max_tokens=60, logprobs=asked, extra_body={"guided_choice": LABELS})
        for asked in (False, True)
    )
    assert texts(shortened) == texts(full)
    assert b"".join(bytes(one.bytes) for one in told(full.choices[0])).decode() == texts(full)[0]
    assert sum(one.logprob for one in told(full.choices[0])) < math.log(
        0.5
    )  # it would have said something else


def test_json_of_a_schema_keeps_it(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA}}
    answer = ask(client, n=6, temperature=1.5, seed=2, max_tokens=200, response_format=form)
    for text in texts(answer):
        validate(json.loads(text), SCHEMA)


def test_an_enum_as_schema_is_a_quoted_label(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "label", "schema": {"enum": ["billing", "login"]}}}
    assert json.loads(texts(ask(client, response_format=form))[0]) in ("billing", "login")


def test_a_json_object_is_one_unless_it_is_cut_off(client: openai.OpenAI) -> None:
    cut = ask(client, response_format={"type": "json_object"}, temperature=2, seed=1, max_tokens=2)
    assert cut.choices[0].finish_reason == "length"
    whole = [
        ask(client, response_format={"type": "json_object"}, temperature=2, seed=seed, max_tokens=400)
        for seed in range(4)
    ]
    ended = [texts(one)[0] for one in whole if one.choices[0].finish_reason == "stop"]
    assert ended
    assert all(isinstance(json.loads(text), dict) for text in ended)


def test_a_schema_that_nothing_satisfies_is_refused_while_others_are_answered(client: openai.OpenAI) -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    form = {"type": "json_schema", "json_schema": {"name": "round", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, n=2, response_format=form)
    assert "no text satisfies it" in str(caught.value)
    assert caught.value.code == "unsupported_schema"
    assert texts(ask(client))[0]


def test_embeddings_are_the_mean_of_the_last_states(client: openai.OpenAI, embedding_dir: Path) -> None:
    asked = ["My card", "The parcel has not arrived, and my card was charged twice"]
    answer = client.embeddings.create(model="embedder", input=asked)  # the SDK asks for base64
    plain = client.embeddings.create(model="embedder", input=asked, encoding_format="float")
    model, tokenizer = BertModel.from_pretrained(embedding_dir), AutoTokenizer.from_pretrained(embedding_dir)
    for text, one, same in zip(asked, answer.data, plain.data, strict=True):
        with torch.no_grad():
            state = model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1)[0]
        expected = torch.nn.functional.normalize(state, dim=0).tolist()
        assert one.embedding == pytest.approx(expected, abs=1e-5)
        assert same.embedding == pytest.approx(expected, abs=1e-5)
    assert answer.usage.total_tokens == sum(len(tokenizer(text).input_ids) for text in asked)


def test_a_chat_model_makes_no_embeddings(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="tiny", input="My card")
    assert caught.value.code == "model_cannot_embed"


def test_a_text_beyond_the_model_is_refused_and_not_cut_off(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="embedder", input=["fine", "x" * 500])
    assert "'input[1]' has 500 tokens; this model takes 64." in str(caught.value)
