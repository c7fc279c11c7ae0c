"""The team's rules as one frozen value, how many approvals a plan needs by them, and `may`, the one function that
every command, button, form and shortcut asks. Pure.

Nobody may, unless a rule says so. Who a person is, who is in a group and whether a channel is shared was looked up
before; what Slack didn't tell counts as a no. The sentences are in bot/cards/permissions.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal

from bot.rules.units import FEWEST_SEALED, MOST_SEALED
from trainers.evaluation.results import DEFAULT_QUALITY_THRESHOLD
from trainers.money import to_micros
from trainers.typed_tables import OWN, Key, Limits

if TYPE_CHECKING:  # storage opens the database's library, which the command line need not load
    from storage.jobs import InterventionChoice, InterventionDecision

Rule = Literal[
    "read",
    "upload",
    "estimate",
    "measure",
    "bar",
    "start",
    "approve",
    "cancel",
    "freeze",
    "waive",
    "promote",
    "try",
    "delete",
]
Action = Literal[Rule, "reject", "resolve", "pause", "unfreeze", "rollback"]
Level = Literal["advisory", "soft", "hard"]

RULES: tuple[Rule, ...] = Rule.__args__  # type: ignore[attr-defined]  # get_args, which mypy can't follow
# Anyone who may do the one may do the other, which undoes it.
GOVERNED_BY: Mapping[Action, Rule] = {
    "reject": "approve",
    "resolve": "approve",
    "pause": "cancel",
    "unfreeze": "freeze",
    "rollback": "promote",
}
BUILT_IN = "built in"
USER, GROUP = re.compile(r"[UW][A-Z0-9]{1,20}"), re.compile(r"S[A-Z0-9]{1,20}")
CHANNEL, WORDS = re.compile(r"[CGD][A-Z0-9]{1,20}"), re.compile(r"(?s).*\S.*")
ChannelId = Annotated[str, CHANNEL]
Approvers = Annotated[int, Limits(ge=1, le=20)]
DEFAULT_EXPIRY_S = 24 * 3600.0
DEFAULT_REMINDERS_S = (4 * 3600.0,)


def _any_to_none(providers: frozenset[str]) -> frozenset[str] | None:
    return None if "any" in providers else providers


@dataclass(frozen=True)
class NamedPeople:
    """Whom a rule names: ids of users and of user groups; `anyone` is every full member, `requester` who asked for
    the run or measurement that it is about, or uploaded the data. `where` is the rule's place in the file."""

    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    anyone: bool = False
    requester: bool = False
    where: str = BUILT_IN

    @property
    def is_nobody(self) -> bool:
        return not (self.users or self.groups or self.anyone or self.requester)


@dataclass(frozen=True)
class Tier:
    """How many approvers a plan needs whose maximum is up to `up_to_micros`; None: whatever it costs."""

    up_to_micros: Annotated[
        int | None,
        Key(
            "up_to_usd",
            reads=Decimal,
            by=to_micros,
            required='the most that a run of this tier may cost, like "20"',
        ),
    ]
    approvers: Annotated[Approvers, Key(required="how many it takes, like 1")] = 1
    where: Annotated[str, OWN] = BUILT_IN


@dataclass(frozen=True)
class Data:
    """What leaves: a dataset's name, the channels that its rows came from, and whether its check found personal
    data."""

    dataset: str
    channels: frozenset[str]
    is_personal: bool


@dataclass(frozen=True)
class DataRule:
    """Data for which all that is said here holds may go to `providers` alone. None: not said, so any.

    `name` is the team's word for the rule."""

    name: Annotated[
        str, WORDS, Key(required='in your words, like "support stays here": people read it', wants="words")
    ]
    level: Level = "hard"
    providers: Annotated[
        frozenset[str] | None,
        Key(by=_any_to_none, required='where such data may go, like ["local"]; ["any"] is all'),
    ] = None
    channels: Annotated[frozenset[ChannelId] | None, Key(wants='ids of channels, like ["C123"]')] = None
    datasets: tuple[str, ...] | None = None
    personal: bool | None = None
    where: Annotated[str, OWN] = BUILT_IN

    def covers(self, data: Data) -> bool:
        return bool(
            (self.channels is None or data.channels & self.channels)
            and (
                self.datasets is None or any(fnmatchcase(data.dataset, dataset) for dataset in self.datasets)
            )
            and (self.personal is None or data.is_personal == self.personal)
        )

    def allows(self, provider: str) -> bool:
        return self.providers is None or provider in self.providers


