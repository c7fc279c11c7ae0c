"""What the deletion of a dataset, or of some of its versions, would include, and why it has to wait. Changes
nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from bot.cards.common.blocks import code
from bot.cards.common.candidates import promotable_name
from bot.cards.datasets import dataset_deletion as views
from bot.cards.datasets.dataset_deletion import DeletionScope, UnderWay
from bot.cards.datasets.datasets import no_such_dataset
from bot.cards.training.runs import STATE_TEXTS
from bot.context import CoreContext
from bot.rules.plans import plan_from_json
from bot.services.datasets import datasets
from bot.services.datasets.pairs import pairs_name
from bot.services.models import promotables
from bot.values.requests import Delete
from bot.values.runs import Refusal
from storage.promotions import Fallback, Promotion
from storage.records import (
    OPEN_RUN_STATES,
    Dataset,
    Labelling,
    Measurement,
    Promotable,
    Run,
)


def find_scope(context: CoreContext, command: Delete, *, keeps_rest: bool = False) -> DeletionScope | Refusal:
    """Returns what the command would delete, or why that can't be deleted now. With `keeps_rest` a version with the
    other rows is added."""
    versions = chosen_versions(context, command)
    if isinstance(versions, Refusal):
        return versions
    return scope_of(context, command.dataset, versions, keeps_rest=keeps_rest)


def chosen_versions(context: CoreContext, command: Delete) -> Sequence[Dataset] | Refusal:
    """Returns the versions that the command names, newest first."""
    versions = context.store.datasets.versions(command.dataset)
    if not versions:
        return Refusal(no_such_dataset(command.dataset, []))
    if command.before is None:
        return versions
    midnight = datetime.combine(command.before, datetime.min.time(), UTC)
    until = midnight.timestamp()
    old = [version for version in versions if version.created_at < until]
    if not old:
        return Refusal(f"No version of {code(command.dataset)} was uploaded before {command.before}.")
    return old


def scope_of(
    context: CoreContext,
    dataset: str,
    versions: Sequence[Dataset],
    *,
    takes_used: bool = False,
    keeps_rest: bool = False,
) -> DeletionScope | Refusal:
    """Returns what is deleted with these versions, or why they can't be deleted now and what to do about it. With
    `takes_used` a model in use that was trained on them may be deleted even though newer versions stay. `keeps_rest`
    means that a version with the other rows will be added."""
    store = context.store
    ids = {version.id for version in versions}
    standing = standing_promotions(context, versions)
    fallbacks = standing_fallbacks(context, versions)
    is_whole = all(version.id in ids for version in store.datasets.versions(dataset))
    runs = store.runs.on(ids)
    measurements = store.measurements.on(ids)
    labellings = store.labellings.on(ids)
    answered = sum(_count_answered(context, labelling) for labelling in labellings)
    # The answers would be lost although the dataset lives on; with the whole of it they are meant to go.
    loses_answers = answered > 0 and (keeps_rest or not is_whole)
    why = _find_obstacle(versions, runs, measurements, labellings)
    if standing and not is_whole and not takes_used:
        why = views.in_use_obstacle(standing[0])
    elif fallbacks and not is_whole and not takes_used:
        why = views.fallback_obstacle(fallbacks[0])
    elif why is None and loses_answers:
        why = views.open_answers_obstacle(answered)
    elif why is None and is_whole and store.documents.has_unread(dataset):
        why = "a document is still being read. Try again in a minute."
    if why:
        return Refusal(f"{code(dataset)} can't be deleted now: {why}")
    owner = versions[0].owner
    descendants, hidden = _find_descendants(context, owner, runs)
    under_way, hidden_runs = _find_under_way(context, owner, runs)
    names_in_use = [promotable_name(each.what) for each in standing]
    return DeletionScope(
        dataset,
        numbers_of(versions),
        is_whole,
        runs=len(runs),
        measurements=len(measurements),
        in_use=tuple(dict.fromkeys(names_in_use)),
        answered=answered,
        pairs=_find_pairs(context, versions[0]),
        stays_in_use=_find_staying(context, dataset),
        descendants=descendants,
        hidden=hidden,
        under_way=under_way,
        hidden_runs=hidden_runs,
    )


def numbers_of(versions: Sequence[Dataset]) -> tuple[int, ...]:
    return tuple(sorted(version.version for version in versions))


def _find_pairs(context: CoreContext, version: Dataset) -> str | None:
    """Returns the name of the dataset of pairs that was made from verdicts on this dataset's models."""
    name = pairs_name(version.name)
    if context.store.datasets.owners().get(name) != version.owner:
        return None
    for other in context.store.datasets.versions(name):
        report = datasets.report_of(other)
        if report and report.pairs:
            return name
    return None


