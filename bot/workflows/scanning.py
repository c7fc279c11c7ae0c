"""The bytes that leave are looked through as they are written, both parts of a dataset, before they first leave.

A check does it for a new version. Versions from before, and all of them when the patterns change, are looked through
at their next use, in a worker.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from bot.workers import Stopped
from bot.workflows.desk import Backroom, Desk
from trainers.dataset import Report
from trainers.dataset.rules.written import Scan, scan, scanner

log = logging.getLogger(__name__)


def of(desk: Desk, report: Report) -> tuple[Scan, ...] | None:
    """Of both parts; None while one is not looked through, which a tick then does."""
    by, parts = (
        scanner(presidio=desk.settings.presidio),
        (str(report.train_sha256), str(report.holdout_sha256)),
    )
    found = [desk.store.scans.of(sha256, by) for sha256 in parts]
    for sha256, kept in zip(parts, found, strict=True):
        if kept is None:
            desk.store.scans.want(sha256, by, now=desk.clock())
    known = tuple(Scan.from_json(kept) for kept in found if kept is not None)
    return known if len(known) == len(parts) else None


def keep(desk: Backroom, scans: Iterable[Scan]) -> None:
    by = scanner(presidio=desk.settings.presidio)
    for one in scans:
        desk.store.scans.keep(one.sha256, by, one.to_json(), now=desk.clock())


def step(desk: Desk, sha256: str, by: str) -> None:
    """Look through one file that waits for it."""
    presidio = desk.settings.presidio
    path = desk.settings.files / f"{sha256}.jsonl"
    if by != scanner(presidio=presidio) or not path.exists():
        desk.store.scans.drop(sha256)  # wanted before a change of the settings, or of a version that is gone
        return
    try:
        found = desk.workers.poll(f"scan {sha256}", scan, path, presidio=presidio)
    except Stopped:
        log.exception("looking through %s", path.name)
        desk.store.scans.drop(sha256)  # the next use asks for it again
        return
    if found is None:
        return
    if found.sha256 != sha256:
        log.error("%s is not the file that was written: it is not trusted", path.name)
        desk.store.scans.drop(sha256)
        return
    keep(desk, [found])
