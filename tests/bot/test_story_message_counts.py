"""How many messages a story makes: a card is edited in place from the question to its end, and a result is told
once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.cards import evaluations
from demo.people import ANA, BEN
from demo.workspace import PostedMessage
from tests.bot.props import tickets_csv
from tests.bot.test_story_estimates import free_models_miss, share
from tests.bot.test_story_ladder import ACME, PRICES, until, until_asked
from tests.bot.world import DORA, PRIVATE, TARGET, Rules, World, words_of
from tests.cards.test_page import Reader

MOST_AT_THE_TOP = 10
MOST_IN_ALL = 18
REPORT, PLOTS = "report-run-1.html", "cumulative-cost.png"


def play(world: World, *, is_shared: bool) -> None:
    """From the upload to the result, with the cheaper ways measured and the estimate shared or not."""
    world.upload_and_check(tickets_csv(240))
    world.type("/finetune baseline tickets rungs=classical,encoder")
    until(world, "done")
    free_models_miss(world)
    world.type(f"/finetune baseline tickets {ACME} rungs=zero")
    until_asked(world, 2)
    world.click(BEN, evaluations.MEASURE)
    until(world, "done", 2)
    world.type("/finetune curve tickets")
    until(world, "done", 3)
    world.type(f"/finetune estimate tickets current=gpt-4o volume=100M target={TARGET}")
    if is_shared:
        share(world)
    world.start()
    world.tick_until(lambda: len(of_kind(world, PLOTS)) == 1 + is_shared, "the plan's plots")
    world.approve()
    world.tick_until_state("done")
    world.tick_until(lambda: of_kind(world, REPORT), "the report of the run")


def of_kind(world: World, kind: str) -> list[PostedMessage]:
    return [message for message in messages(world) if kind_of(world, message) == kind]


def messages(world: World) -> list[PostedMessage]:
    """In the channel and to people alone, what answers a command aside."""
    directs = [
        message for person in (ANA, BEN, DORA) for message in world.slack.messages(world.slack.dm(person.id))
    ]
    return [*world.slack.messages(PRIVATE.id), *directs]


def is_at_the_top(message: PostedMessage) -> bool:
    return message.thread_ts in (None, message.ts)


def kind_of(world: World, message: PostedMessage) -> str:
    """A card's name, or what its newest file is named, or that it is told to a person."""
    cards = {row["ts"]: row["name"] for row in world.store.database.rows("SELECT name, ts FROM cards")}
    if message.files:
        return message.files[-1].name
    return cards.get(message.ts) or ("told directly" if message.channel != PRIVATE.id else "other")


@pytest.mark.parametrize("is_shared", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_from_upload_to_result_takes_few_messages(
    make_world: Callable[[Rules], World], is_shared: bool
) -> None:
    world = make_world(Rules(more=PRICES))
    play(world, is_shared=is_shared)
    check_number(world, is_shared=is_shared)
    check_links(world)
    check_report(world)


def check_number(world: World, *, is_shared: bool) -> None:
    everything = messages(world)
    listing = "\n".join(
        f"{'' if is_at_the_top(message) else '    '}{kind_of(world, message)}: {words_of(message)[:90]!r}"
        for message in everything
    )
    at_the_top = [message for message in everything if is_at_the_top(message)]
    assert len(at_the_top) <= MOST_AT_THE_TOP, listing
    assert len(everything) <= MOST_IN_ALL, listing
    kinds = [kind_of(world, message) for message in at_the_top]
    shared = ["estimate 1"] if is_shared else []
    measured = [f"measurement {number}" for number in (1, 2, 3)]
    assert sorted(kinds) == sorted(
        ["dataset 1", *measured, *shared, "plan 1", "result 1", "told directly"]
    ), listing


def check_links(world: World) -> None:
    """The run and its result."""
    (run,), (result,) = of_kind(world, "plan 1"), of_kind(world, "result 1")
    assert f"/p{result.ts.replace('.', '')}|a message below>" in words_of(run)
    assert f"/p{run.ts.replace('.', '')}|Run 1>" in words_of(result)
    (told,) = of_kind(world, "told directly")
    assert f"/p{run.ts.replace('.', '')}|run 1>" in told.text


def check_report(world: World) -> None:
    """It stands in the result's thread and opens as one page of its own."""
    (message,) = of_kind(world, REPORT)
    (result,) = of_kind(world, "result 1")
    assert message.thread_ts == result.ts and f"<@{ANA.id}>" in message.text
    assert [file.name for file in message.files] == ["loss.png", "quality.png", "report-run-1.html"]
    page = world.read_file("report-run-1.html")
    reader = Reader(page)
    assert not reader.open and "Right" in reader.text
    assert BEN.real_name in reader.text and ANA.id not in reader.text
    links = [value for _, values in reader.tags for name, value in values.items() if name in ("src", "href")]
    assert links and all(str(link).startswith("data:image/png") for link in links)
