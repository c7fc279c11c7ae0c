"""A tuned model's learning curve at a company: asked for, agreed to, trained three times; restarts and cancels."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from itertools import count

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
from tests.bot.measurements import CHAT, HELD, measurement, until, until_asked
from tests.bot.props import tickets_csv
from tests.bot.test_story_entry_points import open_home
from tests.bot.test_story_waivers import with_addresses
from tests.bot.world import GUS, JOBS, TARGET, MakeWorld, Rules, World
from tests.peers.hosted import COMMIT_THEN_500, COMMIT_THEN_CUT, NOT_AVAILABLE, NOTHING_BUT_500, RESET, Fault
from trainers.evaluation.results import Candidate, Curve

CURVE = f"/finetune curve tickets target={TARGET}"
SIZES = [10, 21, 42]


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    world = with_short_trainings(make_world(Rules()))
    world.seed_dataset()
    return world


def with_short_trainings(world: World) -> World:
    """The company bills as many tokens as so few rows have."""
    world.provider.service.trained_tokens = 400
    return world


def progress(world: World, number: int = 1) -> TunedCurveProgress:
    return TunedCurveProgress.from_json(measurement(world, number).progress)


def plan_of_curve(world: World, number: int = 1) -> TunedCurvePlan:
    plan = plan_of(measurement(world, number).plan)
    assert isinstance(plan, TunedCurvePlan)
    return plan


def start_curve(world: World, line: str = CURVE, number: int = 1) -> Measurement:
    assert world.type(line) == ""
    until_asked(world, number)
    world.click(BEN, tuned_learning_curves.TRAIN)
    return measurement(world, number)


def until_size(world: World, at: int, state: str, *, number: int = 1, seconds: float = 20) -> None:
    """Tick until the training on the size at this place is in this state."""

    def is_there() -> bool:
        sizes = progress(world, number).sizes
        return len(sizes) > at and sizes[at].state == state

    world.tick_until(is_there, f"size {at + 1} to be {state}", seconds=seconds)


def test_a_training_without_a_token_count_costs_what_was_planned(world: World) -> None:
    world.provider.service.trained_tokens = None
    start_curve(world)
    until_size(world, 0, "done")
    assert progress(world).sizes[0].spent_micros >= plan_of_curve(world).sizes[0].training_micros > 0


def assert_jobs(world: World, number: int) -> None:
    """The company has so many jobs, each with a key of its own."""
    keys = [job.request["metadata"]["finetune_key"] for job in world.provider.service.jobs.values()]
    assert len(keys) == len(set(keys)) == number


def test_three_trainings_make_one_curve_though_the_bot_restarts_at_every_tick(world: World) -> None:
    line = f"{CURVE} label_usd=0.50 predict=1000,84"
    assert world.type(line) == ""
    priced = until_asked(world)
    assert priced.state == "asked" and world.jobs() == 0
    assert world.store.committed(priced.month) == priced.reserved_micros > 0
    card = world.find_message("Train 3 models for")
    assert "10 rows" in card and "21 rows" in card and "42 rows" in card and TARGET in card
    world.click(BEN, tuned_learning_curves.TRAIN)
    assert_rows_are_nested(files_sent_until_done(world))
    done = measurement(world)
    curve = Curve.from_json(str(done.result))
    assert curve.arm == Candidate("tuned", TARGET) and [point.rows for point in curve.points] == SIZES
    assert [point.score for point in curve.points] == [1.0, 1.0, 1.0]
    assert [prediction.rows for prediction in curve.predicted] == [84, 1000]
    assert world.provider.count(CHAT) == 3 * HELD
    assert_jobs(world, 3)
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
    assert world.files_at_provider() == []
    suffixes = [job.request["suffix"] for job in world.provider.service.jobs.values()]
    assert suffixes == ["tickets-10", "tickets-21", "tickets-42"] and world.store.models() == []

    assert world.type(line) == ""
    repeated = until(world, "done", 2)
    assert world.jobs() == 3 and world.provider.count(CHAT) == 3 * HELD and repeated.actual_micros == 0
    assert repeated.result == done.result


def files_sent_until_done(world: World) -> list[set[str]]:
    """Restart the bot at every tick. The rows of each file that the company held meanwhile, the smallest first."""
    sent: dict[str, set[str]] = {}
    ticks = count()

    def is_done() -> bool:
        for file in world.provider.service.files.values():
            if file.purpose == "fine-tune":
                sent[file.name] = {json.dumps(json.loads(row)) for row in file.content.splitlines()}
        if next(ticks) < 40:  # later on, a worker has the time to finish what it is doing
            world.restart()
        return measurement(world).state == "done"

    world.tick_until(is_done, "the curve", seconds=30)
    world.tick_until_file("curve.png")
    return sorted(sent.values(), key=len)


def assert_rows_are_nested(files: list[set[str]]) -> None:
    small, half, all_rows = files
    assert [len(small), len(half), len(all_rows)] == SIZES and small < half < all_rows


def test_the_card_shows_which_size_is_training(world: World) -> None:
    start_curve(world)
    until_size(world, 1, "training")
    world.send()
    assert world.find_message("Learning curve m1: size 2 of 3")
    card = json.dumps(list(world.find_button(evaluations.CANCEL).blocks))
    assert (
        "10 rows: trained and measured" in card and "21 rows: training" in card and "42 rows: waiting" in card
    )


def test_a_finished_run_counts_as_the_largest_size(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")
    jobs, questions = world.jobs(), world.provider.count(CHAT)
    start_curve(world)
    assert progress(world).to_train == 2 and "trained already by run 1" in world.find_message(
        "Train 2 models"
    )
    done = until(world, "done")
    assert world.jobs() == jobs + 2 and world.provider.count(CHAT) == questions + 2 * HELD
    assert [point.rows for point in Curve.from_json(str(done.result)).points] == SIZES
    world.store.mark_model_gone(world.store.model("tickets-1"), world.clock)
    assert world.type(f"{CURVE} label_usd=0.50") == ""
    until_asked(world, 2)
    assert progress(world, 2).to_train == 1, "its provider no longer has it, unlike those of the curve"


@pytest.mark.parametrize(
    "fault", [COMMIT_THEN_500, NOTHING_BUT_500, pytest.param(RESET, marks=pytest.mark.slow)]
)
def test_a_lost_answer_to_a_create_makes_no_second_job(world: World, fault: Fault) -> None:
    world.provider.fail(f"POST {JOBS}", fault)
    start_curve(world)
    until_size(world, 0, "creating")
    world.restart()
    world.tick(3)
    assert world.jobs() == (1 if fault.commit else 0) and world.provider.count(f"POST {JOBS}") == 1
    world.pass_time(SETTLE_S)
    until_size(world, 1, "training")
    assert_jobs(world, 2)


def leave_in_doubt(world: World) -> int:
    """The first size's create stays without an answer too often; the most that it could cost."""
    world.provider.fail(f"POST {JOBS}", NOTHING_BUT_500, MAX_CREATES)
    start_curve(world)
    for number in range(1, MAX_CREATES + 1):
        world.tick_until(lambda n=number: world.provider.count(f"POST {JOBS}") == n, "a create")  # type: ignore[misc]
        world.pass_time(SETTLE_S)
    world.tick_until(lambda: "Checking again" in (progress(world).note or ""), "the doubt")
    world.send()
    assert f"asked {MAX_CREATES} times" in world.find_message(
        "until somebody cancels", "gave no clear answer"
    )
    return plan_of_curve(world).sizes[0].most_micros


