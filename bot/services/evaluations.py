"""Alternatives to fine-tuning, measured on the frozen holdout: a person asks, agrees to the cost, and the
ticks run it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from bot.cards import evaluation_results as views
from bot.cards.blocks import escape
from bot.cards.evaluations import BaselineChoices
from bot.commands import Baseline
from bot.context import AppContext
from bot.rules import units
from bot.rules.approvals import VALID_FOR_S
from bot.rules.costs import max_evaluation_micros
from bot.services import (
    authorization,
    budgets,
    candidates,
    data_policy,
    datasets,
    evaluation_progress,
    evaluation_worker,
    freeze_scope,
    judge_worker,
    judging,
    measurements,
)
from bot.services.candidates import Candidate
from bot.services.data_policy import EgressPermission, Forbidden
from bot.services.datasets import SEED, CheckedDataset
from bot.services.evaluation_worker import ArmKeys
from bot.services.freeze_scope import HOLD_S
from bot.services.judge_worker import Conclusion
from bot.values.evaluations import ArmProgress, LadderPlan, LadderProgress, Stage
from bot.values.runs import Refusal
from storage.evaluations import NewMeasurement
from storage.records import CachedAnswer, Measurement
from trainers.evaluation.results import DEFAULT_QUALITY_THRESHOLD
from trainers.evaluation.results import Candidate as Candidate_results
from trainers.money import to_micros, usd_micros
from trainers.pricing import PriceList

# The ladder: alternatives to fine-tuning, measured on the frozen holdout. Climbed by the ticks
# (baselines.py asks).
#
# asked, preparing a worker writes the prompts; what they would cost is known from then on asked, pricing
# a model shall judge the answers: what it would cost beside them (consulting.py) asked, asking it costs
# money: a card waits for a person's yes running, measuring questions go to the askers; their answers come
# into the store one by one running, consulting the judge is asked in the same way (consulting.py)
# running, judging a worker counts and draws


LOOK_FOR_EXPIRY_S = 60.0

log = logging.getLogger(__name__)


def step(context: AppContext, measurement: Measurement) -> None:
    """One step of an open ladder."""
    plan, progress = LadderPlan.from_json(measurement.plan), LadderProgress.from_json(measurement.progress)
    if measurement.cancel_asked_by:
        _cancel(context, measurement, plan, progress)
        return
    if freeze_scope.on_measurement(context, measurement):
        context.askers.drop(
            evaluation_progress.owner(measurement)
        )  # answers under way are kept when they come
        context.store.measurements.move(
            measurement, measurement.state, now=context.clock(), next_at=context.clock() + HOLD_S
        )
        return
    match progress.stage:
        case "preparing":
            _prepare(context, measurement, plan)
        case "pricing":
            _price_judge(context, measurement, plan, progress)
        case "asking":
            _expire_or_wait(context, measurement)
        case "measuring":
            _measure(context, measurement, plan, progress)
        case "consulting":
            judging.step(context, measurement, plan, progress)
        case "judging":
            _judge(context, measurement, plan, progress)


def after_trouble(context: AppContext, measurement: Measurement) -> None:
    """A step stopped with a fault of ours: a few times more, then people are told."""
    plan, progress = LadderPlan.from_json(measurement.plan), LadderProgress.from_json(measurement.progress)
    measurements.again_or_fail(
        context, measurement, lambda: evaluation_progress.stop(context, measurement, plan, progress)
    )


def _prepare(context: AppContext, measurement: Measurement, plan: LadderPlan) -> None:
    """The prompts are written first: only then is it known what they cost, and which answers are there already."""
    keys = evaluation_progress.keys_of(context, measurement, plan)
    if keys is None:
        return
    found = evaluation_progress.answered_keys(context, keys)
    arms = tuple(
        ArmProgress(arm, len(one.keys), evaluation_progress.count_answered(one, found))
        for arm, one in keys.items()
    )
    most = max_evaluation_micros(
        plan.price_of, keys, found, evaluation_worker.max_tokens(plan.labels), plan.thinking
    )
    progress = LadderProgress("asking", arms, most)
    if plan.judge:
        evaluation_progress.save_progress(context, measurement, replace(progress, stage="pricing"), None)
    else:
        settle_cost(context, measurement, progress)


def _price_judge(
    context: AppContext, measurement: Measurement, plan: LadderPlan, progress: LadderProgress
) -> None:
    most = judging.judge_maximum(context, measurement, plan, progress)
    if most is not None:
        whole = replace(progress, stage="asking", most_micros=progress.most_micros + most)
        settle_cost(context, measurement, whole)


def settle_cost(context: AppContext, measurement: Measurement, progress: LadderProgress) -> None:
    """What it costs at most is known: reserved and asked for, refused, or begun where it is nothing."""
    with context.store.transaction():  # an approval in between would pass the budget
        refusal = too_dear(context, measurement, progress.most_micros)
        if refusal:
            measurements.end(context, measurement, "failed", refusal)
        elif progress.most_micros:
            _ask_for_money(context, measurement, progress)
        else:
            begin(context, measurement, progress)


def too_dear(context: AppContext, measurement: Measurement, most: int) -> str | None:
    """Why so much may not be spent, with the cure."""
    limit = to_micros(context.settings.measurement_usd)
    if most > limit:
        return (
            f"It could cost up to {usd_micros(most)}, and one measurement may cost {usd_micros(limit)}. Name fewer "
            "models or rungs (`rungs=zero`), or raise `measurement_usd` under [budget] in finetune.toml."
        )
    refusal = budgets.refusal(context, measurement.channel, measurement.requested_by, most)
    return refusal.replace("This run", "This measurement") if refusal else None


def _ask_for_money(context: AppContext, measurement: Measurement, progress: LadderProgress) -> None:
    now = context.clock()
    with context.store.transaction():
        moved = context.store.measurements.move(
            measurement,
            "asked",
            now=now,
            progress=progress.to_json(),
            reserved_micros=progress.most_micros,
            month=units.month_of(now),
            next_at=now + LOOK_FOR_EXPIRY_S,
            tries=0,
        )
        if moved:
            measurements.show(context, moved)


def begin(context: AppContext, measurement: Measurement, progress: LadderProgress) -> Measurement | None:
    """Nothing stands in its way any more. Call it inside a transaction."""
    now = context.clock()
    started = replace(progress, stage="measuring", started_at=now)
    moved = context.store.measurements.move(
        measurement,
        "running",
        now=now,
        progress=started.to_json(),
        reserved_micros=progress.most_micros,
        month=units.month_of(now),
    )
    if moved:
        measurements.show(context, moved)
    return moved


def _expire_or_wait(context: AppContext, measurement: Measurement) -> None:
    now = context.clock()
    if now - measurement.created_at > VALID_FOR_S:
        measurements.end(context, measurement, "cancelled", "Nobody agreed to its cost within 24 hours.")
    else:
        context.store.measurements.move(measurement, "asked", now=now, next_at=now + LOOK_FOR_EXPIRY_S)


def _measure(
    context: AppContext, measurement: Measurement, plan: LadderPlan, progress: LadderProgress
) -> None:
    """What is missing is asked for; once every arm is whole, or has failed, it is judged. Answers are counted, not
    read: with a thousand rows that took most of a tick."""
    keys = evaluation_progress.keys_of(context, measurement, plan)
    if keys is None:
        return
    found = evaluation_progress.answered_keys(context, keys)
    declined = context.askers.collect(evaluation_progress.owner(measurement))
    arms = tuple(evaluation_progress.count_arm(one, keys[one.arm], found, declined) for one in progress.arms)
    missing = evaluation_progress.missing(keys, arms, found)
    now_known = replace(
        progress,
        arms=arms,
        spent_micros=evaluation_progress.spent_by_arms(context, plan, keys, progress.started_at or 0.0),
        note=_note(context, arms),
    )
    if now_known.spent_micros > now_known.most_micros:
        why = f"The answers cost more than the {usd_micros(now_known.most_micros)} that were agreed, so it was stopped."
        spent = evaluation_progress.stop(context, measurement, plan, now_known)
        measurements.end(context, measurement, "failed", why, actual_micros=spent)
    elif all(one.is_whole for one in arms):
        _measured(context, measurement, plan, now_known)
    else:
        evaluation_progress.save_progress(context, measurement, now_known, progress)
        _answer_classical(context, measurement, plan, keys, found)
        _ask_if_it_may_leave(context, measurement, plan, missing, now_known)


def _ask_if_it_may_leave(
    context: AppContext,
    measurement: Measurement,
    plan: LadderPlan,
    missing: Mapping[Candidate_results, frozenset[str]],
    progress: LadderProgress,
) -> None:
    """What was begun before its rows were looked through as they are written waits for that."""
    match measurements.egress_refusal(context, measurement):
        case None:
            _ask_models(context, measurement, plan, missing)
        case Forbidden(said):
            spent = evaluation_progress.stop(context, measurement, plan, progress)
            measurements.end(context, measurement, "failed", said, actual_micros=spent)


def _answer_classical(
    context: AppContext,
    measurement: Measurement,
    plan: LadderPlan,
    keys: Mapping[Candidate_results, ArmKeys],
    found: frozenset[str],
) -> None:
    """Rung 0 asks nobody; its answers are kept beside the models'."""
    wanted = keys.get(Candidate_results("classical"))
    if wanted is None or all(key in found for key in wanted.keys):
        return
    said = context.workers.poll(
        f"classical m{measurement.id}",
        evaluation_worker.classical_answers,
        plan,
        context.settings.files,
        SEED,
    )
    if said is not None:
        now = context.clock()
        kept = [
            CachedAnswer(
                key, "classical", one.text, one.prompt_tokens, one.completion_tokens, one.seconds, now
            )
            for key, one in zip(wanted.keys, said, strict=True)
        ]
        context.store.replies.keep(kept, evaluation_progress.owner(measurement))


