"""Texts → vectors, by models that say how: those with sentence-transformers' description beside their weights.

A chat model has no such description. A mean of its states would look like an embedding and find little: it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils.hub import cached_file

from trainers.local.api_errors import ApiError
from trainers.local.serving.values import Embeddings
from trainers.local.training.devices import best_dtype

KNOWN_STAGES = frozenset({"Transformer", "Pooling", "Normalize"})
POOLINGS = ("cls_token", "mean_tokens", "lasttoken")
TOKENS_AT_ONCE = 2_048


class Embedder:
    """Vectors have unit length, so that their product is their cosine. Raises Problem (404, 500)."""

    def __init__(self, source: str, device: torch.device) -> None:
        self._device = device
        self._pooling = pooling_of(source)
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            model: Any = AutoModel.from_pretrained(
                source,
                config=config,
                dtype=best_dtype(device, config.model_type),
                use_safetensors=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError) as error:
            sentence = " ".join(str(error).split())[:300]
            text = f"Loading the embedding model {source}: {sentence}"
            raise ApiError(500, text, "base_not_loaded", "model", kind="server_error") from error
        self._model: Any = model.to(device).eval()
        self._context = min(int(config.max_position_embeddings), int(self._tokenizer.model_max_length))

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Embeddings:
        """In their order. Raises Problem (400) where one is longer than the model reads: nothing is cut off."""
        ids = [list(self._tokenizer(text).input_ids) for text in texts]
        for number, entries in enumerate(ids):
            if len(entries) > self._context:
                text = f"'input[{number}]' has {len(entries)} tokens; this model reads {self._context}. Shorten it."
                raise ApiError(400, text, "context_length_exceeded", "input")
        vectors: dict[int, tuple[float, ...]] = {}
        for part in _parts(ids):
            result = self._pooled([ids[place] for place in part])
            vectors |= {place: tuple(vector) for place, vector in zip(part, result.tolist(), strict=True)}
        return Embeddings(tuple(vectors[place] for place in range(len(ids))), sum(map(len, ids)))

    def _pooled(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """(texts, size)"""
        longest = max(map(len, ids))
        filled = [[*values, *[0] * (longest - len(values))] for values in ids]
        lengths = torch.tensor([len(values) for values in ids], device=self._device)
        mask = (torch.arange(longest, device=self._device)[None] < lengths[:, None]).long()
        states = self._model(
            input_ids=torch.tensor(filled, device=self._device), attention_mask=mask
        ).last_hidden_state.float()
        return torch.nn.functional.normalize(_pool(self._pooling, states, mask, lengths), dim=-1)


def pooling_of(source: str) -> str:
    """Which of POOLINGS. Raises Problem (404) where the model says none, or one that is not known here."""
    stages, described = _read(source, "modules.json"), _read(source, "1_Pooling/config.json")
    if described is None:
        raise _unable(
            "it has no 1_Pooling/config.json that says how. Serve a sentence-transformers model for that."
        )
    unknown = {str(stage["type"]).rpartition(".")[2] for stage in stages or []} - KNOWN_STAGES
    if unknown:
        raise _unable(f"it has the stage {', '.join(sorted(unknown))}, which this trainer doesn't compute.")
    chosen = [
        name.removeprefix("pooling_mode_")
        for name, is_on in described.items()
        if name.startswith("pooling_mode_") and is_on
    ]
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise _unable(
            f"it pools by {' and '.join(chosen) or 'nothing'}; here there are {', '.join(POOLINGS)}."
        )
    return str(chosen[0])


def _read(source: str, name: str) -> Any:
    path = cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else None


def _unable(why: str) -> ApiError:
    return ApiError(404, f"This model makes no embeddings: {why}", "model_cannot_embed", "model")


def _pool(pooling: str, states: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
    """`states`: (texts, longest, size), padded on the right."""
    if pooling == "cls_token":
        return states[:, 0]
    if pooling == "lasttoken":
        return states[torch.arange(len(states), device=states.device), lengths - 1]
    seen = mask[:, :, None].to(states.dtype)
    return (states * seen).sum(1) / seen.sum(1)


def _parts(ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """Places of texts of like length, few enough for one pass."""
    parts: list[list[int]] = []
    for place in sorted(range(len(ids)), key=lambda place: len(ids[place])):
        if parts and len(ids[place]) * (len(parts[-1]) + 1) <= TOKENS_AT_ONCE:
            parts[-1].append(place)
        else:
            parts.append([place])
    return parts
