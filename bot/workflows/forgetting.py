"""Deleting a dataset: recorded at the click, carried out by ticks. First the database, in one transaction with the list
of what lies elsewhere; then files, trainers and freed bytes. A kill at any line is made good by the next tick.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from bot.commands import Delete
from bot.decisions.approval import Request
from bot.decisions.planning import plan_from_json
from bot.decisions.promoting import alias_of
from bot.results import Refusal
from bot.tuned_curves import TunedCurvePlan, TunedCurveProgress, plan_of
from bot.views import forgetting as views
from bot.views.blocks import Message, code
from bot.views.datasets import no_such_dataset
from bot.views.forgetting import Doomed
from bot.views.runs import SAID
from bot.workflows import in_use, permits, rewriting, sharing, uploads
from bot.workflows.desk import Backroom, Desk
from storage.forgettings import Elsewhere, Forgetting
from storage.promotions import Promotion
from storage.records import OPEN_RUN_STATES, Dataset, Draft, Measurement, Run
from trainers.client import Trainer
from trainers.errors import Refused, TrainerError

RETENTION = "finetune"
AGAIN_S = 300.0
GIVE_UP_S = 24 * 3600.0  # a trainer that is away for longer is named in the answer

log = logging.getLogger(__name__)


def may_ask(desk: Desk, command: Delete, person: str, channel: str) -> Doomed | Refusal:
    """What would go, or why this person may not, or what stands in the way."""
    versions = sharing.refused(desk, command.dataset, person, channel) or chosen(desk, command)
    if isinstance(versions, Refusal):
        return versions
    is_theirs = all(one.uploaded_by == person for one in versions)
    request = Request(person if is_theirs else "", person, versions[0].created_at)
    refused = permits.may(desk, person, "delete", channel, request)
    if not refused and _standing(desk, versions):
        refused = permits.may(desk, person, "promote", channel)
    return refused or look(desk, command.dataset, versions)


def ask(desk: Desk, command: Delete, person: str, channel: str) -> Forgetting | Refusal:
    refused = may_ask(desk, command, person, channel)
    return refused if isinstance(refused, Refusal) else record(desk, command, person, channel)


def record(desk: Backroom, command: Delete, person: str, channel: str | None) -> Forgetting | Refusal:
    """Whether the person may was asked before."""
    versions = chosen(desk, command)
    if isinstance(versions, Refusal):
        return versions
    with desk.store.transaction():
        doomed = look(desk, command.dataset, versions)
        if isinstance(doomed, Refusal):
            return doomed
        return _recorded(desk, doomed, versions, person, channel) or Refusal(
            f"{code(command.dataset)} is being deleted already."
        )


def take_out(desk: Backroom, new: rewriting.Rewritten, person: str) -> Forgetting | Refusal:
    """The version without the rows, and the end of those before it: all of it or nothing. A model in use that was
    trained on one of them ends too, since no newer one can be trained before the rows are gone."""
    name = new.before.name
    with desk.store.transaction():
        versions = [one for one in desk.store.datasets.all() if one.name == name]
        doomed = look(desk, name, versions)
        if isinstance(doomed, Refusal):
            return doomed
        forgetting = _recorded(desk, replace(doomed, is_whole=False), versions, person, None)
        if forgetting is None:
            return Refusal(f"{code(name)} is being deleted already.")
        rewriting.add(desk, new, person)
        _erase(desk, forgetting, takes_used=True)
    return forgetting


def expire(desk: Backroom, version: Dataset) -> None:
    """A refused file whose time is over."""
    with desk.store.transaction():
        doomed = look(desk, version.name, [version])
        if isinstance(doomed, Doomed):
            _recorded(desk, doomed, [version], RETENTION, None)


def would_go(desk: Backroom, command: Delete) -> Doomed | Refusal:
    versions = chosen(desk, command)
    return versions if isinstance(versions, Refusal) else look(desk, command.dataset, versions)


def chosen(desk: Backroom, command: Delete) -> Sequence[Dataset] | Refusal:
    """Newest first."""
    versions = [one for one in desk.store.datasets.all() if one.name == command.dataset]
    if not versions:
        return Refusal(no_such_dataset(command.dataset, []))
    if command.before is None:
        return versions
    until = datetime.combine(command.before, datetime.min.time(), UTC).timestamp()
    old = [one for one in versions if one.created_at < until]
    return old or Refusal(f"No version of {code(command.dataset)} was uploaded before {command.before}.")


def look(
    desk: Backroom, dataset: str, versions: Sequence[Dataset], *, takes_used: bool = False
) -> Doomed | Refusal:
    """What goes with these versions, or the reason why they can't go now, with its cure. `takes_used`: a model in use
    goes too, though newer versions stay."""
    ids, standing = {one.id for one in versions}, _standing(desk, versions)
    is_whole = not [one for one in desk.store.datasets.all() if one.name == dataset and one.id not in ids]
    runs, measurements = desk.store.runs.on(ids), desk.store.measurements.on(ids)
    why = _in_the_way(versions, runs, measurements)
    if standing and not is_whole and not takes_used:
        why = f"{code(standing.model)}, which is in use, was trained on it. Put a newer model to work first."
    if why:
        return Refusal(f"{code(dataset)} can't be deleted now: {why}")
    numbers = tuple(sorted(one.version for one in versions))
    return Doomed(
        dataset, numbers, is_whole, len(runs), len(measurements), standing.model if standing else None
    )


def step(desk: Backroom, forgetting: Forgetting) -> None:
    if forgetting.state == "asked":
        _erase(desk, forgetting)
    else:
        _delete(desk, forgetting)


def after_trouble(desk: Backroom, forgetting: Forgetting) -> None:
    desk.store.forgettings.later(forgetting, next_at=desk.clock() + AGAIN_S)


def _recorded(
    desk: Backroom, doomed: Doomed, versions: Sequence[Dataset], person: str, channel: str | None
) -> Forgetting | None:
    now, ids = desk.clock(), [one.id for one in versions]
    made = desk.store.forgettings.ask(doomed.dataset, ids, person=person, channel=channel, now=now)
    if made:
        detail = f"{doomed.title}: {doomed.with_it}"
        desk.store.audit.add(
            at=now, who=person, action="delete", subject=f"dataset {max(ids)}", detail=detail
        )
    return made


def _in_the_way(
    versions: Sequence[Dataset], runs: Sequence[Run], measurements: Sequence[Measurement]
) -> str | None:
    run = next((one for one in runs if one.state in (*OPEN_RUN_STATES, "needs_human")), None)
    if run and run.state == "needs_human":
        return f"run {run.id} needs a person: decide on its card what becomes of it."
    if run:
        return f"run {run.id} {SAID[run.state]}. `/finetune cancel {run.id}` ends it."
    measurement = next((one for one in measurements if one.state in ("asked", "running")), None)
    if measurement:
        return f"m{measurement.id} measures on it. `/finetune cancel m{measurement.id}` ends it."
    if any(one.state in ("received", "checking") for one in versions):
        return "a file is still being checked. Try again in a minute."
    return None


def _erase(desk: Backroom, forgetting: Forgetting, *, takes_used: bool = False) -> None:
    """All that the database has, and the list of all that lies elsewhere."""
    store, ids = desk.store, set(forgetting.datasets)
    with store.transaction():
        versions = [store.datasets.get(one) for one in forgetting.datasets]
        doomed = look(desk, forgetting.dataset, versions, takes_used=takes_used)
        if isinstance(doomed, Refusal):  # something began since it was asked for
            store.forgettings.end(forgetting)
            _say(desk, forgetting, versions, views.not_deleted(forgetting.dataset, doomed.text))
            return
        runs, measurements, standing = (
            desk.store.runs.on(ids),
            desk.store.measurements.on(ids),
            _standing(desk, versions),
        )
        is_whole = doomed.is_whole and forgetting.person != RETENTION
        files = store.forgettings.files_of(ids, documents_of=forgetting.dataset if is_whole else None)
        estimates = [one.id for one in store.estimates.newest(forgetting.dataset)] if is_whole else []
        paths = [f"files/{file}{ending}" for file in files for ending in ("", ".jsonl")]
        paths += [f"plots/dataset-{one}" for one in ids] + [f"plots/estimate-{one}" for one in estimates]
        paths += [f"plots/{kind}-{run.id}" for run in runs for kind in ("run", "plan")]
        paths += [f"measurements/m{one.id}" for one in measurements]
        elsewhere = [*_models(desk, runs, standing), *_curves(measurements)]
        store.forgettings.begin(forgetting, paths, files, elsewhere)
        if standing:
            store.promotions.end(standing, now=desk.clock())
        about = _about(ids, runs, measurements, estimates)
        store.forgettings.erase(
            ids, forgetting.dataset, files=files, about=about, is_whole=is_whole, now=desk.clock()
        )


def _delete(desk: Backroom, forgetting: Forgetting) -> None:
    rewriting.settle(desk, forgetting.dataset)
    for path in forgetting.paths:
        _remove(desk, path)
    is_late = desk.clock() - forgetting.at > GIVE_UP_S
    left: list[str] = []
    for one in forgetting.elsewhere:
        trouble = _delete_there(desk, one)
        if isinstance(trouble, TrainerError) and not isinstance(trouble, Refused) and not is_late:
            log.warning("forgetting %s: %s", forgetting.id, trouble)
            desk.store.forgettings.later(forgetting, next_at=desk.clock() + AGAIN_S)
            return
        if trouble:
            left.append(f"{one.model or one.job_id} at {one.provider}: {trouble}")
    for trainer in desk.trainers.values():
        uploads.take_back(desk, trainer, set(forgetting.files), f"forgetting {forgetting.id}")
        if set(forgetting.files) & desk.store.uploads.at(trainer.provider.name):
            left.append(
                f"uploaded files at {trainer.provider.name} are looked for until they are surely gone"
            )
    if not desk.store.forgettings.wipe():
        desk.store.forgettings.later(forgetting, next_at=desk.clock() + 1)
        return
    _tell(desk, forgetting, left)


def _remove(desk: Backroom, path: str) -> None:
    place = desk.settings.data / path
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _delete_there(desk: Backroom, one: Elsewhere) -> TrainerError | str | None:
    """Why it is still there."""
    trainer = desk.trainers.get(one.provider)
    if trainer is None:
        return f"there is no key for {one.provider} where the bot runs"
    try:
        _send_deletions(trainer, one)
    except TrainerError as trouble:
        return trouble
    has_record = one.job_id and not trainer.provider.can("job_deletion")
    return "the record of the job stays there, which this trainer can't delete" if has_record else None


def _send_deletions(trainer: Trainer, one: Elsewhere) -> None:
    if one.alias:
        trainer.unpoint(one.alias)
    if one.job_id and trainer.provider.can("job_deletion"):
        trainer.delete_job(one.job_id)
    elif one.model:
        trainer.delete_model(one.model)


def _tell(desk: Backroom, forgetting: Forgetting, left: Sequence[str]) -> None:
    ids = set(forgetting.datasets)
    versions = [desk.store.datasets.get(one) for one in forgetting.datasets]
    numbers = tuple(sorted(one.version for one in versions))
    rest = [one for one in desk.store.datasets.all() if one.name == forgetting.dataset]
    runs, measurements = desk.store.runs.on(ids), desk.store.measurements.on(ids)
    doomed = Doomed(forgetting.dataset, numbers, not rest, len(runs), len(measurements))
    by = f"<@{forgetting.person}>" if forgetting.channel else "somebody in the terminal"
    said = views.deleted(doomed, by, left, desk.settings.service.backups_kept)
    with desk.store.transaction():
        if not desk.store.forgettings.end(forgetting):
            return
        detail = f"{doomed.title}: {doomed.with_it}"
        subject = f"dataset {max(ids)}"
        desk.store.audit.add(
            at=desk.clock(), who="finetune", action="deleted", subject=subject, detail=detail
        )
        _say(desk, forgetting, versions, said)


def _say(desk: Backroom, forgetting: Forgetting, versions: Sequence[Dataset], message: Message) -> None:
    """In the dataset's channel. A refused file goes without a word: its card said so beforehand."""
    if forgetting.person != RETENTION:
        once = f"forgetting {forgetting.id}"
        draft = Draft(kind="post", channel=versions[0].owner, body=message.letter(), dedupe=once)
        desk.store.outbox.put(draft, now=desk.clock())


