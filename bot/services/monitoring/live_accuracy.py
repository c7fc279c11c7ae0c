"""What people's labels of random calls say about the answers of what is in use, and which calls wait for a label.

Only calls that were sampled at random count, in an order that nobody has chosen, and each once. Rows that were chosen
because they teach much are never among them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta

from bot.context import AppContext
from bot.rules import units
from bot.rules.models.promotion import alias_for
from bot.services.datasets import datasets
from bot.services.evidence.promotion_evidence import promotion_proof
from bot.values.monitoring import USUAL_LABELS, LiveAnswers, count_right
from storage.monitoring.watches import LiveLabel, Watch
from storage.promotions import Promotion
from storage.records import Dataset
from trainers.monitoring.live_accuracy import SHOWN_WEEKS, LabelledWeek, judge_live_accuracy
from trainers.recipes import samples
from trainers.recipes.values import Recipe

WEEK_S = 7 * 24 * 3600.0


def live_answers(context: AppContext, watch: Watch) -> LiveAnswers | None:
    """Returns None if no calls are sampled."""
    promotion = context.store.promotions.current(watch.dataset)
    if promotion is None or promotion.recipe is None or not watch.samples:
        return None
    labels = _labels_since(context, promotion)
    holdout = count_right(promotion_proof(context, promotion.what, None).candidate)
    accuracy = None
    if holdout is not None:
        accuracy = judge_live_accuracy(_past_weeks(labels, context.clock()), holdout)
    recent = [label for label in labels if label.at >= context.clock() - SHOWN_WEEKS * WEEK_S]
    certain = [label for label in recent if label.is_right is not None]
    return LiveAnswers(
        accuracy=accuracy,
        right=sum(label.is_right is True for label in certain),
        labelled=len(certain),
        unclear=len(recent) - len(certain),
        holdout=holdout.share if holdout else None,
    )


def open_calls(context: AppContext, watch: Watch) -> tuple[str, ...]:
    """Returns the ids of the calls that people are asked to label now, in the order in which they are asked: of those
    that what is in use has answered this week and the week before, so many that with the labels of this week they are
    USUAL_LABELS."""
    promotion = context.store.promotions.current(watch.dataset)
    if promotion is None or promotion.recipe is None or not watch.samples:
        return ()
    today = context.today()
    last_week = units.week_period(today - timedelta(days=7))
    since = max(last_week.start_s, promotion.at)
    ids = samples.ids(context.settings.recipes, alias_for(watch.dataset), promotion.recipe, since=since)
    labelled = {label.call: label for label in context.store.live_labels.of(watch.dataset)}
    this_week = units.week_period(today)
    done = sum(label.at >= this_week.start_s for label in labelled.values())
    waiting = sorted((each for each in ids if each not in labelled), key=_at_random)
    return tuple(waiting[: max(USUAL_LABELS - done, 0)])


def labels_of(context: AppContext, version: Dataset, recipe: Recipe | None) -> tuple[str, ...]:
    """Returns the labels to choose from, the most frequent of the version first; none if answers are no labels."""
    if recipe is None or recipe.scoring != "label":
        return ()
    report = datasets.report_of(version)
    of_version = [count.label for count in report.labels] if report else []
    return tuple(dict.fromkeys([*of_version, *recipe.labels]))


def _at_random(call: str) -> bytes:
    """A key that puts calls into an order that has nothing to do with them."""
    return hashlib.sha256(call.encode()).digest()


def _labels_since(context: AppContext, promotion: Promotion) -> list[LiveLabel]:
    """Returns the labels of answers of this recipe since it was promoted."""
    labels = context.store.live_labels.of(promotion.dataset)
    return [label for label in labels if label.recipe == promotion.recipe and label.called_at >= promotion.at]


def _past_weeks(labels: Sequence[LiveLabel], now: float) -> list[LabelledWeek]:
    """Counts the labels by the week in which they were given, without the current week, which still changes."""
    counts: dict[str, tuple[int, int]] = {}
    this_week = units.week_period(units.day_of(now)).name
    for label in labels:
        week = units.week_period(units.day_of(label.at)).name
        if label.is_right is None or week == this_week:
            continue
        right, labelled = counts.get(week, (0, 0))
        counts[week] = (right + label.is_right, labelled + 1)
    return [LabelledWeek(right, labelled) for _, (right, labelled) in sorted(counts.items())]
