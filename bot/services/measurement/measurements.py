"""What evaluations and learning curves have in common: agreeing to the cost, cards, cancelling and ending, and answers
to people's questions about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Literal

from bot import logs
from bot.cards.common import freeze as freeze_cards
from bot.cards.common import judge_agreement
from bot.cards.common import message_topics as topic_cards
from bot.cards.common.blocks import CardBlock, Message, escape
from bot.cards.common.general import text_message
from bot.cards.evidence import evaluation_details
from bot.cards.evidence import evaluation_results as comparison_views
from bot.cards.evidence import evaluations as views
from bot.cards.evidence import learning_curves as curve_views
from bot.cards.evidence import prompt_search as prompt_views
from bot.cards.evidence import sealed_rows as sealed_views
from bot.cards.evidence.wrong_rows import details_note
from bot.context import AppContext
from bot.rules import units
from bot.rules.budgets import Budget
from bot.rules.judge_agreement import UNCHECKED
from bot.rules.permissions import VALID_FOR_S, Request
from bot.services.common import authorization, budgets, finished_measurements, freeze_scope, messages
from bot.services.datasets import data_policy, datasets, sealed_rows
from bot.services.datasets.data_policy import EgressPermission
from bot.services.datasets.datasets import CheckedDataset
from bot.services.evidence import checked_judges, judge_worker, measurement_notes, promotion_evidence
from bot.services.evidence.judge_worker import PairsForPeople
from bot.services.evidence.measured_candidates import folder_of, known_comparison, load_measured
from bot.services.measurement import receivers
from bot.values.evaluations import ComparisonPlan, ComparisonProgress
from bot.values.learning_curves import plan_of
from bot.values.runs import Refusal
from storage.evaluations import NewMeasurement
from storage.records import Draft, Measurement
from trainers.evaluation.results import Comparison, Curve, MeasuredCandidate
from trainers.evaluation.scores import HOW_READ
from trainers.money import to_micros, usd_micros

FAULTS = 3
LOOK_FOR_EXPIRY_S = 60.0
UNREADABLE_PAUSE_S = 600.0  # a tick can't go on with a plan that a newer version stored
OPEN = ("asked", "running")


def pairs_for_people(context: AppContext, measurement: Measurement) -> PairsForPeople | None:
    """Returns the pairs of answers that people can compare, None if there are none or their folder was lost."""
    return judge_worker.read_for_people(folder_of(context, measurement))


def dataset_to_measure(
    context: AppContext, dataset: str, person: str, channel: str
) -> CheckedDataset | Refusal:
    """Returns the dataset if this person may have it measured, with the result posted in this channel."""
    refusal = authorization.refusal(context, person, "measure", channel)
    refusal = refusal or authorization.channel_refusal(context, channel)
    return refusal or datasets.load_usable(context, dataset, person, channel, is_posted=True)


def find_open_duplicate(context: AppContext, plan: str) -> Measurement | None:
    """Returns an open measurement with the same plan (as JSON). Call it in the transaction that adds the new one."""
    for other in context.store.measurements.open():
        if other.plan == plan:
            return other
    return None


def add(
    context: AppContext,
    new: NewMeasurement,
    permission: EgressPermission,
    *,
    action: Literal["measure", "curve"],
) -> Measurement:
    """Records a measurement and posts its card, with notes about data rules that were overridden or advise against it;
    the ticks do the rest."""
    now = context.clock()
    with context.store.transaction():
        measurement = context.store.measurements.add(new, now=now)
        subject = f"measurement {measurement.id}"
        context.audit(new.requested_by, action, subject)
        show(context, measurement)
        data_policy.record_egress(context, permission, new.requested_by, subject)
        if permission.notes:
            notes = text_message(f"m{measurement.id}: {escape(' '.join(permission.notes))}")
            once = f"rules of {subject}"
            context.post(new.channel, notes.letter(), topic="receipts", dedupe=once)
    return measurement


def show(context: AppContext, measurement: Measurement, why: str = "") -> None:
    """Posts the card with the measurement's progress, or edits it. `why` is our own text and may hold mrkdwn."""
    context.show(
        card_of(measurement),
        measurement.channel,
        _message(context, measurement, why),
        concerns=measurement.requested_by,
        progress=measurement.state in OPEN,
    )


def card_of(measurement: Measurement) -> str:
    return f"measurement {measurement.id}"


def result_card_of(context: AppContext, measurement: Measurement) -> str:
    """Returns the name of the card with the result: the measurement's own, unless an older version of the bot posted a
    second one."""
    second = f"measured {measurement.id}"
    if context.store.outbox.card(second):
        return second
    return card_of(measurement)


