"""Estimates: asked for, shared with their plots, and compared with what a run really cost and gained."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from decimal import Decimal

import pytest

from bot.cards.decisions import estimates as cards
from bot.cards.decisions.estimates import DETAILS, SHARE
from bot.command_parser import parse_question
from bot.rules import estimates, forecast
from bot.rules.forecast import Outlook
from bot.rules.plans import plan_from_json, plan_hash
from bot.rules.roi import Inputs
from bot.rules.units import day_of
from bot.services.decisions import estimate_requests
from bot.services.measurement import evaluations as evaluations_services
from bot.values.runs import RunResult
from demo.people import ANA, BEN
from demo.workspace import Person, PostedMessage, Submission
from storage.money import ESTIMATE_KEPT_S
from storage.records import Run
from tests.bot.measurements import BASELINE, PRICES, comparison_of, measure, until
from tests.bot.runs import ENOUGH_ROWS
from tests.bot.saved_worlds import reached_once
from tests.bot.world import GUS, PRIVATE, START, TARGET, MakeWorld, Rules, World, words_of
from tests.cards.test_page import Reader
from tests.patience import PATIENCE_S
from trainers.evaluation.results import FREE_KINDS, Candidate, CandidateKind, Comparison, MeasuredCandidate

ESTIMATE = f"/finetune estimate tickets current=gpt-4o volume=100M target={TARGET}"
MISSED: tuple[tuple[CandidateKind, float], ...] = (("zero", 1 / 3), ("kshot", 0.4), ("retrieval", 0.5))
ROWS = 240  # with fewer than 200 no saving is shown
PLOTS = {"cumulative-cost.png"}
RETIRED = '[providers.acme.models."acme-old"]\ntraining = "8"\ninput = "1"\noutput = "2"\nends = 2020-01-31\n'
UNPRICED = '[providers.acme.models."acme-hole"]\ninput = "1"\noutput = "2"\n'


@pytest.fixture
def empty(make_world: MakeWorld) -> World:
    return make_world(Rules())


@pytest.fixture
def world(empty: World) -> World:
    empty.seed_dataset(rows=ROWS)
    return empty


def fill_estimate(world: World, **answers: str) -> Submission:
    world.slack.command(ANA.id, PRIVATE.id, "/finetune estimate")
    return world.slack.submit_modal(ANA.id, {"dataset": "tickets", "target": TARGET, **answers})


def until_measured(world: World) -> Comparison:
    """Tick until the newest measurement is done."""
    number = world.store.measurements.open()[-1].id
    until(world, "done", number)
    return comparison_of(world, number)


@reached_once
def measure_classical(world: World) -> None:
    assert world.type("/finetune baseline tickets candidates=classical") == ""
    until_measured(world)


@reached_once
def seed_run(world: World) -> None:
    """Enough tickets to show that the bar is met, and a finished run on them."""
    world.seed_dataset(rows=ENOUGH_ROWS)
    world.start_approved()
    world.tick_until_state("done")


def miss_everywhere(world: World) -> None:
    """As if all five candidates had been measured and had missed the bar."""
    measure_classical(world)
    measured = comparison_of(world)
    candidates = [_missing(measured.candidates[0], 8, Candidate(free)) for free in FREE_KINDS]
    candidates += [
        _missing(measured.candidates[0], round(share * measured.n), Candidate(name, TARGET))
        for name, share in MISSED
    ]
    comparison = replace(measured, candidates=tuple(candidates), cheapest=None)
    world.store.database.change("UPDATE measurements SET result = ?", (comparison.to_json(),))


def free_models_miss(world: World) -> None:
    """As if the free models of measurement 1 had missed the bar, so that a training is not pointless."""
    comparison = comparison_of(world)
    candidates = tuple(_missing(candidate, 8) for candidate in comparison.candidates)
    missed = replace(comparison, candidates=candidates, cheapest=None).to_json()
    world.store.database.change("UPDATE measurements SET result = ? WHERE id = 1", (missed,))


def _missing(
    candidate: MeasuredCandidate, right: int, identity: Candidate | None = None
) -> MeasuredCandidate:
    scores = (1.0,) * right + (0.0,) * (candidate.n - right)
    share = right / candidate.n
    return replace(
        candidate,
        identity=identity or candidate.identity,
        scores=scores,
        score=share,
        low=0.2,
        high=0.7,
        standing="misses",
        usd_per_1000=Decimal("0.02"),
    )


def share(world: World) -> str:
    """Press *Share* on the newest estimate, and read the reply."""
    card = next(card for card in reversed(world.slack.ephemerals(ANA.id)) if SHARE in str(card.blocks))
    before = len(world.slack.ephemerals(ANA.id))
    world.slack.click(ANA.id, PRIVATE.id, card.ts, SHARE)
    world.tick_until(lambda: world.slack.ephemerals(ANA.id)[before:], "an answer")
    return words_of(world.slack.ephemerals(ANA.id)[before])


def card_of(world: World, user: Person = ANA) -> PostedMessage:
    """The newest estimate that a person was sent."""
    return next(card for card in reversed(world.slack.ephemerals(user.id)) if DETAILS in str(card.blocks))


def files_in_thread_of(world: World, words: str) -> set[str]:
    messages = world.slack.messages(PRIVATE.id)
    parent = next(message for message in messages if words in words_of(message))
    return {file.name for message in messages if message.thread_ts == parent.ts for file in message.files}


def result_of(run: Run) -> RunResult:
    assert run.result is not None
    return RunResult.from_json(run.result)


# Asking.


def test_hours_and_labels_are_added_to_the_cost(world: World) -> None:
    assert "staff time and labels" not in world.type(ESTIMATE)
    reply = world.type(f"{ESTIMATE} hours=20 rate=90 labels=500 label_usd=0.5 wrong_usd=2 retrain=6")
    assert "about $2,050, including staff time and labels" in reply  # 20 hours at $90 and 500 labels at $0.50
    details = world.estimate_details()
    assert "staff time and labels $2,050" in details and "upkeep" in details


@pytest.mark.deep
def test_an_estimate_compares_with_the_measured_comparison(world: World) -> None:
    before = f"{world.type(ESTIMATE)}\n{world.estimate_details()}"
    assert "Compared with today's model" in before and "Each month, the classical model" not in before
    assert world.type("/finetune baseline tickets candidates=classical") == ""
    until_measured(world)
    after = f"{world.type(ESTIMATE)}\n{world.estimate_details()}"
    assert "The classical model meets the bar of 85%" in after
    assert "Each month, the classical model" in after and "no charge" in after
    for saving in ("*Saves*", "Saves a month", "Net value over", "Pays back within"):
        assert saving in before and saving not in after


@pytest.mark.deep
def test_a_bar_and_a_task_that_somebody_tries_out_change_nothing_for_others(world: World) -> None:
    measure_classical(world)
    posted = len(world.cards())
    answer = world.type(f"{ESTIMATE} bar=99.5% task=style")
    changed = "Tried out: a bar of 99.5% instead of the usual 85% and the task style."
    assert f"{changed} Nothing changes for others." in answer
    assert world.store.dataset_settings.get("tickets") is None
    assert settings_audited(world) == []
    details = press_and_read_details(world)
    assert "99.5%" in details, "Details answer the same question"
    others = world.type(ESTIMATE, user=BEN)
    assert "99.5%" not in others and "Tried out" not in others
    assert len(world.cards()) == posted


def test_a_bar_is_made_the_teams_in_a_step_of_its_own_with_a_word_in_the_channel(world: World) -> None:
    measure_classical(world)
    world.type(f"{ESTIMATE} bar=99.5% task=style")
    buttons = [element["text"]["text"] for element in card_of(world).blocks[-1]["elements"]]
    assert "Make 99.5% and style the team's" in buttons
    assert not {"Start", "Start anyway"} & set(buttons), "a plan is made by the team's own bar"
    reply = press_and_read(world, cards.ADOPT)
    assert "The bar is now 99.5%. The kind of task is now style." in reply
    assert f"{ESTIMATE}" in reply.replace("100000000tokens", "100M")
    settings = world.store.dataset_settings.get("tickets")
    assert (settings.bar, settings.task_kind, settings.updated_by) == (0.995, "style", ANA.id)
    notice = world.find_message("set the bar to 99.5% (it was the usual 85%)")
    assert "the kind of task to “Write in our tone” (none was set) for `tickets`" in notice
    assert settings_audited(world) == [
        (ANA.id, "bar", "85% to 99.5%"),
        (ANA.id, "task", "none to style"),
    ]
    assert "already" in press_and_read(world, cards.ADOPT)
    assert "Tried out" not in world.type(ESTIMATE) and "99.5%" in press_and_read_details(world)


def test_a_measurement_with_another_bar_tells_the_channel(world: World) -> None:
    assert world.type("/finetune baseline tickets candidates=classical bar=90%") == ""
    until_measured(world)
    world.find_message("set the bar to 90% (it was the usual 85%) for `tickets`")
    world.find_message("meets your 90% bar")


def test_the_estimate_and_the_plan_name_the_aim(world: World) -> None:
    card = world.type(f"{ESTIMATE} task=latency")
    assert "the aim: answer faster" in card
    assert card.index("Time per answer") < card.index("Saves")
    measure_classical(world)  # may begin from a copy of a world that has reached this
    world.store.dataset_settings.set("tickets", by=ANA.id, now=world.clock, task_kind="latency")
    world.start()
    plan = world.find_message("Run 1: train", "The aim: answer faster.")
    assert "*Time per answer*: not known: measure a prompted model" in plan


def test_a_guest_gets_no_estimate_and_sets_no_bar(world: World) -> None:
    world.type(f"{ESTIMATE.replace('100M', '10k tokens')} bar=99%")  # with a next step it can't be shared
    share(world)
    world.tick_until(lambda: world.cards(), "the card", seconds=30)
    assert "Only full members" in press_and_read(world, cards.ADOPT, GUS)
    assert "Only full members" in world.type(ESTIMATE, user=GUS)
    assert "Only full members" in world.type(f"{ESTIMATE} bar=99%", user=GUS)
    assert world.store.dataset_settings.get("tickets") is None


def test_the_form_gives_the_same_estimate_as_the_command(world: World) -> None:
    costs = {"hours": "20", "rate": "$90", "labels": "500", "label_usd": "0.5"}
    assert fill_estimate(world, current="gpt-4o", volume="100 M tokens", **costs).closed
    world.wait_for_answer(ANA, 0)
    reply = words_of(world.slack.ephemerals(ANA.id)[-1])
    assert "about $2,050, including staff time and labels" in reply and "*Saves*" in reply


def test_the_forms_first_field_takes_requests_and_every_repetition_keeps_them(world: World) -> None:
    miss_everywhere(world)
    world.slack.command(ANA.id, PRIVATE.id, "/finetune estimate")
    form = world.slack.view(ANA.id)
    assert form is not None
    assert (form.blocks[0]["block_id"], form.blocks[0]["label"]["text"]) == ("volume", "Requests per month")
    before = len(world.slack.ephemerals(ANA.id))
    answers = {"dataset": "tickets", "target": TARGET, "current": "gpt-4o", "volume": "800,000"}
    assert world.slack.submit_modal(ANA.id, answers).closed
    world.wait_for_answer(ANA, before)
    assert "800,000 requests a month (" in words_of(card_of(world))
    assert "800,000 requests a month (" in press_and_read_details(world)

    press(world, cards.ANSWER)
    again = world.slack.view(ANA.id)
    assert again is not None and "800,000 requests" in str(again.blocks)
    assert world.slack.submit_modal(ANA.id, {"hours": "3"}).closed
    world.wait_for_answer(ANA, before + 1)
    assert "800,000 requests a month (" in words_of(card_of(world))

    line = f"/finetune start tickets current=gpt-4o volume=800k requests target={TARGET}"
    assert world.type(line) == ""
    world.send()
    plan = plan_from_json(world.run(1).plan)
    assert plan.predicted is not None and plan.predicted.volume is not None
    assert plan.predicted.volume.requests == 800_000
    assert "; at 800,000 requests a month" in world.find_message("Run 1: train")


def test_a_bare_number_as_the_volume_is_asked_back(world: World) -> None:
    answer = world.type(f"/finetune estimate tickets current=gpt-4o volume=20000 target={TARGET}")
    assert "Is it 20,000 requests a month, or 20,000 tokens?" in answer
    command = f"/finetune estimate tickets current=gpt-4o volume=20000requests target={TARGET}"
    assert command in answer and world.store.estimates.get(1) is None
    before = len(world.slack.ephemerals(ANA.id))
    world.slack.click(ANA.id, PRIVATE.id, world.slack.ephemerals(ANA.id)[-1].ts, "read_as_0")
    world.wait_for_answer(ANA, before)
    assert "20,000 requests a month (" in words_of(card_of(world))


def settings_audited(world: World) -> list[tuple[str, str, str]]:
    """Who set the dataset's bar or task, and to what, oldest first."""
    dataset = world.store.datasets.newest("tickets")
    assert dataset is not None
    entries = [
        (entry.who, entry.action, entry.detail)
        for entry in world.store.audit.entries(f"dataset {dataset.id}")
    ]
    return [entry for entry in entries if entry[1] in ("bar", "task")]


