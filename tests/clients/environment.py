"""Where `make clients` puts other people's clients. Nothing is installed here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).with_name("programs")
CLIENTS = ROOT / ".cache" / "clients"


def python() -> str:
    return _found(CLIENTS / "bin" / "python")


def schemathesis() -> str:
    return _found(CLIENTS / "bin" / "st")


def node() -> str:
    """One that finds the package openai in CLIENTS."""
    _found(CLIENTS / "node_modules" / "openai" / "package.json")
    return _node()


def tsc() -> str:
    """Checks types against the package @slack/types in CLIENTS."""
    _node()
    _found(CLIENTS / "node_modules" / "@slack" / "types" / "package.json")
    return _found(CLIENTS / "node_modules" / ".bin" / "tsc")


def _node() -> str:
    interpreter = shutil.which("node")
    if interpreter is None:
        pytest.skip("Node is not there")
    return interpreter


def _found(path: Path) -> str:
    if not path.exists():
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(f"{path.name} is not there: `make clients` installs the clients")
    return str(path)
