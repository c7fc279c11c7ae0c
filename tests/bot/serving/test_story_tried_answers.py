"""People judge answers to `try`, and their verdicts make a dataset of preference pairs."""

from __future__ import annotations

import json

import pytest

from bot.reconciler import apply_retention
from bot.rules.plans import plan_from_json
from bot.services.datasets import dataset_worker
from bot.services.datasets.pairs import pairs_name
from bot.services.deletion_scope import standing_promotions
from bot.services.evidence.promotion_evidence import promotion_proof
from bot.services.serving.tried_answers import may_judge
from bot.values.runs import Refusal
from bot.values.upload_fields import dataset_name
from demo.people import ANA, BEN
from storage.promotions import NewPromotion
from storage.records import Promotable
from tests.bot import canaries
from tests.bot.datasets.test_story_deletion import delete
from tests.bot.datasets.test_story_row_deletion import report_of
from tests.bot.props import tickets_csv
from tests.bot.runs import ENOUGH_ROWS, seed_runs
from tests.bot.world import CLEO, PRIVATE, World

DAY_S = 24 * 3600.0


def ask(world: World, text: str) -> str:
    """Ask the model; the timestamp of the message with its answer."""
    world.type(f"/finetune try tickets-1 {text}")
    assert "It answers" in world.tick_until_answered()
    return world.slack.ephemerals(ANA.id)[-1].ts


def correct(world: World, ts: str, better: str) -> None:
    world.slack.click(ANA.id, PRIVATE.id, ts, "answer_not_good")
    assert world.slack.submit_modal(ANA.id, {"text": better}).accepted


def deletion_question(world: World) -> str:
    world.slack.command(BEN.id, PRIVATE.id, "/finetune delete tickets")
    question = world.read_form(BEN)
    world.slack.close_modal(BEN.id)
    return question


@pytest.mark.deep
def test_better_answers_become_pairs_that_train_the_judged_model_and_rows(world: World) -> None:
    world.abilities += ', "dpo", "going_on"'
    world.restart()
    seed_runs(world)
    # The seeded version's file, which the next version is written from.
    source = world.service.settings.files / str(world.dataset().sha256)
    source.write_text(tickets_csv(ENOUGH_ROWS), encoding="utf-8")
    usual, world.provider.service.answer = world.provider.service.answer, lambda model, messages: " "
    nothing = ask(world, "which answer is empty?")
    assert "answer_good" not in str(world.slack.ephemerals(ANA.id)[-1].blocks), "it can't be preferred"
    correct(world, nothing, "not this one")
    world.tick()
    assert "empty answer makes no preference pair" in world.dms()[-1]
    world.provider.service.answer = usual
    for number in range(14):
        correct(world, ask(world, f"case {number}: where is my refund?"), f"refund, of case {number}")
        if number == 3:
            reply = world.type("/finetune pairs tickets")
            assert "make 4 preference pairs" in reply and "1 empty answer is left out" in reply
    held_out = dataset_worker.examples(
        world.service.settings.files, str(report_of(world.dataset()).holdout_sha256)
    )
    correct(world, ask(world, held_out[0].prompt[-1].content), "another label")
    correct(world, ask(world, "case 14: where is my invoice for the refund?"), "billing")
    world.tick()
    assert "16 preference pairs" in world.dms()[-1]
    reply = world.type("/finetune pairs tickets")
    assert (
        "1 empty answer is left out" in reply and "1 pair is left out, because `tickets` holds out" in reply
    )
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
    card = world.find_message("tickets-pairs is readable")
    assert "let `tickets-1` learn from these pairs" in card
    world.click(ANA, "start_from_pairs")
    world.tick_until(lambda: world.newest_run().id == 2, "the plan")
    plan = plan_from_json(world.newest_run().plan)
    assert plan.starts_from is not None and plan.starts_from.name == "tickets-1"
    assert (plan.dataset, plan.method, plan.current) == ("tickets-pairs", "dpo", "gpt-4o")
    world.send()
    world.provider.service.trained_tokens = plan.training_tokens
    assert "Run 2 on `tickets-pairs` goes on from a model that is deleted here, so it" in deletion_question(
        world
    )
    world.approve()
    world.tick_until(lambda: world.run(2).job_id is not None, "the job")
    assert "`/finetune cancel 2` ends it first" in deletion_question(world)
    world.tick_until_state("done", 2)
    question = deletion_question(world)
    assert "`tickets-pairs` stays" in question and "Run 2" not in question
    assert "`tickets-pairs-2` stays, although it went on from a model that is deleted here" in question

    improves_what_was_judged(world)

    reply = world.click_and_read(ANA, "add_better_answers")
    assert "1 better answer is being added to the training rows of `tickets`" in reply
    assert "1 to questions that `tickets` holds out" in reply and "15 that are none of its labels" in reply
    before = report_of(world.store.datasets.versions("tickets")[0])
    world.tick_until(lambda: world.store.datasets.versions("tickets")[0].version == 2, "the next version")
    world.tick_until(lambda: world.store.datasets.versions("tickets")[0].state == "ready", "its check")
    after = report_of(world.store.datasets.versions("tickets")[0])
    assert (after.n_train, after.holdout_sha256) == (before.n_train + 1, before.holdout_sha256)
    assert "No better answer can be added" in world.click_and_read(ANA, "add_better_answers")


