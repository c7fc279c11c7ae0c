"""Compares the speed of our trainer with TRL's and with the usual tutorial's loop: `make bench-training`

`python benchmarks/training.py [--data FILE] [--instructions FILE] [--model FOLDER] [--steps N]`

All use the same rows, model, LoRA and batches of 8. Each runs in a separate process and they take turns step by step,
so that other work on the machine affects all of them:

    ours       loop.py's own step: rows packed, head at supervised tokens only, the machine's best format
    trl        TRL's SFTTrainer at its best: batches of similar length, the same format, loss on the answers only
    tutorial   every row padded to 256 tokens (512 if one is longer), float32, logits at every token

All train on TRL's batches in its order, so that their losses compare step by step. Prints the time of each, its score
on held-out rows after the same number of examples, and how far the others' losses are from ours. Exits with 1 if they
differ by more than 8% on average. FILE is a CSV with text,label or chat JSONL; the instructions are a CSV's system
prompt. `_instructions.txt` explains each label, as teams do; the default has three words. Takes three to six minutes on
two cores, ten with the long instructions.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOOP = ROOT / "benchmarks" / "_training_loop.py"
NAMES = ("ours", "trl", "tutorial")
SHORT = "Classify support tickets."
WARM_UP = 2  # steps that are not counted
EQUAL = (
    0.08  # mean share of a step's loss; two loops in bfloat16 differ by 1.5%, bfloat16 and float32 by 3 to 5%
)


@dataclass
class Loop:
    """A training loop in its process, with the results of its steps."""

    name: str
    process: subprocess.Popen[str]
    about: dict[str, Any]
    steps: list[dict[str, float]] = field(default_factory=list)
    score: dict[str, float] = field(default_factory=dict)

    def ask(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return read_answer(self.process)

    def rate(self, what: str, per: str = "seconds") -> float:
        """Returns `what` per second (wall or CPU) over all counted steps."""
        counted = self.steps[WARM_UP:]
        return sum(step[what] for step in counted) / sum(step[per] for step in counted)


def main() -> None:
    parser = argparse.ArgumentParser(description="Examples per second, compared with TRL and a plain loop.")
    parser.add_argument("--data", type=Path, default=ROOT / "examples" / "support_tickets.csv")
    parser.add_argument("--instructions", type=Path)
    parser.add_argument("--model", type=Path, default=ROOT / ".cache" / "smollm2-135m")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    if options.steps <= WARM_UP:
        parser.error(f"--steps must be more than {WARM_UP}: the first warm up and are not counted.")
    sys.path.insert(0, str(ROOT))
    from trainers.local.demo_model import make_demo_model

    make_demo_model(options.model)
    with tempfile.TemporaryDirectory() as folder:
        system = options.instructions.read_text(encoding="utf-8").strip() if options.instructions else SHORT
        chats = write_chats(options.data, system, Path(folder))
        loops = [start_loop(name, options.model, chats, options.steps) for name in NAMES]
        batches = loops[NAMES.index("trl")].ask("batches")["batches"]
        for batch in batches[: options.steps]:
            for loop in loops:
                loop.steps.append(loop.ask("step " + " ".join(str(place) for place in batch)))
        for loop in loops:
            loop.score = loop.ask("score")
    print_table(loops, matmul_peak(loops[0].about["dtype"]))
    if not are_equal(loops):
        sys.exit(1)


def start_loop(name: str, model: Path, chats: Path, steps: int) -> Loop:
    process = subprocess.Popen(
        [sys.executable, str(LOOP), name, str(model), str(chats), str(steps)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return Loop(name, process, read_answer(process))


def read_answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            return dict(json.loads(line))
    raise SystemExit(f"{process.args!r} ended without an answer; run it yourself to see why.")


def write_chats(path: Path, system: str, folder: Path) -> Path:
    """Writes a CSV's rows as chats, shuffled so that the held-out rows, which come first, have all labels."""
    if path.suffix != ".csv":
        return path
    with path.open(encoding="utf-8", newline="") as file:
        lines = [chat_line(row, system) for row in csv.DictReader(file)]
    random.Random(7).shuffle(lines)
    chats = folder / "chats.jsonl"
    chats.write_text("".join(lines), encoding="utf-8")
    return chats


def chat_line(row: dict[str, str], system: str) -> str:
    turns = (("system", system), ("user", row["text"]), ("assistant", row["label"]))
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n"


def matmul_peak(dtype: str) -> float:
    """Returns the operations per second of one large product in that format, the best of ten."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 1024
    left, right = (torch.randn(size, size, dtype=getattr(torch, dtype), device=device) for _ in range(2))
    best = 0.0
    for _ in range(10):
        started = time.perf_counter()
        (left @ right).sum().item()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def print_table(loops: list[Loop], peak: float) -> None:
    ours = loops[0]
    examples = int(sum(step["rows"] for step in ours.steps))
    mean = sum(step["tokens"] for step in ours.steps) / examples
    print(
        f"{examples} examples of {mean:.0f} tokens; matmul peak in {ours.about['dtype']} {peak / 1e9:,.0f} GFLOP/s"
    )
    print(f"{'':9} {'format':9} {'ex/s':>6} {'ex/CPU s':>9} {'tok/CPU s':>10} {'of peak':>8} {'MB':>6} "
          f"{'last loss':>10} {'held out':>9} {'right':>6}   ours is faster by")  # fmt: skip
    if ours.rate("tokens") * 4 * ours.about["linear_parameters"] > peak:
        print(
            "of peak: counts the tokens of all rows; ours computes what rows share once, so it may exceed 100%"
        )
    for loop in loops:
        # 4 operations per weight and token: forward and backward, without gradients of the frozen weights.
        share = 4 * loop.about["linear_parameters"] * loop.rate("tokens") / peak
        last = statistics.mean(step["loss"] for step in loop.steps[-5:])
        faster = f"{ours.rate('rows') / loop.rate('rows'):.1f} times, {ratio_of_cpu(ours, loop):.1f} by CPU"
        print(
            f"{loop.name:9} {loop.about['dtype']:9} {loop.rate('rows'):6.2f} {loop.rate('rows', 'cpu_seconds'):9.2f} "
            f"{loop.rate('tokens', 'cpu_seconds'):10.0f} {share:8.0%} {loop.score['peak_mb']:6.0f} {last:10.3f} "
            f"{loop.score['held_out_loss']:9.3f} {loop.score['held_out_right']:6.0%}   "
            f"{faster if loop is not ours else ''}"
        )


def are_equal(loops: list[Loop]) -> bool:
    """Prints how far each loop's losses are from ours, step by step and on the held-out rows. Returns True if close."""
    ours, *others = loops
    equal = True
    for other in others:
        apart = [abs(a["loss"] - b["loss"]) / b["loss"] for a, b in zip(ours.steps, other.steps, strict=True)]
        held = abs(ours.score["held_out_loss"] / other.score["held_out_loss"] - 1)
        is_equal = statistics.mean(apart) <= EQUAL
        equal = equal and is_equal
        print(
            f"loss compared with {other.name}: {statistics.mean(apart):.1%} apart on average over {len(apart)} steps, "
            f"{max(apart):.1%} at most, {held:.1%} on the held-out rows: {'equal' if is_equal else 'NOT EQUAL'}"
        )
    return equal


def ratio_of_cpu(ours: Loop, other: Loop) -> float:
    return ours.rate("rows", "cpu_seconds") / other.rate("rows", "cpu_seconds")


if __name__ == "__main__":
    main()
