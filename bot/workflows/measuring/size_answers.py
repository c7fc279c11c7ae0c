"""The model of one size of a curve is asked every held-out row: by the askers, read as a run's tuned model is."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from bot.asking.lanes import Declined, Question
from bot.decisions.actuals import Asked
from bot.tuned_curves import SizeProgress, TunedCurvePlan
from bot.views.blocks import escape
from bot.work import climbing
from bot.workflows import evidence
from bot.workflows.desk import Desk
from bot.workflows.measuring import consent
from bot.workflows.measuring.counting import SURELY_DECLINED
from bot.workflows.measuring.curve_step import CurveStep, fail, keep, over
from bot.workflows.rechecking import Forbidden


def questions_of(desk: Desk, plan: TunedCurvePlan, model: str) -> Sequence[Question]:
    """In the holdout's order. `model` is its name at the provider."""
    holdout = climbing.examples(desk.settings.files, plan.holdout_sha256)
    return evidence.tuned_questions(desk, plan.provider, model, plan.labels, holdout)


def texts_of(desk: Desk, plan: TunedCurvePlan, model: str) -> list[str]:
    """What it said to each held-out row; nothing where a question was declined."""
    questions = questions_of(desk, plan, model)
    found = desk.store.replies.found([one.key for one in questions])
    return [found[one.key].text if one.key in found else "" for one in questions]


def evaluate(step: CurveStep) -> None:
    """What is missing is asked for. Questions under way have to be paid: they are waited for, whatever happens."""
    desk, plan, model = step.desk, step.plan, str(step.size.model)
    keys = evidence.tuned_keys(desk, plan.provider, model, plan.labels, plan.holdout_sha256)
    declined = desk.askers.collect(step.owner)
    idle = desk.askers.idle(plan.provider, frozenset(keys))  # before the answers are looked at
    answered = desk.store.replies.answered(keys)
    step = step.with_size(_counted(step, keys, answered, declined))
    missing = set(keys) - answered - set(step.size.declined)
    hopeless = _hopeless(step.size, declined)
    if step.is_stopped:
        if not desk.askers.drop(step.owner):
            over(step)
    elif hopeless:
        desk.askers.drop(step.owner)
        fail(step, f"Measuring failed: {escape(hopeless)}")
    elif missing and isinstance(against := consent.of_rows(desk, step.measurement), Forbidden):
        if not desk.askers.drop(step.owner):
            fail(step, against.said)
    elif missing:
        _ask(step, model, missing & idle if against is None else frozenset())
    else:
        keep(step.with_size(step.size.to("done", desk.clock())).noted(None))


def _ask(step: CurveStep, model: str, keys: AbstractSet[str]) -> None:
    """`keys`: of what is not on its way yet."""
    askers, provider = step.desk.askers, step.plan.provider
    trouble = askers.trouble(provider)
    keep(step.noted(f"{trouble} Measuring goes on by itself." if trouble else None))
    if keys:
        questions = questions_of(step.desk, step.plan, model)
        askers.ask(step.owner, provider, [one for one in questions if one.key in keys])
    askers.wake()


def _counted(
    step: CurveStep, keys: Sequence[str], answered: AbstractSet[str], declined: Sequence[Declined]
) -> SizeProgress:
    """Answers that were there before this measurement began are free."""
    size = step.size
    refused = {one.key for one in declined if not one.of_model} & set(keys)
    heard = step.desk.store.replies.heard(keys, since=step.progress.started_at)
    return replace(
        size,
        answered=sum(key in answered for key in keys),
        declined=(*size.declined, *sorted(refused - answered - set(size.declined))),
        spent_micros=step.spent(size.training, Asked(heard.prompt_tokens, heard.completion_tokens)),
    )


def _hopeless(size: SizeProgress, declined: Sequence[Declined]) -> str | None:
    """Why a model can't be asked at all."""
    of_model = next((one.why for one in declined if one.of_model), None)
    if of_model or size.answered or len(size.declined) < SURELY_DECLINED:
        return of_model
    return declined[0].why if declined else "it declined every question."
