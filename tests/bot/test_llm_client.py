"""Questions in the background, against a real provider on loopback: limits, hiccups, refusals, and none paid
twice."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from demo.workspace import wait_until
from storage.records import CachedAnswer
from storage.store import Store
from tests.peers.hosted import BUSY, COMMIT_THEN_CUT, HANG, HTML, KEY, NOTHING_BUT_500, Fault, Hosted
from tests.peers.service import Service
from trainers.client import Trainer
from trainers.providers import ProviderRow
from trainers.types import Message, Provider

CHAT = "POST /chat/completions"
EMPTY = Fault(
    commit=False, status=200, headers=(("Content-Type", "application/json"),), body=b'{"choices": []}'
)


@dataclass
class Bench:
    """`now` is the askers' clock: it stands until a test moves it."""

    store: Store
    company: Hosted
    row: ProviderRow
    now: float = 1_000.0
    llm: LlmClient = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        trainer = Trainer(self.row.provider, KEY)
        self.llm = LlmClient(self.store, {"acme": trainer}, (self.row,), lambda: self.now, lambda: self.now)

    def ask(self, questions: list[Question], owner: str = "m1") -> None:
        self.llm.ask(owner, "acme", questions)

    def answered(self, questions: list[Question]) -> int:
        return len(self.store.answers.read([one.key for one in questions]))

    def all_answered(self, questions: list[Question], *, step: float = 1.0) -> None:
        """Time goes on meanwhile."""

        def look() -> bool:
            self.now += step
            self.llm.wake()
            return self.answered(questions) == len(questions)

        wait_until(look, "all answers", seconds=20)

    def asked(self) -> int:
        return self.provider.count(CHAT)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened(tmp_path) as made:
        yield made


def row_at(url: str, *, callers: int = 4, a_minute: int | None = None) -> ProviderRow:
    provider = Provider("acme", url, "ACME_KEY", frozenset({"chat"}), 5.0)
    return ProviderRow(provider, "Acme", None, (), {}, callers, a_minute)


@contextmanager
def opened(folder: Path, *, callers: int = 4, a_minute: int | None = None) -> Iterator[Bench]:
    store = Store(folder / "finetune.db")
    with Hosted(Service(models=("small", "large"))) as company:
        made = Bench(store, company, row_at(company.url, callers=callers, a_minute=a_minute))
        yield made
        made.llm.close()
    wait_until(
        lambda: not [t for t in threading.enumerate() if t.name.startswith("asks acme")], "the threads"
    )
    store.close()


def questions(count: int, model: str = "small") -> list[Question]:
    said = [(Message("user", f"question {number}"),) for number in range(count)]
    return [Question(key_of(f"acme/{model}", one, 24), f"acme/{model}", model, one, 24) for one in said]


def test_answers_are_kept_under_the_key_of_their_question(bench: Bench) -> None:
    asked = questions(10)
    bench.ask(asked)
    bench.all_answered(asked)
    reply = bench.store.answers.read([asked[3].key])[asked[3].key]
    assert (reply.model, reply.text) == ("acme/small", "small heard you")
    assert reply.prompt_tokens == 2 and reply.completion_tokens == 3 and reply.seconds > 0
    assert bench.asked() == 10


def test_a_key_stands_for_model_messages_and_cap() -> None:
    said = (Message("system", "a"), Message("user", "b"))
    others = [
        key_of("acme/large", said, 24),
        key_of("acme/small", said, 25),
        key_of("acme/small", said[1:], 24),
        key_of("acme/small", (Message("user", "a"), Message("user", "b")), 24),
    ]
    assert key_of("acme/small", said, 24) not in others and len(set(others)) == 4


def test_what_waits_is_under_way_or_is_known_is_not_asked_again(bench: Bench) -> None:
    asked = questions(12)
    bench.provider.slow_s = 0.05
    for _ in range(20):
        bench.ask(asked)
        bench.ask(asked, owner="m2")
    bench.all_answered(asked)
    bench.ask(asked)
    wait_until(lambda: bench.llm.waiting("m1") == 0, "nothing to wait")
    assert bench.asked() == 12


def test_never_more_at_once_than_its_callers(tmp_path: Path) -> None:
    with opened(tmp_path, callers=3) as bench:
        bench.provider.slow_s = 0.4
        bench.ask(questions(12))
        wait_until(lambda: bench.asked() == 3, "all callers at work")
        time.sleep(0.2)
        assert bench.asked() == 3
        bench.provider.slow_s = 0.0
        bench.all_answered(questions(12))


