"""Datasets of preference pairs that were made from people's verdicts on the answers of a dataset's models: their names,
the dataset behind them, and the model that was judged. Writes nothing; services/serving/tried_answers.py makes them."""

from __future__ import annotations

import hashlib
from collections import Counter

from bot.cards.datasets.check_reports import JudgedModel
from bot.context import CoreContext
from bot.services.common.starting_models import start_refusal
from bot.values.upload_fields import LONGEST_NAME
from storage.records import Dataset
from trainers.dataset import Report

PAIRS = "-pairs"


def pairs_name(dataset: str) -> str:
    """Returns the name of the dataset of pairs that is made from verdicts on a dataset's models. A long name is
    shortened, and gets a part of its hash, as two long names may begin alike."""
    if len(dataset) + len(PAIRS) <= LONGEST_NAME:
        return f"{dataset}{PAIRS}"
    digest = hashlib.sha256(dataset.encode()).hexdigest()
    ending = f"-{digest[:4]}{PAIRS}"
    beginning = dataset[: LONGEST_NAME - len(ending)].rstrip("-")
    return f"{beginning}{ending}"


def dataset_behind(context: CoreContext, pairs: Dataset) -> Dataset | None:
    """Returns the newest version of the dataset whose models' pairs this dataset has, None if it has none."""
    name = _name_behind(context, pairs)
    if name is None:
        return None
    return context.store.datasets.newest(name)


def name_in_use(context: CoreContext, version: Dataset) -> str:
    """Returns the dataset for which what was made from this version is used: pairs of verdicts on the answers to
    'tickets' are there to improve those, so their models are used for 'tickets'."""
    if not version.report:
        return version.name
    report = Report.from_json(version.report)
    if not report.pairs:
        return version.name
    return _name_behind(context, version) or version.name


def _name_behind(context: CoreContext, pairs: Dataset) -> str | None:
    # The name may be shortened with a hash, so it can't be turned back: each dataset's own is compared.
    for name, owner in context.store.datasets.owners().items():
        if owner == pairs.owner and pairs_name(name) == pairs.name:
            return name
    return None


def judged_model(context: CoreContext, pairs: Dataset) -> JudgedModel | None:
    """Returns the model that most of the verdicts behind these pairs are about, None if the pairs were uploaded. Its
    name is '' if no training by pairs can go on from it."""
    behind = dataset_behind(context, pairs)
    if behind is None:
        return None
    judged = context.store.tried_answers.judged(behind.name)
    counts = Counter(tried.model for tried in judged)
    if not counts:
        return None
    most = max(counts.values())
    most_judged = [model for model, count in counts.items() if count == most]
    # Of equally many, the newest, whose answers were judged last.
    name = most_judged[-1]
    if not _takes_pairs(context, name):
        name = ""
    return JudgedModel(name, behind.name, behind.id)


def _takes_pairs(context: CoreContext, name: str) -> bool:
    """True if a training by pairs can go on from the model of this name."""
    model = context.store.model(name)
    if model is None:
        return False
    if start_refusal(context.store, context.settings, model) is not None:
        return False
    row = context.settings.provider(model.provider)
    if row is None:
        return False
    return row.provider.can("dpo")
