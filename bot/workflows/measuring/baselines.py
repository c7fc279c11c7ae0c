"""Asking for a ladder: what a person wants to have measured becomes a plan, and a yes to its price starts it."""

from __future__ import annotations

from dataclasses import replace

from bot.commands import Baseline
from bot.measured import LadderPlan, LadderProgress
from bot.results import Refusal
from bot.views.measuring import Choices
from bot.workflows import datasets, leaving, permits, plans, telling
from bot.workflows.datasets import Checked
from bot.workflows.desk import Desk
from bot.workflows.leaving import Leave
from bot.workflows.measuring import contestants, ladder, measurements
from bot.workflows.measuring.contestants import Contestant
from storage.measurements import NewMeasurement
from storage.records import Measurement
from trainers.measuring.values import DEFAULT_BAR
from trainers.money import usd_micros
from trainers.pricing import PriceList


def ask(desk: Desk, command: Baseline, person: str, channel: str) -> Measurement | Refusal:
    """Record what is to be measured and say so in the channel; the rest is the ticks' work."""
    refused = permits.may(desk, person, "measure", channel) or permits.unreachable(desk, channel)
    if refused:
        return refused
    checked = datasets.ready(desk, command.dataset, person, channel, is_posted=True)
    if isinstance(checked, Refusal):
        return checked
    made = _plan(desk, checked, command)
    if isinstance(made, Refusal):
        return made
    plan, leave = made
    same = next((one for one in desk.store.measurements.open() if one.plan == plan.to_json()), None)
    if same:
        return Refusal(f"This very measurement is under way already: it is m{same.id}.")
    now = desk.clock()
    with desk.store.transaction():
        if (command.bar, command.task, command.prompt) != (None, None, None):
            desk.store.dataset_settings.set(
                plan.dataset,
                by=person,
                now=now,
                bar=command.bar,
                task_kind=command.task,
                prompt=command.prompt,
            )
        new = NewMeasurement("ladder", checked.dataset.id, channel, person, plan.to_json())
        measurement = desk.store.measurements.add(new, now=now)
        desk.store.audit.add(at=now, who=person, action="measure", subject=f"measurement {measurement.id}")
        measurements.show(desk, measurement)
        measurements.let_leave(desk, measurement, leave)
    return measurement


def choices(desk: Desk, person: str, channel: str) -> Choices:
    """What the form offers: models whose key is there."""
    models = [
        f"{row.name}/{model.name}"
        for row in desk.settings.providers
        if row.name in desk.trainers
        for model in row.models
        if not model.has_ended(plans.today(desk))
    ]
    may_overrule = any(rule.level == "soft" for rule in desk.settings.policy.data)
    return Choices(datasets.names(desk, person, channel), models, may_overrule=may_overrule)


def agree(desk: Desk, number: int, person: str) -> Measurement | Refusal:
    """A person's yes to what it costs. The money was reserved when it was asked for."""
    refused = measurements.may_agree(desk, number, person)
    if refused:
        return refused
    now = desk.clock()
    with desk.store.transaction():
        measurement = desk.store.measurements.get(number)
        if measurement is None or measurement.state != "asked":
            return measurements.too_late(number, measurement)
        progress = LadderProgress.from_json(measurement.progress)
        if progress.stage != "asking":
            return Refusal(f"What m{number} costs is still being counted; its card says it in a moment.")
        if telling.month(now) != measurement.month and (
            dear := ladder.too_dear(desk, measurement, progress.most_micros)
        ):
            return Refusal(dear)  # its money was reserved in a month that is over
        moved = ladder.begin(desk, measurement, progress)
        if moved is None:
            return measurements.too_late(number, desk.store.measurements.get(number))
        desk.store.audit.add(
            at=now,
            who=person,
            action="agree",
            subject=f"measurement {number}",
            detail=f"up to {usd_micros(progress.most_micros)}",
        )
    return moved


def _plan(desk: Desk, checked: Checked, command: Baseline) -> tuple[LadderPlan, Leave] | Refusal:
    dataset, report = checked.dataset, checked.report
    if report is None or not report.n_holdout:
        return Refusal(f"`{dataset.name}` has no held-out rows, so nothing can be measured on it.")
    asks_models = command.rungs != ("classical",)
    models: tuple[Contestant, ...] | Refusal = ()
    if asks_models:
        models = contestants.contestants(desk.settings, desk.trainers, command.models, plans.today(desk))
    if isinstance(models, Refusal):
        return models
    arms = contestants.arms_of(command, report, models)
    if isinstance(arms, Refusal):
        return arms
    judge = contestants.judge_of(desk.settings, desk.trainers, command.judge, report, plans.today(desk))
    if isinstance(judge, Refusal):
        return judge
    everybody = models if judge is None or judge in models else (*models, judge)
    leave = leaving.ask(desk, dataset, report, [model.row for model in everybody], command.because)
    if isinstance(leave, Refusal):
        return leave
    wanted = desk.store.dataset_settings.get(dataset.name)
    prompt = command.prompt or (wanted.prompt if wanted else None)
    refused = leaving.with_secret(prompt or "", "The prompt")
    if refused:
        return replace(refused, about="prompt")
    given, waiver = desk.store.documents.ready(dataset.name), desk.store.waivers.of(dataset.id)
    documents = tuple(str(one.sha256) for one in given)
    # who waived it could not know of documents that were given later
    may_leave = not given or (waiver is not None and all(one.created_at <= waiver.at for one in given))
    plan = LadderPlan(
        dataset=dataset.name,
        version=dataset.version,
        task=report.task,
        train_sha256=str(report.train_sha256),
        holdout_sha256=str(report.holdout_sha256),
        n_holdout=report.n_holdout,
        labels=tuple(sorted(count.label for count in report.labels)),
        arms=arms,
        prompt=prompt,
        bar=command.bar or (wanted.bar if wanted else None) or DEFAULT_BAR,
        documents=documents,
        prices=PriceList(tuple(model.price for model in everybody), plans.today(desk)).to_json(),
        withheld_from=() if may_leave else _withheld_from(models, judge),
        judge=judge.name if judge else None,
        thinking=tuple(one.name for one in everybody if one.thinks),
    )
    return plan, leave


def _withheld_from(models: tuple[Contestant, ...], judge: Contestant | None) -> tuple[str, ...]:
    """What a model on this machine says out of a passage reaches its judge, wherever that is."""
    all_leaves = judge is not None and not judge.row.stays_here
    return tuple(one.name for one in models if all_leaves or not one.row.stays_here)
