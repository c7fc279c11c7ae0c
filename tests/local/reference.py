"""What transformers itself generates: greedy, one prompt at a time. Servers' answers are compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

SYSTEM = "Sort this support ticket. Answer with one label: billing, shipping, login. " * 2
TICKETS = [f"Ticket {n}: " + "my card was charged twice and the parcel is late " * (n % 3) for n in range(9)]


def messages_of(ticket: str, system: str | None = SYSTEM) -> list[Any]:
    instructions = [{"role": "system", "content": system}] if system else []
    return [*instructions, {"role": "user", "content": ticket}]


@dataclass(frozen=True)
class Reference:
    model: Any
    tokenizer: Any

    def answer(self, ticket: str, limit: int = 12) -> str:
        return self.reply(messages_of(ticket), limit)[0]

    def reply(self, messages: Sequence[dict[str, str]], limit: int) -> tuple[str, int]:
        """Returns the answer's text and the prompt's number of tokens."""
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        size = ids.shape[1]
        output = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False
        )
        return str(self.tokenizer.decode(output[0, size:], skip_special_tokens=True)), size


def load_reference(base: Path | str, adapter: Path | None = None) -> Reference:
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    return Reference(model, AutoTokenizer.from_pretrained(base))