def _find_staying(context: CoreContext, dataset: str) -> str | None:
    """Returns what is in use for this dataset and learnt from the pairs of it, which stay, None if nothing is."""
    current = context.store.promotions.current(dataset)
    if current is None or promotables.origin_of(context, current.what).dataset.name == dataset:
        return None
    return promotable_name(current.what)


def _find_descendants(
    context: CoreContext, owner: str, runs: Sequence[Run]
) -> tuple[tuple[tuple[str, str], ...], int]:
    """Returns the models that were trained from the models of these runs and are not among them, each with its dataset,
    and the number of those whose dataset belongs to another channel, where it may be private."""
    named = []
    hidden = 0
    for run, dataset in _going_on_from(context, runs):
        if run.model is None:
            continue
        if dataset.owner == owner:
            named.append((run.model, dataset.name))
        else:
            hidden += 1
    return tuple(named), hidden


def _find_under_way(
    context: CoreContext, owner: str, runs: Sequence[Run]
) -> tuple[tuple[UnderWay, ...], int]:
    """Returns the open runs that go on from the models of these runs, and the number of those in other channels."""
    named = []
    hidden = 0
    for run, dataset in _going_on_from(context, runs):
        if run.state not in OPEN_RUN_STATES:
            continue
        if dataset.owner == owner:
            named.append(UnderWay(run.id, dataset.name, has_begun=run.job_id is not None))
        elif run.job_id is not None:  # another has learnt nothing yet, and can't begin any more
            hidden += 1
    return tuple(named), hidden


def _going_on_from(context: CoreContext, runs: Sequence[Run]) -> Iterator[tuple[Run, Dataset]]:
    """Yields the runs whose training goes on from a model of these runs, with their datasets, which stay."""
    deleted = {run.model for run in runs if run.model}
    numbers = {run.id for run in runs}
    for run in context.store.runs.going_on():
        start = plan_from_json(run.plan).starts_from
        if run.id in numbers or start is None or deleted.isdisjoint(start.lineage):
            continue
        dataset = context.store.datasets.get(run.dataset_id)
        if dataset.forgotten_at is None:
            yield run, dataset


def _count_answered(context: CoreContext, labelling: Labelling) -> int:
    """Returns how many rows of an open batch people have labelled."""
    if labelling.state != "open" or labelling.teacher is not None:
        return 0
    labels = context.store.labellings.labels(labelling)
    return len({label.place for label in labels})


def _find_obstacle(
    versions: Sequence[Dataset],
    runs: Sequence[Run],
    measurements: Sequence[Measurement],
    labellings: Sequence[Labelling],
) -> str | None:
    """Returns what has to end before these versions can be deleted, as a sentence, None if nothing has to."""
    for run in runs:
        if run.state == "needs_human":
            return f"run {run.id} is waiting for a decision. Decide on its card first."
        if run.state in OPEN_RUN_STATES:
            return f"run {run.id} {STATE_TEXTS[run.state]}. `/finetune cancel {run.id}` ends it."
    for measurement in measurements:
        if measurement.state in ("asked", "running"):
            return (
                f"m{measurement.id} is using it. `/finetune cancel m{measurement.id}` ends that measurement."
            )
    if any(version.state in ("received", "checking") for version in versions):
        return "a file is still being checked. Try again in a minute."
    # A file that is fetched or written after the deletion would belong to no dataset, and never be deleted.
    for labelling in labellings:
        is_asking_a_teacher = labelling.state == "open" and labelling.teacher is not None
        if labelling.state in ("received", "choosing", "closing") or is_asking_a_teacher:
            return "a batch of rows to label is being read or written. Try again in a minute."
    return None


def standing_promotions(context: CoreContext, versions: Sequence[Dataset]) -> Sequence[Promotion]:
    """Returns the current promotions of what learnt from these versions. Those of pairs can be used for two datasets:
    the one behind them and, by a promotion from before that was so, their own."""
    current = context.store.promotions.all_current()
    return [each for each in current if _is_of(context, each.what, versions)]


def standing_fallbacks(context: CoreContext, versions: Sequence[Dataset]) -> Sequence[Fallback]:
    """Returns the current fallbacks that were measured with these versions."""
    current = context.store.fallbacks.all_current()
    return [each for each in current if _is_of(context, each.what, versions)]


def _is_of(context: CoreContext, what: Promotable, versions: Sequence[Dataset]) -> bool:
    """True if it was trained on one of these versions, or measured with it."""
    origin = promotables.origin_of(context, what)
    return any(version.id == origin.dataset.id for version in versions)
