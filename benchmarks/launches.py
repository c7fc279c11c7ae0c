"""Counts the kernel launches of one training step of 8 rows of 300 tokens, by family.

`python benchmarks/launches.py [--families NAME …] [--rows N] [--tokens N]`: toys of two layers from transformers' own
configuration classes, in float32 on a CPU, with LoRA on all linear layers, forward and backward. On a GPU each launch
takes the CPU some 5 to 10 microseconds, so that a step of short rows takes as long as its launches do. Counted are the
operators of torch that compute or copy something, views left out; kernels that need a GPU (flash-linear-attention,
Liger) make fewer. Each family is computed as a job would: packed, or padded if its trial allows that, or row by row.
Then row by row for comparison, with how far the summed losses differ. Exits with 1 if a family takes more than twice
the launches of Llama's pack, or if a loss differs by more than 1e-5.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.local import families
from trainers.local.kernels.chunked_loss import find_chunked_head
from trainers.local.kernels.fused_layers import fuse_norms, trim_last_mlp
from trainers.local.training.base_model import add_lora
from trainers.local.training.data import Row
from trainers.local.training.methods.sft import measure_rows
from trainers.local.training.model_structure import choose_class
from trainers.local.training.packing import (
    Abilities,
    fill_packs,
    fill_padded,
    find_abilities,
    padding_refusal,
)
from trainers.methods import Parameters

BASELINE = "llama"
CONFIGS: dict[str, Callable[[], Any]] = {
    BASELINE: lambda: families.config("llama"),
    "qwen3": lambda: families.config("qwen3"),
    **families.PADDED,
}
MOST = 2.0  # times Llama's launches
EQUAL = 1e-5  # relative
GPU = torch.device("cuda")
PACK_TOKENS = 8192  # as on a GPU
# Operators that only reserve memory or describe it differently.
FREE = {
    *("_unsafe_view", "lift_fresh", "empty", "empty_like", "empty_strided", "empty_permuted"),
    *("new_empty", "new_empty_strided"),
}


@dataclass(frozen=True)
class Step:
    """`loss` is the sum over all learnt tokens, in nats."""

    launches: int
    passes: int
    loss: float


class LaunchCounter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.launches = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        is_free = operator.is_view or operator.overloadpacket.__name__ in FREE
        if not is_free:
            self.launches += 1
        return operator(*args, **(kwargs or {}))


def main() -> None:
    parser = argparse.ArgumentParser(description="The kernel launches of a training step, by family.")
    parser.add_argument("--families", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=300)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # of transformers about toys
    warnings.filterwarnings(
        "ignore", "The following (rank|alpha)_pattern keys"
    )  # peft's own, for fused experts
    rows = make_rows(arguments.rows, arguments.tokens)
    baseline, _ = measure_family(BASELINE, rows)
    print(
        f"{'family':12} {'passes':>6} {'launches a step':>16} {'a layer':>8} {'times Llama':>12} "
        f"{'row by row':>11} {'losses differ by':>17}"
    )
    is_good = True
    for family in arguments.families:
        step, alone = measure_family(family, rows)
        ratio = step.launches / baseline.launches
        apart = abs(step.loss / alone.loss - 1)
        print(
            f"{family:12} {step.passes:6} {step.launches:16,} {step.launches / 2:8,.0f} {ratio:12.2f} "
            f"{alone.launches:11,} {apart:17.1e}",
            flush=True,
        )
        is_good = is_good and ratio <= MOST and apart <= EQUAL
    if not is_good:
        sys.exit(1)


def make_rows(count: int, tokens: int) -> list[Row]:
    """Returns rows of about so many tokens, of which the last sixth is learnt."""
    rows = []
    for number in range(count):
        length = tokens - number % 3
        ids = [(7 * number + place) % 380 + 10 for place in range(length)]
        rows.append(Row(number, ids, [place > length * 5 // 6 for place in range(length)]))
    return rows


def measure_family(family: str, rows: Sequence[Row]) -> tuple[Step, Step]:
    """Returns the step as a job computes it, and row by row."""
    torch.manual_seed(3)
    choice = choose_class(family, CONFIGS[family]())
    base = choice.model_class._from_config(choice.config, dtype=torch.float32).eval()
    base.requires_grad_(False)
    fuse_norms(base)
    longest = max(len(row.ids) for row in rows)
    able = replace(find_abilities(base, longest), head=find_chunked_head(base))
    if able.packs:
        able = replace(able, kept_positions=trim_last_mlp(base))
    else:
        able = replace(able, pads=padding_refusal(base, able, longest) is None)
    model = add_lora(base, Parameters())
    model.train()
    single = [[row] for row in rows]
    return run_step(model, group(rows, able), able), run_step(model, single, replace(able, pads=False))


def group(rows: Sequence[Row], able: Abilities) -> list[list[Row]]:
    if able.packs:
        return fill_packs(rows, PACK_TOKENS)
    if able.pads:
        return fill_padded(rows, PACK_TOKENS, GPU)
    return [[row] for row in rows]


def run_step(model: Any, parts: Sequence[Sequence[Row]], able: Abilities) -> Step:
    loss = 0.0
    with LaunchCounter() as counter:
        for part in parts:
            measured = measure_rows(model, part, able, torch.float32)
            measured.total.backward()
            loss += measured.total.item()
    model.zero_grad()
    return Step(counter.launches, len(parts), loss)


if __name__ == "__main__":
    main()
