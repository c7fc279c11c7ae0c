"""A model that is served only on a machine billed by the hour: started after the training, used for the measurement,
then kept or stopped, and never left running. The vendor's own ledger has the last word."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from functools import partial

import pytest
from click.testing import CliRunner

from bot.cli import main
from bot.doctor import _check_machines
from bot.reconciler import maintain
from bot.rules.models.deployments import READY_WITHIN_S
from bot.services.common.provider_jobs import SETTLE_S
from bot.services.models import unused_deployments
from bot.services.models.deployments import LOOK_S, LOST_S, MAX_TRIES, READY_LOOK_S
from demo.people import ANA, BEN
from storage.backup import back_up, restore
from storage.promotions import NewPromotion
from storage.records import Promotable
from storage.store import read_metrics
from tests.bot.hosting import IDLE_S, PRICES, company, hosted
from tests.bot.models.test_story_promote import promote
from tests.bot.slack.test_story_entry_points import open_home
from tests.bot.world import CLEO, PRIVATE, START, MakeWorld, World
from tests.peers.hosted import (
    COMMIT_THEN_500,
    COMMIT_THEN_HTML,
    COMMIT_THEN_RESET,
    NOTHING_BUT_500,
    WAIT_503,
    Fault,
)
from trainers.money import from_micros, usd_micros
from trainers.recipes.folder import RecipeFolder

START_CRUSOE, LIST_CRUSOE = "POST /selfserve/deployments", "GET /selfserve/deployments"


def run_until_done(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")


def tick_until_stopped(world: World) -> None:
    world.tick_until(lambda: not world.store.deployments.live(), "all machines to stop")
    world.send()


@pytest.mark.deep
def test_a_plan_names_the_hourly_price_and_the_card_shows_the_vendors_bill(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    world.start()
    hour = f"${PRICES['crusoe']}"
    card = world.find_message("Run 1", "The tuned model:")
    assert f"{hour} an hour while it runs" in card and "at most $20.00 a day" in card, card
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

    world.type("/finetune try tickets-1 where is my refund?")
    assert "It answers" in world.tick_until_answered()
    promote(world, why="because=it was measured and is fine")
    world.tick(2)
    (called,) = (record.chat_model for record in world.store.deployments.live())
    assert "now get it, without a change" in world.find_message("tickets-1 is in use for tickets")
    assert print_current(world) == (0, f"{called}\n")
    recipes = RecipeFolder(world.service.settings.recipes)
    answering = recipes.published("team/tickets")
    assert answering is not None and (answering.model, answering.unavailable) == (called, None)
    world.pass_time(600)
    world.click(ANA, "stop_deployment")
    tick_until_stopped(world)
    assert company(world).running == []
    assert "so programs get no answer" in world.find_message("tickets-1 is in use for tickets")
    assert "`tickets-1`, in use for `tickets`, is not running" in "\n".join(world.texts())
    assert print_current(world)[0] == 1
    answering = recipes.published("team/tickets")
    assert answering is not None and answering.unavailable is not None
    assert answering.unavailable.code == "machine_stopped"
    assert "needs a machine at Acme Tuning by the hour" in answering.unavailable.message
    assert "*not running*" in world.type("/finetune models") and "*not running*" in world.type(
        "/finetune status"
    )
    card = world.find_message("tickets-1 is stopped at Acme Tuning")
    bill = f"${company(world).bill}"
    assert f"{bill} at {hour} an hour" in card, (bill, card)
    total = world.ledger()["settle"] + world.store.deployments.cost_of_run(1)
    assert world.run().actual_micros == total and usd_micros(total) in card
    machine = usd_micros(world.store.deployments.cost_of_run(1))
    final = f"{usd_micros(total)}, of which {machine} for its machine, "
    assert final in world.find_message("Result of run 1"), world.find_message("Result of run 1")
    assert f"{bill} for its machine, " in world.type("/finetune status 1")
    assert "*not running*" in open_home(world, ANA.id)
    assert "is not running at" in world.type("/finetune try tickets-1 where is my refund?")
    assert "is not running at" in world.click_and_read(ANA, "try_model"), "before a form asks for a text"
    world.click(BEN, "start_deployment")
    world.send()
    assert f"{bill} for its machine so far, " in world.find_message("Result of run 1")


@pytest.mark.deep
def test_a_machine_is_listed_in_the_terminal_until_it_is_stopped_for_lack_of_use(
    make_world: MakeWorld,
) -> None:
    world = hosted(make_world)
    company(world).asks_base = False
    assert "Nothing runs by the hour" in list_deployments(world)
    run_until_done(world)
    assert "the free classical model" in world.find_message("Result of run 1"), "no base to compare with"
    world.pass_time(600)
    world.tick()
    (machine,) = json.loads(list_deployments(world, "--json"))
    (record,) = world.store.deployments.live()
    assert (machine["model"], machine["person"], machine["idle_since"]) == (
        "tickets-1",
        ANA.id,
        record.used_at,
    )
    assert machine["micros"] == record.micros > 0
    # The terminal's day is that of the real clock, which may end later than the story's.
    assert 0 <= machine["today_micros"] <= machine["micros"]
    output = list_deployments(world)
    assert f"tickets-1 is running at Acme Tuning, for {ANA.id}: $5.50 an hour, $" in output
    assert f"{usd_micros(machine['today_micros'])} today, idle since 20" in output
    assert read_metrics(world.store.database, world.clock).deployments == 1

    # A long Retry-After once counted as a clock that was set back, and the vendor was asked at each tick.
    long_wait = Fault(commit=False, status=429, headers=(("Retry-After", "3500"),))
    world.provider.fail(LIST_CRUSOE, long_wait, times=2)
    lists = world.provider.count(LIST_CRUSOE)
    world.pass_time(READY_LOOK_S)
    world.tick_until(lambda: world.provider.count(LIST_CRUSOE) > lists, "a look")
    world.tick(10)
    assert world.provider.count(LIST_CRUSOE) == lists + 1
    world.provider.forgive(LIST_CRUSOE)

    world.pass_time(IDLE_S)
    tick_until_stopped(world)
    assert company(world).running == []
    assert "Nobody used it for 30 minutes" in world.find_message("tickets-1 is stopped")
    assert "Running the model of run 1" in world.type("/finetune budget")

    world.rules = replace(world.rules, budget="1")  # less than a machine costs until it is idle
    world.restart()
    refusal = world.click_and_read(BEN, "start_deployment")
    assert "of this month's $1" in refusal and "Raise `monthly_usd`" in refusal, refusal
    assert world.store.deployments.live() == []


def print_current(world: World) -> tuple[int, str]:
    environment = {"FINETUNE_CONFIG": str(world.folder / "finetune.toml")}
    result = CliRunner().invoke(main, ["current", "tickets"], env=environment)
    return result.exit_code, result.stdout


def list_deployments(world: World, *arguments: str) -> str:
    environment = {"FINETUNE_CONFIG": str(world.folder / "finetune.toml")}
    result = CliRunner().invoke(main, ["deployments", *arguments], env=environment)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.deep
def test_a_kept_machine_runs_until_the_daily_limit(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    begin_a_day(world)
    run_until_done(world)
    result = world.find_message("Result of run 1")
    assert "for its machine so far" in result and "keep or stop it on" in result, result
    assert "approver" in world.click_and_read(ANA, "keep_deployment")
    world.click(BEN, "keep_deployment")
    world.pass_time(IDLE_S * 2)
    world.tick(10)
    assert company(world).running and f"kept by <@{BEN.id}>" in world.find_message("tickets-1 is running")
    assert world.find_message("Result of run 1") == result, "the machine's own card counts while it runs"
    assert tell_unused(world) == [], "it was kept today, and nothing has replaced it"
    for _ in range(4):
        world.pass_time(3600)
        world.tick(3)
    tick_until_stopped(world)
    assert company(world).running == []
    card = world.find_message("tickets-1 is stopped", "daily limit")
    assert f"${company(world).bill}" in card

    assert "Today's limit for running models is used up" in world.click_and_read(BEN, "start_deployment")
    assert world.store.deployments.live() == []


def begin_a_day(world: World) -> None:
    """Goes on to midnight, so that no day, which has a bill of its own, ends during the story."""
    world.pass_time(24 * 3600 - world.clock % (24 * 3600))


def replace_model(world: World) -> None:
    """Another model is in use instead of tickets-1, whose machine runs on."""
    model, promotions = world.store.model("tickets-1"), world.store.promotions
    assert model is not None
    world.store.add_model(replace(model, name="tickets-2"))
    first = NewPromotion("tickets", Promotable("tickets-1"), BEN.id, PRIVATE.id, None, None)
    with world.store.transaction():
        before = promotions.add(first, now=world.clock)
        assert promotions.add(
            replace(first, what=Promotable("tickets-2"), instead_of=before), now=world.clock
        )


def tell_unused(world: World) -> list[str]:
    """Has the bot tell of machines that are kept for nothing, and returns all that it ever said of them."""
    unused_deployments.tell_unused(world.service.context)
    world.send()
    return [text for text in world.texts() if "is not in use, and its machine costs" in text]


@pytest.mark.deep
def test_a_kept_machine_that_is_listed_again_runs_on(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    begin_a_day(world)
    run_until_done(world)
    world.click(BEN, "keep_deployment")
    company(world).is_listing = False
    world.pass_time(READY_LOOK_S)
    world.tick_until(lambda: world.store.deployments.live()[0].missing_since, "a list without it")
    world.pass_time(SETTLE_S)
    tick_until_stopped(world)
    assert "the vendor no longer lists it" in world.find_message("tickets-1 is stopped").lower()
    company(world).is_listing = True
    world.pass_time(1000)
    maintain(world.service.context)
    world.send()
    (record,) = world.store.deployments.live()
    assert (record.state, record.kept_by, len(company(world).running)) == ("ready", BEN.id, 1)
    assert "runs at Acme Tuning after all" in "\n".join(world.texts())
    replace_model(world)
    (notice,) = tell_unused(world)
    assert "`tickets-2` has replaced it" in notice and f"<@{BEN.id}> keeps it running" in notice
    assert f"${PRICES['crusoe']} an hour" in notice and f"{usd_micros(record.micros)} so far" in notice
    assert tell_unused(world) == [notice]
    world.pass_time(24 * 3600)
    assert len(tell_unused(world)) == 2, "once a day"
    world.click(BEN, "stop_deployment")  # the message's own button
    tick_until_stopped(world)
    booked = from_micros(world.store.deployments.cost_of_run(1)).quantize(Decimal("0.01"))
    assert booked == company(world).bill, "the time without a list is billed too"


@pytest.mark.deep
def test_a_restored_backup_takes_over_the_machine_of_its_run(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    company(world).stages = ("running",) * 99
    world.start_approved()
    world.tick_until_state("training")
    settings = world.service.settings
    backup = back_up(settings.database, world.folder / "backup", now=world.clock, files=settings.files).path
    company(world).stages = ("succeeded",)
    world.tick_until_state("done")
    (machine,) = company(world).running
    world.stop()
    restore(backup, settings.database, settings.files, now=world.clock)
    world.boot()
    maintain(world.service.context)
    assert world.store.deployments.of_run(1) == [], "the run looks for it once it has its model"
    world.pass_time(600)
    world.tick_until_state("evaluating")
    maintain(world.service.context)
    (record,) = world.store.deployments.of_run(1)
    assert record.name == machine.name
    world.tick_until_state("done")
    world.click(ANA, "stop_deployment")
    tick_until_stopped(world)
    assert not any("that nobody here started" in text for text in world.cards())
    assert len(company(world).machines) == 1
    booked = from_micros(world.store.deployments.cost_of_run(1)).quantize(Decimal("0.01"))
    assert booked == company(world).bill > 0, "the time before the restore is billed too"


@pytest.mark.deep
@pytest.mark.parametrize(
    "fault",
    [
        COMMIT_THEN_500,
        *(pytest.param(each, marks=pytest.mark.slow) for each in (COMMIT_THEN_RESET, COMMIT_THEN_HTML)),
    ],
    ids=str,
)
def test_a_start_whose_answer_got_lost_is_found_and_stops_with_its_dataset(
    make_world: MakeWorld, fault: Fault
) -> None:
    world = hosted(make_world)
    world.provider.fail(START_CRUSOE, fault)
    run_until_done(world)
    assert len(company(world).machines) == 1 and world.provider.count(START_CRUSOE) == 1
    world.slack.command(BEN.id, PRIVATE.id, "/finetune delete tickets")
    assert world.slack.submit_modal(BEN.id, {"name": "tickets"}).accepted
    tick_until_stopped(world)
    assert company(world).running == []


@pytest.mark.deep
@pytest.mark.parametrize("fault", [NOTHING_BUT_500, WAIT_503], ids=str)
def test_a_start_that_never_arrived_is_sent_again_later(make_world: MakeWorld, fault: Fault) -> None:
    world = hosted(make_world)
    world.provider.fail(START_CRUSOE, fault)
    world.start_approved()
    world.tick_until(lambda: world.provider.count(START_CRUSOE) == 1, "the start")
    world.tick(20)
    assert world.provider.count(START_CRUSOE) == 1
    world.pass_time(SETTLE_S)
    world.tick_until(lambda: company(world).machines, "a machine")
    world.tick(3)
    assert len(company(world).machines) == 1


@pytest.mark.parametrize("api", ["crusoe", "fireworks", "together"])
def test_a_base_that_cannot_be_hosted_is_refused_before_approval(make_world: MakeWorld, api: str) -> None:
    world = hosted(make_world, api)
    company(world).hosts = ("another-base",)
    world.seed_dataset()
    assert "Choose another target" in world.type(START)
    assert not world.store.runs.newest(1)


@pytest.mark.deep
def test_a_machine_whose_price_rose_after_the_approval_is_not_started(
    make_world: MakeWorld,
) -> None:
    world = hosted(make_world, price="3.00")
    world.start()
    assert "$5.50 an hour" in world.find_message("Run 1", "The tuned model:")
    company(world).usd_per_hour = Decimal("7.25")
    world.approve()
    texts = world.tick_until(lambda: [text for text in world.dms() if "waits" in text], "a direct message")
    assert "charges more per hour than was approved" in texts[0] and company(world).machines == []
    assert "It now costs $7.25 an hour" in world.find_message("tickets-1 is stopped")
    world.click(BEN, "start_deployment")
    world.tick_until(lambda: company(world).running, "a machine")
    world.tick(10)
    assert "$7.25 an hour" in world.find_message("tickets-1 is running")


def test_a_machine_that_never_becomes_ready_is_stopped_and_its_cost_booked(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    company(world).ready_after = None
    world.start_approved()
    world.tick_until(lambda: company(world).running, "a machine")
    world.pass_time(READY_WITHIN_S)
    tick_until_stopped(world)
    card = world.find_message("tickets-1 is stopped", "not ready within half an hour")
    assert f"${company(world).bill}" in card and company(world).running == []
    world.tick_until(lambda: "continue measuring" in world.dms()[-1], "a direct message")
    assert world.run().state == "evaluating" and company(world).bill > Decimal("2.7")
    world.pass_time(LOST_S)
    world.tick_until_state("failed")
    assert "Nobody started the model again" in world.find_message("Run 1 failed")
    assert world.run().actual_micros == world.ledger()["settle"] + world.store.deployments.cost_of_run(1)


@pytest.mark.deep
def test_a_machine_that_dies_during_the_measurement_is_started_again(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    world.provider.fail("POST /chat/completions", WAIT_503, times=60)
    world.start_approved()
    world.tick_until(
        lambda: world.store.deployments.live() and world.store.deployments.live()[0].ready_at,
        "the machine to be ready",
    )
    company(world).is_listing = False
    world.tick_until(lambda: world.store.deployments.live()[0].missing_since, "a list without it")
    world.tick(3)
    company(world).is_listing = True
    world.pass_time(LOOK_S)
    world.tick_until(lambda: not world.store.deployments.live()[0].missing_since, "a list with it")
    assert len(company(world).machines) == 1, "one list without it proves nothing"
    company(world).die()
    world.pass_time(READY_LOOK_S)
    world.tick_until(lambda: world.store.deployments.live()[0].missing_since, "a list without it")
    assert "Lists may be late" in world.find_message("tickets-1 is running")
    world.pass_time(SETTLE_S)
    world.tick_until(lambda: len(company(world).machines) == 2, "a second one")
    world.provider.forgive("POST /chat/completions")
    world.tick_until_state("done")
    assert "the vendor no longer lists it" in world.find_message("tickets-1 is stopped").lower()
    world.pass_time(IDLE_S)
    tick_until_stopped(world)
    assert company(world).running == []


@pytest.mark.deep
def test_a_freeze_starts_no_machine_and_stops_those_that_run(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    company(world).stages = ("running",)
    world.start_approved()
    world.tick_until_state("training")
    world.type("/finetune freeze the bill looks odd", user=BEN)
    company(world).stages = ("running", "succeeded")
    world.tick_until_state("evaluating")
    world.tick(8)
    assert company(world).machines == []
    assert "not started while spending is frozen" in world.find_message("Run 1")
    world.type("/finetune unfreeze", user=BEN)
    world.type("/finetune unfreeze", user=CLEO)
    world.tick_until_state("done")
    assert len(company(world).machines) == 1

    world.type("/finetune freeze the bill looks odd", user=BEN)
    world.tick(8)
    tick_until_stopped(world)
    assert "Spending is frozen" in world.find_message("tickets-1 is stopped")
    assert "frozen by" in world.click_and_read(BEN, "start_deployment")
    assert company(world).running == []


@pytest.mark.deep
def test_an_expired_adapter_ends_the_run_and_its_machine(
    make_world: MakeWorld,
) -> None:
    world = hosted(make_world)
    expired = Fault(commit=False, status=404, code="model_not_found")
    world.provider.fail("POST /chat/completions", expired, times=999)
    world.start_approved()
    world.tick_until_state("failed")
    card = world.find_message("Run 1 failed")
    assert "doesn't answer for the model, which may have expired there. Train it again" in card
    assert world.run().actual_micros == world.ledger()["settle"] + world.store.deployments.cost_of_run(1)
    tick_until_stopped(world)
    assert company(world).running == [] and len(company(world).machines) == 1


def test_cancelling_a_run_stops_its_machine(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    company(world).ready_after = None
    world.start_approved()
    world.tick_until(lambda: company(world).running, "a machine")
    (machine,) = company(world).running
    company(world)._begin(machine.name, machine.model, {})  # a second one of the same name
    world.pass_time(LOOK_S)
    world.tick()
    assert company(world).running == [machine]
    world.type("/finetune cancel 1")
    world.tick_until_state("cancelled")
    tick_until_stopped(world)
    assert company(world).running == [] and "Its run ended" in world.find_message("tickets-1 is stopped")


@pytest.mark.deep
def test_an_unknown_machine_is_reported_once_and_stopped_by_a_click(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    company(world)._begin("ft-run7-0ddba11-1", "ftmodel-7", {})
    company(world)._begin("somebody-elses", "ftmodel-8", {})
    maintain(world.service.context)  # before anybody used a channel that could be told
    assert "ft-run7-0ddba11-1, somebody-elses" in world.service.context.troubles["machines at acme"]
    doctor = "\n".join(finding.text for finding in _check_machines(world.service.settings))
    assert "2 machines run by the hour that the database doesn't know: ft-run7-0ddba11-1" in doctor, doctor
    world.start()
    for _ in range(2):
        maintain(world.service.context)
        world.send()
    assert world.service.context.troubles == {}
    assert sum("that nobody here started" in text for text in world.cards()) == 1
    card = world.find_message("2 models at Acme Tuning that nobody here started")
    assert "Stop ft-run7" in card and "Stop somebody" not in card
    assert "approver" in world.click_and_read(ANA, "stop_stray_deployment")
    assert world.store.deployments.live() == []
    world.click(CLEO, "stop_stray_deployment")
    tick_until_stopped(world)
    assert [machine.name for machine in company(world).running] == ["somebody-elses"]


@pytest.mark.deep
def test_a_machine_without_a_start_time_is_billed_from_its_request_and_stopped_again(
    make_world: MakeWorld,
) -> None:
    world = hosted(make_world)
    company(world).says_when = False
    run_until_done(world)
    world.pass_time(600)
    world.click(ANA, "stop_deployment")
    tick_until_stopped(world)
    assert f"${company(world).bill}" in world.find_message("tickets-1 is stopped")
    machine = company(world).machines[0]
    machine.ended = None
    company(world)._begin(machine.name, machine.model, {})  # a second one of the same name
    world.pass_time(1000)
    maintain(world.service.context)
    world.send()
    assert company(world).running == [] and "still runs at Acme Tuning" in "\n".join(world.texts(PRIVATE))


@pytest.mark.deep
def test_a_machine_that_appears_after_it_was_given_up_is_stopped_and_booked(make_world: MakeWorld) -> None:
    world = hosted(make_world)
    world.provider.fail(START_CRUSOE, NOTHING_BUT_500, times=MAX_TRIES)
    world.start_approved()
    for number in range(MAX_TRIES):
        world.tick_until(partial(_has_starts, world, number + 1), "a start")
        world.tick()
        world.pass_time(SETTLE_S)
    tick_until_stopped(world)
    (record,) = world.store.deployments.of_run(1)
    company(world)._begin(record.name, record.model, {})
    world.pass_time(1000)
    maintain(world.service.context)
    assert company(world).running == []
    booked = from_micros(world.store.deployments.cost_of_run(1)).quantize(Decimal("0.01"))
    assert booked >= company(world).bill > 1


def _has_starts(world: World, count: int) -> bool:
    return world.provider.count(START_CRUSOE) >= count
