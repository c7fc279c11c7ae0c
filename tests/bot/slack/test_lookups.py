"""Look-ups in Slack stay within its limits, and lists are drawn from the answers of the last minutes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY
from slack_sdk import WebClient

from bot.slack.limits import CALLS_A_MINUTE, LookUpLimits
from bot.slack.recent_answers import FRESH_S, USABLE_S, RecentAnswers
from bot.slack.users import SlackDirectory
from demo.people import ANA, BEN, TICKETS
from demo.slack_emulator import SlackEmulator, refused


class Steady:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def slack() -> Iterator[SlackEmulator]:
    with SlackEmulator() as slack:
        yield slack


@pytest.fixture
def steady() -> Steady:
    return Steady()


@pytest.fixture
def limits(steady: Steady) -> LookUpLimits:
    return LookUpLimits(steady)


@pytest.fixture
def directory(slack: SlackEmulator, limits: LookUpLimits) -> SlackDirectory:
    client = WebClient(slack.access.bot_token, base_url=slack.access.api_url, retry_handlers=[])
    return SlackDirectory(client, client.auth_test(), limits)


@pytest.fixture
def recent(directory: SlackDirectory, steady: Steady) -> RecentAnswers:
    return RecentAnswers(directory, steady)


def count_refused(method: str) -> float:
    """Counts from the process' start, so tests compare two of its values."""
    return REGISTRY.get_sample_value("finetune_slack_lookups_refused_total", {"method": method}) or 0.0


def test_no_more_calls_are_made_in_a_minute_than_slack_answers(steady: Steady, limits: LookUpLimits) -> None:
    method = "conversations.info"
    n_refused = count_refused(method)
    assert all(limits.take(method, reserve=0.2) for _ in range(40))
    assert not limits.take(method, reserve=0.2), "the rest is for those who act"
    assert all(limits.take(method) for _ in range(10))
    assert not limits.take(method) and count_refused(method) == n_refused + 2
    steady.seconds += 60
    assert limits.take(method, reserve=0.2)
    assert sum(CALLS_A_MINUTE.values()) == 270, "by Slack's tiers"


def test_slack_is_not_asked_again_before_the_time_that_it_names(
    slack: SlackEmulator, directory: SlackDirectory, steady: Steady
) -> None:
    slack.limit_calls({"conversations.info": 1})
    assert directory.is_private(TICKETS.id) is True
    assert directory.is_private(TICKETS.id) is None and slack.calls()[-1].status == 429
    n_calls = len(slack.calls())
    assert directory.is_private(TICKETS.id) is None and directory.person(ANA.id), "each method on its own"
    assert [call.method for call in slack.calls()[n_calls:]] == ["users.info"]
    slack.limit_calls({})
    steady.seconds += 60
    assert directory.is_private(TICKETS.id) is True


def test_an_answer_is_remembered_for_minutes_or_until_slack_says_that_it_changed(
    slack: SlackEmulator, recent: RecentAnswers, steady: Steady
) -> None:
    for _ in range(20):
        assert recent.is_private(TICKETS.id) is True and recent.is_shared(TICKETS.id) is False
        assert recent.is_member(ANA.id, TICKETS.id) and recent.is_member(BEN.id, TICKETS.id)
    counts = [len(slack.calls(method)) for method in ("conversations.info", "conversations.members")]
    assert counts == [1, 1]
    slack.make_public(TICKETS.id)
    recent.forget_channel(TICKETS.id)
    assert recent.is_private(TICKETS.id) is False
    slack.share(TICKETS.id)
    steady.seconds += FRESH_S
    assert recent.is_shared(TICKETS.id) is True


class LateClient(WebClient):
    """A client whose answers about channels arrive only once the test lets them."""

    def __init__(self, slack: SlackEmulator) -> None:
        super().__init__(slack.access.bot_token, base_url=slack.access.api_url, retry_handlers=[])
        self.has_answered = threading.Event()
        self.may_arrive = threading.Event()

    def conversations_info(self, **arguments: Any) -> Any:
        answer = super().conversations_info(**arguments)
        self.has_answered.set()
        assert self.may_arrive.wait(30)
        return answer


def test_an_answer_that_arrives_after_a_change_is_not_remembered(
    slack: SlackEmulator, steady: Steady, limits: LookUpLimits
) -> None:
    client = LateClient(slack)
    recent = RecentAnswers(SlackDirectory(client, client.auth_test(), limits), steady)
    asks = threading.Thread(target=recent.is_shared, args=(TICKETS.id,))
    asks.start()
    assert client.has_answered.wait(30)
    slack.share(TICKETS.id)
    forgets = threading.Thread(target=recent.forget_channel, args=(TICKETS.id,))
    forgets.start()
    forgets.join(0.2)
    client.may_arrive.set()
    for thread in (asks, forgets):
        thread.join(30)
    assert recent.is_shared(TICKETS.id) is True


def test_nobody_knows_whether_a_channel_without_the_bot_is_shared(
    directory: SlackDirectory, recent: RecentAnswers
) -> None:
    unseen = "C0UNSEEN"  # Slack says of a private channel without the bot that there is none
    for answers in (directory, recent):
        assert answers.is_shared(unseen) is None and answers.takes_posts(unseen) is False
    assert recent.is_member(ANA.id, unseen) is False, "she can't show that she is in it"


def test_an_old_answer_serves_only_while_slack_gives_none(
    slack: SlackEmulator, recent: RecentAnswers, steady: Steady
) -> None:
    assert recent.is_private(TICKETS.id) is True
    slack.fail("conversations.info", refused("internal_error"), times=None)
    steady.seconds += FRESH_S
    assert recent.is_private(TICKETS.id) is True
    steady.seconds += USABLE_S
    assert recent.is_private(TICKETS.id) is None
