"""Compares our training with TRL's and Unsloth's, and our answers with vLLM's, on this machine's GPU: `make gpu`

`python benchmarks/peers.py [--device cpu] [--model FOLDER] [--steps N] [--batch N] [--engines FOLDER]`

The model is --model, else Llama-3.1-8B-Instruct from the hub's cache, else the largest one there that fits, else
SmolLM2-135M. Each trainer is a process in its own environment, one after the other, with the same rows in each step,
the same first adapter, learning rates and optimizer, so that the losses compare step by step. Two kinds of rows:

    labels     long instructions that all rows share, and a label as the answer
    replies    rows of very different lengths with nothing in common, and long answers

Prints tables and writes them into docs/gpus.md. Exits with 1 if a trainer fails or its losses differ. Without a CUDA
GPU it says so and does nothing; with `--device cpu` everything runs on the CPU, as far as it can, and the tables are
printed only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.serving import BASE, run_server  # noqa: E402
from benchmarks.training import chat_line, matmul_peak, write_chats  # noqa: E402
from tests.local.runs import make_job  # noqa: E402
from trainers.local.demo_model import make_demo_model  # noqa: E402
from trainers.local.job_directory import read_job  # noqa: E402
from trainers.local.training.base_model import load_config, load_tokenizer  # noqa: E402
from trainers.local.training.data import Row, read_rows  # noqa: E402
from trainers.local.training.devices import best_device, best_dtype  # noqa: E402
from trainers.local.training.loop import steps_after  # noqa: E402
from trainers.local.training.schedule import MAX_NORM, learning_rate_share  # noqa: E402
from trainers.methods import Parameters  # noqa: E402
from trainers.models.base_models import why_untrainable  # noqa: E402

PAGE = ROOT / "docs" / "gpus.md"
START = "<!-- peers: written by make gpu -->\n"
END = "<!-- end of peers -->\n"
FAVOURITE = "meta-llama/Llama-3.1-8B-Instruct"
WORKLOADS = ("labels", "replies")
TRAINERS = ("ours", "trl", "unsloth")
WARM_UP = 3  # steps that are not counted: kernels are compiled in them
MOST_S = 1200
SHARE_OF_WEIGHTS = 0.5  # of a GPU's memory: the rest is for activations
# Mean share of a step's loss. On a CPU ours and TRL's differ by less than 1e-4 in float32 and by 0.009 in bfloat16.
EQUAL = {"float32": 1e-3}
EQUAL_IN_16_BITS = 0.02
# Operations per second of dense products in bfloat16, by NVIDIA's data sheets.
DATA_SHEETS = {"H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
SHORT_NAMES = {"bfloat16": "bf16", "float32": "fp32"}
QUESTIONS = 64
CALLERS = 32
ANSWER_TOKENS = 64


@dataclass(frozen=True)
class Plan:
    """What all trainers do. `rows` has the token ids in their order. `shares` are the learning rate's factors by
    step."""

    job: str
    model: str
    rows: str
    first_adapter: str
    batch_size: int
    tokens: tuple[int, ...]
    longest: int
    learning_rate: float
    shares: tuple[float, ...]
    max_norm: float
    dtype: str
    recomputes: bool = False


@dataclass(frozen=True)
class Outcome:
    """A trainer's result, or in `missing` why there is none. `peak` is in bytes, `seconds` are those of each step."""

    trainer: str
    missing: str = ""
    has_failed: bool = False
    how: str = ""
    losses: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    peak: int = 0
    recomputes: bool = False
    versions: str = ""
    linear_parameters: int = 0


@dataclass(frozen=True)
class Answers:
    engine: str
    missing: str = ""
    texts: tuple[str, ...] = ()
    tokens: int = 0
    seconds: float = 0.0


def main() -> int:
    options = parse_arguments()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("Skipped: there is no CUDA GPU here, so nothing was compared and docs/gpus.md is unchanged.")
        return 0
    model, name = choose_model(options.model)
    dtype = str(best_dtype(best_device(), load_config(str(model)).model_type)).removeprefix("torch.")
    report: list[str] = []
    tell(report, headline(name))
    is_right = compare_trainers(model, dtype, options, report)
    answers = [serve(engine, model, dtype, options) for engine in ("builtin", "vllm")]
    tell(report, serving_table(answers))
    if options.device == "cuda":
        write_page("\n".join(report))
        print(f"Written into {PAGE.relative_to(ROOT)}.")
    return 0 if is_right else 1


def tell(report: list[str], text: str) -> None:
    report.append(text)
    print(text, flush=True)


