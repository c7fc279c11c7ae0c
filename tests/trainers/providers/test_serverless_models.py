"""Models tuned at Fireworks that are served by the token: loaded once, found by their model, and taken back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.peers.fireworks_serverless import FireworksServerless
from tests.peers.hosted import BUSY, COMMIT_THEN_RESET, Fault
from tests.trainers.client.test_dialects import BASES, Site, open_site
from trainers.deployments import open_deployments
from trainers.deployments.port import Deployments
from trainers.errors import Refused, Uncertain

BASE = BASES["fireworks"]
NAME = "ft-run1-abc-1"
LOAD = "POST /accounts/acme/deployedModels"


class Loads:
    """A vendor where a model is tuned, and the client that has it served by the token."""

    def __init__(self, site: Site, deployments: Deployments, service: FireworksServerless) -> None:
        self.site = site
        self.deployments = deployments
        self.service = service
        self.model = self.tune("a")

    def tune(self, suffix: str) -> str:
        file_id = self.site.upload()
        job = self.site.trainer.create(self.site.spec(file_id, key=f"ft-{suffix * 24}", suffix=suffix))
        return str(self.site.wait_for(job).fine_tuned_model)


@pytest.fixture
def loads(tmp_path: Path) -> Iterator[Loads]:
    for site in open_site("fireworks", tmp_path):
        service = FireworksServerless(models=(BASE,), shared_bases=(BASE,))
        site.server.service = site.service = service
        service.address = site.server.url
        provider = replace(
            site.trainer.provider,
            abilities=frozenset({"chat", "adapters"}),
            deploy_api="fireworks_serverless",
            deploy_base_url=site.trainer.provider.base_url,
        )
        deployments = open_deployments(provider, site.server.key)
        assert deployments is not None and deployments.bills_tokens and not deployments.takes_folders
        with closing(deployments):
            yield Loads(site, deployments, service)


def test_a_model_is_loaded_asked_by_its_own_name_and_taken_back(loads: Loads) -> None:
    assert loads.deployments.usd_per_hour(BASE) is None
    started = loads.deployments.start(NAME, loads.model, BASE, 0)
    assert (started.state, started.chat_model, started.is_billed) == ("starting", loads.model, False)
    assert loads.site.server.requests[-1].body == {
        "model": loads.model,
        "displayName": NAME,
        "serverless": True,
    }
    loads.deployments.find(NAME, loads.model)
    (ready,) = loads.deployments.find(NAME, loads.model)
    assert (ready.id, ready.state) == (started.id, "ready")
    assert loads.deployments.find(NAME, "accounts/acme/models/another") == []
    loads.deployments.stop(ready)
    (leaving,) = loads.deployments.find(NAME, loads.model)
    assert leaving.state == "stopping"
    loads.deployments.stop(leaving)
    assert loads.deployments.find(NAME, loads.model) == []


def test_a_load_whose_answer_was_lost_is_not_requested_again(loads: Loads) -> None:
    loads.site.server.fail(LOAD, COMMIT_THEN_RESET)
    with pytest.raises(Uncertain):
        loads.deployments.start(NAME, loads.model, BASE, 0)
    again = loads.deployments.start(NAME, loads.model, BASE, 0)
    assert loads.site.server.count(LOAD) == 1 and [again.id] == [
        each.id for each in loads.deployments.list_running()
    ]


def test_what_is_being_taken_back_is_not_taken_for_a_load(loads: Loads) -> None:
    loads.service.load_looks = 9
    loads.deployments.start(NAME, loads.model, BASE, 0)
    loads.deployments.delete_adapter(loads.model)
    loads.deployments.delete_adapter(loads.model)
    with pytest.raises(Uncertain, match="still being taken back"):
        loads.deployments.start(NAME, loads.model, BASE, 0)


def test_the_fourth_model_is_refused_with_the_names_of_the_others(loads: Loads) -> None:
    others = [loads.tune(letter) for letter in "bcd"]
    for other in others:
        loads.deployments.start(NAME, other, BASE, 0)
    with pytest.raises(Refused, match="which is the most") as refused:
        loads.deployments.start(NAME, loads.model, BASE, 0)
    assert all(other in str(refused.value) for other in others)


def test_too_many_requests_are_no_refusal(loads: Loads) -> None:
    loads.site.server.fail(LOAD, BUSY)
    with pytest.raises(Uncertain) as busy:
        loads.deployments.start(NAME, loads.model, BASE, 0)
    assert busy.value.retry_after == 7


@pytest.mark.parametrize(
    ("model", "base", "text"),
    [
        (b"", BASE, "it is not there any more"),
        (b'{"name": "x", "state": "UPLOADING"}', BASE, "not ready there"),
        (b'{"state": "READY", "peftDetails": {"baseModel": "b"}}', BASE, "tuned from b, and only"),
    ],
)
def test_a_model_that_can_not_be_loaded_is_refused_before_a_request(
    loads: Loads, model: bytes, base: str, text: str
) -> None:
    fault = Fault(commit=False, status=200, body=model) if model else Fault(commit=False, status=404)
    loads.site.server.fail(f"GET /{loads.model}", fault)
    with pytest.raises(Refused, match=text):
        loads.deployments.start(NAME, loads.model, base, 0)
    assert loads.site.server.count(LOAD) == 0


def test_what_runs_on_a_machine_of_the_account_is_not_taken_for_a_load(loads: Loads) -> None:
    row = b'{"deployedModels": [{"name": "accounts/acme/deployedModels/x", "model": "m", "state": "DEPLOYED",'
    row += b' "deployment": "accounts/acme/deployments/d1"}]}'
    loads.site.server.fail(LOAD.replace("POST", "GET"), Fault(commit=False, status=200, body=row))
    assert loads.deployments.list_running() == []
