"""Which providers' addresses are on this machine."""

from __future__ import annotations

import pytest

from trainers.providers.providers import ProviderProblems, is_loopback, load_providers


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
def test_only_loopback_addresses_are_on_this_machine(url: str, stays: bool) -> None:
    assert is_loopback(url) is stays


def test_of_the_shipped_trainers_only_our_own_is_on_this_machine() -> None:
    rows = load_providers()
    assert [row.name for row in rows if row.stays_here] == ["local"]
    assert [row.name for row in rows if row.keeps_models_here and row.trains] == ["local", "tinker"]


@pytest.mark.parametrize(("settings", "stays"), [({}, False), ({"stays_here": True}, True)])
def test_behind_a_loopback_address_may_be_a_proxy(settings: dict[str, bool], stays: bool) -> None:
    rows = load_providers({"local": {"base_url": "http://127.0.0.1:4000/v1", **settings}})
    assert [row.stays_here for row in rows if row.name == "local"] == [stays]


def test_a_row_cannot_declare_another_machine_to_be_this_one() -> None:
    with pytest.raises(ProviderProblems, match=r"providers\.local\.stays_here: is true, but https://gpu-box"):
        load_providers({"local": {"base_url": "https://gpu-box.example/v1", "stays_here": True}})
