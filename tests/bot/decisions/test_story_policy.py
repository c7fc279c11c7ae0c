"""The policy: shared channels, cost tiers, approvals that no longer count, reminders, data rules, rights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bot.cards.evidence.evaluations import MEASURE
from bot.rules.permissions import GOVERNED_BY, RULES
from bot.services.common.provider_jobs import SETTLE_S
from bot.services.decisions.approvals import LOOK_FOR_EXPIRY_S
from bot.services.training import training
from bot.slack.commands import finetune
from bot.slack.users import SlackDirectory
from demo.people import ANA, BEN
from demo.slack_emulator import refused
from tests.bot.decisions.test_story_freeze import freeze, unfreeze
from tests.bot.measurements import ACME, PRICES, until_asked
from tests.bot.world import APPROVERS_GROUP, CLEO, DORA, GUS, JOBS, PRIVATE, START, Rules, World
from tests.peers.hosted import COMMIT_THEN_500, NOTHING_BUT_500

MakeWorld = Callable[[Rules], World]
HOUR = 3600.0
CREATE = f"POST {JOBS}"
BY_GROUP = Rules(approvers=(), groups=(APPROVERS_GROUP,))


def tiers(*pairs: tuple[str, int]) -> str:
    return "\n".join(f'[[policy.tiers]]\nup_to_usd = "{usd}"\napprovers = {count}' for usd, count in pairs)


def without_quorum(world: World, more: str) -> None:
    """Replace the quorum in the world's settings."""
    world.rules.quorum, world.rules.more = None, more
    world.restart()


def test_in_a_channel_shared_with_another_organisation_nothing_is_shown_or_decided(world: World) -> None:
    world.start()
    world.slack.share(PRIVATE.id)
    for line in (START, "/finetune status", "/finetune datasets", "/finetune budget", "/finetune results 1"):
        assert "shared with another organisation" in world.type(line, user=BEN)
    assert "shared with another organisation" in world.click_and_read(BEN, "approve_plan")
    world.tick(2)
    assert world.run().state == "awaiting_approval" and world.jobs() == 0
    assert "Cancelling run 1" in world.type("/finetune cancel 1", user=BEN), "stopping is always possible"


def test_a_channel_that_another_organisation_is_invited_to_counts_as_shared(world: World) -> None:
    world.start()
    world.slack.invite_organisation(PRIVATE.id)
    assert "shared with another organisation" in world.type("/finetune status", user=BEN)
    assert "shared with another organisation" in world.click_and_read(BEN, "approve_plan")
    assert world.run().state == "awaiting_approval"


def test_a_channel_that_slack_does_not_describe_is_refused_with_the_fix(world: World) -> None:
    world.start()
    world.slack.fail("conversations.info", refused("internal_error"), times=None)
    assert "/invite @Finetune" in world.click_and_read(BEN, "approve_plan")
    assert "/invite @Finetune" in world.type("/finetune status")
    world.slack.clear_faults()
    world.approve()
    assert world.run().state == "approved"


def test_guests_can_neither_ask_models_nor_see_lists(world: World) -> None:
    for line in ("/finetune try tickets-1 hello", "/finetune status", "/finetune runs", "/finetune budget"):
        assert "is a guest" in world.type(line, user=GUS)
    world.seed_dataset()
    assert "is a guest" in world.type("/finetune knowledge ticket", user=GUS), "no name is suggested"
    assert "Find out in five steps" in world.type("/finetune help", user=GUS)


def test_expensive_plans_need_two_approvers_and_the_most_expensive_are_refused(make_world: MakeWorld) -> None:
    world = make_world(Rules())
    without_quorum(world, tiers(("0.01", 1), ("1", 2)))
    world.start()
    assert world.find_message("Needs 2 approvers")
    world.approve()
    world.tick(2)
    assert world.run().state == "awaiting_approval" and world.ledger() == {}
    world.approve(CLEO)
    world.tick_until_state("training")
    without_quorum(world, tiers(("0.01", 1)))
    assert "no run may cost more than $0.01" in world.type(f"{START} epochs=2")


