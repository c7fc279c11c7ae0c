"""Odd values, and bodies that are mutated with them."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

Json = dict[str, Any]

MARKUP = "<!channel> <@U1> <http://x|y> *b* `c` &lt;"
INVISIBLE = "a\u202eb\u2066c\x00d\x1be\u200bf"
TEXTS = (
    *("", " ", "\x00", "\ud83d", "\ufeff", "\r\n", "９", MARKUP, INVISIBLE, "x" * 3_001, "é" * 20_000),
    *["null", "-1", "1e400", "NaN", "0x10", "1_0", "../../etc/passwd", "=1+1", "%s{0}{a.b}"],
    "'; DROP TABLE runs; --",
)
NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"))

odd_texts = st.sampled_from(TEXTS) | st.text(max_size=30)
odd_leaves = st.none() | st.booleans() | st.sampled_from(NUMBERS) | odd_texts
odd_values = st.recursive(
    odd_leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn, base: Json, most: int = 3) -> Json:
    """`base` with 1 to `most` places removed, replaced or extended."""
    body = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, most))):
        _mutate(draw, body)
    return body


def _mutate(draw: st.DrawFn, body: Json) -> None:
    places = list(_places(body))
    if not places:
        body[draw(odd_texts)] = draw(odd_values)
        return
    parent, key = draw(st.sampled_from(places))
    match draw(st.sampled_from(("replace", "replace", "drop", "add"))):
        case "replace":
            parent[key] = draw(odd_values)
        case "drop":
            del parent[key]
        case _ if isinstance(parent, dict):
            parent[draw(odd_texts)] = draw(odd_values)
        case _:
            parent.append(draw(odd_values))


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Each (container, key or index) inside `node`."""
    if not isinstance(node, dict | list):
        return []
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    return [(node, key) for key in keys] + [place for key in keys for place in _places(node[key])]


def deep(levels: int, opening: str = "[", closing: str = "]") -> str:
    return opening * levels + closing * levels


def raw_json(base: Json) -> st.SearchStrategy[bytes]:
    """Bytes that are almost JSON: cut off, in broken UTF-8, with repeated keys, nested too deeply, or arbitrary."""
    text = json.dumps(base).encode()
    twice = text.replace(b"{", b'{"model": 1, "model": 2, ', 1)
    fixed = (
        *(b"", b"null", b"[]", b"0", b'""', b"{", b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b"NaN", twice),
        *(deep(100_000).encode(), deep(2_000, '{"a":', "}").encode(), b'{"a": 1e400}', b'{"a": "\\ud800"}'),
        *(text.decode().encode("utf-16"), text + text, text.replace(b'"', b"\xff", 3)),
    )
    return st.one_of(
        st.sampled_from(fixed),
        st.binary(max_size=200),
        st.integers(0, len(text)).map(lambda end: text[:end]),
        st.tuples(st.integers(0, len(text)), st.binary(min_size=1, max_size=4)).map(
            lambda cut: text[: cut[0]] + cut[1] + text[cut[0] :]
        ),
    )
