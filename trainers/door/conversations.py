"""Tells which calls belong to the same conversation, by a hash with a key. Stores nothing, and the hash says nothing
about a text to anyone without the key.

A program may name its conversations: in a header, or in the request's `metadata` under one of NAMES. Otherwise those
that begin alike are the same: instructions, messages up to the first of the user, and `user`, which many programs set
for each person. A short greeting without `user` is then shared by strangers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

HEADER = "x-finetune-conversation"
NAMES = ("conversation_id", "session_id", "thread_id")
DIGEST_BYTES = 16


def hash_conversation(key: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    """Returns 32 hexadecimal characters, the same for each turn of a conversation. `key` may be of any length, and
    `body` is that of a chat, of Responses, or of a classification."""
    name = _own_name(body, headers)
    identity: object = {"name": name}
    if name is None:
        identity = {
            "user": body.get("user"),
            "instructions": body.get("instructions"),
            "messages": _beginning(body.get("messages") or body.get("input")),
        }
    secret = hashlib.sha256(key.encode()).digest()
    written = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(written, key=secret, digest_size=DIGEST_BYTES).hexdigest()


def _own_name(body: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
    """Returns the program's name for the conversation, None if it gives none."""
    name = headers.get(HEADER)
    if name:
        return name
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        return None
    for key in NAMES:
        value = metadata.get(key)
        if isinstance(value, str) and value:
            return value
    return None


def _beginning(messages: object) -> Sequence[object]:
    """Returns the messages up to the first of the user, which later turns repeat."""
    if not isinstance(messages, list):
        return [messages]
    for count, message in enumerate(messages, 1):
        if isinstance(message, dict) and message.get("role") == "user":
            return messages[:count]
    return messages
