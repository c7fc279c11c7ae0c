"""Estimates how long a training takes on a machine whose speed was measured (`finetune calibrate`) or is guessed. Pure.

A pack of T tokens in rows of L tokens takes, per layer, forward and backward,

    c + T·4·P / speed + T·L·H·pair      c: seconds per layer; P: weights in its matrices; H: heads

A row that is computed alone takes T²·H·pair with a `pair` of its own, and so does a pack on a GPU where only a mask
keeps its rows apart, because attention is not computed by rows there.

4·P are the operations per token: two forward and two for the gradient of the input. Frozen weights need no gradient of
their own (Kaplan et al. 2020, Scaling Laws, §2.1, counts 2 and 4 with it). LoRA adds 6·r·(inputs + outputs) per matrix.
If all weights are trained, it is 6·P without LoRA's.
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
from trainers.sizing.memory import CPU_TOKENS, GPU_TOKENS, loaded_parameters

CALIBRATION_FILE = "calibration.json"
RECOMPUTE_SHARE = 1 / 3  # additional time if activations are recomputed in the backward pass
FORWARD_SHARE = 0.5  # of forward and backward together, with frozen weights
WRITE_FACTOR = 5.0  # writing one token takes as long as reading this many
# The GPU that vendors rent out by the hour for a tuned model, its memory, and the room for a cache beside the weights.
VENDOR_GPU = "NVIDIA H100"
VENDOR_GPU_GB = 80
VENDOR_CACHE = 1.3
MASK_FACTOR = 2.0  # attention with a mask also computes the hidden half of the pairs of tokens
GUESSED_LAYER_S = 0.002  # seconds per layer and pack, to launch kernels
GUESSED_PAIR = 1000  # operations per head and pair of tokens
GUESSED_STARTUP_S = 20


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
    backward pass. `learns_all`: all weights are trained, and no adapter."""

    count: int
    tokens: float
    batch: int
    epochs: int
    shared: float = 0
    answer: float = 8
    rank: int = 16
    recomputes: bool = False
    learns_all: bool = False


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
        raw = json.loads(path.read_text(encoding="utf-8"))
        calibration = from_object(Calibration, raw)
        names = ("speed", "layer_s", "pair_s", "long_pair_s", "startup_s", "parameter_s", "word_s", "trl_s")
        values = vars(calibration)
        numbers = [values[name] or 0.0 for name in (*names, "reads", "writes", "served_weights")]
        are_valid = all(math.isfinite(number) and number >= 0 for number in numbers)
        if calibration.speed <= 0 or not are_valid:
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
    reads = machine.reads * scale
    writes = machine.writes * scale
    return reads, writes


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
    in_layers = operations(model, 0) / 4  # two operations forward and two for the gradient
    head = model.vocab * model.hidden
    return in_layers + head


