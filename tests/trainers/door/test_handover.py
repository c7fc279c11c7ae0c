"""Promotions and restarts while programs call: no call fails. A kill fails only the calls under way."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from tests.patience import wait_until
from tests.peers.chat_vendor import ChatVendor, serve_vendor
from tests.trainers.door.doors import NAME, PROMPT, ROOT, Door, add_vendor, put_in_use, serve_door, start_door
from trainers.door import __main__ as door_main
from trainers.door.__main__ import Keeper
from trainers.door.counts import UsageCounts
from trainers.door.free_chat import ANSWERED
from trainers.door.handover import SOCKET, HandoverError, Successors, find_predecessor, only_successor
from trainers.door.server import DoorState
from trainers.door.worker import DoorServer
from trainers.http.connections import server_config
from trainers.recipes import usage
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.usage import Usage

CALLS = 150
AT_ONCE = 12
BODY: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "Charged twice: billing"}]}


@pytest.fixture
def folder(tmp_path: Path) -> RecipeFolder:
    return RecipeFolder(tmp_path / "serving")


@pytest.fixture
def vendor(folder: RecipeFolder) -> Iterator[ChatVendor]:
    with serve_vendor(ChatVendor(delay_s=0.02, part_s=0.01)) as vendor:
        put_in_use(folder, PROMPT)
        add_vendor(folder, vendor.url)
        yield vendor


async def call(client: httpx2.AsyncClient, url: str, is_stream: bool) -> str:
    """Calls once, without a retry. Returns what came of it in a word."""
    try:
        answer = await client.post(f"{url}/chat/completions", json={**BODY, "stream": is_stream})
    except httpx2.HTTPError as error:
        return type(error).__name__
    if answer.status_code != 200:
        return str(answer.status_code)
    is_complete = answer.text.endswith("data: [DONE]\n\n") if is_stream else "billing" in answer.text
    return "answered" if is_complete else "cut"


@pytest.mark.deep
def test_no_call_fails_while_doors_and_recipes_are_replaced(folder: RecipeFolder, vendor: ChatVendor) -> None:
    doors = [start_door(folder)]
    url = doors[0].url
    outcomes: Counter[str] = Counter()
    replaced = asyncio.Event()

    async def program(client: httpx2.AsyncClient) -> None:
        while outcomes.total() < CALLS or not replaced.is_set():
            outcomes[await call(client, url, is_stream=outcomes.total() % 3 == 0)] += 1

    async def operator() -> None:
        for number in range(10):
            wanted = (number + 1) * CALLS // 12
            while outcomes.total() < wanted:
                await asyncio.sleep(0.005)
            put_in_use(folder, replace(PROMPT, prompt=f"Which team, take {number}?"), promotion=2 + number)
            if number in (3, 7):
                doors.append(await asyncio.to_thread(start_door, folder, f"127.0.0.1:{doors[0].port}"))
        wanted = outcomes.total() + 2 * AT_ONCE  # so that the last one answers too
        while outcomes.total() < wanted:
            await asyncio.sleep(0.005)
        replaced.set()

    async def everybody() -> None:
        headers = {"authorization": f"Bearer {folder.call_key()}"}
        async with httpx2.AsyncClient(headers=headers, timeout=60) as client:
            await asyncio.gather(operator(), *(program(client) for _ in range(AT_ONCE)))

    asyncio.run(everybody())
    assert set(outcomes) == {"answered"}, outcomes
    codes = [door.process.wait(60) for door in doors[:-1]] + [doors[-1].stop()]
    for door in doors[:-1]:
        door.close()
    assert codes == [0, 0, 0]
    counts = usage.read(folder.root)
    assert sum(counts.values(), Usage()).calls == outcomes.total() == len(vendor.requests)
    assert {key.promotion for key in counts} >= {1, 11}


@pytest.mark.deep
def test_a_door_that_drains_ends_each_connection_with_its_answer(
    folder: RecipeFolder, vendor: ChatVendor
) -> None:
    first = start_door(folder)
    draining = threading.Event()
    vendor.answer = lambda body: "billing" if draining.wait(60) else "late"
    headers = {"authorization": f"Bearer {folder.call_key()}"}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            httpx2.post, f"{first.url}/chat/completions", json=BODY, headers=headers, timeout=60
        )
        wait_until(lambda: vendor.requests, "the call")
        second = start_door(folder, f"127.0.0.1:{first.port}")
        wait_until(lambda: "draining: 1 connections" in first.log, "the drain")
        draining.set()
        answer = waiting.result()
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert first.process.wait(60) == 0
    first.close()
    with second.client() as client:
        raw = client.chat.completions.with_raw_response.create(**BODY)
        assert "connection" not in raw.headers
    assert second.stop() == 0


@pytest.mark.deep
def test_a_worker_killed_while_it_drains_is_not_replaced(folder: RecipeFolder, vendor: ChatVendor) -> None:
    first = start_door(folder)
    draining = first.worker_pid()
    answered = threading.Event()
    vendor.answer = lambda body: "billing" if answered.wait(60) else "late"
    headers = {"authorization": f"Bearer {folder.call_key()}"}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            httpx2.post, f"{first.url}/chat/completions", json=BODY, headers=headers, timeout=60
        )
        wait_until(lambda: vendor.requests, "the call")
        second = start_door(folder, f"127.0.0.1:{first.port}")
        wait_until(lambda: "draining: 1 connections" in first.log, "the drain")
        os.kill(draining, signal.SIGKILL)
        assert isinstance(waiting.exception(), httpx2.HTTPError)
        answered.set()
    assert first.process.wait(60) == 0
    first.close()
    predecessor = find_predecessor(folder.root)
    assert predecessor is not None and predecessor.pid == second.worker_pid()
    predecessor.listener.close()
    predecessor.connection.close()
    assert second.stop() == 0


@pytest.fixture
def keeper(folder: RecipeFolder) -> Iterator[Keeper]:
    """Keeps what each test runs in a worker's place."""
    folder.root.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Keeper(folder.root, listener, [])


