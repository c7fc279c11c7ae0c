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
    now = context.clock()
    labels = _labels_since(context, promotion)
    proof = promotion_proof(context, promotion.what, None)
    holdout = count_right(proof.candidate)
    accuracy = None
    share = None
    if holdout is not None:
        accuracy = judge_live_accuracy(_past_weeks(labels, now), holdout)
        share = holdout.share
    shown_since = now - SHOWN_WEEKS * WEEK_S
    recent = [label for label in labels if label.at >= shown_since]
    certain = [label for label in recent if label.is_right is not None]
    return LiveAnswers(
        accuracy=accuracy,
        right=sum(label.is_right is True for label in certain),
        labelled=len(certain),
        unclear=len(recent) - len(certain),
        holdout=share,
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
    name = alias_for(watch.dataset)
    calls = samples.ids(context.settings.recipes, name, promotion.recipe, since=since)
    labels = context.store.live_labels.of(watch.dataset)
    labelled = {label.call for label in labels}
    waiting = [call for call in calls if call not in labelled]
    waiting.sort(key=_at_random)
    this_week = units.week_period(today)
    done = sum(label.at >= this_week.start_s for label in labels)
    still_to_label = max(USUAL_LABELS - done, 0)
    return tuple(waiting[:still_to_label])


def labels_of(context: AppContext, version: Dataset, recipe: Recipe | None) -> tuple[str, ...]:
    """Returns the labels to choose from, the most frequent of the version first; none if answers are no labels."""
    if recipe is None or recipe.scoring != "label":
        return ()
    report = datasets.report_of(version)
    of_version = []
    if report is not None:
        of_version = [count.label for count in report.labels]
    # A recipe was frozen with its labels, some of which the newest version may lack.
    return tuple(dict.fromkeys([*of_version, *recipe.labels]))


def _at_random(call: str) -> bytes:
    """A key that puts calls into an order that has nothing to do with them."""
    return hashlib.sha256(call.encode()).digest()


def _labels_since(context: AppContext, promotion: Promotion) -> list[LiveLabel]:
    """Returns the labels of answers of this recipe since it was promoted."""
    labels = context.store.live_labels.of(promotion.dataset)
    of_recipe = [label for label in labels if label.recipe == promotion.recipe]
    return [label for label in of_recipe if label.called_at >= promotion.at]


def _past_weeks(labels: Sequence[LiveLabel], now: float) -> list[LabelledWeek]:
    """Counts the labels by the week in which they were given, without the current week, which still changes."""
    counts: dict[str, tuple[int, int]] = {}
    this_week = units.week_period(units.day_of(now)).name
    for label in labels:
        day = units.day_of(label.at)
        week = units.week_period(day).name
        if label.is_right is None or week == this_week:
            continue
        right, labelled = counts.get(week, (0, 0))
        counts[week] = (right + label.is_right, labelled + 1)
    weeks = []
    for week in sorted(counts):
        right, labelled = counts[week]
        weeks.append(LabelledWeek(right, labelled))
    return weeks
