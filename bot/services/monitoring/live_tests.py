"""Live tests: something is tried on live calls beside what is in use. Sampled calls are put to it too, which no program
sees, or it answers some of the conversations itself (canary). The door does both; here a test is begun, judged at each
tick, and ended. What a test has shown counts as evidence when somebody deploys it; nothing is switched by itself.
"""

from __future__ import annotations

from collections import Counter

from bot.cards.common import freeze as freeze_cards
from bot.cards.common.blocks import code
from bot.cards.common.candidates import promotable_name, promotable_text
from bot.cards.common.general import text_message
from bot.cards.common.words import capitalize
from bot.cards.models import promotion_requests as request_views
from bot.cards.monitoring import live_tests as views
from bot.context import AppContext
from bot.rules.models.promotion import find_objections
from bot.rules.monitoring.live_tests import cost_of, judge, question_for
from bot.services.common import authorization, budgets
from bot.services.evidence.promotion_evidence import promotion_proof, promotion_scores
from bot.services.models import models, promotables, promotions
from bot.services.models.promotables import origin_of
from bot.services.models.promotions import Promoted
from bot.services.monitoring import compared_calls
from bot.services.serving import live_candidates
from bot.values.monitoring import CanaryErrors, LiveTestSummary
from bot.values.requests import BeginLiveTest
from bot.values.runs import Refusal
from storage.monitoring.live_tests import LiveTest, LiveTestEnd, NewLiveTest
from storage.promotions import Promotion
from storage.records import Promotable
from trainers.recipes import canary_events

MINUTE_S = 60.0
HOUR_S = 3600.0
OVER = Refusal("This live test is over.")


def begin(context: AppContext, wanted: BeginLiveTest, person: str, channel: str) -> LiveTest | Refusal:
    """Has something tried on the live calls of its dataset. A canary answers programs, so it takes the right to
    deploy, and evidence as good as for that."""
    refusal = authorization.refusal(context, person, "measure", channel)
    if wanted.canary and not refusal:
        refusal = authorization.refusal(context, person, "promote", channel)
    if refusal:
        return refusal
    what = promotables.find(context, wanted.what, person, channel)
    if isinstance(what, Refusal):
        return what
    origin = origin_of(context, what)
    standing = context.store.promotions.current(origin.name)
    refusal = _unfit_refusal(context, origin.name, what, standing, wanted.canary)
    if standing is None or refusal:
        return refusal or Refusal(f"Nothing is in use for {code(origin.name)}.")
    shadow_refusal = _shadow_refusal(context, origin.name, what)
    # A canary answers programs, which takes no sample and no money of its own.
    if shadow_refusal and not wanted.canary:
        return shadow_refusal
    price = promotion_scores(context, what).usd
    price_in_use = promotion_scores(context, standing.what).usd
    new = NewLiveTest(
        dataset=origin.name,
        what=what,
        promotion=standing.id,
        person=person,
        channel=origin.channel,
        # Fixed now, as a question that is chosen with the answers in view would prove nothing.
        question=question_for(price, price_in_use),
        margin=context.settings.policy.watch.margin,
        canary=wanted.canary,
        is_shadow=shadow_refusal is None,
    )
    return _add(context, new, origin.subject)


def _add(context: AppContext, new: NewLiveTest, subject: str) -> LiveTest | Refusal:
    dataset = new.dataset
    with context.store.transaction():
        freeze = context.store.freezes.current()
        if freeze:
            return Refusal(freeze_cards.refusal(freeze, "Nothing else is tried now"))
        test = context.store.live_tests.add(new, now=context.clock())
        if test is None:
            end_command = code(f"/finetune test {dataset} to=nothing")
            return Refusal(
                f"Something is tried on the calls of {code(dataset)} already; {end_command} ends that."
            )
        detail = f"live test {test.id}: {promotable_name(new.what)} for {dataset}, canary {test.canary:g}"
        context.audit(new.person, "begin live test", subject, detail)
        _show(context, test)
    return test


def end(context: AppContext, dataset: str, person: str, channel: str) -> str | Refusal:
    """Ends what is tried on a dataset's calls. Returns the text for the person."""
    refusal = authorization.dataset_refusal(context, dataset, person, channel)
    if refusal:
        return refusal
    test = context.store.live_tests.current(dataset)
    if test is None:
        return Refusal(f"Nothing is tried on the calls of {code(dataset)}.")
    refusal = _end(context, test, person)
    if refusal:
        return refusal
    return f"{capitalize(promotable_text(test.what))} is no longer tried on the calls of {code(dataset)}."