def test_a_create_uncertain_for_a_day_counts_as_paid(world: World) -> None:
    most = leave_in_doubt(world)
    world.pass_time(DOUBT_S / 2)
    world.tick()
    assert measurement(world).state == "running"
    world.pass_time(DOUBT_S)
    assert until(world, "failed").actual_micros == most
    assert "A job may have run there" in world.find_message("Learning curve m1 failed", "counts as spent")


def test_cancelling_an_uncertain_create_is_free_if_no_job_exists(world: World) -> None:
    leave_in_doubt(world)
    world.click(ANA, evaluations.CANCEL)
    assert until(world, "cancelled").actual_micros == 0
    assert world.jobs() == 0


def test_cancelling_an_uncertain_create_counts_as_paid_if_jobs_cannot_be_listed(world: World) -> None:
    most = leave_in_doubt(world)
    world.provider.fail(f"GET {JOBS}", NOT_AVAILABLE, 1_000)
    world.click(ANA, evaluations.CANCEL)
    world.pass_time(GIVE_UP_UNSEEN_S)
    assert until(world, "cancelled").actual_micros == most
    assert f"Cancelled by <@{ANA.id}>" in world.find_message(
        "Learning curve m1 was cancelled", "A job may have run there"
    )


def test_a_job_found_after_an_uncertain_create_is_adopted(world: World) -> None:
    world.provider.fail(f"POST {JOBS}", COMMIT_THEN_500)
    start_curve(world)
    until_size(world, 0, "creating")
    world.provider.fail(f"GET {JOBS}", NOT_AVAILABLE)
    world.pass_time(LOOK_AGAIN_S)
    world.tick_until(lambda: "Checking again" in (progress(world).note or ""), "the doubt")
    world.pass_time(DOUBT_LOOK_S)
    until_size(world, 1, "training")
    assert_jobs(world, 2)


