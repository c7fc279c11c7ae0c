"""A search for a better prompt: its budget, its progress, its outcome, and what it changed in the prompt."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from bot.cards.common.blocks import CardBlock, Text, code_block, escape
from bot.cards.common.builder import Parts
from bot.cards.common.words import at_most, charge, percent, pluralize, shorten
from bot.values.evaluations import ComparisonPlan, SearchPlan, SearchProgress

CHARACTERS_A_BLOCK = 2_400  # leaves room in a block for markers and escapes
KEPT_FROM_HERE = (
    "The optimised prompt may quote training rows, so Details shows it only where this dataset's "
    "rows may be shown."
)


def budget(search: SearchPlan) -> tuple[str, str]:
    """A fact for the card before the search begins."""
    models = shorten(search.model, 40)
    if search.writer != search.model:
        models += f", written by {shorten(search.writer, 40)}"
    return "Optimised prompt", f"for {escape(models)}, {at_most(search.most_micros)} of it"


def progress_text(search: SearchProgress | None) -> str:
    if search is None or not search.tried:
        return "about to begin"
    tried = pluralize(search.tried, "prompt")
    text = f"{search.answered:,} answers, {tried} tried"
    if search.rows and search.share:
        text += f", the best {_share(search)}"
    return text


def outcome(search: SearchProgress) -> str:
    """The outcome in sentences; unescaped."""
    improvement = f"from {percent(search.start_share)} to {_share(search)}"
    cost = charge(search.spent_micros)
    text = f"The prompt was optimised {improvement}, for {cost}. Details shows it."
    if not search.is_better:
        tried = "nothing could be tried"
        if search.tried:
            tried = f"of {pluralize(search.tried, 'prompt')} tried"
        text = f"No better prompt was found: {tried}, none beats yours on {_rows(search)}."
    if search.ended:
        text += f" {search.ended}"
    return text


def details(plan: ComparisonPlan, search: SearchProgress | None) -> tuple[CardBlock, ...]:
    """The optimised prompt: what changed, if the original is known, and the full text to copy."""
    if plan.optimised is None:
        return ()
    optimised = plan.optimised.splitlines()
    parts = Parts()
    if search and search.start:
        original = search.start.splitlines()
        parts.text("*What the search changed in the prompt*")
        parts.add(*_blocks(_changed_lines(original, optimised)))
    parts.text("*The optimised prompt*")
    parts.add(*_blocks(optimised))
    return tuple(parts)


def _changed_lines(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """The lines that were added or removed, with two around them, without the headers of a diff."""
    lines = difflib.unified_diff(before, after, lineterm="", n=2)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def _share(search: SearchProgress) -> str:
    return f"{percent(search.share)} right on {_rows(search)}"


def _rows(search: SearchProgress) -> str:
    return pluralize(search.rows, "training row")


def _blocks(lines: Sequence[str]) -> Iterator[CardBlock]:
    """Yields the lines as code blocks of limited size."""
    text = "\n".join(lines)
    # By characters and not by lines, as a single line may be longer than a block.
    for start in range(0, len(text), CHARACTERS_A_BLOCK):
        yield Text(code_block(text[start : start + CHARACTERS_A_BLOCK]))
