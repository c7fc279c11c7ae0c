"""What the door costs: against calling the vendor directly, in the same seconds.

`python benchmarks/door.py [PART …] [--calls N] [--short]`. Parts, all by default:

    overhead     at 50 calls a second, a vendor that answers after 30 ms: the door's CPU time, and what it adds
    stream       the same for the first byte of a stream of 20 parts, 5 ms apart
    long         50 calls a second of 3 s each, so that 150 are open
    open         as many calls as the door takes with 200 open, a vendor that answers at once
    restarts     100 calls a second of 0.2 s, without a retry, across four handovers and ten promotions; then a kill
    canary       at 50 calls a second, a candidate that answers a tenth of the conversations: it is killed, or hangs
    samples      at 50 calls a second: two doors, of which one stores every call, with personal data to mask
    memory       of the door without and with free candidates
    free         labels a second from free candidates through the door, one call at a time of eight callers

The vendor, the door and the caller share the machine, whose speed depends on what else runs. So each figure has a peer
of the same seconds beside it, and its ratio to that: a call of the vendor itself, a bare proxy with the door's
libraries (_bare_proxy.py), or a free candidate that answers without a door. The door's CPU time is that of its worker;
it is firmer than times on the wall."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks._calls import Answer, Caller, all_open, at_rate, quantile  # noqa: E402
from tests.peers.chat_vendor import KEY  # noqa: E402
from tests.trainers.door.doors import NAME, PROMPT, Door, add_vendor, put_in_use, start_door  # noqa: E402
from trainers.dataset import Example, read  # noqa: E402
from trainers.encoders import DEFAULT_ENCODER  # noqa: E402
from trainers.encoders.embedding import load_encoder  # noqa: E402
from trainers.recipes import canary_events, usage  # noqa: E402
from trainers.recipes.classical import freeze_classical  # noqa: E402
from trainers.recipes.encoder import freeze_encoder  # noqa: E402
from trainers.recipes.folder import RecipeFolder  # noqa: E402
from trainers.recipes.free import FreeAnswerer, open_free  # noqa: E402
from trainers.recipes.samples import count  # noqa: E402
from trainers.recipes.usage import Usage  # noqa: E402
from trainers.recipes.values import (  # noqa: E402
    Published,
    PublishedTest,
    Recipe,
    Sampling,
    Shot,
    Upstream,
    Upstreams,
)

TICKETS = ROOT / "examples" / "support_tickets.csv"
SEED = 20261124
SHOTS = 10
RATE = 50
TEXT = "My card was charged twice for the same order and I would like the second amount back please"
WORDS = TEXT.split()
# Our own targets.
CPU_MS = 2.0
ADDED_P50_MS = 3.0
ADDED_P99_MS = 10.0
OPEN_A_SECOND = 700.0
CANARY_SHARE = 0.1
STOP_S = 1.0  # from the candidate's first error after its end to that of the canary
SAMPLE_MS = 1.0  # of CPU, and added at p50
PROMPT_MB = 80.0
ENCODER_MB = 320.0
CLASSICAL_A_SECOND = 1_000.0
SHORT_A_SECOND = 110.0  # encoder, 32 tokens
LONG_A_SECOND = 40.0  # encoder, 128 tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    calls = 40 if options.short else options.calls
    for part in options.parts or PARTS:
        print(part, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            for line in PARTS[part](RecipeFolder(Path(folder) / "serving"), calls):
                print(f"  {line}", flush=True)


def at_most(target: float, value: float) -> str:
    return f"(at most {target:g}: {'met' if value <= target else 'not met'})"


def at_least(target: float, value: float) -> str:
    return f"(at least {target:g}: {'met' if value >= target else 'not met'})"


@contextmanager
def serve_vendor(*options: str) -> Iterator[str]:
    """Runs the vendor in a process of its own. Yields its address."""
    with _serve("tests.peers.chat_vendor", *options) as (url, _):
        yield url


@contextmanager
def _serve(module: str, *options: str) -> Iterator[tuple[str, int]]:
    """Runs a module that prints its address. Yields that and its process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextmanager
def serve_both(folder: RecipeFolder, *options: str) -> Iterator[tuple[Door, str]]:
    """Runs a vendor and a door in front of it, with a prompt of ten examples in use."""
    with serve_vendor(*options) as url:
        add_vendor(folder, url)
        put_in_use(folder, prompt_in_use())
        door = start_door(folder)
        try:
            yield door, url
        finally:
            door.stop()