def test_a_refused_look_at_a_long_training_does_not_end_it(world: World) -> None:
    start_curve(world)
    until_size(world, 0, "training")
    job = f"GET {JOBS}/{progress(world).sizes[0].job_id}"
    world.provider.fail(job, NOT_AVAILABLE)
    world.pass_time(2 * DOUBT_S)
    world.tick_until(lambda: progress(world).sizes[0].doubted_since is not None, "the doubt")
    assert measurement(world).state == "running"
    world.pass_time(DOUBT_LOOK_S)
    until_size(world, 1, "training")
    assert_jobs(world, 2)


def test_cancelling_cancels_the_job_and_keeps_trained_sizes(world: World) -> None:
    start_curve(world)
    until_size(world, 1, "training")
    world.tick_until(lambda: progress(world).sizes[1].training.running_since, "its first step")
    first, second = progress(world).sizes[0].spent_micros, plan_of_curve(world).sizes[1]
    assert "Cancelling m1" in world.type("/finetune cancel m1")
    cancelled = until(world, "cancelled")
    # the company reports neither a step nor a bill
    assert cancelled.actual_micros == first + second.training_micros
    jobs = list(world.provider.service.jobs.values())
    assert [job.is_cancelled for job in jobs] == [False, True] and world.files_at_provider() == []
    assert 0 < (cancelled.actual_micros or 0) < cancelled.reserved_micros
    assert f"Cancelled by <@{ANA.id}>" in world.find_message(
        "Learning curve m1 was cancelled", "Trained models are kept"
    )
    start_curve(world, number=2)
    assert progress(world, 2).to_train == 2
    until_size(world, 1, "training", number=2)
    assert world.jobs() == 3


def test_the_cards_button_cancels_an_uncertain_create(world: World) -> None:
    world.provider.fail(f"POST {JOBS}", COMMIT_THEN_500)
    start_curve(world)
    until_size(world, 0, "creating")
    world.send()
    world.click(ANA, evaluations.CANCEL)
    until(world, "cancelled")
    assert [job.is_cancelled for job in world.provider.service.jobs.values()] == [True]


def test_cancelling_before_anybody_agreed_costs_nothing(world: World) -> None:
    world.type(CURVE)
    month = until_asked(world).month
    world.click(ANA, evaluations.CANCEL)
    world.pass_time(61)
    cancelled = until(world, "cancelled")
    assert cancelled.actual_micros == 0 and world.store.committed(month) == 0 and world.jobs() == 0


def test_a_curve_that_nobody_agrees_to_expires_after_a_day(world: World) -> None:
    world.type(CURVE)
    until_asked(world)
    world.pass_time(24 * 3600 + 61)
    until(world, "cancelled")
    assert world.jobs() == 0
    assert "Nobody agreed" in world.find_message("Learning curve m1 was cancelled")


def test_a_guest_may_not_agree(world: World) -> None:
    world.type(CURVE)
    until_asked(world)
    assert "Only full members" in world.click_and_read(GUS, tuned_learning_curves.TRAIN)
    assert measurement(world).state == "asked"


def test_no_size_is_trained_once_the_approver_may_no_longer_measure(world: World) -> None:
    start_curve(world)
    until_size(world, 0, "training")
    world.slack.set_kind(BEN.id, "guest")
    failed = until(world, "failed")
    world.find_message(
        "Learning curve m1 failed", "who agreed to this, may not measure here any more", "for 21 rows"
    )
    assert world.jobs() == 1 and 0 < (failed.actual_micros or 0) < failed.reserved_micros
    assert world.files_at_provider() == []


