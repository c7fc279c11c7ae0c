"""What training would cost and save: asked in Slack, shared with its plots, and held against what it came
to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from bot.cards import estimates as cards
from bot.cards import evaluations
from bot.cards.estimates import DETAILS, SHARE
from bot.command_parser import parse_question
from bot.rules import forecast
from bot.rules.forecast import Outlook
from bot.rules.plans import plan_from_json, plan_hash
from bot.rules.roi import Inputs
from bot.services import estimate_requests, estimates
from bot.services import evaluations as evaluations_services
from bot.values.runs import RunResult
from demo.people import ANA, BEN, Person
from demo.workspace import PostedMessage, Submission
from storage.money import ESTIMATE_KEPT_S
from storage.records import Run
from tests.bot.world import GUS, PATIENCE_S, PRIVATE, START, TARGET, Rules, World, words_of
from tests.cards.test_page import Reader
from trainers.evaluation.results import FREE_RUNGS, Candidate, Ladder, Rung, RungName

MakeWorld = Callable[[Rules], World]
PRICED = '[prices."acme/acme-small"]\ninput = "0.80"\noutput = "3.20"\n'
ASKED = f"/finetune estimate tickets current=gpt-4o volume=100M target={TARGET}"
MISSED: tuple[tuple[RungName, int], ...] = (("zero", 6), ("kshot", 7), ("retrieval", 9))
ENOUGH = 240  # rows: of fewer than 200 no saving is shown
PLOTS = {"cumulative-cost.png"}


@pytest.fixture
def seeded(world: World) -> World:
    world.seed_dataset(rows=ENOUGH)
    return world


def fill(world: World, **answers: str) -> Submission:
    world.slack.command(ANA.id, PRIVATE.id, "/finetune estimate")
    return world.slack.submit_modal(ANA.id, {"dataset": "tickets", "target": TARGET, **answers})


def measured(world: World, line: str = "/finetune baseline tickets rungs=classical") -> Ladder:
    assert world.type(line) == ""
    number = world.store.measurements.open()[-1].id
    world.tick_until(lambda: world.store.measurements.get(number).state == "done", "the ladder", seconds=30)
    world.send()
    return Ladder.from_json(world.store.measurements.get(number).result)


def misses_everywhere(world: World, **rows: int) -> None:
    """As a ladder of five rungs that all miss the bar leaves it."""
    world.seed_dataset(**rows)
    found = measured(world)
    model = "acme/acme-small"
    rungs = [_missing(found.rungs[0], Candidate(free), 8) for free in FREE_RUNGS]
    rungs += [_missing(found.rungs[0], Candidate(name, model), right) for name, right in MISSED]
    ladder = replace(found, rungs=tuple(rungs), cheapest=None)
    world.store.database.change("UPDATE measurements SET result = ?", (ladder.to_json(),))


def free_models_miss(world: World) -> None:
    """As if the free models of measurement 1 missed the bar, so that a training is not pointless."""
    ladder = Ladder.from_json(str(world.store.measurements.get(1).result))
    rungs = tuple(_missing(rung, rung.arm, 8) for rung in ladder.rungs)
    missed = replace(ladder, rungs=rungs, cheapest=None).to_json()
    world.store.database.change("UPDATE measurements SET result = ? WHERE id = 1", (missed,))


def _missing(rung: Rung, arm: Candidate, right: int) -> Rung:
    scores = (1.0,) * right + (0.0,) * (rung.n - right)
    share = right / rung.n
    return replace(
        rung,
        arm=arm,
        scores=scores,
        score=share,
        low=0.2,
        high=0.7,
        standing="misses",
        usd_per_1000=Decimal("0.02"),
    )


def share(world: World) -> str:
    """Press the button of the newest estimate; what is answered."""
    card = next(one for one in reversed(world.slack.ephemerals(ANA.id)) if SHARE in str(one.blocks))
    before = len(world.slack.ephemerals(ANA.id))
    world.slack.click(ANA.id, PRIVATE.id, card.ts, SHARE)
    world.tick_until(lambda: world.slack.ephemerals(ANA.id)[before:], "an answer")
    return words_of(world.slack.ephemerals(ANA.id)[before])


def card_of(world: World, user: Person = ANA) -> PostedMessage:
    """The newest estimate that a person was sent."""
    return next(one for one in reversed(world.slack.ephemerals(user.id)) if DETAILS in str(one.blocks))


def in_thread_of(world: World, words: str) -> set[str]:
    parent = next(one for one in world.slack.messages(PRIVATE.id) if words in words_of(one))
    replies = [one for one in world.slack.messages(PRIVATE.id) if one.thread_ts == parent.ts]
    return {file.name for one in replies for file in one.files}


def result_of(run: Run) -> RunResult:
    assert run.result is not None
    return RunResult.from_json(run.result)


# Asking.


def test_what_a_person_says_changes_the_sums(seeded: World) -> None:
    plain = seeded.type(ASKED)
    said = seeded.type(f"{ASKED} hours=20 rate=90 labels=500 label_usd=0.5 wrong_usd=2 retrain=6")
    assert "staff time and labels" not in plain
    assert "about $2,050, including staff time and labels" in said  # 20 hours at $90 and 500 labels at $0.50
    assert "staff time and labels $2,050" in (shown := seeded.estimate_details()) and "upkeep" in shown


def test_an_estimate_rests_on_the_ladder_and_its_sums_add_up(seeded: World) -> None:
    before = f"{seeded.type(ASKED)}\n{seeded.estimate_details()}"
    assert "Compared with today's model" in before and "Each month, the classical model" not in before
    measured(seeded)
    after = f"{seeded.type(ASKED)}\n{seeded.estimate_details()}"
    assert "The classical model meets the bar of 85%" in after
    assert "Each month, the classical model" in after and "no charge" in after
    for saving in ("*Saves*", "Saves a month", "Net value over", "Pays back within"):
        assert saving in before and saving not in after


def test_a_bar_and_a_kind_of_task_stay_with_the_dataset(seeded: World) -> None:
    measured(seeded)
    said = seeded.type(f"{ASKED} bar=99% task=style")
    assert "used a bar of 85%; the bar is now 99%" in said
    kept = seeded.store.dataset_settings.get("tickets")
    assert (kept.bar, kept.task_kind, kept.updated_by) == (0.99, "style", ANA.id)
    assert "the bar is now 99%" in seeded.type(ASKED)


def test_a_guest_gets_no_estimate_and_sets_nothing(seeded: World) -> None:
    assert "Only full members" in seeded.type(ASKED, user=GUS)
    assert "Only full members" in seeded.type(f"{ASKED} bar=99%", user=GUS)
    assert seeded.store.dataset_settings.get("tickets") is None


def test_the_form_says_the_same_as_the_command(seeded: World) -> None:
    sent = fill(
        seeded, current="gpt-4o", volume="100 M", hours="20", rate="$90", labels="500", label_usd="0.5"
    )
    assert sent.closed
    seeded.wait_for_answer(ANA, 0)
    said = words_of(seeded.slack.ephemerals(ANA.id)[-1])
    assert "about $2,050, including staff time and labels" in said and "*Saves*" in said


@pytest.mark.parametrize(
    ("field", "typed", "sentence"),
    [
        ("volume", "lots", "as a volume"),
        ("hours", "-3", "from 0 to 100,000"),
        ("rate", "much", "I can't read"),
        ("label_usd", "-0.5", "from 0 to 10,000"),
        ("retrain", "0", "from 1 to 120"),
        ("wrong_usd", "-1", "from 0"),
        ("bar", "200%", "like 90%"),
        ("current", "gpt-9000", "gpt-9000"),
    ],
)
def test_a_figure_that_cannot_be_stands_under_its_field(
    seeded: World, field: str, typed: str, sentence: str
) -> None:
    answers = {"current": "gpt-4o", "volume": "10M", field: typed}
    sent = fill(seeded, **answers)
    assert set(sent.errors) == {field} and sentence in sent.errors[field], sent
    assert seeded.store.estimates.get(1) is None


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/finetune estimate tickets current=gpt-4o volume=0 target=acme/acme-small", "nothing to save"),
        (f"{ASKED} hours=-2", "from 0 to 100,000"),
        (f"{ASKED} label_usd=-0.1", "`label_usd=`"),
        (f"{ASKED} hour=2", "Did you mean `hours`?"),
        (f"{ASKED} task=styl", "Did you mean `style`?"),
        (f"{ASKED} bar=0", "like 90%"),
        (
            "/finetune estimate tickets current=gpt-4o volume=1M target=acme/acme-smal",
            "Did you mean `acme/acme-small`",
        ),
        ("/finetune estimate tickets current=gpt-4o volume=-5", "as a volume"),
    ],
)
def test_bad_input_is_answered_with_the_cure(seeded: World, line: str, sentence: str) -> None:
    assert sentence in seeded.type(line)


def test_a_target_that_has_ended_is_a_no_and_cannot_be_started(make_world: MakeWorld) -> None:
    ended = (
        '[providers.acme.models."acme-old"]\ntraining = "8"\ninput = "1"\noutput = "2"\nends = 2020-01-31\n'
    )
    world = make_world(Rules(more=ended))
    world.seed_dataset()
    said = world.type("/finetune estimate tickets current=gpt-4o volume=100M target=acme/acme-old")
    assert "the model to train is being retired" in said and "2020-01-31" in said
    assert "2020-01-31" in world.type("/finetune start tickets target=acme/acme-old")
    assert world.store.runs.newest() == []


def test_a_model_that_has_ended_is_offered_by_no_form_and_asked_by_no_ladder(make_world: MakeWorld) -> None:
    ended = (
        '[providers.acme.models."acme-old"]\ntraining = "8"\ninput = "1"\noutput = "2"\nends = 2020-01-31\n'
    )
    world = make_world(Rules(more=ended))
    world.seed_dataset()
    gone = "was shut down on 2026-10-23 and no longer answers. Its maker recommends `gpt-5.6-terra` instead."
    assert gone in world.type("/finetune estimate tickets current=o4-mini volume=100M")
    assert "was shut down on 2020-01-31" in world.type("/finetune baseline tickets models=acme/acme-old")
    assert "acme-old" not in str(estimate_requests.form_choices(world.service.context, ANA.id, PRIVATE.id))
    assert "acme-old" not in str(evaluations_services.form_choices(world.service.context, ANA.id, PRIVATE.id))
    assert "ended 2020-01-31" in world.type("/finetune prices")


def test_a_price_with_a_hole_says_where_to_fill_it(make_world: MakeWorld) -> None:
    hole = '[providers.acme.models."acme-hole"]\ninput = "1"\noutput = "2"\n'
    world = make_world(Rules(more=hole))
    world.seed_dataset(rows=ENOUGH)
    world.type("/finetune estimate tickets current=gpt-4o volume=100M target=acme/acme-hole")
    said = world.estimate_details()
    assert "acme-hole" in said and "finetune.toml" in said, said
    assert "can't be approved" in world.type("/finetune start tickets target=acme/acme-hole")


def test_prices_name_the_model_that_has_a_hole_and_its_key(make_world: MakeWorld) -> None:
    hole = '[providers.acme.models."acme-hole"]\ninput = "1"\noutput = "2"\n'
    said = make_world(Rules(more=hole)).type("/finetune prices")
    where = 'add training to finetune.toml under [providers.acme.models."acme-hole"]'
    assert f"acme/acme-hole: price unknown: {where}" in said


def test_an_estimate_is_acked_before_its_sums_are_made(
    seeded: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, simulate = threading.Event(), forecast.simulate

    def waiting(inputs: Inputs) -> Outlook:
        go_on.wait(PATIENCE_S)
        return simulate(inputs)

    monkeypatch.setattr(estimates, "simulate", waiting)
    seeded.slack.command(ANA.id, PRIVATE.id, ASKED)
    assert fill(seeded, current="gpt-4o", volume="100 M").closed
    assert not seeded.slack.ephemerals(ANA.id)
    go_on.set()
    seeded.wait_for_answer(ANA, 1)
    assert all("*Saves*" in words_of(one) for one in seeded.slack.ephemerals(ANA.id))


def test_a_fault_after_the_ack_is_told_with_its_reference(
    seeded: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Inputs) -> Outlook:
        raise ArithmeticError

    monkeypatch.setattr(estimates, "_simulate", broken)
    assert "Reference:" in seeded.type(ASKED)
    assert fill(seeded, current="gpt-4o", volume="100 M").closed
    seeded.tick_until(lambda: any("Reference:" in text for text in seeded.dms()), "an apology for the form")


# What its buttons do.


def press(world: World, action: str, user: Person = ANA) -> None:
    """A button of Ana's newest estimate. Another person finds it on the shared one."""
    card = card_of(world) if user == ANA else world.find_button(action)
    world.slack.click(user.id, PRIVATE.id, card.ts, action)
    world.send()


