"""Least scopes, no link previews, and file names that are never paths: the lines of docs/security.md that no other
module's tests prove."""

from __future__ import annotations

import io
import json
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from bot.questions.nearest import Described, is_question, nearest
from bot.slack.commands import finetune, help_list
from demo.slack_emulator.methods import METHODS
from tests.bot.props import tickets_csv
from tests.bot.world import TARGET, World
from trainers.local.jobs.files import Files

ROOT = Path(__file__).resolve().parents[3]
MANIFEST = yaml.safe_load((ROOT / "manifest.yml").read_text(encoding="utf-8"))
UPLOAD = ("files.getUploadURLExternal", "files.completeUploadExternal")
AS_PYTHON = {name.replace(".", "_"): (name,) for name in METHODS} | {"files_upload_v2": UPLOAD}
SCOPES_OF_EVENTS = {
    "app_mention": "app_mentions:read",
    "file_shared": "files:read",
    "message.im": "im:history",
}
# Of a right that a team may give: bot/outbox_sender.py does without.
OPTIONAL = {"conversations.history", "conversations.replies"}
EVIL = ("../../../evil.csv", "/etc/evil.csv", "..\\evil.csv", "a\u202egpj.csv", ".csv")


@cache
def methods_called() -> dict[Path, set[str]]:
    """Returns the Web API methods that each file of the bot calls, read from its tokens: `ast` of Python 3.11 fails at
    times if another thread writes a traceback."""
    return {path: set(_called(path)) for path in (ROOT / "bot").rglob("*.py")}


def _called(path: Path) -> Iterator[str]:
    with tokenize.open(path) as file:
        tokens = list(tokenize.generate_tokens(file.readline))
    for before, token in pairwise(tokens):
        if before.string == "." and token.string in AS_PYTHON:
            yield from AS_PYTHON[token.string]


@pytest.mark.deep
def test_the_app_asks_for_the_scopes_that_its_calls_need_and_no_more() -> None:
    called = set().union(*methods_called().values())
    assert {"chat.postMessage", "users.info", "files.info", *UPLOAD} <= called, "so the search works"
    assert "users.list" not in called
    events = MANIFEST["settings"]["event_subscriptions"]["bot_events"]
    needed = {scope for method in called - OPTIONAL for scope in METHODS[method].scopes}
    needed |= {SCOPES_OF_EVENTS[event] for event in events if event in SCOPES_OF_EVENTS} | {"commands"}
    assert set(MANIFEST["oauth_config"]["scopes"]["bot"]) == needed
    assert "user" not in MANIFEST["oauth_config"]["scopes"]


def test_what_the_app_offers_as_an_agent_is_a_question_that_it_answers() -> None:
    view = MANIFEST["features"]["agent_view"]
    assert len(view["agent_description"]) <= 300
    commands = [Described(command.name, command.what) for command in help_list()]
    expected = ("status", "estimate", "budget", "models")
    for prompt, name in zip(view["suggested_prompts"], expected, strict=True):
        assert is_question(prompt["message"], set(finetune.commands))
        assert nearest(prompt["message"], commands)[0] == name


def test_one_module_alone_reads_messages() -> None:
    readers = {path for path, called in methods_called().items() if not OPTIONAL.isdisjoint(called)}
    assert readers == {ROOT / "bot" / "posted_messages.py"}


def test_no_message_unfurls_a_link(world: World) -> None:
    world.start_approved()
    world.tick(3)
    world.type(f"/finetune estimate tickets current=gpt-4o volume=100M target={TARGET}")
    posts = [
        call for method in ("chat.postMessage", "chat.postEphemeral") for call in world.slack.calls(method)
    ]
    assert {call.method for call in posts} == {"chat.postMessage", "chat.postEphemeral"}
    for call in posts:
        assert str(call.args["unfurl_links"]).lower() == str(call.args["unfurl_media"]).lower() == "false"


@pytest.mark.deep
def test_an_uploaded_files_name_is_never_a_path(world: World) -> None:
    folder = world.folder.parent
    before = set(folder.rglob("*"))
    for number, name in enumerate(EVIL):
        file_id = world.put_file("tickets.csv", tickets_csv())
        world.slack._state.files[file_id].body["name"] = name
        world.slack.command("U0DORA", "C0TICKETS", "/finetune upload")
        assert world.slack.submit_modal("U0DORA", {"file": file_id, "name": f"tickets{number}"}).closed

    def all_checked() -> bool:
        datasets = world.store.datasets.all()
        states = {dataset.state for dataset in datasets}
        return len(datasets) == len(EVIL) and states <= {"ready", "refused"}

    world.tick_until(all_checked, "the checks")
    stored = world.service.settings.files
    assert all(re.fullmatch(r"[0-9a-f]{64}(\.jsonl)?", path.name) for path in stored.iterdir())
    added = [path.name for path in set(folder.rglob("*")) - before if "desktop" not in path.parts]
    assert not [name for name in added if "evil" in name or "gpj" in name]
    world.send()
    blocks = [list(message.blocks) for message in world.slack.messages("C0TICKETS")]
    assert "\u202e" not in json.dumps(blocks, ensure_ascii=False)


@pytest.mark.parametrize("name", EVIL)
def test_a_files_name_is_never_a_path_at_the_trainer(tmp_path: Path, name: str) -> None:
    files = Files(tmp_path / "files")
    stored = files.add(io.BytesIO(b"{}\n"), name, None)
    paths = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert paths == {tmp_path / "files" / stored.id / part for part in ("content.jsonl", "meta.json")}
    assert files.get(stored.id).filename == name
