"""`python -m trainers.local.calibrate`: measure this machine's speed for half a minute, print it as one line of JSON.

Packs of several lengths go forward and backward through a Llama of a few layers, as wide as SmolLM2-135M, by the
engine's own parts; the lengths take turns, so that other work on the machine slows all of them alike. Then the three
unknowns of trainers/sizing/timing.py are fitted. Each turn writes a line of progress to standard error.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

STARTED = time.perf_counter()

import click  # noqa: E402 - the clock runs before anything heavy is imported
import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy.optimize import nnls  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from trainers.local.spool import LoraSettings  # noqa: E402
from trainers.local.training.base import add_lora, best_attention  # noqa: E402
from trainers.local.training.data import Row  # noqa: E402
from trainers.local.training.devices import best_device, best_dtype  # noqa: E402
from trainers.local.training.packing import Abilities, measure, pack_rows  # noqa: E402
from trainers.sizing.architecture import Architecture  # noqa: E402
from trainers.sizing.configs import Unsized, read_config  # noqa: E402
from trainers.sizing.timing import Calibration, operations  # noqa: E402

Clock = Callable[[], float]
LAYERS, RANK, LEARNT = 6, 16, 2
CPU_LENGTHS, CPU_LONG = (64, 256, 448, 704), 1280
GPU_LENGTHS, GPU_LONG = (512, 2048, 8192), 16384
PEAK_SIDE = 1024


@click.command()
@click.option("--seconds", type=click.FloatRange(2, 600), default=28.0, show_default=True)
@click.option("--processor-time", is_flag=True, help="Count this process's own seconds, whatever else runs.")
def main(seconds: float, processor_time: bool) -> None:
    """Measure this machine's speed and print it as one line of JSON."""
    clock = time.process_time if processor_time else time.perf_counter
    device = best_device()
    found = calibrate(device, best_dtype(device), clock, seconds)
    print(found.to_json().replace("\n", " "), flush=True)


def calibrate(device: torch.device, dtype: torch.dtype, clock: Clock, budget_s: float) -> Calibration:
    """`clock` gives seconds; the budget is the wall clock's."""
    imported_s = clock() - (0 if clock is time.process_time else STARTED)
    deadline = time.monotonic() + budget_s
    torch.manual_seed(0)
    peaks = {
        name: _peak(device, kind, clock)
        for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    lengths, long = (CPU_LENGTHS, CPU_LONG) if device.type == "cpu" else (GPU_LENGTHS, GPU_LONG)
    began = clock()
    trainees = {length: _Trainee(device, dtype, length) for length in (*lengths, long)}
    built_s = (clock() - began) / len(trainees)
    times, updates, warm_up_s = _take_turns(trainees, deadline, device, clock)
    shape = trainees[lengths[0]].shape
    layer_s, an_operation, pair_s = _fitted(shape, {length: times[length] for length in lengths})
    rest = times[long] - LAYERS * layer_s - long * operations(shape, RANK) * an_operation
    return Calibration(
        device=device.type,
        number=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        speed=1 / an_operation,
        layer_s=layer_s,
        pair_s=pair_s,
        long_pair_s=max(rest, 0.0) / (LAYERS * shape.heads * long**2),
        parameter_s=updates / shape.lora_parameters(RANK),
        startup_s=imported_s + built_s + warm_up_s,
        load=os.getloadavg()[0] / (os.cpu_count() or 1),
        peaks=peaks,
        measured_at=time.time(),
    )


class _Trainee:
    """A model and one pack that it learns from again and again."""

    def __init__(self, device: torch.device, dtype: torch.dtype, length: int) -> None:
        config = LlamaConfig(
            vocab_size=8192,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=LAYERS,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
            max_position_embeddings=32768,
        )
        config._attn_implementation = best_attention(device, length)
        base: Any = LlamaForCausalLM(config)
        self._model = add_lora(base.to(device, dtype), LoraSettings(lora_r=RANK))
        learnt = [one for one in self._model.parameters() if one.requires_grad]
        self._optimizer = torch.optim.AdamW(learnt, lr=1e-4, weight_decay=0.0, fused=True)
        self._pack = pack_rows(_rows(length, 8192), device, dtype)
        self._dtype = dtype
        shape = read_config(config.to_dict(), "the model that is measured")
        assert not isinstance(shape, Unsized)  # noqa: S101 - it is ours
        self.shape: Architecture = shape

    def learn(self) -> None:
        kind = next(self._model.parameters()).device.type
        with torch.autocast(kind, self._dtype, enabled=self._dtype != torch.float32):
            loss = measure(self._model, self._pack, Abilities(packs=True, selects=True)).total
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()


def _rows(length: int, vocab: int) -> list[Row]:
    """Rows of about 64 tokens that fill a pack, as a classification has them; a long pack is one row."""
    count = max(1, length // 64) if length <= max(CPU_LENGTHS) else 1
    size = length // count
    ids = torch.randint(3, vocab, (count, size)).tolist()
    return [Row(i, one, [False] * (size - LEARNT) + [True] * LEARNT) for i, one in enumerate(ids)]


def _take_turns(
    trainees: dict[int, _Trainee], deadline: float, device: torch.device, clock: Clock
) -> tuple[dict[int, float], float, float]:
    """Median seconds of a pack for each length, and of an update; how much longer the very first pack took."""
    times: dict[int, list[float]] = {length: [] for length in trainees}
    updates: list[float] = []
    began = time.monotonic()
    while not updates or time.monotonic() < deadline or min(map(len, times.values())) < 2:
        for length, trainee in trainees.items():
            times[length].append(_timed(trainee.learn, device, clock))
            updates.append(_timed(trainee.update, device, clock))
        share = min(1.0, (time.monotonic() - began) / max(deadline - began, 0.1))
        print(f"progress {share:.2f}", file=sys.stderr, flush=True)
    found = {
        length: statistics.median(taken[1:]) for length, taken in times.items()
    }  # the first loads kernels
    first = next(iter(times))
    return found, statistics.median(updates), max(0.0, times[first][0] - found[first])


def _fitted(shape: Architecture, times: dict[int, float]) -> tuple[float, float, float]:
    """Seconds a layer and pack, an operation, a head and pair of tokens: none below 0, relative errors squared."""
    rows: Sequence[Any] = [
        (shape.layers, length * operations(shape, RANK), shape.layers * shape.heads * length**2)
        for length in times
    ]
    system = np.array(rows, dtype=float) / np.array(list(times.values()))[:, None]
    scales = system.max(axis=0)
    solution, _ = nnls(system / scales, np.ones(len(times)))
    layer_s, an_operation, pair_s = solution / scales
    return float(layer_s), float(an_operation), float(pair_s)


def _peak(device: torch.device, dtype: torch.dtype, clock: Clock) -> float:
    """Operations a second of a product of square matrices, the best of a few."""
    a = torch.randn(PEAK_SIDE, PEAK_SIDE, device=device).to(dtype)
    best = min(_timed(lambda: a @ a, device, clock) for _ in range(8))
    return 2 * PEAK_SIDE**3 / best


def _timed(work: Callable[[], object], device: torch.device, clock: Clock) -> float:
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
    return clock() - began


if __name__ == "__main__":
    main()
