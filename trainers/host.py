"""Facts about this machine that the trainer needs: environments for child processes (an allow list without secrets),
free memory, installed versions of engines, and fingerprints of local weights. Starts nothing."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

HUB_KEYS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
TRACKER_KEYS = ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")
STORAGE_KEYS = ("AWS_", "GOOGLE_APPLICATION_CREDENTIALS")  # for a cluster's storage, see docs/ray.md
TINKER_KEY = "TINKER_API_KEY"
TINKER_SETTINGS = (
    TINKER_KEY,
    "TINKER_BASE_URL",
    "TINKER_PROJECT_ID",
)  # for its engine's process, see docs/tinker.md
TINKER_ADMIN_KEY = "TINKER_ADMIN_KEY"  # reads the bills there; the bot's alone, no trainer gets it
TRAINER_KEYS = (*HUB_KEYS, *TRACKER_KEYS, *TINKER_SETTINGS, "FINETUNE_RAY_TOKEN")
# Addresses of the hub and the trackers; see docs/base-models.md and docs/jobs.md.
TRAINER_SETTINGS = ("HF_HOME", "HF_ENDPOINT", "WANDB_MODE", "MLFLOW_TRACKING_URI")

# fmt: off
_ALLOWED_NAMES = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "TZ", "TERM", "LANG", "LANGUAGE", "COLUMNS", "NO_COLOR",
    "TMPDIR", "TEMP", "TMP", "NETRC", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "LD_PRELOAD",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "TOKENIZERS_PARALLELISM", "MASTER_ADDR", "MASTER_PORT",
)
_ALLOWED_PREFIXES = (
    "LC_", "XDG_", "PYTHON", "SSL_CERT_", "FINETUNE_",
    "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "WANDB_", "MLFLOW_",
    "TORCH", "PYTORCH_", "ATEN_", "ONEDNN_", "TRITON_", "ACCELERATE_", "BNB_", "CUDA_", "CUBLAS_", "CUDNN_",
    "NVIDIA_", "NCCL_", "GLOO_", "UCX_", "ROCR_", "HIP_", "ROCM_", "HSA_",
    "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "MALLOC_", "MPL", "RAY_", "SLURM_",
)
# fmt: on
GPU_ORDER = "CUDA_DEVICE_ORDER"
BY_PCI_BUS = "PCI_BUS_ID"  # as nvidia-smi counts; CUDA's default is by speed
_IS_KEY = re.compile(r"(KEY|KEY_ID|TOKEN|PASSWORD|SECRET|CREDENTIALS)$", re.IGNORECASE)


def child_environment(*more: str) -> dict[str, str]:
    """Returns the part of our environment that a child process inherits.

    `more` are further variables, which may be secrets, or prefixes if they end in an underscore. Unless the
    environment says otherwise, GPUs are numbered as nvidia-smi numbers them.
    """

    prefixes = tuple(wanted for wanted in more if wanted.endswith("_"))

    def is_allowed(name: str) -> bool:
        if name in more or name.startswith(prefixes):
            return True
        is_listed = name.upper() in _ALLOWED_NAMES or name.startswith(_ALLOWED_PREFIXES)
        return is_listed and not _IS_KEY.search(name)

    environment = {GPU_ORDER: BY_PCI_BUS}
    for name, value in os.environ.items():
        if is_allowed(name):
            environment[name] = value
    return environment


def trainer_environment(arguments: Sequence[str], *more: str) -> dict[str, str]:
    """Returns the environment for our trainer with these command line arguments. It has the keys of a cluster's storage
    only if the arguments name one."""
    allowed = [*TRAINER_KEYS, *more]
    options = [argument.partition("=")[0] for argument in arguments]
    if "--storage" in options:
        allowed += STORAGE_KEYS
    return child_environment(*allowed)


def restrict_environment(environment: dict[str, str]) -> None:
    """Removes every variable that is not in `environment` from our own environment, because multiprocessing can't start
    processes with another one."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]


def turn_telemetry_off() -> None:
    """To be called before onnxruntime is imported: from version 1.29 on it sends which models it runs, with an id of
    this machine, to its maker (Privacy.md in its package)."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


MEMINFO = Path("/proc/meminfo")


def free_memory() -> tuple[int, int] | None:
    """Returns the bytes available without swapping, as the kernel estimates them, and the total bytes of memory. None
    if the system doesn't report them."""
    if not MEMINFO.exists():
        return None
    kilobytes = {}
    for line in MEMINFO.read_text(encoding="ascii").splitlines():
        words = line.split()
        if len(words) > 1:
            kilobytes[words[0]] = int(words[1])
    available = kilobytes["MemAvailable:"] * 1024
    total = kilobytes["MemTotal:"] * 1024
    return available, total


ENGINES_FOLDER = "engines"
"""Folder in the trainer's data folder. engines/NAME/env is the virtual environment with the package NAME."""


def installed_version(env: Path, package: str) -> str | None:
    """Returns a package's version, read from the folder that pip writes last, or None if it is not installed."""
    folders = env.glob(f"lib/python3*/site-packages/{package}-*.dist-info")
    for folder in folders:
        name = re.fullmatch(rf"{package}-(.+)\.dist-info", folder.name)
        if name:
            return name[1]
    return None


PROBES = 64
PROBE_BYTES = 16 * 1024
FINGERPRINTED_FILES = ("*.safetensors", "*.json", "*.model", "*.jinja")


def weights_fingerprint(source: str) -> str | None:
    """Returns a fingerprint of the weights that `source` (a folder or hub id) stands for. Makes no network request.

    For a folder it covers the names and sizes of the model's files and samples of each file. Gigabytes of weights are
    not read in full, which would take too long; since training changes every layer, samples tell models apart. For a
    model from the hub it is the cached revision, or None if nothing is cached.
    """
    folder = Path(source)
    if not folder.is_dir():
        return _cached_revision(source)
    digest = hashlib.sha256()
    paths: set[Path] = set()
    for pattern in FINGERPRINTED_FILES:
        paths |= set(folder.glob(pattern))
    for path in sorted(paths):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        last = max(size - PROBE_BYTES, 0)
        with path.open("rb") as file:
            for number in range(PROBES):
                offset = last * number // (PROBES - 1)  # evenly, from the first byte to the last ones
                file.seek(offset)
                digest.update(file.read(PROBE_BYTES))
    return digest.hexdigest()[:16]


def _cached_revision(source: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    if source.count("/") != 1:  # neither a folder nor a hub id
        return None
    cached = try_to_load_from_cache(source, "config.json")
    if not isinstance(cached, str):
        return None
    revision = Path(cached).parent.name  # the cache has a folder for each revision
    return revision[:16]
