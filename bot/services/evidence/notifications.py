"""Writes a run's messages into the outbox, in the transaction of the change that they report.

A run has one card from its plan to its end, which is edited in place. An edit notifies nobody, so the result is a
message of its own, and a decision or an end without a result is also sent to the requester directly. In a channel that
doesn't want results, the run's card says how to see it, and the requester is told directly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Literal

from bot.cards.common import freeze as freeze_cards
from bot.cards.common import message_topics as topic_cards
from bot.cards.common.advice import NOT_OFFERED, Offered
from bot.cards.common.blocks import Message, code
from bot.cards.common.general import text_message
from bot.cards.decisions import plans as plan_views
from bot.cards.evidence import sweeps
from bot.cards.training import interventions as doubt_views
from bot.cards.training import result_details
from bot.cards.training import results as result_views
from bot.cards.training import runs as views
from bot.context import AppContext, CoreContext
from bot.rules.budgets import actual_micros
from bot.rules.plans import Plan, plan_from_json
from bot.rules.training.calibration import Actual, RunningError, run_actuals, running_error
from bot.rules.training.results import best_alternative, is_alternative_enough
from bot.services.common import freeze_scope, messages, token_serving
from bot.services.common.model_history import is_machine_stopped, load_after_result
from bot.services.evidence import checked_judges, promotion_evidence
from bot.values.runs import ChangedRow, Progress, RunResult
from storage.jobs import InterventionDecision
from storage.records import OPEN_RUN_STATES, Draft, Run, Topic
from trainers.evaluation.results import Candidate
from trainers.providers.pricing import PriceList

NEWEST_RUNS = 100  # read for the accuracy of estimates; a limit, since a person waits for the answer

EndState = Literal["failed", "cancelled"]
ClosedState = Literal["expired", "cancelled"]


def running_errors(context: AppContext) -> tuple[RunningError, ...]:
    """Returns how accurate the estimates of the newest runs have been."""
    actuals: list[Actual] = []
    for run in context.store.runs.done(limit=NEWEST_RUNS):
        if run.result:
            result = RunResult.from_json(run.result)
            actuals += actuals_of(run, plan_from_json(run.plan), result)
    return running_error(actuals)


def actuals_of(run: Run, plan: Plan, result: RunResult) -> tuple[Actual, ...]:
    """Returns a run's actual figures with the estimated ones; quality only if the plan predicted it."""
    tokens = None
    if result.trained_tokens:
        tokens = (plan.training_tokens, result.trained_tokens)
    expected_s = _expected_seconds(plan)
    seconds = None
    if expected_s is not None:
        seconds = (expected_s, result.train_seconds)
    quality = None
    if plan.predicted and plan.predicted.quality is not None:
        quality = (plan.predicted.quality, result.quality)
    return run_actuals(
        run.id,
        tokens=tokens,
        micros=(plan.expected_micros, result.actual_micros),
        seconds=seconds,
        quality=quality,
    )


def _expected_seconds(plan: Plan) -> float | None:
    """Returns the expected seconds, None if unknown. An older plan has only a range, from half to twice the expected
    time, so the geometric mean is its middle."""
    if plan.predicted and plan.predicted.seconds is not None:
        return plan.predicted.seconds
    if plan.seconds_low is None or plan.seconds_high is None:
        return None
    return math.sqrt(max(plan.seconds_low, 0) * max(plan.seconds_high, 0))


def card_of(context: CoreContext, run: Run) -> str:
    """Returns the name of the run's card. Older versions posted a second one at the approval."""
    second = f"run {run.id}"
    if context.store.outbox.card(second):
        return second
    return f"plan {run.id}"


def link_to(context: AppContext, run: Run) -> str:
    return context.link(card_of(context, run), f"run {run.id}")


def link_to_machine(context: AppContext, run_id: int) -> str:
    """Returns a link to the card of the run's newest machine."""
    records = context.store.deployments.of_run(run_id)
    if not records:
        return "its card"
    return context.link(f"deployment {records[0].id}", "its card")


def result_card_of(run: Run) -> str:
    return f"result {run.id}"


def posted_result_card_of(context: CoreContext, run: Run) -> str:
    """Returns the name of the card below which one reads the result: the run's own if its channel got no result."""
    card = result_card_of(run)
    if context.store.outbox.is_shown(card):
        return card
    return card_of(context, run)


def show_plan(context: AppContext, run: Run, message: Message) -> None:
    """Posts or edits the card with the plan. Once the plan is decided on, the card shows the decision in place of its
    buttons."""
    _show(context, run, f"plan {run.id}", message)


