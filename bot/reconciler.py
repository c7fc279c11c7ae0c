"""The tick: reads every row whose state is not final and moves it one step, so that a kill at any line loses nothing.
Also the work every few minutes and the retention.

Steps that may talk to a provider run in that provider's own thread (provider_threads.py), and each file is fetched from
Slack in a thread of its own; the tick itself waits for none of them.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import assert_never

from bot import logs, nightly, process_health
from bot.cards.training.runs import UNDER_WAY
from bot.context import AppContext
from bot.services import dataset_deletion, document_removal, plain_questions, retention
from bot.services.common import budgets, provider_jobs
from bot.services.datasets import (
    clean_copies,
    datasets,
    documents,
    row_deletion,
    row_labels,
)
from bot.services.decisions import approvals, estimate_requests, superseded_plans
from bot.services.evidence import run_states
from bot.services.measurement import (
    distillations,
    evaluations,
    learning_curves,
    measurements,
    wrong_rows,
)
from bot.services.models import (
    deployments,
    models,
    orphan_deployments,
    promotion_requests,
    promotions,
    sunsets,
    unused_deployments,
)
from bot.services.monitoring import (
    live_tests,
    monthly_measurements,
    new_models,
    proposal_measurements,
    weeks,
)
from bot.services.serving import (
    alias_sync,
    call_samples,
    fallbacks,
    live_candidates,
    publications,
    questions,
    recipes,
)
from bot.services.training import (
    interventions,
    orphan_jobs,
    reports,
    run_results,
    training,
    vendor_bills,
)
from bot.settings import store_model_ends, with_announced_ends
from bot.values.learning_curves import provider_of
from storage import backup
from storage.database import Stopped
from storage.deletion.dataset_deletion import FILE_NAME
from storage.deployments import DeploymentRecord
from storage.promotions import Promotion
from storage.records import OPEN_RUN_STATES, Dataset, Document, Labelling, Measurement, Run, RunState
from trainers.client.client import Trainer
from trainers.errors import TrainerError, Uncertain
from trainers.providers.providers import ProviderRow

log = logging.getLogger(__name__)
DAY_S = 24 * 3600.0
YEAR_S = 365 * DAY_S  # by then whatever asked a question has ended, and is booked
# Refused files; the next ones follow after five minutes, so that people don't wait for them.
EXPIRED_AT_ONCE = 5
TROUBLE_PAUSE_S = 30.0
LONGEST_S = 10.0  # a provider's thread begins no further step after this time
STATES_WITHOUT_PROVIDER: tuple[RunState, ...] = ("awaiting_approval",)
STATES_AT_PROVIDER: tuple[RunState, ...] = tuple(
    run_state for run_state in OPEN_RUN_STATES if run_state not in STATES_WITHOUT_PROVIDER
)


def fetch_model_ends(context: AppContext) -> None:
    """Asks providers when their models end, each night and when the bot starts.

    A provider that doesn't answer is asked again next time; what it announced before stays valid until then. An end
    that a provider withdraws stays in effect until the bot's next start.
    """
    for row in context.settings.providers:
        trainer = context.trainers.get(row.name)
        subject = f"models of {row.name}"
        asked_at = context.checked_at.get(subject, 0.0)
        is_ours = row.is_started_by_us or (not row.trains and row.keeps_models_here)
        if trainer is None or is_ours or not backup.is_night_over(asked_at, context.clock()):
            continue
        try:
            _fetch_ends(context, row, trainer)
        except Uncertain as trouble:  # it may answer in five minutes, so it doesn't count as asked
            log.info("when models of %s end: %s", row.name, trouble)
            continue
        except TrainerError as trouble:
            log.warning("%s doesn't report when its models end: %s", row.name, trouble)
        context.checked_at[subject] = context.clock()


def _fetch_ends(context: AppContext, row: ProviderRow, trainer: Trainer) -> None:
    models = trainer.models()
    ends = {model.id: model.shutdown_date for model in models if model.shutdown_date}
    listed = [model.id for model in models]
    # First, as it compares the list with the stored one, which is then replaced.
    sunsets.tell_vanished(context, row, trainer, listed)
    store_model_ends(context.settings.data, row.name, ends, context.today(), listed)
    # Read after the requests: another thread may have replaced the settings meanwhile.
    settings = context.settings
    providers = with_announced_ends(settings.providers, settings.data)
    context.settings = replace(settings, providers=providers)


def announce_model_ends(context: AppContext) -> None:
    """Warns teams of models that they rely on and that will end, each night and when the bot starts."""
    if not backup.is_night_over(context.checked_at.get("sunsets", 0.0), context.clock()):
        return
    for use, once in sunsets.find_due(context):
        _run_guarded(partial(sunsets.tell, context, use, once), f"the end of {use.model}")
    context.checked_at["sunsets"] = context.clock()


def apply_retention(context: AppContext) -> None:
    """Deletes what is no longer needed: refused files, files of finished measurements, and files that a kill left."""
    now = context.clock()
    days = context.settings.retention.refused
    if days:
        _delete_refused_files(context, before=now - days * DAY_S)
    context.store.expiries.erase_late_answers()
    context.store.plain_questions.erase_late_answers()
    context.store.sent_questions.forget_before(now - YEAR_S)
    scratch_days = context.settings.retention.scratch
    if scratch_days:
        context.store.tried_answers.drop_unjudged(before=now - scratch_days * DAY_S)
    row_deletion.tidy_rewrites(context)
    document_removal.delete_files(context)
    _delete_measurement_files(context)
    _delete_questions_of_judges(context)
    _delete_unnamed_files(context)
    _delete_half_written_files(context)


def _delete_refused_files(context: AppContext, *, before: float) -> None:
    for version in context.store.datasets.refused(before)[:EXPIRED_AT_ONCE]:
        dataset_deletion.expire(context, version)
    for document in context.store.documents.refused(before):
        path = context.settings.files / str(document.sha256)
        path.unlink(missing_ok=True)
        context.store.documents.move(document, "refused", now=context.clock(), sha256=None)


def _delete_half_written_files(context: AppContext) -> None:
    files = context.settings.files
    for path in files.glob("cleaned-*"):  # as 0.1.0 named them; none is sent any more
        path.unlink(missing_ok=True)
    # Of a process that was killed; one that is a day old is certainly not being written any more.
    latest = context.clock() - DAY_S
    for path in (*files.glob("incoming-*"), *files.glob("*.tmp")):
        if path.stat().st_mtime < latest:
            path.unlink(missing_ok=True)


def _delete_measurement_files(context: AppContext) -> None:
    """Deletes the prompts of finished measurements, which contain whole rows, and the vectors, which reveal them.
    Deletes the rest of a measurement's folder, which people may still look at, `scratch_days` later."""
    for folder in (context.settings.data / "measurements").glob("m*"):
        measurement = context.store.measurements.get(int(folder.name[1:]))
        if measurement is None or measurement.state in measurements.OPEN:
            continue
        for rows in (*folder.rglob("*.jsonl*"), *folder.rglob("vectors.*")):
            rows.unlink(missing_ok=True)
        days = context.settings.retention.scratch
        if days and measurement.updated_at < context.clock() - days * DAY_S:
            shutil.rmtree(folder)


