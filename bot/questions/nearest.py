"""Finds the commands whose words are nearest to a question's. A rare word, which few commands have, counts for more; a
word of the command's cues for more than one of its help.

It knows words, not meanings: what it finds is offered, never run.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bot.questions.cues import CUES

FEWEST_WORDS = 3  # shorter texts are mistyped commands
MOST_OFFERED = 3
MISTYPED = 0.75  # how alike a word is to the command that was meant
HELP_WEIGHT = 0.4
# Of the best one's score: what is further away isn't offered.
NEAR = 0.5
STEM_LETTERS = 5
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
# Words of any question, which say nothing about what is asked.
_IDLE = frozenset(
    _WORD.findall(
        "a an and are at be but by can could do does for from get have how i if in is it its me my of on or our "
        "please so that the their them there this to us we what which will with would you your "
        "der die das den dem ein eine einen für ist mit und uns unser unsere von wir wie zu zum "
        "de del el en es la las los nos nuestro nuestra para por que qué se un una y"
    )
)


@dataclass(frozen=True)
class Described:
    """A command with its help."""

    name: str
    what: str


def is_question(text: str, commands: Collection[str]) -> bool:
    """True for several words of which the first is no command, nor nearly one, as with a mistyped `estmate`."""
    words = text.split()
    if len(words) < FEWEST_WORDS:
        return False
    # A word such as `volume=10M` is a command's option, even if the command is mistyped.
    if any("=" in word for word in words):
        return False
    first = words[0].lower()
    nearly = difflib.get_close_matches(first, commands, n=1, cutoff=MISTYPED)
    return not nearly


def nearest(question: str, commands: Sequence[Described]) -> tuple[str, ...]:
    """Returns the names of up to three commands, the nearest first; none if no word is theirs."""
    stems = _stems(question)
    weights = _weights(commands)
    scores: dict[str, float] = {}
    for command in commands:
        own = weights[command.name]
        scores[command.name] = sum(own.get(stem, 0.0) for stem in stems)
    best = max(scores.values(), default=0.0)
    threshold = NEAR * best
    near = [name for name, score in scores.items() if score > 0 and score >= threshold]
    near.sort(key=lambda name: -scores[name])
    return tuple(near[:MOST_OFFERED])


def names_in(question: str, names: Collection[str]) -> tuple[str, ...]:
    """Returns the names that a question has as words, in the order of `names`."""
    words = set(re.findall(r"[\w.-]+", question.lower()))
    return tuple(name for name in names if name.lower() in words)


def _weights(commands: Sequence[Described]) -> Mapping[str, Mapping[str, float]]:
    """Returns each command's stems with what they count."""
    cues = {}
    stems_by_command = {}
    for command in commands:
        own_cues = _stems(f"{command.name} {CUES.get(command.name, '')}")
        cues[command.name] = own_cues
        stems_by_command[command.name] = own_cues | _stems(command.what)

    weights: dict[str, dict[str, float]] = {}
    for name, stems in stems_by_command.items():
        own = {}
        for stem in stems:
            having = sum(stem in others for others in stems_by_command.values())
            rarity = math.log(1 + len(commands) / having)
            if stem in cues[name]:
                own[stem] = rarity
            else:
                own[stem] = HELP_WEIGHT * rarity
        weights[name] = own
    return weights


def _stems(text: str) -> frozenset[str]:
    """Returns the beginnings of the words, without accents, so that "trained" is "training" and "días" is "dias"."""
    decomposed = unicodedata.normalize("NFKD", text.lower())
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    stems = set()
    for word in _WORD.findall(plain):
        if word not in _IDLE:
            stems.add(word.replace("-", "")[:STEM_LETTERS])
    return frozenset(stems)
