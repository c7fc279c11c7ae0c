"""Something that was measured answers programs when what is in use can't: chosen by one command, shown on its card,
counted apart, and ended by a command, with the last use, or with its data."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from bot.cards.models import promotions
from bot.reconciler import maintain
from bot.rules import units
from bot.services import deletion_scope
from bot.services.serving import fallbacks
from bot.values.evaluations import ComparisonPlan, promoted_candidate
from bot.values.requests import Delete
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from storage.promotions import Fallback
from tests.bot.cli.test_promotions import run
from tests.bot.datasets.test_story_deletion import delete_and_wait
from tests.bot.measurements import CHAT, PRICES, measure
from tests.bot.models.test_story_use_candidate import answer_right
from tests.bot.props import tickets_csv
from tests.bot.saved_worlds import reached_once
from tests.bot.serving.the_door import door_of, look_until_it_answers
from tests.bot.world import CLEO, MakeWorld, Rules, World
from tests.local.trainer_server import free_port
from tests.patience import wait_until
from tests.peers.hosted import Fault
from tests.peers.programs import five_lines, open_client
from trainers.evaluation.results import CLASSICAL, Candidate
from trainers.recipes import usage
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.values import Published

LINE = "/finetune baseline tickets candidates=classical,zero,kshot models=acme/acme-small shots=4"
CHOOSE = "/finetune fallback tickets classical"
END = "/finetune fallback tickets to=nothing"
QUESTION = "a question about refund"
OUT = Fault(commit=False, status=503, code="overloaded")
DAY_S = 86_400


@reached_once
def seed_measured(world: World) -> None:
    """The classical model and two prompts were measured on 18 held-out rows."""
    world.upload_and_check(tickets_csv(90))
    measure(world, LINE)


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A prompt alone is in use."""
    world = make_world(Rules(more=PRICES, serving=f"127.0.0.1:{free_port()}"))
    world.provider.service.answer = answer_right
    seed_measured(world)
    assert world.type("/finetune promote tickets zero", user=BEN) == ""
    world.tick_until(lambda: published(world) is not None, "the prompt's recipe")
    return world


def published(world: World) -> Published | None:
    return RecipeFolder(world.service.settings.recipes).published("team/tickets")


def current(world: World) -> Fallback | None:
    fallback: Fallback | None = world.store.fallbacks.current("tickets")
    return fallback


def candidate_of(fallback: Fallback | None) -> Candidate | None:
    return promoted_candidate(fallback.what) if fallback else None


def choose(world: World, line: str = CHOOSE) -> str:
    """Returns the reply to Ben, once programs may get it."""
    reply = world.type(line, user=BEN)
    world.tick_until(lambda: (now := published(world)) is not None and now.fallback, "the fallback's recipe")
    world.send()
    return reply


def set_bar(world: World, bar: float) -> None:
    world.store.dataset_settings.set("tickets", by=ANA.id, now=world.clock, bar=bar)


@pytest.mark.deep
def test_it_answers_while_the_provider_is_out(world: World) -> None:
    world.click(ANA, promotions.DETAILS)
    assert "`/finetune fallback tickets CANDIDATE` has something else" in world.read_form(ANA)
    reply = choose(world)
    assert "will answer programs that call `team/tickets` whenever what is in use can't" in reply
    assert "free" in reply and END in reply and "Both ask" not in reply
    card = world.find_message("is in use for tickets", "*If it can't answer*, the classical model does")
    assert f"Chosen by <@{BEN.id}> on" in card
    for line in ("/finetune models", "/finetune status"):
        assert "and get the classical model if it can't answer" in world.type(line)
    with door_of(world) as door:
        look_until_it_answers(door)
        with open_client(five_lines(card)) as client:

            def call() -> tuple[str | None, str | None]:
                answer = client.with_raw_response.chat.completions.create(
                    model="team/tickets", messages=[{"role": "user", "content": QUESTION}]
                )
                return answer.parse().choices[0].message.content, answer.headers.get("x-finetune-fallback")

            assert call() == ("refund", None)
            world.provider.fail(CHAT, OUT, times=1)
            assert call() == ("refund", "upstream_503")
            assert call() == ("refund", None)
        folder = RecipeFolder(world.service.settings.recipes)
        wait_until(
            lambda: sum(use.calls for use in usage.read(folder.root).values()) == 4, "the counts", seconds=30
        )
    maintain(world.service.context)
    months = {month.model: month for month in world.store.actuals.of("tickets")}
    prompt = months["the prompt alone on acme/acme-small"]
    assert (prompt.calls, prompt.failed) == (3, 1)
    stood_in = months["the classical model, as fallback"]
    assert (stood_in.calls, stood_in.failed, stood_in.micros) == (1, 0, 0)


