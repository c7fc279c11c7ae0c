"""vLLM in a trainer's folder of engines: a stand-in for it, or the real one that was installed elsewhere."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from trainers.local.engines.catalog import VLLM

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = ROOT / "tests" / "peers" / "vllm_server.py"
BY_VLLM = ("--serving-engine", "vllm")


def install_stand_in(data: Path) -> Path:
    """The engine's folder, whose Python runs tests/peers/vllm_server.py."""
    home = data / "engines" / VLLM.name
    python = home / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    command = f'PYTHONPATH={shlex.quote(str(ROOT))} exec {sys.executable} {STAND_IN} "$@"\n'
    python.write_text(f"#!/bin/sh\n{command}")
    python.chmod(0o755)
    (home / "env" / "lib" / "python3.11" / "site-packages" / f"vllm-{VLLM.version}.dist-info").mkdir(
        parents=True
    )
    facts = {
        "version": VLLM.version,
        "versions": {"torch": "2.13.0"},
        "has_cuda": False,
        "keys": {"serve": []},
    }
    (home / "engine.json").write_text(json.dumps({**facts, "bytes": 3_000_000_000, "seconds": 60.0}))
    return home