def compare_trainers(model: Path, dtype: str, options: argparse.Namespace, report: list[str]) -> bool:
    """Adds a table for each kind of rows. Returns True if no trainer failed and all losses are equal."""
    speed, whose = peak_speed(dtype)
    verdicts: list[bool] = []
    for workload in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            plan = make_plan(workload, model, options, Path(folder), dtype)
            outcomes = [run_trainer(trainer, plan, options) for trainer in TRAINERS]
        tell(report, training_table(workload, plan, outcomes, speed, whose))
        verdicts += verdicts_of(outcomes, dtype)
    return all(verdicts)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Our trainer beside TRL and Unsloth, our answers beside vLLM's."
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", type=Path, help="a folder; default: the largest base in the hub's cache")
    parser.add_argument("--data", type=Path, default=ROOT / "examples" / "support_tickets.csv")
    parser.add_argument("--rows", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16, help="rows of a step")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="for the comparison of answers")
    parser.add_argument("--trl", type=Path, default=ROOT / ".cache" / "gpu" / "trl", help="TRL's environment")
    parser.add_argument("--engines", type=Path, default=ROOT / ".cache" / "gpu" / "engines")
    options = parser.parse_args()
    if options.steps <= WARM_UP:
        parser.error(f"--steps must be more than {WARM_UP}: the first warm up and are not counted.")
    return options


def choose_model(folder: Path | None) -> tuple[Path, str]:
    """Returns the model's folder and its name."""
    if folder is not None:
        make_demo_model(folder)
        return folder, folder.name
    memory = 0
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
    cached = cached_bases(SHARE_OF_WEIGHTS * memory)
    if FAVOURITE in cached:
        return cached[FAVOURITE], FAVOURITE
    if cached:
        name = next(iter(cached))
        return cached[name], name
    demo = ROOT / ".cache" / "smollm2-135m"
    make_demo_model(demo)
    return demo, demo.name


def cached_bases(room: float, cache: Path | None = None) -> dict[str, Path]:
    """Returns the chat models in the hub's cache whose weights take at most `room` bytes, the largest first, by their
    names. `cache` is the hub's own by default."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(cache).repos
    except CacheNotFound:
        return {}
    candidates = []
    for repository in repositories:
        for revision in repository.revisions:
            folder = revision.snapshot_path
            size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
            if repository.repo_type == "model" and 0 < size <= room and is_chat_model(folder):
                candidates.append((size, repository.repo_id, folder))
    candidates.sort(reverse=True)
    return {name: folder for _, name, folder in candidates}


def is_chat_model(folder: Path) -> bool:
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    return has_tokenizer and (folder / "config.json").is_file() and why_untrainable(str(folder)) is None


def peak_speed(dtype: str) -> tuple[float, str]:
    """Returns the operations per second that count as all of the machine's, and whose figure this is."""
    if torch.cuda.is_available() and dtype == "bfloat16":
        for card, speed in DATA_SHEETS.items():
            if card in torch.cuda.get_device_name().split():
                return speed, f"{speed / 1e12:,.0f} TFLOP/s, the {card}'s data sheet"
    measured = matmul_peak(dtype)
    return measured, f"{measured / 1e12:,.2f} TFLOP/s, measured with one large product"


def make_plan(workload: str, model: Path, options: argparse.Namespace, folder: Path, dtype: str) -> Plan:
    """Writes the rows of the plan in the order in which our trainer takes them."""
    count = options.steps * options.batch
    chats = write_rows(workload, options.data, folder, count)
    tokenizer = load_tokenizer(str(model))
    settings = Parameters(n_epochs=1, batch_size=options.batch)
    job = make_job(folder / "job", model, chats, settings)
    rows = read_rows(chats, tokenizer, settings.max_length, "training_file", settings.too_long).rows
    steps = [batch for _, batch in steps_after(rows, settings, read_job(job).seed, 0)]
    lines = [json.dumps(row_of_peers(row)) for batch in steps for row in batch]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return Plan(
        job=str(job),
        model=str(model),
        rows=str(folder / "rows.jsonl"),
        first_adapter=str(folder / "first_adapter"),
        batch_size=options.batch,
        tokens=tuple(sum(len(row.ids) for row in batch) for batch in steps),
        longest=max(len(row.ids) for row in rows),
        learning_rate=settings.learning_rate,
        shares=tuple(learning_rate_share(step, len(steps)) for step in range(1, len(steps) + 1)),
        max_norm=MAX_NORM,
        dtype=dtype,
    )


