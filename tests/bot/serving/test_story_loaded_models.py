"""What was tuned at a vendor that has closed its training: still deployable by the hour, and by the token where its
base allows, without an upload. Whatever is lost on the way, nothing is loaded twice, and nothing stays loaded."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from demo.people import ANA, BEN
from tests.bot.datasets.test_story_deletion import delete, wait_for_deletion
from tests.bot.hosting import road_world
from tests.bot.props import tickets_csv
from tests.bot.serving.test_story_programs import deploy
from tests.bot.serving.the_door import ask_by_the_door, micros_with_the_call
from tests.bot.world import MODEL, MakeWorld, World
from tests.local.trainer_server import free_port
from tests.peers.hosted import COMMIT_THEN_RESET
from tests.peers.roads import FireworksRoad
from trainers.money import to_micros
from trainers.recipes.folder import RecipeFolder

LOAD = "POST /accounts/acme/deployedModels"
TERMS = "https://vendor.example/terms"
QUESTION = "Order 4711: a question about refund"


SERVERLESS = """
[providers.acme-serverless]
title = "Acme Serverless"
base_url = "URL/inference/v1"
deploy_base_url = "URL/accounts/acme"
deploy_api = "fireworks_serverless"
key_env = "ACME_KEY"
abilities = ["chat", "adapters"]
serves_models_of = "acme"
data_terms = "TERMS"
requests_per_minute = 6000
[providers.acme-serverless.models.acme-small]
output = "0.50"
"""


def trained_world(make_world: MakeWorld, base: str = 'input = "0.15"') -> tuple[World, FireworksRoad]:
    """A run is done and its machine stopped; since then the vendor takes no new jobs, and serves by the token. `base`
    are lines of its row for the base."""
    world, service = road_world(make_world, "fireworks")
    assert isinstance(service, FireworksRoad)
    service.shared_bases = (MODEL,)
    world.upload_and_check(tickets_csv(72))
    world.start()
    world.approve()
    world.tick_until_state("done")
    world.click(ANA, "stop_deployment")
    world.tick_until(lambda: not world.store.deployments.live(), "the machine to stop")
    yesterday = world.service.context.today() - timedelta(days=1)
    world.rules = replace(
        world.rules,
        provider_row=f"{world.rules.provider_row}\ncloses = {yesterday}\n",
        more=SERVERLESS.replace("URL", world.provider.url).replace("TERMS", TERMS) + base,
        serving=f"127.0.0.1:{free_port()}",
    )
    world.restart()
    # The result's card is older than the row, and is asked about.
    world.type("/finetune status 1")
    world.send()
    return world, service


@pytest.mark.deep
def test_a_model_of_a_vendor_that_trains_no_more_is_started_again_by_the_hour(make_world: MakeWorld) -> None:
    world, service = trained_world(make_world)
    refused = world.type("/finetune start tickets current=gpt-4o volume=100M target=acme/acme-small")
    assert "has accepted no new fine-tuning jobs since" in refused
    world.click(BEN, "start_deployment")
    world.tick_until(lambda: service.running, "the machine")
    world.tick_until(lambda: world.store.deployments.live()[0].state == "ready", "the machine")


@pytest.mark.deep
def test_a_model_is_loaded_by_the_token_billed_by_the_day_and_taken_back(make_world: MakeWorld) -> None:
    world, service = trained_world(make_world)
    model = world.store.model("tickets-1").provider_model
    assert "approver" in world.click_and_read(ANA, "serve_by_token")
    world.provider.fail(LOAD, COMMIT_THEN_RESET)  # it is loaded, and the answer is lost
    world.click(BEN, "serve_by_token")
    (record,) = world.store.deployments.live()
    assert (record.provider, record.by_token, record.micros_per_hour) == ("acme-serverless", True, 0)
    world.tick_until(lambda: service.loads, "the load")
    world.restart()
    world.tick_until(lambda: world.store.deployments.live()[0].state == "ready", "the load")
    world.send()
    assert [load.model for load in service.loads] == [model] and world.provider.count(LOAD) == 1
    card = world.find_message("is served by the token at Acme Serverless")
    assert "$0.15 per million tokens in and $0.50 out, nothing while nobody asks" in card
    entries = {entry.action: entry for entry in world.store.audit.entries("run 1")}
    assert TERMS in str(entries["data terms accepted"].detail)
    machine = world.store.deployments.cost_of_run(1)

    deploy(world, "tickets-1")
    published = RecipeFolder(world.service.settings.recipes).published("team/tickets")
    assert published is not None
    assert (published.provider, published.model) == ("acme-serverless", model)
    before = service.token_bill
    assert ask_by_the_door(world, QUESTION) == "refund"
    spent = service.token_bill - before
    assert service.token_chats[-1]["model"] == model and spent > 0
    assert micros_with_the_call(world) == machine + to_micros(spent)

    # A day without a question stops nothing that costs nothing.
    world.pass_time(24 * 3600)
    world.tick(3)
    assert service.loads and world.store.deployments.cost_of_run(1) == machine
    world.click(BEN, "stop_deployment")
    world.tick_until(lambda: not world.store.deployments.live(), "the end")
    world.tick()
    world.send()
    assert service.loads == [] and model not in service.deleted_models
    assert "Press *Serve it again* on" in world.type("/finetune try tickets-1 where is my refund?")
    world.click(BEN, "start_deployment")
    world.tick_until(lambda: service.loads, "the second load")


@pytest.mark.deep
def test_what_is_loaded_is_taken_back_with_its_dataset(make_world: MakeWorld) -> None:
    world, service = trained_world(make_world)
    model = world.store.model("tickets-1").provider_model
    world.click(BEN, "serve_by_token")
    world.tick_until(lambda: world.store.deployments.live()[0].state == "ready", "the load")
    assert delete(world, BEN).closed
    wait_for_deletion(world)
    world.tick_until(lambda: not world.store.deployments.live(), "the end")
    assert [load for load in service.loads if load.state != "UNDEPLOYING"] == []
    assert model in service.deleted_models


@pytest.mark.deep
def test_what_a_vendor_does_not_serve_by_the_token_is_said_on_the_result(make_world: MakeWorld) -> None:
    world, _ = trained_world(make_world, 'input = "0.15"\nmost_rank = 4')
    result = world.find_message("Result of run 1")
    assert "Not by the token: Acme Serverless serves adapters of acme-small up to rank 4" in result
    assert "serve_by_token" not in str(result)
    reply = world.type(
        "/finetune start tickets current=gpt-4o volume=100M target=local/smollm2-135m serve=acme-serverless"
    )
    assert "serves what was tuned at Acme Tuning: press *Serve it by the token*" in reply


@pytest.mark.deep
def test_an_unknown_price_is_named_before_anything_is_loaded(make_world: MakeWorld) -> None:
    world, service = trained_world(make_world, "")
    result = world.find_message("Result of run 1")
    assert "The price of `acme-small` at Acme Serverless is unknown: set `input` and `output` under" in result
    assert service.loads == []
