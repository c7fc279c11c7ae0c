"""vLLM, an engine that answers and doesn't train: whether it is installed, which adapters it can load, and its server's
command.

It has its own environment, like the engines that train, since its dependencies conflict with ours.
`serving/vllm_process.py` starts it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainers.host import free_memory
from trainers.local.engines.catalog import VLLM, Installation, find_installation

# The only values of --max-lora-rank: MaxLoRARanks in vllm/config/lora.py, vLLM 0.14 and newer.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
VLLM_LACKS = {
    "modules_to_save": "whole layers trained beside it",
    "target_parameters": "matrices on fused experts",
    "use_dora": "DoRA's magnitudes",
}
SERVED_BASE = "base"  # vLLM's name for the model without an adapter
SCRIPT = Path(__file__).parent / "scripts" / "vllm_serve.py"
INSTALL = "Run `finetune engines install vllm`, or set the serving engine to builtin."


@dataclass(frozen=True)
class VllmOptions:
    """`base` is a folder, and `dtype` vLLM's name of a number format. The server holds up to `adapters` adapters of at
    most rank `rank`, and uses `share` of a GPU's memory. `share` is None on a CPU, where it uses half of the memory
    that is free when it starts. `is_for_training`: log probabilities are those after the temperature, which a training
    needs; programs get the model's own."""

    base: Path
    dtype: str
    rank: int
    adapters: int
    share: float | None
    is_for_training: bool = False

    def serves(self, wanted: VllmOptions) -> bool:
        """True if a server with these options can also serve requests that need `wanted`."""
        return self.rank >= wanted.rank and replace(self, rank=wanted.rank) == wanted


def find_missing_reason(engines: Path) -> str | None:
    """Returns why vLLM can't be used, and what to do, or None. `engines` is the folder of engines."""
    installation = find_installation(engines, VLLM)
    if installation is None:
        return f"vLLM is not installed in {engines / VLLM.name}. {INSTALL}"
    if installation.present_version != installation.version:
        present = installation.present_version or "no version"
        return f"vLLM {installation.version} was installed, but its environment now has {present}. {INSTALL}"
    return None


def adapter_refusal(config: Mapping[str, Any]) -> str | None:
    """Returns why vLLM can't load an adapter, or None. `config` is peft's adapter_config.json."""
    for key, feature in VLLM_LACKS.items():
        if config.get(key):
            return f"vLLM can't load an adapter with {feature} ({key})."
    if _highest_rank(config) > VLLM_RANKS[-1]:
        return f"The adapter's rank is {_highest_rank(config)}; vLLM supports at most {VLLM_RANKS[-1]}."
    return None


def vllm_rank(config: Mapping[str, Any]) -> int:
    """Returns the lowest --max-lora-rank that fits this adapter."""
    return next(rank for rank in VLLM_RANKS if rank >= _highest_rank(config))


def serve_command(installation: Installation, options: VllmOptions, socket: Path) -> list[str]:
    """Returns the command of vLLM's server. Its key is not an argument, since other users' `ps` would show it; it is
    passed in the environment. Sampling follows the request and not the base's generation_config.json. Grammars are
    checked by llguidance, as in the built-in engine."""
    python = str(installation.env / "bin" / "python")
    command = [
        *(python, str(SCRIPT), "serve", str(options.base)),
        *("--served-model-name", SERVED_BASE),
        *("--uds", str(socket)),
        *("--dtype", options.dtype),
        *("--max-model-len", "auto"),
        *("--enable-lora", "--max-lora-rank", str(options.rank), "--max-loras", str(options.adapters)),
        *("--generation-config", "vllm"),
        *("--max-logprobs", "20"),
        "--enable-prompt-tokens-details",  # else usage has no cached_tokens
        *("--structured-outputs-config", json.dumps({"backend": "guidance"})),
    ]
    if options.is_for_training:
        command += ["--logprobs-mode", "processed_logprobs"]
    share = options.share
    if share is None:
        # On a CPU vLLM 0.32 ends if it reads a prompt in parts and draws its answer with a seed.
        command.append("--no-enable-chunked-prefill")
        command.append("--enforce-eager")  # on a CPU compiling takes minutes and gains little
        share = _share_of_memory()
    if share is not None:
        command += ["--gpu-memory-utilization", f"{share:.3g}"]
    return command


def _share_of_memory() -> float | None:
    """Returns half of the free memory as a share of the total. In spite of its name the option also applies to a CPU,
    where vLLM's default of 92% is seldom free."""
    memory = free_memory()
    if memory is None:
        return None
    free, total = memory
    return free / total / 2


def _highest_rank(config: Mapping[str, Any]) -> int:
    ranks = config.get("rank_pattern") or {}  # those of layers that have their own
    return max([int(config["r"]), *map(int, ranks.values())])
