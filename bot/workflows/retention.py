"""What is kept no longer than needed: refused files, prompts, scratch of measurements, what a kill left."""

from __future__ import annotations

import shutil

from bot.workflows import forgetting, rewriting
from bot.workflows.desk import Desk
from bot.workflows.measuring import measurements

DAY_S = 24 * 3600.0


def sweep(desk: Desk) -> None:
    """Every few minutes."""
    now, kept = desk.clock(), desk.settings.retention
    for version in desk.store.datasets.all():
        is_old = version.updated_at < now - kept.refused * DAY_S
        if kept.refused and is_old and version.state == "refused" and version.sha256:
            forgetting.expire(desk, version)
    for document in desk.store.documents.refused(now - kept.refused * DAY_S) if kept.refused else ():
        (desk.settings.files / str(document.sha256)).unlink(missing_ok=True)
        desk.store.documents.move(document, "refused", now=now, sha256=None)
    desk.store.forgettings.erase_late_answers()
    rewriting.tidy(desk)
    _tidy_measurements(desk)
    for path in desk.settings.files.glob("cleaned-*"):  # as 0.1.0 named them; none of them is sent any more
        path.unlink(missing_ok=True)
    for path in (*desk.settings.files.glob("incoming-*"), *desk.settings.files.glob("*.tmp")):
        if path.stat().st_mtime < now - DAY_S:  # a kill left them half written
            path.unlink(missing_ok=True)


def _tidy_measurements(desk: Desk) -> None:
    """Prompts, which hold rows in full, go when a measurement is over; what people still look at, later."""
    for folder in (desk.settings.data / "measurements").glob("m*"):
        measurement = desk.store.measurements.get(int(folder.name[1:]))
        if measurement is None or measurement.state in measurements.OPEN:
            continue
        for prompts in folder.glob("*.jsonl*"):
            prompts.unlink(missing_ok=True)
        days = desk.settings.retention.scratch
        if days and measurement.updated_at < desk.clock() - days * DAY_S:
            shutil.rmtree(folder)
