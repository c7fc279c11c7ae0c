"""`--to gguf`: converts a merged folder to one GGUF file, by llama.cpp's converter, and checks the file's contents."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gguf import GGUFReader, TokenType
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from trainers.export_folder import ExportRefused
from trainers.local.chat_renderer import render_chat
from trainers.local.export import gguf_converter
from trainers.local.export.agreement import compare_answers
from trainers.local.export.merged import check_mergeable, merge
from trainers.local.export.order import TOLERANCES, ExportOrder, Plan, PreparedExport, Say, WrittenExport
from trainers.local.export.sources import Source
from trainers.local.export.weights import BYTES, Base, LoadedModel, load_gguf
from trainers.local.training.base_model import load_tokenizer

FORMATS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "q8_0": "q8_0"}
BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "q8_0": 8.5}
READ_AS = {"gemma3_text": "gemma3", "qwen2_moe": "qwen2_moe"}
SPACE = "\u2581"  # SentencePiece's mark for a space
ADDS_BOS = "tokenizer.ggml.add_bos_token"


def plan(order: ExportOrder, source: Source, base: Base) -> Plan:
    """Refuses a model that the converter doesn't support, or whose file could not be loaded for the check."""
    check_mergeable(base)
    reason = gguf_converter.refusal(order.tools, base.architecture)
    if reason:
        raise ExportRefused(
            f"llama.cpp's converter doesn't support {base.architecture}: {reason} Export it with --to merged, and "
            "serve that folder."
        )
    family = str(base.config.get("model_type"))
    if READ_AS.get(family, family) not in GGUF_SUPPORTED_ARCHITECTURES:
        raise ExportRefused(
            f"transformers can't load a GGUF file of a {base.architecture}, so the export could not be checked. Export "
            "it with --to merged, and serve that folder."
        )
    dtype = order.dtype or base.dtype
    if order.dtype is None and base.dtype == "bfloat16":
        dtype = "float16"  # as small, and far closer to the base's answers (TOLERANCES)
    bytes_a_parameter = BYTES["float32"] + BITS[dtype] / 8  # the merged folder in float32, and the file
    return Plan(dtype, int(base.parameters * bytes_a_parameter))


def write(prepared: PreparedExport, folder: Path, say: Say) -> WrittenExport:
    file, checks, _ = write_file(prepared, folder, say)
    usage = f"With llama.cpp: `llama-server -m {file.name} --jinja` reads the chat template out of the file."
    return WrittenExport(checks, usage)


def write_file(prepared: PreparedExport, folder: Path, say: Say) -> tuple[Path, list[str], LoadedModel]:
    """Returns the file, sentences about what was checked, and the model loaded from the file. The adapter is merged in
    float32, so that numbers are rounded only once."""
    file = folder / f"{prepared.name}-{FORMATS[prepared.dtype]}.gguf"
    with TemporaryDirectory(prefix=".merged-", dir=folder) as temporary:
        merged_folder = Path(temporary)
        merged = merge(prepared, merged_folder, "float32", say)
        say(f"Writing {file.name} with llama.cpp's converter")
        tokenizer = load_tokenizer(temporary)
        convert(prepared.order.tools, merged_folder, tokenizer, prepared.dtype, file)
    contents = "the file holds the chat template and every token of the tokenizer"  # convert has checked it
    loaded = load_gguf(file, tokenizer, merged.end_tokens)
    agreement = compare_answers(prepared, loaded, TOLERANCES[prepared.dtype], say)
    return file, [merged.check, contents, agreement], loaded


def convert(tools: Path, merged: Path, tokenizer: Any, dtype: str, out: Path) -> None:
    """Converts the folder `merged` to the file `out`. `dtype` is a key of FORMATS. Raises ExportRefused."""
    _write_tokenizer_settings(merged / "tokenizer_config.json", tokenizer)
    gguf_converter.convert(tools, merged, out, FORMATS[dtype])

    # This entry tells programs whether to put a bos token before a chat, which has to be the same as in training.
    field = GGUFReader(out, "r+").get_field(ADDS_BOS)
    if field is None:
        raise ExportRefused(
            f"llama.cpp's converter left out {ADDS_BOS}, so chats could begin differently than in training."
        )
    [index] = field.data
    value = field.parts[index]  # mapped from the file, so that an assignment changes the file
    value[0] = template_writes_bos(tokenizer)
    _check_tokens(out, tokenizer)


def template_writes_bos(tokenizer: Any) -> bool:
    """Returns True if the template writes the bos token once, at the beginning. Some begin every turn with the token
    that is also bos."""
    if tokenizer.bos_token is None:
        return False
    turns = [{"role": role, "content": "?"} for role in ("user", "assistant", "user")]
    text = render_chat(tokenizer, turns)
    begins = text.startswith(tokenizer.bos_token)
    return begins and text.count(tokenizer.bos_token) == 1


def _write_tokenizer_settings(path: Path, tokenizer: Any) -> None:
    """Writes the tokenizer's actual behaviour into tokenizer_config.json. The converter recognises a tokenizer by the
    tokens that it makes of a text, bos included.

    Without an entry about a space after a special token, llama.cpp adds one for tokenizers like SentencePiece's: a toy
    model without the entry answered 'lilin' instead of 'login'.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    first_token = tokenizer("?").input_ids[:1]
    config["add_bos_token"] = tokenizer.bos_token_id in first_token
    if SPACE in tokenizer.get_vocab():
        _, after_special, *_ = tokenizer.tokenize(f"{tokenizer.eos_token}a")
        config["add_prefix_space"] = after_special.startswith(SPACE)
    path.write_text(json.dumps(config), encoding="utf-8")


def _check_tokens(file: Path, tokenizer: Any) -> None:
    """Raises ExportRefused unless the file holds this chat template, and this tokenizer's tokens by their ids."""
    reader = GGUFReader(file)
    templates = [_text(value) for value in _values(reader, "tokenizer.chat_template")]
    if templates != [tokenizer.chat_template]:
        raise ExportRefused("The GGUF file's chat template is not the one that the model was trained with.")
    written = [_text(value) for value in _values(reader, "tokenizer.ggml.tokens")]
    differing = []
    for word, token_id in tokenizer.get_vocab().items():
        # A slice, since the file may have fewer tokens.
        if written[token_id : token_id + 1] != [word]:
            differing.append(word)
    if differing:
        raise ExportRefused(
            f"The GGUF file's tokens differ from the tokenizer's, beginning with {differing[0]!r}."
        )

    # A special token that the file lists as a plain word would be read letter by letter.
    kinds = [int(value[0]) for value in _values(reader, "tokenizer.ggml.token_type")]
    for token_id, token in tokenizer.added_tokens_decoder.items():
        kind = kinds[token_id : token_id + 1]
        if token.special and kind == [TokenType.NORMAL]:
            raise ExportRefused(
                f"The GGUF file lists {token.content!r} as a plain word, since the tokenizer does not list it among "
                "its special tokens. Add it there, in the base's tokenizer_config.json, or export with --to merged."
            )


def _values(reader: GGUFReader, name: str) -> list[Any]:
    """Returns the values of a field as numpy arrays; none if the file has no such field."""
    field = reader.get_field(name)
    if field is None:
        return []
    return [field.parts[index] for index in field.data]


def _text(value: Any) -> str:
    return bytes(value).decode("utf-8")