def test_an_approver_who_left_the_group_before_the_create_voids_the_approval(make_world: MakeWorld) -> None:
    world = make_world(BY_GROUP)
    world.start()
    world.approve(CLEO)
    assert world.run().state == "approved" and "reserve" in world.ledger()
    world.slack.set_group(APPROVERS_GROUP, (BEN.id,))
    world.tick(2)
    assert world.jobs() == world.provider.count(CREATE) == world.provider.count("POST /files") == 0
    assert world.run().state == "awaiting_approval" and world.ledger() == {}
    notice = world.find_message(
        "The approval of run 1 no longer counts", f"<@{CLEO.id}> may not approve any more", "line "
    )
    assert "is free again" in notice and world.has_button("approve_plan")
    assert any("no longer counts" in text for text in world.dms(ANA))
    assert "withdrew its approval" in world.type("/finetune audit 1")
    world.slack.set_group(APPROVERS_GROUP, (BEN.id, CLEO.id))
    assert "was voided for good" in world.click_and_read(CLEO, "approve_plan")
    world.approve()
    world.tick_until_state("training")
    assert world.jobs() == 1 and world.provider.count(CREATE) == 1


def reminders(world: World) -> list[str]:
    return [text for text in world.texts() if "waiting for approval and expires in" in text]


class LeftAfter(SlackDirectory):
    """A group that is empty after some lookups."""

    def __init__(self, directory: SlackDirectory, looks: int) -> None:
        super().__init__(directory._slack, directory._slack.auth_test())
        self._looks = looks

    def members(self, group_id: str) -> frozenset[str] | None:
        self._looks -= 1
        return super().members(group_id) if self._looks >= 0 else frozenset()


def test_an_approver_who_leaves_during_the_upload_is_noticed_before_the_create(
    make_world: MakeWorld,
) -> None:
    world = make_world(BY_GROUP)
    world.start()
    world.approve(CLEO)
    context = world.service.context
    assert isinstance(context.directory, SlackDirectory)
    training.create(replace(context, directory=LeftAfter(context.directory, 1)), world.run())
    assert world.provider.count("POST /files") == 1 and world.files_at_provider() == []
    assert world.run().state == "awaiting_approval" and world.provider.count(CREATE) == 0


def test_a_voided_plan_expires_as_late_as_a_new_one(make_world: MakeWorld) -> None:
    world = make_world(BY_GROUP)
    world.start()
    world.approve(CLEO)
    world.slack.set_group(APPROVERS_GROUP, (BEN.id,))
    world.pass_time(25 * 3600)
    world.tick(4)
    assert world.run().state == "awaiting_approval" and world.find_message("no longer counts")
    world.approve()
    world.tick_until_state("training")
    assert world.jobs() == 1


def test_a_voided_plan_is_announced_and_reminded_of_like_a_new_one(
    make_world: MakeWorld,
) -> None:
    world = make_world(BY_GROUP)
    world.start()
    world.pass_time(21 * HOUR)
    world.tick(2)
    assert len(reminders(world)) == 1
    world.approve(CLEO)
    world.slack.set_group(APPROVERS_GROUP, (BEN.id,))
    world.tick(2)
    assert world.run().state == "awaiting_approval" and world.find_message("no longer counts")
    world.pass_time(21 * HOUR)
    world.tick(2)
    assert len(reminders(world)) == 2
    world.pass_time(4 * HOUR)
    world.tick(2)
    assert world.run().state == "expired"
    assert any("expired" in text for text in world.dms(ANA))


def test_a_raised_quorum_keeps_approvals_and_waits_for_more(world: World) -> None:
    world.start()
    freeze(world)
    world.approve()
    world.rules.quorum = 2
    world.restart()
    for person in (BEN, CLEO):
        unfreeze(world, person)
    world.tick(2)
    assert world.run().state == "awaiting_approval" and world.jobs() == 0 and world.ledger() == {}
    assert world.find_message(
        "The approval of run 1 no longer counts", "it now takes 2 approvers, and 1 approved"
    )
    world.approve(CLEO)
    world.tick_until_state("training")
    assert world.jobs() == 1


