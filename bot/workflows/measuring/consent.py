"""Before a curve creates a job: does the yes to it still count? Asked anew, of Slack and of the rules as they are. And
before a measurement asks models: may its rows still go there?"""

from __future__ import annotations

from bot.decisions.policy import BUILT_IN
from bot.workflows import leaving, permits
from bot.workflows.desk import Desk
from bot.workflows.measuring import measurements
from bot.workflows.measuring.curve_step import CurveStep
from bot.workflows.rechecking import Forbidden, Unsure
from storage.records import Measurement


def of_rows(desk: Desk, measurement: Measurement) -> Unsure | Forbidden | None:
    """None: its rows may go where it asks, by what was found in them and by the rules as they are."""
    to = measurements.providers(measurement)
    waits = leaving.not_looked_through(desk, measurement.dataset_id, to)
    if waits:
        return Unsure(waits)
    aside = leaving.recorded(desk, f"measurement {measurement.id}")
    forbidden = leaving.forbidden(desk, measurement.dataset_id, to, aside)
    return Forbidden(forbidden) if forbidden else None


def look(step: CurveStep) -> Unsure | Forbidden | None:
    """None: it counts, of who agreed to the cost, or where it was free of who asked for it."""
    desk, measurement = step.desk, step.measurement
    speaks_against = of_rows(desk, measurement)
    if speaks_against:
        return speaks_against
    person = step.progress.agreed_by or measurement.requested_by
    asked = permits.asking(desk, person, "measure", measurement.channel)
    if permits.refused(asked, "measure") is None:
        return None
    if not permits.is_known(asked):
        return Unsure("Slack didn't tell whether who agreed still may, so no job is created yet.")
    where = desk.settings.policy.named("measure").where
    place = "" if where == BUILT_IN else f" ({where})"
    return Forbidden(f"<@{person}>, whose yes it goes by, may not measure here any more{place}.")
