"""`--to merged`: merges base and adapter into one set of weights, as a transformers folder. A model that was trained
with all its weights is written as it is.

W becomes W + B·A·alpha/r. In float32 the logits before and after differ only by rounding. A larger difference means
that merging loses something that the adapter does, and the export is refused."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainers.export_folder import ExportRefused
from trainers.local.export.agreement import compare_answers
from trainers.local.export.order import TOLERANCES, ExportOrder, Plan, PreparedExport, Say, WrittenExport
from trainers.local.export.sources import Source
from trainers.local.export.weights import BYTES, Base, LoadedModel, load, load_with_adapter
from trainers.local.serving.memory import release_memory
from trainers.local.training.devices import best_device
from trainers.models.chat_templates import with_thinking_off

MERGE_TOLERANCE = 1e-3  # of the largest logit. Measured: 1e-6 for the toy model, 4e-6 for SmolLM2-135M
LAST_POSITIONS = 8  # of each prompt, whose logits are compared


@dataclass(frozen=True)
class MergeResult:
    """`difference` is the largest one between two logits, as a share of the largest logit; None if there was no adapter
    to merge."""

    difference: float | None
    end_tokens: Sequence[int]

    @property
    def check(self) -> str:
        if self.difference is None:
            return "all weights were trained, so no adapter had to be merged"
        share = f"{self.difference:.1e} of the largest"
        return f"merged in float32, the logits differ from those of base and adapter by {share}"


def plan(order: ExportOrder, source: Source, base: Base) -> Plan:
    check_mergeable(base)
    dtype = order.dtype or base.dtype
    if dtype not in BYTES:
        raise ExportRefused(
            f"Merged weights can't be written in {dtype}. Choose {', '.join(BYTES)}, or --to gguf."
        )
    return Plan(dtype, base.parameters * BYTES[dtype])


def write(prepared: PreparedExport, folder: Path, say: Say) -> WrittenExport:
    merged = merge(prepared, folder, prepared.dtype, say)
    agreement = compare_answers(prepared, load(folder), TOLERANCES[prepared.dtype], say)
    usage = (
        "A transformers folder: `AutoModelForCausalLM.from_pretrained` loads it. With vLLM, in this folder:\n\n"
        f"```\nvllm serve . --served-model-name {shlex.quote(prepared.name)}\n```"
    )
    return WrittenExport([merged.check, agreement], usage)


def check_mergeable(base: Base) -> None:
    """Raises ExportRefused if nothing can be merged into the base."""
    if base.is_quantised:
        raise ExportRefused(
            f"The base {base.name} is stored quantised, so nothing can be merged into it exactly. "
            "Export the adapter: --to vllm or --to hub."
        )


def merge(prepared: PreparedExport, out: Path, dtype: str, say: Say) -> MergeResult:
    """Writes weights, tokenizer with chat template and generation config into `out`. Raises ExportRefused."""
    difference = None
    if prepared.source.is_model:
        loaded = load(prepared.source.adapter)
    else:
        loaded, difference = _load_merged(prepared, say)
    model = loaded.model
    model.to(getattr(torch, dtype))
    model.config.dtype = dtype
    model.save_pretrained(out)
    template = loaded.tokenizer.chat_template
    if isinstance(template, dict):  # several templates by name
        template = {name: with_thinking_off(text) for name, text in template.items()}
    else:
        template = with_thinking_off(template)
    loaded.tokenizer.chat_template = template
    loaded.tokenizer.save_pretrained(out)
    result = MergeResult(difference, loaded.end_tokens)
    del model, loaded
    release_memory(best_device())
    return result


def _load_merged(prepared: PreparedExport, say: Say) -> tuple[LoadedModel, float]:
    """Returns base and adapter as one model, and the largest difference that this makes. Raises ExportRefused."""
    base = prepared.base
    prompts = prepared.prompts
    say(f"Merging the adapter into {base.name} ({base.parameters:,} parameters)")
    adapted = load_with_adapter(base.folder, prepared.source.adapter)
    before = [_logits(adapted.model, prompt) for prompt in prompts]
    merged = adapted.model.merge_and_unload(safe_merge=True)
    difference = max(
        float((old - _logits(merged, prompt)).abs().max() / old.abs().max())
        for old, prompt in zip(before, prompts, strict=True)
    )
    if not difference <= MERGE_TOLERANCE:
        raise ExportRefused(
            f"The merged weights compute different logits than base and adapter: they differ by {difference:.1e} of "
            f"the largest, and {MERGE_TOLERANCE:.0e} is allowed. Export the adapter itself: --to vllm or --to hub."
        )
    return LoadedModel(merged, adapted.tokenizer, adapted.end_tokens), difference


@torch.inference_mode()
def _logits(model: Any, prompt: Sequence[int]) -> Tensor:
    """Returns the logits at the last positions: (positions, vocabulary)."""
    ids = torch.tensor([list(prompt)], device=model.device)
    logits: Tensor = model(input_ids=ids).logits  # (1, tokens, vocabulary)
    last = logits[0, -LAST_POSITIONS:]
    return last.float().cpu()
