"""The training methods and their hyperparameters, each declared once. Imports no torch, so bot and trainer share it.

A hyperparameter is a field of `Parameters`, or of `DpoParameters` or `GrpoParameters` if only that method has it. The
field declares its type and limits, its default or the rule for "auto", a line of help, its option in `/finetune start`,
and whether a sweep may vary it. The trainer's API, job.json, the commands, the terminal, sweeps, the plan card and
docs/hyperparameters.md all read it from there. trainers/local/engines/plan.py says which engines support it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_type_hints

from trainers.hyperparameters import (
    ALL_WEIGHTS_SHARE,
    BETA,
    ENCODER_BATCH,
    PAIRS_SHARE,
    Sweep,
    batch_for,
    encoder_epochs_for,
    epochs_for,
    hosted_epochs_for,
    spread_batch,
    sweep_size_problem,
)
from trainers.models.tokens import OUR_ROW_TOKENS
from trainers.money import to_micros
from trainers.typed_tables import INVALID, Key, Limits, Reader, parse_number, reader_of
from trainers.types import Hyperparameter

MethodName = Literal["supervised", "dpo", "grpo", "head", "full", "all_weights"]
EngineName = Literal["builtin", "unsloth", "axolotl", "llamafactory", "tinker", "vllm"]
Quantization = Literal["none", "nf4", "int8"]
Sharding = Literal["auto", "none", "fsdp"]
TooLong = Literal["leave_out", "truncate", "refuse"]
Reward = Literal["exact", "json"]

MIN_TRAINING_EXAMPLES = 10  # our trainer and most vendors refuse a training file with fewer


@dataclass(frozen=True)
class Basis:
    """What "auto" depends on. `rows` are those to train on. `rate` is the learning rate for this base and method, or
    None if only the trainer can work it out. `processes` share each step, one on each GPU."""

    rows: int
    rate: float | None
    method: MethodName = "supervised"
    processes: int = 1


# Computes an "auto" value from the values that were given or are already resolved.
Auto = Callable[[Mapping[str, Any], Basis], Any]


@dataclass(frozen=True)
class Declaration:
    """What a field's type and limits can't express.

    `option` is the name that people type, and `other_names` are accepted too; an `option` of None can't be typed.
    `auto` is the rule if no value is given; without it the field's default applies. `wants` completes "it must be" if
    type and limits don't describe the values well enough. `default_text` describes the default in the docs.
    """

    help: str
    example: str
    option: str | None = None
    other_names: tuple[str, ...] = ()
    sweeps: bool = False
    auto: Auto | None = None
    wants: str | None = None
    needs_validation: bool = False
    default_text: str | None = None


def _whole(low: int, high: int) -> Limits:
    return Limits(ge=low, le=high)


def _micros(dollars: object) -> int:
    """Reads dollars, as a number or decimal text, from 0.0001 to a million."""
    text = ""
    is_number_or_text = isinstance(dollars, int | float | str)
    if is_number_or_text and not isinstance(dollars, bool):
        text = str(dollars)
    if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,6})?", text, re.ASCII):
        raise ValueError("not an amount of dollars")
    micros = to_micros(Decimal(text))
    if not 100 <= micros <= 10**12:
        raise ValueError("the amount is out of range")
    return micros


def _module_names(names: object) -> str:
    """Reads module names from text separated by commas, or from a list."""
    text = names
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        text = ",".join(names)
    if not isinstance(text, str) or not re.fullmatch(r"[\w.-]+(,[\w.-]+)*", text):
        raise ValueError("not a list of names")
    return text


# The rules for "auto" are named functions, because annotations are evaluated where a lambda would not see this module.


def _epochs(values: Mapping[str, Any], basis: Basis) -> int:
    return METHODS[basis.method].epochs(basis.rows)


def _batch(values: Mapping[str, Any], basis: Basis) -> int:
    batch = METHODS[basis.method].batch(basis.rows)
    return spread_batch(batch, basis.rows, basis.processes)


def _alpha(values: Mapping[str, Any], basis: Basis) -> int:
    return 2 * int(values["lora_r"])


def _rate(values: Mapping[str, Any], basis: Basis) -> float | None:
    if basis.rate is None:
        return None
    multiplier = values.get("learning_rate_multiplier") or 1.0
    return basis.rate * multiplier


Dollars = Annotated[int, Key(input_type=Any, convert=_micros, wants="dollars, from 0.0001 to 1000000")]
ModuleNames = Annotated[
    str,
    Key(input_type=Any, convert=_module_names, wants="'all-linear' or names of modules separated by commas"),
]


@dataclass(frozen=True)
class Parameters:
    """The resolved hyperparameters that every method has. Fields ending in _micros are given in dollars, under the name
    without that suffix."""

    n_epochs: Annotated[
        int,
        _whole(1, 50),
        Declaration(
            "passes over the rows",
            "2",
            option="epochs",
            sweeps=True,
            auto=_epochs,
            default_text="until 2,000 rows are seen, at most 3; under 200 rows until 600 are seen, at most 10; for an "
            "encoder until 6,000 are seen, 3 to 20",
        ),
    ] = 1
    batch_size: Annotated[
        int,
        _whole(1, 256),
        Declaration(
            "rows per training step",
            "8",
            option="batch_size",
            sweeps=True,
            auto=_batch,
            default_text="4 under 200 rows, 8 up to 8,000, 16 up to 16,000, then 32; on several GPUs at least 4 for "
            "each; for an encoder 16",
        ),
    ] = 8
    learning_rate: Annotated[
        float,
        Limits(gt=0, le=1),
        Declaration(
            "the highest learning rate",
            "5e-4",
            option="learning_rate",
            other_names=("lr", "rate"),
            sweeps=True,
            auto=_rate,
            default_text="depends on the base's hidden size; for an encoder 5e-5",
        ),
    ] = 1e-3
    learning_rate_multiplier: Annotated[
        float | None,
        Limits(gt=0, le=100),
        Declaration("multiplies the automatic learning rate", "0.5", sweeps=True),
    ] = None
    weight_decay: Annotated[
        float,
        Limits(ge=0, le=1),
        Declaration(
            "how much each step shrinks the trained weights, as a multiple of the learning rate (AdamW)",
            "0.01",
            option="weight_decay",
            other_names=("decay",),
            sweeps=True,
        ),
    ] = 0.0
    lora_r: Annotated[
        int,
        _whole(1, 512),
        Declaration("rank of LoRA's matrices", "16", option="lora_r", other_names=("r", "rank"), sweeps=True),
    ] = 16
    lora_alpha: Annotated[
        int,
        _whole(1, 1024),
        Declaration(
            "LoRA's scale: its output is multiplied by lora_alpha / lora_r",
            "32",
            option="lora_alpha",
            other_names=("alpha",),
            sweeps=True,
            auto=_alpha,
            default_text="twice `lora_r`",
        ),
    ] = 32
    lora_dropout: Annotated[
        float,
        Limits(ge=0, lt=1),
        Declaration(
            "share of LoRA's inputs that each step drops",
            "0.1",
            option="dropout",
            other_names=("lora_dropout",),
            sweeps=True,
        ),
    ] = 0.0
    target_modules: Annotated[
        ModuleNames,
        Declaration(
            "which linear layers get LoRA's matrices",
            "q_proj,v_proj",
            option="target_modules",
            sweeps=True,
        ),
    ] = "all-linear"
    max_length: Annotated[
        int, _whole(16, 131072), Declaration("longest row, in tokens", "2048", option="max_length")
    ] = OUR_ROW_TOKENS
    too_long: Annotated[
        TooLong, Declaration("what happens to rows longer than max_length", "truncate", option="too_long")
    ] = "leave_out"
    quantization: Annotated[
        Quantization,
        Declaration(
            "quantization of the frozen base: nf4 (QLoRA, 4 bits), int8 or none", "nf4", option="quantization"
        ),
    ] = "none"
    eval_steps: Annotated[
        int | None,
        _whole(1, 1_000_000),
        Declaration(
            "validate every so many steps, besides at the end of each epoch", "50", needs_validation=True
        ),
    ] = None
    patience: Annotated[
        int | None,
        _whole(1, 1000),
        Declaration(
            "stop after this many validations in a row without a lower loss", "2", needs_validation=True
        ),
    ] = None
    max_seconds: Annotated[
        int | None, _whole(1, 31_536_000), Declaration("stop after this many seconds of training", "3600")
    ] = None
    max_usd_micros: Annotated[
        Dollars | None,
        Declaration("stop before the training has cost this many dollars", "5"),
    ] = None
    usd_per_hour_micros: Annotated[
        Dollars | None,
        Declaration("cost of an hour of the machine, in dollars", "2.50"),
    ] = None
    sharding: Annotated[
        Sharding,
        Declaration(
            "whether the GPUs of a job share the base between them",
            "fsdp",
            wants="'none' or 'fsdp'",
            default_text="if one GPU can't hold it",
        ),
    ] = "auto"
    engine: Annotated[
        EngineName,
        Declaration(
            "program that trains, or for grpo the one that writes the sampled answers",
            "unsloth",
            option="engine",
            wants=f"one of {', '.join(get_args(EngineName))}",
        ),
    ] = "builtin"
    sweep: Sweep = ()

    @property
    def ceiling_s(self) -> float | None:
        """Seconds of training allowed by the limits on time and cost; None if there is no limit."""
        allowed = []
        if self.max_seconds is not None:
            allowed.append(float(self.max_seconds))
        if self.max_usd_micros is not None and self.usd_per_hour_micros is not None:
            allowed.append(3600 * self.max_usd_micros / self.usd_per_hour_micros)
        return min(allowed, default=None)


@dataclass(frozen=True)
class DpoParameters(Parameters):
    beta: Annotated[
        float,
        Limits(gt=0, le=2),
        Declaration("how strongly the training stays close to the reference", "0.1", option="beta"),
    ] = BETA


@dataclass(frozen=True)
class GrpoParameters(Parameters):
    samples: Annotated[
        int, _whole(2, 64), Declaration("answers sampled per question", "8", option="samples")
    ] = 8
    temperature: Annotated[
        float,
        Limits(gt=0, le=2),
        Declaration("how varied the sampled answers are", "1", option="temperature"),
    ] = 1.0
    max_new_tokens: Annotated[
        int,
        _whole(1, 4096),
        Declaration("longest sampled answer, in tokens", "64", option="max_new_tokens"),
    ] = 128
    reward: Annotated[
        Reward,
        Declaration(
            "score of a sampled answer: exact gives 1 if it is right, json the share of fields that are right",
            "json",
            option="reward",
        ),
    ] = "exact"
    beta: Annotated[
        float,
        Limits(ge=0, le=2),
        Declaration(
            "how strongly the training stays close to the reference; 0 uses none", "0.04", option="beta"
        ),
    ] = 0.0


@dataclass(frozen=True)
class Method:
    """A training method. `module` is its module in trainers/local/training/methods; `examples` completes "it learns
    from".

    `reads_pairs`: it trains on preference pairs. `epochs` and `batch` give the automatic number of passes and rows per
    step for a number of rows; the learning rate is the one for chats divided by `rate_divisor`. `is_plain`: its
    hyperparameters can be swept, its base can be sharded over GPUs, and engines that train support it. The other
    methods need TRL, which holds one whole model, or leave no adapter. `is_for_encoders`: its base is an encoder, which
    embeds texts and generates none; it learns to choose from a fixed list of answers. `leaves_model`: its result is a
    model with all its weights instead of an adapter. `takes` are the names of its hyperparameters, or None for all
    fields of `parameters` but those that it `lacks`.
    """

    name: MethodName
    module: str
    parameters: type[Parameters]
    examples: str
    reads_pairs: bool = False
    epochs: Callable[[int], int] = hosted_epochs_for
    rate_divisor: int = PAIRS_SHARE
    is_plain: bool = False
    is_for_encoders: bool = False
    leaves_model: bool = False
    takes: frozenset[str] | None = None
    lacks: tuple[str, ...] = ()
    batch: Callable[[int], int] = batch_for

    @property
    def engines(self) -> tuple[str, ...]:
        if self.parameters is GrpoParameters:
            return (BUILTIN, VLLM)  # vLLM can write the answers that it learns from
        if not self.is_plain:
            return (BUILTIN,)
        return TRAINING_ENGINES

    @property
    def option(self) -> str:
        """What people type for it."""
        if self.leaves_model:
            return "full"
        return self.name

    @property
    def leaves_adapter(self) -> bool:
        return not (self.is_for_encoders or self.leaves_model)

    @property
    def needs_trl(self) -> bool:
        return self.leaves_adapter and not self.is_plain

    def rate(self, rate_for_chats: float) -> float:
        return float(f"{rate_for_chats / self.rate_divisor:.2g}")


BUILTIN = "builtin"
VLLM = "vllm"  # writes answers and never trains
TRAINING_ENGINES: tuple[str, ...] = tuple(name for name in get_args(EngineName) if name != VLLM)
TINKER = "tinker"  # trains at a vendor, to whom it sends the rows
HOSTED_STATE = "hosted_state"  # key of a job's metadata: "kept" if its last state stays there, to be served
HOSTED_BASE = "hosted_base"  # key of a job's metadata: the base's name at that vendor
HOSTED_JOB = "finetune_job"  # key of the metadata of what a job has at that vendor: the job's id
# These give an adapter its shape, so a training that goes on from it can't change them.
ADAPTER_SETTINGS = ("lora_r", "lora_alpha", "target_modules", "quantization")
METHODS: Mapping[str, Method] = {
    "supervised": Method(
        "supervised", "sft", Parameters, "chats", epochs=epochs_for, rate_divisor=1, is_plain=True
    ),
    "dpo": Method("dpo", "dpo", DpoParameters, "preference pairs", reads_pairs=True),
    "grpo": Method("grpo", "grpo", GrpoParameters, "chats, by rewards for sampled answers"),
    "head": Method(
        "head",
        "head",
        Parameters,
        "labels, on an encoder that stays as it is",
        is_for_encoders=True,
        takes=frozenset(),
    ),
    "full": Method(
        "full",
        "full",
        Parameters,
        "labels or chats, with all weights of the model",
        epochs=encoder_epochs_for,
        is_for_encoders=True,
        takes=frozenset({"n_epochs", "batch_size", "learning_rate"}),
        batch=lambda rows: ENCODER_BATCH,
    ),
    "all_weights": Method(
        "all_weights",
        "sft",
        Parameters,
        "chats, with all weights of the model",
        epochs=epochs_for,
        rate_divisor=ALL_WEIGHTS_SHARE,
        leaves_model=True,
        lacks=(
            "lora_r",
            "lora_alpha",
            "lora_dropout",
            "target_modules",
            "quantization",
            "sharding",
            "engine",
        ),
    ),
}


TYPED_METHODS: tuple[MethodName, ...] = tuple(row.name for row in METHODS.values() if row.option == row.name)


def suited_method(name: MethodName, *, is_encoder: bool) -> MethodName:
    """Returns what a method that somebody names means for this kind of base. An encoder learns by `head` unless another
    method is named, and `full` trains all weights of either kind. A method that doesn't suit the base stays as it
    is."""
    meanings: Mapping[MethodName, MethodName] = {"full": "all_weights"}
    if is_encoder:
        meanings = {"supervised": "head", "all_weights": "full"}
    return meanings.get(name, name)


@dataclass(frozen=True)
class Spec:
    """One hyperparameter. `name` is its name in requests, `field` the field of `Parameters` that `reader` fills."""

    name: str
    field: str
    reader: Reader
    default: Any
    declared: Declaration

    @property
    def is_number(self) -> bool:
        return self.reader.kind in (int, float)

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed texts; empty unless it is a choice."""
        return self.reader.choices

    @property
    def wants(self) -> str:
        """Completes "it must be"."""
        if self.declared.wants or not self.choices:
            return self.declared.wants or self.reader.wants()
        *others, last = (f"'{choice}'" for choice in self.choices)
        return f"{', '.join(others)} or {last}"

    def read(self, value: object) -> Any:
        """Returns the value as `Parameters` holds it. Raises ValueError if it is not what `wants` says."""
        result = self.reader.read(value, (self.name,), [])
        if result is INVALID:
            raise ValueError(f"'{self.name}' is {value!r}; it must be {self.wants}")
        return result

    def parse(self, text: str) -> Hyperparameter:
        """Reads a value as people type it. Raises ValueError as `read` does."""
        value: str | float = text
        if self.is_number:
            number = parse_number(text)
            if number is not None:
                value = number
        elif self.choices:
            value = text.lower()
        return self.read(value)  # type: ignore[no-any-return]