def press_and_read_details(world: World) -> str:
    press(world, cards.DETAILS)
    form = world.slack.view(ANA.id)
    assert form is not None
    text = str(form.blocks)
    world.slack.close_modal(ANA.id)
    return text


def test_a_form_shows_each_invalid_number_under_its_field(world: World) -> None:
    for field, typed, sentence in (
        ("volume", "lots", "as a volume"),
        ("hours", "-3", "from 0 to 100,000"),
        ("rate", "much", "I can't read"),
        ("label_usd", "-0.5", "from 0 to 10,000"),
        ("retrain", "0", "from 1 to 120"),
        ("wrong_usd", "-1", "from 0"),
        ("bar", "200%", "like 90%"),
        ("current", "gpt-9000", "gpt-9000"),
    ):
        sent = fill_estimate(world, **{"current": "gpt-4o", "volume": "10M", field: typed})
        assert set(sent.errors) == {field} and sentence in sent.errors[field], sent
        world.slack.close_modal(ANA.id)
    assert world.store.estimates.get(1) is None


def test_invalid_input_is_answered_with_the_correction(world: World) -> None:
    for line, correction in (
        (f"/finetune estimate tickets current=gpt-4o volume=0 target={TARGET}", "nothing to save"),
        (f"{ESTIMATE} hours=-2", "from 0 to 100,000"),
        (f"{ESTIMATE} label_usd=-0.1", "`label_usd=`"),
        (f"{ESTIMATE} hour=2", "Did you mean `hours`?"),
        (f"{ESTIMATE} task=styl", "Did you mean `style`?"),
        (f"{ESTIMATE} bar=0", "like 90%"),
        (ESTIMATE.removesuffix("l"), "Did you mean `acme/acme-small`"),
        ("/finetune estimate tickets current=gpt-4o volume=-5", "as a volume"),
    ):
        assert correction in world.type(line), line


