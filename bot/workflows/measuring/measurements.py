"""What ladders and curves share: their cards, their end, a person's wish to cancel, what people ask about them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Literal

from bot import logs
from bot.decisions.approval import Request
from bot.decisions.budget import Budget
from bot.measured import LadderPlan, LadderProgress
from bot.results import Refusal
from bot.tuned_curves import TunedCurvePlan, TunedCurveProgress, plan_of
from bot.views import curves as curve_views
from bot.views import freezing, verdicts
from bot.views import ladder as ladder_views
from bot.views import measuring as views
from bot.views import tuned_curves as tuned_curve_views
from bot.views.blocks import Message, escape
from bot.views.general import sentence
from bot.views.words import counted
from bot.workflows import holding, leaving, money, permits, sharing
from bot.workflows.desk import Desk
from bot.workflows.leaving import Leave
from bot.workflows.measuring import agreeing
from storage.records import Draft, Measurement
from trainers.measuring.reading import HOW_READ
from trainers.measuring.values import Curve, Ladder

FAULTS = 3
OPEN = ("asked", "running")


def show(desk: Desk, measurement: Measurement, why: str = "") -> None:
    """The card of how far it is: posted once, edited from then on. `why` is ours and may hold mrkdwn."""
    card = card_of(measurement)
    known = desk.store.outbox.card(card) or desk.store.outbox.is_waiting(card)
    desk.store.outbox.put(
        Draft(
            kind="edit" if known else "post",
            channel=measurement.channel,
            body=_message(desk, measurement, why).letter(),
            card=card,
            dedupe=None if known else card,
            concerns=measurement.requested_by,
            progress=measurement.state in OPEN,
        ),
        now=desk.clock(),
    )


def card_of(measurement: Measurement) -> str:
    return f"measurement {measurement.id}"


def result_card_of(measurement: Measurement) -> str:
    return f"measured {measurement.id}"


def folder_of(desk: Desk, measurement: Measurement) -> Path:
    """Its prompts, plots, and the pairs that people may compare."""
    return desk.settings.data / "measurements" / f"m{measurement.id}"


def result(desk: Desk, measurement: Measurement, message: Message, details: Message | None) -> str:
    """A message of its own, since an edit notifies nobody, and the details in its thread. The card's name."""
    card, now = result_card_of(measurement), desk.clock()
    to, who = measurement.channel, measurement.requested_by
    post = Draft(kind="post", channel=to, body=message.letter(), card=card, dedupe=card, concerns=who)
    desk.store.outbox.put(post, now=now)
    if details:
        once = f"details of measurement {measurement.id}"
        body = details.letter()
        more = Draft(kind="post", channel=to, body=body, thread=card, dedupe=once, concerns=who)
        desk.store.outbox.put(more, now=now)
    return card


def plot(desk: Desk, measurement: Measurement, card: str, path: Path | None, alt: str) -> None:
    """Into the thread of that card."""
    if path:
        body = {"file": str(path), "filename": path.name, "title": alt, "alt_txt": alt}
        once = f"{path.stem} of measurement {measurement.id}"
        to, who = measurement.channel, measurement.requested_by
        file = Draft(kind="file", channel=to, body=body, thread=card, dedupe=once, concerns=who)
        desk.store.outbox.put(file, now=desk.clock())


def _message(desk: Desk, measurement: Measurement, why: str) -> Message:
    message, freeze = _card(desk, measurement, why), holding.on_measurement(desk, measurement)
    return freezing.held(message, freeze) if freeze else message


def _card(desk: Desk, measurement: Measurement, why: str) -> Message:
    if measurement.kind == "curve":
        return _curve(desk, measurement, why)
    plan, progress = LadderPlan.from_json(measurement.plan), LadderProgress.from_json(measurement.progress)
    if measurement.state not in OPEN:
        return views.over(measurement, plan, progress, why)
    if progress.stage == "asking":
        return views.asked(measurement, plan, progress, _left(desk, measurement))
    return views.progress(measurement, plan, progress, desk.clock())