def test_it_stays_whatever_is_deployed_until_somebody_ends_it(world: World) -> None:
    choose(world)
    recipe = published(world)
    assert recipe is not None
    world.type("/finetune promote tickets kshot because=the demo is today", user=BEN)
    world.send()
    world.click(CLEO, "approve_promotion")
    world.tick_until(
        lambda: (now := published(world)) is not None and now.recipe != recipe.recipe, "the next"
    )
    now = published(world)
    assert now is not None and now.fallback == recipe.fallback

    assert "Only an approver" in world.type(END, user=ANA)
    reply = world.type(END, user=BEN)
    assert "The classical model no longer stands in" in reply and "get its error" in reply
    world.tick()
    now = published(world)
    assert now is not None and now.fallback is None
    assert "has no fallback" in world.type(END, user=BEN)
    assert "If it can't answer" not in world.find_message("with 4 examples", "is in use for tickets")
    acts = [
        entry.action for entry in world.store.audit.entries("measurement 1") if "fallback" in entry.action
    ]
    assert acts == ["choose fallback", "end fallback"]


@pytest.mark.deep
def test_it_ends_once_it_is_deployed_itself(world: World) -> None:
    choose(world)
    world.type("/finetune promote tickets classical because=the demo is today", user=BEN)
    world.send()
    world.click(CLEO, "approve_promotion")
    assert current(world) is None
    world.tick_until(lambda: (now := published(world)) is not None and now.promotion == 2, "its recipe")
    now = published(world)
    assert now is not None and now.fallback is None
    world.send()
    assert "If it can't answer" not in world.find_message("The classical model is in use for tickets")


def test_it_ends_with_the_last_use(world: World) -> None:
    choose(world)
    world.type("/finetune rollback tickets to=nothing", user=BEN)
    world.tick()
    assert current(world) is None
    now = published(world)
    assert now is not None and now.fallback is None and now.unavailable is not None
    assert "Nothing is in use for `tickets`" in world.type(CHOOSE, user=BEN)


@pytest.mark.deep
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("/finetune fallback tickets zero", "is what is in use"),
        ("/finetune fallback tickets encoder", "was not measured"),
        ("/finetune fallback tickets", "/finetune fallback tickets classical"),
        ("/finetune fallback letters classical", "no dataset"),
    ],
)
def test_what_cannot_stand_in_is_refused(world: World, line: str, reason: str) -> None:
    assert reason in world.type(line, user=BEN)
    assert current(world) is None


@pytest.mark.deep
def test_what_misses_the_bar_cannot_stand_in(world: World) -> None:
    set_bar(world, 0.999)
    reply = world.type(CHOOSE, user=BEN)
    assert "can't stand in for what is in use" in reply and "bar of 99.9%" in reply
    assert current(world) is None
    assert "Only an approver" in world.type(CHOOSE, user=ANA)


@pytest.mark.deep
def test_a_freeze_keeps_everything_as_it_is(world: World) -> None:
    world.type("/finetune freeze because=the month is over", user=BEN)
    assert "Nothing else is deployed now" in world.type(CHOOSE, user=BEN)
    assert current(world) is None


@pytest.mark.deep
def test_both_at_one_provider_is_said(world: World) -> None:
    reply = choose(world, "/finetune fallback tickets kshot after=20")
    assert "or takes longer than 20 s" in reply
    assert "Both ask Acme Tuning, so if Acme Tuning is out, neither answers." in reply
    world.find_message("is in use for tickets", "Both ask Acme Tuning")
    now = published(world)
    assert now is not None and now.fallback_after_s == 20
    assert "already the fallback" in world.type("/finetune fallback tickets kshot after=20", user=BEN)
    choose(world)
    world.tick_until(lambda: candidate_of(current(world)) == CLASSICAL, "the other one")
    assert len(world.store.fallbacks.all_current()) == 1


