"""Estimates how long a training takes on a machine whose speed was measured (`finetune calibrate`) or is guessed. Pure.

A pack of T tokens in rows of L tokens takes, per layer, forward and backward,

    c + T·4·P / speed + T·L·H·pair      c: seconds per layer; P: weights in its matrices; H: heads

A row that is computed alone takes T²·H·pair with a `pair` of its own, and so does a pack on a GPU where only a mask
keeps its rows apart, because attention is not computed by rows there.

4·P are the operations per token: two forward and two for the gradient of the input. Frozen weights need no gradient of
their own (Kaplan et al. 2020, Scaling Laws, §2.1, counts 2 and 4 with it). LoRA adds 6·r·(inputs + outputs) per matrix.
c, speed and pair are fitted to times measured on the machine, so they include what the formula leaves out, such as
memory traffic and Python.

For preference pairs, T tokens (both answers of each pair, padded alike) pass forward and backward through the policy,
and forward through the reference, which is half as much work. Attention with a mask computes all pairs of tokens,
including those that the mask hides. TRL's head (memory.py) at N tokens and V words takes

    N·V·word + 6·N·V·h / peak + 2·N·V·h / float32's peak

with three products (forward, for the reference, and again in the backward pass) and one in float32; `word` is the
measured time of its passes over the logits.

GRPO learns from its sampled answers in the same way, without a reference if beta is 0. Before that it reads each
question once per answer and writes all answers, at the speeds of serving.

If nothing was measured, `guess_calibration` has rules of thumb for the speed of such hardware. Neither includes other
work on the machine: with two busy programs on two cores a training takes twice as long.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from trainers.json_values import from_object
from trainers.sizing.architecture import Architecture
from trainers.sizing.hardware import Machine, gpu_speed
from trainers.sizing.memory import CPU_TOKENS, GPU_TOKENS

CALIBRATION_FILE = "calibration.json"
RECOMPUTE_SHARE = 1 / 3  # additional time if activations are recomputed in the backward pass
FORWARD_SHARE = 0.5  # of forward and backward together, with frozen weights
WRITE_FACTOR = 5.0  # writing one token takes as long as reading this many
# The GPU that vendors rent out by the hour for a tuned model, its memory, and the room for a cache beside the weights.
VENDOR_GPU, VENDOR_GPU_GB, VENDOR_CACHE = "NVIDIA H100", 80, 1.3
MASK_FACTOR = 2.0  # attention with a mask also computes the hidden half of the pairs of tokens
# Guesses: seconds per layer and pack (to launch kernels), operations per head and pair of tokens, seconds for a start.
GUESSED_LAYER_S, GUESSED_PAIR, GUESSED_STARTUP_S = 0.002, 1000, 20


@dataclass(frozen=True)
class Calibration:
    """A machine's measured speed. Names ending in `_s` are seconds.

    `speed` is in operations per second. `layer_s` is per layer and pack. `pair_s` is per head and pair of tokens if
    attention is computed by rows, `long_pair_s` if it is fused. `parameter_s` is the optimizer's time per parameter.
    `startup_s` is from the start of the process until the model is ready to train. `peaks` are operations per second in
    products of square matrices, by number format. `load` is the number of other running processes per core during the
    measurement.

    The following are None in files written before they were measured. `by_rows`: attention in packs was computed by
    rows or by blocks; if False, `pair_s` is for two tokens of a pack with a mask. `word_s` is per token and word of
    TRL's head, without its products; `trl_s` is the time to import TRL. `reads` and `writes` are tokens per second of
    concurrent requests to a model with `served_weights` weights (weights_at_work)."""

    device: str
    number: str
    threads: int
    speed: float
    layer_s: float
    pair_s: float
    long_pair_s: float
    parameter_s: float
    startup_s: float
    load: float
    peaks: Mapping[str, float]
    measured_at: float
    word_s: float | None = None
    trl_s: float | None = None
    by_rows: bool | None = None
    reads: float | None = None
    writes: float | None = None
    served_weights: float | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True)
class RowLengths:
    """The rows of one epoch: `count` rows of `tokens` tokens on average. All rows begin with the same `shared` tokens,
    and the last `answer` tokens are learnt; `batch` rows per step. `recomputes`: activations are recomputed in the
    backward pass."""

    count: int
    tokens: float
    batch: int
    epochs: int
    shared: float = 0
    answer: float = 8
    rank: int = 16
    recomputes: bool = False


@dataclass(frozen=True)
class PairLengths:
    """The preference pairs of one epoch: `count` pairs, `batch` per step. Average tokens: `longer` of a prompt with its
    longer answer, `padded` of the same after padding to the longest in its part, and `answer` of an answer.

    In GRPO there are `count` questions with `samples` answers each, instead of a pair's two, which are sampled
    first."""

    count: int
    longer: float
    padded: float
    batch: int
    epochs: int
    answer: float = 8
    rank: int = 16
    samples: int = 0
    has_reference: bool = True

    @property
    def rows(self) -> int:
        return self.samples or 2


class InvalidCalibration(Exception):
    """The calibration file exists but can't be used."""


