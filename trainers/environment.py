"""The environment that a process started by us gets: an allow list, so that no token of Slack or a vendor is in it.

A key is never passed by the beginning of its name; the caller names those that the child needs.
"""

from __future__ import annotations

import os
import re

HUB_KEYS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
TRACKER_KEYS = ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")
TRAINER_KEYS = (*HUB_KEYS, *TRACKER_KEYS, "FINETUNE_RAY_TOKEN")
# Where the hub and the trackers lie, as docs/base-models.md and docs/jobs.md name them.
TRAINER_PLACES = ("HF_HOME", "HF_ENDPOINT", "WANDB_MODE", "MLFLOW_TRACKING_URI")

# fmt: off
_NAMES = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "TZ", "TERM", "LANG", "LANGUAGE", "COLUMNS", "NO_COLOR",
    "TMPDIR", "TEMP", "TMP", "NETRC", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "LD_PRELOAD",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "TOKENIZERS_PARALLELISM", "MASTER_ADDR", "MASTER_PORT",
)
_BEGINNINGS = (
    "LC_", "XDG_", "PYTHON", "SSL_CERT_", "FINETUNE_",
    "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "WANDB_", "MLFLOW_",
    "TORCH", "PYTORCH_", "TRITON_", "ACCELERATE_", "BNB_", "CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "NCCL_",
    "GLOO_", "UCX_", "ROCR_", "HIP_", "ROCM_", "HSA_",
    "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "MALLOC_", "MPL", "RAY_", "SLURM_",
)
# fmt: on
ORDER, PCI = "CUDA_DEVICE_ORDER", "PCI_BUS_ID"  # nvidia-smi's numbers; CUDA's own order is by speed
_IS_KEY = re.compile(r"(KEY|KEY_ID|TOKEN|PASSWORD|SECRET|CREDENTIALS)$", re.IGNORECASE)


def child_environment(*more: str) -> dict[str, str]:
    """What of our own environment a child gets. `more`: names that it needs besides, or their beginnings if they
    end in an underscore; keys among them. GPUs are counted as nvidia-smi counts them, if we say nothing else."""
    own = {name: value for name, value in os.environ.items() if _is_allowed(name) or _is_named(name, more)}
    return {ORDER: PCI, **own}


def keep_only(environment: dict[str, str]) -> None:
    """Takes everything else out of our own environment, and so out of that of processes which multiprocessing starts:
    it has no way of giving them another one."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]


def _is_allowed(name: str) -> bool:
    return not _IS_KEY.search(name) and (name.upper() in _NAMES or name.startswith(_BEGINNINGS))


def _is_named(name: str, more: tuple[str, ...]) -> bool:
    return any(name == each or (each.endswith("_") and name.startswith(each)) for each in more)
