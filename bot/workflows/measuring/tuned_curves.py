"""A tuned model's learning curve: the same training on a quarter, half and all of the rows, each model measured.

asked, preparing    a worker writes the files to train on; what that costs at most is known from then on
asked, asking       it costs money: a card waits for a person's yes
running, training   size by size: its job, then its answers (sizes.py)
running, judging    a worker fits and draws
"""

from __future__ import annotations

from dataclasses import replace

from bot.decisions.approval import VALID_FOR_S
from bot.decisions.planning import plan_from_json
from bot.results import Refusal
from bot.tuned_curves import (
    PlannedSize,
    SizeProgress,
    TunedCurvePlan,
    TunedCurveProgress,
    key_of,
    plan_of,
)
from bot.views import curves as views
from bot.work import curving
from bot.work.curving import JudgedTunedCurve
from bot.workflows import money, telling
from bot.workflows.desk import Desk
from bot.workflows.measuring import measurements, size_answers, sizes
from bot.workflows.measuring.curve_step import CurveStep, keep, over
from storage.records import Measurement, Run
from trainers.money import to_micros, usd_micros

LOOK_FOR_EXPIRY_S = 60.0


def step(desk: Desk, measurement: Measurement, plan: TunedCurvePlan) -> None:
    """One step of an open curve."""
    progress = TunedCurveProgress.from_json(measurement.progress)
    match progress.stage:
        case "preparing" | "asking" | "judging" if measurement.cancel_asked_by:
            by = f"Cancelled by <@{measurement.cancel_asked_by}>."
            measurements.end(desk, measurement, "cancelled", by, actual_micros=progress.spent_micros)
        case "preparing":
            _prepare(desk, measurement, plan)
        case "asking":
            _expire_or_wait(desk, measurement)
        case "training":
            _train(desk, measurement, plan, progress)
        case "judging":
            _judge(desk, measurement, plan, progress)


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
        progress = TunedCurveProgress.from_json(measurement.progress)
        if progress.stage != "asking":
            return Refusal(f"What m{number} costs is still being counted; its card says it in a moment.")
        if telling.month(now) != measurement.month and (
            dear := _too_dear(desk, measurement, progress.most_micros)
        ):
            return Refusal(dear)  # its money was reserved in a month that is over
        moved = _begin(desk, measurement, replace(progress, agreed_by=person))
        if moved is None:
            return measurements.too_late(number, desk.store.measurements.get(number))
        detail = f"up to {usd_micros(progress.most_micros)}"
        subject = f"measurement {number}"
        desk.store.audit.add(at=now, who=person, action="agree", subject=subject, detail=detail)
    return moved


def after_trouble(desk: Desk, measurement: Measurement) -> None:
    """A step stopped with a fault of ours: a few times more, then people are told."""
    progress = TunedCurveProgress.from_json(measurement.progress)
    measurements.again_or_fail(desk, measurement, lambda: progress.spent_micros)


def _prepare(desk: Desk, measurement: Measurement, plan: TunedCurvePlan) -> None:
    hashes = desk.workers.poll(f"sizes m{measurement.id}", curving.write_sizes, plan, desk.settings.files)
    if hashes is None:
        return
    made = tuple(
        _size(desk, measurement, plan, planned, sha256)
        for planned, sha256 in zip(plan.sizes, hashes, strict=True)
    )
    most = sum(_most_micros(desk, plan, *pair) for pair in zip(plan.sizes, made, strict=True))
    progress = TunedCurveProgress("asking", made, most)
    with desk.store.transaction():  # an approval in between would pass the budget
        refusal = _too_dear(desk, measurement, most)
        if refusal:
            measurements.end(desk, measurement, "failed", refusal)
        elif most:
            _ask_for_money(desk, measurement, progress)
        else:
            _begin(desk, measurement, progress)


def _size(
    desk: Desk, measurement: Measurement, plan: TunedCurvePlan, planned: PlannedSize, sha256: str
) -> SizeProgress:
    """What was trained before, on the same rows in the same way, is not trained again."""
    fresh = SizeProgress(planned.rows, sha256, key_of(measurement.id, plan, sha256))
    known = _by_a_run(desk, plan, planned, sha256) or _by_a_curve(desk, plan, planned, sha256)
    if known is None:
        return fresh
    model, from_before = known
    return fresh.to("evaluating", desk.clock(), model=model, from_before=from_before)


def _by_a_run(desk: Desk, plan: TunedCurvePlan, planned: PlannedSize, sha256: str) -> tuple[str, str] | None:
    """The model's name at the provider, and where it comes from."""
    names = {model.name: model.provider_model for model in desk.store.models()}
    for run in desk.store.runs.done():
        if run.model in names and _trained_alike(run, plan, planned, sha256):
            return names[run.model], f"run {run.id}"
    return None


