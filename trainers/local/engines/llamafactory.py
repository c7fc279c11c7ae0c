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
    settings_of,
    yaml,
)

ENVIRONMENT = {"DISABLE_VERSION_CHECK": "0", "USE_MODELSCOPE_HUB": "0"}


def write(plan: EnginePlan, env: Path) -> EngineConfig:
    """`env`: the virtual environment."""
    config = _config(plan) | settings_of(plan, "llamafactory") | _quantization(plan) | _validation(plan)
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
    is_on_cpu = plan.device == "cpu"
    return {
        "model_name_or_path": plan.base,
        "trust_remote_code": False,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": ",".join(plan.targets),
        "template": "empty",  # unused, but one must be named
        "dataset": "train",  # likewise
        "tokenized_path": "tokenized",
        "output_dir": OUTPUT,
        "lr_scheduler_type": "linear",
        "warmup_steps": plan.warm_up_steps,
        "optim": "adamw_torch",
        "seed": plan.seed,
        "bf16": plan.is_bf16,
        "fp16": plan.is_fp16,
        "use_cpu": is_on_cpu,
        "disable_gradient_checkpointing": is_on_cpu,
        "flash_attn": "sdpa",
        "logging_nan_inf_filter": False,
        "save_steps": plan.save_steps,
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
