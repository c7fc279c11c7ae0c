"""Which transformers class a base model is loaded as, which part of it reads and writes text, and which of
its layers get LoRA matrices."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from trainers.base_models import WRITERS
from trainers.local.training.errors import TrainingFailed


@dataclass(frozen=True)
class Choice:
    """`model_class` is one of transformers' own; `config` is the one that it takes."""

    model_class: Any
    config: PreTrainedConfig

    @property
    def family(self) -> str:
        return str(self.config.model_type)


def choose_class(source: str, config: PreTrainedConfig) -> Choice:
    """By the configuration, never by a name. Models that also see are trained on text only: where transformers has a
    class for the text part alone (Llama 4) that one is loaded, else all of it (Mistral Small, Gemma 3), and LoRA keeps
    to the part that get_decoder names. Raises TrainingFailed where the model does not write text after a prompt."""
    kind, names = type(config), config.architectures or []
    is_writer = not names or any(name.endswith(WRITERS) for name in names)
    if is_writer and not config.is_encoder_decoder:
        if kind in MODEL_FOR_CAUSAL_LM_MAPPING:
            model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[kind]
            text_config = config.get_text_config()
            return Choice(
                model_class, text_config if model_class.config_class is type(text_config) else config
            )
        if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            return Choice(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[kind], config)
    called = ", ".join(names) or config.model_type
    text = f"The base model {source} is a {called}, which does not go on writing a text. Choose a chat model."
    raise TrainingFailed("base_writes_no_text", text, "model")


def text_part(model: Any) -> str:
    """Dotted name of the module that holds the layers between embeddings and head: 'model', 'model.language_model'."""
    decoder: torch.nn.Module = model.get_decoder()
    return next(str(name) for name, module in model.named_modules() if module is decoder)


def sees_too(model: Any) -> bool:
    """It has parts beside the text part that LoRA must keep out of."""
    return bool(model.config.get_text_config() is not model.config)


FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "query_key_value": ("q_proj", "k_proj", "v_proj"),
    "c_attn": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}


@dataclass(frozen=True)
class Targets:
    """As LoraConfig takes them: `modules` are ends of names or one pattern for whole names, `parameters` ends."""

    modules: list[str] | str
    parameters: list[str]


def find_targets(model: Any, question: str) -> Targets:
    """`question`: 'all-linear', or names separated by commas. Raises TrainingFailed where one is not there.

    Only in the part that reads and writes text, never in the head. Experts of a mixture that are fused into one
    Parameter (Llama 4) are no linear layers: they are trained where they are named, as experts.gate_up_proj, and not by
    'all-linear', which would be 428 million parameters at rank 16 in Llama 4 Scout.
    """
    layers, experts = linear_layers(model), fused_experts(model)
    names = sorted({_last(name) for name in layers}) if question == "all-linear" else question.split(",")
    modules = [name for name in names if _is_end_of_one(name, layers)]
    _check_packed(model, [name for name in names if name not in modules])
    parameters = [name for name in names if name not in modules and _is_end_of_one(name, experts)]
    absent = [name for name in names if name not in modules and name not in parameters]
    if absent or not names:
        raise _not_there(model, absent, layers, experts)
    return Targets(_within_text(model, modules), parameters)


def linear_layers(model: Any) -> list[str]:
    """Whole names. A layer that is linear and more, such as Llama 4's router, is none; nor are those of a state
    space (Mamba) whose bare weights its kernels take, so that an adapter there would do nothing."""
    head, part = model.get_output_embeddings(), text_part(model)
    spaces = [name for name, module in model.named_modules() if _is_state_space(module)]
    bare = {f"{name}.{layer}" for name in spaces for layer in ("out_proj", "x_proj", "dt_proj")}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head and name not in bare
        if not type(module).__module__.startswith("transformers.models.") and _is_in(name, part)
    ]


def _is_state_space(module: Any) -> bool:
    """Its own decay and its own skip: linear attention (Qwen 3.5) has no skip."""
    return hasattr(module, "A_log") and hasattr(module, "D")


def fused_experts(model: Any) -> list[str]:
    """Whole names of weights of three dimensions: expert, in, out."""
    part = text_part(model)
    return [
        name
        for name, weight in model.named_parameters()
        if weight.dim() == 3 and ".experts." in name and _is_in(name, part)
    ]


def packed_experts(model: Any) -> dict[str, int]:
    """Those in 4 bits (quantized_experts.py): whole names, and how many bytes they take, of two numbers each."""
    return {
        name.removesuffix("_packed"): weight.numel()
        for name, weight in model.named_parameters()
        if ".experts." in name and name.endswith("_packed")
    }


def _is_in(name: str, part: str) -> bool:
    return not part or name.startswith(f"{part}.")


def _last(name: str) -> str:
    """Of a layer that only has a number, its list's name before it: a bare "0" would be every first layer too."""
    before, _, last = name.rpartition(".")
    return f"{_last(before)}.{last}" if last.isdigit() and before else last


def _is_end_of_one(end: str, names: Iterable[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for name in names)


def _within_text(model: Any, modules: list[str]) -> list[str] | str:
    """A plain q_proj would also be found in the part that sees."""
    if not sees_too(model) or not modules:
        return modules
    ends = "|".join(map(re.escape, modules))
    return rf"{re.escape(text_part(model))}\.(.+\.)?({ends})"


def _check_packed(model: Any, names: Iterable[str]) -> None:
    """peft would leave them out without a word."""
    packed = [name for name in names if _is_end_of_one(name, packed_experts(model))]
    if packed:
        text = (
            f"{packed[0]} is in 4 bits here, where it can be computed with and not trained. Leave it out of "
            "target_modules, or set quantization to int8 or none."
        )
        raise TrainingFailed("experts_packed", text, "target_modules")


def _not_there(
    model: Any, absent: list[str], layers: Iterable[str], experts: Iterable[str]
) -> TrainingFailed:
    names = sorted({_last(name) for name in layers})
    fused = sorted({".".join(name.split(".")[-2:]) for name in experts})
    where = " in the part that reads and writes text" if sees_too(model) else ""
    parts = [
        f"The base model has no linear layer '{absent[0]}' to adapt{where}."
        if absent
        else "There is nothing to adapt."
    ]
    parts += [
        f"Its {text} holds {absent[0]}." for text in names if absent and absent[0] in FUSED.get(text, ())
    ]
    parts.append(f"Set target_modules to all-linear, or to some of {', '.join([*names, *fused])}.")
    return TrainingFailed("target_modules_not_found", " ".join(parts), "target_modules")
