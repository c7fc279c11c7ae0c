"""How a trainer is reached: the key that is sent, the HTTP client that sends it. Sends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainers.addresses import is_loopback
from trainers.errors import TrainerError
from trainers.types import Provider

if TYPE_CHECKING:  # as in client.py
    import openai


NO_KEY = "none"  # what the SDK sends where a provider asks for none


def key_in(environment: Mapping[str, str], provider: Provider) -> str | None:
    """A row that names no variable for a key, as for Ollama or vLLM, needs none. None: it is missing."""
    return NO_KEY if provider.key_env is None else environment.get(provider.key_env) or None


def checked_key(provider: Provider, key: str) -> str:
    """A stray line break would end up, with the key, in an error of the HTTP library."""
    stripped = key.strip()
    if provider.key_env is None and not stripped:
        return NO_KEY
    if not stripped.isascii() or not stripped.isprintable() or " " in stripped or not stripped:
        where = f" in {provider.key_env}" if provider.key_env else ""
        raise TrainerError(
            f"the key{where} for {provider.name} is empty or holds characters that no key has."
        )
    return stripped


def http_for(base_url: str) -> openai.DefaultHttpxClient:
    """A followed redirect would turn a POST into a GET. A proxy has no say about this machine."""
    import openai

    return openai.DefaultHttpxClient(follow_redirects=False, trust_env=not is_loopback(base_url))
