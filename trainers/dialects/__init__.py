"""Trainers by the API that they speak. One that isn't OpenAI's is a subclass, which turns what a vendor answers into
rows of OpenAI's shape, so that everything above reads one kind of job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainers.client import Trainer
from trainers.dialects.fireworks import Fireworks
from trainers.dialects.together import Together
from trainers.types import Provider

if TYPE_CHECKING:  # as in client.py
    import openai

TRAINERS: dict[str, type[Trainer]] = {"openai": Trainer, "together": Together, "fireworks": Fireworks}


def open_trainer(
    provider: Provider, key: str, http_client: openai.DefaultHttpxClient | None = None
) -> Trainer:
    """Calls nobody yet."""
    return TRAINERS[provider.dialect](provider, key, http_client=http_client)
