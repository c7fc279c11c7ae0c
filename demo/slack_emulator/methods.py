"""The Web API methods of the emulator with their scopes; here are those about people and channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from demo.people import BOT
from demo.slack_emulator import chat, files, views
from demo.slack_emulator.blocks import complaints
from demo.slack_emulator.state import BOT_ID, TEAM, Json, SlackError, State, channel_json, person_json
from demo.workspace import Channel

Item = TypeVar("Item")


@dataclass(frozen=True)
class Method:
    """A method. Any one of `scopes` is enough to call it; without any, every token may."""

    answer: Callable[[State, Json], Json]
    scopes: tuple[str, ...] = ()


def call(state: State, name: str, token: str | None, args: Json) -> Json:
    """Carries out a method and returns Slack's answer without its `ok`. Raises SlackError."""
    method = METHODS.get(name)
    if method is None:
        raise SlackError("unknown_method")
    if not token:
        raise SlackError("not_authed")
    if name == "apps.connections.open":
        if not token.startswith("xapp-"):
            raise SlackError("not_allowed_token_type")
    elif token != state.bot_token:
        raise SlackError("invalid_auth")
    if method.scopes and not state.scopes.intersection(method.scopes):
        raise SlackError("missing_scope", needed=",".join(method.scopes))
    return method.answer(state, args)


def _auth_test(state: State, args: Json) -> Json:
    return {
        "url": f"{state.base}/",
        "team": "Emulator",
        "team_id": TEAM,
        "user": BOT.name,
        "user_id": BOT.id,
        "bot_id": BOT_ID,
        "is_enterprise_install": False,
    }


def _blocks_validate(state: State, args: Json) -> Json:
    """Validates only blocks, as those of a message."""
    if "blocks" not in args:
        raise SlackError("invalid_arguments", ["must provide exactly one of `blocks`, `view`, or `message`"])
    errors = []
    for complaint in complaints(args["blocks"], "message"):
        at, _, fault = complaint.partition(": ")
        pointer = at.removeprefix("/blocks")
        errors.append({"code": "failed_constraint", "pointer": pointer, "message": fault})
    if not errors:
        return {}
    return {"ok": False, "error": "invalid_blocks", "errors": errors}


def _conversations_info(state: State, args: Json) -> Json:
    return {"channel": channel_json(state.channel(args.get("channel")))}


def _conversations_open(state: State, args: Json) -> Json:
    users = str(args.get("users") or "").split(",")
    if len(users) != 1:
        raise SlackError("invalid_arguments", ["the emulator opens direct messages with one user only"])
    return {"channel": {"id": state.open_dm(users[0]).id}}


def _conversations_members(state: State, args: Json) -> Json:
    members = state.channel(args.get("channel")).members
    page, cursor = _page(members, args)
    return {"members": list(page), "response_metadata": {"next_cursor": cursor}}


def _conversations_history(state: State, args: Json) -> Json:
    return {"messages": _newest(state, args, lambda body: "thread_ts" not in body)}


def _conversations_replies(state: State, args: Json) -> Json:
    return {
        "messages": _newest(state, args, lambda body: args.get("ts") in (body["ts"], body.get("thread_ts")))
    }


def _newest(state: State, args: Json, belongs: Callable[[Json], bool]) -> list[Json]:
    """Returns the messages that belong, newest first, with metadata only if it was requested."""
    channel = state.channel(args.get("channel"))
    needed = _history_scope(channel)
    if needed not in state.scopes:
        raise SlackError("missing_scope", needed=needed)
    oldest = float(args.get("oldest") or 0)
    limit = int(args.get("limit") or 100)
    with_metadata = str(args.get("include_all_metadata")).lower() in ("true", "1")
    entries: list[Json] = []
    for stored in reversed(state.messages.get(channel.id, [])):
        is_new = float(stored.body["ts"]) > oldest
        if stored.only_for is None and is_new and belongs(stored.body):
            body = dict(stored.body)
            if not with_metadata:
                body.pop("metadata", None)
            entries.append(body)
    return entries[:limit]


