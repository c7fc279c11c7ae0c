"""A provider or a download that answers late or never delays its own runs only."""

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
from tests.patience import PATIENCE_S
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
    """With a second provider, and with provider threads as in `finetune run`."""
    more = BETA.format(url=beta.url, model=MODEL)
    world = make_world(Rules(more=more, trainer_timeout_s=NEVER_S, budget="1000"))
    world.threads = ProviderThreads
    world.restart()
    yield world
    world.provider.let_go()


def start_approved(world: World, target: str) -> Run:
    run = world.start(f"/finetune start tickets current=gpt-4o volume=100M target={target}/{MODEL}")
    world.approve()
    return run


def test_runs_of_one_provider_continue_while_another_hangs(world: World, beta: Hosted) -> None:
    world.provider.service.stages = ("running",)
    stuck = start_approved(world, "acme")
    world.tick_until_state("training", stuck.id)
    look = f"GET {JOBS}/{world.run(stuck.id).job_id}"
    world.provider.fail(look, HANG)
    looks = world.provider.count(look)
    world.tick_until(lambda: world.provider.count(look) > looks, "a look at the job")
    run = start_approved(world, "beta")
    world.tick_until_state("evaluating", run.id)
    assert world.provider.count(look) == looks + 1, "no second look is begun"
    assert world.run(stuck.id).state == "training"
    world.provider.service.stages = ("succeeded",)
    world.provider.let_go()
    world.tick_until_state("evaluating", stuck.id)


def test_a_create_that_hangs_is_not_repeated(world: World, beta: Hosted) -> None:
    create = f"POST {JOBS}"
    world.provider.fail(create, COMMIT_THEN_HANG)
    start_approved(world, "acme")
    world.tick_until(lambda: world.provider.count(create), "the create")
    other = start_approved(world, "beta")
    world.tick_until_state("evaluating", other.id)
    assert world.provider.count(create) == 1
    world.provider.let_go()
    world.tick_until(lambda: world.run(1).state == "training", "the job to be found")
    assert world.jobs() == world.provider.count(create) == 1


@pytest.mark.deep
def test_a_file_and_a_document_that_hang_at_slack_delay_no_run_and_no_other_file(world: World) -> None:
    run = start_approved(world, "acme")
    world.slack.fail("download", slow(NEVER_S), times=2)
    world.upload("other.csv", tickets_csv(), called="stuck")
    stuck = world.dataset().id
    world.slack.command(DORA.id, PRIVATE.id, "/finetune knowledge tickets")
    document = world.put_file("faq.md", "Refunds take a week.")
    assert world.slack.submit_modal(DORA.id, {"file": document}).accepted
    world.tick_until_state("evaluating", run.id)
    world.upload("more.csv", tickets_csv(), called="more")
    more = world.dataset().id
    world.tick_until(lambda: world.store.datasets.get(more).state == "ready", "the other file")
    assert world.store.datasets.get(stuck).state == "received", "it is still waited for"
    assert world.store.documents.due(world.clock), "and so is the document"


@pytest.mark.deep
def test_the_bot_can_be_stopped_while_a_provider_hangs(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.provider.service.stages = ("running",)
    run = start_approved(world, "acme")
    world.tick_until_state("training", run.id)
    look = f"GET {JOBS}/{world.run(run.id).job_id}"
    world.provider.fail(look, HANG)
    looks = world.provider.count(look)
    world.tick_until(lambda: world.provider.count(look) > looks, "a look at the job")
    before = world.run(run.id)
    (abandoned,) = [thread for thread in threading.enumerate() if thread.name == "acme"]
    world.stop()
    world.provider.let_go()
    abandoned.join(PATIENCE_S)
    assert not [record for record in caplog.records if record.exc_info], "a stop is no fault"
    world.boot()
    assert world.run(run.id) == before
    world.provider.service.stages = ("succeeded",)
    world.tick_until_state("evaluating", run.id)


def test_a_plan_at_a_provider_that_hangs_delays_no_tick(world: World) -> None:
    world.provider.fail(f"GET {JOBS}", HANG)
    run = world.start(f"/finetune start tickets current=gpt-4o volume=100M target=acme/{MODEL}")
    other = start_approved(world, "beta")
    world.tick_until_state("evaluating", other.id)
    assert world.run(run.id).tries == 0, "its provider has not answered yet"
    world.provider.let_go()
    world.tick_until(lambda: world.run(run.id).tries, "the provider's answer about the plan")


def test_a_provider_is_asked_again_after_the_system_refused_a_thread(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_approved(world, "beta")
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse_thread)
        reconcile(world.service.context)
    world.tick_until_state("evaluating", run.id)


def refuse_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