def _curve(desk: Desk, measurement: Measurement, why: str) -> Message:
    plan = plan_of(measurement.plan)
    if isinstance(plan, TunedCurvePlan):
        return _tuned_curve(desk, measurement, plan, why)
    if measurement.state in OPEN:
        return curve_views.working(plan.title)
    if measurement.result is None:
        return curve_views.failed(plan.title, why)
    return result_card(desk, measurement, measurement.result)


def _tuned_curve(desk: Desk, measurement: Measurement, plan: TunedCurvePlan, why: str) -> Message:
    known = TunedCurveProgress.from_json(measurement.progress)
    if measurement.state not in OPEN:
        return tuned_curve_views.over(measurement, plan, known, why)
    if known.stage == "preparing":
        return curve_views.working(plan.title, plan.target)
    if known.stage == "asking":
        return tuned_curve_views.asked(measurement, plan, known, _left(desk, measurement))
    return tuned_curve_views.progress(measurement, plan, known)


def _left(desk: Desk, measurement: Measurement) -> Budget:
    return money.tightest(desk, measurement.channel, measurement.requested_by)


def end(
    desk: Desk,
    measurement: Measurement,
    state: Literal["failed", "cancelled"],
    why: str,
    *,
    actual_micros: int = 0,
) -> None:
    """Final, without a result: what was reserved is free again, less what was spent. `why` may hold mrkdwn."""
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.measurements.move(
            measurement, state, now=now, error=why, actual_micros=actual_micros
        )
        if moved is None:
            return
        subject = f"measurement {moved.id}"
        desk.store.audit.add(at=now, who="finetune", action=state, subject=subject, detail=why)
        show(desk, moved, why)
        if state == "failed":
            message = _message(desk, moved, why)
            once = f"end of {subject}"
            body, who = message.letter(), moved.requested_by
            draft = Draft(kind="post", channel=moved.channel, body=body, dedupe=once, concerns=who)
            desk.store.outbox.put(draft, now=now)


def again_or_fail(desk: Desk, measurement: Measurement, spent_micros: Callable[[], int]) -> None:
    """A step stopped with a fault of ours: a few times more, then it is over, and has cost `spent_micros`."""
    now = desk.clock()
    if measurement.tries + 1 >= FAULTS:
        why = f"Something in the bot went wrong while measuring, several times. {logs.sorry()}"
        end(desk, measurement, "failed", why, actual_micros=spent_micros())
        return
    desk.store.measurements.move(
        measurement, measurement.state, now=now, tries=measurement.tries + 1, next_at=now + 5
    )


def look(desk: Desk, number: int, person: str, channel: str) -> Message | Refusal:
    """How far it is; what came of it."""
    measurement = desk.store.measurements.get(number)
    if measurement is None:
        return too_late(number, None)
    if not sharing.may_use(desk, desk.store.datasets.get(measurement.dataset_id).name, person, channel):
        return too_late(number, None)
    if measurement.result is None:
        return _message(desk, measurement, measurement.error or "")
    return result_card(desk, measurement, measurement.result)


def judge_of(measurement: Measurement) -> str | None:
    """The model whose verdicts are the scores of this ladder, if one's are."""
    judge = LadderProgress.from_json(measurement.progress).judge
    return LadderPlan.from_json(measurement.plan).judge if judge and judge.failed is None else None


def result_card(
    desk: Desk, measurement: Measurement, found: str, *, for_people: bool | None = None
) -> Message:
    """`found` is the result's JSON. `for_people`: its answers may be shown in its channel; None: that is looked up."""
    if measurement.kind == "curve":
        return _curve_card(desk, measurement, Curve.from_json(found))
    plan, progress = LadderPlan.from_json(measurement.plan), LadderProgress.from_json(measurement.progress)
    ladder, pairs = Ladder.from_json(found), agreeing.pairs(desk, measurement)
    judged = verdicts.notes(plan, progress.judge, ladder, agreeing.found(desk, measurement))
    if pairs and pairs.rows and for_people is None:
        dataset = desk.store.datasets.get(measurement.dataset_id)
        for_people = sharing.may_show_rows(desk, dataset, measurement.channel)
    return ladder_views.card(
        ladder,
        number=measurement.id,
        spent_micros=measurement.actual_micros,
        estimated_micros=progress.most_micros,
        how_read=HOW_READ if plan.labels else None,
        notes=[*judged, *_notes(plan, progress)],
        for_people=bool(pairs and pairs.rows and for_people),
    )


