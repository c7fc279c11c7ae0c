"""Reads [people] and [policy] of finetune.toml into a Policy. Reports every mistake with its line and its cure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated

from bot.rules.permissions import (
    BUILT_IN,
    DEFAULT_PROMOTION_LIMITS,
    DEFAULT_WATCH_LIMITS,
    GROUP,
    RULES,
    USER,
    Approvers,
    DataRule,
    NamedPeople,
    Policy,
    PromotionLimits,
    Rule,
    Tier,
    WatchLimits,
    default_rules,
)
from bot.settings.toml_file import TomlFile
from trainers.typed_tables import Key, Limits

MOST_HOURS = 24 * 30
WORDS = ("anyone", "requester", "approvers")

Hours = Annotated[int, Limits(ge=1, le=MOST_HOURS)]


@dataclass(frozen=True)
class PeopleTable:
    approvers: Annotated[
        tuple[Annotated[str, USER], ...] | None, Key(wants='ids of users, like ["U123", "U456"]')
    ] = None
    approver_groups: Annotated[
        tuple[Annotated[str, GROUP], ...] | None, Key(wants='ids of user groups, like ["S123"]')
    ] = None
    quorum: Approvers | None = None


@dataclass(frozen=True)
class PolicyTable:
    expires_h: Hours = 24
    remind_h: Annotated[
        tuple[Hours, ...] | None, Key(wants=f"a list of whole numbers from 1 to {MOST_HOURS}, like [4]")
    ] = None
    who: (
        Mapping[Rule, Annotated[tuple[str, ...], Key(wants='a list of texts, like ["U123", "anyone"]')]]
        | None
    ) = None
    tiers: tuple[Tier, ...] = ()
    data: tuple[DataRule, ...] = ()
    promotion: PromotionLimits = DEFAULT_PROMOTION_LIMITS
    watch: WatchLimits = DEFAULT_WATCH_LIMITS


def build_policy(
    people: PeopleTable, table: PolicyTable, providers: Collection[str], file: TomlFile
) -> Policy:
    """`providers` are the configured provider names. Mistakes are reported to `file`."""
    approvers = _read_approvers(people, file)
    if table.who is None:
        who = default_rules(approvers)
    else:
        who = _read_who(table.who, approvers, file)
    data = [_read_data_rule(row, number, providers, file) for number, row in enumerate(table.data)]
    promotion = table.promotion
    # The defaults are written nowhere in the file.
    if promotion != DEFAULT_PROMOTION_LIMITS:
        promotion = replace(promotion, where=file.place("policy", "promotion"))
    watch = table.watch
    if watch != DEFAULT_WATCH_LIMITS:
        watch = replace(watch, where=file.place("policy", "watch"))
    policy = Policy(
        who=who,
        tiers=_read_tiers(people.quorum, table.tiers, file),
        data=tuple(data),
        expires_s=table.expires_h * 3600.0,
        remind_s=_read_reminders(table, file),
        promotion=promotion,
        watch=watch,
    )
    _check_people(policy, file)
    return policy


def _read_approvers(people: PeopleTable, file: TomlFile) -> NamedPeople:
    where = BUILT_IN
    if people.approvers is not None:
        where = file.place("people", "approvers")
    elif people.approver_groups is not None:
        where = file.place("people", "approver_groups")
    return NamedPeople(
        users=frozenset(people.approvers or ()),
        groups=frozenset(people.approver_groups or ()),
        where=where,
    )


def _read_who(
    who: Mapping[Rule, tuple[str, ...]], approvers: NamedPeople, file: TomlFile
) -> Mapping[Rule, NamedPeople]:
    """Returns who may do what. A rule that [policy.who] leaves out allows nobody."""
    nobody = NamedPeople(where=f"{file.place('policy', 'who')} names nobody for it")
    rules: dict[Rule, NamedPeople] = {}
    for rule in RULES:
        rules[rule] = nobody
        if rule in who:
            rules[rule] = _read_named(rule, who[rule], approvers, file)
    # In files from before `bar` was a right of its own, it belongs to `measure`.
    if "bar" not in who:
        rules["bar"] = rules["measure"]
    return rules


def _read_named(rule: Rule, names: tuple[str, ...], approvers: NamedPeople, file: TomlFile) -> NamedPeople:
    path = ("policy", "who", rule)
    for name in names:
        if name not in WORDS and not USER.fullmatch(name) and not GROUP.fullmatch(name):
            near = difflib.get_close_matches(name.lower(), WORDS, n=1)
            cure = f"valid are {', '.join(WORDS)}, U… and S…."
            if near:
                cure = f"did you mean {near[0]!r}?"
            file.note(f"names {name!r}, which is not the id of a user or group; {cure}", *path)
    if rule not in ("cancel", "delete") and "requester" in names:
        file.note("names 'requester', which only `cancel` and `delete` accept; remove it.", *path)
    named = NamedPeople(
        users=frozenset(name for name in names if USER.fullmatch(name)),
        groups=frozenset(name for name in names if GROUP.fullmatch(name)),
        anyone="anyone" in names,
        requester="requester" in names,
        where=file.place(*path),
    )
    if "approvers" not in names:
        return named
    return replace(named, users=named.users | approvers.users, groups=named.groups | approvers.groups)


def _read_tiers(quorum: Approvers | None, tiers: tuple[Tier, ...], file: TomlFile) -> tuple[Tier, ...]:
    """Returns the tiers with where each is written; without any, a single one with the `quorum`."""
    if not tiers:
        if quorum is None:
            return (Tier(None, 1, BUILT_IN),)
        return (Tier(None, quorum, file.place("people", "quorum")),)
    if quorum:
        text = "and [[policy.tiers]] both say how many approvers a run needs; remove one of them."
        file.note(text, "people", "quorum")
    for number, (before, tier) in enumerate(pairwise(tiers), 1):
        path = ("policy", "tiers", number)
        if (tier.up_to_micros or 0) <= (before.up_to_micros or 0):
            text = "is not above the previous tier; order the tiers from cheap to expensive."
            file.note(text, *path, "up_to_usd")
        if tier.approvers < before.approvers:
            text = "is fewer than the cheaper tier before it needs; ask for at least as many."
            file.note(text, *path, "approvers")
    placed = []
    for number, tier in enumerate(tiers):
        where = file.place("policy", "tiers", number)
        placed.append(replace(tier, where=where))
    return tuple(placed)


def _read_reminders(table: PolicyTable, file: TomlFile) -> tuple[float, ...]:
    if table.remind_h is None:
        # Nobody has written the defaults, so one that comes too late is left out, and no mistake.
        return tuple(value for value in Policy().remind_s if value < table.expires_h * 3600)
    late = [hour for hour in table.remind_h if hour >= table.expires_h]
    if late:
        text = f"should be hours before the plan expires, fewer than {table.expires_h}, not {late[0]}."
        file.note(text, "policy", "remind_h")
    return tuple(hour * 3600.0 for hour in table.remind_h)


def _read_data_rule(rule: DataRule, number: int, providers: Collection[str], file: TomlFile) -> DataRule:
    path = ("policy", "data", number)
    for text in sorted((rule.providers or frozenset()).difference(providers)):
        near = difflib.get_close_matches(text, providers, n=1)
        cure = f"the providers are {', '.join(sorted(providers))}."
        if near:
            cure = f"did you mean {near[0]!r}?"
        file.note(f"names {text!r}, which is not a provider; {cure}", *path, "providers")
    return replace(rule, where=file.place(*path))


def _check_people(policy: Policy, file: TomlFile) -> None:
    """Reports a tier that needs more approvers than [people] names: its plans would wait for ever. Groups are not
    counted, as their members are unknown here."""
    named = policy.named("approve")
    if named.groups or named.anyone or named.is_nobody:
        return
    count = len(named.users)
    named_text = "1 is named" if count == 1 else f"{count} are named"
    for tier in policy.tiers:
        if tier.approvers > count:
            file.problems.append(
                f"{tier.where} asks for {tier.approvers} approvers, but only {named_text}; name more in [people] "
                "approvers, or ask for fewer."
            )
