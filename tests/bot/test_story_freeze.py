"""One approver freezes, two let it start again: nothing is created meanwhile, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.services import freeze as freeze_services
from bot.services import training
from bot.values.runs import Progress
from demo.people import ANA, BEN
from demo.workspace import Person
from tests.bot.test_story_pause import PAUSING
from tests.bot.world import CLEO, DORA, EVE, GUS, JOBS, PRIVATE, PUBLIC, Rules, World, words_of
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


def test_an_approved_run_waits_and_its_card_says_who_froze_and_why(world: World) -> None:
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


def test_a_run_approved_in_a_freeze_keeps_its_money_and_waits(world: World) -> None:
    freeze(world)
    world.start_approved()
    world.tick(8)
    assert world.run().state == "approved" and world.jobs() == 0 and world.ledger()["reserve"] > 0
    assert world.find_message("Run 1 is approved", f"Waiting: spending was frozen by <@{BEN.id}>")
    unfreeze(world, CLEO, BEN)
    world.tick_until_state("done")
    assert world.jobs() == 1


def test_a_job_that_trains_goes_on(world: World) -> None:
    world.start_approved()
    world.tick_until_state("training")
    freeze(world)
    world.tick_until_state("done")


def test_a_create_whose_answer_got_lost_is_found_in_a_freeze_and_not_made_again(world: World) -> None:
    world.provider.fail(f"POST {JOBS}", COMMIT_THEN_CUT)
    world.start_approved()
    world.tick_until_state("creating")
    freeze(world)
    world.tick_until_state("training")
    assert world.jobs() == 1


def test_a_create_that_never_arrived_is_not_tried_again_in_a_freeze(world: World) -> None:
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


def test_a_freeze_between_the_look_and_the_intent_is_in_time(
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


def test_one_word_is_said_and_the_second_person_s_carries_it_out(world: World) -> None:
    freeze(world)
    unfreeze(world, BEN)  # who froze may be one of the two
    said = world.find_message(f"<@{BEN.id}> wants to lift the freeze")
    assert f"<@{CLEO.id}>" in said and f"<@{BEN.id}>, " not in said
    assert "You have already voted for that" in world.type("/finetune unfreeze", user=BEN)
    assert world.store.freezes.current()
    assert "one more approver is needed" in world.type("/finetune status")
    unfreeze(world, CLEO)
    assert world.store.freezes.current() is None
    assert world.find_message("was lifted by", f"<@{BEN.id}> and <@{CLEO.id}>")
    assert "Nothing is frozen" in world.type("/finetune unfreeze", user=CLEO)
    acts = [(one.who, one.action) for one in world.store.audit.entries("freeze 1")]
    assert acts == [
        *((BEN.id, "freeze"), (BEN.id, "unfreeze"), (CLEO.id, "unfreeze")),
        ("finetune", "unfrozen"),
    ]


def test_a_word_counts_only_as_long_as_its_person_is_an_approver(world: World) -> None:
    freeze(world)
    unfreeze(world, BEN)
    world.rules.approvers = (CLEO.id, DORA.id)
    world.restart()
    unfreeze(world, CLEO)
    assert world.store.freezes.current()
    unfreeze(world, DORA)
    assert world.store.freezes.current() is None


@pytest.mark.parametrize("person", [ANA, EVE, GUS], ids=lambda person: person.name)
@pytest.mark.parametrize("word", ["freeze", "unfreeze"])
def test_only_approvers_freeze_and_unfreeze(world: World, person: Person, word: str) -> None:
    assert "Only" in world.type(f"/finetune {word}", user=person)
    assert world.store.freezes.current() is None and world.texts() == []


def test_a_second_freeze_says_who_froze_before(world: World) -> None:
    freeze(world, "<!channel> audit")
    answer = world.type("/finetune freeze again", user=CLEO)
    assert f"already frozen by <@{BEN.id}>" in answer and "audit" in answer and "<!channel>" not in answer


def test_it_outlives_a_restart_and_is_told_where_it_was_typed(world: World) -> None:
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


def test_who_alone_is_named_reads_the_cure(make_world: MakeWorld) -> None:
    world = make_world(Rules(approvers=(BEN.id,)))
    freeze(world)
    unfreeze(world, BEN)
    assert world.find_message("but there is none. Add one under [people]")
    assert "but there is none. Add one" in world.type("/finetune unfreeze", user=BEN)


def test_where_anyone_may_lift_it_nobody_is_told_to_name_approvers(make_world: MakeWorld) -> None:
    world = make_world(Rules(more='[policy.who]\nfreeze = ["anyone"]'))
    freeze(world)
    unfreeze(world, BEN)
    assert world.find_message("wants to lift the freeze", "every full member may")
    assert "every full member may" in world.type("/finetune unfreeze", user=BEN)


def test_a_held_run_can_be_cancelled(world: World) -> None:
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
    world.type("/finetune resume 1")  # a wish of before the freeze
    freeze(world)
    world.tick(3)
    assert Progress.from_json(world.run().progress).is_paused and world.run().wish == "resume"
    world.store.runs.complete_wish(world.run(), now=world.clock)
    said = world.type("/finetune resume 1")
    assert "stays paused" in said and f"frozen by <@{BEN.id}>" in said
    assert world.provider.count(f"POST {JOBS}/ftjob-1/resume") == 0
    unfreeze(world, BEN, CLEO)
    world.type("/finetune resume 1")
    world.tick_until_state("done")


def test_a_wish_to_resume_of_before_the_freeze_comes_true_after_it(world: World) -> None:
    training_that_can_pause(world)
    world.type("/finetune pause 1")
    world.tick_until(lambda: Progress.from_json(world.run().progress).is_paused, "the pause")
    world.type("/finetune resume 1")
    freeze(world)
    world.tick(3)
    unfreeze(world, BEN, CLEO)
    world.tick_until_state("done")


def test_no_model_that_costs_money_is_asked_in_a_freeze(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")
    asked = world.provider.count("POST /chat/completions")
    world.type("/finetune try tickets-1 where is my refund?")
    freeze(world)
    world.tick(2)
    assert "frozen" in words_of(world.slack.ephemerals(ANA.id)[-1])
    said = world.type("/finetune try tickets-1 where is my refund?")
    assert "Models that cost money can't be asked now" in said and "the bill looks odd" in said
    world.tick(2)
    assert world.provider.count("POST /chat/completions") == asked
    unfreeze(world, BEN, CLEO)
    assert "Asking" in world.type("/finetune try tickets-1 where is my refund?")
