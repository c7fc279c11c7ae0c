"""`finetune export NAME --to coreweave`: uploads the adapter of a tuned model to a vendor that serves it by the token.
Loads no model and needs no torch: the adapter's files are uploaded as they were trained. Also says whether a model may
be uploaded to a hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bot.cards.common.blocks import code
from bot.cards.common.plan_money import leaves_line, token_line
from bot.context import AppContext
from bot.rules.plans import plan_from_json
from bot.services.common.token_serving import TokenServer, find_base
from bot.services.datasets import data_policy
from bot.services.datasets.data_policy import Forbidden, Unsure
from bot.settings import Settings
from bot.values.runs import Refusal
from storage.records import Run
from trainers.client.client import find_key
from trainers.deployments import open_deployments
from trainers.deployments.adapters import (
    AdapterJob,
    AdapterUnusable,
    rank_problem,
    read_adapter,
    read_adapter_job,
)
from trainers.deployments.coreweave import EXPORT_PREFIX
from trainers.errors import TrainerError
from trainers.methods import METHODS
from trainers.providers.providers import ModelRow
from trainers.rentals.prices import PROVIDER as HUB
from trainers.rentals.prices import WHO
from trainers.types import Price

CHECKPOINT = ":ckpt-step-"  # between the trainer's name for a model and a step
UNPRICED = Price(None, None, None, None)


def upload_adapter(
    settings: Settings,
    provider: str,
    model: str,
    folders: Sequence[Path],
    base_id: str | None,
    say: Callable[[str], None],
    context: AppContext | None,
) -> str | Refusal:
    """Returns the name by which programs ask the model there. `model` is a run's model, a job's id or its folder, and
    `folders` are the data folders of trainers. `context` has the bot's database, None if there is none."""
    folder = _find_job(context, model, folders)
    if isinstance(folder, Refusal):
        return folder
    try:
        job = read_adapter_job(folder)
        adapter = read_adapter(folder / "adapter")
    except AdapterUnusable as unusable:
        return Refusal(str(unusable))
    forbidden = _rows_refusal(context, provider, _run_of(context, job))
    if forbidden:
        return forbidden
    server = _find_server(settings, provider, job, base_id)
    if isinstance(server, Refusal):
        return server
    problem = rank_problem(adapter.rank, server.base.most_rank, server.row.title, server.base.name)
    if problem:
        return Refusal(problem)
    key = find_key(os.environ, server.row.provider)
    vendor = open_deployments(server.row.provider, key) if key else None
    if vendor is None:
        variables = server.row.provider.variables
        return Refusal(f"There is no key for {server.row.title}: set {variables} in the environment.")
    terms = server.hosting.by_token
    assert terms is not None  # noqa: S101  a server by the token has terms
    say(f"{model}: {token_line(terms)}.")
    say(leaves_line(terms))
    # A path would be no name for an artifact.
    name = job.id if (Path(model) / "job.json").is_file() else model
    try:
        deployment = vendor.start(f"{EXPORT_PREFIX}{name}", str(adapter.folder), server.base.name, 0)
    except TrainerError as trouble:
        return Refusal(str(trouble))
    finally:
        vendor.close()
    say(f"Uploaded. Programs ask it at {server.row.provider.base_url} as the model")
    say(deployment.chat_model)
    return deployment.chat_model


def _find_job(context: AppContext | None, model: str, folders: Sequence[Path]) -> Path | Refusal:
    """Returns the folder of the job that trained a model."""
    job_id = _job_of_run(context, model) or model
    places = [Path(model), *(folder / "jobs" / job_id for folder in folders)]
    for place in places:
        if (place / "job.json").is_file():
            return place
    searched = ", ".join(str(folder) for folder in folders)
    return Refusal(
        f"There is no job of {model} (looked in {searched}). Name a run's model, a job's id or its folder; for a "
        "trainer that you started yourself, add --data ITS_DATA_FOLDER."
    )


def _job_of_run(context: AppContext | None, model: str) -> str | None:
    if context is None:
        return None
    tuned = context.store.model(model)
    if tuned is None:
        return None
    return context.store.runs.of_model(tuned).job_id


def hub_refusal(context: AppContext | None, model: str) -> Refusal | None:
    """Returns why the weights of a run's model may not be uploaded to Hugging Face's hub, by the rules about its rows
    for the provider `hf`; None if they may. Without rented machines the settings have no such row, but the rules may
    name it."""
    if context is None:
        return None
    ours = context.settings.provider("local")
    if context.settings.provider(HUB) is None and ours is not None:
        hub = replace(ours, provider=replace(ours.provider, name=HUB), title=WHO, stays_here=False)
        providers = (*context.settings.providers, hub)
        context = replace(context, settings=replace(context.settings, providers=providers))
    return _rows_refusal(context, HUB, _run_named(context, model))


def _run_named(context: AppContext, model: str) -> Run | None:
    """Finds the run of a model by its name, its trainer's name for it or a checkpoint, or its job's id or folder."""
    tuned = context.store.model(model)
    if tuned is None:
        at_trainer, _, _ = model.partition(CHECKPOINT)
        tuned = next(iter(context.store.models_at_provider(at_trainer)), None)
    if tuned is not None:
        return context.store.runs.of_model(tuned)
    return context.store.runs.with_job(Path(model).name)


def _run_of(context: AppContext | None, job: AdapterJob) -> Run | None:
    if context is None:
        return None
    return context.store.runs.with_job(job.id)


def _rows_refusal(context: AppContext | None, provider: str, run: Run | None) -> Refusal | None:
    """Returns why weights that have learned from a run's rows may not go to a provider, None if they may. Of a job that
    no run of the bot has started, no rules are known."""
    if context is None or run is None:
        return None
    plan = plan_from_json(run.plan)
    match data_policy.egress_now(context, run.dataset_id, [provider], plan.overridden):
        case Forbidden(reason):
            return Refusal(reason)
        case Unsure():
            return Refusal(
                f"The rows of {code(plan.dataset)} were never scanned for secrets and personal data, as they have not "
                "left this machine. Ask for something in Slack that sends them to a provider, like a baseline with its "
                "model: the bot scans them then."
            )
    return None


def _find_server(
    settings: Settings, provider: str, job: AdapterJob, base_id: str | None
) -> TokenServer | Refusal:
    row = settings.provider(provider)
    if row is None:
        return Refusal(f"finetune.toml has no provider {provider}.")
    if job.method in METHODS and METHODS[job.method].is_for_encoders:
        return Refusal(f"{row.title} serves chat models; export an encoder with --to onnx.")
    if job.method in METHODS and METHODS[job.method].leaves_model:
        return Refusal(
            f"{row.title} serves adapters, and all weights of this model were trained; use --to merged."
        )
    ours = settings.provider("local")
    base = ours.model(job.base_name) if ours else None
    if base is None:
        base = ModelRow(job.base_name, UNPRICED, aliases=(job.base,))
    if base_id is not None:
        base = ModelRow(base_id, UNPRICED)
    served = find_base(settings, row, base)
    if isinstance(served, Refusal):
        return served
    return TokenServer(row, served)
