"""Finds what can be promoted: a tuned model by its name, or a candidate as it was measured. Says why one can't be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bot.cards.common.blocks import code, escape
from bot.cards.common.candidates import promotable_text, promote_command
from bot.context import AppContext, CoreContext
from bot.services.common import authorization, candidates, finished_measurements
from bot.services.datasets import data_policy, datasets
from bot.services.datasets.pairs import name_in_use
from bot.services.evidence import evidence
from bot.services.evidence.measured_candidates import known_candidates, load_measured
from bot.services.models import models
from bot.values.evaluations import ComparisonPlan, promotable_candidate, promoted_candidate
from bot.values.requests import Promote
from bot.values.runs import Refusal
from storage.records import Dataset, Measurement, Model, Promotable
from trainers.evaluation.results import Candidate

SHOWN = 6

CandidateCommand = Callable[[str, Promotable], str]
"""Writes the command that chooses a candidate of a dataset."""


@dataclass(frozen=True)
class Origin:
    """Where something that can be promoted comes from: a version of a dataset, the channel in which its card appears,
    and the subject of its entries in the audit log. `name` is the dataset for which it is used: another one if the
    version has pairs of answers to that one."""

    dataset: Dataset
    name: str
    channel: str
    subject: str


def origin_of(context: CoreContext, what: Promotable) -> Origin:
    measurement = context.store.measurements.get(what.measurement or 0)
    if measurement is not None:
        dataset = context.store.datasets.get(measurement.dataset_id)
        name = name_in_use(context, dataset)
        return Origin(dataset, name, measurement.channel, f"measurement {measurement.id}")
    model = context.store.model(what.model or "")
    if model is None:
        raise KeyError(what.model)
    run = context.store.runs.of_model(model)
    dataset = context.store.datasets.get(run.dataset_id)
    return Origin(dataset, name_in_use(context, dataset), run.channel, f"run {run.id}")


def find(context: AppContext, wanted: Promote, person: str, channel: str) -> Promotable | Refusal:
    """Finds what a command names: a model, or a candidate of a dataset."""
    if wanted.kind is None:
        return _find_model(context, wanted.name, person, channel)
    refusal = authorization.dataset_refusal(context, wanted.name, person, channel)
    if refusal:
        return refusal
    return find_candidate(context, wanted)


def find_without_rights(context: AppContext, wanted: Promote) -> Promotable | Refusal:
    """Finds what a command in the terminal names, where all of it is known."""
    if wanted.kind is not None:
        return find_candidate(context, wanted)
    if context.store.model(wanted.name):
        return Promotable(wanted.name)
    measured = _newest(context, wanted.name)
    if measured:
        return Refusal(
            f"{code(wanted.name)} is a dataset. Which candidate of it?\n{_commands(wanted.name, measured)}"
        )
    return Refusal(f"There is no tuned model and no measured dataset {code(wanted.name)}.")


def _find_model(context: AppContext, name: str, person: str, channel: str) -> Promotable | Refusal:
    model = models.find_to_use(context, name, person, channel)
    if not isinstance(model, Refusal):
        return Promotable(model.name)
    if not authorization.may_act_on(context, name, person, channel):
        return model
    # They named a dataset, so what was measured on it is an answer, too.
    measured = _newest(context, name)
    if not measured:
        return model
    return Refusal(f"{code(name)} is a dataset. Which candidate of it?\n{_commands(name, measured)}")


def find_candidate(
    context: AppContext, wanted: Promote, command: CandidateCommand = promote_command
) -> Promotable | Refusal:
    """Finds the candidate of a dataset that a command names, of which `command` is an example."""
    measured = _newest(context, wanted.name)
    matches = []
    for each in measured:
        if candidates.is_meant(context.settings, each, wanted.kind, wanted.model, wanted.shots):
            matches.append(each)
    if len(matches) == 1:
        candidate = matches[0]
        return promotable_candidate(candidate, measured[candidate].id)
    if matches:
        several = {candidate: measured[candidate] for candidate in matches}
        return Refusal(
            f"Several of these were measured. Which one?\n{_commands(wanted.name, several, command)}"
        )
    there = "Nothing was measured on it yet."
    if measured:
        there = f"Measured were:\n{_commands(wanted.name, measured, command)}"
    measures = code(f"/finetune baseline {wanted.name}")
    return Refusal(
        f"This was not measured on {code(wanted.name)}, so it can't be deployed: {measures} measures it. {there}"
    )


def _commands(
    dataset: str,
    measured: Mapping[Candidate, Measurement],
    command: CandidateCommand = promote_command,
) -> str:
    """A line for each candidate with the command that chooses it."""
    lines = []
    for candidate, measurement in list(measured.items())[:SHOWN]:
        what = promotable_candidate(candidate, measurement.id)
        lines.append(f"• {code(command(dataset, what))}")
    return "\n".join(lines)


def _newest(context: AppContext, name: str) -> Mapping[Candidate, Measurement]:
    """Returns what was measured on the dataset's newest version, each candidate with its newest measurement."""
    version = context.store.datasets.newest(name)
    report = datasets.report_of(version) if version else None
    if report is None:
        return {}
    bar = evidence.current_bar(context, name)
    holdout = str(report.holdout_sha256)
    measured = load_measured(context.store, context.settings.files, name, holdout, bar)
    if measured is None:
        return {}
    return measured.measured_by


