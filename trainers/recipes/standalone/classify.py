"""Labels texts with the classifier in this folder: `python classify.py "where is my parcel?"`

Prints a line of JSON for each text. Needs numpy; a folder with model.onnx also needs onnxruntime and tokenizers.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from trainers.evaluation.terms import read_scorer

FOLDER = Path(__file__).resolve().parent
LONGEST_TEXT = 4_000  # characters that are read


class Classifier:
    def __init__(self) -> None:
        description = json.loads((FOLDER / "classifier.json").read_text(encoding="utf-8"))
        self.labels: list[str] = description["labels"]
        self._curve: dict[str, float] | None = description["calibration"]["curve"]
        with np.load(FOLDER / "classifier.npz", allow_pickle=False) as arrays:
            self._scorer = read_scorer(dict(arrays))

    def classify(self, text: str) -> str:
        best = int(self._scores(text).argmax())
        return self.labels[best]

    def probabilities(self, text: str) -> dict[str, float] | None:
        """Returns each label's probability, the likeliest first; None if README.md says that they are unknown."""
        if self._curve is None:
            return None
        scores = self._scores(text)
        # The logarithm of a logistic curve, and then softmax
        logs = -np.logaddexp(0, -(self._curve["slope"] * scores + self._curve["shift"]))
        shares = np.exp(logs - np.logaddexp.reduce(logs))
        order = (-scores).argsort(kind="stable")
        return {self.labels[place]: float(shares[place]) for place in order}

    def _scores(self, text: str) -> Any:
        return self._scorer.scores([text.strip()[:LONGEST_TEXT].strip()])[0]


if __name__ == "__main__":
    classifier = Classifier()
    for each in sys.argv[1:]:
        answer = {"label": classifier.classify(each), "probabilities": classifier.probabilities(each)}
        print(json.dumps(answer, ensure_ascii=False))
