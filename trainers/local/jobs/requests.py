"""Parses the body of a request to create a fine-tuning job: hyperparameters, method, sweep, integrations. Refuses what
it does not know. Starts nothing."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import orjson

from trainers import methods
from trainers.http.errors import AN_OBJECT, FILLED_TEXT, OBJECTS, ApiError, as_object, invalid, read_body
from trainers.hyperparameters import Sweep, combinations
from trainers.local.job_directory import Integration
from trainers.methods import BUILTIN, METHODS, Basis, Method, MethodName, Parameters, suited_method
from trainers.typed_tables import Key, Limits

T = TypeVar("T", bound=Sized)

TYPES: tuple[MethodName, ...] = get_args(MethodName)


@dataclass(frozen=True)
class ChosenMethod:
    """`hyperparameters` are unparsed, as the request has them at `path`."""

    type: MethodName
    path: str
    hyperparameters: object


def parse_method(values: Mapping[str, Any]) -> ChosenMethod:
    """Reads the field 'method'; an empty one means supervised. Raises ApiError (400)."""
    kind: Any = "supervised"
    if values:
        kind = values.get("type")
    if kind not in TYPES:
        text = f"'method.type' is {kind!r}; allowed are {', '.join(TYPES)}."
        raise invalid(text, "method.type")
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


# OpenAI's `integrations` name services that get a job's curves, in addition to TensorBoard's files. A client names only
# a project: the service's address and credentials come from the trainer's environment (WANDB_API_KEY, WANDB_MODE,
# MLFLOW_TRACKING_URI).
PROJECTS: Mapping[str, Literal["project", "experiment"]] = {"wandb": "project", "mlflow": "experiment"}
NAME = re.compile(r"[\w .:/-]{1,128}")
NAME_WANTS = "1 to 128 letters, digits, spaces and . _ - : /"
ServiceName = Annotated[str, NAME, Key(wants=NAME_WANTS)]


def _at_most_16(values: T) -> T:
    if len(values) > 16:
        raise ValueError(values)
    return values


Tags = Annotated[
    tuple[Annotated[str, re.compile("(?s).{1,64}")], ...],
    Key(convert=_at_most_16, wants="a list of at most 16 texts of 1 to 64 characters"),
]


@dataclass(frozen=True)
class WandbBody:
    project: Annotated[str, NAME, Key(wants=NAME_WANTS, required=NAME_WANTS)]
    name: ServiceName | None = None
    entity: ServiceName | None = None
    tags: Tags = ()


@dataclass(frozen=True)
class MlflowBody:
    project: Annotated[str, NAME, Key("experiment", wants=NAME_WANTS, required=NAME_WANTS)]
    name: ServiceName | None = None
    tags: Tags = ()


def parse_integrations(bodies: Sequence[Mapping[str, Any]]) -> tuple[Integration, ...]:
    """Raises ApiError (400)."""
    parsed = tuple(_parse_integration(body, number) for number, body in enumerate(bodies))
    services = {each.kind for each in parsed}
    if len(services) < len(parsed):
        raise invalid("'integrations' names a service twice.", "integrations")
    return parsed


def check_integrations(integrations: tuple[Integration, ...]) -> None:
    """Raises ApiError (400) if this trainer lacks a service's package or key."""
    for each in integrations:
        if find_spec(each.kind) is None:
            text = (
                f"The integration '{each.kind}' needs the package {each.kind}, which this trainer's environment lacks. "
                f"Install it there (pip install {each.kind}), or leave the integration out."
            )
            raise ApiError(400, text, "integration_not_installed", "integrations")
        if each.kind == "wandb" and not _has_wandb_key():
            text = (
                "The integration 'wandb' needs a key in the trainer's environment: set WANDB_API_KEY, or "
                "WANDB_MODE=offline to keep its files in the job's folder."
            )
            raise ApiError(400, text, "integration_not_set_up", "integrations")
        if each.kind == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
            text = (
                "The integration 'mlflow' needs an address in the trainer's environment: set MLFLOW_TRACKING_URI to "
                "that of your MLflow server."
            )
            raise ApiError(400, text, "integration_not_set_up", "integrations")


