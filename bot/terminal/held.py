"""Rows for the terminal's measurements: the file, checked and split, or measured on a holdout of one's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bot.results import Refusal
from bot.views.findings import compact
from bot.views.words import counted
from bot.workflows.datasets import SEED
from trainers.dataset import (
    Columns,
    Example,
    Finding,
    Report,
    check_file,
    overlap,
    read,
    store_chat,
    with_system,
)
from trainers.dataset.findings import Findings
from trainers.dataset.rules.near import near_copies, question_text
from trainers.dataset.rules.sensitive import check_sensitive
from trainers.dataset.values import question_keys
from trainers.evaluation import normalise

LISTED = 20


@dataclass(frozen=True)
class Rows:
    """`left_out` rows of the file ask what the given holdout asks, and were not trained on. The rows in the lines
    `near` ask nearly that, and were. `foreign` rows of that holdout have a label that the file does not know: nobody
    can give it."""

    report: Report
    files: Path
    left_out: int = 0
    foreign: int = 0
    near: tuple[int, ...] = ()


@contextmanager
def checked(
    file: Path, holdout: Path | None, columns: Columns, local_models: Mapping[str, Path]
) -> Iterator[Rows | Refusal]:
    """What is written for it is thrown away afterwards. A refusal is about the given holdout."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        # deep, as in Slack: near copies stay on one side
        report = check_file(file, file.name, columns, files, SEED, local_models=local_models, deep=True)
        if holdout is None or report.blocked:
            yield Rows(report, files)
        else:
            yield _against(file, holdout, columns, report, files)


def _against(file: Path, holdout: Path, columns: Columns, report: Report, files: Path) -> Rows | Refusal:
    """Trained on the whole file, less what the given holdout asks; measured on that holdout."""
    columns = report.columns if report.format != "chat" else Columns()
    held = read(holdout, holdout.name, columns=columns)
    findings = (*held.findings, *_sensitive(held.examples))
    faults = [finding for finding in findings if finding.blocks]
    if faults:
        more = f" And {len(faults) - 1:,} more." if len(faults) > 1 else ""
        return Refusal(f"{holdout} can't be measured on. {faults[0].message} {faults[0].cure}{more}")
    if not held.examples:
        return Refusal(f"{holdout} can't be measured on: there are no rows in it.")
    train = read(file, file.name, columns=columns).examples
    shared = {one.train_line for one in overlap(train, held.examples)}
    kept = [example for example in train if example.line not in shared]
    if not kept:
        return Refusal(f"{holdout} asks all that {file} asks, so no row is left to learn from.")
    foreign = _foreign(report, held.examples)
    if foreign == len(held.examples):
        return Refusal(f"{holdout} can't be measured on: none of its answers is a label of {file}.")
    sides = [
        with_system(side, report.system) if report.system else tuple(side) for side in (kept, held.examples)
    ]
    changed = replace(
        report,
        findings=(*report.findings, *findings),
        train_sha256=store_chat(files, sides[0]),
        holdout_sha256=store_chat(files, sides[1]),
        n_train=len(kept),
        n_holdout=len(held.examples),
    )
    return Rows(changed, files, len(shared), foreign, _near(kept, held.examples))


def _sensitive(examples: tuple[Example, ...]) -> tuple[Finding, ...]:
    """Secrets and personal data: what is held out is sent to models like the rest."""
    found = Findings(LISTED)
    check_sensitive(examples, found)
    return found.sorted()


def _near(kept: Sequence[Example], held: Sequence[Example]) -> tuple[int, ...]:
    """Lines of rows that nearly ask what is held out."""
    both = [*held, *kept]
    near = near_copies([question_text(example) for example in both], question_keys(both))
    return tuple(both[pair.later].line for pair in near.pairs if pair.earlier < len(held) <= pair.later)


def _foreign(report: Report, held: tuple[Example, ...]) -> int:
    if report.task != "labels":
        return 0
    known = {normalise(count.label) for count in report.labels}
    return sum(normalise(example.answer) not in known for example in held)


def about(rows: Rows) -> list[str]:
    """What the holdout did to the rows, as sentences."""
    said = []
    if rows.left_out:
        said.append(
            f"{counted(rows.left_out, 'row')} asked what the holdout asks, and stayed out of the learning."
        )
    if rows.near:
        more = f" and {len(rows.near) - LISTED:,} more" if len(rows.near) > LISTED else ""
        said.append(
            f"{counted(len(rows.near), 'row')} nearly asked what the holdout asks, and stayed in the learning, so the "
            f"scores may look too good: {compact(rows.near[:LISTED])}{more}."
        )
    if rows.foreign:
        said.append(
            f"{counted(rows.foreign, 'held-out row')} have a label that the file does not know, so nobody can be right."
            if rows.foreign > 1
            else "1 held-out row has a label that the file does not know, so nobody can be right."
        )
    return said
