"""What the stand-ins of Together and Fireworks answer, read by the vendors' own packages: no field that they require is
missing, each has a value that they allow, and none is invented."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environment import PROGRAMS, python_with_vendors
from tests.trainers.client.test_dialects import BASES, Site, open_site

TOGETHER = "together.types"
FIREWORKS = "fireworks.types"


def problems(*answers: tuple[str, Any]) -> list[str]:
    """What the vendor's types have against these (type, answer) pairs."""
    program = str(PROGRAMS / "read_vendor_types.py")
    done = subprocess.run(
        [python_with_vendors(), program],
        input=json.dumps(answers),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.fixture
def together(tmp_path: Path) -> Iterator[Site]:
    yield from open_site("together", tmp_path)


@pytest.fixture
def fireworks(tmp_path: Path) -> Iterator[Site]:
    yield from open_site("fireworks", tmp_path)


def ask(service: Any, method: str, path: str, query: Mapping[str, str] | None = None) -> Any:
    status, answer = service.answer_to(method, path, dict(query or {}), {}, {})
    assert status == 200, answer
    return answer


def test_jobs_of_together(together: Site) -> None:
    job = together.wait_for(together.trainer.create(together.spec(together.upload())))
    path = f"/fine-tunes/{job.id}"
    rows = ask(together.service, "GET", "/fine-tunes")["data"]
    events = ask(together.service, "GET", f"{path}/events")["data"]
    assert rows and events
    limits = ask(together.service, "GET", "/fine-tunes/models/limits", {"model_name": BASES["together"]})
    assert (
        problems(
            *((f"{TOGETHER}.fine_tuning_list_response.Data", row) for row in rows),
            *((f"{TOGETHER}.finetune_event.FinetuneEvent", event) for event in events),
            (f"{TOGETHER}.finetune_response.FinetuneResponse", ask(together.service, "GET", path)),
            (f"{TOGETHER}.finetune_model_limits.FinetuneModelLimits", limits),
        )
        == []
    )


def test_jobs_and_models_of_fireworks(fireworks: Site) -> None:
    file_id = fireworks.upload()
    job = fireworks.wait_for(fireworks.trainer.create(fireworks.spec(file_id)))
    account = "/accounts/acme"
    answers = {
        "supervised_fine_tuning_job.SupervisedFineTuningJob": f"{account}/supervisedFineTuningJobs/{job.id}",
        "model.Model": f"/{BASES['fireworks']}",
        "dataset.Dataset": f"{account}/datasets/{file_id}",
    }
    read = [(f"{FIREWORKS}.{name}", ask(fireworks.service, "GET", path)) for name, path in answers.items()]
    read.append((f"{FIREWORKS}.model.Model", ask(fireworks.service, "GET", f"/{job.fine_tuned_model}")))
    assert problems(*read) == []
