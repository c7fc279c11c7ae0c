"""One approver freezes spending and two lift the freeze: meanwhile nothing is created, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.services.decisions import freeze as freeze_services
from bot.services.training import training
from bot.values.runs import Progress
from demo.people import ANA, BEN
from demo.workspace import Person
from tests.bot.training.test_story_pause import PAUSING
from tests.bot.world import CLEO, DORA, EVE, GUS, JOBS, PRIVATE, PUBLIC, START, Rules, World, words_of
from tests.peers.hosted import COMMIT_THEN_CUT, RESET

MakeWorld = Callable[[Rules], World]


def freeze(world: World, reason: str = "the bill looks odd") -> None:
    assert world.type(f"/finetune freeze {reason}", user=BEN) == ""
    world.send()


def unfreeze(world: World, *people: Person) -> None:
    for person in people:
        assert world.type("/finetune unfreeze", user=person) == ""
        world.send()


def training_that_can_pause(world: World) -> None:
    world.abilities = PAUSING
    world.restart()
    world.provider.service.stages = ("running",) * 6 + ("succeeded",)
    world.start_approved()
    world.tick_until_state("training")


def test_an_approved_run_waits_and_its_card_names_who_froze_and_why(world: World) -> None:
    world.start_approved()
    freeze(world)
    world.tick(8)
    assert (world.run().state, world.jobs(), world.files_at_provider()) == ("approved", 0, [])
    card = world.find_message(
        "Run 1 is approved", f"Waiting: spending was frozen by <@{BEN.id}>", "the bill looks odd"
    )
    assert "It continues after" in card
    assert f"Spending frozen by <@{BEN.id}>" in world.find_message(
        "One run is waiting", "Trainings in progress continue"
    )
    unfreeze(world, BEN, CLEO)
    world.tick_until_state("training")
    assert world.jobs() == 1
    world.send()
    assert "Waiting: spending" not in world.find_message("Run 1 is training")


def test_the_card_of_a_plan_says_that_it_would_wait_for_the_freeze(world: World) -> None:
    held = f"*Spending is frozen by <@{BEN.id}>*: it can be approved, and starts after"
    world.start()
    freeze(world)
    assert world.find_message("Run 1: train", held)
    unfreeze(world, BEN, CLEO)
    assert held not in world.find_message("Run 1: train")
    freeze(world)
    world.seed_dataset(called="letters")
    world.start(START.replace("tickets", "letters"))
    assert world.find_message("Run 2: train", held)


def test_a_run_approved_during_a_freeze_reserves_its_money_and_waits(world: World) -> None:
    freeze(world)
    world.start_approved()
    world.tick(8)
    assert world.run().state == "approved" and world.jobs() == 0 and world.ledger()["reserve"] > 0
    assert world.find_message("Run 1 is approved", f"Waiting: spending was frozen by <@{BEN.id}>")
    unfreeze(world, CLEO, BEN)
    world.tick_until_state("training")
    assert world.jobs() == 1


def test_a_job_in_training_continues_during_a_freeze(world: World) -> None:
    world.start_approved()
    world.tick_until_state("training")
    freeze(world)
    world.tick_until_state("evaluating")


def test_a_job_whose_create_lost_its_answer_is_found_during_a_freeze(world: World) -> None:
    world.provider.fail(f"POST {JOBS}", COMMIT_THEN_CUT)
    world.start_approved()
    world.tick_until_state("creating")
    freeze(world)
    world.tick_until_state("training")
    assert world.jobs() == 1


def test_a_create_that_never_arrived_is_not_repeated_during_a_freeze(world: World) -> None:
    world.provider.fail(f"POST {JOBS}", RESET)
    world.start_approved()
    world.tick_until_state("creating")
    freeze(world)
    world.pass_time(3600)
    world.tick(8)
    assert world.run().state == "creating" and world.jobs() == 0
    unfreeze(world, BEN, DORA)
    world.tick_until_state("training")
    assert world.jobs() == 1


def test_a_freeze_between_the_look_and_the_intent_stops_the_create(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, trainer = world.start_approved(), world.service.context.trainers["acme"]
    upload = trainer.upload

    def upload_while_ben_freezes(*file: object) -> str:
        freeze_services.freeze(world.service.context, "", BEN.id, PRIVATE.id)
        return upload(*file)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "upload", upload_while_ben_freezes)
    training.create(world.service.context, run)
    assert world.run().state == "approved" and world.jobs() == 0


def test_the_first_vote_to_unfreeze_is_posted_and_a_second_persons_lifts_the_freeze(world: World) -> None:
    freeze(world)
    unfreeze(world, BEN)  # who froze may be one of the two
    card = world.find_message(f"<@{BEN.id}> wants to lift the freeze")
    assert f"<@{CLEO.id}>" in card and f"<@{BEN.id}>, " not in card
    assert "You have already voted for that" in world.type("/finetune unfreeze", user=BEN)
    assert world.store.freezes.current()
    assert "one more approver is needed" in world.type("/finetune status")
    unfreeze(world, CLEO)
    assert world.store.freezes.current() is None
    assert world.find_message("was lifted by", f"<@{BEN.id}> and <@{CLEO.id}>")
    assert "Nothing is frozen" in world.type("/finetune unfreeze", user=CLEO)
    actions = [(entry.who, entry.action) for entry in world.store.audit.entries("freeze 1")]
    assert actions == [
        *((BEN.id, "freeze"), (BEN.id, "unfreeze"), (CLEO.id, "unfreeze")),
        ("finetune", "unfrozen"),
    ]


def test_a_vote_to_unfreeze_counts_only_while_its_person_is_an_approver(world: World) -> None:
    freeze(world)
    unfreeze(world, BEN)
    world.rules.approvers = (CLEO.id, DORA.id)
    world.restart()
    unfreeze(world, CLEO)
    assert world.store.freezes.current()
    unfreeze(world, DORA)
    assert world.store.freezes.current() is None


def test_only_approvers_freeze_and_unfreeze(world: World) -> None:
    for person in (ANA, EVE, GUS):
        for command in ("freeze", "unfreeze"):
            assert "Only" in world.type(f"/finetune {command}", user=person), (person.name, command)
    assert world.store.freezes.current() is None and world.texts() == []


def test_a_second_freeze_names_who_froze_first(world: World) -> None:
    freeze(world, "<!channel> audit")
    answer = world.type("/finetune freeze again", user=CLEO)
    assert f"already frozen by <@{BEN.id}>" in answer and "audit" in answer and "<!channel>" not in answer


def test_a_freeze_survives_a_restart_and_is_posted_where_it_was_typed(world: World) -> None:
    world.type("/finetune freeze audit", user=BEN, channel=PUBLIC)
    world.send()
    assert (
        world.find_message(f"Spending frozen by <@{BEN.id}>", "audit", channel=PUBLIC) and world.texts() == []
    )
    world.restart()
    world.start_approved()
    world.tick(8)
    assert world.jobs() == 0
    assert f"Spending frozen by <@{BEN.id}>" in world.type("/finetune status")


def test_a_single_approver_is_told_to_name_another(make_world: MakeWorld) -> None:
    world = make_world(Rules(approvers=(BEN.id,)))
    freeze(world)
    unfreeze(world, BEN)
    assert world.find_message("but there is none. Add one under [people]")
    assert "but there is none. Add one" in world.type("/finetune unfreeze", user=BEN)


def test_where_anyone_may_unfreeze_nobody_is_told_to_name_approvers(make_world: MakeWorld) -> None:
    world = make_world(Rules(more='[policy.who]\nfreeze = ["anyone"]'))
    freeze(world)
    unfreeze(world, BEN)
    assert world.find_message("wants to lift the freeze", "every full member may")
    assert "every full member may" in world.type("/finetune unfreeze", user=BEN)


def test_a_run_that_a_freeze_holds_can_be_cancelled(world: World) -> None:
    world.start_approved()
    freeze(world)
    world.tick(2)
    world.type("/finetune cancel 1", user=BEN)
    world.tick_until_state("cancelled")
    assert world.ledger()["settle"] == 0 and world.jobs() == 0


def test_a_paused_training_stays_paused_until_the_freeze_ends(world: World) -> None:
    training_that_can_pause(world)
    world.type("/finetune pause 1")
    world.tick_until(lambda: Progress.from_json(world.run().progress).is_paused, "the pause")
    world.type("/finetune resume 1")
    freeze(world)
    world.tick(3)
    assert Progress.from_json(world.run().progress).is_paused and world.run().wish == "resume"
    world.store.runs.complete_wish(world.run(), now=world.clock)
    reply = world.type("/finetune resume 1")
    assert "stays paused" in reply and f"frozen by <@{BEN.id}>" in reply
    assert world.provider.count(f"POST {JOBS}/ftjob-1/resume") == 0
    unfreeze(world, BEN, CLEO)
    world.type("/finetune resume 1")
    world.tick_until_state("evaluating")


def test_a_resume_from_before_the_freeze_is_carried_out_after_it(world: World) -> None:
    training_that_can_pause(world)
    world.type("/finetune pause 1")
    world.tick_until(lambda: Progress.from_json(world.run().progress).is_paused, "the pause")
    world.type("/finetune resume 1")
    freeze(world)
    world.tick(3)
    unfreeze(world, BEN, CLEO)
    world.tick_until_state("evaluating")


@pytest.mark.deep
def test_no_model_that_costs_money_is_asked_during_a_freeze(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")
    chats = world.provider.count("POST /chat/completions")
    world.type("/finetune try tickets-1 where is my refund?")
    freeze(world)
    world.tick(2)
    assert "frozen" in words_of(world.slack.ephemerals(ANA.id)[-1])
    reply = world.type("/finetune try tickets-1 where is my refund?")
    assert "Models that cost money can't be asked now" in reply and "the bill looks odd" in reply
    world.tick(2)
    assert world.provider.count("POST /chat/completions") == chats
    unfreeze(world, BEN, CLEO)
    assert "Asking" in world.type("/finetune try tickets-1 where is my refund?")
