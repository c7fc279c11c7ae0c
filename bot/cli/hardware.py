"""Computes and prints `finetune plan-memory`, the memory of a training in parts and what would make it fit, without
loading weights; and `finetune calibrate`, this machine's speed, which a child process measures for later estimates."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bot.cards.common.words import duration
from bot.values.runs import Refusal
from trainers.host import child_environment
from trainers.models.base_models import Base, find_base, find_preset
from trainers.packages import needs_extra
from trainers.sizing.architecture import Architecture, UnknownSize, read_config
from trainers.sizing.hardware import (
    GPUS,
    Fit,
    Machine,
    adapt_to_memory,
    check_fit,
    read_gpu,
    smallest_gpu,
    this_machine,
)
from trainers.sizing.memory import (
    TILE_WORDS,
    Work,
    base_bytes,
    loaded_parameters,
    reference_logit_bytes,
    tokens_at_a_time,
    trainable_parameters,
    with_forced_checkpoints,
)
from trainers.sizing.training_time import (
    CALIBRATION_FILE,
    Calibration,
    RowLengths,
    read_calibration,
    serving_speed,
    training_seconds,
)

MEASURING = "trainers.local.calibrate"  # the module that the child process runs
BUSY = 0.5  # load per core from which the measurement is called unreliable
EXAMPLE = RowLengths(count=1000, tokens=64, batch=8, epochs=1, shared=24)
EXAMPLES = ("smollm2-135m", "llama-3.2-1b", "llama-3.1-8b")
METHOD_NAMES = {"lora": "LoRA", "qlora": "QLoRA", "8bit": "LoRA on 8 bits", "full": "full fine-tuning"}


@dataclass(frozen=True)
class MemoryPlan:
    """`asked` is the requested training; `work` is how the trainer would do it, and `fit` is how that fits."""

    base: Base
    asked: Work
    work: Work
    fit: Fit

    @property
    def measures_taken(self) -> str:
        """What the trainer changes by itself so that the training fits; '' if nothing."""
        lines = []
        if self.work.checkpoints and not self.asked.checkpoints:
            lines.append("checkpointing")
        if self.work.batch < self.asked.batch:
            lines.append(f"{self.work.batch} of the {self.asked.batch} rows of a step at a time")
        return " and ".join(lines)


def plan_memory(name: str, work: Work, gpu: str | None) -> MemoryPlan | Refusal:
    """`gpu` is a name or its memory in GB; None means this machine."""
    base = find_base(name)
    if isinstance(base, UnknownSize):
        return Refusal(base.sentence)
    context = base.architecture.context
    if work.length > context:
        return Refusal(f"{base.name} reads {context:,} tokens at most: --length {work.length:,} is longer.")
    if work.rank > base.architecture.hidden:
        wide = base.architecture.hidden
        return Refusal(
            f"--rank {work.rank} is wider than {base.name} itself ({wide}); LoRA's rank is usually 8 to 64."
        )
    layers = {matrix.name for matrix, _ in base.architecture.matrices}
    absent = set(work.modules or ()) - layers
    if absent:
        return Refusal(
            f"{base.name} has no layer {', '.join(sorted(absent))}. Choose among {', '.join(sorted(layers))}, or use "
            "all-linear."
        )
    if work.pairs and work.method == "full":
        return Refusal(
            "Pairs need LoRA, as their reference model is the base without the adapter: choose another --method."
        )
    machine = find_machine(gpu)
    if isinstance(machine, Refusal):
        return machine
    wanted_work = with_forced_checkpoints(base.architecture, work)
    work = adapt_to_memory(base.architecture, wanted_work, machine)
    return MemoryPlan(base, wanted_work, work, check_fit(base.architecture, work, machine))


def find_machine(gpu: str | None) -> Machine | Refusal:
    """`gpu` is a name or its memory in GB; None means this machine."""
    if gpu is None:
        return this_machine()
    machine = read_gpu(gpu)
    if machine is None:
        names = ", ".join(GPUS)
        return Refusal(f"I don't know the GPU '{gpu}'. Give its memory, like --gpu 24, or one of {names}.")
    return machine


def headline(planned: MemoryPlan) -> str:
    """Returns a sentence that says if the training fits."""
    fit = planned.fit
    machine = fit.machine.name
    has = _gb(fit.machine.memory)
    needs = _gb(fit.needed)
    measures = planned.measures_taken
    if fit.standing == "too large":
        takes = f"it takes about {needs} GB, and there are {has}"
        if measures:
            takes = f"even with {measures} {takes}"
        return f"It does not fit on {machine}: {takes}."

    needed = f"about {needs} of {has} GB"
    if measures:
        needed += f", with {measures}, which the trainer does by itself"
    if fit.standing == "fits":
        return f"It fits on {machine}: {needed}."
    return f"It may just fit on {machine}: {needed}. The estimate may be 15% too low."


def memory_text(planned: MemoryPlan) -> str:
    model = planned.base.architecture
    parameters = f"{_billions(loaded_parameters(model))} parameters"
    if model.experts:
        parameters += f", {_billions(model.active_parameters)} active per token"
    parameters += f"; {_billions(trainable_parameters(model, planned.work))} are trained"
    parts = [subject(planned), "", headline(planned), "", f"  {parameters}", ""]
    parts += [f"  {name:<14} {amount:>10}  {why}" for name, amount, why in _table(planned)]
    changes = list_what_would_fit(planned)
    if changes:
        parts += ["", "What would fit", *(f"  {change}" for change in changes)]
    parts += ["", *(f"• {note}" for note in _notes(planned))]
    return "\n".join(parts)


def memory_json(planned: MemoryPlan) -> dict[str, Any]:
    """Sizes are in bytes, or in GB of 10^9 bytes if the key says so."""
    model = planned.base.architecture
    fit = planned.fit
    preset = planned.base.preset
    card: dict[str, Any] = {"class": None, "licence": None, "gated": None}
    if preset:
        card = {"class": preset.model_class, "licence": preset.licence, "gated": preset.is_gated}
    reference_pass = None
    if planned.work.pairs:
        reference_pass = reference_logit_bytes(model, planned.work, fit.machine.place)
    return {
        "model": planned.base.name,
        **card,
        "asked": asdict(planned.asked),
        "work": asdict(planned.work),
        "machine": {"name": fit.machine.name, "bytes": fit.machine.memory, **asdict(fit.machine.place)},
        "parameters": {
            "total": model.parameters,
            "loaded": loaded_parameters(model),
            "active": model.active_parameters,
            "trainable": trainable_parameters(model, planned.work),
        },
        "bytes": {**asdict(fit.memory), "total": fit.needed},
        "reference_pass_bytes": reference_pass,
        "total_gb": round(fit.needed / 1e9, 2),
        "fits": fit.standing,
        "headline": headline(planned),
        "what_would_fit": [
            {**asdict(work), "total_gb": round(_needed_bytes(planned, work) / 1e9, 2)}
            for work in fit.alternatives
        ],
        "smallest_gpu": smallest_gpu(fit.needed),
        "notes": _notes(planned),
    }


def subject(planned: MemoryPlan) -> str:
    work = planned.asked
    method = METHOD_NAMES[work.method]
    if work.method != "full":
        method += f" of rank {work.rank}"
    rows = "rows"
    if work.samples:
        rows = f"questions with {work.samples} sampled answers each,"
    elif work.pairs:
        rows = "preference pairs"
    text = f"{planned.base.name}: {method}, {rows} of {work.length:,} tokens, {work.batch} a step"
    if work.checkpoints:
        text += ", gradient checkpointing"
    return text


def list_what_would_fit(planned: MemoryPlan) -> list[str]:
    """Returns changes that would make the training fit, one per line; if there are none, the least that it needs."""
    fit = planned.fit
    if fit.standing == "fits":
        return []
    lines = []
    for work in fit.alternatives:
        needed = _gb(_needed_bytes(planned, work))
        lines.append(f"{_change(planned.work, work)}: about {needed} GB")
    if not lines and planned.work.method == "full":
        lines.append("LoRA, which takes a fraction of this")
    elif not lines:
        lines.append(
            f"It takes at least {_gb(fit.least)} GB (QLoRA, checkpointing, one short row at a time)."
        )
    enough = smallest_gpu(fit.needed)
    unchanged = "no single GPU that I know; several"
    if enough:
        unchanged = f"the {enough}"
    return [*lines, f"unchanged: {unchanged}"]


def _change(before: Work, after: Work) -> str:
    lines = []
    if after.method != before.method:
        lines.append("QLoRA (--method qlora)")
    if after.checkpoints != before.checkpoints:
        lines.append("gradient checkpointing (--checkpointing)")
    if after.batch != before.batch:
        lines.append(f"{after.batch} a step (--batch {after.batch})")
    if after.length != before.length:
        rows = "pairs" if after.pairs else "rows"
        lines.append(f"{rows} of {after.length:,} tokens (--length {after.length})")
    return ", ".join(lines)


def _needed_bytes(planned: MemoryPlan, work: Work) -> int:
    return check_fit(planned.base.architecture, work, planned.fit.machine).needed


def _table(planned: MemoryPlan) -> list[tuple[str, str, str]]:
    work = planned.work
    memory = planned.fit.memory
    machine = planned.fit.machine
    place = machine.place
    has_experts = planned.base.architecture.experts is not None
    tokens = tokens_at_a_time(work, place)
    rows = [
        ("weights", memory.weights, _weights_why(work, place.number_bytes, has_experts=has_experts)),
        ("adapter", memory.adapter, f"LoRA's matrices, rank {work.rank}, float32 and a copy to compute with"),
        ("gradients", memory.gradients, "one number per trained parameter"),
        ("optimizer", memory.optimizer, "Adam's two moments in float32"),
        ("activations", memory.activations, _activations_why(work, tokens)),
        ("logits", memory.logits, _logits_why(planned)),
        ("overhead", memory.overhead, "temporary buffers, and gaps between tensors"),
        ("the program", memory.process, "Python and PyTorch, before any model is loaded"),
        ("total", planned.fit.needed, f"of {_gb(machine.memory)} GB on {machine.name}"),
    ]
    return [(name, f"{size / 1e9:,.2f} GB", why) for name, size, why in rows if size]


def _weights_why(work: Work, number_bytes: int, *, has_experts: bool) -> str:
    number = "bfloat16" if number_bytes == 2 else "float32"
    plain = f"{number_bytes} bytes each ({number})"
    if work.method == "full" and number_bytes == 2:
        return "4 bytes each (float32), in which they learn, and a copy in bfloat16 to compute with"
    if work.method == "qlora":
        layers = "linear layers and experts" if has_experts else "linear layers"
        return f"{layers} at 4.13 bits each (nf4, double quantisation), the rest at {plain}"
    if work.method == "8bit":
        return f"linear layers at 1 byte each, the rest at {plain}"
    return plain


def _activations_why(work: Work, tokens: int) -> str:
    tensors = "the tensors that every layer keeps"
    if work.checkpoints:
        tensors = "each layer's input, and one whole layer"
    why = f"{tensors}, for {tokens:,} tokens at a time"
    if work.pairs:
        why += ", both answers of a pair"
    elif work.samples:
        why += ", all answers to a question"
    return why


def _logits_why(planned: MemoryPlan) -> str:
    work = planned.work
    words = planned.base.architecture.vocab
    if not work.padded:
        return f"{min(work.answer, work.length)} learnt tokens per row × {words:,} words, in chunks if they are many"
    answers = "both answers" if work.pairs else "all answers"
    where = f"every token of {answers}"
    if planned.fit.machine.place.kind == "gpu":
        where = f"{answers}' tokens"
    vocabulary = f"{words:,} words"
    if words > TILE_WORDS:
        vocabulary += f", {TILE_WORDS:,} at a time"
    return f"{where} × {vocabulary}, and their gradients"


def _notes(planned: MemoryPlan) -> list[str]:
    """What explains the figures, what the trainer does by itself, and how far the figures were checked."""
    return [*_model_notes(planned), *_work_notes(planned), _how_checked(planned)]


def _model_notes(planned: MemoryPlan) -> list[str]:
    model = planned.base.architecture
    preset = planned.base.preset
    notes = []
    if preset and preset.is_gated:
        notes.append(f"{preset.hub_id} is gated ({preset.licence}): accept its terms on the hub first.")
    if model.experts and planned.work.method == "8bit":
        packed = base_bytes(model, "qlora", planned.fit.machine.place.number_bytes)
        notes.append(
            "Its experts, which are most of its weights, are not Linear layers and stay unquantized with 8 bits. With "
            f"4 bits (--method qlora) they are packed too, and all weights take {_gb(packed)} GB."
        )
    if model.experts and model.experts.computes_all:
        notes.append(
            "Its class in transformers computes every expert for every token, which explains the activations."
        )
    not_loaded = model.parameters - loaded_parameters(model)
    if not_loaded > 0:
        notes.append(f"Its vision part ({_billions(not_loaded)}) is not loaded.")
    return notes


def _work_notes(planned: MemoryPlan) -> list[str]:
    model = planned.base.architecture
    alternatives = planned.fit.alternatives
    notes = []
    if planned.work.pairs:
        logits = reference_logit_bytes(model, planned.work, planned.fit.machine.place)
        notes.append(
            "The reference is the model with its adapter turned off, not a second copy. Its logits "
            f"({logits / 1e9:.2f} GB) are freed before the backward pass needs its own, so they are not added."
        )
    if model.experts and planned.work.method == "qlora":
        notes.append(
            "Its experts are unpacked one layer at a time; activations are always recomputed in the backward pass."
        )
    elif planned.measures_taken:
        notes.append(
            f"Without these changes it would take {_gb(_needed_bytes(planned, planned.asked))} GB. Recomputing "
            "activations takes about a third longer; a step learns from the same number of rows."
        )
    elif planned.work.checkpoints or any(work.checkpoints for work in alternatives):
        notes.append(
            "The builtin engine turns on checkpointing by itself if memory is too small for one row."
        )
    if any(work == replace(planned.work, batch=work.batch) for work in alternatives):
        notes.append("If memory is too small, the builtin engine computes fewer rows at a time by itself.")
    return notes


def _how_checked(planned: MemoryPlan) -> str:
    model = planned.base.architecture
    if model.counted:
        return (
            f"The layers of the family {model.model_type} were counted in transformers' own class; the memory is "
            "computed, and its peak was never measured."
        )
    if model.experts and planned.work.method == "qlora":
        return "The size of its weights was checked against loaded ones; its peak is computed, not measured."
    if planned.fit.machine.place.kind == "gpu":
        return (
            "Checked against measured peaks on a CPU only, within 15%; a GPU's overhead is a rule of thumb."
        )
    return "Checked against measured peaks on a CPU, within 15%."


def _gb(amount: int) -> str:
    billions = amount / 1e9
    if billions >= 100:
        return f"{billions:,.0f}"
    return f"{billions:.1f}"


def _billions(count: int) -> str:
    if count >= 1e9:
        return f"{count / 1e9:.2f} billion"
    return f"{count / 1e6:.1f} million"


def calibrate(data: Path, budget_s: float, on_progress: Callable[[str], None]) -> Calibration | Refusal:
    """Measures for about `budget_s` seconds, and stores the result in `data`. `on_progress` receives the progress."""
    if importlib.util.find_spec("torch") is None:
        return Refusal(needs_extra("Measuring", "local", ("calibrate",)))
    command = [sys.executable, "-m", MEASURING, "--seconds", str(budget_s)]
    # A file, as a full pipe would stop the child while only its stderr is read.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as answer:
        child = subprocess.Popen(
            command,
            stdout=answer,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=child_environment(),
        )
        sentence = _follow_progress(child, on_progress)
        answer.seek(0)
        text = answer.read()
    if child.returncode:
        return Refusal(
            f"The measuring process ended with code {child.returncode}: {sentence}. Nothing was stored."
        )
    # By rename, so that a reader sees either the old measurement or the new one.
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = data / f"{CALIBRATION_FILE}.tmp"
    temporary.write_text(text, encoding="utf-8")
    calibration = read_calibration(temporary)
    assert calibration is not None  # noqa: S101 - it was just written
    temporary.replace(data / CALIBRATION_FILE)
    return calibration


def calibration_text(calibration: Calibration) -> str:
    """Returns what was measured, and what it means for a few well-known models."""
    rates = [f"{_rate(speed)} in {name}" for name, speed in calibration.peaks.items()]
    peaks = " and ".join(rates)
    lines = [
        f"This machine trains at {_rate(calibration.speed)} in {calibration.number} on {calibration.device}, "
        f"{calibration.threads} threads; products of large matrices run at {peaks}.",
        "",
        f"One pass over {EXAMPLE.count:,} rows of {EXAMPLE.tokens:.0f} tokens, if nothing else is running:",
    ]
    for name in EXAMPLES:
        seconds = training_seconds(_example_architecture(name), EXAMPLE, calibration)
        lines.append(f"  {name:<14} {duration(seconds)}")
    smallest = EXAMPLES[0]
    speed = serving_speed(_example_architecture(smallest), calibration)
    if speed:
        reads, writes = speed
        lines += [
            "",
            f"With 16 requests at a time (64 tokens in, 8 out), {smallest} would read {reads:,.0f} and write "
            f"{writes:,.0f} tokens a second.",
        ]
    if calibration.load > BUSY:
        lines += [
            "",
            f"Other programs were at work while this was measured (load {calibration.load:.1f} a core): everything "
            "looks slower than on a quiet machine. Measure again when it is quiet.",
        ]
    return "\n".join(lines)


def _follow_progress(child: subprocess.Popen[str], on_progress: Callable[[str], None]) -> str:
    """Reports the child's progress until it ends. Returns its last line of other output."""
    last = "it printed nothing"
    assert child.stderr is not None  # noqa: S101 - a pipe
    with child.stderr:
        for line in child.stderr:
            word, _, share = line.strip().partition(" ")
            if word == "progress":
                on_progress(f"measuring, {float(share):.0%}")
            elif line.strip():
                last = line.strip()
    child.wait()
    return last


def _example_architecture(name: str) -> Architecture:
    preset = find_preset(name)
    assert preset is not None  # noqa: S101 - of presets.toml
    model = read_config(preset.config, name)
    assert not isinstance(model, UnknownSize)  # noqa: S101 - tests build every preset
    return model


def _rate(speed: float) -> str:
    if speed < 1e12:
        return f"{speed / 1e9:,.0f} GFLOP/s"
    return f"{speed / 1e12:,.1f} TFLOP/s"
