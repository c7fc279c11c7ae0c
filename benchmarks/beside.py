"""What answers and a training in the same trainer cost each other.

`python benchmarks/beside.py [--model FOLDER] [--questions N] [--callers N]`: SmolLM2-135M answers held-out rows of
examples/support_tickets.csv over HTTP, first alone and then while a job trains the same base on this machine. It
prints the answers' seconds, and the job's steps a minute without and with questions.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import openai  # noqa: E402

from trainers.dataset import Example, read, split, store_chat, with_system  # noqa: E402
from trainers.dataset.rows import CLASSIFY  # noqa: E402
from trainers.local.demo_model import make_demo_model  # noqa: E402

KEY = "sk-benchmark"
BASE = "smollm2-135m"
SEED = 20261124
MAX_TOKENS = 24


def main() -> int:
    parser = argparse.ArgumentParser(description="Answers beside a training.")
    parser.add_argument("--data", type=Path, default=ROOT / "examples" / "support_tickets.csv")
    parser.add_argument("--model", type=Path, default=ROOT / ".cache" / BASE)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--settle", type=float, default=20.0, help="seconds of training without questions")
    options = parser.parse_args()
    make_demo_model(options.model)
    parts = split(with_system(read(options.data, options.data.name).examples, CLASSIFY), SEED)
    rows = [parts.holdout[number % len(parts.holdout)] for number in range(options.questions)]
    with run_server(options.model) as (client, folder):
        ask(client, rows[0])
        alone = seconds_of(client, rows, options.callers)
        print(f"{len(rows)} answers, {options.callers} callers: {alone:.1f} s alone", flush=True)
        job = start_job(client, folder, parts.train)
        steps_alone = pace(client, job, lambda: time.sleep(options.settle))
        beside = 0.0

        def ask_all() -> None:
            nonlocal beside
            beside = seconds_of(client, rows, options.callers)

        steps_beside = pace(client, job, ask_all)
        print(f"  beside a training: {beside:.1f} s, {beside / alone:.1f} times as long")
        print(f"  the training: {steps_alone:.1f} steps a minute alone, {steps_beside:.1f} beside questions")
        latencies = sorted(seconds_of(client, [row], 1) for row in rows[:9])
        print(f"  one question at a time beside it: median {latencies[len(latencies) // 2]:.2f} s")
        if client.fine_tuning.jobs.retrieve(job).status == "running":
            client.fine_tuning.jobs.cancel(job)
    return 0


def seconds_of(client: openai.OpenAI, rows: Sequence[Example], callers: int) -> float:
    start = time.monotonic()
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(lambda row: ask(client, row), rows))
    return time.monotonic() - start


def ask(client: openai.OpenAI, row: Example) -> str:
    messages: Any = [{"role": message.role, "content": message.content} for message in row.prompt]
    answer = client.chat.completions.create(
        model=BASE, messages=messages, max_tokens=MAX_TOKENS, temperature=0
    )
    return str(answer.choices[0].message.content)


def start_job(client: openai.OpenAI, folder: Path, train: Sequence[Example]) -> str:
    """Returns the id of a job that has trained its first steps."""
    stored = folder / f"{store_chat(folder, train)}.jsonl"
    uploaded = client.files.create(file=(stored.name, stored.read_bytes()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=BASE, training_file=uploaded.id, seed=SEED, hyperparameters={"n_epochs": 50}
    )
    while steps_of(client, job.id) < 3:
        time.sleep(0.5)
    return job.id


def pace(client: openai.OpenAI, job: str, meanwhile: Any) -> float:
    """Returns the job's steps a minute while `meanwhile` runs."""
    before = steps_of(client, job)
    start = time.monotonic()
    meanwhile()
    return 60 * (steps_of(client, job) - before) / (time.monotonic() - start)


def steps_of(client: openai.OpenAI, job: str) -> int:
    record = client.fine_tuning.jobs.retrieve(job)
    assert record.status not in ("failed", "cancelled"), record.error
    return int(record.to_dict().get("trained_steps") or 0)  # type: ignore[call-overload]


@contextmanager
def run_server(model: Path) -> Iterator[tuple[openai.OpenAI, Path]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "trainer.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "trainers.local", "--port", "0", "--data", f"{folder}/data",
                 "--model", f"{BASE}={model}", "--exit-with-parent"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
                env={**os.environ, "FINETUNE_TRAINER_KEY": KEY},
            )  # fmt: skip
        try:
            assert process.stdout is not None
            ready = re.match(r"trainer ready on (\S+) ", process.stdout.readline())
            assert ready, f"the trainer did not start: {(folder / 'trainer.log').read_text()}"
            yield openai.OpenAI(base_url=ready[1], api_key=KEY, max_retries=0, timeout=600), folder
        finally:
            process.terminate()
            process.wait(20)


if __name__ == "__main__":
    sys.exit(main())
