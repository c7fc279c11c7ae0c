"""Loads the base model, optionally in 4 or 8 bits, and adds LoRA matrices to its linear layers. Never runs code from a
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
from trainers.local.training.data import Rows
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.model_structure import choose_class, find_targets, packed_experts
from trainers.local.training.new_adapter import base_logits, check_new_adapter, is_sharded
from trainers.local.training.packing import PACKED_FAMILIES
from trainers.local.training.pairs import Pairs
from trainers.methods import Parameters, Quantization
from trainers.sizing.architecture import UNPACKED


def loading_options(
    kind: Quantization, config: PreTrainedConfig, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Returns options for from_pretrained. Raises TrainingFailed if the base can't be loaded with this quantization.

    nf4 applies to linear layers and fused experts (kernels/quantized_experts.py); its scales are quantised too, and
    products are computed in `dtype` (Dettmers et al. 2023, QLoRA, section 3). int8 applies to linear layers, with
    outliers kept apart (LLM.int8). Embeddings, norms and the head keep their format. peft's
    prepare_model_for_kbit_training is not used, because it would convert them to float32, which doubles the memory of a
    large vocabulary; norms compute in float32 anyway.
    """
    stored = stored_quantization(config)
    if stored in UNPACKED:
        if kind == "none":
            return {"quantization_config": Mxfp4Config(dequantize=True)}
        if kind == "int8":
            text = f"This base model is stored in {stored}: set quantization to nf4, or leave it out."
            raise TrainingFailed("base_quantized", text, "quantization")
        del config.quantization_config  # each weight is unpacked and repacked in nf4 while it is loaded
    elif stored is not None:
        if stored != "bitsandbytes":
            text = (
                f"This base model is stored in the format {stored}, on which LoRA can't be trained here. Name the "
                "unquantised model; with quantization nf4 it takes a quarter of the memory."
            )
            raise TrainingFailed("base_quantized", text, "model")
        if kind != "none":
            text = f"This base model is already stored in {stored}'s format. Leave quantization '{kind}' out."
            raise TrainingFailed("base_quantized", text, "quantization")
        _check_installed("nf4")
        return {"device_map": {"": device}}
    if kind == "none":
        return {}
    _check_installed(kind)
    return {"quantization_config": build_quantization_config(kind, dtype), "device_map": {"": device}}


