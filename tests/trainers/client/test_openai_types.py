"""What we ask OpenAI for a job, held against the types of its own package: no field is missing, unknown, deprecated, or
has a value that the type doesn't allow."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from openai.types.fine_tuning import job_create_params
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from tests.peers.hosted import Hosted
from tests.peers.service import Service
from tests.trainers.client.conftest import MODEL, digest
from trainers.client.client import Trainer
from trainers.providers.providers import load_providers
from trainers.types import JobSpec

JobBody = with_config(ConfigDict(extra="forbid"))(job_create_params.JobCreateParams)
CHOSEN = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 0.5}


@contextmanager
def openai_site() -> Iterator[tuple[Hosted, Trainer]]:
    with Hosted(Service(models=[MODEL])) as server:
        row = next(row for row in load_providers() if row.name == "openai").at_address(server.url)
        with Trainer(row.provider, server.key) as trainer:
            yield server, trainer


def problems(body: dict[str, Any]) -> list[str]:
    try:
        TypeAdapter(JobBody).validate_python(body)
    except ValidationError as error:
        return [f"{each['loc']}: {each['msg']}" for each in error.errors()]
    return []


def deprecated_fields() -> set[str]:
    """The fields of a request that the package's own descriptions call deprecated."""
    tree = ast.parse(inspect.getsource(job_create_params))
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    request = next(node for node in classes if node.name == "JobCreateParams")
    fields = set()
    for field, described in zip(request.body, request.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(described, ast.Expr):
            text = cast(ast.Constant, described.value).value
            if "deprecated" in str(text):
                fields.add(cast(ast.Name, field.target).id)
    return fields


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_a_job_is_asked_for_as_openais_package_types_it(tmp_path: Path, method: Any) -> None:
    row = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}\n'
    pair = '{"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []}\n'
    file = tmp_path / "rows.jsonl"
    file.write_text((pair if method == "dpo" else row) * 12)
    with openai_site() as (server, trainer):
        file_id = trainer.upload(file, digest(file))
        spec = JobSpec("ft-key", MODEL, file_id, CHOSEN, seed=7, suffix="tickets", method=method)
        if method == "dpo":
            spec = replace(spec, hyperparameters={**CHOSEN, "beta": 0.1})
        trainer.create(replace(spec, validation_file=file_id))
        body = server.requests[-1].body
    assert problems(body) == []
    assert {"model", "training_file", "validation_file", "method", "metadata", "seed", "suffix"} == set(body)
    assert deprecated_fields() == {"hyperparameters"} and deprecated_fields().isdisjoint(body)
    sent = body["method"][method]["hyperparameters"]
    assert sent == dict(spec.hyperparameters)


def test_an_invented_field_and_a_wrong_value_would_be_noticed() -> None:
    body = {"model": MODEL, "training_file": "file-1"}
    assert problems(body) == []
    assert problems({**body, "epochs": 3})
    assert problems({**body, "seed": "seven"})
    assert problems({"model": MODEL})
