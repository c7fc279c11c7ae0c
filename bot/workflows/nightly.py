"""What keeps the database well: each night's check of the whole file and its backup, at the first look after 3 o'clock
(UTC), also where the bot was down then; and free pages given back to the disk."""

from __future__ import annotations

import logging

from bot.workflows.desk import Desk
from storage import backups
from storage.chain import Broken
from storage.database import StorageError

log = logging.getLogger(__name__)


def check(desk: Desk) -> None:
    """Each night, and at each look while it is damaged: a backup reads the tables, not their indexes."""
    now = desk.clock()
    if "database" not in desk.troubles and not backups.is_night_over(
        desk.checked_at.get("database", 0.0), now
    ):
        return
    desk.checked_at["database"] = now
    try:
        backups.check_integrity(desk.settings.database)
    except StorageError as error:
        log.error("%s", error)
        desk.troubles["database"] = str(error)
        return
    desk.troubles.pop("database", None)


def back_up(desk: Desk) -> None:
    """A backup that can't be made is said in the log, and tried again at the next look."""
    settings, now = desk.settings, desk.clock()
    kept = settings.service.backups_kept
    if not kept or not backups.is_due(settings.backups, now):
        return
    try:
        made = backups.back_up(settings.database, settings.backups, now=now)
    except StorageError as error:
        log.error("the nightly backup was not made: %s", error)
        desk.troubles["backup"] = str(error)
        return
    desk.troubles.pop("backup", None)
    if isinstance(made.audit, Broken):
        log.error("the audit log was altered, `finetune audit verify` says where: %s", made.audit.why)
    backups.forget_all_but(settings.backups, kept)
    log.info("the nightly backup is %s", made.path)


def shrink(desk: Desk) -> None:
    if desk.store.database.shrink():
        log.info("the database gave free pages back to the disk")
