"""Estimates that people ask for: what is wrong is said at once, the answer is a message for them alone that follows. It
is kept so that it can be shared, and shared by a later tick.

An ephemeral answer can't carry files, so its plots come with the message in the channel. What is kept is the
question: the estimate is worked out again from what is known when it is shared.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from bot import commands, parsing
from bot.commands import Estimate
from bot.decisions.planning import Advised, Best, Plan, Predicted
from bot.decisions.verdict.facts import Evidence
from bot.decisions.verdict.rungs import name as rung_name
from bot.decisions.verdict.tasks import TaskKind
from bot.decisions.worth.outlook import Outlook
from bot.decisions.worth.question import Question
from bot.drawings import outlook as drawing
from bot.options import typed
from bot.results import Refusal
from bot.views import estimates as views
from bot.views import general
from bot.views.blocks import Message
from bot.views.estimate_form import Choices
from bot.views.general import sentence
from bot.workflows import datasets, estimating, permits, sharing, telling
from bot.workflows.datasets import Checked
from bot.workflows.desk import Desk
from bot.workflows.estimating import Estimated
from bot.workflows.measuring.gathered import evidence_of
from bot.workflows.targets import find_target
from storage.records import Draft, KeptEstimate
from trainers.measuring.values import Rung
from trainers.money import to_micros
from trainers.providers import model_verdict

log = logging.getLogger(__name__)


def may_ask(desk: Desk, command: Estimate, person: str, channel: str) -> Refusal | None:
    """What can be said before Slack's three seconds are over."""
    refused = permits.may(desk, person, "estimate", channel)
    if refused:
        return refused
    checked = datasets.ready(desk, command.dataset, person, channel)
    if isinstance(checked, Refusal):
        return checked
    return estimating.refusal(desk.settings, command.question, telling.day(desk.clock()))


def answer(desk: Desk, command: Estimate, person: str, channel: str) -> None:
    """What training would cost and save, from what is known now. A bar or a kind of task stays with the dataset.

    Its thousands of draws take over a second at a cold start, so it is called once Slack has its acknowledgement.
    """
    checked = datasets.ready(desk, command.dataset, person, channel)
    if isinstance(checked, Refusal):  # it has changed since it was asked
        _post(desk, general.refusal(checked), channel, person)
        return
    made = _estimated(desk, checked, command.question, command.bar, command.task)
    if isinstance(made, Refusal):
        _post(desk, general.refusal(made), channel, person)
        return
    says_more, now = (command.bar, command.task) != (None, None), desk.clock()
    with desk.store.transaction():
        if says_more:
            desk.store.dataset_settings.set(
                checked.dataset.name, by=person, now=now, bar=command.bar, task_kind=command.task
            )
        kept = desk.store.estimates.keep(
            checked.dataset.name, typed(command.question), channel=channel, person=person, now=now
        )
        _post(desk, views.card(made, made.target.name, number=kept.id), channel, person)


def _post(desk: Desk, message: Message, channel: str, person: str) -> None:
    draft = Draft(kind="ephemeral", channel=channel, person=person, body=message.letter())
    desk.store.outbox.put(draft, now=desk.clock())


def choices(desk: Desk, person: str, channel: str) -> Choices:
    """What the form offers."""
    day = telling.day(desk.clock())
    targets = [
        f"{row.name}/{model.name}"
        for row in desk.settings.providers
        for model in row.models
        if model_verdict(row, model, day).may_train
    ]
    return Choices(datasets.names(desk, person, channel), targets)


def share(desk: Desk, number: int, person: str) -> str | Refusal:
    """What the person who clicked reads."""
    kept = desk.store.estimates.get(number)
    refused = permits.may(desk, person, "estimate", kept.channel if kept else None)
    if kept and not refused:
        refused = sharing.refused(desk, kept.dataset, person, kept.channel, is_posted=True)
    if refused:
        return refused
    with desk.store.transaction():
        if not desk.store.estimates.share(number):
            return Refusal(
                "This estimate is shared already, or over a month old: `/finetune estimate` makes a new one."
            )
        desk.store.audit.add(at=desk.clock(), who=person, action="share", subject=f"estimate {number}")
    return "It comes into the channel in a moment, with its plots in the thread."


def step(desk: Desk, kept: KeptEstimate) -> None:
    """Drawn by a worker process, then posted with its plots in the thread."""
    made = _again(desk, kept)
    if isinstance(made, Refusal):
        _tell(desk, kept, made.text)
        return
    folder = desk.settings.data / "plots" / f"estimate-{kept.id}"
    plots = drawn(desk, f"estimate {kept.id}", made.outlook, folder)
    if plots is None:
        return
    card = f"estimate {kept.id}"
    message = views.card(made, made.target.name, shared_by=kept.person)
    with desk.store.transaction():
        if not desk.store.estimates.shared(kept.id):
            return
        body, to, who = message.letter(), kept.channel, kept.person
        post = Draft(kind="post", channel=to, body=body, card=card, dedupe=card, concerns=who)
        desk.store.outbox.put(post, now=desk.clock())
        put_plots(desk, kept.channel, card, plots, kept.dataset)


