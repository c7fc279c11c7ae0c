"""The ladder: alternatives to fine-tuning, measured on the frozen holdout. Climbed by the ticks (baselines.py asks).

asked, preparing    a worker writes the prompts; what they would cost is known from then on
asked, pricing      a model shall judge the answers: what it would cost beside them (consulting.py)
asked, asking       it costs money: a card waits for a person's yes
running, measuring  questions go to the askers; their answers come into the store one by one
running, consulting the judge is asked in the same way (consulting.py)
running, judging    a worker counts and draws
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from bot.decisions.approval import VALID_FOR_S
from bot.decisions.spending import most_micros
from bot.measured import ArmProgress, LadderPlan, LadderProgress, Stage
from bot.views import ladder as views
from bot.views.blocks import escape
from bot.work import climbing, verdicts
from bot.work.climbing import ArmKeys
from bot.work.verdicts import Concluded
from bot.workflows import holding, money, telling
from bot.workflows.datasets import SEED
from bot.workflows.desk import Desk
from bot.workflows.holding import HOLD_S
from bot.workflows.measuring import climb, consent, consulting, counting, measurements
from bot.workflows.rechecking import Forbidden
from storage.records import KeptReply, Measurement
from trainers.measuring.values import Arm
from trainers.money import to_micros, usd_micros

LOOK_FOR_EXPIRY_S = 60.0

log = logging.getLogger(__name__)


def step(desk: Desk, measurement: Measurement) -> None:
    """One step of an open ladder."""
    plan, progress = LadderPlan.from_json(measurement.plan), LadderProgress.from_json(measurement.progress)
    if measurement.cancel_asked_by:
        _cancel(desk, measurement, plan, progress)
        return
    if holding.on_measurement(desk, measurement):
        desk.askers.drop(climb.owner(measurement))  # answers under way are kept when they come
        desk.store.measurements.move(
            measurement, measurement.state, now=desk.clock(), next_at=desk.clock() + HOLD_S
        )
        return
    match progress.stage:
        case "preparing":
            _prepare(desk, measurement, plan)
        case "pricing":
            _price_judge(desk, measurement, plan, progress)
        case "asking":
            _expire_or_wait(desk, measurement)
        case "measuring":
            _measure(desk, measurement, plan, progress)
        case "consulting":
            consulting.step(desk, measurement, plan, progress)
        case "judging":
            _judge(desk, measurement, plan, progress)


def after_trouble(desk: Desk, measurement: Measurement) -> None:
    """A step stopped with a fault of ours: a few times more, then people are told."""
    plan, progress = LadderPlan.from_json(measurement.plan), LadderProgress.from_json(measurement.progress)
    measurements.again_or_fail(desk, measurement, lambda: climb.stopped(desk, measurement, plan, progress))


def _prepare(desk: Desk, measurement: Measurement, plan: LadderPlan) -> None:
    """The prompts are written first: only then is it known what they cost, and which answers are there already."""
    keys = climb.keys_of(desk, measurement, plan)
    if keys is None:
        return
    found = climb.answered(desk, keys)
    arms = tuple(ArmProgress(arm, len(one.keys), counting.answered(one, found)) for arm, one in keys.items())
    most = most_micros(plan.price_of, keys, found, climbing.max_tokens(plan.labels), plan.thinking)
    progress = LadderProgress("asking", arms, most)
    if plan.judge:
        climb.keep(desk, measurement, replace(progress, stage="pricing"), None)
    else:
        settle_cost(desk, measurement, progress)


def _price_judge(desk: Desk, measurement: Measurement, plan: LadderPlan, progress: LadderProgress) -> None:
    most = consulting.most(desk, measurement, plan, progress)
    if most is not None:
        whole = replace(progress, stage="asking", most_micros=progress.most_micros + most)
        settle_cost(desk, measurement, whole)


def settle_cost(desk: Desk, measurement: Measurement, progress: LadderProgress) -> None:
    """What it costs at most is known: reserved and asked for, refused, or begun where it is nothing."""
    with desk.store.transaction():  # an approval in between would pass the budget
        refusal = too_dear(desk, measurement, progress.most_micros)
        if refusal:
            measurements.end(desk, measurement, "failed", refusal)
        elif progress.most_micros:
            _ask_for_money(desk, measurement, progress)
        else:
            begin(desk, measurement, progress)


def too_dear(desk: Desk, measurement: Measurement, most: int) -> str | None:
    """Why so much may not be spent, with the cure."""
    limit = to_micros(desk.settings.measurement_usd)
    if most > limit:
        return (
            f"It could cost up to {usd_micros(most)}, and one measurement may cost {usd_micros(limit)}. Name fewer "
            "models or rungs (`rungs=zero`), or raise `measurement_usd` under [budget] in finetune.toml."
        )
    refusal = money.refusal(desk, measurement.channel, measurement.requested_by, most)
    return refusal.replace("This run", "This measurement") if refusal else None


def _ask_for_money(desk: Desk, measurement: Measurement, progress: LadderProgress) -> None:
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.measurements.move(
            measurement,
            "asked",
            now=now,
            progress=progress.to_json(),
            reserved_micros=progress.most_micros,
            month=telling.month(now),
            next_at=now + LOOK_FOR_EXPIRY_S,
            tries=0,
        )
        if moved:
            measurements.show(desk, moved)


def begin(desk: Desk, measurement: Measurement, progress: LadderProgress) -> Measurement | None:
    """Nothing stands in its way any more. Call it inside a transaction."""
    now = desk.clock()
    started = replace(progress, stage="measuring", started_at=now)
    moved = desk.store.measurements.move(
        measurement,
        "running",
        now=now,
        progress=started.to_json(),
        reserved_micros=progress.most_micros,
        month=telling.month(now),
    )
    if moved:
        measurements.show(desk, moved)
    return moved


def _expire_or_wait(desk: Desk, measurement: Measurement) -> None:
    now = desk.clock()
    if now - measurement.created_at > VALID_FOR_S:
        measurements.end(desk, measurement, "cancelled", "Nobody agreed to its cost within 24 hours.")
    else:
        desk.store.measurements.move(measurement, "asked", now=now, next_at=now + LOOK_FOR_EXPIRY_S)


def _measure(desk: Desk, measurement: Measurement, plan: LadderPlan, progress: LadderProgress) -> None:
    """What is missing is asked for; once every arm is whole, or has failed, it is judged. Answers are counted, not
    read: with a thousand rows that took most of a tick."""
    keys = climb.keys_of(desk, measurement, plan)
    if keys is None:
        return
    found = climb.answered(desk, keys)
    declined = desk.askers.collect(climb.owner(measurement))
    arms = tuple(counting.counted(one, keys[one.arm], found, declined) for one in progress.arms)
    missing = counting.missing(keys, arms, found)
    now_known = replace(
        progress,
        arms=arms,
        spent_micros=climb.spent_by_arms(desk, plan, keys, progress.started_at or 0.0),
        note=_note(desk, arms),
    )
    if now_known.spent_micros > now_known.most_micros:
        why = f"The answers cost more than the {usd_micros(now_known.most_micros)} that were agreed, so it was stopped."
        spent = climb.stopped(desk, measurement, plan, now_known)
        measurements.end(desk, measurement, "failed", why, actual_micros=spent)
    elif all(one.is_whole for one in arms):
        _measured(desk, measurement, plan, now_known)
    else:
        climb.keep(desk, measurement, now_known, progress)
        _answer_classical(desk, measurement, plan, keys, found)
        _ask_if_it_may_leave(desk, measurement, plan, missing, now_known)


def _ask_if_it_may_leave(
    desk: Desk,
    measurement: Measurement,
    plan: LadderPlan,
    missing: Mapping[Arm, frozenset[str]],
    progress: LadderProgress,
) -> None:
    """What was begun before its rows were looked through as they are written waits for that."""
    match consent.of_rows(desk, measurement):
        case None:
            _ask_models(desk, measurement, plan, missing)
        case Forbidden(said):
            spent = climb.stopped(desk, measurement, plan, progress)
            measurements.end(desk, measurement, "failed", said, actual_micros=spent)


def _answer_classical(
    desk: Desk,
    measurement: Measurement,
    plan: LadderPlan,
    keys: Mapping[Arm, ArmKeys],
    found: frozenset[str],
) -> None:
    """Rung 0 asks nobody; its answers are kept beside the models'."""
    wanted = keys.get(Arm("classical"))
    if wanted is None or all(key in found for key in wanted.keys):
        return
    said = desk.workers.poll(
        f"classical m{measurement.id}", climbing.classical, plan, desk.settings.files, SEED
    )
    if said is not None:
        now = desk.clock()
        kept = [
            KeptReply(key, "classical", one.text, one.prompt_tokens, one.completion_tokens, one.seconds, now)
            for key, one in zip(wanted.keys, said, strict=True)
        ]
        desk.store.replies.keep(kept, climb.owner(measurement))


