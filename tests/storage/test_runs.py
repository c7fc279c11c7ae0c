"""Runs: one for each plan, guarded moves, one decision a person, and money and answers stored once."""

from __future__ import annotations

import pytest

from storage.driver import sqlite3
from storage.questions import NewAsk, NewPlainQuestion
from storage.records import OPEN_RUN_STATES, AnswerRow, LedgerKind, Model, Run, RunState
from storage.runs import NewRun
from storage.store import Store
from tests.storage.conftest import add_run
from tests.storage.threads import run_at_once

FINAL: tuple[RunState, ...] = ("done", "rejected", "expired", "cancelled", "failed", "needs_human")


def test_a_plan_has_one_run(store: Store) -> None:
    run = add_run(store)
    assert (run.state, run.state_since, run.reserved_micros) == ("awaiting_approval", 100.0, 0)
    again = NewRun(run.plan_hash, "{}", "another key", run.dataset_id, "U2", "C2", "local")
    assert store.runs.add(again, now=101.0) is None
    assert store.runs.by_plan(run.plan_hash) == store.runs.get(run.id) == run
    assert store.runs.by_plan("no such hash") is store.runs.get(99) is None


def test_two_plans_never_share_a_key(store: Store) -> None:
    run = add_run(store)
    with pytest.raises(sqlite3.IntegrityError):
        store.runs.add(NewRun("hash b", "{}", run.key, run.dataset_id, "U1", "C1", "local"), now=1.0)


