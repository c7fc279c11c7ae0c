"""A base model's files on this node: fetched from the trainer once, kept by the fingerprint of the weights."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainers.local.relay.link import Link
from trainers.local.training.identity import fingerprint

VARIABLE = "FINETUNE_BASES"


class BaseChanged(Exception):
    """The message is a sentence."""


def base_here(link: Link) -> str:
    """A hub id as it is, or the folder. Raises Away, NotWanted, BaseChanged."""
    known = link.base()
    if "hub_id" in known:
        return str(known["hub_id"])
    root = Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "finetune" / "bases")
    root.mkdir(parents=True, exist_ok=True)
    target = root / str(known["fingerprint"])
    with _lock(root / f"{target.name}.lock"):
        if not target.is_dir():
            _fetch(link, [str(name) for name in known["files"]], target)
    return str(target)


def _fetch(link: Link, names: list[str], target: Path) -> None:
    partial = target.with_name(f".{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name in names:
        link.download(f"base/{name}", partial / name)
    if fingerprint(partial) != target.name:
        shutil.rmtree(partial)
        text = "The base model's files on the trainer changed while they were fetched. Create the job anew."
        raise BaseChanged(text)
    partial.rename(target)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Waits: another job on this node may be fetching the same base."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
