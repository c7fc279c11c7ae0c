"""Small encoders on the CPU, without torch: they turn texts into vectors, which a linear classifier labels."""

from __future__ import annotations

DEFAULT_ENCODER = "all-minilm-l6-v2"
