"""Tests training and serving on this machine's GPU: `make gpu`

`python benchmarks/gpu.py [--data FILE] [--model FOLDER] [--steps N] [--engines FOLDER] [--json FILE]`

Each row of the table is a check in a separate process, so that one that fails or hangs affects no other; all
together end within ten minutes. Prints a table, each row as soon as it is known, writes a JSON file (.cache/gpu.json),
and exits with 1 if a check failed. Without a CUDA GPU, checks that don't need one run on the CPU; the others, and
what a CPU can't show, are listed as not measured.
--engines is a trainer's folder of engines (DATA/engines), for vLLM and unsloth; --check NAME runs only that check.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.training import SHORT, start_loop, write_chats
from bot.cli.hardware import plan_memory
from bot.values.runs import Refusal
from tests.local.runs import make_job
from trainers.local.demo_model import make_demo_model
from trainers.local.job_directory import read_events, read_json
from trainers.local.kernels.block_attention import choose_attention
from trainers.local.kernels.liger import choose_kernels
from trainers.local.launch import train_command
from trainers.local.peft import LoraConfig, get_peft_model
from trainers.local.train import run_training
from trainers.local.training.base_model import add_lora, load_model, load_tokenizer
from trainers.local.training.data import Row, read_rows
from trainers.local.training.devices import best_device
from trainers.local.training.model_structure import linear_layers
from trainers.local.training.packing import find_abilities, measure, pack_rows
from trainers.methods import GrpoParameters, Parameters, Quantization
from trainers.sizing.hardware import this_machine
from trainers.sizing.memory import Work
from trainers.sizing.training_time import RowLengths, guess_calibration, training_seconds

ROOT = Path(__file__).resolve().parent.parent
DEVICE = best_device()
ON_THE_CPU = "no CUDA GPU: on the CPU"
BUDGET_S, MOST_S = 570.0, 240.0  # for all checks together, and for a single one
BATCH = 8
EPOCHS = 3
SEED = 20261127
IN_FLOAT32 = 1e-3  # relative tolerance of losses and gradients that should be equal
ENDING_S = 60.0  # reserved for stopping a trainer and its vLLM
SAMPLED_STEPS = 4  # the first one's time has vLLM's start in it, and is left out
SAMPLED = GrpoParameters(n_epochs=1, batch_size=8, samples=16, max_new_tokens=128, learning_rate=1e-5)
SAMPLED_ON_CPU = replace(SAMPLED, batch_size=2, samples=8, max_new_tokens=16)  # takes about three minutes
SAMPLED_GAP = 0.2  # nats; vLLM's kernels and torch's in bfloat16 were 0.05 apart
IN_4_BITS = 0.12  # relative error for normally distributed weights (the format's error is in QLoRA, table 2)


@dataclass(frozen=True)
class Result:
    """A check's result. `text` is a phrase for the table."""

    state: Literal["ok", "failed", "not run"]
    text: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckOptions:
    """What to check. `seconds` is the time limit of one check."""

    model: Path
    chats: Path
    steps: int
    engines: Path | None
    seconds: float = MOST_S

    def rows(self) -> list[Row]:
        limit = Parameters().max_length
        return list(read_rows(self.chats, load_tokenizer(str(self.model)), limit, "training_file").rows)

    def some_chats(self, folder: Path, steps: int) -> Path:
        path = folder / "train.jsonl"
        lines = self.chats.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[: steps * BATCH]), encoding="utf-8")
        return path


def make_result(is_right: bool, text: str, **numbers: float) -> Result:
    return Result("ok" if is_right else "failed", text, {name: float(each) for name, each in numbers.items()})


