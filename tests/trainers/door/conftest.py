"""A door in a process of its own and the vendor that it calls; each test promotes what it needs."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import openai
import pytest

from tests.peers.chat_vendor import ChatVendor, last_words, serve_vendor
from tests.trainers.door.doors import Door, add_vendor, serve_door
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.values import Upstream, Upstreams


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Door, ChatVendor]]:
    folder = RecipeFolder(tmp_path_factory.mktemp("door") / "serving")
    with serve_vendor(ChatVendor()) as vendor:
        add_vendor(folder, vendor.url)
        with serve_door(folder, "--answer-seconds", "2", "--allow-host", "Models.example.com") as door:
            yield door, vendor


@pytest.fixture
def vendor(served: tuple[Door, ChatVendor]) -> ChatVendor:
    """The vendor as it usually is."""
    vendor = served[1]
    fresh = ChatVendor(url=vendor.url)
    vars(vendor).update(vars(fresh))
    assert vendor.answer is last_words
    return vendor


@pytest.fixture
def door(served: tuple[Door, ChatVendor], vendor: ChatVendor) -> Door:
    add_vendor(served[0].folder, vendor.url)
    return served[0]


@pytest.fixture
def client(door: Door) -> Iterator[openai.OpenAI]:
    with door.client() as client:
        yield client


@pytest.fixture
def second(door: Door, vendor: ChatVendor) -> Iterator[ChatVendor]:
    """The vendor of the candidate, which answers everything with 'delivery'."""
    with serve_vendor(ChatVendor(answer=lambda body: "delivery")) as second:
        upstreams = (Upstream("acme", vendor.url, "ACME_KEY"), Upstream("next", second.url, "ACME_KEY"))
        door.folder.publish_upstreams(Upstreams(upstreams))
        yield second


@pytest.fixture
def name(door: Door) -> Iterator[str]:
    """A name of its own for each test, as they share a door."""
    name = f"team/t{secrets.token_hex(4)}"
    yield name
    door.folder.withdraw(name)
