"""Parses the body of a request to create a fine-tuning job: hyperparameters, method, sweep, integrations.
Refuses what it does not know. Starts nothing."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import orjson

from trainers import methods
from trainers.hyperparameters import Sweep, combinations
from trainers.local.api_errors import ApiError, invalid
from trainers.local.job_directory import Integration
from trainers.methods import BUILTIN, METHODS, Basis, Method, MethodName, Parameters

TYPES: tuple[MethodName, ...] = get_args(MethodName)


@dataclass(frozen=True)
class ChosenMethod:
    """`hyperparameters` as they came, from the place `path` of the request."""

    type: MethodName
    path: str
    hyperparameters: object


def parse_method(value: object) -> ChosenMethod:
    """Nothing is supervised. Raises Problem (400)."""
    values = as_object(value, "method")
    kind = _method_type(values) if values else "supervised"
    for name in values:
        if name in TYPES and name != kind:
            text = (
                f"'method.{name}' does not belong to the type {kind}. Change 'method.type', or leave it out."
            )
            raise invalid(text, f"method.{name}")
        if name not in ("type", kind):
            raise invalid(f"Unknown parameter 'method.{name}'.", f"method.{name}", "unknown_parameter")
    inner = as_object(values.get(kind), f"method.{kind}")
    for name in inner:
        if name != "hyperparameters":
            path = f"method.{kind}.{name}"
            raise invalid(f"Unknown parameter '{path}'.", path, "unknown_parameter")
    return ChosenMethod(kind, f"method.{kind}.hyperparameters", inner.get("hyperparameters"))


def _method_type(values: Mapping[str, Any]) -> MethodName:
    for kind in TYPES:
        if values.get("type") == kind:
            return kind
    text = f"This trainer knows the methods {', '.join(TYPES)}, not {values.get('type')!r}."
    raise invalid(text, "method.type")


def as_object(value: object, path: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"'{path}' must be an object.", path, "invalid_type")
    return value


# Parses OpenAI's `integrations`: which services, beside TensorBoard's files, get a job's curves. Sends
# nothing.
#
# Where a service lies and who we are there is the trainer's environment alone (WANDB_API_KEY, WANDB_MODE,
# MLFLOW_TRACKING_URI): a client names a project, never an address.


PROJECTS: Mapping[str, Literal["project", "experiment"]] = {"wandb": "project", "mlflow": "experiment"}
INTEGRATION_FIELDS = {
    "wandb": ("project", "name", "entity", "tags"),
    "mlflow": ("experiment", "name", "tags"),
}
INTEGRATION_NAME = re.compile(r"[\w .:/-]{1,128}")


def parse_integrations(value: object) -> tuple[Integration, ...]:
    """Raises Problem (400)."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise invalid("'integrations' must be a list of objects.", "integrations", "invalid_type")
    parsed = tuple(_integration(each, f"integrations[{number}]") for number, each in enumerate(value))
    if len({each.kind for each in parsed}) < len(parsed):
        raise invalid("'integrations' names a service twice.", "integrations")
    return parsed


def check_installed(integrations: tuple[Integration, ...]) -> None:
    """Raises Problem (400) where a service's package or key is missing on this trainer."""
    for each in integrations:
        if find_spec(each.kind) is None:
            text = (
                f"The integration '{each.kind}' needs the package {each.kind}, which this trainer's environment lacks. "
                f"Install it there (pip install {each.kind}), or leave the integration out."
            )
            raise ApiError(400, text, "integration_not_installed", "integrations")
        if each.kind == "wandb" and not _has_wandb_key():
            text = (
                "The integration 'wandb' needs a key where the trainer runs: set WANDB_API_KEY there, "
                "or WANDB_MODE=offline to keep its files in the job's folder."
            )
            raise ApiError(400, text, "integration_not_set_up", "integrations")
        if each.kind == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
            text = (
                "The integration 'mlflow' needs an address where the trainer runs: "
                "set MLFLOW_TRACKING_URI there to that of your MLflow server."
            )
            raise ApiError(400, text, "integration_not_set_up", "integrations")


def integration_body(integration: Integration) -> dict[str, Any]:
    """OpenAI's shape; for MLflow, which OpenAI does not know, the same with its own word."""
    inner: dict[str, Any] = {PROJECTS[integration.kind]: integration.project}
    inner |= {"name": integration.name, "tags": list(integration.tags)}
    if integration.kind == "wandb":
        inner["entity"] = integration.entity
    return {"type": integration.kind, integration.kind: inner}


