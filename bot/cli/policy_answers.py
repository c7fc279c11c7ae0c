"""Renders the policy, and what it says about one request, as text for the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bot.cards.common.permissions import limits_text, verdict_text
from bot.cards.common.words import capitalize, pluralize
from bot.rules.data_policy import EgressDecision
from bot.rules.permissions import (
    BUILT_IN,
    RULES,
    Action,
    Caller,
    DataRule,
    NamedPeople,
    Policy,
    Request,
    Tier,
    WatchLimits,
    rule_verdicts,
)
from trainers.money import usd_micros


@dataclass(frozen=True)
class CheckedRule:
    """A rule of the policy: whether it allows what somebody wants to do, its `place`, and its reason."""

    is_allowed: bool
    place: str
    why: str


@dataclass(frozen=True)
class PolicyAnswer:
    """`because` and `place` are the reason and the place of the rule that decides. `rules` are all that were
    checked."""

    is_allowed: bool
    because: str
    place: str
    rules: tuple[CheckedRule, ...]


def explain_policy(
    asking: Caller, action: Action, request: Request, permission: tuple[EgressDecision, str] | None
) -> PolicyAnswer:
    """`permission` is the decision on sending the data to a provider, and its text; None if no provider is named."""
    rules = []
    for verdict in rule_verdicts(asking, action, request):
        because = _plain(verdict_text(verdict.because))
        rules.append(CheckedRule(verdict.is_allowed, verdict.rule, because))
    if permission:
        ruled, text = permission
        place = ruled.where or f"{BUILT_IN}: without [[policy.data]] any provider"
        rules.append(CheckedRule(not ruled.refused, place, _plain(text)))
    written = [rule for rule in rules if not rule.place.startswith(BUILT_IN)]
    # If all rules say yes, the last one in the file decides.
    last = (written or rules)[-1]
    deciding = next((rule for rule in rules if not rule.is_allowed), last)
    because = f"{capitalize(deciding.why).rstrip('.')}."
    return PolicyAnswer(deciding.is_allowed, because, deciding.place, tuple(rules))


def policy_answer_text(answer: PolicyAnswer) -> str:
    word = "Yes" if answer.is_allowed else "No"
    lines = [f"{word}. {answer.because}", f"Decided by {answer.place}", ""]
    for rule in answer.rules:
        mark = "yes" if rule.is_allowed else "NO "
        lines.append(f"  {mark}  {rule.place}: {rule.why}")
    return "\n".join(lines)


def policy_answer_json(answer: PolicyAnswer) -> dict[str, Any]:
    return {
        "allowed": answer.is_allowed,
        "because": answer.because,
        "decided_by": answer.place,
        "rules": [
            {"allowed": rule.is_allowed, "rule": rule.place, "because": rule.why} for rule in answer.rules
        ],
    }


def policy_table(policy: Policy) -> str:
    """Returns who may do what, how many approvals a run needs, and where data may go."""
    who = []
    for rule in RULES:
        named = policy.named(rule)
        people = ", ".join(_people(named)) or "nobody"
        who.append(f"{rule:<9} {people}{_in_brackets(named.where)}")
    limits = policy.promotion
    promotion = [
        f"promotion {limits_text(limits)}{_in_brackets(limits.where)}",
        f"quality bar, unless somebody sets one: {100 * limits.bar:g}%",
        f"rows that an upload seals for a promotion, unless somebody types a number: {limits.sealed or 'none'}",
    ]
    return "\n".join(
        [*who, "", *_approvals(policy), "", *promotion, "", _watch(policy.watch), "", *_data(policy)]
    )


def _watch(limits: WatchLimits) -> str:
    sampled = "no call may be sampled"
    if limits.share:
        personal = "without those that have personal data"
        if limits.personal == "mask":
            personal = "personal data masked"
        sampled = (
            f"up to {100 * limits.share:g}% of the calls may be sampled for {limits.days} days, {personal}"
        )
    spent = f"up to ${limits.usd_per_month} a month for measuring on its own"
    return f"watch     {sampled}; {spent}{_in_brackets(limits.where)}"


def policy_json(policy: Policy) -> dict[str, Any]:
    """If `data` is empty, data may go to any provider; personal data then needs a recorded waiver."""
    who = {}
    for rule in RULES:
        named = policy.named(rule)
        who[rule] = {"may": _people(named), "rule": named.where}
    return {
        "who": who,
        "approvals": [_tier_json(tier) for tier in policy.tiers],
        "plan_expires_hours": policy.expires_s / 3600,
        "promotion": {
            "margin": policy.promotion.margin,
            "floor": policy.promotion.floor,
            "floor_rows": policy.promotion.floor_rows,
            "bar": policy.promotion.bar,
            "sealed_rows": policy.promotion.sealed,
            "rule": policy.promotion.where,
        },
        "watch": _watch_json(policy.watch),
        "data": [_data_rule_json(rule) for rule in policy.data],
    }


def _watch_json(limits: WatchLimits) -> dict[str, Any]:
    channels = None
    if limits.channels is not None:
        channels = sorted(limits.channels)
    return {
        "sample_share": limits.share,
        "days": limits.days,
        "personal": limits.personal,
        "usd_per_month": str(limits.usd_per_month),
        "margin": limits.margin,
        "channels": channels,
        "rule": limits.where,
    }


def _tier_json(tier: Tier) -> dict[str, Any]:
    up_to_usd = None
    if tier.up_to_micros is not None:
        up_to_usd = tier.up_to_micros / 1e6
    return {"up_to_usd": up_to_usd, "approvers": tier.approvers, "rule": tier.where}


def _data_rule_json(rule: DataRule) -> dict[str, Any]:
    providers = None
    if rule.providers is not None:
        providers = sorted(rule.providers)
    return {"name": rule.name, "level": rule.level, "providers": providers, "rule": rule.where}


def _people(named: NamedPeople) -> list[str]:
    people = []
    if named.anyone:
        people.append("any full member")
    if named.requester:
        people.append("who asked for it")
    return [*people, *sorted(named.users), *sorted(named.groups)]


def _plain(text: str) -> str:
    """Removes Slack's backticks and mentions."""
    return text.replace("`", "").replace("<@", "").replace("<#", "").replace(">", "")


def _approvals(policy: Policy) -> Iterator[str]:
    for tier in policy.tiers:
        most = "any cost"
        if tier.up_to_micros is not None:
            most = f"up to {usd_micros(tier.up_to_micros)}"
        yield f"{most}: {pluralize(tier.approvers, 'approver')}{_in_brackets(tier.where)}"
    if policy.tiers[-1].up_to_micros is not None:
        yield "above: refused"
    expires = f"a plan expires after {policy.expires_s / 3600:g} h"
    if policy.remind_s:
        reminders = ", ".join(f"{seconds / 3600:g} h" for seconds in policy.remind_s)
        expires += f", reminders {reminders} before"
    yield expires


def _data(policy: Policy) -> Iterator[str]:
    if not policy.data:
        yield "data may go to any provider; personal data only with a recorded waiver"
        return
    for rule in policy.data:
        where = "any provider"
        if rule.providers is not None:
            where = ", ".join(sorted(rule.providers)) or "nowhere"
        yield f"{rule.level} “{rule.name}”: to {where}{_in_brackets(rule.where)}"
    yield "data that no rule covers: stays on this machine"


def _in_brackets(where: str) -> str:
    return f"   ({where})"
