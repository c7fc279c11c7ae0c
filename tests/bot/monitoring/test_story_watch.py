"""What is in use is watched: somebody who decides about the rows agrees that calls are sampled, a card says on Monday
how the week was, people label calls at random, and everything goes with the dataset."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bot.cards.monitoring import live_labels, watches, weeks
from bot.reconciler import maintain
from bot.services.monitoring import weeks as week_services
from bot.values.monitoring import WeekFacts
from demo.people import ANA, BEN
from storage.monitoring.watches import Watch
from storage.promotions import Promotion
from tests.bot.cli_runner import finetune, finetune_json
from tests.bot.datasets.test_story_deletion import delete_and_wait
from tests.bot.decisions.test_story_unreachable_approvers import home
from tests.bot.measurements import PRICES, measure
from tests.bot.models.test_story_use_candidate import answer_right
from tests.bot.props import tickets_csv
from tests.bot.saved_worlds import reached_once
from tests.bot.world import DORA, GUS, PUBLIC, MakeWorld, Rules, World
from tests.patience import wait_until
from trainers.recipes import samples, usage
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.samples import SampledCall
from trainers.recipes.usage import Usage, UsageKey
from trainers.recipes.values import Published, Sampling

DAY_S = 86_400.0
LINE = "/finetune baseline tickets candidates=classical,zero models=acme/acme-small"
ALIAS = "team/tickets"


@reached_once
def deploy_prompt(world: World) -> None:
    """A prompt is in use."""
    world.upload_and_check(tickets_csv(90))
    measure(world, LINE)
    assert world.type("/finetune promote tickets zero", user=BEN) == ""
    world.tick_until(lambda: published(world) is not None, "the prompt's recipe")


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    world = make_world(Rules(more=PRICES))
    world.provider.service.answer = answer_right
    deploy_prompt(world)
    return world


def published(world: World) -> Published | None:
    return RecipeFolder(world.service.settings.recipes).published(ALIAS)


def sampling(world: World) -> Sampling | None:
    world.tick()
    now = published(world)
    return now.sampling if now else None


def current(world: World) -> Watch | None:
    watch: Watch | None = world.store.watches.current("tickets")
    return watch


def promotion(world: World) -> Promotion:
    standing = world.store.promotions.current("tickets")
    assert standing is not None and standing.recipe is not None
    return standing


def count_calls(world: World, calls: int, *, failed: int = 0) -> None:
    """The door counts calls today, each of 100 tokens and 10 more in its answer."""
    standing = promotion(world)
    day = datetime.fromtimestamp(world.clock, UTC).date().isoformat()
    key = UsageKey(standing.id, str(standing.recipe), day)
    use = Usage(calls, failed, 100 * (calls - failed), 0, 10 * (calls - failed))
    usage.add(world.service.settings.recipes, {key: use})


def sample_calls(world: World, questions: list[str], answer: str = "refund") -> None:
    """The door has sampled these calls in the last hour."""
    world.pass_time(3_600)
    standing = promotion(world)
    calls = []
    for number, question in enumerate(questions):
        call = SampledCall(
            id=f"{world.clock:.0f}-{number}",
            name=ALIAS,
            promotion=standing.id,
            recipe=str(standing.recipe),
            at=world.clock - number,
            messages=f'[{{"role": "system", "content": "Be brief."}}, {{"role": "user", "content": "{question}"}}]',
            answer=answer,
            prompt_tokens=100,
            completion_tokens=10,
            is_masked=False,
            fallback_from=None,
            conversation=f"{world.clock:.0f}-{number}",
        )
        calls.append(call)
    samples.add(world.service.settings.recipes, calls)


def monday_of(world: World) -> str:
    day = datetime.fromtimestamp(world.clock, UTC).date()
    return f"{day - timedelta(days=day.weekday())}"


def pass_week(world: World) -> None:
    """Next Monday, a little after nine."""
    here = datetime.fromtimestamp(world.clock, UTC)
    monday = (here - timedelta(days=here.weekday())).replace(hour=9, minute=1, second=0) + timedelta(days=7)
    world.pass_time(monday.timestamp() - world.clock)
    stored = lambda: world.store.watched_weeks.of("tickets")  # noqa: E731
    before = len(stored())
    world.tick_until(lambda: len(stored()) > before, "the week to be counted")
    world.send()


def test_those_who_decide_about_the_rows_are_asked_before_calls_are_sampled(world: World) -> None:
    reply = world.type("/finetune watch tickets sample=5%", user=ANA)
    assert "5% of the calls are sampled once somebody who decides about its rows agrees" in reply
    assert sampling(world) is None
    world.send()
    card = world.find_message("May calls to team/tickets be sampled?")
    assert f"<@{ANA.id}> wants 5%" in card and f"<@{DORA.id}>, who uploaded its rows" in card
    assert "Only" in world.click_and_read(ANA, watches.CONSENT), "who asks does not agree for others"
    world.click(DORA, watches.CONSENT)
    assert sampling(world) == Sampling(0.05, "mask")
    watch = current(world)
    assert watch is not None and (watch.consented_by, watch.person) == (DORA.id, ANA.id)
    world.send()
    world.find_message(f"<@{DORA.id}> agreed that 5% of the calls")
    assert not world.has_button(watches.CONSENT)
    actions = [entry.action for entry in world.store.audit.entries()]
    assert actions[-2:] == ["watch", "agree to sampling"]


def test_a_smaller_share_stays_agreed_and_a_larger_one_deletes_nothing_while_it_is_asked_for(
    world: World,
) -> None:
    world.type("/finetune watch tickets sample=20%", user=DORA)
    sample_calls(world, ["a question that stays"])
    assert "5% of the calls are sampled from now on" in world.type(
        "/finetune watch tickets sample=5%", user=ANA
    )
    watch = current(world)
    assert watch is not None and watch.consented_by == DORA.id and sampling(world) == Sampling(0.05, "mask")
    world.type("/finetune watch tickets sample=50%", user=ANA)
    assert sampling(world) is None, "nobody has agreed to half of the calls"
    maintain(world.service.context)
    assert samples.count(world.service.settings.recipes, ALIAS) == 1
    world.send()
    world.type("/finetune watch tickets to=nothing", user=ANA)
    world.tick()
    world.send()
    assert not world.has_button(watches.CONSENT), "the question is over with the watch"


def test_without_consent_only_counts_are_read(world: World) -> None:
    world.type("/finetune watch tickets sample=5%", user=ANA)
    world.send()
    world.click(DORA, watches.REFUSE)
    watch = current(world)
    assert watch is not None and watch.share == 0 and sampling(world) is None
    count_calls(world, 12)
    pass_week(world)
    assert "No call is sampled" in world.find_message("tickets last week: 12 calls")


def test_the_form_begins_a_watch_with_the_uploaders_own_consent(world: World) -> None:
    world.type("/finetune watch tickets", user=DORA)
    assert "Calls to sample at random" in world.read_form(DORA)
    assert world.slack.submit_modal(DORA.id, {"share": "0.2"}).accepted
    world.tick()
    world.send()
    assert sampling(world) == Sampling(0.2, "mask")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("/finetune watch tickets sample=many", "should be the share of the calls to sample"),
        ("/finetune watch tickets to=nothing", "isn't watched"),
        ("/finetune watch other", "other"),
    ],
)
def test_what_can_t_be_watched_is_refused(world: World, line: str, why: str) -> None:
    assert why in world.type(line)
    assert current(world) is None


def test_guests_may_not_watch(world: World) -> None:
    assert "is a guest" in world.type("/finetune watch tickets sample=5%", user=GUS, channel=PUBLIC)
    assert current(world) is None


@pytest.mark.deep
def test_the_policy_limits_who_is_watched_and_how_much(make_world: MakeWorld) -> None:
    limits = "[policy.watch]\nsample_percent = 10\ndays = 7\npersonal = 'drop'\n"
    world = make_world(Rules(more=f"{limits}{PRICES}"))
    world.provider.service.answer = answer_right
    deploy_prompt(world)
    assert "at most 10% of the calls may be sampled" in world.type(
        "/finetune watch tickets sample=20%", user=DORA
    )
    world.type("/finetune watch tickets sample=10%", user=DORA)
    assert sampling(world) == Sampling(0.1, "drop")
    sample_calls(world, ["an old question", "another"])
    world.pass_time(8 * DAY_S)
    maintain(world.service.context)
    assert samples.count(world.service.settings.recipes, ALIAS) == 0


def test_the_card_of_a_week_is_posted_once_on_monday_at_nine(world: World) -> None:
    world.type("/finetune watch tickets sample=0", user=DORA)
    assert "No program has called `team/tickets` this week" in world.type("/finetune watch tickets")
    first = monday_of(world)
    count_calls(world, 100, failed=3)
    so_far = world.type("/finetune watch tickets")
    assert "tickets this week so far: 100 calls for" in so_far and "*Failed*: 3 of 100 calls" in so_far
    pass_week(world)
    card = world.find_message("tickets last week: 100 calls for")
    assert [week.week for week in world.store.watched_weeks.of("tickets")] == [first]
    assert "*Failed*: 3 of 100 calls" in card
    messages = len(world.texts())
    world.restart()
    world.tick(3)
    world.send()
    assert len(world.texts()) == messages
    pass_week(world)
    assert len(world.texts()) == messages, "no traffic, no card"
    assert len(world.store.watched_weeks.of("tickets")) == 2


def test_a_channel_may_do_without_the_card_of_a_week(world: World) -> None:
    world.type("/finetune notify channel weekly=off", user=DORA)
    world.type("/finetune watch tickets sample=0", user=DORA)
    count_calls(world, 100)
    pass_week(world)
    assert not any("tickets last week" in text for text in world.texts())
    world.type("/finetune notify channel weekly=on", user=DORA)
    world.restart()
    world.tick(3)
    assert not any("tickets last week" in text for text in world.texts()), "only the next one"
    count_calls(world, 50)
    pass_week(world)
    assert world.find_message("tickets last week: 50 calls for")


@pytest.mark.deep
def test_the_home_and_the_terminal_show_a_watched_week(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Watched" not in home(world, ANA), "nothing is watched"
    world.type("/finetune watch tickets sample=100%", user=DORA)
    sample_calls(world, [f"call {number} about a refund" for number in range(30)])
    count_calls(world, 30)
    pass_week(world)
    shown = home(world, ANA)
    assert "Watched" in shown and "30 calls for" in shown and "20 calls to label" in shown
    assert "|Open>" in shown, "the line leads to the week's card"
    assert "Watched" not in home(world, GUS), "who may not see the dataset sees no line about it"
    count_calls(world, 7)
    monkeypatch.setenv("FINETUNE_CONFIG", str(world.folder / "finetune.toml"))
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: world.clock)
        printed = finetune("watch", "Tickets")
    assert printed.exit_code == 0, printed.stderr
    assert printed.stdout.startswith("tickets this week so far: 7 calls")
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: world.clock)
        assert finetune_json("watch", "tickets")["uses"][0]["calls"] == 7
    other = finetune("watch", "other")
    assert other.exit_code == 1 and "other isn't watched" in other.stderr


@pytest.mark.deep
def test_people_label_calls_at_random_before_they_see_the_answer(world: World) -> None:
    world.type("/finetune watch tickets sample=100%", user=DORA)
    sample_calls(world, [f"call {number} about a refund" for number in range(30)])
    count_calls(world, 30)
    pass_week(world)
    assert "*Live*: no call is labelled yet" in world.find_message("tickets last week: 30 calls")
    world.click(ANA, weeks.LABEL)
    form = world.read_form(ANA)
    assert "about a refund" in form and "The answer" not in form and "Be brief" not in form
    right = 0
    for number in range(20):
        right += choose(world, "refund" if number % 4 else "billing")
    assert "No more calls of `tickets` wait for a label" in world.read_form(ANA)
    world.slack.close_modal(ANA.id)
    world.tick()
    world.send()
    card = world.find_message("tickets last week: 30 calls")
    assert f"*Live*: {right / 20:.1%} right" in card and "of 20 random calls with labels" in card
    labels = world.store.live_labels.of("tickets")
    assert len({label.call for label in labels}) == 20
    details = [entry.detail for entry in world.store.audit.entries() if entry.action == "label call"]
    assert len(details) == 20 and not any("refund" in detail for detail in details)
    assert not world.has_button(weeks.LABEL)


def choose(world: World, label: str, answer: str = "refund") -> bool:
    """Chooses a label in Ana's form. Returns whether the sampled `answer` was that."""
    before = world.read_form(ANA)
    form = world.slack.view(ANA.id)
    assert form is not None
    options = [option for block in form.blocks for option in block.get("accessory", {}).get("options", ())]
    value = next(option["value"] for option in options if option["text"]["text"] == label)
    world.slack.press(ANA.id, live_labels.CHOOSE, value=value)
    wait_until(lambda: world.read_form(ANA) != before, "the next call")
    return f"“{answer}”: right" in world.read_form(ANA)


