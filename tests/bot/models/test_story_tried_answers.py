"""People judge answers to `try`, and their verdicts make a dataset of preference pairs."""

from __future__ import annotations

import json

from bot.command_options import dataset_name
from bot.reconciler import apply_retention
from bot.services.datasets.trained_rows import pairs_name
from bot.services.models.tried_answers import may_judge
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from tests.bot import canaries
from tests.bot.datasets.test_story_deletion import delete
from tests.bot.runs import seed_runs
from tests.bot.world import PRIVATE, World

DAY_S = 24 * 3600.0


def ask(world: World, text: str) -> str:
    """Ask the model; the timestamp of the message with its answer."""
    world.type(f"/finetune try tickets-1 {text}")
    assert "It answers" in world.tick_until_answered()
    return world.slack.ephemerals(ANA.id)[-1].ts


def correct(world: World, ts: str, better: str) -> None:
    world.slack.click(ANA.id, PRIVATE.id, ts, "answer_not_good")
    assert world.slack.submit_modal(ANA.id, {"text": better}).accepted


def test_better_answers_become_a_dataset_of_pairs(world: World) -> None:
    seed_runs(world)
    usual, world.provider.service.answer = world.provider.service.answer, lambda model, messages: " "
    nothing = ask(world, "which answer is empty?")
    assert "answer_good" not in str(world.slack.ephemerals(ANA.id)[-1].blocks), "it can't be preferred"
    correct(world, nothing, "not this one")
    world.tick()
    assert "empty answer makes none" in world.dms()[-1]
    world.provider.service.answer = usual
    for number in range(14):
        correct(world, ask(world, f"case {number}: where is my refund?"), f"refund, of case {number}")
        if number == 3:
            reply = world.type("/finetune pairs tickets")
            assert "make 4 preference pairs" in reply and "1 empty answer is left out" in reply
    world.tick()
    assert "14 preference pairs" in world.dms()[-1]
    assert "1 empty answer is left out" in world.type("/finetune pairs tickets")
    world.tick_until(
        lambda: world.dataset().name == "tickets-pairs" and world.dataset().state == "ready", "the check"
    )
    world.send()
    path = world.service.settings.files / str(world.dataset().sha256)
    first = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    assert first["input"]["messages"][-1]["content"] == "case 0: where is my refund?"
    assert first["input"]["messages"][0]["role"] == "system", "as the model was asked"
    assert first["preferred_output"] == [{"role": "assistant", "content": "refund, of case 0"}]
    assert first["non_preferred_output"] == [{"role": "assistant", "content": "refund"}]
    assert "method=dpo" in world.find_message("tickets-pairs is readable")
    world.slack.command(BEN.id, PRIVATE.id, "/finetune delete tickets")
    assert "`tickets-pairs` stays" in world.read_form(BEN)


def test_a_name_of_any_length_has_one_for_its_pairs() -> None:
    assert pairs_name("tickets") == "tickets-pairs"
    longest = "customer-support-tickets-emea-2026-q4-de"
    assert len(longest) == 40
    names = {pairs_name(longest), pairs_name(longest.removesuffix("-de")), pairs_name(longest[:-2] + "fr")}
    assert len(names) == 3
    for name in names:
        assert dataset_name(name) == name and name.endswith("-pairs")


def test_a_good_answer_is_preferred_to_an_earlier_bad_one(world: World) -> None:
    seed_runs(world)
    correct(world, ask(world, "where is my refund?"), "refund, please wait")
    world.provider.service.answer = lambda model, messages: "billing"
    ts = ask(world, "Where is  my refund?")
    before = len(world.slack.ephemerals(ANA.id))
    world.slack.click(ANA.id, PRIVATE.id, ts, "answer_good")
    world.wait_for_answer(ANA, before)
    reply = world.slack.ephemerals(ANA.id)[-1].text
    assert "2 preference pairs so far; training needs 14" in reply and "/finetune pairs" not in reply
    verdicts = [entry.detail for entry in world.store.audit.entries() if entry.action == "judge answer"]
    assert verdicts == ["not good", "good"]


def test_a_better_answer_is_its_askers_differs_and_holds_no_secret(world: World) -> None:
    seed_runs(world)
    ts = ask(world, "where is my refund?")
    assert isinstance(may_judge(world.service.context, 1, BEN.id), Refusal)
    assert not isinstance(may_judge(world.service.context, 1, ANA.id), Refusal)
    world.slack.click(ANA.id, PRIVATE.id, ts, "answer_not_good")
    assert "differs" in str(world.slack.submit_modal(ANA.id, {"text": " Refund "}).errors)
    secret = "use sk-proj-" + "a1B2" * 12
    assert "revoke it" in str(world.slack.submit_modal(ANA.id, {"text": secret}).errors)
    assert world.store.tried_answers.judged("tickets") == []


def test_answers_are_deleted_after_a_week_or_with_their_dataset(world: World) -> None:
    seed_runs(world)
    ask(world, "where is my refund?")
    correct(world, ask(world, "is quuxnightjar a refund?"), "refund of a quuxnightjar")
    world.pass_time(8 * DAY_S)
    apply_retention(world.service.context)
    assert world.store.tried_answers.get(1) is None and world.store.tried_answers.get(2) is not None
    assert delete(world, BEN).accepted
    world.tick_until(lambda: not world.store.deletions.open(), "the deletion")
    word = {"a better answer's word": "quuxnightjar"}
    assert canaries.in_database(world.service.settings.database, word) == set()
