"""A trained classifier as a folder: a linear head on an encoder's vectors.

classifier.json   {"encoder", "sha256", "labels"}: the encoder by the name that load_encoder takes, None where it was
                  trained too and lies here, and the sha256 of all that its vectors depend on
head.npz          weights (dimensions x labels) and biases; of a head that sees words, those of WORD_COLUMNS behind
model.onnx        the trained encoder, and
tokenizer.json    what goes with it: where it was trained as a whole
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.encoders.embedding import EncoderError, TextEncoder, load_encoder
from trainers.encoders.head import LinearHead, columns_of

DESCRIPTION, HEAD = "classifier.json", "head.npz"
OTHERS = 3


@dataclass(frozen=True)
class Classified:
    """A text's label with its probability, and the likeliest others with theirs."""

    label: str
    probability: float
    others: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Classifier:
    encoder: TextEncoder
    head: LinearHead

    def classify(self, texts: Sequence[str]) -> tuple[Classified, ...]:
        columns = columns_of(self.encoder, self.head, texts, self.encoder.embed(texts))
        shares = self.head.probabilities(columns)
        return tuple(_classified(self.head.labels, row.tolist()) for row in shares)


def _classified(labels: Sequence[str], shares: Sequence[float]) -> Classified:
    ranked = sorted(zip(labels, shares, strict=True), key=lambda pair: -pair[1])
    (label, share), others = ranked[0], ranked[1 : 1 + OTHERS]
    return Classified(label, round(share, 6), tuple((name, round(other, 6)) for name, other in others))


def save_head(folder: Path, head: LinearHead, *, encoder: str | None, sha256: str) -> None:
    """Writes all but the files of an encoder that was trained too, of which `encoder` is None."""
    import numpy as np

    np.savez(folder / HEAD, weights=head.weights, biases=head.biases)
    described = {"encoder": encoder, "sha256": sha256, "labels": head.labels}
    (folder / DESCRIPTION).write_text(json.dumps(described, ensure_ascii=False, indent=1), encoding="utf-8")


def load_classifier(folder: Path, load: Callable[[str], TextEncoder] = load_encoder) -> Classifier:
    """`load` gives encoders by name. Raises EncoderError, also where the encoder's files have changed since, and
    FileNotFoundError where the folder is gone."""
    import numpy as np

    described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    with np.load(folder / HEAD) as arrays:
        head = LinearHead(tuple(described["labels"]), arrays["weights"], arrays["biases"])
    name = described["encoder"]
    encoder = load(name or str(folder))
    if encoder.sha256 != described["sha256"]:
        raise EncoderError(
            f"The files of the encoder {name or folder} have changed since this classifier was trained on it. Put the "
            "former ones back, or train again."
        )
    return Classifier(encoder, head)
