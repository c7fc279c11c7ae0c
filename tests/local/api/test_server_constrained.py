"""Several answers, log probabilities, guided choices, schemas and embeddings over HTTP, compared with transformers."""

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

QUESTION: list[Any] = [{"role": "user", "content": "My card was charged twice and the parcel is late"}]
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


def tokens_of(choice: Choice) -> list[Any]:
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    return choice.logprobs.content


@pytest.mark.deep
def test_several_answers_differ_and_a_seed_repeats_them(client: openai.OpenAI) -> None:
    first, second = (ask(client, n=5, temperature=1.5, seed=3) for _ in range(2))
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3, 4]
    assert texts(first) == texts(second)
    assert len(set(texts(first))) == 5


def test_more_answers_than_a_batch_holds_count_the_prompt_once(client: openai.OpenAI) -> None:
    many, single = ask(client, n=20, max_tokens=3), ask(client, max_tokens=3)
    assert texts(many) == 20 * texts(single)
    assert many.usage is not None
    assert single.usage is not None
    assert many.usage.prompt_tokens == single.usage.prompt_tokens
    assert many.usage.completion_tokens == 20 * single.usage.completion_tokens


def test_a_stream_of_several_answers_indexes_each_part(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"n": 3, "temperature": 1.5, "seed": 3}
    answer = ask(client, **options)
    stream: Any = ask(client, stream=True, **options)
    streamed, ends = ["", "", ""], []
    for chunk in stream:
        check_chunk(chunk.to_dict())
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            ends += [choice.index] if choice.finish_reason else []
    assert streamed == texts(answer)
    assert sorted(ends) == [0, 1, 2]


def test_log_probabilities_are_those_of_the_model(client: openai.OpenAI, babbling_model_dir: Path) -> None:
    tokens = tokens_of(ask(client, logprobs=True, top_logprobs=3, max_tokens=6).choices[0])
    model: Any = AutoModelForCausalLM.from_pretrained(babbling_model_dir)
    tokenizer = AutoTokenizer.from_pretrained(babbling_model_dir)
    text = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    for token in tokens:
        with torch.no_grad():
            expected = torch.log_softmax(model(ids).logits[0, -1].float(), -1).topk(3)
        assert token.logprob == pytest.approx(float(expected.values[0]), abs=1e-3)
        assert [other.logprob for other in token.top_logprobs] == pytest.approx(
            expected.values.tolist(), abs=1e-3
        )
        assert token.token == token.top_logprobs[0].token
        ids = torch.cat([ids, expected.indices[None, :1]], -1)


@pytest.mark.parametrize("stop", [None, "cut"])
def test_the_tokens_with_log_probabilities_spell_the_answer(client: openai.OpenAI, stop: str | None) -> None:
    full_text = texts(ask(client))[0]
    stops = [full_text[5:7]] if stop else None
    choice = ask(client, logprobs=True, stop=stops).choices[0]
    content = choice.message.content or ""
    spelled = b"".join(bytes(token.bytes) for token in tokens_of(choice)).decode(errors="replace")
    assert spelled.startswith(content)
    assert len(tokens_of(choice)) <= 12
    assert (content == full_text) == (stop is None)


def test_a_stream_has_the_same_tokens_with_log_probabilities(client: openai.OpenAI) -> None:
    expected = tokens_of(ask(client, logprobs=True).choices[0])
    stream: Any = ask(client, logprobs=True, stream=True)
    streamed = [
        token
        for chunk in stream
        for choice in chunk.choices
        for token in (choice.logprobs.content or [] if choice.logprobs else [])
    ]
    assert [token.bytes for token in streamed] == [token.bytes for token in expected]


@pytest.mark.parametrize("temperature", [0, 2])
def test_a_guided_choice_is_always_one_of_the_labels(client: openai.OpenAI, temperature: float) -> None:
    answer = ask(
        client,
        n=12 if temperature else 2,
        temperature=temperature,
        seed=1,
        max_tokens=60,
        extra_body={"guided_choice": LABELS},
    )
    assert set(texts(answer)) <= set(LABELS)
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert len(set(texts(answer))) == (1 if temperature == 0 else 4)


def test_log_probabilities_do_not_change_a_guided_choice(client: openai.OpenAI) -> None:
    """With log probabilities each token is computed by the model; without them, tokens that are certain are not."""
    shortened, full = (
        ask(client, max_tokens=60, logprobs=logprobs, extra_body={"guided_choice": LABELS})
        for logprobs in (False, True)
    )
    assert texts(shortened) == texts(full)
    assert b"".join(bytes(token.bytes) for token in tokens_of(full.choices[0])).decode() == texts(full)[0]
    # unguided, the model would have answered something else
    assert sum(token.logprob for token in tokens_of(full.choices[0])) < math.log(0.5)


def test_an_answer_with_a_schema_conforms_to_it(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA}}
    answer = ask(client, n=3, temperature=1.5, seed=2, max_tokens=200, response_format=form)
    for text in texts(answer):
        validate(json.loads(text), SCHEMA)


def test_an_enum_schema_gives_a_quoted_label(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "label", "schema": {"enum": ["billing", "login"]}}}
    assert json.loads(texts(ask(client, response_format=form))[0]) in ("billing", "login")


@pytest.mark.deep
def test_a_json_object_is_valid_unless_it_is_cut_off(client: openai.OpenAI) -> None:
    cut = ask(client, response_format={"type": "json_object"}, temperature=2, seed=1, max_tokens=2)
    assert cut.choices[0].finish_reason == "length"
    answer = ask(client, response_format={"type": "json_object"}, temperature=2, n=6, seed=1, max_tokens=100)
    complete = [choice.message.content or "" for choice in answer.choices if choice.finish_reason == "stop"]
    assert complete
    assert all(isinstance(json.loads(text), dict) for text in complete)


def test_an_unsatisfiable_schema_is_refused_and_the_server_goes_on_answering(client: openai.OpenAI) -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    form = {"type": "json_schema", "json_schema": {"name": "round", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, n=2, response_format=form)
    assert "no text satisfies it" in str(caught.value)
    assert caught.value.code == "unsupported_schema"
    assert texts(ask(client))[0]


def test_embeddings_are_the_mean_of_the_last_states(client: openai.OpenAI, embedding_dir: Path) -> None:
    inputs = ["My card", "The parcel has not arrived, and my card was charged twice"]
    answer = client.embeddings.create(model="embedder", input=inputs)  # the SDK requests base64
    plain = client.embeddings.create(model="embedder", input=inputs, encoding_format="float")
    model, tokenizer = BertModel.from_pretrained(embedding_dir), AutoTokenizer.from_pretrained(embedding_dir)
    for text, from_base64, from_floats in zip(inputs, answer.data, plain.data, strict=True):
        with torch.no_grad():
            state = model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1)[0]
        expected = torch.nn.functional.normalize(state, dim=0).tolist()
        assert from_base64.embedding == pytest.approx(expected, abs=1e-5)
        assert from_floats.embedding == pytest.approx(expected, abs=1e-5)
    assert answer.usage.total_tokens == sum(len(tokenizer(text).input_ids) for text in inputs)


def test_a_chat_model_refuses_embeddings(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="tiny", input="My card")
    assert caught.value.code == "model_cannot_embed"


def test_a_text_too_long_for_the_embedder_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="embedder", input=["fine", "x" * 500])
    assert "'input[1]' has 500 tokens; this model takes 64." in str(caught.value)