def test_never_more_in_a_minute_than_its_limit(tmp_path: Path) -> None:
    with opened(tmp_path, a_minute=12) as bench:
        asked = questions(8)
        bench.ask(asked)
        wait_until(lambda: bench.answered(asked) == 2, "the first ones")  # ten seconds' worth
        time.sleep(0.2)
        assert bench.asked() == 2
        bench.now += 5
        bench.llm.wake()
        wait_until(lambda: bench.answered(asked) == 3, "the next one")
        time.sleep(0.1)
        assert bench.asked() == 3
        bench.all_answered(asked)


def test_retry_after_pauses_the_provider_for_an_hour_and_then_it_goes_on(bench: Bench) -> None:
    asked = questions(20)
    hour = Fault(commit=False, status=429, headers=(("Retry-After", "3600"),))
    bench.provider.fail(CHAT, hour, times=99)
    bench.ask(asked)
    wait_until(lambda: bench.llm.trouble("acme"), "the trouble")
    time.sleep(0.2)
    seen = bench.asked()
    assert seen <= 4 and "in 3600 s" in str(bench.llm.trouble("acme"))
    bench.now += 3590
    bench.llm.wake()
    time.sleep(0.2)
    assert bench.asked() == seen
    bench.provider.forgive(CHAT)
    bench.now += 20
    bench.all_answered(asked)
    assert bench.llm.trouble("acme") is None and bench.llm.collect("m1") == []
    assert bench.asked() == seen + 20


def test_a_limit_that_names_no_time_never_costs_a_row(bench: Bench) -> None:
    asked = questions(3)
    bench.provider.fail(CHAT, Fault(commit=False, status=429), times=5 * MOST_TRIES)
    bench.ask(asked)
    bench.all_answered(asked, step=70)
    assert bench.llm.collect("m1") == []


@pytest.mark.parametrize("fault", [NOTHING_BUT_500, COMMIT_THEN_CUT, HTML, EMPTY, BUSY], ids=str)
def test_a_hiccup_is_asked_again(bench: Bench, fault: Fault) -> None:
    asked = questions(6)
    bench.provider.fail(CHAT, fault, times=2)
    bench.ask(asked)
    bench.all_answered(asked)
    assert bench.asked() == 8 and bench.llm.collect("m1") == []


def test_an_outage_pauses_all_and_gives_up_nothing(bench: Bench) -> None:
    asked = questions(30)
    bench.provider.fail(CHAT, NOTHING_BUT_500, times=200)
    bench.ask(asked)
    wait_until(lambda: bench.asked() >= 5, "the first failures")
    time.sleep(0.3)
    assert bench.asked() < 30
    for _ in range(20):
        bench.now += 61
        bench.llm.wake()
        time.sleep(0.02)
    assert bench.llm.collect("m1") == [] and bench.answered(asked) == 0
    bench.provider.forgive(CHAT)
    bench.all_answered(asked, step=61)


def test_one_question_that_always_fails_is_given_up_with_the_reason(bench: Bench) -> None:
    (one,) = questions(1)
    bench.provider.fail(CHAT, NOTHING_BUT_500, times=99)
    bench.ask([one])

    def look() -> Sequence[Declined]:
        bench.now += 61
        bench.llm.wake()
        return bench.llm.collect("m1")

    (declined,) = wait_until(look, "the end")
    assert declined.key == one.key and not declined.of_model and "HTTP 500" in declined.why
    assert bench.asked() == MOST_TRIES and bench.llm.waiting("m1") == 0


def test_an_answer_that_cannot_be_read_is_not_paid_again_and_again(bench: Bench) -> None:
    (one,) = questions(1)
    bench.provider.fail(CHAT, EMPTY, times=99)
    bench.ask([one])

    def look() -> Sequence[Declined]:
        bench.now += 61
        bench.llm.wake()
        return bench.llm.collect("m1")

    (declined,) = wait_until(look, "the end")
    assert not declined.of_model and "choices" in declined.why
    assert bench.asked() == MOST_UNREADABLE


