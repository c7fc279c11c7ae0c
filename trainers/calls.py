"""How a request to a trainer is made: a GET is retried after a transient fault, anything else is sent once, and the
SDK's exceptions become our error family."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING

from trainers.errors import InvalidResponse, Refused, TrainerError, Uncertain
from trainers.providers import is_loopback
from trainers.types import Provider

if TYPE_CHECKING:  # at the first call: it takes 0.3 s and 20 MB
    import openai

NO_KEY = "none"  # what the SDK sends where a provider asks for none
_UNCLEAR = frozenset({408, 409, 429})
_PAUSES_S = (0.2, 0.8)
MOST_WAIT_S = 3600.0


def to_trainer_error(error: openai.OpenAIError, action: str, provider: Provider) -> TrainerError:
    import openai

    if isinstance(error, openai.APITimeoutError):
        return Uncertain(f"{action}: no answer in time. The trainer at {provider.base_url} is busy or stuck.")
    if isinstance(error, openai.APIConnectionError):
        reason = _system_error(error)
        return Uncertain(f"{action}: {reason}; is the trainer running? It should be at {provider.base_url}.")
    if not isinstance(error, openai.APIStatusError):
        return InvalidResponse(f"{action}: the answer cannot be read ({error}).")

    status = error.status_code
    # The trainer's own words, short and on one line; a web page is not quoted.
    body = error.body if isinstance(error.body, dict) else {}
    quoted = body.get("message")
    words = " ".join(quoted.split()) if isinstance(quoted, str) else ""
    words = "".join(char for char in words if char.isprintable())
    key = error.request.headers.get("authorization", "").removeprefix("Bearer ")
    if key not in ("", NO_KEY):  # some repeat the key that they refuse, and this is read in channels
        words = words.replace(key, "(the key)")
    text = f": {words[:300].rstrip('. ')}" if words else ""
    if status < 400:
        return InvalidResponse(
            f"{action}: answered with a redirect (HTTP {status}). Set base_url to the final address."
        )
    if status in _UNCLEAR or status >= 500:
        wait = _retry_after(error)
        when = "later" if wait is None else f"in {wait:.0f} s"
        cure = f"The trainer is busy or in trouble: it may answer again {when}."
        return Uncertain(f"{action}: HTTP {status}{text}. {cure}", retry_after=wait, status=status)
    message = f"{action}: refused (HTTP {status}){text}.{_cure(error, provider)}"
    return Refused(message, code=error.code, status=status, param=error.param)


def _is_transient(error: openai.OpenAIError) -> bool:
    """Says whether a request failed at once and named no time to wait, so that it may succeed in a moment."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code >= 500 and _retry_after(error) is None
    return isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError)


def _cure(error: openai.APIStatusError, provider: Provider) -> str:
    if error.code == "training_not_available":
        return (
            f" {provider.name} has closed fine-tuning to this organisation."
            " Choose a target that starts with local/, or open weights like crusoe/llama-3.1-8b."
        )
    named = f" in {provider.key_env}" if provider.key_env else ""
    if error.status_code == 402:
        return " The account there has no credit left for it: add some, then start again."
    if error.status_code == 403 and error.request.method != "GET":
        return (
            f" The key{named} may not write: it may be one of another project, which can read all the same. "
            "Take one of the project that trains."
        )
    if error.status_code in (401, 403):
        return f" Check the key{named} and its rights."
    if error.status_code == 413:
        return " The file is too large for this trainer: use fewer or shorter examples."
    return ""


def _system_error(error: openai.APIConnectionError) -> str:
    """Returns the system's words for the error, from the innermost cause."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return str(cause).rstrip(".") or type(cause).__name__


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Returns the seconds to wait, from seconds or an HTTP date. An absurd wait is an hour: then it is asked again."""
    text = error.response.headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, min(seconds, MOST_WAIT_S))


def check_key(provider: Provider, key: str) -> str:
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


class ApiClient:
    """The base of classes that call a trainer. Raises only TrainerError's family.

    Repeating is done here, not by the SDK: it would sleep for as long as a Retry-After says inside a tick.
    """

    def __init__(self, provider: Provider, key: str) -> None:
        self.provider = provider
        self._key = check_key(provider, key)

    def close(self) -> None:
        if "_client" in vars(self):
            self._client.close()

    @property
    def _url(self) -> str:
        return self.provider.base_url

    @cached_property
    def _client(self) -> openai.OpenAI:
        import openai

        seconds, url = self.provider.timeout_s, self._url
        return openai.OpenAI(
            api_key=self._key,
            base_url=url,
            timeout=openai.Timeout(seconds, connect=min(5.0, seconds)),
            max_retries=0,
            # A followed redirect would turn a POST into a GET. A proxy has no say about this machine.
            http_client=openai.DefaultHttpxClient(follow_redirects=False, trust_env=not is_loopback(url)),
        )

    def _action(self, what: str) -> str:
        return f"{what} on {self.provider.name}"

    def _get(self, action: str, ask: Callable[[], bytes]) -> bytes:
        import openai

        for pause in _PAUSES_S:
            try:
                return ask()
            except openai.OpenAIError as error:
                if not _is_transient(error):
                    raise to_trainer_error(error, action, self.provider) from error
            time.sleep(pause)
        return self._send_once(action, ask)

    def _find(self, action: str, ask: Callable[[], bytes]) -> bytes | None:
        """As `_get`; None where there is no such thing."""
        try:
            return self._get(action, ask)
        except Refused as refusal:
            if not refusal.is_missing:
                raise
            return None

    def _send_once(self, action: str, ask: Callable[[], bytes]) -> bytes:
        import openai

        try:
            return ask()
        except openai.OpenAIError as error:
            raise to_trainer_error(error, action, self.provider) from error

    def _delete_if_present(self, action: str, delete: Callable[[], bytes]) -> None:
        """Deletes something, which may be gone already."""
        try:
            self._send_once(action, delete)
        except Refused as refusal:
            if not refusal.is_missing:
                raise
