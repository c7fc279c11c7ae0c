"""What a plan trains with: the settings that somebody chose, and how two plans differ in what their training makes.
Pure."""

from __future__ import annotations

from dataclasses import dataclass

from bot.rules.plans import Plan, PlanChange, begins_alike, describe_sweep, format_value, hyperparameters_for
from bot.rules.units import Volume, parse_volume
from trainers.methods import option_name, specs
from trainers.types import Hyperparameter

Setting = tuple[str, str]


def training_settings(plan: Plan) -> tuple[Setting, ...]:
    """Returns everything that decides what the plan's training makes: base, rows, method and hyperparameters, as names
    and values that people type."""
    target = f"{plan.provider}/{plan.base_model}"
    if plan.starts_from is not None:
        target = plan.starts_from.name
    settings = [
        ("target", target),
        ("version", str(plan.dataset_version)),
        ("rows", f"{plan.n_train:,}"),
        ("method", plan.method),
    ]
    for name, value in plan.hyperparameters:
        settings.append((option_name(name), format_value(value)))
    if plan.swept is not None:
        settings.append(("sweep", describe_sweep(plan.swept.sweep)))
    if plan.stopping is not None:
        settings.append(("patience", str(plan.stopping.patience)))
    settings.append(("seed", str(plan.seed)))
    return tuple(settings)


def plan_changes(plan: Plan, before: Plan) -> tuple[PlanChange, ...]:
    """Returns what differs from an earlier plan: what its training makes, then what its money is computed from."""
    now = _all_settings(plan)
    then = _all_settings(before)
    changes = []
    for name in now | then:  # in the order of this plan
        value = now.get(name, "")
        value_before = then.get(name, "")
        if value != value_before:
            changes.append(PlanChange(name, value_before, value))
    return tuple(changes)


def _all_settings(plan: Plan) -> dict[str, str]:
    settings = dict(training_settings(plan))
    if plan.current:
        settings["current"] = plan.current
    if plan.judge:
        settings["judge"] = plan.judge
    if plan.predicted is None:
        return settings
    for word in plan.predicted.asked.split():
        name, _, value = word.partition("=")
        if name == "volume":
            volume = parse_volume(value)
            if isinstance(volume, Volume):
                value = volume.text
        # What was typed for the training is resolved above.
        settings.setdefault(name, value)
    return settings


def unusual_hyperparameters(plan: Plan) -> tuple[tuple[str, Hyperparameter], ...]:
    """Returns the hyperparameters that a person or the settings set to something other than the default."""
    chosen = dict(plan.hyperparameters)
    rank = {}
    if chosen.get("lora_r", "auto") != "auto":
        rank["lora_r"] = chosen["lora_r"]
    takes_lora = bool(chosen.keys() - {"n_epochs", "batch_size"})
    usual = {name: spec.default for name, spec in specs(plan.method).items()}
    # With the plan's own rank, because lora_alpha follows from it and is not unusual then.
    usual |= hyperparameters_for(plan.n_train, rank, takes_lora=takes_lora, defaults={}, method=plan.method)
    usual["lora_r"] = specs()["lora_r"].default
    unusual = []
    for name, value in plan.hyperparameters:
        if value != usual.get(name):
            unusual.append((name, value))
    return tuple(unusual)


@dataclass(frozen=True)
class ChangedSetting:
    """A hyperparameter of a plan. `before` is its value in the last run on the same target, None if there is none."""

    name: str
    value: Hyperparameter | None
    before: Hyperparameter | None


def chosen_settings(plan: Plan, before: Plan | None) -> tuple[ChangedSetting, ...]:
    """Returns the hyperparameters that somebody chose in this plan or in the one before, if they differ between the
    two. Without a plan before, all that somebody chose."""
    chosen = dict(unusual_hyperparameters(plan))
    if before is None:
        return tuple(ChangedSetting(name, value, None) for name, value in chosen.items())
    now = dict(plan.hyperparameters)
    then = dict(before.hyperparameters)
    chosen_before = dict(unusual_hyperparameters(before))
    names = dict.fromkeys((*chosen, *chosen_before))  # each once, in order
    changes = []
    for name in names:
        change = ChangedSetting(name, now.get(name), then.get(name))
        if change.value != change.before:
            changes.append(change)
    return tuple(changes)


def trains_the_same(plan: Plan, before: Plan) -> bool:
    """True if both train the same model: the same rows, start, method and hyperparameters."""
    return begins_alike(plan, before) and _training(plan) == _training(before)


def _training(plan: Plan) -> tuple[object, ...]:
    return (
        plan.train_sha256,
        plan.method,
        plan.hyperparameters,
        plan.seed,
        *_search(plan),
    )


def tries_the_same(plan: Plan, other: Plan) -> bool:
    """True if both try the same settings on the same model and dataset, whatever its rows: the newer plan then takes
    the older one's place. Only the hyperparameters that somebody chose count: the others follow from the rows."""
    return begins_alike(plan, other) and _experiment(plan) == _experiment(other)


def _experiment(plan: Plan) -> tuple[object, ...]:
    return (
        plan.dataset,
        plan.method,
        unusual_hyperparameters(plan),
        *_search(plan),
    )


def _search(plan: Plan) -> tuple[object, ...]:
    """Returns what a plan leaves to its validation rows: the values of a sweep, or when to stop."""
    sweep: object = ()
    if plan.swept is not None:
        sweep = plan.swept.sweep
    patience = None
    if plan.stopping is not None:
        patience = plan.stopping.patience
    return sweep, patience
