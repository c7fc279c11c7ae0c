"""Names that stand for models, over real HTTP: set, moved, refused, kept over a restart, in the way of a deletion."""

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
    serve_in_process,
    serve_in_thread,
    upload,
    wait_for_status,
)
from trainers.client import Trainer
from trainers.errors import Refused
from trainers.providers import load_providers

MODELS = {"toy": "/nowhere", "team/taken": "/nowhere"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "trainer"


@pytest.fixture
def served(data: Path) -> Iterator[TrainerServer]:
    with serve_in_thread(data, MODELS) as here:
        yield here


@pytest.fixture
def client(served: TrainerServer) -> Iterator[openai.OpenAI]:
    with served.client() as made:
        yield made


@pytest.fixture
def trainer(served: TrainerServer) -> Iterator[Trainer]:
    with our_client(served) as made:
        yield made


def our_client(served: TrainerServer) -> Trainer:
    row = next(row for row in load_providers() if row.name == "local").at_address(served.url)
    return Trainer(replace(row.provider, timeout_s=20), KEY)


def tuned(client: openai.OpenAI, model: str = "toy") -> str:
    job = client.fine_tuning.jobs.create(model=model, training_file=upload(client))
    return str(wait_for_status(client, job.id, "succeeded").fine_tuned_model)


def send(
    client: openai.OpenAI, method: str, path: str, body: dict[str, Any] | None = None
) -> tuple[int, Any]:
    """As any program would."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{client.base_url}{path}", content, headers, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


def code_of(answer: Any) -> str:
    return str(answer["error"]["code"])


def test_a_name_stands_for_a_model_and_then_for_another(trainer: Trainer, client: openai.OpenAI) -> None:
    first, second = tuned(client), tuned(client)
    trainer.set_alias("team/tickets", first)
    assert trainer.aliases() == {"team/tickets": first}
    trainer.set_alias("team/tickets", second)
    trainer.set_alias("team/faq", first)
    assert trainer.aliases() == {"team/faq": first, "team/tickets": second}


def test_the_same_once_more_changes_nothing(trainer: Trainer, client: openai.OpenAI, data: Path) -> None:
    trainer.set_alias("team/tickets", tuned(client))
    before = (data / "aliases.json").stat().st_mtime_ns
    trainer.set_alias("team/tickets", trainer.aliases()["team/tickets"])
    assert (data / "aliases.json").stat().st_mtime_ns == before


def test_it_is_among_the_models_with_what_it_stands_for(trainer: Trainer, client: openai.OpenAI) -> None:
    model = tuned(client)
    trainer.set_alias("team/tickets", model)
    (alias,) = [one for one in client.models.list() if one.id == "team/tickets"]
    assert alias.owned_by == "local-alias"
    found = client.models.retrieve("team/tickets").model_dump()
    assert (found["id"], found["stands_for"]) == ("team/tickets", model)
    assert trainer.has_model("team/tickets") and trainer.has_model(model)
    assert not trainer.has_model("team/faq") and not trainer.has_model("ft:toy:local::00000000")


def test_it_outlives_a_restart(data: Path) -> None:
    with serve_in_thread(data, MODELS) as before, before.client() as client, our_client(before) as trainer:
        model = tuned(client)
        trainer.set_alias("team/tickets", model)
    with serve_in_thread(data, MODELS) as after, our_client(after) as trainer:
        assert trainer.aliases() == {"team/tickets": model}


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
def test_a_name_that_could_be_another_model_s_is_refused(client: openai.OpenAI, name: str, code: str) -> None:
    status, answer = send(client, "PUT", f"aliases/{name}", {"model": "toy"})
    assert (status, code_of(answer)) == (400, code)
    assert send(client, "GET", "aliases")[1]["data"] == []


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
def test_what_is_no_model_here_is_refused(client: openai.OpenAI, body: Any, status: int, code: str) -> None:
    got, answer = send(client, "PUT", "aliases/team/tickets", body)
    assert (got, code_of(answer)) == (status, code)


def test_our_client_reads_the_refusal(trainer: Trainer) -> None:
    with pytest.raises(Refused, match="no model 'ft:gone' on this trainer") as caught:
        trainer.set_alias("team/tickets", "ft:gone")
    assert caught.value.is_missing


def test_a_model_in_use_is_not_deleted(trainer: Trainer, client: openai.OpenAI) -> None:
    first, second = tuned(client), tuned(client)
    trainer.set_alias("team/tickets", f"{first}:ckpt-step-1")
    with pytest.raises(openai.BadRequestError, match="in use by team/tickets"):
        client.models.delete(first)
    trainer.set_alias("team/tickets", second)
    assert client.models.delete(first).deleted
    assert send(client, "DELETE", "aliases/team/tickets")[0] == 200
    assert client.models.delete(second).deleted
    status, answer = send(client, "DELETE", "aliases/team/tickets")
    assert (status, code_of(answer)) == (404, "alias_not_found")


def test_of_a_deletion_and_a_name_at_once_one_wins(client: openai.OpenAI) -> None:
    for _ in range(5):
        model = tuned(client)
        with ThreadPoolExecutor(2) as pool:
            deleted = pool.submit(send, client, "DELETE", f"models/{model}")
            named = pool.submit(send, client, "PUT", "aliases/team/tickets", {"model": model})
        statuses = (deleted.result()[0], named.result()[0])
        assert statuses in ((200, 404), (400, 200))
        send(client, "DELETE", "aliases/team/tickets")


def test_a_name_whose_model_was_taken_from_the_disk_says_so(
    trainer: Trainer, client: openai.OpenAI, data: Path
) -> None:
    model = tuned(client)
    trainer.set_alias("team/tickets", model)
    for folder in (data / "jobs").iterdir():
        (folder / "MODEL_DELETED").touch()
    with pytest.raises(openai.NotFoundError, match="'team/tickets' points at 'ft:toy"):
        client.chat.completions.create(model="team/tickets", messages=[{"role": "user", "content": "hi"}])


def test_a_training_names_its_model_itself(trainer: Trainer, client: openai.OpenAI) -> None:
    trainer.set_alias("team/tickets", tuned(client))
    with pytest.raises(openai.NotFoundError, match="no model 'team/tickets' here to fine-tune"):
        client.fine_tuning.jobs.create(model="team/tickets", training_file=upload(client))


def test_a_chat_with_a_name_is_answered_by_the_model_behind_it(tmp_path: Path, tiny_model_dir: Path) -> None:
    """The real server, the real model."""
    base = f"tiny={tiny_model_dir}"
    with serve_in_process(tmp_path, base) as served, served.client() as client, our_client(served) as trainer:
        trainer.set_alias("team/tickets", "tiny")
        said = {
            name: client.chat.completions.create(
                model=name,
                messages=[{"role": "user", "content": "My card was charged twice."}],
                max_tokens=8,
                temperature=0,
            )
            for name in ("tiny", "team/tickets")
        }
        by_name, by_alias = said["tiny"], said["team/tickets"]
        assert by_alias.choices[0].message.content == by_name.choices[0].message.content
        assert by_alias.model == "tiny"
