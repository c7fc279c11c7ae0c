"""Which rows the tuned models of a dataset have learnt from. A question that a model was trained on can't test it, nor
what comes from it: the split of a new version leaves such questions to the training rows, and a training that goes on
from a tuned model is refused if held-out rows are among them all the same. Writes nothing."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from bot.cards.decisions.starting_models import overlap_text, unknown_rows_text
from bot.context import CoreContext
from bot.rules.models.starting_models import StartingModel
from bot.rules.plans import plan_from_json
from bot.services.datasets.pairs import dataset_behind, pairs_name
from bot.values.runs import Refusal
from storage.records import Dataset
from trainers.dataset import Report
from trainers.dataset.rows import question_keys
from trainers.dataset.versions import read_stored


def files_of_models(context: CoreContext, dataset: Dataset) -> tuple[Path, ...]:
    """Returns the files of training rows of all models that were tuned on a dataset, or on the one whose models' pairs
    it has, with those that these models came from. Leaves out files that were deleted."""
    store = context.store
    versions = []
    for name in _related(context, dataset):
        versions += [version.id for version in store.datasets.versions(name)]
    hashes: dict[str, None] = {}
    for run in store.runs.on(versions):
        if run.model is None:
            continue
        plan = plan_from_json(run.plan)
        hashes[plan.train_sha256] = None
        if plan.starts_from is not None:
            hashes |= dict.fromkeys(plan.starts_from.train_files)
    paths = [context.settings.files / f"{sha256}.jsonl" for sha256 in hashes]
    return tuple(path for path in paths if path.is_file())


def overlap_refusal(
    context: CoreContext, dataset: Dataset, report: Report, start: StartingModel
) -> Refusal | None:
    """Returns why a version can't measure what comes from `start`: rows that it sets aside were training rows of that
    model or of one that it came from. None if it can."""
    files = context.settings.files
    aside = keys_set_aside(context, report)
    for name, sha256 in zip(start.lineage, start.train_files, strict=True):
        path = files / f"{sha256}.jsonl"
        if not path.is_file():
            return Refusal(unknown_rows_text(start, name), "target")
        count = len(aside & question_keys_in(path))
        if count:
            return Refusal(overlap_text(start, name, dataset.name, count, len(aside)), "target")
    return None


def keys_set_aside(context: CoreContext, report: Report) -> frozenset[bytes]:
    """Returns the question_keys of a version's held-out and sealed rows."""
    keys = frozenset[bytes]()
    for sha256 in filter(None, (report.holdout_sha256, report.sealed_sha256)):
        keys |= question_keys_in(context.settings.files / f"{sha256}.jsonl")
    return keys


# A file's name is the hash of its content, so it never has to be read again.
@lru_cache(maxsize=16)
def question_keys_in(path: Path) -> frozenset[bytes]:
    """Returns the question_keys of a stored file's rows. They tell nothing of a customer's words."""
    rows = read_stored(path, "reading the rows of a model")
    return frozenset(question_keys(rows))


def _related(context: CoreContext, dataset: Dataset) -> list[str]:
    """Returns the dataset's name, that of its own models' pairs, and that of the dataset whose models' pairs it has."""
    related = [dataset.name]
    own_pairs = pairs_name(dataset.name)
    # Its pairs are made in its own channel; another channel may have taken the name first.
    owner_of_pairs = context.store.datasets.owners().get(own_pairs)
    if owner_of_pairs == dataset.owner:
        related.append(own_pairs)
    behind = dataset_behind(context, dataset)
    if behind is not None:
        related.append(behind.name)
    return related