def integration_body(integration: Integration) -> dict[str, Any]:
    """Returns an integration in OpenAI's shape. MLflow, which OpenAI doesn't have, gets the same shape with
    'experiment' in place of 'project'."""
    inner: dict[str, Any] = {
        PROJECTS[integration.kind]: integration.project,
        "name": integration.name,
        "tags": list(integration.tags),
    }
    if integration.kind == "wandb":
        inner["entity"] = integration.entity
    return {"type": integration.kind, integration.kind: inner}


def _parse_integration(raw: Mapping[str, Any], number: int) -> Integration:
    kind = raw.get("type")
    path = f"integrations[{number}]"
    if kind not in ("wandb", "mlflow"):
        text = f"'{path}.type' is {kind!r}; allowed are wandb and mlflow. TensorBoard's files are always written."
        raise invalid(text, f"{path}.type")
    inner = raw.get(kind)
    if set(raw) - {"type", kind} or not isinstance(inner, dict):
        raise invalid(f"'{path}' must have 'type' and an object '{kind}', and nothing else.", path)
    form: type[WandbBody | MlflowBody] = MlflowBody
    if kind == "wandb":
        form = WandbBody
    body = read_body(form, inner, ("integrations", number, kind))
    return Integration(kind, **vars(body))


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun"):  # needs none
        return True
    if os.environ.get("WANDB_API_KEY"):
        return True
    # `wandb login` writes the key into netrc.
    netrc = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    return netrc.exists() and "wandb" in netrc.read_text(encoding="utf-8", errors="replace")


MAX_SEED = 2**31 - 1
FILLED = re.compile("(?s).+")
RequiredText = Annotated[str, FILLED, Key(wants=FILLED_TEXT, required=FILLED_TEXT)]
Object = Annotated[Mapping[str, Any], Key(wants=AN_OBJECT)]


@dataclass(frozen=True)
class JobBody:
    """The body of a request. `method` and `hyperparameters` are parsed separately, since they depend on the method."""

    model: RequiredText
    training_file: RequiredText
    validation_file: Annotated[str, FILLED, Key(wants=FILLED_TEXT)] | None = None
    hyperparameters: Object = field(default_factory=dict)
    method: Object = field(default_factory=dict)
    suffix: Annotated[
        str | None,
        re.compile("(?s).{0,64}"),
        Key(convert=lambda text: text or None, wants="text of at most 64 characters"),
    ] = None
    seed: Annotated[int, Limits(ge=0, le=MAX_SEED)] | None = None
    metadata: Annotated[
        Mapping[
            Annotated[str, re.compile("(?s).{1,64}"), Key(wants="text of 1 to 64 characters")],
            Annotated[str, re.compile("(?s).{0,512}"), Key(wants="text of at most 512 characters")],
        ],
        Key(convert=_at_most_16, wants="an object with at most 16 pairs"),
    ] = field(default_factory=dict)
    integrations: Annotated[tuple[Mapping[str, Any], ...], Key(wants=OBJECTS)] = ()


@dataclass(frozen=True)
class Hyperparameters:
    """`values` are the hyperparameters that a request sets, by name, without those that are "auto"."""

    values: Mapping[str, Any]
    method: MethodName = "supervised"
    sweep: Sweep = ()

    def resolve(self, examples: int, rate: float, processes: int = 1) -> Parameters:
        """Returns the settings with all "auto" values resolved by rule. `rate` is the default learning rate for the
        base and the method, and `processes` train the job."""
        basis = Basis(examples, rate, self.method, processes)
        resolved = methods.resolve(self.method, self.values, basis)
        return replace(resolved, sweep=self.sweep)

    def trials(self, examples: int, rate: float, processes: int = 1) -> tuple[Parameters, ...]:
        """Returns the resolved settings of each trial of a sweep; none without a sweep."""
        if not self.sweep:
            return ()
        trials = []
        for choice in combinations(self.sweep):
            trial = Hyperparameters({**self.values, **choice}, self.method)
            trials.append(trial.resolve(examples, rate, processes))
        return tuple(trials)