def lora(options: CheckOptions, quantization: Quantization = "none") -> Result:
    """Runs a job as the trainer does. Its loss on the same rows must fall; reports its peak memory and seconds compared
    with plan-memory and the estimate."""
    steps = max(1, options.steps // EPOCHS)
    rows = options.rows()[: steps * BATCH]
    settings = Parameters(n_epochs=EPOCHS, batch_size=BATCH, quantization=quantization)
    with tempfile.TemporaryDirectory() as folder:
        chats = options.some_chats(Path(folder), steps)
        job = make_job(Path(folder) / "job", options.model, chats, settings)
        began = time.monotonic()
        if run_training(job):
            return Result("failed", why_failed(job))
        took = time.monotonic() - began
        losses = [float(line.split(",")[1]) for line in (job / "results.csv").read_text().splitlines()[1:]]
    longest, mean = max(len(row.ids) for row in rows), sum(len(row.ids) for row in rows) / len(rows)
    answer = round(sum(map(sum, (row.supervised for row in rows))) / len(rows))
    method = "lora" if quantization == "none" else "qlora"
    planned = plan_memory(str(options.model), Work(method, longest, BATCH, settings.lora_r, answer), None)
    if isinstance(planned, Refusal):
        return Result("failed", planned.text)
    lengths = RowLengths(len(rows), mean, BATCH, EPOCHS, answer=answer, rank=settings.lora_r)
    guess = guess_calibration(this_machine())
    expected = training_seconds(planned.base.architecture, lengths, guess) if guess else 0.0
    epoch, peak = len(losses) // EPOCHS, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if DEVICE.type == "cuda":
        peak = torch.cuda.max_memory_reserved()
    first, last = (sum(part) / len(part) for part in (losses[:epoch], losses[-epoch:]))
    text = f"loss {first:.3f} to {last:.3f}; {peak / 1e9:.2f} GB, planned {planned.fit.needed / 1e9:.2f}"
    text += f"; trained in {took:.1f} s with loading, guessed {expected:.1f}"
    return make_result(last < first, text, peak=peak, planned=planned.fit.needed, seconds=took)


def why_failed(job: Path) -> str:
    return str((read_json(job / "FAILED") or {}).get("message", "no reason given"))


def kernels(options: CheckOptions) -> Result:
    """Compares our fused layers and norms with transformers' and peft's own, in float32."""
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([options.rows()[0].ids], device=DEVICE)
    plain: Any = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).to(DEVICE)
    config = LoraConfig(r=16, lora_alpha=16, target_modules=linear_layers(plain))
    ours = add_lora(
        load_model(str(options.model), DEVICE, torch.float32), Parameters(lora_r=16, lora_alpha=16)
    )
    (expected, slopes), (result, gradients) = (
        logits_and_gradients(model, ids) for model in (get_peft_model(plain, config), ours)
    )
    apart = distance(result, expected)
    steep = max(distance(gradients[name], slope) for name, slope in slopes.items())
    text = f"logits {apart:.1e} apart, gradients of {len(slopes)} matrices {steep:.1e} at most"
    return make_result(max(apart, steep) < IN_FLOAT32, text, logits=apart, gradients=steep)


def logits_and_gradients(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Returns the logits, and the gradients of LoRA's matrices, none of which is 0."""
    matrices = {name: each for name, each in model.named_parameters() if each.requires_grad}
    generator = torch.Generator().manual_seed(SEED)
    for name in sorted(matrices):
        matrices[name].data.copy_(torch.randn(matrices[name].shape, generator=generator) * 0.02)
    logits: torch.Tensor = model(input_ids=ids).logits
    logits.float().square().mean().backward()
    return logits.detach(), {name: each.grad for name, each in matrices.items() if each.grad is not None}


def distance(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-12))


def packed_attention(options: CheckOptions) -> Result:
    """Compares the loss of rows in one pack, by blocks on a GPU, with that of each row alone."""
    model, rows = load_model(str(options.model), DEVICE, torch.float32), options.rows()[:64]
    why = choose_attention(model, DEVICE) if DEVICE.type == "cuda" else None
    able = find_abilities(model, max(len(row.ids) for row in rows))
    if able.by_blocks:
        way = "by blocks"
    elif able.by_rows:
        way = "by rows"
    else:
        way = f"by a mask: {why}"
    with torch.no_grad():
        ways = {"by_rows": able.by_rows, "by_blocks": able.by_blocks}
        together = measure(model, pack_rows(rows, DEVICE, torch.float32, **ways), able).total.item()
        each = [measure(model, pack_rows([row], DEVICE, torch.float32), able).total.item() for row in rows]
    apart = abs(together - sum(each)) / sum(each)
    is_right = able.packs and why is None and apart < IN_FLOAT32
    return make_result(is_right, f"{len(rows)} rows {way}: losses {apart:.1e} apart", apart=apart)


