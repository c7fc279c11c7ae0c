"""What people see at a glance: the App Home, what is open, what came out lately, each dataset's best rung."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice

from bot.measured import CurvePlan, LadderPlan, LadderProgress
from bot.results import Refusal
from bot.tuned_curves import TunedCurveProgress, plan_of
from bot.views.datasets import Best, Listed
from bot.views.home import WITH_BUTTONS, Overview
from bot.views.measurements import CurveLook, LadderLook, MeasurementLook, TunedCurveLook
from bot.views.runs import Look
from bot.views.status import Status
from bot.workflows import datasets, in_use, money, permits, runs, sharing
from bot.workflows.datasets import Checked
from bot.workflows.desk import Desk
from bot.workflows.measuring import gathered
from storage.records import Measurement
from trainers.measuring.values import Curve, Ladder

LATEST_MEASUREMENTS = 15
LATEST_RESULTS = 6
SHOWN_DATASETS = 40  # more lines no card has room for


def may_read(desk: Desk, person: str, channel: str | None = None) -> Refusal | None:
    """Lists, states and figures."""
    return permits.may(desk, person, "read", channel)


def status(desk: Desk, person: str, channel: str) -> Status:
    known = sharing.visible(desk, person, channel)
    freeze = desk.store.freezes.current()
    against = desk.store.freezes.against(freeze) if freeze else ()
    latest, used = _latest(desk, known)[:LATEST_RESULTS], in_use.all_in_use(desk, known)
    return Status(runs.open_runs(desk, known), _open(desk, known), latest, freeze, against, used)


def home(desk: Desk, person: str) -> Overview | Refusal:
    """For the person's App Home."""
    refused = may_read(desk, person)
    if refused:
        return refused
    known = sharing.visible(desk, person, None)
    looks = runs.open_runs(desk, known)
    waiting = [one for one in looks if one.run.state == "awaiting_approval"]
    may_approve = bool(permits.rules(desk, "approve").entitled("approve", [person]))
    mine = [one for one in waiting if may_approve and person not in (one.run.requester, one.plan.uploaded_by)]
    return Overview(
        mine=mine,
        open=[*(one for one in looks if one.run.state != "awaiting_approval"), *_open(desk, known)],
        recent=_latest(desk, known),
        budget=money.team(desk),
        in_use=in_use.all_in_use(desk, known),
        links=_links(desk, mine[:WITH_BUTTONS]),
    )


def _links(desk: Desk, looks: Sequence[Look]) -> dict[int, str]:
    """Where the plans' cards stand, as far as Slack tells."""
    cards = {one.run.id: desk.store.outbox.card(f"plan {one.run.id}") for one in looks}
    links = {
        number: desk.directory.permalink(card.channel, card.ts) for number, card in cards.items() if card
    }
    return {number: link for number, link in links.items() if link}


def listing(desk: Desk, person: str, channel: str) -> Sequence[Listed]:
    """Every version that a person may know of, newest first. What was measured stands with the newest usable one of a
    name."""
    seen: set[str] = set()
    listed: list[Listed] = []
    for one in datasets.listing(desk, person, channel):
        is_newest = one.report is not None and one.dataset.name not in seen
        seen |= {one.dataset.name} if is_newest else set()
        best = _best(desk, one) if is_newest and len(listed) < SHOWN_DATASETS else None
        listed.append(Listed(one.dataset, one.report, best))
    return listed


def _best(desk: Desk, checked: Checked) -> Best | None:
    if checked.report is None:
        return None
    evidence = gathered.evidence_of(desk, checked.dataset, checked.report, None)
    return Best(gathered.best_rung(evidence), evidence.bar)


def _open(desk: Desk, known: Collection[str]) -> list[MeasurementLook]:
    return [_look(desk, one) for one in sharing.of_known(desk, desk.store.measurements.open(), known)]


def _latest(desk: Desk, known: Collection[str]) -> list[Look | MeasurementLook]:
    """Runs and measurements that have a result, newest first."""
    done = (one for one in desk.store.measurements.newest(runs.SEARCHED) if one.result)
    seen = (_look(desk, one) for one in islice(sharing.of_known(desk, done, known), LATEST_MEASUREMENTS))
    looks: list[Look | MeasurementLook] = [one for one in runs.latest(desk, known) if one.result]
    return sorted([*looks, *seen], key=_changed_at, reverse=True)


def _changed_at(one: Look | MeasurementLook) -> float:
    return one.run.updated_at if isinstance(one, Look) else one.measurement.updated_at


def _look(desk: Desk, measurement: Measurement) -> MeasurementLook:
    found = measurement.result
    if measurement.kind == "ladder":
        plan = LadderPlan.from_json(measurement.plan)
        known = LadderProgress.from_json(measurement.progress)
        ladder = Ladder.from_json(found) if found else None
        return LadderLook(measurement, plan, known, ladder, desk.clock())
    curve, drawn = Curve.from_json(found) if found else None, plan_of(measurement.plan)
    if isinstance(drawn, CurvePlan):
        return CurveLook(measurement, drawn, curve)
    return TunedCurveLook(measurement, drawn, TunedCurveProgress.from_json(measurement.progress), curve)
