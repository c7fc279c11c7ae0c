"""Doors to test: a folder of recipes, and the process that answers from it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai

from tests.peers.chat_vendor import KEY
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.values import Published, Recipe, Shot, Upstream, Upstreams

ROOT = Path(__file__).resolve().parents[3]
NAME = "team/tickets"
PROMPT = Recipe(
    kind="kshot",
    dataset="tickets",
    version=2,
    task="labels",
    scoring="label",
    labels=("billing", "delivery"),
    provider="acme",
    model="acme-small",
    prompt="Which team answers?",
    shots=(Shot("Where is my parcel?", "delivery"),),
    max_tokens=16,
)


@dataclass
class Door:
    """A door that runs with this folder, at `url`."""

    folder: RecipeFolder
    url: str
    process: subprocess.Popen[str]

    @property
    def log(self) -> str:
        """What all doors of this folder have logged."""
        return log_of(self.folder).read_text()

    def client(self, **more: object) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=self.folder.call_key(), max_retries=0, **more)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2].partition("/")[0])

    def worker_pid(self) -> int:
        """Returns the id of the process that answers."""
        answer = httpx2.get(f"{self.url.removesuffix('/v1')}/healthz", trust_env=False, timeout=60)
        return int(answer.json()["worker"])

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(90)
        self.close()
        return code

    def close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()


def put_in_use(
    folder: RecipeFolder, recipe: Recipe, promotion: int = 1, fallback: Recipe | None = None, **more: object
) -> Recipe:
    """Stores a recipe without files and publishes it."""
    stored = folder.add(recipe, {})
    other = folder.add(fallback, {}).sha256 if fallback else None
    folder.publish(Published(NAME, stored.sha256, promotion, fallback=other, **more))
    return stored


def add_vendor(folder: RecipeFolder, url: str, name: str = "acme", **more: object) -> None:
    folder.publish_upstreams(Upstreams((Upstream(name, url, "ACME_KEY", **more),)))


def log_of(folder: RecipeFolder) -> Path:
    return folder.root.with_suffix(".log")


def start_door(folder: RecipeFolder, address: str = "127.0.0.1:0", *more: str) -> Door:
    """Starts a door as users do, and waits until it answers."""
    with log_of(folder).open("a") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "trainers.door",
                "--folder",
                str(folder.root),
                "--address",
                address,
                *more,
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            encoding="utf-8",
            cwd=ROOT,
            env={**os.environ, "ACME_KEY": KEY},
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.match(r"door ready on (\S+) ", line)
    assert match, f"the door printed {line!r} instead of its address, and logged {log_of(folder).read_text()}"
    return Door(folder, match[1], process)


@contextmanager
def serve_door(folder: RecipeFolder, *more: str) -> Iterator[Door]:
    door = start_door(folder, "127.0.0.1:0", *more)
    try:
        yield door
    finally:
        door.stop()
