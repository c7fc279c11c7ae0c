"""How long a training takes on a machine whose speed was measured (`finetune calibrate`), or is guessed. Pure.

A pack of T tokens in rows of L goes through a layer, forward and backward, in

    c + T·4·P / speed + T·L·H·pair      c: seconds a layer; P: weights in its matrices; H: heads

A row that is alone takes T²·H·pair with another pair, and so does a pack on a GPU that has only a mask to keep its rows
apart: attention doesn't go by rows there.
4·P operations a token: two forward, two for the gradient of what comes in; frozen weights have none of their own
(Kaplan et al. 2020, Scaling Laws, §2.1, counts 2 and 4 with it). LoRA adds 6·r·(inputs + outputs) a matrix. The three
are fitted to times measured on this machine, so they hold what a formula leaves out: memory traffic, Python.

Of preference pairs T tokens, both answers of each pair padded alike, go through a layer for the policy, and forward
alone for the reference (half of it); attention under a mask computes all pairs of tokens, not those before each only.
TRL's head (memory.py) at N places and V words takes

    N·V·word + 6·N·V·h / peak + 2·N·V·h / float32's peak

three products forward, for the reference, and again on the way back, and one in float32; `word` is what its passes over
the logits take, measured.

GRPO learns from the answers that it samples to each question in the same way, without the reference where beta is
0. Before that it reads each question once an answer and writes them all, at the speeds of serving.

Where nothing was measured, `guessed` has rules of thumb for the three, from what such hardware usually sustains.
Other work on the machine is in neither: with two busy programs on two cores a training takes twice as long.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from trainers.json_values import from_object
from trainers.sizing.architecture import Architecture
from trainers.sizing.hardware import Machine
from trainers.sizing.memory import CPU_TOKENS, GPU_TOKENS

CALIBRATION_FILE = "calibration.json"
RECOMPUTE_SHARE = 1 / 3  # more, where activations are computed again on the way back
FORWARD_SHARE = 0.5  # of forward and backward, where weights are frozen
WRITE_FACTOR = 5.0  # a token that is written one at a time takes as long as so many that are read
MASK_FACTOR = 2.0  # pairs of tokens under a mask, for each before one another
# guesses: seconds a layer and pack (launching its kernels), operations a head and pair of tokens, seconds for a start
GUESSED_LAYER_S, GUESSED_PAIR, GUESSED_STARTUP_S = 0.002, 1000, 20


@dataclass(frozen=True)
class Calibration:
    """`speed` in operations a second; `layer_s` a layer and pack; `pair_s` a head and pair of tokens where attention
    goes by rows, `long_pair_s` elsewhere (fused); `parameter_s` of the optimizer; `startup_s` from the start of
    the process to a model that can learn. `peaks`: products of square matrices, operations a second by number format.
    `by_rows`: attention in packs went by rows, or by blocks; else `pair_s` is of two tokens of a pack under its mask.
    `load`: processes that were at work beside, a core, while it was measured. `word_s` a place and word of TRL's head
    beyond its products, `trl_s` for importing TRL; `reads` and `writes`: tokens a second of requests side by side to a
    model of `served_weights` (weights_at_work). All of these are None in a file from before they were measured."""

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
    """Of one epoch: `count` rows of `tokens` on average, the first `shared` of them common to all, the last `answer`
    learnt; `batch` rows a step. `recomputes`: activations are not kept for the way back."""

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
    """Of one epoch: `count` pairs whose prompt has `longer` tokens with the longer answer on average, `padded` where
    each is as long as the longest of its part; `answer` of an answer. `batch` pairs a step.

    Of GRPO `samples` answers to each of `count` questions take the place of a pair's two, and are written first."""

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
    """The file is there and can't be used."""


def read_calibration(path: Path) -> Calibration | None:
    """Reads the file of a calibration; returns None where nothing was measured yet. Raises InvalidCalibration."""
    try:
        calibration = from_object(Calibration, json.loads(path.read_text(encoding="utf-8")))
        names = ("speed", "layer_s", "pair_s", "long_pair_s", "startup_s", "parameter_s", "word_s", "trl_s")
        values = vars(calibration)
        numbers = [values[name] or 0.0 for name in (*names, "reads", "writes", "served_weights")]
        if not (calibration.speed > 0 and all(math.isfinite(number) and number >= 0 for number in numbers)):
            raise ValueError("a speed in it is no number above 0")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidCalibration(
            f"{path} can't be used ({error}): measure again with `finetune calibrate`."
        ) from error
    return calibration


def serving_speed(model: Architecture, machine: Calibration) -> tuple[float, float] | None:
    """Returns the tokens a second that this machine reads and writes, many requests at a time: by the model that was
    measured, as many times slower as there are more weights at work a token. None where it was not measured."""
    if not (machine.reads and machine.writes and machine.served_weights):
        return None
    scale = machine.served_weights / weights_at_work(model)
    return machine.reads * scale, machine.writes * scale


