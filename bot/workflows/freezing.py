"""Freezing: one approver stops every new create at once, two different ones let them start again."""

from __future__ import annotations

from bot.decisions.approval import UNFREEZERS
from bot.decisions.permission import Rules, may_lift
from bot.results import Refusal
from bot.views import freezing as views
from bot.views.blocks import Message, escape
from bot.workflows import holding, permits, telling
from bot.workflows.desk import Desk
from bot.workflows.measuring import measurements
from storage.freezes import Freeze
from storage.records import Measurement, Run


def freeze(desk: Desk, reason: str, person: str, channel: str) -> Freeze | Refusal:
    refused = permits.may(desk, person, "freeze")
    if refused:
        return refused
    now = desk.clock()
    with desk.store.transaction():
        made = desk.store.freezes.add(person=person, reason=reason, channel=channel, now=now)
        if made is None:
            return _frozen_already(desk)
        desk.store.audit.add(at=now, who=person, action="freeze", subject=_subject(made), detail=reason)
        runs, measured = _held(desk)
        _show(desk, runs, measured)
        _say(desk, channel, views.frozen(made, len(runs)), f"freeze {made.id}")
    return made


def unfreeze(desk: Desk, person: str, channel: str) -> Freeze | Refusal:
    """A word against the freeze; the second person's ends it."""
    asked = permits.asking(desk, person, "unfreeze", channel)
    refused, rules = permits.refused(asked, "unfreeze"), asked.rules
    if refused:
        return refused
    now = desk.clock()
    with desk.store.transaction():
        standing = desk.store.freezes.current()
        if standing is None:
            return Refusal("Nothing is frozen.")
        is_new = desk.store.freezes.speak_against(standing, person, now=now)
        against = desk.store.freezes.against(standing)
        if not is_new and not may_lift(against, rules):
            return Refusal(_spoken_already(person, rules))
        desk.store.audit.add(at=now, who=person, action="unfreeze", subject=_subject(standing))
        if may_lift(against, rules):
            _lift(desk, standing, rules.entitled("unfreeze", against), channel)
        else:
            said = views.wanted(person, rules.named("unfreeze") - {person, *against})
            _say(desk, channel, said, f"unfreeze {standing.id} {person}")
    return standing


def _lift(desk: Desk, standing: Freeze, by: list[str], channel: str) -> None:
    now = desk.clock()
    runs, measured = _held(desk)
    desk.store.freezes.lift(standing, now=now)
    desk.store.audit.add(
        at=now, who="finetune", action="unfrozen", subject=_subject(standing), detail=" ".join(by)
    )
    _show(desk, runs, measured)
    said = views.lifted(standing, by[-UNFREEZERS:])
    for one in dict.fromkeys((channel, standing.channel)):
        _say(desk, one, said, f"unfrozen {standing.id} {one}")


def _held(desk: Desk) -> tuple[list[Run], list[Measurement]]:
    runs = [one for one in desk.store.runs.open() if holding.on_run(desk, one)]
    return runs, [one for one in desk.store.measurements.open() if holding.on_measurement(desk, one)]


def _show(desk: Desk, runs: list[Run], measured: list[Measurement]) -> None:
    """Their cards say that they wait, or no longer."""
    for run in runs:
        telling.progress(desk, run)
    for measurement in measured:
        measurements.show(desk, measurement)


def _say(desk: Desk, channel: str, message: Message, once: str) -> None:
    desk.say(channel, message.letter(), dedupe=once)


def _frozen_already(desk: Desk) -> Refusal:
    standing = desk.store.freezes.current()
    if standing is None:
        return Refusal("The freeze was ended just now; try again.")
    return Refusal(f"It is frozen already, by <@{standing.person}>. {escape(standing.reason)}".strip())


def _spoken_already(person: str, rules: Rules) -> str:
    others = ", ".join(f"<@{one}>" for one in sorted(rules.named("unfreeze") - {person})[:10])
    cure = "Nobody else is named: add an approver under [people] in finetune.toml."
    return f"You have said so already; it takes another approver{f': {others}' if others else '. ' + cure}"


def _subject(freeze: Freeze) -> str:
    return f"freeze {freeze.id}"