def read_calibration(path: Path) -> Calibration | None:
    """Reads a calibration file. Returns None if there is no such file. Raises InvalidCalibration."""
    try:
        calibration = from_object(Calibration, json.loads(path.read_text(encoding="utf-8")))
        names = ("speed", "layer_s", "pair_s", "long_pair_s", "startup_s", "parameter_s", "word_s", "trl_s")
        values = vars(calibration)
        numbers = [values[name] or 0.0 for name in (*names, "reads", "writes", "served_weights")]
        if not (calibration.speed > 0 and all(math.isfinite(number) and number >= 0 for number in numbers)):
            raise ValueError("a speed in it is not a number above 0")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidCalibration(
            f"{path} can't be used ({error}): measure again with `finetune calibrate`."
        ) from error
    return calibration


def serving_speed(model: Architecture, machine: Calibration) -> tuple[float, float] | None:
    """Returns the tokens per second that this machine reads and writes with many requests at a time, or None if that
    was not measured. The measured speed is scaled by the number of weights that a token uses."""
    if not (machine.reads and machine.writes and machine.served_weights):
        return None
    scale = machine.served_weights / weights_at_work(model)
    return machine.reads * scale, machine.writes * scale


def guess_serving_speed(at_work: float, loaded: float) -> tuple[float, float]:
    """Guesses the tokens per second that a vendor's machine reads and writes with many requests at a time: as many
    H100s as the weights need in 2 bytes, at the share of their peak that a training sustains. `at_work` and `loaded`
    are numbers of weights. A rule of thumb, right within a factor of 3."""
    bytes_needed = 2 * loaded * VENDOR_CACHE
    count = max(1, math.ceil(bytes_needed / (VENDOR_GPU_GB * 1e9)))
    speed = gpu_speed(VENDOR_GPU)
    assert speed is not None  # noqa: S101 - the GPU is in the table
    reads = count * speed / (2 * at_work)
    return reads, reads / WRITE_FACTOR


def weights_at_work(model: Architecture) -> float:
    """Returns the number of weights that a token is multiplied with in a forward pass, including the head."""
    return operations(model, 0) / 4 + model.vocab * model.hidden


def guess_calibration(machine: Machine) -> Calibration | None:
    """Guesses a calibration, with `measured_at` 0. Returns None if the machine's speed is unknown."""
    if machine.speed is None:
        return None
    number = "bfloat16" if machine.place.number_bytes == 2 else "float32"
    return Calibration(
        device="cpu" if machine.place.kind == "cpu" else "cuda",
        number=number,
        threads=0,
        speed=machine.speed,
        layer_s=GUESSED_LAYER_S,
        pair_s=GUESSED_PAIR / machine.speed,
        long_pair_s=GUESSED_PAIR / machine.speed,
        parameter_s=1e-9,
        startup_s=GUESSED_STARTUP_S,
        load=0,
        peaks={number: machine.speed},
        measured_at=0,
        by_rows=True,
    )


def training_seconds(model: Architecture, rows: RowLengths, machine: Calibration) -> float:
    """Returns the seconds of the whole training, including the start of its process."""
    steps = math.ceil(rows.count / rows.batch) * rows.epochs
    rows_per_step = rows.count * rows.epochs / steps
    # Rows fill packs up to the engine's limit. Their shared beginning is computed once per pack.
    room = (_tokens_at_a_time(machine) - rows.shared) // max(rows.tokens - rows.shared, 1)
    packs = math.ceil(rows_per_step / max(1.0, min(rows_per_step, room)) - 1e-9)
    rows_per_pack = rows_per_step / packs
    tokens = rows_per_pack * (rows.tokens - rows.shared) + rows.shared
    pack = pack_seconds(model, tokens, rows.tokens, rows_per_pack * rows.answer, rows.rank, machine)
    pack *= 1 + (RECOMPUTE_SHARE if rows.recomputes else 0)
    step = packs * pack + model.lora_parameters(rows.rank) * machine.parameter_s
    return machine.startup_s + steps * step


