"""The team's rules as one frozen value, the number of approvals that a plan needs, and `may`, the one function that
every command, button, form and shortcut asks. Pure.

Everything is forbidden unless a rule allows it. People, groups and shared channels are looked up before; a failed
look-up counts as a no. The sentences are in bot/cards/common/permissions.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from bot.rules.units import FEWEST_SEALED, MOST_SEALED
from trainers.evaluation.results import DEFAULT_QUALITY_THRESHOLD
from trainers.money import to_micros
from trainers.typed_tables import SET_BY_CALLER, Key, Limits

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

RULES: tuple[Rule, ...] = get_args(Rule)
# The right to do something includes the right to undo it.
GOVERNED_BY: Mapping[Action, Rule] = {
    "reject": "approve",
    "resolve": "approve",
    "pause": "cancel",
    "unfreeze": "freeze",
    "rollback": "promote",
}
BUILT_IN = "built in"
USER = re.compile(r"[UW][A-Z0-9]{1,20}")
GROUP = re.compile(r"S[A-Z0-9]{1,20}")
CHANNEL = re.compile(r"[CGD][A-Z0-9]{1,20}")
WORDS = re.compile(r"(?s).*\S.*")
ChannelId = Annotated[str, CHANNEL]
Approvers = Annotated[int, Limits(ge=1, le=20)]
DEFAULT_EXPIRY_S = 24 * 3600.0
DEFAULT_REMINDERS_S = (4 * 3600.0,)


def _any_to_none(providers: frozenset[str]) -> frozenset[str] | None:
    if "any" in providers:
        return None
    return providers


@dataclass(frozen=True)
class NamedPeople:
    """The people that a rule allows: ids of `users` and of user `groups`; `anyone` is every full member; `requester` is
    the person who asked for the run or measurement, or uploaded the data. `where` is the rule's place in the file."""

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
    """The number of approvers for plans with a maximum cost of up to `up_to_micros`; None means any cost."""

    up_to_micros: Annotated[
        int | None,
        Key(
            "up_to_usd",
            input_type=Decimal,
            convert=to_micros,
            required='the most that a run of this tier may cost, like "20"',
        ),
    ]
    approvers: Annotated[Approvers, Key(required="how many it takes, like 1")] = 1
    where: Annotated[str, SET_BY_CALLER] = BUILT_IN


@dataclass(frozen=True)
class Data:
    """Data that is about to be sent: the dataset's name, the channels that its rows came from, and whether its check
    found personal data."""

    dataset: str
    channels: frozenset[str]
    is_personal: bool


@dataclass(frozen=True)
class DataRule:
    """Data that fits all conditions given here may go only to `providers`. A condition of None fits all data; providers
    of None are all providers. `name` is the team's name for the rule."""

    name: Annotated[
        str, WORDS, Key(required='in your words, like "support stays here": people read it', wants="words")
    ]
    level: Level = "hard"
    providers: Annotated[
        frozenset[str] | None,
        Key(convert=_any_to_none, required='where such data may go, like ["local"]; ["any"] is all'),
    ] = None
    channels: Annotated[frozenset[ChannelId] | None, Key(wants='ids of channels, like ["C123"]')] = None
    datasets: tuple[str, ...] | None = None
    personal: bool | None = None
    where: Annotated[str, SET_BY_CALLER] = BUILT_IN

    def covers(self, data: Data) -> bool:
        if self.channels is not None and not data.channels & self.channels:
            return False
        if self.personal is not None and data.is_personal != self.personal:
            return False
        if self.datasets is None:
            return True
        return any(fnmatchcase(data.dataset, pattern) for pattern in self.datasets)

    def allows(self, provider: str) -> bool:
        return self.providers is None or provider in self.providers


NOBODY = NamedPeople()
ANYONE = NamedPeople(anyone=True)


def default_rules(approvers: NamedPeople) -> Mapping[Rule, NamedPeople]:
    """Returns the rules used if finetune.toml has no [policy.who]: every full member may take part, and `approvers`
    decide about money."""
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
    """When a tuned model may replace another one; shares are from 0 to 1.

    A cheaper model may be worse by less than `margin`, if its paired interval shows that. No label with at least
    `floor_rows` held-out rows may be shown to be right less often than `floor`; None means no floor. `bar` applies to
    datasets without their own. `sealed` is the default number of sealed rows of an upload; None means none.
    """

    margin: Annotated[float, Limits(ge=0, le=20), Key("margin_points", convert=_share)] = 0.03
    floor: Annotated[float | None, Limits(gt=0, le=100), Key("floor_percent", convert=_share)] = None
    floor_rows: Annotated[int, Limits(ge=1, le=1000)] = 10
    bar: Annotated[float, Limits(ge=1, le=100), Key("bar_percent", convert=_share)] = (
        DEFAULT_QUALITY_THRESHOLD
    )
    sealed: Annotated[int | None, Limits(ge=FEWEST_SEALED, le=MOST_SEALED), Key("sealed_rows")] = None
    where: Annotated[str, SET_BY_CALLER] = BUILT_IN


