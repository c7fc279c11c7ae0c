"""People label sampled calls, each in a form that only they see. Where answers are labels, the model's answer is shown
only once the person has chosen, so that it doesn't sway them."""

from __future__ import annotations

from bot.cards.common.blocks import Block, code
from bot.cards.monitoring import live_labels as views
from bot.cards.monitoring.live_labels import CallToLabel, PreviousCall
from bot.context import AppContext
from bot.rules.models.promotion import alias_for
from bot.services.datasets import datasets, row_labels
from bot.services.monitoring import live_accuracy, weeks
from bot.services.monitoring.week_worker import question_of
from bot.values.runs import Refusal
from storage.monitoring.watches import LiveLabel, Watch
from trainers.evaluation import scores
from trainers.recipes import samples
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.samples import SampledCall


def next_call(context: AppContext, dataset: str, person: str) -> Block | Refusal:
    """Handles the button: returns the form with the next call."""
    watch = _may_label(context, dataset, person)
    if isinstance(watch, Refusal):
        return watch
    return _next_form(context, watch, None)


def answer(context: AppContext, button: str, value: str, person: str) -> Block | Refusal:
    """Records an answer and returns the form with the next call. `value` has the call's id and, for a label picked from
    the list, its index among the dataset's labels."""
    number, *chosen = value.split()
    call = samples.get(context.settings.recipes, number)
    if call is None:
        return Refusal("This call is no longer stored.")
    watch = _may_label(context, call.name.partition("/")[2], person)
    if isinstance(watch, Refusal):
        return watch
    label = None
    if chosen:
        label = _labels(context, watch, call)[int(chosen[0])]
    new = LiveLabel(
        dataset=watch.dataset,
        call=call.id,
        recipe=call.recipe,
        called_at=call.at,
        person=person,
        label=label,
        is_right=_is_right(context, button, label, call),
        at=context.clock(),
    )
    with context.store.transaction():
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
    for number in waiting:
        call = samples.get(context.settings.recipes, number)
        if call is not None:
            labels = _labels(context, watch, call)
            shown = CallToLabel(call.id, question_of(call), call.answer, labels, left=len(waiting))
            return views.call_form(shown, previous)
    return views.finished_form(watch.dataset, previous)


def _labels(context: AppContext, watch: Watch, call: SampledCall) -> tuple[str, ...]:
    """Returns the labels to choose from, the most frequent first; none if answers are no labels."""
    recipe = RecipeFolder(context.settings.recipes).read(call.recipe)
    newest = context.store.datasets.newest(watch.dataset)
    report = datasets.report_of(newest) if newest else None
    if recipe is None or report is None or recipe.scoring != "label":
        return ()
    of_dataset = [count.label for count in report.labels]
    return tuple(dict.fromkeys([*of_dataset, *recipe.labels]))


def _is_right(context: AppContext, button: str, label: str | None, call: SampledCall) -> bool | None:
    """Returns None if the person couldn't tell."""
    if label is not None:
        recipe = RecipeFolder(context.settings.recipes).read(call.recipe)
        labels = recipe.labels if recipe else ()
        return bool(scores.score("label", label, call.answer, labels))
    return {views.RIGHT: True, views.WRONG: False}.get(button)