def test_a_retired_target_is_a_no_and_cannot_be_started(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=RETIRED))
    world.seed_dataset()
    reply = world.type("/finetune estimate tickets current=gpt-4o volume=100M target=acme/acme-old")
    assert "the model to train is being retired" in reply and "2020-01-31" in reply
    assert "2020-01-31" in world.type("/finetune start tickets target=acme/acme-old")
    assert world.store.runs.newest() == []


def test_a_retired_model_is_offered_by_no_form_and_asked_by_no_comparison(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=RETIRED))
    world.seed_dataset()
    successor = (
        "was shut down on 2026-10-23 and no longer answers. Its maker recommends `gpt-5.6-terra` instead."
    )
    assert successor in world.type("/finetune estimate tickets current=o4-mini volume=100M")
    assert "was shut down on 2020-01-31" in world.type("/finetune baseline tickets models=acme/acme-old")
    assert "acme-old" not in str(estimate_requests.form_choices(world.service.context, ANA.id, PRIVATE.id))
    assert "acme-old" not in str(evaluations_services.form_choices(world.service.context, ANA.id, PRIVATE.id))
    assert "acme-old" not in world.type("/finetune prices")
    assert "2020-01-31, over" in world.type("/finetune prices all")


def test_people_who_choose_a_road_read_what_it_was_tried_with(world: World) -> None:
    world.seed_dataset()
    world.slack.command(ANA.id, PRIVATE.id, "/finetune estimate")
    form = world.slack.view(ANA.id)
    assert form is not None
    (field,) = (block for block in form.blocks if block["block_id"] == "target")
    below = {option["value"]: option.get("description") for option in field["element"]["options"]}
    assert below["together/Qwen/Qwen3-8B"]["text"] == (
        "Tried with a stand-in and the vendor's own types, not live"
    )
    assert below["local/smollm2-135m"]["text"] == "Tried live"
    assert below[TARGET] is None, "nobody says so of a row of the team's own"
    prices = world.type("/finetune prices")
    assert re.search(r"together[\w, -]* with a stand-in and the vendor's own types, not live", prices), prices
    of_provider = world.type("/finetune prices together")
    assert "together/Qwen/Qwen3-8B" in of_provider and "crusoe/" not in of_provider


