"""The frozen plan: everything that matters about a training, in one value with one hash; its hyperparameters; and
hyperparameter sweeps as people type them. People approve the hash; changing a field or a byte of the data makes another
plan."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from bot.rules.budgets import Hosting
from bot.rules.estimate_inputs import Question
from bot.rules.units import Misread
from trainers import hyperparameters, methods
from trainers.evaluation.results import Standing
from trainers.hyperparameters import Sweep, Value, combinations, hosted_epochs_for
from trainers.json_values import from_object
from trainers.methods import Basis, MethodName, resolve, specs
from trainers.types import Hyperparameter

VerdictKind = Literal["go", "no_go", "unknown"]


@dataclass(frozen=True)
class BestCandidate:
    """The best that was measured without this training, on the held-out rows: a share from 0 to 1 with its 95% bounds.
    `standing` None: it was judged by another bar than the plan's."""

    name: str
    score: float
    low: float
    high: float
    standing: Standing | None


@dataclass(frozen=True)
class PlanVerdict:
    """The verdict that approvers read: `rule` decided it, `reason` is that rule's sentence. `best` None: nothing was
    measured. `people_micros` and `labels_micros` come on top of what the run costs. `bearable_hours` of people's time
    are the most with which it is still likely to pay back in time, '' where they were said or no time would do.
    `saves_until`: the day on which the model that the saving is held against ends, '' where none is known."""

    kind: VerdictKind
    rule: str
    reason: str
    bar: float
    best: BestCandidate | None = None
    people_micros: int = 0
    labels_micros: int = 0
    bearable_hours: str = ""
    saves_until: str = ""


@dataclass(frozen=True)
class Prediction:
    """What the estimate said when its plan was frozen, for the result to be held against it.

    `asked` is the question, as the options that a person would type. `quality` is a share right, where a model
    tuned alike was measured before; `p_payback` the chance of paying back within `target_months`. `alternative`
    is what the saving is held against and its bill in micro-dollars a month. `seconds` of training are those
    expected. `measured`: what each rung of the ladder scored, by its name. `memory`: whether
    it fits into the machine that trains it, with the figures. `advised` None: the plan is of a time before it was kept.
    `is_speed_guessed`: the plan's time is a guess by the model's size.
    """

    asked: str
    quality: float | None = None
    p_payback: float | None = None
    target_months: str | None = None
    alternative: str | None = None
    alternative_micros: int | None = None
    saving_micros: int | None = None
    seconds: int | None = None
    measured: tuple[tuple[str, float], ...] = ()
    memory: str | None = None
    advised: PlanVerdict | None = None
    is_speed_guessed: bool = False

    @property
    def is_time_said(self) -> bool:
        """Whether the question said the hours of people's time."""
        return any(word.startswith("hours=") for word in self.asked.split())


@dataclass(frozen=True)
class EarlyStopping:
    """Trained on `fitted_sha256`, `n_fitted` of the training rows, until `patience` validations in a row on the
    `n_validation` others brought no improvement. Drawn by trainers/dataset/splits.py."""

    patience: int
    fitted_sha256: str
    validation_sha256: str
    n_fitted: int
    n_validation: int


@dataclass(frozen=True)
class SweepPlan:
    """Every combination of `sweep` is an arm, which the loss on `n_validation` of the training rows chooses between;
    all arms together take `steps` at most. `usd_per_hour` as text: the trainer stops before the plan's most is
    spent; None on a machine that costs nothing."""

    sweep: Sweep
    fitted_sha256: str
    validation_sha256: str
    n_fitted: int
    n_validation: int
    steps: int
    usd_per_hour: str | None = None

    @property
    def arms(self) -> int:
        return len(combinations(self.sweep))


@dataclass(frozen=True)
class Destination:
    """`base_url`: where its data goes, of a trainer that the bot starts the cluster, or ''. `account`: a fingerprint of
    the key. `weights`: of the base model's files, None where they lie elsewhere. `engine`: which one trains and its
    version, as 'builtin 0.1.0', None where that is the trainer's business. `catalogue_id`: what the trainer calls the
    base model, None where that is its name."""

    base_url: str
    account: str | None
    weights: str | None
    engine: str | None = None
    catalogue_id: str | None = None


