"""`python -m trainers.local.calibrate`: measures this machine's speed for half a minute and prints it as one line of
JSON.

It runs packs of several lengths, with short and with long rows, forward and backward through a Llama of a few layers,
as wide as SmolLM2-135M, by the code that trains. The packs take turns, so that other work on the machine slows all of
them alike. From their times it fits the three unknowns of trainers/sizing/training_time.py. TRL's head, which
preference pairs need, is measured separately. Each turn writes a line of progress to standard error."""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

STARTED = time.perf_counter()
gc.disable()  # as a training does while it imports, see launch.quick_imports

import click  # noqa: E402 - the clock runs before anything heavy is imported
import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy.optimize import nnls  # noqa: E402
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM  # noqa: E402

from trainers.local.kernels.block_attention import choose_attention  # noqa: E402
from trainers.local.kernels.liger import choose_kernels  # noqa: E402
from trainers.local.launch import quick_imports  # noqa: E402
from trainers.local.training.base_model import add_lora, best_attention  # noqa: E402
from trainers.local.training.data import Row  # noqa: E402
from trainers.local.training.devices import CpuThreads, best_device, best_dtype  # noqa: E402
from trainers.local.training.packing import Abilities, find_abilities, measure, pack_rows  # noqa: E402
from trainers.methods import Parameters  # noqa: E402
from trainers.sizing.architecture import Architecture, UnknownSize, read_config  # noqa: E402
from trainers.sizing.memory import TILE_WORDS  # noqa: E402
from trainers.sizing.training_time import (  # noqa: E402
    Calibration,
    head_products_s,
    operations,
    weights_at_work,
)

gc.enable()
Clock = Callable[[], float]
LAYERS = 6
RANK = 16
LABELS = 2  # tokens of each row that are learnt
Lengths = tuple[int, int]  # tokens of a pack, and of each of its rows
CPU_PACKS: tuple[Lengths, ...] = ((128, 64), (256, 64), (448, 64), (704, 64), (704, 352))
GPU_PACKS: tuple[Lengths, ...] = ((512, 64), (2048, 256), (4096, 2048), (8192, 256), (8192, 2048))
# Tokens of a pack that is one row.
CPU_LONG = 1280
GPU_LONG = 16384
PEAK_SIDE = 1024
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HEAD_TOKENS = 256
HEAD_WIDTH = 576
SERVED_PROMPT = 64  # tokens
SERVED_ANSWER = 8  # tokens
SERVED_AT_ONCE = 16  # requests
HEAD_OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")  # those that DPOTrainer asks for


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", type=click.FloatRange(2, 600), default=28.0, show_default=True)
@click.option("--processor-time", is_flag=True, help="Count this process's CPU seconds, not the clock's.")
def main(seconds: float, processor_time: bool) -> None:
    """Measure this machine's speed and print it as one line of JSON."""
    clock = time.perf_counter
    if processor_time:
        clock = time.process_time
    device = best_device()
    calibration = calibrate(device, best_dtype(device), clock, seconds)
    line = calibration.to_json().replace("\n", " ")
    print(line, flush=True)


def calibrate(device: torch.device, dtype: torch.dtype, clock: Clock, budget_s: float) -> Calibration:
    """Measures the machine's speed. `clock` returns the wall clock's or the process's seconds; the budget always counts
    wall-clock seconds."""
    imported_s = clock()
    if clock is not time.process_time:  # that one counts from the process's start
        imported_s -= STARTED
    deadline = time.monotonic() + budget_s
    torch.manual_seed(0)
    peaks = _measure_peaks(device, dtype, clock)
    reads, writes, served_weights = _measure_serving(device, dtype, clock)
    training = _measure_training(device, dtype, clock, deadline)
    one_minute_load, _, _ = os.getloadavg()
    cores = os.cpu_count() or 1
    calibration = Calibration(
        device=device.type,
        number=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        speed=1 / training.operation_s,
        layer_s=training.layer_s,
        pair_s=training.pair_s,
        long_pair_s=training.long_pair_s,
        parameter_s=training.parameter_s,
        startup_s=imported_s + training.startup_s,
        load=one_minute_load / cores,
        peaks=peaks,
        measured_at=time.time(),
        reads=reads,
        writes=writes,
        served_weights=served_weights,
        by_rows=training.by_rows,
    )
    trl_s = _measure_trl_import(clock)  # before _measure_head, which imports much of it too
    head_s = _measure_head(device, dtype, clock)
    products_s = head_products_s(HEAD_WIDTH, calibration)
    word_s = head_s / (HEAD_TOKENS * TILE_WORDS) - products_s
    return replace(calibration, word_s=max(0.0, word_s), trl_s=trl_s)


@dataclass(frozen=True)
class _TrainingSpeed:
    """Seconds per layer and pack, per operation, per head and pair of tokens in packs of several rows and in one long
    row, and per trained parameter of an update. `startup_s` is what building a model and its first pack take."""

    layer_s: float
    operation_s: float
    pair_s: float
    long_pair_s: float
    parameter_s: float
    startup_s: float
    by_rows: bool