def _ask_models(
    desk: Desk, measurement: Measurement, plan: LadderPlan, missing: Mapping[Arm, frozenset[str]]
) -> None:
    owner = climb.owner(measurement)
    wanted = frozenset().union(*missing.values())
    if len(wanted) <= desk.askers.waiting(owner):
        desk.askers.wake()
        return
    questions = climbing.read_questions(measurements.folder_of(desk, measurement), plan, wanted)
    for provider in {question.model.split("/", 1)[0] for question in questions}:
        theirs = [one for one in questions if one.model.startswith(f"{provider}/")]
        desk.askers.ask(owner, provider, theirs)


def _note(desk: Desk, arms: tuple[ArmProgress, ...]) -> str | None:
    """Why it does not go on at some provider, where that is so."""
    waits = {str(one.arm.model).split("/", 1)[0] for one in arms if one.arm.model and not one.is_whole}
    troubles = [trouble for name in sorted(waits) if (trouble := desk.askers.trouble(name))]
    return f"{' '.join(troubles)} Measuring goes on by itself." if troubles else None


def _measured(desk: Desk, measurement: Measurement, plan: LadderPlan, progress: LadderProgress) -> None:
    if all(one.failed is not None for one in progress.arms):
        if desk.askers.drop(climb.owner(measurement)):
            climb.keep(desk, measurement, progress, None)
            return  # what is under way may be refused like the rest, or be paid: it is waited for
        why = " ".join(dict.fromkeys(escape(str(one.failed)) for one in progress.arms))
        measurements.end(desk, measurement, "failed", why, actual_micros=progress.spent_micros)
        return
    stage: Stage = "consulting" if plan.judge else "judging"
    climb.keep(desk, measurement, replace(progress, stage=stage, note=None), None)