@cache
def specs(method: str = "supervised") -> Mapping[str, Spec]:
    """Returns the hyperparameters of a method by their names in requests. Fields without a Declaration, such as
    `sweep`, are not hyperparameters."""
    parameters = METHODS[method].parameters
    hints = get_type_hints(parameters, include_extras=True)
    specs_by_name: dict[str, Spec] = {}
    for field in fields(parameters):
        reader = reader_of(hints[field.name])
        for declared in reader.notes:
            if isinstance(declared, Declaration):
                name = field.name.removesuffix("_micros")
                specs_by_name[name] = Spec(name, field.name, reader, field.default, declared)
    takes = METHODS[method].takes
    if takes is not None:
        return {name: specs_by_name[name] for name in sorted(takes)}
    lacks = METHODS[method].lacks
    return {name: spec for name, spec in specs_by_name.items() if name not in lacks}


def typed_specs(method: MethodName) -> Mapping[str, Spec]:
    """Returns the hyperparameters that can be typed with this method, whichever kind of base it is for."""
    return {**specs(suited_method(method, is_encoder=False)), **specs(method)}


def all_specs() -> Mapping[str, Spec]:
    """Returns the hyperparameters of all methods."""
    return {name: spec for method in METHODS for name, spec in specs(method).items()}


def options() -> Mapping[str, Spec]:
    """Returns the hyperparameters that people can set in `/finetune start` and `estimate`, by option name."""
    return {spec.declared.option: spec for spec in all_specs().values() if spec.declared.option}


