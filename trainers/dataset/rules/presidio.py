"""Personal data by presidio's pattern recognisers, beside our own patterns: an extra, and only where asked for.

No language model: names and places are not found, nothing is downloaded. What presidio is less than SURE of is not
counted; a check sum that holds makes it wholly sure. Bounded in rows, in letters of a text and in seconds, and what
was looked at is said. presidio is imported at use, which alone takes some seconds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from trainers.dataset.findings import Fault, Findings, Rule
from trainers.dataset.rules.sensitive import PERSONAL, faults_in
from trainers.dataset.values import Example

if TYPE_CHECKING:
    from presidio_analyzer import PatternRecognizer

SURE = 0.5
MOST_ROWS, MOST_SECONDS, MOST_LETTERS = 20_000, 60.0, 10_000
LOOKED = Rule("presidio_looked", "tells", "Nothing to do; names and places are not looked for.")

_LANGUAGES = ("en", "es", "it", "pl")  # those with recognisers of their own that presidio has on
# Dates, links and ids are nobody's in themselves. Our own pattern finds addresses, and presidio's would download a list
# of the ends that domains have.
_LEFT_OUT = frozenset({"DATE_TIME", "URL", "UUID", "EMAIL_ADDRESS"})
_OURS = {"CREDIT_CARD": "payment card", "IBAN_CODE": "IBAN"}


def check_presidio(
    rows: Sequence[Example],
    lines: Sequence[int],
    seed: int,
    found: Findings,
    *,
    most_rows: int = MOST_ROWS,
    seconds: float = MOST_SECONDS,
) -> None:
    """One finding for each kind and row, by its line. Rows are drawn where there are too many, so that a look that was
    cut short is one at all of the file."""
    recognisers = _recognisers()
    kinds_in = lru_cache(2000)(lambda text: _kinds_in(text, recognisers))
    drawn = random.Random(seed).sample(range(len(rows)), min(len(rows), most_rows))  # noqa: S311 - no secret
    ends, kinds = time.monotonic() + seconds, dict[int, list[str]]()
    for row in drawn:
        if time.monotonic() > ends:
            break
        kinds[row] = sorted({kind for text in _texts(rows[row]) for kind in kinds_in(text)})
    for row in sorted(kinds):
        for kind in kinds[row]:
            found.at(lines[row], Fault(PERSONAL, f"holds what presidio calls {kind}"))
    found.about_file(LOOKED, _looked(len(kinds), len(rows), seconds), len(kinds))


def _looked(looked: int, rows: int, seconds: float) -> str:
    part = (
        "" if looked == rows else f" of {rows:,} rows, drawn at random: it gets {seconds:.0f} seconds at most"
    )
    many = f"{looked:,}{part}" if part else f"{looked:,} row{'' if looked == 1 else 's'}"
    return f"presidio's patterns looked at {many}; counted is what it is at least {SURE:.0%} sure of."


def _texts(example: Example) -> list[str]:
    """Cut to what is looked at."""
    whole = [] if example.row is None else [example.row.decode()]
    return [text[:MOST_LETTERS] for text in (*(message.content for message in example.messages), *whole)]


def _recognisers() -> list[PatternRecognizer]:
    from presidio_analyzer import PatternRecognizer, RecognizerRegistry

    registry = RecognizerRegistry(supported_languages=list(_LANGUAGES))
    registry.load_predefined_recognizers(languages=list(_LANGUAGES))
    patterns = [one for one in registry.recognizers if isinstance(one, PatternRecognizer)]
    by_kinds = {
        tuple(one.supported_entities): one for one in patterns
    }  # the same one stands there for each language
    return [one for kinds, one in by_kinds.items() if not _LEFT_OUT.intersection(kinds)]


def _kinds_in(text: str, recognisers: Sequence[PatternRecognizer]) -> frozenset[str]:
    """presidio's names of what it finds and our own patterns don't."""
    results = [result for one in recognisers for result in one.analyze(text, one.supported_entities)]
    kinds = {result.entity_type for result in results if result.score >= SURE}
    said = " ".join(fault.said for fault in faults_in(text)) if kinds & _OURS.keys() else ""
    return frozenset(kind for kind in kinds if kind not in _OURS or _OURS[kind] not in said)
