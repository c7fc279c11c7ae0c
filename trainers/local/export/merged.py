"""`--to merged`: base and adapter in one set of weights, as a transformers folder."""

from __future__ import annotations

import shlex
from pathlib import Path

from trainers.local.export.merged_weights import BYTES, Base, load
from trainers.local.export.order import (
    TOLERANCES,
    Order,
    Plan,
    Say,
    Work,
    WrittenExport,
    check_mergeable,
    compare_answers,
    describe_merge,
    merge_adapter,
)
from trainers.local.export.output import ExportRefused
from trainers.local.export.sources import Source


def plan(order: Order, source: Source, base: Base) -> Plan:
    check_mergeable(base)
    dtype = order.dtype or base.dtype
    if dtype not in BYTES:
        raise ExportRefused(
            f"Merged weights can't be written in {dtype}. Choose {', '.join(BYTES)}, or --to gguf."
        )
    return Plan(dtype, base.parameters * BYTES[dtype])


def write(work: Work, folder: Path, say: Say) -> WrittenExport:
    merged = merge_adapter(work, folder, work.dtype, say)
    agreement = compare_answers(work, load(folder), TOLERANCES[work.dtype], say)
    usage = (
        "A transformers folder: `AutoModelForCausalLM.from_pretrained` takes it. With vLLM, in this folder:\n\n"
        f"```\nvllm serve . --served-model-name {shlex.quote(work.name)}\n```"
    )
    return WrittenExport([describe_merge(merged), agreement], usage)
