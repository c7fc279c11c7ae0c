"""Vendors with an API of their own, from the file to the result: what they bill is what the card says, to the cent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.bot.props import tickets_csv
from tests.bot.world import START, VENDORS, Rules, World
from tests.peers.hosted import COMMIT_THEN_RESET
from tests.peers.vendors import Vendor
from trainers.money import from_micros
from trainers.types import Dialect

MakeWorld = Callable[[Rules], World]


@pytest.fixture(params=VENDORS)
def vendor_world(request: pytest.FixtureRequest, make_world: MakeWorld) -> World:
    dialect: Dialect = request.param
    return make_world(Rules(vendor=dialect, training="5000.00", budget="500"))


def company(world: World) -> Vendor:
    assert isinstance(world.company.service, Vendor)
    return world.company.service


def test_from_a_file_to_a_result_whose_cost_is_the_vendors_bill(vendor_world: World) -> None:
    world = vendor_world
    assert world.upload_and_check(tickets_csv()).state == "ready"
    estimate = world.type("/finetune estimate tickets current=gpt-4o volume=100M target=acme/acme-small")
    assert "$" in estimate
    world.start(START)
    world.company.fail(world.create_route, COMMIT_THEN_RESET)  # the job is there, its answer is not
    world.approve()
    world.until_state("done")
    ledger = company(world).ledger
    assert (ledger.jobs, ledger.live, ledger.files) == (1, 0, 0)
    actual = from_micros(int(world.run().actual_micros or 0))
    assert round(actual, 2) == ledger.usd > 1
    assert f"${ledger.usd}" in world.said("Result of run 1")


def test_a_cancelled_job_costs_what_was_done(vendor_world: World) -> None:
    world = vendor_world
    company(world).stages = ("running",)
    world.start_approved()
    world.until_state("training")
    world.tick(2)
    world.type("/finetune cancel 1")
    world.until_state("cancelled")
    ledger = company(world).ledger
    assert (ledger.jobs, ledger.live, ledger.files) == (1, 0, 0)
    assert round(from_micros(world.ledger()["settle"]), 2) == ledger.usd > 1


def test_an_account_without_credit_ends_the_run_and_leaves_nothing_there(vendor_world: World) -> None:
    world = vendor_world
    company(world).credit = False
    world.start_approved()
    world.until_state("failed")
    assert "no credit" in world.said("failed") and world.ledger()["settle"] == 0
    assert company(world).ledger.jobs == company(world).ledger.files == 0


def test_what_the_vendor_would_not_train_is_withdrawn_before_anybody_approves(make_world: MakeWorld) -> None:
    world = make_world(Rules(vendor="together"))
    company(world).max_rank = 16  # type: ignore[attr-defined]
    world.start(f"{START} lora_r=32")
    world.tick(2)
    assert world.run().state == "cancelled"
    assert "with lora_r of at most 16, and the plan has 32" in world.said("Withdrawn before anybody")


def test_a_state_that_nobody_knows_counts_as_running_and_is_told(vendor_world: World) -> None:
    world = vendor_world
    company(world).stages = ("running", "hibernating")
    world.start_approved()
    world.until_state("training")
    world.until(lambda: any("hibernating" in text for text in world.texts()), "the new state on the card")
    assert "counts as running" in world.said("hibernating") and company(world).ledger.live == 1


def test_a_file_that_is_still_checked_is_waited_for(make_world: MakeWorld) -> None:
    world = make_world(Rules(vendor="fireworks"))
    company(world).check_looks = 2
    world.start_approved()
    world.until_state("done")
    uploads = [seen for seen in world.company.requests if seen.route.endswith(":upload")]
    assert len(uploads) == 1 and company(world).ledger.jobs == 1
