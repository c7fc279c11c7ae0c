"""Live answers are shown to be worse than measured: the card of a week says so, with a button that plans a training, or
asks for a measurement; nothing starts by itself."""

from __future__ import annotations

import pytest

from bot.cards.monitoring import weeks
from bot.rules.monitoring.proposals import choose_lines
from bot.rules.monitoring.repetitions import repetition_reason
from bot.rules.plans import plan_from_json
from demo.people import ANA, BEN
from storage.monitoring.watches import LiveLabel
from tests.bot.measurements import PRICES, measurement
from tests.bot.models.test_story_promote import seed_promoted
from tests.bot.models.test_story_use_candidate import answer_right
from tests.bot.monitoring.test_story_watch import count_calls, deploy_prompt, pass_week, promotion
from tests.bot.props import tickets_csv
from tests.bot.world import DORA, GUS, MakeWorld, Rules, World


def label_all_wrong(world: World) -> None:
    """Two weeks of 20 labels each say that the answers are wrong."""
    for week in range(2):
        standing = promotion(world)
        for number in range(20):
            call = f"c-{week}-{number}"
            label = LiveLabel(
                "tickets", call, str(standing.recipe), world.clock, ANA.id, "refund", False, world.clock
            )
            world.store.live_labels.add(label)
        count_calls(world, 100)
        pass_week(world)


def week_card(world: World) -> str:
    return world.find_message("tickets last week:")


@pytest.mark.deep
def test_a_prompt_that_got_worse_is_measured_again_on_newer_rows(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.provider.service.answer = answer_right
    deploy_prompt(world)
    world.type("/finetune watch tickets sample=100%", user=DORA)
    label_all_wrong(world)
    assert "answers are worse than measured, but no row was added since" in week_card(world)
    assert not world.has_button(weeks.MEASURE_AGAIN)
    world.upload_and_check(tickets_csv(120))
    count_calls(world, 100)
    pass_week(world)
    assert "and the dataset has 30 more rows by now" in week_card(world)
    assert world.store.measurements.get(2) is None, "nothing starts by itself"
    assert "guest" in world.click_and_read(GUS, weeks.MEASURE_AGAIN)
    world.click(ANA, weeks.MEASURE_AGAIN)
    again = measurement(world, 2)
    newest = world.store.datasets.newest("tickets")
    assert (again.dataset_id, again.state) == (newest.id, "asked") and '"zero"' in again.plan


@pytest.mark.deep
def test_a_tuned_model_that_got_worse_gets_a_plan_that_others_approve(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    seed_promoted(world)
    world.tick_until(lambda: world.store.promotions.current("tickets").recipe, "the model's recipe")
    world.type("/finetune watch tickets sample=100%", user=DORA)
    label_all_wrong(world)
    assert "*Train again?* tickets-1: answers are worse than measured" in week_card(world)
    runs = len(world.store.runs.newest())
    world.click(BEN, weeks.PLAN_AGAIN)
    planned = world.newest_run()
    assert len(world.store.runs.newest()) == runs + 1
    assert (planned.state, planned.requester) == ("awaiting_approval", BEN.id)
    again = plan_from_json(planned.plan).again
    assert again is not None and again.run == 1


@pytest.mark.parametrize(
    ("is_worse", "is_changed", "new_rows", "reason"),
    [
        (False, False, 500, None),
        (False, True, 99, None),
        (False, True, 100, "changed"),
        (True, True, 0, "worse"),
    ],
)
def test_a_repetition_has_a_reason(
    is_worse: bool, is_changed: bool, new_rows: int, reason: str | None
) -> None:
    assert repetition_reason(is_worse=is_worse, is_changed=is_changed, new_rows=new_rows) == reason


def test_six_lines_are_shown_the_most_important_first() -> None:
    lines = choose_lines(["sample", "feedback", "new", "ending", "shift", "live", "failed", "again"])
    assert lines == {"failed", "live", "again", "shift", "ending", "new"}
    assert choose_lines(["sample"]) == {"sample"}