def prompt_in_use() -> Recipe:
    shots = [Shot(" ".join(WORDS[number:]), "billing") for number in range(SHOTS)]
    return replace(PROMPT, shots=tuple(shots))


def request_body(model: str, text: str = TEXT, **more: object) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **more}).encode()


@dataclass(frozen=True)
class Callers:
    """Callers of several servers, who begin their calls together."""

    callers: tuple[Caller, ...]
    body: bytes

    async def run(self, rate: float, calls: int) -> list[list[Answer]]:
        posts = [partial(caller.post, self.body) for caller in self.callers]
        answers = await at_rate(rate, calls, posts)
        for caller in self.callers:
            caller.close()
        return answers


@dataclass(frozen=True)
class Peers:
    """A door and a bare proxy before the same vendor, whose callers are in this order. `pids` are of the first two."""

    callers: Callers
    pids: tuple[int, int]

    def cpu_s(self) -> list[float]:
        return [cpu_s(pid) for pid in self.pids]


@contextmanager
def serve_peers(folder: RecipeFolder, *options: str, **more: object) -> Iterator[Peers]:
    with serve_both(folder, *options) as (door, url), _serve("benchmarks._bare_proxy", url) as (bare, pid):
        callers = (
            Caller(f"{door.url}/chat/completions", folder.call_key()),
            Caller(f"{bare}/chat/completions", "-"),
            Caller(f"{url}/chat/completions", KEY),
        )
        yield Peers(Callers(callers, request_body(NAME, **more)), (door.worker_pid(), pid))


