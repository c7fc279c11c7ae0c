"""A run that our trainer trains at Tinker: the rules about data and money are those of a vendor, and the tuned model
answers here. The package `tinker` calls a stand-in of the vendor's API."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from bot.services.training import vendor_bills
from demo.people import BEN
from tests.bot.datasets.test_story_deletion import delete, wait_for_deletion
from tests.bot.props import tickets_csv
from tests.bot.serving.test_story_programs import deploy
from tests.bot.serving.the_door import ask_by_the_door
from tests.bot.world import MakeWorld, Rules, World
from tests.local.conftest import tiny_model_dir as tiny_model_dir
from tests.local.engines.tinker_peer import ADMIN_KEY, TinkerPeer, install, start_peer
from tests.local.trainer_server import KEY, STUB, free_port, serve_in_thread
from trainers.host import TINKER_ADMIN_KEY, TINKER_KEY
from trainers.money import to_micros
from trainers.recipes.folder import RecipeFolder

TRAIN = (sys.executable, "-m", "trainers.local.train")
START = "/finetune start tickets current=gpt-4o volume=100M target=tinker/tiny epochs=1"
QWEN = "Qwen/Qwen3-8B"


def rules_of(url: str, more: str = "", budget: str = "20") -> Rules:
    rows = (
        f'[providers.local]\nbase_url = "{url}"\n[providers.local.models.tiny]\nusd_per_hour = "0"\n'
        f'base_name = "{QWEN}"\n'
    )
    return Rules(more=rows + more, budget=budget)


@pytest.fixture
def address(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of our trainer, whose jobs only pretend to train. The bot has a key for Tinker."""
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    monkeypatch.setenv(TINKER_KEY, "tml-stand-in")
    with serve_in_thread(tmp_path / "trainer", {"tiny": str(tiny_model_dir)}, STUB) as served:
        yield served.url


@pytest.fixture
def peer(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinkerPeer]:
    with start_peer(tmp_path / "peer", tiny_model_dir, 16, monkeypatch) as started:
        monkeypatch.setenv(TINKER_ADMIN_KEY, ADMIN_KEY)
        yield started