def write_rows(workload: str, data: Path, folder: Path, count: int) -> Path:
    """Writes `count` chats; those with labels are repeated if there are fewer."""
    instructions = (ROOT / "benchmarks" / "_instructions.txt").read_text(encoding="utf-8").strip()
    lines = write_chats(data, instructions, folder).read_text(encoding="utf-8").splitlines()
    if workload == "replies":
        texts = [json.loads(line)["messages"][1]["content"] for line in lines]
        lines = list(replies(texts, count))
    repeated = lines * (count // len(lines) + 1)
    path = folder / f"{workload}.jsonl"
    path.write_text("\n".join(repeated[:count]), encoding="utf-8")
    return path


def replies(texts: Sequence[str], count: int) -> Iterator[str]:
    """Yields chats with 1 to 10 tickets as the question and as many others as the answer."""
    dice = random.Random(7)
    for _ in range(count):
        size = dice.randint(1, 10)
        question = "\n\n".join(dice.choices(texts, k=size))
        answer = "\n\n".join(dice.choices(texts, k=size))
        yield chat_line({"text": question, "label": answer}, "Answer.").strip()


def row_of_peers(row: Row) -> dict[str, list[int]]:
    pairs = list(zip(row.ids, row.supervised, strict=True))
    return {
        "input_ids": [token for token, _ in pairs],
        "completion_mask": [int(is_learnt) for _, is_learnt in pairs],
        "labels": [token if is_learnt else -100 for token, is_learnt in pairs],
    }


def run_trainer(trainer: str, plan: Plan, options: argparse.Namespace) -> Outcome:
    """Runs a trainer in its environment; once more with activations recomputed if memory runs out."""
    script = ["benchmarks/_peer_sft.py", trainer]
    if trainer == "ours":
        script = ["benchmarks/_peer_ours.py"]
    python = python_of(trainer, options)
    if python is None:
        return Outcome(trainer, "not installed: `make gpu` on a machine with an NVIDIA GPU installs it")
    result: dict[str, Any] = {}
    for attempt in (plan, replace(plan, recomputes=True)):
        path = Path(plan.rows).with_name("plan.json")
        path.write_text(json.dumps(asdict(attempt)), encoding="utf-8")
        try:
            result = run_script([str(python), *script, str(path)])
        except PeerFailed as failed:
            return Outcome(trainer, f"failed: {failed}", has_failed=True)
        if not result.get("out_of_memory"):
            return read_outcome(trainer, result)
    return Outcome(trainer, "failed: out of memory", has_failed=True)


def python_of(trainer: str, options: argparse.Namespace) -> Path | None:
    """Returns the Python of a trainer's own environment. On a CPU TRL may run in this environment."""
    if trainer == "ours":
        return Path(sys.executable)
    if trainer == "unsloth":
        home: Path = options.engines / "unsloth"
        return home / "env" / "bin" / "python" if (home / "engine.json").is_file() else None
    own: Path = options.trl / "bin" / "python"
    if own.is_file():
        return own
    return Path(sys.executable) if options.device == "cpu" else None


class PeerFailed(Exception):
    pass


def run_script(command: Sequence[str]) -> dict[str, Any]:
    """Returns the JSON of the last line. Raises PeerFailed."""
    environment = {**os.environ, "UNSLOTH_DISABLE_STATISTICS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("PYTHONPATH", None)
    if not torch.cuda.is_available():
        environment["UNSLOTH_FORCE_CPU"] = "1"
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=MOST_S
        )
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"no result within {MOST_S} s") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = done.stderr.strip().splitlines() or ["it ended without output"]
        raise PeerFailed(last[-1][:200])
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def read_outcome(trainer: str, result: dict[str, Any]) -> Outcome:
    versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
    return Outcome(
        trainer,
        how=result["how"],
        losses=tuple(result["losses"]),
        seconds=tuple(result["seconds"]),
        peak=result["peak"],
        recomputes=result["recomputes"],
        versions=versions,
        linear_parameters=result.get("linear_parameters", 0),
    )


def verdicts_of(outcomes: Sequence[Outcome], dtype: str) -> Iterator[bool]:
    """Yields for each trainer that is installed whether it has trained with our losses."""
    ours, *others = outcomes
    yield not ours.has_failed
    limit = EQUAL.get(dtype, EQUAL_IN_16_BITS)
    for other in others:
        if other.losses:
            yield loss_distance(ours, other) <= limit
        else:
            yield not other.has_failed


