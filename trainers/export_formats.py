"""The forms in which `finetune export` writes a tuned model: one row each, for the command line, the model card and
docs/export.md. What a form writes and checks is in `trainers/local/export/NAME.py`, by the same name. Imports nothing
heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DTYPES = ("float32", "float16", "bfloat16", "q8_0")


@dataclass(frozen=True)
class ExportFormat:
    """`writes` and `start` are the row's cells in docs/export.md. `options`: options of the command that only some
    forms take. `library` and `relation` as Hugging Face's model cards name them; `relation` is that to the base."""

    name: str
    writes: str
    start: str
    library: str
    relation: str
    options: tuple[str, ...] = ()


FORMATS: Mapping[str, ExportFormat] = {
    row.name: row
    for row in (
        ExportFormat(
            name="merged",
            writes="a transformers folder: safetensors, tokenizer, chat template",
            start="`vllm serve .`, or `AutoModelForCausalLM`",
            library="transformers",
            relation="finetune",
            options=("dtype",),
        ),
        ExportFormat(
            name="gguf",
            writes="one GGUF file",
            start="`llama-server -m FILE --jinja`",
            library="gguf",
            relation="quantized",
            options=("dtype",),
        ),
        ExportFormat(
            name="ollama",
            writes="the GGUF file and a Modelfile",
            start="`ollama create NAME -f Modelfile`",
            library="gguf",
            relation="quantized",
            options=("dtype",),
        ),
        ExportFormat(
            name="vllm",
            writes="the adapter in peft's layout, `serve.sh`",
            start="`./serve.sh`",
            library="peft",
            relation="adapter",
        ),
        ExportFormat(
            name="hub",
            writes="the adapter and its card, ready to upload",
            start="`--repo ORG/NAME` uploads it, private unless `--public`",
            library="peft",
            relation="adapter",
            options=("repo", "public"),
        ),
        ExportFormat(
            name="onnx",
            writes="of an encoder: ONNX, tokenizer, head and labels, `classify.py`",
            start="`python classify.py TEXT`",
            library="onnxruntime",
            relation="finetune",
        ),
    )
}
ENCODER_FORMS = ("onnx", "hub")


def formats_with(option: str) -> str:
    """Lists the formats that take an option, for a sentence: "merged, gguf and ollama"."""
    names = [row.name for row in FORMATS.values() if option in row.options]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