def test_a_missing_price_says_where_to_add_it(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=UNPRICED))
    world.seed_dataset(rows=ROWS)
    world.type("/finetune estimate tickets current=gpt-4o volume=100M target=acme/acme-hole")
    details = world.estimate_details()
    assert "acme-hole" in details and "finetune.toml" in details, details
    assert "can't be approved" in world.type("/finetune start tickets target=acme/acme-hole")


def test_the_price_list_names_the_key_of_a_missing_price(make_world: MakeWorld) -> None:
    prices = make_world(Rules(more=UNPRICED)).type("/finetune prices")
    where = 'add training to finetune.toml under [providers.acme.models."acme-hole"]'
    assert f"acme/acme-hole: price unknown: {where}" in prices


def test_an_estimate_is_acked_before_it_is_calculated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def waiting(inputs: Inputs) -> Outlook:
        assert go_on.wait(PATIENCE_S)
        return forecast.simulate(inputs)

    world.slack.command(ANA.id, PRIVATE.id, "/finetune estimate")
    monkeypatch.setattr(estimates, "_simulate", waiting)
    monkeypatch.setattr(world.slack, "settle", lambda: None)  # the emulator waits for the ack alone
    world.slack.command(ANA.id, PRIVATE.id, ESTIMATE)
    answers = {"dataset": "tickets", "target": TARGET, "current": "gpt-4o", "volume": "100 M tokens"}
    assert world.slack.submit_modal(ANA.id, answers).closed
    assert not world.slack.ephemerals(ANA.id)
    go_on.set()
    world.wait_for_answer(ANA, 1)
    assert all("*Saves*" in words_of(card) for card in world.slack.ephemerals(ANA.id))


