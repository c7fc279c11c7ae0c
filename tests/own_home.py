"""A home folder for the tests. The product reads a person's calibration, models, tokens and settings there, and in
variables; with those, a test would pass on one machine and fail on the next.

Children inherit the environment, so theirs is the same. What tests need from the project's .cache they name by its
path.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

HOME = "FINETUNE_TEST_HOME"
# Where programs look instead of in the home, and whom they sign in as. XDG_RUNTIME_DIR holds sockets, no settings.
_PERSONAL_PREFIXES = (
    "XDG_CONFIG", "XDG_CACHE", "XDG_DATA", "XDG_STATE", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "WANDB_", "MLFLOW_",
    "MPL", "MATPLOTLIB", "AWS_", "GOOGLE_", "AZURE_", "SLACK_", "GIT_", "OPENAI_", "ACCELERATE_", "COREWEAVE_",
    "TINKER_",
)  # fmt: skip
_PERSONAL = frozenset(
    {"NETRC", "FINETUNE_CONFIG", "FINETUNE_LOG", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "PYTHONWARNINGS"}
)
_PROXIES = frozenset(
    {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
)  # everything that tests call is local
_SECRET = re.compile(r"_(KEY|KEY_ID|TOKEN|PASSWORD|SECRET|ACCOUNT_ID|PROJECT_ID)$", re.IGNORECASE)


def leave_home(environment: MutableMapping[str, str], root: Path | None) -> Path:
    """Gives `environment` a new home in `root` (None: the system's temporary folder), which goes when this process
    ends, and drops every variable that is a person's. In a child of such a process it changes nothing."""
    if HOME in environment:
        return Path(environment[HOME])
    home = Path(tempfile.mkdtemp(prefix="finetune-home-", dir=root))
    owner = os.getpid()
    atexit.register(_remove, home, owner)
    for name in list(environment):
        if is_personal(name):
            del environment[name]
    environment[HOME] = str(home)
    environment["HOME"] = str(home)
    return home


def is_personal(name: str) -> bool:
    if name.upper() in _PROXIES:
        return True
    return name in _PERSONAL or name.startswith(_PERSONAL_PREFIXES) or bool(_SECRET.search(name))


def _remove(home: Path, owner: int) -> None:
    # A forked child ends by the same functions.
    if os.getpid() == owner:
        shutil.rmtree(home, ignore_errors=True)
