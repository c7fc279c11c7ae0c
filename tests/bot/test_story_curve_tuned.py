"""A tuned model's learning curve at a company: asked for, agreed to, trained three times, told; stopped,
cancelled."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from bot.cards import evaluations, tuned_learning_curves
from bot.rules.permissions import Caller, Person
from bot.services import authorization, provider_jobs
from bot.services import tuned_learning_curves as tuned_learning_curves_services
from bot.services.data_policy import Forbidden, Unsure
from bot.services.provider_jobs import LOOK_AGAIN_S, MAX_CREATES, SETTLE_S
from bot.services.tuned_learning_curves import DOUBT_LOOK_S, DOUBT_S, GIVE_UP_UNSEEN_S
from bot.values.learning_curves import TunedCurvePlan, TunedCurveProgress, plan_of
from demo.people import ANA, BEN
from demo.slack_emulator import refused
from storage.records import Measurement
from tests.bot.props import tickets_csv
from tests.bot.test_story_ladder import CHAT, HELD, measurement, until, until_asked
from tests.bot.test_story_waivers import with_addresses
from tests.bot.world import GUS, JOBS, Rules, World
from tests.peers.hosted import COMMIT_THEN_500, COMMIT_THEN_CUT, NOT_AVAILABLE, NOTHING_BUT_500, RESET, Fault
from trainers.evaluation.results import Candidate, Curve

TARGET = "acme/acme-small"
CURVE = f"/finetune curve tickets target={TARGET}"
SIZES = [10, 21, 42]
MakeWorld = Callable[[Rules], World]


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return with_short_trainings(make_world(Rules()))


def with_short_trainings(world: World) -> World:
    """The company bills as many tokens as so few rows have."""
    world.provider.service.trained_tokens = 400
    return world


def progress(world: World, number: int = 1) -> TunedCurveProgress:
    return TunedCurveProgress.from_json(measurement(world, number).progress)


def agreed(world: World, line: str = CURVE, number: int = 1) -> Measurement:
    assert world.type(line) == ""
    until_asked(world, number)
    world.click(BEN, tuned_learning_curves.TRAIN)
    return measurement(world, number)


def until_size(world: World, at: int, state: str, *, number: int = 1, seconds: float = 20) -> None:
    def is_there() -> bool:
        sizes = progress(world, number).sizes
        return len(sizes) > at and sizes[at].state == state

    world.tick_until(is_there, f"size {at + 1} to be {state}", seconds=seconds)


def test_trainings_whose_tokens_nobody_names_cost_what_was_planned(world: World) -> None:
    world.provider.service.trained_tokens = None
    world.seed_dataset()
    plan = plan_of(agreed(world).plan)
    assert isinstance(plan, TunedCurvePlan)
    until_size(world, 0, "done")
    assert progress(world).sizes[0].spent_micros >= plan.sizes[0].training_micros > 0


def only_three_jobs(world: World) -> None:
    keys = [job.request["metadata"]["finetune_key"] for job in world.provider.service.jobs.values()]
    assert len(keys) == len(set(keys)) == 3


def test_three_trainings_are_agreed_to_and_make_one_curve(world: World) -> None:
    world.seed_dataset()
    assert world.type(f"{CURVE} label_usd=0.50 predict=1000,84") == ""
    asked = until_asked(world)
    assert asked.state == "asked" and world.jobs() == 0
    assert world.store.committed(asked.month) == asked.reserved_micros > 0
    card = world.find_message("Train 3 models for")
    assert "10 rows" in card and "21 rows" in card and "42 rows" in card and TARGET in card
    world.click(BEN, tuned_learning_curves.TRAIN)
    done = until(world, "done")
    curve = Curve.from_json(str(done.result))
    assert curve.arm == Candidate("tuned", TARGET) and [point.rows for point in curve.points] == SIZES
    assert [point.score for point in curve.points] == [1.0, 1.0, 1.0]
    assert [one.rows for one in curve.predicted] == [84, 1000]
    assert world.provider.count(CHAT) == 3 * HELD
    only_three_jobs(world)
    assert 0 < (done.actual_micros or 0) <= done.reserved_micros
    assert world.store.committed(done.month) == done.actual_micros
    result = world.find_message(
        "Learning curve m1: tickets", "classical model", "Each size was trained only once"
    )
    assert TARGET in result and "curve.png" in world.files()
    assert len(world.cards()) == 1, "the result takes the place of the card"
    assert f"<@{ANA.id}> m1 is done" in world.find_message("curve.png")
    actions = [entry.action for entry in world.store.audit.entries("measurement 1")]
    assert actions == ["curve", "agree", "started", "started", "started", "measured"]
    assert TARGET in world.type("/finetune results m1")


def test_each_size_is_trained_on_nested_rows_and_leaves_no_file_behind(world: World) -> None:
    world.seed_dataset()
    agreed(world)
    sent: dict[str, set[str]] = {}

    def watch() -> bool:
        for file in world.provider.service.files.values():
            if file.purpose == "fine-tune":
                sent[file.name] = {json.dumps(json.loads(row)) for row in file.content.splitlines()}
        return measurement(world).state == "done"

    world.tick_until(watch, "the curve", seconds=30)
    small, half, whole = sorted(sent.values(), key=len)
    assert [len(small), len(half), len(whole)] == SIZES and small < half < whole
    assert world.files_at_provider() == []
    models = [job.request["suffix"] for job in world.provider.service.jobs.values()]
    assert models == ["tickets-10", "tickets-21", "tickets-42"]
    assert world.store.models() == []


def test_the_card_says_which_size_is_trained(world: World) -> None:
    world.seed_dataset()
    agreed(world)
    until_size(world, 1, "training")
    world.send()
    assert world.find_message("Learning curve m1: size 2 of 3")
    card = json.dumps(list(world.find_button(evaluations.CANCEL).blocks))
    assert (
        "10 rows: trained and measured" in card and "21 rows: training" in card and "42 rows: waiting" in card
    )


def test_a_done_run_has_trained_the_largest_size(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")
    jobs, asked = world.jobs(), world.provider.count(CHAT)
    agreed(world)
    assert progress(world).to_train == 2 and "trained already by run 1" in world.find_message(
        "Train 2 models"
    )
    done = until(world, "done")
    assert world.jobs() == jobs + 2 and world.provider.count(CHAT) == asked + 2 * HELD
    assert [one.rows for one in Curve.from_json(str(done.result)).points] == SIZES


def test_a_repeat_trains_and_asks_nothing(world: World) -> None:
    world.seed_dataset()
    agreed(world)
    until(world, "done")
    asked = world.provider.count(CHAT)
    assert world.type(CURVE) == ""
    again = until(world, "done", 2)
    assert world.jobs() == 3 and world.provider.count(CHAT) == asked and again.actual_micros == 0
    assert again.result == measurement(world).result


def test_a_stop_at_every_tick_trains_each_size_once(world: World) -> None:
    world.seed_dataset()
    agreed(world)
    for _ in range(40):
        if measurement(world).state == "done":
            break
        world.restart()
        world.tick()
    until(world, "done")
    only_three_jobs(world)
    assert len([text for text in world.texts() if "Learning curve m1: tickets" in text]) == 1


@pytest.mark.parametrize(
    "fault", [COMMIT_THEN_500, NOTHING_BUT_500, pytest.param(RESET, marks=pytest.mark.slow)]
)
def test_a_lost_answer_to_a_create_makes_no_second_job(world: World, fault: Fault) -> None:
    world.seed_dataset()
    world.provider.fail(f"POST {JOBS}", fault)
    agreed(world)
    until_size(world, 0, "creating")
    world.restart()
    world.tick(3)
    assert world.jobs() == (1 if fault.commit else 0) and world.provider.count(f"POST {JOBS}") == 1
    world.pass_time(SETTLE_S)
    until(world, "done")
    only_three_jobs(world)


def in_doubt(world: World) -> int:
    """The first size's create stayed without an answer too often; the most that it could cost."""
    world.seed_dataset()
    world.provider.fail(f"POST {JOBS}", NOTHING_BUT_500, MAX_CREATES)
    agreed(world)
    plan = plan_of(measurement(world).plan)
    assert isinstance(plan, TunedCurvePlan)
    for number in range(1, MAX_CREATES + 1):
        world.tick_until(lambda n=number: world.provider.count(f"POST {JOBS}") == n, "a create")  # type: ignore[misc]
        world.pass_time(SETTLE_S)
    world.tick_until(lambda: "Checking again" in (progress(world).note or ""), "the doubt")
    world.send()
    assert f"asked {MAX_CREATES} times" in world.find_message(
        "until somebody cancels", "gave no clear answer"
    )
    return plan.sizes[0].most_micros


