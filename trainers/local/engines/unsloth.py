"""Writes a plan for unsloth: config.json with the arguments of its functions, and a script that calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainers.local.engines.plan import (
    OUTPUT,
    EngineConfig,
    EnginePlan,
    callback_environment,
    map_settings,
    read_scripts,
)

ENVIRONMENT = {"UNSLOTH_DISABLE_STATISTICS": "1"}  # otherwise it downloads a file from the hub to be counted


def build_config(plan: EnginePlan, env: Path) -> EngineConfig:
    """`env` is the virtual environment."""
    dtype = "float32"
    if plan.is_bf16:
        dtype = "bfloat16"
    elif plan.is_fp16:
        dtype = "float16"
    checkpointing: str | bool = False
    if plan.device == "cuda":
        checkpointing = "unsloth"
    parts: dict[str, dict[str, Any]] = {
        "model": {
            "model_name": plan.base,
            "dtype": dtype,
            "load_in_4bit": plan.settings.quantization == "nf4",
            "load_in_8bit": plan.settings.quantization == "int8",
            "trust_remote_code": False,
        },
        "lora": {
            "target_modules": list(plan.targets),
            "random_state": plan.seed,
            "use_gradient_checkpointing": checkpointing,
        },
        "arguments": {
            "output_dir": OUTPUT,
            "per_device_eval_batch_size": plan.settings.batch_size,
            "lr_scheduler_type": "linear",
            "warmup_steps": plan.warm_up_steps,
            "optim": "adamw_torch",
            "seed": plan.seed,
            "bf16": plan.is_bf16,
            "fp16": plan.is_fp16,
            "packing": False,
            "logging_nan_inf_filter": False,
            "save_steps": plan.save_steps,
            "report_to": "none",
            "disable_tqdm": True,
        },
    }
    if plan.has_validation:
        parts["arguments"] |= {"eval_strategy": "steps", "eval_steps": plan.steps_an_epoch}
    for key, value in map_settings(plan, "unsloth").items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    config = {**parts, "train": plan.train_file, "valid": plan.valid_file}
    environment = ENVIRONMENT | callback_environment(plan)
    if plan.device == "cpu":
        environment["UNSLOTH_FORCE_CPU"] = "1"
    return EngineConfig(
        files={"config.json": json.dumps(config, indent=2) + "\n", **read_scripts(train="unsloth_train")},
        commands=((str(env / "bin" / "python"), "train.py", "config.json"),),
        environment=environment,
        keys={name: frozenset(part) for name, part in parts.items()},
    )
