"""What the door costs: against calling the vendor directly, in the same seconds.

`python benchmarks/door.py [PART …] [--calls N] [--short]`. Parts, all by default:

    overhead     at 50 calls a second, a vendor that answers after 30 ms: the door's CPU time, and what it adds; then
                 its CPU time beside that of a bare proxy with the same libraries
    stream       the same for the first byte of a stream of 20 parts, 5 ms apart
    long         50 calls a second of 3 s each, so that 150 are open
    open         as many calls as the door takes with 200 open, a vendor that answers at once
    restarts     100 calls a second of 0.2 s, without a retry, across four handovers and ten promotions; then a kill
    memory       of the door without and with free candidates
    samples      at 50 calls a second: two doors, of which one stores every call, with personal data to mask
    free         labels a second from free candidates through the door, one call at a time of eight callers

The vendor, the door and the caller share the machine. The door's CPU time is firm; times on the wall depend on what
else runs, so each is compared with a direct call that began at the same moment."""

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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks._calls import Answer, Caller, all_open, at_rate, quantile  # noqa: E402
from tests.peers.chat_vendor import KEY  # noqa: E402
from tests.trainers.door.doors import NAME, PROMPT, Door, add_vendor, put_in_use, start_door  # noqa: E402
from trainers.dataset import Example, read  # noqa: E402
from trainers.encoders import DEFAULT_ENCODER  # noqa: E402
from trainers.encoders.embedding import load_encoder  # noqa: E402
from trainers.recipes.classical import freeze_classical  # noqa: E402
from trainers.recipes.encoder import freeze_encoder  # noqa: E402
from trainers.recipes.folder import RecipeFolder  # noqa: E402
from trainers.recipes.samples import count  # noqa: E402
from trainers.recipes.values import Published, Recipe, Sampling, Shot  # noqa: E402