def refusal(world: World, action: str, user: Person = ANA) -> str:
    """What the person alone reads who pressed it."""
    before = len(world.slack.ephemerals(user.id))
    press(world, action, user)
    world.wait_for_answer(user, before)
    return words_of(world.slack.ephemerals(user.id)[before])


def test_start_on_an_estimate_asks_for_the_approval_of_its_plan(world: World) -> None:
    misses_everywhere(world, rows=ENOUGH)
    world.type(f"/finetune estimate tickets current=gpt-4o volume=100M target={TARGET} hours=3 epochs=2")
    assert card_of(world).blocks[-1]["elements"][0]["text"]["text"] == "Start anyway", (
        "gpt-4o is not measured"
    )
    press(world, cards.START)
    assert "Run 1: train acme-small on tickets" in world.find_message("Run 1: train")
    plan = plan_from_json(world.run(1).plan)
    assert plan.predicted is not None and "hours=3" in plan.predicted.asked
    assert dict(plan.hyperparameters)["n_epochs"] == 2 and plan.requester == ANA.id
    assert "The same plan is already waiting for approval" in refusal(world, cards.START)


def test_measure_on_an_estimate_asks_for_the_measurement_of_its_verdict(seeded: World) -> None:
    seeded.type(ASKED)
    press(seeded, cards.MEASURE)
    number = seeded.store.measurements.open()[-1].id
    seeded.tick_until(lambda: seeded.store.measurements.get(number).state == "done", "the ladder", seconds=30)
    seeded.send()
    assert "no longer the next step" in refusal(seeded, cards.MEASURE)