def test_a_model_that_only_answers_what_cannot_be_read_is_asked_few_times(bench: Bench) -> None:
    bench.provider.fail(CHAT, EMPTY, times=9_999)
    bench.ask(questions(200))
    declined: list[Declined] = []

    def look() -> bool:
        bench.now += 5
        bench.llm.wake()
        declined.extend(bench.llm.collect("m1"))
        return bench.llm.waiting("m1") == 0

    wait_until(look, "the end", seconds=20)
    assert any(one.of_model and "choices" in one.why for one in declined)
    assert bench.asked() <= MOST_UNREADABLE_IN_A_ROW + 4 * 3, "what waited was not asked any more"


def test_a_refused_row_is_declined_and_the_others_are_answered(bench: Bench) -> None:
    asked = questions(9)
    bench.provider.fail(CHAT, Fault(commit=False, status=400, code="content_policy"), times=1)
    bench.ask(asked)
    wait_until(lambda: bench.answered(asked) == 8, "the others")
    (declined,) = bench.llm.collect("m1")
    assert not declined.of_model and "HTTP 400" in declined.why
    assert bench.llm.collect("m1") == []


def test_a_model_that_is_not_there_ends_its_questions_and_no_others(bench: Bench) -> None:
    lost, there = questions(20, "gone"), questions(5)
    bench.provider.slow_s = 0.02
    bench.ask(lost)
    bench.ask(there)
    bench.all_answered(there)
    wait_until(lambda: bench.llm.waiting("m1") == 0, "the end")
    declined = bench.llm.collect("m1")
    assert declined and all(one.of_model and one.model == "acme/gone" for one in declined)
    assert bench.asked() <= 5 + 4 * 2, "what waited was not asked any more"


def test_a_provider_that_hangs_holds_nobody_who_asks(tmp_path: Path) -> None:
    with opened(tmp_path, callers=2) as bench:
        bench.provider.fail(CHAT, HANG, times=2)
        bench.ask(questions(5))
        wait_until(lambda: bench.asked() == 2, "both callers to hang")
        bench.ask(questions(5))
        assert bench.llm.collect("m1") == [] and bench.llm.waiting("m1") == 5
        assert len(bench.llm.drop("m1")) == 2 and bench.llm.waiting("m1") == 2


def test_after_a_stop_only_what_was_under_way_is_asked_again(bench: Bench) -> None:
    asked = questions(30)
    bench.provider.slow_s = 0.05
    bench.ask(asked)
    wait_until(lambda: bench.answered(asked) >= 6, "some answers")
    bench.llm.close()
    bench.restart()
    known = bench.store.answers.read([one.key for one in asked])
    bench.ask([one for one in asked if one.key not in known])
    bench.all_answered(asked)
    assert 30 <= bench.asked() <= 34


ASK_AND_BE_KILLED = """
import sys, time
from pathlib import Path
from bot.llm_client import LlmClient
from storage.store import Store
from tests.bot.test_llm_client import questions, row_at
from tests.peers.hosted import KEY
from trainers.client import Trainer
store, row = Store(Path(sys.argv[1])), row_at(sys.argv[2])
askers = LlmClient(store, {"acme": Trainer(row.provider, KEY)}, (row,), time.time)
askers.ask("m1", "acme", questions(40))
time.sleep(60)
"""


def test_a_kill_costs_what_was_under_way_at_most(tmp_path: Path) -> None:
    path = tmp_path / "finetune.db"
    asked = questions(40)
    with Hosted(Service(models=("small",))) as company:
        company.slow_s = 0.05
        command = [sys.executable, "-c", ASK_AND_BE_KILLED, str(path), company.url]
        with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as other:
            wait_until(lambda: company.count(CHAT) >= 12, "some questions", seconds=30)
            other.kill()
        store = Store(path)
        known = store.answers.read([one.key for one in asked])
        assert 0 < len(known) < 40 and company.count(CHAT) - len(known) <= 4
        bench = Bench(store, company, row_at(company.url))
        bench.ask([one for one in asked if one.key not in known])
        bench.all_answered(asked)
        assert 40 <= company.count(CHAT) <= 44
        bench.llm.close()
    store.close()


def test_the_first_answer_stays(bench: Bench) -> None:
    (one,) = questions(1)
    bench.store.answers.keep([CachedAnswer(one.key, one.model, "mine", 1, 1, 0.1, 5.0)])
    bench.ask([one])
    wait_until(lambda: bench.llm.waiting("m1") == 0, "nothing to wait")
    assert bench.asked() == 0
    assert bench.store.answers.read([one.key])[one.key].text == "mine"