def build_quantization_config(kind: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    if kind == "int8":
        # bitsandbytes logs a warning for every multiplication.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    from trainers.local.kernels.quantized_experts import FourBits

    return FourBits(
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def stored_quantization(config: PreTrainedConfig) -> str | None:
    """Returns the method by which the stored weights are already quantised, or None."""
    stored = config.to_dict().get("quantization_config")
    if not stored:
        return None
    return str(stored.get("quant_method"))


def _check_installed(kind: Quantization) -> None:
    complaint = quantization_refusal(kind)
    if complaint is not None:
        raise TrainingFailed("quantization_unavailable", complaint, "quantization")


@dataclass(frozen=True)
class ParameterCounts:
    """Parameter counts, printed in the format of peft's print_trainable_parameters."""

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
    """Loads the tokenizer with its chat template. Raises TrainingFailed."""
    folder = fetch_base(source)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _loading_failure(source, error) from error
    # Models that also process images keep the template in this file, for their processor.
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
    stay_on_cpu: bool = False,
) -> Any:
    """Loads weights from safetensors only, since other formats can carry code. Raises TrainingFailed.

    With `stay_on_cpu` the model stays in main memory, for a caller that divides it among several devices.
    """
    disable_progress_bar()
    set_verbosity_error()  # transformers would list every weight of the parts that are not loaded
    folder = fetch_base(source)
    config = load_config(source)
    choice = choose_class(source, config)
    options = loading_options(quantization, config, device, dtype)
    attention = None  # transformers chooses
    if choice.family in PACKED_FAMILIES:
        attention = best_attention(device)
    try:
        model, result = choice.model_class.from_pretrained(
            folder,
            config=choice.config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    # It is a RuntimeError, which the next clause would take for damaged files.
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _loading_failure(source, error) from error
    missing = result["missing_keys"]
    if missing:  # transformers would fill missing weights with random numbers
        some = ", ".join(sorted(missing)[:3])
        text = (
            f"The base model {source} lacks {len(missing)} of the weights that its config.json names, such as "
            f"{some}. Download its files again."
        )
        raise TrainingFailed("base_incomplete", text, "model")
    # Frozen here and not only by the first adapter, so that a base computes the same before and after that.
    model.requires_grad_(False)
    fuse_norms(model)
    model.name_or_path = model.config.name_or_path = source
    if options or stay_on_cpu:  # a quantised base is on its device already
        return model
    return model.to(device)


def check_vocabulary(model: Any, source: str, *files: Rows | Pairs | None) -> None:
    """Raises TrainingFailed if the rows have a token that the model doesn't know. A tokenizer may have tokens beyond
    the model's that no text uses: Gemma 3's has one for pictures."""
    words = model.get_input_embeddings().weight.shape[0]
    largest = max(file.largest_id for file in files if file is not None)
    if largest < words:
        return
    text = (
        f"The tokenizer of the base model {source} writes the token {largest:,}, but the model knows only {words:,} "
        "tokens, so they don't belong together. Put the model's own tokenizer into its folder, or choose another model."
    )
    raise TrainingFailed("tokenizer_too_large", text, "model")


def best_attention(device: torch.device) -> Literal["rows", "sdpa"]:
    if device.type == "cpu":
        return BY_ROWS
    return "sdpa"


def _loading_failure(source: str, error: Exception) -> TrainingFailed:
    if "trust_remote_code" in str(error):
        text = f"The base model {source} needs its own code, which is never run here. Choose another model."
        return TrainingFailed("base_needs_code", text, "model")
    sentence = " ".join(str(error).split())[:300].rstrip(".")
    text = (
        f"Loading the base model {source}: {sentence}. Check that its files are complete and belong together."
    )
    return TrainingFailed("base_not_loaded", text, "model")


def add_lora(model: Any, settings: Parameters) -> PeftModel:
    """Adds float32 LoRA matrices to the frozen base. Raises TrainingFailed if a named module doesn't exist or can't be
    adapted, or if the new adapter changes the model."""
    return attach_adapter(model, lora_config(model, settings))


def attach_adapter(model: Any, config: LoraConfig) -> PeftModel:
    """Adds a new adapter, and checks that it changes nothing. If the base is divided among processes, that is left to
    check_sharded_adapter."""
    keep_trainable(model)
    expected = None if is_sharded(model) else base_logits(model)
    with silence_peft_warning():
        try:
            adapted: PeftModel = get_peft_model(model, config)
        except ValueError as error:
            sentence = " ".join(str(error).split())[:300].rstrip(".")
            text = f"These target_modules can't be adapted in this model: {sentence}. Set target_modules to all-linear."
            raise TrainingFailed("target_modules_not_trainable", text, "target_modules") from error
    if expected is not None:
        check_new_adapter(adapted, expected)
    return adapted


def keep_trainable(model: Any) -> None:
    """Keeps bitsandbytes from changing 4-bit layers for inference. On a CPU with AVX512-BF16, a pass without gradients
    (a validation) would pack their weights into a form through which later no gradient flows."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def lora_config(model: Any, settings: Parameters) -> LoraConfig:
    """Raises TrainingFailed if a named module doesn't exist, or if dropout is set for fused experts."""
    targets = find_targets(model, settings.target_modules)
    if targets.parameters and settings.lora_dropout:
        text = f"lora_dropout must be 0 if {targets.parameters[0]} is trained, since experts are fused into one weight."
        raise TrainingFailed("dropout_on_experts", text, "lora_dropout")
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets.modules,
        target_parameters=targets.parameters or None,
        task_type="CAUSAL_LM",
    )
    # Not for bitsandbytes' layers: they are Linear too, but their weights are packed into bytes.
    if stored_quantization(model.config) is None:
        compute_fused(config)
    return config


def recompute_activations(model: Any) -> bool:
    """Makes each layer keep only its input and recompute the rest in the backward pass (Chen et al. 2016, "Training
    deep nets with sublinear memory cost"). Returns False if the model's class doesn't support this."""
    base = model
    if isinstance(model, PeftModel):
        base = model.get_base_model()
    if not base.supports_gradient_checkpointing:
        return False
    base.activation_checkpointing_enable({"use_reentrant": False})
    return True


def remove_lora(base: Any) -> None:
    """Undoes add_lora and recompute_activations. Also works after add_lora failed halfway, since peft replaces the
    base's layers one by one."""
    layers = {name: module for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)}
    for name, layer in layers.items():
        # peft nests one wrapper per weight around fused experts; replacing the outermost removes them all.
        if not any(name.startswith(f"{outer}.") for outer in layers):
            base.set_submodule(name, layer.get_base_layer())
    if hasattr(base, "peft_config"):
        del base.peft_config
    if base.supports_gradient_checkpointing:
        base.activation_checkpointing_disable()


@contextmanager
def silence_peft_warning() -> Iterator[None]:
    """Silences a warning: peft 0.21 reads a property of transformers 5 by its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def recompute_if_packed(model: Any) -> bool:
    """Makes a model with experts in 4 bits recompute activations from the first step on. Otherwise the unpacked experts
    would be kept for the backward pass and take as much memory as unquantised ones. Returns True if it recomputes."""
    return bool(packed_experts(model)) and recompute_activations(model)


def count_parameters(model: Any) -> ParameterCounts:
    """Corrects peft's count, which takes each byte of packed experts for one parameter, although it holds two."""
    if not isinstance(model, PeftModel):
        weights = list(model.parameters())
        trainable = sum(weight.numel() for weight in weights if weight.requires_grad)
        return ParameterCounts(trainable, sum(weight.numel() for weight in weights))
    trainable, total = model.get_nb_trainable_parameters()
    return ParameterCounts(trainable, total + sum(packed_experts(model).values()))