@pytest.mark.deep
def test_a_label_is_that_of_the_version_whose_labels_the_form_shows(world: World) -> None:
    world.type("/finetune watch tickets sample=100%", user=DORA)
    sample_calls(world, ["where is my money, a refund please"])
    count_calls(world, 1)
    pass_week(world)
    world.click(ANA, weeks.LABEL)
    other = tickets_csv(90).replace(",billing", ",another")  # so that other labels come first
    world.upload_and_check(other)
    assert choose(world, "refund")
    (label,) = world.store.live_labels.of("tickets")
    assert (label.label, label.is_right) == ("refund", True)


def test_one_dataset_s_failure_holds_up_no_other_card(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.type("/finetune watch tickets sample=0", user=DORA)
    count_calls(world, 5)
    fine = week_services.count_week
    broken = [True]

    def count_week(*arguments: Any) -> WeekFacts:
        if broken:
            raise KeyError("a fault")
        return fine(*arguments)

    monkeypatch.setattr(week_services, "count_week", count_week)
    here = datetime.fromtimestamp(world.clock, UTC)
    monday = (here + timedelta(days=7 - here.weekday())).replace(hour=9, minute=1)
    world.pass_time(monday.timestamp() - world.clock)
    world.tick(3)
    broken.clear()
    world.tick(3)
    assert not world.store.watched_weeks.of("tickets"), "it is tried again after some minutes"
    world.pass_time(week_services.AGAIN_S)
    world.tick(2)
    assert len(world.store.watched_weeks.of("tickets")) == 1


def test_ending_a_watch_deletes_the_sampled_calls(world: World) -> None:
    world.type("/finetune watch tickets sample=100%", user=DORA)
    sample_calls(world, ["a question that nobody should find again"])
    assert "The calls that were sampled are deleted within minutes" in world.type(
        "/finetune watch tickets to=nothing", user=DORA
    )
    assert sampling(world) is None
    maintain(world.service.context)
    content = (world.service.settings.recipes / samples.FILE).read_bytes()
    assert b"nobody should find again" not in content


@pytest.mark.deep
def test_a_deleted_dataset_leaves_no_sampled_call_and_no_label(world: World) -> None:
    world.type("/finetune watch tickets sample=100%", user=DORA)
    sample_calls(world, [f"call {number}, secretly about zanzibar" for number in range(3)])
    count_calls(world, 3)
    pass_week(world)
    assert list((world.service.settings.data / "watched").rglob("*.npz"))
    delete_and_wait(world, BEN)
    assert current(world) is None
    assert not list((world.service.settings.data / "watched").rglob("*.npz"))
    assert world.store.watched_weeks.of("tickets") == []
    for path in world.service.settings.data.rglob("*"):
        if path.is_file():
            assert b"zanzibar" not in path.read_bytes(), path.name


def test_monday_is_where_the_person_is() -> None:
    began = datetime(2026, 9, 16, tzinfo=UTC).timestamp()
    watch = Watch(1, "tickets", "U1", "C1", 0, "Pacific/Auckland", began, None, None, None, None)
    sunday = datetime(2026, 9, 20, 20, 59, tzinfo=UTC).timestamp()  # Monday, 8:59 in Auckland
    assert week_services.due_week(watch, sunday) is None
    week = week_services.due_week(watch, sunday + 60)
    assert week is not None and week.name == "2026-09-14"
