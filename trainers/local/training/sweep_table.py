"""A sweep's arms as a table: sweep.csv, and an event for each rung that is over. Decides nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from trainers.local.training.arms import Arm, position_of
from trainers.local.training.contest import Round, Standing
from trainers.local.training.course import best
from trainers.sizing.halving import rungs

FILE = "sweep.csv"
MEASURED = (
    *("step", "total_steps", "best_step", "valid_loss", "valid_mean_token_accuracy"),
    *("trained_tokens", "seconds", "outcome"),
)


def write_table(
    folder: Path,
    arms: Sequence[Arm],
    standings: Sequence[Standing],
    played: Sequence[Round],
    winner: int | None,
) -> None:
    """By rename. `valid_loss` is the arm's lowest, of its `best_step`. `winner`: the arm that won, once one has."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["arm", *arms[0].chosen, *MEASURED])
    for arm, standing in zip(arms, standings, strict=True):
        position = position_of(arm)
        lowest = best(position.validations)
        scores = (
            ("", "", "") if lowest is None else (lowest.step, _short(lowest.loss), _short(lowest.accuracy))
        )
        taken = position.trained_tokens, round(position.seconds, 1), outcome(standing, played, winner)
        rows.writerow([arm.number, *arm.chosen.values(), position.step, standing.course, *scores, *taken])
    temporary = folder / (FILE + ".tmp")
    temporary.write_text(text.getvalue(), encoding="utf-8", newline="")
    temporary.replace(folder / FILE)


def outcome(standing: Standing, played: Sequence[Round], winner: int | None) -> str:
    if standing.out is not None:
        return f"out after step {standing.step}: {standing.out}"
    if standing.number == winner:
        return "won"
    reached = [each.number for each in played if standing in each.arms]
    if reached and reached[-1] < played[-1].number:
        return f"stopped after rung {reached[-1]}"
    return "goes on" if winner is None else "not finished"


def round_event(
    over: Round, arms: Sequence[Arm], going_on: Sequence[Standing]
) -> tuple[str, list[dict[str, object]]]:
    """The message, a line an arm from the best to the worst, and the same as data."""
    last = rungs(len(arms))
    share = f"{over.rung.share.numerator}/{over.rung.share.denominator}" if over.rung.share < 1 else "all"
    lines = [f"Rung {over.number}/{len(last)} is over, {share} of the course"]
    data: list[dict[str, object]] = []
    for standing in over.ranking:
        arm, loss = arms[standing.number - 1], standing.loss_at(over.rung)
        fate = (
            "has ended its course"
            if over.number == len(last)
            else "goes on"
            if standing in going_on
            else "stopped"
        )
        lines.append(f"{arm}: step {standing.step}/{standing.course}, validation loss {loss:.4f}, {fate}")
        data.append(
            {"arm": arm.number, **arm.chosen, "step": standing.step, "valid_loss": loss, "outcome": fate}
        )
    return "\n".join(lines), data


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
