"""schemathesis over OpenAI's description of what we serve: whatever it thinks of, no answer is a fault "
"of the bot's own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml  # type: ignore[import-untyped]

from tests.clients.environment import schemathesis
from tests.local.served import KEY, SCHEMA, Served

NOT_SERVED = ("/uploads", "/fine_tuning/checkpoints")


@pytest.mark.skipif(not SCHEMA.exists(), reason="OpenAI's description is in ../shared, which is not there")
def test_nothing_that_is_thought_of_makes_a_fault(
    trainer: Served, client: openai.OpenAI, tmp_path: Path
) -> None:
    described: dict[str, Any] = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    described["paths"] = {
        path: each for path, each in described["paths"].items() if not path.startswith(NOT_SERVED)
    }
    _ask_the_model_that_is_there(described)
    client.completions.create(model="scripted", prompt="x")  # torch is loaded at the first question
    (tmp_path / "served.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    done = subprocess.run(
        [
            *(schemathesis(), "run", "served.yaml", "--url", trainer.url),
            *("--header", f"Authorization: Bearer {KEY}"),
            *("--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing"),
            *("--max-examples", "15", "--seed", "7", "--generation-deterministic", "--no-color"),
            *("--continue-on-failure", "--suppress-health-check", "all", "--warnings", "off"),
            *("--request-timeout", "60"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]


def _ask_the_model_that_is_there(described: dict[str, Any]) -> None:
    """And for a few tokens: refusals of a name are soon tried."""
    schemas = described["components"]["schemas"]
    for name in ("CreateChatCompletionRequest", "CreateEmbeddingRequest"):
        parts = schemas[name].get("allOf", [schemas[name]])
        for part in parts:
            if "model" in part.get("properties", {}):
                part["properties"]["model"] = {"const": "scripted"}
            if "max_completion_tokens" in part.get("properties", {}):
                part["properties"]["max_completion_tokens"] = {"const": 3}
                part["required"] = [*part.get("required", []), "max_completion_tokens"]