def pair_seconds(model: Architecture, rows: PairLengths, machine: Calibration) -> float | None:
    """Returns the seconds of the whole training, including the start of its process, or None if TRL's part was not
    measured."""
    if machine.word_s is None or machine.trl_s is None:
        return None
    steps = math.ceil(rows.count / rows.batch) * rows.epochs
    pairs_per_step = rows.count * rows.epochs / steps
    room = max(1.0, min(pairs_per_step, _tokens_at_a_time(machine) // (rows.rows * rows.longer)))
    parts = math.ceil(pairs_per_step / room - 1e-9)
    part = _part_seconds(model, rows, pairs_per_step / parts, machine, machine.word_s)
    step = parts * part + model.lora_parameters(rows.rank) * machine.parameter_s
    # Samples are written before a step. If serving was not measured, their time is derived from the training speed.
    question, answer = (rows.samples * tokens for tokens in (rows.longer - rows.answer, rows.answer))
    if speeds := serving_speed(model, machine):
        writing = question / speeds[0] + answer / speeds[1]
    else:
        writing = (
            FORWARD_SHARE * operations(model, rows.rank) / machine.speed * (question + WRITE_FACTOR * answer)
        )
    step += pairs_per_step * writing
    return machine.startup_s + machine.trl_s + steps * step


def _part_seconds(
    model: Architecture, rows: PairLengths, count: float, machine: Calibration, word_s: float
) -> float:
    """Returns the seconds for `count` pairs: the policy forward and backward, the reference forward, and TRL's head at
    every token on a CPU or only at the answers' tokens on a GPU."""
    tokens = rows.rows * count * rows.padded
    reference = FORWARD_SHARE if rows.has_reference else 0
    pairs = MASK_FACTOR * tokens * rows.padded * machine.long_pair_s
    layers = model.layers * (machine.layer_s + model.heads * pairs) * (1 + reference)
    work = tokens * (operations(model, rows.rank) + reference * operations(model, 0)) / machine.speed
    positions = tokens if machine.device == "cpu" else rows.rows * count * rows.answer
    return layers + work + positions * model.vocab * (word_s + head_products_s(model.hidden, machine))


def head_products_s(hidden: int, machine: Calibration) -> float:
    """Returns the seconds of the head's products per token and word."""
    fast = machine.peaks[machine.number]
    return hidden * (6 / fast + 2 / machine.peaks.get("float32", fast))  # a guess has only one peak


def pack_seconds(
    model: Architecture, tokens: float, row: float, learnt: float, rank: int, machine: Calibration
) -> float:
    """Returns the seconds of one pack of `tokens` tokens, forward and backward, in rows of `row` tokens each, of which
    `learnt` in total are learnt."""
    pairs = tokens**2 * machine.long_pair_s
    if row < tokens and (machine.by_rows or machine.device == "cpu"):
        pairs = tokens * row * machine.pair_s
    elif row < tokens and machine.by_rows is False:  # None in an old file, which measured single rows only
        pairs = tokens**2 * machine.pair_s
    head = 4 * learnt * model.vocab * model.hidden
    work = (tokens * operations(model, rank) + head) / machine.speed
    return model.layers * (machine.layer_s + model.heads * pairs) + work


def operations(model: Architecture, rank: int) -> float:
    """Returns the operations per token, forward and backward, in all layers."""
    experts = 0
    if model.experts:
        at_work = model.experts.count if model.experts.computes_all else model.experts.active
        experts = model.experts.layers * at_work * 3 * model.hidden * model.experts.intermediate
    return 4 * (model.matrix_parameters + experts) + 6 * model.lora_parameters(rank)


def _tokens_at_a_time(machine: Calibration) -> int:
    return CPU_TOKENS if machine.device == "cpu" else GPU_TOKENS
