"""Imports calls that other tools recorded: reads a file, chooses the calls of one task, and writes their questions as
rows. Stores nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bot.cards.datasets.traces import TraceImport
from bot.values.runs import Refusal
from trainers.traces.facts import NoSuchGroup, choose_group, gather_facts
from trainers.traces.reader import TraceFile, read
from trainers.traces.rows import make_rows


@dataclass(frozen=True)
class TraceChoice:
    """Which calls are wanted, and how their rows are written. `model` is one of the file's, None for the one with the
    most calls. `prompt` is the number of instructions, None for the most frequent ones; `all_prompts` takes all.

    `with_answers` writes the model's own answers as labels, `masks` placeholders for personal data."""

    model: str | None = None
    prompt: int | None = None
    all_prompts: bool = False
    with_answers: bool = False
    masks: bool = False


def import_traces(path: Path, name: str, wanted: TraceChoice) -> TraceImport | Refusal:
    """Reads a file of recorded calls. `name` is its name for people. Raises OSError as open() does."""
    file = read(path, name)
    if not file.calls:
        return Refusal(_why_unread(file))
    group = choose_group(file.calls, wanted.model, wanted.prompt, all_prompts=wanted.all_prompts)
    facts = gather_facts(file.calls)
    if isinstance(group, NoSuchGroup):
        models = [model.model for model in facts.models]
        return Refusal(_no_such_group(group, models, len(facts.prompts)))
    rows = make_rows(group.calls, with_answers=wanted.with_answers, masks=wanted.masks)
    chosen = gather_facts(group.calls)
    return TraceImport(file, facts, group, chosen, rows)


def _why_unread(file: TraceFile) -> str:
    blocking = [finding for finding in file.findings if finding.blocks]
    worst = blocking or list(file.findings)
    sentences = [f"{finding.message} {finding.cure}" for finding in worst[:2]]
    return " ".join(sentences)


def _no_such_group(wanted: NoSuchGroup, models: Sequence[str], prompts: int) -> str:
    what = []
    if wanted.model is not None:
        what.append(f"of the model {wanted.model}")
    if wanted.prompt is not None:
        what.append(f"with instructions {wanted.prompt}")
    calls = " ".join(what)
    listed = ", ".join(models[:10])
    existing = f"Its models are {listed}; its instructions have the numbers 1 to {prompts:,}."
    return f"The file has no calls {calls}. {existing}"


def write_rows(imported: TraceImport, out: Path) -> Refusal | None:
    """Writes the rows into a new file that only this user may read. Returns a refusal if there are none, or if the file
    exists or can't be written."""
    if not imported.rows.lines:
        return Refusal(f"{out} was not written: no call has a question that can become a row.")
    # Recorded calls may hold customers' words, so no other user of the machine may read them.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(out, flags, 0o600)
    except FileExistsError:
        return Refusal(f"{out} exists already: name a new file.")
    except OSError as error:
        return Refusal(f"{out} can't be written: {error.strerror}. Name a file in a folder that is yours.")
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(line + b"\n" for line in imported.rows.lines)
    return None
