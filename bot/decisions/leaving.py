"""May this data go to that provider? Every rule that covers the data has to allow it; the strictest no decides. Pure.

Data that no rule covers stays on this machine, once there are rules; where rows came from several channels, those of
each have to be covered. Personal data needs a waiver besides (waiving.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bot.decisions.policy import BUILT_IN, Data, DataRule, Policy

NO_RULE = f"{BUILT_IN}: data that no [[policy.data]] covers stays on this machine"
EXAMPLE = "because=the customers agreed, ticket LEGAL-12"


@dataclass(frozen=True)
class Ruling:
    """`refusal` None: it may. `notes` are sentences for the card, `overridden` the names of the soft rules that the
    reason sets aside. `where` is the place of the rule that decided; '' where none had a say."""

    refusal: str | None = None
    notes: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    where: str = ""


def ruling(policy: Policy, data: Data, provider: str, *, stays_here: bool, reason: str | None) -> Ruling:
    """`stays_here`: the provider is on this machine. `reason`: why soft rules shall not hold."""
    covering = [rule for rule in policy.data if rule.covers(data)]
    if policy.data and not stays_here and not _is_covered(policy, data):
        return Ruling(_uncovered(data, provider), where=NO_RULE)
    if not covering:
        return Ruling()
    against = [rule for rule in covering if not rule.allows(provider)]
    hard = next((rule for rule in against if rule.level == "hard"), None)
    soft = [rule for rule in against if rule.level == "soft"]
    if hard:
        return Ruling(f"{_no(hard, provider)} {_cure(hard)}", where=hard.where)
    if soft and not reason:
        return Ruling(
            f"{_no(soft[0], provider)} {_cure(soft[0])} Who has a reason to set the rule aside gives it at the end "
            f"of the command, where it is recorded and shown: `{EXAMPLE}`.",
            where=soft[0].where,
        )
    notes = [*(f"{_no(one, provider)} Set aside because: {reason}" for one in soft)]
    notes += [f"{_no(one, provider)} The rule is advisory." for one in against if one.level == "advisory"]
    decided = against[0] if against else covering[0]
    return Ruling(None, tuple(notes), tuple(one.name for one in soft), decided.where)


def _is_covered(policy: Policy, data: Data) -> bool:
    """Rows of one channel don't leave by a rule about another's."""
    each = [replace(data, channels=frozenset({channel})) for channel in data.channels]
    return all(any(rule.covers(one) for rule in policy.data) for one in each)


def _no(rule: DataRule, provider: str) -> str:
    return f"The rule “{rule.name}” ({rule.where}) doesn't let this data go to {provider}."


def _cure(rule: DataRule) -> str:
    allowed = ", ".join(sorted(rule.providers or ()))
    return (
        f"It may go to {allowed}."
        if allowed
        else "It may go nowhere: whoever runs the bot names providers there."
    )


def _uncovered(data: Data, provider: str) -> str:
    return (
        f"No rule under [[policy.data]] in finetune.toml speaks of {data.dataset} from its channel, so it doesn't go "
        f"to {provider}. It may go to a trainer on this machine, or whoever runs the bot adds a rule."
    )
