"""Writes a plan as config.yml for `axolotl train`.

axolotl uses rows with input_ids and labels unchanged, as long as the config names no dataset `type`.
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

ENVIRONMENT = {"AXOLOTL_DO_NOT_TRACK": "1", "WANDB_DISABLED": "true"}
# Kernels for CUDA only, which axolotl uses by default.
CUDA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")


def build_config(plan: EnginePlan, env: Path) -> EngineConfig:
    """`env` is the virtual environment."""
    is_on_cpu = plan.device == "cpu"
    config: dict[str, Value] = {
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
    config |= map_settings(plan, "axolotl")
    match plan.settings.quantization:
        case "none":
            pass
        case "nf4":  # with double quantisation, which is axolotl's default
            config |= {"adapter": "qlora", "load_in_4bit": True}
        case "int8":
            config["load_in_8bit"] = True
    if is_on_cpu:
        config |= dict.fromkeys(CUDA_KERNELS, False)
    if plan.valid_file is None:
        config["val_set_size"] = 0.0
    else:
        config |= {
            "test_datasets": [{"path": plan.valid_file, "ds_type": "json", "split": "train"}],
            "eval_strategy": "steps",
            "eval_steps": plan.steps_an_epoch,
            "eval_batch_size": plan.settings.batch_size,
        }
    environment = ENVIRONMENT | callback_environment(plan)
    if is_on_cpu:
        environment |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    return EngineConfig(
        files={"config.yml": yaml(config), **read_scripts(plugin="axolotl_plugin")},
        # Not through accelerate, whose extra process would keep signals from the engine.
        commands=((str(env / "bin" / "axolotl"), "train", "config.yml", "--launcher", "python"),),
        environment=environment,
        keys={"config": frozenset(config)},
    )
