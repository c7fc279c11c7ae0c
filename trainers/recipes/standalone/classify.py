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
        text = (FOLDER / "classifier.json").read_text(encoding="utf-8")
        description = json.loads(text)
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
        scores = self._scores(text)  # one for each label
        values = self._curve["slope"] * scores + self._curve["shift"]
        # The logarithm of a logistic curve, and then softmax. In logarithms, since small values would become 0.
        logs = -np.logaddexp(0, -values)
        total = np.logaddexp.reduce(logs)
        shares = np.exp(logs - total)
        likeliest_first = (-scores).argsort(kind="stable")
        return {self.labels[column]: float(shares[column]) for column in likeliest_first}

    def _scores(self, text: str) -> Any:
        read = text.strip()[:LONGEST_TEXT].strip()
        [scores] = self._scorer.scores([read])
        return scores


if __name__ == "__main__":
    classifier = Classifier()
    for each in sys.argv[1:]:
        answer = {
            "label": classifier.classify(each),
            "probabilities": classifier.probabilities(each),
        }
        print(json.dumps(answer, ensure_ascii=False))
