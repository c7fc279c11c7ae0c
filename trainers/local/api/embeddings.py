"""POST /v1/embeddings: parses requests and answers with vectors as numbers, or as base64 of 32-bit floats."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from trainers.http.errors import invalid
from trainers.local.api.chat_requests import read_model_name
from trainers.local.api.inbox import Inbox
from trainers.local.serving.values import EmbeddingRequest, Embeddings, GenerationEngine, Target

MAX_TEXTS = 2_048
FIELDS = ("model", "input", "encoding_format", "user")


@dataclass(frozen=True)
class EmbeddingParams:
    model: str
    texts: tuple[str, ...]
    is_base64: bool


def parse_embedding(body: Mapping[str, Any]) -> EmbeddingParams:
    """Raises ApiError (400), which names the field."""
    for name, value in body.items():
        if name not in FIELDS and value is not None:
            text = f"This trainer does not know the parameter '{name}'. Known are {', '.join(FIELDS)}."
            raise invalid(text, name, "unknown_parameter")
    model = read_model_name(body)
    form = body.get("encoding_format")
    if form not in (None, "float", "base64"):
        raise invalid(f"'encoding_format' is {form!r}; allowed are float, base64.", "encoding_format")
    texts = body.get("input")
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        text = "'input' must be text or a list of texts, none of them empty. Token ids are not supported."
        raise invalid(text, "input", "invalid_type")
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise invalid(f"'input' has {len(texts)} texts; it must have 1 to {MAX_TEXTS}.", "input")
    return EmbeddingParams(model, tuple(texts), form == "base64")


async def embed(
    request: Request, engine: GenerationEngine, target: Target, params: EmbeddingParams
) -> Response:
    """Answers with one vector per text. Raises ApiError."""
    inbox = Inbox(request)
    inbox.ticket = engine.submit(EmbeddingRequest(target, params.texts, inbox.put))
    embeddings = await inbox.next_outcome()
    assert isinstance(embeddings, Embeddings)  # noqa: S101  next_outcome raises ApiErrors
    data = []
    for index, vector in enumerate(embeddings.vectors):
        embedding: object = vector
        if params.is_base64:
            packed = struct.pack(f"<{len(vector)}f", *vector)
            embedding = base64.b64encode(packed).decode()
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    usage = {"prompt_tokens": embeddings.tokens, "total_tokens": embeddings.tokens}
    return JSONResponse({"object": "list", "data": data, "model": params.model, "usage": usage})
