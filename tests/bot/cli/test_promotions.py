"""`finetune promote`, `rollback` and `wrong`: what takes one person in Slack, while the bot is stopped."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from bot.cli import main
from tests.bot.measurements import PRICES
from tests.bot.models.test_story_use_candidate import answer_right, seed_measured, set_bar
from tests.bot.world import MakeWorld, Rules, World
from trainers.recipes.folder import RecipeFolder


def run(world: World, *arguments: str) -> Result:
    environment = {"FINETUNE_CONFIG": str(world.folder / "finetune.toml")}
    return CliRunner().invoke(main, arguments, env=environment)


@pytest.mark.deep
def test_the_terminal_deploys_what_the_evidence_supports_and_undoes_it(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.provider.service.answer = answer_right
    seed_measured(world)
    running = run(world, "promote", "tickets", "classical")
    assert running.exit_code == 2 and "While the bot runs" in running.stderr
    set_bar(world, 0.999)
    folder = RecipeFolder(world.service.settings.recipes)
    world.stop()

    listed = run(world, "promote", "tickets")
    assert listed.exit_code == 2 and "/finetune promote tickets classical" in listed.stderr
    refused = run(world, "promote", "tickets", "classical")
    assert refused.exit_code == 2 and "bar of 99.9%" in refused.stderr
    world.boot()
    set_bar(world, 0.5)
    world.stop()

    done = run(world, "promote", "tickets", "classical")
    assert done.exit_code == 0, done.stderr
    assert "The classical model is in use for tickets. Programs that call team/tickets" in done.stdout
    published = folder.published("team/tickets")
    assert published is not None and published.recipe is not None
    assert run(world, "current", "tickets").stdout == "team/tickets\n"
    text = run(world, "models").stdout
    assert "tickets: the classical model; programs call team/tickets" in text
    assert "Programs can't call it" in text, "[serving] has no address here"
    (used,) = json.loads(run(world, "models", "--json").stdout)
    assert (used["name"], used["candidate"], used["model"]) == ("team/tickets", "classical", None)
    assert used["answers"] is False and used["unanswered"] is None
    folder.withdraw("team/tickets")
    assert "team/tickets get no answer: it is not published yet." in run(world, "models").stdout
    over = run(world, "rollback", "tickets", "--because", "it answers in French")
    assert "Nothing is in use for tickets any more" in over.stdout
    published = folder.published("team/tickets")
    assert published is not None and published.unavailable is not None

    world.boot()
    world.send()
    world.find_message(
        "The classical model was in use", "The operator, in the terminal, deployed it", "in French"
    )


@pytest.mark.deep
def test_the_terminal_shows_wrong_rows_and_records_that_they_were_read(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.provider.service.answer = lambda model, messages: "billing"
    seed_measured(world)
    offer = run(world, "wrong", "m1")
    assert offer.exit_code == 0, offer.output
    assert "finetune wrong m1 --training shows them" in offer.stdout
    assert "Once somebody has read them, they count as wrong" in offer.stdout
    (line,) = [line for line in offer.stdout.splitlines() if "acme/acme-small" in line]
    number = line.partition(".")[0]
    training = run(world, "wrong", "m1", "--training")
    assert "No held-out row was read" in training.stdout, training.output
    unclear = run(world, "wrong", "m1", "--from", "9")
    assert unclear.exit_code == 2 and "--from needs --training or --held-out" in unclear.stderr
    held_out = ("wrong", "m1", "--held-out", number)
    running = run(world, *held_out, "--yes")
    assert running.exit_code == 2 and "/finetune wrong in Slack does the same" in running.stderr
    world.stop()

    unsure = run(world, *held_out)
    assert unsure.exit_code == 1 and "From then on they count as wrong" in unsure.output
    assert "expected" not in unsure.output
    shown = run(world, *held_out, "--yes", "--from", "2")
    assert shown.exit_code == 0, shown.output
    assert "expected refund, answered billing" in shown.stdout and "2 to 9 of " in shown.stdout
    assert f"finetune wrong m1 --held-out {number} --from 10 shows more of them." in shown.stdout
    world.boot()
    (read,) = world.store.shown_rows.on([1])
    assert read.person == "terminal" and len(read.places) == 8
    (entry,) = [entry for entry in world.store.audit.entries("measurement 1") if "read wrong" in entry.action]
    assert (entry.who, entry.detail[:21]) == ("terminal", "8 held-out rows of ti")