@pytest.fixture
def road(
    make_world: MakeWorld,
    peer: TinkerPeer,
    tmp_path: Path,
    tiny_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    data = tmp_path / "data" / "trainer"
    install(data / "engines")
    with serve_in_thread(data, {"tiny": str(tiny_model_dir)}, TRAIN) as served:
        # Its tokenizer counts the tokens, which are more than those of the vocabulary that is assumed otherwise.
        more = f"""
[trainer.models]
tiny = "{tiny_model_dir}"
[providers.tinker]
billing_base_url = "{peer.address}/api/v1"
[providers.tinker-inference]
base_url = "{peer.address}/oai/api/v1"
deploy_base_url = "{peer.address}/api/v1"
requests_per_minute = 6000
"""
        rules = rules_of(served.url, more)
        yield make_world(replace(rules, serving=f"127.0.0.1:{free_port()}"))


@pytest.mark.deep
def test_a_run_is_approved_trained_at_tinker_billed_by_the_token_and_deleted(
    road: World, peer: TinkerPeer
) -> None:
    assert "$0.44" in road.type("/finetune prices tinker/tiny")
    assert road.upload_and_check(tickets_csv()).state == "ready"
    road.start(START)
    card = road.find_message("train tiny on tickets")
    assert f"Its rows are sent to Tinker, which trains {QWEN} at $0.44 per million tokens" in card
    assert "thinkingmachines.ai/legal/tos" in card
    assert peer.state["calls"] == [], "nothing is sent before an approval"

    peer.break_down(refuse={"/training_runs/": 403})
    road.approve()
    road.tick_until(lambda: road.run().state == "done", "the run to be done", seconds=300)
    road.send()
    trained = peer.state["trained"]
    bill = Decimal("0.44") * trained / 1_000_000
    assert trained > 0
    assert road.ledger()["settle"] == road.run().actual_micros == to_micros(bill)
    assert "the tokens that were sent at their list price" in road.find_message("Result of run 1")
    [run] = peer.state["runs"]
    assert run["base"] == QWEN
    assert run["checkpoints"], "the refusal left them"
    correct_by_the_bill(road, peer)

    # What could not be deleted at the end of the training goes with the dataset.
    peer.break_down()
    delete(road, BEN)
    wait_for_deletion(road)
    assert peer.state["runs"][0]["checkpoints"] == []


def correct_by_the_bill(world: World, peer: TinkerPeer) -> None:
    """The sessions of our own engine carry the job's id, by which the bill is theirs."""
    before = world.ledger()["settle"]
    rate = Decimal(4000)
    invoiced_until = (world.run().state_since // 86400 + 1) * 86400
    world.pass_time(2 * 86400)
    peer.bill(now=world.clock, invoiced_until=invoiced_until, rate=float(rate))
    vendor_bills.sweep(world.service.context)
    world.send()
    assert abs(world.ledger()["settle"] - to_micros(rate * peer.state["trained"] / 1_000_000)) <= 1
    assert world.run().actual_micros == world.ledger()["settle"] > before
    assert "Tinker's bill for run 1: $" in world.find_message("booked before: $0.0")
    assert "of it by the vendor's bill" in world.find_message("Result of run 1")


@pytest.mark.deep
def test_a_model_is_served_there_by_the_token_taken_back_and_deleted(road: World, peer: TinkerPeer) -> None:
    assert road.upload_and_check(tickets_csv(90)).state == "ready"
    assert road.type(f"{START} serve=tinker-inference") == ""
    road.send()
    card = road.find_message("Run 1", "The tuned model:")
    assert "served by tinker-inference" in card, card

    # The weights are saved and the answer to that is lost: the next look finds them by their name.
    peer.break_down(lose=["/save_weights_for_sampler"])
    road.approve()
    road.tick_until(lambda: names(peer, "sampler_weights"), "the weights", seconds=300)
    peer.break_down()
    road.tick_until(lambda: road.run().state == "done", "the run to be done", seconds=300)
    road.send()
    [weights] = names(peer, "sampler_weights")
    assert weights.startswith("sampler_weights/ft-run1-")
    [served] = {chat["model"] for chat in peer.state["chats"]} - {QWEN}
    assert served.endswith(f"/{weights}")
    tokens = sum(chat["prompt_tokens"] for chat in peer.state["chats"])
    answered = sum(chat["completion_tokens"] for chat in peer.state["chats"])
    trained = Decimal("0.44") * peer.state["trained"]
    bill = (trained + Decimal("0.195") * tokens + Decimal("0.60") * answered) / 1_000_000
    assert road.run().actual_micros == road.ledger()["settle"] == to_micros(bill)

    [state] = names(peer, "weights")
    assert state not in peer.state["runs"][0]["expiring"], "else it could not be served again some day"
    call_and_roll_back(road, peer, served)
    take_back_and_serve_again(road, peer)
    assert delete(road, BEN).closed
    road.pass_time(3600)
    wait_for_deletion(road)
    assert all(run["checkpoints"] == [] for run in peer.state["runs"])


def names(peer: TinkerPeer, part: str) -> list[str]:
    """The names of the checkpoints of one kind."""
    stored = [name for run in peer.state["runs"] for name in run["checkpoints"]]
    return [name for name in stored if name.startswith(f"{part}/")]


def take_back_and_serve_again(world: World, peer: TinkerPeer) -> None:
    world.click(BEN, "stop_deployment")
    world.tick_until(lambda: not names(peer, "sampler_weights"), "the weights to be deleted")
    world.tick_until(lambda: not world.store.deployments.live(), "the end")
    world.send()
    refused = world.type("/finetune try tickets-1 a question about refund")
    assert "is not served at Tinker's inference now. Press *Serve it again*" in refused, refused
    world.click(BEN, "start_deployment")
    world.tick_until(lambda: names(peer, "sampler_weights"), "other weights")
    world.tick_until(lambda: world.store.deployments.live()[0].state == "ready", "the model")
    world.type("/finetune try tickets-1 a question about refund")
    assert "refund" in world.tick_until_answered()


def call_and_roll_back(world: World, peer: TinkerPeer, served: str) -> None:
    deploy(world, "tickets-1")
    folder = RecipeFolder(world.service.settings.recipes)
    published = folder.published("team/tickets")
    assert published is not None
    assert (published.provider, published.model) == ("tinker-inference", served)
    assert ask_by_the_door(world, "Order 4711: a question about refund") == "refund"
    assert peer.state["chats"][-1]["model"] == served
    world.type("/finetune rollback tickets", user=BEN)
    world.tick(2)
    assert folder.published("team/tickets").unavailable is not None


def test_only_what_is_trained_there_is_served_there(make_world: MakeWorld, address: str) -> None:
    world = make_world(rules_of(address))
    world.seed_dataset()
    answer = world.type(START.replace("tinker/", "local/") + " serve=tinker-inference")
    assert "serves what was tuned at" in answer and "starts with `tinker/`" in answer


def test_the_rules_about_data_are_asked_for_tinker_itself(make_world: MakeWorld, address: str) -> None:
    rule = '[[policy.data]]\nname = "tickets stay here"\nproviders = ["local"]\n'
    world = make_world(rules_of(address, rule))
    world.seed_dataset()
    assert "tickets stay here" in world.type(START)
    world.start(START.replace("tinker/", "local/"))
    world.find_message("train tiny on tickets")


def test_more_than_the_budget_is_not_approved(make_world: MakeWorld, address: str) -> None:
    price = f'[providers.tinker.models."{QWEN}"]\ntraining = "9000"\n'
    world = make_world(rules_of(address, price, budget="1"))
    world.start(START)
    world.approve()
    assert world.run().state == "awaiting_approval"
    assert "only $1.00 of this month's $1.00 is left" in world.find_message("train tiny on tickets for up to")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (START.replace("tinker/", "local/") + " engine=tinker", "name it as the target"),
        (START + " engine=unsloth", "leave out"),
        (START + " method=grpo", "can't be trained at Tinker"),
        (START + " sweep=lora_r:8,16", "sweep"),
        (START + " patience=2", "patience="),
        (START + " dropout=0.1", "doesn't take"),
    ],
)
def test_what_tinker_cant_do_is_refused_before_a_plan(
    make_world: MakeWorld, address: str, line: str, sentence: str
) -> None:
    world = make_world(rules_of(address))
    world.seed_dataset()
    assert sentence in world.type(line)
    assert not world.store.runs.newest(1)


def test_without_a_key_the_answer_says_what_is_missing(
    make_world: MakeWorld, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TINKER_KEY)
    world = make_world(rules_of(address))
    world.seed_dataset()
    assert "Set TINKER_API_KEY where the bot runs" in world.type(START).replace("`", "")


def test_a_base_that_tinker_lacks_has_no_target_there(make_world: MakeWorld, address: str) -> None:
    rules = rules_of(address)
    world = make_world(Rules(more=rules.more.replace(QWEN, "acme/own")))
    assert world.service.settings.provider("tinker") is None
