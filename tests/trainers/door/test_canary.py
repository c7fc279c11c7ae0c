"""A candidate in a live test answers a share of the conversations; no program suffers, and it ends if it errs more."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, islice
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.patience import wait_until
from tests.peers.chat_vendor import ChatVendor, error, serve_vendor
from tests.trainers.door.doors import PROMPT, Door, serve_door
from tests.trainers.door.test_ratings import rate
from tests.trainers.door.test_samples import EVERY, put_in_use, wait_for
from tests.trainers.door.test_shadow import CANDIDATE, wait_for_answers
from trainers.door.call_ids import AnsweredCall, CallIds
from trainers.door.conversations import HEADER, hash_conversation
from trainers.door.live_tests import canary
from trainers.door.live_tests.canary import Canaries, CanarySide, draw_of
from trainers.recipes import canary_events, usage
from trainers.recipes.canary_events import CanaryEvent
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.usage import Usage
from trainers.recipes.values import Published, PublishedTest, Upstream, Upstreams

APIS = ["chat", "stream", "responses", "streamed response", "classify"]
SHARE = 0.1
BAD = error("no", "no")
_numbers = count(1_000)


@pytest.fixture
def live_test() -> PublishedTest:
    """A live test of its own for each test, as they share a door. Its recipe is set by `begin`."""
    return PublishedTest(next(_numbers), "", slow_s=60.0, share=SHARE)


def begin(door: Door, name: str, live_test: PublishedTest, **more: Any) -> tuple[str, str]:
    """Publishes a canary, and waits until it is under way. Returns the hashes of what is in use and the candidate."""
    candidate = door.folder.add(more.pop("candidate", CANDIDATE), {}).sha256
    live_test = replace(live_test, recipe=candidate)
    in_use = put_in_use(door, name, more.pop("sampling", None), live_test=live_test, **more)
    # A call of a conversation that is the candidate's; while it errs, what is in use says that it was asked.
    asked_first = conversation(door, live_test, number=-1)

    def is_under_way() -> bool:
        headers = raw(door, name, asked_first).headers
        return headers["x-finetune-recipe"] == candidate[:12] or "x-finetune-canary" in headers

    wait_until(is_under_way, "the canary")
    return in_use, candidate


def conversation(door: Door, live_test: PublishedTest, *, is_candidate: bool = True, number: int = 0) -> str:
    """Returns the name of a conversation on that side; -1 is that of `begin`."""
    names = (f"c-{each}" for each in count())
    on_side = (each for each in names if is_candidates(door, live_test, each) == is_candidate)
    return next(islice(on_side, number + 1, None))


def is_candidates(door: Door, live_test: PublishedTest, conversation: str) -> bool:
    hashed = hash_conversation(door.folder.call_key(), {}, {HEADER: conversation})
    return draw_of(live_test.number, hashed) < live_test.share


def raw(
    door: Door, name: str, conversation: str, api: str = "chat", text: str = "x billing"
) -> httpx2.Response:
    """Calls by one of the APIs. A stream is read to its end."""
    path = {"chat": "/chat/completions", "stream": "/chat/completions", "classify": "/classify"}.get(
        api, "/responses"
    )
    body: dict[str, Any] = {"model": name, "input": text}
    if path == "/chat/completions":
        body = {"model": name, "messages": [{"role": "user", "content": text}]}
    if api.startswith("stream"):
        body["stream"] = True
    key = {"authorization": f"Bearer {door.folder.call_key()}"}
    headers = {**key, HEADER: conversation}
    return httpx2.post(f"{door.url}{path}", json=body, headers=headers, timeout=60, trust_env=False)


def events_of(door: Door, live_test: PublishedTest, count: int) -> tuple[CanaryEvent, ...]:
    root = door.folder.root
    wait_until(
        lambda: len(canary_events.read(root, live_test.number)) >= count, f"{count} events", seconds=60
    )
    events = canary_events.read(root, live_test.number)
    assert len(events) == count
    return events


def test_conversations_are_the_candidates_by_its_share() -> None:
    hashes = [
        hash_conversation("key", {"messages": [{"role": "user", "content": f"{n}"}]}, {})
        for n in range(2_000)
    ]
    tenth = {each for each in hashes if draw_of(7, each) < 0.1}
    assert 160 <= len(tenth) <= 240  # 200 with a standard deviation of 13
    assert tenth < {each for each in hashes if draw_of(7, each) < 0.2}
    another = {each for each in hashes if draw_of(8, each) < 0.1}
    assert len(tenth & another) <= 40  # 20 if they are independent


@pytest.mark.deep
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("is_candidate", [True, False])
def test_a_conversation_stays_on_its_side(
    door: Door,
    vendor: ChatVendor,
    second: ChatVendor,
    name: str,
    live_test: PublishedTest,
    api: str,
    is_candidate: bool,
) -> None:
    hashes = begin(door, name, live_test)
    before = len(second.requests)
    own = conversation(door, live_test, is_candidate=is_candidate)
    for _ in range(3):
        answer = raw(door, name, own, api)
        assert answer.status_code == 200
        assert answer.headers["x-finetune-recipe"] == hashes[is_candidate][:12]
        assert ("delivery" in answer.text, "billing" in answer.text) == (is_candidate, not is_candidate)
        assert "x-finetune-canary" not in answer.headers
        id = CallIds(door.folder.call_key).read(answer.headers["x-finetune-call"])
        assert id is not None and (id.promotion, id.recipe, id.name) == (7, hashes[is_candidate], name)
    assert len(second.requests) - before == 3 * is_candidate


def test_a_raised_share_takes_no_conversation_back(
    door: Door, vendor: ChatVendor, second: ChatVendor, name: str, live_test: PublishedTest
) -> None:
    _, candidate = begin(door, name, live_test)
    mine = conversation(door, live_test)
    other = conversation(door, live_test, is_candidate=False)
    for share in (0.5, 0.999):
        begin(door, name, replace(live_test, share=share))
        assert raw(door, name, mine).headers["x-finetune-recipe"] == candidate[:12]
    assert raw(door, name, other).headers["x-finetune-recipe"] == candidate[:12]


ERRORS = [
    *((api, 500, "upstream_500") for api in APIS),
    ("chat", 429, "upstream_429"),
    ("stream", 400, "upstream_400"),
    ("chat", 401, "upstream_key_refused"),
]


@pytest.mark.deep
@pytest.mark.parametrize(("api", "status", "word"), ERRORS)
def test_what_the_candidate_does_not_answer_is_answered_by_what_is_in_use(
    door: Door,
    vendor: ChatVendor,
    second: ChatVendor,
    name: str,
    live_test: PublishedTest,
    api: str,
    status: int,
    word: str,
) -> None:
    in_use, candidate = begin(door, name, live_test)
    second.failures = deque([(status, BAD)])
    own = conversation(door, live_test)
    answer = raw(door, name, own, api)
    assert (answer.status_code, "billing" in answer.text) == (200, True)
    assert answer.headers["x-finetune-recipe"] == in_use[:12]
    assert answer.headers["x-finetune-canary"] == word
    assert "x-finetune-fallback" not in answer.headers
    (event,) = events_of(door, live_test, 1)
    hashed = hash_conversation(door.folder.call_key(), {}, {HEADER: own})
    assert (event.conversation, event.is_candidate, event.reason) == (hashed, True, "error")
    assert raw(door, name, own, api).headers["x-finetune-recipe"] == candidate[:12]


@pytest.mark.deep
@pytest.mark.parametrize("api", APIS)
def test_what_the_candidate_answers_late_is_answered_by_what_is_in_use(
    door: Door, vendor: ChatVendor, second: ChatVendor, name: str, live_test: PublishedTest, api: str
) -> None:
    live_test = replace(live_test, slow_s=0.3)
    in_use, _ = begin(door, name, live_test)
    second.delay_s = 30.0
    answer = raw(door, name, conversation(door, live_test), api)
    assert (answer.status_code, "billing" in answer.text) == (200, True)
    assert (answer.headers["x-finetune-recipe"], answer.headers["x-finetune-canary"]) == (
        in_use[:12],
        "too_slow",
    )
    (event,) = events_of(door, live_test, 1)
    assert (event.is_candidate, event.reason) == (True, "slow")


class SilentStream(BaseHTTPRequestHandler):
    """Begins a stream, and sends nothing."""

    is_over = threading.Event()

    def do_POST(self) -> None:  # the name that http.server calls
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.flush()
        self.is_over.wait(60)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def serve_silence() -> Iterator[str]:
    SilentStream.is_over.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), SilentStream) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            SilentStream.is_over.set()
            server.shutdown()


@pytest.mark.deep
@pytest.mark.parametrize("api", ["stream", "streamed response"])
def test_a_stream_has_begun_with_its_first_event(
    door: Door, vendor: ChatVendor, second: ChatVendor, name: str, live_test: PublishedTest, api: str
) -> None:
    live_test = replace(live_test, slow_s=0.5)
    in_use, candidate = begin(door, name, live_test)
    # What has begun in time is not begun again, however long it takes.
    second.part_s = 0.4
    assert raw(door, name, conversation(door, live_test), api).headers["x-finetune-recipe"] == candidate[:12]
    second.breaks_after = 0
    answer = raw(door, name, conversation(door, live_test), api)
    assert (answer.headers["x-finetune-recipe"], "billing" in answer.text) == (in_use[:12], True)
    assert answer.headers["x-finetune-canary"] == "upstream_unreachable"
    with serve_silence() as url:
        upstreams = (Upstream("acme", vendor.url, "ACME_KEY"), Upstream("next", url, "ACME_KEY"))
        door.folder.publish_upstreams(Upstreams(upstreams))
        answer = raw(door, name, conversation(door, live_test, number=1), api)
        assert (answer.headers["x-finetune-canary"], "billing" in answer.text) == ("too_slow", True)
    reasons = {event.reason for event in events_of(door, live_test, 2)}
    assert reasons == {"error", "slow"}


@pytest.mark.deep
@pytest.mark.parametrize("api", ["stream", "streamed response"])
@pytest.mark.parametrize("is_candidate", [True, False])
def test_a_stream_that_breaks_off_is_an_error_of_its_side(
    door: Door,
    vendor: ChatVendor,
    second: ChatVendor,
    name: str,
    live_test: PublishedTest,
    api: str,
    is_candidate: bool,
) -> None:
    begin(door, name, live_test)
    second.breaks_after = 1
    vendor.breaks_after = 1
    answer = raw(door, name, conversation(door, live_test, is_candidate=is_candidate), api)
    assert "broke off its answer" in answer.text
    (event,) = events_of(door, live_test, 1)
    assert (event.is_candidate, event.reason) == (is_candidate, "error")


def test_a_candidate_that_cannot_be_loaded_or_reached_hurts_nobody(
    door: Door, vendor: ChatVendor, name: str, live_test: PublishedTest
) -> None:
    nobody = Upstream("next", "http://127.0.0.1:9/v1", "ACME_KEY")
    door.folder.publish_upstreams(Upstreams((Upstream("acme", vendor.url, "ACME_KEY"), nobody)))
    begin(door, name, live_test)
    answer = raw(door, name, conversation(door, live_test))
    assert (answer.status_code, answer.headers["x-finetune-canary"]) == (200, "upstream_unreachable")
    lost = replace(live_test, number=next(_numbers), recipe="ab" * 32)
    put_in_use(door, name, None, live_test=lost)
    own = conversation(door, lost)
    wait_until(lambda: "x-finetune-canary" in raw(door, name, own).headers, "the canary")
    answer = raw(door, name, own)
    assert (answer.status_code, answer.headers["x-finetune-canary"]) == (200, "recipe_unusable")


@pytest.mark.deep
def test_no_call_fails_while_the_candidate_is_down(
    door: Door, vendor: ChatVendor, second: ChatVendor, name: str, live_test: PublishedTest
) -> None:
    live_test = replace(live_test, share=0.5)
    begin(door, name, live_test)
    before = len(second.requests)
    second.failures = deque([(503, BAD)] * 1_000)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: raw(door, name, f"c-{number}", APIS[number % 5]), range(200)))
    assert {answer.status_code for answer in answers} == {200}
    assert all("billing" in answer.text for answer in answers)
    stopped = canary_events.stopped(door.folder.root)
    assert live_test.number in stopped
    # Seven errors stop it at a share of a half; eight calls at once may be on their way by then.
    assert 7 <= len(second.requests) - before <= 15


@pytest.mark.deep
def test_the_fallback_answers_if_both_fail(
    door: Door, vendor: ChatVendor, second: ChatVendor, name: str, live_test: PublishedTest
) -> None:
    other = door.folder.add(replace(PROMPT, model="acme-other"), {}).sha256
    begin(door, name, live_test, fallback=other)
    second.failures = deque([(500, BAD)])
    vendor.failures = deque([(503, BAD)])
    answer = raw(door, name, conversation(door, live_test))
    assert answer.status_code == 200
    assert answer.headers["x-finetune-recipe"] == other[:12]
    assert answer.headers["x-finetune-canary"] == "upstream_500"
    assert answer.headers["x-finetune-fallback"] == "upstream_503"
    # The conversation is the candidate's, and its error came first.
    assert [event.is_candidate for event in events_of(door, live_test, 1)] == [True]


@pytest.mark.deep
def test_a_candidate_has_no_longer_than_what_is_in_use(
    door: Door, vendor: ChatVendor, second: ChatVendor, name: str, live_test: PublishedTest
) -> None:
    other = door.folder.add(replace(PROMPT, model="acme-other"), {}).sha256
    in_use, _ = begin(door, name, live_test, fallback=other, fallback_after_s=0.3)
    second.delay_s = 30.0
    answer = raw(door, name, conversation(door, live_test))
    assert (answer.headers["x-finetune-recipe"], answer.headers["x-finetune-canary"]) == (
        in_use[:12],
        "too_slow",
    )


def test_a_request_that_both_refuse_is_nobodys_error(
    door: Door, vendor: ChatVendor, second: ChatVendor, name: str, live_test: PublishedTest
) -> None:
    begin(door, name, live_test)
    second.failures = deque([(400, BAD)])
    vendor.failures = deque([(400, BAD), (400, BAD)])
    assert raw(door, name, conversation(door, live_test)).status_code == 400
    assert raw(door, name, conversation(door, live_test, is_candidate=False)).status_code == 400
    second.failures = deque([(500, BAD)])
    raw(door, name, conversation(door, live_test, number=1))
    assert [event.is_candidate for event in events_of(door, live_test, 1)] == [True]


@pytest.mark.deep
def test_what_is_in_use_has_errors_too_and_slow_answers_which_nobody_cuts_off(
    door: Door, vendor: ChatVendor, second: ChatVendor, name: str, live_test: PublishedTest
) -> None:
    live_test = replace(live_test, slow_s=0.3)
    in_use, _ = begin(door, name, live_test)
    first, slow, *_ = (
        conversation(door, live_test, is_candidate=False, number=number) for number in range(2)
    )
    vendor.failures = deque([(500, BAD)])
    assert raw(door, name, first).status_code == 500
    vendor.delay_s = 0.6
    answer = raw(door, name, slow)
    assert (answer.status_code, answer.headers["x-finetune-recipe"]) == (200, in_use[:12])
    events = events_of(door, live_test, 2)
    assert [(event.is_candidate, event.reason) for event in events] == [(False, "error"), (False, "slow")]


def test_a_conversation_counts_once_and_the_third_that_errs_stops_a_tenth(
    door: Door, vendor: ChatVendor, second: ChatVendor, name: str, live_test: PublishedTest
) -> None:
    in_use, _ = begin(door, name, live_test)
    second.failures = deque([(500, BAD)] * 100)
    for number in (0, 0, 0, 0, 1, 1, 1):
        assert raw(door, name, conversation(door, live_test, number=number)).status_code == 200
    before = len(second.requests)
    assert (
        raw(door, name, conversation(door, live_test, number=2)).headers["x-finetune-canary"]
        == "upstream_500"
    )
    # The very next call is answered by what is in use.
    for number in range(4):
        answer = raw(door, name, conversation(door, live_test, number=number))
        assert answer.headers["x-finetune-recipe"] == in_use[:12]
        assert "x-finetune-canary" not in answer.headers
    assert len(second.requests) == before + 1
    events_of(door, live_test, 3)
    wait_until(lambda: live_test.number in canary_events.stopped(door.folder.root), "the stop on disk")


def test_another_workers_stop_ends_it_here(
    door: Door, vendor: ChatVendor, second: ChatVendor, name: str, live_test: PublishedTest
) -> None:
    in_use, _ = begin(door, name, live_test)
    canary_events.stop(door.folder.root, live_test.number, 1.0)
    own = conversation(door, live_test)
    wait_until(lambda: raw(door, name, own).headers["x-finetune-recipe"] == in_use[:12], "the end")


@pytest.mark.deep
def test_a_restart_goes_on_where_the_test_was(tmp_path: Path) -> None:
    folder = RecipeFolder(tmp_path / "serving")
    live_test = PublishedTest(1, "", 60.0, share=SHARE)
    with serve_vendor(ChatVendor()) as vendor, serve_vendor(ChatVendor()) as second:
        upstreams = (Upstream("acme", vendor.url, "ACME_KEY"), Upstream("next", second.url, "ACME_KEY"))
        folder.publish_upstreams(Upstreams(upstreams))
        with serve_door(folder) as door:
            in_use, candidate = begin(door, "team/a", live_test)
            second.failures = deque([(500, BAD)] * 3)
            for number in (0, 1):
                raw(door, "team/a", conversation(door, live_test, number=number))
        with serve_door(folder) as door:
            # The first call after the start is on its side already.
            first = raw(door, "team/a", conversation(door, live_test, number=2))
            assert first.headers["x-finetune-canary"] == "upstream_500"
            assert (
                raw(door, "team/a", conversation(door, live_test, number=3)).headers["x-finetune-recipe"]
                == in_use[:12]
            )
        with serve_door(folder) as door:
            assert (
                raw(door, "team/a", conversation(door, live_test, number=3)).headers["x-finetune-recipe"]
                == in_use[:12]
            )
            live_test = replace(live_test, number=2)
            assert begin(door, "team/a", live_test) == (in_use, candidate)


@pytest.mark.deep
def test_bad_ratings_are_errors_of_the_side_that_answered(
    door: Door, vendor: ChatVendor, second: ChatVendor, name: str, live_test: PublishedTest
) -> None:
    put_in_use(door, name, None)
    before = raw(door, name, conversation(door, live_test)).headers["x-finetune-call"]
    begin(door, name, live_test)
    by_candidate = raw(door, name, conversation(door, live_test), "stream").headers["x-finetune-call"]
    in_use = raw(door, name, conversation(door, live_test, is_candidate=False), "classify").headers[
        "x-finetune-call"
    ]
    liked = raw(door, name, conversation(door, live_test, number=1)).headers["x-finetune-call"]
    second.failures = deque([(500, BAD)])
    instead = raw(door, name, conversation(door, live_test, number=2)).headers["x-finetune-call"]
    assert len(by_candidate) < 200
    ratings = [(before, "down"), (liked, "up"), (by_candidate, "down"), (in_use, "down"), (instead, "down")]
    for id, rating in ratings:
        assert rate(door, id, rating).status_code == 200
    events = events_of(door, live_test, 3)
    reasons = [(event.is_candidate, event.reason) for event in events]
    assert reasons == [(True, "error"), (True, "down"), (False, "down")]


@pytest.mark.deep
def test_calls_are_counted_and_sampled_by_what_answered(
    door: Door, vendor: ChatVendor, second: ChatVendor, name: str, live_test: PublishedTest
) -> None:
    in_use, candidate = begin(door, name, replace(live_test, asks_sampled=True))
    published = door.folder.published(name)
    assert published is not None
    door.folder.publish(replace(published, promotion=live_test.number, sampling=EVERY))
    raw(door, name, conversation(door, live_test), text="the candidate's")
    second.failures = deque([(500, BAD)])
    raw(door, name, conversation(door, live_test, number=1), text="instead of it: billing")
    raw(door, name, conversation(door, live_test, is_candidate=False), text="of what is in use: billing")
    calls = wait_for(door, name, 3)
    assert [(call.recipe, call.fallback_from) for call in calls] == [
        (candidate, None),
        (in_use, None),
        (in_use, None),
    ]
    # Only the last is asked again: the others were the candidate's, and would be chosen by its failures.
    (answer,) = wait_for_answers(door, live_test.number)
    assert answer.call == calls[-1].id

    def counted() -> dict[str, Usage]:
        counts = usage.read(door.folder.root).items()
        return {key.recipe: each for key, each in counts if key.promotion == live_test.number}

    wait_until(lambda: sum(each.calls for each in counted().values()) >= 4, "the counts")
    totals = {recipe: (each.calls, each.failed) for recipe, each in counted().items()}
    assert totals == {candidate: (2, 1), in_use: (2, 0)}


@pytest.mark.deep
def test_a_canary_that_cannot_be_read_does_not_begin(tmp_path: Path) -> None:
    folder = RecipeFolder(tmp_path / "serving")
    live_test = PublishedTest(1, folder.add(CANDIDATE, {}).sha256, 60.0, share=0.999)
    with serve_vendor(ChatVendor()) as vendor:
        upstreams = (Upstream("acme", vendor.url, "ACME_KEY"), Upstream("next", vendor.url, "ACME_KEY"))
        folder.publish_upstreams(Upstreams(upstreams))
        in_use = folder.add(PROMPT, {}).sha256
        folder.publish(Published("team/a", in_use, 1, live_test=live_test))
        (folder.root / canary_events.FILE).mkdir()
        with serve_door(folder) as door:
            assert raw(door, "team/a", "c").headers["x-finetune-recipe"] == in_use[:12]
            assert "reading the errors of canaries" in door.log
            (folder.root / canary_events.FILE).rmdir()
            own = conversation(door, live_test)
            wait_until(
                lambda: raw(door, "team/a", own).headers["x-finetune-recipe"] != in_use[:12], "the canary"
            )


def side(number: int, *, is_candidate: bool = True) -> CanarySide:
    return CanarySide(1, f"{number:032x}", is_candidate)


def canaries_in(folder: Path, share: float = SHARE) -> tuple[Canaries, Published]:
    live_test = PublishedTest(1, "cd", 60.0, share=share)
    return Canaries(folder, lambda: "key", lambda: [live_test], lambda: 5.0), Published(
        "team/a", "ab", 1, live_test=live_test
    )


def test_a_full_disk_does_not_undo_a_stop(tmp_path: Path) -> None:
    async def tell() -> None:
        canaries, published = canaries_in(tmp_path)
        await canaries.follow()
        assert canaries.watch(published, {}, {}) is not None
        (tmp_path / canary_events.FILE).mkdir()
        for number in range(3):
            canaries.report(side(number), "error")
        await canaries.store()
        assert canaries.watch(published, {}, {}) is None
        (tmp_path / canary_events.FILE).rmdir()
        await canaries.store()
        assert canary_events.stopped(tmp_path) == {1: 5.0}
        assert len(canary_events.read(tmp_path, 1)) == 3
        later, _ = canaries_in(tmp_path)
        await later.follow()
        assert later.watch(published, {}, {}) is None

    asyncio.run(tell())


def test_a_kill_between_the_last_error_and_the_stop_changes_nothing(tmp_path: Path) -> None:
    canary_events.add(tmp_path, [CanaryEvent(1, f"{number:032x}", True, "error", 1.0) for number in range(3)])

    async def tell() -> None:
        canaries, published = canaries_in(tmp_path)
        await canaries.follow()
        assert canaries.watch(published, {}, {}) is None
        await canaries.store()
        assert canary_events.stopped(tmp_path) == {1: 5.0}

    asyncio.run(tell())


def test_another_share_begins_the_test_again(tmp_path: Path) -> None:
    async def tell() -> None:
        canaries, published = canaries_in(tmp_path)
        assert published.live_test is not None
        await canaries.follow()
        for number in range(2):
            canaries.report(side(number), "error")
        raised = replace(published, live_test=replace(published.live_test, share=0.5))
        assert canaries.watch(raised, {}, {}) is not None
        for number in (0, 1, *range(2, 8)):  # the first two have been counted
            canaries.report(side(number), "error")
        assert canaries.watch(raised, {}, {}) is not None
        canaries.report(side(8), "error")
        assert canaries.watch(raised, {}, {}) is None

    asyncio.run(tell())


def test_memory_for_conversations_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "MOST_EVENTS", 5)

    async def tell() -> None:
        canaries, _ = canaries_in(tmp_path)
        await canaries.follow()
        for number in range(9):
            canaries.report(side(number, is_candidate=False), "down")
        await canaries.store()
        assert len(canary_events.read(tmp_path, 1)) == 5

    asyncio.run(tell())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_or_all_is_no_canary(tmp_path: Path, share: float) -> None:
    async def tell() -> None:
        canaries, published = canaries_in(tmp_path, share)
        await canaries.follow()
        assert canaries.watch(published, {}, {}) is None

    asyncio.run(tell())


def test_an_id_says_on_which_side_a_call_was() -> None:
    ids = CallIds(lambda: "key")
    for is_candidate in (True, False):
        call = AnsweredCall("team/tickets", 3, "ab" * 32, 1_796_040_000, side(7, is_candidate=is_candidate))
        assert ids.read(ids.new(call)) == call
        assert len(ids.new(call)) < 150
