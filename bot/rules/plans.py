"""The frozen plan: everything that matters about a training, as one value with one hash. Also its hyperparameters, and
hyperparameter sweeps as people type them. People approve the hash; changing a field or a byte of the data makes it
another plan."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from bot.rules.estimate_inputs import Question
from bot.rules.models.deployments import Hosting
from bot.rules.models.starting_models import StartingModel
from bot.rules.units import Misread, MonthlyVolume
from trainers import hyperparameters, methods
from trainers.evaluation.results import Scoring, Standing
from trainers.hyperparameters import Sweep, Value, combinations, hosted_epochs_for
from trainers.json_values import from_object
from trainers.methods import Basis, MethodName, resolve, specs
from trainers.typed_tables import parse_number
from trainers.types import Hyperparameter

VerdictKind = Literal["go", "no_go", "unknown"]
# The rules whose no is about money, so that the saving belongs beside it.
MONEY_RULES = ("cost", "payback", "net value", "people's time")


@dataclass(frozen=True)
class BestCandidate:
    """The best measured candidate without this training. `score` is its share of right answers on the held-out rows,
    with its 95% bounds. `standing` is None if it was judged by another bar than the plan's."""

    name: str
    score: float
    low: float
    high: float
    standing: Standing | None


@dataclass(frozen=True)
class NetValue:
    """Savings minus costs over `months` (a decimal as text) in micro-dollars: the 5%, 50% and 95% points of the
    simulations. `price_fall` is the share by which the alternative was expected to get cheaper in a year (a decimal as
    text, "" for none)."""

    months: str
    low_micros: int
    micros: int
    high_micros: int
    price_fall: str = ""


@dataclass(frozen=True)
class OtherModel:
    """A model that could do the task without training, and its cost per month; nobody has measured it."""

    name: str
    monthly_micros: int


@dataclass(frozen=True)
class TaughtRows:
    """Training rows that a model labelled: how many, and the share of right answers that the model had on the held-out
    rows, with its 95% bounds; None if that measurement is gone."""

    teacher: str
    rows: int
    score: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Retraining:
    """Why a model is trained now: `model`, on which the dataset relies today, is retired on the day `ends` (ISO)."""

    model: str
    ends: str


@dataclass(frozen=True)
class Continued:
    """What a plan took over because its requester left it out: the `fields` of the question, from the estimate that
    `person` shared, or from the plan of the run `run`. `day` (ISO) is when that was asked. `bar` is set if the estimate
    tried out another bar than the team's, by which plans are judged."""

    fields: tuple[str, ...]
    person: str
    day: str
    run: int | None = None
    bar: float | None = None


@dataclass(frozen=True)
class PlanChange:
    """A setting of a plan that differs from an earlier run's; '' if one of the two has none."""

    name: str
    before: str
    now: str


@dataclass(frozen=True)
class RunAgain:
    """The earlier run that a plan repeats, and what is different now."""

    run: int
    changes: tuple[PlanChange, ...]


@dataclass(frozen=True)
class PlanVerdict:
    """The verdict that approvers read. `rule` is the rule that decided, `reason` its sentence. `best` is None if
    nothing was measured, `unmeasured` if no cheaper model is known. `task` is the team's aim, '' if it named none, and
    `aim` the numbers that it puts first, in words. `people_micros` and `labels_micros` come on top of the cost of the
    run. `bearable_hours` are the most hours of people's time with which the plan is still likely to pay back in time,
    '' if the hours were given or not even 0 hours would do. `saves_until` is the first day on which the saving is
    another one, because the tuned model or the one that it is compared with has ended; '' if none is known. `net` is
    None for plans older than this field, and if nothing was simulated. `machine_micros` is the monthly bill of the
    machines that serve the model. `scoring` is how the score of `best` is counted; older plans don't say it. `floor`
    is what the commonest values alone get, None unless answers are JSON objects. `judge` is the model whose verdicts
    are the scores."""

    kind: VerdictKind
    rule: str
    reason: str
    bar: float
    best: BestCandidate | None = None
    people_micros: int = 0
    labels_micros: int = 0
    bearable_hours: str = ""
    saves_until: str = ""
    net: NetValue | None = None
    machine_micros: int = 0
    unmeasured: OtherModel | None = None
    task: str = ""
    aim: str = ""
    scoring: Scoring = "label"
    floor: float | None = None
    judge: str = ""