def test_a_run_needs_a_dataset_that_exists(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        store.runs.add(NewRun("h", "{}", "k", 99, "U1", "C1", "local"), now=1.0)


def test_a_new_state_resets_tries_and_clock(store: Store) -> None:
    run = add_run(store)
    retried = store.runs.move(run, run.state, now=110.0, tries=3, next_at=500.0)
    assert retried is not None
    assert (retried.tries, retried.next_at, retried.state_since) == (3, 500.0, 100.0)
    approved = store.runs.move(retried, "approved", now=120.0, reserved_micros=7)
    assert approved is not None
    assert (approved.tries, approved.next_at, approved.state_since) == (0, 120.0, 120.0)
    assert (approved.reserved_micros, approved.updated_at) == (7, 120.0)


def test_a_run_is_moved_by_the_first_of_two_writers(store: Store) -> None:
    run = add_run(store)
    assert store.runs.move(run, "approved", now=110.0)
    assert store.runs.move(run, "rejected", now=111.0, error="too late") is None
    stored = store.runs.get(run.id)
    assert stored is not None
    assert (stored.state, stored.error) == ("approved", None)


def test_a_race_for_one_move_has_one_winner(store: Store) -> None:
    run = add_run(store)
    won: list[Run | None] = []
    run_at_once(
        16, lambda number: won.append(store.runs.move(run, "approved", now=110.0, job_id=str(number)))
    )
    (winner,) = filter(None, won)
    assert store.runs.get(run.id) == winner


@pytest.mark.parametrize("state", [*OPEN_RUN_STATES, *FINAL])
def test_only_open_runs_are_open_and_due(store: Store, state: RunState) -> None:
    run = add_run(store)
    store.runs.move(run, state, now=110.0, next_at=200.0)
    is_open = state in OPEN_RUN_STATES
    assert [run.id for run in store.runs.open()] == ([run.id] if is_open else [])
    assert store.runs.due(199.0) == []
    assert [run.id for run in store.runs.due(200.0)] == ([run.id] if is_open else [])


def test_the_newest_runs_are_listed_first_and_the_oldest_handled_first(store: Store) -> None:
    runs = [add_run(store, name) for name in "abc"]
    assert [run.id for run in store.runs.newest(2)] == [runs[2].id, runs[1].id]
    assert [run.id for run in store.runs.open()] == [run.id for run in runs]


# Approvals.


def test_a_person_decides_once_a_run(store: Store) -> None:
    run, other = add_run(store, "a"), add_run(store, "b")
    assert store.runs.decide(run, "U2", "approve", now=110.0)
    assert not store.runs.decide(run, "U2", "reject", reason="second thoughts", now=111.0)
    assert store.runs.decide(run, "U3", "reject", reason="too dear", now=112.0)
    assert store.runs.decide(other, "U2", "reject", now=113.0)
    decisions = [
        (row.person, row.decision, row.reason, row.plan_hash) for row in store.runs.decisions(run.id)
    ]
    assert decisions == [("U2", "approve", None, run.plan_hash), ("U3", "reject", "too dear", run.plan_hash)]


def test_a_decision_from_sixteen_threads_counts_once(store: Store) -> None:
    run = add_run(store)
    counted: list[bool] = []
    run_at_once(16, lambda _: counted.append(store.runs.decide(run, "U2", "approve", now=110.0)))
    assert counted.count(True) == 1
    assert len(store.runs.decisions(run.id)) == 1


@pytest.mark.parametrize(
    "sql", ["UPDATE approvals SET decision = 'approve'", "DELETE FROM approvals", "DELETE FROM runs"]
)
def test_a_decision_cannot_be_changed_or_deleted(store: Store, sql: str) -> None:
    run = add_run(store)
    store.runs.decide(run, "U2", "reject", now=110.0)
    with pytest.raises(sqlite3.IntegrityError):
        store.database.change(sql)
    assert [approval.decision for approval in store.runs.decisions(run.id)] == ["reject"]


# Money.


@pytest.mark.parametrize(
    ("booked", "november", "december"),
    [
        ([], 0, 0),
        ([("reserve", 5_000_000, "2026-11")], 5_000_000, 0),
        ([("reserve", 5_000_000, "2026-11"), ("settle", 3_200_001, "2026-11")], 3_200_001, 0),
        ([("reserve", 5_000_000, "2026-11"), ("settle", 5_100_000, "2026-12")], 5_100_000, 0),
        ([("reserve", 5_000_000, "2026-11"), ("release", 0, "2026-11")], 0, 0),
        ([("reserve", 1, "2026-12")], 0, 1),
    ],
)
def test_a_reservation_counts_in_its_month_until_it_is_settled_or_released(
    store: Store, booked: list[tuple[LedgerKind, int, str]], november: int, december: int
) -> None:
    run = add_run(store)
    for kind, micros, month in booked:
        assert store.runs.book(run, kind, micros, month=month, now=110.0)
    assert (store.runs.committed("2026-11"), store.runs.committed("2026-12")) == (november, december)


def test_a_month_adds_up_all_its_runs(store: Store) -> None:
    for name, micros in (("a", 1), ("b", 20), ("c", 300)):
        store.runs.book(add_run(store, name), "reserve", micros, month="2026-11", now=110.0)
    settled = store.runs.get(2)
    assert settled is not None
    store.runs.book(settled, "settle", 7, month="2026-11", now=111.0)
    assert store.runs.committed("2026-11") == 1 + 7 + 300


def test_money_is_booked_once_a_run_and_kind(store: Store) -> None:
    run = add_run(store)
    booked: list[bool] = []
    run_at_once(16, lambda n: booked.append(store.runs.book(run, "reserve", n + 1, month="2026-11", now=1.0)))
    assert booked.count(True) == 1
    assert 1 <= store.runs.committed("2026-11") <= 16
    assert not store.runs.book(run, "reserve", 999, month="2026-12", now=2.0)


def test_threads_that_read_and_book_in_one_transaction_never_overspend(store: Store) -> None:
    runs = [add_run(store, str(number)) for number in range(32)]

    def reserve(number: int) -> None:
        with store.transaction():
            if store.runs.committed("2026-11") + 3 <= 20:
                store.runs.book(runs[number], "reserve", 3, month="2026-11", now=1.0)

    run_at_once(32, reserve)
    assert store.runs.committed("2026-11") == 18


# Answers, questions and models.


def test_answers_are_stored_once_and_read_in_the_holdouts_order(store: Store) -> None:
    run = add_run(store)
    rows = [AnswerRow(run.id, "base", row, f"say {row}", row == 1, 10, 2, 0.5) for row in (2, 0, 1)]
    store.runs.keep_answers(rows)
    store.runs.keep_answers([AnswerRow(run.id, "base", 1, "another", False, 1, 1, 9.0)])
    store.runs.keep_answers([AnswerRow(run.id, "tuned", 0, "t", True, 1, 1, 0.1)])
    answers = store.runs.answers(run.id, "base")
    assert [(answer.row, answer.text, answer.correct) for answer in answers] == [
        (0, "say 0", False),
        (1, "say 1", True),
        (2, "say 2", False),
    ]
    assert answers[0].correct is False
    assert len(store.runs.answers(run.id, "tuned")) == 1


def test_a_question_is_answered_once(store: Store) -> None:
    new = NewAsk("U1", "C1", "tickets-1", "tickets", "hello", "2026-11", most_micros=900)
    ask = store.questions.add(new, now=5.0)
    assert store.questions.waiting() == [ask] and store.committed("2026-11") == 900
    assert [store.questions.end(ask, 200), store.questions.end(ask, 300)] == [True, False]
    assert store.questions.waiting() == [] and store.committed("2026-11") == 200


def test_a_question_in_plain_words_is_added_once_and_its_text_erased(store: Store) -> None:
    where = {"channel": "C1", "thread": None, "is_direct": False, "mentioned": ""}
    paid = {"month": "2026-11", "day": "2026-11-30", "reserved_micros": 900}
    new = NewPlainQuestion("mention 1", "U1", model="acme/tiny", text="who approved run 7?", **where, **paid)
    question = store.plain_questions.add(new, now=5.0)
    assert question is not None and question.text == "who approved run 7?"
    assert store.plain_questions.add(new, now=6.0) is None, "Slack's delivery is handled again after a kill"
    assert store.plain_questions.waiting() == [question] and store.committed("2026-11") == 900
    (commitment,) = store.ledger.commitments("2026-11")
    assert (commitment.kind, commitment.number, commitment.reserved_micros) == ("plain_questions", 1, 900)
    ends = [store.plain_questions.end(question, "offered", micros) for micros in (200, 300)]
    assert ends == [True, False]
    ended = store.plain_questions.get(question.id)
    assert ended is not None and (ended.text, ended.actual_micros) == ("", 200)
    by_day = [store.plain_questions.committed("2026-11", day) for day in ("2026-11-30", "2026-11-29")]
    assert by_day == [200, 0] and store.committed("2026-11") == 200
    assert store.ledger.committed("2026-11", "person", "U1") == 200


def test_a_model_keeps_its_first_run(store: Store) -> None:
    run = add_run(store)
    first = Model("tickets-1", run.id, "local", "ft:a", "candidate", 5.0)
    store.add_model(first)
    store.add_model(Model("tickets-1", run.id, "local", "ft:b", "candidate", 6.0))
    newer = Model("tickets-2", run.id, "local", "ft:c", "candidate", 7.0)
    store.add_model(newer)
    assert store.models() == [newer, first]


def test_a_voided_approval_stays_void(store: Store) -> None:
    run = add_run(store)
    for person in ("U1", "U2"):
        assert store.runs.decide(run, person, "approve", now=110.0)
    store.runs.void_approval(run, "U1", "left the group", now=120.0)
    store.runs.void_approval(run, "U1", "again", now=130.0)
    assert [approval.person for approval in store.runs.valid_approvals(run.id)] == ["U2"]
    assert [approval.person for approval in store.runs.decisions(run.id)] == ["U1", "U2"], "decisions stay"
    assert not store.runs.decide(run, "U1", "approve", now=140.0)
    for statement in ("DELETE FROM voids", "UPDATE voids SET person = 'U9'"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            store.database.change(statement)


def test_a_reservation_can_be_deleted_but_not_a_settled_cost(store: Store) -> None:
    run = add_run(store)
    assert store.runs.book(run, "reserve", 500, month="2026-11", now=110.0)
    store.runs.delete_reservation(run)
    assert store.runs.committed("2026-11") == 0
    assert store.runs.book(run, "reserve", 500, month="2026-12", now=120.0)
    store.runs.book(run, "settle", 300, month="2026-12", now=130.0)
    store.runs.delete_reservation(run)
    assert store.runs.committed("2026-12") == 300
