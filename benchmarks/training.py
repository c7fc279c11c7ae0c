"""How many examples a second does the training learn, beside the plain way of writing such a loop?

`python benchmarks/training.py [--data FILE] [--model FOLDER] [--steps N]`: the same rows, the same LoRA and batch
size, in one process, on whatever device there is:

    packed     our lora.py as it is: rows packed, head at supervised tokens only, the machine's best dtype
    trimmed    each batch padded to its longest row, logits at every token, the same dtype
    padded     every row padded to 256 tokens, logits at every token, float32: the usual tutorial's way

The loss of the first step shows that all three learn the same. FILE is a CSV with text,label or chat JSONL.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from trainers.local.demo_model import make_demo_model
from trainers.local.spool import LoraSettings
from trainers.local.training.base import add_lora, load_model, load_tokenizer
from trainers.local.training.data import Row, read_rows
from trainers.local.training.devices import best_device, best_dtype
from trainers.local.training.lora import batches, learn
from trainers.local.training.packing import abilities

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = LoraSettings()
PADDED_TO = 256
PADDED_STEPS = 3  # of about 10 s each on two cores
SEED = 20261124
IGNORED = -100  # transformers leaves such labels out of the loss

Batch = Sequence[Row]
Step = Callable[[Batch], float]


def main() -> None:
    parser = argparse.ArgumentParser(description="Examples a second, beside plain loops.")
    parser.add_argument("--data", type=Path, default=ROOT / "examples" / "support_tickets.csv")
    parser.add_argument("--model", type=Path, default=ROOT / ".cache" / "smollm2-135m")
    parser.add_argument("--steps", type=int, default=8)
    asked = parser.parse_args()
    if asked.steps < 2:
        parser.error("--steps must be 2 or more: the first step warms up and is not counted.")
    make_demo_model(asked.model)
    device = best_device()
    dtype = best_dtype(device)
    rows = read_chats(asked.data, asked.model)
    work = batches(rows, SETTINGS.batch_size, SEED, epoch=0)[: asked.steps]
    mean = statistics.mean(len(row.ids) for batch in work for row in batch)
    longest = max(len(row.ids) for batch in work for row in batch)
    print(f"{device.type}, {torch.get_num_threads()} threads, batches of {SETTINGS.batch_size} rows, "
          f"{mean:.0f} tokens a row (longest {longest})")  # fmt: skip
    padded_to = max(PADDED_TO, longest)
    loops = [
        Loop("packed", dtype, asked.steps, packed_step(asked.model, device, dtype, longest)),
        Loop("trimmed", dtype, asked.steps, plain_step(asked.model, device, dtype, None)),
        Loop(
            "padded", torch.float32, PADDED_STEPS, plain_step(asked.model, device, torch.float32, padded_to)
        ),
    ]
    for number, batch in enumerate(work):  # in turn, so that a busy moment of the machine meets all of them
        for loop in loops:
            if number < loop.steps:
                loop.run(batch)
    packed, trimmed, padded_rate = (loop.tell() for loop in loops)
    print(
        f"packed is {packed / trimmed:.1f} times as fast as trimmed, {packed / padded_rate:.1f} times as padded"
    )


def read_chats(path: Path, model: Path) -> Sequence[Row]:
    tokenizer = load_tokenizer(str(model))
    if path.suffix != ".csv":
        return read_rows(path, tokenizer, SETTINGS.max_length, "training_file").rows
    with tempfile.TemporaryDirectory() as folder, path.open(encoding="utf-8", newline="") as file:
        chats = Path(folder) / "chats.jsonl"
        chats.write_text("".join(chat(row) for row in csv.DictReader(file)), encoding="utf-8")
        return read_rows(chats, tokenizer, SETTINGS.max_length, "training_file").rows


def chat(row: dict[str, str]) -> str:
    turns = (("system", "Classify support tickets."), ("user", row["text"]), ("assistant", row["label"]))
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n"


@dataclass
class Loop:
    name: str
    dtype: torch.dtype
    steps: int
    step: Step
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def run(self, batch: Batch) -> None:
        started = time.monotonic()
        self.losses.append(self.step(batch))
        self.seconds.append(time.monotonic() - started)

    def tell(self) -> float:
        """Examples a second by the median step, the first left out: it warms up."""
        kept = self.seconds[1:]
        rate = SETTINGS.batch_size / statistics.median(kept)
        print(
            f"{self.name:8} {str(self.dtype).removeprefix('torch.'):9} {rate:6.2f} examples/s, "
            f"{len(kept)} steps, median {statistics.median(kept):.2f} s, fastest {min(kept):.2f} s; "
            f"first loss {self.losses[0]:.3f}"
        )
        return rate


def packed_step(source: Path, device: torch.device, dtype: torch.dtype, longest: int) -> Step:
    torch.manual_seed(SEED)
    base = load_model(str(source), device, dtype, longest)
    able = abilities(base, longest)
    model = add_lora(base, SETTINGS)
    optimizer = new_optimizer(model)
    return lambda batch: learn(model, batch, able, optimizer, SETTINGS.learning_rate, 1).loss


def plain_step(source: Path, device: torch.device, dtype: torch.dtype, length: int | None) -> Step:
    """`length`: tokens every row is padded to; None is the batch's longest row."""
    torch.manual_seed(SEED)
    base: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    model: Any = add_lora(base.to(device), SETTINGS)
    optimizer = new_optimizer(model)

    def step(batch: Batch) -> float:
        model.train()
        loss = model(**padded(batch, length or max(len(row.ids) for row in batch), device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.item())

    return step


def new_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(learnt, lr=SETTINGS.learning_rate, weight_decay=0.0, fused=True)


def padded(batch: Batch, length: int, device: torch.device) -> dict[str, torch.Tensor]:
    """(rows, length) each, padded on the right with token 0, which is neither seen nor learnt."""

    def filled(values: Sequence[int], filler: int) -> list[int]:
        return [*values, *[filler] * (length - len(values))]

    labels = [
        [token if learnt else IGNORED for token, learnt in zip(row.ids, row.supervised, strict=True)]
        for row in batch
    ]
    return {
        "input_ids": torch.tensor([filled(row.ids, 0) for row in batch], device=device),
        "attention_mask": torch.tensor([filled([1] * len(row.ids), 0) for row in batch], device=device),
        "labels": torch.tensor([filled(each, IGNORED) for each in labels], device=device),
    }


if __name__ == "__main__":
    main()
