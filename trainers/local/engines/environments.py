"""Where engines are installed: engines/NAME/env is a virtual environment, engine.json beside it says it is whole.

Installs nothing and starts nothing.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainers.engines import FOLDER, found_version
from trainers.local.engines.catalog import Engine
from trainers.local.spool import read_json


@dataclass(frozen=True)
class Installed:
    """`found` is the version that lies there now, `version` the one that was installed. `keys` as in Written.
    `has_cuda`: its PyTorch was built for it."""

    home: Path
    version: str
    found: str | None
    versions: Mapping[str, str]
    has_cuda: bool
    bytes: int
    seconds: float
    keys: Mapping[str, frozenset[str]]

    @property
    def env(self) -> Path:
        return self.home / "env"


def engines_folder(job_folder: Path) -> Path:
    """Beside jobs/ in the trainer's data folder."""
    return job_folder.resolve().parent.parent / FOLDER


def installed(root: Path, engine: Engine) -> Installed | None:
    """None where it is not there, or only half."""
    home = root / engine.name
    raw = read_json(home / "engine.json")
    if raw is None or not (home / "env" / "bin" / "python").exists():
        return None
    return Installed(
        home=home,
        version=raw["version"],
        found=found_version(home / "env", engine.package),
        versions=raw["versions"],
        has_cuda=raw["has_cuda"],
        bytes=raw["bytes"],
        seconds=raw["seconds"],
        keys={name: frozenset(keys) for name, keys in raw["keys"].items()},
    )


@contextmanager
def in_use(home: Path, *, alone: bool) -> Iterator[bool]:
    """Hold an engine: `alone` to change it, else to train by it. Yields False where somebody else is in the way."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("a") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