def _integration(raw: Mapping[str, Any], path: str) -> Integration:
    kind = raw.get("type")
    if kind not in ("wandb", "mlflow"):
        text = f"'{path}.type' is {kind!r}; this trainer knows wandb and mlflow, and writes TensorBoard's files anyway."
        raise invalid(text, f"{path}.type")
    inner = raw.get(kind)
    if set(raw) - {"type", kind} or not isinstance(inner, dict):
        raise invalid(f"'{path}' must have 'type' and an object '{kind}', nothing else.", path)
    for name in inner:
        if name not in INTEGRATION_FIELDS[kind]:
            existing = ", ".join(INTEGRATION_FIELDS[kind])
            text = f"Unknown parameter '{path}.{kind}.{name}'. Known are {existing}."
            raise invalid(text, f"{path}.{kind}.{name}", "unknown_parameter")
    project = _integration_name(inner, PROJECTS[kind], f"{path}.{kind}")
    if project is None:
        field = f"{path}.{kind}.{PROJECTS[kind]}"
        raise invalid(f"Missing required parameter '{field}'.", field, "missing_required_parameter")
    name, entity = (_integration_name(inner, field, f"{path}.{kind}") for field in ("name", "entity"))
    return Integration(
        kind, project, name, entity, _integration_tags(inner.get("tags"), f"{path}.{kind}.tags")
    )


def _integration_name(raw: Mapping[str, Any], field: str, path: str) -> str | None:
    value = raw.get(field)
    if value is not None and not (isinstance(value, str) and INTEGRATION_NAME.fullmatch(value)):
        text = f"'{path}.{field}' must be 1 to 128 letters, digits, spaces and . _ - : /"
        raise invalid(text, f"{path}.{field}")
    return value


def _integration_tags(value: object, path: str) -> tuple[str, ...]:
    tags = [] if value is None else value
    if not isinstance(tags, list) or len(tags) > 16:
        raise invalid(f"'{path}' must be a list of at most 16 texts.", path)
    if not all(isinstance(tag, str) and 1 <= len(tag) <= 64 for tag in tags):
        raise invalid(f"Each of '{path}' must be text of 1 to 64 characters.", path)
    return tuple(tags)


def _has_wandb_key() -> bool:
    is_offline = os.environ.get("WANDB_MODE") in ("offline", "dryrun")
    netrc = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    is_logged_in = netrc.exists() and "wandb" in netrc.read_text(encoding="utf-8", errors="replace")
    return is_offline or bool(os.environ.get("WANDB_API_KEY")) or is_logged_in


MAX_SEED = 2**31 - 1
FIELDS = (
    *("model", "training_file", "validation_file", "hyperparameters", "method", "suffix", "seed"),
    *("metadata", "integrations"),
)


@dataclass(frozen=True)
class Hyperparameters:
    """What a request gave, by name; what it left to the rules ("auto") is not among `values`."""

    values: Mapping[str, Any]
    method: MethodName = "supervised"
    sweep: Sweep = ()

    def resolved(self, examples: int, rate: float) -> Parameters:
        """`rate`: the learning rate that the rule gives for the base and the method."""
        resolved = methods.resolve(self.method, self.values, Basis(examples, rate, self.method))
        return replace(resolved, sweep=self.sweep)

    def arms(self, examples: int, rate: float) -> tuple[Parameters, ...]:
        """Of a sweep, each by the same rules; none without."""
        arms = combinations(self.sweep) if self.sweep else ()
        alone = replace(self, sweep=())
        return tuple(replace(alone, values={**self.values, **arm}).resolved(examples, rate) for arm in arms)


@dataclass(frozen=True)
class JobRequest:
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
    method: MethodName = "supervised"


def parse_job_request(body: Mapping[str, Any]) -> JobRequest:
    """Raises Problem (400) that names the field."""
    for name in body:
        if name not in FIELDS:
            raise invalid(
                f"Unknown parameter '{name}'. Known are {', '.join(FIELDS)}.", name, "unknown_parameter"
            )
    validation_file = _text_field(body, "validation_file")
    method = parse_method(body.get("method"))
    return JobRequest(
        model=_text_field(body, "model", required=True) or "",
        training_file=_text_field(body, "training_file", required=True) or "",
        validation_file=validation_file,
        hyperparameters=_hyperparameters(body, method, has_validation=validation_file is not None),
        suffix=_suffix(body),
        seed=_seed(body),
        metadata=_metadata(body),
        fingerprint=request_fingerprint(body),
        integrations=parse_integrations(body.get("integrations")),
        method=method.type,
    )


