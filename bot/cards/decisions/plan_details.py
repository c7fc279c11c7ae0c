"""A plan's details: exact figures, rows, method and the plan's hash."""

from __future__ import annotations

from bot.cards.common.blocks import Block, Facts, Text, code, cut, escape
from bot.cards.common.general import details_modal
from bot.cards.common.plan_money import (
    budget_left,
    exact_cost,
    forecast,
    hosting_line,
    leaves_line,
    monthly_text,
    vendor_estimate,
)
from bot.cards.common.words import planned_time, pluralize, shorten
from bot.cards.decisions.plan_training import taught_facts
from bot.cards.decisions.plans import verdict_text, warning_lines
from bot.cards.decisions.starting_models import start_facts
from bot.rules.budgets import Budget
from bot.rules.plan_settings import unusual_hyperparameters
from bot.rules.plans import Plan, describe_sweep
from storage.records import Run
from trainers.methods import METHODS, option_name


def details_form(run: Run, plan: Plan, budget: Budget) -> Block:
    """Exact figures, rows, method and the plan's hash."""
    hosting = []
    if plan.hosting:
        hosting.append(Text(f"*The tuned model*: {hosting_line(plan.hosting)}."))
    if plan.hosting and plan.hosting.by_token:
        hosting.append(Text(leaves_line(plan.hosting.by_token)))
    exactly = f"Plan {code(run.plan_hash)}. An approval covers exactly this plan."
    facts = Facts(_facts(run, plan, budget))
    blocks = [Text(verdict_text(plan)), facts, *hosting, *warning_lines(plan), Text(exactly)]
    return details_modal(f"Run {run.id}, in detail", blocks)


def _facts(run: Run, plan: Plan, budget: Budget) -> list[tuple[str, str]]:
    version = f" version {plan.dataset_version}" if plan.dataset_version > 1 else ""
    return [
        ("Cost", f"{exact_cost(plan)}{vendor_estimate(run, plan)}"),
        ("Each month", monthly_text(plan)),
        ("Budget left", budget_left(budget)),
        ("Requested by", f"<@{run.requester}>"),
        ("Dataset", f"{escape(shorten(plan.dataset))}{version}, from <@{plan.uploaded_by}>"),
        ("Rows", _rows(plan)),
        *taught_facts(plan),
        *start_facts(plan.starts_from),
        ("Model", _model(plan)),
        ("Training takes", _takes(plan)),
        *forecast(plan),
    ]


def _model(plan: Plan) -> str:
    """The model, with unusual settings and the sweep, since a section has no room for more fields."""
    model = (
        f"{escape(cut(plan.base_model, 120))} on {escape(cut(plan.provider, 60))}{_unusual_settings(plan)}"
    )
    swept = plan.swept
    if swept is None:
        return model
    return (
        f"{model}. Sweep: {escape(describe_sweep(swept.sweep))}: {swept.trials} trials, at most "
        f"{swept.steps:,} steps in total"
    )


def _unusual_settings(plan: Plan) -> str:
    """The learning rate, and settings other than our own engine's defaults."""
    chosen = dict(plan.hyperparameters)
    lines = []
    if plan.method != "supervised":
        lines.append(f"method {METHODS[plan.method].option}")
    lines += [f"engine {chosen['engine']}"] if chosen.get("engine", "builtin") != "builtin" else []
    if "learning_rate" in chosen:
        lines.append(f"learning rate {chosen['learning_rate']:g}")
    elif "lora_r" in chosen and plan.swept is None:
        lines.append("learning rate chosen by the trainer")
    if chosen.get("quantization", "none") != "none":
        lines.append(f"base in {chosen['quantization']}")
    lines += [
        f"{option_name(name)} {value}"
        for name, value in unusual_hyperparameters(plan)
        # These have wordings of their own above.
        if name not in ("engine", "learning_rate", "quantization")
    ]
    return escape("".join(f", {name}" for name in lines))


def _rows(plan: Plan) -> str:
    swept = plan.swept
    stop = plan.stopping
    if swept is not None:
        return (
            f"{swept.n_fitted:,} to train on, {swept.n_validation:,} training rows to choose the best trial, "
            f"{plan.n_holdout:,} held out"
        )
    if stop is None:
        return f"{plan.n_train:,} to train on, {plan.n_holdout:,} held out"
    checks = pluralize(stop.patience, "validation")
    return (
        f"{stop.n_fitted:,} to train on, {stop.n_validation:,} to decide when to stop (after {checks} without "
        f"improvement), {plan.n_holdout:,} held out"
    )


def _takes(plan: Plan) -> str:
    """The training time, and the memory on this machine, since a section has no room for more fields."""
    is_guess = plan.predicted is not None and plan.predicted.is_speed_guessed
    time = planned_time(plan.seconds_low, plan.seconds_high, is_guess=is_guess)
    memory = plan.predicted.memory if plan.predicted else None
    return f"{time}. Memory: {escape(memory)}" if memory else time