def start(keeper: Keeper, folder: RecipeFolder, program: str) -> str:
    keeper._command = [sys.executable, "-c", program]
    with only_successor(folder.root) as lock:
        return keeper.start_worker(lock)


def test_a_worker_that_hangs_at_its_start_is_ended(
    keeper: Keeper, folder: RecipeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_main, "LONGEST_START_S", 0.2)
    assert start(keeper, folder, "import time; time.sleep(60)") == ""
    assert keeper.keep() == -signal.SIGKILL


def test_a_door_that_is_stopped_between_two_workers_starts_none(
    keeper: Keeper, folder: RecipeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(keeper, folder, "print('ready'); raise SystemExit(1)") == "ready"
    monkeypatch.setattr("time.sleep", lambda pause: keeper.stop(signal.SIGTERM, None))
    keeper._command = ["/there/is/no/such/program"]
    assert keeper.keep() == 0


def test_a_door_that_is_stopped_while_it_starts_takes_no_socket() -> None:
    server = DoorServer(server_config(Starlette(), 1), DoorState(), 1)
    has_begun = threading.Event()
    server.on_start = has_begun.set
    server.handle_exit(signal.SIGTERM, None)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        pool.submit(server.run, [listener]).result(20)  # in a thread, where uvicorn leaves signals alone
    assert server.started and not has_begun.is_set()


def test_another_users_process_gets_no_socket(folder: RecipeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("the mode of the socket decides there")
    folder.root.mkdir()
    taken = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Successors(folder.root, listener, "127.0.0.1", taken.set).open()
        me = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
        with pytest.raises(HandoverError, match="another user"):
            find_predecessor(folder.root)
        monkeypatch.undo()
        predecessor = find_predecessor(folder.root)
        assert predecessor is not None and predecessor.pid == os.getpid()
        predecessor.listener.close()
        predecessor.release()
        assert taken.wait(20)


@pytest.mark.deep
def test_a_killed_worker_fails_only_the_calls_under_way(folder: RecipeFolder, vendor: ChatVendor) -> None:
    outcomes: Counter[str] = Counter()
    with serve_door(folder) as door:
        kills = 2

        async def program(client: httpx2.AsyncClient) -> None:
            while outcomes.total() < CALLS:
                outcomes[await call(client, door.url, is_stream=False)] += 1

        async def killer() -> None:
            for number in range(kills):
                while outcomes.total() < (number + 1) * CALLS // (kills + 1):
                    await asyncio.sleep(0.005)
                os.kill(await asyncio.to_thread(door.worker_pid), signal.SIGKILL)

        async def everybody() -> None:
            headers = {"authorization": f"Bearer {folder.call_key()}"}
            async with httpx2.AsyncClient(headers=headers, timeout=60) as client:
                await asyncio.gather(killer(), *(program(client) for _ in range(AT_ONCE)))

        asyncio.run(everybody())
    failed = outcomes.total() - outcomes["answered"]
    assert 0 < failed <= kills * AT_ONCE, outcomes


@pytest.mark.deep
def test_a_worker_goes_on_alone_until_another_door_takes_over(
    folder: RecipeFolder, vendor: ChatVendor
) -> None:
    first = start_door(folder)
    first.process.kill()
    first.process.wait(20)
    first.close()
    alone = first.worker_pid()
    assert first.client().chat.completions.create(**BODY).choices[0].message.content == "billing"
    second = start_door(folder, f"127.0.0.1:{first.port}")
    wait_until(lambda: second.worker_pid() != alone, "the second worker")
    assert second.client().chat.completions.create(**BODY).choices[0].message.content == "billing"
    assert second.stop() == 0
    wait_until(lambda: not Path(f"/proc/{alone}").exists(), "the first worker's end")
    assert not list(folder.root.glob(f"{SOCKET}.*"))


def test_a_successor_that_dies_before_it_answers_changes_nothing(
    folder: RecipeFolder, vendor: ChatVendor
) -> None:
    with serve_door(folder) as door:
        predecessor = find_predecessor(folder.root)
        assert predecessor is not None and predecessor.port == door.port
        predecessor.listener.close()
        predecessor.connection.close()
        with door.client() as client:
            assert client.chat.completions.create(**BODY).choices[0].message.content == "billing"


@pytest.mark.deep
def test_another_address_is_opened_before_the_old_one_is_given_up(
    folder: RecipeFolder, vendor: ChatVendor
) -> None:
    first = start_door(folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "trainers.door", "--folder", str(folder.root)]
        refused = subprocess.run(
            [*command, "--address", f"127.0.0.1:{port}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"door: port {port} on 127.0.0.1 cannot be used" in refused.stderr
    assert first.process.poll() is None
    second = start_door(folder, f"127.0.0.1:{port}")
    assert first.process.wait(60) == 0
    first.close()
    assert (second.port, second.stop()) == (port, 0)


def test_the_folder_is_this_users_alone(folder: RecipeFolder, vendor: ChatVendor) -> None:
    with serve_door(folder):
        modes = {
            name: stat.S_IMODE((folder.root / name).stat().st_mode)
            for name in (SOCKET, "call.key", "door.lock")
        }
    assert set(modes.values()) == {0o600}, modes


def test_what_is_no_door_is_not_waited_for(folder: RecipeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.door.handover.ANSWER_S", 0.2)
    folder.root.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        here = Path.cwd()
        os.chdir(folder.root)
        silent.bind(SOCKET)
        os.chdir(here)
        silent.listen()
        with pytest.raises(HandoverError, match="gives no answer"):
            find_predecessor(folder.root)
    assert find_predecessor(folder.root) is None, "a socket that nobody listens on is no door"


def test_counts_that_are_being_stored_at_the_end_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.door.counts.FLUSH_S", 0)
    counts = UsageCounts(tmp_path)
    counts.add(1, "recipe", ANSWERED)
    is_free = threading.Event()

    async def end_while_storing() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, is_free.wait)
        keeping = asyncio.create_task(counts.keep_storing())
        for _ in range(5):
            await asyncio.sleep(0)
        keeping.cancel()
        await asyncio.sleep(0)
        is_free.set()
        await busy
        await counts.store()

    asyncio.run(end_while_storing())
    assert sum(usage.read(tmp_path).values(), Usage()) == ANSWERED


@pytest.mark.slow
def test_a_kill_loses_a_second_of_counts_at_most(folder: RecipeFolder, vendor: ChatVendor) -> None:
    door: Door = start_door(folder)
    with door.client() as client:
        client.chat.completions.create(**BODY)
    wait_until(lambda: usage.read(folder.root), "the count")
    os.kill(door.worker_pid(), signal.SIGKILL)
    assert door.client().chat.completions.create(**BODY).choices[0].message.content == "billing"
    assert door.stop() == 0
    assert sum(usage.read(folder.root).values(), Usage()).calls == 2


def test_a_door_starts_where_the_locale_has_only_ascii(
    folder: RecipeFolder, vendor: ChatVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first line has a letter beyond ASCII, which its two processes pass on."""
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
    with serve_door(folder) as door:
        health = httpx2.get(door.url.replace("/v1", "/healthz"))
    assert health.json()["status"] == "ok"
