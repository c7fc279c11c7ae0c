"""A run that needs a person: what approvers decide is looked at where the job would be, and never paid
twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.rules import plans
from bot.services import interventions
from bot.services.provider_jobs import MAX_CREATES, SETTLE_S, UploadedFiles, job_spec
from bot.values.runs import Progress, Refusal, VendorEstimate
from demo.people import ANA, BEN
from demo.workspace import Person
from tests.bot.world import APPROVERS_GROUP, CLEO, DORA, EVE, GUS, JOBS, Rules, World
from tests.peers.hosted import COMMIT_THEN_500, NOTHING_BUT_500
from tests.peers.service import StoredFile

MakeWorld = Callable[[Rules], World]
CREATE, LIST = f"POST {JOBS}", f"GET {JOBS}"


def in_doubt(world: World, number: int = 1) -> None:
    """Creates without an answer, until a person is needed; none has arrived."""
    world.provider.fail(CREATE, NOTHING_BUT_500, times=MAX_CREATES)
    world.start_approved()
    for _ in range(MAX_CREATES):
        world.tick(2)
        world.pass_time(SETTLE_S)
    world.tick_until_state("needs_human", number)
    world.provider.forgive(CREATE)


def decide(world: World, user: Person, button: str, **answers: str) -> None:
    world.click(user, button)
    sent = world.slack.submit_modal(user.id, {"reason": "I looked there", **answers})
    assert sent.closed, sent.errors
    world.tick(2)


def acts(world: World) -> list[tuple[str, str]]:
    return [(one.who, one.action) for one in world.store.audit.entries("run 1")]


def hidden_job(world: World) -> str:
    """A job of the run at the company that no list shows; its id."""
    run = world.run()
    trainer = world.service.context.trainers["acme"]
    plan = plans.plan_from_json(run.plan)
    file = trainer.upload(world.service.settings.files / f"{plan.train_sha256}.jsonl", plan.train_sha256)
    ready = UploadedFiles(file)
    job = trainer.create(job_spec(run, plan, ready))
    world.provider.service.list_lag_s = 3600
    return job.id


def test_a_word_that_waits_for_another_asks_slack_for_no_group(make_world: MakeWorld) -> None:
    world = make_world(Rules(groups=(APPROVERS_GROUP,)))
    in_doubt(world)
    decide(world, BEN, "doubt_retry")
    asked = len(world.slack.calls("usergroups.users.list"))
    assert asked > 0
    world.tick(5)
    assert len(world.slack.calls("usergroups.users.list")) == asked
    decide(world, CLEO, "doubt_retry")
    assert world.run().state != "needs_human" and len(world.slack.calls("usergroups.users.list")) > asked


def test_the_card_says_what_is_reserved_and_which_key_to_look_for(world: World) -> None:
    in_doubt(world)
    card = world.find_message("needs a decision", "gave no clear answer", "stays reserved", "finetune_key")
    assert world.run().key in card
    for button in ("doubt_retry", "doubt_adopt", "doubt_give_up"):
        assert world.has_button(button)
    assert "gave no clear answer" in world.type("/finetune status 1")
    assert any("needs a decision" in text for text in world.dms())


def test_two_approvers_say_it_was_never_started_and_it_is_looked_for_before_it_is_created(
    world: World,
) -> None:
    in_doubt(world)
    decide(world, BEN, "doubt_retry")
    world.pass_time(SETTLE_S)
    world.tick(5)
    assert world.run().state == "needs_human" and world.jobs() == 0, "one word is not enough"
    assert world.find_message(
        f"<@{BEN.id}> says that it never started", "One more approver has to confirm this"
    )
    decide(world, CLEO, "doubt_retry")
    assert world.run().state == "creating" and world.jobs() == 0
    world.tick(3)
    assert world.jobs() == 0, "it is looked for before"
    world.pass_time(SETTLE_S)
    world.tick_until_state("done")
    assert world.jobs() == 1 and set(world.ledger()) == {"reserve", "settle"}
    assert [(BEN.id, "retry"), (CLEO.id, "retry"), ("finetune", "tried again")] == acts(world)[-6:-3]
    assert world.find_message("Trying again", f"<@{BEN.id}> and <@{CLEO.id}>")
    assert world.find_message("Result of run 1")


def test_one_person_counts_once(world: World) -> None:
    in_doubt(world)
    decide(world, BEN, "doubt_retry")
    world.click(BEN, "doubt_retry")
    sent = world.slack.submit_modal(BEN.id, {"reason": "again"})
    assert "already decided" in sent.errors["reason"]
    assert world.run().state == "needs_human"


def test_a_job_that_both_overlooked_is_taken_over_and_not_created_again(world: World) -> None:
    in_doubt(world)
    job = hidden_job(world)
    world.provider.service.list_lag_s = 0
    decide(world, BEN, "doubt_retry")
    decide(world, CLEO, "doubt_retry")
    assert (world.run().job_id, world.jobs()) == (job, 1)
    assert world.find_message("was found there and is taken over, not created again")


def test_a_named_job_is_checked_there_and_followed(world: World) -> None:
    in_doubt(world)
    job = hidden_job(world)
    decide(world, BEN, "doubt_adopt", job=job)
    assert (world.run().state, world.run().job_id) == ("training", job)
    assert world.find_message(f"Job {job} is taken over", "It has our key")
    world.tick_until_state("done")
    assert world.jobs() == 1 and world.provider.count(CREATE) == MAX_CREATES + 1  # the hidden one


@pytest.mark.parametrize(("job", "why"), [("ftjob-99", "No fine-tuning job"), ("<!channel>", "refused")])
def test_a_job_that_is_not_there_is_not_taken_over_and_may_be_named_anew(
    world: World, job: str, why: str
) -> None:
    in_doubt(world)
    decide(world, BEN, "doubt_adopt", job=job)
    said = world.find_message("Not done", why)
    assert world.run().state == "needs_human" and "<!channel>" not in said
    decide(world, BEN, "doubt_adopt", job=hidden_job(world))
    assert world.run().state == "training"


def test_the_job_of_another_run_or_another_model_is_not_taken_over(world: World) -> None:
    in_doubt(world)
    service = world.provider.service
    first = hidden_job(world)
    service.jobs[first].request["metadata"]["finetune_key"] = "ft-another"
    decide(world, BEN, "doubt_adopt", job=first)
    assert world.find_message("has the key of something else")
    service.jobs[first].request["metadata"].clear()
    service.jobs[first].request["model"] = "acme-huge"
    decide(world, BEN, "doubt_adopt", job=first)
    assert world.find_message("trains acme-huge")
    service.jobs[first].request["model"] = "acme-small"
    service.jobs[first].created -= 90_000
    decide(world, BEN, "doubt_adopt", job=first)
    assert world.find_message("was created before this run")
    assert world.run().state == "needs_human"


def test_where_the_company_keeps_no_keys_a_run_is_not_given_the_job_of_another_one(world: World) -> None:
    world.provider.service.stages = ("running",)
    world.start_approved()
    first = world.tick_until_state("training").job_id
    world.provider.service.jobs[first].request["metadata"].clear()
    in_doubt(world, 2)
    decide(world, BEN, "doubt_adopt", job=str(first))
    decide(world, CLEO, "doubt_adopt", job=str(first))
    assert world.find_message("Not done", f"job {first} belongs to run 1")
    assert world.run(2).state == "needs_human" and world.run(2).job_id is None


def test_a_job_that_is_taken_over_keeps_what_the_vendor_estimated(world: World) -> None:
    in_doubt(world)
    progress = Progress(vendor=VendorEstimate(4_000_000)).to_json()
    world.store.runs.move(world.run(), "needs_human", now=world.clock, progress=progress)
    job = hidden_job(world)
    world.provider.service.jobs[job].request["metadata"].clear()
    decide(world, BEN, "doubt_adopt", job=job)
    taken = Progress.from_json(world.tick_until_state("training").progress)
    assert taken.vendor == VendorEstimate(4_000_000)


def test_given_up_by_two_the_money_is_free_again(world: World) -> None:
    in_doubt(world)
    decide(world, BEN, "doubt_give_up")
    assert set(world.ledger()) == {"reserve"}
    decide(world, CLEO, "doubt_give_up")
    assert world.run().state == "cancelled" and world.ledger()["settle"] == 0
    assert world.find_message("Given up by", "No job was found there")
    assert world.find_message("Run 1 was cancelled") and any("Given up" in text for text in world.dms())


def test_given_up_without_a_key_nobody_is_told_that_there_is_no_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_doubt(world)
    monkeypatch.delenv("ACME_KEY")
    world.restart()
    decide(world, BEN, "doubt_give_up")
    decide(world, CLEO, "doubt_give_up")
    assert world.run().state == "cancelled"
    assert "No job was found" not in world.find_message(
        "Given up by", "could not check whether there is a job"
    )


def test_given_up_a_job_that_is_there_is_cancelled_and_what_it_cost_is_settled(world: World) -> None:
    in_doubt(world)
    job = hidden_job(world)
    world.provider.service.list_lag_s = 0
    decide(world, BEN, "doubt_give_up")
    decide(world, CLEO, "doubt_give_up")
    world.tick_until_state("cancelled")
    assert world.provider.service.jobs[job].is_cancelled and "settle" in world.ledger()


def test_given_up_where_the_company_takes_no_key_the_run_still_ends(world: World) -> None:
    in_doubt(world)
    world.provider.key = "sk-another"
    decide(world, BEN, "doubt_retry")
    decide(world, CLEO, "doubt_retry")
    assert world.find_message("Not done", "the job can't be looked for")
    decide(world, BEN, "doubt_give_up")
    decide(world, CLEO, "doubt_give_up")
    assert world.run().state == "cancelled" and world.find_message("could not check whether there is a job")


def test_a_company_that_is_away_is_looked_at_again_before_anything_is_given_up(world: World) -> None:
    in_doubt(world)
    world.provider.fail(LIST, NOTHING_BUT_500, times=3)
    decide(world, BEN, "doubt_give_up")
    decide(world, CLEO, "doubt_give_up")
    assert world.run().state == "needs_human" and world.find_message("Looking again")
    world.provider.forgive(LIST)
    world.pass_time(20)
    world.tick_until_state("cancelled")


@pytest.mark.parametrize("person", [EVE, GUS], ids=lambda person: person.name)
def test_only_approvers_decide(world: World, person: Person) -> None:
    in_doubt(world)
    assert "Only" in world.click_and_read(person, "doubt_give_up")
    assert world.store.interventions.of(world.run()) == []


def test_who_asked_for_a_run_or_brought_its_data_does_not_resolve_its_doubt(make_world: MakeWorld) -> None:
    world = make_world(Rules(approvers=(ANA.id, BEN.id, CLEO.id, DORA.id)))
    in_doubt(world)
    for button in ("doubt_adopt", "doubt_retry", "doubt_give_up"):
        assert "You requested this run, so somebody else" in world.click_and_read(ANA, button)
        assert "You uploaded this data, so somebody else" in world.click_and_read(DORA, button)
    job = hidden_job(world)
    reply = interventions.decide(world.service.context, 1, "adopt", ANA.id, "it is mine", job)
    assert isinstance(reply, Refusal) and world.run().state == "needs_human"


def test_a_job_without_our_key_is_taken_over_where_it_is_what_was_approved_and_else_not(world: World) -> None:
    in_doubt(world)
    job = hidden_job(world)
    stored = world.provider.service.jobs[job]
    stored.request["metadata"].clear()
    settings = stored.request["method"]["supervised"]["hyperparameters"]
    planned, settings["n_epochs"] = settings["n_epochs"], 50
    decide(world, BEN, "doubt_adopt", job=job)
    assert world.find_message("Not done", f"its n_epochs is 50, but the plan says {planned}")
    settings["n_epochs"] = planned
    world.provider.service.files["file-evil"] = StoredFile("file-evil", "x.jsonl", b"x", "fine-tune", 0.0)
    ours, stored.request["training_file"] = stored.request["training_file"], "file-evil"
    decide(world, BEN, "doubt_adopt", job=job)
    assert world.find_message("Not done", "there is no proof that it trains on the plan's rows")
    assert world.run().state == "needs_human"
    stored.request["training_file"] = ours
    decide(world, BEN, "doubt_adopt", job=job)
    assert world.find_message(f"Job {job} is taken over", "its settings and its file are the plan's")
    assert world.run().job_id == job


def test_a_word_of_who_is_no_approver_any_more_does_not_count(world: World) -> None:
    world.seed_dataset(uploaded_by=ANA)
    in_doubt(world)
    decide(world, BEN, "doubt_give_up")
    world.rules.approvers = (CLEO.id, DORA.id)
    world.restart()
    decide(world, CLEO, "doubt_give_up")
    assert world.run().state == "needs_human"
    decide(world, DORA, "doubt_give_up")
    assert world.run().state == "cancelled"


def test_decisions_outlive_a_restart_at_every_tick(world: World) -> None:
    in_doubt(world)
    decide(world, BEN, "doubt_retry")
    decide(world, CLEO, "doubt_retry")
    world.provider.fail(CREATE, COMMIT_THEN_500)
    for _ in range(6):
        world.restart()
        world.pass_time(SETTLE_S / 3)
        world.tick()
    world.tick_until_state("done")
    assert world.jobs() == 1


def test_an_extra_job_that_ended_meanwhile_stops_nothing(world: World) -> None:
    """A no to cancelling a second job says nothing about the first: it was once taken for 'nothing was started'."""
    run = world.start_approved()
    trainer = world.service.context.trainers["acme"]
    plan = plans.plan_from_json(run.plan)
    file = trainer.upload(world.service.settings.files / f"{plan.train_sha256}.jsonl", plan.train_sha256)
    for _ in range(2):
        trainer.create(job_spec(run, plan, UploadedFiles(file)))
    world.provider.fail(f"POST {JOBS}/ftjob-2/cancel", COMMIT_THEN_500.__class__(commit=False, status=400))
    world.tick(2)
    assert (world.run().state, world.run().job_id) == ("training", "ftjob-1")