def cpu_s(pid: int) -> float:
    """Returns the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(door: Door) -> tuple[int, int]:
    """Returns the memory that the machine has less while the door runs (Pss), and the sum of what its two processes
    have mapped (Rss), which counts the pages that both share twice. Linux only."""
    kilobytes: Counter[str] = Counter()
    for pid in (door.process.pid, door.worker_pid()):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss:", "Rss:")):
                name, amount, _ = line.split()
                kilobytes[name] += int(amount)
    return kilobytes["Pss:"] // 1024, kilobytes["Rss:"] // 1024


def failures(answers: list[Answer]) -> str:
    words = Counter(answer.failure for answer in answers if answer.failure)
    return f"{sum(words.values())} of {len(answers)} failed {dict(words) or ''}".rstrip()


def times_ms(answers: list[Answer], share: float, *, first_byte: bool = False) -> float:
    seconds = [answer.first_byte_s if first_byte else answer.total_s for answer in answers]
    return quantile(seconds, share) * 1000


def paired(
    folder: RecipeFolder, calls: int, *options: str, first_byte: bool = False, **more: object
) -> Iterator[str]:
    with serve_peers(folder, *options, **more) as peers:
        asyncio.run(peers.callers.run(RATE, min(calls, 100)))  # to open connections
        before = peers.cpu_s()
        at_door, at_bare, direct = asyncio.run(peers.callers.run(RATE, calls))
        ours_ms, bare_ms = (
            (after_s - before_s) / calls * 1000
            for before_s, after_s in zip(before, peers.cpu_s(), strict=True)
        )
    judged = "" if more.get("stream") else f" {at_most(CPU_MS, ours_ms)}"  # no target for streams
    yield f"door: CPU {ours_ms:.2f} ms a call{judged}, {failures(at_door)}"
    yield f"bare proxy: CPU {bare_ms:.2f} ms a call, {failures(at_bare)}; ratio {ours_ms / max(bare_ms, 1e-9):.2f}"
    for share, target in ((0.5, ADDED_P50_MS), (0.99, ADDED_P99_MS)):
        ours, bare, theirs = (
            times_ms(each, share, first_byte=first_byte) for each in (at_door, at_bare, direct)
        )
        yield (
            f"p{share * 100:.0f}: vendor {theirs:.1f} ms, door {ours - theirs:+.1f} {at_most(target, ours - theirs)}, "
            f"bare proxy {bare - theirs:+.1f}"
        )


def overhead(folder: RecipeFolder, calls: int) -> Iterator[str]:
    yield from paired(folder, calls, "--delay", "0.03")


def stream(folder: RecipeFolder, calls: int) -> Iterator[str]:
    options = ("--delay", "0.03", "--part", "0.005", "--parts", "20")
    yield from paired(folder, calls, *options, first_byte=True, stream=True)


def long(folder: RecipeFolder, calls: int) -> Iterator[str]:
    yield from paired(folder, calls, "--delay", "3")


def open_calls(folder: RecipeFolder, calls: int) -> Iterator[str]:
    with serve_peers(folder) as peers:
        body = peers.callers.body
        of_door, of_bare, direct = peers.callers.callers
        door_pid, bare_pid = peers.pids
        bare = asyncio.run(_saturate(of_bare, body, calls, bare_pid))
        door = asyncio.run(_saturate(of_door, body, calls, door_pid))
        vendor = asyncio.run(_saturate(direct, body, calls, door_pid))
    yield f"door: {door.text} {at_least(OPEN_A_SECOND, door.a_second)}"
    yield (
        f"bare proxy: {bare.text}; ratio of calls {door.a_second / bare.a_second:.2f}, "
        f"of CPU {door.cpu_ms / max(bare.cpu_ms, 1e-9):.2f}"
    )
    yield f"vendor itself: {vendor.a_second:.0f}/s"


@dataclass(frozen=True)
class Saturated:
    a_second: float
    cpu_ms: float
    failures: str

    @property
    def text(self) -> str:
        return f"{self.a_second:.0f}/s, CPU {self.cpu_ms:.2f} ms a call, {self.failures}"


async def _saturate(caller: Caller, body: bytes, calls: int, pid: int) -> Saturated:
    await all_open(min(calls, 400), 200, lambda: caller.post(body))
    before = cpu_s(pid)
    began = time.perf_counter()
    answers = await all_open(calls, 200, lambda: caller.post(body))
    took_s = time.perf_counter() - began
    caller.close()
    return Saturated(calls / took_s, (cpu_s(pid) - before) / calls * 1000, failures(answers))


def restarts(folder: RecipeFolder, calls: int) -> Iterator[str]:
    for is_stream in (False, True):
        with serve_both(folder, "--delay", "0.2", "--part", "0.01") as (door, _):
            caller = Caller(f"{door.url}/chat/completions", folder.call_key())
            body = request_body(NAME, stream=is_stream)
            doors = [door]
            operator = threading.Thread(target=_replace, args=(folder, doors, calls))
            operator.start()
            answers = asyncio.run(_load(caller, body, calls))
            operator.join()
            kind = "streams" if is_stream else "calls"
            failed = sum(bool(answer.failure) for answer in answers)
            yield (
                f"{kind}, {len(doors) - 1} handovers, ten promotions: {failures(answers)} {at_most(0, failed)}"
            )
            newest = doors[-1]
            killer = threading.Timer(calls / 400, os.kill, (newest.worker_pid(), signal.SIGKILL))
            killer.start()
            answers = asyncio.run(_load(caller, body, calls // 2))
            yield f"{kind}, one kill -9 of the worker: {failures(answers)}"
            for each in doors[1:]:
                each.stop()


async def _load(caller: Caller, body: bytes, calls: int) -> list[Answer]:
    (answers,) = await at_rate(100, calls, [lambda: caller.post(body)])
    caller.close()
    return answers


def _replace(folder: RecipeFolder, doors: list[Door], calls: int) -> None:
    pause_s = calls / 100 / 12
    for number in range(10):
        time.sleep(pause_s)
        put_in_use(folder, replace(prompt_in_use(), prompt=f"Which team answers? {number}"), promotion=number)
        if number in (1, 3, 5, 7):
            doors.append(start_door(folder, f"127.0.0.1:{doors[0].port}"))


def canary(folder: RecipeFolder, calls: int) -> Iterator[str]:
    endings = ((signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGSTOP, False))
    with serve_both(folder, "--delay", "0.03", "--part", "0.005") as (door, url):
        for number, (end, is_stream) in enumerate(endings, 1):
            with _serve("tests.peers.chat_vendor", "--delay", "0.03", "--part", "0.005") as (next_url, pid):
                yield from _break_candidate(door, (url, next_url), number, (pid, end), calls, is_stream)


def _break_candidate(
    door: Door, urls: tuple[str, str], number: int, kill: tuple[int, int], calls: int, is_stream: bool
) -> Iterator[str]:
    """Ends the candidate's process in the middle of the calls, each of which is a conversation."""
    pid, end = kill
    folder = door.folder
    folder.publish_upstreams(
        Upstreams(
            tuple(Upstream(name, url, "ACME_KEY") for name, url in zip(("acme", "next"), urls, strict=True))
        )
    )
    candidate = folder.add(replace(prompt_in_use(), provider="next", prompt="Which team is it?"), {})
    live_test = PublishedTest(number, candidate.sha256, slow_s=1.0, share=CANARY_SHARE)
    put_in_use(folder, prompt_in_use(), promotion=number, live_test=live_test)
    time.sleep(2)  # until it is under way
    caller = Caller(f"{door.url}/chat/completions", folder.call_key())
    ended_at: list[float] = []

    def end_candidate() -> None:
        os.kill(pid, end)
        ended_at.append(time.time())

    threading.Timer(calls / RATE / 2, end_candidate).start()
    answers = asyncio.run(_call_with_conversations(caller, calls, is_stream))
    time.sleep(2)  # until the last events are stored
    if end == signal.SIGSTOP:
        os.kill(pid, signal.SIGCONT)  # else it could not be ended
    what = "killed" if end == signal.SIGKILL else "hangs"
    kind = "streams" if is_stream else "calls"
    yield f"{kind}, the candidate {what}: {_canary_line(folder, number, candidate.sha256, answers, ended_at[0])}"


