"""The ladder: alternatives to fine-tuning, measured on the frozen holdout. Climbed by the ticks (baselines.py asks).

asked, preparing   a worker writes the prompts; what they would cost is known from then on
asked, asking      it costs money: a card waits for a person's yes
running, measuring questions go to the askers; their answers come into the store one by one
running, judging   a worker counts and draws
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bot import climbing
from bot.climbing import ArmKeys, JudgedLadder
from bot.decisions.approval import VALID_FOR_S
from bot.decisions.spending import most_micros, spent_micros
from bot.measured import ArmProgress, LadderPlan, LadderProgress
from bot.views import ladder as views
from bot.views.blocks import escape
from bot.workflows import counting, measurements, plans, telling
from bot.workflows.datasets import SEED
from bot.workflows.desk import Desk
from storage.records import KeptReply, Measurement
from trainers.measuring.values import Arm, Reply
from trainers.money import to_micros, usd_micros

LOOK_FOR_EXPIRY_S = 60.0

log = logging.getLogger(__name__)


def step(desk: Desk, measurement: Measurement) -> None:
    """One step of an open ladder."""
    plan, progress = LadderPlan.from_json(measurement.plan), LadderProgress.from_json(measurement.progress)
    if measurement.cancel_asked_by:
        _cancel(desk, measurement, plan, progress)
        return
    match progress.stage:
        case "preparing":
            _prepare(desk, measurement, plan)
        case "asking":
            _expire_or_wait(desk, measurement)
        case "measuring":
            _measure(desk, measurement, plan, progress)
        case "judging":
            _judge(desk, measurement, plan, progress)


def after_trouble(desk: Desk, measurement: Measurement) -> None:
    """A step stopped with a fault of ours: a few times more, then people are told."""
    plan, progress = LadderPlan.from_json(measurement.plan), LadderProgress.from_json(measurement.progress)
    measurements.again_or_fail(desk, measurement, _spent(desk, measurement, plan, progress))


def _prepare(desk: Desk, measurement: Measurement, plan: LadderPlan) -> None:
    """The prompts are written first: only then is it known what they cost, and which answers are there already."""
    keys = desk.workers.poll(
        f"prepare m{measurement.id}",
        climbing.prepare,
        plan,
        desk.settings.files,
        folder_of(desk, measurement),
        SEED,
    )
    if keys is None:
        return
    found = desk.store.replies.found([key for one in keys.values() for key in one.keys])
    arms = tuple(ArmProgress(arm, len(one.keys), counting.answered(one, found)) for arm, one in keys.items())
    most = most_micros(plan.price_of, keys, frozenset(found), climbing.max_tokens(plan.labels))
    progress = LadderProgress("asking", arms, most)
    refusal = too_dear(desk, most)
    if refusal:
        measurements.end(desk, measurement, "failed", refusal)
    elif most:
        _ask_for_money(desk, measurement, progress)
    else:
        with desk.store.transaction():
            begin(desk, measurement, progress)


def too_dear(desk: Desk, most: int) -> str | None:
    """Why so much may not be spent, with the cure."""
    limit = to_micros(desk.settings.measurement_usd)
    if most > limit:
        return (
            f"It could cost up to {usd_micros(most)}, and one measurement may cost {usd_micros(limit)}. Name fewer "
            "models or rungs (`rungs=zero`), or raise `measurement_usd` under [budget] in finetune.toml."
        )
    refusal = plans.budget(desk).refusal(most)
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
    """What is missing is asked for; once every arm is whole, or has failed, it is judged."""
    keys = climbing.read_keys(folder_of(desk, measurement))
    if keys is None:  # its folder was lost: the same plan gives the same questions
        _write_again(desk, measurement, plan)
        return
    found = desk.store.replies.found([key for one in keys.values() for key in one.keys])
    declined = desk.askers.collect(_owner(measurement))
    arms = tuple(counting.counted(one, keys[one.arm], found, declined) for one in progress.arms)
    missing = counting.missing(keys, arms, found)
    now_known = replace(
        progress,
        arms=arms,
        spent_micros=spent_micros(plan.price_of, keys, found, progress.started_at or 0.0),
        note=_note(desk, arms),
    )
    if now_known.spent_micros > now_known.most_micros:
        why = f"The answers cost more than the {usd_micros(now_known.most_micros)} that were agreed, so it was stopped."
        measurements.end(desk, measurement, "failed", why, actual_micros=now_known.spent_micros)
        desk.askers.drop(_owner(measurement))
    elif all(one.is_whole for one in arms):
        _measured(desk, measurement, now_known)
    else:
        _keep(desk, measurement, now_known, progress)
        _answer_classical(desk, measurement, plan, keys, found)
        _ask_models(desk, measurement, plan, missing)


def _write_again(desk: Desk, measurement: Measurement, plan: LadderPlan) -> None:
    folder = folder_of(desk, measurement)
    desk.workers.poll(f"prepare m{measurement.id}", climbing.prepare, plan, desk.settings.files, folder, SEED)


def _answer_classical(
    desk: Desk,
    measurement: Measurement,
    plan: LadderPlan,
    keys: Mapping[Arm, ArmKeys],
    found: Mapping[str, KeptReply],
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
        desk.store.replies.keep(
            KeptReply(key, "classical", one.text, one.prompt_tokens, one.completion_tokens, one.seconds, now)
            for key, one in zip(wanted.keys, said, strict=True)
        )


def _ask_models(
    desk: Desk, measurement: Measurement, plan: LadderPlan, missing: Mapping[Arm, frozenset[str]]
) -> None:
    owner = _owner(measurement)
    wanted = frozenset().union(*missing.values())
    if len(wanted) <= desk.askers.waiting(owner):
        desk.askers.wake()
        return
    questions = climbing.read_questions(folder_of(desk, measurement), plan, wanted)
    for provider in {question.model.split("/", 1)[0] for question in questions}:
        theirs = [one for one in questions if one.model.startswith(f"{provider}/")]
        desk.askers.ask(owner, provider, theirs)


def _note(desk: Desk, arms: tuple[ArmProgress, ...]) -> str | None:
    """Why it does not go on at some provider, where that is so."""
    waits = {str(one.arm.model).split("/", 1)[0] for one in arms if one.arm.model and not one.is_whole}
    troubles = [trouble for name in sorted(waits) if (trouble := desk.askers.trouble(name))]
    return f"{' '.join(troubles)} Measuring goes on by itself." if troubles else None


def _measured(desk: Desk, measurement: Measurement, progress: LadderProgress) -> None:
    if all(one.failed is not None for one in progress.arms):
        why = " ".join(dict.fromkeys(escape(str(one.failed)) for one in progress.arms))
        measurements.end(desk, measurement, "failed", why, actual_micros=progress.spent_micros)
        return
    _keep(desk, measurement, replace(progress, stage="judging", note=None), None)


def _judge(desk: Desk, measurement: Measurement, plan: LadderPlan, progress: LadderProgress) -> None:
    folder = folder_of(desk, measurement)
    keys = climbing.read_keys(folder)
    if keys is None:
        _write_again(desk, measurement, plan)
        return
    found = desk.store.replies.found([key for one in keys.values() for key in one.keys])
    replies = {
        one.arm: [_reply(found.get(key)) for key in keys[one.arm].keys]
        for one in progress.arms
        if one.failed is None
    }
    judged = desk.workers.poll(
        f"judge m{measurement.id}",
        climbing.judge_ladder,
        plan,
        replies,
        desk.settings.files,
        folder,
        desk.clock(),
    )
    if judged is not None:
        _finish(desk, measurement, plan, progress, judged)


def _reply(kept: KeptReply | None) -> Reply:
    """A question that was declined counts as an empty answer."""
    if kept is None:
        return Reply("", 0, 0, 0.0)
    return Reply(kept.text, kept.prompt_tokens, kept.completion_tokens, kept.seconds)


def _finish(
    desk: Desk, measurement: Measurement, plan: LadderPlan, progress: LadderProgress, judged: JudgedLadder
) -> None:
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.measurements.move(
            measurement,
            "done",
            now=now,
            result=judged.ladder.to_json(),
            actual_micros=progress.spent_micros,
        )
        if moved is None:
            return
        desk.store.audit.add(at=now, who="finetune", action="measured", subject=f"measurement {moved.id}")
        measurements.show(desk, moved)
        message = measurements.result_card(desk, moved, judged.ladder.to_json())
        card = measurements.result(desk, moved, message, views.details(judged.ladder))
        measurements.plot(desk, moved, card, judged.plot, views.alt_text(plan.dataset))


def _cancel(desk: Desk, measurement: Measurement, plan: LadderPlan, progress: LadderProgress) -> None:
    """Questions that are under way will be answered and paid: they count with the most that they can cost."""
    under_way = desk.askers.drop(_owner(measurement))
    spent = _spent(desk, measurement, plan, progress, under_way)
    by = f"Cancelled by <@{measurement.cancel_asked_by}>."
    measurements.end(desk, measurement, "cancelled", by, actual_micros=spent)


def _spent(
    desk: Desk,
    measurement: Measurement,
    plan: LadderPlan,
    progress: LadderProgress,
    under_way: frozenset[str] = frozenset(),
) -> int:
    keys = climbing.read_keys(folder_of(desk, measurement))
    if keys is None or progress.started_at is None:
        return 0
    asked = frozenset(key for one in keys.values() for key in one.keys)
    found = desk.store.replies.found(list(asked))
    known = asked - (under_way - found.keys())
    more = most_micros(plan.price_of, keys, known, climbing.max_tokens(plan.labels))
    return spent_micros(plan.price_of, keys, found, progress.started_at) + more


def _keep(
    desk: Desk, measurement: Measurement, progress: LadderProgress, before: LadderProgress | None
) -> None:
    """Written, and shown where there is something new to see."""
    if progress == before:
        return
    with desk.store.transaction():
        moved = desk.store.measurements.move(
            measurement, measurement.state, now=desk.clock(), progress=progress.to_json(), tries=0
        )
        if moved:
            measurements.show(desk, moved)


def _owner(measurement: Measurement) -> str:
    return f"m{measurement.id}"


def folder_of(desk: Desk, measurement: Measurement) -> Path:
    """Its prompts and plots."""
    return desk.settings.data / "measurements" / f"m{measurement.id}"
