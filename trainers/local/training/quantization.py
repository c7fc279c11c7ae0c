"""Base weights in 4 or 8 bits, by bitsandbytes: what QLoRA trains on. The adapter stays in float32.

nf4: NormalFloat of 4 bits for linear layers and fused experts (quantized_experts.py), its scales quantised once more
(double quantisation), multiplied in the machine's own format (Dettmers et al. 2023, QLoRA, section 3). int8: 8 bits for
linear layers, with outliers apart (LLM.int8). Embeddings, norms and the head keep their format. peft's
prepare_model_for_kbit_training is not called: it would lift all these to float32, twice the memory of a large
vocabulary, and norms compute in float32 anyway. Trains nothing.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedConfig

from trainers.local.checks import quantization_refusal
from trainers.local.spool import Quantization
from trainers.local.training.failures import TrainingFailed


def loading_options(
    kind: Quantization, config: PreTrainedConfig, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """For from_pretrained. Raises TrainingFailed where the base cannot be loaded so."""
    stored = stored_method(config)
    if stored is not None:
        _check_stored(stored, kind)
        return {"device_map": {"": device}}
    if kind == "none":
        return {}
    _check_installed(kind)
    return {"quantization_config": bits(kind, dtype), "device_map": {"": device}}


def bits(kind: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    if kind == "int8":
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(
            logging.ERROR
        )  # a line for every multiplication
        return BitsAndBytesConfig(load_in_8bit=True)
    from trainers.local.training.quantized_experts import FourBits

    return FourBits(
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def stored_method(config: PreTrainedConfig) -> str | None:
    """How the weights in the folder were quantised already, or None."""
    stored = config.to_dict().get("quantization_config")
    return str(stored.get("quant_method")) if stored else None


def _check_stored(stored: str, kind: Quantization) -> None:
    if stored != "bitsandbytes":
        text = (
            f"This base model is stored in the format {stored}, which LoRA is not trained on here. Name its plain "
            "form; with quantization nf4 it takes a quarter of the memory."
        )
        raise TrainingFailed("base_quantized", text, "model")
    if kind != "none":
        text = f"This base model is stored in {stored}'s format already. Leave quantization '{kind}' out."
        raise TrainingFailed("base_quantized", text, "quantization")
    _check_installed("nf4")


def _check_installed(kind: Quantization) -> None:
    complaint = quantization_refusal(kind)
    if complaint is not None:
        raise TrainingFailed("quantization_unavailable", complaint, "quantization")