def test_a_doubt_that_lasts_a_day_counts_as_paid(world: World) -> None:
    most = in_doubt(world)
    world.pass_time(DOUBT_S / 2)
    world.tick()
    assert measurement(world).state == "running"
    world.pass_time(DOUBT_S)
    assert until(world, "failed").actual_micros == most
    assert "A job may have run there" in world.find_message("Learning curve m1 failed", "counts as spent")


def test_a_doubt_that_is_given_up_costs_nothing_where_surely_nothing_is_there(world: World) -> None:
    in_doubt(world)
    world.click(ANA, evaluations.CANCEL)
    assert until(world, "cancelled").actual_micros == 0
    assert world.jobs() == 0


def test_a_doubt_where_nobody_can_look_is_given_up_after_an_hour_and_counts_as_paid(world: World) -> None:
    most = in_doubt(world)
    world.provider.fail(f"GET {JOBS}", NOT_AVAILABLE, 1_000)
    world.click(ANA, evaluations.CANCEL)
    world.pass_time(GIVE_UP_UNSEEN_S)
    assert until(world, "cancelled").actual_micros == most
    assert f"Cancelled by <@{ANA.id}>" in world.find_message(
        "Learning curve m1 was cancelled", "A job may have run there"
    )


def test_a_job_that_shows_up_in_a_doubt_is_taken_over(world: World) -> None:
    world.seed_dataset()
    world.provider.fail(f"POST {JOBS}", COMMIT_THEN_500)
    agreed(world)
    until_size(world, 0, "creating")
    world.provider.fail(f"GET {JOBS}", NOT_AVAILABLE)
    world.pass_time(LOOK_AGAIN_S)
    world.tick_until(lambda: "Checking again" in (progress(world).note or ""), "the doubt")
    world.pass_time(DOUBT_LOOK_S)
    until(world, "done")
    only_three_jobs(world)