def _judge(desk: Desk, measurement: Measurement, plan: LadderPlan, progress: LadderProgress) -> None:
    keys = climb.keys_of(desk, measurement, plan)
    if keys is None:
        return
    heard = consulting.heard(desk, measurement, plan, progress.judge) if progress.judge else None
    if heard and heard.acceptable is None and heard.failed is None:  # its folder was lost
        climb.keep(desk, measurement, replace(progress, stage="consulting"), None)
        return
    concluded = desk.workers.poll(
        f"judge m{measurement.id}",
        verdicts.conclude,
        plan,
        climb.replies(keys, progress, climb.answers(desk, keys)),
        heard,
        desk.settings.files,
        measurements.folder_of(desk, measurement),
        desk.clock(),
    )
    if concluded is not None:
        _finish(desk, measurement, plan, progress, concluded)


def _finish(
    desk: Desk, measurement: Measurement, plan: LadderPlan, progress: LadderProgress, concluded: Concluded
) -> None:
    now, found = desk.clock(), concluded.ladder.to_json()
    with desk.store.transaction():
        moved = desk.store.measurements.move(
            measurement,
            "done",
            now=now,
            progress=_with_judge(progress, concluded).to_json(),
            result=found,
            actual_micros=progress.spent_micros,
        )
        if moved is None:
            return
        desk.store.audit.add(at=now, who="finetune", action="measured", subject=f"measurement {moved.id}")
        measurements.show(desk, moved)
        message = measurements.result_card(desk, moved, found)
        card = measurements.result(desk, moved, message, views.details(concluded.ladder))
        measurements.plot(desk, moved, card, concluded.plot, views.alt_text(plan.dataset))


def _with_judge(progress: LadderProgress, concluded: Concluded) -> LadderProgress:
    before, judge = progress.judge, concluded.judge
    if before is None or judge is None:
        return progress
    judge = replace(judge, of=before.of, answered=before.answered, declined=before.declined)
    return replace(progress, judge=judge)


def _cancel(desk: Desk, measurement: Measurement, plan: LadderPlan, progress: LadderProgress) -> None:
    spent = climb.stopped(desk, measurement, plan, progress)
    by = f"Cancelled by <@{measurement.cancel_asked_by}>."
    measurements.end(desk, measurement, "cancelled", by, actual_micros=spent)
