"""A run on a machine that is rented by the minute: the price is asked, approved, asked again, and billed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from bot.cli import main
from demo.people import ANA
from tests.bot.models.test_story_promote import promote
from tests.bot.props import tickets_csv
from tests.bot.world import MakeWorld, Rules, World
from tests.local.conftest import tiny_model_dir as tiny_model_dir
from tests.local.rentals.test_rented_machines import IMAGE
from tests.local.rentals.test_rented_machines import peer as peer
from tests.local.trainer_server import KEY, TrainerServer, serve_in_thread
from tests.patience import wait_until
from tests.peers.hf_jobs import HfPeer
from trainers.local.rentals.machines import RentingOptions
from trainers.money import to_micros, usd

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's
START = "/finetune start tickets current=gpt-4o volume=100M target=hf/tiny epochs=1"


@pytest.fixture
def served(
    peer: HfPeer, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TrainerServer]:
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    models = {"tiny": str(tiny_model_dir)}
    with serve_in_thread(tmp_path / "trainer", models, rented=RentingOptions(IMAGE)) as served:
        yield served


@pytest.fixture
def world(make_world: MakeWorld, served: TrainerServer) -> World:
    rows = (
        f'[providers.local]\nbase_url = "{served.url}"\n[providers.local.models.tiny]\nusd_per_hour = "0"\n'
        f'[hf]\nhardware = "t4-small"\nimage = "{IMAGE}"\nminutes = 30\n'
    )
    return make_world(Rules(more=rows))


@pytest.mark.deep
def test_a_rented_run_is_billed_at_its_cost_and_leaves_nothing_running(world: World, peer: HfPeer) -> None:
    peer.micro_usd["t4-small"] = 500_000
    assert world.upload_and_check(tickets_csv()).state == "ready"
    assert "by the minute" in world.type("/finetune prices hf/tiny")
    world.type("/finetune estimate tickets current=gpt-4o volume=100M target=hf/tiny")
    assert "$2.50 to $15.00)" in world.estimate_details()  # five minutes of $0.50, in which it loads, to 30
    world.start(START)
    card = world.find_message("train tiny on tickets for up to $15.00")
    assert "It rents t4-small from Hugging Face at $30.00 an hour for at most 30 minutes." in card
    assert not peer.jobs, "nothing starts before an approval"
    world.approve()
    world.tick_until(lambda: peer.jobs, "a machine")
    (machine,) = peer.jobs.values()
    wait_until(lambda: machine.ended, "the machine to end", seconds=300)
    world.tick_until(lambda: world.run().state == "done", "the run to be done", seconds=300)
    world.send()
    bill = peer.usd
    assert machine.stage == "COMPLETED" and machine.spec["timeoutSeconds"] == 30 * 60
    assert world.ledger()["settle"] == world.run().actual_micros == to_micros(bill) > 0
    assert f"*Cost*\n{usd(bill)}" in world.find_message("Result of run 1")

    promote(world, why="because='a toy that learns little'")
    world.send()
    world.click(ANA, "try_model")
    assert world.slack.submit_modal(ANA.id, {"text": "where is my refund?"}).closed
    assert "It answers" in world.tick_until_answered()
    assert world.store.promotions.current("tickets").model == "tickets-1"
    world.tick_until(lambda: not peer.repositories, "the repository to be deleted")
    assert (peer.running, len(peer.jobs), peer.usd) == ([], 1, bill)


def test_a_raised_price_cancels_the_run_before_anything_starts(world: World, peer: HfPeer) -> None:
    world.start(START)
    peer.micro_usd["t4-small"] = 10_000
    world.approve()
    run = world.tick_until_state("cancelled")
    assert "charges $0.60 an hour for t4-small, and $0.40 was approved" in str(run.error)
    assert not peer.jobs and not peer.ever
    assert world.ledger().get("settle", 0) == 0


@pytest.mark.deep
def test_a_failed_smoke_test_ends_the_run_and_its_seconds_are_booked(world: World, peer: HfPeer) -> None:
    failure = (
        b'{"code": "smoke_failed", "message": "The first steps, on 8 rows, failed: no space.", "param": null}'
    )
    peer.files = {"result/FAILED": failure}
    world.start(START)
    world.approve()
    run = world.tick_until_state("failed")
    assert "The first steps, on 8 rows, failed: no space" in str(run.error)
    assert world.ledger()["settle"] == to_micros(peer.usd) > 0 and not peer.running


def test_a_rejected_token_plans_nothing(world: World, peer: HfPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    world.seed_dataset()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    answer = world.type("/finetune estimate tickets current=gpt-4o volume=100M target=hf/tiny")
    assert "The token in HF_TOKEN is not valid" in (
        answer if "HF_TOKEN" in answer else world.tick_until_answered()
    )
    assert not peer.jobs


@pytest.mark.deep
def test_the_terminal_asks_for_the_machines_price(world: World, peer: HfPeer, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(tickets_csv(300))
    peer.micro_usd["t4-small"] = 100_000
    words = ["estimate", str(rows), "--target", "hf/tiny", "--current", "gpt-4o", "--volume", "10M"]
    config = {"FINETUNE_CONFIG": str(world.folder / "finetune.toml")}
    output = CliRunner().invoke(main, words, env=config).output
    assert "to $3.00)" in output, output  # 30 minutes of $0.10
    del peer.micro_usd["t4-small"]
    assert "has no machine named 't4-small' to rent" in CliRunner().invoke(main, words, env=config).output