def drawn(desk: Desk, key: str, outlook: Outlook | None, folder: Path) -> Sequence[Path] | None:
    """None while a worker draws. Without an outlook there is nothing to draw, and no plot holds up a message."""
    if outlook is None:
        return ()
    try:
        return desk.workers.poll(f"draw {key}", drawing.draw, outlook, folder)
    except Exception:
        # a fault of the drawing; what it would show stands in the card in words
        log.exception("drawing the plots of %s", key)
        return ()


def put_plots(desk: Desk, channel: str, card: str, plots: Sequence[Path], dataset: str) -> None:
    """Into the card's thread."""
    for path in plots:
        title = views.alt_text(path.stem, dataset)
        body = {"file": str(path), "filename": path.name, "title": title, "alt_txt": title}
        once = f"{path.stem} of {card}"
        file = Draft(kind="file", channel=channel, body=body, thread=card, dedupe=once)
        desk.store.outbox.put(file, now=desk.clock())


def of_question(desk: Desk, checked: Checked, question: Question) -> Estimated | Refusal:
    """By the dataset's own bar and kind of task."""
    return _estimated(desk, checked, question, None, None)


def question_of(plan: Plan) -> Question:
    """What was asked when the plan was made."""
    command = parsing.parse(f"start {plan.dataset} {plan.predicted.asked}") if plan.predicted else None
    if isinstance(command, commands.Start):
        return command.question
    target = f"{plan.provider}/{plan.base_model}"
    return Question(current=plan.current, target=target, epochs=int(dict(plan.hyperparameters)["n_epochs"]))


def predicted(made: Estimated) -> Predicted:
    """For the plan."""
    sums, outlook, other, tuned = made.estimate, made.outlook, made.alternative, made.evidence.tuned
    return Predicted(
        asked=typed(made.question),
        quality=tuned.score if tuned else None,
        p_payback=outlook.p_payback if outlook else None,
        target_months=f"{outlook.target_months:.4g}" if outlook else None,
        alternative=other.name if other else None,
        alternative_micros=to_micros(sums.monthly_alternative.total) if sums else None,
        saving_micros=to_micros(sums.saving_month) if sums else None,
        seconds=round(made.minutes.expected * 60) if made.minutes else None,
        is_speed_guessed=made.is_guess,
        memory=made.memory,
        measured=tuple(_score(rung) for rung in made.evidence.rungs),
        advised=_advised(made),
    )


def _advised(made: Estimated) -> Advised:
    """The verdict, to be frozen with the plan: what approvers read can't change unseen."""
    verdict, sums, outlook = made.verdict, made.estimate, made.outlook
    return Advised(
        kind=verdict.kind,
        rule=verdict.main.rule if verdict.main else "",
        reason=verdict.main.text if verdict.main else verdict.headline,
        bar=made.evidence.bar,
        best=_best(made.evidence),
        people_micros=to_micros(sums.people_usd) if sums else 0,
        labels_micros=to_micros(sums.labels_usd) if sums else 0,
        bearable_hours=f"{outlook.bearable_hours:f}" if outlook and outlook.bearable_hours else "",
        saves_until=f"{sums.succession.ends}" if sums and sums.succession else "",
    )


def _best(evidence: Evidence) -> Best | None:
    best = max(evidence.alternatives, key=lambda rung: rung.score, default=None)
    if best is None:
        return None
    standing = None if evidence.is_stale else best.standing
    score, low, high = (round(bound, 6) for bound in (best.score, best.low, best.high))
    return Best(rung_name(best.arm), score, low, high, standing)


def _score(rung: Rung) -> tuple[str, float]:
    return rung_name(rung.arm), round(rung.score, 6)


def _estimated(
    desk: Desk, checked: Checked, question: Question, bar: float | None, task: TaskKind | None
) -> Estimated | Refusal:
    """`bar` and `task` None: as they are set for the dataset."""
    if checked.report is None:
        return Refusal(f"`{checked.dataset.name}` is still being checked.")
    target = find_target(desk.settings.providers, question.target)
    if isinstance(target, Refusal):
        return target
    evidence = evidence_of(desk, checked.dataset, checked.report, target, bar=bar, task=task)
    day = telling.day(desk.clock())
    return estimating.make_estimate(
        desk.settings, checked.dataset.name, checked.report, question, day, evidence
    )


def _again(desk: Desk, kept: KeptEstimate) -> Estimated | Refusal:
    checked = datasets.ready(desk, kept.dataset, kept.person, kept.channel, is_posted=True)
    if isinstance(checked, Refusal):
        return checked
    command = parsing.parse(f"estimate {kept.dataset} {kept.asked}")
    if not isinstance(command, Estimate):
        return Refusal(f"The estimate of `{kept.dataset}` can't be made again. Ask for it anew.")
    return of_question(desk, checked, command.question)


def _tell(desk: Desk, kept: KeptEstimate, why: str) -> None:
    with desk.store.transaction():
        if desk.store.estimates.shared(kept.id):
            body = sentence(f"The estimate of {kept.dataset} could not be shared. {why}").body()
            draft = Draft(kind="direct", channel=kept.channel, person=kept.person, body=body)
            desk.store.outbox.put(draft, now=desk.clock())
