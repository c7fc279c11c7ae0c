"""What the stand-ins of Together and Fireworks answer, and what we send them, read by the vendors' own packages: no
field that they require is missing, each has a value that they allow, and none is invented."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environment import PROGRAMS, python_with_vendors
from tests.peers.deployments import HostingService
from tests.peers.fireworks_serverless import FireworksServerless
from tests.peers.hosted import Hosted
from tests.trainers.client.test_dialects import BASES, Site, open_site
from trainers.deployments import open_deployments
from trainers.deployments.port import Deployments
from trainers.types import DeployApi, Provider

TOGETHER = "together.types"
FIREWORKS = "fireworks.types"
TUNED = "ft:acme-small:org:x:1"
MACHINE = "ft-run1-abc-1"


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
    files = ask(together.service, "GET", "/files")["data"]
    events = ask(together.service, "GET", f"{path}/events")["data"]
    assert rows and events and files
    limits = ask(together.service, "GET", "/fine-tunes/models/limits", {"model_name": BASES["together"]})
    assert (
        problems(
            *((f"{TOGETHER}.fine_tuning_list_response.Data", row) for row in rows),
            *((f"{TOGETHER}.file_response.FileResponse", file) for file in files),
            *((f"{TOGETHER}.finetune_event.FinetuneEvent", event) for event in events),
            (f"{TOGETHER}.finetune_response.FinetuneResponse", ask(together.service, "GET", path)),
            (f"{TOGETHER}.finetune_model_limits.FinetuneModelLimits", limits),
        )
        == []
    )


def test_togethers_own_client_uploads_as_we_do(together: Site) -> None:
    """Except for its checksum, by which our jobs would share one file."""
    together.upload()
    ours = [seen for seen in together.server.requests if not seen.route.startswith("GET")]
    together.file.write_bytes(together.file.read_bytes() * 2)
    program = str(PROGRAMS / "upload_to_together.py")
    address = together.server.url.removesuffix("/v1")
    done = subprocess.run(
        [python_with_vendors(), program, address, together.server.key, str(together.file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = together.server.requests[-len(ours) :]
    for own, vendors in zip(ours, theirs, strict=True):
        assert vendors.route.replace("file-2", "file-1") == own.route
        assert set(vendors.body) - {"checksum"} == set(own.body)
        for header in ("authorization", "content-type", "content-length"):
            assert (header in vendors.headers) == (header in own.headers), (own.route, header)
    assert json.loads(done.stdout)["processing_status"] == "COMPLETED"


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


def sent(server: Hosted, route: str) -> dict[str, Any]:
    """Returns what the newest request to a route had in its address and its body."""
    seen = next(seen for seen in reversed(server.requests) if seen.route == route)
    return {**seen.query, **seen.body}


def test_requests_to_together(together: Site) -> None:
    file_id = together.upload()
    spec = together.spec(file_id, validation_file=file_id)
    together.trainer.estimate(spec)
    together.trainer.create(spec)
    assert (
        problems(
            ("together.lib.types.fine_tuning.FinetuneRequest", sent(together.server, "POST /fine-tunes")),
            (
                f"{TOGETHER}.fine_tuning_estimate_price_params.FineTuningEstimatePriceParams",
                sent(together.server, "POST /fine-tunes/estimate-price"),
            ),
        )
        == []
    )


def test_requests_to_fireworks(fireworks: Site) -> None:
    file_id = fireworks.upload()
    fireworks.trainer.create(fireworks.spec(file_id, validation_file=file_id))
    job = "supervised_fine_tuning_job_create_params.SupervisedFineTuningJobCreateParams"
    assert (
        problems(
            (f"{FIREWORKS}.{job}", sent(fireworks.server, fireworks.service.create_route)),
            (
                f"{FIREWORKS}.dataset_create_params.DatasetCreateParams",
                sent(fireworks.server, "POST /accounts/acme/datasets"),
            ),
        )
        == []
    )


@pytest.fixture
def machines(request: pytest.FixtureRequest) -> Iterator[tuple[HostingService, Deployments, Hosted]]:
    """A vendor's machines by the name of its API."""
    api: DeployApi = request.param
    service = HostingService(models=("acme-small",), api=api, usd_per_hour=Decimal(8))
    with Hosted(service) as server:
        place = "/projects/p1" if api == "together" else ""
        provider = Provider(
            "acme",
            server.url,
            None,
            frozenset({"deploy"}),
            deploy_base_url=server.url + place,
            deploy_api=api,
        )
        deployments = open_deployments(provider, server.key)
        assert deployments is not None
        with closing(deployments):
            yield service, deployments, server


