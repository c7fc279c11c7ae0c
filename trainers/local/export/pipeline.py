"""Makes an export, from the model's name to a checked folder: refuse, write, load, compare, rename.

All checks that may refuse the export come first. Then the export is written next to OUT, loaded, and asked the
questions that our server was asked. Only if the answers agree is it renamed to OUT. The job's own files are not
changed."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError

from trainers.export_folder import ExportRefused, check_out, check_space, folder_when_complete
from trainers.export_formats import FORMATS, formats_with
from trainers.local.base_files import adapter_base_fingerprint, base_fingerprint
from trainers.local.export import hub, onnx
from trainers.local.export.agreement import encode, served_answers
from trainers.local.export.card import Card
from trainers.local.export.order import ExportOrder, PreparedExport, Say, load_form
from trainers.local.export.sources import Questions, Source, find_source, read_questions
from trainers.local.export.weights import Base, open_base
from trainers.local.serving.memory import release_memory
from trainers.local.serving.values import Target
from trainers.local.training.base_model import load_tokenizer
from trainers.local.training.devices import best_device


def export(order: ExportOrder, say: Say) -> Path:
    """Writes the export and returns its folder. Raises ExportRefused, and its subclass AnswersDiffer."""
    source = find_source(order.model, order.data)
    if source.is_encoder:
        return onnx.export(order, source, say)
    base, questions, dtype = _check_order(order, source)
    say(f"{source.name}: asking our server {len(questions.questions)} questions of {questions.file.name}")
    tokenizer = load_tokenizer(str(base.folder))
    prompts = [encode(tokenizer, question) for question in questions.questions]
    target = Target(str(base.folder), source.adapter)
    if source.is_model:
        target = Target(str(source.adapter), None)
    answers = served_answers(target, prompts)
    release_memory(best_device())  # the export is loaded next
    prepared = PreparedExport(order, source, base, questions, dtype, prompts, answers)
    with folder_when_complete(order.out, (OSError, SafetensorError)) as folder:
        written = load_form(order).write(prepared, folder, say)
        card = Card(order, source, base, dtype, written)
        card.render().save(folder / "README.md")
    say(f"{order.out} is ready: {written.checks[-1]}")
    hub.upload(order, say)
    return order.out


def _check_order(order: ExportOrder, source: Source) -> tuple[Base, Questions, str]:
    """Returns the model's base, the questions to check with, and the number format of the weights. Raises
    ExportRefused."""
    if order.to == "onnx":
        raise ExportRefused(
            f"{source.name} writes text, but --to onnx is for encoders. Use --to merged or --to gguf."
        )
    check_out(order.out)
    base = open_base(source.job.base, source.job.base_name, order.base_id, order.licence)
    trained_on = adapter_base_fingerprint(source.adapter)  # None if it was trained before this was recorded
    now = base_fingerprint(base.folder)
    if not source.is_model and trained_on not in (None, now):
        raise ExportRefused(
            f"The weights of the base model in {base.folder} have changed since {source.name} was tuned, so its "
            "adapter does not fit them. Put the former weights back, or train again."
        )
    questions = read_questions(source, order.rows)
    options = {"dtype": order.dtype, "repo": order.upload.repo, "public": order.upload.is_public}
    takes = FORMATS[order.to].options
    for option, value in options.items():
        if value and option not in takes:
            raise ExportRefused(
                f"--{option} is for --to {formats_with(option)} and doesn't apply to --to {order.to}. Leave it out."
            )
    plan = load_form(order).plan(order, source, base)
    check_space(order.out, plan.bytes_needed)
    return base, questions, plan.dtype
