"""Chooses the transformers class of a base model, finds the part that reads and writes text, and decides which layers
get LoRA matrices."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from trainers.local.training.errors import TrainingFailed
from trainers.models.base_models import WRITERS, refuse_family

# Layers that combine several, with the names of these in other models.
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "query_key_value": ("q_proj", "k_proj", "v_proj"),
    "c_attn": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
# transformers' own classes of linear layers that compute what PyTorch's does. Others do more, as Llama 4's router.
PLAIN = ("FalconLinear",)


@dataclass(frozen=True)
class Choice:
    """`model_class` is a class of transformers, and `config` the configuration that it takes."""

    model_class: Any
    config: PreTrainedConfig

    @property
    def family(self) -> str:
        return str(self.config.model_type)


def choose_class(source: str, config: PreTrainedConfig) -> Choice:
    """Chooses by the configuration, never by the model's name. Raises TrainingFailed if the model is not a text
    generator.

    Models that also process images are trained on text only. If transformers has a class for the text part (Llama 4),
    it is loaded alone. Otherwise the whole model is loaded (Mistral Small, Gemma 3), and LoRA is added only to the part
    that get_decoder returns."""
    if family_refusal := refuse_family(source, str(config.model_type)):
        raise TrainingFailed("family_not_supported", family_refusal, "model")
    kind = type(config)
    names = config.architectures or []
    is_writer = not names or any(name.endswith(WRITERS) for name in names)
    if is_writer and not config.is_encoder_decoder:
        if kind in MODEL_FOR_CAUSAL_LM_MAPPING:
            model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[kind]
            text_config = config.get_text_config()
            # A class for the text part takes that part's configuration.
            if model_class.config_class is type(text_config):
                return Choice(model_class, text_config)
            return Choice(model_class, config)
        if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            return Choice(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[kind], config)
    name = ", ".join(names) or config.model_type
    text = f"The base model {source} is a {name}, which doesn't generate text. Choose a chat model."
    raise TrainingFailed("base_writes_no_text", text, "model")


def text_module_name(model: Any) -> str:
    """Returns the dotted name of the module with the layers between embeddings and head, such as
    'model.language_model'."""
    decoder: torch.nn.Module = model.get_decoder()
    for name, module in model.named_modules():
        if module is decoder:
            return str(name)
    raise LookupError(f"{type(model).__name__}: its decoder is none of its modules")


def has_vision(model: Any) -> bool:
    """True if the model has parts besides the text part. LoRA must not adapt them."""
    return bool(model.config.get_text_config() is not model.config)


@dataclass(frozen=True)
class Targets:
    """Values for LoraConfig: `modules` are suffixes of module names or one regular expression for full names, and
    `parameters` are suffixes of parameter names."""

    modules: list[str] | str
    parameters: list[str]


def find_targets(model: Any, setting: str) -> Targets:
    """`setting` is 'all-linear', or names separated by commas. Raises TrainingFailed if a name doesn't exist or can't
    be trained.

    Targets are in the part that reads and writes text, never in the head. Experts that are fused into one Parameter
    (Llama 4) are not linear layers. They are trained only if they are named, like experts.gate_up_proj: with
    'all-linear' they would add 428 million parameters at rank 16 to Llama 4 Scout.
    """
    layers = linear_layers(model)
    experts = fused_experts(model)
    if setting == "all-linear":
        names = sorted({_short_name(name) for name in layers})
    else:
        names = setting.split(",")
    modules = [name for name in names if _matches_any(name, layers)]
    others = [name for name in names if name not in modules]
    packed = [name for name in others if _matches_any(name, packed_experts(model))]
    if packed:  # peft would silently ignore them
        text = (
            f"{packed[0]} is loaded in 4 bits, so it can't be trained. Leave it out of target_modules, or set "
            "quantization to int8 or none."
        )
        raise TrainingFailed("experts_packed", text, "target_modules")
    parameters = [name for name in others if _matches_any(name, experts)]
    absent = [name for name in others if name not in parameters]
    if absent or not names:
        raise _explain_absence(model, absent, layers, experts)
    if has_vision(model) and modules:  # a plain q_proj would also match layers of the vision part
        part = re.escape(text_module_name(model))
        ends = "|".join(map(re.escape, modules))
        return Targets(rf"{part}\.(.+\.)?({ends})", parameters)
    return Targets(modules, parameters)


def linear_layers(model: Any) -> list[str]:
    """Returns the full names of linear layers in the text part.

    Subclasses of linear layers don't count, except those in PLAIN. Neither do layers of a state space model (Mamba)
    whose weights are read directly by its kernels, where an adapter would have no effect.
    """
    head = model.get_output_embeddings()
    part = text_module_name(model)
    # A state space layer has a decay (A_log) and a skip (D); linear attention (Qwen 3.5) has no skip.
    bare = set()
    for name, module in model.named_modules():
        if hasattr(module, "A_log") and hasattr(module, "D"):
            bare |= {f"{name}.{layer}" for layer in ("out_proj", "x_proj", "dt_proj")}
    names = []
    for name, module in model.named_modules():
        is_linear = isinstance(module, torch.nn.Linear | Conv1D)
        kind = type(module)
        is_subclass = kind.__module__.startswith("transformers.models.") and kind.__name__ not in PLAIN
        if not is_linear or is_subclass or module is head:
            continue
        if name not in bare and _is_in(name, part):
            names.append(name)
    return names


def fused_experts(model: Any) -> list[str]:
    """Returns the full names of fused experts: weights with the dimensions expert, in, out."""
    part = text_module_name(model)
    names = []
    for name, weight in model.named_parameters():
        is_expert = weight.dim() == 3 and ".experts." in name
        if is_expert and _is_in(name, part):
            names.append(name)
    return names


def packed_experts(model: Any) -> dict[str, int]:
    """Returns the experts in 4 bits (quantized_experts.py) by full name, with their bytes; each byte holds two
    numbers."""
    packed = {}
    for name, weight in model.named_parameters():
        if ".experts." in name and name.endswith("_packed"):
            packed[name.removesuffix("_packed")] = weight.numel()
    return packed


def _is_in(name: str, part: str) -> bool:
    return not part or name.startswith(f"{part}.")


def _short_name(name: str) -> str:
    """Returns the last part of a name. If that is a number, it is preceded by the name of its list, since a bare "0"
    would match the first module of every list."""
    before, _, last = name.rpartition(".")
    if last.isdigit() and before:
        return f"{_short_name(before)}.{last}"
    return last


def _matches_any(end: str, names: Iterable[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for name in names)


def _explain_absence(
    model: Any, absent: list[str], layers: Sequence[str], experts: Sequence[str]
) -> TrainingFailed:
    names = sorted({_short_name(name) for name in layers})
    if not layers and not experts:
        text = (
            f"This base model's family, {model.config.model_type}, has no plain linear layers, so there is nothing to "
            "adapt. Choose another base model."
        )
        return TrainingFailed("nothing_to_adapt", text, "model")
    fused = sorted({".".join(name.split(".")[-2:]) for name in experts})
    where = ""
    if has_vision(model):
        where = " in the part that reads and writes text"
    missing = absent[0]
    sentences = [f"The base model has no linear layer '{missing}' to adapt{where}."]
    for name in names:
        if missing in FUSED.get(name, ()):
            sentences.append(f"Its {name} holds {missing}.")
    available = ", ".join([*names, *fused])
    sentences.append(f"Set target_modules to all-linear, or to some of {available}.")
    return TrainingFailed("target_modules_not_found", " ".join(sentences), "target_modules")
