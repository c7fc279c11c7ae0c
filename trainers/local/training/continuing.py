"""A training that goes on from a tuned model: the adapter in the job's folder tuned/, ready to be trained further."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load

from trainers.local.spool import LoraSettings
from trainers.local.training.base import calm_peft
from trainers.local.training.checkpoints import WEIGHTS
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.fused_linear import compute_fused
from trainers.local.training.quantization import stored_method

FOLDER = "tuned"


def go_on_from(folder: Path, base: Any, settings: LoraSettings) -> PeftModel:
    """`folder` is the job's. Raises TrainingFailed where the adapter isn't one for this base."""
    config = LoraConfig.from_pretrained(str(folder / FOLDER))
    config.inference_mode, config.lora_dropout = False, settings.lora_dropout
    if stored_method(base.config) is None:
        compute_fused(config)
    weights = load((folder / FOLDER / WEIGHTS).read_bytes())
    with calm_peft():
        model: PeftModel = get_peft_model(base, config)
    if get_peft_model_state_dict(model).keys() != weights.keys():
        text = "The tuned model's adapter has other matrices than this base model takes. Name the base model instead."
        raise TrainingFailed("tuned_model_unfit", text, "model")
    set_peft_model_state_dict(model, weights)
    return model
