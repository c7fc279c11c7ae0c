"""The payloads that Slack sends to an app when a person acts. Pure except for new ids and triggers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from demo.people import BOT
from demo.slack_emulator.state import APP, TEAM, Json, State, Stored
from demo.workspace import Channel, escape_command

_DOMAIN = "emulator"


def slash_command(state: State, user: str, channel: Channel, line: str) -> dict[str, str]:
    name, _, text = line.partition(" ")
    return {
        "token": "deprecated",
        "team_id": TEAM,
        "team_domain": _DOMAIN,
        "channel_id": channel.id,
        "channel_name": channel.name,
        "user_id": user,
        "user_name": state.person(user).name,
        "command": name,
        "text": escape_command(text.strip(), state.people, tuple(state.channels.values())),
        "api_app_id": APP,
        "is_enterprise_install": "false",
        "response_url": state.new_response_url(user, channel.id, None),
        "trigger_id": state.new_trigger(user),
    }


def message_action(state: State, user: str, channel: Channel, stored: Stored, element: Json) -> Json:
    ts = stored.body["ts"]
    container = {
        "type": "message",
        "message_ts": ts,
        "channel_id": channel.id,
        "is_ephemeral": stored.only_for is not None,
    }
    return {
        **_interaction(state, user, "block_actions"),
        "container": container,
        "channel": {"id": channel.id, "name": channel.name},
        "message": stored.body,
        "state": {"values": {}},
        "response_url": state.new_response_url(user, channel.id, ts),
        "actions": [{**element, "action_ts": f"{time.time():.6f}"}],
    }


def view_action(state: State, user: str, view: Json, element: Json) -> Json:
    return {
        **_interaction(state, user, "block_actions"),
        "container": {"type": "view", "view_id": view["id"]},
        "view": view,
        "actions": [{**element, "action_ts": f"{time.time():.6f}"}],
    }


def action_payload(element: Mapping[str, Any], value: str | None) -> Json:
    """Returns a block's element as in a block_actions payload, with `value` chosen."""
    action = {"type": element["type"], "action_id": element["action_id"], "block_id": element["block_id"]}
    if element["type"] == "button":
        return action | {key: element[key] for key in ("value", "text", "style") if key in element}
    if "options" in element:
        return action | {
            "selected_option": next(item for item in element["options"] if item["value"] == value)
        }
    chosen = {"users_select": "selected_user", "channels_select": "selected_channel"}
    return action | {chosen.get(element["type"], "value"): value}


def view_submission(state: State, user: str, view: Json, values: Mapping[str, Any]) -> Json:
    filled = {**view, "state": {"values": values}}
    return {**_interaction(state, user, "view_submission"), "view": filled, "response_urls": []}


def view_closed(state: State, user: str, view: Json) -> Json:
    return {**_interaction(state, user, "view_closed"), "view": view, "is_cleared": False}


def message_shortcut(state: State, user: str, channel: Channel, stored: Stored, callback_id: str) -> Json:
    return {
        **_interaction(state, user, "message_action"),
        "callback_id": callback_id,
        "action_ts": f"{time.time():.6f}",
        "message_ts": stored.body["ts"],
        "channel": {"id": channel.id, "name": channel.name},
        "message": stored.body,
        "response_url": state.new_response_url(user, channel.id, None),
    }


def global_shortcut(state: State, user: str, callback_id: str) -> Json:
    action = {"callback_id": callback_id, "action_ts": f"{time.time():.6f}"}
    return {**_interaction(state, user, "shortcut"), **action}


def event(state: State, what: Json) -> Json:
    """Wraps the event `what` (such as app_mention, file_shared or app_home_opened) in an event_callback."""
    return {
        "token": "deprecated",
        "team_id": TEAM,
        "api_app_id": APP,
        "event": {"event_ts": f"{time.time():.6f}", **what},
        "type": "event_callback",
        "event_id": state.new_id("Ev"),
        "event_time": int(time.time()),
        "authorizations": [{"enterprise_id": None, "team_id": TEAM, "user_id": BOT.id, "is_bot": True}],
        "is_ext_shared_channel": False,
    }


def _interaction(state: State, user: str, kind: str) -> Json:
    name = state.person(user).name
    return {
        "type": kind,
        "token": "deprecated",
        "api_app_id": APP,
        "team": {"id": TEAM, "domain": _DOMAIN},
        "enterprise": None,
        "is_enterprise_install": False,
        "user": {"id": user, "username": name, "name": name, "team_id": TEAM},
        "trigger_id": state.new_trigger(user),
    }
