"""How far people agree with the judge of a ladder: their choices out of the store, its verdicts out of the progress."""

from __future__ import annotations

from bot.decisions import people
from bot.decisions.people import People
from bot.measured import LadderProgress
from bot.work import verdicts
from bot.work.verdicts import PairsForPeople
from bot.workflows.desk import Desk
from storage.records import Measurement


def pairs(desk: Desk, measurement: Measurement) -> PairsForPeople | None:
    """What people can compare; None where there is nothing, or where its folder was lost."""
    return verdicts.read_for_people(desk.settings.data / "measurements" / f"m{measurement.id}")


def found(desk: Desk, measurement: Measurement) -> People:
    labels = desk.store.preferences.of(measurement.id)
    judge = LadderProgress.from_json(measurement.progress).judge
    pair = judge.pair if judge else None
    better = pair.first.key if pair else labels[0].first_arm if labels else ""
    return people.gathered(labels, better, dict(enumerate(pair.choices)) if pair else {})
