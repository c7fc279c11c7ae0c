"""What a question costs whose prompt begins like an earlier one, compared with the first: CPU seconds of the server.

`python benchmarks/prefix.py [--model FOLDER] [--dtype bf16|fp32]`: a trainer with SmolLM2-135M in a process of its own,
asked over HTTP for one token, so that what is measured is the reading of the prompt. It prints, for a prompt of 559
tokens:

    first, again                            a question, and another one behind the same system prompt
    after another prompt                    the same, after a question with another system prompt
    a chat's next turn                      the chat with the answer and a new question at its end
    a few words alone                       what one pass over the weights costs, which no kept prefix can save
    questions behind ten examples           each of --questions of one prompt with ten examples, one after the other,
                                            and --callers at once

Each is the median of --repeats rounds, each with its own text, so that nothing is kept from the one before.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import openai  # noqa: E402
import psutil  # noqa: E402

from trainers.local.demo_model import make_demo_model  # noqa: E402

KEY = "sk-benchmark"
BASE = "smollm2-135m"
RULE = "You sort tickets of a bank into one of many labels. "
EXAMPLE = "Ticket: my card of the number {n} was charged twice in the shop at the corner. Label: billing. "


@dataclass(frozen=True)
class Server:
    client: openai.OpenAI
    process: psutil.Process

    def cost(self, messages: Sequence[dict[str, str]]) -> float:
        """Asks for one token. Returns the server's CPU seconds."""
        before = self._seconds()
        self.ask(messages)
        return self._seconds() - before

    def cost_of_all(self, chats: Sequence[Sequence[dict[str, str]]], callers: int) -> float:
        before = self._seconds()
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(self.ask, chats))
        return self._seconds() - before

    def ask(self, messages: Sequence[dict[str, str]]) -> int:
        """Returns the prompt's number of tokens."""
        chat: Any = messages
        answer = self.client.chat.completions.create(model=BASE, messages=chat, max_tokens=1, temperature=0)
        assert answer.usage
        return answer.usage.prompt_tokens

    def _seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


def main() -> int:
    parser = argparse.ArgumentParser(description="What a kept prefix saves.")
    parser.add_argument("--model", type=Path, default=ROOT / ".cache" / BASE)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--callers", type=int, default=8)
    options = parser.parse_args()
    make_demo_model(options.model)
    for dtype in options.dtype:
        with run_server(options.model, dtype) as server:
            size = server.ask(chat(rule(0), "my card"))
            print(f"{dtype}: CPU seconds of a question, median of {options.repeats}, {size} tokens a prompt")
            measure_chats(server, options.repeats)
            measure_examples(server, options.questions, options.callers)
    return 0


def measure_chats(server: Server, repeats: int) -> None:
    rows = [costs_of_chat(server, number) for number in range(1, repeats + 1)]
    first, *others = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"  {'first':36} {first:5.2f} s")
    names = ("again", "after another prompt", "a chat's next turn", "a few words alone")
    for name, seconds in zip(names, others, strict=True):
        print_ratio(name, seconds, first)


def costs_of_chat(server: Server, number: int) -> list[float]:
    """Returns what a first question costs, another one, one after another prompt, the next turn of the last, and a
    few words."""
    instructions = rule(number)
    first = server.cost(chat(instructions, "my card"))
    again = server.cost(chat(instructions, "my invoice"))
    server.ask(chat(f"Be brief, {number}.", "hi"))
    after_another = server.cost(chat(instructions, "lost password"))
    turns = [{"role": "assistant", "content": "billing"}, {"role": "user", "content": "and now?"}]
    next_turn = server.cost([*chat(instructions, "lost password"), *turns])
    few_words = server.cost([{"role": "user", "content": f"hi {number}"}])
    return [first, again, after_another, next_turn, few_words]


def measure_examples(server: Server, count: int, callers: int) -> None:
    questions = [f"Ticket: question {n} about a parcel that is late. Label:" for n in range(count)]
    alone = [chat(examples("one"), question) for question in questions]
    together = [chat(examples("all"), question) for question in questions]
    first = server.cost(alone[0])
    size = server.ask(alone[0])
    print(f"ten examples, {size} tokens a prompt")
    print(f"  {'first':36} {first:5.2f} s")
    others = [server.cost(prompt) for prompt in alone[1:]]
    print_ratio(f"each of {count - 1} more", statistics.mean(others), first)
    all_at_once = server.cost_of_all(together, callers) / count
    print_ratio(f"each of {count} new, {callers} at a time", all_at_once, first)


def print_ratio(name: str, seconds: float, first: float) -> None:
    print(f"  {name:36} {seconds:5.2f} s   {seconds / first:4.2f} of the first")


def rule(number: int) -> str:
    """A system prompt that no other number shares a beginning with."""
    return f"{number}. " + RULE * 45


def examples(name: str) -> str:
    return f"Examples {name}. " + "".join(EXAMPLE.format(n=n) for n in range(10))


def chat(instructions: str, question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": instructions}, {"role": "user", "content": question}]


@contextmanager
def run_server(model: Path, dtype: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "trainer.log"
        process = subprocess.Popen(
            [sys.executable, "-m", "trainers.local", "--port", "0", "--data", f"{folder}/data",
             "--model", f"{BASE}={model}", "--exit-with-parent"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("wb"), text=True, cwd=ROOT,
            env={**os.environ, "FINETUNE_TRAINER_KEY": KEY, "FINETUNE_DTYPE": dtype},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            ready = re.match(r"trainer ready on (\S+) ", process.stdout.readline())
            assert ready, f"the trainer did not start: {log.read_text()}"
            client = openai.OpenAI(base_url=ready[1], api_key=KEY, max_retries=0, timeout=600)
            yield Server(client, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(20)


if __name__ == "__main__":
    sys.exit(main())
