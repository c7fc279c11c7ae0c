"""The five forms (merged, GGUF, Ollama, vLLM, hub): each written into a folder, loaded again and compared
with our server's answers."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, assert_never

from trainers.local.export import gguf, ollama, vllm
from trainers.local.export.agreement import Checked, compare
from trainers.local.export.hub import Measured, Upload
from trainers.local.export.merged_weights import (
    Base,
    Loaded,
    Merged,
    free_memory,
    load,
    load_gguf,
    merge,
    with_adapter,
)
from trainers.local.export.ollama import ChatTemplate, take_apart
from trainers.local.export.sources import Questions, Source
from trainers.local.training.base_model import load_tokenizer

To = Literal["merged", "gguf", "ollama", "vllm", "hub"]
Say = Callable[[str], None]
NO_UPLOAD = Upload(None, False)


@dataclass(frozen=True)
class Order:
    """`data` are data folders of trainers, `tools` is where the converter is kept. None: as the base has it."""

    model: str
    to: To
    out: Path
    data: Sequence[Path]
    tools: Path
    dtype: str | None = None
    rows: Path | None = None
    base_id: str | None = None
    licence: str | None = None
    upload: Upload = NO_UPLOAD
    measured: Measured | None = None


@dataclass(frozen=True)
class Work:
    """An order that nothing speaks against. `prompts` are the questions as token ids; `ours` our server's answers."""

    order: Order
    source: Source
    base: Base
    questions: Questions
    dtype: str
    prompts: Sequence[Sequence[int]]
    ours: Sequence[str]

    @property
    def name(self) -> str:
        """As people call the model, in letters that file names and commands take."""
        called = self.order.measured.name if self.order.measured else self.source.name.removeprefix("ft:")
        return re.sub(r"[^\w.-]+", "-", called).strip("-.")


# The five forms: each written into a folder, loaded again and compared with our server's answers.


# In logits. Measured on SmolLM2-135M, tuned: rounded to float16 the logits move by 0.005 on average and 0.023 at
# most, to q8_0 by 0.16 and 0.98, to bfloat16, which has fewer digits than both, by 0.24 and 1.44.
TOLERANCES = {"float32": 0.01, "float16": 0.05, "bfloat16": 0.5, "q8_0": 0.5}
ADAPTER_TOLERANCE = 0.01


@dataclass(frozen=True)
class WrittenExport:
    """`checks` are sentences without their full stop, the last about the answers; `how` is Markdown."""

    checks: Sequence[str]
    how: str


def write_export(work: Work, folder: Path, say: Say) -> WrittenExport:
    """All but the card. Raises ExportRefused, AnswersDiffer among them."""
    match work.order.to:
        case "merged":
            return _merged(work, folder, say)
        case "gguf":
            return _gguf(work, folder, say)
        case "ollama":
            return _ollama(work, folder, say)
        case "vllm":
            return _vllm(work, folder, say)
        case "hub":
            return _hub(work, folder, say)
        case _ as never:
            assert_never(never)


def _merged(work: Work, folder: Path, say: Say) -> WrittenExport:
    merged = _merge(work, folder, work.dtype, say)
    checked = _compare(work, load(folder), TOLERANCES[work.dtype], say)
    how = (
        "A transformers folder: `AutoModelForCausalLM.from_pretrained` takes it. With vLLM, in this folder:\n\n"
        f"```\n{vllm.vllm_merged_command(work.name)}\n```"
    )
    return WrittenExport([_merge_report(merged), _check_report(checked)], how)


def _gguf(work: Work, folder: Path, say: Say) -> WrittenExport:
    file, checks, _ = _write_gguf(work, folder, say)
    return WrittenExport(
        checks,
        f"With llama.cpp: `llama-server -m {file.name} --jinja` reads the chat template out of the file.",
    )