def tell_result_directly(context: AppContext, measurement: Measurement, headline: str) -> None:
    """Tells the person who asked for it, if its channel doesn't want results: the card's edit notifies nobody."""
    number = f"m{measurement.id}"
    name = context.link(card_of(measurement), f"measurement {number}")
    text = topic_cards.result_notice(name, headline, number)
    once = f"dm of result {number}"
    messages.tell_result_directly(context, measurement.requested_by, measurement.channel, text, once=once)


def _message(context: AppContext, measurement: Measurement, why: str) -> Message:
    message = _card(context, measurement, why)
    freeze = freeze_scope.measurement_freeze(context, measurement)
    if freeze is None:
        return message
    return freeze_cards.add_freeze_notice(message, freeze)


def _card(context: AppContext, measurement: Measurement, why: str) -> Message:
    if measurement.kind == "curve":
        return _curve_card(context, measurement, why)
    plan = ComparisonPlan.from_json(measurement.plan)
    progress = ComparisonProgress.from_json(measurement.progress)
    if measurement.state not in OPEN:
        return views.closed_card(measurement, plan, progress, why)
    if progress.stage == "asking":
        left = _remaining_budget(context, measurement)
        test = sealed_rows.load_test(context.store, measurement)
        if test:
            return sealed_views.request_card(measurement, plan, progress, left, test)
        return views.request_card(measurement, plan, progress, left)
    return views.progress_card(measurement, plan, progress, context.clock())


def _curve_card(context: AppContext, measurement: Measurement, why: str) -> Message:
    plan = plan_of(measurement.plan)
    if measurement.state in OPEN:
        return curve_views.progress_card(plan.title)
    if measurement.result is None:
        return curve_views.failure_card(plan.title, why)
    return result_card(context, measurement, measurement.result)


def _remaining_budget(context: AppContext, measurement: Measurement) -> Budget:
    return budgets.tightest(context, measurement.channel, measurement.requested_by)


def settle_cost(context: AppContext, measurement: Measurement, progress: ComparisonProgress) -> None:
    """Goes on once the maximum cost is known: a free measurement begins; any other fails if the budget refuses it, else
    reserves the money and waits for a person to agree. Sealed rows wait for a person even if opening them is free."""
    now = context.clock()
    most = progress.most_micros
    with context.store.transaction():  # so that no approval can spend the same money in between
        refusal = _budget_refusal(context, measurement, most)
        if refusal:
            # the progress names the files that were written for it, which a deletion has to find
            end(context, measurement, "failed", refusal, progress=progress)
        elif most or sealed_rows.opens_sealed_rows(measurement):
            moved = context.store.measurements.move(
                measurement,
                "asked",
                now=now,
                progress=progress.to_json(),
                reserved_micros=most,
                month=units.month_of(now),
                next_at=now + LOOK_FOR_EXPIRY_S,
                tries=0,
            )
            if moved:
                show(context, moved)
        else:
            _begin(context, measurement, progress.start(now), now)


def agree(context: AppContext, number: int, person: str) -> Measurement | Refusal:
    """Begins a measurement after a person agreed to its cost, which was reserved when the card asked."""
    refusal = _agreement_refusal(context, number, person)
    if refusal:
        return refusal
    now = context.clock()
    with context.store.transaction():
        measurement = context.store.measurements.get(number)
        if measurement is None or measurement.state != "asked":
            return state_refusal(number, measurement)
        progress = ComparisonProgress.from_json(measurement.progress)
        if progress.stage != "asking":
            return Refusal(
                f"The cost of m{number} is still being computed; its card will show it in a moment."
            )
        if units.month_of(now) != measurement.month:  # the money was reserved in a month that is over
            over_budget = _budget_refusal(context, measurement, progress.most_micros)
            if over_budget:
                return Refusal(over_budget)
        moved = _begin(context, measurement, progress.start(now, person), now)
        if moved is None:
            return state_refusal(number, context.store.measurements.get(number))
        most = usd_micros(progress.most_micros)
        context.audit(person, "agree", f"measurement {number}", f"up to {most}")
    return moved


def begin_unasked(context: AppContext, measurement: Measurement, because: str) -> bool:
    """Begins a measurement without a click, as a policy allows. Returns False if its cost wasn't reserved this month,
    or its rows may not leave now; then it waits for a person. Call it in a transaction."""
    now = context.clock()
    progress = ComparisonProgress.from_json(measurement.progress)
    if progress.stage != "asking" or measurement.month != units.month_of(now):
        return False
    if receivers.egress_refusal(context, measurement) or not _begin(
        context, measurement, progress.start(now), now
    ):
        return False
    context.audit("finetune", "agree", f"measurement {measurement.id}", because)
    return True