def test_a_fault_after_the_ack_is_reported_with_a_reference(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Inputs) -> Outlook:
        raise ArithmeticError

    monkeypatch.setattr(estimates, "_simulate", broken)
    assert "Reference:" in world.type(ESTIMATE)
    assert fill_estimate(world, current="gpt-4o", volume="100 M tokens").closed
    world.tick_until(lambda: any("Reference:" in text for text in world.dms()), "an apology for the form")


# What its buttons do.


def press(world: World, action: str, user: Person = ANA) -> None:
    """Press a button of Ana's newest estimate; another person presses it on the shared one."""
    card = card_of(world) if user == ANA else world.find_button(action)
    world.slack.click(user.id, PRIVATE.id, card.ts, action)
    world.send()


def press_and_read(world: World, action: str, user: Person = ANA) -> str:
    """Press a button, and read the reply that only this person sees."""
    before = len(world.slack.ephemerals(user.id))
    press(world, action, user)
    world.wait_for_answer(user, before)
    return words_of(world.slack.ephemerals(user.id)[before])


def test_start_on_an_estimate_asks_to_approve_its_plan(world: World) -> None:
    miss_everywhere(world)
    world.type(f"/finetune estimate tickets current=gpt-4o volume=100M target={TARGET} hours=3 epochs=2")
    assert card_of(world).blocks[-1]["elements"][0]["text"]["text"] == "Start anyway", (
        "gpt-4o is not measured"
    )
    press(world, cards.START)
    assert "Run 1: train acme-small on tickets" in world.find_message("Run 1: train")
    plan = plan_from_json(world.run(1).plan)
    assert plan.predicted is not None and "hours=3" in plan.predicted.asked
    assert dict(plan.hyperparameters)["n_epochs"] == 2 and plan.requester == ANA.id
    assert "The same plan is already waiting for approval" in press_and_read(world, cards.START)