@dataclass(frozen=True)
class JobRequest:
    """`fingerprint` is the sha256 of the body in canonical JSON, so equal requests have equal ones."""

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
    """Raises ApiError (400), which names the field."""
    fields = read_body(JobBody, body)
    method = parse_method(fields.method)
    has_validation = fields.validation_file is not None
    return JobRequest(
        model=fields.model,
        training_file=fields.training_file,
        validation_file=fields.validation_file,
        hyperparameters=_parse_hyperparameters(fields.hyperparameters, method, has_validation=has_validation),
        suffix=fields.suffix,
        seed=fields.seed,
        metadata=fields.metadata,
        fingerprint=request_fingerprint(body),
        integrations=parse_integrations(fields.integrations),
        method=method.type,
    )


def adapt_to_base(job_request: JobRequest, name: str, *, is_encoder: bool) -> JobRequest:
    """Returns the request with the method that it means for the base `name`. Raises ApiError (400) if the method
    doesn't suit that base."""
    suited = suited_method(job_request.method, is_encoder=is_encoder)
    hyperparameters = replace(job_request.hyperparameters, method=suited)
    _check_method(hyperparameters.values, hyperparameters.sweep, METHODS[suited], methods.specs(suited))
    job_request = replace(job_request, method=suited, hyperparameters=hyperparameters)
    if not is_encoder:
        if METHODS[job_request.method].is_for_encoders:
            text = f"'{name}' writes text, and the method {job_request.method} is for encoders. Leave 'method' out."
            raise invalid(text, "method.type")
        return job_request
    if not METHODS[job_request.method].is_for_encoders:
        wrong = job_request.method
        text = f"'{name}' is an encoder, which learns labels: set 'method.type' to head or full, not {wrong}."
        raise invalid(text, "method.type")
    unused = {"validation_file": job_request.validation_file, "integrations": job_request.integrations}
    for param, value in unused.items():
        if value:
            raise invalid(f"Training an encoder doesn't use '{param}'. Leave it out.", param)
    return job_request


def request_fingerprint(body: Mapping[str, Any]) -> str:
    # A client that repeats a request may write its keys in another order.
    canonical = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()


def _parse_hyperparameters(
    at_the_top: Mapping[str, Any], method: ChosenMethod, *, has_validation: bool
) -> Hyperparameters:
    fields: dict[str, Any] = {}
    # By OpenAI's older path and by its newer one. Clients may fill both.
    groups = {"hyperparameters": at_the_top, method.path: method.hyperparameters}
    for group_path, group in groups.items():
        for name, value in as_object(group, group_path).items():
            path = f"{group_path}.{name}"
            if name == "sweep":
                parsed: Any = _parse_sweep(value, path)
            else:
                parsed = _parse_hyperparameter(name, value, path, method)
            if fields.setdefault(name, parsed) != parsed:
                raise invalid(f"'{name}' is given twice, with different values. Give it once.", path)
    sweep = fields.pop("sweep", None)
    values = {}
    for name, value in fields.items():
        if value is not None:  # None stands for "auto"
            values[name] = value
    _check_together(values, has_validation)
    # What the method takes on this base is checked once the base is looked up.
    _check_method(values, sweep, METHODS[method.type], methods.typed_specs(method.type))
    if sweep is not None:
        _check_sweep(sweep, values, has_validation=has_validation)
    return Hyperparameters(values, method.type, sweep or ())


