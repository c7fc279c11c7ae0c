"""The worlds of the bot's stories, a toy model for our own trainer, and the process from which all lives are forked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bot.conftest import make_world, shared_workers, world
from tests.chaos.fork_host import ForkHost
from tests.local.conftest import tiny_model_dir

__all__ = ["make_world", "shared_workers", "tiny_model_dir", "world"]


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkHost]:
    """Its imports cost three seconds, so all tests share it."""
    with ForkHost() as host:
        yield host