def expire_or_wait(context: AppContext, measurement: Measurement) -> None:
    """Waits for somebody to agree to the cost, for 24 hours."""
    now = context.clock()
    if now - measurement.created_at > VALID_FOR_S:
        end(context, measurement, "cancelled", "Nobody agreed to its cost within 24 hours.")
    else:
        context.store.measurements.move(measurement, "asked", now=now, next_at=now + LOOK_FOR_EXPIRY_S)


def _budget_refusal(context: AppContext, measurement: Measurement, most: int) -> str | None:
    """Returns why `most` micro-dollars may not be spent on this measurement, and what to do about it."""
    limit = to_micros(context.settings.budget.measurement_usd)
    if most > limit:
        return (
            f"It could cost up to {usd_micros(most)}, and the limit for one measurement is {usd_micros(limit)}. "
            "Name fewer models or candidates (`candidates=zero`), or raise `measurement_usd` under [budget] in "
            "finetune.toml."
        )
    return budgets.refusal(context, measurement.channel, measurement.requested_by, most, "measurement")


def _begin(
    context: AppContext, measurement: Measurement, started: ComparisonProgress, now: float
) -> Measurement | None:
    """Starts a measurement, None if another thread moved it first. Call it inside a transaction."""
    moved = context.store.measurements.move(
        measurement,
        "running",
        now=now,
        progress=started.to_json(),
        reserved_micros=started.most_micros,
        # The month in which it begins pays, also if its cost was reserved in the one before.
        month=units.month_of(now),
    )
    if moved:
        show(context, moved)
    return moved


def cancel(context: AppContext, measurement: Measurement, *, spent_micros: int = 0, reason: str = "") -> None:
    """Ends a measurement that a person asked to cancel. `reason` may hold mrkdwn."""
    by = f"Cancelled by <@{measurement.cancel_asked_by}>."
    end(context, measurement, "cancelled", f"{by} {reason}".strip(), actual_micros=spent_micros)


def finish(
    context: AppContext,
    measurement: Measurement,
    result: str,
    *,
    spent_micros: int,
    progress: str | None = None,
) -> Measurement | None:
    """Ends a measurement with a result, which replaces its card; `result` and `progress` are JSON. Returns None if
    another thread ended it first. Call it inside a transaction."""
    moved = close(context, measurement, result, spent_micros=spent_micros, progress=progress)
    if moved:
        show_result(context, moved)
    return moved


def close(
    context: AppContext,
    measurement: Measurement,
    result: str,
    *,
    spent_micros: int,
    progress: str | None = None,
) -> Measurement | None:
    """Like `finish`, but leaves the card as it is."""
    changes = {}
    if progress is not None:
        changes["progress"] = progress
    moved = context.store.measurements.move(
        measurement, "done", now=context.clock(), result=result, actual_micros=spent_micros, **changes
    )
    if moved:
        context.audit("finetune", "measured", f"measurement {moved.id}")
    return moved


def show_result(context: AppContext, measurement: Measurement) -> None:
    message = result_card(context, measurement, measurement.result or "")
    context.show(card_of(measurement), measurement.channel, message, concerns=measurement.requested_by)


def end(
    context: AppContext,
    measurement: Measurement,
    state: Literal["failed", "cancelled"],
    why: str,
    *,
    actual_micros: int = 0,
    progress: ComparisonProgress | None = None,
) -> None:
    """Ends a measurement without a result, and releases the reserved money that was not spent. `why` may hold
    mrkdwn."""
    changes = {}
    if progress is not None:
        changes["progress"] = progress.to_json()
    with context.store.transaction():
        moved = context.store.measurements.move(
            measurement, state, now=context.clock(), error=why, actual_micros=actual_micros, **changes
        )
        # Another thread ended it first, and told people.
        if moved is None:
            return
        subject = f"measurement {moved.id}"
        context.audit("finetune", state, subject, why)
        show(context, moved, why)
        if state == "failed":  # Slack notifies nobody of an edited card
            name = context.link(card_of(moved), f"measurement m{moved.id}")
            message = text_message(f"Your {name} failed. {why}")
            letter = Draft(
                "direct",
                moved.channel,
                message.body(),
                dedupe=f"end of {subject}",
                person=moved.requested_by,
                topic="problems",
            )
            context.send(letter)