def _ollama(work: Work, folder: Path, say: Say) -> WrittenExport:
    template = _template(work)
    file, checks, loaded = _write_gguf(work, folder, say)
    context = ollama.context_of(
        int(loaded.model.config.get_text_config().max_position_embeddings),
        work.source.job.settings.max_length,
    )
    stops = [loaded.tokenizer.decode([token]) for token in loaded.end_tokens]
    text = ollama.modelfile(file, template, stops, context, work.questions.system)
    (folder / "Modelfile").write_text(text, encoding="utf-8")
    how = f"In this folder:\n\n```\nollama create {work.name} -f Modelfile\nollama run {work.name}\n```"
    said = "the Modelfile's template writes the same chats as the model's own, on four that were compared"
    return WrittenExport([said, *checks], how)


def _template(work: Work) -> ChatTemplate:
    tokenizer = load_tokenizer(str(work.base.folder))
    return take_apart(tokenizer, strip_bos=gguf.template_writes_bos(tokenizer))


def _write_gguf(work: Work, folder: Path, say: Say) -> tuple[Path, list[str], Loaded]:
    """In float32 first, so that numbers are rounded once."""
    file = folder / f"{work.name}-{gguf.FORMATS[work.dtype]}.gguf"
    with TemporaryDirectory(prefix=".merged-", dir=folder) as temporary:
        merged = _merge(work, Path(temporary), "float32", say)
        say(f"Writing {file.name} with llama.cpp's converter")
        tokenizer = load_tokenizer(temporary)
        gguf.write(work.order.tools, Path(temporary), tokenizer, work.dtype, file)
    loaded = load_gguf(file, tokenizer, merged.end_tokens)
    checked = _compare(work, loaded, TOLERANCES[work.dtype], say)
    words = "the file holds the chat template and every token of the tokenizer"
    return file, [_merge_report(merged), words, _check_report(checked)], loaded


def _vllm(work: Work, folder: Path, say: Say) -> WrittenExport:
    vllm.copy_adapter(work.source, work.base, folder / "adapter")
    command = vllm.vllm_command(work.source, work.base, work.name)
    script = folder / "serve.sh"
    script.write_text(f'#!/bin/sh\ncd "$(dirname "$0")" && exec {command} "$@"\n', encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    checked = _compare(work, with_adapter(work.base.folder, folder / "adapter"), ADAPTER_TOLERANCE, say)
    how = f"`./serve.sh`, which is\n\n```\n{command}\n```\n\nThen ask for the model `{work.name}`."
    return WrittenExport([_check_report(checked)], how)


def _hub(work: Work, folder: Path, say: Say) -> WrittenExport:
    vllm.copy_adapter(work.source, work.base, folder)
    checked = _compare(work, with_adapter(work.base.folder, folder), ADAPTER_TOLERANCE, say)
    where = work.order.upload.repo or "FOLDER_OR_HUB_ID"
    how = (
        "```python\nfrom peft import AutoPeftModelForCausalLM\n\n"
        f'model = AutoPeftModelForCausalLM.from_pretrained("{where}")\n```\n\n'
        f"The tokenizer and the chat template are those of {work.base.name}."
    )
    return WrittenExport([_check_report(checked)], how)


def _merge(work: Work, folder: Path, dtype: str, say: Say) -> Merged:
    say(f"Merging the adapter into {work.base.name} ({work.base.parameters:,} parameters)")
    merged = merge(work.source, work.base, work.prompts, dtype, folder)
    free_memory()
    return merged


def _compare(work: Work, loaded: Loaded, tolerance: float, say: Say) -> Checked:
    say("Asking what was written, loaded again, the same questions")
    return compare(loaded.model, loaded.tokenizer, loaded.end_tokens, work.prompts, work.ours, tolerance)


def _merge_report(merged: Merged) -> str:
    share = f"{merged.difference:.1e} of the largest"
    return f"merged in float32, the logits differ from those of base and adapter by {share}"


def _check_report(checked: Checked) -> str:
    return f"loaded again in float32 and asked what our server was asked: {checked}"
