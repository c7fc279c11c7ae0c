"""A provider that answers late or never holds up its own runs, and nobody else's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from bot.provider_threads import ProviderThreads
from bot.reconciler import reconcile
from demo.slack_emulator import slow
from storage.records import Run
from tests.bot.props import answer, tickets_csv
from tests.bot.world import DORA, JOBS, MODEL, PRIVATE, Rules, World
from tests.peers.hosted import COMMIT_THEN_HANG, HANG, Hosted
from tests.peers.service import Service as Company

NEVER_S = 300.0
BETA = """
[providers.beta]
base_url = "{url}"
key_env = "ACME_KEY"
abilities = ["metadata", "metadata_filter", "method", "suffix", "checkpoints", "chat"]
[providers.beta.models."{model}"]
training = "8.00"
input = "0.80"
cached_input = "0.20"
output = "3.20"
"""


@pytest.fixture
def beta() -> Iterator[Hosted]:
    with Hosted(Company(models=(MODEL,), answer=answer)) as company:
        yield company


@pytest.fixture
def world(make_world: Callable[[Rules], World], beta: Hosted) -> Iterator[World]:
    """With a second provider, and in threads as `finetune run` has them."""
    more = BETA.format(url=beta.url, model=MODEL)
    world = make_world(Rules(more=more, trainer_timeout_s=NEVER_S, budget="1000"))
    world.threads = ProviderThreads
    world.restart()
    yield world
    world.provider.let_go()


def approved(world: World, target: str) -> Run:
    run = world.start(f"/finetune start tickets current=gpt-4o volume=100M target={target}/{MODEL}")
    world.approve()
    return run


def test_runs_of_one_provider_go_on_while_another_hangs(world: World, beta: Hosted) -> None:
    world.provider.service.stages = ("running",)
    stuck = approved(world, "acme")
    world.tick_until_state("training", stuck.id)
    look = f"GET {JOBS}/{world.run(stuck.id).job_id}"
    world.provider.fail(look, HANG)
    seen = world.provider.count(look)
    world.tick_until(lambda: world.provider.count(look) > seen, "a look at the job")
    run = approved(world, "beta")
    world.tick_until_state("done", run.id)
    assert world.provider.count(look) == seen + 1, "the look that hangs is the only one"
    assert world.run(stuck.id).state == "training"
    world.provider.service.stages = ("succeeded",)
    world.provider.let_go()
    world.tick_until_state("done", stuck.id)


def test_a_create_that_hangs_is_the_only_one(world: World, beta: Hosted) -> None:
    create = f"POST {JOBS}"
    world.provider.fail(create, COMMIT_THEN_HANG)
    approved(world, "acme")
    world.tick_until(lambda: world.provider.count(create), "the create")
    other = approved(world, "beta")
    world.tick_until_state("done", other.id)
    assert world.provider.count(create) == 1
    world.provider.let_go()
    world.tick_until(lambda: world.run(1).state == "training", "the job to be found")
    assert world.jobs() == world.provider.count(create) == 1


def test_a_file_that_hangs_at_slack_holds_up_no_run_and_no_other_file(world: World) -> None:
    run = approved(world, "acme")
    world.slack.fail("download", slow(NEVER_S), times=1)
    world.upload("other.csv", tickets_csv(), called="stuck")
    stuck = world.dataset().id
    world.tick_until_state("done", run.id)
    world.upload("more.csv", tickets_csv(), called="more")
    more = world.dataset().id
    world.tick_until(lambda: world.store.datasets.get(more).state == "ready", "the other file")
    assert world.store.datasets.get(stuck).state == "received", "it is still waited for"


def test_a_document_that_hangs_at_slack_holds_up_no_run(world: World) -> None:
    run = approved(world, "acme")
    world.slack.fail("download", slow(NEVER_S), times=1)
    world.slack.command(DORA.id, PRIVATE.id, "/finetune knowledge tickets")
    assert world.slack.submit_modal(
        DORA.id, {"file": world.put_file("faq.md", "Refunds take a week.")}
    ).accepted
    world.tick_until_state("done", run.id)
    assert world.store.documents.due(world.clock), "it is still waited for"


def test_the_bot_stops_while_a_provider_hangs_and_goes_on_afterwards(world: World) -> None:
    world.provider.service.stages = ("running",)
    run = approved(world, "acme")
    world.tick_until_state("training", run.id)
    look = f"GET {JOBS}/{world.run(run.id).job_id}"
    world.provider.fail(look, HANG)
    seen = world.provider.count(look)
    world.tick_until(lambda: world.provider.count(look) > seen, "a look at the job")
    before = world.run(run.id)
    world.stop()
    world.boot()
    assert world.run(run.id) == before
    world.provider.service.stages = ("succeeded",)
    world.tick_until_state("done", run.id)


def test_a_plan_at_a_provider_that_hangs_holds_up_no_tick(world: World) -> None:
    world.provider.fail(f"GET {JOBS}", HANG)
    run = world.start(f"/finetune start tickets current=gpt-4o volume=100M target=acme/{MODEL}")
    other = approved(world, "beta")
    world.tick_until_state("done", other.id)
    assert world.run(run.id).tries == 0, "its provider was not heard yet"
    world.provider.let_go()
    world.tick_until(lambda: world.run(run.id).tries, "the provider's word on the plan")


def test_a_provider_is_asked_again_where_the_system_gave_no_thread(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = approved(world, "beta")
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", no_thread)
        reconcile(world.service.context)
    world.tick_until_state("done", run.id)


def no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