def tell_requester(context: AppContext, run: Run, text: str, *, topic: Topic, once: str) -> None:
    body = Message(text).body()
    context.send(Draft("direct", run.channel, body, dedupe=once, person=run.requester, topic=topic))


def show_progress(context: AppContext, run: Run) -> None:
    """Edits the run's card, which shows the progress from the approval on."""
    plan = plan_from_json(run.plan)
    known_so_far = Progress.from_json(run.progress)
    approvals = context.store.runs.valid_approvals(run.id)
    message = views.card(
        run,
        plan,
        known_so_far,
        context.clock(),
        spent_micros=training_cost(plan, known_so_far),
        can_pause=can_pause(context, run),
        decided=plan_views.approved_by(approvals) if approvals else "",
        result=_where_result_is(context, run),
    )
    freeze = freeze_scope.run_freeze(context, run)
    if freeze:
        message = freeze_cards.add_freeze_notice(message, freeze)
    _show(context, run, card_of(context, run), message, progress=run.state in OPEN_RUN_STATES)


def _where_result_is(context: AppContext, run: Run) -> str:
    card = result_card_of(run)
    if run.state == "done" and not context.store.outbox.is_shown(card):
        return code(f"/finetune results {run.id}")
    return context.link(card, "a message below")


def post_warning(context: AppContext, run: Run, warning: str) -> None:
    """Posts a warning of the run's trainer in the thread of the run's card, once."""
    # By its text, because the trainer's events repeat a warning at each poll.
    digest = sha256(warning.encode()).hexdigest()
    once = f"warning {run.id} {digest[:16]}"
    body = text_message(views.trainer_warning(warning)).body()
    card = card_of(context, run)
    context.send(
        Draft("post", run.channel, body, dedupe=once, thread=card, concerns=run.requester, topic="problems")
    )


def can_pause(context: AppContext, run: Run) -> bool:
    trainer = context.trainers.get(run.provider)
    return trainer is not None and trainer.provider.can("pause")


def post_intervention(context: AppContext, run: Run, why: str) -> None:
    """Asks for people's decision on a separate card with buttons."""
    show_progress(context, run)
    show_intervention(context, run, ())
    text = views.ended_notice(run, link_to(context, run), why)
    tell_requester(context, run, text, topic="questions", once=f"dm of {_intervention_card(run)}")


def show_intervention(
    context: AppContext, run: Run, words: Sequence[InterventionDecision], *, note: str | None = None
) -> None:
    """Posts or edits the card of the run's uncertain create."""
    message = doubt_views.card(run, plan_from_json(run.plan), words, note)
    _show(context, run, _intervention_card(run), message)


def close_intervention(
    context: AppContext, run: Run, words: Sequence[InterventionDecision], outcome: str
) -> None:
    """Closes that card if it was posted. `run` is the run as it was while it needed a decision."""
    card = _intervention_card(run)
    if context.store.outbox.card(card) or context.store.outbox.is_waiting(card):
        message = doubt_views.settled_card(run, plan_from_json(run.plan), words, outcome)
        _show(context, run, card, message)


def _intervention_card(run: Run) -> str:
    # A run may need people more than once, each time with a card of its own.
    return f"doubt {run.id} {run.state_since:.0f}"


def show_end(context: AppContext, run: Run, why: str) -> None:
    """Shows on the card that the run failed or was cancelled, and tells the requester directly."""
    message = views.ended_card(run, plan_from_json(run.plan), why)
    _show(context, run, card_of(context, run), message)
    text = views.ended_notice(run, link_to(context, run), why)
    tell_requester(context, run, text, topic="problems", once=f"end dm {run.id}")


def update_ended(context: AppContext, run: Run) -> None:
    """Edits the card of an ended run whose cost has changed."""
    if run.state == "done":
        update_result(context, run)
    elif run.error is not None:
        _show(context, run, card_of(context, run), views.ended_card(run, plan_from_json(run.plan), run.error))


def post_result(
    context: AppContext,
    run: Run,
    plan: Plan,
    result: RunResult,
    changed: Sequence[ChangedRow],
) -> None:
    """Posts the result card, and in its thread the trials of a sweep and the changed rows."""
    card = result_card_of(run)
    _show_result(context, run, plan, result)
    headline = result_views.list_headline(result, may_be_used=bool(result.is_offered))
    text = topic_cards.result_notice(link_to(context, run), headline, f"{run.id}")
    messages.tell_result_directly(context, run.requester, run.channel, text, once=f"dm of {card}")
    concerns = run.requester
    if result.trials:
        body = sweeps.table(plan, result.trials).letter()
        once = f"arms of {card}"  # the stored word for trials
        context.send(
            Draft("post", run.channel, body, dedupe=once, thread=card, concerns=concerns, topic="results")
        )
    if changed:
        body = result_details.changed_rows_card(changed, result.start or result.before).letter()
        once = f"changed {run.id}"
        context.send(
            Draft(
                "post",
                run.channel,
                body,
                dedupe=once,
                thread=card,
                private=True,
                concerns=concerns,
                topic="results",
            )
        )


