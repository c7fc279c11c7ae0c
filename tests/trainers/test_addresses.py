"""Which addresses stay on this machine."""

from __future__ import annotations

import pytest

from trainers.addresses import is_loopback
from trainers.providers import load_providers


@pytest.mark.parametrize(
    ("url", "stays"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.8.9.1/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("https://api.openai.com/v1", False),
        ("http://localhost.example.com/v1", False),
        ("http://127.0.0.1.example.com/v1", False),
        ("http://user@example.com:127/v1", False),
        ("http://10.0.0.5/v1", False),
        ("http://0.0.0.0:8000/v1", False),
        ("", False),
    ],
)
def test_only_loopback_addresses_stay(url: str, stays: bool) -> None:
    assert is_loopback(url) is stays


def test_of_the_shipped_trainers_only_our_own_is_here() -> None:
    rows = load_providers()
    assert [row.name for row in rows if row.is_on_this_machine] == ["local"]
    (local,) = (row for row in rows if row.name == "local")
    assert local.at("http://127.0.0.1:4000/v1").is_on_this_machine
    assert not local.at("https://gpu-box.example/v1").is_on_this_machine
