"""`finetune policy` for the terminal: which rule decides on an act, and who may what by the file as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bot.decisions.approval import Request
from bot.decisions.leaving import Ruling
from bot.decisions.permission import Asking, Verdict, verdicts
from bot.decisions.policy import BUILT_IN, RULES, Action, Named, Policy
from trainers.money import usd_micros


def explained(asking: Asking, action: Action, request: Request, leave: Ruling | None) -> tuple[bool, str]:
    """Whether it is allowed, and the sentences: the answer, the rule that decides, all that were asked."""
    asked = [*verdicts(asking, action, request), *([_of_data(leave)] if leave else [])]
    no = next((one for one in asked if not one.is_allowed), None)
    decides = no or _telling(asked)
    lines = [
        f"{'No' if no else 'Yes'}. {_sentence(decides.said)}",
        f"Decided by {decides.rule}",
        "",
        *(f"  {'yes' if one.is_allowed else 'NO '}  {one.rule}: {_plain(one.said)}" for one in asked),
    ]
    return no is None, "\n".join(lines)


def table(policy: Policy) -> str:
    """Who may what, what it takes, where data may go."""
    return "\n".join([*_who(policy), "", *_approvals(policy), "", *_data(policy)])


def _of_data(ruled: Ruling) -> Verdict:
    rule = ruled.where or f"{BUILT_IN}: without [[policy.data]] any provider"
    said = ruled.refusal or " ".join(ruled.notes) or "the data may go there"
    return Verdict(ruled.refusal is None, rule, said)


def _telling(asked: Sequence[Verdict]) -> Verdict:
    """Of many that say yes, the one out of the file that comes last, else the last."""
    return next((one for one in reversed(asked) if not one.rule.startswith(BUILT_IN)), asked[-1])


def _sentence(said: str) -> str:
    return _plain(said[:1].upper() + said[1:]).rstrip(".") + "."


def _plain(said: str) -> str:
    """Backticks and mentions are Slack's."""
    return said.replace("`", "").replace("<@", "").replace("<#", "").replace(">", "")


def _who(policy: Policy) -> Iterator[str]:
    for rule in RULES:
        named = policy.named(rule)
        yield f"{rule:<9} {_people(named)}{_place(named.where)}"


def _people(named: Named) -> str:
    words = [
        *(["any full member"] if named.anyone else []),
        *(["who asked for it"] if named.requester else []),
    ]
    return ", ".join([*words, *sorted(named.users), *sorted(named.groups)]) or "nobody"


def _approvals(policy: Policy) -> Iterator[str]:
    for tier in policy.tiers:
        most = "any cost" if tier.up_to_micros is None else f"up to {usd_micros(tier.up_to_micros)}"
        yield f"{most}: {tier.approvers} to approve{_place(tier.where)}"
    if policy.tiers[-1].up_to_micros is not None:
        yield "above: refused"
    reminders = ", ".join(f"{one / 3600:g} h" for one in policy.remind_s)
    reminded = f", reminders {reminders} before" if reminders else ""
    yield f"a plan expires after {policy.expires_s / 3600:g} h{reminded}"


def _data(policy: Policy) -> Iterator[str]:
    if not policy.data:
        yield "data may go to any provider; personal data only with a recorded waiver"
    for rule in policy.data:
        where = "any provider" if rule.providers is None else ", ".join(sorted(rule.providers)) or "nowhere"
        yield f"{rule.level} “{rule.name}”: to {where}{_place(rule.where)}"
    if policy.data:
        yield "data that no rule covers: stays on this machine"


def _place(where: str) -> str:
    return f"   ({where})"