def test_a_lowered_quorum_starts_a_run_only_within_the_budget_and_the_data_rules(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules(quorum=2))
    world.start()
    world.approve()

    def restart_with(budget: str, more: str = "") -> None:
        world.rules = replace(world.rules, quorum=1, budget=budget, more=more)
        world.restart()
        world.pass_time(LOOK_FOR_EXPIRY_S)
        world.tick(3)

    restart_with("0.01")
    assert world.run().state == "awaiting_approval" and world.ledger() == {}
    restart_with("20", rule("hard", "local"))
    assert world.run().state == "awaiting_approval" and world.ledger() == {}
    restart_with("20")
    world.tick_until_state("training")


def test_an_approval_by_somebody_no_longer_named_in_the_settings_is_void(world: World) -> None:
    world.start()
    world.approve()
    world.rules.approvers = (CLEO.id,)
    world.restart()
    world.tick(2)
    assert world.run().state == "awaiting_approval" and world.jobs() == 0
    assert world.find_message(
        f"<@{BEN.id}> may not approve any more", "finetune.toml, line 9: [people] approvers"
    )


def test_the_approval_of_a_deactivated_person_no_longer_counts(world: World) -> None:
    world.start()
    world.approve()
    world.slack.set_kind(BEN.id, "deleted")
    world.tick(2)
    assert world.run().state == "awaiting_approval" and world.jobs() == 0


@pytest.mark.parametrize("method", ["usergroups.users.list", "users.info"])
def test_nothing_is_created_or_lost_while_slack_answers_no_lookup(make_world: MakeWorld, method: str) -> None:
    world = make_world(BY_GROUP)
    world.start()
    world.approve(CLEO)
    world.slack.fail(method, refused("internal_error"), times=None)
    world.tick(5)
    assert world.run().state == "approved" and world.jobs() == 0 and "reserve" in world.ledger()
    assert "Slack didn't say" in world.find_message("Run 1", "Slack didn't say")
    world.slack.clear_faults()
    world.tick_until_state("training")
    assert world.jobs() == 1


def test_an_uncertain_job_is_adopted_although_its_approval_lapsed(make_world: MakeWorld) -> None:
    world = make_world(BY_GROUP)
    world.provider.fail(CREATE, COMMIT_THEN_500)
    world.start()
    world.approve(CLEO)
    world.tick()
    assert world.run().state == "creating"
    world.slack.set_group(APPROVERS_GROUP, ())
    world.tick_until_state("training")
    assert world.jobs() == 1 and world.provider.count(CREATE) == 1


def test_a_lost_create_is_not_repeated_after_its_approval_lapsed(make_world: MakeWorld) -> None:
    world = make_world(BY_GROUP)
    world.provider.fail(CREATE, NOTHING_BUT_500)
    world.start()
    world.approve(CLEO)
    world.tick()
    world.slack.set_group(APPROVERS_GROUP, (BEN.id,))
    world.tick(5)
    assert world.run().state == "creating", "it may still show"
    world.pass_time(SETTLE_S)
    world.tick(2)
    assert world.run().state == "awaiting_approval" and world.provider.count(CREATE) == 1
    world.click(BEN, "reject_plan")
    assert world.slack.submit_modal(BEN.id, {"reason": "not now"}).closed
    assert world.run().state == "rejected" and world.jobs() == 0


def test_a_plan_expires_when_the_policy_says_after_its_reminders(make_world: MakeWorld) -> None:
    world = make_world(Rules(more="[policy]\nexpires_h = 48\nremind_h = [12, 2]"))
    world.start()
    assert world.find_message("Expires after 48 hours")
    world.tick(3)
    world.pass_time(35 * HOUR)
    world.tick(2)
    assert reminders(world) == []
    world.pass_time(1 * HOUR)
    world.tick(3)
    world.restart()
    world.tick(3)
    (reminder,) = reminders(world)
    assert "12 hours" in reminder and f"<@{BEN.id}>" in reminder and "1 more approver" in reminder
    assert f"<@{ANA.id}>" not in reminder and f"<@{DORA.id}>" not in reminder
    world.pass_time(10.2 * HOUR)
    world.tick(3)
    assert len(reminders(world)) == 2 and "2 hours" in reminders(world)[-1]
    world.pass_time(2 * HOUR)
    world.tick()
    assert world.run().state == "expired" and world.find_message("It was not approved within 48 hours")


