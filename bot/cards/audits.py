"""Who did what to a run and when, from the audit log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.blocks import Lines, Message, Note, cut_mrkdwn, escape
from bot.cards.words import day_and_time, pluralize
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
    "over maximum": "saw it pass the most that was approved",
    "needs human": "stopped it: a person has to look",
    "retry": "said that it was never started and may be tried again",
    "adopt": "named its job at the provider",
    "give up": "gave it up",
    "tried again": "tried it again",
    "adopted": "took over its job",
    "not carried out": "could not carry that out",
    "started": "started its job",
    "trained": "saw its training end",
    "stray job": "saw a job that should not be there",
    "done": "measured it and posted the result",
    "failed": "noted that it failed",
    "cancelled": "noted that it is cancelled",
    "restored": "put it back from a backup",
    "expired": "let the request expire",
    "override": "set a rule about data aside",
    "promote": "deployed its model",
    "open": "opened the sealed rows for its model",
    "replaced": "put another model in its place",
    "roll back": "took its model out of use",
    "rolled back to": "deployed its model again",
    "alias": "told the trainer which model the alias stands for",
    "strayed": "saw that the trainer's alias stood for something else",
    "gone": "saw that its provider has its model no more",
    "back": "saw that its provider has its model again",
    "hosting started": "started a machine for its model",
    "hosting kept": "let its model run until somebody stops it",
    "hosting stopped": "stopped the machine of its model",
    "void": "voided its approval, since it counts no longer",
}
# Actions whose detail is our own mrkdwn, as on the card.
SENTENCES = frozenset(
    {"failed", "cancelled", "needs human", "void", "tried again", "adopted", "not carried out"}
)


@dataclass(frozen=True)
class History:
    """`entries`, oldest first."""

    run: int
    entries: Sequence[AuditEntry]


def card(history: History) -> Message:
    title = f"Run {history.run}: {pluralize(len(history.entries), 'entry', 'entries')} in the audit log"
    checked = "Newest first. To check the log for tampering, run `finetune audit verify`."
    lines = [_line(entry) for entry in reversed(history.entries)]
    return Message.titled(title, Lines(lines), Note(checked))


def _line(entry: AuditEntry) -> str:
    who = "Finetune" if entry.who == OURS else escape(entry.who)
    if re.fullmatch(r"[UW][A-Z0-9]{2,20}", entry.who):
        who = f"<@{entry.who}>"
    detail = entry.detail
    if re.fullmatch(r"[0-9a-f]{64}", detail):
        detail = f"plan `{detail[:12]}`"
    elif detail:
        is_ours = entry.who == OURS and entry.action in SENTENCES
        detail = cut_mrkdwn(detail if is_ours else escape(detail), DETAIL)
    what = WORDS.get(entry.action, escape(entry.action))
    return f"• {day_and_time(entry.at)} {who} {what}{f': {detail}' if detail else ''}"
