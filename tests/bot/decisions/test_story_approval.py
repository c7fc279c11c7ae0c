"""Approvals: who decides, how often, until when, and with what budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from bot.cards.decisions.plans import DETAILS
from bot.rules.plans import VerdictKind, canonical_json, plan_from_json, plan_hash
from bot.services.decisions import approvals, plan_requests
from bot.services.evidence import notifications
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from demo.slack_emulator import cut_off, refused
from tests.bot.world import APPROVERS_GROUP, CLEO, DORA, EVE, GUS, ROBO, START, TARGET, WHY, Rules, World

MakeWorld = Callable[[Rules], World]


def test_a_rejection_needs_a_reason_that_the_requester_reads(world: World) -> None:
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


def test_only_approvers_can_reject(world: World) -> None:
    world.start()
    for person in (ANA, EVE, GUS, ROBO):
        assert "Only" in world.click_and_read(person, "reject_plan"), person.name
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
    world.click(BEN, "approve_plan")
    form = world.read_form(BEN)
    assert "This is one of 2 approvals" in form and "is reserved after 1 more approval" in form
    assert "This starts the training" not in form
    assert world.slack.submit_modal(BEN.id, {"reason": WHY}).closed
    world.send()
    card = world.find_message("Needs 1 more approver: ")
    assert f"Approved so far by <@{BEN.id}>" in card
    assert f"<@{CLEO.id}>" in card.partition("Needs 1 more approver: ")[2]
    assert f"<@{BEN.id}>" not in card.partition("Needs 1 more approver: ")[2]
    assert "You have already approved this plan" in world.click_and_read(BEN, "approve_plan")
    assert "uploaded this data" in world.click_and_read(DORA, "approve_plan")
    world.tick(2)
    assert world.run().state == "awaiting_approval" and world.ledger() == {}
    world.click(CLEO, "approve_plan")
    assert world.slack.submit_modal(CLEO.id, {"reason": "we want to learn"}).closed
    assert [decision.reason for decision in world.store.runs.decisions(1)] == [WHY, "we want to learn"]
    world.send()
    assert f"<@{BEN.id}>, <@{CLEO.id}>" in world.find_message("Approved by")
    world.tick_until_state("training")
    assert world.jobs() == 1


def test_approvers_are_pinged_once_in_the_thread_of_the_plan(make_world: MakeWorld) -> None:
    world = make_world(Rules(approvers=(BEN.id, CLEO.id), quorum=2))
    world.start()

    def pings() -> list[str]:
        return [text for text in world.texts() if text.startswith(f"<@{BEN.id}>, <@{CLEO.id}>: ")]

    (ping,) = pings()
    assert "needs 2 approvals" in ping and "within 24 hours" in ping and ping not in world.cards()
    world.approve()
    world.restart()
    world.tick(3)
    world.send()
    assert pings() == [ping]


def test_nobody_who_was_deactivated_is_named_and_a_plan_that_nobody_can_approve_says_so(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules(approvers=(BEN.id, CLEO.id)))
    world.slack.set_kind(CLEO.id, "deleted")
    world.start()
    assert world.find_message("needs 1 approval").startswith(f"<@{BEN.id}>: ")
    assert "It can't be approved now" not in world.find_message("Needs one approver")
    world.slack.set_kind(BEN.id, "deleted")
    world.pass_time(21 * 3600)
    world.tick(6)
    reminder = world.find_message("is waiting for approval and expires in")
    assert "nobody is left who may approve it" in reminder and "more approver" not in reminder
    assert f"<@{BEN.id}>, <@{CLEO.id}> are deactivated or no longer full members" in world.find_message(
        "*It can't be approved now*: "
    )


def test_a_plan_that_only_deactivated_approvers_could_approve_is_not_posted(make_world: MakeWorld) -> None:
    world = make_world(Rules(approvers=(CLEO.id,)))
    world.seed_dataset()
    world.slack.set_kind(CLEO.id, "deleted")
    answer = world.type(START)
    assert "This takes 1 approver" in answer and "there is nobody" in answer
    assert f"<@{CLEO.id}> is deactivated or no longer a full member of this workspace" in answer
    assert world.store.runs.newest() == []


def test_a_plan_expires_after_a_day(world: World) -> None:
    world.start()
    world.pass_time(24 * 3600 + 1)
    assert "expired" in world.click_and_read(BEN, "approve_plan")
    world.tick()
    assert world.run().state == "expired" and not world.has_button("approve_plan")
    assert world.find_message("It was not approved within 24 hours")
    status = world.type("/finetune status 1")
    assert "makes a new plan" in status and "reserved" not in status, "nothing was reserved"
    (notice,) = [text for text in world.dms() if "expired" in text]
    assert notice.count("expired") == 1 and "`/finetune start` makes a new plan" in notice


def test_a_plan_beyond_the_budget_cannot_be_approved(make_world: MakeWorld) -> None:
    world = make_world(Rules(budget="0.01"))
    world.start()
    card = world.find_message("*It can't be approved now*: ")
    assert "only $0.01 of this month's" in card and "monthly_usd" in card
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

    def says_so() -> bool:
        world.pass_time(61)
        world.send()
        return any("*It can't be approved now*" in text for text in world.cards())

    world.tick_until(says_so, "the card of the plan that waits")
    assert world.find_message("Run 1: train", "*It can't be approved now*")


def test_a_plan_that_was_edited_in_the_database_cannot_be_approved(world: World) -> None:
    run = world.start()
    edited = json.dumps({**json.loads(run.plan), "maximum_micros": 1})
    world.store.database.change("UPDATE runs SET plan = ? WHERE id = 1", (edited,))
    assert "was changed after it was posted" in world.click_and_read(BEN, "approve_plan")
    world.tick(2)
    assert world.run().state == "awaiting_approval" and world.jobs() == 0


def test_a_plan_that_was_edited_after_the_approval_is_not_carried_out(world: World) -> None:
    run = world.start_approved()
    edited = json.dumps({**json.loads(run.plan), "base_model": "acme-huge"}, sort_keys=True)
    world.store.database.change("UPDATE runs SET plan = ? WHERE id = 1", (edited,))
    world.tick(2)
    assert world.run().state == "needs_human" and world.jobs() == 0
    assert world.find_message("changed after it was approved")


def test_the_same_plan_cannot_be_requested_twice(world: World) -> None:
    world.clock += 43_200 - world.clock % 86_400  # noon: a plan has the day of its prices
    world.start()
    world.pass_time(60)
    assert "is already waiting for approval" in world.type(START)
    world.send()
    assert len(world.store.runs.newest()) == 1 and len(world.cards()) == 1


def test_a_rejected_plan_can_be_requested_again(world: World) -> None:
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


def test_a_failed_lookup_is_a_no(make_world: MakeWorld) -> None:
    world = make_world(Rules(approvers=(), groups=(APPROVERS_GROUP,)))
    world.start()
    for method in ("usergroups.users.list", "users.info"):
        for fault in (refused("internal_error"), cut_off()):
            world.slack.fail(method, fault, times=None)
            assert "Slack didn't say" in world.click_and_read(CLEO, "approve_plan")
            assert world.run().state == "awaiting_approval"
        world.slack.clear_faults()
    world.approve(CLEO)


def test_nothing_is_planned_until_an_approver_is_named(make_world: MakeWorld) -> None:
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


def test_a_start_with_a_mistake_is_refused_with_the_fix(world: World) -> None:
    world.seed_dataset()
    for line, fix in {
        f"/finetune start ticket target={TARGET}": "Did you mean `tickets`?",
        "/finetune start tickets target=acme/acme-smal": "Did you mean `acme/acme-small`?",
        f"/finetune start tickets target={TARGET} volume=lots current=gpt-4o": "10M",
        f"/finetune start tickets target={TARGET} epoch=2": "Did you mean `epochs`?",
        f"/finetune start tickets target={TARGET} epochs=0": "from 1 to 50",
        f"{START} quantization=nf4": "does not take `quantization=`: leave it out",
        f"{START} engine=unsloth": "does not take `engine=`: leave it out",
    }.items():
        assert fix in world.type(line), line
    assert world.store.runs.newest() == []


def test_only_full_members_upload_and_start(world: World) -> None:
    world.seed_dataset()
    for person in (EVE, GUS):
        for line in (START, "/finetune upload"):
            assert "Only full members" in world.type(line, user=person)
    world.type("/finetune upload", user=ANA)
    world.slack.set_kind(ANA.id, "guest")
    form = world.fill_upload(
        ANA, {"file": world.put_file("more.csv", "text,label\na,b\n", ANA), "name": "more"}
    )
    assert "Only full members" in "".join(form.errors.values())
    assert world.store.datasets.newest("more") is None and world.store.runs.newest() == []


def test_engine_quantization_and_patience_are_part_of_the_approved_plan(world: World) -> None:
    world.abilities = (
        '"metadata", "metadata_filter", "method", "suffix", "extra_hyperparameters", "early_stopping"'
    )
    world.restart()
    world.seed_dataset(rows=240)
    plan = json.loads(world.start(f"{START} engine=unsloth quantization=nf4 patience=2").plan)
    assert ["engine", "unsloth"] in plan["hyperparameters"]
    assert ["quantization", "nf4"] in plan["hyperparameters"]
    assert "quantization=nf4" in plan["predicted"]["asked"]
    assert plan["stopping"]["patience"] == 2


def test_the_card_begins_with_the_verdict_and_what_was_measured(world: World) -> None:
    world.start()
    card = world.find_message("Run 1: train")
    assert "*Not now: too few rows*. 60 rows are too few" in card
    assert "Nothing was measured on these rows. The bar is 85%." in card
    assert "ignoring staff time" not in card, "a verdict against training shows no chance"
    assert "No saving is shown, because the verdict is against training" in card
    assert "of cases" not in card


def test_a_chance_on_the_card_is_shown_with_its_condition(world: World) -> None:
    world.seed_dataset(rows=240)
    world.start()
    card = world.find_message("Run 1: train")
    assert "a month, if it is good enough, ignoring staff time" in card


def test_approving_against_the_verdict_needs_a_reason_that_the_audit_log_keeps(world: World) -> None:
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
    assert [decision.reason for decision in world.store.runs.decisions(1)] == [WHY]
    (entry,) = [entry for entry in world.store.audit.entries("run 1") if entry.action == "approve"]
    assert entry.detail == f"{run.plan_hash} {WHY}"
    world.tick_until_state("training")


def test_an_approval_without_a_reason_does_not_count_however_it_is_sent(world: World) -> None:
    run, context = world.start(), world.service.context
    for reason in ("", " ", "ok", "1 2 3"):
        refusal = approvals.approve(context, run.plan_hash, BEN.id, reason)
        assert isinstance(refusal, Refusal) and "verdict is not go" in refusal.text
    assert world.store.runs.decisions(1) == []


def test_a_plans_details_are_shown_to_full_members_only(world: World) -> None:
    run = world.start()
    assert "to train on" not in (card := world.find_message("Run 1: train")) and run.plan_hash not in card
    details = world.plan_details()
    for part in (run.plan_hash, "to train on", "Training takes", "Model"):
        assert part in details, part
    assert "Only full members" in world.click_and_read(GUS, DETAILS)


def test_a_plan_whose_verdict_is_go_is_approved_with_one_click(world: World) -> None:
    set_verdict(world, "go")
    assert "Go." in world.find_message("Run 1: train")
    world.click(BEN, "approve_plan")
    assert world.slack.view(BEN.id) is None and world.run().state == "approved"
    assert [decision.reason for decision in world.store.runs.decisions(1)] == [None]


def test_an_old_plan_without_a_verdict_says_so_and_needs_a_reason(world: World) -> None:
    set_verdict(world, None)
    assert "No verdict" in world.find_message("Run 1: train")
    world.click(BEN, "approve_plan")
    assert world.run().state == "awaiting_approval"
    assert world.slack.submit_modal(BEN.id, {"reason": WHY}).closed
    assert world.run().state == "approved"


def set_verdict(world: World, kind: VerdictKind | None) -> None:
    """Make a plan that was frozen with this verdict, and post its card."""
    run = world.start()
    plan = plan_from_json(run.plan)
    assert plan.predicted and plan.advised
    verdict = replace(plan.advised, kind=kind) if kind else None
    changed = replace(plan, predicted=replace(plan.predicted, advised=verdict))
    world.store.database.change(
        "UPDATE runs SET plan = ?, plan_hash = ? WHERE id = 1", (canonical_json(changed), plan_hash(changed))
    )
    with world.store.transaction():
        notifications.show_plan(
            world.service.context,
            world.run(),
            plan_requests.request_card(world.service.context, world.run(), changed),
        )
    world.send()
