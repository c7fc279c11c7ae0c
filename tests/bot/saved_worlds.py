"""Lets tests begin from a state that took long to reach, such as a trained run or a measured comparison.

The first test of a process that needs it takes the real steps. Later tests get a copy of what these left behind: the
bot's data folder, the messages in Slack, and the provider's files and jobs.
"""

from __future__ import annotations

import copy
import inspect
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from storage.driver import sqlite3
from tests.bot.world import World

P = ParamSpec("P")
SLACK_FIELDS = ("messages", "files", "channels", "calls", "homes", "_ids", "_last_ts")
PROVIDER_FIELDS = ("files", "jobs", "aliases", "deleted_models", "_uploads", "_creates")
_saved: dict[object, SavedWorld] = {}


def reached_once(steps: Callable[Concatenate[World, P], None]) -> Callable[Concatenate[World, P], None]:
    """Decorates steps that begin in a world without runs and measurements.

    What they set in the world itself (rules, abilities, answers) isn't saved: set it before.
    """

    signature = inspect.signature(steps)

    @wraps(steps)
    def reach(world: World, /, *args: P.args, **kwargs: P.kwargs) -> None:
        store, service = world.store, world.provider.service
        assert not store.runs.newest() and not store.measurements.newest(), f"{steps.__name__} comes first"
        datasets = tuple((dataset.name, dataset.sha256, dataset.owner) for dataset in store.datasets.all())
        setup = (repr(world.rules), world.abilities, service.answer, tuple(service.models), datasets)
        call = signature.bind(world, *args, **kwargs)
        call.apply_defaults()
        key = (steps.__module__, steps.__qualname__, *call.args[1:], *call.kwargs.items(), *setup)
        if key not in _saved:
            steps(world, *args, **kwargs)
            _saved[key] = _save(world, world.folder.parent / f"saved-world-{len(_saved)}")
        else:
            _restore(world, _saved[key])

    return reach


@dataclass(frozen=True)
class SavedWorld:
    data: Path
    clock: float
    slack: dict[str, Any]
    provider: dict[str, Any]
    requests: list[Any]


def _save(world: World, data: Path) -> SavedWorld:
    place, database = world.service.settings.data, world.service.settings.database
    world.stop()
    # A thread that ends late closes its connection, and the last one deletes the WAL: SQLite copies both as one.
    shutil.copytree(place, data, ignore=shutil.ignore_patterns(f"{database.name}*"))
    with (
        closing(sqlite3.connect(database)) as source,
        closing(sqlite3.connect(data / database.name)) as target,
    ):
        source.backup(target)
    (data / database.name).chmod(0o600)
    world.boot()
    return SavedWorld(
        data,
        world.clock,
        copy.deepcopy({name: getattr(world.slack._state, name) for name in SLACK_FIELDS}),
        copy.deepcopy({name: getattr(world.provider.service, name) for name in PROVIDER_FIELDS}),
        list(world.provider.requests),
    )


def _restore(world: World, saved: SavedWorld) -> None:
    place = world.service.settings.data
    world.stop()
    shutil.rmtree(place, ignore_errors=True)  # the WAL may vanish meanwhile
    shutil.copytree(saved.data, place)
    for target, fields in ((world.slack._state, saved.slack), (world.provider.service, saved.provider)):
        for name, value in copy.deepcopy(fields).items():
            setattr(target, name, value)
    world.provider.requests[:] = saved.requests
    world.clock = max(saved.clock, time.time())
    world.boot()