def _delete_questions_of_judges(context: AppContext) -> None:
    """Deletes what the judges of finished runs were asked: held-out rows with the answers to them."""
    for folder in (context.settings.data / "plots").glob("run-*/judge"):
        run = context.store.runs.get(int(folder.parent.name.removeprefix("run-")))
        if run is None or run.state not in OPEN_RUN_STATES:
            shutil.rmtree(folder)


def _delete_unnamed_files(context: AppContext) -> None:
    """Deletes, each night and when the bot starts, files of rows that nothing in the database names, which no deletion
    of a dataset would find: a worker wrote them for something that was cancelled or overtaken meanwhile."""
    settings = context.settings
    now = context.clock()
    if not backup.is_night_over(context.checked_at.get("unnamed files", 0.0), now):
        return
    if backup.has_replaced(settings.database):  # its files are needed if somebody restores that database
        return
    # A worker's file may only be named at a later tick, so younger ones are left alone.
    old = []
    for path in settings.files.iterdir():
        if FILE_NAME.match(path.name) and path.stat().st_mtime < now - DAY_S:
            old.append(path)
    if old:  # only then, as it reads every plan
        named = context.store.deletions.named_files()
        for path in old:
            if path.name[:64] not in named:
                path.unlink(missing_ok=True)
                log.info("deleted a file that nothing names any more: %s", path.name)
    context.checked_at["unnamed files"] = now


