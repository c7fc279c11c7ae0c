"""Which look at held-out rows measured a candidate first, and how much had its makers seen of these rows?

Everything here follows from what is stored: which evaluation measured what, on which rows, by which prompt, and when
wrong rows were shown. trainers/evaluation/claims.py turns it into the level of a claim.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainers.evaluation.results import Candidate


@dataclass(frozen=True)
class DistinctCandidate:
    """A candidate with what distinguishes it from others of the same name. `by_people` is a hash of what people chose
    for it (a prompt, a number of examples, documents), '' if they chose nothing. `made_of` names what else differs: a
    prompt that was searched for on training rows, or a training. `rows` is the hash of the training rows that it
    learns from, '' if it learns from none."""

    identity: Candidate
    by_people: str = ""
    made_of: str = ""
    rows: str = ""


@dataclass(frozen=True)
class Look:
    """An evaluation that showed people scores on held-out rows, such as 'm3' or 'run 2'. With `shows_rows` it also
    showed them held-out rows, with the right answers. Wrong rows that somebody asked for are a look without
    candidates."""

    name: str
    holdout: str
    candidates: tuple[DistinctCandidate, ...]
    shows_rows: bool = False


@dataclass(frozen=True)
class Origin:
    """How a candidate came about. `look` is the number of the look that measured it first. `choices` is the number of
    candidates that people could have made or chosen in its place, depending on the scores that they had seen. `seen`
    are the holdouts of which people had seen scores when they made it, if they had been shown wrong rows by then; else
    None."""

    look: int = 1
    choices: int = 1
    seen: tuple[str, ...] | None = None


FIRST_LOOK = Origin()


def find_new_looks(looks: Iterable[Look]) -> tuple[Look, ...]:
    """Returns the looks with something new: repeating a measurement on the same rows shows nothing new."""
    shown_before: set[tuple[str, DistinctCandidate]] = set()
    new_looks = []
    for look in looks:
        shown = {(look.holdout, each) for each in look.candidates}
        if not shown <= shown_before:
            new_looks.append(look)
        shown_before |= shown
    return tuple(new_looks)


def find_origin(candidate: DistinctCandidate, holdout: str, looks: Iterable[Look]) -> Origin:
    """Returns how a candidate on `holdout` came about. `looks` are those at this holdout and at the earlier ones whose
    rows it contains, the oldest first. A candidate that none of them has is taken to be measured next."""
    all_looks = tuple(looks)
    new_looks = find_new_looks(all_looks)
    number = _number_on_holdout(candidate, holdout, new_looks)
    until_measured = new_looks[: _index_of_first(candidate, new_looks) + 1]
    if not candidate.by_people:
        choices = _count_choices_of_model(candidate, until_measured)
        return Origin(number, choices=choices)
    # Among all of them: a look that shows nothing new may show rows.
    earlier = all_looks[: _index_of_first(candidate, all_looks)]
    if any(look.shows_rows for look in earlier):
        holdouts = dict.fromkeys(look.holdout for look in earlier)
        return Origin(number, seen=tuple(holdouts))
    choices = _count_choices(candidate, until_measured)
    return Origin(number, choices=choices)


def _number_on_holdout(candidate: DistinctCandidate, holdout: str, looks: Sequence[Look]) -> int:
    """Returns the number, from 1, of the first look that measures the candidate on this holdout; the next number if
    none does."""
    for number, look in enumerate(looks, 1):
        if look.holdout == holdout and candidate in look.candidates:
            return number
    return len(looks) + 1


def _index_of_first(candidate: DistinctCandidate, looks: Sequence[Look]) -> int:
    """Returns the index of the first look that measures the candidate; their number if none does."""
    for index, look in enumerate(looks):
        if candidate in look.candidates:
            return index
    return len(looks)


def _count_choices_of_model(candidate: DistinctCandidate, looks: Sequence[Look]) -> int:
    """Returns how many candidates that people didn't write could have been measured in this one's place, depending on
    the scores. The last look measures this one, if any does.

    Nobody fits such a candidate to the held-out rows, but people measure next what is related to the best so far: the
    larger model of the same family, ten examples for the best prompt's model, a training with almost the same settings.
    If m models are known and c new ones are measured, that is a choice of one in m/c. Unlike the choices of rewrites
    these are not multiplied: a relative of a lucky model shares its luck, but doesn't add to it.
    """
    if candidate.identity.is_free:
        return 1
    if looks and candidate in looks[-1].candidates:
        earlier = looks[:-1]
        n_now = len(_models_of_kind(candidate.identity, looks[-1:]))
    else:
        earlier = looks
        n_now = 1
    n_before = len(_models_of_kind(candidate.identity, earlier))
    return max(math.ceil(n_before / n_now), 1)


def _models_of_kind(candidate: Candidate, looks: Sequence[Look]) -> set[str]:
    """Returns the models of these looks: the tuned ones if the candidate is tuned, else the others."""
    is_tuned = candidate.kind == "tuned"
    models = set()
    for look in looks:
        for each in look.candidates:
            measured = each.identity
            if measured.model and (measured.kind == "tuned") == is_tuned:
                models.add(measured.model)
    return models


def _count_choices(candidate: DistinctCandidate, looks: Sequence[Look]) -> int:
    """Returns how many different candidates the scores could have led to. The last look measures this one, if any does.

    Who rewrites a prompt starts from one of the candidates whose scores are known. If m are known and c are made from
    them, that is a choice of one in m/c; the choices of several rewrites are multiplied. Since the level is divided by
    their number, the promise holds for all candidates together that could have been made (union bound).
    """
    choices = 1
    measured_before: list[DistinctCandidate] = []
    for look in looks:
        new = []
        for each in look.candidates:
            # A free candidate has no prompt that could be rewritten.
            if each.identity.model and each not in measured_before:
                new.append(each)
        rewritten = [each for each in new if each.by_people]
        if measured_before and rewritten:
            choices *= math.ceil(len(measured_before) / len(rewritten))
        measured_before += new
    if measured_before and candidate not in measured_before:
        return choices * len(measured_before)
    return choices
