"""Finds what a deployment by the token uploads: the adapter of a run on this machine, and the vendor's name for its
base. Uploads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bot.cards.common.blocks import escape
from bot.context import AppContext
from bot.rules.plans import plan_from_json
from bot.services.common import token_serving
from bot.services.common.token_serving import TokenServer
from bot.settings import Settings
from bot.values.runs import Refusal
from storage.deployments import DeploymentRecord
from storage.records import Run
from trainers.deployments.adapters import AdapterUnusable, rank_problem, read_adapter

TRAINER_FOLDERS = ("trainer", "terminal-trainer")


@dataclass(frozen=True)
class ServedAdapter:
    """What is uploaded for a deployment: the adapter's folder, and the vendor's name for its base."""

    folder: Path
    base_model: str


def adapter_of(context: AppContext, run: Run, record: DeploymentRecord) -> ServedAdapter | Refusal:
    """Returns what a deployment by the token uploads."""
    row = context.settings.provider(record.provider)
    if row is None:
        return Refusal(f"There is no provider {record.provider} any more.")
    server = token_serving.server_for(context.settings, row.name, plan_from_json(run.plan))
    if isinstance(server, Refusal):
        return server
    folder = find_folder(context.settings, run)
    if isinstance(folder, Refusal):
        return folder
    problem = _rank_problem(server, folder)
    if problem:
        return Refusal(problem)
    return ServedAdapter(folder, server.base.name)


def find_folder(settings: Settings, run: Run) -> Path | Refusal:
    """Returns the folder of the run's adapter at our own trainer."""
    for name in TRAINER_FOLDERS:
        folder = settings.data / name / "jobs" / str(run.job_id) / "adapter"
        if folder.is_dir():
            return folder
    return Refusal(
        f"The adapter of run {run.id} is not in {settings.data / TRAINER_FOLDERS[0]}: its trainer keeps it elsewhere. "
        "There, `finetune export` can upload it."
    )


def _rank_problem(server: TokenServer, folder: Path) -> str | None:
    """Returns why the vendor doesn't serve the adapter as it was trained: a sweep may have chosen its rank."""
    try:
        adapter = read_adapter(folder)
    except AdapterUnusable as unusable:
        return str(unusable)
    return rank_problem(adapter.rank, server.base.most_rank, escape(server.row.title), server.base.name)