def test_a_no_after_days_of_training_begins_a_doubt_and_ends_nothing(world: World) -> None:
    world.seed_dataset()
    agreed(world)
    until_size(world, 0, "training")
    job = f"GET {JOBS}/{progress(world).sizes[0].job_id}"
    world.provider.fail(job, NOT_AVAILABLE)
    world.pass_time(2 * DOUBT_S)
    world.tick_until(lambda: progress(world).sizes[0].doubted_since is not None, "the doubt")
    assert measurement(world).state == "running"
    world.pass_time(DOUBT_LOOK_S)
    until(world, "done")
    only_three_jobs(world)


def test_cancel_cancels_the_job_and_keeps_what_was_trained(world: World) -> None:
    world.seed_dataset()
    agreed(world)
    until_size(world, 1, "training")
    world.tick_until(lambda: progress(world).sizes[1].training.running_since, "its first step")
    plan = plan_of(measurement(world).plan)
    assert isinstance(plan, TunedCurvePlan)
    first, second = progress(world).sizes[0].spent_micros, plan.sizes[1]
    assert "Cancelling m1" in world.type("/finetune cancel m1")
    cancelled = until(world, "cancelled")
    assert cancelled.actual_micros == first + second.training_micros, (
        "the stand-in says neither step nor bill"
    )
    jobs = list(world.provider.service.jobs.values())
    assert [job.is_cancelled for job in jobs] == [False, True] and world.files_at_provider() == []
    assert 0 < (cancelled.actual_micros or 0) < cancelled.reserved_micros
    assert f"Cancelled by <@{ANA.id}>" in world.find_message(
        "Learning curve m1 was cancelled", "Trained models are kept"
    )
    agreed(world, number=2)
    assert progress(world, 2).to_train == 2
    until(world, "done", 2)
    assert world.jobs() == 4


def test_the_card_s_button_cancels_a_create_in_doubt(world: World) -> None:
    world.seed_dataset()
    world.provider.fail(f"POST {JOBS}", COMMIT_THEN_500)
    agreed(world)
    until_size(world, 0, "creating")
    world.send()
    world.click(ANA, evaluations.CANCEL)
    until(world, "cancelled")
    assert [job.is_cancelled for job in world.provider.service.jobs.values()] == [True]


def test_cancel_while_it_waits_for_a_yes_costs_nothing(world: World) -> None:
    world.seed_dataset()
    world.type(CURVE)
    asked = until_asked(world)
    world.click(ANA, evaluations.CANCEL)
    world.pass_time(61)
    cancelled = until(world, "cancelled")
    assert cancelled.actual_micros == 0 and world.store.committed(asked.month) == 0 and world.jobs() == 0


def test_nobody_s_yes_within_a_day_is_a_no(world: World) -> None:
    world.seed_dataset()
    world.type(CURVE)
    until_asked(world)
    world.pass_time(24 * 3600 + 61)
    until(world, "cancelled")
    assert world.jobs() == 0
    assert "Nobody agreed" in world.find_message("Learning curve m1 was cancelled")


