"""Questions to models in the background, over real HTTP: limits, hiccups and refusals; nothing is paid twice."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bot.llm_client import (
    MOST_TRIES,
    MOST_UNREADABLE,
    MOST_UNREADABLE_IN_A_ROW,
    Declined,
    LlmClient,
    Question,
    key_of,
)
from storage.records import CachedAnswer
from storage.store import Store
from tests.patience import wait_until
from tests.peers.hosted import BUSY, COMMIT_THEN_CUT, HANG, HTML, KEY, NOTHING_BUT_500, Fault, Hosted
from tests.peers.service import Service
from trainers.client.client import Trainer
from trainers.providers.providers import ProviderRow
from trainers.types import Message, Provider

CHAT = "POST /chat/completions"
EMPTY = Fault(
    commit=False, status=200, headers=(("Content-Type", "application/json"),), body=b'{"choices": []}'
)


@dataclass
class Client:
    """An LLM client with a clock that only tests move, and the provider that it asks."""

    store: Store
    provider: Hosted
    row: ProviderRow
    now: float = 1_000.0
    llm: LlmClient = field(init=False)
    trainers: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        trainer = self.trainers.enter_context(Trainer(self.row.provider, KEY))
        self.llm = LlmClient(self.store, {"acme": trainer}, (self.row,), lambda: self.now, lambda: self.now)

    def ask(self, questions: list[Question], owner: str = "m1") -> None:
        self.llm.ask(owner, "acme", questions)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.llm.wake()

    def answers(self, questions: list[Question]) -> int:
        """Returns how many of these questions have an answer."""
        return len(self.store.answers.read([question.key for question in questions]))

    def wait_for_answers(self, questions: list[Question], *, step: float = 1.0) -> None:
        """Waits until all are answered, while time passes in steps."""

        def all_answered() -> bool:
            self.pass_time(step)
            return self.answers(questions) == len(questions)

        wait_until(all_answered, "all answers")

    def requests(self) -> int:
        return self.provider.count(CHAT)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with open_client(tmp_path) as client:
        yield client


def row_at(url: str, *, callers: int = 4, a_minute: int | None = None) -> ProviderRow:
    provider = Provider("acme", url, "ACME_KEY", frozenset({"chat"}), 5.0)
    return ProviderRow(provider, "Acme", None, (), {}, callers, a_minute)


@contextmanager
def open_client(folder: Path, *, callers: int = 4, a_minute: int | None = None) -> Iterator[Client]:
    store = Store(folder / "finetune.db")
    with Hosted(Service(models=("small", "large"))) as provider:
        client = Client(store, provider, row_at(provider.url, callers=callers, a_minute=a_minute))
        yield client
        client.llm.close()
    client.trainers.close()
    wait_until(
        lambda: not [t for t in threading.enumerate() if t.name.startswith("asks acme")], "the threads"
    )
    store.close()


def questions(count: int, model: str = "small") -> list[Question]:
    return [
        Question(key_of(f"acme/{model}", messages, 24), f"acme/{model}", model, messages, 24)
        for messages in [(Message("user", f"question {number}"),) for number in range(count)]
    ]


def test_answers_are_stored_under_the_key_of_their_question(client: Client) -> None:
    batch = questions(10)
    client.ask(batch)
    client.wait_for_answers(batch)
    reply = client.store.answers.read([batch[3].key])[batch[3].key]
    assert (reply.model, reply.text) == ("acme/small", "small heard you")
    assert reply.prompt_tokens == 2 and reply.completion_tokens == 3 and reply.seconds > 0
    assert client.requests() == 10


def test_a_key_depends_on_model_messages_and_cap() -> None:
    messages = (Message("system", "a"), Message("user", "b"))
    others = [
        key_of("acme/large", messages, 24),
        key_of("acme/small", messages, 25),
        key_of("acme/small", messages[1:], 24),
        key_of("acme/small", (Message("user", "a"), Message("user", "b")), 24),
    ]
    assert key_of("acme/small", messages, 24) not in others and len(set(others)) == 4


def test_a_question_is_asked_once_however_often_it_is_requested(client: Client) -> None:
    batch = questions(12)
    client.provider.slow_s = 0.05
    for _ in range(20):
        client.ask(batch)
        client.ask(batch, owner="m2")
    client.wait_for_answers(batch)
    client.ask(batch)
    wait_until(lambda: client.llm.waiting("m1") == 0, "nothing to wait")
    assert client.requests() == 12


def test_no_more_questions_are_open_at_once_than_the_provider_has_callers(tmp_path: Path) -> None:
    with open_client(tmp_path, callers=3) as client:
        client.provider.slow_s = 0.4
        client.ask(questions(12))
        wait_until(lambda: client.requests() == 3, "all callers at work")
        time.sleep(0.2)
        assert client.requests() == 3
        client.provider.slow_s = 0.0
        client.wait_for_answers(questions(12))


def test_no_more_questions_are_asked_a_minute_than_the_limit(tmp_path: Path) -> None:
    with open_client(tmp_path, a_minute=12) as client:
        batch = questions(8)
        client.ask(batch)
        wait_until(lambda: client.answers(batch) == 2, "the first ones")  # ten seconds' worth
        time.sleep(0.2)
        assert client.requests() == 2
        client.pass_time(5)
        wait_until(lambda: client.answers(batch) == 3, "the next one")
        time.sleep(0.1)
        assert client.requests() == 3
        client.wait_for_answers(batch)


def test_a_retry_after_that_is_over_does_not_end_the_pause(client: Client) -> None:
    batch = questions(20)
    over = Fault(commit=False, status=429, headers=(("Retry-After", "0"),))
    client.provider.fail(CHAT, over, times=999)
    client.ask(batch)
    wait_until(lambda: client.llm.trouble("acme"), "the trouble")
    time.sleep(0.3)
    assert client.requests() <= 4 and "again later" in str(client.llm.trouble("acme"))


def test_retry_after_pauses_the_provider_for_an_hour(client: Client) -> None:
    batch = questions(20)
    hour = Fault(commit=False, status=429, headers=(("Retry-After", "3600"),))
    client.provider.fail(CHAT, hour, times=99)
    client.ask(batch)
    wait_until(lambda: client.llm.trouble("acme"), "the trouble")
    time.sleep(0.2)
    before = client.requests()
    assert before <= 4 and "in 3600 s" in str(client.llm.trouble("acme"))
    client.pass_time(3590)
    time.sleep(0.2)
    assert client.requests() == before
    client.provider.forgive(CHAT)
    client.now += 20
    client.wait_for_answers(batch)
    assert client.llm.trouble("acme") is None and client.llm.collect("m1") == []
    assert client.requests() == before + 20


def test_a_rate_limit_without_a_time_never_costs_a_row(client: Client) -> None:
    batch = questions(3)
    client.provider.fail(CHAT, Fault(commit=False, status=429), times=5 * MOST_TRIES)
    client.ask(batch)
    client.wait_for_answers(batch, step=70)
    assert client.llm.collect("m1") == []


@pytest.mark.parametrize("fault", [NOTHING_BUT_500, COMMIT_THEN_CUT, HTML, EMPTY, BUSY], ids=str)
def test_a_question_is_asked_again_after_a_hiccup(client: Client, fault: Fault) -> None:
    batch = questions(6)
    client.provider.fail(CHAT, fault, times=2)
    client.ask(batch)
    client.wait_for_answers(batch)
    assert client.requests() == 8 and client.llm.collect("m1") == []


@pytest.mark.parametrize(
    ("fault", "is_lost"),
    [
        (COMMIT_THEN_CUT, True),
        (HTML, True),
        (Fault(commit=True, status=504), True),
        (NOTHING_BUT_500, False),
        (BUSY, False),
    ],
    ids=str,
)
def test_a_lost_answer_counts_if_it_may_be_billed(client: Client, fault: Fault, is_lost: bool) -> None:
    batch = questions(3)
    client.provider.fail(CHAT, fault, times=2)
    client.ask(batch)
    client.wait_for_answers(batch)
    lost = client.store.sent_questions.lost("m1")
    assert [tokens.answers for tokens in lost.values()] == ([2] if is_lost else [])


def test_a_question_that_reaches_nobody_is_not_billed(tmp_path: Path) -> None:
    store = Store(tmp_path / "finetune.db")
    row = row_at("http://127.0.0.1:9/v1")
    llm = LlmClient(store, {"acme": Trainer(row.provider, KEY)}, (row,), time.time)
    llm.ask("m1", "acme", questions(1))
    wait_until(lambda: llm.trouble("acme"), "the refused connection")
    llm.close()
    assert not store.sent_questions.lost("m1") and not store.database.rows("SELECT * FROM sent_questions")
    store.close()


def test_an_outage_pauses_all_questions_and_gives_up_none(client: Client) -> None:
    batch = questions(30)
    client.provider.fail(CHAT, NOTHING_BUT_500, times=200)
    client.ask(batch)
    wait_until(lambda: client.requests() >= 5, "the first failures")
    time.sleep(0.3)
    assert client.requests() < 30
    for _ in range(20):
        client.pass_time(61)
        time.sleep(0.02)
    assert client.llm.collect("m1") == [] and client.answers(batch) == 0
    client.provider.forgive(CHAT)
    client.wait_for_answers(batch, step=61)


@pytest.mark.parametrize(
    ("fault", "tries", "reason"),
    [(NOTHING_BUT_500, MOST_TRIES, "HTTP 500"), (EMPTY, MOST_UNREADABLE, "choices")],
    ids=["500", "unreadable"],
)
def test_a_question_that_always_fails_is_given_up_with_the_reason(
    client: Client, fault: Fault, tries: int, reason: str
) -> None:
    (question,) = questions(1)
    client.provider.fail(CHAT, fault, times=99)
    client.ask([question])

    def declined() -> Sequence[Declined]:
        client.pass_time(61)
        return client.llm.collect("m1")

    (end,) = wait_until(declined, "the end")
    assert end.key == question.key and not end.of_model and reason in end.why
    assert client.requests() == tries and client.llm.waiting("m1") == 0


def test_a_model_whose_answers_are_all_unreadable_is_asked_few_times(client: Client) -> None:
    client.provider.fail(CHAT, EMPTY, times=9_999)
    client.ask(questions(200))
    declined: list[Declined] = []

    def all_ended() -> bool:
        client.pass_time(5)
        declined.extend(client.llm.collect("m1"))
        return client.llm.waiting("m1") == 0

    wait_until(all_ended, "the end")
    assert any(end.of_model and "choices" in end.why for end in declined)
    assert client.requests() <= MOST_UNREADABLE_IN_A_ROW + 4 * 3, "what waited was no longer asked"


def test_a_refused_row_is_declined_and_the_others_are_answered(client: Client) -> None:
    batch = questions(9)
    client.provider.fail(CHAT, Fault(commit=False, status=400, code="content_policy"), times=1)
    client.ask(batch)
    wait_until(lambda: client.answers(batch) == 8, "the others")
    (declined,) = client.llm.collect("m1")
    assert not declined.of_model and "HTTP 400" in declined.why
    assert client.llm.collect("m1") == []


def test_a_missing_model_ends_its_own_questions_alone(client: Client) -> None:
    lost, there = questions(20, "gone"), questions(5)
    client.provider.slow_s = 0.02
    client.ask(lost)
    client.ask(there)
    client.wait_for_answers(there)
    wait_until(lambda: client.llm.waiting("m1") == 0, "the end")
    declined = client.llm.collect("m1")
    assert declined and all(end.of_model and end.model == "acme/gone" for end in declined)
    assert client.requests() <= 5 + 4 * 2, "what waited was no longer asked"


@pytest.mark.deep
def test_a_provider_that_hangs_blocks_no_caller_of_the_client(tmp_path: Path) -> None:
    with open_client(tmp_path, callers=2) as client:
        client.provider.fail(CHAT, HANG, times=2)
        client.ask(questions(5))
        wait_until(lambda: client.requests() == 2, "both callers to hang")
        client.ask(questions(5))
        assert client.llm.collect("m1") == [] and client.llm.waiting("m1") == 5
        assert len(client.llm.drop("m1")) == 2 and client.llm.waiting("m1") == 2


def test_after_a_stop_only_open_questions_are_asked_again(client: Client) -> None:
    batch = questions(30)
    client.provider.slow_s = 0.05
    client.ask(batch)
    wait_until(lambda: client.answers(batch) >= 6, "some answers")
    client.llm.close()
    client.restart()
    stored = client.store.answers.read([question.key for question in batch])
    client.ask([question for question in batch if question.key not in stored])
    client.wait_for_answers(batch)
    assert 30 <= client.requests() <= 34


ASK_UNTIL_KILLED = """
import sys, time
from pathlib import Path
from bot.llm_client import LlmClient
from storage.store import Store
from tests.bot.measurement.test_llm_client import questions, row_at
from tests.peers.hosted import KEY
from trainers.client.client import Trainer
store, row = Store(Path(sys.argv[1])), row_at(sys.argv[2])
client = LlmClient(store, {"acme": Trainer(row.provider, KEY)}, (row,), time.time)
client.ask("m1", "acme", questions(40))
time.sleep(60)
"""


@pytest.mark.deep
def test_a_kill_costs_at_most_the_open_questions(tmp_path: Path) -> None:
    path = tmp_path / "finetune.db"
    batch = questions(40)
    with Hosted(Service(models=("small",))) as provider:
        provider.slow_s = 0.05
        command = [sys.executable, "-c", ASK_UNTIL_KILLED, str(path), provider.url]
        with subprocess.Popen(command, cwd=Path(__file__).parents[3]) as other:
            wait_until(lambda: provider.count(CHAT) >= 12, "some questions", seconds=30)
            other.kill()
        store = Store(path)
        stored = store.answers.read([question.key for question in batch])
        assert 0 < len(stored) < 40 and provider.count(CHAT) - len(stored) <= 4
        client = Client(store, provider, row_at(provider.url))
        client.ask([question for question in batch if question.key not in stored])
        client.wait_for_answers(batch)
        lost = store.sent_questions.lost("m1")["acme/small"]
        assert 40 < provider.count(CHAT) <= 40 + lost.answers <= 44, (
            "what may have been paid for twice counts"
        )
        assert lost.completion_tokens == 24 * lost.answers and lost.prompt_tokens > 2 * lost.answers
        client.llm.close()
        client.trainers.close()
    store.close()


def test_the_first_answer_stays(client: Client) -> None:
    (question,) = questions(1)
    client.store.answers.keep([CachedAnswer(question.key, question.model, "mine", 1, 1, 0.1, 5.0)])
    client.ask([question])
    wait_until(lambda: client.llm.waiting("m1") == 0, "nothing to wait")
    assert client.requests() == 0
    assert client.store.answers.read([question.key])[question.key].text == "mine"
