"""Small encoders on the CPU, without torch: texts to vectors, and a linear classifier on them."""

from __future__ import annotations

DEFAULT_ENCODER = "all-minilm-l6-v2"
