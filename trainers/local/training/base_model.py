"""Loads the base model, in 4 or 8 bits if wanted, and adds LoRA matrices to its linear layers. Runs no code from a
model's folder."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, BitsAndBytesConfig, PreTrainedConfig
from transformers.utils.logging import disable_progress_bar, set_verbosity_error
from transformers.utils.quantization_config import Mxfp4Config

from trainers.local.base_download import fetch_base
from trainers.local.checks import quantization_refusal
from trainers.local.job_directory import read_json
from trainers.local.kernels.fused_layers import compute_fused, fuse_norms
from trainers.local.kernels.shared_prefix_attention import BY_ROWS
from trainers.local.peft import BaseTunerLayer, LoraConfig, PeftModel, get_peft_model
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.model_structure import choose_class, find_targets, packed_experts
from trainers.local.training.packing import PACKED_FAMILIES
from trainers.methods import Parameters, Quantization
from trainers.sizing.architecture import UNPACKED


def loading_options(
    kind: Quantization, config: PreTrainedConfig, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Returns options for from_pretrained. Raises TrainingFailed where the base cannot be loaded so.

    nf4 is for linear layers and fused experts (kernels/quantized_experts.py), with its scales quantised once more,
    multiplied in the machine's own format (Dettmers et al. 2023, QLoRA, section 3). int8 is for linear layers, with
    outliers kept apart (LLM.int8). Embeddings, norms and the head keep their format: peft's
    prepare_model_for_kbit_training would convert them to float32, which doubles the memory of a large vocabulary, and
    norms compute in float32 anyway.
    """
    stored = stored_quantization(config)
    if stored in UNPACKED:
        if kind == "none":
            return {"quantization_config": Mxfp4Config(dequantize=True)}
        if kind == "int8":
            text = f"This base model is stored in {stored}: set quantization to nf4, or leave it out."
            raise TrainingFailed("base_quantized", text, "quantization")
        del config.quantization_config  # unpacked and packed in nf4, weight by weight
    elif stored is not None:
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
        return {"device_map": {"": device}}
    if kind == "none":
        return {}
    _check_installed(kind)
    return {"quantization_config": build_quantization_config(kind, dtype), "device_map": {"": device}}


