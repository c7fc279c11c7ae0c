"""A plan as LLaMA-Factory is told it: config.yml, a script that trains by it, and rows in the form it loads.

It would write chats out by a template of its own; rows that are tokens already leave it nothing to write.
"""

from __future__ import annotations

from pathlib import Path

from trainers.local.engines.plan import (
    OUTPUT,
    EngineConfig,
    EnginePlan,
    Value,
    callback_environment,
    scripts,
    yaml,
)

ENVIRONMENT = {"DISABLE_VERSION_CHECK": "0", "USE_MODELSCOPE_HUB": "0"}


def write(plan: EnginePlan, env: Path) -> EngineConfig:
    """`env`: the virtual environment."""
    config = _config(plan) | _quantization(plan) | _validation(plan)
    rows = [plan.train_file, *([plan.valid_file] if plan.valid_file else [])]
    return EngineConfig(
        files={"config.yml": yaml(config), **scripts(rows="llama_rows", train="llama_train")},
        commands=(
            (str(env / "bin" / "python"), "rows.py", *rows),
            (str(env / "bin" / "python"), "train.py", "config.yml"),
        ),
        environment=ENVIRONMENT | callback_environment(plan),
        keys={"config": frozenset(config)},
    )


def _config(plan: EnginePlan) -> dict[str, Value]:
    settings, is_on_cpu = plan.settings, plan.device == "cpu"
    return {
        "model_name_or_path": plan.base,
        "trust_remote_code": False,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": settings.lora_r,
        "lora_alpha": settings.lora_alpha,
        "lora_dropout": settings.lora_dropout,
        "lora_target": ",".join(plan.targets),
        "template": "empty",  # unused, but one must be named
        "dataset": "train",  # likewise
        "tokenized_path": "tokenized",
        "cutoff_len": settings.max_length,
        "output_dir": OUTPUT,
        "num_train_epochs": settings.n_epochs,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": 1,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": plan.warm_up_steps,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch",
        "seed": plan.seed,
        "bf16": plan.is_bf16,
        "fp16": plan.is_fp16,
        "use_cpu": is_on_cpu,
        "disable_gradient_checkpointing": is_on_cpu,
        "flash_attn": "sdpa",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": plan.save_steps,
        "save_total_limit": 3,
        "report_to": "none",
        "disable_tqdm": True,
    }


def _quantization(plan: EnginePlan) -> dict[str, Value]:
    kind = plan.settings.quantization
    if kind == "none":
        return {}
    bits: dict[str, Value] = {"quantization_method": "bnb", "quantization_bit": 4 if kind == "nf4" else 8}
    return bits | {"quantization_type": "nf4", "double_quantization": True} if kind == "nf4" else bits


def _validation(plan: EnginePlan) -> dict[str, Value]:
    if not plan.has_validation:
        return {}
    return {
        "eval_dataset": "validation",
        "eval_strategy": "steps",
        "eval_steps": plan.steps_an_epoch,
        "per_device_eval_batch_size": plan.settings.batch_size,
    }
