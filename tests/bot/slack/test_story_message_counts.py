"""How many messages a story makes: a card is edited in place from the question to its end; a result is sent once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.cards.evidence import evaluations
from demo.people import ANA, BEN
from demo.workspace import PostedMessage
from tests.bot.decisions.test_story_estimates import free_models_miss, share
from tests.bot.measurements import ACME, PRICES, until, until_asked
from tests.bot.props import tickets_csv
from tests.bot.world import DORA, PRIVATE, TARGET, Rules, World, words_of
from tests.cards.test_page import Reader

MOST_TOP_LEVEL = 10
MOST_IN_ALL = 18
REPORT, PLOTS = "report-run-1.html", "cumulative-cost.png"


def play_story(world: World, *, is_shared: bool) -> None:
    """From the upload to the result, with alternatives measured, and the estimate shared or not."""
    world.upload_and_check(tickets_csv(240))
    world.type("/finetune baseline tickets candidates=classical")
    until(world, "done")
    free_models_miss(world)
    world.type(f"/finetune baseline tickets {ACME} candidates=zero")
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
    """Those in the channel and the direct messages, without answers to commands."""
    directs = [
        message for person in (ANA, BEN, DORA) for message in world.slack.messages(world.slack.dm(person.id))
    ]
    return [*world.slack.messages(PRIVATE.id), *directs]


def is_top_level(message: PostedMessage) -> bool:
    return message.thread_ts in (None, message.ts)


def kind_of(world: World, message: PostedMessage) -> str:
    """The name of the message's newest file or card, or 'direct message'."""
    cards = {row["ts"]: row["name"] for row in world.store.database.rows("SELECT name, ts FROM cards")}
    if message.files:
        return message.files[-1].name
    return cards.get(message.ts) or ("direct message" if message.channel != PRIVATE.id else "other")


@pytest.mark.deep
@pytest.mark.parametrize("is_shared", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_few_messages_are_sent_from_upload_to_result(
    make_world: Callable[[Rules], World], is_shared: bool
) -> None:
    world = make_world(Rules(more=PRICES))
    play_story(world, is_shared=is_shared)
    check_number(world, is_shared=is_shared)
    check_links(world)
    check_report(world)


def check_number(world: World, *, is_shared: bool) -> None:
    posted = messages(world)
    listing = "\n".join(
        f"{'' if is_top_level(message) else '    '}{kind_of(world, message)}: {words_of(message)[:90]!r}"
        for message in posted
    )
    top_level = [message for message in posted if is_top_level(message)]
    assert len(top_level) <= MOST_TOP_LEVEL, listing
    assert len(posted) <= MOST_IN_ALL, listing
    kinds = [kind_of(world, message) for message in top_level]
    shared = ["estimate 1"] if is_shared else []
    measured = [f"measurement {number}" for number in (1, 2, 3)]
    assert sorted(kinds) == sorted(
        ["dataset 1", *measured, *shared, "plan 1", "result 1", "direct message"]
    ), listing


def check_links(world: World) -> None:
    """The run's card and its result link to each other."""
    (run,), (result,) = of_kind(world, "plan 1"), of_kind(world, "result 1")
    assert f"/p{result.ts.replace('.', '')}|a message below>" in words_of(run)
    assert f"/p{run.ts.replace('.', '')}|Run 1>" in words_of(result)
    (notice,) = of_kind(world, "direct message")
    assert f"/p{run.ts.replace('.', '')}|run 1>" in notice.text


def check_report(world: World) -> None:
    """The report is in the result's thread, a page without links to other files."""
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
