"""Vendors with an API of their own, from the file to the result: what they bill is what the card says, to the cent."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from bot.rules.plans import plan_from_json
from bot.services.common.provider_jobs import REGISTERED_S
from bot.services.decisions.vendor_estimates import PATIENCE_S
from demo.people import ANA, BEN
from tests.bot.hosting import CATALOGUE, CATALOGUE_ABILITIES, road_world
from tests.bot.props import answer, tickets_csv
from tests.bot.world import MODEL, PRIVATE, START, VENDORS, Rules, World
from tests.peers.crusoe import Crusoe
from tests.peers.hosted import COMMIT_THEN_RESET, NOTHING_BUT_500, Fault
from tests.peers.roads import ROADS, RoadVendor
from tests.peers.vendors import Vendor
from trainers.money import from_micros, to_micros
from trainers.types import Dialect

MakeWorld = Callable[[Rules], World]
ESTIMATED = "'s own estimate for the training is"


@pytest.fixture(params=VENDORS)
def vendor_world(request: pytest.FixtureRequest, make_world: MakeWorld) -> World:
    dialect: Dialect = request.param
    return make_world(Rules(vendor=dialect, training="5000.00", budget="500"))


def company(world: World) -> Vendor:
    assert isinstance(world.provider.service, Vendor)
    return world.provider.service


@pytest.mark.deep
def test_the_result_of_an_uploaded_file_costs_what_the_vendor_bills(vendor_world: World) -> None:
    world = vendor_world
    assert world.upload_and_check(tickets_csv()).state == "ready"
    estimate = world.type("/finetune estimate tickets current=gpt-4o volume=100M target=acme/acme-small")
    assert "$" in estimate
    world.start(START)
    world.provider.fail(world.create_route, COMMIT_THEN_RESET)  # the job is there, its answer is not
    world.approve()
    world.tick_until_state("done")
    ledger = company(world).ledger
    assert (ledger.jobs, ledger.live, ledger.files) == (1, 0, 0)
    actual = from_micros(int(world.run().actual_micros or 0))
    assert round(actual, 2) == ledger.usd > 1
    assert f"${ledger.usd}" in world.find_message("Result of run 1")


@pytest.mark.deep
@pytest.mark.parametrize("vendor", ROADS)
def test_a_model_trained_and_hosted_by_clicks_costs_the_vendors_bill_and_stops(
    make_world: MakeWorld, vendor: RoadVendor
) -> None:
    world, service = road_world(make_world, vendor)
    # 24 held-out rows, all right, show that the bar is met; 18 would not
    assert world.upload_and_check(tickets_csv(72)).state == "ready"
    world.type("/finetune estimate tickets current=gpt-4o volume=10B target=acme/acme-small")
    assert "training $5,000.00 per 1M tokens, its machine $8.00 an hour" in world.estimate_details()
    world.start(START.replace("100M", "10B"))
    assert "$8.00 an hour while it runs" in world.find_message("Run 1", "The tuned model:")
    world.approve()
    world.tick_until_state("done")
    world.click(BEN, "put_to_work")
    world.type("/finetune try tickets-1 where is my refund?")
    assert "It answers" in world.tick_until_answered()
    assert world.store.promotions.current("tickets").model == "tickets-1"
    assert len(service.running) == 1
    world.click(ANA, "stop_deployment")
    world.tick_until(lambda: not world.store.deployments.live(), "nothing to run")
    world.send()

    ledger = service.ledger
    assert (ledger.jobs, ledger.live, ledger.files, service.running) == (1, 0, 0, [])
    assert len(service.machines) == 1 and ledger.usd > 1
    hours = sum((machine.usd(world.clock) for machine in service.machines), Decimal(0))
    trained = service.billed_usd if isinstance(service, Crusoe) else service.bill_of(*service.jobs.values())
    assert round(from_micros(int(world.run().actual_micros or 0)), 2) == round(trained + hours, 2)
    assert f"${round(trained + hours, 2)}" in world.find_message("tickets-1 is stopped")


def test_a_card_shows_progress_and_unknown_states_and_a_cancelled_job_costs_what_was_done(
    vendor_world: World,
) -> None:
    world = vendor_world
    company(world).stages = ("running",)
    world.start_approved()
    world.tick_until_state("training")
    progress = "step 6 of 12" if world.rules.vendor == "together" else "50%"
    world.tick_until(
        lambda: any(f"Train: {progress}" in str(card.blocks) for card in world.slack.messages(PRIVATE.id)),
        "the progress",
    )
    assert "50% done" in world.type("/finetune runs")
    company(world).stages = ("running", "hibernating")
    world.tick_until(lambda: any("hibernating" in text for text in world.texts()), "the unknown state")
    assert "counts as running" in world.find_message("hibernating") and company(world).ledger.live == 1
    world.type("/finetune cancel 1")
    world.tick_until_state("cancelled")
    ledger = company(world).ledger
    assert (ledger.jobs, ledger.live, ledger.files) == (1, 0, 0)
    assert round(from_micros(world.ledger()["settle"]), 2) == ledger.usd > 1


def test_an_account_without_credit_fails_the_run_and_leaves_nothing_at_the_vendor(
    vendor_world: World,
) -> None:
    world = vendor_world
    company(world).credit = False
    world.start_approved()
    world.tick_until_state("failed")
    assert "out of credit" in world.find_message("failed") and world.ledger()["settle"] == 0
    assert company(world).ledger.jobs == company(world).ledger.files == 0


def test_a_plan_beyond_the_vendors_limits_is_withdrawn_before_an_approval(make_world: MakeWorld) -> None:
    world = make_world(Rules(vendor="together"))
    company(world).max_rank = 16  # type: ignore[attr-defined]
    world.start(f"{START} lora_r=32")
    world.tick(2)
    assert world.run().state == "cancelled"
    assert "with lora_r of at most 16, and the plan has 32" in world.find_message("Withdrawn before anybody")


def test_rows_with_tools_on_a_base_without_them_are_withdrawn_before_an_approval(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules(vendor="together"))
    tool = {"type": "function", "function": {"name": "find_order", "parameters": {"type": "object"}}}
    rows = []
    for number in range(60):
        turns = [
            {"role": "user", "content": f"where is order {number}"},
            {"role": "assistant", "content": ("shipping", "billing")[number % 2]},
        ]
        rows.append(json.dumps({"messages": turns, "tools": [tool]}))
    assert world.upload_and_check("\n".join(rows), file="tickets.jsonl").state == "ready"
    company(world).supports_tools = False  # type: ignore[attr-defined]
    world.start()
    world.tick(2)
    assert world.run().state == "cancelled"
    assert "rows of this file offer or call functions" in world.find_message("Withdrawn before anybody")


def test_a_file_that_the_vendor_is_still_checking_is_waited_for(make_world: MakeWorld) -> None:
    world = make_world(Rules(vendor="fireworks"))
    company(world).check_looks = 3
    world.start_approved()
    world.tick_until_state("training")
    uploads = [request for request in world.provider.requests if request.route.endswith(":upload")]
    assert len(uploads) == 1 and company(world).ledger.jobs == 1


@pytest.mark.parametrize("closed", ["datasets", "supervisedFineTuningJobs"])
def test_a_vendor_that_has_closed_training_ends_the_run_at_once(make_world: MakeWorld, closed: str) -> None:
    world = make_world(Rules(vendor="fireworks"))
    route = f"POST {company(world).path}/{closed}"
    world.start_approved()
    world.provider.fail(route, Fault(commit=False, status=501, code="unimplemented"), 50)
    world.tick_until_state("failed")
    run = world.run()
    assert "HTTP 501" in (run.error or "") and "does not offer this (any more)" in (run.error or "")
    sent = [request for request in world.provider.requests if request.route == route]
    assert len(sent) == 1, "a definite answer is not asked again"
    assert company(world).ledger.jobs == 0
    assert world.ledger()["settle"] == 0, "the reserved money is free again"


def estimating_world(make_world: MakeWorld, **rules: str) -> World:
    world = make_world(Rules(vendor="together", training="5000.00", budget="500", **rules))  # type: ignore[arg-type]
    world.abilities += ', "estimate"'
    world.restart()
    return world


def test_the_result_shows_the_vendors_estimate_and_bill_beside_our_estimate(make_world: MakeWorld) -> None:
    world = estimating_world(make_world)
    company(world).check_looks = 2
    world.start(START)
    world.tick_until(lambda: ESTIMATED in "".join(world.texts()), "the vendor's estimate")
    assert "acme's own estimate for the training is about $81" in world.find_message("Run 1", "Cost")
    (upload,) = (seen.body["content"] for seen in world.provider.requests if "content" in seen.body)
    rows = [json.loads(line) for line in upload.splitlines()]
    words = {word for row in rows for word in row["messages"][0]["content"].split()}
    assert words == {"the"}, "no row leaves before the approval"
    assert company(world).ledger.jobs == company(world).ledger.files == 0
    world.approve()
    world.tick_until_state("done")
    ledger = company(world).ledger
    assert (ledger.jobs, ledger.live, ledger.files) == (1, 0, 0)
    result = world.find_message("Result of run 1")
    assert f"${ledger.usd}" in result and "acme's own estimate: $" in result and "estimated $" in result


def test_approvers_see_that_the_vendors_estimate_is_above_the_maximum(make_world: MakeWorld) -> None:
    world = estimating_world(make_world)
    company(world).usd_per_million *= 2
    world.start(START)
    world.tick_until(lambda: ESTIMATED in "".join(world.texts()), "the vendor's estimate")
    assert "above this plan's maximum" in world.find_message("Run 1", "Cost")


def test_a_missing_vendor_estimate_is_shown_and_blocks_nothing(make_world: MakeWorld) -> None:
    world = estimating_world(make_world)
    world.provider.fail("POST /fine-tunes/estimate-price", NOTHING_BUT_500, 50)
    world.start()
    world.pass_time(PATIENCE_S)
    world.tick(2)
    assert "acme gives no price" in world.find_message("Run 1", "Cost")
    world.approve()
    world.tick_until_state("training")


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (403, "has no write access here. It may belong to another project"),
        (402, "out of credit: add some, then start again"),
    ],
)
def test_an_account_that_may_not_train_is_reported_before_an_approval(
    make_world: MakeWorld, status: int, why: str
) -> None:
    world = estimating_world(make_world)
    world.provider.fail("POST /files", Fault(commit=False, status=status, code="no"), 9)
    world.start(START)
    world.tick(2)
    assert world.run().state == "cancelled"
    assert why in world.find_message("Withdrawn before anybody")


def catalogue_world(make_world: MakeWorld, **switches: Any) -> tuple[World, Crusoe]:
    world = make_world(Rules(provider_row=CATALOGUE, training="5000.00", budget="500"))
    world.abilities = CATALOGUE_ABILITIES
    rates = {MODEL: Decimal(5000)}
    service = Crusoe(models=(MODEL,), usd_per_million=rates, answer=answer, serves_adapters=True, **switches)
    world.provider.service = service
    world.restart()
    return world, service


@pytest.mark.deep
def test_a_lost_create_and_a_late_registration_still_end_in_a_result(make_world: MakeWorld) -> None:
    world, service = catalogue_world(make_world)
    world.start(START)
    world.tick_until(lambda: ESTIMATED in "".join(world.texts()), "the vendor's estimate")
    world.provider.fail(world.create_route, COMMIT_THEN_RESET)  # the job is there, its answer is not
    world.approve()
    world.tick_until(
        lambda: any("registering the model" in text for text in world.texts()), "the registering"
    )
    world.tick_until_state("done")
    (job,) = service.jobs.values()
    hyperparameters = job.request["method"]["supervised"]["hyperparameters"]
    assert (
        job.request["model"] == f"model-{MODEL}"
        and hyperparameters["batch_size"] == 16
        and "lora_rank" in hyperparameters
    )
    assert not service.files
    result = world.find_message("Result of run 1")
    assert "acme's own estimate: $" in result and service.billed_usd == 21
    assert from_micros(int(world.run().actual_micros or 0)) >= service.billed_usd


def test_a_model_that_is_never_registered_fails_the_run_with_its_cost(make_world: MakeWorld) -> None:
    world, service = catalogue_world(make_world, registering=10**6)
    world.start_approved()
    world.tick_until(
        lambda: any("registering the model" in text for text in world.texts()), "the registering"
    )
    world.pass_time(REGISTERED_S)
    world.tick_until_state("failed")
    assert "gave it no name within 15 minutes" in world.find_message("failed")
    assert from_micros(world.ledger()["settle"]) == service.billed_usd == 21


@pytest.mark.deep
def test_a_job_without_reported_tokens_costs_the_planned_tokens(make_world: MakeWorld) -> None:
    world = make_world(Rules(training="5000.00", budget="500"))
    world.provider.service.trained_tokens = None
    world.start_approved()
    world.tick_until_state("done")
    planned = Decimal(5000) * plan_from_json(world.run().plan).training_tokens / 1_000_000
    assert world.ledger()["settle"] >= to_micros(planned) > 0
    assert "calculated from the planned tokens, since the vendor reports none" in world.find_message(
        "Result of run 1"
    )