async def _call_with_conversations(caller: Caller, calls: int, is_stream: bool) -> list[Answer]:
    bodies = iter([request_body(NAME, f"{number} {TEXT}", stream=is_stream) for number in range(calls)])
    (answers,) = await at_rate(RATE, calls, [lambda: caller.post(next(bodies))])
    caller.close()
    return answers


def _canary_line(
    folder: RecipeFolder, number: int, sha256: str, answers: list[Answer], ended_at: float
) -> str:
    events = [event for event in canary_events.read(folder.root, number) if event.at > ended_at]
    stop = canary_events.stopped(folder.root).get(number)
    of_live_test = [
        each
        for key, each in usage.read(folder.root).items()
        if (key.promotion, key.recipe) == (number, sha256)
    ]
    counted = sum(of_live_test, Usage())
    took_s = stop - events[0].at if stop and events else float("inf")
    failed = sum(bool(answer.failure) for answer in answers)
    return (
        f"{failures(answers)} {at_most(0, failed)}; it got {counted.calls}, of which {counted.failed} failed; ended "
        f"{took_s:.2f} s after its first error {at_most(STOP_S, took_s)}; p99 {times_ms(answers, 0.99):.0f} ms"
    )


def tickets() -> tuple[Example, ...]:
    return tuple(read(TICKETS, TICKETS.name).examples)


def free_recipe(folder: RecipeFolder, kind: str) -> Recipe:
    """Stores and publishes a free candidate that has learnt from the tickets of examples/."""
    rows = tickets()
    labels = tuple(sorted({row.answer.strip() for row in rows}))
    recipe = Recipe("classical", "tickets", 1, "labels", "label", labels=labels)
    files = freeze_classical(rows, SEED, has_labels=True) if kind == "classical" else {}
    if kind == "encoder":
        recipe = replace(recipe, kind="encoder", encoder=DEFAULT_ENCODER)
        files = freeze_encoder(load_encoder(DEFAULT_ENCODER), rows, SEED, has_labels=True)
    stored = folder.add(recipe, files)
    folder.publish(Published(NAME, stored.sha256, 1))
    return stored


def samples(folder: RecipeFolder, calls: int) -> Iterator[str]:
    """Two doors with the same vendor are called at the same moments; the first of them stores every call."""
    with serve_vendor("--delay", "0.03") as url:
        doors = [
            _serve_sampled(folder.root / "every", url, 1.0),
            _serve_sampled(folder.root / "none", url, 0.0),
        ]
        try:
            yield from _compare(doors[0], doors[1], calls)
        finally:
            for door in doors:
                door.stop()


def _serve_sampled(root: Path, url: str, share: float) -> Door:
    folder = RecipeFolder(root)
    put_in_use(folder, prompt_in_use(), sampling=Sampling(share, "mask"))
    add_vendor(folder, url)
    return start_door(folder)


