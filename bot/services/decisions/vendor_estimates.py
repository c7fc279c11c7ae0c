"""Asks a vendor what a job would cost there, once its plan is posted, so that approvers see its figure beside ours.

No row may leave before the approval. Since a vendor prices tokens and not their meaning, it gets a stand-in: a file
with as many rows and tokens that repeats one word. The file is deleted afterwards.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bot.context import AppContext
from bot.rules.plans import Plan
from bot.services.common.provider_jobs import UploadedFiles, delete_uploads, job_spec, record_uploads
from bot.values.runs import VendorEstimate
from storage.records import Run
from trainers.client.client import Trainer
from trainers.errors import Refused, TrainerError
from trainers.models.tokens import count_chat
from trainers.money import to_micros
from trainers.types import JobEstimate, Message

AGAIN_S = 5.0
PATIENCE_S = 90.0
MOST_TOKENS = 50_000_000  # a stand-in file of 200 MB
NO_CREDIT = (402, 403)  # statuses with which a vendor refuses an account that can't pay
SHORTEST = (Message("user", "the"), Message("assistant", "the"))

log = logging.getLogger(__name__)


def ask(context: AppContext, run: Run, plan: Plan) -> VendorEstimate | str | None:
    """Returns the vendor's estimate, None if it has to be asked again in `AGAIN_S`, or as a text why the vendor would
    not train for this account."""
    trainer = context.trainers.get(run.provider)
    # The plan counts all epochs; the vendor multiplies by the epochs in the job's settings.
    epochs = int(dict(plan.hyperparameters).get("n_epochs", 1))
    tokens = plan.training_tokens // epochs
    if trainer is None or not trainer.provider.can("estimate"):
        return VendorEstimate()
    # The stand-in's chats have one answer each, as only supervised training reads them.
    if plan.method != "supervised" or tokens > MOST_TOKENS:
        return VendorEstimate(why="the file to ask with would be too large" if tokens > MOST_TOKENS else "")
    try:
        answer = _ask_with_stand_in(context, trainer, run, plan, tokens)
    except Refused as refused:
        if refused.status in NO_CREDIT:
            return str(refused)
        return VendorEstimate(why=str(refused))
    except TrainerError as trouble:
        answer = JobEstimate(None, why=str(trouble))
    if answer.usd is not None:
        return VendorEstimate(to_micros(answer.usd), is_affordable=answer.is_affordable)
    # Approvers should not wait for a figure that they can do without.
    is_late = context.clock() - run.state_since > PATIENCE_S
    return VendorEstimate(why=answer.why or "it was not ready in time") if is_late else None


def _ask_with_stand_in(
    context: AppContext, trainer: Trainer, run: Run, plan: Plan, tokens: int
) -> JobEstimate:
    """Uploads the stand-in and asks for its price. While the vendor is still checking the file it stays there for the
    next attempt; `delete_unneeded_uploads` deletes it if there is none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(stand_in_rows(plan.n_train, tokens))
        with path.open("rb") as written:
            sha256 = hashlib.file_digest(written, "sha256").hexdigest()
        # Before the upload, so that a file that a kill leaves behind is deleted later.
        record_uploads(context, plan.provider, {sha256})
        file_id = trainer.upload(path, sha256)
    try:
        answer = trainer.estimate(job_spec(run, plan, UploadedFiles(file_id)))
    except Refused:
        # A refusal is final: there is no next attempt that would need the file.
        delete_uploads(context, trainer, {sha256}, f"run {run.id}")
        raise
    if answer.usd is not None:
        delete_uploads(context, trainer, {sha256}, f"run {run.id}")
    return answer


def stand_in_rows(rows: int, tokens: int) -> Iterator[str]:
    """Yields `rows` chats as lines of JSON, with `tokens` tokens in total, or more if even chats of two words exceed
    that."""
    least = count_chat([SHORTEST]).total[0]
    mean, more = divmod(tokens, rows)
    for number in range(rows):
        extra = max(0, mean + (number < more) - least)
        chat = [
            {"role": "user", "content": "the" + " the" * extra},
            {"role": "assistant", "content": "the"},
        ]
        yield json.dumps({"messages": chat}) + "\n"
