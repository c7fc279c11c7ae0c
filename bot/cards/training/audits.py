"""Who did what to a run, and when, from the audit log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common.blocks import Lines, Message, Note, cut_mrkdwn, escape
from bot.cards.common.words import day_and_time, pluralize
from storage.records import AuditEntry

OURS = "finetune"
DETAIL = 300
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
    "failed": "noted that it failed",
    "cancelled": "noted that it was cancelled",
    "restored": "restored it from a backup",
    "expired": "let the request expire",
    "override": "overrode a data rule",
    "promote": "deployed its model",
    "open": "opened the sealed rows for its model",
    "replaced": "replaced it with another model",
    "roll back": "took its model out of use",
    "rolled back to": "deployed its model again",
    "alias": "pointed the trainer's alias at its model",
    "strayed": "found the trainer's alias pointing at another model",
    "gone": "saw that its provider no longer has its model",
    "back": "saw that its provider has its model again",
    "hosting started": "started a machine for its model",
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
    title = f"Run {history.run}: {pluralize(len(history.entries), 'entry', 'entries')} in the audit log"
    checked = "Newest first. `finetune audit verify` in a terminal checks the log for tampering."
    lines = [_line(entry) for entry in reversed(history.entries)]
    return Message.titled(title, Lines(lines), Note(checked))


def _line(entry: AuditEntry) -> str:
    who = "Finetune" if entry.who == OURS else escape(entry.who)
    if re.fullmatch(r"[UW][A-Z0-9]{2,20}", entry.who):
        who = f"<@{entry.who}>"
    detail = entry.detail
    if plan := re.match(r"([0-9a-f]{12})[0-9a-f]{52}(?: |$)", detail):
        reason = escape(detail[plan.end() :])
        detail = cut_mrkdwn(f"plan `{plan[1]}`{f', because {reason}' if reason else ''}", DETAIL)
    elif detail:
        is_ours = entry.who == OURS and entry.action in SENTENCES
        detail = cut_mrkdwn(detail if is_ours else escape(detail), DETAIL)
    what = WORDS.get(entry.action, escape(entry.action))
    return f"• {day_and_time(entry.at)} {who} {what}{f': {detail}' if detail else ''}"
