"""Promotions and rollbacks of tuned models, and the alias that programs call."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from bot.reconciler import maintain
from bot.rules.plans import plan_from_json
from bot.services.evidence import notifications, promotion_evidence
from bot.services.measurement import evaluations
from bot.services.models import promotions
from bot.services.serving import alias_sync
from bot.values.requests import Promote
from bot.values.runs import Advice, Refusal, RunResult
from demo.people import ANA, BEN
from demo.workspace import Person
from tests.bot.datasets.test_story_dataset_versions import second_csv
from tests.bot.measurements import PRICES
from tests.bot.props import tickets_csv
from tests.bot.runs import seed_runs
from tests.bot.saved_worlds import reached_once
from tests.bot.world import CLEO, EVE, GUS, PRIVATE, PUBLIC, START, MakeWorld, Rules, World
from tests.peers.hosted import COMMIT_THEN_500, NOTHING_BUT_500, RESET, Fault
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.values import Published

WITH_ALIASES = '"metadata", "metadata_filter", "method", "suffix", "checkpoints", "chat", "aliases"'
WHY = "because=half the price at the same quality"
PUT = "PUT /aliases/team/tickets"
NAMES = ("tickets-1", "tickets-2", "tickets-3")


def with_aliases(world: World, runs: int = 1) -> None:
    """Runs at a provider that keeps aliases, as our own trainer does."""
    world.abilities = WITH_ALIASES
    world.restart()
    seed_runs(world, runs)


@reached_once
def seed_promoted(world: World, count: int = 1) -> None:
    """Trains `count` models and deploys them one after the other."""
    seed_runs(world, count)
    for name in NAMES[:count]:
        promote(world, name, WHY)


def promote(world: World, model: str = "tickets-1", why: str = "", user: Person = BEN) -> None:
    """Deploys a model. If a reason has to speak for it, somebody else approves."""
    assert world.type(f"/finetune promote {model} {why}", user=user) == ""
    world.send()
    if world.has_button("approve_promotion"):
        world.click(CLEO if user is BEN else BEN, "approve_promotion")
        world.send()


def in_use(world: World) -> str | None:
    promotion = world.store.promotions.current("tickets")
    return promotion.model if promotion else None


def alias_target(world: World) -> str | None:
    return world.provider.service.aliases.get("team/tickets")


def published(world: World) -> Published:
    """What programs get as team/tickets after the next tick."""
    world.tick()
    answer = RecipeFolder(world.service.settings.recipes).published("team/tickets")
    assert answer is not None
    return answer


def model_of_recipe(world: World) -> str | None:
    """The model that the recipe in use asks."""
    recipe = RecipeFolder(world.service.settings.recipes).read(published(world).recipe or "")
    assert recipe is not None and (recipe.kind, recipe.dataset) == ("tuned", "tickets")
    return recipe.model


def provider_model(world: World, name: str) -> str:
    return str(world.store.model(name).provider_model)


# Who promotes, on what evidence.


def test_a_better_model_is_promoted_beside_its_scores(world: World) -> None:
    seed_promoted(world)
    assert in_use(world) == "tickets-1"
    card = world.find_message("tickets-1 is in use for tickets", f"<@{BEN.id}> deployed it.")
    assert "100.0% (91–100%) on 39 held-out rows" in card and "Against the untuned base" in card
    assert "Programs that call `team/tickets` get it as soon as it is published" in card
    assert "Roll back" not in card
    (entry,) = [entry for entry in world.store.audit.entries("run 1") if entry.action == "promote"]
    assert entry.who == BEN.id and "tickets-1 for tickets: 100.0%" in entry.detail
    assert "deployed its model" in world.type("/finetune audit 1")


def test_only_approvers_promote_and_roll_back(world: World) -> None:
    seed_runs(world)
    for person in (ANA, EVE, GUS):
        assert "Only" in world.type("/finetune promote tickets-1", user=person), person
    assert in_use(world) is None
    promote(world)
    for person in (ANA, EVE, GUS):
        assert "Only" in world.type("/finetune rollback tickets", user=person), person
    assert in_use(world) == "tickets-1"


def test_a_former_approver_may_not_promote(world: World) -> None:
    seed_runs(world)
    world.rules.approvers = (CLEO.id,)
    world.restart()
    assert f"Only an approver may do that: <@{CLEO.id}>" in world.type(
        "/finetune promote tickets-1", user=BEN
    )


@pytest.mark.deep
def test_a_model_no_better_than_the_one_in_use_needs_a_reason(world: World) -> None:
    seed_runs(world, 2)
    promote(world)
    refusal = world.type("/finetune promote tickets-2", user=BEN)
    assert "not clearly better than tickets-1: +0.0 points" in refusal and "because=" in refusal
    assert "at least 3 words" in world.type("/finetune promote tickets-2 because=newer", user=BEN)
    assert in_use(world) == "tickets-1"
    promote(world, "tickets-2", WHY)
    assert in_use(world) == "tickets-2"
    card = world.find_message("tickets-2 is in use for tickets", "in place of `tickets-1`")
    assert "half the price at the same quality" in card and "Against tickets-1, 100.0%" in card
    assert world.find_message("tickets-1 was in use for tickets")
    (entry,) = [entry for entry in world.store.audit.entries("run 2") if entry.action == "promote"]
    assert "Because: half the price at the same quality" in entry.detail
    assert [model.state for model in map(world.store.model, NAMES[:2])] == ["retired", "promoted"]


def test_an_unmeasured_model_needs_a_reason(world: World) -> None:
    world.start_approved()
    world.tick_until_state("evaluating")
    assert "not been measured" in world.type("/finetune promote tickets-1", user=BEN)
    promote(world, why=WHY)
    assert "It has not been measured on held-out rows." in world.find_message("tickets-1 is in use")


def test_an_unknown_model_or_dataset_is_answered_with_a_suggestion(world: World) -> None:
    assert "no tuned models yet" in world.type("/finetune promote tickets-1", user=BEN)
    assert "no tuned models yet" in world.type("/finetune models")
    seed_runs(world)
    assert "Did you mean `tickets-1`?" in world.type("/finetune promote tickets-7", user=BEN)
    assert "Nothing is in use for `tickets`" in world.type("/finetune rollback tickets", user=BEN)
    assert "There is no dataset `tikets`" in world.type("/finetune rollback tikets", user=BEN)
    promote(world)
    assert "already in use for `tickets`" in world.type("/finetune promote tickets-1", user=BEN)


# Rolling back.


@pytest.mark.deep
def test_two_rollbacks_go_back_two_models(world: World) -> None:
    seed_promoted(world, 3)
    for name in ("tickets-2", "tickets-1"):
        assert world.type("/finetune rollback tickets because=it answers in French", user=CLEO) == ""
        world.send()
        assert in_use(world) == name
        world.find_message(
            f"{name} is in use again for tickets", f"<@{CLEO.id}> rolled back from", "it answers in French"
        )
        assert model_of_recipe(world) == provider_model(world, name)
    answer = world.type("/finetune results 3")
    assert f"*Rolled back* to `tickets-2` by <@{CLEO.id}>" in answer
    assert "`/finetune promote tickets-3` deploys it again" in answer
    actions = [entry.action for entry in world.store.audit.entries("run 2")]
    assert actions[-5:] == ["promote", "replaced", "rolled back to", "publish", "roll back"]


@pytest.mark.deep
def test_a_recipe_is_kept_for_a_month_after_its_use(world: World) -> None:
    seed_runs(world, 2)
    promote(world)
    first = published(world).recipe
    promote(world, "tickets-2", WHY)
    second = published(world).recipe
    recipes = RecipeFolder(world.service.settings.recipes)
    for days, left in ((29, {first, second}), (2, {second})):
        world.pass_time(days * 24 * 3600)
        maintain(world.service.context)
        assert recipes.hashes() == left, days
    world.type("/finetune rollback tickets", user=BEN)
    assert published(world).recipe == first, "built again from the same rows"


def test_the_button_rolls_back_once(world: World) -> None:
    seed_promoted(world, 2)
    card = world.find_button("roll_back")
    world.click(BEN, "roll_back")
    world.slack.click(CLEO.id, PRIVATE.id, card.ts, "roll_back")
    world.send()
    assert in_use(world) == "tickets-1"
    assert len(world.store.database.rows("SELECT id FROM promotions")) == 3
    assert world.find_message("tickets-2 was in use for tickets")


def test_a_freeze_stops_promotions_but_not_rollbacks(world: World) -> None:
    seed_promoted(world, 2)
    world.type("/finetune freeze the answers look odd", user=BEN)
    refusal = world.type(f"/finetune promote tickets-1 {WHY}", user=BEN)
    assert "Nothing else is deployed now" in refusal and "the answers look odd" in refusal
    world.type("/finetune rollback tickets", user=BEN)
    assert in_use(world) == "tickets-1"


# Simultaneous and repeated promotions.


def test_of_two_simultaneous_promotions_one_is_in_use(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seed_runs(world, 2)
    context = world.service.context
    both = Barrier(2, timeout=60)
    prove = promotion_evidence.promotion_proof

    def prove_together(*arguments: object) -> object:
        both.wait()  # each has seen by now that nothing is in use
        return prove(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(promotion_evidence, "promotion_proof", prove_together)
    with ThreadPoolExecutor(2) as pool:
        promoting = [
            pool.submit(promotions.promote, context, Promote(name), BEN.id, PRIVATE.id) for name in NAMES[:2]
        ]
    (refusal,) = [result.text for task in promoting if isinstance(result := task.result(), Refusal)]
    assert "Something else was deployed just now" in refusal
    in_use = world.store.database.rows("SELECT model FROM promotions WHERE ended_at IS NULL")
    assert len(in_use) == 1


def test_a_promotion_is_refused_if_another_came_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seed_runs(world, 2)
    context, prove = world.service.context, promotion_evidence.promotion_proof

    def prove_while_cleo_promotes(*arguments: object) -> object:
        monkeypatch.undo()
        promotions.promote(context, Promote("tickets-1"), CLEO.id, PRIVATE.id)
        return prove(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(promotion_evidence, "promotion_proof", prove_while_cleo_promotes)
    result = promotions.promote(context, Promote("tickets-2"), BEN.id, PRIVATE.id)
    assert isinstance(result, Refusal) and "Something else was deployed just now" in result.text
    assert in_use(world) == "tickets-1"


def test_a_repeated_promotion_does_nothing(world: World) -> None:
    seed_runs(world)
    for _ in range(2):
        world.type("/finetune promote tickets-1", user=BEN)
    world.send()
    assert len(world.store.database.rows("SELECT id FROM promotions")) == 1
    assert len([card for card in world.cards() if "tickets-1 is in use" in card]) == 1


def test_promoting_from_another_channel_links_to_the_card(world: World) -> None:
    seed_runs(world)
    reply = world.type("/finetune promote tickets-1", user=BEN, channel=PUBLIC)
    assert f"The card is in <#{PRIVATE.id}>" in reply
    world.send()
    assert world.find_message("tickets-1 is in use") and world.texts(PUBLIC) == []


# The alias that programs call.


@pytest.mark.deep
def test_the_trainers_alias_follows_the_promotion(world: World) -> None:
    with_aliases(world, 2)
    promote(world)
    assert "as soon as the trainer knows" in world.find_message("tickets-1 is in use")
    world.tick()
    assert alias_target(world) == provider_model(world, "tickets-1")
    assert "now get it, without a change" in world.find_message("tickets-1 is in use")
    promote(world, "tickets-2", WHY)
    world.tick()
    assert alias_target(world) == provider_model(world, "tickets-2")
    world.type("/finetune rollback tickets", user=BEN)
    world.tick()
    assert alias_target(world) == provider_model(world, "tickets-1")
    count = world.provider.count(PUT)
    world.tick(5)
    assert world.provider.count(PUT) == count == 3


@pytest.mark.parametrize(
    "fault", [NOTHING_BUT_500, COMMIT_THEN_500, RESET], ids=["500", "committed", "reset"]
)
def test_the_alias_is_set_once_the_trainer_recovers(world: World, fault: Fault) -> None:
    with_aliases(world)
    world.provider.fail(PUT, fault, times=2)
    promote(world)
    world.tick()
    assert "can't be reached yet, so the bot keeps trying" in world.find_message("tickets-1 is in use")
    world.tick_until(lambda: world.store.promotions.current("tickets").carried_at, "the trainer to know")
    world.send()
    assert alias_target(world) == provider_model(world, "tickets-1")
    card = world.find_message("tickets-1 is in use")
    assert "without a change" in card and "can't be reached yet" not in card


def test_a_rollback_before_the_alias_was_set_cancels_the_promotion_there(world: World) -> None:
    with_aliases(world, 2)
    promote(world)
    world.tick()
    world.provider.fail(PUT, NOTHING_BUT_500, times=1)
    promote(world, "tickets-2", WHY)
    world.tick()
    world.type("/finetune rollback tickets", user=BEN)
    world.tick()
    assert alias_target(world) == provider_model(world, "tickets-1")
    world.pass_time(3600)
    world.tick(2)
    assert alias_target(world) == provider_model(world, "tickets-1")


def test_a_restart_before_the_alias_is_set_loses_nothing(world: World) -> None:
    with_aliases(world)
    promote(world)
    world.restart()
    world.tick()
    assert alias_target(world) == provider_model(world, "tickets-1")


@pytest.mark.deep
def test_an_alias_changed_at_the_trainer_is_restored_and_reported(world: World) -> None:
    """As after a restored backup: the database and the trainer disagree."""
    with_aliases(world, 2)
    promote(world)
    world.tick()
    world.provider.service.aliases["team/tickets"] = provider_model(world, "tickets-2")
    maintain(world.service.context)
    world.tick()
    assert alias_target(world) == provider_model(world, "tickets-1")
    assert world.find_message("`team/tickets` pointed to", "It now points to `tickets-1` again")
    messages = len(world.texts())
    maintain(world.service.context)
    world.tick()
    assert len(world.texts()) == messages


def test_promoting_a_model_elsewhere_leaves_the_alias_and_says_so(world: World) -> None:
    with_aliases(world, 2)
    promote(world)
    world.tick()
    world.store.database.change("UPDATE models SET provider = 'openai' WHERE name = 'tickets-2'")
    promote(world, "tickets-2", WHY)
    card = world.find_message("tickets-2 is in use")
    assert "`team/tickets` at Acme Tuning still points to `tickets-1`." in card
    world.tick(2)
    assert alias_target(world) == provider_model(world, "tickets-1")


# Models missing at their provider.


def lose(world: World, name: str) -> None:
    """The provider loses this model."""
    job = provider_model(world, name).rpartition(":")[2]
    del world.provider.service.jobs[f"ftjob-{job}"]
    maintain(world.service.context)


def test_a_model_missing_at_its_provider_needs_a_reason(world: World) -> None:
    seed_runs(world)
    lose(world, "tickets-1")
    assert "Its provider no longer has it" in world.type("/finetune promote tickets-1", user=BEN)
    promote(world, why="because=their list is wrong today")
    assert in_use(world) == "tickets-1" and published(world).unavailable is None
    assert "no longer at its provider" in world.type("/finetune models")


def test_a_model_missing_at_our_trainer_is_refused_whatever_the_reason(world: World) -> None:
    with_aliases(world)
    lose(world, "tickets-1")
    refusal = world.type(f"/finetune promote tickets-1 {WHY}", user=BEN)
    assert "`tickets-1` is gone from Acme Tuning" in refusal and in_use(world) is None


@pytest.mark.deep
def test_a_missing_model_in_use_is_reported_once_and_none_is_rolled_back_to(
    world: World,
) -> None:
    seed_promoted(world, 2)
    jobs = dict(world.provider.service.jobs)
    lose(world, "tickets-2")
    maintain(world.service.context)
    world.send()
    reports = [
        text for text in world.texts() if "`tickets-2`, in use for `tickets`, no longer exists" in text
    ]
    assert len(reports) == 1
    gone = published(world).unavailable
    assert gone is not None and (gone.status, gone.code) == (503, "model_gone")
    assert "tickets-2, which answers as team/tickets, no longer exists at Acme Tuning" in gone.message
    lose(world, "tickets-1")
    assert "`tickets-1`, which was in use before, is gone" in world.type(
        "/finetune rollback tickets", user=BEN
    )
    assert in_use(world) == "tickets-2"
    world.provider.service.jobs.update(jobs)
    maintain(world.service.context)
    world.send()
    assert "`tickets-2`, in use for `tickets`, exists at Acme Tuning after all" in world.texts()[-1]
    assert model_of_recipe(world) == provider_model(world, "tickets-2")


def test_a_refused_alias_is_shown_on_the_card_and_tried_again(world: World) -> None:
    with_aliases(world)
    promote(world)
    service = world.provider.service
    models, jobs = service.models, service.jobs
    service.models, service.jobs = (), {}
    world.tick()
    card = world.find_message("tickets-1 is in use")
    assert "can't be reached yet, so the bot keeps trying" in card and "HTTP 404" in card
    service.models, service.jobs = models, jobs
    world.pass_time(alias_sync.REFUSED_S)
    world.tick()
    assert alias_target(world) == provider_model(world, "tickets-1")


# Lists and results.


def test_status_says_whether_programs_get_an_answer(world: World) -> None:
    seed_runs(world)
    promote(world)
    service = world.service
    assert "Programs can't call it: `address`" in world.type("/finetune status")
    serving = replace(service.settings.serving, address="127.0.0.1:8021")
    service.context.settings = service.door.settings = replace(service.settings, serving=serving)
    assert "Programs call `team/DATASET` at http://127.0.0.1:8021/v1" in world.type("/finetune status")
    service.door._answers = False
    assert "*Programs get no answer* at http://127.0.0.1:8021/v1" in world.type("/finetune status")


def test_lists_and_try_know_the_model_in_use(world: World) -> None:
    seed_runs(world, 2)
    assert "is a dataset, and no model is in use for it" in world.type("/finetune try tickets where is it?")
    promote(world)
    listed = world.type("/finetune models")
    assert "2 tuned models" in listed and "`tickets-1` (acme-small), *in use for tickets* since" in listed
    assert f"by <@{BEN.id}>" in listed and "`tickets-2` (acme-small), not in use" in listed
    assert "100.0% (91–100%) right on 39 held-out rows" in listed
    status = world.type("/finetune status")
    assert "*In use*" in status and "for `tickets` since" in status
    assert "Asking `tickets-1`" in world.type("/finetune try tickets where is my refund?")
    assert "It answers" in world.tick_until_answered()


@pytest.mark.deep
def test_the_result_offers_a_better_model_and_its_button_promotes_it(world: World) -> None:
    seed_runs(world)
    assert world.has_button("put_to_work")
    assert "Only an approver" in world.click_and_read(ANA, "put_to_work")
    world.click(BEN, "put_to_work")
    world.send()
    assert in_use(world) == "tickets-1"
    assert count_offers(world) == 0
    assert "already in use for `tickets`" in world.type("/finetune promote tickets-1", user=BEN)
    world.find_message("In use: 100.0%", f"*Deployed* by <@{BEN.id}>")
    answer = world.type("/finetune results 1")
    assert "In use: 100.0%" in answer and f"*Deployed* by <@{BEN.id}>" in answer and "promote" not in answer
    assert "in use: 100.0%" in world.type("/finetune runs")
    world.start(f"{START} epochs=9")
    world.approve()
    world.tick_until_state("done", 2)
    assert count_offers(world) == 0, "a model no better than the one in use is not offered"


def count_offers(world: World) -> int:
    return sum("put_to_work" in str(message.blocks) for message in world.slack.messages(PRIVATE.id))


def test_the_result_can_measure_the_missing_comparison(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    seed_runs(world)
    run = world.run()
    refusal = evaluations.ask_after_run(world.service.context, 1, BEN.id)
    assert run.result and isinstance(refusal, Refusal) and "No comparison is missing" in refusal.text
    result = RunResult.from_json(run.result)
    advice = Advice("unknown", "today's model", "", "", "It was not measured.", ("acme/acme-small",))
    result = replace(result, advice=advice)
    world.store.database.change("UPDATE runs SET result = ?", (result.to_json(),))
    notifications.post_result(world.service.context, world.run(), plan_from_json(run.plan), result, ())
    world.send()
    assert "guest" in world.click_and_read(GUS, "measure_after_run")
    world.click(CLEO, "measure_after_run")
    world.tick_until(lambda: world.store.measurements.get(1), "the measurement")
    world.send()
    assert world.find_message("Measurement m1", "alternatives on tickets")


def test_a_guest_may_neither_read_details_nor_try_a_model(world: World) -> None:
    seed_runs(world)
    assert "guest" in world.click_and_read(GUS, "run_details")
    assert world.slack.view(GUS.id) is None
    assert "guest" in world.type("/finetune try tickets-1 hello", user=GUS)


@pytest.mark.deep
def test_models_of_two_versions_are_compared_on_the_rows_of_both(world: World) -> None:
    world.upload_and_check(tickets_csv())
    seed_promoted(world)
    second = world.upload_and_check(second_csv())
    world.start(f"{START} epochs=9")
    world.approve()
    world.tick_until_state("done", 2)
    refusal = world.type("/finetune promote tickets-2", user=BEN)
    assert "worse than tickets-1" in refusal or "not clearly better than tickets-1" in refusal
    promote(world, "tickets-2", WHY)
    assert second.version == 2
    assert "rows that both answered" in world.find_message("tickets-2 is in use", "Against tickets-1")