def _ask_models(
    context: AppContext,
    measurement: Measurement,
    plan: LadderPlan,
    missing: Mapping[Candidate_results, frozenset[str]],
) -> None:
    owner = evaluation_progress.owner(measurement)
    wanted = frozenset().union(*missing.values())
    if len(wanted) <= context.askers.waiting(owner):
        context.askers.wake()
        return
    questions = evaluation_worker.read_questions(measurements.folder_of(context, measurement), plan, wanted)
    for provider in {question.model.split("/", 1)[0] for question in questions}:
        theirs = [one for one in questions if one.model.startswith(f"{provider}/")]
        context.askers.ask(owner, provider, theirs)


def _note(context: AppContext, arms: tuple[ArmProgress, ...]) -> str | None:
    """Why it does not go on at some provider, where that is so."""
    waits = {str(one.arm.model).split("/", 1)[0] for one in arms if one.arm.model and not one.is_whole}
    troubles = [trouble for name in sorted(waits) if (trouble := context.askers.trouble(name))]
    return f"{' '.join(troubles)} Measuring goes on by itself." if troubles else None


def _measured(
    context: AppContext, measurement: Measurement, plan: LadderPlan, progress: LadderProgress
) -> None:
    if all(one.failed is not None for one in progress.arms):
        if context.askers.drop(evaluation_progress.owner(measurement)):
            evaluation_progress.save_progress(context, measurement, progress, None)
            return  # what is under way may be refused like the rest, or be paid: it is waited for
        why = " ".join(dict.fromkeys(escape(str(one.failed)) for one in progress.arms))
        measurements.end(context, measurement, "failed", why, actual_micros=progress.spent_micros)
        return
    stage: Stage = "consulting" if plan.judge else "judging"
    evaluation_progress.save_progress(context, measurement, replace(progress, stage=stage, note=None), None)