def reconcile(context: AppContext) -> None:
    """Does everything that is due, each step guarded on its own, so that one fault doesn't hold up the rest."""
    now = context.clock()
    for dataset in context.store.datasets.due(now):
        if dataset.state == "received":
            context.threads.begin(f"dataset {dataset.id}", partial(_fetch_dataset, context, dataset))
        else:
            _step_dataset(context, dataset)
    for document in context.store.documents.due(now):
        if document.sha256 is None:
            context.threads.begin(f"document {document.id}", partial(_fetch_document, context, document))
        else:
            _step_document(context, document)
    for labelling in context.store.labellings.due(now):
        if labelling.state == "received":
            context.threads.begin(f"labelling {labelling.id}", partial(_fetch_rows, context, labelling))
        else:
            _step_labelling(context, labelling)
    for sha256, scanner in context.store.scans.requested():
        _run_guarded(partial(datasets.scan_file, context, sha256, scanner), f"the scan of {sha256}")
    for measurement in context.store.measurements.due(now):
        if _provider_of(measurement) is None:
            _step_measurement(context, measurement)
    for run in context.store.runs.due(now, STATES_WITHOUT_PROVIDER):
        if not _is_at_its_provider(run):
            _step_run(context, run)
    _reconcile_serving(context, now)
    _run_guarded(partial(_begin_at_providers, context, now), "what is due at providers")
    _run_guarded(partial(promotion_requests.expire, context), "requests to deploy")
    _run_guarded(partial(superseded_plans.link_superseded, context), "links between plans")
    _run_guarded(partial(budgets.warn, context), "the budget's warning")
    for cleaning in context.store.cleanings.waiting():
        _run_guarded(partial(clean_copies.step, context, cleaning), f"cleaning {cleaning.id}")
    for request in context.store.row_requests.waiting():
        _run_guarded(partial(wrong_rows.step, context, request), f"wrong rows {request.id}")
    _run_guarded(partial(clean_copies.tidy, context), "cleaned files")
    if any(reports.find_unreported(context)):  # in a thread, as people's names are looked up in Slack
        write_reports = partial(reports.step, context)
        context.threads.begin("reports", partial(_run_guarded, write_reports, "reports"))
    for estimate in context.store.estimates.to_share():
        _run_guarded(partial(estimate_requests.step, context, estimate), f"estimate {estimate.id}")
    if context.store.deletions.open(now):  # in a thread, as a trainer may not answer
        context.threads.begin("deletions", partial(_step_deletions, context, now))
    for question in context.store.questions.waiting():
        _run_guarded(partial(questions.step, context, question), f"ask {question.id}")
    for plain in context.store.plain_questions.waiting():
        handle_step_failure = partial(plain_questions.handle_step_failure, context, plain)
        step_question = partial(plain_questions.step, context, plain)
        _run_guarded(step_question, f"plain question {plain.id}", handle_step_failure)


def _reconcile_serving(context: AppContext, now: float) -> None:
    """Has programs get what is in use, and watches how it does."""
    for promotion in context.store.promotions.to_sync(now):
        _step_promotion(context, promotion, partial(alias_sync.publish_step, context, promotion))
    for fallback in context.store.fallbacks.to_build(now):
        _run_guarded(
            partial(fallbacks.build_step, context, fallback),
            f"fallback {fallback.id}",
            partial(fallbacks.handle_step_failure, context, fallback),
        )
    for test in context.store.live_tests.to_build(now):
        _run_guarded(
            partial(live_candidates.build_step, context, test),
            f"the recipe of live test {test.id}",
            partial(live_candidates.handle_build_failure, context, test),
        )
    _run_guarded(partial(publications.sync, context), "what programs get")
    for test in context.store.live_tests.all_current():
        _run_guarded(partial(live_tests.step, context, test), f"live test {test.id}")
    for watch in context.store.watches.all_current():
        handle_week_failure = partial(weeks.handle_step_failure, context, watch)
        _run_guarded(partial(weeks.step, context, watch), f"the week of {watch.dataset}", handle_week_failure)
    _run_guarded(partial(proposal_measurements.step, context), "measurements of new models")
    _run_guarded(partial(monthly_measurements.step, context), "measurements of what is in use")


def _fetch_dataset(context: AppContext, dataset: Dataset) -> None:
    # An earlier thread may have fetched it since this tick read the row.
    if context.store.datasets.get(dataset.id) == dataset:
        _step_dataset(context, dataset)


def _step_dataset(context: AppContext, dataset: Dataset) -> None:
    handle_step_failure = partial(datasets.handle_step_failure, context, dataset)
    _run_guarded(partial(datasets.step, context, dataset), f"dataset {dataset.id}", handle_step_failure)


def _fetch_document(context: AppContext, document: Document) -> None:
    if context.store.documents.get(document.id) == document:
        _step_document(context, document)


def _step_document(context: AppContext, document: Document) -> None:
    handle_step_failure = partial(documents.handle_step_failure, context, document)
    _run_guarded(partial(documents.step, context, document), f"document {document.id}", handle_step_failure)


def _fetch_rows(context: AppContext, labelling: Labelling) -> None:
    if context.store.labellings.get(labelling.id) == labelling:
        _step_labelling(context, labelling)