def test_a_guest_can_t_agree(world: World) -> None:
    world.seed_dataset()
    world.type(CURVE)
    until_asked(world)
    assert "Only full members" in world.click_and_read(GUS, tuned_learning_curves.TRAIN)
    assert measurement(world).state == "asked"


def test_a_size_is_not_trained_once_who_agreed_may_no_more(world: World) -> None:
    world.seed_dataset()
    agreed(world)
    until_size(world, 0, "training")
    world.slack.set_kind(BEN.id, "guest")
    failed = until(world, "failed")
    said = world.find_message("Learning curve m1 failed")
    assert "who agreed to this, may not measure here any more" in said and "for 21 rows" in said
    assert world.jobs() == 1 and 0 < (failed.actual_micros or 0) < failed.reserved_micros
    assert world.files_at_provider() == []


def test_a_size_is_not_trained_at_another_address_than_was_agreed(world: World) -> None:
    world.seed_dataset()
    agreed(world)
    until_size(world, 0, "evaluating")
    world.rules.provider_is_remote = True  # the same company, by another address
    world.restart()
    failed = until(world, "failed")
    said = world.find_message("Learning curve m1 failed")
    assert "The trainer of Acme Tuning was at" in said and "No job was started for 21 rows" in said
    assert world.jobs() == 1 and 0 < (failed.actual_micros or 0) < failed.reserved_micros


def test_a_create_in_doubt_is_not_over_because_the_address_changed(world: World) -> None:
    world.seed_dataset()
    world.provider.fail(f"POST {JOBS}", COMMIT_THEN_500)
    agreed(world)
    until_size(world, 0, "creating")
    world.rules.provider_is_remote = True
    world.restart()
    world.tick_until(lambda: "may have been created" in (progress(world).note or ""), "the doubt")
    assert measurement(world).state == "running"
    world.rules.provider_is_remote = False
    world.restart()
    world.pass_time(SETTLE_S)
    until(world, "done")
    only_three_jobs(world)


def test_a_curve_of_an_older_release_keeps_the_keys_of_its_jobs(world: World) -> None:
    world.seed_dataset()
    plan = plan_of(agreed(world).plan)
    assert isinstance(plan, TunedCurvePlan) and plan.destination
    older = replace(plan, destination=None)
    assert "destination" not in older.to_json() and plan_of(older.to_json()) == older


def test_a_create_in_doubt_is_looked_for_before_who_agreed_is(world: World) -> None:
    world.seed_dataset()
    world.provider.fail(f"POST {JOBS}", COMMIT_THEN_500)
    agreed(world)
    world.tick_until(lambda: world.jobs() == 1, "the job")
    world.slack.set_kind(BEN.id, "guest")
    until_size(world, 0, "training")
    until(world, "failed")
    assert world.jobs() == 1


def test_a_doubt_after_the_upload_leaves_no_file_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([None, Unsure("Slack didn't say.")])
    monkeypatch.setattr(
        tuned_learning_curves_services, "consent_refusal", lambda _: next(answers, Forbidden("Not any more."))
    )
    world.seed_dataset()
    agreed(world)
    until(world, "failed")
    assert world.provider.count("POST /files") == 1 and world.jobs() == 0
    assert world.files_at_provider() == []


def test_a_guest_is_known_to_be_one_whatever_groups_were_not_asked_for(world: World) -> None:
    rules = authorization.current_rules(world.service.context, "measure")
    guest = Caller(Person(GUS.id, is_guest=True), rules)
    assert authorization.is_certain(guest)
    assert not authorization.is_certain(replace(guest, person=None))
    assert not authorization.is_certain(replace(guest, rules=replace(rules, members={"S0LEADS": None})))


def test_a_size_waits_while_slack_does_not_tell_who_agreed(world: World) -> None:
    world.seed_dataset()
    agreed(world)
    until_size(world, 0, "training")
    world.slack.fail("users.info", refused("internal_error"), times=None)
    world.tick_until(lambda: "Slack didn't say" in str(progress(world).note), "the note")
    assert world.jobs() == 1
    world.slack.clear_faults()
    until(world, "done")
    only_three_jobs(world)


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (Rules(measurement="0.001"), "the limit for one measurement is"),
        (Rules(budget="0.001"), "Raise `monthly_usd`"),
    ],
)
def test_what_is_too_dear_is_refused_before_anything_is_sent(
    make_world: MakeWorld, rules: Rules, why: str
) -> None:
    world = make_world(rules)
    world.seed_dataset()
    world.type(CURVE)
    until(world, "failed")
    assert why in world.find_message("Learning curve m1 failed") and world.provider.count("POST /files") == 0


