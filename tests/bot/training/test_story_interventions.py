"""An uncertain create that people decide about: the provider is checked before their decision is carried out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.rules import plans
from bot.services.common.provider_jobs import MAX_CREATES, SETTLE_S, UploadedFiles, job_spec
from bot.services.training import interventions
from bot.values.runs import Progress, Refusal, VendorEstimate
from demo.people import ANA, BEN
from demo.workspace import Person
from tests.bot.world import APPROVERS_GROUP, CLEO, DORA, EVE, GUS, JOBS, Rules, World
from tests.peers.hosted import COMMIT_THEN_500, NOTHING_BUT_500, Fault
from tests.peers.service import StoredFile

MakeWorld = Callable[[Rules], World]
CREATE, LIST = f"POST {JOBS}", f"GET {JOBS}"


def make_uncertain(world: World, number: int = 1) -> None:
    """Let creates fail without a clear answer until the run needs a person. None of them arrived."""
    world.provider.fail(CREATE, NOTHING_BUT_500, times=MAX_CREATES)
    world.start_approved()
    for _ in range(MAX_CREATES):
        world.tick(2)
        world.pass_time(SETTLE_S)
    world.tick_until_state("needs_human", number)
    world.provider.forgive(CREATE)


def decide(world: World, user: Person, button: str, **answers: str) -> None:
    world.click(user, button)
    form = world.slack.submit_modal(user.id, {"reason": "I looked there", **answers})
    assert form.closed, form.errors
    world.tick(2)


def audited_actions(world: World) -> list[tuple[str, str]]:
    return [(entry.who, entry.action) for entry in world.store.audit.entries("run 1")]


def hidden_job(world: World) -> str:
    """Create a job of the run at the provider that its list doesn't show yet; returns its id."""
    run = world.run()
    trainer = world.service.context.trainers["acme"]
    plan = plans.plan_from_json(run.plan)
    file = trainer.upload(world.service.settings.files / f"{plan.train_sha256}.jsonl", plan.train_sha256)
    job = trainer.create(job_spec(run, plan, UploadedFiles(file)))
    world.provider.service.list_lag_s = 3600
    return job.id


def test_the_card_names_the_key_and_takes_one_decision_from_each_approver(world: World) -> None:
    make_uncertain(world)
    card = world.find_message("needs a decision", "gave no clear answer", "stays reserved", "finetune_key")
    assert world.run().key in card
    for button in ("doubt_retry", "doubt_adopt", "doubt_give_up"):
        assert world.has_button(button)
    assert "gave no clear answer" in world.type("/finetune status 1")
    assert any("needs a decision" in text for text in world.dms())
    for outsider in (EVE, GUS):
        assert "Only" in world.click_and_read(outsider, "doubt_give_up")
    assert world.store.interventions.of(world.run()) == []
    decide(world, BEN, "doubt_retry")
    world.click(BEN, "doubt_retry")
    form = world.slack.submit_modal(BEN.id, {"reason": "again"})
    assert "already decided" in form.errors["reason"]
    assert world.run().state == "needs_human"


def test_groups_are_looked_up_at_decisions_only(make_world: MakeWorld) -> None:
    world = make_world(Rules(groups=(APPROVERS_GROUP,)))
    make_uncertain(world)
    decide(world, BEN, "doubt_retry")
    lookups = len(world.slack.calls("usergroups.users.list"))
    assert lookups > 0
    world.tick(5)
    assert len(world.slack.calls("usergroups.users.list")) == lookups
    decide(world, CLEO, "doubt_retry")
    assert world.run().state != "needs_human"
    assert len(world.slack.calls("usergroups.users.list")) > lookups


def test_two_approvers_can_have_a_run_tried_again_after_another_look_for_its_job(
    world: World,
) -> None:
    make_uncertain(world)
    decide(world, BEN, "doubt_retry")
    world.pass_time(SETTLE_S)
    world.tick(5)
    assert world.run().state == "needs_human" and world.jobs() == 0, "one decision is not enough"
    assert world.find_message(
        f"<@{BEN.id}> says that it never started", "One more approver has to confirm this"
    )
    decide(world, CLEO, "doubt_retry")
    assert world.run().state == "creating" and world.jobs() == 0
    world.tick(3)
    assert world.jobs() == 0, "it is looked for first"
    world.pass_time(SETTLE_S)
    world.tick_until_state("training")
    assert world.jobs() == 1
    assert [(BEN.id, "retry"), (CLEO.id, "retry"), ("finetune", "tried again")] == audited_actions(world)[
        -4:-1
    ]
    assert world.find_message("Trying again", f"<@{BEN.id}> and <@{CLEO.id}>")


