"""The road without a GPU of one's own: a model is trained on a rented machine, uploaded to W&B, measured and served
there by the token, called by programs, billed, rolled back, and deleted with its dataset. W&B's own package does the
uploading, against a stand-in of its servers; whatever is lost on the way, nothing is uploaded twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bot.rules.plans import plan_from_json
from bot.services.serving.adapter_exports import hub_refusal, upload_adapter
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from tests.bot.datasets.test_story_deletion import delete, wait_for_deletion
from tests.bot.props import LABELS, tickets_csv
from tests.bot.serving.test_story_programs import deploy
from tests.bot.serving.the_door import ask_by_the_door, micros_with_the_call
from tests.bot.world import MakeWorld, Rules, World
from tests.local.conftest import tiny_model_dir as tiny_model_dir
from tests.local.rentals.test_rented_machines import IMAGE
from tests.local.rentals.test_rented_machines import peer as peer
from tests.local.trainer_server import KEY as TRAINER_KEY
from tests.local.trainer_server import free_port, serve_in_thread
from tests.patience import wait_until
from tests.peers import wandb_company
from tests.peers.hf_jobs import HfPeer
from tests.peers.wandb_company import LLAMA, Company
from tests.trainers.providers.test_adapters import write_adapter
from trainers.local.job_directory import TrainingJob, write_job
from trainers.local.rentals.machines import RentingOptions
from trainers.methods import METHODS
from trainers.money import to_micros
from trainers.recipes.folder import RecipeFolder
from trainers.types import Message

pytestmark = [
    pytest.mark.skipif(find_spec("wandb") is None, reason="needs the extra [coreweave]"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # huggingface_hub's
]
START = "/finetune start tickets current=gpt-4o volume=100M target=hf/tiny epochs=1 serve=coreweave"
QUESTION = "Order 4711: a question about refund"


def answer(model: str, messages: Sequence[Message]) -> str:
    """The base always says 'billing'; an adapter of it repeats the label that the text names."""
    if not model.startswith("tuned"):
        return "billing"
    return next((label for label in LABELS if label in messages[-1].content), "billing")


@dataclass
class Road:
    world: World
    company: Company
    peer: HfPeer


@pytest.fixture
def company(monkeypatch: pytest.MonkeyPatch) -> Iterator[Company]:
    monkeypatch.setenv("WANDB_API_KEY", wandb_company.KEY)
    monkeypatch.setenv("COREWEAVE_PROJECT", wandb_company.PROJECT)
    with wandb_company.serve(Company(answer)) as company:
        yield company


@pytest.fixture
def road(
    company: Company,
    peer: HfPeer,
    tmp_path: Path,
    tiny_model_dir: Path,
    make_world: MakeWorld,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Road]:
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", TRAINER_KEY)
    models = {"tiny": str(tiny_model_dir)}
    with serve_in_thread(tmp_path / "data" / "trainer", models, rented=RentingOptions(IMAGE)) as served:
        rows = f"""
