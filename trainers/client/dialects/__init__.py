"""Clients for vendors whose API is not OpenAI's. Each is a subclass of Trainer that converts the vendor's answers to
OpenAI's format, so that the callers handle one kind of job."""

from __future__ import annotations

from trainers.client.client import Trainer
from trainers.client.dialects.fireworks import Fireworks
from trainers.client.dialects.together import Together
from trainers.types import Provider

TRAINERS: dict[str, type[Trainer]] = {"openai": Trainer, "together": Together, "fireworks": Fireworks}


def open_trainer(provider: Provider, key: str) -> Trainer:
    """Returns a client for the provider. Sends no request."""
    return TRAINERS[provider.dialect](provider, key)