def _judge(context: AppContext, measurement: Measurement, plan: LadderPlan, progress: LadderProgress) -> None:
    keys = evaluation_progress.keys_of(context, measurement, plan)
    if keys is None:
        return
    heard = judging.heard(context, measurement, plan, progress.judge) if progress.judge else None
    if heard and heard.acceptable is None and heard.failed is None:  # its folder was lost
        evaluation_progress.save_progress(context, measurement, replace(progress, stage="consulting"), None)
        return
    concluded = context.workers.poll(
        f"judge m{measurement.id}",
        judge_worker.conclude,
        plan,
        evaluation_progress.replies(keys, progress, evaluation_progress.answers(context, keys)),
        heard,
        context.settings.files,
        measurements.folder_of(context, measurement),
        context.clock(),
    )
    if concluded is not None:
        _finish(context, measurement, plan, progress, concluded)


def _finish(
    context: AppContext,
    measurement: Measurement,
    plan: LadderPlan,
    progress: LadderProgress,
    concluded: Conclusion,
) -> None:
    now, found = context.clock(), concluded.ladder.to_json()
    with context.store.transaction():
        moved = context.store.measurements.move(
            measurement,
            "done",
            now=now,
            progress=_with_judge(progress, concluded).to_json(),
            result=found,
            actual_micros=progress.spent_micros,
        )
        if moved is None:
            return
        context.store.audit.add(at=now, who="finetune", action="measured", subject=f"measurement {moved.id}")
        measurements.show(context, moved)
        message = measurements.result_card(context, moved, found)
        card = measurements.result(context, moved, message, views.details(concluded.ladder))
        measurements.plot(context, moved, card, concluded.plot, views.alt_text(plan.dataset))