def request_fingerprint(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _text_field(body: Mapping[str, Any], name: str, *, required: bool = False) -> str | None:
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
    is_whole = isinstance(seed, int) and not isinstance(seed, bool)
    if seed is not None and not (is_whole and 0 <= seed <= MAX_SEED):
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


def _hyperparameters(
    body: Mapping[str, Any], method: ChosenMethod, *, has_validation: bool
) -> Hyperparameters:
    fields: dict[str, Any] = {}
    groups = (("hyperparameters", body.get("hyperparameters")), (method.path, method.hyperparameters))
    for path, group in groups:
        for name, value in as_object(group, path).items():
            where = f"{path}.{name}"
            parsed = _sweep(value, where) if name == "sweep" else _hyperparameter(name, value, where, method)
            if fields.setdefault(name, parsed) != parsed:
                raise invalid(f"'{name}' is given twice, as {fields[name]} and {parsed}.", where)
    sweep = fields.pop("sweep", None)
    values = {name: value for name, value in fields.items() if value is not None}
    _check_together(values, has_validation)
    _check_method(values, sweep, METHODS[method.type])
    if sweep is not None:
        _check_sweep(sweep, values, has_validation=has_validation)
    return Hyperparameters(values, method.type, sweep or ())


def _hyperparameter(name: str, value: object, path: str, method: ChosenMethod) -> Any:
    """None stands for "auto". Money in dollars becomes micro-dollars."""
    if name in QUANTIZATION_OF:
        kind = QUANTIZATION_OF[name]
        text = (
            f"'{name}' is a loading argument of transformers, which no longer takes it bare either. "
            f'Write "quantization": "{kind}" instead: {QUANTIZATIONS[kind]}.'
        )
        raise invalid(text, path, "unknown_parameter")
    spec = methods.specs(method.type).get(name) or methods.every_spec().get(name)
    if spec is None:
        text = f"Unknown hyperparameter '{name}'. Known are {', '.join(methods.every_spec())}, sweep."
        raise invalid(text, path, "unknown_parameter")
    if value is None or value == "auto":
        return None
    try:
        return spec.read(value)
    except ValueError as error:
        raise invalid(f'{error}, or "auto".', path) from error


def _check_together(values: Mapping[str, Any], has_validation: bool) -> None:
    if "learning_rate" in values and "learning_rate_multiplier" in values:
        text = "Give 'learning_rate' or 'learning_rate_multiplier', not both."
        raise invalid(text, "hyperparameters.learning_rate")
    for name in values:
        if methods.every_spec()[name].declared.needs_validation and not has_validation:
            text = (
                f"'{name}' needs a validation file to look at. Give 'validation_file', or leave '{name}' out."
            )
            raise invalid(text, f"hyperparameters.{name}")
    lacking = [name for name in ("max_usd", "usd_per_hour") if name not in values]
    if len(lacking) == 1:
        text = f"'max_usd' is a ceiling at the price 'usd_per_hour': give both. '{lacking[0]}' is missing."
        raise invalid(text, f"hyperparameters.{lacking[0]}")


def _check_method(values: Mapping[str, Any], sweep: Sweep | None, method: Method) -> None:
    for name in values:
        if name not in methods.specs(method.name):
            owner = next(other for other in METHODS.values() if name in methods.specs(other.name))
            text = (
                f"'{name}' belongs to the method {owner.name}. Set method.type to {owner.name} for {owner.examples}, "
                f"or leave '{name}' out."
            )
            raise invalid(text, f"hyperparameters.{name}")
    if sweep is not None and not method.is_plain:
        text = "A sweep compares supervised trainings. Leave 'sweep' out, and create a job for each choice."
        raise invalid(text, "hyperparameters.sweep")
    engine = values.get("engine", BUILTIN)
    if engine not in method.engines:
        text = f"The method {method.name} is this trainer's own, and {engine} lacks it. Leave 'engine' out."
        raise invalid(text, "hyperparameters.engine", "engine_cannot")


RATES = ("learning_rate", "learning_rate_multiplier")


def _sweep(value: object, path: str) -> Sweep | None:
    """{"lora_r": [8, 16], "learning_rate": [0.0005, 0.001]}; None where there is none."""
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(values, list) for values in value.values()):
        text = f"'sweep' must be an object of lists, like {{\"lora_r\": {methods.example_values('lora_r')}}}."
        raise invalid(text, path, "invalid_type")
    sweep = tuple((name, tuple(_joined(each) for each in values)) for name, values in value.items())
    problem = methods.sweep_problem(sweep)
    if problem:
        text, about = problem
        raise invalid(text, f"{path}.{about}" if about else path)
    return sweep


def _joined(value: Any) -> Any:
    """Names of modules may come as a list, as they may singly; what they must be is checked later."""
    is_names = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return ",".join(value) if is_names else value


def _check_sweep(sweep: Sweep, single: Mapping[str, object], *, has_validation: bool) -> None:
    """Beside the single hyperparameters that were given."""
    names = {name for name, _ in sweep}
    for name in single:
        rate = next((other for other in RATES if name in RATES and other in names), None)
        if name in names or rate:
            text = f"'{name}' is given singly and '{rate or name}' in the sweep. Say it in one of the two places."
            raise invalid(text, f"hyperparameters.{name}")
    if "patience" in single:
        text = "The halving of a sweep stops arms itself, so 'patience' doesn't go with it. Leave one of the two out."
        raise invalid(text, "hyperparameters.patience")
    if not has_validation:
        text = (
            "A sweep chooses by the loss on a validation file. Give 'validation_file', or leave 'sweep' out."
        )
        raise invalid(text, "hyperparameters.sweep")


QUANTIZATIONS = {
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


def check_idempotency_key(key: str | None) -> str | None:
    if key is not None and not 1 <= len(key) <= 255:
        raise ApiError(
            400, "The Idempotency-Key has 1 to 255 characters.", "invalid_value", "Idempotency-Key"
        )
    return key
