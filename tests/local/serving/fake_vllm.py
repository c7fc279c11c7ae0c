"""Installs a server in vLLM's place into a trainer's folder of engines, and asks trainers that serve by vLLM."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import openai

from tests.local.export.exports import MODEL
from trainers.local.engines.catalog import VLLM

ROOT = Path(__file__).resolve().parents[3]
BY_VLLM = ("--serving-engine", "vllm")
QUESTION = "Ticket 1: my card was charged for the parcel."
MODEL_SERVER = "from tests.peers.vllm_server import main as main\n"
CANNED_SERVER = "from tests.local.serving.canned_vllm import main as main\n"


def install_fake_vllm(data: Path, command_line: str = MODEL_SERVER) -> Path:
    """Returns the engine's folder. Its Python is this one, and finds `command_line` as vLLM's main module."""
    home = data / "engines" / VLLM.name
    python = home / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    packages = home / "env" / "lib" / "python3.11" / "site-packages"
    (packages / f"vllm-{VLLM.version}.dist-info").mkdir(parents=True)
    main = packages / "vllm" / "entrypoints" / "cli" / "main.py"
    main.parent.mkdir(parents=True)
    main.write_text("import gc\ngc.disable()\n" + command_line)  # starts quicker
    path = shlex.quote(f"{ROOT}:{packages}")
    python.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    facts = {
        "version": VLLM.version,
        "versions": {"torch": "2.13.0"},
        "has_cuda": False,
        "keys": {"serve": []},
    }
    (home / "engine.json").write_text(json.dumps({**facts, "bytes": 3_000_000_000, "seconds": 60.0}))
    return home


def answer_of(client: openai.OpenAI, model: str, **options: Any) -> str:
    messages: list[Any] = [
        {"role": "system", "content": "Sort this support ticket."},
        {"role": "user", "content": QUESTION},
    ]
    answer = client.chat.completions.create(
        model=model, messages=messages, temperature=0, max_tokens=8, **options
    )
    assert answer.model == (MODEL if model.startswith("team/") else model)
    return str(answer.choices[0].message.content)
