"""Which rows are for training and which are held out: drawn anew, against a frozen holdout, or as before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.dataset.findings import Fault, Findings, Rule
from trainers.dataset.holdout.splitting import choose
from trainers.dataset.holdout.versions import Before, Diff, Previous, diff, held_rows, rows_of, written
from trainers.dataset.rules.checks import MINIMUM
from trainers.dataset.rules.written import sensitive_rows
from trainers.dataset.scan.facts import Facts
from trainers.dataset.scan.stored import ChatFile, StoredRows
from trainers.dataset.values import Example, Task, at, distinct_places, question_keys

OVERLAP = Rule("overlap", "blocks", "Delete the line: who trains on the test's questions measures nothing.")
NO_HOLDOUT = Rule(
    "no_holdout",
    "blocks",
    "Add rows, three different questions for a label at least: without a test nothing is known.",
)


@dataclass(frozen=True)
class Parts:
    """`held` are places of rows, no two of them copies. `kept` are rows of an earlier holdout that the file
    doesn't have, to be held out after them. `copies` are places of rows that ask what a held-out row asks: as
    further held-out rows they would be evidence counted twice, and for training they would give the answer away."""

    held: frozenset[int]
    kept: tuple[Example, ...] = ()
    diff: Diff | None = None
    copies: frozenset[int] = frozenset()

    @property
    def not_trained(self) -> frozenset[int]:
        return self.held | self.copies


def labels_of(facts: Facts, rows: StoredRows, task: Task) -> list[str]:
    """For each row its label; all empty for free text."""
    if task != "labels":
        return [""] * len(facts)
    return [
        rows[i].answer.strip() if label is None else label for i, label in enumerate(facts.given_labels())
    ]


def drawn(
    facts: Facts, labels: Sequence[str], seed: int, groups: Sequence[int] | None, found: Findings
) -> Parts:
    held = choose(facts.keys, labels, seed, groups=groups)
    if len(facts.keys) >= MINIMUM and not held:
        found.about_file(NO_HOLDOUT, "No row can be set aside as the test.")
    return Parts(held, copies=_copies(held, facts.keys))


def _copies(held: frozenset[int], keys: Sequence[bytes]) -> frozenset[int]:
    asked = {keys[place] for place in held}
    return frozenset(place for place, key in enumerate(keys) if key in asked and place not in held)


def against(frozen: Sequence[Example], facts: Facts, found: Findings) -> Parts:
    """`frozen` is the holdout since earlier: every row is for training, and none may ask what it asks."""
    held = dict(zip(question_keys(frozen), (example.line for example in frozen), strict=True))
    for line, key in zip(facts.lines, facts.keys, strict=True):
        if key in held:
            found.at(line, Fault(OVERLAP, f"asks what the holdout asks in line {held[key]}"))
    return Parts(frozenset(), tuple(frozen))


def continued(
    previous: Previous,
    rows: Sequence[Example],
    keys: Sequence[bytes],
    task: Task,
    seed: int,
    groups: Sequence[int] | None = None,
    *,
    presidio: bool = False,
) -> Parts:
    """The holdout of the version before stays held out; a share of the new questions joins it. `keys` are the rows'
    question_keys. A held-out row that the file no longer has is dropped where it holds a secret or personal data.

    ValueError where a file of it is not what was written.
    """
    doing = "reading the version before"
    train, holdout = rows_of(written(previous.train, doing), task), written(previous.holdout, doing)
    before = Before(train, rows_of(holdout, task))
    now = rows_of(rows, task, keys)
    asked = set(keys)
    missing = [place for place, row in enumerate(before.holdout) if row.key not in asked]
    sensitive = sensitive_rows([holdout[place] for place in missing], presidio=presidio)
    dropped = {missing[place] for place in sensitive}
    rest = Before(train, tuple(row for place, row in enumerate(before.holdout) if place not in dropped))
    held = held_rows(now, rest, seed, groups, instead_of=len(dropped))
    stay = [place for place in missing if place not in dropped]
    one_each = distinct_places(
        [before.holdout[place].key for place in stay], [before.holdout[place].answer for place in stay]
    )
    kept = at(at(one_each, stay), holdout)
    return Parts(held, kept, diff(now, before, held, task, len(dropped)), _copies(held, keys))


def store_without(folder: Path, sha256: str, keys: Collection[bytes]) -> str:
    """Write the part FOLDER/SHA256.jsonl again without the rows that ask these questions (their `question_key`).

    Returns the sha256 of the new file. The rows that stay keep their bytes and order; the old file stays too.
    """
    path = folder / f"{sha256}.jsonl"
    rows = written(path, "taking rows out of")
    asking = dict(zip((row.line for row in rows), question_keys(rows), strict=True))
    with path.open("rb") as old, ChatFile(folder) as new:
        for number, line in enumerate(old, 1):
            if asking.get(number) not in keys:
                new.write_part(line)
        return new.close()