NOBODY = NamedPeople()
ANYONE = NamedPeople(anyone=True)


def default_rules(approvers: NamedPeople) -> Mapping[Rule, NamedPeople]:
    """Returns the rules where finetune.toml has no [policy.who]: every full member takes part, `approvers` decide about
    money."""
    requester_too = NamedPeople(approvers.users, approvers.groups, requester=True, where=approvers.where)
    return {
        **dict.fromkeys(("read", "upload", "estimate", "measure", "bar", "start", "try"), ANYONE),
        **dict.fromkeys(("approve", "freeze", "waive", "promote"), approvers),
        **dict.fromkeys(("cancel", "delete"), requester_too),
    }


def _share(percent: float) -> float:
    return percent / 100


@dataclass(frozen=True)
class PromotionLimits:
    """When a tuned model may take another's place, as shares from 0 to 1. One that costs less may be worse by less than
    `margin`, which its paired interval has to show. No label with `floor_rows` held-out rows or more may be shown to be
    right less often than `floor`; None: no floor. `bar`: of datasets for which nobody set one. `sealed`: how many
    rows of an upload are sealed where nobody typed a number; None: none."""

    margin: Annotated[float, Limits(ge=0, le=20), Key("margin_points", by=_share)] = 0.03
    floor: Annotated[float | None, Limits(gt=0, le=100), Key("floor_percent", by=_share)] = None
    floor_rows: Annotated[int, Limits(ge=1, le=1000)] = 10
    bar: Annotated[float, Limits(ge=1, le=100), Key("bar_percent", by=_share)] = DEFAULT_QUALITY_THRESHOLD
    sealed: Annotated[int | None, Limits(ge=FEWEST_SEALED, le=MOST_SEALED), Key("sealed_rows")] = None
    where: Annotated[str, OWN] = BUILT_IN


DEFAULT_PROMOTION_LIMITS = PromotionLimits()


@dataclass(frozen=True)
class Policy:
    """`tiers` from cheap to dear, at least one. Times in seconds: how long a plan waits for its approvals, and how
    long before that time's end approvers are reminded."""

    who: Mapping[Rule, NamedPeople] = field(default_factory=dict)
    tiers: tuple[Tier, ...] = (Tier(None, 1),)
    data: tuple[DataRule, ...] = ()
    expires_s: float = DEFAULT_EXPIRY_S
    remind_s: tuple[float, ...] = DEFAULT_REMINDERS_S
    promotion: PromotionLimits = DEFAULT_PROMOTION_LIMITS

    def named(self, action: Action) -> NamedPeople:
        """Returns nobody where no rule speaks of it."""
        return self.who.get(governing_rule(action), NOBODY)

    def tier(self, maximum_micros: int) -> Tier | None:
        """Returns the cheapest tier that the plan fits into, None if it is dearer than every tier."""
        fits = (
            tier for tier in self.tiers if tier.up_to_micros is None or maximum_micros <= tier.up_to_micros
        )
        return next(fits, None)


def governing_rule(action: Action) -> Rule:
    """Raises KeyError for what no rule can speak of."""
    if action in RULES:
        return action
    return GOVERNED_BY[action]


# How long a measurement waits for a yes to its cost.
VALID_FOR_S = 24 * 3600.0
UNFREEZERS = 2
MIN_WORDS = 3


@dataclass(frozen=True)
class Person:
    """A person as Slack describes them now. A stranger is of another organisation, in a shared channel."""

    id: str
    is_bot: bool = False
    is_deleted: bool = False
    is_guest: bool = False
    is_stranger: bool = False

    @property
    def is_member(self) -> bool:
        return not (self.is_bot or self.is_deleted or self.is_guest or self.is_stranger)


@dataclass(frozen=True)
class Request:
    """What is asked for: `requester` wants the run, `uploader` brought the data, it may cost `maximum_micros`."""

    requester: str
    uploader: str
    asked_at: float
    maximum_micros: int = 0


# For an act that concerns no single run.
NO_REQUEST = Request("", "", 0.0)


def has_enough_words(reason: str) -> bool:
    """Returns whether it has a few words with letters in them."""
    words = [word for word in reason.split() if any(letter.isalpha() for letter in word)]
    return len(words) >= MIN_WORDS