def test_a_plan_that_too_few_could_approve_is_not_posted(make_world: MakeWorld) -> None:
    world = make_world(replace(Rules(), approvers=(BEN.id, DORA.id), quorum=2))
    world.seed_dataset(uploaded_by=DORA)
    assert (
        f"This takes 2 approvers besides you and the person who uploaded the data, and there is only <@{BEN.id}>."
        in world.type(START)
    )
    assert world.store.runs.newest() == []


def rule(level: str, *providers: str, more: str = "") -> str:
    return f'[[policy.data]]\nname = "tickets <stay>"\nlevel = "{level}"\nproviders = {list(providers)}\n{more}\n'


def test_a_hard_data_rule_cannot_be_overridden(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=rule("hard", "local", more=f'channels = ["{PRIVATE.id}"]')))
    world.seed_dataset()
    for line in (START, f"{START} because=the customers agreed to it"):
        reply = world.type(line)
        assert "“tickets &lt;stay&gt;” (finetune.toml, line" in reply and "It may go to local." in reply
    assert world.store.runs.newest() == []


def test_data_that_no_rule_covers_stays_on_this_machine(make_world: MakeWorld) -> None:
    world = make_world(
        Rules(more=rule("hard", "any", more='datasets = ["letters*"]'), provider_is_remote=True)
    )
    world.seed_dataset()
    assert "no rule under [[policy.data]]" in world.type(START)
    world.seed_dataset(called="letters-2")
    world.start(START.replace("tickets", "letters-2"))


def test_a_soft_rule_is_overridden_by_a_reason_that_is_recorded_and_shown(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=rule("soft", "local")))
    world.seed_dataset()
    assert "because=" in world.type(START)
    assert "at least 3 words" in world.type(f"{START} because=ok")
    world.start(f"{START} because=the customers agreed, ticket <!channel> 12")
    card = world.find_message("Run 1: train", "Overridden because: the customers agreed")
    assert "<!channel>" not in card
    assert "overrode a data rule" in world.type("/finetune audit 1")
    world.restart()
    world.approve()
    world.tick_until_state("training")


def test_an_advisory_rule_is_shown_on_the_card_and_stops_nothing(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=rule("advisory", "local")))
    world.start()
    assert world.find_message("Run 1: train", "The rule is advisory")
    world.approve()
    world.tick_until_state("training")


def test_a_rule_added_after_the_approval_ends_the_run_before_anything_is_sent(world: World) -> None:
    world.start()
    world.approve()
    world.rules.more = rule("soft", "local")
    world.restart()
    world.tick(2)
    assert world.run().state == "cancelled" and world.jobs() == 0 and world.files_at_provider() == []
    assert world.ledger()["settle"] == 0
    assert world.find_message(
        "doesn't let this data go to acme", "Its approval is void, and nothing was started"
    )


def test_a_rule_added_before_the_approval_stops_it(world: World) -> None:
    world.start()
    world.rules.more = rule("hard", "local")
    world.restart()
    assert "doesn't let this data go to acme" in world.click_and_read(BEN, "approve_plan")
    assert world.run().state == "awaiting_approval"


def test_the_form_of_a_measurement_takes_the_reason_for_overriding_a_soft_rule(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=rule("soft", "local") + PRICES))
    world.seed_dataset()
    assert world.type("/finetune baseline") == ""
    answers = {"dataset": "tickets", "models": [ACME.partition("=")[2]], "candidates": ["zero"]}
    form = world.slack.submit_modal(ANA.id, answers)
    assert "doesn't let this data go to acme" in form.errors["dataset"]
    assert (
        "at least 3 words" in world.slack.submit_modal(ANA.id, {**answers, "because": "ok"}).errors["because"]
    )
    assert world.slack.submit_modal(ANA.id, {**answers, "because": "the customers agreed, ticket 12"}).closed
    world.send()
    assert world.find_message("m1: ", "Overridden because: the customers agreed, ticket 12")


