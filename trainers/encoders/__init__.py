"""Small encoders on the CPU, without torch: they turn texts into vectors, which a linear classifier labels."""

from __future__ import annotations

DEFAULT_ENCODER = "all-minilm-l6-v2"  # for English
MULTILINGUAL_ENCODER = "multilingual-e5-small"  # with the extra [multilingual]


class EncoderError(Exception):
    """An encoder can't be used. The message says which one, why, and what to do."""
