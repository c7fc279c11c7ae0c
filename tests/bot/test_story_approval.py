"""Who decides, how often, how late, and with what money."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from bot.cards.plans import DETAILS
from bot.rules.plans import VerdictKind, canonical_json, plan_from_json, plan_hash
from bot.services import approvals, notifications, plans
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from demo.slack_emulator import cut_off, refused
from demo.workspace import Person
from tests.bot.world import APPROVERS_GROUP, CLEO, DORA, EVE, GUS, ROBO, START, TARGET, WHY, Rules, World

MakeWorld = Callable[[Rules], World]


def test_rejecting_asks_for_the_reason_and_tells_it(world: World) -> None:
    world.start()
    world.click(BEN, "reject_plan")
    assert not world.slack.submit_modal(BEN.id, {"reason": ""}).accepted
    assert world.slack.submit_modal(BEN.id, {"reason": "First mend <!channel> the labels"}).closed
    world.send()
    assert world.run().state == "rejected" and world.ledger() == {}
    card = world.find_message(f"Rejected by <@{BEN.id}>", "the labels")
    assert not world.has_button("approve_plan") and "<!channel>" not in card
    assert any("rejected" in text and "the labels" in text for text in world.dms())
    status = world.type("/finetune status 1")
    assert "was rejected" in status and "the labels" in status and "<!channel>" not in status
    world.tick(3)
    assert world.jobs() == 0


@pytest.mark.parametrize("person", [ANA, EVE, GUS, ROBO], ids=lambda person: person.name)
def test_who_may_not_decide_cannot_reject_either(world: World, person: Person) -> None:
    world.start()
    assert "Only" in world.click_and_read(person, "reject_plan")
    assert world.slack.view(person.id) is None
    assert world.run().state == "awaiting_approval"


def test_two_clicks_approve_once(world: World) -> None:
    world.start()
    world.approve()
    assert "has moved on" in world.click_and_read(BEN, "approve_plan")  # the card still shows its buttons
    world.tick_until_state("training")
    assert world.jobs() == 1 and len(world.store.runs.decisions(1)) == 1


def test_a_quorum_of_two_needs_two_people(make_world: MakeWorld) -> None:
    world = make_world(Rules(quorum=2))
    world.start()
    world.approve()
    world.send()
    assert f"Approved so far by <@{BEN.id}>" in world.find_message("Needs 2 approvers")
    assert "You have already approved this plan" in world.click_and_read(BEN, "approve_plan")
    assert "uploaded this data" in world.click_and_read(DORA, "approve_plan")
    world.tick(2)
    assert world.run().state == "awaiting_approval" and world.ledger() == {}
    world.approve(CLEO)
    world.send()
    assert f"<@{BEN.id}>, <@{CLEO.id}>" in world.find_message("Approved by")
    world.tick_until_state("training")
    assert world.jobs() == 1


def test_a_plan_expires_after_a_day(world: World) -> None:
    world.start()
    world.pass_time(24 * 3600 + 1)
    assert "expired" in world.click_and_read(BEN, "approve_plan")
    world.tick()
    assert world.run().state == "expired" and not world.has_button("approve_plan")
    assert world.find_message("It was not approved within 24 hours")
    said = world.type("/finetune status 1")
    assert "makes a new plan" in said and "reserved" not in said, "nothing was reserved"
    (told,) = [text for text in world.dms() if "expired" in text]
    assert told.count("expired") == 1 and "`/finetune start` makes a new plan" in told


def test_a_plan_beyond_the_budget_stays_unapproved_and_the_cure_is_said(make_world: MakeWorld) -> None:
    world = make_world(Rules(budget="0.01"))
    world.start()
    answer = world.click_and_read(BEN, "approve_plan")
    assert "only $0.01 of this month's" in answer and "monthly_usd" in answer
    world.tick(2)
    assert world.run().state == "awaiting_approval"
    assert world.jobs() == 0 and world.ledger() == {} and world.store.runs.decisions(1) == []


def test_two_plans_cannot_spend_the_same_money(make_world: MakeWorld) -> None:
    world = make_world(Rules(budget="0.08"))
    world.start()
    world.seed_dataset(called="letters")
    world.start(START.replace("tickets", "letters"))
    world.approve()
    world.send()
    assert "is left" in world.click_and_read(BEN, "approve_plan")
    assert [world.run(number).state for number in (1, 2)] == ["awaiting_approval", "approved"]


def test_a_plan_whose_row_was_edited_is_refused_by_its_hash(world: World) -> None:
    run = world.start()
    edited = json.dumps({**json.loads(run.plan), "maximum_micros": 1})
    world.store.database.change("UPDATE runs SET plan = ? WHERE id = 1", (edited,))
    assert "was changed after it was posted" in world.click_and_read(BEN, "approve_plan")
    world.tick(2)
    assert world.run().state == "awaiting_approval" and world.jobs() == 0


def test_a_plan_edited_between_approval_and_create_is_not_carried_out(world: World) -> None:
    run = world.start_approved()
    edited = json.dumps({**json.loads(run.plan), "base_model": "acme-huge"}, sort_keys=True)
    world.store.database.change("UPDATE runs SET plan = ? WHERE id = 1", (edited,))
    world.tick(2)
    assert world.run().state == "needs_human" and world.jobs() == 0
    assert world.find_message("changed after it was approved")


def test_the_same_plan_is_asked_for_once(world: World) -> None:
    world.clock += 43_200 - world.clock % 86_400  # noon: a plan has the day of its prices
    world.start()
    world.pass_time(60)
    assert "is already waiting for approval" in world.type(START)
    world.send()
    assert len(world.store.runs.newest()) == 1 and len(world.texts()) == 1


def test_after_a_no_the_same_plan_can_be_asked_for_again(world: World) -> None:
    world.start()
    world.click(BEN, "reject_plan")
    world.slack.submit_modal(BEN.id, {"reason": "not this week"})
    world.pass_time(60)
    world.start()
    assert [run.state for run in world.store.runs.newest()] == ["awaiting_approval", "rejected"]


def test_approvers_come_from_the_user_group(make_world: MakeWorld) -> None:
    world = make_world(Rules(approvers=(), groups=(APPROVERS_GROUP,)))
    world.start()
    assert f"Only an approver may do that: <@{CLEO.id}>" in world.click_and_read(BEN, "approve_plan")
    world.approve(CLEO)
    assert world.run().state == "approved"


@pytest.mark.parametrize("method", ["usergroups.users.list", "users.info"])
def test_a_look_up_that_fails_is_a_no(make_world: MakeWorld, method: str) -> None:
    world = make_world(Rules(approvers=(), groups=(APPROVERS_GROUP,)))
    world.start()
    for fault in (refused("internal_error"), cut_off()):
        world.slack.fail(method, fault, times=None)
        assert "Slack didn't say" in world.click_and_read(CLEO, "approve_plan")
        assert world.run().state == "awaiting_approval"
    world.slack.clear_faults()
    world.approve(CLEO)


def test_nobody_may_approve_until_somebody_is_named(make_world: MakeWorld) -> None:
    world = make_world(Rules(approvers=()))
    world.seed_dataset()
    assert "has to name approvers in finetune.toml" in world.type(START)
    assert world.store.runs.newest() == []


def test_without_a_key_nothing_is_planned(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACME_KEY")
    world.restart()
    world.seed_dataset()
    assert "ACME_KEY" in world.type(START)
    assert world.store.runs.newest() == []


@pytest.mark.parametrize(
    ("line", "cure"),
    [
        (f"/finetune start ticket target={TARGET}", "Did you mean `tickets`?"),
        ("/finetune start tickets target=acme/acme-smal", "Did you mean `acme/acme-small`?"),
        (f"/finetune start tickets target={TARGET} volume=lots current=gpt-4o", "10M"),
        (f"/finetune start tickets target={TARGET} epoch=2", "Did you mean `epochs`?"),
        (f"/finetune start tickets target={TARGET} epochs=0", "from 1 to 50"),
    ],
)
def test_a_start_that_cannot_be_is_answered_with_the_cure(world: World, line: str, cure: str) -> None:
    world.seed_dataset()
    assert cure in world.type(line)
    assert world.store.runs.newest() == []


@pytest.mark.parametrize("person", [EVE, GUS], ids=lambda person: person.name)
def test_only_members_of_the_workspace_upload_and_start(world: World, person: Person) -> None:
    world.seed_dataset()

    assert "Only full members" in world.type(START, user=person)
    sent = world.upload("more.csv", "text,label\na,b\n", user=person, called="more")

    assert "Only full members" in "".join(sent.errors.values())
    assert world.store.datasets.newest("more") is None and world.store.runs.newest() == []


def test_an_engine_is_part_of_the_plan_that_is_approved(world: World) -> None:
    world.abilities = '"metadata", "metadata_filter", "method", "suffix", "extra_hyperparameters"'
    world.restart()
    run = world.start(f"{START} engine=unsloth")
    assert ["engine", "unsloth"] in json.loads(run.plan)["hyperparameters"]


def test_the_bits_of_the_base_are_part_of_the_plan_that_is_approved(world: World) -> None:
    world.abilities = '"metadata", "metadata_filter", "method", "suffix", "extra_hyperparameters"'
    world.restart()
    plan = json.loads(world.start(f"{START} engine=unsloth quantization=nf4").plan)
    assert ["quantization", "nf4"] in plan["hyperparameters"]
    assert "quantization=nf4" in plan["predicted"]["asked"]


def test_bits_are_refused_for_a_service_that_trains_by_its_own_means(world: World) -> None:
    world.seed_dataset()
    assert "does not take `quantization=`: leave it out" in world.type(f"{START} quantization=nf4")
    assert world.jobs() == 0


def test_another_engine_can_stop_early(world: World) -> None:
    world.abilities = (
        '"metadata", "metadata_filter", "method", "suffix", "extra_hyperparameters", "early_stopping"'
    )
    world.restart()
    world.seed_dataset(rows=240)
    plan = json.loads(world.start(f"{START} engine=unsloth patience=2").plan)
    assert ["engine", "unsloth"] in plan["hyperparameters"]
    assert plan["stopping"]["patience"] == 2


def test_an_engine_is_refused_for_a_service_that_trains_by_its_own_means(world: World) -> None:
    world.seed_dataset()
    assert "does not take `engine=`: leave it out" in world.type(f"{START} engine=unsloth")
    assert world.jobs() == 0


def test_the_card_leads_with_the_verdict_and_what_was_measured(world: World) -> None:
    world.start()
    card = world.find_message("Run 1: train")
    assert "*Not now: too few rows*. 60 rows are too few" in card
    assert "Nothing was measured on these rows. The bar is 85%." in card
    assert "ignoring staff time" not in card, "no chance stands beside a verdict that is against it"
    assert "No saving is shown, because the verdict is against training" in card
    assert "of cases" not in card


def test_a_chance_on_the_card_is_said_with_its_condition(world: World) -> None:
    world.seed_dataset(rows=240)
    world.start()
    card = world.find_message("Run 1: train")
    assert "a month, if it is good enough, ignoring staff time" in card


def test_approving_against_the_verdict_takes_a_reason_that_the_audit_keeps(world: World) -> None:
    run = world.start()
    world.click(BEN, "approve_plan")
    assert world.run().state == "awaiting_approval", "a click alone decides nothing"
    form = world.slack.view(BEN.id)
    assert form and "Not now: too few rows" in json.dumps(list(form.blocks))
    assert not world.slack.submit_modal(BEN.id, {"reason": ""}).accepted
    assert "at least 3 words" in world.slack.submit_modal(BEN.id, {"reason": "why not"}).errors["reason"]
    assert world.run().state == "awaiting_approval"
    assert world.slack.submit_modal(BEN.id, {"reason": WHY}).closed
    world.send()
    assert f"“{WHY}”" in world.find_message("Approved by")
    assert [one.reason for one in world.store.runs.decisions(1)] == [WHY]
    (entry,) = [one for one in world.store.audit.entries("run 1") if one.action == "approve"]
    assert entry.detail == f"{run.plan_hash} {WHY}"
    world.tick_until_state("training")


def test_no_reason_is_no_approval_however_it_is_sent(world: World) -> None:
    run, context = world.start(), world.service.context
    for reason in ("", " ", "ok", "1 2 3"):
        refused = approvals.approve(context, run.plan_hash, BEN.id, reason)
        assert isinstance(refused, Refusal) and "verdict is not go" in refused.text
    assert world.store.runs.decisions(1) == []


def test_each_approver_says_why(make_world: MakeWorld) -> None:
    world = make_world(Rules(quorum=2))
    run = world.start()
    world.approve()
    world.click(CLEO, "approve_plan")
    assert world.slack.submit_modal(CLEO.id, {"reason": "we want to learn"}).closed
    assert [one.reason for one in world.store.runs.decisions(run.id)] == [WHY, "we want to learn"]
    assert world.run().state == "approved"


def test_details_of_a_plan_are_for_those_who_may_know_of_it(world: World) -> None:
    run = world.start()
    assert "to train on" not in (card := world.find_message("Run 1: train")) and run.plan_hash not in card
    details = world.plan_details()
    for part in (run.plan_hash, "to train on", "Training takes", "Model"):
        assert part in details, part
    assert "Only full members" in world.click_and_read(GUS, DETAILS)


def test_a_plan_whose_verdict_is_go_takes_one_click(world: World) -> None:
    advised_as(world, "go")
    assert "Go." in world.find_message("Run 1: train")
    world.click(BEN, "approve_plan")
    assert world.slack.view(BEN.id) is None and world.run().state == "approved"
    assert [one.reason for one in world.store.runs.decisions(1)] == [None]


def test_a_plan_of_before_verdicts_were_kept_says_so_and_takes_a_reason(world: World) -> None:
    advised_as(world, None)
    assert "No verdict" in world.find_message("Run 1: train")
    world.click(BEN, "approve_plan")
    assert world.run().state == "awaiting_approval"
    assert world.slack.submit_modal(BEN.id, {"reason": WHY}).closed
    assert world.run().state == "approved"


def advised_as(world: World, kind: VerdictKind | None) -> None:
    """The plan that waits, as if that verdict had been frozen with it, and its card."""
    run = world.start()
    plan = plan_from_json(run.plan)
    assert plan.predicted and plan.advised
    advised = replace(plan.advised, kind=kind) if kind else None
    other = replace(plan, predicted=replace(plan.predicted, advised=advised))
    world.store.database.change(
        "UPDATE runs SET plan = ?, plan_hash = ? WHERE id = 1", (canonical_json(other), plan_hash(other))
    )
    with world.store.transaction():
        notifications.show_plan(
            world.service.context,
            world.run(),
            plans.request_card(world.service.context, world.run(), other),
        )
    world.send()