def test_what_an_estimate_lacks_is_added_to_what_it_was_asked(world: World) -> None:
    misses_everywhere(world, rows=ENOUGH)
    world.type(f"{ASKED} epochs=2")
    press(world, cards.ANSWER)
    form = world.slack.view(ANA.id)
    assert form is not None and "100000000" in str(form.blocks)
    before = len(world.slack.ephemerals(ANA.id))
    assert world.slack.submit_modal(ANA.id, {"hours": "3"}).closed
    world.wait_for_answer(ANA, before)
    asked = world.store.estimates.get(2).asked
    assert "hours=3" in asked and "volume=100000000" in asked and "epochs=2" in asked


def test_the_buttons_of_a_shared_estimate_ask_for_the_rights_of_who_clicks(seeded: World) -> None:
    seeded.type(ASKED)
    share(seeded)
    seeded.tick_until(lambda: seeded.cards(), "the card", seconds=30)
    for action in (cards.MEASURE, cards.DETAILS):
        assert "Only full members" in refusal(seeded, action, GUS), action
    assert seeded.store.measurements.open() == [] and seeded.slack.view(GUS.id) is None
    press(seeded, cards.DETAILS, BEN)
    form = seeded.slack.view(BEN.id)
    assert form is not None and "Assumptions" in str(form.blocks)


