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
from storage.monitoring.watches import Every, NewWatch, Watch
from storage.records import Dataset

UTC = "UTC"


@dataclass(frozen=True)
class WatchRequest:
    """What a person wants watched: a dataset, with the share (0 to 1) of its calls to sample, and how often what is in
    use is measured again. None leaves either as it is."""

    dataset: str
    share: float | None = None
    every: Every | None = None


def form(context: AppContext, dataset: str, person: str, channel: str) -> Block | Refusal:
    watched = _may_watch(context, dataset, person, channel)
    if isinstance(watched, Refusal):
        return watched
    return views.form(channel, dataset, context.settings.policy.watch)


def begin(context: AppContext, wanted: WatchRequest, person: str, channel: str) -> str | Refusal:
    """Begins a watch in place of the current one. Returns the text for the person who asked."""
    dataset = _may_watch(context, wanted.dataset, person, channel)
    if isinstance(dataset, Refusal):
        return dataset
    limits = context.settings.policy.watch
    if wanted.share is not None and wanted.share > limits.share:
        return Refusal(views.share_too_large(limits))
    store = context.store
    before = store.watches.current(dataset.name)
    # Weeks begin and end where the person lives who reads their cards first.
    time_zone = context.directory.time_zone(person) or UTC
    new = NewWatch(
        dataset=dataset.name,
        person=person,
        channel=dataset.owner,
        share=_share(wanted, before),
        time_zone=time_zone,
        every=_every(wanted, before),
    )
    new = _with_consent(context, dataset, before, new)
    with store.transaction():
        watch = store.watches.begin(new, now=context.clock())
        context.audit(person, "watch", f"dataset {dataset.id}", _detail(watch))
        _close_question(context, before)
        if watch.awaits_consent:
            card = views.consent_card(watch, dataset, limits)
            context.show(_question(watch), watch.channel, card, concerns=dataset.uploaded_by)
    promotion = store.promotions.current(dataset.name)
    is_tuned = promotion is not None and promotion.model is not None
    return views.begun_text(watch, limits, is_tuned=is_tuned)


def _share(wanted: WatchRequest, before: Watch | None) -> float:
    if wanted.share is not None:
        return wanted.share
    if before is not None:
        return before.share
    return 0.0


def _every(wanted: WatchRequest, before: Watch | None) -> Every:
    if wanted.every is not None:
        return wanted.every
    if before is not None:
        return before.every
    return "never"


def _with_consent(context: AppContext, dataset: Dataset, before: Watch | None, new: NewWatch) -> NewWatch:
    """Returns the watch with the consent of its person, if they decide about the rows, or else with an earlier one to
    a share as large."""
    if not new.share:
        return new
    if _consent_refusal(context, dataset, new.person) is None:
        return replace(new, consented_by=new.person, consented_at=context.clock())
    if before is None or not before.samples:
        return new
    # Who agreed to a tenth of the calls has not agreed to half of them.
    if new.share > before.share:
        return new
    return replace(new, consented_by=before.consented_by, consented_at=before.consented_at)


def receive(context: AppContext, wanted: WatchRequest, person: str, channel: str) -> Refusal | None:
    """Handles the form: begins a watch, and tells the person what follows."""
    begun = begin(context, wanted, person, channel)
    if isinstance(begun, Refusal):
        return begun
    messages.tell_person(context, None, person, channel, text_message(begun), topic="answers")
    return None


def end(context: AppContext, dataset: str, person: str, channel: str) -> str | Refusal:
    """Ends a watch. The maintenance deletes the sampled calls (call_samples.py). Returns the text for the person."""
    refusal = authorization.dataset_refusal(context, dataset, person, channel)
    refusal = refusal or authorization.refusal(context, person, "measure", channel)
    if refusal:
        return refusal
    store = context.store
    newest = store.datasets.newest(dataset)
    with store.transaction():
        over = store.watches.end(dataset, person, now=context.clock())
        if over is None or newest is None:
            return Refusal(f"{code(dataset)} isn't watched.")
        context.audit(person, "end watch", f"dataset {newest.id}")
        _close_question(context, over)
    return views.ended_text(over)


def consent(context: AppContext, number: int, person: str) -> Watch | Refusal:
    """Handles the button: somebody who decides about the rows agrees that calls are sampled."""
    return _decide(context, number, person, agrees=True)


def refuse(context: AppContext, number: int, person: str) -> Watch | Refusal:
    """Handles the button: the dataset stays watched, without sampled calls."""
    return _decide(context, number, person, agrees=False)


def _decide(context: AppContext, number: int, person: str, *, agrees: bool) -> Watch | Refusal:
    store = context.store
    watch = store.watches.get(number)
    if watch is None or not watch.awaits_consent:
        return Refusal("This was decided by now.")
    dataset = store.datasets.newest(watch.dataset)
    if dataset is None:
        return Refusal("Its dataset was deleted.")
    refusal = _consent_refusal(context, dataset, person)
    if refusal:
        return refusal
    action = "refuse sampling"
    if agrees:
        action = "agree to sampling"
    with store.transaction():
        # Two people may press the button at once; the first one decides.
        decided = _record_decision(context, watch, person, agrees=agrees)
        if decided is None:
            return Refusal("This was decided by now.")
        context.audit(person, action, f"dataset {dataset.id}", _detail(watch))
        card = views.decided_card(watch, person, agrees=agrees)
        context.show(_question(watch), watch.channel, card)
    return decided


def _record_decision(context: AppContext, watch: Watch, person: str, *, agrees: bool) -> Watch | None:
    """Returns None if that was decided before. Who refuses leaves the dataset watched, without a sample."""
    now = context.clock()
    watches = context.store.watches
    if agrees:
        return watches.consent(watch, person, now=now)
    current = watches.current(watch.dataset)
    if current is None or current.id != watch.id:
        return None
    new = NewWatch(
        dataset=watch.dataset,
        person=watch.person,
        channel=watch.channel,
        share=0.0,
        time_zone=watch.time_zone,
        every=watch.every,
    )
    return watches.begin(new, now=now)


def _may_watch(context: AppContext, name: str, person: str, channel: str) -> Dataset | Refusal:
    refusal = authorization.dataset_refusal(context, name, person, channel)
    refusal = refusal or authorization.refusal(context, person, "measure", channel)
    if refusal:
        return refusal
    store = context.store
    dataset = store.datasets.newest(name)
    standing = store.promotions.current(name)
    if dataset is None or standing is None:
        return Refusal(views.not_in_use(name))
    limits = context.settings.policy.watch
    if not limits.may_watch(dataset.owner):
        return Refusal(views.not_allowed_here(name, limits))
    return dataset


def _consent_refusal(context: AppContext, dataset: Dataset, person: str) -> Refusal | None:
    """Returns why this person doesn't decide about the dataset's rows, None if they do: those who may delete them."""
    uploader = dataset.uploaded_by
    request = Request(uploader, uploader, dataset.created_at)
    return authorization.refusal(context, person, "delete", dataset.owner, request)


def _close_question(context: AppContext, over: Watch | None) -> None:
    """Replaces the question of a watch that is over, if nobody has answered it."""
    if over is None or not over.share or over.consented_at is not None:
        return
    context.show(_question(over), over.channel, views.outdated_card(over))


def _question(watch: Watch) -> str:
    """The card that asks whether calls may be sampled."""
    return f"watch {watch.id}"


def _detail(watch: Watch) -> str:
    percent = 100 * watch.share
    text = f"{watch.dataset}: {percent:g}% of the calls"
    if watch.every == "month":
        text += ", measured again every month"
    return text