def test_data_rules_hold_for_measurements(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=rule("soft", "local") + PRICES))
    world.seed_dataset()
    assert "doesn't let this data go to acme" in world.type(
        f"/finetune baseline tickets {ACME} candidates=zero"
    )
    assert world.store.measurements.newest() == []
    reason = "because=the customers agreed, ticket 12"
    assert world.type(f"/finetune baseline tickets {ACME} candidates=zero {reason} prompt=Sort this.") == ""
    world.send()
    assert world.find_message("m1: ", "Overridden because: the customers agreed, ticket 12")
    until_asked(world)
    world.rules.more = rule("hard", "local") + PRICES
    world.restart()
    assert "doesn't let this data go to acme" in world.click_and_read(BEN, MEASURE)
    world.rules.more = rule("soft", "local") + PRICES
    world.restart()
    world.click(BEN, MEASURE)
    assert world.store.measurements.get(1).state == "running", "the reason still counts"
    entries = world.store.audit.entries("measurement 1")
    assert [entry.detail for entry in entries if entry.action == "override"] == [
        "tickets <stay>: the customers agreed, ticket 12"
    ]


def test_rights_lists_what_a_person_may_do_and_who_may_do_the_rest(world: World) -> None:
    allowed, _, denied = world.type("/finetune rights").partition("*No.*")
    assert "• measure: `baseline` `curve` `distill` `test` `watch`" in allowed and "promote" not in allowed
    assert "Only an approver may do that: " in denied and BEN.id in denied
    assert "• approve: approve a run\n" in denied and "• promote: `promote` `rollback` `fallback`" in denied
    assert "• promote: `promote` `rollback` `fallback`" in world.type("/finetune rights", user=BEN)
    guest = world.type("/finetune rights", user=GUS)
    assert "is a guest" in guest and BEN.id not in guest
    world.slack.share(PRIVATE.id)
    assert "shared with another organisation" in world.type("/finetune rights", user=BEN)


def test_rights_with_a_mention_lists_what_somebody_else_may_do(world: World) -> None:
    of_ben = world.type("/finetune rights @ben")
    assert f"Of <@{BEN.id}>:" in of_ben and "• promote: `promote` `rollback` `fallback`" in of_ben
    assert "*No.*" not in of_ben
    assert "is a guest" in world.type("/finetune rights @gus")
    assert "Mention one person" in world.type("/finetune rights Ben")
    by_guest = world.type("/finetune rights @ben", user=GUS)
    assert "is a guest" in by_guest and "promote" not in by_guest


# Forms check rights when they are sent; a run that waits for approval can't be paused (test_story_pause.py).
ASKED_LATER = ("upload", "knowledge", "pause", "resume")


NEEDED = sorted({GOVERNED_BY.get(need, need) for command in finetune for need in command.needs})


def test_every_command_requires_the_rights_that_it_declares(world: World) -> None:
    world.start()
    for rule in NEEDED:
        others = "".join(f'{other} = ["anyone"]\n' for other in RULES if other not in (rule, "approve"))
        world.rules.more = f'[policy.who]\napprove = ["approvers"]\n{others}{rule} = ["{CLEO.id}"]\n'
        world.restart()
        for command in finetune:
            rules = {GOVERNED_BY.get(need, need) for need in command.needs}
            if rule in rules and (rule == "read" or command.name not in ASKED_LATER):
                arguments = command.usage.removeprefix("/finetune ").split("[")[0]
                line = arguments.replace("RUN", "1").replace("DATASET", "tickets")
                line = line.replace("MODEL", "tickets-1")
                assert f"<@{CLEO.id}>" in world.type(f"/finetune {line}"), (rule, line)