def _measure_training(
    device: torch.device, dtype: torch.dtype, clock: Clock, deadline: float
) -> _TrainingSpeed:
    packs = GPU_PACKS
    long = GPU_LONG
    if device.type == "cpu":
        packs = CPU_PACKS
        long = CPU_LONG
    began = clock()
    every = (*packs, (long, long))
    trainees = {lengths: _Trainee(device, dtype, lengths) for lengths in every}
    built_s = (clock() - began) / len(trainees)
    times, update_s, warm_up_s = _take_turns(trainees, deadline, device, clock)

    shape = trainees[packs[0]].shape
    by_rows = all(trainees[lengths].goes_by_rows for lengths in packs)
    pack_times = {lengths: times[lengths] for lengths in packs}
    layer_s, operation_s, pair_s = _fit(shape, pack_times, by_rows=by_rows)
    # What a pack of one row takes beyond its layers and products is attention over all its pairs.
    products_s = long * operations(shape, RANK) * operation_s
    long_pairs_s = times[long, long] - LAYERS * layer_s - products_s
    long_pairs = LAYERS * shape.heads * long**2
    return _TrainingSpeed(
        layer_s=layer_s,
        operation_s=operation_s,
        pair_s=pair_s,
        long_pair_s=max(long_pairs_s, 0.0) / long_pairs,
        parameter_s=update_s / shape.lora_parameters(RANK),
        startup_s=built_s + warm_up_s,
        by_rows=by_rows,
    )


def _config() -> LlamaConfig:
    """Returns the config of a Llama with a few layers, as wide as SmolLM2-135M's."""
    return LlamaConfig(
        vocab_size=8192,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=LAYERS,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        max_position_embeddings=32768,
    )


def _shape(config: LlamaConfig) -> Architecture:
    shape = read_config(config.to_dict(), "the model that is measured")
    assert not isinstance(shape, UnknownSize)  # noqa: S101 - a Llama is known
    return shape


