"""`--to hub`: writes the adapter, or the model if all its weights were trained, with its card, and uploads them to a
hub with Hugging Face's API, private by default."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from huggingface_hub import HfApi

from trainers.export_folder import ExportRefused
from trainers.local.export.agreement import compare_answers
from trainers.local.export.order import (
    ADAPTER_DTYPE,
    ADAPTER_TOLERANCE,
    TOLERANCES,
    ExportOrder,
    Plan,
    PreparedExport,
    Say,
    Upload,
    WrittenExport,
)
from trainers.local.export.sources import WEIGHTS, Source
from trainers.local.export.vllm import copy_adapter
from trainers.local.export.weights import Base, load, load_with_adapter
from trainers.models.base_models import HUB_ID

TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105


def plan(order: ExportOrder, source: Source, base: Base) -> Plan:
    check_upload(order.upload, base)
    if source.is_model:
        size = sum(path.stat().st_size for path in source.adapter.iterdir())
        return Plan(base.dtype, 2 * size)
    return Plan(ADAPTER_DTYPE, 2 * (source.adapter / WEIGHTS).stat().st_size)


def check_upload(upload: Upload, base: Base) -> None:
    """Raises ExportRefused if a recipient could not use the export, or it can't be uploaded."""
    if base.hub_id is None:
        raise ExportRefused(
            "The base model is a folder of this machine, but others need its id on the hub to use the adapter. "
            "Give it with --base-id ORG/NAME."
        )
    if base.licence is None:
        raise ExportRefused(
            f"The licence of {base.name} is unknown, and recipients of the adapter need to know it. Look it up and "
            "give it with --licence ID, such as apache-2.0."
        )
    if upload.repo is None:
        return
    if not HUB_ID.fullmatch(upload.repo):
        raise ExportRefused(f"--repo {upload.repo}: write it as ORG/NAME.")
    if not os.environ.get(TOKEN_VARIABLE, "").strip():
        raise ExportRefused(
            f"Uploading to {upload.repo} needs a token that may write there: set {TOKEN_VARIABLE}. "
            "Without --repo the folder is written and nothing is uploaded."
        )


def write(prepared: PreparedExport, folder: Path, say: Say) -> WrittenExport:
    model = prepared.order.upload.repo or "FOLDER_OR_HUB_ID"
    if prepared.source.is_model:
        shutil.copytree(prepared.source.adapter, folder, dirs_exist_ok=True)
        agreement = compare_answers(prepared, load(folder), TOLERANCES[prepared.dtype], say)
        return WrittenExport([agreement], model_usage(model))
    copy_adapter(prepared.source, prepared.base, folder)
    agreement = compare_answers(
        prepared, load_with_adapter(prepared.base.folder, folder), ADAPTER_TOLERANCE, say
    )
    usage = (
        "```python\nfrom peft import AutoPeftModelForCausalLM\n\n"
        f'model = AutoPeftModelForCausalLM.from_pretrained("{model}")\n```\n\n'
        f"The tokenizer and the chat template are those of {prepared.base.name}."
    )
    return WrittenExport([agreement], usage)


def model_usage(model: str) -> str:
    return (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{model}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{model}")\n```'
    )


def upload(order: ExportOrder, say: Say) -> None:
    """Uploads the export if the order names a repo. Raises ExportRefused; the folder stays in any case."""
    folder = order.out
    repo = order.upload.repo
    if repo is None:
        return
    say(f"Uploading to {repo}")
    api = HfApi(token=os.environ[TOKEN_VARIABLE].strip())
    try:
        api.create_repo(repo, private=not order.upload.is_public, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="A fine-tuned model and its card"
        )
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a large file failed
        reason = " ".join(str(error).split())[:300]
        raise ExportRefused(
            f"Uploading {folder} to {repo}: {reason} The folder is complete. Upload it yourself, or export again with "
            "--repo and a new --out."
        ) from error
    say(f"Uploaded: {commit.commit_url}")
