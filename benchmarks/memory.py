"""Measures the memory of one training step whose tokens are all learnt, with 128,256 words as Llama 3 has.

`python benchmarks/memory.py [--words N] [--dtype bf16|fp32]`: a toy Llama of two layers with LoRA, forward and
backward, with all logits at once and by the chunked loss. On a CPU all allocations of torch's profiler are added up, on
CUDA the peak is torch's own. Counted is what the step takes beyond weights and adapter. At once is measured for at most
1,024 tokens, since 8,192 would take 13 GB. Then by how much a process grows that reads 3,000 rows of 400 tokens, and
how long a pack of 8,192 tokens takes to build. Exits with 1 if 8,192 tokens take 1 GB or more, if the losses differ, or
if a token of a row takes more than 8 bytes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import string
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler would write a line at each start
import psutil
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from trainers.local.kernels.chunked_loss import find_chunked_head
from trainers.local.training.base_model import add_lora
from trainers.local.training.data import Row, read_rows
from trainers.local.training.devices import best_device
from trainers.local.training.packing import Abilities, fill_packs, find_abilities, measure, pack_rows
from trainers.methods import Parameters

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LONG = 8192  # tokens
GOAL = 10**9  # bytes for so many
AT_ONCE = (256, 1024)
CHUNKED = (256, 1024, LONG)
EQUAL = 1e-5  # relative; narrow formats round each of the gradients, but the loss is summed in float32
HIDDEN = 256
ROWS = 3000
MOST_ROW_BYTES = 8
LETTERS = string.ascii_letters
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


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
    with tempfile.TemporaryDirectory() as folder:
        row_bytes = measure_rows(Path(folder))
    if not is_good or row_bytes > MOST_ROW_BYTES:
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


def measure_rows(folder: Path) -> float:
    """Prints and returns the bytes for each token of rows that have been read from a file."""
    tokenizer = write_tokenizer(folder)
    file = folder / "rows.jsonl"
    dice = random.Random(3)
    with file.open("w", encoding="utf-8") as lines:
        for _ in range(ROWS):
            question, answer = (" ".join(dice.choices(LETTERS, k=count)) for count in (300, 100))
            chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            lines.write(json.dumps({"messages": chat}) + "\n")
    read_rows(file, tokenizer, LONG, "training_file", cache=folder)  # a restarted job reads what is stored
    gc.collect()
    before = psutil.Process().memory_info().rss
    rows = read_rows(file, tokenizer, LONG, "training_file", cache=folder)
    touched = sum(len(row.ids) for row in rows.rows)
    gc.collect()
    each = (psutil.Process().memory_info().rss - before) / touched
    packs = fill_packs(rows.rows[:200], LONG)
    started = time.process_time()
    for pack in packs:
        pack_rows(pack, torch.device("cpu"), torch.bfloat16, by_blocks=True)
    took = (time.process_time() - started) / len(packs)
    print(
        f"rows: {touched:,} tokens, {each:.1f} bytes each; a pack of {LONG:,} tokens takes {took * 1e3:.1f} ms"
    )
    return each


def write_tokenizer(folder: Path) -> Any:
    """Returns a tokenizer that makes a token of each letter."""
    words = {word: number for number, word in enumerate(("<pad>", "<end>", *LETTERS))}
    backend = Tokenizer(WordLevel(words, unk_token="<pad>"))  # noqa: S106 - a token
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<pad>")  # noqa: S106
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def describe(taken: int, tokens: int) -> str:
    return f"{taken / 1e6:,.0f} MB, {taken / tokens / 1e3:,.0f} kB each"


if __name__ == "__main__":
    main()
