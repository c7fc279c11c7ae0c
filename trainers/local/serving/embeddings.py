"""Embeds texts, by models that have sentence-transformers' description next to their weights.

Chat models have no such description and are refused: the mean of their states would look like an embedding, but a
search with it would find little."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils.hub import cached_file

from trainers.http.errors import ApiError
from trainers.local.serving.sequences import pad_right
from trainers.local.serving.values import Embeddings
from trainers.local.training.devices import best_dtype
from trainers.local.training.memory import fill_parts

KNOWN_STAGES = frozenset({"Transformer", "Pooling", "Normalize"})
POOLINGS = ("cls_token", "mean_tokens", "lasttoken")
TOKENS_AT_ONCE = 2_048


class Embedder:
    """An embedding model on its device. Its vectors have unit length, so that their dot product is their cosine. Raises
    ApiError (404, 500)."""

    def __init__(self, source: str, device: torch.device) -> None:
        self._device = device
        self._pooling = read_pooling(source)
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
        positions = int(config.max_position_embeddings)
        longest = int(self._tokenizer.model_max_length)
        self._context = min(positions, longest)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Returns a vector for each text, in order. Raises ApiError (400) if a text is too long; none is truncated."""
        ids = [list(self._tokenizer(text).input_ids) for text in texts]
        for number, tokens in enumerate(ids):
            if len(tokens) > self._context:
                text = f"'input[{number}]' has {len(tokens)} tokens; this model takes {self._context}. Shorten it."
                raise ApiError(400, text, "context_length_exceeded", "input")

        def width(part: Sequence[int]) -> int:
            longest = len(ids[part[-1]])
            return longest * len(part)

        # Texts of similar length share a pass, which pads all of them to the longest.
        by_length = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        vectors: dict[int, tuple[float, ...]] = {}
        for part in fill_parts(by_length, TOKENS_AT_ONCE, width):
            in_part = [ids[number] for number in part]
            rows = self._vectors(in_part).tolist()
            for number, row in zip(part, rows, strict=True):
                vectors[number] = tuple(row)
        in_order = tuple(vectors[number] for number in range(len(ids)))
        return Embeddings(in_order, sum(map(len, ids)))

    def _vectors(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Returns the vectors, (texts, size), from one pass over rows padded on the right."""
        padded, mask = pad_right(ids, self._device)
        output = self._model(input_ids=padded, attention_mask=mask)
        states = output.last_hidden_state.float()  # (texts, longest, size)
        if self._pooling == "cls_token":
            vectors = states[:, 0]
        elif self._pooling == "lasttoken":
            row_numbers = torch.arange(len(states), device=states.device)
            last = mask.sum(1) - 1  # (texts,)
            vectors = states[row_numbers, last]
        else:
            weights = mask[:, :, None].to(states.dtype)
            vectors = (states * weights).sum(1) / weights.sum(1)
        return torch.nn.functional.normalize(vectors, dim=-1)


def read_pooling(source: str) -> str:
    """Returns the model's pooling, one of POOLINGS. Raises ApiError (404) if it names none, or one that is not
    supported."""
    pooling = _read_hub_json(source, "1_Pooling/config.json")
    if pooling is None:
        raise _cannot_embed("it has no 1_Pooling/config.json. Use a sentence-transformers model.")
    stages = _read_hub_json(source, "modules.json") or []
    unknown = set()
    for stage in stages:
        _, _, name = str(stage["type"]).rpartition(".")
        unknown.add(name)
    unknown -= KNOWN_STAGES
    if unknown:
        names = ", ".join(sorted(unknown))
        raise _cannot_embed(f"it has the stage {names}, which this trainer doesn't support.")
    modes = []
    for name, is_on in pooling.items():
        if is_on and name.startswith("pooling_mode_"):
            modes.append(name.removeprefix("pooling_mode_"))
    if len(modes) != 1 or modes[0] not in POOLINGS:
        named = " and ".join(modes) or "nothing"
        raise _cannot_embed(f"it pools by {named}; supported are {', '.join(POOLINGS)}.")
    return str(modes[0])


def _read_hub_json(source: str, name: str) -> Any:
    """Returns None if the model has no such file."""
    path = cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    if path is None:
        return None
    text = Path(path).read_text(encoding="utf-8")
    return json.loads(text)


def _cannot_embed(why: str) -> ApiError:
    return ApiError(404, f"This model makes no embeddings: {why}", "model_cannot_embed", "model")