@dataclass(frozen=True)
class Plan:
    """`*_micros` are micro-dollars: expected, and the most it may cost. `hyperparameters` are sorted by name
    and hold no "auto". `prices` is the price list as JSON. Seconds are a range of the training alone.
    `current` is the model that the team prompts today, which is priced and not measured. `warnings` are
    sentences that an approver reads, as about an end date. `predicted` None: the plan is from a time when it was
    not written down. `stopping` None: trained on all training rows, to the last epoch. `swept` None: by one set of
    hyperparameters. `overridden`: names of soft rules about data that were set aside, why stands in `warnings`.
    `destination` None: from a time when it was not written down. `judge`: the model that judges free text. `hosting`:
    its model answers on a machine by the hour; None: it needs none."""

    dataset: str
    dataset_version: int
    dataset_id: int
    uploaded_by: str
    source_sha256: str
    train_sha256: str
    holdout_sha256: str
    n_train: int
    n_holdout: int
    labels: tuple[str, ...]
    system: str | None
    provider: str
    base_model: str
    current: str | None
    method: MethodName
    hyperparameters: tuple[tuple[str, Hyperparameter], ...]
    seed: int
    suffix: str
    prices: str
    training_tokens: int
    expected_micros: int
    maximum_micros: int
    seconds_low: int | None
    seconds_high: int | None
    warnings: tuple[str, ...]
    monthly_before_micros: int | None
    monthly_after_micros: int | None
    requester: str
    channel: str
    asked_at: float
    predicted: Prediction | None = None
    stopping: EarlyStopping | None = None
    swept: SweepPlan | None = None
    overridden: tuple[str, ...] = ()
    destination: Destination | None = None
    judge: str | None = None
    hosting: Hosting | None = None

    @property
    def validation_split(self) -> EarlyStopping | SweepPlan | None:
        """Which training rows are not trained on but validated with."""
        return self.stopping or self.swept

    @property
    def model_id(self) -> str:
        """What a job calls the base model."""
        return (self.destination and self.destination.catalogue_id) or self.base_model

    @property
    def advised(self) -> PlanVerdict | None:
        return self.predicted.advised if self.predicted else None

    @property
    def withholds_saving(self) -> bool:
        """Whether no saving is shown: the verdict was against the model, whatever it would save."""
        advised = self.advised
        return bool(advised and advised.kind == "no_go" and advised.rule not in ("cost", "payback"))

    @property
    def is_advised(self) -> bool:
        """Whether its verdict is go; else anyone who approves it says why. False where no verdict was kept."""
        return self.advised is not None and self.advised.kind == "go"

    def __post_init__(self) -> None:
        chosen = dict(self.hyperparameters)
        if list(self.hyperparameters) != sorted(chosen.items()):
            raise ValueError(f"a plan's hyperparameters are sorted, each once: {self.hyperparameters}")
        if self.method != "head" and type(chosen.get("n_epochs")) is not int:
            raise ValueError(f"a plan's n_epochs is a whole number, not {chosen.get('n_epochs')!r}")


def canonical_json(plan: Plan) -> str:
    """Equal plans give equal bytes: keys sorted, no spaces; money is whole micro-dollars.

    What an older plan lacks is left out, so that it keeps its hash."""
    fields = asdict(plan)
    for name in ("predicted", "stopping", "swept", "destination", "judge", "hosting"):
        if fields[name] is None:
            del fields[name]
    if not plan.overridden:
        del fields["overridden"]
    for name in ("memory", "advised"):
        if plan.predicted and fields["predicted"][name] is None:
            del fields["predicted"][name]
    if plan.predicted and not plan.predicted.is_speed_guessed:
        del fields["predicted"]["is_speed_guessed"]
    for name in ("engine", "catalogue_id"):
        if plan.destination and fields["destination"][name] is None:
            del fields["destination"][name]
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def plan_hash(plan: Plan) -> str:
    return hashlib.sha256(canonical_json(plan).encode()).hexdigest()


def plan_key(hash_of_plan: str) -> str:
    """Returns our name for the job at the trainer: the same plan always has the same."""
    return f"ft-{hash_of_plan[:24]}"


def plan_from_json(text: str) -> Plan:
    return from_object(Plan, json.loads(text))


PLANNED_NAMES = ("n_epochs", "batch_size", "lora_r", "lora_alpha", "lora_dropout", "learning_rate")


def hyperparameters_for(
    n_train: int,
    chosen: Mapping[str, Hyperparameter],
    *,
    takes_lora: bool,
    defaults: Mapping[str, Hyperparameter],
    rate: float | None = None,
    method: MethodName = "supervised",
) -> tuple[tuple[str, Hyperparameter], ...]:
    """What a plan starts with, resolved by trainers/methods.py; a hosted service gets the epochs and what was chosen.

    `rate`: the learning rate by the base's size and the method; None leaves it to the trainer, who goes by the base
    that it has. What only the method has is planned too, as that decides what its training takes.
    `defaults` are the provider's row's and win over ours; what a person has `chosen` wins over all.
    """
    values = {**defaults, **chosen}
    if not takes_lora:
        return tuple(sorted({"n_epochs": hosted_epochs_for(n_train), **values}.items()))
    fixed = {name: value for name, value in values.items() if value != "auto" and name in specs(method)}
    resolved = asdict(resolve(method, fixed, Basis(n_train, rate, method)))
    own = (*PLANNED_NAMES, *(specs(method).keys() - specs().keys()))
    planned = {name: resolved[name] for name in own if name in specs(method)}
    if rate is None:
        planned.pop("learning_rate", None)
    return tuple(sorted({**planned, **values}.items()))