def test_one_that_costs_more_than_agreed_is_stopped(world: World) -> None:
    world.seed_dataset()
    agreed(world)
    world.provider.service.trained_tokens = 100_000
    until(world, "failed")
    assert "more than" in world.find_message("Learning curve m1 failed") and world.jobs() == 1


def test_a_refusal_takes_the_file_back(world: World) -> None:
    world.seed_dataset()
    world.provider.fail(f"POST {JOBS}", NOT_AVAILABLE)
    agreed(world)
    failed = until(world, "failed")
    assert failed.actual_micros == 0 and world.files_at_provider() == []
    assert "Training on 10 rows was refused" in world.find_message("Learning curve m1 failed")


def test_a_training_that_fails_ends_it_with_the_reason(world: World) -> None:
    world.seed_dataset()
    world.provider.service.stages = ("running", "failed")
    world.provider.service.failure = {"code": "bad", "message": "Loss is <nan>.", "param": None}
    agreed(world)
    until(world, "failed")
    assert (
        "Training on 10 rows failed: Loss is" in world.find_message("Learning curve m1 failed")
        and world.jobs() == 1
    )


def test_a_model_that_answers_nobody_ends_it(world: World) -> None:
    world.seed_dataset()
    world.provider.fail(CHAT, Fault(commit=False, status=404, code="model_not_found"), 50)
    agreed(world)
    until(world, "failed")
    assert "Measuring failed" in world.find_message("Learning curve m1 failed")


def test_cancel_while_it_is_measured_pays_for_what_is_under_way(world: World) -> None:
    world.seed_dataset()
    agreed(world)
    until_size(world, 0, "evaluating")
    world.provider.slow_s = 0.3
    world.tick()
    world.type("/finetune cancel m1")
    trained = 400 * 8  # micro-dollars, at $8 per 1M tokens
    assert (until(world, "cancelled").actual_micros or 0) > trained
    assert world.jobs() == 1 and 0 < world.provider.count(CHAT) < HELD


def test_a_trainer_that_serves_no_model_is_refused(make_world: MakeWorld) -> None:
    mute = '[providers.mute]\ntitle = "Mute"\nbase_url = "http://127.0.0.1:9/v1"\nabilities = ["metadata"]\n'
    mute += '[providers.mute.models.m]\ntraining = "1"\ninput = "1"\noutput = "1"\n'
    world = make_world(Rules(more=mute))
    world.seed_dataset()
    assert "can't serve a curve's models" in world.type("/finetune curve tickets target=mute/m")
    assert "I know no model to train" in world.type("/finetune curve tickets target=mute/nothing")
    assert world.store.measurements.newest() == []


def test_few_rows_are_refused(world: World) -> None:
    assert world.upload_and_check(tickets_csv(48)).state == "ready"
    assert "needs at least 40" in world.type(CURVE)


def test_personal_data_needs_a_waiver(make_world: MakeWorld) -> None:
    world = make_world(Rules(provider_is_remote=True))
    assert world.upload_and_check(with_addresses(tickets_csv())).state == "ready"
    assert "personal data" in world.type(CURVE)
    assert world.store.measurements.newest() == [] and world.provider.count("POST /files") == 0


def test_the_price_of_a_label_is_remembered_from_an_estimate(world: World) -> None:
    world.seed_dataset()
    world.type(
        f"/finetune estimate tickets current=gpt-4o volume=1M target={TARGET} label_usd=0.25 labels=10"
    )
    world.type("/finetune curve tickets")
    plan = plan_of(until(world, "done").plan)
    assert plan.label_usd is not None and Decimal(plan.label_usd) == Decimal("0.25")
    world.type("/finetune curve tickets label_usd=2")
    assert plan_of(until(world, "done", 2).plan).label_usd == "2"


def test_a_curve_killed_after_its_upload_and_then_cancelled_leaves_no_file_there(world: World) -> None:
    world.seed_dataset()
    world.provider.fail("POST /files", COMMIT_THEN_CUT)
    agreed(world)
    world.tick_until(world.files_at_provider, "the upload")
    world.restart()
    world.type("/finetune cancel m1")
    world.tick_until(lambda: measurement(world).state == "cancelled", "the curve's end")
    provider_jobs.delete_unneeded_uploads(world.service.context)
    assert world.files_at_provider() == []
