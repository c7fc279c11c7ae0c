"""The base model with LoRA matrices beside its linear layers. Runs no code from a model's folder."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from trainers.local.spool import LoraSettings
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.fused import compute_fused
from trainers.local.training.packing import PACKED_FAMILIES, pack_tokens


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters, as peft's print_trainable_parameters counts them."""

    trainable: int
    all: int

    def __str__(self) -> str:
        share = 100 * self.trainable / self.all
        return f"trainable params: {self.trainable:,} || all params: {self.all:,} || trainable%: {share:.4f}"


def load_tokenizer(source: str) -> Any:
    """`source`: a local folder or a hub id. Raises TrainingFailed."""
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unusable(source, error) from error


def load_model(source: str, device: torch.device, dtype: torch.dtype, longest: int) -> Any:
    """For rows of at most `longest` tokens. Weights from safetensors only: other formats can carry code.

    Raises TrainingFailed.
    """
    disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        attention = best_attention(device, longest) if config.model_type in PACKED_FAMILIES else None
        model: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        raise _unusable(source, error) from error
    return model.to(device)


def best_attention(device: torch.device, longest: int) -> Literal["eager", "sdpa"]:
    """On a CPU a step of 400 tokens with a mask took 12% longer by torch's fused attention than by the plain
    one; the plain one keeps the scores of all pairs of tokens, so it is for short sequences."""
    return "eager" if device.type == "cpu" and longest <= pack_tokens(device) else "sdpa"


def _unusable(source: str, error: Exception) -> TrainingFailed:
    folder = Path(source)
    if folder.is_dir() and (folder / "config.json").exists() and not any(folder.glob("*.safetensors")):
        text = f"The base model in {source} has no *.safetensors. Convert it: other formats can carry code."
        return TrainingFailed("base_not_safetensors", text, "model")
    if "trust_remote_code" in str(error):
        text = (
            f"The base model {source} needs code of its own, which is never run here. Choose another model."
        )
        return TrainingFailed("base_needs_code", text, "model")
    said = " ".join(str(error).split())[:300]
    text = f"Loading the base model {source}: {said} Check the name; a folder needs config.json and *.safetensors."
    return TrainingFailed("base_not_loaded", text, "model")


def add_lora(model: Any, settings: LoraSettings) -> PeftModel:
    """Float32 matrices on frozen weights. Raises TrainingFailed where a named module is not there."""
    targets: str | list[str] = settings.target_modules
    if targets != "all-linear":
        targets = settings.target_modules.split(",")
        _check_targets(model, targets)
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    compute_fused(config)
    with warnings.catch_warnings():  # peft 0.21 asks transformers 5 for a property under its former name
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        adapted: PeftModel = get_peft_model(model, config)
    return adapted


def _check_targets(model: torch.nn.Module, targets: list[str]) -> None:
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            known = sorted({name.rpartition(".")[2] for name in linear})
            text = (
                f"The base model has no linear layer '{target}'. "
                f"Set target_modules to all-linear, or to some of {', '.join(known)}."
            )
            raise TrainingFailed("target_modules_not_found", text, "target_modules")


def count_parameters(model: PeftModel) -> Sizes:
    return Sizes(*model.get_nb_trainable_parameters())