def _standing(desk: Backroom, versions: Sequence[Dataset]) -> Promotion | None:
    """What is in use and was trained on one of them."""
    standing = desk.store.promotions.standing(versions[0].name)
    model = desk.store.model(standing.model) if standing else None
    run = desk.store.runs.get(model.run_id) if model else None
    return standing if run and run.dataset_id in {one.id for one in versions} else None


def _models(desk: Backroom, runs: Sequence[Run], standing: Promotion | None) -> list[Elsewhere]:
    found = []
    for run in runs:
        model = desk.store.model(run.model or "")
        is_used = standing is not None and model is not None and standing.model == model.name
        alias = (
            alias_of(plan_from_json(run.plan).dataset)
            if is_used and model and in_use.has_alias(desk, model)
            else None
        )
        if run.job_id:
            found.append(Elsewhere(run.provider, run.job_id, model.provider_model if model else None, alias))
    return found


def _curves(measurements: Sequence[Measurement]) -> list[Elsewhere]:
    found = []
    for one in measurements:
        plan = plan_of(one.plan) if one.kind == "curve" else None
        if isinstance(plan, TunedCurvePlan):
            sizes = TunedCurveProgress.from_json(one.progress).sizes
            own = (size for size in sizes if size.job_id and size.from_before is None)
            found += [Elsewhere(plan.provider, size.job_id, size.model) for size in own]
    return found


def _about(
    ids: set[int], runs: Sequence[Run], measurements: Sequence[Measurement], estimates: Sequence[int]
) -> list[str]:
    """What the names of messages about them hold: of their cards, threads, or by which they are put once."""
    a_run_s = ("run", "plan", "result", "doubt", "decision", "reminder", "void", "end", "dm", "changed")
    of_runs = [f"{kind} {run.id}" for run in runs for kind in a_run_s]
    a_measurement_s = ("measurement", "measured", "pair", "agreement")
    of_measurements = [f"{kind} {one.id}" for one in measurements for kind in a_measurement_s]
    of_versions = [f"{kind} {one}" for one in ids for kind in ("dataset", "waiver")]
    return [*of_versions, *of_runs, *of_measurements, *(f"estimate {one}" for one in estimates)]
