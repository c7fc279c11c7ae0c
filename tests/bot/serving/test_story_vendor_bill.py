"""What a vendor lists of its bill becomes a run's actual cost: once, late, whatever is killed. The list is that of
Tinker's stand-in; the vendor that trains is the usual one, whose runs end within seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from bot.reconciler import maintain
from bot.rules.plans import Plan, plan_from_json
from bot.rules.training.calibration import Actual
from bot.services.evidence import notifications
from bot.services.training import vendor_bills
from bot.values.runs import Progress, RunResult
from demo.people import ANA
from storage.records import Run
from tests.bot.world import PRIVATE, MakeWorld, Rules, World, words_of
from tests.local.engines.tinker_peer import ADMIN_KEY, KEY, TinkerPeer, start_bare_peer
from trainers.money import from_micros

pytestmark = pytest.mark.deep
ADMIN = "ACME_ADMIN_KEY"
DAY_S = 24 * 3600.0
TOKENS = 100_000
RATE = 0.5
BILL = 50_000  # micro-dollars: the tokens at this rate
SAYS = "'s bill for run 1"


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinkerPeer]:
    with start_bare_peer(tmp_path / "peer", monkeypatch) as started:
        yield started


@pytest.fixture
def done(make_world: MakeWorld, peer: TinkerPeer, monkeypatch: pytest.MonkeyPatch) -> World:
    """A run that has ended, of which nothing is listed yet."""
    monkeypatch.setenv(ADMIN, ADMIN_KEY)
    world = make_world(rules_of(peer))
    world.start_approved()
    world.tick_until_state("done")
    world.send()
    run = world.run()
    peer.bill(now=world.clock, listed_until=0, rate=RATE, usage=usage_of(run, str(run.job_id)))
    return world


def rules_of(peer: TinkerPeer) -> Rules:
    return Rules(provider_row=f'billing_base_url = "{peer.address}/api/v1"\nbilling_key_env = "{ADMIN}"\n')


def usage_of(run: Run, job: str, tokens: int = TOKENS) -> list[dict[str, Any]]:
    """The job's training in two sessions, since the first was killed, and what others used in that hour."""
    mine = {"finetune_job": job}
    others = {"finetune_job": "ftjob-of-another-team"}
    return [
        event(run, "ours-1", mine, {"type": "training", "token_count": tokens // 2}),
        event(run, "ours-2", mine, {"type": "training", "token_count": tokens // 2}),
        event(run, "ours-2", mine, {"type": "checkpoint", "count": 3}),
        event(run, "theirs", others, {"type": "training", "token_count": 7_000_000}),
        event(run, "untagged", None, {"type": "sampling_sample", "token_count": 9_000_000}),
        event(run, None, None, {"type": "storage", "gigabyte_hours": 400.0}),
    ]


def event(
    run: Run, session: str | None, metadata: dict[str, str] | None, info: dict[str, Any]
) -> dict[str, Any]:
    return {"at": run.state_since, "session_id": session, "metadata": metadata, "event_info": info}


def day_after(run: Run) -> float:
    """When the run's last day is over."""
    return (run.state_since // DAY_S + 1) * DAY_S


def look(world: World, peer: TinkerPeer, *, after_s: float = 3601, **settings: Any) -> None:
    """Let time pass, and the bot look at what is listed by then."""
    world.pass_time(after_s)
    peer.bill(now=world.clock, **settings)
    vendor_bills.sweep(world.service.context)
    world.send()


def bills(world: World) -> list[str]:
    """What the channel read of the bill, newest last."""
    return [text for text in world.texts() if SAYS in text]


def looks(peer: TinkerPeer) -> int:
    return [*peer.state["calls"]].count("GET /billing/usage/events")


def billing(world: World) -> list[tuple[str, str]]:
    entries = world.store.audit.entries("run 1")
    return [(entry.action, entry.detail) for entry in entries if entry.action.startswith("bill")]


def test_a_run_is_corrected_once_when_its_bill_is_final(done: World, peer: TinkerPeer) -> None:
    before = done.run()
    booked = done.ledger()["settle"]
    training = notifications.training_cost(*plan_and_progress(before))
    assert 0 < training < booked == before.actual_micros

    maintain(done.service.context)
    look(done, peer)
    look(done, peer, listed_until=day_after(before))
    look(done, peer, after_s=DAY_S)
    assert looks(peer) == 4
    assert (done.ledger()["settle"], bills(done), billing(done)) == (booked, [], [])

    look(done, peer, invoiced_until=day_after(before))
    corrected = booked - training + BILL
    run = done.run()
    result = RunResult.from_json(str(run.result))
    assert done.ledger()["settle"] == run.actual_micros == result.actual_micros == corrected
    assert result.bill is not None
    assert (result.bill.training_micros, result.bill.micros) == (BILL, BILL)
    sentence = f"Acme Tuning's bill for run 1: $0.0500, booked before: ${from_micros(training):.4f}."
    [text] = bills(done)
    assert f"{sentence} In all the run has cost ${from_micros(corrected):.4f}." in text
    assert is_in_thread_of_the_result(done)
    assert "$0.05 of it by the vendor's bill for the training" in done.find_message("Result of run 1")
    assert billing(done) == [("billed", f"$0.0500, booked before: ${from_micros(training):.4f}")]
    (dollars,) = [actual for actual in actuals_of(run) if actual.quantity == "dollars"]
    assert dollars.actual == from_micros(corrected)

    count = looks(peer)
    for _ in range(3):
        look(done, peer, after_s=DAY_S, rate=9.0)
    assert (looks(peer), done.ledger()["settle"], len(bills(done))) == (count, corrected, 1)


def plan_and_progress(run: Run) -> tuple[Plan, Progress]:
    return plan_from_json(run.plan), Progress.from_json(run.progress)


def actuals_of(run: Run) -> Sequence[Actual]:
    plan, _ = plan_and_progress(run)
    return notifications.actuals_of(run, plan, RunResult.from_json(str(run.result)))


def is_in_thread_of_the_result(world: World) -> bool:
    card = world.store.outbox.card("result 1")
    (bill,) = [message for message in world.slack.messages(PRIVATE.id) if SAYS in words_of(message)]
    return bool(bill.thread_ts == card.ts)


class Killed(BaseException):
    """Like a kill, it is caught by nothing."""


def sweep_until_line(world: World, last: int) -> bool:
    """Read the bills, but die before the line with this number of the service. Returns whether it got to the end."""
    lines = 0

    def trace(frame: FrameType, what: str, argument: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != vendor_bills.__file__:
            return None
        if what == "line":
            lines += 1
            if lines == last:
                raise Killed
        return trace

    sys.settrace(trace)
    try:
        vendor_bills.sweep(world.service.context)
    except Killed:
        return False
    finally:
        sys.settrace(None)
    return True


def test_a_kill_at_any_line_leaves_all_of_the_correction_or_nothing(done: World, peer: TinkerPeer) -> None:
    booked = done.ledger()["settle"]
    before = done.run()
    corrected = booked - notifications.training_cost(*plan_and_progress(before)) + BILL
    done.pass_time(2 * DAY_S)
    peer.bill(now=done.clock, listed_until=day_after(before), invoiced_until=day_after(before))
    line = 1
    while not sweep_until_line(done, line):
        settled = done.ledger()["settle"]
        assert settled in (booked, corrected)
        assert done.run().actual_micros == settled
        assert RunResult.from_json(str(done.run().result)).actual_micros == settled
        assert len(billing(done)) == int(settled == corrected)
        done.service.context.checked_at.clear()  # what a process remembers is gone
        line += 1
    done.restart()
    look(done, peer)
    assert line > 30
    assert done.ledger()["settle"] == corrected
    assert (len(bills(done)), len(billing(done))) == (1, 1)


def test_a_cent_more_or_less_is_corrected_in_silence(done: World, peer: TinkerPeer) -> None:
    run = done.run()
    training = notifications.training_cost(*plan_and_progress(run))
    tokens = 2 * round((training + 9_000) / RATE / 2)
    look(
        done,
        peer,
        after_s=2 * DAY_S,
        usage=usage_of(run, str(run.job_id), tokens),
        listed_until=day_after(run),
        invoiced_until=day_after(run),
    )
    assert 8_990 < done.ledger()["settle"] - int(run.actual_micros or 0) < 9_010
    assert bills(done) == []
    assert len(billing(done)) == 1


def test_a_key_without_the_right_is_told_once_and_asked_daily(
    done: World, peer: TinkerPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADMIN, KEY)
    done.restart()
    run = done.run()
    for _ in range(20):
        look(done, peer, listed_until=day_after(run), invoiced_until=day_after(run))
    assert looks(peer) == 1
    [text] = bills(done)
    assert f"Acme Tuning refuses the key in {ADMIN} (HTTP 403)" in text.replace("`", "")
    assert "administrator" in text
    look(done, peer, after_s=DAY_S)
    assert (looks(peer), len(bills(done))) == (2, 1)

    monkeypatch.setenv(ADMIN, ADMIN_KEY)
    done.restart()
    look(done, peer)
    assert "bill for run 1: $0.0500" in bills(done)[-1]


def test_a_vendor_that_does_not_answer_is_asked_again(done: World, peer: TinkerPeer) -> None:
    run = done.run()
    peer.break_down(lose=["/billing/usage/events"])
    look(done, peer, listed_until=day_after(run), invoiced_until=day_after(run))
    assert bills(done) == []
    peer.break_down()
    look(done, peer)
    assert "bill for run 1: $0.0500" in bills(done)[0]


def test_a_bill_that_never_becomes_final_is_given_up_after_14_days(done: World, peer: TinkerPeer) -> None:
    booked = done.ledger()["settle"]
    for _ in range(16):
        look(done, peer, after_s=DAY_S, listed_until=day_after(done.run()))
    [text] = [text for text in done.texts() if "no final bill for run 1" in text]
    assert "within 14 days" in text
    assert "tokens times the list price" in text
    count = looks(peer)
    look(done, peer, after_s=DAY_S, invoiced_until=day_after(done.run()))
    assert (looks(peer), done.ledger()["settle"]) == (count, booked)
    assert billing(done) == [("bill given up", "")]


def test_a_cancelled_run_pays_what_was_billed(
    make_world: MakeWorld, peer: TinkerPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADMIN, ADMIN_KEY)
    world = make_world(rules_of(peer))
    world.provider.service.stages = ("running",)
    world.start_approved()
    world.tick_until_state("training")
    world.tick(2)
    world.type("/finetune cancel 1", user=ANA)
    run = world.tick_until_state("cancelled")
    peer.bill(rate=RATE, usage=usage_of(run, str(run.job_id)))
    look(world, peer, after_s=2 * DAY_S, invoiced_until=day_after(run))
    assert world.ledger()["settle"] == world.run().actual_micros == BILL
    assert "It has cost $0.05" in world.find_message("Run 1 was cancelled")


def test_without_an_administrators_key_nothing_is_asked(
    done: World, peer: TinkerPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ADMIN)
    done.restart()
    booked = done.ledger()["settle"]
    look(done, peer, after_s=2 * DAY_S, invoiced_until=day_after(done.run()))
    assert (done.ledger()["settle"], bills(done)) == (booked, [])
    assert looks(peer) == 0


def test_the_bill_of_a_deleted_dataset_is_booked_without_a_message(done: World, peer: TinkerPeer) -> None:
    run = done.run()
    done.store.database.change("UPDATE datasets SET forgotten_at = ? WHERE id = ?", (1.0, run.dataset_id))
    look(done, peer, after_s=2 * DAY_S, listed_until=day_after(run), invoiced_until=day_after(run))
    assert len(billing(done)) == 1
    assert bills(done) == []
