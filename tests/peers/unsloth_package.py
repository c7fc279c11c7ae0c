"""Stands in for the package unsloth: the two functions of FastLanguageModel that benchmarks/_peer_sft.py calls, with
transformers and peft behind them."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


class FastLanguageModel:
    @staticmethod
    def from_pretrained(
        *, model_name: str, dtype: Any, max_seq_length: int, load_in_4bit: bool, trust_remote_code: bool
    ) -> tuple[Any, Any]:
        assert not load_in_4bit
        assert not trust_remote_code
        model = AutoModelForCausalLM.from_pretrained(model_name, dtype=dtype)
        return model, AutoTokenizer.from_pretrained(model_name)

    @staticmethod
    def get_peft_model(model: Any, *, use_gradient_checkpointing: str | bool, **lora: Any) -> Any:
        assert use_gradient_checkpointing is False
        return get_peft_model(model, LoraConfig(**lora))