def _curve_card(desk: Desk, measurement: Measurement, curve: Curve) -> Message:
    plan, wanted = plan_of(measurement.plan), desk.store.dataset_settings.get(curve.dataset)
    beside = None
    if isinstance(plan, TunedCurvePlan):
        beside = TunedCurveProgress.from_json(measurement.progress).classical
    return curve_views.card(
        curve,
        label_usd=Decimal(plan.label_usd) if plan.label_usd else None,
        bar=wanted.bar if wanted else None,
        beside=beside,
    )


def _notes(plan: LadderPlan, progress: LadderProgress) -> list[str]:
    return [*views.shortfalls(progress.arms), *_about_knowledge(plan)]


def _about_knowledge(plan: LadderPlan) -> list[str]:
    if not plan.documents or not any(arm.rung == "retrieval" for arm in plan.arms):
        return []
    read = f"Retrieval read {counted(len(plan.documents), 'document')} that you gave as knowledge."
    if not plan.withheld_from:
        return [read]
    whom = ", ".join(plan.withheld_from)
    return [
        read,
        f"Passages with personal data were kept from {whom}: nobody has waived it for this dataset since "
        "its documents were given.",
    ]


def ask_cancel(desk: Desk, number: int, person: str, here: str | None = None) -> str | Refusal:
    """Note the wish; the next tick carries it out. `here`: the channel where they typed its number; None: they pressed
    a button on its card."""
    measurement = desk.store.measurements.get(number)
    if measurement is None:
        return too_late(number, None)
    dataset = desk.store.datasets.get(measurement.dataset_id)
    is_known = here in (None, measurement.channel) or sharing.may_use(desk, dataset.name, person, here)
    if measurement.state not in OPEN:
        return too_late(number, measurement if is_known else None)
    request = Request(measurement.requested_by, dataset.uploaded_by, measurement.created_at)
    refused = permits.may(desk, person, "cancel", request=request)
    if refused:
        return refused if is_known else too_late(number, None)
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.measurements.move(
            measurement, measurement.state, now=now, cancel_asked_by=person, next_at=now
        )
        if moved:
            desk.store.audit.add(at=now, who=person, action="cancel", subject=f"measurement {number}")
    return f"Cancelling m{number} …" if moved else Refusal(f"m{number} moved on just now; try again.")


def let_leave(desk: Desk, measurement: Measurement, leave: Leave) -> None:
    """Which rules about data were set aside or advise against it: recorded, and said in the channel."""
    number = measurement.id
    leaving.record(desk, leave, measurement.requested_by, f"measurement {number}")
    if leave.notes:
        said = sentence(f"m{number}: {escape(' '.join(leave.notes))}")
        desk.say(measurement.channel, said.letter(), dedupe=f"rules of measurement {number}")


def may_agree(desk: Desk, number: int, person: str) -> Refusal | None:
    """To what a measurement costs."""
    measurement = desk.store.measurements.get(number)
    refused = permits.may(desk, person, "measure", measurement.channel if measurement else None)
    if refused or measurement is None:
        return refused
    aside = leaving.recorded(desk, f"measurement {number}")
    said = leaving.forbidden(desk, measurement.dataset_id, providers(measurement), aside)
    return Refusal(said) if said else None


def providers(measurement: Measurement) -> set[str]:
    """Where its data goes."""
    if measurement.kind == "ladder":
        return {name.split("/", 1)[0] for name in LadderPlan.from_json(measurement.plan).price_of}
    plan = plan_of(measurement.plan)
    return {plan.provider} if isinstance(plan, TunedCurvePlan) else set()


def too_late(number: int, measurement: Measurement | None) -> Refusal:
    if measurement is None:
        return Refusal(f"There is no measurement m{number}. `/finetune baseline DATASET` makes one.")
    said = {"asked": "waits", "running": "is under way", "done": "is done", "failed": "failed"}
    why = f": {measurement.error}" if measurement.error else "."
    return Refusal(f"m{number} {said.get(measurement.state, 'was cancelled')}{why}")