def find_of_card(context: AppContext, number: int, key: str) -> Promotable | Refusal:
    """Finds the candidate that the button on a card names: as it was known when that measurement ended, so that a later
    measurement of the same name changes nothing."""
    measurement = context.store.measurements.get(number)
    if measurement is None:
        return Refusal(f"There is no measurement m{number} any more.")
    unreadable = _unreadable_refusal(context, measurement)
    if unreadable:
        return unreadable
    measured = known_candidates(context.store, context.settings.files, measurement)
    for candidate, measured_by in measured.measured_by.items():
        if candidate.key == key:
            return promotable_candidate(candidate, measured_by.id)
    return Refusal(
        f"m{number} knows no such candidate. `/finetune results m{number}` shows what it measured."
    )


def refusal(context: AppContext, what: Promotable, because: str | None = None) -> Refusal | None:
    """Returns why this can't be used by anybody, whatever the evidence says; None if it can. `because` is a reason to
    override a soft rule about data."""
    model = context.store.model(what.model or "")
    if model is not None:
        return models.deleted_refusal(context, model) or _gone_refusal(context, model)
    measurement = context.store.measurements.get(what.measurement or 0)
    if measurement is None:
        return Refusal("It was never measured. `/finetune baseline` measures it.")
    unreadable = _unreadable_refusal(context, measurement)
    if unreadable:
        return unreadable
    return _candidate_refusal(context, what, measurement, because)


def _gone_refusal(context: AppContext, model: Model) -> Refusal | None:
    """A model that its trainer doesn't have any more can't be used, whatever reason is given."""
    if model.gone_at is None or not models.has_alias(context, model):
        return None
    provider = escape(context.settings.title_of(model.provider))
    return Refusal(
        f"{code(model.name)} is gone from {provider}. Train it again, or "
        "choose another: `/finetune models` lists all."
    )


def _unreadable_refusal(context: AppContext, measurement: Measurement) -> Refusal | None:
    name = f"m{measurement.id}"
    if context.store.datasets.get(measurement.dataset_id).forgotten_at is not None:
        return Refusal(f"{name} was deleted with its dataset, so nothing that it measured can be deployed.")
    if measurement.state != "done" or measurement.result is None:
        return Refusal(f"{name} has no result, so nothing that it measured can be deployed.")
    if finished_measurements.read_evaluation(measurement) is None:
        return Refusal(
            f"{name} was stored by a newer version of finetune, so this one can't deploy what it measured: start that "
            "version again, or measure again."
        )
    return None


def _lacks_documents(context: AppContext, plan: ComparisonPlan) -> bool:
    documents = context.store.documents.of(plan.dataset)
    there = {document.sha256 for document in documents if document.state == "ready"}
    return not there.issuperset(plan.documents)


def _candidate_refusal(
    context: AppContext, what: Promotable, measurement: Measurement, because: str | None
) -> Refusal | None:
    evaluation = finished_measurements.read_evaluation(measurement)
    candidate = promoted_candidate(what)
    if evaluation is None or candidate is None:
        return None
    rows = context.settings.files / f"{evaluation.plan.train_sha256}.jsonl"
    if not rows.is_file():
        return Refusal(
            f"The rows with which m{measurement.id} measured {promotable_text(what)} were deleted, so it can't be "
            "deployed as it was measured. Measure it again: `/finetune baseline`."
        )
    if candidate.kind == "retrieval" and _lacks_documents(context, evaluation.plan):
        return Refusal(
            f"A document in which m{measurement.id} looked things up was removed, so {promotable_text(what)} can't be "
            "deployed as it was measured. Measure it again: `/finetune baseline`."
        )
    if candidate.model is None:
        return None
    with_key = tuple(context.trainers)
    priced = candidates.find_model(context.settings, with_key, candidate.model, context.today())
    if isinstance(priced, Refusal):
        return priced
    version = context.store.datasets.get(measurement.dataset_id)
    report = datasets.report_of(version)
    if report is None:
        return None
    permission = data_policy.decide_egress(context, version, report, [priced.row], because)
    if isinstance(permission, Refusal):
        return permission
    return None
