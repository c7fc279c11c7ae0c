"""Parses the body of 'create a fine-tuning job' into an order; refuses what it does not know. Pure.

What "auto" (or nothing) means for n_epochs, batch_size and learning_rate is written down in trainers/auto.py;
learning_rate_multiplier multiplies that rate; lora_alpha is twice lora_r; all others are the defaults of LoraSettings.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import orjson

from trainers.auto import BETA, batch_for, epochs_for
from trainers.local.engines.catalog import BUILTIN
from trainers.local.engines.catalog import NAMES as ENGINE_NAMES
from trainers.local.integrations import parse_integrations
from trainers.local.methods import Chosen, as_object, parse_method
from trainers.local.problems import Problem, invalid
from trainers.local.spool import Integration, LoraSettings, Method, Quantization, Sharding, TooLong
from trainers.local.sweep_order import check_sweep, parse_sweep
from trainers.money import to_micros
from trainers.sweeps import SWEPT, Rule, Sweep, combinations, is_int, is_number, whole

MAX_SEED = 2**31 - 1
FIELDS = (
    *("model", "training_file", "validation_file", "hyperparameters", "method", "suffix", "seed"),
    *("metadata", "integrations"),
)


@dataclass(frozen=True)
class Hyperparameters:
    """As given; None stands for "auto"."""

    n_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    learning_rate_multiplier: float | None = None
    lora_r: int | None = None
    lora_alpha: int | None = None
    lora_dropout: float | None = None
    target_modules: str | None = None
    max_length: int | None = None
    too_long: TooLong | None = None
    eval_steps: int | None = None
    patience: int | None = None
    max_seconds: int | None = None
    max_usd: float | str | None = None
    usd_per_hour: float | str | None = None
    quantization: Quantization | None = None
    engine: str | None = None
    sharding: Sharding | None = None
    sweep: Sweep | None = None
    beta: float | None = None

    def arms(self, examples: int, rate: float) -> tuple[LoraSettings, ...]:
        """Of a sweep, each by the same rules; none without."""
        alone = replace(self, sweep=None)
        each = combinations(self.sweep) if self.sweep else ()
        return tuple(replace(alone, **chosen).resolved(examples, rate) for chosen in each)  # type: ignore[arg-type]

    def resolved(self, examples: int, rate: float, method: Method = "supervised") -> LoraSettings:
        """`rate`: the learning rate that the rule gives for the base and the method."""
        defaults = LoraSettings()
        rank = self.lora_r or defaults.lora_r
        return replace(
            defaults,
            n_epochs=self.n_epochs or epochs_for(examples, method),
            batch_size=self.batch_size or batch_for(examples),
            learning_rate=self.learning_rate or rate * (self.learning_rate_multiplier or 1.0),
            lora_r=rank,
            lora_alpha=self.lora_alpha or 2 * rank,
            lora_dropout=defaults.lora_dropout if self.lora_dropout is None else self.lora_dropout,
            target_modules=self.target_modules or defaults.target_modules,
            max_length=self.max_length or defaults.max_length,
            too_long=self.too_long or defaults.too_long,
            eval_steps=self.eval_steps,
            patience=self.patience,
            max_seconds=self.max_seconds,
            max_usd_micros=_micros(self.max_usd),
            usd_per_hour_micros=_micros(self.usd_per_hour),
            quantization=self.quantization or defaults.quantization,
            engine=self.engine or defaults.engine,
            sweep=self.sweep or (),
            beta=(self.beta or BETA) if method == "dpo" else None,
            sharding=self.sharding or defaults.sharding,
        )


@dataclass(frozen=True)
class JobOrder:
    """`fingerprint` is the sha256 of the body in canonical JSON: the same order has the same one."""

    model: str
    training_file: str
    validation_file: str | None
    hyperparameters: Hyperparameters
    suffix: str | None
    seed: int | None
    metadata: Mapping[str, str]
    fingerprint: str
    integrations: tuple[Integration, ...] = field(default=())
    method: Method = "supervised"


def parse_order(body: Mapping[str, Any]) -> JobOrder:
    """Raises Problem (400) that names the field."""
    for name in body:
        if name not in FIELDS:
            raise invalid(
                f"Unknown parameter '{name}'. Known are {', '.join(FIELDS)}.", name, "unknown_parameter"
            )
    validation_file = _text(body, "validation_file")
    method = parse_method(body.get("method"))
    return JobOrder(
        model=_text(body, "model", required=True) or "",
        training_file=_text(body, "training_file", required=True) or "",
        validation_file=validation_file,
        hyperparameters=_hyperparameters(body, method, has_validation=validation_file is not None),
        suffix=_suffix(body),
        seed=_seed(body),
        metadata=_metadata(body),
        fingerprint=fingerprint(body),
        integrations=parse_integrations(body.get("integrations")),
        method=method.type,
    )


def fingerprint(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _text(body: Mapping[str, Any], name: str, *, required: bool = False) -> str | None:
    value = body.get(name)
    if value is None and not required:
        return None
    if value is None:
        raise invalid(f"Missing required parameter '{name}'.", name, "missing_required_parameter")
    if not isinstance(value, str) or not value:
        raise invalid(f"'{name}' must be text that is not empty.", name, "invalid_type")
    return value


def _suffix(body: Mapping[str, Any]) -> str | None:
    suffix = body.get("suffix")
    if suffix is None or suffix == "":
        return None
    if not isinstance(suffix, str) or len(suffix) > 64:
        raise invalid("'suffix' must be text of at most 64 characters.", "suffix")
    return suffix


def slug(suffix: str | None) -> str:
    """A suffix as it stands in a model's name."""
    return re.sub(r"[^a-z0-9._-]+", "-", (suffix or "").lower()).strip("-")


