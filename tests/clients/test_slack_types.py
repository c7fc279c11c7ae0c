"""Every card against Slack's own types, by TypeScript's compiler: a third opinion, after the walker's and slack_sdk's.

It knows every key and every value that a key may have, and no lengths. It has no type of Slack's newest chart yet.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cards.all_cards import payloads
from tests.clients.environment import CLIENTS, tsc

UNTYPED = {"data_visualization"}
OPTIONS = {"strict": True, "noEmit": True, "skipLibCheck": True, "module": "nodenext", "target": "es2022"}
TITLE = {"type": "plain_text", "text": "A title"}
WRONG = (
    {"type": "header", "text": TITLE, "colour": "red"},
    {"type": "section", "text": {"type": "mrkdwn", "text": "a", "emoji": True}},
    {"type": "actions", "elements": [{"type": "button", "text": TITLE, "style": "blue"}]},
    {"type": "data_table", "caption": "a", "rows": [[{"type": "raw_number", "text": "1"}]]},
    {"type": "data_visualization", "title": "a"},
)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder in which the compiler finds the packages."""
    (tmp_path / "node_modules").symlink_to(CLIENTS / "node_modules")
    return tmp_path


def test_every_card_has_slack_s_own_types(sources: Path) -> None:
    blocks = dict(_blocks())
    untyped = {block["type"] for block in blocks.values()} & UNTYPED
    assert untyped == UNTYPED  # else it is named here in vain
    typed = {at: block for at, block in blocks.items() if block["type"] not in UNTYPED}
    views = {name: {**view, "blocks": []} for name, view in payloads().items() if "type" in view}
    assert len(typed) > 500 and views
    assert _complaints(sources, {"KnownBlock": typed, "View": views}) == []


def test_what_the_types_do_not_know_is_found(sources: Path) -> None:
    wrong = {f"wrong {number}": block for number, block in enumerate(WRONG)}
    said = "\n".join(_complaints(sources, {"KnownBlock": wrong}))
    assert [name for name in wrong if name not in said] == []


def _blocks() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, payload in payloads().items():
        for form in ("blocks", "newest"):
            for at, block in enumerate(payload.get(form, [])):
                yield f"{name} {form} {at}", block


def _complaints(folder: Path, constants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Gives a line for each fault, with the name of what is wrong. A constant a line: lines are counted from 1."""
    names = ["", *(name for values in constants.values() for name in values)]
    lines = ['import type { KnownBlock, View } from "@slack/types";']
    for kind, values in constants.items():
        for value in values.values():
            lines.append(f"export const card{len(lines)}: {kind} = {json.dumps(value)};")
    (folder / "cards.ts").write_text("\n".join(lines))
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS, "files": ["cards.ts"]}))
    checked = subprocess.run([tsc()], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    found = re.findall(r"^cards\.ts\((\d+),\d+\): (.*)", checked.stdout, re.MULTILINE)
    assert bool(found) == bool(checked.returncode), checked.stdout
    return [f"{names[int(line) - 1]}: {fault}" for line, fault in found]