def improves_what_was_judged(world: World) -> None:
    """The model that learnt from the pairs takes the place of the one whose answers were judged."""
    context = world.service.context
    first = Promotable("tickets-1")
    judged = NewPromotion("tickets", first, BEN.id, PRIVATE.id, instead_of=None, returns_to=None)
    world.store.promotions.add(judged, now=world.clock)
    proof = promotion_proof(context, Promotable("tickets-pairs-2"), first)
    assert proof.against_used is not None and proof.against_used.other == "tickets-1"
    world.type("/finetune promote tickets-pairs-2 because=people prefer its answers", user=BEN)
    world.send()
    world.click(CLEO, "approve_promotion")
    world.send()
    standing = world.store.promotions.current("tickets")
    assert standing.model == "tickets-pairs-2" and world.store.promotions.current("tickets-pairs") is None
    assert "*in use for tickets*" in world.type("/finetune models")
    question = deletion_question(world)
    assert "`tickets-pairs-2` learnt from these pairs and stays in use" in question
    assert "programs that call `team/tickets` still get its answers" in question
    world.slack.command(BEN.id, PRIVATE.id, "/finetune delete tickets-pairs")
    assert "*tickets-pairs-2 is in use*" in world.read_form(BEN)
    world.slack.close_modal(BEN.id)
    ends_all_its_uses(world)


def ends_all_its_uses(world: World) -> None:
    """A promotion of an earlier release used it for the pairs' own dataset, and still does."""
    before = NewPromotion(
        "tickets-pairs", Promotable("tickets-pairs-2"), BEN.id, PRIVATE.id, instead_of=None, returns_to=None
    )
    world.store.promotions.add(before, now=world.clock)
    versions = world.store.datasets.versions("tickets-pairs")
    both = standing_promotions(world.service.context, versions)
    assert [each.dataset for each in both] == ["tickets", "tickets-pairs"], "a deletion ends both"
    world.type("/finetune rollback tickets to=nothing", user=BEN)
    model = world.store.model("tickets-pairs-2")
    assert model is not None and model.state == "promoted", "for the other dataset"
    world.type("/finetune rollback tickets-pairs to=nothing", user=BEN)
    model = world.store.model("tickets-pairs-2")
    assert model is not None and model.state == "retired"


def test_a_name_of_any_length_has_one_for_its_pairs() -> None:
    assert pairs_name("tickets") == "tickets-pairs"
    longest = "customer-support-tickets-emea-2026-q4-de"
    assert len(longest) == 40
    names = {pairs_name(longest), pairs_name(longest.removesuffix("-de")), pairs_name(longest[:-2] + "fr")}
    assert len(names) == 3
    for name in names:
        assert dataset_name(name) == name and name.endswith("-pairs")


@pytest.mark.deep
def test_a_good_answer_is_preferred_to_an_earlier_bad_one(world: World) -> None:
    seed_runs(world)
    correct(world, ask(world, "where is my refund?"), "refund, please wait")
    world.provider.service.answer = lambda model, messages: "billing"
    ts = ask(world, "Where is  my refund?")
    before = len(world.slack.ephemerals(ANA.id))
    world.slack.click(ANA.id, PRIVATE.id, ts, "answer_good")
    world.wait_for_answer(ANA, before)
    reply = world.slack.ephemerals(ANA.id)[-1].text
    assert reply == "Saved for “Where is my refund?”: 2 of the 14 preference pairs that training needs."
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
