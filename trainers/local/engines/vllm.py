"""vLLM, an engine that answers: where it is installed, which adapters it loads, and the command of its server.

It is installed like the engines that train, in an environment of its own, since its pins clash with ours. This module
starts nothing; `serving/vllm_process.py` does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainers.host import free_memory
from trainers.local.engines.catalog import VLLM, Installation, find_installation

# MaxLoRARanks in vllm/config/lora.py, vLLM 0.14 and newer: no number between them is taken
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
VLLM_LACKS = {
    "modules_to_save": "whole layers trained beside it",
    "target_parameters": "matrices on fused experts",
    "use_dora": "DoRA's magnitudes",
}
SERVED_BASE = "base"  # what vLLM calls the model without an adapter
SCRIPT = Path(__file__).parent / "scripts" / "vllm_serve.py"
INSTALL = "`finetune engines install vllm` installs it, or let the serving engine be builtin."


@dataclass(frozen=True)
class VllmOptions:
    """`base` is a folder, `dtype` vLLM's name of it. The server holds `adapters` at a time, of `rank` at most, and
    takes `share` of a GPU's memory; None on a CPU, where it takes half of the memory that is free when it starts."""

    base: Path
    dtype: str
    rank: int
    adapters: int
    share: float | None

    def serves(self, wanted: VllmOptions) -> bool:
        """Whether a server with these options can answer what asks for `wanted`."""
        return self.rank >= wanted.rank and replace(self, rank=wanted.rank) == wanted


def find_missing_reason(engines: Path) -> str | None:
    """Returns why vLLM can't be used, in a sentence with the cure, or None. `engines` is the folder of engines."""
    installation = find_installation(engines, VLLM)
    if installation is None:
        return f"vLLM is not installed in {engines / VLLM.name}. {INSTALL}"
    version, present = installation.version, installation.present_version
    if present != version:
        return f"vLLM {version} was installed, and now {present or 'no version'} is there. {INSTALL}"
    return None


def adapter_refusal(config: Mapping[str, Any]) -> str | None:
    """Returns why vLLM can't load such an adapter, without a cure, or None. `config` is peft's adapter_config.json."""
    for key, feature in VLLM_LACKS.items():
        if config.get(key):
            return f"vLLM loads no adapter with {feature} ({key})."
    if _highest_rank(config) > VLLM_RANKS[-1]:
        return f"The adapter's rank is {_highest_rank(config)}; vLLM takes {VLLM_RANKS[-1]} at most."
    return None


def vllm_rank(config: Mapping[str, Any]) -> int:
    """Returns the lowest --max-lora-rank for this adapter."""
    return next(rank for rank in VLLM_RANKS if rank >= _highest_rank(config))


def serve_command(installation: Installation, options: VllmOptions, socket: Path) -> list[str]:
    """The server's key is passed in its environment, where no other user's `ps` shows it. Sampling follows the request
    and not the base's generation_config.json; grammars are checked by llguidance, as in the built-in engine."""
    python = str(installation.env / "bin" / "python")
    command = [python, str(SCRIPT), "serve", str(options.base), "--served-model-name", SERVED_BASE]
    command += ["--uds", str(socket), "--dtype", options.dtype, "--max-model-len", "auto"]
    command += ["--enable-lora", "--max-lora-rank", str(options.rank), "--max-loras", str(options.adapters)]
    command += ["--generation-config", "vllm", "--max-logprobs", "20"]
    command += ["--structured-outputs-config", json.dumps({"backend": "guidance"})]
    share = options.share
    if share is None:
        command.append("--enforce-eager")  # on a CPU compiling takes minutes and gains little
        share = _share_of_memory()
    return command if share is None else [*command, "--gpu-memory-utilization", f"{share:.3g}"]


def _share_of_memory() -> float | None:
    """The option's name notwithstanding, it holds for a CPU's memory too; vLLM's own 92% are seldom free there."""
    memory = free_memory()
    return memory and memory[0] / memory[1] / 2


def _highest_rank(config: Mapping[str, Any]) -> int:
    return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