def bits(options: CheckOptions) -> Result:
    """Checks bitsandbytes: the error of 4 bits, and a product compared with that of the unpacked weights."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from bitsandbytes.nn import Linear4bit  # type: ignore[attr-defined]

    torch.manual_seed(SEED)
    weights = torch.randn(512, 1024, device=DEVICE)
    unpacked = dequantize_4bit(*quantize_4bit(weights, quant_type="nf4", compress_statistics=True))
    layer = Linear4bit(1024, 512, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.load_state_dict({"weight": weights.cpu()})
    layer, inputs = layer.to(DEVICE), torch.randn(16, 1024, device=DEVICE)
    lost, apart = distance(unpacked, weights), distance(layer(inputs), inputs @ unpacked.T)
    text = f"nf4 loses {lost:.1%} of a weight, its product is {apart:.1e} apart"
    return make_result(lost < IN_4_BITS and apart < 0.01, text, lost=lost, apart=apart)


def liger(options: CheckOptions) -> Result:
    chosen = choose_kernels(load_model(str(options.model), DEVICE, torch.bfloat16), DEVICE)
    return make_result(chosen is not None and chosen.why is None, str(chosen))


def two_processes(options: CheckOptions) -> Result:
    """Checks that two steps by two processes and by one give the same adapter."""
    from safetensors.torch import load_file

    settings = Parameters(n_epochs=1, batch_size=BATCH)
    environment = {**os.environ, "FINETUNE_DTYPE": "fp32", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        chats, adapters = options.some_chats(Path(folder), 2), []
        for processes in (1, 2):
            job = make_job(Path(folder) / str(processes), options.model, chats, settings)
            command = [*train_command(processes), str(job)]
            if subprocess.run(command, cwd=ROOT, env=environment).returncode:
                return Result("failed", f"{processes} processes: {why_failed(job)}")
            adapters.append(load_file(job / "adapter" / "adapter_model.safetensors"))
    alone, shared = adapters
    apart = max(float((alone[name] - shared[name]).abs().max()) for name in alone)
    return make_result(apart < IN_FLOAT32, f"adapters {apart:.1e} apart on {DEVICE.type}", apart=apart)


def vllm(options: CheckOptions) -> Result:
    """Compares a tuned model's answers by the built-in engine and by vLLM, which loads the adapter while serving."""
    import openai

    from tests.local.export.exports import MODEL, tune
    from tests.local.serving.fake_vllm import BY_VLLM, answer_of
    from tests.local.trainer_server import serve_in_process

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        (data / "engines").symlink_to(str(options.engines))
        tune(data, options.model)
        answers = []
        for more in ((), BY_VLLM):
            with serve_in_process(data, f"local/tiny={options.model}", more=more) as served:
                spent_s = time.monotonic() - began
                served.timeout_s = max(10.0, options.seconds - ENDING_S - spent_s)
                try:
                    with served.client() as client:
                        answers.append([answer_of(client, name) for name in ("local/tiny", MODEL)])
                except openai.APITimeoutError:
                    engine = "vLLM" if more else "the builtin engine"
                    return Result("failed", f"{engine} gave no answer within {served.timeout_s:.0f} s")
    is_alike = answers[0] == answers[1]
    text = "alike" if is_alike else f"unlike: {answers}"
    return make_result(is_alike, f"base and hot-loaded adapter answer {text}")


