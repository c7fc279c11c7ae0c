"""Loads the experts of a mixture in 4 bits. bitsandbytes quantises Linear layers only, but not experts that are fused
into one weight with three dimensions (Llama 4, Mixtral, Qwen 3). These are most of such a model: 193 of Llama 4 Scout's
202 GB.

Each weight is packed while the files are read, so that at most one is in memory in full. It is unpacked while its layer
computes. All layers unpack into the same memory, which would soon be fragmented if each layer allocated its own.
Therefore a layer's backward pass must directly follow its forward pass, as it does with gradient checkpointing. This is
registered with transformers as a separate quantisation method.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from transformers import BitsAndBytesConfig
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.integrations.bitsandbytes import Bnb4bitQuantize
from transformers.integrations.mxfp4 import Mxfp4Dequantize
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizer_mxfp4 import Mxfp4HfQuantizer

QUANTIZER_NAME = "bitsandbytes_4bit_with_experts"
PACKED = "_packed"


@register_quantization_config(QUANTIZER_NAME)
class FourBits(BitsAndBytesConfig):
    """BitsAndBytesConfig for 4 bits, extended to experts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, load_in_4bit=True)  # type: ignore[no-untyped-call]
        self.quant_method = QUANTIZER_NAME  # type: ignore[assignment]  # a plugin's method is a plain string


@register_quantizer(QUANTIZER_NAME)
class FourBitQuantizer(Bnb4BitHfQuantizer):
    """Packs Linear layers like its parent, and experts too. `states` are the scales needed for unpacking, by weight."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.states: dict[str, QuantState] = {}

    def param_needs_quantization(self, model: Any, param_name: str, **more: Any) -> bool:
        is_linear: bool = super().param_needs_quantization(model, param_name, **more)
        if is_linear:
            return True
        weight = model.get_parameter_or_buffer(param_name)
        return is_expert(param_name, weight)

    def get_quantize_ops(self) -> ConversionOps:
        return Pack(self)  # type: ignore[no-untyped-call]

    def get_weight_conversions(self) -> list[Any]:
        """Unpacks gpt-oss's experts, which are stored in MXFP4, before they are packed in 4 bits."""
        conversions: list[Any] = super().get_weight_conversions()  # type: ignore[no-untyped-call]
        for weight, names in Mxfp4HfQuantizer.serialized_names.items():
            conversions.append(WeightConverter(names, weight, [Mxfp4Dequantize(self)]))
        return conversions

    def _process_model_after_weight_loading(self, model: Any, **more: Any) -> Any:
        buffers: dict[tuple[Any, ...], torch.Tensor] = {}
        for name, state in self.states.items():
            owner, _, weight = name.rpartition(".")
            experts = model.get_submodule(owner)
            device = model.get_parameter(name).device
            # Both weights of a layer are unpacked at once, so each name has memory of its own.
            kind = (weight, state.shape, state.dtype, device)
            if kind not in buffers:
                buffers[kind] = torch.empty(state.shape, dtype=state.dtype, device=device)
            unpack_on_use(experts, weight, state, buffers[kind])
        return super()._process_model_after_weight_loading(model, **more)


class Pack(Bnb4bitQuantize):
    """Packs weights while the files are read."""

    def convert(  # type: ignore[override]
        self, input_dict: dict[str, Any], model: Any = None, **more: Any
    ) -> dict[str, Any]:
        names = []
        for name in input_dict:
            if is_expert(name, model.get_parameter_or_buffer(name)):
                names.append(name)
        if not names:
            linear: dict[str, Any] = super().convert(input_dict, model=model, **more)
            return linear
        config: BitsAndBytesConfig = self.hf_quantizer.quantization_config
        packed = {}
        for name in names:
            full: Any = input_dict[name]
            if isinstance(full, list):
                full = full[0]
            numbers, state = quantize_4bit(
                full.detach().to(config.bnb_4bit_compute_dtype),
                compress_statistics=config.bnb_4bit_use_double_quant,
                quant_type=config.bnb_4bit_quant_type,
            )
            self.hf_quantizer.states[name] = state
            packed[name] = torch.nn.Parameter(numbers, requires_grad=False)
        return packed


def is_expert(name: str, weight: torch.Tensor) -> bool:
    """True for a fused experts' weight, whose dimensions are expert, in, out."""
    return weight.dim() == 3 and ".experts." in name


def unpack_on_use(experts: Any, weight: str, state: QuantState, buffer: torch.Tensor) -> None:
    """Replaces the attribute `weight` of `experts` by a property that unpacks it. The packed weight is kept under
    another name, and is unpacked into `buffer` while the layer computes."""
    numbers = getattr(experts, weight)
    delattr(experts, weight)
    experts.register_parameter(f"{weight}{PACKED}", numbers)
    if not isinstance(experts, Unpacking):
        kind = type(experts)
        # A property belongs to a class, and other modules of this class may hold unpacked weights.
        subclass = type(kind.__name__, (Unpacking, kind), {})
        experts.__class__ = subclass
        experts.states = {}
        experts.buffers_of_weights = {}
        experts.unpacked = {}
    experts.states[weight] = state
    experts.buffers_of_weights[weight] = buffer
    unpacked = property(lambda self: self.unpack(weight))
    setattr(type(experts), weight, unpacked)


class Unpacking(torch.nn.Module):
    """A mixin for classes of experts. The attributes are, by the name of a weight, the scales for unpacking, the memory
    to unpack into, and the unpacked weights while the layer computes."""

    states: dict[str, QuantState]
    buffers_of_weights: dict[str, torch.Tensor]
    unpacked: dict[str, torch.Tensor]

    def unpack(self, weight: str) -> torch.Tensor:
        """Returns the unpacked weight: a new copy, unless the layer is computing."""
        if weight in self.unpacked:
            return self.unpacked[weight]
        packed = getattr(self, f"{weight}{PACKED}")
        full: torch.Tensor = dequantize_4bit(packed, self.states[weight])
        return full

    def forward(self, *arguments: Any, **more: Any) -> Any:
        unpacked = {}
        for weight, buffer in self.buffers_of_weights.items():
            if buffer.is_cuda:
                packed = getattr(self, f"{weight}{PACKED}")
                unpacked[weight] = dequantize_4bit(packed, self.states[weight], out=buffer)
            else:  # bitsandbytes supports `out` on CUDA only
                unpacked[weight] = buffer.copy_(self.unpack(weight))
        self.unpacked = unpacked
        try:
            return super().forward(*arguments, **more)
        finally:
            self.unpacked = {}
