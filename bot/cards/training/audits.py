"""Who did what to a run, and when, from the audit log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common.blocks import Message, cut_mrkdwn, escape
from bot.cards.common.builder import Parts
from bot.cards.common.words import day_and_time, pluralize
from storage.records import AuditEntry

OURS = "finetune"
DETAIL = 300  # characters of a reason; the log itself has all of it
PERSON = re.compile(r"[UW][A-Z0-9]{2,20}")
# What an approval is logged with: the plan's hash, of which twelve digits are enough to tell plans apart, and a reason.
PLAN = re.compile(r"([0-9a-f]{12})[0-9a-f]{52}(?: |$)")
WORDS = {
    "ask": "asked for it",
    "approve": "approved it",
    "reject": "rejected it",
    "cancel": "asked to cancel it",
    "pause": "asked to pause it",
    "resume": "asked to resume it",
    "replace": "asked for another plan in its place",
    "over maximum": "saw its cost exceed the approved maximum",
    "needs human": "stopped it, because a person has to decide",
    "retry": "said that it never started and may be tried again",
    "adopt": "named its job at the provider",
    "give up": "gave it up",
    "tried again": "tried it again",
    "adopted": "took over its job",
    "not carried out": "could not do that",
    "started": "started its job",
    "trained": "saw its training finish",
    "stray job": "found a job that should not exist",
    "done": "measured it and posted the result",
    "billed": "read its bill at the vendor",
    "bill given up": "found no final bill at its vendor",
    "failed": "noted that it failed",
    "cancelled": "noted that it was cancelled",
    "restored": "restored it from a backup",
    "expired": "let the request expire",
    "override": "overrode a data rule",
    "read wrong rows": "was shown held-out rows that it got wrong",
    "read training rows": "asked for wrong training rows",
    "promote": "deployed its model",
    "open": "opened the sealed rows for its model",
    "replaced": "replaced it with another model",
    "roll back": "took its model out of use",
    "rolled back to": "deployed its model again",
    "alias": "pointed the trainer's alias at its model",
    "no_alias": "removed the trainer's alias of a model that is no longer in use",
    "strayed": "found the trainer's alias pointing at another model",
    "gone": "saw that its provider no longer has its model",
    "back": "saw that its provider has its model again",
    "hosting started": "started a machine for its model",
    "data terms accepted": "accepted the terms of who serves its model",
    "hosting kept": "kept its model running until somebody stops it",
    "hosting stopped": "stopped its model's machine",
    "void": "withdrew its approval, which no longer counts",
}
# Actions whose detail is our own mrkdwn, which must not be escaped.
SENTENCES = frozenset(
    {"failed", "cancelled", "needs human", "void", "tried again", "adopted", "not carried out"}
)


@dataclass(frozen=True)
class History:
    """A run's entries in the audit log, oldest first."""

    run: int
    entries: Sequence[AuditEntry]


def card(history: History) -> Message:
    parts = Parts()
    parts.lines([_line(entry) for entry in reversed(history.entries)])
    parts.note("Newest first. `finetune audit verify` in a terminal checks the log for tampering.")
    entries = pluralize(len(history.entries), "entry", "entries")
    return parts.titled(f"Run {history.run}: {entries} in the audit log")


def _line(entry: AuditEntry) -> str:
    what = WORDS.get(entry.action, escape(entry.action))
    line = f"• {day_and_time(entry.at)} {_who(entry.who)} {what}"
    if not entry.detail:
        return line
    return f"{line}: {cut_mrkdwn(_detail(entry), DETAIL)}"


def _who(name: str) -> str:
    """A person, us, or a user of the terminal on the machine of the bot."""
    if name == OURS:
        return "Finetune"
    if PERSON.fullmatch(name):
        return f"<@{name}>"
    return escape(name)


def _detail(entry: AuditEntry) -> str:
    plan = PLAN.match(entry.detail)
    if plan:
        text = f"plan `{plan[1]}`"
        reason = escape(entry.detail[plan.end() :])
        if reason:
            text += f", because {reason}"
        return text
    if entry.who == OURS and entry.action in SENTENCES:
        return entry.detail
    return escape(entry.detail)