def test_an_estimate_that_is_gone_says_so(seeded: World) -> None:
    seeded.type(ASKED)
    seeded.store.database.change("DELETE FROM estimates")
    for action in (cards.MEASURE, cards.DETAILS):
        assert "over a month old" in refusal(seeded, action)


# Sharing.


def test_an_estimate_is_shared_with_its_payback_curve(seeded: World) -> None:
    seeded.type(ASKED)
    assert "will appear in the channel" in share(seeded)
    seeded.tick_until(lambda: set(seeded.files()) >= PLOTS, "the plots", seconds=30)
    card = seeded.find_message(f"shared by <@{ANA.id}>")
    assert "*Saves*" in card and "Details" in card and "Share in the channel" not in card
    assert in_thread_of(seeded, "shared by") == PLOTS
    assert "shared already" in share(seeded)
    seeded.tick(3)
    assert len(seeded.cards()) == 1
    assert [entry.action for entry in seeded.store.audit.entries("estimate 1")] == ["share"]


def test_an_estimate_after_a_quiet_month_is_shared_as_the_first_was(seeded: World) -> None:
    for number in (1, 2):
        seeded.type(ASKED)
        share(seeded)
        seeded.tick_until(lambda count=number: len(seeded.cards()) == count, "the estimate in the channel")
        seeded.pass_time(ESTIMATE_KEPT_S + 1)


