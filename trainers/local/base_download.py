"""Downloads a base model's files from the hub, or finds them in a local folder.

A base that can't be used is refused before its first large file is downloaded. Only configuration, tokenizer and
safetensors are downloaded, never code or pickled weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from trainers.local.training.errors import TrainingFailed
from trainers.models.base_models import HUB_ID

WANTED_ENDINGS = (".json", ".safetensors", ".jinja", ".model", ".txt")
TOKENIZER_ENDINGS = tuple(ending for ending in WANTED_ENDINGS if ending != ".safetensors")
UNWANTED = "consolidated"  # Mistral's repositories hold all weights a second time, in another layout
TIMEOUT_S = 30.0
Say = Callable[[str], None]


def fetch_base(
    source: str, say: Say = lambda _: None, *, endpoint: str | None = None, cache: Path | None = None
) -> Path:
    """Returns the folder with the files of `source`, a local folder or a hub id. Raises TrainingFailed.

    `say` gets a sentence before a download. `endpoint` overrides $HF_ENDPOINT, and `cache` overrides $HF_HOME.
    """
    folder = Path(source)
    if folder.is_dir():
        return require_model_files(folder, source)
    if not HUB_ID.fullmatch(source):
        text = f"Loading the base model {source}: this is neither a folder nor a hub id such as org/name."
        raise TrainingFailed("base_not_loaded", f"{text} Check the name.", "model")
    try:
        return _download(source, say, endpoint, cache or Path(constants.HF_HUB_CACHE))
    except HfHubHTTPError as error:  # the base class of those for gated and unknown repositories
        raise _explain_http_error(source, error) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, httpx2.TransportError) as error:
        return _load_cached_copy(source, error, cache)


def fetch_tokenizer(source: str, say: Say = lambda _: None, *, cache: Path | None = None) -> Path:
    """Returns a folder with at least the configuration and the tokenizer of `source`, a local folder or a hub id.

    Raises TrainingFailed.
    """
    folder = Path(source)
    if folder.is_dir():
        return require_model_files(folder, source)
    if not HUB_ID.fullmatch(source):
        return fetch_base(source, say, cache=cache)  # which refuses it
    try:
        return _snapshot(source, cache, endings=TOKENIZER_ENDINGS)
    except HfHubHTTPError as error:
        raise _explain_http_error(source, error) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, httpx2.TransportError) as error:
        return _load_cached_copy(source, error, cache)


def require_model_files(folder: Path, source: str) -> Path:
    """Returns `folder` if it holds a model in safetensors, else raises TrainingFailed."""
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            text = (
                f"{source} holds an adapter, not a base model. Name the model that the adapter was made for."
            )
            raise TrainingFailed("base_is_adapter", text, "model")
        text = f"Loading the base model {source}: it has no config.json. A model has config.json and *.safetensors."
        raise TrainingFailed("base_not_loaded", text, "model")
    if not any(folder.glob("*.safetensors")):
        raise _no_safetensors(source)
    return folder


def _download(source: str, say: Say, endpoint: str | None, cache: Path) -> Path:
    info = HfApi(endpoint=endpoint).model_info(source, files_metadata=True, timeout=TIMEOUT_S)
    sizes = {
        file.rfilename: file.size or 0
        for file in info.siblings or []
        if "/" not in file.rfilename
        and file.rfilename.endswith(WANTED_ENDINGS)
        and not file.rfilename.startswith(UNWANTED)
    }
    if "config.json" in sizes and not any(name.endswith(".safetensors") for name in sizes):
        raise _no_safetensors(source)
    missing = []
    for name in sizes:
        cached = try_to_load_from_cache(source, name, cache_dir=cache, revision=info.sha)
        if not isinstance(cached, str):
            missing.append(name)
    size = sum(sizes[name] for name in missing)
    # The cache itself may not exist yet.
    full_path = cache.absolute()
    existing = next(folder for folder in (full_path, *full_path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if size > free:
        text = (
            f"Downloading {source} takes {_format_gb(size)}, and the disk of {cache} has {_format_gb(free)} free. "
            "Free some space, or set HF_HOME to a folder on a larger disk."
        )
        raise TrainingFailed("disk_full", text, "model")
    if size:
        say(f"Downloading {source}: {_format_gb(size)} in {len(missing)} files")
    disable_progress_bars()
    return require_model_files(_snapshot(source, cache, endpoint=endpoint), source)


def _snapshot(
    source: str, cache: Path | None, *, endings: Sequence[str] = WANTED_ENDINGS, **more: Any
) -> Path:
    patterns = [f"*{ending}" for ending in endings]
    return Path(
        snapshot_download(
            source, allow_patterns=patterns, ignore_patterns=["*/*", f"{UNWANTED}*"], cache_dir=cache, **more
        )
    )


def _format_gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def _load_cached_copy(source: str, error: Exception, cache: Path | None) -> Path:
    """Returns the folder of an earlier download if that is complete, else raises TrainingFailed."""
    try:
        return require_model_files(_snapshot(source, cache, local_files_only=True), source)
    except (LocalEntryNotFoundError, TrainingFailed):
        sentence = " ".join(str(error).split())[:200]
        text = (
            f"The hub can't be reached to load {source}, and no complete copy of it is on this machine: {sentence} "
            "Check the connection, or download the model elsewhere and name its folder."
        )
        raise TrainingFailed("hub_unreachable", text, "model") from error


def _explain_http_error(source: str, error: HfHubHTTPError) -> TrainingFailed:
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        text = (
            f"{source} is gated: you have to accept its licence first. Accept it on the model's page, then give the "
            "trainer a token that may read it, as HF_TOKEN in its environment or with 'hf auth login'."
        )
        return TrainingFailed("base_gated", text, "model")
    if isinstance(error, RepositoryNotFoundError):
        # The hub answers 401 both for a private model and for one that does not exist.
        private = " or it is private" if status == 401 else ""
        text = (
            f"The hub has no model {source}{private}. Check the spelling; a private one needs HF_TOKEN in the "
            "trainer's environment."
        )
        return TrainingFailed("base_not_found", text, "model")
    if status in (401, 403):
        text = (
            f"The hub does not let this trainer's token read {source} (HTTP {status}). Set HF_TOKEN in the trainer's "
            "environment to a valid token that may read this model."
        )
        return TrainingFailed("base_forbidden", text, "model")
    text = (
        f"Asking the hub for {source}: HTTP {status}. Try again later, or name a folder that holds the model."
    )
    return TrainingFailed("hub_unreachable", text, "model")


def _no_safetensors(source: str) -> TrainingFailed:
    text = f"The base model in {source} has no *.safetensors. Convert it: other formats can carry code."
    return TrainingFailed("base_not_safetensors", text, "model")
