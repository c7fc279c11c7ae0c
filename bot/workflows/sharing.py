"""Who may know of which datasets, and where their rows may be shown: asked of Slack, decided by decisions/sharing.py.

Somebody who acts in a channel is in it, so nothing is asked of Slack for the datasets of the channel itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from bot.decisions import sharing as rules
from bot.decisions.sharing import Home
from bot.results import Refusal
from bot.views.blocks import code
from bot.views.datasets import no_such_dataset
from bot.workflows.desk import Desk
from storage.records import Dataset, Measurement, Run

Row = TypeVar("Row", Run, Measurement)

AT_ONCE = 16
LOOK_UP_S = 1.2  # an ack has to come within three seconds, and the person was looked up before


def visible(desk: Desk, person: str, here: str | None) -> frozenset[str]:
    """The names of the datasets that a person may know of, asking in the channel `here`; None: in no channel."""
    owners = desk.store.datasets.owners()
    found = homes(desk, set(owners.values()), person, here)
    return frozenset(name for name, owner in owners.items() if rules.may_use(found[owner]))


def may_use(desk: Desk, dataset: str, person: str, here: str | None) -> bool:
    """Whether there is a dataset of this name as far as this person may know."""
    owner = desk.store.datasets.owners().get(dataset)
    return owner is not None and rules.may_use(home(desk, owner, person, here))


def of_known(desk: Desk, rows: Iterable[Row], known: Collection[str]) -> Iterator[Row]:
    """Those of the datasets that are `known` to who asks."""
    return (row for row in rows if desk.store.datasets.get(row.dataset_id).name in known)


def refused(desk: Desk, dataset: str, person: str, here: str, *, is_posted: bool = False) -> Refusal | None:
    """Why a person can't use a dataset in the channel `here`; the same words where they may not know of it and where
    there is none. `is_posted`: what comes of it is posted in that channel."""
    owners = desk.store.datasets.owners()
    owner = owners.get(dataset)
    if owner == here:
        return None
    found = homes(desk, set(owners.values()), person, here)
    if owner is None or not rules.may_use(found[owner]):
        known = [name for name, other in owners.items() if rules.may_use(found[other])]
        return Refusal(no_such_dataset(dataset, known))
    if is_posted and not rules.may_post(found[owner], here):
        return Refusal(
            f"{code(dataset)} belongs to <#{owner}>, which is private: ask there, so that what comes of it stays among "
            "its members."
        )
    return None


def home(desk: Desk, owner: str, person: str, here: str | None) -> Home:
    return homes(desk, {owner}, person, here)[owner]


def homes(desk: Desk, owners: Collection[str], person: str, here: str | None) -> Mapping[str, Home]:
    """All look-ups at once. What Slack doesn't tell in time is not known."""
    unasked = {owner: Home(owner, None, owner == here or None) for owner in owners}
    pool = ThreadPoolExecutor(AT_ONCE)
    wanted = [owner for owner in owners if owner != here and not _is_direct(owner)]
    asked = {owner: pool.submit(_looked_up, desk, owner, person) for owner in wanted}
    done, _ = wait(asked.values(), timeout=LOOK_UP_S)
    pool.shutdown(wait=False, cancel_futures=True)
    return unasked | {owner: future.result() for owner, future in asked.items() if future in done}


def may_show_rows(desk: Desk, dataset: Dataset, channel: str) -> bool:
    """Whether customers' words may be posted in `channel`."""
    is_direct = _is_direct(channel)
    return rules.may_show_rows(
        dataset.owner,
        dataset.source_channels,
        channel,
        is_private=is_direct or desk.directory.is_private(channel),
        is_shared=False if is_direct else desk.directory.is_shared(channel),
    )


def _looked_up(desk: Desk, owner: str, person: str) -> Home:
    is_private = desk.directory.is_private(owner)
    return Home(owner, is_private, None if is_private is False else desk.directory.is_member(person, owner))


def _is_direct(channel: str) -> bool:
    """The conversation with the bot, which nobody else is in, and which it may not ask Slack about."""
    return channel.startswith("D")