def loss_distance(ours: Outcome, other: Outcome) -> float:
    """Returns the mean difference of the steps' losses, as a share; infinite if one has fewer steps."""
    if len(ours.losses) != len(other.losses):
        return float("inf")
    shares = []
    for expected, loss in zip(ours.losses, other.losses, strict=True):
        shares.append(abs(loss - expected) / expected)
    return statistics.mean(shares)


def tokens_a_second(plan: Plan, outcome: Outcome) -> float:
    return sum(plan.tokens[WARM_UP:]) / sum(outcome.seconds[WARM_UP:])


def headline(name: str) -> str:
    machine = f"a CPU with {os.cpu_count()} cores"
    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    return f"{name} on {machine}, PyTorch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}.\n"


def training_table(workload: str, plan: Plan, outcomes: Sequence[Outcome], peak: float, whose: str) -> str:
    mean = sum(plan.tokens) / (len(plan.tokens) * plan.batch_size)
    steps = f"{len(plan.tokens)} steps of {plan.batch_size} rows of {mean:.0f} tokens"
    lines = [
        f"**{workload}**: {steps}, LoRA in {plan.dtype}. MFU: share of {whose}.\n",
        "| | how | tokens a second | peak memory | MFU | losses from ours |",
        "|---|---|---|---|---|---|",
    ]
    ours = outcomes[0]
    for outcome in outcomes:
        lines.append(training_row(plan, ours, outcome, peak))
    return "\n".join([*lines, ""])


def training_row(plan: Plan, ours: Outcome, outcome: Outcome, peak: float) -> str:
    if outcome.missing:
        return f"| {outcome.trainer} | {outcome.missing} | | | | |"
    how = f"{outcome.how}; {outcome.versions}"
    if outcome.recomputes:
        how += "; activations recomputed"
    rate = tokens_a_second(plan, outcome)
    # 4 operations per weight and token: forward and backward, without gradients of the frozen weights.
    share = 4 * ours.linear_parameters * rate / peak
    apart = ""
    if outcome is not ours and ours.losses:
        apart = f"{loss_distance(ours, outcome):.2%} apart"
    return (
        f"| {outcome.trainer} | {how} | {rate:,.0f} | {outcome.peak / 1e9:.1f} GB | {share:.0%} | {apart} |"
    )


def serve(engine: str, model: Path, dtype: str, options: argparse.Namespace) -> Answers:
    """Asks our server with its own engine or with vLLM behind it: many callers, one answer each."""
    if engine == "vllm" and not (options.engines / "vllm" / "engine.json").is_file():
        return Answers(engine, "not installed: `make gpu` on a machine with an NVIDIA GPU installs it")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        (data / "engines").symlink_to(options.engines.absolute())
        lines = write_rows("replies", options.data, Path(folder), options.questions).read_text(
            encoding="utf-8"
        )
        questions = [json.loads(line)["messages"][1]["content"] for line in lines.splitlines()]
        more = ("--serving-engine", engine)
        with run_server(model, Path(folder), SHORT_NAMES.get(dtype, "fp16"), *more) as client:
            ask_once(client, questions[0])  # loads the model
            began = time.perf_counter()
            with ThreadPoolExecutor(CALLERS) as pool:
                answers = list(pool.map(lambda question: ask_once(client, question), questions))
            seconds = time.perf_counter() - began
    texts = tuple(text for text, _ in answers)
    return Answers(engine, texts=texts, tokens=sum(tokens for _, tokens in answers), seconds=seconds)


def ask_once(client: Any, question: str) -> tuple[str, int]:
    """Returns the answer and its number of tokens."""
    answer = client.chat.completions.create(
        model=BASE,
        messages=[{"role": "user", "content": question}],
        max_tokens=ANSWER_TOKENS,
        temperature=0,
    )
    return str(answer.choices[0].message.content), answer.usage.completion_tokens


def serving_table(answers: Sequence[Answers]) -> str:
    ours = answers[0]
    load = f"{len(ours.texts)} questions by {CALLERS} callers at once, at most {ANSWER_TOKENS} tokens each"
    lines = [
        f"**Answers**: {load}.\n",
        "| | answers a second | tokens a second | the same text as ours |",
        "|---|---|---|---|",
    ]
    for each in answers:
        if each.missing:
            lines.append(f"| {each.engine} | {each.missing} | | |")
            continue
        same = sum(text == other for text, other in zip(each.texts, ours.texts, strict=True))
        rate = len(each.texts) / each.seconds
        lines.append(
            f"| {each.engine} | {rate:,.1f} | {each.tokens / each.seconds:,.0f} | {same} of {len(each.texts)} |"
        )
    return "\n".join([*lines, ""])


def write_page(report: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{START}\n{report}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