def build_quantization_config(kind: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    if kind == "int8":
        # It logs a warning for every multiplication.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    from trainers.local.kernels.quantized_experts import FourBits

    return FourBits(
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def stored_quantization(config: PreTrainedConfig) -> str | None:
    """Returns the method by which the stored weights are quantised already, or None."""
    stored = config.to_dict().get("quantization_config")
    return str(stored.get("quant_method")) if stored else None


def _check_installed(kind: Quantization) -> None:
    complaint = quantization_refusal(kind)
    if complaint is not None:
        raise TrainingFailed("quantization_unavailable", complaint, "quantization")


@dataclass(frozen=True)
class ParameterCounts:
    """Counts of parameters, as by peft's print_trainable_parameters."""

    trainable: int
    all: int

    def __str__(self) -> str:
        share = 100 * self.trainable / self.all
        return f"trainable params: {self.trainable:,} || all params: {self.all:,} || trainable%: {share:.4f}"


def load_config(source: str) -> PreTrainedConfig:
    """`source` is a local folder or a hub id. Raises TrainingFailed."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(fetch_base(source), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _loading_failure(source, error) from error
    return config


def load_tokenizer(source: str) -> Any:
    """Raises TrainingFailed."""
    folder = fetch_base(source)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _loading_failure(source, error) from error
    # Models that also see keep the template here, for their processor.
    stored = read_json(folder / "chat_template.json")
    if not tokenizer.chat_template and stored:
        tokenizer.chat_template = stored.get("chat_template")
    return tokenizer


def load_model(
    source: str,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization = "none",
    *,
    stays: bool = False,
) -> Any:
    """Loads weights from safetensors only, since other formats can carry code.

    With `stays` the model stays in this machine's memory, to be divided among devices such as `device`. Raises
    TrainingFailed.
    """
    disable_progress_bar()
    set_verbosity_error()  # transformers would list every weight of the parts that are left out
    folder, config = fetch_base(source), load_config(source)
    choice = choose_class(source, config)
    options = loading_options(quantization, config, device, dtype)
    try:
        model, result = choice.model_class.from_pretrained(
            folder,
            config=choice.config,
            dtype=dtype,
            attn_implementation=best_attention(device) if choice.family in PACKED_FAMILIES else None,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _loading_failure(source, error) from error
    missing = result["missing_keys"]
    if missing:  # transformers fills what is missing with random numbers and goes on
        some = ", ".join(sorted(missing)[:3])
        text = (
            f"The base model {source} lacks {len(missing)} of the weights that its config.json asks for, such as "
            f"{some}. Fetch its files again."
        )
        raise TrainingFailed("base_incomplete", text, "model")
    fuse_norms(model)
    model.name_or_path = model.config.name_or_path = source
    return model if options or stays else model.to(device)


def best_attention(device: torch.device) -> Literal["rows", "sdpa"]:
    return BY_ROWS if device.type == "cpu" else "sdpa"


def _loading_failure(source: str, error: Exception) -> TrainingFailed:
    if "trust_remote_code" in str(error):
        text = (
            f"The base model {source} needs code of its own, which is never run here. Choose another model."
        )
        return TrainingFailed("base_needs_code", text, "model")
    sentence = " ".join(str(error).split())[:300]
    text = f"Loading the base model {source}: {sentence} Check that its files are whole and belong together."
    return TrainingFailed("base_not_loaded", text, "model")


def add_lora(model: Any, settings: Parameters) -> PeftModel:
    """Adds float32 matrices to frozen weights. Raises TrainingFailed where a named module does not exist."""
    config = lora_config(model, settings)
    with silence_peft_warning():
        try:
            adapted: PeftModel = get_peft_model(model, config)
        except ValueError as error:
            sentence = " ".join(str(error).split())[:300]
            text = f"These target_modules can't be adapted in this model: {sentence} Set target_modules to all-linear."
            raise TrainingFailed("target_modules_not_trainable", text, "target_modules") from error
    return adapted


def lora_config(model: Any, settings: Parameters) -> LoraConfig:
    """Raises TrainingFailed where a named module does not exist."""
    targets = find_targets(model, settings.target_modules)
    if targets.parameters and settings.lora_dropout:
        text = f"lora_dropout must be 0 where {targets.parameters[0]} is trained: experts are fused into one weight."
        raise TrainingFailed("dropout_on_experts", text, "lora_dropout")
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets.modules,
        target_parameters=targets.parameters or None,
        task_type="CAUSAL_LM",
    )
    # bitsandbytes' layers, too, are Linear, with weights packed into bytes.
    if stored_quantization(model.config) is None:
        compute_fused(config)
    return config


def recompute_activations(model: PeftModel) -> bool:
    """Makes each layer keep only its input and compute again in the backward pass (Chen et al. 2016, "Training deep
    nets with sublinear memory cost"). Returns False where the model's class can't."""
    base: Any = model.get_base_model()
    if not base.supports_gradient_checkpointing:
        return False
    base.activation_checkpointing_enable({"use_reentrant": False})
    return True


def remove_lora(base: Any) -> None:
    """Undoes add_lora and recompute_activations, also where add_lora broke off in between: peft replaces the base's own
    layers one after the other."""
    layers = {name: module for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)}
    for name, layer in layers.items():
        if not any(name.startswith(f"{outer}.") for outer in layers):  # one for each weight of fused experts
            base.set_submodule(name, layer.get_base_layer())
    if hasattr(base, "peft_config"):
        del base.peft_config
    if base.supports_gradient_checkpointing:
        base.activation_checkpointing_disable()


@contextmanager
def silence_peft_warning() -> Iterator[None]:
    """Silences a warning: peft 0.21 asks transformers 5 for a property under its former name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def recompute_if_packed(model: PeftModel) -> bool:
    """Makes a model with experts in 4 bits recompute activations from the first step on, since unpacked experts that
    are kept for the backward pass would take as much memory as in full. Returns whether it does."""
    return bool(packed_experts(model)) and recompute_activations(model)


def count_parameters(model: PeftModel) -> ParameterCounts:
    """Corrects peft's count, which is right for packed linear layers and takes a byte of packed experts, which holds
    two numbers, for one."""
    trainable, every = model.get_nb_trainable_parameters()
    return ParameterCounts(trainable, every + sum(packed_experts(model).values()))
