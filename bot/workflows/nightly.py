"""Each night, at the first look after 3 o'clock (UTC), also where the bot was down then: the whole database is checked
and backed up, free pages are given back to the disk, and providers are asked when their models end."""

from __future__ import annotations

import logging
from dataclasses import replace

from bot import model_ends
from bot.workflows import telling
from bot.workflows.desk import Desk
from storage import backups
from storage.chain import Broken
from storage.database import StorageError
from trainers.client import Trainer
from trainers.errors import TrainerError, Uncertain

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


def ask_for_ends(desk: Desk) -> None:
    """Also when the bot starts. Who doesn't answer is asked again at the next look; what was told before holds.
    An end that is withdrawn holds until the bot's next start."""
    for row in desk.settings.providers:
        trainer, subject = desk.trainers.get(row.name), f"models of {row.name}"
        asked_at = desk.checked_at.get(subject, 0.0)
        if trainer is None or row.is_started_by_us or not backups.is_night_over(asked_at, desk.clock()):
            continue
        try:
            _ask_for_ends(desk, row.name, trainer)
        except Uncertain as trouble:
            log.info("when models of %s end: %s", row.name, trouble)
            continue
        except TrainerError as trouble:
            log.warning("%s doesn't say when its models end: %s", row.name, trouble)
        desk.checked_at[subject] = desk.clock()


def _ask_for_ends(desk: Desk, provider: str, trainer: Trainer) -> None:
    settings = desk.settings
    ends = {model.id: model.shutdown_date for model in trainer.models() if model.shutdown_date}
    model_ends.keep(settings.data, provider, ends, telling.day(desk.clock()))
    desk.settings = replace(settings, providers=model_ends.with_told_ends(settings.providers, settings.data))
