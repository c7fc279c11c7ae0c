"""Answers texts with an object of JSON by the classifiers in this folder: `python extract.py "Order 17: two lamps"`

Prints a line of JSON for each text. Needs numpy; a folder with model.onnx also needs onnxruntime and tokenizers.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from trainers.evaluation.spans import Copier, find_spans, read_weights
from trainers.evaluation.terms import read_scorer

FOLDER = Path(__file__).resolve().parent
LONGEST_TEXT = 4_000  # characters that are read


class Extractor:
    def __init__(self) -> None:
        text = (FOLDER / "classifier.json").read_text(encoding="utf-8")
        description = json.loads(text)
        self._fields: list[dict[str, Any]] = description["fields"]
        self._without_fields: str = description["without_fields"]
        with np.load(FOLDER / "classifier.npz", allow_pickle=False) as file:
            arrays = dict(file)
        self._scorer = read_scorer(arrays)
        self._copiers = {}
        for index, field in enumerate(self._fields):
            copier = field["copier"]
            if copier is not None:
                weights = read_weights(arrays, index)
                self._copiers[index] = Copier(weights, copier["absent"], copier["is_number"])

    def answer(self, text: str) -> str:
        """Returns the answer as JSON."""
        read = text.strip()[:LONGEST_TEXT].strip()
        [scores] = self._scorer.scores([read])  # one for each value of each field, one field after the other
        spans = find_spans(read)
        leaves = {}
        first = 0
        for index, field in enumerate(self._fields):
            value = field["usual"]
            values = field["values"]
            if values:
                end = first + len(values)
                best = int(scores[first:end].argmax())
                value = values[best]
                first = end
            if index in self._copiers:
                [value] = self._copiers[index].values([spans], otherwise=[value])
            if value:  # without one the field is missing
                path = tuple(field["path"])
                leaves[path] = json.loads(value)
        if not leaves:
            return self._without_fields
        return json.dumps(nested(leaves), ensure_ascii=False)


def nested(leaves: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """Returns the object with these fields. What is inside a field counts more than a value of the field itself."""
    result: dict[str, Any] = {}
    for path, value in leaves.items():
        inner = result
        *above, last = path
        for key in above:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        inside = inner.get(last)
        has_fields = isinstance(inside, dict) and bool(inside)
        if not has_fields:
            inner[last] = value
    return result


if __name__ == "__main__":
    extractor = Extractor()
    for each in sys.argv[1:]:
        print(extractor.answer(each))
