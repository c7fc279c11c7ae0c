"""A plan as unsloth is told it: arguments of its functions in config.json, and a script that calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainers.local.engines.plan import OUTPUT, EngineConfig, EnginePlan, callback_environment, scripts

ENVIRONMENT = {"UNSLOTH_DISABLE_STATISTICS": "1"}  # else it fetches a file from the hub to be counted


def write(plan: EnginePlan, env: Path) -> EngineConfig:
    """`env`: the virtual environment."""
    config = {
        "model": _model(plan),
        "lora": _lora(plan),
        "arguments": _arguments(plan),
        "train": plan.train_file,
        "valid": plan.valid_file,
    }
    return EngineConfig(
        files={"config.json": json.dumps(config, indent=2) + "\n", **scripts(train="unsloth_train")},
        commands=((str(env / "bin" / "python"), "train.py", "config.json"),),
        environment=ENVIRONMENT
        | callback_environment(plan)
        | ({"UNSLOTH_FORCE_CPU": "1"} if plan.device == "cpu" else {}),
        keys={name: frozenset(config[name]) for name in ("model", "lora", "arguments")},  # type: ignore[arg-type]
    )


def _model(plan: EnginePlan) -> dict[str, Any]:
    return {
        "model_name": plan.base,
        "max_seq_length": plan.settings.max_length,
        "dtype": "bfloat16" if plan.is_bf16 else "float16" if plan.is_fp16 else "float32",
        "load_in_4bit": plan.settings.quantization == "nf4",
        "load_in_8bit": plan.settings.quantization == "int8",
        "trust_remote_code": False,
    }


def _lora(plan: EnginePlan) -> dict[str, Any]:
    return {
        "r": plan.settings.lora_r,
        "lora_alpha": plan.settings.lora_alpha,
        "lora_dropout": plan.settings.lora_dropout,
        "target_modules": list(plan.targets),
        "random_state": plan.seed,
        "use_gradient_checkpointing": "unsloth" if plan.device == "cuda" else False,
    }


def _arguments(plan: EnginePlan) -> dict[str, Any]:
    validation = {"eval_strategy": "steps", "eval_steps": plan.steps_an_epoch} if plan.has_validation else {}
    return {
        "output_dir": OUTPUT,
        "num_train_epochs": plan.settings.n_epochs,
        "per_device_train_batch_size": plan.settings.batch_size,
        "per_device_eval_batch_size": plan.settings.batch_size,
        "gradient_accumulation_steps": 1,
        "learning_rate": plan.settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": plan.warm_up_steps,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch",
        "seed": plan.seed,
        "bf16": plan.is_bf16,
        "fp16": plan.is_fp16,
        "max_length": plan.settings.max_length,
        "packing": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": plan.save_steps,
        "save_total_limit": 3,
        "report_to": "none",
        "disable_tqdm": True,
    } | validation
