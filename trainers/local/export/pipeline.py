"""One export from the model's name to a folder that was checked: refuse, write, load again, compare, keep.

Everything that can be refused is looked at first. What is written lies beside OUT until our server's answers and
those of the written model, loaded again, are the same; then it is renamed to OUT. Nothing of the job is changed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from trainers.local.export import gguf, hub, vllm
from trainers.local.export.agreement import encode, served_answers
from trainers.local.export.formats import Order, Say, Work, WrittenExport, write_export
from trainers.local.export.hub import Card
from trainers.local.export.merged_weights import BYTES, Base, free_memory, open_base
from trainers.local.export.output import ExportRefused, check_out, check_space, folder_when_complete
from trainers.local.export.sources import WEIGHTS, Questions, Source, describe, find_source, questions_of
from trainers.local.serving.values import Target
from trainers.local.training.base_files import base_fingerprint, base_of_adapter
from trainers.local.training.base_model import load_tokenizer


def export(order: Order, say: Say) -> Path:
    """The folder that was made. Raises ExportRefused, AnswersDiffer among them."""
    source, base, questions, dtype = _check_order(order)
    say(f"{source.name}: asking our server {len(questions.asked)} questions of {questions.file.name}")
    tokenizer = load_tokenizer(str(base.folder))
    prompts = [encode(tokenizer, asked) for asked in questions.asked]
    ours = served_answers(Target(str(base.folder), source.adapter), prompts)
    free_memory()
    work = Work(order, source, base, questions, dtype, prompts, ours)
    with folder_when_complete(order.out) as folder:
        written = write_export(work, folder, say)
        (folder / "README.md").write_text(str(_card(work, written)), encoding="utf-8")
    say(f"{order.out} is ready: {written.checks[-1]}")
    if order.upload.repo:
        say(f"Uploading to {order.upload.repo}")
        say(f"Uploaded: {hub.upload_folder(order.out, order.upload)}")
    return order.out


def _check_order(order: Order) -> tuple[Source, Base, Questions, str]:
    source = find_source(order.model, order.data)
    check_out(order.out)
    base = _base(order, source)
    questions = questions_of(source, order.rows)
    dtype = order.dtype or _dtype(order, base)
    if order.to in ("merged", "gguf", "ollama"):
        _check_merging(order, base, dtype)
    elif order.dtype:
        raise ExportRefused(
            f"--to {order.to} exports the adapter as it is; --dtype is for merged, gguf and ollama."
        )
    if order.to == "vllm":
        vllm.check_vllm(source)
    if order.to == "hub":
        hub.check_upload(order.upload, base)
    elif order.upload.repo:
        raise ExportRefused(f"--repo is for --to hub; --to {order.to} uploads nothing.")
    check_space(order.out, _bytes(order, source, base, dtype))
    return source, base, questions, dtype


def _base(order: Order, source: Source) -> Base:
    base = open_base(source.job.base, source.job.base_name, order.base_id, order.licence)
    if base_of_adapter(source.adapter) not in (None, base_fingerprint(base.folder)):
        raise ExportRefused(
            f"The weights of the base model in {base.folder} have changed since {source.name} was tuned, so its "
            "adapter does not fit them. Put the former weights back, or train anew."
        )
    return base


def _dtype(order: Order, base: Base) -> str:
    """The base's; in GGUF float16 where that is bfloat16: as small, and answers are kept far better (writing.py)."""
    return "float16" if order.to in ("gguf", "ollama") and base.dtype == "bfloat16" else base.dtype


def _check_merging(order: Order, base: Base, dtype: str) -> None:
    if base.is_quantised:
        raise ExportRefused(
            f"The base {base.name} is stored quantised, so nothing can be merged into it exactly. "
            "Export the adapter: --to vllm or --to hub."
        )
    if order.to == "merged" and dtype not in BYTES:
        raise ExportRefused(
            f"Merged weights can't be written in {dtype}. Choose {', '.join(BYTES)}, or --to gguf."
        )
    if order.to != "merged":
        gguf.check_architecture(order.tools, base)


def _bytes(order: Order, source: Source, base: Base, dtype: str) -> int:
    """The most that lies on the disk at once: for GGUF the merged folder in float32 as well."""
    if order.to == "merged":
        return base.parameters * BYTES[dtype]
    if order.to in ("gguf", "ollama"):
        return int(base.parameters * (BYTES["float32"] + gguf.BITS[dtype] / 8))
    return 2 * (source.adapter / WEIGHTS).stat().st_size


def _card(work: Work, written: WrittenExport) -> Card:
    job = work.source.job
    return Card(
        to=work.order.to,
        name=work.name,
        source=work.source,
        base=work.base,
        dtype=work.dtype,
        training=describe(work.source, job.training_file),
        validation=describe(work.source, job.validation_file),
        measured=work.order.measured,
        checks=written.checks,
        how=written.how,
        on=datetime.now(UTC).date().isoformat(),
    )
