"""Messages to people and channels that belong to no run: words for one person, files in a thread, and the channel for
what concerns the whole team."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cards.common.blocks import Block, Message
from bot.cards.common.general import Attachment, files_body, text_message
from bot.context import AppContext, CoreContext
from storage.records import Draft, OutboxKind, Topic


def tell_person(
    context: AppContext,
    once: str | None,
    person: str,
    channel: str,
    message: Message,
    *,
    topic: Topic,
    thread_ts: str | None = None,
) -> None:
    """Sends a message that only this person sees: in the channel, or directly if `channel` is ''. `thread_ts` is the
    thread that it belongs to. Another message with the same `once` is not sent."""
    body = in_thread(message, thread_ts)
    kind: OutboxKind = "ephemeral" if channel else "direct"
    context.send(Draft(kind, channel, body, dedupe=once, person=person, topic=topic))


def in_thread(message: Message, thread_ts: str | None) -> Block:
    """Returns the body for the outbox of a message in a thread, None for none."""
    body = message.letter()
    if thread_ts:
        body["thread_ts"] = thread_ts
    return body


def tell_result_directly(context: AppContext, person: str, channel: str, text: str, *, once: str) -> None:
    """Tells the person who asked for a result that it is there, if its channel doesn't want results and they may still
    read it. `text` is our own mrkdwn."""
    if context.wants("results", channel):
        return
    body = text_message(text).body()
    draft = Draft("direct", channel, body, dedupe=once, person=person, private=True, topic="results")
    context.send(draft)


def team_channel(context: CoreContext) -> str:
    """Returns the channel for what concerns the whole team: the fallback channel or, without one, that of the newest
    run; '' if there is neither.

    Its readers need not be in a private channel that a dataset belongs to, so what is posted there names no dataset,
    run, tuned model or person. What belongs to a run, a measurement or a dataset is posted in its own channel, and the
    sender decides where that may go if the channel is closed (outbox_sender.py).
    """
    if context.settings.slack.fallback_channel:
        return context.settings.slack.fallback_channel
    newest = context.store.runs.newest(1)
    if not newest:
        return ""
    return newest[0].channel


def put_files(
    context: CoreContext,
    card: str,
    channel: str,
    files: Sequence[Attachment],
    *,
    topic: Topic,
    once: str,
    comment: str = "",
    concerns: str | None = None,
) -> None:
    """Posts files in a card's thread, in one message with the comment. Without files it posts the
    comment alone."""
    if not files and not comment:
        return
    kind: OutboxKind
    if files:
        kind = "file"
        body = files_body(files, comment)
    else:
        kind = "post"
        body = text_message(comment).body()
    draft = Draft(kind, channel, body, dedupe=once, thread=card, concerns=concerns, topic=topic)
    context.store.outbox.put(draft, now=context.clock())