DEFAULT_PROMOTION_LIMITS = PromotionLimits()


@dataclass(frozen=True)
class WatchLimits:
    """Limits for all datasets whose calls are watched.

    At most `share` (0 to 1) of a dataset's calls may be sampled, and they are deleted after `days` days. `personal`
    says whether personal data in them is masked, or such calls are not stored. `usd_per_month` is what measuring new
    models and answers of candidates that are tried on live calls may cost together in a calendar month. On live calls a
    cheaper candidate may be worse by less than `margin` (0 to 1), and an answer that takes longer than `slow_s` seconds
    counts as an error. Only datasets that belong to `channels` may be watched; None means any.
    """

    share: Annotated[float, Limits(ge=0, le=100), Key("sample_percent", convert=_share)] = 1.0
    days: Annotated[int, Limits(ge=1, le=365)] = 30
    personal: Literal["mask", "drop"] = "mask"
    usd_per_month: Decimal = Decimal(0)
    margin: Annotated[float, Limits(gt=0, le=20), Key("margin_points", convert=_share)] = 0.05
    slow_s: Annotated[float, Limits(gt=0, le=600), Key("slow_seconds")] = 30.0
    channels: Annotated[frozenset[ChannelId] | None, Key(wants='ids of channels, like ["C123"]')] = None
    where: Annotated[str, SET_BY_CALLER] = BUILT_IN

    def may_watch(self, channel: str) -> bool:
        """True if datasets that belong to this channel may be watched."""
        return self.channels is None or channel in self.channels


DEFAULT_WATCH_LIMITS = WatchLimits()


@dataclass(frozen=True)
class Policy:
    """`tiers` are sorted from cheap to expensive and not empty. A plan waits `expires_s` seconds for its approvals, and
    approvers are reminded `remind_s` seconds before the end."""

    who: Mapping[Rule, NamedPeople] = field(default_factory=dict)
    tiers: tuple[Tier, ...] = (Tier(None, 1),)
    data: tuple[DataRule, ...] = ()
    expires_s: float = DEFAULT_EXPIRY_S
    remind_s: tuple[float, ...] = DEFAULT_REMINDERS_S
    promotion: PromotionLimits = DEFAULT_PROMOTION_LIMITS
    watch: WatchLimits = DEFAULT_WATCH_LIMITS

    def named(self, action: Action) -> NamedPeople:
        """Returns whom the action's rule names; nobody if there is no rule."""
        return self.who.get(governing_rule(action), NOBODY)

    def tier(self, maximum_micros: int) -> Tier | None:
        """Returns the cheapest tier that the plan fits into, None if it exceeds every tier."""
        fits = (
            tier for tier in self.tiers if tier.up_to_micros is None or maximum_micros <= tier.up_to_micros
        )
        return next(fits, None)


def governing_rule(action: Action) -> Rule:
    """Returns the rule that decides about the action. Raises KeyError for an unknown action."""
    if action in RULES:
        return action
    return GOVERNED_BY[action]


# How long a measurement waits for somebody to confirm its cost.
VALID_FOR_S = 24 * 3600.0
UNFREEZERS = 2
MIN_WORDS = 3


@dataclass(frozen=True)
class Person:
    """A person as Slack describes them now. A stranger belongs to another organisation and is in a shared channel."""

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
    """The request that an action is about: `requester` asked for the run, `uploader` uploaded the data, and it costs at
    most `maximum_micros`."""

    requester: str
    uploader: str
    asked_at: float
    maximum_micros: int = 0


# For actions that concern no particular run.
NO_REQUEST = Request("", "", 0.0)


def has_enough_words(reason: str) -> bool:
    """True if the reason has at least MIN_WORDS words that contain a letter."""
    count = 0
    for word in reason.split():
        if any(letter.isalpha() for letter in word):
            count += 1
    return count >= MIN_WORDS


def is_expired(request: Request, now: float, policy: Policy) -> bool:
    return now - request.asked_at > policy.expires_s


def reminder_due(request: Request, now: float, policy: Policy) -> float | None:
    """Returns the reminder that is due now, as seconds before the end; the latest one if several are due; None if none
    is."""
    left = request.asked_at + policy.expires_s - now
    return min((value for value in policy.remind_s if 0 <= left <= value), default=None)


# "retry" may create and pay for a second job, and "give_up" frees money that may have been spent: both take two people.
# For "adopt" one is enough, because the named job is compared with the plan at the trainer. The person who asked for
# the run has no vote (see `may`).
VOTES_NEEDED: dict[InterventionChoice, int] = {"retry": 2, "adopt": 1, "give_up": 2}


def find_deciding_votes(
    words: Sequence[InterventionDecision], approvers: Collection[str]
) -> list[InterventionDecision]:
    """Returns the votes for one choice if they are enough to carry it out, and an empty list if no choice has enough.
    Only votes of current `approvers` count. If several choices have enough, the one that was voted for last wins."""
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
    """The channel of a request. `is_shared` is true if it is shared with another organisation (Slack Connect), None if
    Slack gave no answer."""

    id: str
    is_shared: bool | None


