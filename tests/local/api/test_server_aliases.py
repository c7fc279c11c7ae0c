"""Aliases over real HTTP: set, moved, refused, kept over a restart, and in the way of a deletion."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.local.trainer_server import (
    KEY,
    TrainerServer,
    serve_in_thread,
    upload,
    wait_for_status,
)
from trainers.client.client import Trainer
from trainers.errors import Refused
from trainers.providers.providers import load_providers

MODELS = {"toy": "/nowhere", "team/taken": "/nowhere"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trainer")


@pytest.fixture(scope="module")
def served(data: Path) -> Iterator[TrainerServer]:
    with serve_in_thread(data, MODELS) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: TrainerServer) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


@pytest.fixture
def trainer(served: TrainerServer) -> Iterator[Trainer]:
    with our_client(served) as client:
        yield client
        for alias in client.aliases():
            client.delete_alias(alias)


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    return tune(client)


def our_client(served: TrainerServer) -> Trainer:
    row = next(row for row in load_providers() if row.name == "local").at_address(served.url)
    return Trainer(replace(row.provider, timeout_s=20), KEY)


def tune(client: openai.OpenAI, model: str = "toy") -> str:
    job = client.fine_tuning.jobs.create(model=model, training_file=upload(client))
    return str(wait_for_status(client, job.id, "succeeded").fine_tuned_model)


def send(
    client: openai.OpenAI, method: str, path: str, body: dict[str, Any] | None = None
) -> tuple[int, Any]:
    """Sends a request as any program would."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{client.base_url}{path}", content, headers, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
            return response.status, json.load(response)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)


def code_of(answer: Any) -> str:
    return str(answer["error"]["code"])


def test_an_alias_points_at_a_model_and_can_be_moved(trainer: Trainer, model: str, data: Path) -> None:
    trainer.set_alias("team/tickets", "toy")
    assert trainer.aliases() == {"team/tickets": "toy"}
    trainer.set_alias("team/tickets", model)
    trainer.set_alias("team/faq", "toy")
    assert trainer.aliases() == {"team/faq": "toy", "team/tickets": model}
    before = (data / "aliases.json").stat().st_mtime_ns
    trainer.set_alias("team/tickets", model)
    assert (data / "aliases.json").stat().st_mtime_ns == before


def test_an_alias_is_listed_among_the_models(trainer: Trainer, client: openai.OpenAI, model: str) -> None:
    trainer.set_alias("team/tickets", model)
    (alias,) = [each for each in client.models.list() if each.id == "team/tickets"]
    assert alias.owned_by == "local-alias"
    details = client.models.retrieve("team/tickets").model_dump()
    assert (details["id"], details["stands_for"]) == ("team/tickets", model)
    assert trainer.has_model("team/tickets") and trainer.has_model(model)
    assert not trainer.has_model("team/faq") and not trainer.has_model("ft:toy:local::00000000")


def test_an_alias_survives_a_restart(tmp_path: Path) -> None:
    with serve_in_thread(tmp_path, MODELS) as before, our_client(before) as trainer:
        trainer.set_alias("team/tickets", "toy")
    with serve_in_thread(tmp_path, MODELS) as after, our_client(after) as trainer:
        assert trainer.aliases() == {"team/tickets": "toy"}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("tickets", "alias_name_invalid"),
        ("toy", "alias_name_invalid"),
        ("team/Tickets", "alias_name_invalid"),
        ("team/a%2Fb", "alias_name_invalid"),
        ("team/..", "alias_name_invalid"),
        (f"team/{'a' * 41}", "alias_name_invalid"),
        ("team/taken", "alias_name_taken"),
    ],
)
def test_an_alias_that_could_be_a_models_name_is_refused(
    trainer: Trainer, client: openai.OpenAI, name: str, code: str
) -> None:
    status, answer = send(client, "PUT", f"aliases/{name}", {"model": "toy"})
    assert (status, code_of(answer)) == (400, code)
    assert trainer.aliases() == {}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "missing_required_parameter"),
        ({"model": 7}, 400, "missing_required_parameter"),
        ({"model": "toy", "weight": 2}, 400, "unknown_parameter"),
        ({"model": "ft:toy:local::00000000"}, 404, "model_not_found"),
        ({"model": "team/tickets"}, 404, "model_not_found"),
    ],
)
def test_an_alias_needs_an_existing_model(client: openai.OpenAI, body: Any, status: int, code: str) -> None:
    actual, answer = send(client, "PUT", "aliases/team/tickets", body)
    assert (actual, code_of(answer)) == (status, code)


def test_our_client_knows_a_missing_model_from_the_refusal(trainer: Trainer) -> None:
    with pytest.raises(Refused, match="no model 'ft:gone' on this trainer") as caught:
        trainer.set_alias("team/tickets", "ft:gone")
    assert caught.value.is_missing


def test_a_model_with_an_alias_is_not_deleted(trainer: Trainer, client: openai.OpenAI) -> None:
    first, second = tune(client), tune(client)
    trainer.set_alias("team/tickets", f"{first}:ckpt-step-1")
    with pytest.raises(openai.BadRequestError, match="in use by team/tickets"):
        client.models.delete(first)
    trainer.set_alias("team/tickets", second)
    assert client.models.delete(first).deleted
    assert send(client, "DELETE", "aliases/team/tickets")[0] == 200
    assert client.models.delete(second).deleted
    status, answer = send(client, "DELETE", "aliases/team/tickets")
    assert (status, code_of(answer)) == (404, "alias_not_found")


def test_of_a_deletion_and_an_alias_at_the_same_time_one_wins(client: openai.OpenAI) -> None:
    for _ in range(3):
        model = tune(client)
        with ThreadPoolExecutor(2) as pool:
            deletion = pool.submit(send, client, "DELETE", f"models/{model}")
            alias = pool.submit(send, client, "PUT", "aliases/team/tickets", {"model": model})
        statuses = (deletion.result()[0], alias.result()[0])
        assert statuses in ((200, 404), (400, 200))
        send(client, "DELETE", "aliases/team/tickets")


def test_an_alias_whose_model_is_gone_from_the_disk_says_so(
    trainer: Trainer, client: openai.OpenAI, data: Path
) -> None:
    model = tune(client)
    trainer.set_alias("team/tickets", model)
    (folder,) = (data / "jobs").glob(f"*{model[-8:]}")
    (folder / "MODEL_DELETED").touch()
    with pytest.raises(openai.NotFoundError, match="'team/tickets' points at 'ft:toy"):
        client.chat.completions.create(model="team/tickets", messages=[{"role": "user", "content": "hi"}])


def test_an_alias_cannot_be_fine_tuned(trainer: Trainer, client: openai.OpenAI) -> None:
    trainer.set_alias("team/tickets", "toy")
    with pytest.raises(openai.NotFoundError, match="no model 'team/tickets' here to fine-tune"):
        client.fine_tuning.jobs.create(model="team/tickets", training_file=upload(client))