@dataclass(frozen=True)
class Prediction:
    """The estimate at the time when the plan was frozen, to compare the result with.

    - `asked` is the question, as the options that a person would type.
    - `quality` is the expected share of right answers, known if a similarly tuned model was measured before.
    - `p_payback` is the chance to pay back within `target_months`.
    - `alternative` is the model that the saving is compared with; it costs `alternative_micros` per month.
    - `seconds` is the expected training time; `is_speed_guessed` is true if it was guessed from the model's size.
    - `measured` has the score of each candidate of the comparison, by name.
    - `memory` says whether the training fits into its machine's memory, with figures.
    - `advised` and `volume` are None for plans older than these fields; `volume` also if nobody gave one.
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
    volume: MonthlyVolume | None = None

    @property
    def is_time_said(self) -> bool:
        """True if the question gave the hours of people's time."""
        return any(word.startswith("hours=") for word in self.asked.split())


@dataclass(frozen=True)
class EarlyStopping:
    """Training on the `n_fitted` rows of the file `fitted_sha256` stops after `patience` validations in a row without
    improvement on the `n_validation` other training rows. trainers/dataset/splits.py splits them."""

    patience: int
    fitted_sha256: str
    validation_sha256: str
    n_fitted: int
    n_validation: int


@dataclass(frozen=True)
class SweepPlan:
    """Each combination in `sweep` is a trial; the one with the lowest loss on `n_validation` of the training rows wins.
    All trials together take at most `steps`. `usd_per_hour` is a decimal as text, with which the trainer stops before
    it exceeds the plan's maximum cost; None on a free machine."""

    sweep: Sweep
    fitted_sha256: str
    validation_sha256: str
    n_fitted: int
    n_validation: int
    steps: int
    usd_per_hour: str | None = None

    @property
    def trials(self) -> int:
        return len(combinations(self.sweep))


@dataclass(frozen=True)
class Destination:
    """Where and by what a plan is trained.

    - `base_url` is where the data goes; for a trainer that the bot starts itself, its cluster's address or ''.
    - `account` is a fingerprint of the key.
    - `weights` is a fingerprint of the base model's files, None if they aren't on this machine.
    - `engine` is the training engine with its version, like 'builtin 0.1.0'; None if the trainer chooses it.
    - `catalogue_id` is the trainer's id of the base model, None if it is the model's name.
    - `hosted_base` is the base model's name at the vendor of a hosted engine, None without one.
    """

    base_url: str
    account: str | None
    weights: str | None
    engine: str | None = None
    catalogue_id: str | None = None
    hosted_base: str | None = None


@dataclass(frozen=True)
class Plan:
    """Everything that a training depends on.

    - `hyperparameters` are sorted by name and contain no "auto".
    - `prices` is the price list as JSON. `expected_micros` and `maximum_micros` are the costs in micro-dollars.
    - `seconds_low` and `seconds_high` are the range of the training time alone.
    - `current` is the model that the team uses today; it is priced, and not measured.
    - `warnings` are sentences for the approvers, for example about an end date.
    - `stopping` is None if all epochs are trained on all training rows, `swept` if there is one set of hyperparameters.
    - `overridden` are the names of soft data rules that somebody overrode; `warnings` has the reason.
    - `judge` is the model that judges free text.
    - `hosting` is the hourly machine on which the model will answer, or the vendor that serves it by the token; None
      if its trainer serves it.
    - `taught` are the training rows that models labelled, by teacher.
    - `retrains` is the model that ends and is replaced, None if there is none.
    - `continued` is what was taken over from an earlier question, None if nothing was.
    - `starts_from` is the tuned model from which it goes on, None if it begins with the base model.
    - `again` is the earlier run that it repeats with changes, None if it repeats none.
    - `predicted` and `destination` are None for plans older than these fields.
    """

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
    taught: tuple[TaughtRows, ...] = ()
    retrains: Retraining | None = None
    continued: Continued | None = None
    starts_from: StartingModel | None = None
    again: RunAgain | None = None

    @property
    def validation_split(self) -> EarlyStopping | SweepPlan | None:
        """The split of the training rows into rows to train on and rows to validate with; None if there is none."""
        return self.stopping or self.swept

    @property
    def model_id(self) -> str:
        """The id in a job of the model that is trained."""
        if self.starts_from is not None:
            return self.starts_from.provider_model
        return (self.destination and self.destination.catalogue_id) or self.base_model

    @property
    def receivers(self) -> tuple[str, ...]:
        """The providers that get its rows: its trainer, and who serves the model that has learned from them."""
        if self.hosting is None or self.hosting.by_token is None:
            return (self.provider,)
        return tuple(dict.fromkeys((self.provider, self.hosting.by_token.provider)))

    @property
    def trained_model(self) -> str:
        """The model that is trained, by the name that people know: a tuned one if the training goes on from it."""
        if self.starts_from is not None:
            return self.starts_from.name
        return self.base_model

    @property
    def advised(self) -> PlanVerdict | None:
        if self.predicted is None:
            return None
        return self.predicted.advised

    @property
    def withholds_saving(self) -> bool:
        """True if the verdict was against the model whatever it would save, so that no saving is shown."""
        advised = self.advised
        return bool(advised and advised.kind == "no_go" and advised.rule not in MONEY_RULES)

    @property
    def is_advised(self) -> bool:
        """True if the verdict was go. If not, approvers have to give a reason. False if no verdict was stored."""
        return self.advised is not None and self.advised.kind == "go"

    def __post_init__(self) -> None:
        chosen = dict(self.hyperparameters)
        if list(self.hyperparameters) != sorted(chosen.items()):
            raise ValueError(f"a plan's hyperparameters must be sorted, each once: {self.hyperparameters}")
        # By the exact type, because True is an int to isinstance.
        if self.method != "head" and type(chosen.get("n_epochs")) is not int:
            raise ValueError(f"a plan's n_epochs must be a whole number, not {chosen.get('n_epochs')!r}")


