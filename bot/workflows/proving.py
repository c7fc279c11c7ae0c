"""What was measured of a tuned model, gathered for whoever wants to put it to work. Reads only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bot.decisions.planning import Plan, plan_from_json
from bot.decisions.promoting import Against, Proof, against
from bot.results import RunResult
from bot.views.rungs import arm_name
from bot.workflows import datasets
from bot.workflows.desk import Desk
from bot.workflows.measuring import gathered
from storage.records import AnswerRow, Model, Run
from trainers.dataset import read
from trainers.dataset.values import at, without_copies
from trainers.measuring.values import Rung

SIBLINGS = 10  # the best of them: one that is worse than these can't be the best that a model is held against


def prove(desk: Desk, model: Model, used: Model | None, run: Run | None = None) -> Proof:
    """`used`: what it would take the place of, or took. `run`: the model's own, as it will be once it is written."""
    known, plan = _run(desk, model)
    run = run or known
    result = RunResult.from_json(run.result) if run.result else None
    advice = result.advice if result else None
    rung = gathered.tuned_rung(desk, run, plan)
    held = [*_others(desk, run, plan, rung), *_better_siblings(desk, model, plan, rung)] if rung else []
    return Proof(
        rung=rung,
        best=max(held, key=lambda one: one.score, default=None),
        used=used.name if used else None,
        against_used=_against(desk, plan, rung, used) if rung and used else None,
        no_go=advice.headline if advice and advice.kind == "no_go" else None,
        is_gone=model.gone_at is not None,
    )


def score(desk: Desk, model: Model) -> tuple[Plan, Rung | None]:
    """Its run's plan and what was measured, without what it is held against."""
    run, plan = _run(desk, model)
    return plan, gathered.tuned_rung(desk, run, plan)


def _run(desk: Desk, model: Model) -> tuple[Run, Plan]:
    run = desk.store.runs.get(model.run_id)
    if run is None:
        raise KeyError(model.run_id)
    return run, plan_from_json(run.plan)


def _others(desk: Desk, run: Run, plan: Plan, tuned: Rung) -> Iterator[Against]:
    """What else answered the same rows, counted in the same way, without tuning."""
    base: Sequence[AnswerRow] = desk.store.runs.answers(run.id, "base")
    if len(base) != tuned.n:
        base = at((place for place in _judged_rows(desk, plan).places if place < len(base)), base)
    if tuned.scoring == "label" and len(base) == tuned.n:
        scores = [float(one.correct) for one in base]
        yield against(f"the untuned base, {plan.base_model}", tuned.scores, scores)
    dataset = desk.store.datasets.get(run.dataset_id)
    report = datasets.report_of(dataset)
    if report is None or report.holdout_sha256 != plan.holdout_sha256:
        return
    for rung in gathered.evidence_of(desk, dataset, report, None).alternatives:
        if (rung.scoring, rung.n) == (tuned.scoring, tuned.n):
            yield against(arm_name(rung.arm), tuned.scores, rung.scores)


def _better_siblings(desk: Desk, model: Model, plan: Plan, rung: Rung) -> Iterator[Against]:
    """Tuned models that are shown to be better than this one: of two that are as good each may be used."""
    for other in desk.store.best_models(plan.holdout_sha256, SIBLINGS, but=model.name):
        held = _against(desk, plan, rung, other)
        if held and held.is_worse:
            yield held


def _against(desk: Desk, plan: Plan, rung: Rung, used: Model) -> Against | None:
    """On the rows that both answered: a later version's holdout holds that of the one before. None without any."""
    other_plan, other = score(desk, used)
    if other is None or other.scoring != rung.scoring:
        return None
    if other_plan.holdout_sha256 == plan.holdout_sha256:
        return against(used.name, rung.scores, other.scores) if rung.n == other.n else None
    mine, theirs = _questions(desk, plan, rung), _questions(desk, other_plan, other)
    places = {question: place for place, question in enumerate(theirs)}
    common = [(place, places[question]) for place, question in enumerate(mine) if question in places]
    if not common:
        return None
    return against(
        used.name, [rung.scores[one] for one, _ in common], [other.scores[two] for _, two in common]
    )


def _questions(desk: Desk, plan: Plan, rung: Rung) -> tuple[bytes, ...]:
    """What tells each held-out row from others, in the order of the scores; empty where its file is gone."""
    keys = _judged_rows(desk, plan).keys
    return keys if len(keys) == rung.n else ()


@dataclass(frozen=True)
class _JudgedRows:
    """The held-out rows without copies: their places in the file, and a hash of each question and answer."""

    places: tuple[int, ...] = ()
    keys: tuple[bytes, ...] = ()


def _judged_rows(desk: Desk, plan: Plan) -> _JudgedRows:
    path = desk.settings.files / f"{plan.holdout_sha256}.jsonl"
    return _read(path) if path.is_file() else _JudgedRows()


@lru_cache(maxsize=16)
def _read(holdout: Path) -> _JudgedRows:
    """Read once: the file's name is its content's hash. Hashes, so that no customer's words stay in memory."""
    rows = read(holdout, holdout.name).examples
    places = tuple(without_copies(rows))
    asked = (f"{row.prompt[-1].content}\0{row.answer}" for row in at(places, rows))
    keys = tuple(hashlib.sha256(one.encode("utf-8", "surrogatepass")).digest() for one in asked)
    return _JudgedRows(places, keys)
