"""Scores texts by the vectors of the encoder in this folder, times weights. Needs onnxruntime, tokenizers and numpy.

encoder.json has how it reads a text, model.onnx the encoder, tokenizer.json its tokenizer.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else onnxruntime reports what it runs to its maker
import onnxruntime

FOLDER = Path(__file__).resolve().parent


class VectorWeights:
    def __init__(self, weights: Any, biases: Any) -> None:
        self._weights = weights
        self._biases = biases
        text = (FOLDER / "encoder.json").read_text(encoding="utf-8")
        description = json.loads(text)
        self._is_mean = description["pooling"] == "mean"
        self._words_weigh: float = description["words_weigh"]
        self._tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(description["longest_tokens"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # more take processor time and answer no faster
        model = str(FOLDER / "model.onnx")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        # Not every encoder takes token_type_ids.
        self._wanted = {each.name for each in self._session.get_inputs()}

    def scores(self, texts: Sequence[str]) -> Any:
        return np.array([self._scores_of(text) for text in texts])

    def _scores_of(self, text: str) -> Any:
        tokens = self._tokenizer.encode(text)
        values = {
            "input_ids": tokens.ids,
            "attention_mask": tokens.attention_mask,
            "token_type_ids": tokens.type_ids,
        }
        feed = {name: np.array([ids], np.int64) for name, ids in values.items() if name in self._wanted}
        output, *_ = self._session.run(None, feed)
        vector = output[0]  # of the only text
        if vector.ndim == 2 and self._is_mean:  # a vector for each token
            vector = vector.mean(axis=0)
        elif vector.ndim == 2:
            vector = vector[0]
        vector = vector / _length(vector)
        columns = len(self._weights) - len(vector)
        if columns:  # the weights are also for counts of word pieces
            words = self._count_words(tokens, columns)
            vector = np.concatenate([vector, words])
        return vector @ self._weights + self._biases

    def _count_words(self, tokens: Any, columns: int) -> Any:
        """Returns the word pieces' numbers in so many columns, as a vector with the length that they weigh."""
        is_plain = np.array(tokens.special_tokens_mask) == 0
        pieces = np.array(tokens.ids, np.int64)[is_plain]
        counts = np.bincount(pieces % columns, minlength=columns)
        words = np.log1p(counts).astype(np.float32)
        words *= self._words_weigh / _length(words)
        return words


def read_scorer(arrays: Mapping[str, Any]) -> VectorWeights:
    return VectorWeights(arrays["weights"], arrays["biases"])


def _length(vector: Any) -> float:
    """Returns the Euclidean length, never 0: a text may have no word pieces."""
    return max(float(np.linalg.norm(vector)), 1e-12)
