"""Every card against Slack's own types by TypeScript's compiler, as a third opinion after our checks and slack_sdk's.

The types know every key and its values, but no lengths. They don't have Slack's newest chart yet.
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
    """A folder where the compiler finds the packages."""
    (tmp_path / "node_modules").symlink_to(CLIENTS / "node_modules")
    return tmp_path


def test_every_card_has_slacks_own_types(sources: Path) -> None:
    blocks = dict(_blocks())
    untyped = {block["type"] for block in blocks.values()} & UNTYPED
    assert untyped == UNTYPED
    typed = {name: block for name, block in blocks.items() if block["type"] not in UNTYPED}
    views = {name: {**view, "blocks": []} for name, view in payloads().items() if "type" in view}
    assert len(typed) > 500 and views
    assert _complaints(sources, {"KnownBlock": typed, "View": views}) == []


def test_keys_and_values_unknown_to_the_types_are_reported(sources: Path) -> None:
    wrong = {f"wrong {number}": block for number, block in enumerate(WRONG)}
    complaints = "\n".join(_complaints(sources, {"KnownBlock": wrong}))
    assert [name for name in wrong if name not in complaints] == []


def _blocks() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, payload in payloads().items():
        for form in ("blocks", "newest"):
            for number, block in enumerate(payload.get(form, [])):
                yield f"{name} {form} {number}", block


def _complaints(folder: Path, constants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns a line for each fault, with the name of the constant. Each constant is on one line, counted from 1."""
    names = ["", *(name for values in constants.values() for name in values)]
    lines = ['import type { KnownBlock, View } from "@slack/types";']
    for kind, values in constants.items():
        for value in values.values():
            lines.append(f"export const card{len(lines)}: {kind} = {json.dumps(value)};")
    (folder / "cards.ts").write_text("\n".join(lines))
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS, "files": ["cards.ts"]}))
    process = subprocess.run([tsc()], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    faults = re.findall(r"^cards\.ts\((\d+),\d+\): (.*)", process.stdout, re.MULTILINE)
    assert bool(faults) == bool(process.returncode), process.stdout
    return [f"{names[int(line) - 1]}: {fault}" for line, fault in faults]