TICKETS = ROOT / "examples" / "support_tickets.csv"
SEED = 20261124
SHOTS = 10
RATE = 50
TEXT = "My card was charged twice for the same order and I would like the second amount back please"
WORDS = TEXT.split()
# Our own targets, printed beside each figure.
TARGETS = {
    "overhead": "CPU 2 ms, p50 +3 ms, p99 +10 ms",
    "stream": "p50 +3 ms, p99 +10 ms",
    "long": "CPU 2 ms, p50 +3 ms, p99 +10 ms",
    "open": "700/s",
    "restarts": "0 failed",
    "samples": "CPU +1 ms, p50 +1 ms",
    "memory": "80 MB, 320 MB with an encoder",
    "free": "classical 1,000/s, encoder 110/s at 32 tokens and 40/s at 128, for a core",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    calls = 40 if options.short else options.calls
    for part in options.parts or TARGETS:
        print(f"{part} (target: {TARGETS[part]})", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            for line in PARTS[part](RecipeFolder(Path(folder) / "serving"), calls):
                print(f"  {line}", flush=True)


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
class Pair:
    """A caller of the door and one of its vendor, who begin their calls together."""

    door: Caller
    direct: Caller
    body: bytes

    async def run(self, rate: float, calls: int) -> tuple[list[Answer], list[Answer]]:
        at_door, direct = await at_rate(
            rate, calls, [lambda: self.door.post(self.body), lambda: self.direct.post(self.body)]
        )
        self.door.close()
        self.direct.close()
        return at_door, direct


def pair_of(door: Door, url: str, body: bytes) -> Pair:
    key = door.folder.call_key()
    return Pair(Caller(f"{door.url}/chat/completions", key), Caller(f"{url}/chat/completions", KEY), body)


def cpu_s(pid: int) -> float:
    """Returns the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_text(door: Door) -> str:
    """The memory that the machine has less while the door runs (Pss), and the sum of what its two processes have mapped
    (Rss), which counts the pages that both share twice. Linux only."""
    kilobytes: Counter[str] = Counter()
    for pid in (door.process.pid, door.worker_pid()):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss:", "Rss:")):
                name, amount, _ = line.split()
                kilobytes[name] += int(amount)
    return f"{kilobytes['Pss:'] // 1024} MB ({kilobytes['Rss:'] // 1024} MB mapped)"


def added(at_door: list[Answer], direct: list[Answer], *, first_byte: bool = False) -> str:
    failures = Counter(answer.failure for answer in at_door if answer.failure)

    def times(answers: list[Answer]) -> list[float]:
        return [answer.first_byte_s if first_byte else answer.total_s for answer in answers]

    parts = []
    for share in (0.5, 0.99):
        ours = quantile(times(at_door), share)
        theirs = quantile(times(direct), share)
        parts.append(f"p{share * 100:.0f} {theirs * 1000:.1f} + {(ours - theirs) * 1000:.1f} ms")
    return f"{', '.join(parts)}; {sum(failures.values())} of {len(at_door)} failed {dict(failures) or ''}"


def paired(
    folder: RecipeFolder, calls: int, *options: str, first_byte: bool = False, **more: object
) -> Iterator[str]:
    with serve_both(folder, *options) as (door, url):
        pair = pair_of(door, url, request_body(NAME, **more))
        asyncio.run(pair.run(RATE, min(calls, 100)))  # to open connections
        before = cpu_s(door.worker_pid())
        at_door, direct = asyncio.run(pair.run(RATE, calls))
        used_ms = (cpu_s(door.worker_pid()) - before) / calls * 1000
        yield f"CPU {used_ms:.2f} ms a call; {added(at_door, direct, first_byte=first_byte)}"


def overhead(folder: RecipeFolder, calls: int) -> Iterator[str]:
    yield from paired(folder, calls, "--delay", "0.03")
    with (
        serve_both(folder, "--delay", "0.03") as (door, url),
        _serve("benchmarks._bare_proxy", url) as (bare_url, bare_pid),
    ):
        callers = Pair(
            Caller(f"{door.url}/chat/completions", folder.call_key()),
            Caller(f"{bare_url}/chat/completions", "-"),
            request_body(NAME),
        )
        asyncio.run(callers.run(RATE, min(calls, 100)))
        before = (cpu_s(door.worker_pid()), cpu_s(bare_pid))
        asyncio.run(callers.run(RATE, calls))
        used = (cpu_s(door.worker_pid()) - before[0], cpu_s(bare_pid) - before[1])
        ours_ms, bare_ms = (seconds / calls * 1000 for seconds in used)
        yield f"CPU {ours_ms:.2f} ms a call, and {bare_ms:.2f} of a bare proxy with the same libraries"


def stream(folder: RecipeFolder, calls: int) -> Iterator[str]:
    options = ("--delay", "0.03", "--part", "0.005", "--parts", "20")
    yield from paired(folder, calls, *options, first_byte=True, stream=True)


def long(folder: RecipeFolder, calls: int) -> Iterator[str]:
    yield from paired(folder, calls, "--delay", "3")


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
    for is_stream in (False, True):
        body = request_body(NAME, f"{TEXT}, and write to anna@example.org", stream=is_stream)
        callers = [Caller(f"{door.url}/chat/completions", door.folder.call_key()) for door in (every, none)]
        pair = Pair(callers[0], callers[1], body)
        asyncio.run(pair.run(RATE, min(calls, 100)))
        pids = [door.worker_pid() for door in (every, none)]
        before = [cpu_s(pid) for pid in pids]
        stored, not_stored = asyncio.run(pair.run(RATE, calls))
        time.sleep(2)  # until the last ones are stored
        used_ms = [(cpu_s(pid) - at) / calls * 1000 for pid, at in zip(pids, before, strict=True)]
        kind = "streams" if is_stream else "calls"
        yield (
            f"{kind}: CPU {used_ms[1]:.2f} + {used_ms[0] - used_ms[1]:.2f} ms a call; "
            f"{added(stored, not_stored)}; {count(every.folder.root, NAME)} are stored"
        )
    yield f"memory: {memory_text(none)} without, {memory_text(every)} with samples"


def open_calls(folder: RecipeFolder, calls: int) -> Iterator[str]:
    with serve_both(folder) as (door, url):
        pair = pair_of(door, url, request_body(NAME))
        for which, caller in (("door", pair.door), ("vendor itself", pair.direct)):
            rate, used_ms, failed = asyncio.run(_saturate(caller, pair.body, calls, door.worker_pid()))
            yield f"{which}: {rate:.0f}/s, the door's CPU {used_ms:.2f} ms a call, {failed} of {calls} failed"


async def _saturate(caller: Caller, body: bytes, calls: int, pid: int) -> tuple[float, float, int]:
    await all_open(min(calls, 400), 200, lambda: caller.post(body))
    before = cpu_s(pid)
    began = time.perf_counter()
    answers = await all_open(calls, 200, lambda: caller.post(body))
    took_s = time.perf_counter() - began
    caller.close()
    failed = sum(bool(answer.failure) for answer in answers)
    return calls / took_s, (cpu_s(pid) - before) / calls * 1000, failed


def restarts(folder: RecipeFolder, calls: int) -> Iterator[str]:
    for is_stream in (False, True):
        with serve_both(folder, "--delay", "0.2", "--part", "0.01") as (door, url):
            pair = pair_of(door, url, request_body(NAME, stream=is_stream))
            doors = [door]
            operator = threading.Thread(target=_replace, args=(folder, doors, calls))
            operator.start()
            answers = asyncio.run(_load(pair, calls))
            operator.join()
            kind = "streams" if is_stream else "calls"
            yield f"{kind}, {len(doors) - 1} handovers, ten promotions: {_failed(answers)}"
            newest = doors[-1]
            killer = threading.Timer(calls / 400, os.kill, (newest.worker_pid(), signal.SIGKILL))
            killer.start()
            answers = asyncio.run(_load(pair, calls // 2))
            yield f"{kind}, one kill -9 of the worker: {_failed(answers)}"
            for each in doors[1:]:
                each.stop()


async def _load(pair: Pair, calls: int) -> list[Answer]:
    (answers,) = await at_rate(100, calls, [lambda: pair.door.post(pair.body)])
    pair.door.close()
    return answers


def _replace(folder: RecipeFolder, doors: list[Door], calls: int) -> None:
    pause_s = calls / 100 / 12
    for number in range(10):
        time.sleep(pause_s)
        put_in_use(folder, replace(prompt_in_use(), prompt=f"Which team answers? {number}"), promotion=number)
        if number in (1, 3, 5, 7):
            doors.append(start_door(folder, f"127.0.0.1:{doors[0].port}"))


def _failed(answers: list[Answer]) -> str:
    failures = Counter(answer.failure for answer in answers if answer.failure)
    return f"{sum(failures.values())} of {len(answers)} failed {dict(failures) or ''}"


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


def memory(folder: RecipeFolder, calls: int) -> Iterator[str]:
    with serve_both(folder) as (door, url):
        pair = pair_of(door, url, request_body(NAME))
        asyncio.run(pair.run(RATE, min(calls, 200)))
        yield f"prompt in use: {memory_text(door)}"
    for kind in ("classical", "encoder"):
        free_recipe(folder, kind)
        door = start_door(folder)
        try:
            caller = Caller(f"{door.url}/chat/completions", folder.call_key())
            asyncio.run(_saturate_with(caller, [request_body(NAME)], 50))
            yield f"{kind} in use: {memory_text(door)}"
        finally:
            door.stop()


def free(folder: RecipeFolder, calls: int) -> Iterator[str]:
    for kind, word_counts in (("classical", (25,)), ("encoder", (22, 98))):
        free_recipe(folder, kind)
        door = start_door(folder)
        try:
            for words in word_counts:
                caller = Caller(f"{door.url}/chat/completions", folder.call_key())
                bodies = [
                    request_body(NAME, f"{number} " + " ".join((WORDS * 9)[:words])) for number in range(50)
                ]
                count = calls if kind == "classical" else max(calls // 4, 10)
                before = cpu_s(door.worker_pid())
                rate = asyncio.run(_saturate_with(caller, bodies, count))
                used_ms = (cpu_s(door.worker_pid()) - before) / count * 1000
                yield (
                    f"{kind}, {words} words: {rate:.0f}/s, CPU {used_ms:.2f} ms a call = "
                    f"{1000 / used_ms:.0f}/s for a core"
                )
        finally:
            door.stop()


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
    "samples": samples,
    "memory": memory,
    "free": free,
}

if __name__ == "__main__":
    main()
