"""Compares what a candidate that is tried has answered to sampled calls with what programs got. Where the two differ,
people say who was right; they don't see which of the two has answered what."""

from __future__ import annotations

from bot.cards.common.blocks import Block, code
from bot.cards.monitoring import compared_calls as views
from bot.cards.monitoring.compared_calls import CallToCompare
from bot.context import AppContext
from bot.rules import units
from bot.rules.models.promotion import alias_for
from bot.rules.monitoring import live_tests as rules
from bot.services.datasets import row_labels
from bot.services.evidence.promotion_evidence import promotion_scores
from bot.services.monitoring.live_accuracy import labels_of
from bot.services.monitoring.week_worker import question_of
from bot.services.serving import call_costs, live_candidates, recipes
from bot.values.runs import Refusal
from storage.monitoring.live_tests import ComparedCall, LiveTest
from trainers.money import to_micros
from trainers.monitoring.switch_tests import CallVerdict
from trainers.recipes import samples, shadow_answers
from trainers.recipes.samples import SampledCall
from trainers.recipes.shadow_answers import ShadowAnswer
from trainers.recipes.usage import Usage

OVERLAP_S = 60.0  # an answer may be stored that much later than its time says


def news_of(test: LiveTest) -> str:
    """The subject of what was compared or judged since the test's card was shown."""
    return f"news of live test {test.id}"


def take_in(context: AppContext, test: LiveTest) -> None:
    """Compares the answers that came since the last time."""
    folder = context.settings.recipes
    subject = f"answers of live test {test.id}"
    answers = shadow_answers.read(folder, test.id, since=context.checked_at.get(subject, 0.0) - OVERLAP_S)
    labels = {label.call: label.label for label in context.store.live_labels.of(test.dataset)}
    added = False
    for answer in answers:
        if context.store.compared_calls.has(test.id, answer.call):
            continue
        call = samples.get(folder, answer.call)
        if call is None:  # deleted since it was answered
            continue
        verdict = _verdict(context, call, answer, labels.get(answer.call))
        added |= context.store.compared_calls.add(
            ComparedCall(
                test=test.id,
                call=call.id,
                called_at=call.at,
                verdict=verdict,
                micros=_cost(context, test, answer),
                month=units.month_of(answer.at),
            )
        )
        context.checked_at[subject] = answer.at
    if added:
        context.checked_at[news_of(test)] = context.clock()


def next_form(context: AppContext, number: int, person: str) -> Block | Refusal:
    """Handles the button: returns the form with the next call on which the two differ."""
    test = _may_label(context, number, person)
    if isinstance(test, Refusal):
        return test
    return _next_form(context, test)


def answer(context: AppContext, metadata: str, button: str, value: str, person: str) -> Block | Refusal:
    """Records who was right and returns the form with the next call. `metadata` are those of the form, and `value` is
    the index of a label that was picked from its list."""
    number, version_id, call_id = views.read_metadata(metadata)
    test = _may_label(context, number, person)
    if isinstance(test, Refusal):
        return test
    folder = context.settings.recipes
    call = samples.get(folder, call_id)
    theirs = shadow_answers.get(folder, number, call_id)
    if call is None or theirs is None:
        return Refusal("This call is no longer stored.")
    label = None
    if button == views.CHOOSE:
        version = context.store.datasets.get(version_id)
        recipe = recipes.folder_of(context).read(call.recipe)
        # By the version of the form: a newer one may have its labels in another order.
        labels = labels_of(context, version, recipe)
        label = labels[int(value)]
        verdict = rules.judge_by_label(label, labels, theirs.answer, call.answer)
    else:
        verdict = rules.judge_by_position(views.POSITIONS[button], call_id)
    with context.store.transaction():
        is_new = context.store.compared_calls.label(
            test.id, call_id, verdict, person, label, now=context.clock()
        )
        if is_new:
            context.checked_at[news_of(test)] = context.clock()
            # Which call, but not the label, which are customers' words.
            context.audit(person, "compare answers", f"live test {test.id}", call_id)
    return _next_form(context, test)


def waiting(context: AppContext, test: LiveTest) -> list[ComparedCall]:
    """Returns the calls on which the two differ and nobody has said who is right, in the order of their arrival, as
    that is how the test reads them. Those whose texts are deleted can't be judged any more."""
    folder = context.settings.recipes
    stored = set(samples.ids(folder, alias_for(test.dataset)))
    return [
        call
        for call in context.store.compared_calls.of(test.id)
        if call.verdict == "unlabelled" and call.call in stored
    ]


def _may_label(context: AppContext, number: int, person: str) -> LiveTest | Refusal:
    test = context.store.live_tests.get(number)
    if test is None or test.ended_at is not None:
        return Refusal("This live test is over.")
    newest = context.store.datasets.newest(test.dataset)
    if newest is None:
        return Refusal(f"{code(test.dataset)} was deleted.")
    return row_labels.labelling_refusal(context, newest, person) or test


def _next_form(context: AppContext, test: LiveTest) -> Block:
    folder = context.settings.recipes
    newest = context.store.datasets.newest(test.dataset)
    calls = waiting(context, test)
    for compared in calls:
        call = samples.get(folder, compared.call)
        theirs = shadow_answers.get(folder, test.id, compared.call)
        if call is None or theirs is None or newest is None:
            continue
        answers = [call.answer, theirs.answer]
        # The order in which the click, which names only a position, is read.
        if rules.is_candidate_first(call.id):
            answers.reverse()
        recipe = recipes.folder_of(context).read(call.recipe)
        return views.comparison_form(
            CallToCompare(
                test=test.id,
                id=call.id,
                question=question_of(call),
                first=answers[0],
                second=answers[1],
                labels=labels_of(context, newest, recipe),
                version_id=newest.id,
                left=len(calls),
            )
        )
    return views.finished_form()


def _verdict(context: AppContext, call: SampledCall, answer: ShadowAnswer, label: str | None) -> CallVerdict:
    """Returns what is known of who was right before anybody is asked. A label that somebody gave to the call already,
    without having seen either answer, decides."""
    recipe = recipes.folder_of(context).read(call.recipe)
    if recipe is None:
        return "unlabelled"
    if answer.answer is not None and rules.is_same(recipe.scoring, recipe.labels, call.answer, answer.answer):
        return "same"
    if label is None or recipe.scoring != "label":
        return "unlabelled"
    return rules.judge_by_label(label, recipe.labels, answer.answer, call.answer)


def _cost(context: AppContext, test: LiveTest, answer: ShadowAnswer) -> int | None:
    """Returns what an answer cost in micro-dollars, None if that is unknown."""
    if live_candidates.costs_nothing(context, test.what):
        return 0
    rates = call_costs.rates_of(context, test.what, units.day_of(answer.at))
    if rates is not None and answer.prompt_tokens is not None and answer.completion_tokens is not None:
        used = Usage(1, 0, answer.prompt_tokens, 0, answer.completion_tokens)
        return to_micros(call_costs.tokens_usd(used, rates))
    # It broke off, or its provider names no tokens, and may be billed: a limit on money has to see it.
    usd_per_1000 = promotion_scores(context, test.what).usd
    if usd_per_1000 is None:
        return None
    return to_micros(usd_per_1000 / 1_000)