def _trained_alike(run: Run, plan: TunedCurvePlan, planned: PlannedSize, sha256: str) -> bool:
    other = plan_from_json(run.plan)
    theirs = (other.train_sha256, other.provider, other.base_model, other.hyperparameters, other.seed)
    ours = (sha256, plan.provider, plan.base_model, planned.hyperparameters, plan.seed)
    return theirs == ours and other.kept_back is None


def _by_a_curve(
    desk: Desk, plan: TunedCurvePlan, planned: PlannedSize, sha256: str
) -> tuple[str, str] | None:
    """Of one that was asked for before, whatever became of it: but not where its model answered nobody."""
    for measurement in desk.store.measurements.newest(200):
        other = plan_of(measurement.plan) if measurement.kind == "curve" else None
        if not isinstance(other, TunedCurvePlan):
            continue
        same = (other.target, other.seed) == (plan.target, plan.seed)
        for size, theirs in zip(
            TunedCurveProgress.from_json(measurement.progress).sizes, other.sizes, strict=False
        ):
            is_alike = (size.sha256, theirs.hyperparameters) == (sha256, planned.hyperparameters)
            is_usable = size.answered or measurement.state != "failed"
            if same and is_alike and size.model and is_usable:
                return size.model, size.from_before or f"m{measurement.id}"
    return None


def _most_micros(desk: Desk, plan: TunedCurvePlan, planned: PlannedSize, size: SizeProgress) -> int:
    if size.model is None:
        return planned.most_micros
    keys = {one.key for one in size_answers.questions_of(desk, plan, size.model)}
    return planned.asking_micros if keys - desk.store.replies.found(sorted(keys)).keys() else 0


def _too_dear(desk: Desk, measurement: Measurement, most: int) -> str | None:
    """Why so much may not be spent, with the cure."""
    limit = to_micros(desk.settings.measurement_usd)
    if most > limit:
        return (
            f"It could cost up to {usd_micros(most)}, and one measurement may cost {usd_micros(limit)}. Choose a "
            "cheaper model, or raise `measurement_usd` under [budget] in finetune.toml."
        )
    refusal = money.refusal(desk, measurement.channel, measurement.requested_by, most)
    return refusal.replace("This run", "This measurement") if refusal else None


def _ask_for_money(desk: Desk, measurement: Measurement, progress: TunedCurveProgress) -> None:
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


def _begin(desk: Desk, measurement: Measurement, progress: TunedCurveProgress) -> Measurement | None:
    """Nothing stands in its way any more. Call it inside a transaction."""
    now = desk.clock()
    started = replace(progress, stage="training", started_at=now)
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


def _train(desk: Desk, measurement: Measurement, plan: TunedCurvePlan, progress: TunedCurveProgress) -> None:
    at = progress.at
    here = CurveStep(desk, measurement, plan, progress, progress.sizes[-1 if at is None else at])
    if at is not None:
        sizes.move_on(here)
    elif here.is_stopped:
        over(here)
    else:
        keep(replace(here, progress=replace(progress, stage="judging", note=None)))


def _judge(desk: Desk, measurement: Measurement, plan: TunedCurvePlan, progress: TunedCurveProgress) -> None:
    texts = [size_answers.texts_of(desk, plan, str(one.model)) for one in progress.sizes]
    judged = desk.workers.poll(
        f"judge m{measurement.id}",
        curving.judge,
        plan,
        texts,
        desk.settings.files,
        measurements.folder_of(desk, measurement),
        plan.seed,
    )
    if judged is not None:
        _finish(desk, measurement, progress, judged)


def _finish(
    desk: Desk, measurement: Measurement, progress: TunedCurveProgress, judged: JudgedTunedCurve
) -> None:
    now = desk.clock()
    found = judged.curve.to_json()
    told = replace(progress, beside=judged.beside.to_json() if judged.beside else None)
    with desk.store.transaction():
        moved = desk.store.measurements.move(
            measurement,
            "done",
            now=now,
            progress=told.to_json(),
            result=found,
            actual_micros=progress.spent_micros,
        )
        if moved is None:
            return
        desk.store.audit.add(at=now, who="finetune", action="measured", subject=f"measurement {moved.id}")
        measurements.show(desk, moved)
        card = measurements.result(desk, moved, measurements.result_card(desk, moved, found), None)
        measurements.plot(desk, moved, card, judged.plot, views.alt_text(judged.curve))
