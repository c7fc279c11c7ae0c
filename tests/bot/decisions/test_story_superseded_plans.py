"""A new plan that tries the same as a waiting one replaces it, voids its approvals, and is linked from it. Plans of a
dataset that try different things wait side by side."""

from __future__ import annotations

import pytest

from bot.rules import units
from bot.rules.plans import plan_from_json
from bot.services.decisions import approvals
from demo.people import ANA, BEN
from demo.slack_emulator import too_many
from storage.records import Run
from tests.bot.decisions.test_story_freeze import freeze, unfreeze
from tests.bot.runs import seed_runs
from tests.bot.world import CLEO, DORA, EVE, START, TARGET, WHY, MakeWorld, Rules, World
from tests.patience import wait_until

AGAIN = START.replace("volume=100M", "volume=200M")
OTHER = f"{START} epochs=2"
LETTERS = START.replace("tickets", "letters")


def approve(world: World, run: Run) -> str:
    answer = approvals.approve(world.service.context, run.plan_hash, BEN.id, WHY)
    return "" if isinstance(answer, Run) else answer.text


def test_a_new_plan_replaces_the_waiting_one_and_is_linked_from_its_card(world: World) -> None:
    world.start()
    world.start(AGAIN, user=CLEO)
    assert [run.state for run in world.store.runs.newest()] == ["awaiting_approval", "cancelled"]
    assert world.find_message("Run 1 withdrawn", "Replaced by run 2", f"requested by <@{CLEO.id}>")
    assert world.find_message("Run 2: train", "It replaces run 1", "Earlier approvals no longer count")
    assert any("Replaced by run 2" in text for text in world.dms(ANA))
    world.tick(2)
    ts = world.find_button("approve_plan").ts.replace(".", "")
    assert f"/p{ts}|run 2>" in world.find_message("Run 1 withdrawn")
    actions = [(entry.who, entry.action, entry.detail) for entry in world.store.audit.entries("run 1")]
    assert actions[-1] == (CLEO.id, "replace", "run 2")


def test_a_quorum_counts_only_those_who_approved_the_new_plan(make_world: MakeWorld) -> None:
    world = make_world(Rules(quorum=2))
    world.start()
    world.approve()
    world.start(AGAIN)
    world.approve(CLEO)
    world.send()
    assert world.run(2).state == "awaiting_approval"
    assert world.find_message("Approved so far", "It replaces run 1")
    world.approve()
    world.tick_until_state("training", 2)
    assert world.jobs() == 1


def test_approving_one_plan_never_starts_another(world: World) -> None:
    first = world.start()
    world.seed_dataset(called="letters")
    second = world.start(LETTERS)
    assert approve(world, first) == ""
    world.tick_until_state("training")
    world.tick(3)
    (job,) = world.provider.service.jobs.values()
    assert job.request["metadata"]["finetune_key"] == first.key
    assert world.run(second.id).state == "awaiting_approval" and world.store.runs.decisions(second.id) == []


def test_approving_a_replaced_plan_starts_nothing(world: World) -> None:
    first = world.start()
    second = world.start(AGAIN)
    assert "was replaced by run 2" in approve(world, first)
    world.tick(3)
    assert world.jobs() == 0 and world.run(second.id).state == "awaiting_approval"
    assert world.store.runs.decisions(first.id) == [] and world.ledger() == {}
    assert approve(world, second) == ""
    world.tick_until_state("training", 2)
    (job,) = world.provider.service.jobs.values()
    assert job.request["metadata"]["finetune_key"] == second.key


def test_a_replaced_plan_that_was_approved_but_not_started_frees_its_money(world: World) -> None:
    freeze(world)
    world.start_approved()
    world.tick(2)
    world.start(AGAIN)
    assert world.run().state == "cancelled" and world.ledger()["settle"] == 0
    assert world.find_message("Run 1 withdrawn", "Replaced by")
    assert any("was cancelled. Replaced by run 2" in text for text in world.dms())
    unfreeze(world, BEN, CLEO)
    world.tick(8)
    assert world.jobs() == 0 and world.run(2).state == "awaiting_approval"


def test_a_run_in_training_continues_beside_a_new_plan(world: World) -> None:
    world.start_approved()
    world.tick_until_state("training")
    world.start(AGAIN)
    world.tick_until_state("evaluating")
    assert world.run(2).state == "awaiting_approval"


def test_a_plan_for_another_dataset_stays(world: World) -> None:
    world.start()
    world.seed_dataset(called="letters")
    world.start(LETTERS, user=DORA)
    assert {run.state for run in world.store.runs.newest()} == {"awaiting_approval"}