[providers.local]
base_url = "{served.url}"
[providers.local.models.tiny]
usd_per_hour = "0"
base_name = "{LLAMA}"
[providers.coreweave]
base_url = "{company.url}/v1"
deploy_base_url = "{company.url}"
requests_per_minute = 6000
[hf]
hardware = "t4-small"
image = "{IMAGE}"
minutes = 30
"""
        world = make_world(Rules(more=rows, serving=f"127.0.0.1:{free_port()}", budget="100"))
        peer.micro_usd["t4-small"] = 10_000
        yield Road(world, company, peer)


@pytest.mark.deep
def test_the_whole_road_from_the_rows_to_the_bill_and_back(road: Road) -> None:
    world = road.world
    company = road.company
    world.upload_and_check(tickets_csv(90))
    world.type("/finetune estimate tickets current=gpt-4o volume=100M target=hf/tiny serve=coreweave")
    details = world.estimate_details()
    assert "$0.22" in details, details

    refused = world.type(START)
    assert refused == "", refused
    world.send()
    card = world.find_message("Run 1", "The tuned model:")
    assert "served by coreweave at $0.22 per million tokens, nothing while nobody asks" in card, card
    assert "Its terms on data: https://site.wandb.ai/terms/" in card
    plan = plan_from_json(world.run().plan)
    assert plan.hosting is not None and plan.hosting.by_token is not None
    assert plan.hosting.by_token.base_model == LLAMA
    assert company.operations == [], "nothing is uploaded before an approval"

    # The upload is carried out and its answer lost, and the bot dies before it has noted what it has sent.
    company.lost = ["CommitArtifact"]
    world.approve()
    world.tick_until(lambda: road.peer.jobs, "a machine")
    (machine,) = road.peer.jobs.values()
    wait_until(lambda: machine.ended, "the machine to end", seconds=300)
    world.tick_until_state("evaluating")
    world.restart()
    world.tick_until_state("done")
    world.send()
    assert company.names == ["ft-run1-" + world.run().plan_hash[:8] + "-1:v0"]
    assert company.runs == ["ft-run1-" + world.run().plan_hash[:8] + "-1"]
    result = world.find_message("Result of run 1")
    assert "Its machine" not in result
    models = {chat["model"] for chat in company.chats}
    called = f"wandb-artifact:///{wandb_company.PROJECT}/{company.names[0]}"
    assert models == {LLAMA, called}, "the base and the pinned version, and nothing else"
    assert world.run().actual_micros == world.ledger()["settle"] > 0

    promote_and_call(world, company, called)
    roll_back_and_delete(world, company)


def promote_and_call(world: World, company: Company, called: str) -> None:
    deploy(world, "tickets-1")
    folder = RecipeFolder(world.service.settings.recipes)
    published = folder.published("team/tickets")
    assert published is not None and published.unavailable is None
    assert (published.provider, published.model) == ("coreweave", called)
    before = company.tokens
    assert ask_by_the_door(world, QUESTION) == "refund"
    assert company.chats[-1]["model"] == called and company.chats[-1]["project"] == wandb_company.PROJECT
    spent = (company.tokens - before) * Decimal("0.22") / 1_000_000
    assert micros_with_the_call(world) == to_micros(spent) > 0


def roll_back_and_delete(world: World, company: Company) -> None:
    world.type("/finetune rollback tickets", user=BEN)
    world.tick(2)
    published = RecipeFolder(world.service.settings.recipes).published("team/tickets")
    assert published is not None and published.unavailable is not None

    # The vendor is away when the dataset is deleted: the deletion is retried until its adapter is gone.
    company.refused = 503
    assert delete(world, BEN).closed
    world.tick(3)
    assert company.names != []
    company.refused = None
    world.pass_time(3600)
    wait_for_deletion(world)
    assert (company.names, company.runs) == ([], [])


ALSO_LLAMA = f"""
[providers.coreweave]
base_url = "URL/v1"
deploy_base_url = "URL"
[providers.coreweave.models."{LLAMA}"]
aliases = ["acme-small"]
"""


def trained_here(world: World, **config: Any) -> Path:
    """Trains a run, whose adapter is in our trainer's folder."""
    world.start_approved()
    world.tick_until_state("done")
    world.send()
    folder = world.service.settings.data / "trainer" / "jobs" / str(world.run().job_id) / "adapter"
    return write_adapter(folder, **config)


@pytest.mark.deep
def test_a_result_is_served_by_the_token_at_a_click_and_taken_back(
    make_world: MakeWorld, company: Company
) -> None:
    world = make_world(Rules(more=ALSO_LLAMA.replace("URL", company.url)))
    trained_here(world)
    deploy(world, "tickets-1")
    folder = RecipeFolder(world.service.settings.recipes)
    before = folder.published("team/tickets")
    assert before is not None and (before.provider, before.model) == (None, None)

    assert "approver" in world.click_and_read(ANA, "serve_by_token")
    world.click(BEN, "serve_by_token")
    (record,) = world.store.deployments.live()
    assert (record.provider, record.by_token, record.micros_per_hour) == ("coreweave", True, 0)
    world.restart()  # before the upload
    world.tick_until(lambda: world.store.deployments.live()[0].state == "ready", "the upload")
    world.tick()
    world.send()
    assert company.names == [f"{record.name}:v0"]
    called = f"wandb-artifact:///{wandb_company.PROJECT}/{record.name}:v0"
    served = folder.published("team/tickets")
    assert served is not None and (served.provider, served.model) == ("coreweave", called)
    assert "is served by the token at CoreWeave" in "\n".join(world.texts())
    world.type("/finetune try tickets-1 a question about refund")
    assert "refund" in world.tick_until_answered()
    assert company.chats[-1]["model"] == called
    entries = [entry.action for entry in world.store.audit.entries("run 1")]
    assert "data terms accepted" in entries

    # A day without a question, a freeze and an empty budget stop nothing that costs nothing.
    world.pass_time(24 * 3600)
    world.tick(3)
    assert company.names != [] and world.store.deployments.cost_of_run(1) == 0

    world.click(BEN, "stop_deployment")
    world.tick_until(lambda: company.names == [], "the adapter to be deleted")
    world.tick_until(lambda: not world.store.deployments.live(), "the end")
    world.tick()
    after = folder.published("team/tickets")
    assert after is not None and (after.provider, after.model, after.unavailable) == (None, None, None)
    world.click(BEN, "start_deployment")
    world.tick_until(lambda: company.names != [], "the second upload")


