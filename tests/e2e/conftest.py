"""The toy model, for stories whose training must take seconds."""

from __future__ import annotations

from tests.local.conftest import tiny_model_dir

__all__ = ["tiny_model_dir"]
