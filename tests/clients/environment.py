"""Finds what `make clients` installed; nothing is installed here."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).with_name("programs")
CLIENTS = ROOT / ".cache" / "clients"


def python() -> str:
    return _path_to(CLIENTS / "bin" / "python")


def python_with_vendors() -> str:
    """Returns Python, if the packages together and fireworks-ai are in CLIENTS, which an older one lacks."""
    packages = CLIENTS / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for name in ("together", "fireworks"):
        _path_to(packages / name)
    return python()


def schemathesis() -> str:
    return _path_to(CLIENTS / "bin" / "st")


def node() -> str:
    """Returns Node, if the package openai is in CLIENTS."""
    _path_to(CLIENTS / "node_modules" / "openai" / "package.json")
    return _node()


def tsc() -> str:
    """Returns TypeScript's compiler, if the package @slack/types is in CLIENTS."""
    _node()
    _path_to(CLIENTS / "node_modules" / "@slack" / "types" / "package.json")
    return _path_to(CLIENTS / "node_modules" / ".bin" / "tsc")


def _node() -> str:
    interpreter = shutil.which("node")
    if interpreter is None:
        pytest.skip("Node is not installed")
    return interpreter


def _path_to(path: Path) -> str:
    if not path.exists():
        fail_or_skip = pytest.fail if os.environ.get("CI") else pytest.skip
        fail_or_skip(f"{path.name} is not installed: run `make clients`")
    return str(path)