def test_a_wish_to_share_outlives_a_restart(seeded: World) -> None:
    seeded.type(ASKED)
    share(seeded)
    seeded.restart()
    seeded.tick_until(lambda: set(seeded.files()) >= PLOTS, "the plots", seconds=30)
    seeded.tick(2)
    assert len(seeded.cards()) == 1 and len(seeded.files()) == 1


def test_an_estimate_without_a_sum_is_shared_without_plots(seeded: World) -> None:
    seeded.type(f"/finetune estimate tickets target={TARGET}")
    share(seeded)
    seeded.tick_until(lambda: seeded.cards(), "the card")
    assert seeded.find_message("shared by") and seeded.files() == []


def test_what_cannot_be_estimated_any_more_is_told_to_who_shares_it(seeded: World) -> None:
    seeded.type(ASKED)
    share(seeded)
    seeded.store.database.change("UPDATE estimates SET asked = 'target=acme/gone'")
    seeded.tick(2)
    assert any("could not be shared" in text for text in seeded.dms()) and seeded.cards() == []


def test_the_approval_card_has_the_payback_curve_in_its_thread(seeded: World) -> None:
    run = seeded.start()
    seeded.tick_until(lambda: set(seeded.files()) >= PLOTS, "the plots", seconds=30)
    assert in_thread_of(seeded, "Run 1: train") == PLOTS
    seeded.tick(3)
    assert len(seeded.files()) == 1 and seeded.run(run.id).state == "awaiting_approval"


def test_a_plan_against_the_verdict_has_no_plots_of_savings(world: World) -> None:
    world.start()
    world.tick(4)
    assert world.files() == []


def test_a_plan_without_a_sum_has_none(world: World) -> None:
    world.start(f"/finetune start tickets target={TARGET}")
    world.tick(4)
    assert world.files() == []


# What was predicted, and what came of it.


def test_the_plan_holds_what_the_estimate_said(seeded: World) -> None:
    measured(seeded)
    run = seeded.start(f"{START} hours=10 epochs=2")
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
    return Reader(world.posted(name)).text


def test_a_result_is_held_against_the_best_rung_and_the_estimate(seeded: World) -> None:
    measured(seeded)
    seeded.start_approved()
    done = seeded.tick_until_state("done")
    card = seeded.find_message("Try it")
    assert "Against the free classical model, 100.0%" in card and "no clear difference" in card
    assert (
        "Not needed: 100.0% right, meets your 85% bar; no clear difference from the free classical model"
        in card
    )
    assert "Use the classical model" in card
    seeded.click(BEN, "run_details")
    beside = seeded.read_form(BEN)
    assert "Quality: 100.0% (no estimate was made)" in beside and "the classical model 100.0%" in beside
    assert "Our estimates over the latest runs" not in beside, "one run says nothing of that"
    advice = result_of(done).advice
    assert advice and (advice.kind, advice.rule) == ("no_go", "cheaper rung")
    assert "Against the free classical model" in seeded.type("/finetune results 1")


