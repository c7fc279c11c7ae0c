"""Runs in an engine's environment: `python probe.py NAME` prints the engine's versions and config keys as JSON.

It fails if the engine can't be imported.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def unsloth_keys() -> dict[str, list[str]]:
    import unsloth  # must be first, since it patches transformers and trl on import
    from trl import SFTConfig

    def arguments(function: Callable[..., Any]) -> list[str]:
        return list(inspect.signature(function).parameters)

    model = unsloth.FastLanguageModel
    return {
        "model": arguments(model.from_pretrained),
        "lora": arguments(model.get_peft_model),
        "arguments": [field.name for field in fields(SFTConfig)],
    }


def llamafactory_keys() -> dict[str, list[str]]:
    from llamafactory.hparams import parser
    from llamafactory.train import tuner  # noqa: F401  checks that everything training imports is installed

    return {"config": [field.name for part in parser._TRAIN_ARGS for field in fields(part)]}


def axolotl_keys() -> dict[str, list[str]]:
    from axolotl.train import train  # noqa: F401
    from axolotl.utils.schemas.config import AxolotlInputConfig

    return {"config": list(AxolotlInputConfig.model_fields)}


def vllm_keys() -> dict[str, list[str]]:
    from vllm.engine.arg_utils import AsyncEngineArgs

    return {"serve": [field.name for field in fields(AsyncEngineArgs)]}


def tinker_keys() -> dict[str, list[str]]:
    from tinker import ServiceClient
    from tinker.lib.internal_client_holder import InternalClientHolder
    from tinker.lib.public_interfaces.training_client import fetch_training_info  # noqa: F401  the driver needs it

    InternalClientHolder._should_pause_on_billing  # noqa: B018  and this

    return {"create": list(inspect.signature(ServiceClient.create_lora_training_client).parameters)}


def versions() -> dict[str, str]:
    """Returns the versions of the packages that determine a job's results, as far as they are installed."""
    version_by_package = {}
    for package in ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes"):
        with contextlib.suppress(PackageNotFoundError):
            version_by_package[package] = version(package)
    return version_by_package


def has_cuda() -> bool:
    try:
        import torch
    except ImportError:  # an engine that trains at a vendor has none
        return False
    return torch.version.cuda is not None


def main(name: str) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        keys = {
            "unsloth": unsloth_keys,
            "llamafactory": llamafactory_keys,
            "axolotl": axolotl_keys,
            "tinker": tinker_keys,
            "vllm": vllm_keys,
        }[name]()
    facts = {
        "version": version(name),
        "versions": versions(),
        "has_cuda": has_cuda(),
        "keys": keys,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1])
