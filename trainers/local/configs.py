"""What a base model's config.json says, read without loading the model: from its folder, or from the hub's cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from trainers.auto import rate_for, rate_for_pairs
from trainers.local.spool import Method


def rate_of_base(source: str, method: Method = "supervised") -> float:
    """The learning rate by trainers/auto.py for a folder or a hub id; one that isn't here yet has no hidden size."""
    config = read_config(source)
    text = config.get("text_config", config)
    hidden = text.get("hidden_size") if isinstance(text, dict) else None
    rate = rate_for(hidden if isinstance(hidden, int) else None, str(config.get("model_type", "")))
    return rate_for_pairs(rate) if method == "dpo" else rate


def context_of_base(source: str) -> int | None:
    """The most tokens that the model was made for; None where its config doesn't say."""
    config = read_config(source)
    text = config.get("text_config", config)
    context = text.get("max_position_embeddings") if isinstance(text, dict) else None
    return context if isinstance(context, int) else None


def read_config(source: str) -> dict[str, Any]:
    """Empty where there is none on this machine."""
    path = Path(source) / "config.json"
    if not path.is_file():
        cached = None if Path(source).is_absolute() else try_to_load_from_cache(source, "config.json")
        if not isinstance(cached, str):
            return {}
        path = Path(cached)
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config
