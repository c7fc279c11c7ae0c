"""Least scopes, no previews, names that are never paths: of the security checklist, what no other test
shows."""

from __future__ import annotations

import io
import json
import re
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from demo.people import BEN
from demo.slack_emulator.methods import METHODS
from tests.bot.props import tickets_csv
from tests.bot.world import World
from trainers.local.jobs.files import Files

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = yaml.safe_load((ROOT / "manifest.yml").read_text(encoding="utf-8"))
UPLOAD = ("files.getUploadURLExternal", "files.completeUploadExternal")
AS_PYTHON = {name.replace(".", "_"): (name,) for name in METHODS} | {"files_upload_v2": UPLOAD}
OF_EVENTS = {"app_mention": "app_mentions:read", "file_shared": "files:read", "message.im": "im:history"}
OF_A_RIGHT = {
    "conversations.history",
    "conversations.replies",
}  # that a team may give: bot/outbox_sender.py does without
EVIL = ("../../../evil.csv", "/etc/evil.csv", "..\\evil.csv", "a\u202egpj.csv", ".csv", "a/b.csv")


def methods_called() -> set[str]:
    """Web API methods that the product's code calls, the demo's workspace left aside."""
    found: set[str] = set()
    for path in (ROOT / "bot").rglob("*.py"):
        if "demo" not in path.parts:
            found |= set(_called(path))
    return found


def _called(path: Path) -> Iterator[str]:
    """By its tokens: `ast` of Python 3.11 fails at times where another thread writes a traceback down."""
    with tokenize.open(path) as file:
        tokens = list(tokenize.generate_tokens(file.readline))
    for before, token in pairwise(tokens):
        if before.string == "." and token.string in AS_PYTHON:
            yield from AS_PYTHON[token.string]


def test_the_app_asks_for_the_scopes_that_its_calls_need_and_no_more() -> None:
    events = MANIFEST["settings"]["event_subscriptions"]["bot_events"]
    needed = {scope for method in methods_called() - OF_A_RIGHT for scope in METHODS[method].scopes}
    needed |= {OF_EVENTS[event] for event in events if event in OF_EVENTS} | {"commands"}
    assert set(MANIFEST["oauth_config"]["scopes"]["bot"]) == needed
    assert "user" not in MANIFEST["oauth_config"]["scopes"]


def test_messages_are_read_at_one_place_and_only_where_a_team_gave_the_right() -> None:
    found = {path for path in (ROOT / "bot").rglob("*.py") if "demo" not in path.parts and reads(path)}
    assert found == {ROOT / "bot" / "outbox_sender.py"}


def reads(path: Path) -> bool:
    return not OF_A_RIGHT.isdisjoint(_called(path))


def test_the_search_for_calls_finds_those_that_there_are() -> None:
    assert {"chat.postMessage", "users.info", "files.info", *UPLOAD} <= methods_called()
    assert "users.list" not in methods_called()


def test_no_message_of_a_whole_story_unfolds_a_link(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")
    world.type("/finetune status 1", user=BEN)
    posted = [
        call for method in ("chat.postMessage", "chat.postEphemeral") for call in world.slack.calls(method)
    ]
    assert len(posted) >= 4
    for call in posted:
        assert str(call.args["unfurl_links"]).lower() == str(call.args["unfurl_media"]).lower() == "false"


@pytest.mark.parametrize("name", EVIL)
def test_an_uploaded_file_s_name_is_never_a_path(world: World, name: str) -> None:
    before = {path for path in world.folder.parent.rglob("*") if "desktop" not in path.parts}
    file_id = world.put_file("tickets.csv", tickets_csv())
    world.slack._state.files[file_id].body["name"] = name
    world.slack.command("U0DORA", "C0TICKETS", "/finetune upload")
    assert world.slack.submit_modal("U0DORA", {"file": file_id, "name": "tickets"}).closed
    world.tick_until(lambda: world.dataset().state in ("ready", "refused"), "the check")
    kept = world.service.settings.files
    assert all(re.fullmatch(r"[0-9a-f]{64}(\.jsonl)?", path.name) for path in kept.iterdir())
    after = {path for path in world.folder.parent.rglob("*") if "desktop" not in path.parts}
    assert not [path for path in after - before if "evil" in path.name or "gpj" in path.name]
    world.send()
    assert "\u202e" not in json.dumps(
        [list(one.blocks) for one in world.slack.messages("C0TICKETS")], ensure_ascii=False
    )


@pytest.mark.parametrize("name", EVIL)
def test_at_the_trainer_neither(tmp_path: Path, name: str) -> None:
    files = Files(tmp_path / "files")
    stored = files.add(io.BytesIO(b"{}\n"), name, None)
    there = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {tmp_path / "files" / stored.id / each for each in ("content.jsonl", "meta.json")}
    assert files.get(stored.id).filename == name