def update_result(context: AppContext, run: Run) -> None:
    """Edits the card of a result whose model was deployed or replaced, whose machine was started again or has stopped,
    or whose judge people have checked. The card of a deleted dataset's run is deleted, and stays so."""
    if run.state != "done" or run.result is None:
        return
    result = RunResult.from_json(run.result)
    is_deleted = context.store.datasets.get(run.dataset_id).forgotten_at is not None
    if result.is_offered is not None and not is_deleted:
        _show_result(context, run, plan_from_json(run.plan), result)


def _show_result(context: AppContext, run: Run, plan: Plan, result: RunResult) -> None:
    result = checked_judges.with_current_checks(context, plan, result)
    name = context.link(card_of(context, run), f"Run {run.id}")
    machine = None
    if plan.hosting is not None and plan.hosting.by_token is None:
        machine = _link_to_hourly_machine(context, run.id)
    after = load_after_result(context.store, run, plan, result)
    message = result_views.card(
        run,
        plan,
        result,
        may_be_used=bool(result.is_offered) and after.is_nothing,
        after=after,
        name=name,
        machine=machine,
        is_stopped=is_machine_stopped(context.store, run, plan),
        offered=_find_offered(context, plan, result),
        by_token=token_serving.offer_of(context, run, plan),
    )
    _show(context, run, result_card_of(run), message, topic="results")


def _link_to_hourly_machine(context: AppContext, run_id: int) -> str | None:
    """Returns a link to the card of the run's newest machine by the hour; None if it had none, or if its model is
    served by the token now."""
    records = context.store.deployments.of_run(run_id)
    if records and records[0].by_token and records[0].state != "stopped":
        return None
    for record in records:
        if not record.by_token:
            return context.link(f"deployment {record.id}", "its card")
    return None


def update_results_about(context: AppContext, dataset: str, candidate: Candidate) -> None:
    """Edits the cards of the results that advise to use this candidate instead of the tuned model, once it was deployed
    or taken out of use."""
    versions = tuple(version.id for version in context.store.datasets.versions(dataset))
    for run in context.store.runs.done(versions):
        if _advised_instead(RunResult.from_json(str(run.result))) == candidate:
            update_result(context, run)


def _find_offered(context: AppContext, plan: Plan, result: RunResult) -> Offered:
    other = _advised_instead(result)
    if other is None:
        return NOT_OFFERED
    return promotion_evidence.find_offered(context, plan.dataset, plan.holdout_sha256, other)


def _advised_instead(result: RunResult) -> Candidate | None:
    """Returns the best alternative, if that one is to be used instead of the tuned model."""
    other = best_alternative(result.comparison)
    if other is None or not is_alternative_enough(result):
        return None
    return other.identity


def training_cost(plan: Plan, progress: Progress) -> int:
    """Returns the cost of a training in micro-dollars, without measuring."""
    return actual_micros(*trained_amounts(plan, progress), billed_micros=progress.billed_micros)


def trained_amounts(plan: Plan, progress: Progress) -> tuple[PriceList, float, int]:
    """Returns the prices, seconds and tokens of a run's training. If nobody counted the tokens of a training that
    succeeded, the plan's are used, so that it doesn't count as free."""
    tokens = progress.trained_tokens
    if progress.is_uncounted:
        tokens = plan.training_tokens
    return PriceList.from_json(plan.prices), progress.train_seconds, tokens


def cancelled_cost(plan: Plan, progress: Progress) -> int:
    """Returns the cost in micro-dollars of a training that was cancelled while it ran. If the vendor reports neither
    tokens nor a bill, the plan's tokens count by the share that was done, or in full if that is unknown too:
    overcharging the budget is safer than undercharging."""
    if progress.trained_tokens:
        return training_cost(plan, progress)
    tokens = round(plan.training_tokens * progress.share_trained)
    return training_cost(plan, replace(progress, trained_tokens=tokens))


def _show(
    context: AppContext,
    run: Run,
    card: str,
    message: Message,
    *,
    topic: Topic = "cards",
    progress: bool = False,
) -> None:
    context.show(card, run.channel, message, concerns=run.requester, progress=progress, topic=topic)