def end_by_click(context: AppContext, number: int, person: str) -> LiveTest | Refusal:
    """Handles the button on the card."""
    test = _of_card(context, number, person)
    if isinstance(test, Refusal):
        return test
    return _end(context, test, person) or test


def use(context: AppContext, number: int, person: str) -> Promoted:
    """Handles *Use it*: deploys what a live test has decided for, by the rules of every promotion."""
    test = _of_card(context, number, person)
    if isinstance(test, Refusal):
        return test
    return promotions.promote_tried(context, test.what, person)


def step(context: AppContext, test: LiveTest) -> None:
    """Takes in what both answered since the last tick, ends the test once it has an answer, and shows what is new."""
    compared_calls.take_in(context, test)
    outcome = _outcome_elsewhere(context, test)
    # Judging reads every call of the test, so not at each tick.
    is_due = outcome is not None or _is_due(context, test)
    if outcome is None and is_due:
        outcome = _outcome_of_what(context, test) or _outcome_of_calls(context, test)
    if not is_due:
        return
    with context.store.transaction():
        ended = None
        if outcome is not None:
            ended = context.store.live_tests.end(test, outcome, None, now=context.clock())
        if ended is not None:
            _announce_end(context, ended)
        else:
            _show(context, test)


def card_name(test: LiveTest) -> str:
    return f"live test {test.id}"


def current_summary(context: AppContext, dataset: str) -> LiveTestSummary | None:
    """Returns what is tried on a dataset's calls now, None if nothing is."""
    test = context.store.live_tests.current(dataset)
    if test is None:
        return None
    return _summary(context, test)


def _show(context: AppContext, test: LiveTest) -> LiveTestSummary | None:
    """Posts the test's card, or edits it. Returns what it shows, None if what it was tried against is gone."""
    summary = _summary(context, test)
    if summary is None:
        return None
    context.checked_at[_shown(test)] = context.clock()
    context.show(card_name(test), test.channel, views.live_test_card(summary), concerns=test.person)
    return summary


def _unfit_refusal(
    context: AppContext, dataset: str, what: Promotable, standing: Promotion | None, canary: float
) -> Refusal | None:
    """Returns why something can't be tried on live calls. Reads files."""
    name = capitalize(promotable_text(what))
    if standing is None:
        command = code(f"/finetune promote {dataset} CANDIDATE")
        return Refusal(
            f"Nothing is in use for {code(dataset)}, so there are no calls to try anything on. {command} deploys "
            "something."
        )
    if what == standing.what:
        return Refusal(f"{name} is what is in use for {code(dataset)}; try something else against it.")
    if standing.recipe is None:
        return Refusal(
            f"What is in use for {code(dataset)} is not published yet. Try again once its card says so."
        )
    refusal = promotables.refusal(context, what)
    if refusal:
        return refusal
    model = context.store.model(what.model or "")
    if model is not None:
        refusal = models.machine_refusal(context, model)
    if refusal or not canary:
        return refusal
    proof = promotion_proof(context, what, None)
    objections = find_objections(proof)
    if objections:
        return Refusal(request_views.canary_refusal(what, dataset, proof, objections))
    return None


def _shadow_refusal(context: AppContext, dataset: str, what: Promotable) -> Refusal | None:
    """Returns why sampled calls can't be put to it."""
    watch = context.store.watches.current(dataset)
    if watch is None or not watch.samples:
        sample = code(f"/finetune watch {dataset} sample=5%")
        return Refusal(
            f"No calls of {code(dataset)} are sampled, so nothing can be put to it: {sample} has that done. With "
            "`canary=10%` it answers some of the conversations itself, without a sample."
        )
    if live_candidates.costs_nothing(context, what):
        return None
    if promotion_scores(context, what).usd is None:
        return Refusal(
            "What its answers cost isn't known, so no limit could hold: sampled calls are put only to what has a "
            "price. With `canary=10%` it answers some of the conversations itself, in place of what is in use."
        )
    if budgets.left_for_watching(context) > 0:
        return None
    where = context.settings.policy.watch.where
    return Refusal(
        f"Its answers to sampled calls cost money, and none is left for that this month: `usd_per_month` of {where} "
        "says how much watching may spend. With `canary=10%` it answers some of the conversations itself, in place of "
        "what is in use."
    )


