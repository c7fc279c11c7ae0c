"""A plan as axolotl is told it: config.yml for `axolotl train`.

Rows that have input_ids and labels are taken as they are, where no `type` of dataset is named.
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

ENVIRONMENT = {"AXOLOTL_DO_NOT_TRACK": "1", "WANDB_DISABLED": "true"}
# chosen by axolotl where nothing is said, and written for CUDA
CUDA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")


def write(plan: EnginePlan, env: Path) -> EngineConfig:
    """`env`: the virtual environment."""
    config = (
        _config(plan) | settings_of(plan, "axolotl") | _quantization(plan) | _on_cpu(plan) | _validation(plan)
    )
    on_cpu = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""} if plan.device == "cpu" else {}
    return EngineConfig(
        files={"config.yml": yaml(config), **scripts(plugin="axolotl_plugin")},
        # not through accelerate, which would put a process between the engine and a signal
        commands=((str(env / "bin" / "axolotl"), "train", "config.yml", "--launcher", "python"),),
        environment=ENVIRONMENT | callback_environment(plan) | on_cpu,
        keys={"config": frozenset(config)},
    )


def _config(plan: EnginePlan) -> dict[str, Value]:
    return {
        "base_model": plan.base,
        "trust_remote_code": False,
        "adapter": "lora",
        "lora_target_modules": list(plan.targets),
        "datasets": [{"path": plan.train_file, "ds_type": "json"}],
        "dataset_prepared_path": "prepared",
        "sample_packing": False,
        "output_dir": OUTPUT,
        "lr_scheduler": "linear",
        "warmup_steps": plan.warm_up_steps,
        "optimizer": "adamw_torch",
        "seed": plan.seed,
        "bf16": plan.is_bf16,
        "fp16": plan.is_fp16,
        "attn_implementation": "sdpa",
        "gradient_checkpointing": plan.device == "cuda",
        "dataloader_num_workers": 0,
        "save_steps": plan.save_steps,
        "auto_resume_from_checkpoints": True,
        "plugins": ["plugin.JobPlugin"],
    }


def _quantization(plan: EnginePlan) -> dict[str, Value]:
    """Its bitsandbytes is nf4 with double quantisation where nothing else is said."""
    match plan.settings.quantization:
        case "none":
            return {}
        case "nf4":
            return {"adapter": "qlora", "load_in_4bit": True}
        case "int8":
            return {"load_in_8bit": True}


def _on_cpu(plan: EnginePlan) -> dict[str, Value]:
    if plan.device != "cpu":
        return {}
    return dict.fromkeys(CUDA_KERNELS, False)


def _validation(plan: EnginePlan) -> dict[str, Value]:
    if plan.valid_file is None:
        return {"val_set_size": 0.0}
    return {
        "test_datasets": [{"path": plan.valid_file, "ds_type": "json", "split": "train"}],
        "eval_strategy": "steps",
        "eval_steps": plan.steps_an_epoch,
        "eval_batch_size": plan.settings.batch_size,
    }
