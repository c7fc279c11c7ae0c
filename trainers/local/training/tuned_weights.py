"""What a training changes and leaves: the matrices of an adapter, or, for the method all_weights, the weights of the
model itself. The loop, checkpoints and results treat both alike.

An adapter is written as peft writes it. A model is written as a transformers folder with its tokenizer, in the number
format of the base's files, so that it is loaded like any base. What the training goes on with is in float32: an
adapter's matrices are in its file, a model's weights beside the optimizer's state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from trainers.local.job_directory import replace_json
from trainers.local.peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from trainers.local.training.base_model import load_config, load_tokenizer

WEIGHTS = "adapter_model.safetensors"
MODEL_CONFIG = "config.json"
FORMATS = (torch.float32, torch.bfloat16, torch.float16)


def write_tuned(folder: Path, model: Any) -> None:
    """Writes the adapter, or the model with its tokenizer, into `folder`."""
    if isinstance(model, PeftModel):
        _write_adapter(folder, model)
    else:
        _write_model(folder, model)


def state_of(model: Any) -> Mapping[str, Tensor]:
    """Returns the learnt weights that write_tuned doesn't write exactly, by name; none for an adapter."""
    if isinstance(model, PeftModel):
        return {}
    return {name: weight.detach() for name, weight in _learnt(model).items()}


def read_tuned(folder: Path) -> bytes:
    """Returns the file of an adapter, or nothing for a model, whose weights are in the state."""
    path = folder / WEIGHTS
    if not path.exists():
        return b""
    return path.read_bytes()


def restore_tuned(model: Any, written: bytes, state: Mapping[str, Tensor]) -> None:
    """Loads what write_tuned and state_of have saved into `model`."""
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, load(written))
        return
    with torch.no_grad():
        for name, weight in _learnt(model).items():
            weight.copy_(state[name])


def _learnt(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights that two layers share have a single name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _write_adapter(folder: Path, model: PeftModel) -> None:
    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in get_peft_model_state_dict(model).items()
    }
    (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
    model.peft_config["default"].save_pretrained(str(folder))


def _write_model(folder: Path, model: Any) -> None:
    source = model.name_or_path
    dtype = stored_format(source)
    model.save_pretrained(folder, state_dict=_converted(model.state_dict(), dtype))
    # transformers notes the format in which the model is in memory.
    path = folder / MODEL_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    replace_json(path, config)
    load_tokenizer(source).save_pretrained(folder)


def stored_format(source: str) -> torch.dtype:
    """Returns the number format of the base's files; float32 if its config doesn't name it."""
    config = load_config(source)
    for part in (config, config.get_text_config()):
        dtype = part.dtype
        if dtype in FORMATS:
            return dtype
    return torch.float32


def _converted(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns the tensors in `dtype`, in main memory. Names that share a tensor still do, as those of tied embeddings:
    otherwise it would be written twice."""
    converted: dict[int, Tensor] = {}
    result = {}
    for name, tensor in tensors.items():
        place = tensor.data_ptr()
        if place not in converted:
            kind = tensor.dtype
            if tensor.is_floating_point():
                kind = dtype
            converted[place] = tensor.detach().to("cpu", kind, copy=True).contiguous()
        result[name] = converted[place]
    return result
