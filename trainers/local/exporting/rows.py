"""The job's own rows: ten questions to check an export with, their number, the system prompt they share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.local.exporting.refusals import ExportRefused
from trainers.local.exporting.sources import Source
from trainers.local.serving.values import ChatMessage
from trainers.local.tool_calls import tools_for_template

QUESTIONS = 10
ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True)
class Question:
    """`tools` as the row has them."""

    messages: Sequence[ChatMessage]
    tools: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Questions:
    """Conversations up to where the model answers, spread evenly over the file. `system`: the first message of
    every row, where it is the same system message in all of them."""

    file: Path
    asked: Sequence[Question]
    system: str | None


@dataclass(frozen=True)
class DataFile:
    """`sha256` in hex over the bytes."""

    rows: int
    sha256: str


def questions_of(source: Source, given: Path | None) -> Questions:
    """From `given`, else from what the job was validated on, else from what it was trained on.

    Raises ExportRefused where there is no file, or nothing in it to ask.
    """
    path = given or _kept(source, source.job.validation_file) or _kept(source, source.job.training_file)
    if path is None:
        raise ExportRefused(
            f"The rows of the job in {source.folder} are gone, so its export could not be checked. "
            "Name a chat JSONL file with questions: --rows FILE."
        )
    rows = _read(path)
    asked = list({repr(found): found for row in rows if (found := _question(row))}.values())
    if not asked:
        raise ExportRefused(
            f"{path} has no plain question and answer to check the export with. Give --rows FILE."
        )
    return Questions(path, _spread(asked), _shared_system(rows))


def _kept(source: Source, named: str | None) -> Path | None:
    """Where the job wrote it, or beside the job.json of a folder that was moved."""
    candidates = [Path(named), source.folder / Path(named).name] if named else []
    return next((path for path in candidates if path.is_file()), None)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportRefused(f"Reading the rows in {path}: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise ExportRefused(f"Line {number} of {path} is no JSON: {error}. Give chat JSONL.") from error
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _question(row: dict[str, Any]) -> Question | None:
    """Up to the last answer that only plain text is before; None where there is none."""
    messages = row.get("messages") or []
    places = [place for place, each in enumerate(messages) if each.get("role") == "assistant"]
    plain = [place for place in places if place and all(map(_is_plain, messages[:place]))]
    if not plain:
        return None
    asked = [ChatMessage(each["role"], each["content"]) for each in messages[: plain[-1]]]
    return Question(asked, tools_for_template(row) or ())


def _is_plain(message: dict[str, Any]) -> bool:
    """No result of a tool, no call, picture or parts."""
    calls = message.get("tool_calls") or message.get("function_call")
    return message.get("role") in ROLES and isinstance(message.get("content"), str) and not calls


def _spread(asked: Sequence[Question]) -> list[Question]:
    wanted = min(QUESTIONS, len(asked))
    return [asked[place * len(asked) // wanted] for place in range(wanted)]


def _shared_system(rows: Sequence[dict[str, Any]]) -> str | None:
    firsts = {json.dumps((row.get("messages") or [None])[0], sort_keys=True) for row in rows}
    first = json.loads(firsts.pop()) if len(firsts) == 1 else None
    if first and first.get("role") in ("system", "developer") and isinstance(first.get("content"), str):
        return str(first["content"])
    return None


def describe(source: Source, named: str | None) -> DataFile | None:
    """None where the job had no such file, or it is gone."""
    path = _kept(source, named)
    if path is None:
        return None
    content = path.read_bytes()
    return DataFile(
        sum(1 for line in content.split(b"\n") if line.strip()), hashlib.sha256(content).hexdigest()
    )
