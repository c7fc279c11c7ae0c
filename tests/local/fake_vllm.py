"""vLLM in a trainer's folder of engines: a stand-in for it, or the real one that was installed elsewhere."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import openai

from tests.local.exports import MODEL
from trainers.local.engines.catalog import VLLM

ROOT = Path(__file__).resolve().parents[2]
BY_VLLM = ("--serving-engine", "vllm")
QUESTION = "Ticket 1: my card was charged for the parcel."


def install_fake_vllm(data: Path) -> Path:
    """The engine's folder, whose Python is ours and finds tests/peers/vllm_server.py under vLLM's name."""
    home = data / "engines" / VLLM.name
    python = home / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    packages = home / "env" / "lib" / "python3.11" / "site-packages"
    (packages / f"vllm-{VLLM.version}.dist-info").mkdir(parents=True)
    line = packages / "vllm" / "entrypoints" / "cli" / "main.py"
    line.parent.mkdir(parents=True)
    line.write_text(
        "import gc\ngc.disable()\nfrom tests.peers.vllm_server import main as main\n"
    )  # starts quicker
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


def answer_of(client: openai.OpenAI, model: str, text: str = QUESTION) -> str:
    messages = [
        {"role": "system", "content": "Sort this support ticket."},
        {"role": "user", "content": text},
    ]
    answer = client.chat.completions.create(
        model=model,
        messages=messages,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=8,
    )
    assert answer.model == (MODEL if model.startswith("team/") else model)
    return answer.choices[0].message.content or ""