def speed(options: CheckOptions) -> Result:
    """Compares the tokens per second of our own step and of TRL's SFTTrainer, on the same batches in turn."""
    loops = [start_loop(name, options.model, options.chats, options.steps) for name in ("ours", "trl")]
    for batch in loops[1].ask("batches")["batches"][: options.steps]:
        for loop in loops:
            loop.steps.append(loop.ask("step " + " ".join(map(str, batch))))
    for loop in loops:
        loop.process.kill()
        loop.process.wait()
    ours, trl = (loop.rate("tokens") for loop in loops)
    loss, other = (sum(step["loss"] for step in loop.steps) for loop in loops)
    apart = abs(loss / other - 1)
    text = f"ours {ours:,.0f} tokens/s, TRL {trl:,.0f} ({ours / trl:.1f} times), losses {apart:.1%} apart"
    return make_result(apart < 0.08, text, ours=ours, trl=trl, apart=apart)


def unsloth(options: CheckOptions) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        (data / "engines").symlink_to(str(options.engines))
        settings = Parameters(n_epochs=1, batch_size=BATCH, engine="unsloth")
        job = make_job(
            data / "jobs" / "job", options.model, options.some_chats(data, options.steps), settings
        )
        began = time.monotonic()
        code, took = run_training(job), time.monotonic() - began
        failed = why_failed(job) if code else ""
    tokens = sum(len(row.ids) for row in options.rows()[: options.steps * BATCH])
    text = f"{tokens:,} tokens in {took:.0f} s, including its start {failed}"
    return make_result(code == 0, text, tokens=tokens, seconds=took)


def sampled_answers(options: CheckOptions) -> Result:
    """Runs some steps of GRPO whose answers the model that learns writes, then the same with vLLM's answers. The two
    must give a token about the same probability, and no answer may differ too much to count."""
    settings = SAMPLED
    if DEVICE.type == "cpu":
        settings = SAMPLED_ON_CPU
    batches = SAMPLED_STEPS * settings.batch_size // BATCH
    seconds = {}
    for engine in ("builtin", "vllm"):
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder)
            (data / "engines").symlink_to(str(options.engines))
            chats = options.some_chats(data, batches)
            by_engine = replace(settings, engine=engine)
            job = make_job(data / "jobs" / "job", options.model, chats, by_engine, method="grpo")
            if run_training(job):
                return Result("failed", f"{engine}: {why_failed(job)}")
            progress = read_json(job / "progress.json")
            assert progress is not None  # the job has ended well
            seconds[engine] = progress["step_s"]
            events = read_events(job)
    notes = [event.get("data") or {} for event in events]
    measured = [note for note in notes if "sampled_gap_nats" in note]
    if not measured:
        return Result("failed", f"vLLM wrote no answers: {events[-1]['message']}")
    (agreement,) = measured
    gap = agreement["sampled_gap_nats"]
    text = f"{gap:.3f} nats apart, {agreement['left_out']} of {agreement['answers']} answers too far to count"
    text += f"; a step took {seconds['vllm']:.1f} s, by the trainer's own answers {seconds['builtin']:.1f} s"
    return make_result(gap < SAMPLED_GAP and not agreement["left_out"], text, gap=gap, **seconds)


CHECKS: dict[str, Callable[[CheckOptions], Result]] = {
    "LoRA": lora,
    "QLoRA": partial(lora, quantization="nf4"),
    "kernels": kernels,
    "packed attention": packed_attention,
    "bitsandbytes": bits,
    "Liger": liger,
    "two processes": two_processes,
    "speed": speed,
    "vLLM": vllm,
    "unsloth": unsloth,
    "GRPO by vLLM": sampled_answers,
}
NEEDS_ENGINE = {"vLLM": "vllm", "unsloth": "unsloth", "GRPO by vLLM": "vllm"}


