"""The last question about a dataset that the team has seen, in a shared estimate or in a plan.

What one person tries out in private says nothing about the team, so it never counts. A plan goes on from that question
if its requester names no model of today or no volume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bot.command_parser import parse_estimate
from bot.context import AppContext
from bot.rules.estimate_inputs import Question, changed_fields, continue_plan, continue_shared
from bot.rules.plans import Continued, Plan, plan_from_json
from bot.rules.units import day_of
from bot.services.datasets import datasets
from bot.services.decisions import estimate_requests
from bot.values.requests import Estimate, Start
from storage.records import Run, StoredEstimate
from storage.store import Store
from trainers.providers.pricing import UnknownPrice, find_prompted_price

LOOKED_BACK = 20  # the newest estimates and runs of a dataset that are searched


def last_question(store: Store, dataset: str) -> Question | None:
    """Returns the dataset's last question. One that names today's model is preferred to newer ones that don't."""
    questions: list[tuple[float, Question]] = []
    for _, plan in _plans(store, dataset):
        questions.append((plan.asked_at, estimate_requests.question_of(plan)))
    for estimate, request in _shared(store, dataset):
        questions.append((estimate.at, request.question))
    if not questions:
        return None
    with_model = [(at, question) for at, question in questions if question.current is not None]
    # If no question names a model, the newest of all counts.
    _, newest = max(with_model or questions, key=lambda timed: timed[0])
    return newest


def continue_from_team(context: AppContext, command: Start) -> Start:
    """Returns the command with what its requester left out, taken from the last shared estimate, or from the last plan
    if nobody has shared one. A command that names today's model and the volume stays as it is."""
    if command.question.current and command.question.volume:
        return command
    for estimate, request in _shared(context.store, command.dataset):
        shared = _without_ended_model(context, request.question)
        if not shared.current and not shared.volume:
            continue
        question = continue_shared(command.question, shared)
        bar = _other_bar(context, request)
        day = day_of(estimate.at)
        source = Continued((), estimate.person, f"{day}", bar=bar)
        return _continued(command, question, source)
    for run, plan in _plans(context.store, command.dataset):
        planned = _without_ended_model(context, estimate_requests.question_of(plan))
        if not planned.current and not planned.volume:
            continue
        question = continue_plan(command.question, planned)
        day = day_of(plan.asked_at)
        source = Continued((), run.requester, f"{day}", run.id)
        return _continued(command, question, source)
    return command


def _continued(command: Start, question: Question, source: Continued) -> Start:
    fields = changed_fields(command.question, question)
    if not fields:
        return command
    return replace(command, question=question, continued=replace(source, fields=fields))


def _shared(store: Store, dataset: str) -> Iterator[tuple[StoredEstimate, Estimate]]:
    """Yields the shared estimates with their questions, newest first."""
    for estimate in store.estimates.newest_shared(dataset)[:LOOKED_BACK]:
        request = parse_estimate(dataset, estimate.asked)
        if isinstance(request, Estimate):
            yield estimate, request


def _plans(store: Store, dataset: str) -> Iterator[tuple[Run, Plan]]:
    """Yields the runs with their plans, newest first."""
    versions = [version.id for version in store.datasets.versions(dataset)]
    for run in store.runs.on(versions)[:LOOKED_BACK]:
        yield run, plan_from_json(run.plan)


def _without_ended_model(context: AppContext, question: Question) -> Question:
    """Leaves out today's model if it has ended or lost its price: what the team prompts now is for a person to say."""
    if question.current is None:
        return question
    settings = context.settings
    today = context.today()
    price = find_prompted_price(question.current, settings.providers, settings.prices, today)
    if isinstance(price, UnknownPrice) or price.has_ended(today):
        return replace(question, current=None)
    return question


def _other_bar(context: AppContext, request: Estimate) -> float | None:
    """Returns the bar that an estimate tried out, None if it is the team's."""
    standard = datasets.standard_of(context, request.dataset)
    if request.bar == standard.bar:
        return None
    return request.bar
