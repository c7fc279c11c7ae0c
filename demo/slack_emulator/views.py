"""The emulator's views.* methods of the Web API, and the effect of an ack on a submitted modal."""

from __future__ import annotations

import time
from collections.abc import Mapping

from demo.slack_emulator.blocks import view_complaints
from demo.slack_emulator.state import APP, BOT_ID, TEAM, Json, SlackError, State

_DEEPEST = 3


def open_view(state: State, args: Json) -> Json:
    user = _use_trigger(state, args.get("trigger_id"))
    view = _create_view(state, args.get("view"))
    state.modals[user] = [view]
    return {"view": view}


def push(state: State, args: Json) -> Json:
    user = _use_trigger(state, args.get("trigger_id"))
    return {"view": push_onto_stack(state, user, args.get("view"))}


def push_onto_stack(state: State, user: str, value: object) -> Json:
    stack = state.modals.setdefault(user, [])
    if len(stack) >= _DEEPEST:
        raise SlackError("push_limit_reached")
    view = _create_view(state, value)
    if stack:
        view["previous_view_id"] = stack[-1]["id"]
        view["root_view_id"] = stack[0]["id"]
    stack.append(view)
    return view


def update(state: State, args: Json) -> Json:
    """Updates a view by view_id or external_id; with a `hash`, only if the view still has that one."""
    for stack in state.modals.values():
        for index, old in enumerate(stack):
            if args.get("view_id") == old["id"] or (args.get("external_id") or "-") == old.get("external_id"):
                if args.get("hash") not in (None, "", old["hash"]):
                    raise SlackError("hash_conflict")
                stack[index] = replace_view(state, old, args.get("view"))
                return {"view": stack[index]}
    raise SlackError("not_found")


def replace_view(state: State, old: Json, value: object) -> Json:
    new = _create_view(state, value)
    return {**new, "id": old["id"], "root_view_id": old["root_view_id"]}


def publish(state: State, args: Json) -> Json:
    user = state.person(str(args.get("user_id"))).id
    view = _create_view(state, args.get("view"), kind="home")
    if user in state.homes:
        if args.get("hash") not in (None, "", state.homes[user]["hash"]):
            raise SlackError("hash_conflict")
        view["id"] = state.homes[user]["id"]
    state.homes[user] = view
    return {"view": view}


def apply_ack(state: State, user: str, ack: Json) -> Mapping[str, str]:
    """Applies the ack of a view_submission to the user's modals, and returns its errors by block_id. An empty ack
    closes the modal."""
    stack = state.modals[user]
    if not stack:  # submitted twice at once, and the first ack closed it
        return dict(ack.get("errors") or {})
    match ack.get("response_action"):
        case None:
            stack.pop()
        case "clear":
            stack.clear()
        case "errors":
            return _known_errors(stack[-1], ack.get("errors") or {})
        case "update":
            stack[-1] = replace_view(state, stack[-1], ack.get("view"))
        case "push":
            push_onto_stack(state, user, ack.get("view"))
        case other:
            raise SlackError(f"unknown response_action {other}")
    return {}


def _known_errors(view: Json, errors: Mapping[str, str]) -> Mapping[str, str]:
    inputs = [block["block_id"] for block in view["blocks"] if block["type"] == "input"]
    strangers = [name for name in errors if name not in inputs]
    if strangers or not errors:
        raise SlackError(f"errors for no input block: {', '.join(strangers) or 'none given'}")
    return errors


def _use_trigger(state: State, trigger_id: object) -> str:
    trigger = state.triggers.get(str(trigger_id))
    if trigger is None:
        raise SlackError("invalid_trigger_id")
    if trigger.used:
        raise SlackError("exchanged_trigger_id")
    if time.monotonic() - trigger.at > state.patience:
        raise SlackError("expired_trigger_id")
    trigger.used = True
    return trigger.user


def _create_view(state: State, value: object, kind: str = "modal") -> Json:
    if not isinstance(value, dict) or value.get("type") != kind:
        raise SlackError("invalid_arguments", [f"view: must be an object of the type {kind}"])
    faults = view_complaints(value)
    if any("view_too_large" in fault for fault in faults):
        raise SlackError("view_too_large", faults)
    if faults:
        raise SlackError("invalid_arguments", faults)
    name = state.new_id("V")
    frame = {"team_id": TEAM, "app_id": APP, "bot_id": BOT_ID, "previous_view_id": None, "root_view_id": name}
    blank = {"callback_id": "", "private_metadata": "", "external_id": "", "state": {"values": {}}}
    blocks = state.with_ids(value["blocks"])
    for block in blocks:
        if block["type"] == "input":
            block["element"] = {"action_id": state.new_id("a"), **block["element"]}
    return {**blank, **value, **frame, "id": name, "hash": f"{time.time():.6f}.{name}", "blocks": blocks}