def main() -> int:
    parser = argparse.ArgumentParser(description="Tests training and serving on this machine's GPU.")
    parser.add_argument("--data", type=Path, default=ROOT / "examples" / "support_tickets.csv")
    parser.add_argument("--model", type=Path, default=ROOT / ".cache" / "smollm2-135m")
    parser.add_argument("--steps", type=int, help="steps of 8 rows; default: 60 on a GPU, 6 on a CPU")
    parser.add_argument("--engines", type=Path, help="a trainer's folder of engines: DATA/engines")
    parser.add_argument("--json", type=Path, default=ROOT / ".cache" / "gpu.json")
    parser.add_argument(
        "--check", choices=CHECKS, action="append", help="run only this check; may be repeated"
    )
    parser.add_argument("--child", choices=CHECKS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=MOST_S, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    make_demo_model(arguments.model)
    steps = arguments.steps or (60 if torch.cuda.is_available() else 6)
    engines = arguments.engines.absolute() if arguments.engines else None
    with tempfile.TemporaryDirectory() as folder:
        chats = write_chats(arguments.data, SHORT, Path(folder))
        options = CheckOptions(arguments.model, chats, steps, engines, arguments.seconds)
        if arguments.child:
            print(json.dumps(asdict(CHECKS[arguments.child](options))), flush=True)
            return 0
        machine = torch.cuda.get_device_name() if torch.cuda.is_available() else ON_THE_CPU
        print(
            f"{machine}, PyTorch {torch.__version__}, {arguments.model.name}, {steps} steps of {BATCH} rows"
        )
        print(f"\n{'check':<17} {'':<7} {'took':>6}  result", flush=True)
        results = run_checks(options, arguments.check or tuple(CHECKS))
    checks = {name: {**asdict(result), "took_s": round(took, 1)} for name, (result, took) in results.items()}
    table = {"machine": machine, "torch": torch.__version__, "model": arguments.model.name, "checks": checks}
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    missing = [name for name, (result, _) in results.items() if result.state == "not run"]
    missing += (
        []
        if torch.cuda.is_available()
        else ["speed, memory and kernels of a GPU (everything ran on the CPU)"]
    )
    print(f"\nNot measured here: {', '.join(missing) or 'nothing'}. Written to {arguments.json}.")
    return 1 if any(result.state == "failed" for result, _ in results.values()) else 0


def run_checks(options: CheckOptions, names: Sequence[str]) -> dict[str, tuple[Result, float]]:
    deadline, results = time.monotonic() + BUDGET_S, {}
    for name in names:
        began = time.monotonic()
        why = missing_requirement(name, options)
        result = Result("not run", why) if why else run_check(name, options, min(MOST_S, deadline - began))
        took = time.monotonic() - began
        results[name] = (result, took)
        print(f"{name:<17} {result.state:<7} {took:>4.0f} s  {result.text}", flush=True)
    return results


def missing_requirement(name: str, options: CheckOptions) -> str | None:
    """Returns what this machine lacks for a check, None if nothing."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "Liger" and not gpus:
        return "needs a CUDA GPU"
    if name == "Liger" and find_spec("liger_kernel") is None:
        return "not installed: the extra [liger]"
    if name == "two processes" and gpus == 1:
        return "needs two CUDA GPUs"
    engine = NEEDS_ENGINE.get(name)
    if engine and not (options.engines and (options.engines / engine / "engine.json").is_file()):
        return f"not installed: finetune engines install {engine}, then --engines DATA/engines"
    return None


def run_check(name: str, options: CheckOptions, most_s: float) -> Result:
    if most_s < 10:
        return Result("failed", "the ten minutes were used up")
    arguments = ["--model", options.model, "--data", options.chats, "--steps", options.steps]
    arguments += ["--child", name, "--seconds", most_s]
    arguments += ["--engines", options.engines] if options.engines else []
    command = [sys.executable, __file__, *map(str, arguments)]
    try:
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=most_s)
    except subprocess.TimeoutExpired as late:
        lines = (late.stderr or b"").decode(errors="replace").strip().splitlines()
        return Result(
            "failed", f"no result within {most_s:.0f} s; it last wrote: {(lines or ['nothing'])[-1][:120]}"
        )
    lines = [line for line in process.stdout.splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        return Result(
            "failed", (process.stderr.strip().splitlines() or ["it ended without output"])[-1][:200]
        )
    return Result(**json.loads(lines[-1]))


if __name__ == "__main__":
    sys.exit(main())
