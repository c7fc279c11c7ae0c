"""Chat completions of a served model, compared with what transformers itself generates."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.local.reference import SYSTEM, TICKETS, Reference, load_reference, messages_of
from tests.local.trainer_server import TrainerServer, check_chunk, examples, serve_in_process
from tests.prometheus_text import complaints, listed_metrics, read_families, read_values


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trainer")


@pytest.fixture(scope="module")
def trainer(data: Path, babbling_model_dir: Path) -> Iterator[TrainerServer]:
    with serve_in_process(data, f"local/tiny={babbling_model_dir}") as served:
        yield served


@pytest.fixture(scope="module")
def client(trainer: TrainerServer) -> Iterator[openai.OpenAI]:
    with trainer.client() as client:
        yield client


@pytest.fixture(scope="module")
def reference(babbling_model_dir: Path) -> Reference:
    return load_reference(babbling_model_dir)


def ask(client: openai.OpenAI, messages: list[Any], **more: Any) -> ChatCompletion:
    options = {"temperature": 0, "max_tokens": 12, **more}
    answer: ChatCompletion = client.chat.completions.create(model="local/tiny", messages=messages, **options)
    return answer


def text_of(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


@pytest.mark.deep
@pytest.mark.parametrize("system", [SYSTEM, None], ids=["shared prefix", "no shared prefix"])
def test_batched_answers_equal_transformers_generate(
    client: openai.OpenAI, reference: Reference, system: str | None
) -> None:
    prompts = [messages_of(ticket, system) for ticket in TICKETS[:6]]
    limits = [4 + 7 * number % 12 for number in range(len(prompts))]  # so that rows leave the batch early
    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(lambda prompt, limit: ask(client, prompt, max_tokens=limit), prompts, limits))
    expected = [reference.reply(*row) for row in zip(prompts, limits, strict=True)]
    assert [text_of(answer) for answer in answers] == [text for text, _ in expected]
    sizes = [answer.usage.prompt_tokens for answer in answers if answer.usage]
    assert sizes == [size for _, size in expected]
    assert len({text for text, _ in expected}) > 3
    assert text_of(ask(client, prompts[-1], max_tokens=limits[-1])) == expected[-1][0]


def test_a_stream_has_the_same_text_and_usage(client: openai.OpenAI) -> None:
    answer = ask(client, messages_of(TICKETS[3]))
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
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == text_of(answer)
    reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
    assert reasons == [answer.choices[0].finish_reason]
    assert chunks[-1].usage is not None and answer.usage is not None
    assert chunks[-1].usage.total_tokens == answer.usage.total_tokens
    assert len(chunks) > 5


def test_usage_counts_the_tokens_that_were_read_before(client: openai.OpenAI) -> None:
    def cached(usage: Any) -> int:
        return int(usage.prompt_tokens_details.cached_tokens)

    system = "A system prompt of this test alone, long enough to be worth keeping. " * 4
    first = ask(client, messages_of(TICKETS[1], system)).usage
    second = ask(client, messages_of(TICKETS[2], system)).usage
    assert first is not None and second is not None
    assert cached(first) < 64 < cached(second) < second.prompt_tokens
    more: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(ask(client, messages_of(TICKETS[2], system), **more))
    assert 64 < cached(chunks[-1].usage) < second.prompt_tokens  # type: ignore[attr-defined]
    text = "a text that goes on and on " * 20
    for prompt in (text, text + "for ever"):
        usage = client.completions.create(model="local/tiny", prompt=prompt, max_tokens=2).usage
    assert cached(usage) > 64
    response = client.responses.create(
        model="local/tiny", instructions=system, input=TICKETS[3], max_output_tokens=16
    )
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens > 64


def test_deleting_a_file_forgets_the_prompts(client: openai.OpenAI) -> None:
    system = "Another system prompt, which no other test has, of enough tokens. " * 4
    file = client.files.create(file=("rows.jsonl", examples()), purpose="fine-tune")
    for ticket in TICKETS[:2]:
        before = ask(client, messages_of(ticket, system)).usage
    client.files.delete(file.id)
    after = ask(client, messages_of(TICKETS[2], system)).usage
    for usage, is_cached in ((before, True), (after, False)):
        assert usage is not None and usage.prompt_tokens_details is not None
        assert bool(usage.prompt_tokens_details.cached_tokens) == is_cached


def test_an_answer_ends_at_max_tokens(client: openai.OpenAI) -> None:
    answer = ask(client, messages_of(TICKETS[1]), max_tokens=5)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5


def test_an_answer_ends_before_its_stop_text(client: openai.OpenAI) -> None:
    text = text_of(ask(client, messages_of(TICKETS[1])))
    stop = text[4:6]
    expected = text[: text.index(stop)]
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


def test_the_same_seed_gives_the_same_answer(client: openai.OpenAI) -> None:
    first, second = (text_of(ask(client, messages_of("hi"), temperature=1.5, seed=5)) for _ in range(2))
    others = {text_of(ask(client, messages_of("hi"), temperature=1.5, seed=seed)) for seed in range(6, 10)}
    assert first == second
    assert len(others - {first}) >= 3


def test_top_p_of_zero_is_greedy(client: openai.OpenAI) -> None:
    greedy = text_of(ask(client, messages_of("hi")))
    assert text_of(ask(client, messages_of("hi"), temperature=2, top_p=0)) == greedy


def test_vllms_parameters_change_the_answer_as_they_say(client: openai.OpenAI) -> None:
    greedy = text_of(ask(client, messages_of("hi")))
    hot = {"temperature": 2, "seed": 7}
    others: list[dict[str, Any]] = [{"top_k": 1}, {"min_p": 1.0}]
    for other in others:
        assert text_of(ask(client, messages_of("hi"), **hot, extra_body=other)) == greedy
    free = text_of(ask(client, messages_of("hi"), **hot))
    assert free != greedy
    assert text_of(ask(client, messages_of("hi"), **hot, extra_body={"top_k": -1, "min_p": 0})) == free
    penalised = text_of(ask(client, messages_of("hi"), extra_body={"repetition_penalty": 5.0}))
    assert penalised != greedy
    texts = [
        client.completions.create(
            model="local/tiny", prompt="My card", max_tokens=8, temperature=temperature, extra_body=options
        )
        .choices[0]
        .text
        for temperature, options in ((0, {}), (2, {"top_k": 1}))
    ]
    assert texts[0] == texts[1]
    response = client.responses.create(
        model="local/tiny", input="hi", temperature=2, max_output_tokens=16, extra_body={"top_k": 1}
    )
    assert (
        response.output_text
        == client.responses.create(
            model="local/tiny", input="hi", temperature=0, max_output_tokens=16
        ).output_text
    )


def test_what_would_change_nothing_is_accepted(client: openai.OpenAI) -> None:
    plain = text_of(ask(client, messages_of("hi")))
    more: dict[str, Any] = {"verbosity": "low", "prompt_cache_retention": "24h"}
    more["extra_body"] = {"chat_template_kwargs": {"enable_thinking": False}}
    assert text_of(ask(client, messages_of("hi"), **more)) == plain
    text: Any = {"verbosity": "high"}
    response = client.responses.create(
        model="local/tiny", input="hi", max_output_tokens=16, text=text, prompt_cache_retention="24h"
    )
    assert response.output_text


def test_a_template_option_that_the_model_does_not_have_is_refused(client: openai.OpenAI) -> None:
    options = {"chat_template_kwargs": {"enable_thinking": True}}
    with pytest.raises(openai.BadRequestError, match="can't be given 'enable_thinking'") as caught:
        ask(client, messages_of("hi"), extra_body=options)
    assert (caught.value.param, caught.value.code) == (
        "chat_template_kwargs.enable_thinking",
        "unsupported_value",
    )


def test_text_parts_and_developer_messages_are_read(client: openai.OpenAI) -> None:
    plain = text_of(ask(client, messages_of("My card was charged twice")))
    parts = [{"type": "text", "text": "My card was "}, {"type": "text", "text": "charged twice"}]
    messages = [{"role": "developer", "content": SYSTEM}, {"role": "user", "content": parts}]
    assert text_of(ask(client, messages)) == plain


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_beyond_the_context_is_refused(client: openai.OpenAI, stream: bool) -> None:
    """A stream is refused before it begins."""
    with pytest.raises(openai.BadRequestError, match="this model takes 2048 with its answer") as caught:
        ask(client, messages_of("twice " * 3000), stream=stream)
    assert caught.value.code == "context_length_exceeded"


def test_an_answer_ends_where_the_context_ends(client: openai.OpenAI) -> None:
    short = ask(client, messages_of("a" * 400, None), max_tokens=1)
    assert short.usage is not None
    missing = 2048 - 3 - short.usage.prompt_tokens
    answer = ask(client, messages_of("a" * (400 + missing), None), max_tokens=50)
    assert answer.usage is not None
    assert answer.usage.total_tokens <= 2048
    assert answer.usage.prompt_tokens > 1000


WITHOUT_END: dict[str, Any] = {"logit_bias": {"2": -100}}  # the token that would end the answer


def test_a_client_that_times_out_leaves_the_server_answering(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        ask(client, messages_of(TICKETS[1]), max_tokens=400, timeout=0.05, **WITHOUT_END)
    assert text_of(ask(client, messages_of(TICKETS[1]), timeout=5))


@pytest.mark.deep
def test_a_client_that_hangs_up_leaves_the_server_answering(client: openai.OpenAI) -> None:
    stream = ask(client, messages_of(TICKETS[1]), max_tokens=150, stream=True, **WITHOUT_END)
    assert isinstance(stream, openai.Stream)
    next(iter(stream))
    stream.close()
    assert text_of(ask(client, messages_of(TICKETS[1]), timeout=5))


@pytest.fixture(scope="module")
def caller(trainer: TrainerServer, data: Path) -> Iterator[openai.OpenAI]:
    """A program that has only the key for calls."""
    with trainer.client((data / "call.key").read_text().strip()) as caller:
        yield caller


def test_the_key_for_calls_lists_models_and_asks_them(caller: openai.OpenAI, client: openai.OpenAI) -> None:
    assert [model.id for model in caller.models.list()] == ["local/tiny"]
    assert caller.models.retrieve("local/tiny").id == "local/tiny"
    assert text_of(ask(caller, messages_of(TICKETS[1]))) == text_of(ask(client, messages_of(TICKETS[1])))
    assert caller.completions.create(model="local/tiny", prompt="My card", max_tokens=2).choices
    assert caller.responses.create(model="local/tiny", input=TICKETS[2], max_output_tokens=16).output


def read_metrics(trainer: TrainerServer, key: str) -> str:
    headers = {"Authorization": f"Bearer {key}"}
    url = trainer.url.removesuffix("/v1")
    request = urllib.request.Request(f"{url}/metrics", headers=headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return str(answer.read().decode())


def test_the_metrics_count_requests_and_jobs_and_need_a_key(
    trainer: TrainerServer, caller: openai.OpenAI
) -> None:
    before = read_values(read_metrics(trainer, caller.api_key))
    caller.models.retrieve("local/tiny")
    with pytest.raises(openai.NotFoundError):
        caller.models.retrieve("ft:secret-name")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        read_metrics(trainer, "wrong")
    text = read_metrics(trainer, caller.api_key)
    after = read_values(text)
    requests = "finetune_trainer_requests_total"

    def grown(code: str, endpoint: str) -> float:
        return after.get((requests, code, endpoint), 0.0) - before.get((requests, code, endpoint), 0.0)

    assert (grown("200", "/v1/models"), grown("404", "/v1/models"), grown("401", "/metrics")) == (1, 1, 1)
    assert after["finetune_trainer_request_duration_seconds_count", "/v1/models"] >= 2
    assert ("finetune_trainer_jobs", "running") in after
    assert "secret-name" not in text
    assert complaints(text) == []
    assert {name for name in read_families(text) if name.startswith("finetune_")} == listed_metrics("trainer")


FORBIDDEN: dict[str, Callable[[openai.OpenAI], object]] = {
    "list files": lambda caller: caller.files.list(),
    "read rows": lambda caller: caller.files.content("file-0123456789abcdef01234567"),
    "upload": lambda caller: caller.files.create(file=("rows.jsonl", b"{}"), purpose="fine-tune"),
    "list jobs": lambda caller: caller.fine_tuning.jobs.list(),
    "train": lambda caller: caller.fine_tuning.jobs.create(model="local/tiny", training_file="file-0"),
    "read events": lambda caller: caller.fine_tuning.jobs.list_events("ftjob-0"),
    "cancel": lambda caller: caller.fine_tuning.jobs.cancel("ftjob-0"),
    "delete a model": lambda caller: caller.models.delete("ft:tiny"),
    "read aliases": lambda caller: caller.get("/aliases", cast_to=object),
    "move an alias": lambda caller: caller.put("/aliases/team/x", cast_to=object, body={"model": "tiny"}),
    "what doesn't exist": lambda caller: caller.post("/elsewhere", cast_to=object, body={}),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_key_for_calls_does_nothing_else(what: str, caller: openai.OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError) as caught:
        FORBIDDEN[what](caller)
    assert (caught.value.code, caught.value.type) == ("insufficient_permissions", "invalid_request_error")
    assert "This key is for calling models, so " in caught.value.message
    assert "takes the trainer's own key (trainer.key in its data folder)" in caught.value.message