def _compare(every: Door, none: Door, calls: int) -> Iterator[str]:
    pids = [door.worker_pid() for door in (every, none)]
    for is_stream in (False, True):
        body = request_body(NAME, f"{TEXT}, and write to anna@example.org", stream=is_stream)
        of_doors = [Caller(f"{door.url}/chat/completions", door.folder.call_key()) for door in (every, none)]
        callers = Callers(tuple(of_doors), body)
        asyncio.run(callers.run(RATE, min(calls, 100)))
        before = [cpu_s(pid) for pid in pids]
        stored, not_stored = asyncio.run(callers.run(RATE, calls))
        time.sleep(2)  # until the last ones are stored
        used_ms = [(cpu_s(pid) - at) / calls * 1000 for pid, at in zip(pids, before, strict=True)]
        more_ms = used_ms[0] - used_ms[1]
        later_ms = times_ms(stored, 0.5) - times_ms(not_stored, 0.5)
        kind = "streams" if is_stream else "calls"
        yield (
            f"{kind}: CPU {used_ms[1]:.2f} {more_ms:+.2f} ms a call {at_most(SAMPLE_MS, more_ms)}, "
            f"p50 {later_ms:+.1f} ms {at_most(SAMPLE_MS, later_ms)}; {failures(stored)}, "
            f"{count(every.folder.root, NAME)} are stored"
        )
    yield f"memory: {memory_mb(none)[0]} MB without, {memory_mb(every)[0]} MB with samples"


def memory(folder: RecipeFolder, calls: int) -> Iterator[str]:
    with serve_both(folder) as (door, _):
        caller = Caller(f"{door.url}/chat/completions", folder.call_key())
        asyncio.run(_load(caller, request_body(NAME), min(calls, 200)))
        yield _memory_line("a prompt", door, PROMPT_MB)
    for kind, target in (("classical", PROMPT_MB), ("encoder", ENCODER_MB)):
        free_recipe(folder, kind)
        door = start_door(folder)
        try:
            caller = Caller(f"{door.url}/chat/completions", folder.call_key())
            asyncio.run(_saturate_with(caller, [request_body(NAME)], 50))
            yield _memory_line(kind, door, target)
        finally:
            door.stop()


def _memory_line(what: str, door: Door, target: float) -> str:
    megabytes, mapped = memory_mb(door)
    return f"{what} in use: {megabytes} MB {at_most(target, megabytes)}, {mapped} MB mapped"


def free(folder: RecipeFolder, calls: int) -> Iterator[str]:
    many = ((CLASSICAL_A_SECOND, 25),)
    few = ((SHORT_A_SECOND, 22), (LONG_A_SECOND, 98))
    for kind, times, targets in (("classical", calls, many), ("encoder", max(calls // 4, 10), few)):
        alone = open_free(folder, free_recipe(folder, kind))
        door = start_door(folder)
        try:
            for target, words in targets:
                texts = [f"{number} " + " ".join((WORDS * 9)[:words]) for number in range(50)]
                yield from _compare_free(f"{kind}, {words} words", door, alone, texts, times, target)
        finally:
            door.stop()


def _compare_free(
    what: str, door: Door, alone: FreeAnswerer, texts: list[str], times: int, target: float
) -> Iterator[str]:
    """Has texts answered through the door, and before and after it by the candidate alone, in this process."""
    pid = door.worker_pid()
    caller = Caller(f"{door.url}/chat/completions", door.folder.call_key())
    first_ms = _alone_ms(alone, texts, times)
    before = cpu_s(pid)
    rate = asyncio.run(_saturate_with(caller, [request_body(NAME, text) for text in texts], times))
    used_ms = (cpu_s(pid) - before) / times * 1000
    alone_ms = (first_ms + _alone_ms(alone, texts, times)) / 2
    yield (
        f"{what}: {rate:.0f}/s, CPU {used_ms:.2f} ms a call, so a core answers "
        f"{1000 / used_ms:.0f}/s {at_least(target, 1000 / used_ms)}"
    )
    yield f"  alone: CPU {alone_ms:.2f} ms = {1000 / alone_ms:.0f}/s; ratio {used_ms / alone_ms:.2f}"


def _alone_ms(alone: FreeAnswerer, texts: list[str], times: int) -> float:
    began = time.process_time()
    for number in range(times):
        alone.answer([texts[number % len(texts)]])
    return (time.process_time() - began) / times * 1000


async def _saturate_with(caller: Caller, bodies: list[bytes], calls: int) -> float:
    numbers = iter(range(calls))

    def call() -> object:
        return caller.post(bodies[next(numbers) % len(bodies)])

    began = time.perf_counter()
    answers = await all_open(calls, 8, call)  # type: ignore[arg-type]
    took_s = time.perf_counter() - began
    caller.close()
    assert not [answer.failure for answer in answers if answer.failure]
    return calls / took_s


PARTS = {
    "overhead": overhead,
    "stream": stream,
    "long": long,
    "open": open_calls,
    "restarts": restarts,
    "canary": canary,
    "samples": samples,
    "memory": memory,
    "free": free,
}

if __name__ == "__main__":
    main()
