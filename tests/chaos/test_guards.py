"""Tests of guards that no other test covers, and of every guard's place in the code."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

from bot.rules.permissions import VALID_FOR_S
from demo.people import BEN
from demo.slack_emulator import cut_off
from demo.slack_emulator.delivery import signature
from storage.audit import entry_hash
from storage.records import Draft
from tests.bot.world import JOBS, PRIVATE, World
from tests.chaos.guards import GUARDS, ROOT
from tests.peers.hosted import COMMIT_THEN_500


def test_unsigned_forged_and_old_requests_change_nothing(world: World) -> None:
    world.start()
    world.click(BEN, "reject_plan")  # only opens a form; its delivery is the one to imitate
    click = world.slack.deliveries[-1].body.replace(b"reject_plan", b"approve_plan")
    secret, now = world.slack.access.signing_secret, int(time.time())
    for headers in (
        {},
        signature("another secret", click, now),
        signature(secret, click + b" ", now),
        signature(secret, click, now - 6 * 60),
    ):
        assert send(world.service.address, click, headers) == 401
    assert world.run().state == "awaiting_approval"
    fresh = click.replace(b"trigger", b"Trigger")
    assert send(world.service.address, fresh, signature(secret, fresh, now)) == 200


def send(url: str, body: bytes, headers: dict[str, str]) -> int:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    request = urllib.request.Request(url, body, {**form, **headers})  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_a_repeated_delivery_does_nothing(world: World) -> None:
    world.start()
    world.type("/finetune freeze for a look", user=BEN)
    delivery = world.slack.deliveries[-1]
    before = len(world.store.audit.entries())
    world.store.freezes.lift(world.store.freezes.current(), now=world.clock)
    assert world.slack.repeat(delivery).acked
    world.restart()  # which waits for what would handle it after the ack
    assert world.store.freezes.current() is None, "the repeated delivery froze again"
    assert len(world.store.audit.entries()) == before


def test_of_two_jobs_with_one_key_the_older_is_adopted_and_the_other_cancelled(world: World) -> None:
    service = world.provider.service
    service.stages = ("running",)
    world.provider.fail(f"POST {JOBS}", COMMIT_THEN_500)
    world.start_approved()
    world.tick()
    (first,) = service.jobs.values()
    service._create(first.headers, first.request)  # as a bot would that doesn't look first
    world.tick_until_state("training")
    assert world.run().job_id == "ftjob-1"
    assert [job.is_cancelled for job in service.jobs.values()] == [False, True]


def test_a_plan_that_expired_since_the_last_tick_cannot_be_approved(world: World) -> None:
    world.start()
    world.pass_time(VALID_FOR_S + 1)
    assert "has expired" in world.click_and_read(BEN, "approve_plan")
    assert world.run().state == "awaiting_approval" and world.ledger() == {}


def test_during_a_freeze_no_file_is_sent_to_the_provider(world: World) -> None:
    world.start()
    world.type("/finetune freeze", user=BEN)
    world.approve()
    world.tick(5)
    assert world.run().state == "approved" and world.files_at_provider() == []


def test_the_sdk_does_not_repeat_a_post_whose_answer_was_cut_off(world: World) -> None:
    """The outbox repeats it later, and counts the try."""
    world.slack.fail("chat.postMessage", cut_off())
    world.store.outbox.put(Draft("post", PRIVATE.id, {"text": "once"}, topic="results"), now=world.clock)
    assert world.service.notices.send_due() == 0
    assert len(world.slack.calls("chat.postMessage")) == 1


def test_an_audit_entrys_hash_depends_on_the_entry_before() -> None:
    entry = (1.0, "U1", "approve", "run 1", "")
    assert entry_hash("0" * 64, *entry) != entry_hash("1" * 64, *entry)


def test_every_guard_and_its_tests_are_where_the_mutants_look_for_them() -> None:
    for guard in GUARDS:
        assert guard.removed_from(ROOT)
        for test in guard.test.split():
            path, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), guard.name