@pytest.mark.deep
def test_rows_that_may_not_leave_are_not_taught_to_a_model_there(
    make_world: MakeWorld, company: Company
) -> None:
    rule = '[[policy.data]]\nname = "tickets stay"\ndatasets = ["tickets"]\nproviders = ["acme"]\n'
    world = make_world(Rules(more=ALSO_LLAMA.replace("URL", company.url) + rule))
    folder = trained_here(world)
    assert "tickets stay" in world.click_and_read(BEN, "serve_by_token")
    assert world.store.deployments.live() == []

    settings = METHODS["supervised"].parameters()
    job_id = str(world.run().job_id)
    job = TrainingJob(job_id, LLAMA, "llama", "rows.jsonl", None, 1, settings, "tickets", {}, 1)
    write_job(folder.parent, job)
    (folder.parent / "DONE").write_text("{}", encoding="utf-8")
    context = world.service.context
    trainer = context.settings.data / "trainer"
    printed: list[str] = []
    refused = upload_adapter(
        context.settings, "coreweave", "tickets-1", [trainer], None, printed.append, context
    )
    assert isinstance(refused, Refusal) and "tickets stay" in refused.text
    assert (printed, company.operations) == ([], [])
    on_a_hub = hub_refusal(context, "tickets-1")
    assert on_a_hub is not None and "tickets stay" in on_a_hub.text
    tuned = world.store.model("tickets-1")
    assert tuned is not None
    checkpoint = f"{tuned.provider_model}:ckpt-step-3"
    assert hub_refusal(context, checkpoint) == hub_refusal(context, str(folder.parent)) == on_a_hub
    assert context.settings.provider("hf") is None
    assert hub_refusal(context, "a-model-of-nobody") is None


@pytest.mark.deep
def test_an_adapter_of_too_high_a_rank_is_not_uploaded(make_world: MakeWorld, company: Company) -> None:
    world = make_world(Rules(more=ALSO_LLAMA.replace("URL", company.url)))
    trained_here(world, r=32)
    world.click(BEN, "serve_by_token")
    world.tick_until(lambda: not world.store.deployments.live(), "the end")
    world.send()
    assert "up to rank 16, and this one has rank 32" in "\n".join(world.texts())
    assert company.names == []


def test_what_can_not_be_served_by_the_token_is_refused_before_a_plan(
    make_world: MakeWorld, company: Company
) -> None:
    world = make_world(Rules(more=ALSO_LLAMA.replace("URL", company.url)))
    world.seed_dataset()
    start = "/finetune start tickets current=gpt-4o volume=100M"
    assert "serves no adapters by the token" in world.type(f"{start} target=acme/acme-small serve=groq")
    reply = world.type(f"{start} target=acme/acme-small serve=coreweave")
    assert "choose a target that starts with `local/` or `hf/`" in reply
    reply = world.type(f"{start} target=local/smollm2-135m serve=coreweave")
    assert f"serves adapters of `{LLAMA}`" in reply and "not of `smollm2-135m`" in reply
    alias = ALSO_LLAMA.replace("URL", company.url).replace("acme-small", "smollm2-135m")
    world.rules = Rules(more=alias)
    world.restart()
    reply = world.type(f"{start} target=local/smollm2-135m serve=coreweave lora_r=32")
    assert "up to rank 16, and this one has rank 32" in reply and "lora_r=16" in reply
    assert world.store.runs.get(1) is None