def _seed(body: Mapping[str, Any]) -> int | None:
    seed = body.get("seed")
    if seed is not None and (not is_int(seed) or not 0 <= seed <= MAX_SEED):
        raise invalid(f"'seed' must be a whole number from 0 to {MAX_SEED}.", "seed")
    return seed


def _metadata(body: Mapping[str, Any]) -> Mapping[str, str]:
    metadata = body.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or len(metadata) > 16:
        raise invalid("'metadata' must be an object with at most 16 pairs.", "metadata")
    for key, value in metadata.items():
        if not key or len(key) > 64:
            raise invalid("A key of 'metadata' has 1 to 64 characters.", "metadata")
        if not isinstance(value, str) or len(value) > 512:
            raise invalid(f"'metadata.{key}' must be text of at most 512 characters.", f"metadata.{key}")
    return metadata


def _hyperparameters(body: Mapping[str, Any], method: Chosen, *, has_validation: bool) -> Hyperparameters:
    given: dict[str, Any] = {}
    groups = (("hyperparameters", body.get("hyperparameters")), (method.path, method.hyperparameters))
    for path, group in groups:
        for name, value in as_object(group, path).items():
            where = f"{path}.{name}"
            parsed = parse_sweep(value, where) if name == "sweep" else _hyperparameter(name, value, where)
            if given.setdefault(name, parsed) != parsed:
                raise invalid(f"'{name}' is given twice, as {given[name]} and {parsed}.", f"{path}.{name}")
    chosen = Hyperparameters(**given)
    if chosen.learning_rate is not None and chosen.learning_rate_multiplier is not None:
        text = "Give 'learning_rate' or 'learning_rate_multiplier', not both."
        raise invalid(text, "hyperparameters.learning_rate")
    _check_life(chosen, has_validation)
    _check_method(chosen, method.type)
    if chosen.sweep is not None:
        single = {name: value for name, value in given.items() if name != "sweep" and value is not None}
        check_sweep(chosen.sweep, single, has_validation=has_validation)
    return chosen


def _check_method(chosen: Hyperparameters, method: Method) -> None:
    if method != "dpo" and chosen.beta is not None:
        text = "'beta' belongs to the method dpo. Set method.type to dpo for preference pairs, or leave 'beta' out."
        raise invalid(text, "hyperparameters.beta")
    if method == "dpo" and chosen.sweep is not None:
        text = "A sweep compares trainings on chats. Leave 'sweep' out, and create a job for each choice."
        raise invalid(text, "hyperparameters.sweep")
    if method == "dpo" and chosen.engine not in (None, BUILTIN):
        text = f"Preference pairs are trained by TRL within this trainer, not by {chosen.engine}. Leave 'engine' out."
        raise invalid(text, "hyperparameters.engine", "engine_cannot")


