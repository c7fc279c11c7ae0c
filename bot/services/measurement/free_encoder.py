"""What the free encoder answers to a run's held-out rows. A run that trains a whole encoder is compared with it: the
same texts, read by an encoder as it is published, and a linear classifier learnt from the run's training rows.

It is the candidate "encoder" of a measurement: its answers have the same keys, so those of an earlier measurement of
these rows are used here, and a later one uses these.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bot.services.datasets.dataset_worker import SEED
from bot.services.evidence import evaluation_worker
from bot.services.measurement import evaluation_engine
from bot.services.measurement.judgements import ResultStep
from bot.values.evaluations import ComparisonPlan
from bot.values.runs import Refusal
from trainers.evaluation.results import ENCODER
from trainers.providers.pricing import PriceList


def stored_keys(step: ResultStep) -> Sequence[str]:
    """Returns the keys of its answers in the order of the held-out rows, none before `load_keys` has found them."""
    keys = evaluation_worker.read_keys(_folder(step)) or {}
    if ENCODER not in keys:
        return ()
    return keys[ENCODER].keys


def load_keys(step: ResultStep) -> Sequence[str] | Refusal | None:
    """Returns the keys of its answers, why it can't be used, or None while a worker chooses the encoder.

    The choice is stored in the run's folder, so that an encoder that is installed meanwhile changes nothing.
    """
    work = f"choose encoder {step.owner}"
    workers = step.context.workers
    keys = None
    if not workers.has(work):  # a worker that is at work may have written a part of them
        keys = evaluation_worker.read_keys(_folder(step))
    if keys is None:
        files = step.context.settings.files
        keys = workers.poll(work, evaluation_worker.prepare, _plan(step), files, _folder(step), SEED)
    if keys is None:
        return None
    of_encoder = keys[ENCODER]
    if of_encoder.failed is not None:
        return Refusal(of_encoder.failed)
    return of_encoder.keys


def take_answers(step: ResultStep, keys: Sequence[str]) -> Refusal | None:
    """Has a worker answer all rows, and stores the answers. Returns why it can't, else None."""
    context = step.context
    files = context.settings.files
    work = f"encoder {step.owner}"
    replies = context.workers.poll(
        work, evaluation_worker.free_answers, ENCODER, _plan(step), files, _folder(step), SEED
    )
    if isinstance(replies, Refusal):
        return replies
    if replies is not None:
        evaluation_engine.store_free_answers(context, ENCODER, keys, replies, context.clock(), step.owner)
    return None


def _folder(step: ResultStep) -> Path:
    return step.folder / "encoder"


def _plan(step: ResultStep) -> ComparisonPlan:
    """Returns the plan of a measurement of this candidate alone."""
    plan = step.plan
    return ComparisonPlan(
        dataset=plan.dataset,
        version=plan.dataset_version,
        task="labels",
        train_sha256=plan.train_sha256,
        holdout_sha256=plan.holdout_sha256,
        n_holdout=plan.n_holdout,
        labels=plan.labels,
        candidates=(ENCODER,),
        prompt=None,
        bar=0.0,
        documents=(),
        prices=PriceList((), step.context.today()).to_json(),
        encoder=step.context.settings.encoder,
    )
