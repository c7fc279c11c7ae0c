"""Before a job is created: do the approvals still count? Asked anew of Slack and of the rules that are read now.

Those that count no longer are voided for good, the money is free again, and the run waits for approval as before.
"""

from __future__ import annotations

from dataclasses import dataclass

from bot.decisions.permission import Rules, who_may
from bot.decisions.planning import plan_from_json
from bot.decisions.policy import BUILT_IN
from bot.views import plans as views
from bot.workflows import approving, leaving, permits, telling
from bot.workflows.desk import Desk
from storage.records import Run
from trainers.money import usd_micros


@dataclass(frozen=True)
class Unsure:
    """Slack didn't tell enough; nothing is created until it does."""

    said: str


@dataclass(frozen=True)
class Forbidden:
    """Its data may not go to that provider any more: no approval helps, so the run is over."""

    said: str


@dataclass(frozen=True)
class Lapsed:
    """`people` may approve no longer; `said` is why the approvals that are left don't carry the run."""

    people: tuple[str, ...]
    said: str


def look(desk: Desk, run: Run) -> Unsure | Lapsed | Forbidden | None:
    """None: the approvals carry it, as things are now."""
    plan = plan_from_json(run.plan)
    waits = leaving.not_looked_through(desk, plan.dataset_id, [plan.provider])
    if waits:
        return Unsure(waits)
    forbidden = leaving.still(desk, plan)
    if forbidden:
        return Forbidden(f"{forbidden} Its approval is void, and nothing was started.")
    rules = permits.rules(desk, "approve")
    tier = rules.policy.tier(plan.maximum_micros)
    if tier is None:
        most = usd_micros(rules.policy.tiers[-1].up_to_micros or 0)
        said = f"no run may cost more than {most} any more ({rules.policy.tiers[-1].where})"
        return Lapsed(_approvers(desk, run), said)
    named = rules.entitled("approve", _approvers(desk, run))
    members = {one: desk.directory.person(one) for one in named}
    known = [one for one, person in members.items() if person is not None and person.is_member]
    if len(known) >= tier.approvers:
        return None
    if rules.unknown("approve"):
        return Unsure(who_may("approve", rules))
    if None in members.values():
        return Unsure("Slack didn't tell whether the approvers still are members, so nothing is created yet.")
    return Lapsed(*_why(desk, run, rules, known, tier.approvers))


def void(desk: Desk, run: Run, lapsed: Lapsed) -> None:
    """Back to waiting, said in the channel. Call it only where surely no job was created."""
    now, plan = desk.clock(), plan_from_json(run.plan)
    with desk.store.transaction():
        moved = desk.store.runs.move(run, "awaiting_approval", now=now, reserved_micros=0, tries=2)
        if moved is None:
            return
        for one in lapsed.people:
            desk.store.runs.void(moved, one, lapsed.said, now=now)
        desk.store.runs.unreserve(moved)
        desk.store.audit.add(
            at=now, who="finetune", action="void", subject=f"run {run.id}", detail=lapsed.said
        )
        telling.decided(desk, moved, approving.so_far(desk, moved, plan))  # its card asks again
        telling.progress(desk, moved)
        said = views.voided(moved, plan, lapsed.said)
        desk.say(run.channel, said.letter(), dedupe=f"void {run.id} {now}")
        telling.to_requester(desk, moved, said.text, once=f"void dm {run.id} {now}")


def _approvers(desk: Desk, run: Run) -> tuple[str, ...]:
    return tuple(one.person for one in desk.store.runs.standing(run.id))


def _why(desk: Desk, run: Run, rules: Rules, known: list[str], needed: int) -> tuple[tuple[str, ...], str]:
    gone = tuple(one for one in _approvers(desk, run) if one not in known)
    where = rules.policy.named("approve").where
    place = "" if where == BUILT_IN else f" ({where})"
    if gone:
        names = ", ".join(f"<@{one}>" for one in gone)
        return gone, f"{names} may not approve any more{place}"
    return (), f"it takes {needed} approvers by now, and {len(known)} approved"