def test_no_size_is_trained_at_another_address_than_was_agreed(world: World) -> None:
    start_curve(world)
    until_size(world, 0, "evaluating")
    world.rules.provider_is_remote = True  # the same company, by another address
    world.restart()
    failed = until(world, "failed")
    world.find_message(
        "Learning curve m1 failed", "The trainer of Acme Tuning was at", "No job was started for 21 rows"
    )
    assert world.jobs() == 1 and 0 < (failed.actual_micros or 0) < failed.reserved_micros


def test_a_price_that_rose_ends_the_curve_before_its_next_training(world: World) -> None:
    start_curve(world)
    until_size(world, 0, "evaluating")
    world.rules.training = "80.00"
    world.restart()
    until(world, "failed")
    assert world.find_message("Learning curve m1 failed", "costs $80.00 for 1M tokens of training now")
    assert world.jobs() == 1


def test_an_uncertain_create_survives_a_change_of_address(world: World) -> None:
    world.provider.fail(f"POST {JOBS}", COMMIT_THEN_500)
    start_curve(world)
    until_size(world, 0, "creating")
    world.rules.provider_is_remote = True
    world.restart()
    world.tick_until(lambda: "may have been created" in (progress(world).note or ""), "the doubt")
    assert measurement(world).state == "running"
    world.rules.provider_is_remote = False
    world.restart()
    world.pass_time(SETTLE_S)
    until_size(world, 1, "training")
    assert_jobs(world, 2)


def test_a_curve_of_an_older_release_keeps_the_keys_of_its_jobs(world: World) -> None:
    start_curve(world)
    plan = plan_of_curve(world)
    assert plan.destination
    older = replace(plan, destination=None)
    assert "destination" not in older.to_json() and plan_of(older.to_json()) == older


def test_a_plan_of_a_newer_release_holds_up_only_its_own_curve(world: World) -> None:
    start_curve(world)
    until_size(world, 0, "training")
    newer = json.dumps({**json.loads(measurement(world).plan), "unknown": 1})
    world.store.database.change("UPDATE measurements SET plan = ? WHERE id = 1", (newer,))
    context = world.service.context
    sent = context.store.uploads.at("acme")
    context.store.uploads.intend("acme", {"0" * 64}, now=0)
    provider_jobs.delete_unneeded_uploads(context)
    assert context.store.uploads.at("acme") == sent
    world.pass_time(60)
    world.tick_until(lambda: measurement(world).next_at > context.clock() + 500, "the pause")
    assert measurement(world).state == "running"
    assert "this version can't read" in world.type("/finetune status")
    assert "this version can't read" in open_home(world, ANA.id)
    assert world.start().state == "awaiting_approval"


def test_an_uncertain_create_is_settled_before_the_approver_is_checked(world: World) -> None:
    world.provider.fail(f"POST {JOBS}", COMMIT_THEN_500)
    start_curve(world)
    world.tick_until(lambda: world.jobs() == 1, "the job")
    world.slack.set_kind(BEN.id, "guest")
    until_size(world, 0, "training")
    until(world, "failed")
    assert world.jobs() == 1


def test_an_approval_that_ends_after_the_upload_leaves_no_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([None, Unsure("Slack didn't say.")])
    monkeypatch.setattr(
        tuned_learning_curves_services, "consent_refusal", lambda _: next(answers, Forbidden("Not any more."))
    )
    start_curve(world)
    until(world, "failed")
    assert world.provider.count("POST /files") == 1 and world.jobs() == 0
    assert world.files_at_provider() == []


def test_a_guest_is_certain_even_if_groups_are_unknown(world: World) -> None:
    rules = authorization.current_rules(world.service.context, "measure")
    guest = Caller(Person(GUS.id, is_guest=True), rules)
    assert authorization.is_certain(guest)
    assert not authorization.is_certain(replace(guest, person=None))
    assert not authorization.is_certain(replace(guest, rules=replace(rules, members={"S0LEADS": None})))


def test_a_size_waits_while_slack_cannot_confirm_the_approver(world: World) -> None:
    start_curve(world)
    until_size(world, 0, "training")
    world.slack.fail("users.info", refused("internal_error"), times=None)
    world.tick_until(lambda: "Slack didn't say" in str(progress(world).note), "the note")
    assert world.jobs() == 1
    world.slack.clear_faults()
    until_size(world, 1, "training")
    assert_jobs(world, 2)


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (Rules(measurement="0.001"), "the limit for one measurement is"),
        (Rules(budget="0.001"), "Raise `monthly_usd`"),
    ],
)
def test_a_curve_above_a_limit_is_refused_before_anything_is_sent(
    make_world: MakeWorld, rules: Rules, why: str
) -> None:
    world = make_world(rules)
    world.seed_dataset()
    world.type(CURVE)
    until(world, "failed")
    assert why in world.find_message("Learning curve m1 failed") and world.provider.count("POST /files") == 0


