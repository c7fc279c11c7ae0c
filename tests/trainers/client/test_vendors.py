"""How hosted services differ from OpenAI, each against a fake server: names, order, waiting and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import openai
import pytest

from tests.peers.crusoe import LLAMA, QWEN, Crusoe
from tests.peers.hosted import NOTHING_BUT_500, Hosted
from tests.trainers.client.conftest import digest
from trainers.client.client import Trainer
from trainers.client.payloads import job_estimate
from trainers.errors import Refused, TrainerError, Uncertain
from trainers.methods import MIN_TRAINING_EXAMPLES
from trainers.providers.providers import (
    file_problem,
    find_rejected_value,
    fit_hyperparameters,
    load_providers,
)
from trainers.types import Hyperparameter, JobSpec, Message, Provider


def row(name: str) -> Provider:
    return next(row for row in load_providers() if row.name == name).provider


@pytest.fixture
def crusoe() -> Crusoe:
    return Crusoe()


@pytest.fixture
def client(crusoe: Crusoe) -> Iterator[Trainer]:
    with Hosted(crusoe) as server:
        chat_url = f"{server.url}/inference"
        there = replace(row("crusoe"), base_url=server.url, chat_base_url=chat_url, timeout_s=5.0)
        with Trainer(there, server.key) as trainer:
            yield trainer


def spec(client: Trainer, data: Path, name: str = LLAMA) -> JobSpec:
    model = client.catalogue_id([name]) or ""
    file_id = client.upload(data, digest(data), "run-1")
    return JobSpec("run-1", model, file_id, {"n_epochs": 2, "lora_r": 16}, seed=7, suffix="tickets")


def test_a_model_is_found_in_the_vendors_catalogue(client: Trainer) -> None:
    assert client.catalogue_id(["llama-3.1-8b", LLAMA.upper()]) == "model-meta-llama-llama-3-1-8b-instruct"
    with pytest.raises(Refused, match=f"no trainable model has that name. It trains {QWEN}, {LLAMA}."):
        client.catalogue_id(["mistral-7b"])


def test_hyperparameters_are_sent_under_the_vendors_names_and_no_seed(
    crusoe: Crusoe, client: Trainer, data: Path
) -> None:
    created = client.create(spec(client, data))
    sent = crusoe.jobs[created.id].request
    assert sent["method"]["supervised"]["hyperparameters"] == {"n_epochs": 2, "lora_rank": 16}
    assert "seed" not in sent and "metadata" not in sent


def test_a_tuned_model_may_be_named_some_time_after_its_job_succeeded(client: Trainer, data: Path) -> None:
    job = client.create(spec(client, data))
    looks = [client.job(job.id) for _ in range(8)]
    named = [(look.status, look.fine_tuned_model is not None) for look in looks]
    assert named.count(("succeeded", False)) == 3 and named[-1] == ("succeeded", True)


def test_events_are_newest_first_in_whatever_order_they_are_received(client: Trainer, data: Path) -> None:
    job = client.create(spec(client, data))
    for _ in range(5):
        client.job(job.id)
    first, second = (client.events(job.id, 3) for _ in range(2))
    assert [event.id for event in first] == [event.id for event in second]
    assert first[0].message == "Job is succeeded"
    assert client.events_since(job.id, job.created_at, 2) == client.events_since(job.id, job.created_at, 2)


def test_losses_are_read_from_the_vendors_own_endpoint(client: Trainer, data: Path) -> None:
    job = client.create(spec(client, data))
    for _ in range(6):
        job = client.job(job.id)
    assert job.result_files == ()
    assert [(line.step, line.train_loss) for line in client.metrics(job)][:2] == [(1, 2.0), (2, 1.0)]


def test_a_question_is_sent_to_the_chat_address_without_thinking(client: Trainer) -> None:
    answer = client.chat(QWEN, [Message("user", "hello")], max_tokens=16)
    assert answer.text == f"{QWEN} heard you" and answer.completion_tokens < 16


def test_a_question_reaches_the_chat_address_as_the_sdk_would_send_it() -> None:
    with Hosted(Crusoe()) as server:
        chat_url = f"{server.url}/inference"
        there = replace(row("crusoe"), base_url=server.url, chat_base_url=chat_url)
        with Trainer(there, server.key) as trainer:
            trainer.chat(QWEN, [Message("user", "hello")], max_tokens=16, timeout_s=7)
        with openai.OpenAI(api_key=server.key, base_url=chat_url, max_retries=0, timeout=7) as sdk:
            sdk.chat.completions.create(
                model=QWEN,
                messages=[{"role": "user", "content": "hello"}],
                max_tokens=16,
                temperature=0,
                extra_body=dict(there.chat_extra),
            )
    ours, by_sdk = server.requests
    assert (ours.route, ours.body) == (by_sdk.route, by_sdk.body)
    ours.headers.pop("content-length")
    by_sdk.headers.pop("content-length")
    assert ours.headers == by_sdk.headers
    assert ours.headers["x-stainless-read-timeout"] == "7"


def test_a_question_is_sent_once_even_if_the_vendor_is_down() -> None:
    with Hosted(Crusoe()) as server:
        there = replace(row("crusoe"), base_url=server.url, chat_base_url=f"{server.url}/inference")
        server.fail("POST /inference/chat/completions", NOTHING_BUT_500)
        with Trainer(there, server.key) as trainer, pytest.raises(Uncertain):
            trainer.chat(QWEN, [Message("user", "hello")], max_tokens=16)
    assert len(server.requests) == 1


def test_the_vendor_estimates_the_price_of_a_job(client: Trainer, data: Path) -> None:
    assert client.estimate(spec(client, data)).usd == Decimal("0.0")
    assert job_estimate({"currency": "USD", "total_cost": "0.12"}, "asking").usd == Decimal("0.12")
    with pytest.raises(TrainerError, match="the answer has no price"):
        job_estimate({"price": None}, "asking")


def test_a_key_of_another_project_can_read_but_not_write(crusoe: Crusoe, client: Trainer, data: Path) -> None:
    crusoe.refuses_writes = True
    assert client.models()
    with pytest.raises(Refused, match=r"CRUSOE_API_KEY has no write access here\. It may belong to another"):
        client.upload(data, digest(data))


def test_without_credit_nothing_is_created(crusoe: Crusoe, client: Trainer, data: Path) -> None:
    crusoe.is_broke = True
    with pytest.raises(Refused, match="is out of credit: add some"):
        client.create(spec(client, data))
    assert not crusoe.jobs


@pytest.mark.parametrize(
    ("provider", "chosen", "fitted"),
    [
        ("crusoe", {"n_epochs": 60, "batch_size": 4, "lora_r": 16}, {"n_epochs": 50, "batch_size": 16, "lora_r": 16}),
        ("crusoe", {"batch_size": 24, "lora_r": 48}, {"batch_size": 16, "lora_r": 32}),
        ("nebius", {"lora_r": 4, "learning_rate_multiplier": 2.0}, {"lora_r": 8}),
        ("nebius", {"lora": True, "n_epochs": "auto"}, {"lora": True, "n_epochs": "auto"}),
        ("openai", {"n_epochs": 3}, {"n_epochs": 3}),
    ],
)  # fmt: skip
def test_values_that_we_choose_are_fitted_to_the_vendors_limits(
    provider: str, chosen: dict[str, Hyperparameter], fitted: dict[str, Hyperparameter]
) -> None:
    assert fit_hyperparameters(row(provider), chosen) == fitted
    assert find_rejected_value(row(provider), fitted) is None


def test_a_value_that_a_person_chose_is_rejected_with_the_allowed_ones() -> None:
    for name, value, allowed in (("lora_r", 4, "8 to 128"), ("learning_rate_multiplier", 2, "")):
        rejected = find_rejected_value(row("nebius"), {name: value})
        assert rejected and (rejected.name, rejected.allowed) == (name, allowed)


def test_a_file_beyond_a_vendors_limits_is_reported() -> None:
    azure = row("azure")
    assert file_problem(azure, 9) == "needs at least 10 rows, and there are 9"
    assert file_problem(azure, 10, 600_000_000) == "accepts files of at most 512 MB, and this one has 600 MB"
    assert row("local").min_examples == MIN_TRAINING_EXAMPLES, "a plan refuses what our trainer would refuse"
    assert file_problem(azure, 10, 500_000_000) is file_problem(row("nebius"), 1) is None