def _check_life(chosen: Hyperparameters, has_validation: bool) -> None:
    for name, value in (("patience", chosen.patience), ("eval_steps", chosen.eval_steps)):
        if value is not None and not has_validation:
            text = (
                f"'{name}' needs a validation file to look at. Give 'validation_file', or leave '{name}' out."
            )
            raise invalid(text, f"hyperparameters.{name}")
    if (chosen.max_usd is None) != (chosen.usd_per_hour is None):
        lacking = "max_usd" if chosen.max_usd is None else "usd_per_hour"
        text = f"'max_usd' is a ceiling at the price 'usd_per_hour': give both. '{lacking}' is missing."
        raise invalid(text, f"hyperparameters.{lacking}")


def _micros(dollars: float | str | None) -> int | None:
    return None if dollars is None else to_micros(Decimal(str(dollars)))


def _hyperparameter(name: str, value: object, path: str) -> int | float | str | None:
    rule = RULES.get(name)
    if name in QUANTIZATION_OF:
        kind = QUANTIZATION_OF[name]
        text = (
            f"'{name}' is a loading argument of transformers, which no longer takes it bare either. "
            f'Write "quantization": "{kind}" instead: {QUANTIZATIONS[kind]}.'
        )
        raise invalid(text, path, "unknown_parameter")
    if rule is None:
        text = f"Unknown hyperparameter '{name}'. Known are {', '.join(RULES)}, sweep."
        raise invalid(text, path, "unknown_parameter")
    if value is None or value == "auto":
        return None
    if isinstance(value, list) and name == "target_modules" and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    if not rule.accepts(value):
        raise invalid(f"'{name}' is {value!r}; it must be {rule.wants}, or \"auto\".", path)
    return value  # type: ignore[return-value]


def _is_dollars(value: object) -> bool:
    """A number or a decimal text, from a ten thousandth of a dollar to a million."""
    text = str(value) if is_number(value) or isinstance(value, str) else ""
    return re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,6})?", text) is not None and 0.0001 <= float(text) <= 1e6


QUANTIZATIONS = {
    "none": "the base's weights as they are",
    "nf4": "the frozen base in 4-bit NormalFloat with double quantisation, the adapter in full (QLoRA)",
    "int8": "the frozen base in 8 bits, the adapter in full",
}
QUANTIZATION_OF = {
    "load_in_4bit": "nf4",
    "load_in_8bit": "int8",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": "nf4",
    "bnb_4bit_compute_dtype": "nf4",
    "quantization_config": "nf4",
}
RULES = {
    **SWEPT,
    "max_length": whole(16, 131072),
    "too_long": Rule(
        "'leave_out', 'truncate' or 'refuse'", lambda v: v in ("leave_out", "truncate", "refuse")
    ),
    "eval_steps": whole(1, 1_000_000),
    "patience": whole(1, 1000),
    "max_seconds": whole(1, 31_536_000),
    "max_usd": Rule("dollars, from 0.0001 to 1000000", _is_dollars),
    "usd_per_hour": Rule("dollars, from 0.0001 to 1000000", _is_dollars),
    "quantization": Rule(" or ".join(QUANTIZATIONS), lambda v: isinstance(v, str) and v in QUANTIZATIONS),
    "sharding": Rule("'none' or 'fsdp'", lambda v: v in ("none", "fsdp")),
    "engine": Rule(f"one of {', '.join(ENGINE_NAMES)}", lambda v: v in ENGINE_NAMES),
    "beta": Rule("a number above 0, at most 2", lambda v: is_number(v) and 0 < v <= 2),
}


def check_idempotency_key(key: str | None) -> str | None:
    if key is not None and not 1 <= len(key) <= 255:
        raise Problem(400, "The Idempotency-Key has 1 to 255 characters.", "invalid_value", "Idempotency-Key")
    return key