def _step_labelling(context: AppContext, labelling: Labelling) -> None:
    handle_step_failure = partial(row_labels.handle_step_failure, context, labelling)
    kind = distillations if labelling.teacher else row_labels
    _run_guarded(partial(kind.step, context, labelling), f"labelling {labelling.id}", handle_step_failure)


def _step_deletions(context: AppContext, now: float) -> None:
    for deletion in context.store.deletions.open(now):
        handle_step_failure = partial(dataset_deletion.handle_step_failure, context, deletion)
        step_deletion = partial(dataset_deletion.step, context, deletion)
        _run_guarded(step_deletion, f"deletion {deletion.id}", handle_step_failure)


def _begin_at_providers(context: AppContext, now: float) -> None:
    for provider in _find_busy_providers(context, now):
        context.threads.begin(provider, partial(work_at_provider, context, provider))


def work_at_provider(context: AppContext, provider: str) -> None:
    """Does what is due at one provider, in its thread, for up to LONGEST_S; the rest is due at the next tick. People's
    requests come first, so that a cancel doesn't wait for everything else."""
    until = time.monotonic() + LONGEST_S
    for work in _list_work(context, provider, context.clock()):
        if context.threads.is_closing or time.monotonic() > until:
            return
        work()


def _list_work(context: AppContext, provider: str, now: float) -> Iterator[Callable[[], None]]:
    requested = []
    in_training = []
    others = []
    for run in context.store.runs.due(now, OPEN_RUN_STATES):
        if run.provider != provider or not _is_at_its_provider(run):
            continue
        if run.cancel_asked_by or run.wish:
            requested.append(run)
        elif run.state == "training":
            in_training.append(run)
        else:
            others.append(run)
    for run in (*requested, *others):
        yield partial(_step_if_unmoved, context, run)
    for run in training.runs_to_poll(context, in_training):
        yield partial(_step_if_unmoved, context, run)
    for measurement in context.store.measurements.due(now):
        if _provider_of(measurement) == provider:
            yield partial(_step_measurement, context, measurement)
    for number in context.store.interventions.runs_with_open_decisions():
        if _provider_of_run(context, number) == provider:
            step_decision = partial(interventions.step, context, number)
            yield partial(_run_guarded, step_decision, f"intervention of run {number}")
    for record in context.store.deployments.due(now):
        if record.provider == provider:
            yield partial(_step_deployment, context, record)
    for promotion in context.store.promotions.to_sync(now):
        if alias_sync.needs_alias(context, promotion) == provider:
            set_alias = partial(alias_sync.alias_step, context, promotion)
            yield partial(_step_promotion, context, promotion, set_alias)


def _find_busy_providers(context: AppContext, now: float) -> list[str]:
    """Returns the names of providers where something is due, including those whose key was removed."""
    store = context.store
    names = store.runs.providers_due(now, STATES_AT_PROVIDER)
    for run in store.runs.due(now, STATES_WITHOUT_PROVIDER):
        if _is_at_its_provider(run):
            names.add(run.provider)
    for number in store.interventions.runs_with_open_decisions():
        names.add(_provider_of_run(context, number))
    for record in store.deployments.due(now):
        names.add(record.provider)
    for promotion in store.promotions.to_sync(now):
        trainer = alias_sync.needs_alias(context, promotion)
        if trainer:
            names.add(trainer)
    for measurement in store.measurements.due(now):
        provider = _provider_of(measurement)
        if provider:
            names.add(provider)
    return sorted(names)


def _is_at_its_provider(run: Run) -> bool:
    """True if the run's step asks the provider. A plan that waits for approval asks once, whether training there is
    possible at all."""
    return run.state != "awaiting_approval" or run.tries == 0


def _provider_of(measurement: Measurement) -> str | None:
    """Returns the provider that the measurement's step asks. None for a comparison, whose questions are asked in other
    threads (llm_client.py)."""
    if measurement.kind != "curve":
        return None
    return provider_of(measurement.plan)


def _provider_of_run(context: AppContext, number: int) -> str:
    run = context.store.runs.get(number)
    if run is None:
        raise KeyError(number)
    return run.provider


def _step_measurement(context: AppContext, measurement: Measurement) -> None:
    kind = learning_curves if measurement.kind == "curve" else evaluations
    handle_step_failure = partial(kind.handle_step_failure, context, measurement)
    step_measurement = partial(_take_measurement_step, context, measurement)
    _run_guarded(step_measurement, f"measurement {measurement.id}", handle_step_failure)