@pytest.mark.deep
def test_lost_files_are_made_again_and_trouble_is_shown(world: World) -> None:
    choose(world)
    before = current(world)
    assert before is not None and before.recipe is not None
    settings = world.service.settings
    folder = RecipeFolder(settings.recipes)
    folder.remove(before.recipe)
    plan = ComparisonPlan.from_json(world.store.measurements.get(1).plan)
    rows = settings.files / f"{plan.train_sha256}.jsonl"
    content = rows.read_bytes()
    rows.unlink()
    world.tick_until(lambda: (now := current(world)) is not None and now.trouble, "the trouble")
    world.send()
    card = world.find_message("is in use for tickets", "*If it can't answer*")
    assert "Programs don't get the fallback yet: The rows or documents" in card
    now = published(world)
    assert now is not None and now.fallback is None

    rows.write_bytes(content)
    world.pass_time(fallbacks.AGAIN_S)
    world.tick_until(lambda: (now := published(world)) is not None and now.fallback, "its files")
    world.send()
    assert "don't get the fallback" not in world.find_message("is in use for tickets", "*If it can't answer*")
    assert folder.recipe_path(before.recipe).exists()


@pytest.mark.deep
def test_it_answers_each_call_once_the_model_has_ended(world: World) -> None:
    """Chosen before or after the end, which ticks don't take back."""
    choose(world)
    world.provider.service.shutdowns = {"acme-small": units.day_of(world.clock).isoformat()}
    world.pass_time(DAY_S)
    maintain(world.service.context)
    world.tick()
    now = published(world)
    assert now is not None and now.unavailable is not None and now.fallback is not None
    assert "*programs that call `team/tickets` get the fallback*, the classical model:" in world.type(
        "/finetune models"
    )
    world.type(END, user=BEN)
    world.tick()
    now = published(world)
    assert now is not None and now.unavailable is not None and now.fallback is None
    assert "get no answer" in world.type("/finetune models")
    choose(world)
    now = published(world)
    assert now is not None and now.unavailable is not None and now.fallback is not None


@pytest.mark.deep
def test_the_end_of_its_model_is_announced(world: World) -> None:
    world.type("/finetune promote tickets classical because=the demo is today", user=BEN)
    world.send()
    world.click(CLEO, "approve_promotion")
    world.tick_until(lambda: world.store.promotions.current("tickets").recipe, "the classical model")
    choose(world, "/finetune fallback tickets kshot")
    tomorrow = units.day_of(world.clock + DAY_S)
    world.provider.service.shutdowns = {"acme-small": tomorrow.isoformat()}
    maintain(world.service.context)
    world.send()
    card = world.find_message("acme-small ends in 1 day", "the fallback for tickets")
    assert "/finetune fallback tickets CANDIDATE" in card and "Retrain" not in card


@pytest.mark.deep
def test_its_version_is_not_deleted_and_it_goes_with_the_whole_dataset(world: World) -> None:
    choose(world)
    before = current(world)
    assert before is not None and before.recipe is not None
    # What is in use belongs to a newer version, which stays.
    world.pass_time(3 * DAY_S)
    newer = world.upload_and_check(tickets_csv(91))
    measure(world, LINE.replace("shots=4", "shots=8"), number=2)
    world.type("/finetune promote tickets kshot shots=8 because=the demo is today", user=BEN)
    world.send()
    if world.has_button("approve_promotion"):
        world.click(CLEO, "approve_promotion")
    assert world.store.promotions.current("tickets").measurement == 2
    day = datetime.fromtimestamp(newer.created_at, UTC).date()
    refusal = deletion_scope.find_scope(world.service.context, Delete("tickets", day))
    assert isinstance(refusal, Refusal) and END in refusal.text
    assert (
        "the classical model, which answers when what is in use can't, was measured with it" in refusal.text
    )

    delete_and_wait(world, BEN)
    assert current(world) is None
    assert not RecipeFolder(world.service.settings.recipes).recipe_path(before.recipe).exists()


@pytest.mark.deep
def test_the_terminal_chooses_and_ends_it(world: World) -> None:
    running = run(world, "fallback", "tickets", "classical")
    assert running.exit_code == 2 and "fallback in Slack do the same" in running.stderr
    folder = RecipeFolder(world.service.settings.recipes)
    world.stop()
    chosen = run(world, "fallback", "tickets", "classical")
    assert chosen.exit_code == 0, chosen.output
    assert "will answer programs that call team/tickets" in chosen.stdout
    now = folder.published("team/tickets")
    assert now is not None and now.fallback is not None
    assert "team/tickets, and get the classical model if it can't answer" in run(world, "models").stdout
    (use,) = json.loads(run(world, "models", "--json").stdout)
    assert (use["fallback"], use["unanswered"]) == ("classical", None)
    refused = run(world, "fallback", "tickets", "zero")
    assert refused.exit_code == 2 and "is what is in use" in refused.stderr
    over = run(world, "fallback", "tickets", "--to", "nothing")
    assert over.exit_code == 0 and "no longer stands in" in over.stdout
    now = folder.published("team/tickets")
    assert now is not None and now.fallback is None
