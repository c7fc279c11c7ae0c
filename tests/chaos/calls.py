"""A storm on the door: programs call `team/tickets` while doors and their workers are killed and replaced, promotions
come and go, and the process behind one of the recipes is killed too.

Each answer must be one that was in use at some time during its call, and no call may fail without a kill to explain it.
The vendor's own record shows whether a question was paid for twice.
"""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import psutil

from tests.peers.chat_vendor import Body, ChatVendor, serve_vendor
from tests.trainers.door.doors import NAME, PROMPT, ROOT, Door, start_door
from trainers.recipes import usage
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.usage import Usage
from trainers.recipes.values import Published, Recipe, Unavailable, Upstream, Upstreams

CALLERS = 12
PROMPTS = 4  # that take turns in being in use
PAUSE_S = 0.15  # at most, between two disturbances
LONGEST_CALL_S = 30.0
ENDED_WITHIN_S = 60.0
FLUSH_S = 1.0  # how often a door stores its counts
KILLED_WITH_A_CALL = frozenset({"ReadError", "RemoteProtocolError", "ConnectError", "WriteError"})
NOT_IN_USE = Unavailable(404, "not_in_use", "Nothing is in use as team/tickets.")
TRAINER = "trainer"
FROM_TRAINER = "the trainer"
NOTHING = "nothing"


@dataclass
class CallVerdict:
    """`wrong` answers were of a recipe that was not in use during the call. `lost` calls failed without a kill.
    `twice` questions reached the vendor more than once. `miscounted` calls are missing in the counts, or too many, for
    another reason than a kill."""

    calls: int = 0
    answered: int = 0
    killed: int = 0
    wrong: int = 0
    lost: int = 0
    twice: int = 0
    miscounted: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return self.wrong == self.lost == self.twice == self.miscounted == 0 and not self.problems


@dataclass(frozen=True)
class Call:
    """One call: its number, when it began and ended (monotonic seconds), and what came of it: the recipe that answered
    by its mark, or an error in a word."""

    number: int
    began: float
    ended: float
    outcome: str