def _take_measurement_step(context: AppContext, measurement: Measurement) -> None:
    if measurement.kind == "curve":
        learning_curves.step(context, measurement)
        return
    sealed = evaluations.step(context, measurement)
    if sealed is not None:
        promotions.finish_sealed_test(context, sealed)


def _step_if_unmoved(context: AppContext, run: Run) -> None:
    """Reads the run again before its step: earlier steps may have taken long, and people may have clicked meanwhile."""
    current = context.store.runs.get(run.id)
    if current is not None and current.state == run.state:
        _step_run(context, current)


def _step_run(context: AppContext, run: Run) -> None:
    _run_guarded(partial(step, context, run), f"run {run.id}", partial(_postpone, context, run))


def _step_promotion(context: AppContext, promotion: Promotion, work: Callable[[], None]) -> None:
    handle_step_failure = partial(alias_sync.handle_step_failure, context, promotion)
    _run_guarded(work, f"promotion {promotion.id}", handle_step_failure)


def _step_deployment(context: AppContext, record: DeploymentRecord) -> None:
    handle_step_failure = partial(deployments.handle_step_failure, context, record)
    _run_guarded(partial(deployments.step, context, record), f"deployment {record.id}", handle_step_failure)
    latest = context.store.deployments.get(record.id)
    is_moved = latest is not None and latest.state != record.state
    has_other_name = latest is not None and latest.chat_model != record.chat_model
    if is_moved or has_other_name:
        what = f"the card of {record.model}, which is in use"
        _run_guarded(partial(models.show_where_used, context, record.model), what)


MAINTENANCE: tuple[tuple[Callable[[AppContext], None], str], ...] = (
    (nightly.check_database, "the check of the database"),
    (nightly.wipe_database, "wiping what deletions left"),
    (nightly.back_up, "the backup"),
    (nightly.shrink_database, "shrinking the database"),
    (fetch_model_ends, "when models end"),
    (announce_model_ends, "models that end"),
    (new_models.propose, "new models"),
    (apply_retention, "the retention"),
    (retention.expire, "the retention of old runs"),
    (orphan_jobs.sweep, "stray jobs"),
    (vendor_bills.sweep, "the bills of vendors"),
    (orphan_deployments.sweep, "models that run by the hour"),
    (unused_deployments.tell_unused, "machines that are kept for nothing"),
    (provider_jobs.delete_unneeded_uploads, "uploaded files"),
    (alias_sync.sweep, "models in use"),
    (call_samples.delete_old, "sampled calls that are old or no longer watched"),
    (recipes.delete_unneeded, "recipes that are not needed any more"),
    (publications.sync_ends, "models in use that have ended"),
)


def maintain(context: AppContext) -> None:
    """Does the work that may take long and can wait; called every few minutes. Begins no more of it once the process
    stops."""
    for work, what in MAINTENANCE:
        if context.threads.is_closing:
            return
        _run_guarded(partial(work, context), what)


def step(context: AppContext, run: Run) -> None:
    """Moves one run one step."""
    match run.state:
        case "awaiting_approval":
            approvals.expire_or_wait(context, run)
        case "approved" | "creating" if run.cancel_asked_by:
            training.cancel_before_training(context, run)
        case "approved" | "creating":
            training.create(context, run)
        case "training":
            training.follow(context, run)
        case "evaluating":
            run_results.evaluate(context, run)
        case "done" | "rejected" | "expired" | "cancelled" | "failed" | "needs_human":
            pass
        case _:
            assert_never(run.state)


def _run_guarded(
    work: Callable[[], None], what: str, handle_step_failure: Callable[[], None] | None = None
) -> None:
    """The tick's error boundary: logs an exception with its subject (`what`), calls `handle_step_failure`, and lets
    the tick go on. A stop that has closed the store ends the tick too."""
    process_health.mark_step()
    with logs.referenced():
        try:
            work()
        except Stopped:
            raise
        except Exception:
            # Before the log: if a stop has closed the store by now, it has cut off the step as well.
            if handle_step_failure:
                try:
                    handle_step_failure()
                except Stopped:
                    raise
                except Exception:  # the fault itself is still to be logged, and the tick goes on
                    log.exception("%s: postponing it failed too", what)
            log.exception("%s: its step failed", what)


def _postpone(context: AppContext, run: Run) -> None:
    """Puts the step off, and says so on the run's card, as somebody may have to fix the cause."""
    if run.state in UNDER_WAY:
        note = f"Something in the bot went wrong at this step; the bot tries again. {logs.sorry()}"
        run_states.wait(context, run, TROUBLE_PAUSE_S, note=note)
    else:
        now = context.clock()
        context.store.runs.move(run, run.state, now=now, next_at=now + TROUBLE_PAUSE_S)
