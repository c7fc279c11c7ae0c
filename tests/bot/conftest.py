"""The fixtures of stories: `world` is the usual world, `make_world` makes one with other rules, such as those with the
lines `quick_encoder`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.bot.quick_encoder import save_quick_encoder
from tests.bot.world import MakeWorld, Rules, SharedWorkers, World
from tests.bot.world import world as running_world
from tests.peers.hosted import KEY


@pytest.fixture(scope="session")
def shared_workers() -> Iterator[SharedWorkers]:
    workers = SharedWorkers(draws=False)
    yield workers
    workers.close_processes()


@pytest.fixture
def make_world(
    tmp_path: Path, shared_workers: SharedWorkers, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeWorld]:
    monkeypatch.setenv("ACME_KEY", KEY)
    with ExitStack() as stack:
        yield lambda rules: stack.enter_context(running_world(tmp_path, shared_workers, rules))


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world(Rules())


@pytest.fixture(scope="session")
def quick_encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quick-encoder")
    save_quick_encoder(folder)
    return folder


@pytest.fixture
def quick_encoder(quick_encoder_dir: Path) -> str:
    """The lines of finetune.toml that choose the quick encoder."""
    return f'[encoder]\nmodel = "{quick_encoder_dir}"\n'
