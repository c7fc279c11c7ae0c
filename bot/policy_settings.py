"""[people] and [policy] of finetune.toml as one Policy; every mistake is noted with its line and its cure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from decimal import Decimal

from bot.rules.permissions import LEVELS, RULES, DataRule, Level, Named, Policy, Rule, Tier, usual_rules
from bot.toml_reader import Reader
from trainers.money import to_micros

POLICY_KEYS = ("expires_h", "remind_h", "who", "tiers", "data")
TIER_KEYS = ("up_to_usd", "approvers")
DATA_KEYS = ("name", "level", "providers", "channels", "datasets", "personal")
WORDS = ("anyone", "requester", "approvers")
USER, GROUP = re.compile(r"[UW][A-Z0-9]{1,20}"), re.compile(r"S[A-Z0-9]{1,20}")
CHANNEL = re.compile(r"[CGD][A-Z0-9]{1,20}")
MOST_HOURS, MOST_APPROVERS = 24 * 30, 20


def read_policy(reader: Reader, providers: Collection[str]) -> Policy:
    """`reader` is of the whole file, `providers` the names of those that there are."""
    people, own = reader.part("people"), reader.part("policy")
    approvers = _approvers(people)
    quorum = people.whole("", "quorum", 1, lowest=1, highest=MOST_APPROVERS)
    tiers = _tiers(own)
    if tiers and "quorum" in people.keys:
        people.wrong("", "quorum", "and [[policy.tiers]] both say how many approvers it takes; take one out.")
    expires_h = own.whole("", "expires_h", 24, lowest=1, highest=MOST_HOURS)
    policy = Policy(
        who=_who(own.part("who"), approvers) if "who" in own.keys else usual_rules(approvers),
        tiers=tiers or (Tier(None, quorum, _where(people, "quorum")),),
        data=tuple(_data(row, providers) for row in own.parts("data")),
        expires_s=expires_h * 3600.0,
        remind_s=_reminders(own, expires_h),
    )
    _enough_people(own, policy)
    return policy


def _approvers(people: Reader) -> Named:
    users = people.ids("", "approvers", USER, 'ids of users, like ["U123", "U456"]')
    groups = people.ids("", "approver_groups", GROUP, 'ids of user groups, like ["S123"]')
    key = "approvers" if "approvers" in people.keys else "approver_groups"
    return Named(frozenset(users), frozenset(groups), where=_where(people, key))


def _where(reader: Reader, key: str) -> str:
    return reader.where("", key) if key in reader.keys else "built in"


def _who(reader: Reader, approvers: Named) -> Mapping[Rule, Named]:
    """What is not named here nobody may."""
    reader.check_keys({"": RULES})
    nobody = Named(where=f"{reader.where()} names nobody for it")
    return {rule: _named(reader, rule, approvers) if rule in reader.keys else nobody for rule in RULES}


def _named(reader: Reader, rule: Rule, approvers: Named) -> Named:
    lines = reader.texts("", rule)
    for name in lines:
        if name not in WORDS and not USER.fullmatch(name) and not GROUP.fullmatch(name):
            near = difflib.get_close_matches(name.lower(), WORDS, n=1)
            cure = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(WORDS)}, U… and S…."
            reader.wrong("", rule, f"names {name!r}, which is no id of a user or group and no word; {cure}")
    if rule not in ("cancel", "delete") and "requester" in lines:
        reader.wrong("", rule, "names 'requester', whom only `cancel` and `delete` know; take it out.")
    named = Named(
        users=frozenset(name for name in lines if USER.fullmatch(name)),
        groups=frozenset(name for name in lines if GROUP.fullmatch(name)),
        anyone="anyone" in lines,
        requester="requester" in lines,
        where=reader.where("", rule),
    )
    if "approvers" not in lines:
        return named
    return replace(named, users=named.users | approvers.users, groups=named.groups | approvers.groups)


def _tiers(own: Reader) -> tuple[Tier, ...]:
    tiers: list[Tier] = []
    for row in own.parts("tiers"):
        row.check_keys({"": TIER_KEYS})
        if "up_to_usd" not in row.keys:
            row.wrong("", "", 'lacks up_to_usd, the most that a run of this tier may cost, like "20".')
        if "approvers" not in row.keys:
            row.wrong("", "", "lacks approvers, how many it takes, like 1.")
        most = to_micros(row.usd("", "up_to_usd", "0"))
        needed = row.whole("", "approvers", 1, lowest=1, highest=MOST_APPROVERS)
        if tiers and most <= (tiers[-1].up_to_micros or 0):
            row.wrong("", "up_to_usd", "is not above the tier before it; order them from cheap to dear.")
        if tiers and needed < tiers[-1].approvers:
            row.wrong(
                "", "approvers", "is fewer than the cheaper tier before it takes; take at least as many."
            )
        tiers.append(Tier(most, needed, row.where()))
    return tuple(tiers)


def _reminders(own: Reader, expires_h: int) -> tuple[float, ...]:
    if "remind_h" not in own.keys:
        return tuple(value for value in Policy().remind_s if value < expires_h * 3600)
    hours = own.wholes("", "remind_h", lowest=1, highest=MOST_HOURS)
    late = [hour for hour in hours if hour >= expires_h]
    if late:
        own.wrong(
            "", "remind_h", f"should be hours before the plan expires, below {expires_h}, not {late[0]}."
        )
    return tuple(hour * 3600.0 for hour in hours)


def _data(row: Reader, providers: Collection[str]) -> DataRule:
    row.check_keys({"": DATA_KEYS})
    name = row.text("", "name", "")
    if not name.strip():
        row.wrong("", "", 'lacks name, in your words, like "support stays here": people read it.')
    if "providers" not in row.keys:
        row.wrong("", "", 'lacks providers, where such data may go, like ["local"]; ["any"] is all.')
    level: Level = row.choice("", "level", ("hard", "soft", "advisory"))  # type: ignore[assignment]
    assert level in LEVELS  # noqa: S101 - `choice` gives one of them
    where = row.texts("", "providers")
    for text in [name for name in where if name != "any" and name not in providers]:
        near = difflib.get_close_matches(text, providers, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(providers))}."
        row.wrong("", "providers", f"names {text!r}, which is no provider; {hint}")
    channels = row.ids("", "channels", CHANNEL, 'ids of channels, like ["C123"]')
    return DataRule(
        name=name,
        level=level,
        providers=None if "any" in where else frozenset(where),
        channels=frozenset(channels) if "channels" in row.keys else None,
        datasets=row.texts("", "datasets") if "datasets" in row.keys else None,
        personal=row.flag("", "personal") if "personal" in row.keys else None,
        where=row.where(),
    )


def _enough_people(own: Reader, policy: Policy) -> None:
    """Groups may hold anybody; without one, more approvals than people are named would wait for ever."""
    named = policy.named("approve")
    if named.groups or named.anyone or named.is_nobody:
        return
    for tier in policy.tiers:
        if tier.approvers > len(named.users):
            count = len(named.users)
            own.problems.append(
                f"{tier.where} asks for {tier.approvers} approvers, and {count} {'is' if count == 1 else 'are'} named; "
                "name more in [people] approvers, or ask for fewer."
            )


def read_limits(reader: Reader, key: str, kind: re.Pattern[str], like: str) -> Mapping[str, Decimal]:
    """[budget.channels] and [budget.people]: an id = US dollars each."""
    part = reader.part(key)
    for name in part.keys:
        if not kind.fullmatch(name):
            part.wrong("", name, f"is no id; an id looks like {like}.")
    return {key: part.usd("", key, "0") for key in part.keys}