def _parse_hyperparameter(name: str, value: object, path: str, method: ChosenMethod) -> Any:
    """Returns the parsed value, None for "auto". Dollars become micro-dollars."""
    if name in QUANTIZATION_OF:
        kind = QUANTIZATION_OF[name]
        text = (
            f"'{name}' is an argument for loading a model with transformers, not a hyperparameter. "
            f'Write "quantization": "{kind}" instead: {QUANTIZATIONS[kind]}.'
        )
        raise invalid(text, path, "unknown_parameter")
    spec = methods.specs(method.type).get(name) or methods.all_specs().get(name)
    if spec is None:
        text = f"Unknown hyperparameter '{name}'. Known are {', '.join(methods.all_specs())}, sweep."
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
        if methods.all_specs()[name].declared.needs_validation and not has_validation:
            text = f"'{name}' needs a validation file. Give 'validation_file', or leave '{name}' out."
            raise invalid(text, f"hyperparameters.{name}")
    lacking = [name for name in ("max_usd", "usd_per_hour") if name not in values]
    if len(lacking) == 1:
        (missing,) = lacking
        text = f"'max_usd' is a limit at the price 'usd_per_hour': give both. '{missing}' is missing."
        raise invalid(text, f"hyperparameters.{missing}")


def _check_method(
    values: Mapping[str, Any], sweep: Sweep | None, method: Method, allowed: Collection[str]
) -> None:
    for name in values:
        if name not in allowed:
            if method.is_for_encoders:
                takes = ", ".join(methods.specs(method.name)) or "no hyperparameters"
                text = f"The method {method.name} trains an encoder and takes {takes}. Leave '{name}' out."
                raise invalid(text, f"hyperparameters.{name}")
            owner = next(other for other in METHODS.values() if name in methods.specs(other.name))
            text = (
                f"'{name}' belongs to the method {owner.name}. Set method.type to {owner.name} for {owner.examples}, "
                f"or leave '{name}' out."
            )
            raise invalid(text, f"hyperparameters.{name}")
    if sweep and not method.is_plain:
        text = "A sweep compares supervised trainings. Leave 'sweep' out, and create a job for each choice."
        raise invalid(text, "hyperparameters.sweep")
    engine = values.get("engine", BUILTIN)
    if engine not in method.engines:
        text = f"The engine {engine} can't train with the method {method.name}. Leave 'engine' out."
        raise invalid(text, "hyperparameters.engine", "engine_cannot")


RATES = ("learning_rate", "learning_rate_multiplier")


def _parse_sweep(value: object, path: str) -> Sweep | None:
    """Reads {"lora_r": [8, 16], "learning_rate": [0.0005, 0.001]}. Returns None without a sweep."""
    if value is None:
        return None
    example = methods.example_values("lora_r")
    no_lists = invalid(
        f"'sweep' must be an object of lists, like {{\"lora_r\": {example}}}.", path, "invalid_type"
    )
    if not isinstance(value, dict):
        raise no_lists
    read = []
    for name, choices in value.items():
        if not isinstance(choices, list):
            raise no_lists
        joined = tuple(map(_join_names, choices))
        read.append((name, joined))
    sweep = tuple(read)
    problem = methods.sweep_problem(sweep)
    if problem:
        text, about = problem
        if about:
            path = f"{path}.{about}"
        raise invalid(text, path)
    return sweep


def _join_names(value: Any) -> Any:
    """Joins a list of module names by commas, as for a single value. Their validity is checked later."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return ",".join(value)
    return value


def _check_sweep(sweep: Sweep, single: Mapping[str, object], *, has_validation: bool) -> None:
    """Checks a sweep against the hyperparameters that the request sets to a `single` value."""
    names = {name for name, _ in sweep}
    for name in single:
        same: tuple[str, ...] = (name,)
        if name in RATES:
            # The two learning rates are one setting, in different units.
            same = RATES
        for other in same:
            if other in names:
                text = f"'{name}' has a single value, but the sweep has '{other}' too. Leave out one of them."
                raise invalid(text, f"hyperparameters.{name}")
    if "patience" in single:
        text = (
            "A sweep stops its weaker trials itself, so it can't have 'patience'. Leave out one of the two."
        )
        raise invalid(text, "hyperparameters.patience")
    if not has_validation:
        text = "A sweep compares losses on a validation file. Give 'validation_file', or leave 'sweep' out."
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