def canonical_json(plan: Plan) -> str:
    """Returns the plan as JSON, with sorted keys and no spaces, so that equal plans give equal bytes.

    Newer fields are left out while they have their default, so that older plans keep their hashes."""
    fields = asdict(plan)
    for name in (
        "predicted",
        "stopping",
        "swept",
        "destination",
        "judge",
        "hosting",
        "retrains",
        "continued",
        "starts_from",
        "again",
    ):
        if fields[name] is None:
            del fields[name]
    hosting = fields.get("hosting")
    if isinstance(hosting, dict) and hosting["by_token"] is None:
        del hosting["by_token"]
    elif isinstance(hosting, dict) and hosting["by_token"]["is_uploaded"]:
        del hosting["by_token"]["is_uploaded"]
    for name in ("overridden", "taught"):
        if not fields[name]:
            del fields[name]
    if plan.advised:
        advised = fields["predicted"]["advised"]
        for name in ("unmeasured", "task", "aim", "net", "machine_micros", "judge"):
            if not advised[name]:
                del advised[name]
        if advised.get("net") and not advised["net"]["price_fall"]:
            del advised["net"]["price_fall"]
        if advised["scoring"] == "label":
            del advised["scoring"]
        if advised["floor"] is None:
            del advised["floor"]
    for name in ("memory", "advised", "volume"):
        if plan.predicted and fields["predicted"][name] is None:
            del fields["predicted"][name]
    if plan.predicted and not plan.predicted.is_speed_guessed:
        del fields["predicted"]["is_speed_guessed"]
    for name in ("engine", "catalogue_id", "hosted_base"):
        if plan.destination and fields["destination"][name] is None:
            del fields["destination"][name]
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def plan_hash(plan: Plan) -> str:
    return hashlib.sha256(canonical_json(plan).encode()).hexdigest()


def plan_key(hash_of_plan: str) -> str:
    """Returns our name for the plan's job at the trainer, which is always the same for the same plan."""
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
    processes: int = 1,
) -> tuple[tuple[str, Hyperparameter], ...]:
    """Returns a plan's hyperparameters, sorted by name.

    A trainer that takes LoRA parameters gets those in PLANNED_NAMES and those that only the method has (they affect
    time and memory), resolved by trainers/methods.py. A hosted service gets the number of epochs and the values chosen.
    `chosen` values take precedence over the provider's `defaults`, and these over ours. `rate` is the learning rate for
    the base model's size and the method; None leaves it to the trainer, which knows the base model. `processes`
    share each step there, one on each GPU."""
    values = {**defaults, **chosen}
    if not takes_lora:
        return tuple(sorted({"n_epochs": hosted_epochs_for(n_train), **values}.items()))
    of_method = specs(method)
    fixed = {name: value for name, value in values.items() if value != "auto" and name in of_method}
    resolved = asdict(resolve(method, fixed, Basis(n_train, rate, method, processes)))
    only_of_method = of_method.keys() - specs().keys()
    own = (*PLANNED_NAMES, *only_of_method)
    planned = {name: resolved[name] for name in own if name in of_method}
    if rate is None:
        planned.pop("learning_rate", None)
    return tuple(sorted({**planned, **values}.items()))


def begins_alike(plan: Plan, other: Plan) -> bool:
    """True if both begin with the same model, at the same provider."""
    base = (plan.provider, plan.base_model, plan.starts_from)
    return base == (other.provider, other.base_model, other.starts_from)


def ascii_name(dataset: str) -> str:
    """Returns a dataset's name for use in suffixes and aliases at a trainer, which have to be ASCII. A name in another
    script keeps its ASCII characters and gets a hash that makes it unique."""
    if dataset.isascii():
        return dataset
    rest = re.sub("[^a-z0-9]+", "-", dataset).strip("-")[:31]
    digest = hashlib.sha256(dataset.encode()).hexdigest()
    return f"{rest or 'dataset'}-{digest[:8]}"


