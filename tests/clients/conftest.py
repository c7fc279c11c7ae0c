"""A trainer in its own process, which serves the scripted model, and a door in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from tests.clients import scripted
from tests.local.trainer_server import KEY, TrainerServer, serve_in_process
from tests.trainers.door.doors import Door, serve_door
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.values import Published, Recipe, Upstream, Upstreams


@pytest.fixture(scope="session")
def scripted_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "scripted"
    scripted.make_model(folder)
    return folder


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory, scripted_dir: Path) -> Iterator[TrainerServer]:
    with serve_in_process(tmp_path_factory.mktemp("trainer"), f"scripted={scripted_dir}") as served:
        yield served


@dataclass(frozen=True)
class Address:
    """Where programs call, and with which key."""

    url: str
    key: str
    has_completions: bool


@pytest.fixture(scope="session")
def door(
    tmp_path_factory: pytest.TempPathFactory, trainer: TrainerServer, scripted_dir: Path
) -> Iterator[Door]:
    """A door whose name "scripted" is the trainer's model. Responses are translated into chats and back."""
    folder = RecipeFolder(tmp_path_factory.mktemp("door") / "serving")
    recipe = Recipe(
        "tuned", "scripted", 1, "free_text", "judge", provider="local", model="scripted", instructions=""
    )
    stored = folder.add(recipe, {})
    folder.publish(Published("scripted", stored.sha256, 1))
    key_file = scripted_dir.parent / "trainer.key"
    key_file.write_text(KEY)
    folder.publish_upstreams(Upstreams((Upstream("local", trainer.url, key_file=str(key_file)),)))
    with serve_door(folder) as door:
        yield door


@pytest.fixture(scope="session")
def addresses(trainer: TrainerServer, door: Door) -> dict[str, Address]:
    return {
        "trainer": Address(trainer.url, KEY, has_completions=True),
        "door": Address(door.url, door.folder.call_key(), has_completions=False),
    }


@pytest.fixture(scope="session")
def client(trainer: TrainerServer) -> Iterator[openai.OpenAI]:
    with trainer.client() as client:
        yield client
