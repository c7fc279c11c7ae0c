"""How a request to a trainer is made: a GET is retried after a transient fault, anything else is sent once,
and the SDK's exceptions become our error family."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from trainers.errors import Nonsense, Refused, TrainerError, Uncertain
from trainers.types import Provider

if TYPE_CHECKING:  # as in client.py
    import openai

_UNCLEAR = frozenset({408, 409, 429})


def to_trainer_error(error: openai.OpenAIError, doing: str, provider: Provider) -> TrainerError:
    import openai

    if isinstance(error, openai.APIStatusError):
        return _from_status(error, doing, provider)
    if isinstance(error, openai.APITimeoutError):
        return Uncertain(f"{doing}: no answer in time. The trainer at {provider.base_url} is busy or stuck.")
    if isinstance(error, openai.APIConnectionError):
        return Uncertain(
            f"{doing}: {_reason(error)}; is the trainer running? It should be at {provider.base_url}."
        )
    return Nonsense(f"{doing}: the answer cannot be read ({error}).")


def is_transient(error: openai.OpenAIError) -> bool:
    """It failed at once and names no time to wait: asking again in a moment may do."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code >= 500 and _retry_after(error) is None
    return isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError)


def _from_status(error: openai.APIStatusError, doing: str, provider: Provider) -> TrainerError:
    status = error.status_code
    text = _error_text(error)
    if status < 400:
        return Nonsense(
            f"{doing}: answered with a redirect (HTTP {status}). Set base_url to the final address."
        )
    if status in _UNCLEAR or status >= 500:
        wait = _retry_after(error)
        when = "later" if wait is None else f"in {wait:.0f} s"
        cure = f"The trainer is busy or in trouble: it may answer again {when}."
        return Uncertain(f"{doing}: HTTP {status}{text}. {cure}", retry_after=wait, status=status)
    cure = _cure(error, provider)
    message = f"{doing}: refused (HTTP {status}){text}.{cure}"
    return Refused(message, code=error.code, status=status, param=error.param)


def _cure(error: openai.APIStatusError, provider: Provider) -> str:
    if error.code == "training_not_available":
        return (
            f" {provider.name} has closed fine-tuning to this organisation."
            " Train on your own machine instead: choose a target that starts with local/."
        )
    if error.status_code in (401, 403):
        return f" Check the key{f' in {provider.key_env}' if provider.key_env else ''} and its rights."
    if error.status_code == 413:
        return " The file is too large for this trainer: use fewer or shorter examples."
    return ""


def _error_text(error: openai.APIStatusError) -> str:
    """The trainer's own words, short and on one line; a web page is not quoted."""
    message = error.body.get("message") if isinstance(error.body, dict) else None
    if not isinstance(message, str):
        return ""
    words = "".join(char for char in " ".join(message.split()) if char.isprintable())
    return f": {words[:300].rstrip('. ')}" if words else ""


def _reason(error: openai.APIConnectionError) -> str:
    """The system's words for it, from the innermost cause."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return str(cause).rstrip(".") or type(cause).__name__


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds, from seconds or an HTTP date."""
    text = error.response.headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


if TYPE_CHECKING:  # as in client.py
    import openai

_PAUSES_S = (0.2, 0.8)


class Calls:
    """What every call goes through. Raises only TrainerError's family.

    Repeating is done here, not by the SDK: it would sleep for as long as a Retry-After says inside a tick.
    """

    provider: Provider

    @property
    def _client(self) -> openai.OpenAI:
        raise NotImplementedError

    def _doing(self, what: str) -> str:
        return f"{what} on {self.provider.name}"

    def _get(self, doing: str, ask: Callable[[], bytes]) -> bytes:
        import openai

        for pause in _PAUSES_S:
            try:
                return ask()
            except openai.OpenAIError as error:
                if not is_transient(error):
                    raise to_trainer_error(error, doing, self.provider) from error
            time.sleep(pause)
        return self._once(doing, ask)

    def _once(self, doing: str, ask: Callable[[], bytes]) -> bytes:
        import openai

        try:
            return ask()
        except openai.OpenAIError as error:
            raise to_trainer_error(error, doing, self.provider) from error

    def _gone(self, doing: str, delete: Callable[[], bytes]) -> None:
        try:
            self._once(doing, delete)
        except Refused as refusal:
            if not refusal.is_missing:
                raise