def unusual_hyperparameters(plan: Plan) -> tuple[tuple[str, Hyperparameter], ...]:
    """The hyperparameters that a person or the settings chose otherwise than the rules would."""
    chosen = dict(plan.hyperparameters)
    rank = {name: value for name, value in chosen.items() if name == "lora_r" and value != "auto"}
    takes_lora = bool(chosen.keys() - {"n_epochs", "batch_size"})
    usual = {name: spec.default for name, spec in specs(plan.method).items()}
    usual |= hyperparameters_for(plan.n_train, rank, takes_lora=takes_lora, defaults={}, method=plan.method)
    usual["lora_r"] = specs()["lora_r"].default
    return tuple((name, value) for name, value in plan.hyperparameters if value != usual.get(name))


def ascii_name(dataset: str) -> str:
    """Returns a dataset's name for a trainer: suffixes and aliases are ASCII there. A name in another script keeps what
    is ASCII in it, with a hash that tells it from others."""
    if dataset.isascii():
        return dataset
    rest = re.sub("[^a-z0-9]+", "-", dataset).strip("-")[:31]
    return f"{rest or 'dataset'}-{hashlib.sha256(dataset.encode()).hexdigest()[:8]}"


SWEEP_EXAMPLE = "sweep=lora_r:8,16;learning_rate:0.0005,0.001"
# Of what a sweep may vary, the numbers that people choose; a plan costs one number of epochs.
SWEEP_NAMES = tuple(
    spec.name
    for spec in methods.options().values()
    if spec.declared.sweeps and spec.is_number and spec.name != "n_epochs"
)
SWEEP_ALIASES: Mapping[str, str] = {
    other: name for name in SWEEP_NAMES for other in methods.SWEEPABLE[name].declared.other_names
}


def parse_sweep(text: str) -> Sweep | Misread:
    """Reads 'lora_r:8,16;learning_rate:5e-4,1e-3'."""
    entries: list[tuple[str, tuple[Value, ...]]] = []
    for part in filter(None, text.lower().split(";")):
        name, colon, values = part.partition(":")
        known_name = SWEEP_ALIASES.get(name, name)
        if known_name not in SWEEP_NAMES:
            near = difflib.get_close_matches(name, [*SWEEP_NAMES, *SWEEP_ALIASES], n=1, cutoff=0.6)
            hint = f" Did you mean {near[0]}?" if near else ""
            return Misread(f"“{name[:40]}” can't be swept.{hint} Those that can: {', '.join(SWEEP_NAMES)}.")
        numbers = [methods.parse_number(number) for number in filter(None, values.split(","))]
        if not colon or any(number is None for number in numbers):
            return Misread(f"I can't read “{part[:60]}”. Write it like {SWEEP_EXAMPLE}.")
        if known_name in dict(entries):
            return Misread(
                f"“{known_name}” stands there twice. Write all its values once, like {SWEEP_EXAMPLE}."
            )
        entries.append((known_name, tuple(number for number in numbers if number is not None)))
    problem = methods.sweep_problem(tuple(entries))
    return Misread(problem[0]) if problem else tuple(entries)


def format_sweep(sweep: Sweep) -> str:
    """Returns what `parse_sweep` reads as this sweep again."""
    return ";".join(f"{name}:{','.join(map(str, values))}" for name, values in sweep)


def describe_sweep(sweep: Sweep) -> str:
    """'lora_r 8 or 16, learning_rate 5e-4 or 1e-3'."""
    return ", ".join(f"{name} {' or '.join(map(format_value, values))}" for name, values in sweep)


def format_value(value: Value) -> str:
    """A number with three digits, small ones by their power: '0.1', '5e-4'. Text that is no number stays as it is."""
    try:
        amount = float(value)
    except ValueError:
        return str(value)
    if not 0 < amount < 0.01:
        return f"{amount:.3g}"
    digits, power = f"{amount:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def arm_count_text(sweep: Sweep) -> str:
    return f" of {len(hyperparameters.combinations(sweep))} trials, stopped by halving" if sweep else ""


@dataclass(frozen=True)
class SweepConflict:
    """Why something can't be swept. `name`: the method, the engine, or the option that is given twice."""

    why: Literal["one set a job", "method", "engine", "given twice", "patience"]
    name: str = ""


def find_sweep_conflict(question: Question, *, can_sweep: bool) -> SweepConflict | None:
    """What keeps the question's sweep from being run. `can_sweep`: its target can run one."""
    if not question.sweep:
        return None
    if not can_sweep:
        return SweepConflict("one set a job")
    if not methods.METHODS[question.method].is_plain:
        return SweepConflict("method", question.method)
    engine = question.chosen.get("engine", methods.BUILTIN)
    if engine != methods.BUILTIN:
        return SweepConflict("engine", str(engine))
    twice = next((name for name, _ in question.sweep if name in question.chosen), None)
    if twice:
        return SweepConflict("given twice", methods.option_of(twice))
    return SweepConflict("patience") if question.patience is not None else None


def drop_swept(
    chosen: Mapping[str, Hyperparameter], sweep: Sweep, fixed: Mapping[str, Hyperparameter]
) -> dict[str, Hyperparameter]:
    """The single values beside a sweep. lora_alpha follows lora_r, twice as large, unless it is `fixed`."""
    swept = {name for name, _ in sweep}
    if "lora_r" in swept and "lora_alpha" not in fixed:
        swept.add("lora_alpha")
    return {name: value for name, value in chosen.items() if name not in swept}