@pytest.mark.parametrize("machines", ["together"], indirect=True)
def test_machines_at_together(machines: tuple[HostingService, Deployments, Hosted]) -> None:
    service, deployments, server = machines
    started = deployments.start(MACHINE, TUNED, "acme-small", 1800)
    endpoint_id, _, _ = started.id.partition("/")
    endpoints = "/projects/p1/endpoints"
    create = sent(server, f"POST {endpoints}/{endpoint_id}/deployments")
    read = [
        (f"{TOGETHER}.endpoint.Endpoint", ask(service, "GET", endpoints)["data"][0]),
        (f"{TOGETHER}.endpoint_create_params.EndpointCreateParams", sent(server, f"POST {endpoints}")),
        (f"{TOGETHER}.endpoints.deployment_create_params.DeploymentCreateParams", create),
    ]
    status, answer = service.answer_to("POST", f"{endpoints}/{endpoint_id}/deployments", {}, {}, create)
    assert status == 200
    read.append((f"{TOGETHER}.endpoint_deployment.EndpointDeployment", answer))
    lists = {
        "supported_model.SupportedModel": "/supported-models",
        "endpoints.inference_instance_type.InferenceInstanceType": "/public/inference-instance-types",
    }
    for name, path in lists.items():
        read += [(f"{TOGETHER}.{name}", row) for row in ask(service, "GET", path)["data"]]
    read.append((f"{TOGETHER}.model.Model", ask(service, "GET", "/projects/p1/models/acme-small")))
    assert problems(*read) == []


@pytest.mark.parametrize("machines", ["fireworks"], indirect=True)
def test_machines_at_fireworks(machines: tuple[HostingService, Deployments, Hosted]) -> None:
    service, deployments, server = machines
    deployments.start(MACHINE, TUNED, "acme-small", 1800)
    deployment = f"{FIREWORKS}.deployment.Deployment"
    assert (
        problems(
            (deployment, ask(service, "GET", f"/deployments/{MACHINE}")),
            (
                f"{FIREWORKS}.deployment_create_params.DeploymentCreateParams",
                sent(server, "POST /deployments"),
            ),
        )
        == []
    )


def test_models_that_fireworks_serves_by_the_token(fireworks: Site) -> None:
    service = FireworksServerless(models=(BASES["fireworks"],), shared_bases=(BASES["fireworks"],))
    fireworks.server.service = fireworks.service = service
    service.address = fireworks.server.url
    job = fireworks.wait_for(fireworks.trainer.create(fireworks.spec(fireworks.upload())))
    provider = replace(
        fireworks.trainer.provider,
        abilities=frozenset({"chat", "adapters"}),
        deploy_api="fireworks_serverless",
        deploy_base_url=fireworks.trainer.provider.base_url,
    )
    deployments = open_deployments(provider, fireworks.server.key)
    assert deployments is not None
    with closing(deployments):
        deployments.start(MACHINE, str(job.fine_tuned_model), BASES["fireworks"], 0)
    route = "/accounts/acme/deployedModels"
    (row,) = ask(service, "GET", route)["deployedModels"]
    assert (
        problems(
            (f"{FIREWORKS}.shared.deployed_model.DeployedModel", row),
            (f"{FIREWORKS}.lora_load_params.LoraLoadParams", sent(fireworks.server, f"POST {route}")),
            (f"{FIREWORKS}.model.Model", ask(service, "GET", f"/{job.fine_tuned_model}")),
        )
        == []
    )