@pytest.mark.deep
def test_measure_on_an_estimate_starts_the_measurement_of_its_verdict(empty: World) -> None:
    world = empty
    world.seed_dataset(rows=200)
    world.type(ESTIMATE)
    press(world, cards.MEASURE)
    until_measured(world)
    assert "no longer the next step" in press_and_read(world, cards.MEASURE)


def test_a_missing_answer_is_added_to_the_estimates_question(world: World) -> None:
    miss_everywhere(world)
    world.type(f"{ESTIMATE} epochs=2")
    press(world, cards.ANSWER)
    form = world.slack.view(ANA.id)
    assert form is not None and "100M tokens" in str(form.blocks)
    before = len(world.slack.ephemerals(ANA.id))
    assert world.slack.submit_modal(ANA.id, {"hours": "3"}).closed
    world.wait_for_answer(ANA, before)
    question = world.store.estimates.get(2).asked
    assert "hours=3" in question and "volume=100000000tokens" in question and "epochs=2" in question


def test_buttons_of_a_shared_estimate_need_the_rights_of_the_person_who_clicks(world: World) -> None:
    world.type(ESTIMATE)
    share(world)
    world.tick_until(lambda: world.cards(), "the card", seconds=30)
    for action in (cards.MEASURE, cards.DETAILS):
        assert "Only full members" in press_and_read(world, action, GUS), action
    assert world.store.measurements.open() == [] and world.slack.view(GUS.id) is None
    press(world, cards.DETAILS, BEN)
    form = world.slack.view(BEN.id)
    assert form is not None and "Assumptions" in str(form.blocks)


def test_buttons_of_a_deleted_estimate_say_that_it_is_too_old(world: World) -> None:
    world.type(ESTIMATE)
    world.store.database.change("DELETE FROM estimates")
    for action in (cards.MEASURE, cards.DETAILS):
        assert "over a month old" in press_and_read(world, action)


# Sharing.


@pytest.mark.deep
def test_an_estimate_is_shared_with_its_payback_curve(world: World) -> None:
    world.type(ESTIMATE)
    assert "will appear in the channel" in share(world)
    world.tick_until(lambda: set(world.files()) >= PLOTS, "the plots", seconds=30)
    card = world.find_message(f"shared by <@{ANA.id}>")
    assert "*Saves*" in card and "Details" in card and "Share in the channel" not in card
    assert files_in_thread_of(world, "shared by") == PLOTS
    assert "shared already" in share(world)
    world.tick(3)
    assert len(world.cards()) == 1
    assert [entry.action for entry in world.store.audit.entries("estimate 1")] == ["share"]

    # A plan without figures is made from what the team has seen, and not from what somebody tries out.
    world.type("/finetune estimate tickets current=gpt-5 volume=5B target=local/smollm2-135m epochs=1")
    planned = plan_from_json(world.start("/finetune start tickets epochs=2").plan)
    assert (planned.current, planned.provider, planned.hyperparameters) == (
        "gpt-4o",
        "acme",
        (("n_epochs", 2),),
    )
    assert f"*Taken from the estimate of {day_of(world.clock)} that <@{ANA.id}> shared*" in world.cards()[-1]
    world.start(f"{START} epochs=3")
    assert "Taken from" not in world.cards()[-1]


def test_a_second_estimate_is_shared_after_the_first_was_deleted(world: World) -> None:
    for number in (1, 2):
        world.type(ESTIMATE)
        share(world)
        world.tick_until(lambda count=number: len(world.cards()) == count, "the estimate in the channel")
        world.pass_time(ESTIMATE_KEPT_S + 1)


def test_sharing_survives_a_restart(world: World) -> None:
    world.type(ESTIMATE)
    share(world)
    world.restart()
    world.tick_until(lambda: set(world.files()) >= PLOTS, "the plots", seconds=30)
    world.tick(2)
    assert len(world.cards()) == 1 and len(world.files()) == 1


def test_the_thread_of_an_estimate_says_that_its_plots_could_not_be_drawn(world: World) -> None:
    folder = world.service.settings.data / "plots" / "estimate-1"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("not a folder", encoding="utf-8")
    world.type(ESTIMATE)
    share(world)
    world.tick_until(lambda: len(world.texts()) == 2, "the card and a sentence in its thread", seconds=30)
    assert world.find_message("shared by") and world.files() == []
    assert "Reference: " in world.find_message("could not be drawn")
    assert len(world.cards()) == 1


