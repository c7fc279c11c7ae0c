"""A mixture's experts in 4 bits too. bitsandbytes replaces Linear layers; experts that are fused into one weight of
three dimensions (Llama 4, Mixtral, Qwen 3) are none, and are most of such a model: of Llama 4 Scout 193 of 202 GB.

Each is packed while the files are read, so that never more than one is there in full, and unpacked while its layer
computes, all layers' into the same memory: taken and given back for each, it would be in pieces soon. So a layer's way
back has to follow right on its way forward, as gradient checkpointing has it. Known to transformers as a quantisation
of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from transformers import BitsAndBytesConfig
from transformers.core_model_loading import ConversionOps
from transformers.integrations.bitsandbytes import Bnb4bitQuantize
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

QUANTIZER_NAME = "bitsandbytes_4bit_with_experts"
PACKED = "_packed"


@register_quantization_config(QUANTIZER_NAME)
class FourBits(BitsAndBytesConfig):
    """As BitsAndBytesConfig, for experts too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, load_in_4bit=True)  # type: ignore[no-untyped-call]
        self.quant_method = QUANTIZER_NAME  # type: ignore[assignment]  # a plugin's is a plain string


@register_quantizer(QUANTIZER_NAME)
class FourBitQuantizer(Bnb4BitHfQuantizer):
    """Linear layers as its parent does it. `states`: what unpacking needs, by a weight's name."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.states: dict[str, QuantState] = {}

    def param_needs_quantization(self, model: Any, param_name: str, **more: Any) -> bool:
        is_linear: bool = super().param_needs_quantization(model, param_name, **more)
        return is_linear or is_expert(param_name, model.get_parameter_or_buffer(param_name))

    def get_quantize_ops(self) -> ConversionOps:
        return Pack(self)  # type: ignore[no-untyped-call]

    def _process_model_after_weight_loading(self, model: Any, **more: Any) -> Any:
        places: dict[tuple[Any, ...], torch.Tensor] = {}
        for name, state in self.states.items():
            owner, _, weight = name.rpartition(".")
            device = model.get_parameter(name).device
            kind = (weight, state.shape, state.dtype, device)
            if kind not in places:
                places[kind] = torch.empty(state.shape, dtype=state.dtype, device=device)
            unpack_on_use(model.get_submodule(owner), weight, state, places[kind])
        return super()._process_model_after_weight_loading(model, **more)


class Pack(Bnb4bitQuantize):
    """A part of reading a file: a weight in full → 4 bits."""

    def convert(  # type: ignore[override]
        self, input_dict: dict[str, Any], model: Any = None, **more: Any
    ) -> dict[str, Any]:
        names = [name for name in input_dict if is_expert(name, model.get_parameter_or_buffer(name))]
        if not names:
            linear: dict[str, Any] = super().convert(input_dict, model=model, **more)
            return linear
        return {name: self._packed(name, input_dict[name]) for name in names}

    def _packed(self, name: str, read: Any) -> torch.nn.Parameter:
        full: torch.Tensor = read[0] if isinstance(read, list) else read
        kind: BitsAndBytesConfig = self.hf_quantizer.quantization_config
        numbers, self.hf_quantizer.states[name] = quantize_4bit(
            full.to(kind.bnb_4bit_compute_dtype),
            compress_statistics=kind.bnb_4bit_use_double_quant,
            quant_type=kind.bnb_4bit_quant_type,
        )
        return torch.nn.Parameter(numbers, requires_grad=False)


def is_expert(name: str, weight: torch.Tensor) -> bool:
    """Three dimensions: expert, in, out."""
    return weight.dim() == 3 and ".experts." in name


def unpack_on_use(experts: Any, weight: str, state: QuantState, place: torch.Tensor) -> None:
    """From now on `experts.weight` is what its 4 bits, under another name, are unpacked to: in `place`, while it
    computes."""
    numbers = getattr(experts, weight)
    delattr(experts, weight)
    experts.register_parameter(f"{weight}{PACKED}", numbers)
    if not isinstance(experts, Unpacking):
        kind = type(experts)
        experts.__class__ = type(kind.__name__, (Unpacking, kind), {})
        experts.states, experts.places, experts.unpacked = {}, {}, {}
    experts.states[weight], experts.places[weight] = state, place
    setattr(type(experts), weight, property(lambda self: self.unpack(weight)))


class Unpacking(torch.nn.Module):
    """In front of a class of experts. By a weight's name: what unpacking it needs, where to, and while the layer
    computes what has been unpacked."""

    states: dict[str, QuantState]
    places: dict[str, torch.Tensor]
    unpacked: dict[str, torch.Tensor]

    def unpack(self, weight: str) -> torch.Tensor:
        """A copy of its own where the layer doesn't compute."""
        if weight in self.unpacked:
            return self.unpacked[weight]
        full: torch.Tensor = dequantize_4bit(getattr(self, f"{weight}{PACKED}"), self.states[weight])
        return full

    def _unpack_into(self, place: torch.Tensor, weight: str) -> torch.Tensor:
        if not place.is_cuda:  # bitsandbytes writes to a given place on CUDA only
            return place.copy_(self.unpack(weight))
        full: torch.Tensor = dequantize_4bit(
            getattr(self, f"{weight}{PACKED}"), self.states[weight], out=place
        )
        return full

    def forward(self, *arguments: Any, **more: Any) -> Any:
        self.unpacked = {weight: self._unpack_into(place, weight) for weight, place in self.places.items()}
        try:
            return super().forward(*arguments, **more)
        finally:
            self.unpacked = {}
