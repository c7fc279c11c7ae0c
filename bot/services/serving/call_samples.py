"""Which calls to a dataset's name the door samples: a random share, once somebody who decides about its rows has
agreed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from bot.context import CoreContext
from bot.rules.models.promotion import alias_for
from trainers.dataset.rows import Example
from trainers.recipes import canary_events, feedback, samples
from trainers.recipes.feedback import RATED_DAYS
from trainers.recipes.usage import day_of
from trainers.recipes.values import Sampling

DAY_S = 24 * 3600.0
FIRST_WEEKS = "watched"  # a folder of the data folder


def sampling_of(context: CoreContext, dataset: str) -> Sampling | None:
    """Returns what the door samples of the calls to this dataset, None if nothing."""
    watch = context.store.watches.current(dataset)
    if watch is None or not watch.samples:
        return None
    limits = context.settings.policy.watch
    if not limits.may_watch(watch.channel):
        return None
    # The policy may have been tightened since people agreed to the watch's share.
    share = min(watch.share, limits.share)
    if not share:
        return None
    return Sampling(share, limits.personal, presidio=context.settings.presidio)


def first_weeks_folder(context: CoreContext, dataset: str) -> Path:
    """Returns the folder of what is kept of the first weeks of calls (monitoring/week_worker.py)."""
    return context.settings.data / FIRST_WEEKS / dataset


def delete_old(context: CoreContext) -> None:
    """Deletes the calls that are older than the policy's days, and those of datasets of which none are sampled any
    more. Those of a dataset for which somebody has asked for a larger share stay until that is decided."""
    folder = context.settings.recipes
    now = context.clock()
    # A day at a time, since the file is rewritten after each deletion.
    midnight = now // DAY_S * DAY_S
    days_before = context.settings.policy.watch.days - 1
    samples.forget_before(folder, midnight - days_before * DAY_S)
    feedback.forget_ratings(folder, day_of(now - RATED_DAYS * DAY_S))
    current_tests = [test.id for test in context.store.live_tests.all_current()]
    canary_events.forget(folder, current_tests)

    sampled = [watch.dataset for watch in context.store.watches.all_current() if watch.share]
    names = {alias_for(dataset) for dataset in sampled}
    for name in samples.names(folder) - names:
        samples.forget_name(folder, name, now=now)
    needed = {first_weeks_folder(context, dataset) for dataset in sampled}
    first_weeks = context.settings.data / FIRST_WEEKS
    for path in first_weeks.glob("*"):
        if path not in needed:
            shutil.rmtree(path)


def delete_rows(context: CoreContext, rows: Iterable[Example]) -> None:
    """Deletes the sampled calls, under all names, that ask what one of these rows asks."""
    samples.forget_rows(context.settings.recipes, rows, presidio=context.settings.presidio)


def delete_of(context: CoreContext, dataset: str) -> None:
    """Deletes every sampled call of a dataset that was deleted. Its name has to be published without sampling
    before."""
    folder = context.settings.recipes
    name = alias_for(dataset)
    if folder.exists():
        samples.forget_name(folder, name, now=context.clock())
        feedback.forget_name(folder, name)
    weeks = first_weeks_folder(context, dataset)
    if weeks.exists():
        shutil.rmtree(weeks)