def test_a_job_that_both_approvers_overlooked_is_adopted_not_created_again(world: World) -> None:
    make_uncertain(world)
    job = hidden_job(world)
    world.provider.service.list_lag_s = 0
    decide(world, BEN, "doubt_retry")
    decide(world, CLEO, "doubt_retry")
    assert (world.run().job_id, world.jobs()) == (job, 1)
    assert world.find_message("was found there and is taken over, not created again")


def test_a_named_job_is_checked_at_the_provider_and_followed(world: World) -> None:
    make_uncertain(world)
    job = hidden_job(world)
    decide(world, BEN, "doubt_adopt", job=job)
    assert (world.run().state, world.run().job_id) == ("training", job)
    assert world.find_message(f"Job {job} is taken over", "It has our key")
    world.tick(3)
    assert world.jobs() == 1 and world.provider.count(CREATE) == MAX_CREATES + 1  # the hidden one


def test_a_missing_foreign_or_older_job_is_not_adopted(world: World) -> None:
    make_uncertain(world)
    for name, words in (("ftjob-99", "No fine-tuning job"), ("<!channel>", "refused")):
        decide(world, BEN, "doubt_adopt", job=name)
        assert "<!channel>" not in world.find_message("Not done", words)
    job = hidden_job(world)
    stored = world.provider.service.jobs[job]
    key = stored.request["metadata"]["finetune_key"]
    stored.request["metadata"]["finetune_key"] = "ft-another"
    decide(world, BEN, "doubt_adopt", job=job)
    assert world.find_message("has the key of something else")
    stored.request["metadata"].clear()
    stored.request["model"] = "acme-huge"
    decide(world, BEN, "doubt_adopt", job=job)
    assert world.find_message("trains acme-huge")
    stored.request["model"] = "acme-small"
    stored.created -= 90_000
    decide(world, BEN, "doubt_adopt", job=job)
    assert world.find_message("was created before this run")
    assert world.run().state == "needs_human"
    stored.created += 90_000
    stored.request["metadata"]["finetune_key"] = key
    decide(world, BEN, "doubt_adopt", job=job)
    assert world.run().job_id == job


def test_a_job_without_a_key_that_belongs_to_another_run_is_not_adopted(world: World) -> None:
    world.provider.service.stages = ("running",)
    world.start_approved()
    first = str(world.tick_until_state("training").job_id)
    world.provider.service.jobs[first].request["metadata"].clear()
    make_uncertain(world, 2)
    decide(world, BEN, "doubt_adopt", job=first)
    decide(world, CLEO, "doubt_adopt", job=first)
    assert world.find_message("Not done", f"job {first} belongs to run 1")
    assert world.run(2).state == "needs_human" and world.run(2).job_id is None


def test_an_adopted_job_keeps_the_vendors_estimate(world: World) -> None:
    make_uncertain(world)
    progress = Progress(vendor=VendorEstimate(4_000_000)).to_json()
    world.store.runs.move(world.run(), "needs_human", now=world.clock, progress=progress)
    job = hidden_job(world)
    world.provider.service.jobs[job].request["metadata"].clear()
    decide(world, BEN, "doubt_adopt", job=job)
    progress_after = Progress.from_json(world.tick_until_state("training").progress)
    assert progress_after.vendor == VendorEstimate(4_000_000)


def test_a_run_that_two_approvers_give_up_frees_its_money(world: World) -> None:
    make_uncertain(world)
    decide(world, BEN, "doubt_give_up")
    assert set(world.ledger()) == {"reserve"}
    decide(world, CLEO, "doubt_give_up")
    assert world.run().state == "cancelled" and world.ledger()["settle"] == 0
    assert world.find_message("Given up by", "No job was found there")
    assert world.find_message("Run 1 was cancelled") and any("Given up" in text for text in world.dms())