def test_the_link_to_a_card_that_is_not_posted_yet_follows_later(world: World) -> None:
    world.start()
    world.slack.fail("chat.postMessage", too_many(30), times=1, text="Run 2: train")
    world.start(AGAIN)
    world.tick()
    assert "|run 2>" not in world.find_message("Run 1 withdrawn")
    world.tick(15)
    assert "|run 2>" in world.find_message("Run 1 withdrawn")


def test_of_several_plans_only_the_last_is_live(world: World) -> None:
    world.start()
    for hours in (2, 3, 4):
        world.start(f"{START} hours={hours}")
    states = [run.state for run in world.store.runs.newest()]
    assert states == ["awaiting_approval", *["cancelled"] * 3]


def test_two_plans_wait_side_by_side_each_with_its_own_approval(world: World) -> None:
    first = world.start()
    second = world.start(OTHER, user=CLEO)
    assert {run.state for run in world.store.runs.newest()} == {"awaiting_approval"}
    for number, other in ((1, 2), (2, 1)):
        assert world.find_message(
            f"Run {number}: train", f"run {other}", "epochs", "Approving one leaves the other"
        )
    assert "The same plan is already waiting" in world.type(OTHER), "an identical plan is not doubled"
    assert approve(world, first) == ""
    world.tick_until_state("training")
    assert world.run(2).state == "awaiting_approval" and world.store.runs.decisions(2) == []
    world.send()
    assert "Waits beside" not in world.find_message("Run 2: train")
    assert approve(world, second) == ""
    world.tick_until(lambda: world.jobs() == 2, "both jobs")
    keys = {job.request["metadata"]["finetune_key"] for job in world.provider.service.jobs.values()}
    assert keys == {first.key, second.key}
    reserved = world.store.committed(units.month_of(world.clock))
    assert reserved == world.run(1).reserved_micros + world.run(2).reserved_micros


def test_a_second_plan_that_the_budget_does_not_hold_says_so_before_and_waits_after(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules(budget="0.08"))
    first = world.start()
    second = world.start(OTHER, user=CLEO)
    assert world.find_message("Run 2: train", "The budget doesn't hold both")
    assert approve(world, first) == ""
    assert "budget" in approve(world, second)
    assert world.run(2).state == "awaiting_approval" and world.run(2).reserved_micros == 0


def test_another_persons_plan_is_not_paid_from_this_persons_budget(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=f'[budget.people]\n{ANA.id} = "0.08"\n'))
    world.start()
    world.start(OTHER, user=CLEO)
    assert "doesn't hold" not in world.find_message("Run 1: train", "Waits beside")
    world.start(f"{START} epochs=4")
    assert world.find_message("Run 1: train", "The budget doesn't hold all of them")
    assert "doesn't hold" not in world.find_message("Run 2: train", "Waits beside")


@pytest.mark.deep
def test_a_run_is_repeated_with_changes_which_the_new_card_names(world: World) -> None:
    seed_runs(world, line=f"{START} hours=20")
    assert world.type("/finetune again 1", user=EVE) and world.slack.view(EVE.id) is None, (
        "a guest starts none"
    )
    assert world.type("/finetune again 1") == ""
    view = world.slack.view(ANA.id)
    assert view is not None
    form = str(view.blocks)
    assert "hours=20 epochs=5" in form and "gpt-4o" in form and "100M tokens" in form and TARGET in form
    filled = {
        "target": TARGET,
        "settings": "hours=20 epochs=many",
        "volume": "100M tokens",
        "current": "gpt-4o",
    }
    assert "settings" in world.slack.submit_modal(ANA.id, filled).errors
    assert "volume" in world.slack.submit_modal(ANA.id, {**filled, "settings": "", "volume": "lots"}).errors
    changed = {**filled, "settings": "hours=20 epochs=3", "volume": "20,000"}
    assert world.slack.submit_modal(ANA.id, changed).closed
    wait_until(lambda: world.store.runs.get(2), "the new plan")
    world.send()
    again = plan_from_json(world.run(2).plan).again
    assert again and again.run == 1
    assert [(change.name, change.before, change.now) for change in again.changes] == [
        ("epochs", "5", "3"),
        ("volume", "100M tokens", "20,000 requests"),
    ]
    assert world.find_message(
        "Run 2: train", "Run 1 again with", "epochs 5 → 3, volume 100M tokens → 20,000 requests"
    )