def is_expired(request: Request, now: float, policy: Policy) -> bool:
    return now - request.asked_at > policy.expires_s


def reminder_due(request: Request, now: float, policy: Policy) -> float | None:
    """How long before the end (seconds) the reminder stands that is due now: of several that have passed, the last."""
    left = request.asked_at + policy.expires_s - now
    return min((value for value in policy.remind_s if 0 <= left <= value), default=None)


# What creates again may pay twice, what frees the money may let it be spent twice: four eyes. A job that is named is
# compared with the plan where it runs, so one person's word is enough. The person who asked for the run has
# none (see `may`).
VOTES_NEEDED: dict[InterventionChoice, int] = {"retry": 2, "adopt": 1, "give_up": 2}


def find_deciding_votes(
    words: Sequence[InterventionDecision], approvers: Collection[str]
) -> list[InterventionDecision]:
    """The decisions for one choice that are enough to carry it out; empty where none is. Only people who may still
    decide now count; of several choices the one that somebody decided for last."""
    for choice in dict.fromkeys(word.choice for word in reversed(words)):
        counted = [word for word in words if word.choice == choice and word.person in approvers]
        if len({word.person for word in counted}) >= VOTES_NEEDED[choice]:
            return counted
    return []


FOUR_EYES = f"{BUILT_IN}: nobody approves what they asked for or uploaded"
FULL_MEMBERS = f"{BUILT_IN}: full members of the workspace only"
OWN_CHANNELS = f"{BUILT_IN}: channels of the workspace only"


@dataclass(frozen=True)
class Channel:
    """The channel in which somebody asks. `is_shared` with another organisation (Slack Connect); None: Slack didn't
    tell."""

    id: str
    is_shared: bool | None


@dataclass(frozen=True)
class Rules:
    """The policy, with the members of its groups as Slack named them just now; None: it didn't."""

    policy: Policy
    members: Mapping[str, frozenset[str] | None] = field(default_factory=dict)

    def named(self, action: Action) -> frozenset[str]:
        """Everybody who is named for it, by id or by a group. The requester comes on top, and everybody where the rule
        says anyone."""
        named = self.policy.named(action)
        groups = [self.members.get(group) or frozenset() for group in named.groups]
        return named.users.union(*groups)

    def unknown(self, action: Action) -> tuple[str, ...]:
        """Returns its groups whose members are not known."""
        return tuple(
            sorted(group for group in self.policy.named(action).groups if self.members.get(group) is None)
        )

    def filter_entitled(self, action: Action, people: Collection[str]) -> list[str]:
        """Returns those of `people`, each once, who are named for it now."""
        anyone = self.policy.named(action).anyone
        named = self.named(action)
        return [person for person in dict.fromkeys(people) if anyone or person in named]


@dataclass(frozen=True)
class Caller:
    """Who asks, where, and by which rules. `channel` None: it is bound to no channel."""

    person: Person | None
    rules: Rules
    channel: Channel | None = None


@dataclass(frozen=True)
class OwnRequest:
    """Who asked for it, or brought its data, has no say."""

    action: Action
    was: Literal["asked for", "uploaded"]


@dataclass(frozen=True)
class NotNamed:
    """`others` may, whom `rule` names; `unknown` are its groups whose members are not known. `is_one_out`: somebody
    whom the rule names can't for another reason."""

    action: Action
    rule: NamedPeople
    others: tuple[str, ...]
    unknown: tuple[str, ...]
    is_one_out: bool = False


@dataclass(frozen=True)
class NeedsApprovers:
    """So many take it, for a run that costs `maximum_micros` at most."""

    count: int
    maximum_micros: int


@dataclass(frozen=True)
class TooDear:
    maximum_micros: int
    limit_micros: int


PlainBecause = Literal[
    "a full member",
    "nobody known",
    "a bot",
    "deactivated",
    "a guest",
    "of another workspace",
    "own channel",
    "channel unknown",
    "shared channel",
    "another's request",
    "asked for it",
    "uploaded it",
    "any full member",
    "named",
]
Because = PlainBecause | OwnRequest | NotNamed | NeedsApprovers | TooDear | PromotionLimits


