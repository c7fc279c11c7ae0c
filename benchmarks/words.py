"""How many of sixty written questions get the right command: by their words, by recorded answers of a capable model,
and by a model of your own.

`python -m benchmarks.words [--model FOLDER [--tokens N]] [--short]`. The questions and the recorded answers are in
tests/questions. A model in a folder is served by our own trainer. Every model is asked once for each question, with the
prompt of the bot, over HTTP by OpenAI's own client; its answers are read as the bot reads them. Nothing is run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import openai  # noqa: E402

from bot.command_parser import parse  # noqa: E402
from bot.questions.model_answer import Line, Meant, NoneFits, line_of, read_answer  # noqa: E402
from bot.questions.model_prompt import LONGEST_ANSWER, Names, write_prompt  # noqa: E402
from bot.questions.nearest import Described, nearest  # noqa: E402
from bot.slack.commands import finetune, help_list  # noqa: E402
from bot.slack.question_answers import command_schemas  # noqa: E402
from bot.values.runs import Refusal  # noqa: E402
from tests.peers.chat_vendor import KEY, Body, ChatVendor, serve_vendor  # noqa: E402
from tests.questions.asked import ASKED, Asked  # noqa: E402

RECORDED = ROOT / "tests" / "questions" / "recorded.json"
NAMES = Names(("tickets",), ("7 on tickets (training)", "5 on tickets (done)", "3 on tickets (done)"))
SHORT_QUESTIONS = 2
SHORT_ANSWER = 8  # tokens
ECHO = 60  # letters of an answer
CALLERS = 12
OWN_KEY = "benchmark"
MODEL = "model"
TIMEOUT_S = 1800


@dataclass
class Tally:
    """What became of the answers. `typed` of those with the right command are complete lines that the parser reads."""

    questions: int = 0
    right: int = 0
    typed: int = 0
    none: int = 0
    unusable: int = 0
    seconds: float = 0.0

    def add(self, question: Asked, answer: str) -> None:
        self.questions += 1
        meant = read_answer(answer)
        if isinstance(meant, NoneFits):
            self.none += 1
            return
        line = line_of(meant, command_schemas(help_list())) if isinstance(meant, Meant) else meant
        if not isinstance(line, Line):
            self.unusable += 1
            return
        if line.command not in question.right:
            return
        self.right += 1
        is_read = line.is_complete and not isinstance(parse(finetune, line.text), Refusal)
        self.typed += is_read


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a folder, such as .cache/smollm2-135m")
    parser.add_argument("--tokens", type=int, default=LONGEST_ANSWER, help="the most that an answer may have")
    parser.add_argument("--short", action="store_true", help="few questions, and short answers of the model")
    arguments = parser.parse_args()
    questions = ASKED[:SHORT_QUESTIONS] if arguments.short else ASKED
    most_tokens = SHORT_ANSWER if arguments.short else arguments.tokens
    print(f"{'':24}{'right':>8}{'typed':>8}{'none':>8}{'unread':>8}{'s each':>8}")
    print_by_words(questions)
    with serve_vendor(ChatVendor(answer=recorded_answer)) as vendor:
        client = openai.OpenAI(base_url=vendor.url, api_key=KEY, max_retries=0)
        print_tally("recorded model", measure(questions, client, LONGEST_ANSWER))
    if arguments.model:
        with own_trainer(arguments.model) as client:
            print_tally(arguments.model.name, measure(questions, client, most_tokens))
    return 0


def print_by_words(questions: Sequence[Asked]) -> None:
    """Prints how often the right command comes first, and how often it is among those that are offered."""
    commands = [Described(command.name, command.what) for command in help_list()]
    started = time.perf_counter()
    offers = [nearest(question.text, commands) for question in questions]
    seconds = time.perf_counter() - started
    first = 0
    among = 0
    for question, offered in zip(questions, offers, strict=True):
        first += bool(offered) and offered[0] in question.right
        among += not set(offered).isdisjoint(question.right)
    none = sum(not offered for offered in offers)
    tally = Tally(len(questions), first, 0, none, 0, seconds)
    print_tally("by words, the first", tally)
    print(f"{'by words, of three':24}{among:>8}")


def measure(questions: Sequence[Asked], client: openai.OpenAI, most_tokens: int) -> Tally:
    """Asks several questions at a time: our own trainer reads what their prompts have in common once."""
    tally = Tally()
    started = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as callers:
        answers = callers.map(lambda question: ask(client, question.text, most_tokens), questions)
        for question, answer in zip(questions, answers, strict=True):
            tally.add(question, answer)
            progress = f"{tally.questions} of {len(questions)}, {tally.right} right"
            print(f"{progress}: {answer[:ECHO]!r}", file=sys.stderr, flush=True)
    tally.seconds = time.perf_counter() - started
    return tally


def ask(client: openai.OpenAI, question: str, most_tokens: int) -> str:
    """Returns the answer; '' if the model refuses the question, as one whose context is too short."""
    messages = write_prompt(command_schemas(help_list()), NAMES, question)
    try:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": each.role, "content": each.content} for each in messages],  # type: ignore[misc]
            max_tokens=most_tokens,
            temperature=0,
        )
    except openai.BadRequestError as refusal:
        print(f"refused: {refusal}", file=sys.stderr)
        return ""
    return answer.choices[0].message.content or ""


def recorded_answer(body: Body) -> str:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    question = json.loads(body["messages"][-1]["content"])["question"]
    return str(recorded[question])


def print_tally(name: str, tally: Tally) -> None:
    each = tally.seconds / max(tally.questions, 1)
    counts = "".join(f"{count:>8}" for count in (tally.right, tally.typed, tally.none, tally.unusable))
    print(f"{name:24}{counts}{each:>8.2f}   of {tally.questions}")


@contextmanager
def own_trainer(model: Path) -> Iterator[openai.OpenAI]:
    """Serves the model for as long as it is asked."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "trainer.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainers.local", "--port", "0", "--data", f"{folder}/data",
             "--model", f"{MODEL}={model}", "--exit-with-parent"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
            env={**os.environ, "FINETUNE_TRAINER_KEY": OWN_KEY},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            ready = re.match(r"trainer ready on (\S+) ", process.stdout.readline())
            assert ready, f"the trainer did not start: {Path(log.name).read_text()[-2000:]}"
            yield openai.OpenAI(base_url=ready[1], api_key=OWN_KEY, max_retries=0, timeout=TIMEOUT_S)
        finally:
            process.terminate()
            process.wait(20)


if __name__ == "__main__":
    sys.exit(main())
