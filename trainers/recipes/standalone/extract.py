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
        description = json.loads((FOLDER / "classifier.json").read_text(encoding="utf-8"))
        self._fields: list[dict[str, Any]] = description["fields"]
        self._without_fields: str = description["without_fields"]
        with np.load(FOLDER / "classifier.npz", allow_pickle=False) as file:
            arrays = dict(file)
        self._scorer = read_scorer(arrays)
        self._copiers = {}
        for place, field in enumerate(self._fields):
            copier = field["copier"]
            if copier is not None:
                weights = read_weights(arrays, place)
                self._copiers[place] = Copier(weights, copier["absent"], copier["is_number"])

    def answer(self, text: str) -> str:
        """Returns the answer as JSON."""
        read = text.strip()[:LONGEST_TEXT].strip()
        scores = self._scorer.scores([read])[0]
        spans = find_spans(read)
        leaves = {}
        first = 0
        for place, field in enumerate(self._fields):
            value = field["usual"]
            if field["values"]:
                end = first + len(field["values"])
                value = field["values"][int(scores[first:end].argmax())]
                first = end
            if place in self._copiers:
                (value,) = self._copiers[place].values([spans], [value])
            if value:  # without one the field is missing
                leaves[tuple(field["path"])] = json.loads(value)
        if not leaves:
            return self._without_fields
        return json.dumps(nested(leaves), ensure_ascii=False)


def nested(leaves: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """Returns the object with these fields. What is inside a field counts more than a value of the field itself."""
    result: dict[str, Any] = {}
    for path, value in leaves.items():
        inner = result
        for key in path[:-1]:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        inside = inner.get(path[-1])
        if not (isinstance(inside, dict) and inside):
            inner[path[-1]] = value
    return result


if __name__ == "__main__":
    extractor = Extractor()
    for each in sys.argv[1:]:
        print(extractor.answer(each))
