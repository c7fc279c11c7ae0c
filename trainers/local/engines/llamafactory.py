"""Writes a plan for LLaMA-Factory: config.yml, a script that trains, and one that converts the rows to its format.

It gets tokenized rows, because it would render chats with its own template.
"""

from __future__ import annotations

from pathlib import Path

from trainers.local.engines.plan import (
    OUTPUT,
    EngineConfig,
    EnginePlan,
    Value,
    callback_environment,
    map_settings,
    read_scripts,
    yaml,
)

ENVIRONMENT = {"DISABLE_VERSION_CHECK": "0", "USE_MODELSCOPE_HUB": "0"}


def build_config(plan: EnginePlan, env: Path) -> EngineConfig:
    """`env` is the virtual environment."""
    is_on_cpu = plan.device == "cpu"
    config: dict[str, Value] = {
        "model_name_or_path": plan.base,
        "trust_remote_code": False,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": ",".join(plan.targets),
        "template": "empty",  # required but unused
        "dataset": "train",  # required but unused
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
    config |= map_settings(plan, "llamafactory")
    match plan.settings.quantization:
        case "none":
            pass
        case "nf4":
            config |= {"quantization_method": "bnb", "quantization_bit": 4}
            config |= {"quantization_type": "nf4", "double_quantization": True}
        case "int8":
            config |= {"quantization_method": "bnb", "quantization_bit": 8}
    if plan.has_validation:
        config |= {
            "eval_dataset": "validation",
            "eval_strategy": "steps",
            "eval_steps": plan.steps_an_epoch,
            "per_device_eval_batch_size": plan.settings.batch_size,
        }
    rows = [plan.train_file]
    if plan.valid_file:
        rows.append(plan.valid_file)
    return EngineConfig(
        files={"config.yml": yaml(config), **read_scripts(rows="llama_rows", train="llama_train")},
        commands=(
            (str(env / "bin" / "python"), "rows.py", *rows),
            (str(env / "bin" / "python"), "train.py", "config.yml"),
        ),
        environment=ENVIRONMENT | callback_environment(plan),
        keys={"config": frozenset(config)},
    )
