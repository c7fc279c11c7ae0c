"""A tuned model is deployed beside its numbers, the one before it comes back, and programs' name moves
with it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from bot.reconciler import maintain
from bot.rules.plans import plan_from_json
from bot.services import alias_sync, evaluations, evidence, notifications, promotions
from bot.values.runs import Advice, Refusal, RunResult
from demo.people import ANA, BEN
from demo.workspace import Person
from tests.bot.props import tickets_csv
from tests.bot.test_story_dataset_versions import second_csv
from tests.bot.test_story_ladder import PRICES
from tests.bot.world import CLEO, EVE, GUS, PRIVATE, PUBLIC, START, Rules, World
from tests.peers.hosted import COMMIT_THEN_500, NOTHING_BUT_500, RESET

MakeWorld = Callable[[Rules], World]

WITH_ALIASES = '"metadata", "metadata_filter", "method", "suffix", "checkpoints", "chat", "aliases"'
WHY = "because=half the price at the same quality"
PUT = "PUT /aliases/team/tickets"
NAMES = ("tickets-1", "tickets-2", "tickets-3")


def trained(world: World, runs: int = 1) -> None:
    """`runs` models that have all right, one after the other."""
    for number in range(1, runs + 1):
        world.start(f"{START} epochs={4 + number}")
        world.approve()
        world.tick_until_state("done", number)


def with_aliases(world: World, runs: int = 1) -> None:
    world.abilities = WITH_ALIASES
    world.restart()
    trained(world, runs)


def promote(world: World, model: str = "tickets-1", why: str = "", user: Person = BEN) -> None:
    assert world.type(f"/finetune promote {model} {why}", user=user) == ""
    world.send()


def in_use(world: World) -> str | None:
    standing = world.store.promotions.current("tickets")
    return standing.model if standing else None


def behind_the_alias(world: World) -> str | None:
    return world.provider.service.aliases.get("team/tickets")


def provider_model(world: World, name: str) -> str:
    return str(world.store.model(name).provider_model)


# By whom, beside what.


def test_a_model_that_is_shown_to_be_better_is_put_to_work(world: World) -> None:
    trained(world)
    promote(world)
    assert in_use(world) == "tickets-1"
    card = world.find_message("tickets-1 is in use for tickets", f"<@{BEN.id}> deployed it.")
    assert "100.0% (82–100%) on 18 held-out rows" in card and "Against the untuned base" in card
    assert "Change your programs" in card and f"`{provider_model(world, 'tickets-1')}`" in card
    assert "Roll back" not in card
    (entry,) = [one for one in world.store.audit.entries("run 1") if one.action == "promote"]
    assert entry.who == BEN.id and "tickets-1 for tickets: 100.0%" in entry.detail
    assert "deployed its model" in world.type("/finetune audit 1")


def test_only_who_is_named_promotes_and_rolls_back(world: World) -> None:
    trained(world)
    for person in (ANA, EVE, GUS):
        assert "Only" in world.type("/finetune promote tickets-1", user=person), person
    assert in_use(world) is None
    promote(world)
    for person in (ANA, EVE, GUS):
        assert "Only" in world.type("/finetune rollback tickets", user=person), person
    assert in_use(world) == "tickets-1"


def test_an_approver_who_left_the_rules_promotes_no_more(world: World) -> None:
    trained(world)
    world.rules.approvers = (CLEO.id,)
    world.restart()
    assert f"Only an approver may do that: <@{CLEO.id}>" in world.type(
        "/finetune promote tickets-1", user=BEN
    )


def test_a_model_no_better_than_the_one_in_use_takes_a_reason(world: World) -> None:
    trained(world, 2)
    promote(world)
    said = world.type("/finetune promote tickets-2", user=BEN)
    assert "not clearly better than tickets-1: +0.0 points" in said and "because=" in said
    assert "at least 3 words" in world.type("/finetune promote tickets-2 because=newer", user=BEN)
    assert in_use(world) == "tickets-1"
    promote(world, "tickets-2", WHY)
    assert in_use(world) == "tickets-2"
    card = world.find_message("tickets-2 is in use for tickets", "in place of `tickets-1`")
    assert "half the price at the same quality" in card and "Against tickets-1, 100.0%" in card
    assert world.find_message("tickets-1 was in use for tickets")
    details = [one.detail for one in world.store.audit.entries("run 2") if one.action == "promote"]
    assert "Because: half the price at the same quality" in details[0]
    assert [one.state for one in map(world.store.model, NAMES[:2])] == ["retired", "promoted"]


def test_a_model_that_was_never_measured_takes_a_reason(world: World) -> None:
    world.start_approved()
    world.tick_until_state("evaluating")
    assert "not been measured" in world.type("/finetune promote tickets-1", user=BEN)
    promote(world, why=WHY)
    assert "It has not been measured on held-out rows." in world.find_message("tickets-1 is in use")


def test_what_is_not_there_is_said(world: World) -> None:
    assert "no tuned models yet" in world.type("/finetune promote tickets-1", user=BEN)
    assert "no tuned models yet" in world.type("/finetune models")
    trained(world)
    assert "Did you mean `tickets-1`?" in world.type("/finetune promote tickets-7", user=BEN)
    assert "No model is in use for `tickets`" in world.type("/finetune rollback tickets", user=BEN)
    assert "There is no dataset `tikets`" in world.type("/finetune rollback tikets", user=BEN)
    promote(world)
    assert "already in use for `tickets`" in world.type("/finetune promote tickets-1", user=BEN)
    assert "the first model in use for `tickets`" in world.type("/finetune rollback tickets", user=BEN)


# Back.


def test_two_rollbacks_go_two_models_back(world: World) -> None:
    trained(world, 3)
    for name in NAMES:
        promote(world, name, WHY)
    for name in ("tickets-2", "tickets-1"):
        assert world.type("/finetune rollback tickets because=it answers in French", user=CLEO) == ""
        world.send()
        assert in_use(world) == name
        said = world.find_message(f"{name} is in use again for tickets", f"<@{CLEO.id}> rolled back from")
        assert "it answers in French" in said
    assert "the first model in use" in world.type("/finetune rollback tickets", user=CLEO)
    acts = [one.action for one in world.store.audit.entries("run 2")]
    assert acts[-4:] == ["promote", "replaced", "rolled back to", "roll back"]


def test_the_button_rolls_back_once(world: World) -> None:
    trained(world, 2)
    promote(world)
    promote(world, "tickets-2", WHY)
    card = world.find_button("roll_back")
    world.click(BEN, "roll_back")
    world.slack.click(CLEO.id, PRIVATE.id, card.ts, "roll_back")
    world.send()
    assert in_use(world) == "tickets-1"
    assert len(world.store.database.rows("SELECT id FROM promotions")) == 3
    assert world.find_message("tickets-2 was in use for tickets") and not world.has_button("roll_back")


def test_a_freeze_stops_a_promotion_and_no_rollback(world: World) -> None:
    trained(world, 2)
    promote(world)
    promote(world, "tickets-2", WHY)
    world.type("/finetune freeze the answers look odd", user=BEN)
    said = world.type(f"/finetune promote tickets-1 {WHY}", user=BEN)
    assert "No other model is deployed now" in said and "the answers look odd" in said
    world.type("/finetune rollback tickets", user=BEN)
    assert in_use(world) == "tickets-1"


# At once, and twice.


def test_of_two_who_promote_at_once_one_wins(world: World) -> None:
    trained(world, 2)
    with ThreadPoolExecutor(2) as pool:
        results = list(
            pool.map(
                lambda name: promotions.promote(
                    world.service.context, name, "it is the demo", BEN.id, PRIVATE.id
                ),
                NAMES[:2],
            )
        )
    standing = world.store.database.rows("SELECT model FROM promotions WHERE ended_at IS NULL")
    assert len(standing) == 1
    won = [one for one in results if not isinstance(one, Refusal)]
    assert len(won) in (1, 2)  # two where one came after the other
    if len(won) == 1:
        (lost,) = [one for one in results if isinstance(one, Refusal)]
        assert "Another model was deployed just now" in lost.text


def test_what_another_put_to_work_meanwhile_is_not_overrun(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(world, 2)
    context, prove = world.service.context, evidence.promotion_proof

    def prove_while_cleo_promotes(*of: object) -> object:
        monkeypatch.undo()
        promotions.promote(context, "tickets-1", "the demo is now", CLEO.id, PRIVATE.id)
        return prove(*of)  # type: ignore[arg-type]

    monkeypatch.setattr(evidence, "promotion_proof", prove_while_cleo_promotes)
    result = promotions.promote(context, "tickets-2", "the demo is now", BEN.id, PRIVATE.id)
    assert isinstance(result, Refusal) and "Another model was deployed just now" in result.text
    assert in_use(world) == "tickets-1"


def test_a_second_click_does_nothing(world: World) -> None:
    trained(world)
    for _ in range(2):
        world.type("/finetune promote tickets-1", user=BEN)
    world.send()
    assert len(world.store.database.rows("SELECT id FROM promotions")) == 1
    assert len([one for one in world.cards() if "tickets-1 is in use" in one]) == 1


def test_a_card_in_another_channel_is_pointed_to(world: World) -> None:
    trained(world)
    said = world.type("/finetune promote tickets-1", user=BEN, channel=PUBLIC)
    assert f"The card is in <#{PRIVATE.id}>" in said
    world.send()
    assert world.find_message("tickets-1 is in use") and world.texts(PUBLIC) == []


# What programs call.


def test_the_trainer_s_alias_moves_with_it(world: World) -> None:
    with_aliases(world, 2)
    promote(world)
    assert "as soon as the trainer knows" in world.find_message("tickets-1 is in use")
    world.tick()
    assert behind_the_alias(world) == provider_model(world, "tickets-1")
    assert "now get it, without a change" in world.find_message("tickets-1 is in use")
    promote(world, "tickets-2", WHY)
    world.tick()
    assert behind_the_alias(world) == provider_model(world, "tickets-2")
    world.type("/finetune rollback tickets", user=BEN)
    world.tick()
    assert behind_the_alias(world) == provider_model(world, "tickets-1")
    count = world.provider.count(PUT)
    world.tick(5)
    assert world.provider.count(PUT) == count == 3


@pytest.mark.parametrize(
    "fault", [NOTHING_BUT_500, COMMIT_THEN_500, RESET], ids=["500", "committed", "reset"]
)
def test_a_trainer_that_is_unwell_is_told_later(world: World, fault: object) -> None:
    with_aliases(world)
    world.provider.fail(PUT, fault, times=2)  # type: ignore[arg-type]
    promote(world)
    world.tick()
    assert "can't be reached yet; trying again" in world.find_message("tickets-1 is in use")
    world.tick_until(lambda: world.store.promotions.current("tickets").carried_at, "the trainer to know")
    world.send()
    assert behind_the_alias(world) == provider_model(world, "tickets-1")
    card = world.find_message("tickets-1 is in use")
    assert "without a change" in card and "can't be reached yet" not in card


def test_a_rollback_before_the_trainer_was_told_is_what_it_is_told(world: World) -> None:
    with_aliases(world, 2)
    promote(world)
    world.tick()
    world.provider.fail(PUT, NOTHING_BUT_500, times=1)
    promote(world, "tickets-2", WHY)
    world.tick()
    world.type("/finetune rollback tickets", user=BEN)
    world.tick()
    assert behind_the_alias(world) == provider_model(world, "tickets-1")
    world.pass_time(3600)
    world.tick(2)
    assert behind_the_alias(world) == provider_model(world, "tickets-1")


def test_a_restart_between_the_click_and_the_trainer_loses_nothing(world: World) -> None:
    with_aliases(world)
    promote(world)
    world.restart()
    world.tick()
    assert behind_the_alias(world) == provider_model(world, "tickets-1")


def test_an_alias_that_was_changed_there_is_set_again_and_said(world: World) -> None:
    """As after a restored backup: the database and the trainer disagree."""
    with_aliases(world, 2)
    promote(world)
    world.tick()
    world.provider.service.aliases["team/tickets"] = provider_model(world, "tickets-2")
    maintain(world.service.context)
    world.tick()
    assert behind_the_alias(world) == provider_model(world, "tickets-1")
    assert world.find_message("`team/tickets` pointed to", "It now points to `tickets-1` again")
    told = len(world.texts())
    maintain(world.service.context)
    world.tick()
    assert len(world.texts()) == told


def test_a_hosted_model_leaves_the_alias_of_our_own_trainer_and_says_so(world: World) -> None:
    with_aliases(world, 2)
    promote(world)
    world.tick()
    world.store.database.change("UPDATE models SET provider = 'openai' WHERE name = 'tickets-2'")
    promote(world, "tickets-2", WHY)
    card = world.find_message("tickets-2 is in use")
    assert "Change your programs" in card
    assert "`team/tickets` at Acme Tuning still points to `tickets-1`." in card
    world.tick(2)
    assert behind_the_alias(world) == provider_model(world, "tickets-1")


# A model that its provider has no more.


def lose(world: World, name: str) -> None:
    gone = provider_model(world, name).rpartition(":")[2]
    del world.provider.service.jobs[f"ftjob-{gone}"]
    maintain(world.service.context)


def test_a_hosted_model_that_is_gone_takes_a_reason(world: World) -> None:
    trained(world)
    lose(world, "tickets-1")
    assert "Its provider no longer has it" in world.type("/finetune promote tickets-1", user=BEN)
    promote(world, why="because=their list is wrong today")
    assert in_use(world) == "tickets-1"
    assert "no longer at its provider" in world.type("/finetune models")


def test_a_model_that_our_trainer_has_no_more_is_refused_whatever_the_reason(world: World) -> None:
    with_aliases(world)
    lose(world, "tickets-1")
    said = world.type(f"/finetune promote tickets-1 {WHY}", user=BEN)
    assert "`tickets-1` is gone from Acme Tuning" in said and in_use(world) is None


def test_a_model_in_use_that_is_gone_is_said_once_and_one_that_is_gone_is_not_rolled_back_to(
    world: World,
) -> None:
    trained(world, 2)
    promote(world)
    promote(world, "tickets-2", WHY)
    lose(world, "tickets-2")
    maintain(world.service.context)
    world.send()
    lost = [one for one in world.texts() if "`tickets-2`, in use for `tickets`, no longer exists" in one]
    assert len(lost) == 1
    lose(world, "tickets-1")
    assert "`tickets-1`, which was in use before, is gone" in world.type(
        "/finetune rollback tickets", user=BEN
    )
    assert in_use(world) == "tickets-2"


def test_a_trainer_that_refuses_is_said_on_the_card_and_asked_again(world: World) -> None:
    with_aliases(world)
    promote(world)
    world.provider.service.models, kept = (), world.provider.service.models
    world.provider.service.jobs, jobs = {}, world.provider.service.jobs
    world.tick()
    card = world.find_message("tickets-1 is in use")
    assert "can't be reached yet; trying again" in card and "HTTP 404" in card
    world.provider.service.models, world.provider.service.jobs = kept, jobs
    world.pass_time(alias_sync.REFUSED_S)
    world.tick()
    assert behind_the_alias(world) == provider_model(world, "tickets-1")


# What is seen of it.


def test_the_list_the_overview_and_try_know_what_is_in_use(world: World) -> None:
    trained(world, 2)
    assert "is a dataset, and no model is in use for it" in world.type("/finetune try tickets where is it?")
    promote(world)
    listed = world.type("/finetune models")
    assert "2 tuned models" in listed and "`tickets-1`, *in use for tickets* since" in listed
    assert f"by <@{BEN.id}>" in listed and "`tickets-2`, not in use" in listed
    assert "100.0% (82–100%) right on 18 held-out rows" in listed
    assert "Models in use" in world.type("/finetune status") and "for `tickets` since" in world.type(
        "/finetune status"
    )
    assert "Asking `tickets-1`" in world.type("/finetune try tickets where is my refund?")
    assert "It answers" in world.tick_until_answered()


def test_the_result_offers_what_is_shown_to_be_better_and_the_button_puts_it_to_work(world: World) -> None:
    trained(world)
    assert world.find_message("Try it") and world.has_button("put_to_work")
    assert "Only an approver" in world.click_and_read(ANA, "put_to_work")
    world.click(BEN, "put_to_work")
    world.send()
    assert in_use(world) == "tickets-1"
    assert "already in use for `tickets`" in world.click_and_read(BEN, "put_to_work")
    trained_again = len([one for one in world.slack.messages(PRIVATE.id) if "put_to_work" in str(one.blocks)])
    world.start(f"{START} epochs=9")
    world.approve()
    world.tick_until_state("done", 2)
    after = len([one for one in world.slack.messages(PRIVATE.id) if "put_to_work" in str(one.blocks)])
    assert after == trained_again, "a model no better than the one in use is not offered"


def test_the_result_measures_what_its_model_should_be_compared_with(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    trained(world)
    run = world.run()
    refused = evaluations.ask_after_run(world.service.context, 1, BEN.id)
    assert run.result and isinstance(refused, Refusal) and "No comparison is missing" in refused.text
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


def test_details_and_a_try_are_refused_to_whom_the_policy_denies_them(world: World) -> None:
    trained(world)
    for button in ("run_details", "try_model"):
        assert "guest" in world.click_and_read(GUS, button), button
        assert world.slack.view(GUS.id) is None


def test_a_model_of_a_later_version_is_held_against_the_one_in_use_on_the_rows_of_both(world: World) -> None:
    world.upload_and_check(tickets_csv())
    trained(world)
    promote(world)
    second = world.upload_and_check(second_csv())
    world.start(f"{START} epochs=9")
    world.approve()
    world.tick_until_state("done", 2)
    said = world.type("/finetune promote tickets-2", user=BEN)
    assert "worse than tickets-1" in said or "not clearly better than tickets-1" in said
    promote(world, "tickets-2", WHY)
    assert second.version == 2
    assert "rows that both answered" in world.find_message("tickets-2 is in use", "Against tickets-1")
