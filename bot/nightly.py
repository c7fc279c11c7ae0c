"""What the bot does once a night: it checks the database, wipes what deletions left in it, and backs it up.

A bot that was stopped at 3:00 UTC backs up at its next start, and does the rest ten minutes later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from bot.context import AppContext
from storage import backup
from storage.audit import BrokenLog
from storage.database import Stopped, StorageError

CALM_S = 600.0  # after a start people and jobs have waited long enough

log = logging.getLogger(__name__)


def check_database(context: AppContext) -> None:
    """Checks the database each night, and every time while it is damaged. The backup alone would not find a damaged
    index, as it reads only the tables."""
    if "database" not in context.troubles and not _is_due(context, _last_check(context)):
        return
    try:
        backup.check_integrity(context.settings.database, _stop_of(context))
    except Stopped:
        return
    except StorageError as error:
        log.error("%s", error)
        context.troubles["database"] = str(error)
        return
    context.settings.database_check.write_text(f"{context.clock()}", encoding="utf-8")
    context.troubles.pop("database", None)


def back_up(context: AppContext) -> None:
    """Makes the nightly backup. If that fails, logs it and tries again next time."""
    settings = context.settings
    now = context.clock()
    is_stopping = _stop_of(context)
    n_backups = settings.service.backups_kept
    if not n_backups or not backup.is_due(settings.backups, now):
        return
    try:
        new_backup = backup.back_up(settings.database, settings.backups, now=now, is_stopping=is_stopping)
    except Stopped:
        return
    except StorageError as error:
        log.error("the nightly backup was not made: %s", error)
        context.troubles["backup"] = str(error)
        return
    context.troubles.pop("backup", None)
    if isinstance(new_backup.audit, BrokenLog):
        log.error("the audit log was altered; `finetune audit verify` shows where: %s", new_backup.audit.why)
    backup.delete_old_backups(settings.backups, n_backups)
    log.info("the nightly backup is %s", new_backup.path)


def wipe_database(context: AppContext) -> None:
    """In the night after a deletion, overwrites what is left of the deleted rows, a few pages at a time."""
    wipes = context.store.wipes
    requested_at = wipes.requested_at()
    if requested_at is None or not _is_due(context, requested_at):
        return
    if wipes.wipe(_stop_of(context)):
        log.info("what deletions left in the database was overwritten")


def shrink_database(context: AppContext) -> None:
    if context.store.wipes.return_pages(_stop_of(context)):
        log.info("the database returned free pages to the disk")


def _stop_of(context: AppContext) -> Callable[[], bool]:
    return lambda: context.threads.is_closing


def _is_due(context: AppContext, since: float) -> bool:
    """True if a night is over since `since` and the bot has been running for a while."""
    now = context.clock()
    return now - context.started_at >= CALM_S and backup.is_night_over(since, now)


def _last_check(context: AppContext) -> float:
    """Returns when the database was last checked, 0 if it never was."""
    try:
        return float(context.settings.database_check.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # a kill may have cut the file off
        return 0.0