def test_the_next_plan_expects_what_the_first_run_measured(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")
    world.pass_time(60)
    world.start(f"{START} epochs=2")
    plan = plan_from_json(world.newest_run().plan)
    assert plan.predicted and plan.predicted.quality == 1.0
    world.approve()
    world.tick_until_state("done", 2)
    assert "Quality: 100.0%, as estimated" in report_of(world, 2)


def test_a_tuned_model_that_is_good_where_prompts_are_not_is_a_go(make_world: MakeWorld) -> None:
    """The base model says 'billing' to everything, and the tuned one is always right and costs less than gpt-4o."""
    world = make_world(Rules(more=PRICED))
    world.seed_dataset()
    world.type("/finetune baseline tickets models=acme/acme-small rungs=zero,kshot,retrieval")
    world.tick_until(lambda: world.store.measurements.get(1).reserved_micros, "its price", seconds=30)
    world.send()
    world.click(BEN, evaluations.MEASURE)
    world.tick_until(lambda: world.store.measurements.get(1).state == "done", "the ladder", seconds=30)
    world.start_approved()
    result = result_of(world.tick_until_state("done"))
    ladder = result.ladder
    assert ladder and ladder.pairs[0].p < 0.001 and ladder.pairs[0].better.rung == "tuned"
    card = world.find_message("Try it")
    assert "+66.7 points" in card and "Against the prompt alone on acme/acme-small, 33.3%" in card
    assert result.advice and result.advice.kind == "unknown", "no free rung was measured"
    assert "Measure the free models" in result.advice.next_step
    assert "Undecided: 100.0% right" in card and "Measure the free models" in card, "one answer"


def test_where_all_other_ways_miss_the_bar_a_good_tuned_model_is_to_be_used(world: World) -> None:
    misses_everywhere(world)
    world.start_approved()
    result = result_of(world.tick_until_state("done"))
    assert result.advice and result.advice.kind == "go", result.advice
    card = world.find_message("Try it")
    assert "Deploy it: 100.0% right, meets your 85% bar" in card and world.has_button("put_to_work")
    assert "Planned saving" in card and "a month" in card and "; pays back" in card
    assert "Against retrieval on acme/acme-small, 50.0%" in card and "+50.0 points" in card
    again = world.type(f"{ASKED} hours=2")
    assert "The tuned model meets the bar of 85%" in again
    assert "not clearly better" not in again, "the paired test of the run tells them apart"


def test_a_tuned_model_that_misses_the_bar_is_not_to_be_used(world: World) -> None:
    misses_everywhere(world)
    world.store.dataset_settings.set("tickets", by=ANA.id, now=world.clock, bar=0.99)
    world.start_approved()
    result = result_of(world.tick_until_state("done"))
    assert result.ladder and result.ladder.rungs[-1].standing == "undecided"  # 18 of 18 can't claim 99%
    assert result.advice and result.advice.kind != "go"


def test_what_another_base_model_has_learnt_says_nothing_of_this_one(make_world: MakeWorld) -> None:
    other = '[providers.acme.models."acme-big"]\ntraining = "8"\ninput = "1"\noutput = "2"\n'
    world = make_world(Rules(more=other))
    world.start_approved()
    world.tick_until_state("done")
    assert "The tuned model meets the bar of 85%" in world.type(ASKED)
    world.type(ASKED.replace("acme-small", "acme-big"))
    assert "How good the tuned model will be is unknown" in world.estimate_details()


def test_another_bar_judges_the_tuned_model_again(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")
    world.type(f"{ASKED} bar=99%")
    assert "The tuned model is too close to the bar of 99% to call" in world.estimate_details()
    assert "The tuned model meets the bar of 50%" in world.type(f"{ASKED} bar=50%")


def test_a_result_from_before_still_shows(world: World) -> None:
    world.start_approved()
    run = world.tick_until_state("done")
    old = replace(result_of(run), beside=None, advice=None).to_json()
    world.store.database.change("UPDATE runs SET result = ? WHERE id = 1", (old,))
    said = world.type("/finetune results 1")
    assert "*Right*\n100.0%" in said and "Verdict" not in said