def test_giving_up_without_a_key_does_not_claim_that_there_is_no_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_uncertain(world)
    monkeypatch.delenv("ACME_KEY")
    world.restart()
    decide(world, BEN, "doubt_give_up")
    decide(world, CLEO, "doubt_give_up")
    assert world.run().state == "cancelled"
    assert "No job was found" not in world.find_message(
        "Given up by", "could not check whether there is a job"
    )


def test_giving_up_a_run_cancels_its_hidden_job_and_settles_its_cost(world: World) -> None:
    make_uncertain(world)
    job = hidden_job(world)
    world.provider.service.list_lag_s = 0
    decide(world, BEN, "doubt_give_up")
    decide(world, CLEO, "doubt_give_up")
    world.tick_until_state("cancelled")
    assert world.provider.service.jobs[job].is_cancelled and "settle" in world.ledger()


def test_a_run_can_be_given_up_although_the_provider_rejects_the_key(world: World) -> None:
    make_uncertain(world)
    world.provider.key = "sk-another"
    decide(world, BEN, "doubt_retry")
    decide(world, CLEO, "doubt_retry")
    assert world.find_message("Not done", "the job can't be looked for")
    decide(world, BEN, "doubt_give_up")
    decide(world, CLEO, "doubt_give_up")
    assert world.run().state == "cancelled" and world.find_message("could not check whether there is a job")


@pytest.mark.deep
def test_nothing_is_given_up_before_a_provider_that_is_away_answers(world: World) -> None:
    make_uncertain(world)
    world.provider.fail(LIST, NOTHING_BUT_500, times=3)
    decide(world, BEN, "doubt_give_up")
    decide(world, CLEO, "doubt_give_up")
    assert world.run().state == "needs_human" and world.find_message("Looking again")
    world.provider.forgive(LIST)
    world.pass_time(20)
    world.tick_until_state("cancelled")


def test_the_requester_and_the_uploader_may_not_decide_about_an_uncertain_create(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules(approvers=(ANA.id, BEN.id, CLEO.id, DORA.id)))
    make_uncertain(world)
    for button in ("doubt_adopt", "doubt_retry", "doubt_give_up"):
        assert "You requested this, so somebody else" in world.click_and_read(ANA, button)
        assert "You uploaded this data, so somebody else" in world.click_and_read(DORA, button)
    job = hidden_job(world)
    reply = interventions.decide(world.service.context, 1, "adopt", ANA.id, "it is mine", job)
    assert isinstance(reply, Refusal) and world.run().state == "needs_human"


def test_a_job_without_our_key_is_adopted_only_with_the_plans_settings_and_file(world: World) -> None:
    make_uncertain(world)
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


def test_the_decision_of_a_former_approver_does_not_count(world: World) -> None:
    world.seed_dataset(uploaded_by=ANA)
    make_uncertain(world)
    decide(world, BEN, "doubt_give_up")
    world.rules.approvers = (CLEO.id, DORA.id)
    world.restart()
    decide(world, CLEO, "doubt_give_up")
    assert world.run().state == "needs_human"
    decide(world, DORA, "doubt_give_up")
    assert world.run().state == "cancelled"


def test_decisions_survive_a_restart_at_every_tick(world: World) -> None:
    make_uncertain(world)
    decide(world, BEN, "doubt_retry")
    decide(world, CLEO, "doubt_retry")
    world.provider.fail(CREATE, COMMIT_THEN_500)
    for _ in range(6):
        world.restart()
        world.pass_time(SETTLE_S / 3)
        world.tick()
    world.tick_until(lambda: world.run().job_id, "the job")
    assert world.jobs() == 1


def test_a_refused_cancel_of_an_extra_job_does_not_stop_the_first(world: World) -> None:
    """The refused cancel of the second job was once taken to mean that no job was started."""
    run = world.start_approved()
    trainer = world.service.context.trainers["acme"]
    plan = plans.plan_from_json(run.plan)
    file = trainer.upload(world.service.settings.files / f"{plan.train_sha256}.jsonl", plan.train_sha256)
    for _ in range(2):
        trainer.create(job_spec(run, plan, UploadedFiles(file)))
    world.provider.fail(f"POST {JOBS}/ftjob-2/cancel", Fault(commit=False, status=400))
    world.tick(2)
    assert (world.run().state, world.run().job_id) == ("training", "ftjob-1")
