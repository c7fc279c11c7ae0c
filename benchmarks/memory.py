"""Measures the memory of one training step whose tokens are all learnt, with 128,256 words as Llama 3 has.

`python benchmarks/memory.py [--words N] [--dtype bf16|fp32]`: a toy Llama of two layers with LoRA, forward and
backward, with all logits at once and by the chunked loss. On a CPU all allocations of torch's profiler are added up, on
CUDA the peak is torch's own. Counted is what the step takes beyond weights and adapter. At once is measured for at most
1,024 tokens, since 8,192 would take 13 GB. Exits with 1 if 8,192 tokens take 1 GB or more, or if the losses differ.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler would write a line at each start
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from trainers.local.kernels.chunked_loss import find_chunked_head
from trainers.local.training.base_model import add_lora
from trainers.local.training.data import Row
from trainers.local.training.devices import best_device
from trainers.local.training.packing import Abilities, find_abilities, measure, pack_rows
from trainers.methods import Parameters

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LONG = 8192  # tokens
GOAL = 10**9  # bytes for so many
AT_ONCE = (256, 1024)
CHUNKED = (256, 1024, LONG)
EQUAL = 1e-5  # relative; narrow formats round each of the gradients, but the loss is summed in float32
HIDDEN = 256


def main() -> None:
    parser = argparse.ArgumentParser(description="The memory of a step whose tokens are all learnt.")
    parser.add_argument("--words", type=int, default=128_256)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    arguments = parser.parse_args()
    device = best_device()
    dtype = DTYPES[arguments.dtype]
    model, able = make_model(arguments.words, device, dtype)
    without_head = replace(able, head=None)
    print(f"{'learnt tokens':>14} {'all logits at once':>26} {'chunked':>26} {'losses differ by':>17}")
    is_good = True
    for tokens in CHUNKED:
        row = make_row(tokens, arguments.words)
        taken, loss = measure_step(model, row, able, device, dtype)
        before = "not run"
        difference = ""
        if tokens in AT_ONCE:
            taken_before, loss_before = measure_step(model, row, without_head, device, dtype)
            before = describe(taken_before, tokens)
            apart = abs(loss / loss_before - 1)
            difference = f"{apart:.1e}"
            is_good = is_good and apart <= EQUAL
        print(f"{tokens:14,} {before:>26} {describe(taken, tokens):>26} {difference:>17}")
        if tokens == LONG:
            is_good = is_good and taken < GOAL
    if not is_good:
        sys.exit(1)


def make_model(words: int, device: torch.device, dtype: torch.dtype) -> tuple[Any, Abilities]:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LONG + 1,
    )
    base: Any = LlamaForCausalLM(config).to(device, dtype)
    base.requires_grad_(False)
    able = replace(find_abilities(base, LONG + 1), head=find_chunked_head(base))
    return add_lora(base, Parameters(lora_r=8)), able


def make_row(tokens: int, words: int) -> Row:
    ids = torch.randint(words, (tokens + 1,), generator=torch.Generator().manual_seed(tokens)).tolist()
    return Row(1, ids, [False] + [True] * tokens)


def measure_step(
    model: Any, row: Row, able: Abilities, device: torch.device, dtype: torch.dtype
) -> tuple[int, float]:
    """Returns the bytes at the peak of forward and backward, and the loss."""
    pack = pack_rows([row], device, dtype)

    def step() -> float:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = measure(model, pack, able).total / len(pack.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad()
        return float(loss.item())

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        loss = step()
        return torch.cuda.max_memory_allocated(device) - before, loss
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        loss = step()
    return peak_of(recorded), loss


def peak_of(recorded: Any) -> int:
    """Returns the highest sum of all bytes allocated minus those freed, up to any moment."""
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    live = 0
    highest = 0
    for _, size in changes:
        live += size
        highest = max(highest, live)
    return highest


def describe(taken: int, tokens: int) -> str:
    return f"{taken / 1e6:,.0f} MB, {taken / tokens / 1e3:,.0f} kB each"


if __name__ == "__main__":
    main()
