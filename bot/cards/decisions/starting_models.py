"""A training that goes on from a tuned model: what its plan says about that model, and why another one can't be the
beginning."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cards.common.blocks import code, escape
from bot.cards.common.candidates import quality, short_meaning
from bot.cards.common.words import listed, pluralize, shorten
from bot.rules.models.starting_models import StartConflict, StartingModel
from trainers.evaluation.results import MeasuredCandidate

SHOWN = 3


def start_facts(start: StartingModel | None) -> list[tuple[str, str]]:
    """What a plan goes on from; nothing if it begins with a base model."""
    if start is None:
        return []
    base = escape(shorten(start.base_model))
    text = f"{code(start.name)}: {base} tuned on {escape(shorten(start.dataset))}, version {start.version}"
    if start.ancestors:
        text += f", from {_names(start.ancestors)}"
    return [("Goes on from", text)]


def start_warnings(start: StartingModel) -> list[str]:
    """A sentence for approvers about how the model was trained from which the training goes on, if there is something
    to know; plain text."""
    parts = []
    if start.overridden:
        parts.append(f"although a rule was overridden ({listed(list(start.overridden), SHOWN)})")
    if start.teachers:
        teachers = listed([shorten(teacher, 60) for teacher in start.teachers], SHOWN)
        parts.append(f"on rows labelled by {teachers}, whose terms hold for what comes from it, too")
    if not parts:
        return []
    return [f"{start.name} was trained {', and '.join(parts)}."]


def good_start_text(start: StartingModel, measured: MeasuredCandidate) -> str:
    """A sentence for approvers if the model is shown to meet the bar as it is; plain text."""
    score = f"{quality(measured)} {short_meaning(measured)}"
    return f"{start.name} meets the bar as it is ({score}), so nothing has to be trained for that."


def gone_text(name: str, provider: str) -> str:
    """`provider` is its title."""
    gone = f"{code(name)}, from which it would go on, is gone: {escape(provider)} no longer has it."
    return f"{gone} Train its base instead."


def deleted_text(name: str) -> str:
    return f"{code(name)}, from which it would go on, was deleted with its dataset. Train its base instead."


def unable_text(start: str, base: str, provider: str, able: Sequence[str]) -> str:
    """Why a provider can't train its own tuned model further. `able` are the titles of those that can."""
    text = f"{escape(provider)} trains base models only, so no training there can go on from {code(start)}."
    if able:
        text += f" Models tuned on {_or(able)} can be trained further."
    return f"{text} Here, train its base on all rows: `target={base}`."


def encoder_text(start: str, base: str) -> str:
    return (
        f"{code(start)} is a trained encoder, which can't be trained further. Train its base on all rows, which takes "
        f"minutes: `target={base}`."
    )


def all_weights_text(start: str, base: str) -> str:
    return (
        f"All weights of {code(start)} were trained, and here only an adapter can be trained further. Train its base "
        f"on all rows: `target={base}`."
    )


def conflict_text(conflict: StartConflict, start: StartingModel) -> str:
    base = f"`target={start.provider}/{start.base_model}`"
    match conflict.why:
        case "sweep":
            return (
                f"`sweep=` tries out new adapters, so it can't go on from {code(start.name)}. Leave it out, or use "
                f"{base}."
            )
        case "engine":
            return f"Only our own engine goes on from a tuned model. Leave `engine=` out, or use {base}."
        case "shape":
            return (
                f"{code(start.name)} has `{conflict.option}={conflict.fixed}`, which training it further can't change. "
                f"Leave it out, or use {base}."
            )


def overlap_text(start: StartingModel, trained: str, dataset: str, count: int, held: int) -> str:
    """Why a dataset can't measure what comes from `start`: `count` of its `held` rows that were set aside were training
    rows of the model `trained`."""
    rows = f"{count:,} of the {pluralize(held, 'row')} that {code(dataset)} sets aside for measuring"
    were = "was among the rows" if count == 1 else "were among the rows"
    return (
        f"{rows} {were} that {code(trained)} was trained on. A model that goes on from {code(start.name)} would know "
        f"their answers, so its score would prove nothing. Train `target={start.provider}/{start.base_model}` instead, "
        "or upload rows that it has not seen."
    )


def unknown_rows_text(start: StartingModel, trained: str) -> str:
    return (
        f"The rows that {code(trained)} was trained on are no longer stored, so it can't be checked whether held-out "
        f"rows are among them, and a score would prove nothing. Train `target={start.provider}/{start.base_model}` "
        "instead."
    )


def _names(names: Sequence[str]) -> str:
    return listed([code(name) for name in names], SHOWN)


def _or(titles: Sequence[str]) -> str:
    *others, last = map(escape, titles)
    if not others:
        return last
    return f"{', '.join(others)} or {last}"
