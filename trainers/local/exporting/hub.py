"""An exported folder on a model hub that speaks Hugging Face's API: private unless it is asked to be public."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi

from trainers.local.exporting.bases import Base
from trainers.local.exporting.refusals import ExportRefused
from trainers.local.training.hub import HUB_ID

TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105


@dataclass(frozen=True)
class Upload:
    """`repo` None: the folder is made ready and nothing leaves the machine."""

    repo: str | None
    is_public: bool


def check(upload: Upload, base: Base) -> None:
    """Before anything is written. Raises ExportRefused."""
    if base.hub_id is None:
        raise ExportRefused(
            "The base model is a folder of this machine; others need its id on the hub to use the adapter. "
            "Name it: --base-id ORG/NAME."
        )
    if base.licence is None:
        raise ExportRefused(
            f"Nothing says under which licence {base.name} stands, and who gets the adapter must know. "
            "Look it up, and say it: --licence ID, such as apache-2.0."
        )
    if upload.repo is None:
        return
    if not HUB_ID.fullmatch(upload.repo):
        raise ExportRefused(f"--repo {upload.repo}: write it as ORG/NAME.")
    if not os.environ.get(TOKEN_VARIABLE, "").strip():
        raise ExportRefused(
            f"Uploading to {upload.repo} needs a token that may write there: set {TOKEN_VARIABLE}. "
            "Without --repo the folder is made ready and nothing is uploaded."
        )


def send(folder: Path, upload: Upload) -> str:
    """The commit's address. Raises ExportRefused; the folder stays as it is."""
    assert upload.repo is not None  # noqa: S101
    api = HfApi(token=os.environ[TOKEN_VARIABLE].strip())
    try:
        api.create_repo(upload.repo, private=not upload.is_public, exist_ok=True)
        done = api.upload_folder(
            repo_id=upload.repo, folder_path=folder, commit_message="A fine-tuned adapter and its card"
        )
    except (OSError, ValueError, RuntimeError) as error:  # the last: a large file that did not get through
        said = " ".join(str(error).split())[:300]
        raise ExportRefused(
            f"Uploading {folder} to {upload.repo}: {said} The folder is complete: upload it again with --repo, into a "
            "new --out, or by hand."
        ) from error
    return str(done.commit_url)
