"""Renders the part of Go's text/template that our templates for Ollama use. Anything else is an error.

Its output was compared with that of Go 1.24's own text/template: the same bytes for each case of the tests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

ACTION = re.compile(r"\{\{-? (.*?) \}\}", re.S)
IF_ROLE = re.compile(r'if eq \.Role "(\w+)"')
IF_LAST = re.compile(r'if eq \$last "(\w+)"')
SET_LAST = re.compile(r'\$last :?= "(\w+)"')
LAST_WITH_SYSTEM = "if and $.System (eq (len (slice $.Messages $i)) 1)"


def render(template: str, messages: Sequence[dict[str, str]]) -> str:
    actions = ACTION.findall(template)
    assert ACTION.sub("", template) == "", "text outside of actions"
    system = "\n\n".join(each["content"] for each in messages if each["role"] == "system")
    written, end = _block(actions, 0, {"messages": messages, "system": system, "last": "", "write": True})
    assert end == len(actions)
    return written


def _block(actions: Sequence[str], place: int, state: dict[str, Any]) -> tuple[str, int]:
    """Returns the text from `place` up to the block's end, and where that end is."""
    text = ""
    while place < len(actions) and actions[place] != "end":
        action = actions[place]
        if action.startswith("range "):
            assert action == "range $i, $m := .Messages"
            for number, message in enumerate(state["messages"]):
                state |= {"message": message, "is_last": number == len(state["messages"]) - 1}
                written, end = _block(actions, place + 1, state)
                text += written
            place = end + 1
        elif action.startswith("if "):
            holds = _holds(action, state) and state["write"]
            outer, state["write"] = state["write"], holds
            written, end = _block(actions, place + 1, state)
            state["write"] = outer
            text, place = text + written, end + 1
        else:
            text, place = text + _render_action(action, state), place + 1
    return text, place


def _holds(action: str, state: dict[str, Any]) -> bool:
    if action == LAST_WITH_SYSTEM:
        return bool(state["system"]) and bool(state["is_last"])
    if match := IF_ROLE.fullmatch(action):
        return bool(state["message"]["role"] == match[1])
    match = IF_LAST.fullmatch(action)
    assert match, action
    return bool(state["last"] == match[1])


def _render_action(action: str, state: dict[str, Any]) -> str:
    if not state["write"]:
        return ""
    if match := SET_LAST.fullmatch(action):
        state["last"] = match[1]
        return ""
    if action == ".Content":
        return str(state["message"]["content"])
    if action == "$.System":
        return str(state["system"])
    assert action.startswith('"') and action.endswith('"'), action
    escapes = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(r"\\(.)", lambda match: escapes.get(match[1], match[1]), action[1:-1])