def weights_at_work(model: Architecture) -> float:
    """Returns the weights that a token is multiplied with, forward, its head included."""
    return operations(model, 0) / 4 + model.vocab * model.hidden


def guess_calibration(machine: Machine) -> Calibration | None:
    """Guesses a calibration; returns None where nothing is known of the machine's speed. `measured_at` is 0."""
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
    """Returns the seconds of the whole training, the start of its process included."""
    steps = math.ceil(rows.count / rows.batch) * rows.epochs
    in_a_step = rows.count * rows.epochs / steps
    # Rows fill packs up to the engine's limit; what they share is computed once a pack.
    in_a_pack = max(
        1.0, min(in_a_step, (_tokens_at_a_time(machine) - rows.shared) // max(rows.tokens - rows.shared, 1))
    )
    packs = math.ceil(in_a_step / in_a_pack - 1e-9)
    in_a_pack = in_a_step / packs
    tokens = in_a_pack * (rows.tokens - rows.shared) + rows.shared
    pack = pack_seconds(model, tokens, rows.tokens, in_a_pack * rows.answer, rows.rank, machine)
    pack *= 1 + (RECOMPUTE_SHARE if rows.recomputes else 0)
    step = packs * pack + model.lora_parameters(rows.rank) * machine.parameter_s
    return machine.startup_s + steps * step


def pair_seconds(model: Architecture, rows: PairLengths, machine: Calibration) -> float | None:
    """Returns the seconds of the whole training, the start of its process included. None where TRL's part was not
    measured."""
    if machine.word_s is None or machine.trl_s is None:
        return None
    steps = math.ceil(rows.count / rows.batch) * rows.epochs
    in_a_step = rows.count * rows.epochs / steps
    fit = max(1.0, min(in_a_step, _tokens_at_a_time(machine) // (rows.rows * rows.longer)))
    parts = math.ceil(in_a_step / fit - 1e-9)
    part = _part_seconds(model, rows, in_a_step / parts, machine, machine.word_s)
    step = parts * part + model.lora_parameters(rows.rank) * machine.parameter_s
    # All samples of a question are written first: where serving was not measured, by the speed of training.
    question, answer = (rows.samples * tokens for tokens in (rows.longer - rows.answer, rows.answer))
    if speeds := serving_speed(model, machine):
        writing = question / speeds[0] + answer / speeds[1]
    else:
        writing = (
            FORWARD_SHARE * operations(model, rows.rank) / machine.speed * (question + WRITE_FACTOR * answer)
        )
    step += in_a_step * writing
    return machine.startup_s + machine.trl_s + steps * step


def _part_seconds(
    model: Architecture, rows: PairLengths, count: float, machine: Calibration, word_s: float
) -> float:
    """Returns the seconds of `count` pairs: policy forward and back, reference forward, TRL's head at every place on
    a CPU, at answers elsewhere."""
    tokens = rows.rows * count * rows.padded
    reference = FORWARD_SHARE if rows.has_reference else 0
    pairs = MASK_FACTOR * tokens * rows.padded * machine.long_pair_s
    layers = model.layers * (machine.layer_s + model.heads * pairs) * (1 + reference)
    work = tokens * (operations(model, rows.rank) + reference * operations(model, 0)) / machine.speed
    places = tokens if machine.device == "cpu" else rows.rows * count * rows.answer
    return layers + work + places * model.vocab * (word_s + head_products_s(model.hidden, machine))


def head_products_s(hidden: int, machine: Calibration) -> float:
    """Returns the seconds of the head's products, a place and word."""
    fast = machine.peaks[machine.number]
    return hidden * (6 / fast + 2 / machine.peaks.get("float32", fast))  # a guess has one peak


def pack_seconds(
    model: Architecture, tokens: float, row: float, learnt: float, rank: int, machine: Calibration
) -> float:
    """Returns the seconds of one pack of so many tokens, in rows that see `row` tokens each, forward and backward."""
    pairs = tokens**2 * machine.long_pair_s
    if row < tokens and (machine.by_rows or machine.device == "cpu"):
        pairs = tokens * row * machine.pair_s
    elif row < tokens and machine.by_rows is False:  # None in a file that measured single rows only
        pairs = tokens**2 * machine.pair_s
    head = 4 * learnt * model.vocab * model.hidden
    work = (tokens * operations(model, rank) + head) / machine.speed
    return model.layers * (machine.layer_s + model.heads * pairs) + work


def operations(model: Architecture, rank: int) -> float:
    """Returns the operations of a token, forward and backward, through all layers."""
    experts = 0
    if model.experts:
        at_work = model.experts.count if model.experts.computes_all else model.experts.active
        experts = model.experts.layers * at_work * 3 * model.hidden * model.experts.intermediate
    return 4 * (model.matrix_parameters + experts) + 6 * model.lora_parameters(rank)


def _tokens_at_a_time(machine: Calibration) -> int:
    return CPU_TOKENS if machine.device == "cpu" else GPU_TOKENS
