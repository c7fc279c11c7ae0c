"""Ids of answered calls, by which programs later say how good an answer was. An id says itself whose call it was, and
is signed: so it can be read after a restart, by another worker, and however many calls there are.

The id in an answer's body is the provider's. It stands for ours only while this process remembers it, which it does for
the last MOST_NOTED calls.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from trainers.door.live_tests.canary import CanarySide

PREFIX = "call-"
MOST_NOTED = 10_000
SIGNATURE_BYTES = 12
# Seconds since 1970, the promotion, the recipe's hash, and what tells calls of the same second apart.
_FIXED = struct.Struct(">II32s9s")
# Only during a canary, before the name, which has no zero byte: whose side, the live test, the conversation's hash.
_CANARY = struct.Struct(">x?I16s")


@dataclass(frozen=True)
class AnsweredCall:
    """A call under `name` at `at` (seconds since 1970), which `recipe` (a hash) answered for `promotion`. `canary` is
    the side of a canary that a rating is about, None without one."""

    name: str
    promotion: int
    recipe: str
    at: int
    canary: CanarySide | None = None


@dataclass
class CallIds:
    """`key` returns the key of signatures: with another one, earlier ids are unknown."""

    key: Callable[[], str]
    _noted: OrderedDict[str, str] = field(default_factory=OrderedDict)

    def new(self, call: AnsweredCall) -> str:
        """Returns an id that no other call has, about 100 letters long, and 30 more during a canary."""
        recipe = bytes.fromhex(call.recipe)
        content = _FIXED.pack(call.at, call.promotion, recipe, secrets.token_bytes(9))
        if call.canary is not None:
            side = call.canary
            content += _CANARY.pack(side.is_candidate, side.live_test, bytes.fromhex(side.conversation))
        content += call.name.encode()
        return _encode(self._sign(content) + content)

    def read(self, id: str) -> AnsweredCall | None:
        """Returns the call that has our id, None if no call has."""
        try:
            signed = base64.urlsafe_b64decode(id.removeprefix(PREFIX) + "==")
        except ValueError:
            return None
        # Several texts are decoded to the same bytes, and a call must have one id.
        if _encode(signed) != id:
            return None
        signature = signed[:SIGNATURE_BYTES]
        content = signed[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._sign(content)):
            return None
        at, promotion, recipe, _ = _FIXED.unpack(content[: _FIXED.size])
        rest = content[_FIXED.size :]
        side = None
        if rest.startswith(b"\0"):
            is_candidate, live_test, conversation = _CANARY.unpack(rest[: _CANARY.size])
            side = CanarySide(live_test, conversation.hex(), is_candidate)
            rest = rest[_CANARY.size :]
        return AnsweredCall(rest.decode(), promotion, recipe.hex(), at, side)

    def note(self, own_id: str, id: str) -> None:
        """Remembers the id that an answer has in its body."""
        if len(own_id) > 200:
            return
        self._noted[own_id] = id
        if len(self._noted) > MOST_NOTED:
            self._noted.popitem(last=False)

    def find(self, id: str) -> str | None:
        """Returns our id for one of a body, or the id itself if it is ours."""
        if id.startswith(PREFIX):
            return id
        return self._noted.get(id)

    def _sign(self, content: bytes) -> bytes:
        secret = hashlib.sha256(self.key().encode()).digest()
        return hashlib.blake2b(content, key=secret, digest_size=SIGNATURE_BYTES).digest()


def _encode(signed: bytes) -> str:
    return PREFIX + base64.urlsafe_b64encode(signed).decode().rstrip("=")