def option_name(name: str) -> str:
    """Returns the option name of the hyperparameter `name`, or `name` itself if it has none."""
    return all_specs()[name].declared.option or name


def resolve(method: str, body: Mapping[str, Any], basis: Basis) -> Parameters:
    """Fills in automatic and default values. `body` has values by their names in requests, as `Spec.read` returns
    them."""
    values = dict(body)
    for name, spec in specs(method).items():
        if name in values:
            continue
        automatic = None
        if spec.declared.auto:
            automatic = spec.declared.auto(values, basis)
        if automatic is None:
            automatic = spec.default
        values[name] = automatic
    named = {spec.field: values[name] for name, spec in specs(method).items()}
    return METHODS[method].parameters(**named)


SWEEPABLE: Mapping[str, Spec] = {name: spec for name, spec in specs().items() if spec.declared.sweeps}


def sweep_problem(sweep: Sweep) -> tuple[str, str | None] | None:
    """Returns why this is not a valid sweep and which hyperparameter is at fault (None: the sweep as a whole). Returns
    None if the sweep is valid."""
    for name, values in sweep:
        if name not in SWEEPABLE:
            existing = ", ".join(SWEEPABLE)
            return f"'{name}' can't be swept. You can sweep {existing}.", name
        for value in values:
            try:
                SWEEPABLE[name].read(value)
            except ValueError:
                wants = SWEEPABLE[name].wants
                return f"'{name}' is {value!r} in the sweep; it must be {wants}.", name
        if not values or len(set(values)) < len(values):
            return f"'{name}' needs several different values in a sweep, like {example_values(name)}.", name
    if {"learning_rate", "learning_rate_multiplier"} <= {name for name, _ in sweep}:
        return "Sweep 'learning_rate' or 'learning_rate_multiplier', not both.", "learning_rate"
    problem = sweep_size_problem(sweep)
    if not problem:
        return None
    return problem, None


def example_values(name: str) -> str:
    return {"learning_rate": "[0.0005, 0.001]", "lora_dropout": "[0.0, 0.1]"}.get(name, "[8, 16]")
