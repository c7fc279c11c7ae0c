"""Begins and ends watching what is in use for a dataset. Calls are sampled once somebody who decides about the
dataset's rows has agreed; until then only counts are read."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bot.cards.common.blocks import Block, code
from bot.cards.common.general import text_message
from bot.cards.monitoring import watches as views
from bot.context import AppContext
from bot.rules.permissions import Request
from bot.services.common import authorization, messages
from bot.values.runs import Refusal
from storage.monitoring.watches import NewWatch, Watch
from storage.records import Dataset

UTC = "UTC"


@dataclass(frozen=True)
class WatchRequest:
    """What a person wants watched: a dataset, with the share (0 to 1) of its calls to sample."""

    dataset: str
    share: float


def form(context: AppContext, dataset: str, person: str, channel: str) -> Block | Refusal:
    refusal = _may_watch(context, dataset, person, channel)
    if isinstance(refusal, Refusal):
        return refusal
    return views.form(channel, dataset, context.settings.policy.watch)


def begin(context: AppContext, wanted: WatchRequest, person: str, channel: str) -> str | Refusal:
    """Begins a watch in place of the current one. Returns the text for the person who asked."""
    dataset = _may_watch(context, wanted.dataset, person, channel)
    if isinstance(dataset, Refusal):
        return dataset
    limits = context.settings.policy.watch
    if wanted.share > limits.share:
        return Refusal(views.share_too_large(limits))
    time_zone = context.directory.time_zone(person) or UTC
    new = NewWatch(dataset.name, person, dataset.owner, wanted.share, time_zone)
    now = context.clock()
    if wanted.share and _consent_refusal(context, dataset, person) is None:
        new = replace(new, consented_by=person, consented_at=now)
    before = context.store.watches.current(wanted.dataset)
    with context.store.transaction():
        watch = context.store.watches.begin(new, now=now)
        context.audit(person, "watch", f"dataset {dataset.id}", _detail(watch))
        if before is not None and before.awaits_consent:
            context.show(_question(before), before.channel, views.outdated_card(before))
        if watch.awaits_consent:
            card = views.consent_card(watch, dataset, limits)
            context.show(_question(watch), watch.channel, card, concerns=dataset.uploaded_by)
    return views.begun_text(watch, limits)


def receive(context: AppContext, wanted: WatchRequest, person: str, channel: str) -> Refusal | None:
    """Handles the form: begins a watch, and tells the person what follows."""
    begun = begin(context, wanted, person, channel)
    if isinstance(begun, Refusal):
        return begun
    messages.tell_person(context, None, person, channel, text_message(begun), topic="answers")
    return None


def end(context: AppContext, dataset: str, person: str, channel: str) -> str | Refusal:
    """Ends a watch; the sampled calls are deleted at the next tick (samples.py). Returns the text for the person."""
    refusal = authorization.dataset_refusal(context, dataset, person, channel)
    refusal = refusal or authorization.refusal(context, person, "measure", channel)
    if refusal:
        return refusal
    newest = context.store.datasets.newest(dataset)
    with context.store.transaction():
        over = context.store.watches.end(dataset, person, now=context.clock())
        if over is None or newest is None:
            return Refusal(f"{code(dataset)} isn't watched.")
        context.audit(person, "end watch", f"dataset {newest.id}")
        if over.awaits_consent:
            context.show(_question(over), over.channel, views.outdated_card(over))
    return views.ended_text(over)


def consent(context: AppContext, number: int, person: str) -> Watch | Refusal:
    """Handles the button: somebody who decides about the rows agrees that calls are sampled."""
    return _decide(context, number, person, agrees=True)


def refuse(context: AppContext, number: int, person: str) -> Watch | Refusal:
    """Handles the button: the dataset stays watched, without sampled calls."""
    return _decide(context, number, person, agrees=False)


def _decide(context: AppContext, number: int, person: str, *, agrees: bool) -> Watch | Refusal:
    watch = context.store.watches.get(number)
    if watch is None or not watch.awaits_consent:
        return Refusal("This was decided by now.")
    dataset = context.store.datasets.newest(watch.dataset)
    if dataset is None:
        return Refusal("Its dataset was deleted.")
    refusal = _consent_refusal(context, dataset, person)
    if refusal:
        return refusal
    now = context.clock()
    with context.store.transaction():
        decided: Watch | None
        if agrees:
            decided = context.store.watches.consent(watch, person, now=now)
        else:
            new = NewWatch(watch.dataset, watch.person, watch.channel, 0.0, watch.time_zone)
            decided = context.store.watches.begin(new, now=now)
        if decided is None:
            return Refusal("This was decided by now.")
        action = "agree to sampling" if agrees else "refuse sampling"
        context.audit(person, action, f"dataset {dataset.id}", _detail(watch))
        context.show(_question(watch), watch.channel, views.decided_card(watch, person, agrees=agrees))
    return decided


def _may_watch(context: AppContext, name: str, person: str, channel: str) -> Dataset | Refusal:
    refusal = authorization.dataset_refusal(context, name, person, channel)
    refusal = refusal or authorization.refusal(context, person, "measure", channel)
    if refusal:
        return refusal
    dataset = context.store.datasets.newest(name)
    if dataset is None or context.store.promotions.current(name) is None:
        return Refusal(views.not_in_use(name))
    limits = context.settings.policy.watch
    if not limits.may_watch(dataset.owner):
        return Refusal(views.not_allowed_here(name, limits))
    return dataset


def _consent_refusal(context: AppContext, dataset: Dataset, person: str) -> Refusal | None:
    """Returns why this person doesn't decide about the dataset's rows, None if they do: those who may delete them."""
    request = Request(dataset.uploaded_by, dataset.uploaded_by, dataset.created_at)
    return authorization.refusal(context, person, "delete", dataset.owner, request)


def _question(watch: Watch) -> str:
    """The card that asks whether calls may be sampled."""
    return f"watch {watch.id}"


def _detail(watch: Watch) -> str:
    return f"{watch.dataset}: {100 * watch.share:g}% of the calls"
