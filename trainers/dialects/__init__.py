"""Trainers by the API that they speak. One that isn't OpenAI's is a subclass, which turns what a vendor answers into
rows of OpenAI's shape, so that everything above reads one kind of job."""

from __future__ import annotations

from trainers.client import Trainer
from trainers.dialects.fireworks import Fireworks
from trainers.dialects.together import Together
from trainers.types import Provider

TRAINERS: dict[str, type[Trainer]] = {"openai": Trainer, "together": Together, "fireworks": Fireworks}


def open_trainer(provider: Provider, key: str) -> Trainer:
    """Calls nobody yet."""
    return TRAINERS[provider.dialect](provider, key)
