"""A dataset without some of its rows, as its next version.

Its files are written in a folder of their own. The deletion of the versions before (forgetting.py) moves them to the
other files once the new version is recorded; what a kill leaves before that is deleted by the next try or the
retention's sweep.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from bot.results import Refusal
from bot.views import datasets as dataset_views
from bot.views import forgetting as views
from bot.views.blocks import code
from bot.views.words import counted
from bot.work.checking import LISTED, Inspected, inspect
from bot.workflows import datasets, scanning
from bot.workflows.desk import Backroom
from bot.workflows.row_limits import usual_limit
from storage.datasets import NewDataset
from storage.records import Dataset
from trainers.dataset import Columns, Report, read
from trainers.dataset.holdout.parts import store_without
from trainers.dataset.holdout.versions import Previous
from trainers.dataset.values import question_key


@dataclass(frozen=True)
class Rewritten:
    """`before` without rows, checked as `inspected`. `rows` were taken out, `held` of them held out."""

    before: Dataset
    inspected: Inspected
    rows: int
    held: int


def without_rows(desk: Backroom, dataset: str, lines: Collection[int]) -> Rewritten | Refusal:
    """The newest usable version without the rows that ask what the rows at these lines of its file ask."""
    before = desk.store.datasets.newest(dataset)
    report = datasets.report_of(before) if before else None
    if before is None or report is None:
        return Refusal(f"{code(dataset)} has no version that can be used, so no row can be taken out of it.")
    keys = _asked(desk, before, lines)
    return keys if isinstance(keys, Refusal) else _rewritten(desk, before, report, keys)


def add(desk: Backroom, new: Rewritten, person: str) -> Dataset:
    """Ready at once, as its check was; call it in the transaction that records the deletion."""
    now, before, report = desk.clock(), new.before, new.inspected.report
    values = NewDataset(before.name, before.owner, before.uploaded_by, report.name, source="")
    received = desk.store.datasets.receive(values, now=now)
    changes = {"sha256": report.source_sha256, "report": report.to_json()}
    added = desk.store.datasets.move(received, "ready", now=now, **changes) if received else None
    assert added is not None  # noqa: S101 - its channel's own name, in this transaction
    scanning.keep(desk, new.inspected.scans)
    rows = f"{counted(new.rows, 'row')}, {new.held} held out"
    detail = f"{rows}, of version {before.version}: version {added.version} has the others"
    subject = f"dataset {added.id}"
    desk.store.audit.add(at=now, who=person, action="take out rows", subject=subject, detail=detail)
    datasets.show(desk, added, dataset_views.checked(added, report), kind_is_post=True)
    datasets.put_findings(desk, added, report)
    datasets.put_beside(desk, added, views.taken_out(before.version, new.rows, new.held))
    return added


def settle(desk: Backroom, dataset: str) -> None:
    """The files of a new version that is recorded go to the others."""
    folder, newest = _folder(desk, dataset), desk.store.datasets.newest(dataset)
    report = datasets.report_of(newest) if newest else None
    parts = (f"{report.train_sha256}.jsonl", f"{report.holdout_sha256}.jsonl") if report else ()
    for name in (report.source_sha256, *parts) if report else ():
        if (folder / name).exists():
            (folder / name).replace(desk.settings.files / name)
    discard(desk, dataset)


def discard(desk: Backroom, dataset: str) -> None:
    if _folder(desk, dataset).exists():
        shutil.rmtree(_folder(desk, dataset))


def tidy(desk: Backroom) -> None:
    """What a kill left before its new version was recorded."""
    for folder in (desk.settings.data / "rewritten").glob("*"):
        if not desk.store.forgettings.of(folder.name):
            discard(desk, folder.name)


def _folder(desk: Backroom, dataset: str) -> Path:
    return desk.settings.data / "rewritten" / dataset


def _asked(desk: Backroom, version: Dataset, lines: Collection[int]) -> frozenset[bytes] | Refusal:
    columns = Columns(version.text_column, version.label_column)
    reading = read(
        desk.settings.files / str(version.sha256), version.filename, columns=columns, limits=LISTED
    )
    asked = {one.line: question_key(one) for one in reading.examples if one.line in lines}
    unknown = ", ".join(str(line) for line in sorted(set(lines) - asked.keys()))
    if unknown:
        return Refusal(
            f"No row of {code(version.name)}, version {version.version}, begins in line {unknown}. Lines are those of "
            f"{version.filename}, as its card and `finetune check` name them."
        )
    return frozenset(asked.values())


def _rewritten(
    desk: Backroom, before: Dataset, report: Report, keys: frozenset[bytes]
) -> Rewritten | Refusal:
    discard(desk, before.name)
    old = (str(report.train_sha256), str(report.holdout_sha256))
    parts = [_without(desk, before.name, sha256, keys) for sha256 in old]
    joined = _folder(desk, before.name) / "joined"
    with joined.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
    inspected = _inspected(desk, joined, f"{before.name}.jsonl", Previous(*parts), report.system)
    new = inspected.report
    if new.blocked:
        worst = next(one for one in new.findings if one.blocks)
        return Refusal(
            f"Without these rows {code(before.name)} can't be used: {worst.message} Delete it as a whole, or upload a "
            "file without them first."
        )
    if not new.n_holdout:
        return Refusal(
            f"Without these rows {code(before.name)} has no row left to test with. Upload more first."
        )
    joined.rename(joined.with_name(new.source_sha256))
    held = report.n_holdout - new.n_holdout
    return Rewritten(before, inspected, report.n_train - new.n_train + held, held)


def _without(desk: Backroom, dataset: str, sha256: str, keys: frozenset[bytes]) -> Path:
    folder = _folder(desk, dataset)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(desk.settings.files / f"{sha256}.jsonl", folder / f"{sha256}.jsonl")
    return folder / f"{store_without(folder, sha256, keys)}.jsonl"


def _inspected(desk: Backroom, path: Path, name: str, previous: Previous, system: str | None) -> Inspected:
    """As an upload is. `system` stands in the rows already; models trained on them are asked with it."""
    limit, settings = usual_limit(desk.settings), desk.settings
    inspected = inspect(
        path,
        name,
        Columns(),
        path.parent,
        datasets.SEED,
        previous=previous,
        drawings=path.parent,
        longest=limit.tokens if limit else None,
        lengths_by=limit.own if limit else None,
        presidio=settings.presidio,
        local_models=settings.trainer.folders,
    )
    return replace(inspected, report=replace(inspected.report, system=system))
