"""Compares our server's answers per second with transformers' `generate` row by row.

`python benchmarks/serving.py [--rows N] [--callers N] [--dtype bf16|fp32] [--workloads …] [--learn N]`: SmolLM2-135M
with a LoRA adapter that the server trains once (a minute or two; stored in .cache/serving), and held-out rows of
examples/support_tickets.csv with the prompts that a measurement sends. The workloads:

    tuned      the adapter, asked as it was trained
    labels     the same with `guided_choice`, so that it can only answer with a label
    examples   the base model with ten examples after the list of labels: a long beginning that all rows share

`generate` runs in this process with the same weights and number format. The server is a separate process, asked over
HTTP by N callers. They take turns, one block of rows at a time, so that other work on the machine affects both.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import openai  # noqa: E402
import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from trainers.dataset import Example, read, split, store_chat, with_system  # noqa: E402
from trainers.dataset.rows import CLASSIFY  # noqa: E402
from trainers.evaluation.prompts import balanced_shots, k_shot  # noqa: E402
from trainers.evaluation.scores import is_label  # noqa: E402
from trainers.local.demo_model import make_demo_model  # noqa: E402
from trainers.providers.providers import OWN_CALLERS  # noqa: E402
from trainers.types import Message  # noqa: E402

SEED = 20261124
SHOTS, MAX_TOKENS = 10, 24  # as bot/services/evidence/evaluation_worker.py asks for labels
BLOCK = 64  # two batches
KEY = "sk-benchmark"
BASE = "smollm2-135m"
WORKLOADS = ("tuned", "labels", "examples")
EPOCHS = 2
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Answer:
    text: str
    prompt_tokens: int
    completion_tokens: int


@dataclass
class Timing:
    """The answers of one of the two, and the time that they took."""

    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.answers) / self.seconds

    @property
    def tokens(self) -> tuple[float, float]:
        """Prompt tokens and answer tokens per second."""
        read_ = sum(answer.prompt_tokens for answer in self.answers)
        written = sum(answer.completion_tokens for answer in self.answers)
        return read_ / self.seconds, written / self.seconds


def main() -> int:
    options = parse_arguments()
    make_demo_model(options.model)
    train, holdout = load_rows(options.data, options.rows)
    labels = sorted({row.answer for row in train})
    with run_server(options.model, options.cache, options.dtype) as client:
        tuned, adapter = train_adapter(client, train[: options.learn], options.cache)
        alone = DirectModel(options.model, adapter, DTYPES[options.dtype])
        print(
            f"{len(holdout)} held-out rows, {len(labels)} labels, {options.callers} callers, {options.dtype}, "
            f"{torch.get_num_threads()} threads on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        )
        for workload in options.workloads:
            prompts = write_prompts(workload, train, holdout, labels)
            is_base = workload == "examples"
            model = tuned
            if is_base:
                model = BASE
            choices: Sequence[str] | None = None
            if workload == "labels":
                choices = labels
            server = Server(client, model, choices)
            compare(workload, prompts, holdout, labels, alone.use_base(is_base), server, options.callers)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Answers per second: our server compared with generate row by row."
    )
    parser.add_argument("--data", type=Path, default=ROOT / "examples" / "support_tickets.csv")
    parser.add_argument("--model", type=Path, default=ROOT / ".cache" / "smollm2-135m")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "serving")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--callers", type=int, default=OWN_CALLERS, help="questions at a time")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--learn", type=int, help="rows to train the adapter on; default: all")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    return parser.parse_args()


def load_rows(path: Path, most: int) -> tuple[Sequence[Example], Sequence[Example]]:
    """Returns the training rows and held-out rows, split as the bot does."""
    parts = split(with_system(read(path, path.name).examples, CLASSIFY), SEED)
    return parts.train, parts.holdout[:most]


def write_prompts(
    workload: str,
    train: Sequence[Example],
    holdout: Sequence[Example],
    labels: Sequence[str],
) -> list[tuple[Message, ...]]:
    if workload != "examples":
        return [tuple(row.prompt) for row in holdout]
    shots = balanced_shots(train, SHOTS, SEED)
    return [k_shot(row, labels, None, shots) for row in holdout]


@contextmanager
def run_server(model: Path, cache: Path, dtype: str, *more: str) -> Iterator[openai.OpenAI]:
    """`more` are further options of the trainer."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "trainer.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainers.local", "--port", "0", "--data", str(cache / "data"),
             "--model", f"{BASE}={model}", "--exit-with-parent", *more],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
            env={**os.environ, "FINETUNE_TRAINER_KEY": KEY, "FINETUNE_DTYPE": dtype},
        )  # fmt: skip
    try:
        assert process.stdout is not None
        ready = re.match(r"trainer ready on (\S+) ", process.stdout.readline())
        assert ready, f"the trainer did not start; see {cache}/trainer.log"
        yield openai.OpenAI(base_url=ready[1], api_key=KEY, max_retries=0, timeout=600)
    finally:
        process.terminate()
        process.wait(20)


