"""Chat completions of the served model, compared with what transformers itself generates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from openai.types.chat import ChatCompletion
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.local.trainer_server import TrainerServer, check_chunk, serve_in_process

SYSTEM = "Sort this support ticket. Answer with one label: billing, shipping, login. " * 2
TICKETS = [f"Ticket {n}: " + "my card was charged twice and the parcel is late " * (n % 5) for n in range(12)]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory, babbling_model_dir: Path) -> Iterator[TrainerServer]:
    with serve_in_process(tmp_path_factory.mktemp("trainer"), f"local/tiny={babbling_model_dir}") as served:
        yield served


@pytest.fixture(scope="module")
def client(trainer: TrainerServer) -> Iterator[openai.OpenAI]:
    with trainer.client() as client:
        yield client


@dataclass(frozen=True)
class Reference:
    """The model as transformers runs it, one prompt at a time, greedy."""

    model: Any
    tokenizer: Any

    def answer(self, messages: Sequence[dict[str, str]], limit: int) -> tuple[str, int]:
        """Text, and tokens of the prompt."""
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        size = ids.shape[1]
        output = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False
        )
        return self.tokenizer.decode(output[0, size:], skip_special_tokens=True), size


@pytest.fixture(scope="module")
def reference(babbling_model_dir: Path) -> Reference:
    model: Any = AutoModelForCausalLM.from_pretrained(babbling_model_dir)
    return Reference(model, AutoTokenizer.from_pretrained(babbling_model_dir))


def messages_of(ticket: str, system: str | None = SYSTEM) -> list[Any]:
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": ticket}]


def ask(client: openai.OpenAI, messages: list[Any], **more: Any) -> ChatCompletion:
    options = {"temperature": 0, "max_tokens": 12, **more}
    answer: ChatCompletion = client.chat.completions.create(model="local/tiny", messages=messages, **options)
    return answer


def text_of(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize("system", [SYSTEM, None], ids=["one beginning", "no beginning in common"])
def test_answers_in_a_batch_are_those_of_each_prompt_alone(
    client: openai.OpenAI, reference: Reference, system: str | None
) -> None:
    prompts = [messages_of(ticket, system) for ticket in TICKETS]
    limits = [4 + 7 * number % 12 for number in range(len(prompts))]  # so that rows leave the batch early
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda one, most: ask(client, one, max_tokens=most), prompts, limits))
    pairs = list(zip(prompts, limits, strict=True))
    alone = [text_of(ask(client, messages, max_tokens=limit)) for messages, limit in pairs]
    assert [text_of(answer) for answer in together] == alone
    expected = [reference.answer(messages, limit) for messages, limit in pairs]
    assert alone == [text for text, _ in expected]
    sizes = [answer.usage.prompt_tokens for answer in together if answer.usage]
    assert sizes == [size for _, size in expected]
    assert len(set(alone)) > 3


def test_a_stream_says_the_same_and_its_usage(client: openai.OpenAI) -> None:
    whole = ask(client, messages_of(TICKETS[3]))
    chunks = list(
        client.chat.completions.create(
            model="local/tiny",
            messages=messages_of(TICKETS[3]),
            temperature=0,
            max_completion_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    for chunk in chunks:
        check_chunk(chunk.to_dict())
    told = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in told) == text_of(whole)
    assert [choice.finish_reason for choice in told if choice.finish_reason] == [
        whole.choices[0].finish_reason
    ]
    assert chunks[-1].usage == whole.usage
    assert len(chunks) > 5


def test_the_limit_of_tokens_is_kept_and_named(client: openai.OpenAI) -> None:
    answer = ask(client, messages_of(TICKETS[1]), max_tokens=5)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5


def test_the_answer_ends_before_a_stop_text(client: openai.OpenAI) -> None:
    whole = text_of(ask(client, messages_of(TICKETS[1])))
    stop = whole[4:6]
    expected = whole[: whole.index(stop)]
    answer = ask(client, messages_of(TICKETS[1]), stop=[stop, "never said"])
    assert (text_of(answer), answer.choices[0].finish_reason) == (expected, "stop")
    stream = client.chat.completions.create(
        model="local/tiny",
        messages=messages_of(TICKETS[1]),
        temperature=0,
        max_tokens=12,
        stop=stop,
        stream=True,
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == expected


def test_a_seed_makes_chance_repeatable(client: openai.OpenAI) -> None:
    first, second = (text_of(ask(client, messages_of("hi"), temperature=1.5, seed=5)) for _ in range(2))
    others = {text_of(ask(client, messages_of("hi"), temperature=1.5, seed=seed)) for seed in range(6, 10)}
    assert first == second
    assert len(others - {first}) >= 3


def test_a_tiny_top_p_is_greedy(client: openai.OpenAI) -> None:
    greedy = text_of(ask(client, messages_of("hi")))
    assert text_of(ask(client, messages_of("hi"), temperature=2, top_p=0)) == greedy


def test_text_in_parts_and_a_developer_message_are_read(client: openai.OpenAI) -> None:
    plain = text_of(ask(client, messages_of("My card was charged twice")))
    parts = [{"type": "text", "text": "My card was "}, {"type": "text", "text": "charged twice"}]
    other = [{"role": "developer", "content": SYSTEM}, {"role": "user", "content": parts}]
    assert text_of(ask(client, other)) == plain


def test_a_prompt_beyond_the_context_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages_of("twice " * 3000))
    assert caught.value.code == "context_length_exceeded"
    assert "this model takes 2048 with its answer" in str(caught.value)


def test_a_prompt_beyond_the_context_is_refused_before_a_stream_begins(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        ask(client, messages_of("twice " * 3000), stream=True)


def test_an_answer_stops_where_the_context_ends(client: openai.OpenAI) -> None:
    filler = ask(client, messages_of("a" * 400, None), max_tokens=1)
    assert filler.usage is not None
    missing = 2048 - 3 - filler.usage.prompt_tokens
    answer = ask(client, messages_of("a" * (400 + missing), None), max_tokens=50)
    assert answer.usage is not None
    assert answer.usage.total_tokens <= 2048
    assert answer.usage.prompt_tokens > 1000


def long_talk(client: openai.OpenAI) -> list[Any]:
    """A prompt whose answer has 400 tokens and more."""
    prompts = (messages_of(ticket) for ticket in TICKETS)
    return next(p for p in prompts if ask(client, p, max_tokens=400).choices[0].finish_reason == "length")


def test_a_client_that_ran_out_of_patience_leaves_the_server_answering(client: openai.OpenAI) -> None:
    messages = long_talk(client)
    with pytest.raises(openai.APITimeoutError):
        ask(client, messages, max_tokens=400, timeout=0.05)
    assert text_of(ask(client, messages_of(TICKETS[1]), timeout=5))


def test_a_client_that_hangs_up_leaves_the_server_answering(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="local/tiny", messages=long_talk(client), max_tokens=400, stream=True, temperature=0
    )
    next(iter(stream))
    stream.close()
    assert text_of(ask(client, messages_of(TICKETS[1]), timeout=5))
