"""Labels texts with the classifier in this folder: `python classify.py "where is my parcel?"`

Needs onnxruntime, tokenizers and numpy. Prints a line of JSON for each text, with its label and the probability.
"""

# This file is copied into exports of encoders as classify.py, so it must not import anything of this project.
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else onnxruntime reports what it runs to its maker
import onnxruntime

FOLDER = Path(__file__).resolve().parent


class Classifier:
    def __init__(self, folder: Path = FOLDER) -> None:
        text = (folder / "classifier.json").read_text(encoding="utf-8")
        description = json.loads(text)
        self.labels: list[str] = description["labels"]
        self._is_mean = description["pooling"] == "mean"
        self._words_weigh: float = description["words_weigh"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(description["longest_tokens"])
        model = str(folder / "model.onnx")
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        # Not every encoder takes token_type_ids.
        self._wanted = {each.name for each in self._session.get_inputs()}
        with np.load(folder / "head.npz") as head:
            self._weights = head["weights"]
            self._biases = head["biases"]

    def probabilities(self, text: str) -> Any:
        """Returns a probability for each of `labels`."""
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
        if columns:  # the head also has weights for counts of word pieces
            words = self._count_words(tokens, columns)
            vector = np.concatenate([vector, words])
        scores = (vector @ self._weights + self._biases).astype(np.float64)
        shares = np.exp(scores - scores.max())  # the largest is 1, so that none overflows
        return shares / shares.sum()

    def _count_words(self, tokens: Any, columns: int) -> Any:
        """Returns the word pieces' numbers in so many columns, as a vector with the length that they weigh."""
        is_plain = np.array(tokens.special_tokens_mask) == 0
        pieces = np.array(tokens.ids, np.int64)[is_plain]
        counts = np.bincount(pieces % columns, minlength=columns)
        words = np.log1p(counts)
        words *= self._words_weigh / _length(words)
        return words

    def classify(self, text: str) -> tuple[str, float]:
        shares = self.probabilities(text)
        best = int(shares.argmax())
        return self.labels[best], float(shares[best])


def _length(vector: Any) -> float:
    """Returns the Euclidean length, never 0: a text may have no word pieces."""
    return max(float(np.linalg.norm(vector)), 1e-12)


if __name__ == "__main__":
    classifier = Classifier()
    for each in sys.argv[1:]:
        label, probability = classifier.classify(each)
        answer = {"label": label, "probability": round(probability, 6)}
        print(json.dumps(answer, ensure_ascii=False))
