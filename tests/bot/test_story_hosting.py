"""A model that answers only on a machine by the hour: started after the training, measured through it, kept or stopped,
and never left running. The vendor's own ledger is the judge."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from click.testing import CliRunner

from bot.cli import main
from bot.reconciler import maintain
from bot.rules.budgets import READY_WITHIN_S
from bot.services.deployments import LOST_S, MAX_TRIES, READY_LOOK_S
from bot.services.provider_jobs import SETTLE_S
from demo.people import ANA, BEN
from storage.store import read_metrics
from tests.bot.hosting import IDLE_S, PRICES, MakeWorld, company, hosted
from tests.bot.world import CLEO, PRIVATE, START, World
from tests.peers.hosted import (
    COMMIT_THEN_500,
    COMMIT_THEN_HTML,
    COMMIT_THEN_RESET,
    NOTHING_BUT_500,
    WAIT_503,
    Fault,
)
from trainers.money import from_micros, usd_micros

START_CRUSOE, LIST_CRUSOE = "POST /selfserve/deployments", "GET /selfserve/deployments"


def measured(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")


def until_stopped(world: World) -> None:
    world.tick_until(lambda: not world.store.deployments.live(), "nothing to run")
    world.send()


@pytest.mark.parametrize("api", ["crusoe", "fireworks", "together"])
def test_from_the_plan_to_the_bill(make_world: MakeWorld, api: str) -> None:
    world = hosted(make_world, api)
    world.start()
    hour = "$8.00" if api == "fireworks" else f"${PRICES[api]}"
    asked = world.find_message("Run 1", "The tuned model:")
    assert f"{hour} an hour while it runs" in asked and "at most $20.00 a day" in asked, asked
    assert company(world).machines == []
    world.approve()
    world.tick_until_state("evaluating")
    world.tick_until(lambda: company(world).running, "a machine")
    assert f"is starting at Acme Tuning, {hour} an hour" in world.find_message(
        "Run 1", "Its model is starting"
    )
    world.tick_until_state("done")
    assert len(company(world).machines) == 1
    assert "Billed by the hour" in world.type("/finetune status")

    world.click(ANA, "try_model")
    assert world.slack.submit_modal(ANA.id, {"text": "where is my refund?"}).closed
    assert "It answers" in world.tick_until_answered()
    assert world.type("/finetune promote tickets-1 because it was measured and is fine", user=BEN) is not None
    world.pass_time(600)
    world.click(ANA, "stop_deployment")
    until_stopped(world)
    assert company(world).running == []
    card = world.find_message("tickets-1 is stopped at Acme Tuning")
    bill = f"${company(world).bill}"
    assert f"{bill} at {hour} an hour" in card, (bill, card)
    trained = world.ledger()["settle"]
    in_all = trained + world.store.deployments.cost_of_run(1)
    assert world.run().actual_micros == in_all and usd_micros(in_all) in card
    assert "is not running at" in world.type("/finetune try tickets-1 where is my refund?")


def test_the_terminal_lists_what_runs_and_for_whom(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    assert "Nothing runs by the hour" in terminal(world)
    measured(world)
    world.pass_time(600)
    world.tick()
    (only,) = json.loads(terminal(world, "--json"))
    (record,) = world.store.deployments.live()
    assert (only["model"], only["person"], only["idle_since"]) == ("tickets-1", ANA.id, record.used_at)
    assert only["today_micros"] == only["micros"] == record.micros > 0
    told = terminal(world)
    assert f"tickets-1 is running at Acme Tuning, for {ANA.id}: $5.50 an hour, $" in told
    assert f"{usd_micros(record.micros)} today, idle since 20" in told
    assert read_metrics(world.store.database, world.clock).deployments == 1


def terminal(world: World, *arguments: str) -> str:
    environment = {"FINETUNE_CONFIG": str(world.folder / "finetune.toml")}
    result = CliRunner().invoke(main, ["deployments", *arguments], env=environment)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_nobody_asks_it_and_it_is_stopped(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    measured(world)
    assert company(world).running
    world.pass_time(IDLE_S)
    until_stopped(world)
    assert company(world).running == []
    assert "Nobody used it for 30 minutes" in world.find_message("tickets-1 is stopped")
    assert "Running the model of run 1" in world.type("/finetune budget")


def test_what_is_kept_runs_until_a_limit_of_the_day(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    world.pass_time(24 * 3600 - world.clock % (24 * 3600))  # to midnight, so that no day ends under it
    measured(world)
    assert "approver" in world.click_and_read(ANA, "keep_deployment")
    world.click(BEN, "keep_deployment")
    world.pass_time(IDLE_S * 2)
    world.tick(10)
    assert company(world).running and f"kept by <@{BEN.id}>" in world.find_message("tickets-1 is running")
    for _ in range(4):
        world.pass_time(3600)
        world.tick(3)
    until_stopped(world)
    assert company(world).running == []
    card = world.find_message("tickets-1 is stopped", "daily limit")
    assert f"${company(world).bill}" in card


@pytest.mark.parametrize(
    "fault",
    [
        COMMIT_THEN_500,
        *(pytest.param(each, marks=pytest.mark.slow) for each in (COMMIT_THEN_RESET, COMMIT_THEN_HTML)),
    ],
    ids=str,
)
def test_a_start_whose_answer_got_lost_is_found_again(make_world: MakeWorld, fault: Fault) -> None:
    world = hosted(make_world)
    world.provider.fail(START_CRUSOE, fault)
    measured(world)
    assert len(company(world).machines) == 1 and world.provider.count(START_CRUSOE) == 1
    world.pass_time(IDLE_S)
    until_stopped(world)
    assert f"${company(world).bill}" in world.find_message("tickets-1 is stopped")


@pytest.mark.parametrize("fault", [NOTHING_BUT_500, WAIT_503], ids=str)
def test_a_start_that_never_arrived_is_sent_again_later(make_world: MakeWorld, fault: Fault) -> None:
    world = hosted(make_world)
    world.provider.fail(START_CRUSOE, fault)
    world.start_approved()
    world.tick_until(lambda: world.provider.count(START_CRUSOE) == 1, "the start")
    world.tick(20)
    assert world.provider.count(START_CRUSOE) == 1
    world.pass_time(SETTLE_S)
    world.tick_until_state("done")
    assert len(company(world).machines) == 1


@pytest.mark.parametrize("api", ["crusoe", "fireworks", "together"])
def test_a_base_that_cannot_be_hosted_is_refused_before_approval(make_world: MakeWorld, api: str) -> None:
    world = hosted(make_world, api)
    company(world).hosts = ("another-base",)
    world.seed_dataset()
    assert "Choose another target" in world.type(START)
    assert not world.store.runs.newest(1)


def test_the_price_of_now_is_what_people_approve_and_a_higher_one_starts_nothing(
    make_world: MakeWorld,
) -> None:
    world = hosted(make_world, price="3.00")
    world.start()
    assert "$5.50 an hour" in world.find_message("Run 1", "The tuned model:")
    company(world).usd_per_hour = Decimal("7.25")
    world.approve()
    lost = world.tick_until(lambda: [text for text in world.dms() if "waits" in text], "word of it")
    assert "charges more per hour than was approved" in lost[0] and company(world).machines == []
    assert "It now costs $7.25 an hour" in world.find_message("tickets-1 is stopped")
    world.click(BEN, "start_deployment")
    world.tick_until_state("done")
    assert "$7.25 an hour" in world.find_message("tickets-1 is running")


def test_one_that_never_gets_ready_is_stopped_said_and_booked(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    company(world).ready_after = None
    world.start_approved()
    world.tick_until(lambda: company(world).running, "a machine")
    world.pass_time(READY_WITHIN_S)
    until_stopped(world)
    card = world.find_message("tickets-1 is stopped", "not ready within half an hour")
    assert f"${company(world).bill}" in card and company(world).running == []
    world.tick_until(lambda: "continue measuring" in world.dms()[-1], "word of it")
    assert world.run().state == "evaluating" and company(world).bill > Decimal("2.7")
    world.pass_time(LOST_S)
    world.tick_until_state("failed")
    assert "Nobody started the model again" in world.find_message("Run 1 failed")
    assert world.run().actual_micros == world.ledger()["settle"] + world.store.deployments.cost_of_run(1)


def test_one_that_dies_under_the_measurement_is_started_once_more(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    world.provider.fail("POST /chat/completions", WAIT_503, times=60)
    world.start_approved()
    world.tick_until(
        lambda: world.store.deployments.live() and world.store.deployments.live()[0].ready_at, "it"
    )
    company(world).die()
    world.tick(10)
    world.tick_until(lambda: len(company(world).machines) == 2, "a second one")
    world.provider.forgive("POST /chat/completions")
    world.tick_until_state("done")
    assert "the vendor no longer lists it" in world.find_message("tickets-1 is stopped").lower()
    world.pass_time(IDLE_S)
    until_stopped(world)
    assert company(world).running == []


def test_a_base_that_answers_nowhere_leaves_its_place_to_the_classical_model(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    company(world).asks_base = False
    measured(world)
    assert "the free classical model" in world.find_message("Result of run 1")


def test_a_freeze_stops_what_runs_and_starts_nothing(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    measured(world)
    assert world.type("/finetune freeze the bill looks odd", user=BEN) is not None
    world.tick(8)
    until_stopped(world)
    assert "Spending is frozen" in world.find_message("tickets-1 is stopped")
    assert "frozen by" in world.click_and_read(BEN, "start_deployment")
    assert company(world).running == []


def test_a_model_is_not_started_while_spending_is_frozen_and_is_afterwards(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    company(world).stages = ("running",)
    world.start_approved()
    world.tick_until_state("training")
    world.type("/finetune freeze the bill looks odd", user=BEN)
    company(world).stages = ("running", "succeeded")
    world.tick_until_state("evaluating")
    world.tick(8)
    assert company(world).machines == [] and "not started while spending is frozen" in world.find_message(
        "Run 1"
    )
    world.type("/finetune unfreeze", user=BEN)
    world.type("/finetune unfreeze", user=CLEO)
    world.tick_until_state("done")
    assert len(company(world).machines) == 1


def test_an_adapter_that_expired_under_its_machine_ends_the_run_and_the_machine(
    make_world: MakeWorld,
) -> None:
    world = hosted(make_world)
    gone = Fault(commit=False, status=404, code="model_not_found")
    world.provider.fail("POST /chat/completions", gone, times=999)
    world.start_approved()
    world.tick_until_state("failed")
    told = world.find_message("Run 1 failed")
    assert "doesn't answer for the model, which may have expired there. Train it again" in told
    assert world.run().actual_micros == world.ledger()["settle"] + world.store.deployments.cost_of_run(1)
    until_stopped(world)
    assert company(world).running == [] and len(company(world).machines) == 1


def test_a_cancelled_run_leaves_nothing_behind(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    company(world).ready_after = None
    world.start_approved()
    world.tick_until(lambda: company(world).running, "a machine")
    world.type("/finetune cancel 1")
    world.tick_until_state("cancelled")
    until_stopped(world)
    assert company(world).running == [] and "Its run ended" in world.find_message("tickets-1 is stopped")


def test_a_deleted_dataset_takes_its_machine_along(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    measured(world)
    world.slack.command(BEN.id, PRIVATE.id, "/finetune delete tickets")
    assert world.slack.submit_modal(BEN.id, {"name": "tickets"}).accepted
    until_stopped(world)
    assert company(world).running == []


def test_what_nobody_started_is_told_once_and_stopped_by_a_click(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    world.start()
    company(world)._begin("ft-run7-0ddba11-1", "ftmodel-7", {})
    company(world)._begin("somebody-elses", "ftmodel-8", {})
    for _ in range(2):
        maintain(world.service.context)
        world.send()
    assert sum("that nobody here started" in text for text in world.cards()) == 1
    told = world.find_message("2 models at Acme Tuning that nobody here started")
    assert "Stop ft-run7" in told and "Stop somebody" not in told
    world.click(CLEO, "stop_stray_deployment")
    until_stopped(world)
    assert [machine.name for machine in company(world).running] == ["somebody-elses"]


def test_what_was_stopped_and_still_runs_is_stopped_again(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    measured(world)
    world.click(ANA, "stop_deployment")
    until_stopped(world)
    company(world).machines[0].ended = None
    world.pass_time(1000)
    maintain(world.service.context)
    world.send()
    assert company(world).running == [] and "still runs at Acme Tuning" in "\n".join(world.texts(PRIVATE))


@pytest.mark.parametrize("api", ["crusoe", "fireworks", "together"])
def test_a_vendor_that_does_not_say_when_it_began_is_paid_from_the_start(
    make_world: MakeWorld, api: str
) -> None:
    world = hosted(make_world, api)
    company(world).says_when = False
    measured(world)
    world.pass_time(600)
    world.click(ANA, "stop_deployment")
    until_stopped(world)
    assert f"${company(world).bill}" in world.find_message("tickets-1 is stopped")


def test_a_vendor_that_wants_to_be_left_alone_for_long_is_asked_again_after_a_while(
    make_world: MakeWorld,
) -> None:
    """A wait that is longer than any of ours counts as a clock that was put back: it was asked at each tick."""
    world = hosted(make_world)
    measured(world)
    long = Fault(commit=False, status=429, headers=(("Retry-After", "3500"),))
    world.provider.fail(LIST_CRUSOE, long, times=2)
    asked = world.provider.count(LIST_CRUSOE)
    world.pass_time(READY_LOOK_S)
    world.tick_until(lambda: world.provider.count(LIST_CRUSOE) > asked, "a look")
    world.tick(10)
    assert world.provider.count(LIST_CRUSOE) == asked + 1
    world.provider.forgive(LIST_CRUSOE)
    world.pass_time(IDLE_S)
    until_stopped(world)
    assert company(world).running == []


def test_a_machine_that_appears_after_it_was_given_up_is_stopped_and_booked(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    world.provider.fail(START_CRUSOE, NOTHING_BUT_500, times=MAX_TRIES)
    world.start_approved()
    for number in range(MAX_TRIES):
        world.tick_until(lambda sent=number: world.provider.count(START_CRUSOE) > sent, "a start")
        world.tick()
        world.pass_time(SETTLE_S)
    until_stopped(world)
    (record,) = world.store.deployments.of_run(1)
    company(world)._begin(record.name, record.model, {})
    world.pass_time(1000)
    maintain(world.service.context)
    assert company(world).running == []
    booked = from_micros(world.store.deployments.cost_of_run(1)).quantize(Decimal("0.01"))
    assert booked >= company(world).bill > 1