def _with_judge(progress: LadderProgress, concluded: Conclusion) -> LadderProgress:
    before, judge = progress.judge, concluded.judge
    if before is None or judge is None:
        return progress
    judge = replace(judge, of=before.of, answered=before.answered, declined=before.declined)
    return replace(progress, judge=judge)


def _cancel(
    context: AppContext, measurement: Measurement, plan: LadderPlan, progress: LadderProgress
) -> None:
    spent = evaluation_progress.stop(context, measurement, plan, progress)
    by = f"Cancelled by <@{measurement.cancel_asked_by}>."
    measurements.end(context, measurement, "cancelled", by, actual_micros=spent)


# Asking for a ladder: what a person wants to have measured becomes a plan, and a yes to its price starts
# it.


def ask(context: AppContext, command: Baseline, person: str, channel: str) -> Measurement | Refusal:
    """Record what is to be measured and say so in the channel; the rest is the ticks' work."""
    refused = authorization.refusal(context, person, "measure", channel) or authorization.unreachable(
        context, channel
    )
    if refused:
        return refused
    checked = datasets.ready(context, command.dataset, person, channel, is_posted=True)
    if isinstance(checked, Refusal):
        return checked
    made = _plan(context, checked, command)
    if isinstance(made, Refusal):
        return made
    plan, leave = made
    same = next((one for one in context.store.measurements.open() if one.plan == plan.to_json()), None)
    if same:
        return Refusal(f"This very measurement is under way already: it is m{same.id}.")
    now = context.clock()
    with context.store.transaction():
        if (command.bar, command.task, command.prompt) != (None, None, None):
            context.store.dataset_settings.set(
                plan.dataset,
                by=person,
                now=now,
                bar=command.bar,
                task_kind=command.task,
                prompt=command.prompt,
            )
        new = NewMeasurement("ladder", checked.dataset.id, channel, person, plan.to_json())
        measurement = context.store.measurements.add(new, now=now)
        context.store.audit.add(at=now, who=person, action="measure", subject=f"measurement {measurement.id}")
        measurements.show(context, measurement)
        measurements.let_leave(context, measurement, leave)
    return measurement


