"""The emulator's chat.* methods of the Web API, and messages sent to a response_url."""

from __future__ import annotations

import time

from demo.people import BOT
from demo.slack_emulator.blocks import complaints
from demo.slack_emulator.state import RESPONSE_SECONDS, RESPONSE_USES, Json, SlackError, State, Stored
from demo.workspace import Channel


def post_message(state: State, args: Json) -> Json:
    channel = _open(state, args)
    _check_content(args)
    if args.get("thread_ts"):
        _check_thread(state, channel, args["thread_ts"])
    stored = state.post_as_bot(channel.id, args)
    return {"channel": channel.id, "ts": stored.body["ts"], "message": stored.body}


def post_ephemeral(state: State, args: Json) -> Json:
    channel = _open(state, args)
    _check_content(args)
    if args.get("user") not in channel.members:
        raise SlackError("user_not_in_channel")
    stored = state.post_as_bot(channel.id, args, only_for=args["user"])
    return {"message_ts": stored.body["ts"]}


def update(state: State, args: Json) -> Json:
    channel = _open(state, args)
    stored = _own(state, channel, args)
    _check_content(args)
    state.edit(stored, args)
    return {"channel": channel.id, "ts": args["ts"], "text": stored.body["text"], "message": stored.body}


def delete(state: State, args: Json) -> Json:
    channel = _open(state, args)
    state.messages[channel.id].remove(_own(state, channel, args))
    return {"channel": channel.id, "ts": args["ts"]}


def get_permalink(state: State, args: Json) -> Json:
    channel = state.channel(args.get("channel"))
    stored = state.find(channel.id, args.get("message_ts"))
    place = f"{state.base}/archives/{channel.id}/p{stored.body['ts'].replace('.', '')}"
    return {"channel": channel.id, "permalink": place}


def respond(state: State, name: str, args: Json) -> None:
    """Posts to a response_url, which has 5 uses in 30 minutes. Only its user sees the message unless it says
    in_channel."""
    url = state.response_urls.get(name)
    if url is None:
        raise SlackError("expired_url")
    if url.uses >= RESPONSE_USES:
        raise SlackError("used_url")
    if time.monotonic() - url.at > RESPONSE_SECONDS:
        raise SlackError("expired_url")
    url.uses += 1
    if args.get("delete_original") and url.ts:
        state.messages[url.channel].remove(state.find(url.channel, url.ts))
    elif args.get("replace_original") and url.ts:
        _check_content(args)
        state.edit(state.find(url.channel, url.ts), args)
    else:
        answer(state, url.user, url.channel, args)


def answer(state: State, user: str, channel: str, args: Json) -> Stored:
    """Posts the text of an ack or response_url, to the user only unless it says in_channel."""
    _check_content(args)
    if args.get("response_type") == "in_channel":
        return state.post_as_bot(channel, args, only_for=None)
    return state.post_as_bot(channel, args, only_for=user)


def _open(state: State, args: Json) -> Channel:
    channel = state.channel(args.get("channel"))
    if channel.archived:
        raise SlackError("is_archived")
    if BOT.id not in channel.members:
        raise SlackError("not_in_channel")
    return channel


def _own(state: State, channel: Channel, args: Json) -> Stored:
    stored = state.find(channel.id, args.get("ts"))
    if stored.only_for is not None:
        raise SlackError("message_not_found")
    if stored.body["user"] != BOT.id:
        raise SlackError("cant_update_message")
    return stored


def _check_content(args: Json) -> None:
    if not args.get("text") and not args.get("blocks") and not args.get("attachments"):
        raise SlackError("no_text")
    if len(args.get("text") or "") > 40_000:
        raise SlackError("msg_too_long")
    faults = complaints(args.get("blocks") or [], "message")
    too_long = [fault for fault in faults if "msg_blocks_too_long" in fault]
    if too_long:
        raise SlackError("msg_blocks_too_long", too_long)
    if faults:
        raise SlackError("invalid_blocks", faults)


def _check_thread(state: State, channel: Channel, thread_ts: str) -> None:
    try:
        parent = state.find(channel.id, thread_ts)
    except SlackError as missing:
        raise SlackError("thread_not_found") from missing
    if parent.only_for is not None:
        raise SlackError("cannot_reply_to_message")