def test_an_estimate_without_costs_is_shared_without_plots(world: World) -> None:
    world.type(f"/finetune estimate tickets target={TARGET}")
    share(world)
    world.tick_until(lambda: world.cards(), "the card")
    assert world.find_message("shared by") and world.files() == []


def test_a_person_is_told_that_an_estimate_could_not_be_shared(world: World) -> None:
    world.type(ESTIMATE)
    share(world)
    world.store.database.change("UPDATE estimates SET asked = 'target=acme/gone'")
    world.tick(2)
    assert any("could not be shared" in text for text in world.dms()) and world.cards() == []


def test_the_approval_card_has_the_payback_curve_in_its_thread(world: World) -> None:
    run = world.start()
    world.tick_until(lambda: set(world.files()) >= PLOTS, "the plots", seconds=30)
    assert files_in_thread_of(world, "Run 1: train") == PLOTS
    world.tick(3)
    assert len(world.files()) == 1 and world.run(run.id).state == "awaiting_approval"


def test_a_plan_against_the_verdict_has_no_plots_of_savings(empty: World) -> None:
    empty.start()
    empty.tick(4)
    assert empty.files() == []


def test_a_plan_without_costs_has_no_plots(empty: World) -> None:
    empty.start(f"/finetune start tickets target={TARGET}")
    empty.tick(4)
    assert empty.files() == []


# The estimate, and what the run measured.


def test_the_plan_records_its_estimate(world: World) -> None:
    measure_classical(world)
    run = world.start(f"{START} hours=10 epochs=2")
    plan = plan_from_json(run.plan)
    assert plan.predicted is not None
    assert plan.predicted.alternative == "the classical model" and plan.predicted.alternative_micros == 0
    assert plan.predicted.measured == (("the classical model", 1.0),)
    assert plan.predicted.p_payback is None, "the classical model is enough"
    assert plan.predicted.quality is None
    assert plan_hash(plan) == run.plan_hash
    question = estimate_requests.question_of(plan)
    assert question == parse_question(f"current=gpt-4o volume=100M target={TARGET} hours=10 epochs=2")
    assert question.people_hours == Decimal(10)


def report_of(world: World, run: int) -> str:
    name = f"report-run-{run}.html"
    world.tick_until_file(name)
    return Reader(world.read_file(name)).text


@pytest.mark.deep
def test_a_result_is_compared_with_the_best_candidate_and_the_estimate(world: World) -> None:
    measure_classical(world)
    world.start()
    world.find_message("Run 1: train", "*Instead*: use the classical model", "Use it")
    world.approve()
    done = world.tick_until_state("done")
    card = world.find_message("Try it")
    assert "Against the free classical model, 100.0%" in card and "no clear difference" in card
    assert (
        "Not needed: 100.0% right, meets the usual bar of 85%" in card and "Use the classical model" in card
    )
    world.click(BEN, "run_details")
    details = world.read_form(BEN)
    assert "Quality: 100.0% (no estimate was made)" in details and "the classical model 100.0%" in details
    assert "Our estimates over the latest runs" not in details, "one run shows no trend"
    advice = result_of(done).advice
    assert advice and (advice.kind, advice.rule) == ("no_go", "cheaper rung")
    assert "Against the free classical model" in world.type("/finetune results 1")


@pytest.mark.deep
def test_the_next_plan_expects_the_quality_that_the_first_run_measured(empty: World) -> None:
    world = empty
    seed_run(world)
    world.pass_time(60)
    world.start(f"{START} epochs=2")
    plan = plan_from_json(world.newest_run().plan)
    assert plan.predicted and plan.predicted.quality == 1.0
    world.find_message(
        "Run 2: train",
        "epochs 2 (3 in ",
        "Not in the verdict: the last model on this target (",
        "has 100.0%",
    )
    world.approve()
    world.tick_until_state("done", 2)
    assert "Quality: 100.0%, as estimated" in report_of(world, 2)