def choices(context: AppContext, person: str, channel: str) -> BaselineChoices:
    """What the form offers: models whose key is there."""
    models = [
        f"{row.name}/{model.name}"
        for row in context.settings.providers
        if row.name in context.trainers
        for model in row.models
        if not model.has_ended(context.today())
    ]
    may_overrule = any(rule.level == "soft" for rule in context.settings.policy.data)
    return BaselineChoices(datasets.usable_names(context, person, channel), models, may_overrule=may_overrule)


def agree(context: AppContext, number: int, person: str) -> Measurement | Refusal:
    """A person's yes to what it costs. The money was reserved when it was asked for."""
    refused = measurements.may_agree(context, number, person)
    if refused:
        return refused
    now = context.clock()
    with context.store.transaction():
        measurement = context.store.measurements.get(number)
        if measurement is None or measurement.state != "asked":
            return measurements.too_late(number, measurement)
        progress = LadderProgress.from_json(measurement.progress)
        if progress.stage != "asking":
            return Refusal(f"What m{number} costs is still being counted; its card says it in a moment.")
        if units.month_of(now) != measurement.month and (
            dear := too_dear(context, measurement, progress.most_micros)
        ):
            return Refusal(dear)  # its money was reserved in a month that is over
        moved = begin(context, measurement, progress)
        if moved is None:
            return measurements.too_late(number, context.store.measurements.get(number))
        context.store.audit.add(
            at=now,
            who=person,
            action="agree",
            subject=f"measurement {number}",
            detail=f"up to {usd_micros(progress.most_micros)}",
        )
    return moved


def _plan(
    context: AppContext, checked: CheckedDataset, command: Baseline
) -> tuple[LadderPlan, EgressPermission] | Refusal:
    dataset, report = checked.dataset, checked.report
    if report is None or not report.n_holdout:
        return Refusal(f"`{dataset.name}` has no held-out rows, so nothing can be measured on it.")
    asks_models = command.rungs != ("classical",)
    models: tuple[Candidate, ...] | Refusal = ()
    if asks_models:
        models = candidates.find_candidates(
            context.settings, context.trainers, command.models, context.today()
        )
    if isinstance(models, Refusal):
        return models
    arms = candidates.arms_of(command, report, models)
    if isinstance(arms, Refusal):
        return arms
    judge = candidates.judge_of(context.settings, context.trainers, command.judge, report, context.today())
    if isinstance(judge, Refusal):
        return judge
    everybody = models if judge is None or judge in models else (*models, judge)
    leave = data_policy.decide_egress(
        context, dataset, report, [model.row for model in everybody], command.because
    )
    if isinstance(leave, Refusal):
        return leave
    wanted = context.store.dataset_settings.get(dataset.name)
    prompt = command.prompt or (wanted.prompt if wanted else None)
    refused = data_policy.secret_refusal(prompt or "", "The prompt")
    if refused:
        return replace(refused, about="prompt")
    given, waiver = context.store.documents.ready(dataset.name), context.store.waivers.of(dataset.id)
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
        bar=command.bar or (wanted.bar if wanted else None) or DEFAULT_QUALITY_THRESHOLD,
        documents=documents,
        prices=PriceList(tuple(model.price for model in everybody), context.today()).to_json(),
        withheld_from=() if may_leave else _withheld_from(models, judge),
        judge=judge.name if judge else None,
        thinking=tuple(one.name for one in everybody if one.thinks),
    )
    return plan, leave


def _withheld_from(models: tuple[Candidate, ...], judge: Candidate | None) -> tuple[str, ...]:
    """What a model on this machine says out of a passage reaches its judge, wherever that is."""
    all_leaves = judge is not None and not judge.row.stays_here
    return tuple(one.name for one in models if all_leaves or not one.row.stays_here)