def guess_calibration(machine: Machine) -> Calibration | None:
    """Guesses a calibration, with `measured_at` 0. Returns None if the machine's speed is unknown."""
    if machine.speed is None:
        return None
    number = "float32"
    if machine.place.number_bytes == 2:
        number = "bfloat16"
    device = "cuda"
    if machine.place.kind == "cpu":
        device = "cpu"
    return Calibration(
        device=device,
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
    own = rows.tokens - rows.shared
    room = (_tokens_at_a_time(machine) - rows.shared) // max(own, 1)
    packs = _parts(rows_per_step, room)
    rows_per_pack = rows_per_step / packs
    tokens = rows_per_pack * own + rows.shared
    learnt = rows_per_pack * rows.answer
    pack = pack_seconds(model, tokens, rows.tokens, learnt, rows.rank, machine)
    trained = model.lora_parameters(rows.rank)
    if rows.learns_all:
        pack += _own_gradients_s(model, tokens, learnt, rows.rank, machine)
        trained = loaded_parameters(model)
    if rows.recomputes:
        pack *= 1 + RECOMPUTE_SHARE
    update = trained * machine.parameter_s
    step = packs * pack + update
    return machine.startup_s + steps * step


def _own_gradients_s(
    model: Architecture, tokens: float, learnt: float, rank: int, machine: Calibration
) -> float:
    """Returns by how many seconds a pack takes longer if all weights are trained instead of an adapter: two operations
    more per token and weight, for the weight's own gradient, without the adapter's six."""
    frozen = operations(model, 0)
    adapter = operations(model, rank) - frozen
    in_layers = tokens * (frozen / 2 - adapter)
    head = 2 * learnt * model.vocab * model.hidden
    return (in_layers + head) / machine.speed


def pair_seconds(model: Architecture, rows: PairLengths, machine: Calibration) -> float | None:
    """Returns the seconds of the whole training, including the start of its process, or None if TRL's part was not
    measured."""
    if machine.word_s is None or machine.trl_s is None:
        return None
    steps = math.ceil(rows.count / rows.batch) * rows.epochs
    pairs_per_step = rows.count * rows.epochs / steps
    room = _tokens_at_a_time(machine) // (rows.rows * rows.longer)
    parts = _parts(pairs_per_step, room)
    part = _part_seconds(model, rows, pairs_per_step / parts, machine, machine.word_s)
    update = model.lora_parameters(rows.rank) * machine.parameter_s
    sampling = pairs_per_step * _sampling_seconds(model, rows, machine)  # before the step itself
    step = sampling + parts * part + update
    return machine.startup_s + machine.trl_s + steps * step


def _parts(rows: float, room: float) -> int:
    """Returns into how many equal parts a step's rows are divided, if `room` of them fit into one."""
    at_once = max(1.0, min(rows, room))
    return math.ceil(rows / at_once - 1e-9)  # 3.0000000001 parts are 3


def _sampling_seconds(model: Architecture, rows: PairLengths, machine: Calibration) -> float:
    """Returns the seconds to read a question and write its samples; 0 if none are sampled. If serving was not measured,
    they are derived from the training speed."""
    question = rows.samples * (rows.longer - rows.answer)
    answer = rows.samples * rows.answer
    speeds = serving_speed(model, machine)
    if speeds is not None:
        reads, writes = speeds
        return question / reads + answer / writes
    forward = FORWARD_SHARE * operations(model, rows.rank) / machine.speed
    return forward * (question + WRITE_FACTOR * answer)


def _part_seconds(
    model: Architecture, rows: PairLengths, count: float, machine: Calibration, word_s: float
) -> float:
    """Returns the seconds for `count` pairs: the policy forward and backward, the reference forward, and TRL's head at
    every token on a CPU or only at the answers' tokens on a GPU."""
    answers = rows.rows * count
    tokens = answers * rows.padded
    reference = 0.0
    if rows.has_reference:
        reference = FORWARD_SHARE
    pairs = MASK_FACTOR * tokens * rows.padded * machine.long_pair_s
    per_layer = machine.layer_s + model.heads * pairs
    layers = model.layers * per_layer * (1 + reference)
    per_token = operations(model, rows.rank) + reference * operations(model, 0)
    work = tokens * per_token / machine.speed

    positions = answers * rows.answer
    if machine.device == "cpu":
        positions = tokens
    per_word = word_s + head_products_s(model.hidden, machine)
    head = positions * model.vocab * per_word
    return layers + work + head


def head_products_s(hidden: int, machine: Calibration) -> float:
    """Returns the seconds of the head's products per token and word."""
    fast = machine.peaks[machine.number]
    full = machine.peaks.get("float32", fast)  # a guess has only one peak
    return hidden * (6 / fast + 2 / full)


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
    in_layers = tokens * operations(model, rank)
    work = (in_layers + head) / machine.speed
    per_layer = machine.layer_s + model.heads * pairs
    return model.layers * per_layer + work


def operations(model: Architecture, rank: int) -> float:
    """Returns the operations per token, forward and backward, in all layers."""
    weights = model.matrix_parameters
    experts = model.experts
    if experts:
        at_work = experts.active
        if experts.computes_all:
            at_work = experts.count
        per_expert = 3 * model.hidden * experts.intermediate  # gate, up and down
        weights += experts.layers * at_work * per_expert
    lora = model.lora_parameters(rank)
    return 4 * weights + 6 * lora


def _tokens_at_a_time(machine: Calibration) -> int:
    if machine.device == "cpu":
        return CPU_TOKENS
    return GPU_TOKENS