class _Trainee:
    """A model and one pack that it trains on again and again."""

    def __init__(self, device: torch.device, dtype: torch.dtype, lengths: Lengths) -> None:
        config = _config()
        config._attn_implementation = best_attention(device)
        base: Any = LlamaForCausalLM(config)
        base.to(device, dtype)
        choose_kernels(base, device)
        self._model = add_lora(base, Parameters(lora_r=RANK))
        learnt = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(learnt, lr=1e-4, weight_decay=0.0, fused=True)

        tokens, size = lengths
        has_several_rows = tokens > size
        if device.type == "cuda" and has_several_rows:
            choose_attention(base, device)
        ways = find_abilities(base, size)
        self.goes_by_rows = ways.by_rows or ways.by_blocks
        ids = torch.randint(3, config.vocab_size, (tokens // size, size))  # rows x tokens of a row
        unlearnt = [False] * (size - LABELS)
        supervised = unlearnt + [True] * LABELS
        rows = [Row(number, row, supervised) for number, row in enumerate(ids.tolist())]
        self._pack = pack_rows(rows, device, dtype, by_rows=ways.by_rows, by_blocks=ways.by_blocks)

        self._device = device
        self._dtype = dtype
        self.shape = _shape(config)

    def learn(self) -> None:
        is_mixed = self._dtype != torch.float32
        with torch.autocast(self._device.type, self._dtype, enabled=is_mixed):
            measured = measure(self._model, self._pack, Abilities(packs=True, selects=True))
        measured.total.backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()


def _take_turns(
    trainees: dict[Lengths, _Trainee], deadline: float, device: torch.device, clock: Clock
) -> tuple[dict[Lengths, float], float, float]:
    """Returns the median seconds of each pack and of an update, and how many more seconds the very first pack took."""
    times: dict[Lengths, list[float]] = {lengths: [] for lengths in trainees}
    updates: list[float] = []
    cores = CpuThreads()
    began = time.monotonic()
    budget_s = max(deadline - began, 0.1)
    turns = 0
    while turns < 2 or time.monotonic() < deadline:  # two at least, since the first doesn't count
        for lengths, trainee in trainees.items():
            with cores.shared():
                learnt_s = _timed(trainee.learn, device, clock)
                updated_s = _timed(trainee.update, device, clock)
            times[lengths].append(learnt_s)
            updates.append(updated_s)
        turns += 1
        share = (time.monotonic() - began) / budget_s
        print(f"progress {min(1.0, share):.2f}", file=sys.stderr, flush=True)

    # The first turn of each pack loads kernels, so it is left out.
    medians = {lengths: statistics.median(seconds[1:]) for lengths, seconds in times.items()}
    first_pack = next(iter(times))
    warm_up_s = times[first_pack][0] - medians[first_pack]
    return medians, statistics.median(updates), max(0.0, warm_up_s)


def _fit(
    shape: Architecture, times: dict[Lengths, float], *, by_rows: bool = True
) -> tuple[float, float, float]:
    """Returns the seconds per layer and pack, per operation, and per head and pair of tokens. They minimise the squared
    relative errors, and none is below 0."""
    equations = []
    for pack, row in times:
        seen = pack  # tokens that each token is compared with
        if by_rows:
            seen = row
        products = pack * operations(shape, RANK)
        pairs = shape.layers * shape.heads * pack * seen
        equation = (shape.layers, products, pairs)
        equations.append(equation)
    # Divided by the times, so that all right sides are 1 and errors count relatively.
    seconds = np.array(list(times.values()))  # packs
    left_sides = np.array(equations, dtype=float)  # packs x 3 unknowns
    system = left_sides / seconds[:, None]
    # The columns differ by many orders of magnitude, so each is scaled before it is solved.
    scales = system.max(axis=0)
    ones = np.ones(len(times))
    solution, _ = nnls(system / scales, ones)
    layer_s, operation_s, pair_s = solution / scales
    if operation_s == 0:
        # Beside other programs times may not grow with the arithmetic: all of it counts as that.
        operation_s = np.median(1 / system[:, 1])
        return 0.0, float(operation_s), 0.0
    return float(layer_s), float(operation_s), float(pair_s)


def _measure_peaks(device: torch.device, dtype: torch.dtype, clock: Clock) -> dict[str, float]:
    """Returns the peak of each type of numbers that a training here may use, by its name."""
    used = (torch.float32, torch.bfloat16, dtype)
    peaks = {}
    for name, number in DTYPES.items():
        if number in used:
            peaks[name] = _measure_peak(device, number, clock)
    return peaks


def _measure_peak(device: torch.device, dtype: torch.dtype, clock: Clock) -> float:
    """Returns the operations per second of a product of square matrices, the best of eight."""
    a = torch.randn(PEAK_SIDE, PEAK_SIDE, device=device).to(dtype)
    seconds = [_timed(lambda: a @ a, device, clock) for _ in range(8)]
    best = min(seconds)
    return 2 * PEAK_SIDE**3 / best


@torch.inference_mode()
def _measure_serving(device: torch.device, dtype: torch.dtype, clock: Clock) -> tuple[float, float, float]:
    """Returns the tokens per second that a few layers read and write while they answer several requests at once, and
    the number of weights in those layers. The server's work outside the model (text, HTTP) is not included."""
    config = _config()
    shape = _shape(config)
    model: Any = LlamaForCausalLM(config)
    model.to(device, dtype).eval()
    prompts = torch.randint(3, shape.vocab, (SERVED_AT_ONCE, SERVED_PROMPT), device=device)
    last = torch.tensor([-1], device=device)

    def read() -> DynamicCache:
        cache = DynamicCache(config=model.config)
        model(input_ids=prompts, cache=cache, use_cache=True, logits_to_keep=last)
        return cache

    def write() -> None:
        for _ in range(SERVED_ANSWER):
            model(input_ids=prompts[:, :1], cache=cache, use_cache=True)

    cache = read()  # not timed: the first pass loads kernels
    read_s = min(_timed(read, device, clock) for _ in range(3))
    write_s = min(_timed(write, device, clock) for _ in range(3))
    reads = SERVED_AT_ONCE * SERVED_PROMPT / read_s
    writes = SERVED_AT_ONCE * SERVED_ANSWER / write_s
    return reads, writes, weights_at_work(shape)


def _measure_trl_import(clock: Clock) -> float:
    """Returns the seconds of what a training on pairs imports beyond one on chats."""
    began = clock()
    with quick_imports():
        import trainers.local.training.methods.dpo  # noqa: F401
    return clock() - began


def _measure_head(device: torch.device, dtype: torch.dtype, clock: Clock) -> float:
    """Returns the seconds of TRL's head over one tile of words (policy, reference and backward pass), the best of
    four."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    states = torch.randn(HEAD_TOKENS, HEAD_WIDTH, device=device, dtype=dtype)
    # Scaled for logits of about 1. Unscaled ones of about 24 underflow, which takes a CPU three times as long.
    unscaled = torch.randn(TILE_WORDS, HEAD_WIDTH, device=device)
    weight = (unscaled * HEAD_WIDTH**-0.5).to(dtype)
    targets = torch.zeros(HEAD_TOKENS, device=device, dtype=torch.long)

    def sum_of_log_probs(states: torch.Tensor) -> Any:
        outputs: Any = ChunkedLogProbFunction.apply(  # type: ignore[no-untyped-call]
            states, weight, None, targets, 1.0, TILE_WORDS, None, 1.0, HEAD_OUTPUTS
        )
        return outputs[0].sum()

    def policy_and_reference() -> None:
        with torch.no_grad():
            sum_of_log_probs(states)
        learnt = states.detach().requires_grad_()
        sum_of_log_probs(learnt).backward()

    seconds = [_timed(policy_and_reference, device, clock) for _ in range(4)]
    return min(seconds)


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
