"""People label sampled calls, each in a form that only they see. Where answers are labels, the model's answer is shown
only once the person has chosen, so that it doesn't sway them."""

from __future__ import annotations

from bot.cards.common.blocks import Block, code
from bot.cards.monitoring import live_labels as views
from bot.cards.monitoring.live_labels import CallToLabel, PreviousCall
from bot.context import AppContext
from bot.rules.models.promotion import alias_for
from bot.services.datasets import row_labels
from bot.services.monitoring import live_accuracy, weeks
from bot.services.monitoring.week_worker import question_of
from bot.values.runs import Refusal
from storage.monitoring.watches import LiveLabel, Watch
from trainers.evaluation import scores
from trainers.recipes import samples
from trainers.recipes.folder import ALIAS_PREFIX, RecipeFolder
from trainers.recipes.samples import SampledCall
from trainers.recipes.values import Recipe


def next_call(context: AppContext, dataset: str, person: str) -> Block | Refusal:
    """Handles the button: returns the form with the next call."""
    watch = _may_label(context, dataset, person)
    if isinstance(watch, Refusal):
        return watch
    return _next_form(context, watch, None)


def answer(context: AppContext, metadata: str, button: str, value: str, person: str) -> Block | Refusal:
    """Records an answer and returns the form with the next call. `metadata` are those of the form, and `value` is the
    index of a label that was picked from its list."""
    version_id, number = views.read_metadata(metadata)
    call = samples.get(context.settings.recipes, number)
    if call is None:
        return Refusal("This call is no longer stored.")
    dataset = call.name.removeprefix(ALIAS_PREFIX)
    watch = _may_label(context, dataset, person)
    if isinstance(watch, Refusal):
        return watch
    recipe = RecipeFolder(context.settings.recipes).read(call.recipe)
    label = None
    if button == views.CHOOSE:
        # By the version of the form: a newer one may have its labels in another order.
        version = context.store.datasets.get(version_id)
        names = live_accuracy.labels_of(context, version, recipe)
        label = names[int(value)]
    new = LiveLabel(
        dataset=watch.dataset,
        call=call.id,
        recipe=call.recipe,
        called_at=call.at,
        person=person,
        label=label,
        is_right=_is_right(button, label, call, recipe),
        at=context.clock(),
    )
    with context.store.transaction():
        # Somebody else may have labelled the call since the form was opened.
        if not context.store.live_labels.add(new):
            return _next_form(context, watch, None)
        # Which call, but not which label: labels are customers' words, and the log is kept for good.
        context.audit(person, "label call", f"watch {watch.id}", call.id)
        weeks.update_card(context, watch.dataset)
    return _next_form(context, watch, PreviousCall(call.answer, new.is_right))


def _may_label(context: AppContext, name: str, person: str) -> Watch | Refusal:
    watch = context.store.watches.current(name)
    dataset = context.store.datasets.newest(name)
    if watch is None or dataset is None or not watch.samples:
        return Refusal(f"No calls to {code(alias_for(name))} are sampled any more.")
    return row_labels.labelling_refusal(context, dataset, person) or watch


def _next_form(context: AppContext, watch: Watch, previous: PreviousCall | None) -> Block:
    waiting = live_accuracy.open_calls(context, watch)
    newest = context.store.datasets.newest(watch.dataset)
    for number in waiting:
        call = samples.get(context.settings.recipes, number)
        # A sampled call is deleted after the days of the policy.
        if call is None or newest is None:
            continue
        recipe = RecipeFolder(context.settings.recipes).read(call.recipe)
        shown = CallToLabel(
            id=call.id,
            question=question_of(call),
            answer=call.answer,
            labels=live_accuracy.labels_of(context, newest, recipe),
            version_id=newest.id,
            left=len(waiting),
        )
        return views.call_form(shown, previous)
    return views.finished_form(watch.dataset, previous)


def _is_right(button: str, label: str | None, call: SampledCall, recipe: Recipe | None) -> bool | None:
    """Returns None if the person couldn't tell."""
    if label is not None and recipe is not None:
        return bool(scores.score("label", label, call.answer, recipe.labels))
    right_by_button = {views.RIGHT: True, views.WRONG: False}
    return right_by_button.get(button)