def retry_or_fail(context: AppContext, measurement: Measurement, spent_micros: Callable[[], int]) -> None:
    """Repeats a step that stopped with an error of the bot. After a few attempts the measurement fails, with
    `spent_micros()` as its cost. One that can't be read waits, because the newer version that stored it can go on with
    it."""
    now = context.clock()
    if unreadable_refusal(measurement):
        context.store.measurements.move(
            measurement, measurement.state, now=now, next_at=now + UNREADABLE_PAUSE_S
        )
        return
    if measurement.tries + 1 >= FAULTS:
        # Its cost is summed up only here: with a plan that can't be read, that would fail again.
        why = f"The bot ran into an error while measuring, {FAULTS} times in a row. {logs.sorry()}"
        end(context, measurement, "failed", why, actual_micros=spent_micros())
        return
    context.store.measurements.move(
        measurement, measurement.state, now=now, tries=measurement.tries + 1, next_at=now + 5
    )


def current_card(context: AppContext, number: int, person: str, channel: str) -> Message | Refusal:
    """Returns the card of a measurement's result, or of its progress."""
    measurement = _visible_measurement(context, number, person, channel)
    if measurement is None:
        return state_refusal(number, None)
    unreadable = unreadable_refusal(measurement)
    if unreadable:
        return unreadable
    if measurement.result is None:
        return _message(context, measurement, measurement.error or "")
    return result_card(context, measurement, measurement.result)


def details(context: AppContext, number: int, person: str, channel: str) -> Sequence[CardBlock] | Refusal:
    """Returns the details that the card of a result has no room for."""
    measurement = _visible_measurement(context, number, person, channel)
    if measurement is None or measurement.result is None:
        return state_refusal(number, measurement)
    unreadable = unreadable_refusal(measurement)
    if unreadable:
        return unreadable
    if measurement.kind == "curve":
        return curve_views.details(Curve.from_json(measurement.result), _label_usd(measurement))
    plan = ComparisonPlan.from_json(measurement.plan)
    progress = ComparisonProgress.from_json(measurement.progress)
    comparison = known_comparison(context.store, context.settings.files, measurement)
    judge = checked_judges.judge_of_measurement(context, measurement, may_show=False)
    prompt = prompt_views.details(plan, progress.search)
    dataset = context.store.datasets.get(measurement.dataset_id)
    # A prompt that was written from rows may quote them.
    may_show = not prompt or authorization.may_show_rows(context, dataset, channel)

    people = judge.checks if judge else UNCHECKED
    notes = [*measurement_notes.judge_notes(context.store, measurement, comparison, people)]
    if plan.judge:
        notes += judge_agreement.earlier_choices(checked_judges.preferences_of(context, measurement))
    notes += views.shots_notes(progress.shots)
    notes += views.fewer_examples(plan)
    notes += views.left_out(progress.candidates)
    notes += views.declined(progress.candidates)
    notes += measurement_notes.withheld_notes(plan)
    if not may_show:
        notes.append(prompt_views.KEPT_FROM_HERE)
    notes += measurement_notes.looks_notes(context.store, measurement, comparison)

    blocks = evaluation_details.details(
        comparison,
        spent_micros=measurement.actual_micros,
        lost_micros=progress.lost_micros,
        estimated_micros=progress.most_micros,
        how_read=HOW_READ if plan.labels else None,
        notes=notes,
    )
    blocks = (*blocks, details_note(f"m{number}"))
    if not may_show:
        return blocks
    return (*blocks, *prompt)


def _visible_measurement(context: AppContext, number: int, person: str, channel: str) -> Measurement | None:
    """Returns the measurement, None if there is none or this person may not know of it."""
    measurement = context.store.measurements.get(number)
    if measurement is None:
        return None
    dataset = context.store.datasets.get(measurement.dataset_id).name
    if not authorization.may_use_dataset(context, dataset, person, channel):
        return None
    return measurement


def result_card(
    context: AppContext, measurement: Measurement, result: str, *, for_people: bool | None = None
) -> Message:
    """Returns the card of a result, given as JSON. `for_people` is True if answers may be shown in its channel; None
    looks that up."""
    if measurement.kind == "curve":
        return _curve_result_card(context, measurement, Curve.from_json(result))
    progress = ComparisonProgress.from_json(measurement.progress)
    own = Comparison.from_json(result)
    test = sealed_rows.load_test(context.store, measurement)
    if test:
        return sealed_views.result_card(own, measurement.id, test, progress.outcome)
    comparison = known_comparison(context.store, context.settings.files, measurement)
    answers = judge_worker.read_answers(folder_of(context, measurement))
    pairs = pairs_for_people(context, measurement)
    has_answers = bool(answers or (pairs and pairs.rows))
    dataset = context.store.datasets.get(measurement.dataset_id)
    if has_answers and for_people is None:
        for_people = authorization.may_show_rows(context, dataset, measurement.channel)
    judge = checked_judges.judge_of_measurement(context, measurement, may_show=bool(for_people))
    people = judge.checks if judge else UNCHECKED
    notes = measurement_notes.card_notes(context.store, measurement, comparison, people)
    return comparison_views.card(
        comparison,
        own=[candidate.identity for candidate in own.candidates],
        number=measurement.id,
        notes=notes,
        for_people=bool(has_answers and for_people),
        judge=judge,
        is_searched=progress.search is not None,
        offered=promotion_evidence.offer_cheapest(context, measurement),
    )


