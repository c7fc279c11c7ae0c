"""The formats in which `finetune export` writes a tuned model, for the command line, the model card and docs/export.md.

Each format is written and checked by the module of its name, `trainers/local/export/NAME.py`. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DTYPES = ("float32", "float16", "bfloat16", "q8_0")


@dataclass(frozen=True)
class ExportFormat:
    """One export format. `writes` and `start` are its cells in docs/export.md. `options` are the command's options that
    only some formats accept. `library` and `relation` (to the base model) use the terms of Hugging Face's model
    cards."""

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
    """Lists the formats that accept an option, for a sentence: "merged, gguf and ollama"."""
    names = [row.name for row in FORMATS.values() if option in row.options]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
