"""The stand-in for Tinker's HTTP API (tests/peers/tinker_server.py) as a process, and an installed engine to call it.

Both run the real package `tinker`: that of $FINETUNE_ENGINES, or the one beside these tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.local.trainer_server import wait_for
from trainers.host import TINKER_KEY
from trainers.local.engines.catalog import TINKER

ROOT = Path(__file__).resolve().parents[3]
SERVER = "tests.peers.tinker_server"
KEY = "tml-stand-in"
ADMIN_KEY = "tml-stand-in-admin"


def tinker_python() -> Path:
    """Returns a Python that has the package, or skips the test."""
    installed = Path(os.environ.get("FINETUNE_ENGINES", "")) / "tinker" / "env" / "bin" / "python"
    if installed.is_file():
        return installed
    if find_spec("tinker") is None:
        pytest.skip(
            "the package tinker is not installed (FINETUNE_ENGINES=DATA/engines, or beside the tests)"
        )
    return Path(sys.executable)


def install(root: Path) -> None:
    """Makes the package an installed engine in the folder `root`."""
    home = root / TINKER.name
    (home / "env" / "bin").mkdir(parents=True)
    python = home / "env" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {tinker_python()} "$@"\n')
    python.chmod(0o700)
    packages = home / "env" / "lib" / "python3.11" / "site-packages"
    (packages / f"tinker-{TINKER.version}.dist-info").mkdir(parents=True)
    facts = {
        "version": TINKER.version,
        "versions": {"transformers": "5.24.0"},
        "has_cuda": False,
        "bytes": 350_000_000,
        "seconds": 20.0,
        "keys": {},
    }
    (home / "engine.json").write_text(json.dumps(facts))


@dataclass(frozen=True)
class TinkerPeer:
    folder: Path
    address: str

    def break_down(
        self,
        *,
        lose: Sequence[str] = (),
        refuse: Mapping[str, int] | None = None,
        gone: Sequence[str] = (),
    ) -> None:
        """Loses answers at these paths after they were carried out, refuses others, and ends the sessions of runs.

        It does so until it is called again.
        """
        temporary = self.folder / "faults.tmp"
        temporary.write_text(
            json.dumps({"lose": list(lose), "refuse": dict(refuse or {}), "gone": list(gone)})
        )
        temporary.replace(self.folder / "faults.json")

    def bill(self, **settings: Any) -> None:
        """Changes what the stand-in lists of its usage, see tinker_server.py; the rest stays as it was set before."""
        path = self.folder / "billing.json"
        before: dict[str, Any] = {}
        if path.exists():
            before = json.loads(path.read_text())
        temporary = self.folder / "billing.tmp"
        temporary.write_text(json.dumps(before | settings))
        temporary.replace(path)

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return state

    @property
    def environment(self) -> dict[str, str]:
        return {TINKER_KEY: KEY, "TINKER_BASE_URL": self.address}


@contextmanager
def start_peer(folder: Path, base: Path, rank: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinkerPeer]:
    """Starts the stand-in, and sets its address and key in the environment. What it exports is an adapter of `base`
    with this rank."""
    write_adapter(folder / "adapter", base, rank)
    with start_bare_peer(folder, monkeypatch) as peer:
        yield peer


@contextmanager
def start_bare_peer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinkerPeer]:
    """Like `start_peer`, without an adapter to export."""
    folder.mkdir(exist_ok=True)
    with _running(folder) as peer:
        for name, value in peer.environment.items():
            monkeypatch.setenv(name, value)
        yield peer


def write_adapter(folder: Path, base: Path, rank: int) -> None:
    # Only here: tests of the bill need no torch.
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from trainers.local.training.base_model import silence_peft_warning

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    with silence_peft_warning():
        tuned = get_peft_model(model, LoraConfig(r=rank, lora_alpha=32, target_modules="all-linear"))
        tuned.save_pretrained(folder)


@contextmanager
def _running(folder: Path) -> Iterator[TinkerPeer]:
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [str(tinker_python()), "-m", SERVER, str(folder)], cwd=ROOT, stdout=log, stderr=log
        )
    try:
        wait_for(lambda: (folder / "address").exists() or process.poll() is not None, bool)
        assert process.poll() is None, (folder / "log.txt").read_text()
        yield TinkerPeer(folder, (folder / "address").read_text())
    finally:
        process.kill()
        process.wait()