SWEEP_EXAMPLE = "sweep=lora_r:8,16;learning_rate:0.0005,0.001"
# The numeric hyperparameters that a sweep may vary. Not the epochs: the cost of a plan is for one number of epochs.
SWEEP_NAMES = tuple(
    spec.name
    for spec in methods.options().values()
    if spec.declared.sweeps and spec.is_number and spec.name != "n_epochs"
)
SWEEP_ALIASES: Mapping[str, str] = {
    other: name for name in SWEEP_NAMES for other in methods.SWEEPABLE[name].declared.other_names
}


def parse_sweep(text: str) -> Sweep | Misread:
    """Parses text like 'lora_r:8,16;learning_rate:5e-4,1e-3'."""
    entries: list[tuple[str, tuple[Value, ...]]] = []
    for part in filter(None, text.lower().split(";")):
        name, colon, values = part.partition(":")
        unreadable = Misread(f"I can't read “{part[:60]}”. Write it like {SWEEP_EXAMPLE}.")
        if not colon:
            return unreadable
        known_name = SWEEP_ALIASES.get(name, name)
        if known_name not in SWEEP_NAMES:
            return _unswept(name)
        numbers = [parse_number(number) for number in filter(None, values.split(","))]
        if any(number is None for number in numbers):
            return unreadable
        if known_name in dict(entries):
            return Misread(
                f"“{known_name}” is given twice. Write all its values together, like {SWEEP_EXAMPLE}."
            )
        entries.append((known_name, tuple(number for number in numbers if number is not None)))
    problem = methods.sweep_problem(tuple(entries))
    if problem:
        return Misread(problem[0])
    return tuple(entries)


def _unswept(name: str) -> Misread:
    hint = ""
    near = difflib.get_close_matches(name, [*SWEEP_NAMES, *SWEEP_ALIASES], n=1, cutoff=0.6)
    if near:
        hint = f" Did you mean {near[0]}?"
    return Misread(f"“{name[:40]}” can't be swept.{hint} These can: {', '.join(SWEEP_NAMES)}.")


def format_sweep(sweep: Sweep) -> str:
    """Returns the sweep as text that `parse_sweep` reads."""
    parts = []
    for name, values in sweep:
        tried = ",".join(map(str, values))
        parts.append(f"{name}:{tried}")
    return ";".join(parts)


def describe_sweep(sweep: Sweep) -> str:
    """Returns text like 'lora_r 8 or 16, learning_rate 5e-4 or 1e-3'."""
    parts = []
    for name, values in sweep:
        tried = " or ".join(map(format_value, values))
        parts.append(f"{name} {tried}")
    return ", ".join(parts)


def format_value(value: Value) -> str:
    """Formats a number with three digits, small ones with an exponent: '0.1', '5e-4'. Other text is returned as it
    is."""
    try:
        amount = float(value)
    except ValueError:
        return str(value)
    if not 0 < amount < 0.01:
        return f"{amount:.3g}"
    digits, power = f"{amount:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def trial_count_text(sweep: Sweep) -> str:
    if not sweep:
        return ""
    return f" of {len(hyperparameters.combinations(sweep))} trials, stopped by halving"


@dataclass(frozen=True)
class SweepConflict:
    """Why a sweep is not possible. `name` is the method, the engine, or the option that is given twice."""

    why: Literal["one set a job", "method", "engine", "given twice", "patience"]
    name: str = ""


def find_sweep_conflict(question: Question, *, can_sweep: bool) -> SweepConflict | None:
    """Returns why the question's sweep is not possible, None if it is. `can_sweep` says whether its target can run
    one."""
    if not question.sweep:
        return None
    if not can_sweep:
        return SweepConflict("one set a job")
    if not methods.METHODS[question.method].is_plain:
        return SweepConflict("method", methods.METHODS[question.method].option)
    engine = question.chosen.get("engine", methods.BUILTIN)
    if engine != methods.BUILTIN:
        return SweepConflict("engine", str(engine))
    twice = next((name for name, _ in question.sweep if name in question.chosen), None)
    if twice:
        return SweepConflict("given twice", methods.option_name(twice))
    if question.patience is not None:
        return SweepConflict("patience")
    return None


def drop_swept(
    chosen: Mapping[str, Hyperparameter], sweep: Sweep, fixed: Mapping[str, Hyperparameter]
) -> dict[str, Hyperparameter]:
    """Returns the hyperparameters that are not swept. If lora_r is swept, lora_alpha is left out too, because it is set
    to twice lora_r, unless somebody set it (`fixed`)."""
    swept = {name for name, _ in sweep}
    if "lora_r" in swept and "lora_alpha" not in fixed:
        swept.add("lora_alpha")
    return {name: value for name, value in chosen.items() if name not in swept}