def train_adapter(client: openai.OpenAI, train: Sequence[Example], cache: Path) -> tuple[str, Path]:
    """Returns the tuned model's name and its adapter's folder. It is trained once and found by its rows' hash
    afterwards."""
    stored = cache / f"{store_chat(cache, train)}.jsonl"
    job = next(
        (job for job in client.fine_tuning.jobs.list() if (job.metadata or {}).get("rows") == stored.stem),
        None,
    )
    if job is None:
        uploaded = client.files.create(file=(stored.name, stored.read_bytes()), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model=BASE,
            training_file=uploaded.id,
            seed=SEED,
            hyperparameters={"n_epochs": EPOCHS},
            metadata={"rows": stored.stem},
        )
    started = time.monotonic()
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(2)
        job = client.fine_tuning.jobs.retrieve(job.id)
        print(f"\rtraining the adapter, {job.status}, {time.monotonic() - started:.0f} s", end="", flush=True)
    assert job.fine_tuned_model, f"training ended as {job.status}: {job.error}"
    print()
    return job.fine_tuned_model, cache / "data" / "jobs" / job.id / "adapter"


class DirectModel:
    """transformers' own `generate`, one row at a time."""

    def __init__(self, base: Path, adapter: Path, dtype: torch.dtype) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        self._model: Any = (
            PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False).to(dtype).eval()
        )
        self._is_plain = False

    def use_base(self, is_plain: bool) -> DirectModel:
        self._is_plain = is_plain
        return self

    def ask(self, messages: Sequence[Message]) -> Answer:
        ids = self._ids(messages)
        output = self._generate(ids)
        written = len(output) - (int(output[-1]) in self._ends)
        return Answer(self._tokenizer.decode(output, skip_special_tokens=True), ids.shape[1], written)

    def explain_difference(self, messages: Sequence[Message], first: str, second: str) -> str:
        """Describes how far apart the two likeliest tokens are at the first difference between two answers, and the
        resolution of the number format there, computed for the row alone."""
        ids = self._ids(messages)
        both = [self._tokenizer(text, add_special_tokens=False).input_ids for text in (first, second)]
        common = next((n for n, (a, b) in enumerate(zip(*both, strict=False)) if a != b), min(map(len, both)))
        ids = torch.cat([ids, torch.tensor([both[0][:common]], dtype=torch.long)], -1)
        with torch.inference_mode(), self._adapter():
            best, second = self._model(input_ids=ids).logits[0, -1].topk(2).values
        step = torch.finfo(best.dtype).eps * 2 ** math.floor(math.log2(abs(float(best))))
        return f"the two likeliest tokens are {float(best - second):.3f} apart, in steps of {step:.4f}"

    def _ids(self, messages: Sequence[Message]) -> torch.Tensor:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids: torch.Tensor = self._tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        return ids

    def _adapter(self) -> AbstractContextManager[Any]:
        return self._model.disable_adapter() if self._is_plain else nullcontext()

    @property
    def _ends(self) -> Sequence[int]:
        ends = self._model.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [ends]

    @torch.inference_mode()
    def _generate(self, ids: torch.Tensor) -> torch.Tensor:
        options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": MAX_TOKENS, "do_sample": False}
        with self._adapter():
            output = self._model.generate(input_ids=ids, **options)
        return output[0, ids.shape[1] :]


@dataclass(frozen=True)
class Server:
    client: openai.OpenAI
    model: str
    choices: Sequence[str] | None

    def ask(self, messages: Sequence[Message]) -> Answer:
        answer = self.client.chat.completions.create(
            model=self.model,
            messages=[{"role": each.role, "content": each.content} for each in messages],  # type: ignore[misc]
            max_tokens=MAX_TOKENS,
            temperature=0,
            extra_body={"guided_choice": self.choices} if self.choices else None,
        )
        assert answer.usage
        text = answer.choices[0].message.content or ""
        return Answer(text, answer.usage.prompt_tokens, answer.usage.completion_tokens)


def compare(
    workload: str,
    prompts: Sequence[Sequence[Message]],
    holdout: Sequence[Example],
    labels: Sequence[str],
    alone: DirectModel,
    server: Server,
    callers: int,
) -> None:
    alone.ask(prompts[0]), server.ask(prompts[0])  # loads the model and warms up
    one_by_one, together = Timing(), Timing()
    with ThreadPoolExecutor(callers) as pool:
        for start in range(0, len(prompts), BLOCK):
            block = prompts[start : start + BLOCK]
            began = time.monotonic()
            one_by_one.answers += [alone.ask(prompt) for prompt in block]
            turned = time.monotonic()
            together.answers += pool.map(server.ask, block)
            one_by_one.seconds += turned - began
            together.seconds += time.monotonic() - turned
    print(
        f"\n{workload}: {sum(answer.prompt_tokens for answer in together.answers) / len(prompts):.0f} tokens per prompt"
    )
    for name, timing in (("generate", one_by_one), ("server", together)):
        right = sum(
            is_label(row.answer, answer.text, labels)
            for row, answer in zip(holdout, timing.answers, strict=True)
        )
        read_, written = timing.tokens
        print(
            f"  {name:9} {timing.rate:6.2f} answers/s   {read_:6.0f} prompt tokens/s   "
            f"{written:5.1f} answer tokens/s   right {right / len(holdout):.1%}"
        )
    print_differences(prompts, one_by_one, together, alone)


def print_differences(
    prompts: Sequence[Sequence[Message]], one_by_one: Timing, together: Timing, alone: DirectModel
) -> None:
    pairs = list(zip(prompts, one_by_one.answers, together.answers, strict=True))
    apart = [
        (prompt, first.text, second.text) for prompt, first, second in pairs if first.text != second.text
    ]
    times, same = together.rate / one_by_one.rate, len(prompts) - len(apart)
    print(f"  {times:.1f} times as fast; the same text for {same} of {len(prompts)} rows")
    for prompt, first, second in apart[:5]:
        print(f"  {first!r} and {second!r} diverge where {alone.explain_difference(prompt, first, second)}")


if __name__ == "__main__":
    sys.exit(main())