@dataclass(frozen=True)
class Rules:
    """The policy and the current members of its user groups; None for a group whose members Slack didn't return."""

    policy: Policy
    members: Mapping[str, frozenset[str] | None] = field(default_factory=dict)

    def named(self, action: Action) -> frozenset[str]:
        """Returns everybody whom the rule names by id or by group. It doesn't include the requester, or everybody if
        the rule says anyone."""
        named = self.policy.named(action)
        groups = [self.members.get(group) or frozenset() for group in named.groups]
        return named.users.union(*groups)

    def unknown(self, action: Action) -> tuple[str, ...]:
        """Returns the rule's groups whose members are unknown."""
        named = self.policy.named(action)
        unknown = [group for group in named.groups if self.members.get(group) is None]
        return tuple(sorted(unknown))

    def filter_entitled(self, action: Action, people: Collection[str]) -> list[str]:
        """Returns those of `people` whom the rule names now, without duplicates."""
        anyone = self.policy.named(action).anyone
        named = self.named(action)
        return [person for person in dict.fromkeys(people) if anyone or person in named]


@dataclass(frozen=True)
class Caller:
    """Who asks, where, and which rules apply. `channel` is None if the request isn't bound to a channel."""

    person: Person | None
    rules: Rules
    channel: Channel | None = None


@dataclass(frozen=True)
class OwnRequest:
    """Refused because the caller asked for the run or uploaded its data."""

    action: Action
    was: Literal["asked for", "uploaded"]


@dataclass(frozen=True)
class NotNamed:
    """Refused because `rule` doesn't name the caller. It names `others`; `unknown` are its groups whose members are
    unknown. `is_one_out` is true if somebody whom the rule names is excluded for another reason."""

    action: Action
    rule: NamedPeople
    others: tuple[str, ...]
    unknown: tuple[str, ...]
    is_one_out: bool = False


@dataclass(frozen=True)
class NeedsApprovers:
    """A run that costs at most `maximum_micros` needs `count` approvers."""

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
    """The verdict of one rule. `rule` is its place in the file, or says that it is built in."""

    is_allowed: bool
    rule: str
    because: Because


def may(caller: Caller, action: Action, request: Request = NO_REQUEST) -> RuleVerdict | None:
    """Returns the verdict of the first rule that refuses, None if all allow it."""
    verdicts = rule_verdicts(caller, action, request)
    return next((verdict for verdict in verdicts if not verdict.is_allowed), None)


def has_quorum(approved_by: Collection[str], rules: Rules, maximum_micros: int) -> bool:
    """True if enough people approved. Only people who may still approve now count."""
    tier = rules.policy.tier(maximum_micros)
    if tier is None:
        return False
    return len(rules.filter_entitled("approve", approved_by)) >= tier.approvers


def may_unfreeze(against: Collection[str], rules: Rules) -> bool:
    """True if enough people voted to end a freeze. Only people who may still end it now count."""
    return len(rules.filter_entitled("unfreeze", against)) >= UNFREEZERS


def rule_verdicts(caller: Caller, action: Action, request: Request = NO_REQUEST) -> Iterator[RuleVerdict]:
    """Yields the verdict of each rule in turn; the action is allowed if all of them allow it."""
    yield _membership_verdict(caller.person)
    if caller.channel is not None:
        if caller.channel.is_shared is None:
            yield RuleVerdict(False, OWN_CHANNELS, "channel unknown")
        elif caller.channel.is_shared:
            yield RuleVerdict(False, OWN_CHANNELS, "shared channel")
        else:
            yield RuleVerdict(True, OWN_CHANNELS, "own channel")
    if action in ("approve", "waive", "resolve") and caller.person:
        yield _four_eyes_verdict(caller.person, action, request)
    if caller.person:
        yield _named_verdict(caller.person, action, request, caller.rules)
    if action in ("start", "approve"):
        policy = caller.rules.policy
        maximum = request.maximum_micros
        tier = policy.tier(maximum)
        if tier is None:
            dearest = policy.tiers[-1]
            yield RuleVerdict(False, dearest.where, TooDear(maximum, dearest.up_to_micros or 0))
        else:
            yield RuleVerdict(True, tier.where, NeedsApprovers(tier.approvers, maximum))
    if action == "promote":
        limits = caller.rules.policy.promotion
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
    excluded = []
    if action == "waive":
        excluded.append(request.uploader)
    return RuleVerdict(False, named.where, explain_not_named(action, rules, excluded=excluded))


def explain_not_named(action: Action, rules: Rules, *, excluded: Collection[str] = ()) -> NotNamed:
    """Returns the refusal for people whom the rule doesn't name. `excluded` are named people who may not for another
    reason."""
    named = rules.policy.named(action)
    others = sorted(rules.named(action) - set(excluded))
    return NotNamed(
        action,
        named,
        tuple(others),
        rules.unknown(action),
        is_one_out=bool(named.users and excluded),
    )
