"""What it costs to choose the next tokens of a batch: all rows in one call on the device that has the logits, compared
with a copy and a sort of each row on the CPU.

`python benchmarks/sampling.py [--words N …] [--rows N …] [--repeats N] [--device cpu|cuda]`: milliseconds of wall time
for one token of each row, the median of --repeats, for

    sampled     temperature 1, OpenAI's default
    top_p       temperature 1 with top_p 0.9, over logits of a normal distribution, which are harder than a model's
    logprobs    temperature 0 with the five likeliest tokens
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from trainers.local.serving.sampling import choose  # noqa: E402
from trainers.local.serving.values import Sampling  # noqa: E402

SAMPLED = Sampling(temperature=1, top_p=1, max_tokens=None, stop=(), seed=None)
KINDS = {
    "sampled": SAMPLED,
    "top_p": replace(SAMPLED, top_p=0.9),
    "logprobs": replace(SAMPLED, temperature=0, top_logprobs=5),
}
WORDS = (49_152, 128_256, 262_144)


@dataclass
class Row:
    sampling: Sampling
    prompt: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    allowed: Tensor | None = None
    dice: torch.Generator = field(default_factory=torch.Generator)

    def draw(self) -> float:
        return float(torch.rand(1, dtype=torch.float64, generator=self.dice))


def main() -> int:
    parser = argparse.ArgumentParser(description="What choosing tokens costs.")
    parser.add_argument("--words", type=int, nargs="+", default=WORDS)
    parser.add_argument("--rows", type=int, nargs="+", default=(1, 32))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    name = f"{torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    print(f"ms for a token of each row, logits in bfloat16 on {device.type} ({name})")
    print(f"{'':10} {'words':>8} {'rows':>5} {'row by row':>11} {'in one call':>12}")
    for kind, sampling in KINDS.items():
        for words in options.words:
            for count in options.rows:
                logits = (3 * torch.randn(count, words)).to(device, torch.bfloat16)
                rows = [Row(sampling) for _ in range(count)]
                before = timed(lambda: row_by_row(rows, logits), options.repeats)  # noqa: B023
                after = timed(lambda: choose(rows, logits), options.repeats)  # noqa: B023
                print(f"{kind:10} {words:8,} {count:5} {before:11.2f} {after:12.2f}", flush=True)
    return 0


def timed(work: Callable[[], object], repeats: int) -> float:
    """Returns the median in milliseconds. The work ends with numbers on the CPU, so it has waited for a GPU."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


@torch.inference_mode()
def row_by_row(rows: Sequence[Row], logits: Tensor) -> list[int]:
    """The usual way: each row's logits are copied to the CPU, sorted and drawn from."""
    tokens = []
    for row, own in zip(rows, logits, strict=True):
        values = own.float().cpu()
        if row.sampling.temperature == 0:
            token = int(values.argmax())
        else:
            chances = torch.softmax(values / row.sampling.temperature, -1)
            ordered, ids = chances.sort(descending=True)
            ordered[ordered.cumsum(-1) - ordered > row.sampling.top_p] = 0
            token = int(ids[torch.multinomial(ordered, 1, generator=row.dice)])
        if row.sampling.top_logprobs is not None:
            logprobs = torch.log_softmax(values, -1)
            logprobs.topk(row.sampling.top_logprobs).values.tolist()
        tokens.append(token)
    return tokens


if __name__ == "__main__":
    sys.exit(main())