class CallStorm:
    """`kills` processes are killed, of doors and of the trainer; promotions and planned restarts come in between."""

    def __init__(self, folder: Path, kills: int, seed: int = 21) -> None:
        self.folder = RecipeFolder(folder / "serving")
        self.wanted = kills
        self.kills: Counter[str] = Counter()
        self.done: Counter[str] = Counter()  # disturbances without a kill
        self._chance = random.Random(seed)
        self._vendor = ChatVendor(answer=mark_and_question, delay_s=0.02, keeps_record=True)
        self._doors: list[Door] = []
        self._trainer: subprocess.Popen[str] | None = None
        self._calls: list[Call] = []
        # What was in use from when on, and when something was killed or began to answer again.
        self._history: list[tuple[float, str]] = []
        self._down: list[tuple[float, float, str]] = []
        self._numbers = 0

    def run(self) -> CallVerdict:
        with ExitStack() as stack:
            stack.enter_context(serve_vendor(self._vendor))
            stack.callback(self._end)
            self._start_trainer()
            self._promote(0)
            self._doors.append(start_door(self.folder))
            asyncio.run(self._rage())
            codes = [door.stop() for door in self._doors if door.process.poll() is None]
        verdict = self._judge()
        if any(codes):
            verdict.problems.append(f"doors ended with {codes}")
        return verdict

    async def _rage(self) -> None:
        over = asyncio.Event()
        headers = {"authorization": f"Bearer {self.folder.call_key()}"}
        async with httpx2.AsyncClient(headers=headers, timeout=LONGEST_CALL_S) as client:
            callers = [asyncio.create_task(self._program(client, over)) for _ in range(CALLERS)]
            while sum(self.kills.values()) < self.wanted:
                await asyncio.sleep(self._chance.uniform(0, PAUSE_S))
                await self._disturb()
            over.set()
            await asyncio.gather(*callers)

    async def _program(self, client: httpx2.AsyncClient, over: asyncio.Event) -> None:
        while not over.is_set():
            self._numbers += 1
            number = self._numbers
            began = time.monotonic()
            outcome = await self._call(client, number)
            self._calls.append(Call(number, began, time.monotonic(), outcome))
            if outcome in KILLED_WITH_A_CALL:
                await asyncio.sleep(0.02)  # nobody listens until another door has started

    async def _call(self, client: httpx2.AsyncClient, number: int) -> str:
        question = {"role": "user", "content": f"Question {number}"}
        body: Body = {"model": NAME, "messages": [question]}
        try:
            answer = await client.post(f"{self._doors[0].url}/chat/completions", json=body)
        except httpx2.HTTPError as error:
            return type(error).__name__
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.json()['error']['code']}"
        text = answer.json()["choices"][0]["message"]["content"]
        mark, _, question = text.rpartition("/")
        if question != str(number):
            return f"the answer to question {question}"
        return str(mark)

    async def _disturb(self) -> None:
        disturbance = self._chance.choices(
            [
                self._promote_another,
                self._take_out_of_use,
                self._replace_door,
                self._kill_worker,
                self._kill_trainer,
            ],
            weights=[8, 1, 2, 4, 1],
        )[0]
        await disturbance()

    async def _promote_another(self) -> None:
        self._promote(self._chance.randrange(PROMPTS + 1))
        self.done["promoted"] += 1

    async def _take_out_of_use(self) -> None:
        self.folder.publish(Published(NAME, unavailable=NOT_IN_USE))
        self._history.append((time.monotonic(), NOTHING))
        self.done["taken out of use"] += 1
        await asyncio.sleep(self._chance.uniform(0, PAUSE_S))
        self._promote(self._chance.randrange(PROMPTS))

    async def _replace_door(self) -> None:
        """A restart: a planned one, or one after the process that keeps the worker was killed."""
        port = self._doors[0].port
        at = time.monotonic()
        keeps_socket = True
        if self._chance.random() < 1 / 2:
            keeps_socket = self._kill_keeper()
            self.kills["a worker's keeper"] += 1
        self._doors.append(await asyncio.to_thread(start_door, self.folder, f"127.0.0.1:{port}"))
        self.done["replaced"] += 1
        if not keeps_socket:
            self._down.append((at, time.monotonic(), "door"))

    def _kill_keeper(self) -> bool:
        """Returns False if no worker has the socket either, as while another is about to start in place of one that was
        killed: then the calls that wait in its queue fail, and the next ones, until another door has started."""
        keeper = psutil.Process(self._running().process.pid)
        keeper.suspend()  # so that no worker starts between the look and the kill
        has_worker = any(child.status() != psutil.STATUS_ZOMBIE for child in keeper.children())
        self._running().process.kill()
        return has_worker

    async def _kill_worker(self) -> None:
        at = time.monotonic()
        worker = psutil.Process(await asyncio.to_thread(self._running().worker_pid))
        worker.kill()
        # On a busy machine it goes on for a while, and breaks connections only then.
        await asyncio.to_thread(worker.wait, ENDED_WITHIN_S)
        self.kills["a worker"] += 1
        self._down.append((at, time.monotonic(), "door"))

    async def _kill_trainer(self) -> None:
        assert self._trainer is not None
        at = time.monotonic()
        self._trainer.kill()
        await asyncio.to_thread(self._trainer.wait, 20)
        self._close_trainer()
        self.kills["the trainer"] += 1
        await asyncio.to_thread(self._start_trainer)
        self._down.append((at, time.monotonic(), TRAINER))

    def _running(self) -> Door:
        return self._doors[-1]

    def _promote(self, number: int) -> None:
        """Puts one of the prompts in use, or the trainer's model if the number is beyond them."""
        what = FROM_TRAINER
        recipe = replace(PROMPT, kind="tuned", provider=TRAINER, model="tickets-3", prompt=None, shots=())
        if number < PROMPTS:
            what = f"take {number}"
            recipe = replace(PROMPT, prompt=f"Which team, {what}?")
        stored: Recipe = self.folder.add(recipe, {})
        # Before it is published too: a call may begin and end with the new recipe before the next line runs.
        self._history.append((time.monotonic(), what))
        self.folder.publish(Published(NAME, stored.sha256, promotion=1 + len(self._history)))

    def _start_trainer(self) -> None:
        """Starts the process behind the tuned model; its address changes with each start, as our trainer's does."""
        self._trainer = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.calls"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._trainer.stdout is not None
        address = self._trainer.stdout.readline().strip()
        vendor = Upstream("acme", self._vendor.url, "ACME_KEY")
        self.folder.publish_upstreams(Upstreams((vendor, Upstream(TRAINER, address, "ACME_KEY"))))

    def _close_trainer(self) -> None:
        assert self._trainer is not None
        assert self._trainer.stdout is not None
        self._trainer.stdout.close()

    def _end(self) -> None:
        for door in self._doors:
            if door.process.poll() is None:
                door.process.kill()
            door.process.wait(20)
            door.close()
        if self._trainer is not None:
            self._trainer.kill()
            self._trainer.wait(20)
            self._close_trainer()

    def _judge(self) -> CallVerdict:
        verdict = CallVerdict(calls=len(self._calls))
        for call in self._calls:
            in_use = self._in_use_during(call)
            if call.outcome in in_use - {NOTHING}:
                verdict.answered += 1
            elif call.outcome == "404 not_in_use" and NOTHING in in_use:
                continue
            elif self._is_explained(call):
                verdict.killed += 1
            elif call.outcome in KILLED_WITH_A_CALL or call.outcome[0].isdigit():
                verdict.lost += 1
                verdict.problems.append(f"call {call.number}: {call.outcome}, without a kill")
            else:
                verdict.wrong += 1
                verdict.problems.append(f"call {call.number}: {call.outcome}, while in use: {sorted(in_use)}")
        questions = Counter(question_of(body) for body in self._vendor.requests)
        verdict.twice = sum(count - 1 for count in questions.values())
        verdict.miscounted = self._count_miscounted(verdict)
        return verdict

    def _in_use_during(self, call: Call) -> set[str]:
        """Returns what was in use at any time between the call's begin and its end."""
        until = [at for at, _ in self._history[1:]] + [float("inf")]
        in_use = set()
        for (since, what), ended in zip(self._history, until, strict=True):
            if since <= call.ended and ended >= call.began:
                in_use.add(what)
        return in_use

    def _is_explained(self, call: Call) -> bool:
        """True if a kill explains the failure: of the door for a broken connection, of the trainer for a 502."""
        victim = "door"
        if call.outcome in ("502 upstream_unreachable", "504 upstream_timeout"):
            victim = TRAINER
        elif call.outcome not in KILLED_WITH_A_CALL:
            return False
        return any(
            since <= call.ended and until >= call.began for since, until, who in self._down if who == victim
        )

    def _count_miscounted(self, verdict: CallVerdict) -> int:
        """Returns how many answered calls the stored counts lack, beyond what a killed door had not stored yet."""
        counts = sum(usage.read(self.folder.root).values(), Usage())
        stored = counts.calls - counts.failed
        if stored > verdict.answered + verdict.killed:
            return stored - verdict.answered - verdict.killed
        unstored = 0
        for call in self._calls:
            kills = (since for since, _, who in self._down if who == "door")
            unstored += any(since - 2 * FLUSH_S <= call.ended <= since for since in kills)
        return max(0, verdict.answered - stored - unstored)


def question_of(body: Body) -> str:
    """Returns the number of the question."""
    return str(body["messages"][-1]["content"]).split()[-1]


def mark_and_question(body: Body) -> str:
    """Answers with the mark of the prompt that was shown, and the question's number."""
    instructions = str(body["messages"][0]["content"])
    mark = re.search(r"take \d", instructions)
    return f"{mark[0] if mark else 'no prompt'}/{question_of(body)}"


def from_trainer(body: Body) -> str:
    return f"{FROM_TRAINER}/{question_of(body)}"


def main() -> None:
    """Runs the vendor that stands for the trainer, prints its address, and answers until it is killed."""
    vendor = ChatVendor(answer=from_trainer, delay_s=0.02, keeps_record=False)
    with serve_vendor(vendor):
        print(vendor.url, flush=True)
        while True:
            time.sleep(60)


if __name__ == "__main__":
    main()
