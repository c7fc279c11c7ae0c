"""The sentences that approvers read besides a plan's figures: about prices, the end of a model, memory, the rows and
the judge. They are frozen in the plan, so that they can't change after somebody has read them."""

from __future__ import annotations

from bot.cards.common import advice
from bot.cards.common.prices import OLD_PRICES, doubtful_successors
from bot.cards.common.reasons import shortage_text
from bot.cards.common.words import shorten
from bot.cards.decisions import plan_refusals
from bot.cards.decisions.starting_models import good_start_text, start_warnings
from bot.rules.estimates import EstimateResult
from trainers.methods import METHODS

RARE_LABEL_ROWS = 2  # an encoder hardly learns a label with this many rows or fewer


def plan_warnings(estimated: EstimateResult) -> tuple[str, ...]:
    """Returns the sentences that approvers read besides the figures."""
    warnings: list[str] = []
    start = estimated.target.start
    if start is not None:
        warnings += start_warnings(start)
        measured = estimated.evidence.tuned
        if measured is not None and measured.model == f"{start.provider}/{start.name}":
            warnings.append(good_start_text(start, measured))
    rental = estimated.target.row.rental
    if rental:
        minutes = estimated.minutes.expected if estimated.minutes else None
        warnings.append(plan_refusals.rent_text(rental, minutes))
    hosted = estimated.target.row
    if hosted.engine is not None:
        warnings.append(
            plan_refusals.hosted_engine_text(hosted.title, hosted.data_terms, estimated.target.model)
        )

    verdict = estimated.verdict
    for reason in verdict.reasons:
        if reason.rule == "end date":
            warnings.append(advice.reason_text(verdict, reason))

    day = estimated.made_on
    if day:
        warnings += doubtful_successors(estimated.prices, day)
    if estimated.room and estimated.room.shortage:
        warnings.append(shortage_text(estimated.room.shortage))
    tuned = estimated.prices[0]
    if day and tuned.is_old(day):
        warnings.append(f"{tuned.model}: {OLD_PRICES}.")
    if estimated.report.pairs and not METHODS[estimated.question.method].reads_pairs:
        warnings.append(
            "Its rows are preference pairs: this trains only on the preferred answers, `method=dpo` would use both."
        )
    if estimated.judge:
        name = estimated.judge.name
        warnings.append(f"{name} judges its free text, for which it reads the held-out rows.")
    warnings += _rare_labels(estimated)
    return tuple(warnings)


def _rare_labels(estimated: EstimateResult) -> list[str]:
    """Returns a sentence about labels that an encoder will hardly learn, if there are any."""
    if not estimated.target.model.is_encoder:
        return []
    rare = [count.label for count in estimated.report.labels if count.rows <= RARE_LABEL_ROWS]
    if not rare:
        return []
    named = ", ".join(shorten(label) for label in rare[:3])
    if len(rare) > 3:
        named += f" and {len(rare) - 3:,} more"
    have = "has" if len(rare) == 1 else "have"
    return [f"{named} {have} {RARE_LABEL_ROWS} rows or fewer and will hardly be learnt."]