def _history_scope(channel: Channel) -> str:
    """Returns the scope for reading messages, which depends on the kind of conversation."""
    if channel.id.startswith("D"):
        return "im:history"
    if channel.private:
        return "groups:history"
    return "channels:history"


def _users_info(state: State, args: Json) -> Json:
    return {"user": person_json(state.person(str(args.get("user"))))}


def _users_list(state: State, args: Json) -> Json:
    people = [person_json(person) for person in (BOT, *state.people)]
    page, cursor = _page(people, args)
    return {"members": list(page), "response_metadata": {"next_cursor": cursor}}


def _users_by_email(state: State, args: Json) -> Json:
    for person in state.people:
        if person.email and person.email == args.get("email"):
            return {"user": person_json(person)}
    raise SlackError("users_not_found")


def _conversations_list(state: State, args: Json) -> Json:
    channels = [channel_json(channel) for channel in state.channels.values()]
    page, cursor = _page(channels, args)
    return {"channels": list(page), "response_metadata": {"next_cursor": cursor}}


def _set_status(state: State, args: Json) -> Json:
    """Checks that there is such a thread. The status itself is in `State.calls`."""
    channel = state.channel(args.get("channel_id"))
    if not args.get("status") or state.find(channel.id, str(args.get("thread_ts"))) is None:
        raise SlackError("invalid_arguments", ["status and the ts of a thread are needed"])
    return {}


def _connections_open(state: State, args: Json) -> Json:
    """Only checks that the token may open a connection: the emulator has no Socket Mode behind the address."""
    return {"url": f"{state.base.replace('http', 'ws', 1)}/link"}


def _usergroup_users(state: State, args: Json) -> Json:
    group = state.groups.get(str(args.get("usergroup")))
    if group is None:
        raise SlackError("no_such_subteam")
    return {"users": list(group)}


def _page(items: Sequence[Item], args: Json) -> tuple[Sequence[Item], str]:
    """Returns a page of the items by Slack's `limit` and `cursor`, and the next cursor, '' on the last page."""
    start = int(args.get("cursor") or 0)
    end = start + int(args.get("limit") or 1_000)
    cursor = ""
    if end < len(items):
        cursor = str(end)
    return items[start:end], cursor


_READ_CHANNEL = ("channels:read", "groups:read")
_READ_MESSAGES = ("channels:history", "groups:history", "im:history")

METHODS: Mapping[str, Method] = {
    "apps.connections.open": Method(_connections_open),
    "assistant.threads.setStatus": Method(_set_status, ("chat:write",)),
    "auth.test": Method(_auth_test),
    "blocks.validate": Method(_blocks_validate),
    "chat.postMessage": Method(chat.post_message, ("chat:write",)),
    "chat.postEphemeral": Method(chat.post_ephemeral, ("chat:write",)),
    "chat.update": Method(chat.update, ("chat:write",)),
    "chat.delete": Method(chat.delete, ("chat:write",)),
    "chat.getPermalink": Method(chat.get_permalink),
    "views.open": Method(views.open_view),
    "views.push": Method(views.push),
    "views.update": Method(views.update),
    "views.publish": Method(views.publish),
    "files.getUploadURLExternal": Method(files.get_upload_url, ("files:write",)),
    "files.completeUploadExternal": Method(files.complete_upload, ("files:write",)),
    "files.info": Method(files.info, ("files:read",)),
    "conversations.info": Method(_conversations_info, _READ_CHANNEL),
    "conversations.list": Method(_conversations_list, _READ_CHANNEL),
    "conversations.open": Method(_conversations_open, ("im:write",)),
    "conversations.members": Method(_conversations_members, _READ_CHANNEL),
    "conversations.history": Method(_conversations_history, _READ_MESSAGES),
    "conversations.replies": Method(_conversations_replies, _READ_MESSAGES),
    "users.info": Method(_users_info, ("users:read",)),
    "users.lookupByEmail": Method(_users_by_email, ("users:read.email",)),
    "users.list": Method(_users_list, ("users:read",)),
    "usergroups.users.list": Method(_usergroup_users, ("usergroups:read",)),
}