def _curve_result_card(context: AppContext, measurement: Measurement, curve: Curve) -> Message:
    settings = context.store.dataset_settings.get(curve.dataset)
    return curve_views.card(
        curve,
        number=measurement.id,
        label_usd=_label_usd(measurement),
        bar=settings.bar if settings else None,
        free=_free_candidates(context, curve),
    )


def _free_candidates(context: AppContext, curve: Curve) -> tuple[MeasuredCandidate, ...]:
    """Returns the free candidates that were measured on the curve's held-out rows."""
    files = context.settings.files
    measured = load_measured(context.store, files, curve.dataset, curve.holdout_sha256)
    if measured is None:
        return ()
    return tuple(candidate for candidate in measured.comparison.candidates if candidate.is_free)


def _label_usd(measurement: Measurement) -> Decimal | None:
    plan = plan_of(measurement.plan)
    if not plan.label_usd:
        return None
    return Decimal(plan.label_usd)


def ask_cancel(context: AppContext, number: int, person: str, here: str | None = None) -> str | Refusal:
    """Records the request to cancel; the next tick carries it out. `here` is the channel where the person typed the
    number, None if they pressed a button on the card."""
    measurement = context.store.measurements.get(number)
    if measurement is None:
        return state_refusal(number, None)
    dataset = context.store.datasets.get(measurement.dataset_id)
    is_seen_here = here in (None, measurement.channel)
    is_known = is_seen_here or authorization.may_use_dataset(context, dataset.name, person, here)
    if measurement.state in OPEN:
        request = Request(measurement.requested_by, dataset.uploaded_by, measurement.created_at)
        refusal = authorization.refusal(context, person, "cancel", request=request)
    else:
        refusal = state_refusal(number, measurement)
    if refusal and not is_known:  # a refusal must not tell that there is such a measurement
        return state_refusal(number, None)
    if refusal:
        return refusal
    unreadable = unreadable_refusal(measurement)
    if unreadable:  # what it has cost until now can't be read either
        return unreadable
    if measurement.cancel_asked_by:
        first = measurement.cancel_asked_by
        return Refusal(f"m{number} is already being cancelled, as <@{first}> asked.")
    now = context.clock()
    with context.store.transaction():
        moved = context.store.measurements.move(
            measurement, measurement.state, now=now, cancel_asked_by=person, next_at=now
        )
        if moved:
            context.audit(person, "cancel", f"measurement {number}")
    if moved is None:
        return Refusal(f"m{number} changed just now; try again.")
    return f"Cancelling m{number} …"


def _agreement_refusal(context: AppContext, number: int, person: str) -> Refusal | None:
    """Returns why this person can't agree to the cost, None if they can."""
    measurement = context.store.measurements.get(number)
    channel = None
    if measurement is not None:
        channel = measurement.channel
    refused = authorization.refusal(context, person, "measure", channel)
    if refused or measurement is None:
        return refused
    unreadable = unreadable_refusal(measurement)
    if unreadable:
        return unreadable
    if sealed_rows.opens_sealed_rows(measurement):  # if the model passes, it is deployed
        refused = authorization.refusal(context, person, "promote", measurement.channel)
        if refused:
            return refused
    return receivers.agreement_refusal(context, measurement)


def unreadable_refusal(measurement: Measurement) -> Refusal | None:
    """Refuses what needs a measurement that a newer version of the bot stored; None if this version can read it."""
    if finished_measurements.is_readable(measurement):
        return None
    return Refusal(views.stored_by_newer_version(measurement.id))


def state_refusal(number: int, measurement: Measurement | None) -> Refusal:
    """Refuses a request that does not fit the measurement's state. None: there is no such measurement."""
    if measurement is None:
        return Refusal(f"There is no measurement m{number}. `/finetune baseline DATASET` makes one.")
    states = {"asked": "has not begun", "running": "is under way", "done": "is done", "failed": "failed"}
    sentence = f"m{number} {states.get(measurement.state, 'was cancelled')}"
    if measurement.error:
        return Refusal(f"{sentence}: {measurement.error}")
    return Refusal(f"{sentence}.")
