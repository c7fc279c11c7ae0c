"""schemathesis over the part of OpenAI's description that we serve: no generated request gets a 5xx."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml  # type: ignore[import-untyped]

from tests.clients.environment import schemathesis
from tests.local.trainer_server import KEY, SCHEMA, TrainerServer

NOT_SERVED = ("/uploads", "/fine_tuning/checkpoints")


@pytest.mark.deep
@pytest.mark.skipif(not SCHEMA.exists(), reason="OpenAI's description is in ../shared, which is missing")
def test_no_generated_request_causes_a_server_error(
    trainer: TrainerServer, client: openai.OpenAI, tmp_path: Path
) -> None:
    schema: dict[str, Any] = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    schema["paths"] = {
        path: item for path, item in schema["paths"].items() if not path.startswith(NOT_SERVED)
    }
    _restrict_to_our_model(schema)
    client.completions.create(model="scripted", prompt="x")  # the first question loads torch
    (tmp_path / "served.yaml").write_text(yaml.safe_dump(schema), encoding="utf-8")
    process = subprocess.run(
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
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-1000:]


def _restrict_to_our_model(schema: dict[str, Any]) -> None:
    """Makes most requests ask our model for a few tokens, since other names are only refused."""
    schemas = schema["components"]["schemas"]
    for name in ("CreateChatCompletionRequest", "CreateEmbeddingRequest"):
        parts = schemas[name].get("allOf", [schemas[name]])
        for part in parts:
            if "model" in part.get("properties", {}):
                part["properties"]["model"] = {"const": "scripted"}
            if "max_completion_tokens" in part.get("properties", {}):
                part["properties"]["max_completion_tokens"] = {"const": 3}
                part["required"] = [*part.get("required", []), "max_completion_tokens"]