def _outcome_elsewhere(context: AppContext, test: LiveTest) -> LiveTestEnd | None:
    """Returns how the test ends whatever the calls say, None if it goes on."""
    standing = context.store.promotions.current(test.dataset)
    if standing is None or standing.id != test.promotion:
        return "outdated"
    if test.id in canary_events.stopped(context.settings.recipes):
        return "stopped"
    return None


def _outcome_of_what(context: AppContext, test: LiveTest) -> LiveTestEnd | None:
    """Returns how the test ends if what is tried can't be used by anybody any more: it was deleted, or a rule about
    data forbids it by now."""
    refusal = promotables.refusal(context, test.what)
    if refusal is None:
        return None
    # The card says why it ended.
    context.store.live_tests.postpone(test, context.clock(), refusal.text)
    return "ended"


def _outcome_of_calls(context: AppContext, test: LiveTest) -> LiveTestEnd | None:
    if not test.is_shadow:
        return None
    outcome = judge(test, context.store.compared_calls.of(test.id), context.clock()).outcome
    if outcome == "open":
        return None
    return outcome


def _summary(context: AppContext, test: LiveTest) -> LiveTestSummary | None:
    promotion = context.store.promotions.get(test.promotion)
    if promotion is None:
        return None
    calls = context.store.compared_calls.of(test.id)
    now = context.clock()
    if test.ended_at is not None:
        now = test.ended_at
    to_label = 0
    if test.ended_at is None:
        to_label = len(compared_calls.waiting(context, test))
    return LiveTestSummary(
        test=test,
        used=promotion.what,
        standing=judge(test, calls, now),
        verdicts=Counter(call.verdict for call in calls),
        micros=cost_of(calls),
        to_label=to_label,
        pause=live_candidates.pause_of(context, test),
        errors=_errors(context, test),
        usd=promotion_scores(context, test.what).usd,
        used_usd=promotion_scores(context, promotion.what).usd,
    )


def _errors(context: AppContext, test: LiveTest) -> CanaryErrors | None:
    if not test.canary:
        return None
    events = canary_events.read(context.settings.recipes, test.id)
    of_candidate = sum(event.is_candidate for event in events)
    return CanaryErrors(of_candidate, len(events) - of_candidate)


def _of_card(context: AppContext, number: int, person: str) -> LiveTest | Refusal:
    test = context.store.live_tests.get(number)
    if test is None:
        return OVER
    return authorization.button_refusal(context, test.dataset, person, OVER) or test


def _end(context: AppContext, test: LiveTest, person: str) -> Refusal | None:
    if person != test.person:
        refusal = authorization.refusal(context, person, "rollback")
        if refusal:
            return refusal
    with context.store.transaction():
        ended = context.store.live_tests.end(test, "ended", person, now=context.clock())
        if ended is None:
            return OVER
        context.audit(person, "end live test", origin_of(context, test.what).subject, card_name(test))
        _show(context, ended)
    return None


def _announce_end(context: AppContext, ended: LiveTest) -> None:
    """Shows how a test has ended, and says so in the channel. Call it in a transaction."""
    summary = _show(context, ended)
    if summary is None or ended.outcome == "outdated":
        return
    message = text_message(views.ended_text(summary))
    once = f"end of {card_name(ended)}"
    context.post(ended.channel, message.letter(), topic="results", dedupe=once)
    subject = origin_of(context, ended.what).subject
    context.audit("finetune", "end live test", subject, f"{card_name(ended)}: {ended.outcome}")


def _is_due(context: AppContext, test: LiveTest) -> bool:
    """True if the calls are judged and the card is shown again: soon after something new, and each hour, since errors
    and money change too."""
    shown_at = context.checked_at.get(_shown(test), 0.0)
    wait_s = HOUR_S
    if context.checked_at.get(compared_calls.news_of(test), 0.0) >= shown_at:
        wait_s = MINUTE_S
    return context.clock() >= shown_at + wait_s


def _shown(test: LiveTest) -> str:
    return f"card of live test {test.id}"
