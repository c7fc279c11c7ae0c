"""Measurements in lists: one line each, how far it is or what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from bot.measured import CurvePlan, LadderPlan, LadderProgress
from bot.tuned_curves import TunedCurvePlan, TunedCurveProgress
from bot.views import curves, ladder, measuring, tuned_curves
from bot.views.blocks import escape
from bot.views.words import short
from storage.records import Measurement
from trainers.measuring.values import Curve, Ladder


@dataclass(frozen=True)
class LadderLook:
    """A ladder in a list; `found` once it has a result."""

    measurement: Measurement
    plan: LadderPlan
    known: LadderProgress
    found: Ladder | None
    now: float


@dataclass(frozen=True)
class CurveLook:
    """The classical rung's curve."""

    measurement: Measurement
    plan: CurvePlan
    found: Curve | None


@dataclass(frozen=True)
class TunedCurveLook:
    measurement: Measurement
    plan: TunedCurvePlan
    known: TunedCurveProgress
    found: Curve | None


MeasurementLook = LadderLook | CurveLook | TunedCurveLook


def entry(look: MeasurementLook) -> str:
    return f"• *Measurement m{look.measurement.id}*, {escape(_what(look))}: {escape(_line(look))}"


def _what(look: MeasurementLook) -> str:
    title = short(look.plan.title)
    match look:
        case LadderLook():
            return f"ladder of {title}"
        case CurveLook():
            return f"curve of {title}"
        case TunedCurveLook():
            return f"curve of {short(look.plan.target)} on {title}"


def _line(look: MeasurementLook) -> str:
    if look.found:
        found = look.found
        said = ladder.headline(found) if isinstance(found, Ladder) else curves.headline(found)
        return said[:1].lower() + said[1:]
    match look:
        case LadderLook():
            return measuring.how_far(look.known, look.now)
        case CurveLook():
            return "is being worked out"
        case TunedCurveLook():
            return tuned_curves.how_far(look.plan, look.known)