@pytest.mark.deep
def test_a_plan_with_other_settings_does_not_carry_the_last_model_s_verdict(empty: World) -> None:
    world = empty
    world.provider.service.answer = lambda model, messages: "none of these"
    seed_run(world)
    world.pass_time(60)
    world.start(f"{START} epochs=2")
    world.find_message(
        "Run 2: train", "Not now: too few rows", "Not in the verdict: the last model", "has 0.0%"
    )
    world.pass_time(60)
    world.start(START)
    world.find_message("Run 3: train", "Exactly this was trained before (", "): 0.0%")
    rules = [plan_from_json(world.run(number).plan).advised for number in (2, 3)]
    assert [advised and advised.rule for advised in rules] == ["rows", "tuned"]


@pytest.mark.deep
def test_a_good_tuned_model_is_undecided_until_the_free_models_are_measured(make_world: MakeWorld) -> None:
    """The base model says 'billing' to everything, and the tuned one is always right and costs less than gpt-4o."""
    world = make_world(Rules(more=PRICES))
    world.seed_dataset(rows=ENOUGH_ROWS)
    measure(world, f"{BASELINE} candidates=zero,kshot")
    world.start_approved()
    result = result_of(world.tick_until_state("done"))
    comparison = result.comparison
    assert comparison and comparison.pairs[0].p < 0.001 and comparison.pairs[0].better.kind == "tuned"
    card = world.find_message("Result of run 1")
    assert "+66.7 points" in card and "Against the prompt alone on acme/acme-small, 33.3%" in card
    assert result.advice and result.advice.kind == "unknown", "no free candidate was measured"
    assert "Measure the free models" in result.advice.next_step
    assert "Undecided: 100.0% right" in card and "Measure alternatives" in card


@pytest.mark.deep
def test_a_good_tuned_model_is_a_go_if_all_alternatives_miss_the_bar(empty: World) -> None:
    world = empty
    world.seed_dataset(rows=ENOUGH_ROWS)
    miss_everywhere(world)
    world.start_approved()
    result = result_of(world.tick_until_state("done"))
    assert result.advice and result.advice.kind == "go", result.advice
    card = world.find_message("Try it")
    assert "Use it: 100.0% right, meets the usual bar of 85%" in card and world.has_button("put_to_work")
    assert "Planned saving" in card and "a month" in card and "; pays back" in card
    assert "Against retrieval on acme/acme-small, 51.3%" in card and "+48.7 points" in card
    estimate = world.type(f"{ESTIMATE} hours=2")
    assert "The tuned model meets the bar of 85%" in estimate
    assert "not clearly better" not in estimate, "the paired test of the run tells them apart"


@pytest.mark.deep
def test_a_tuned_model_that_may_miss_the_bar_is_no_go(empty: World) -> None:
    world = empty
    world.seed_dataset()
    miss_everywhere(world)
    world.store.dataset_settings.set("tickets", by=ANA.id, now=world.clock, bar=0.99)
    world.start_approved()
    result = result_of(world.tick_until_state("done"))
    assert (
        result.comparison and result.comparison.candidates[-1].standing == "undecided"
    )  # 18 of 18 can't claim 99%
    assert result.advice and result.advice.kind != "go"


@pytest.mark.deep
def test_a_run_of_one_base_model_says_nothing_about_another(make_world: MakeWorld) -> None:
    other = '[providers.acme.models."acme-big"]\ntraining = "8"\ninput = "1"\noutput = "2"\n'
    world = make_world(Rules(more=other))
    seed_run(world)
    assert "The tuned model meets the bar of 85%" in world.type(ESTIMATE)
    world.type(ESTIMATE.replace("acme-small", "acme-big"))
    assert "How good the tuned model will be is unknown" in world.estimate_details()


def test_a_new_bar_changes_the_verdict_on_the_tuned_model(empty: World) -> None:
    world = empty
    seed_run(world)
    world.type(f"{ESTIMATE} bar=99%")
    assert "The tuned model is too close to the bar of 99% to call" in world.estimate_details()
    assert "The tuned model meets the bar of 50%" in world.type(f"{ESTIMATE} bar=50%")


def test_a_result_of_an_older_release_still_shows(empty: World) -> None:
    seed_run(empty)
    old = replace(result_of(empty.run()), beside=None, advice=None).to_json()
    empty.store.database.change("UPDATE runs SET result = ? WHERE id = 1", (old,))
    result = empty.type("/finetune results 1")
    assert "*Right*\n100.0%" in result and "Verdict" not in result
