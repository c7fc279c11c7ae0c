"""Chats over HTTP with models that refuse parameters, as OpenAI's newer ones do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from tests.peers.hosted import Fault, Hosted
from tests.trainers.client.conftest import MODEL, provider
from trainers.client.client import Trainer
from trainers.errors import Refused
from trainers.types import Answer, Message

CHAT = "POST /chat/completions"
CAPS = ("max_tokens", "max_completion_tokens", "temperature", "reasoning_effort")


def ask(trainer: Trainer, model: str = MODEL, most: int = 24, thinks: bool | None = None) -> Answer:
    return trainer.chat(model, [Message("user", "hi")], max_tokens=most, thinks=thinks)


def sent(server: Hosted, number: int = -1) -> dict[str, Any]:
    body = [seen.body for seen in server.requests if seen.route == CHAT][number]
    return {name: body[name] for name in CAPS if name in body}


def test_a_model_known_to_think_is_asked_with_its_parameters_at_once(
    server: Hosted, trainer: Trainer
) -> None:
    server.service.models, server.service.thinks = ("gpt-5-mini",), {"gpt-5-mini": 600}
    answer = ask(trainer, "gpt-5-mini", 24 + 1_024)
    assert (answer.text, answer.completion_tokens) == ("gpt-5-mini heard you", 603)
    assert server.count(CHAT) == 1
    assert sent(server) == {"max_completion_tokens": 1_048, "reasoning_effort": "minimal"}


def test_a_model_that_spends_its_cap_on_thinking_has_an_empty_answer(
    server: Hosted, trainer: Trainer
) -> None:
    server.service.models, server.service.thinks = ("o4-mini",), {"o4-mini": 600}
    answer = ask(trainer, "o4-mini", 24)
    assert (answer.text, answer.completion_tokens) == ("", 24)


def test_parameters_that_a_model_refused_are_left_out_from_then_on(server: Hosted, trainer: Trainer) -> None:
    server.service.models, server.service.thinks = ("new-1", MODEL), {"new-1": 2}
    assert ask(trainer, "new-1").text == "new-1 heard you"
    assert sent(server, 0) == {"max_tokens": 24, "temperature": 0}
    assert sent(server, 1) == {"max_completion_tokens": 24, "temperature": 0}
    assert sent(server, 2) == {"max_completion_tokens": 24}
    assert [ask(trainer, "new-1").text for _ in range(3)] == ["new-1 heard you"] * 3
    assert server.count(CHAT) == 3 + 3
    ask(trainer)
    assert sent(server) == {"max_tokens": 24, "temperature": 0}, "nothing was learnt about the other model"


def test_concurrent_callers_share_what_was_refused(server: Hosted) -> None:
    server.service.models, server.service.thinks = ("new-1",), {"new-1": 2}
    with Trainer(provider(server, timeout_s=5.0), server.key) as trainer, ThreadPoolExecutor(4) as pool:
        assert all(answer.text for answer in pool.map(lambda _: ask(trainer, "new-1"), range(12)))
        before = server.count(CHAT)
        ask(trainer, "new-1")
    assert before < 12 * 3, "each caller learns both refusals for itself"
    assert server.count(CHAT) == before + 1


def test_threads_that_ask_first_at_the_same_time_share_a_connection(server: Hosted) -> None:
    """From Python 3.12 on, a cached property has no lock, and each thread would open one that nobody closes."""
    with Trainer(provider(server), server.key) as trainer, ThreadPoolExecutor(8) as pool:
        all_there = Barrier(8)

        def connect(_: int) -> object:
            all_there.wait(10)
            return trainer._client

        assert len({id(client) for client in pool.map(connect, range(8))}) == 1


def test_a_server_that_knows_only_the_older_cap_gets_that(server: Hosted, trainer: Trainer) -> None:
    """A user's own server may have a model named like one of OpenAI's."""
    server.service.models = ("o3-clone",)
    server.service.refuses = {"o3-clone": ("max_completion_tokens", "reasoning_effort")}
    assert ask(trainer, "o3-clone").text
    assert sent(server) == {"max_tokens": 24}


def test_no_question_is_sent_without_a_cap(server: Hosted, trainer: Trainer) -> None:
    server.service.refuses = {MODEL: ("max_tokens", "max_completion_tokens")}
    with pytest.raises(Refused, match="'max_completion_tokens' is not supported") as caught:
        ask(trainer)
    assert caught.value.param == "max_completion_tokens"
    assert server.count(CHAT) == 2


def test_any_other_refusal_is_not_retried(server: Hosted, trainer: Trainer) -> None:
    body = b'{"error": {"message": "max_tokens is too large: 24.", "param": "max_tokens", "code": null}}'
    server.fail(CHAT, Fault(commit=False, status=400, body=body))
    with pytest.raises(Refused, match="too large"):
        ask(trainer)
    assert server.count(CHAT) == 1
    ask(trainer)
    assert sent(server) == {"max_tokens": 24, "temperature": 0}


def test_a_price_list_rows_statement_wins_over_the_models_name(server: Hosted, trainer: Trainer) -> None:
    ask(trainer, thinks=True)
    assert sent(server) == {"max_completion_tokens": 24}
    server.service.models = ("gpt-5-mini",)
    ask(trainer, "gpt-5-mini", thinks=False)
    assert sent(server) == {"max_tokens": 24, "temperature": 0}
