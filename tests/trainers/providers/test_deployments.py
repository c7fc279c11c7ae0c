"""Each vendor's deployments against a fake server: requests, prices per hour, and what is found or left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.peers.deployments import HostingService
from tests.peers.hosted import COMMIT_THEN_RESET, HTML, Fault, Hosted
from tests.peers.service import refusal
from trainers.deployments import open_deployments
from trainers.deployments.port import Deployments
from trainers.errors import InvalidResponse, Refused, Uncertain
from trainers.types import Provider

APIS = ("crusoe", "fireworks", "together")
BASE, TUNED = "acme-small", "ft:acme-small:org:x:1"
NAME = "ft-run1-abc-1"
Open = Callable[[Any], tuple[HostingService, Deployments, Hosted]]


@pytest.fixture
def open_vendor() -> Iterator[Open]:
    with ExitStack() as stack:

        def open_api(api: Any) -> tuple[HostingService, Deployments, Hosted]:
            price = {"crusoe": "5.50", "fireworks": "16", "together": "4.25"}[api]
            service = HostingService(models=(BASE,), api=api, usd_per_hour=Decimal(price))
            hosted = stack.enter_context(Hosted(service))
            url = hosted.url + ("/projects/p1" if api == "together" else "")
            abilities = frozenset({"deploy"})
            row = Provider("acme", hosted.url, None, abilities, deploy_base_url=url, deploy_api=api)  # type: ignore[arg-type]
            row = replace(row, gpu_usd_per_hour={"NVIDIA_H100_80GB": Decimal(8)})
            deployments = open_deployments(row, hosted.key)
            assert deployments is not None
            stack.callback(deployments.close)
            return service, deployments, hosted

        yield open_api


@pytest.mark.parametrize("api", APIS)
def test_a_deployment_is_started_found_by_its_name_and_stopped(open_vendor: Open, api: str) -> None:
    service, deployments, _ = open_vendor(api)
    assert deployments.usd_per_hour(BASE) == service.usd_per_hour and service.machines == []
    started = deployments.start(NAME, TUNED, BASE, 1800)
    assert started.state == "starting"
    deployments.find(NAME)
    (deployment,) = deployments.find(NAME)
    assert (deployment.id, deployment.state) == (started.id, "ready") and TUNED in deployment.model
    assert deployment.started_at == pytest.approx(service.machines[0].started, abs=0.001)
    assert deployments.list_running() and not deployments.find("ft-run1-abc-2")
    deployments.stop(deployment)
    deployments.stop(deployment)
    assert service.running == [] and list(deployments.list_running()) == [] and service.endpoints == {}


@pytest.mark.parametrize("api", APIS)
def test_a_base_that_cannot_be_hosted_is_refused(open_vendor: Open, api: str) -> None:
    service, deployments, _ = open_vendor(api)
    service.hosts = ("another",)
    with pytest.raises(Refused):
        deployments.usd_per_hour(BASE)


@pytest.mark.parametrize("odd", [-1, "abc", [None]])
def test_a_list_of_another_type_is_an_unreadable_answer(
    open_vendor: Open, monkeypatch: pytest.MonkeyPatch, odd: object
) -> None:
    _, deployments, _ = open_vendor("together")
    endpoint = {"id": "e1", "name": f"acme/{NAME}", "deployments": odd}
    monkeypatch.setattr(deployments, "_list_endpoints", lambda: iter([endpoint]))
    with pytest.raises(InvalidResponse, match="deployments"):
        deployments.find(NAME)
    monkeypatch.setattr(deployments, "_rows", lambda *_: [{"name": BASE, "deploymentProfiles": odd}])
    with pytest.raises(InvalidResponse, match="deploymentProfiles"):
        deployments.usd_per_hour(BASE)


@pytest.mark.parametrize(
    ("api", "sent"),
    [
        ("fireworks", {"minReplicaCount": 0, "autoscalingPolicy": {"scaleToZeroWindow": "1800s"}}),
        ("together", {"inactiveTimeout": 30, "autoscaling": {"minReplicas": 1, "maxReplicas": 1}}),
        ("crusoe", {"flavor_id": f"h100-{BASE}", "replicas": 1}),
    ],
)
def test_the_vendors_own_idle_stop_is_always_sent(open_vendor: Open, api: str, sent: dict[str, Any]) -> None:
    service, deployments, _ = open_vendor(api)
    deployments.start(NAME, TUNED, BASE, 1800)
    assert sent.items() <= service.machines[0].sent.items()


def test_an_idle_time_outside_the_vendors_limits_becomes_the_nearest(open_vendor: Open) -> None:
    service, deployments, _ = open_vendor("together")
    deployments.start(NAME, TUNED, BASE, 60)
    deployments.start("ft-run1-abc-2", TUNED, BASE, 10**6)
    assert [machine.sent["inactiveTimeout"] for machine in service.machines] == [30, 1440]


def test_a_start_whose_answer_was_lost_is_uncertain_and_can_be_found(open_vendor: Open) -> None:
    service, deployments, hosted = open_vendor("fireworks")
    hosted.fail("POST /deployments", COMMIT_THEN_RESET)
    with pytest.raises(Uncertain):
        deployments.start(NAME, TUNED, BASE, 1800)
    with pytest.raises(Uncertain):  # the id is ours: a second one of it can't be
        deployments.start(NAME, TUNED, BASE, 1800)
    assert len(service.machines) == 1 and len(deployments.find(NAME)) == 1


def test_a_refusal_is_reported_even_if_the_empty_endpoint_cannot_be_deleted(open_vendor: Open) -> None:
    service, deployments, _ = open_vendor("together")
    answer_to = service.answer_to

    def refuse(method: str, path: str, *more: Any) -> Any:
        if path.endswith("/deployments"):
            return refusal(402, "no_credit", "No credit left")
        return refusal(503, "away", "Come back") if method == "DELETE" else answer_to(method, path, *more)

    service.answer_to = refuse  # type: ignore[assignment, method-assign]
    with pytest.raises(Refused, match="No credit left"):
        deployments.start(NAME, TUNED, BASE, 1800)


@pytest.mark.parametrize("api", APIS)
def test_a_deployment_with_an_unknown_status_counts_as_running(open_vendor: Open, api: str) -> None:
    service, deployments, _ = open_vendor(api)
    deployments.start(NAME, TUNED, BASE, 1800)
    service._state = lambda machine, **_: "creating"  # type: ignore[method-assign]
    (deployment,) = deployments.list_running()
    assert deployment.state == "starting" and deployment.is_billed


@pytest.mark.parametrize("api", ["fireworks", "together"])
def test_a_machine_that_goes_down_does_not_look_like_one_that_comes_up(open_vendor: Open, api: str) -> None:
    service, deployments, _ = open_vendor(api)
    deployments.start(NAME, TUNED, BASE, 1800)
    service._state = lambda machine, **_: "stopping"  # type: ignore[method-assign]
    (deployment,) = deployments.list_running()
    assert deployment.state == "stopping" and deployment.is_billed


def test_the_cheapest_of_several_ways_to_serve_a_base_is_priced_and_started(open_vendor: Open) -> None:
    service, deployments, _ = open_vendor("together")
    assert deployments.usd_per_hour(BASE) == service.usd_per_hour, "the first one listed needs two GPUs"
    deployments.start(NAME, TUNED, BASE, 1800)
    assert service.machines[0].sent["config"] == "projects/x/configs/c1"


def test_a_deployment_scaled_to_zero_is_not_billed(open_vendor: Open) -> None:
    service, deployments, _ = open_vendor("fireworks")
    deployments.start(NAME, TUNED, BASE, 1800)
    service.replicas = 0
    (deployment,) = deployments.list_running()
    assert not deployment.is_billed and deployment.usd_per_hour == 16


def test_a_gpu_without_a_price_is_refused_with_its_name_and_the_setting(open_vendor: Open) -> None:
    service, deployments, _ = open_vendor("fireworks")
    service.gpu = "AMD_MI325X_256GB"
    with pytest.raises(Refused, match=r"AMD_MI325X_256GB.*gpu_usd_per_hour.*\[providers\.acme\]"):
        deployments.usd_per_hour(BASE)
    assert service.machines == []


def test_a_web_page_or_a_list_of_something_else_is_invalid(open_vendor: Open) -> None:
    wrong_list = Fault(commit=False, status=200, body=b'{"deployments": ["x"]}')
    answers = (("crusoe", "GET /selfserve/deployments", HTML), ("fireworks", "GET /deployments", wrong_list))
    for api, route, answer in answers:
        _, deployments, hosted = open_vendor(api)
        hosted.fail(route, answer)
        with pytest.raises(InvalidResponse):
            deployments.list_running()


def test_a_start_that_together_refuses_leaves_no_endpoint(open_vendor: Open) -> None:
    service, deployments, hosted = open_vendor("together")
    start = "POST /projects/p1/endpoints/ep-1/deployments"
    hosted.fail(start, Fault(commit=False, status=403, code="quota_exceeded"))
    with pytest.raises(Refused):
        deployments.start(NAME, TUNED, BASE, 1800)
    assert hosted.count(start) == 1 and service.endpoints == {}


def test_the_next_page_is_requested_with_the_vendors_token(open_vendor: Open) -> None:
    _, deployments, hosted = open_vendor("fireworks")
    page = json.dumps({"deployments": [], "nextPageToken": "a+b/c=&d"}).encode()
    hosted.fail("GET /deployments", Fault(commit=False, status=200, body=page))
    assert list(deployments.list_running()) == []
    assert hosted.requests[-1].query["pageToken"] == "a+b/c=&d"
