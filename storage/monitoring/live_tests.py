"""Live tests: candidates that are tried on live calls against what is in use, and the verdicts on single calls.

What the candidate answered is with the sampled calls (trainers/recipes/shadow_answers.py), not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from storage.database import Table
from storage.promotions import RecipeUses
from storage.records import Promotable

LiveQuestion = Literal["better", "not_worse"]
"""What is asked of a candidate: of one that costs as much or more, to be better; of a cheaper one, not to be worse by
the margin."""
LiveTestEnd = Literal["better", "not_worse", "worse", "cannot_tell", "stopped", "ended", "outdated"]
"""How a live test ended: by one of the answers of switch_tests.py; its canary erred too often ("stopped"), a person
ended it, or something else was put to use."""

CallVerdict = Literal["same", "candidate", "incumbent", "tie", "unlabelled"]
"""As in trainers/monitoring/switch_tests.py."""


@dataclass(frozen=True)
class LiveTest:
    """A candidate or tuned model that a `person` has tried on the live calls of a dataset, against what the `promotion`
    of this number put to use, until `ended_at`.

    `margin` is by how much a cheaper one may be worse, from 0 to 1. `canary` is the share of the conversations that it
    answers itself (0 to 1), and `is_shadow` says whether sampled calls are put to it. `recipe` is the hash of what
    answers, None until it was built; `next_at` is when that is tried next, and `trouble` why it failed.
    """

    id: int
    dataset: str
    model: str | None
    candidate: str | None
    measurement: int | None
    promotion: int
    person: str
    channel: str
    question: LiveQuestion
    margin: float
    canary: float
    is_shadow: bool
    recipe: str | None
    at: float
    ended_at: float | None
    ended_by: str | None
    outcome: LiveTestEnd | None
    next_at: float
    trouble: str | None

    @property
    def what(self) -> Promotable:
        return Promotable(self.model, self.candidate, self.measurement)


@dataclass(frozen=True)
class NewLiveTest:
    dataset: str
    what: Promotable
    promotion: int
    person: str
    channel: str
    question: LiveQuestion
    margin: float
    canary: float
    is_shadow: bool


class LiveTests(RecipeUses[LiveTest]):
    table = "live_tests"

    def add(self, new: NewLiveTest, *, now: float) -> LiveTest | None:
        """Returns None if the dataset has a live test already."""
        values = {**vars(new), **vars(new.what), "at": now}
        del values["what"]
        # An index allows one open live test of a dataset.
        row = self._db.insert_once("live_tests", values)
        return self._use(**row) if row else None

    def get(self, number: int) -> LiveTest | None:
        return self._db.first(self._use, "SELECT * FROM live_tests WHERE id = ?", (number,))

    def last_won(self, what: Promotable) -> LiveTest | None:
        """Returns the newest live test that has decided for this, None if none has."""
        # IS, as some of the three are NULL, which = never finds.
        sql = (
            "SELECT * FROM live_tests WHERE model IS ? AND candidate IS ? AND measurement IS ?"
            " AND outcome IN ('better', 'not_worse') ORDER BY id DESC LIMIT 1"
        )
        return self._db.first(self._use, sql, (what.model, what.candidate, what.measurement))

    def end(self, test: LiveTest, outcome: LiveTestEnd, person: str | None, *, now: float) -> LiveTest | None:
        """Ends a live test; `person` is who ended it, None if nobody did. Returns None if it had ended before."""
        return self._update(test, "ended_at = ?, ended_by = ?, outcome = ?", (now, person, outcome))

    def _use(self, **row: Any) -> LiveTest:
        return LiveTest(**{**row, "is_shadow": bool(row["is_shadow"])})


@dataclass(frozen=True)
class ComparedCall:
    """A sampled `call` of `called_at` that both have answered in the live test with the number `test`, and what is
    known of who was right. `micros` is what the candidate's answer cost in the `month` ('2026-11'), None if unknown.
    A `person` has labelled it at `labelled_at`, with the `label` that they chose from a list."""

    test: int
    call: str
    called_at: float
    verdict: CallVerdict
    micros: int | None
    month: str
    person: str | None = None
    label: str | None = None
    labelled_at: float | None = None


class ComparedCalls(Table):
    def add(self, compared: ComparedCall) -> bool:
        """Returns False if this call was compared before."""
        return self._db.insert_once("compared_calls", vars(compared)) is not None

    def has(self, test: int, call: str) -> bool:
        """Returns whether this call was compared before."""
        sql = "SELECT count(*) FROM compared_calls WHERE test = ? AND call = ?"
        return bool(self._db.value(sql, (test, call)))

    def of(self, test: int) -> list[ComparedCall]:
        """Returns the calls of a live test, in the order of their arrival."""
        sql = "SELECT * FROM compared_calls WHERE test = ? ORDER BY called_at, call"
        return self._db.all(ComparedCall, sql, (test,))

    def label(
        self, test: int, call: str, verdict: CallVerdict, person: str, label: str | None, *, now: float
    ) -> bool:
        """Records who was right. Returns False if somebody has labelled this call before."""
        sql = (
            "UPDATE compared_calls SET verdict = ?, person = ?, label = ?, labelled_at = ?"
            " WHERE test = ? AND call = ? AND verdict = 'unlabelled'"
        )
        return self._db.change(sql, (verdict, person, label, now, test, call)) == 1

    def committed(self, month: str) -> int:
        """Returns the micro-dollars that the candidates' answers of a month cost, as far as that is known."""
        sql = "SELECT coalesce(sum(micros), 0) FROM compared_calls WHERE month = ?"
        return int(self._db.value(sql, (month,)))