def test_a_curve_that_costs_more_than_agreed_is_stopped(world: World) -> None:
    start_curve(world)
    world.provider.service.trained_tokens = 100_000
    until(world, "failed")
    assert "more than" in world.find_message("Learning curve m1 failed") and world.jobs() == 1


def test_a_refused_training_deletes_its_file(world: World) -> None:
    world.provider.fail(f"POST {JOBS}", NOT_AVAILABLE)
    start_curve(world)
    failed = until(world, "failed")
    assert failed.actual_micros == 0 and world.files_at_provider() == []
    assert "Training on 10 rows was refused" in world.find_message("Learning curve m1 failed")


def test_a_failed_training_ends_the_curve_with_the_reason(world: World) -> None:
    world.provider.service.stages = ("running", "failed")
    world.provider.service.failure = {"code": "bad", "message": "Loss is <nan>.", "param": None}
    start_curve(world)
    until(world, "failed")
    world.find_message("Learning curve m1 failed", "Training on 10 rows failed: Loss is")
    assert world.jobs() == 1


def test_a_model_that_cannot_be_asked_ends_the_curve(world: World) -> None:
    world.provider.fail(CHAT, Fault(commit=False, status=404, code="model_not_found"), 50)
    start_curve(world)
    until(world, "failed")
    assert "Measuring failed" in world.find_message("Learning curve m1 failed")


def test_cancelling_while_measuring_pays_for_questions_in_flight(world: World) -> None:
    start_curve(world)
    until_size(world, 0, "evaluating")
    world.provider.slow_s = 0.3
    world.tick()
    world.type("/finetune cancel m1")
    trained = 400 * 8  # micro-dollars, at $8 per 1M tokens
    assert (until(world, "cancelled").actual_micros or 0) > trained
    assert world.jobs() == 1 and 0 < world.provider.count(CHAT) < HELD


def test_a_trainer_that_serves_no_model_is_refused(make_world: MakeWorld) -> None:
    no_chat = (
        '[providers.mute]\ntitle = "Mute"\nbase_url = "http://127.0.0.1:9/v1"\nabilities = ["metadata"]\n'
    )
    no_chat += '[providers.mute.models.m]\ntraining = "1"\ninput = "1"\noutput = "1"\n'
    world = make_world(Rules(more=no_chat))
    world.seed_dataset()
    assert "can't serve a curve's models" in world.type("/finetune curve tickets target=mute/m")
    assert "I know no model to train" in world.type("/finetune curve tickets target=mute/nothing")
    assert world.store.measurements.newest() == []


def test_few_rows_are_refused(make_world: MakeWorld) -> None:
    world = make_world(Rules())
    assert world.upload_and_check(tickets_csv(48)).state == "ready"
    assert "needs at least 40" in world.type(CURVE)


def test_personal_data_needs_a_waiver(make_world: MakeWorld) -> None:
    world = make_world(Rules(provider_is_remote=True))
    assert world.upload_and_check(with_addresses(tickets_csv())).state == "ready"
    assert "personal data" in world.type(CURVE)
    assert world.store.measurements.newest() == [] and world.provider.count("POST /files") == 0


def test_the_price_of_a_label_is_remembered_from_an_estimate(world: World) -> None:
    world.type(
        f"/finetune estimate tickets current=gpt-4o volume=1M target={TARGET} label_usd=0.25 labels=10"
    )
    world.share_estimate()
    world.type("/finetune curve tickets")
    assert Decimal(plan_of(measurement(world).plan).label_usd or 0) == Decimal("0.25")
    until(world, "done")
    world.type("/finetune curve tickets label_usd=2")
    assert plan_of(measurement(world, 2).plan).label_usd == "2"


def test_a_curve_cancelled_after_a_lost_upload_leaves_no_file(world: World) -> None:
    world.provider.fail("POST /files", COMMIT_THEN_CUT)
    start_curve(world)
    world.tick_until(world.files_at_provider, "the upload")
    world.restart()
    world.type("/finetune cancel m1")
    world.tick_until(lambda: measurement(world).state == "cancelled", "the curve's end")
    provider_jobs.delete_unneeded_uploads(world.service.context)
    assert world.files_at_provider() == []