@dataclass(frozen=True)
class RuleVerdict:
    """What one rule says. `rule` is its place in the file, or that it is built in."""

    is_allowed: bool
    rule: str
    because: Because


def may(asking: Caller, action: Action, request: Request = NO_REQUEST) -> RuleVerdict | None:
    """Returns the first no of all rules that are asked, None for yes."""
    verdicts = rule_verdicts(asking, action, request)
    return next((verdict for verdict in verdicts if not verdict.is_allowed), None)


def has_quorum(approved_by: Collection[str], rules: Rules, maximum_micros: int) -> bool:
    """Whether enough people approved. Only those who may still approve now count."""
    tier = rules.policy.tier(maximum_micros)
    return tier is not None and len(rules.filter_entitled("approve", approved_by)) >= tier.approvers


def may_unfreeze(against: Collection[str], rules: Rules) -> bool:
    """A freeze ends by the word of two different people. Only those who may still end it now count."""
    return len(rules.filter_entitled("unfreeze", against)) >= UNFREEZERS


def rule_verdicts(asking: Caller, action: Action, request: Request = NO_REQUEST) -> Iterator[RuleVerdict]:
    """Yields what each rule says, in the order in which they are asked; all of them have to say yes."""
    yield _membership_verdict(asking.person)
    if asking.channel is not None:
        if asking.channel.is_shared is None:
            yield RuleVerdict(False, OWN_CHANNELS, "channel unknown")
        elif asking.channel.is_shared:
            yield RuleVerdict(False, OWN_CHANNELS, "shared channel")
        else:
            yield RuleVerdict(True, OWN_CHANNELS, "own channel")
    if action in ("approve", "waive", "resolve") and asking.person:
        yield _four_eyes_verdict(asking.person, action, request)
    if asking.person:
        yield _named_verdict(asking.person, action, request, asking.rules)
    if action in ("start", "approve"):
        policy, maximum = asking.rules.policy, request.maximum_micros
        tier, dearest = policy.tier(maximum), policy.tiers[-1]
        if tier is None:
            yield RuleVerdict(False, dearest.where, TooDear(maximum, dearest.up_to_micros or 0))
        else:
            yield RuleVerdict(True, tier.where, NeedsApprovers(tier.approvers, maximum))
    if action == "promote":
        limits = asking.rules.policy.promotion
        yield RuleVerdict(True, limits.where, limits)


def _membership_verdict(person: Person | None) -> RuleVerdict:
    if person is None:
        return RuleVerdict(False, FULL_MEMBERS, "nobody known")
    if person.is_bot:
        return RuleVerdict(False, FULL_MEMBERS, "a bot")
    if person.is_deleted:
        return RuleVerdict(False, FULL_MEMBERS, "deactivated")
    if person.is_guest:
        return RuleVerdict(False, FULL_MEMBERS, "a guest")
    if person.is_stranger:
        return RuleVerdict(False, FULL_MEMBERS, "of another workspace")
    return RuleVerdict(True, FULL_MEMBERS, "a full member")


def _four_eyes_verdict(person: Person, action: Action, request: Request) -> RuleVerdict:
    if person.id == request.requester and not (action == "waive" and person.id == request.uploader):
        return RuleVerdict(False, FOUR_EYES, OwnRequest(action, "asked for"))
    if person.id == request.uploader:
        return RuleVerdict(False, FOUR_EYES, OwnRequest(action, "uploaded"))
    return RuleVerdict(True, FOUR_EYES, "another's request")


def _named_verdict(person: Person, action: Action, request: Request, rules: Rules) -> RuleVerdict:
    named = rules.policy.named(action)
    if named.requester and person.id == request.requester:
        return RuleVerdict(True, named.where, "uploaded it" if action == "delete" else "asked for it")
    if named.anyone:
        return RuleVerdict(True, named.where, "any full member")
    if person.id in rules.named(action):
        return RuleVerdict(True, named.where, "named")
    but = {request.uploader} if action == "waive" else ()
    return RuleVerdict(False, named.where, explain_not_named(action, rules, but=but))


def explain_not_named(action: Action, rules: Rules, *, but: Collection[str] = ()) -> NotNamed:
    """Returns why others may not. `but`: people who can't for another reason."""
    named, others = rules.policy.named(action), sorted(rules.named(action) - set(but))
    return NotNamed(action, named, tuple(others), rules.unknown(action), is_one_out=bool(named.users and but))
