"""Sends requests to a trainer: GETs are retried after a transient failure, everything else is sent exactly once, and
the SDK's exceptions become TrainerErrors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from trainers.client.payloads import Json, read_object
from trainers.errors import InvalidResponse, Refused, TrainerError, Uncertain
from trainers.providers.providers import is_loopback
from trainers.types import Provider

if TYPE_CHECKING:  # imported at the first call, since it takes 0.3 s and 20 MB
    import openai

_T = TypeVar("_T")

NO_KEY = "none"  # sent to providers that need no key, since the SDK insists on one
# After 408 and 409 the request may have taken effect; 429 passes by itself.
_UNCLEAR = frozenset({408, 409, 429})
_ABSENCE_IS_AN_ANSWER = frozenset({"GET", "DELETE"})  # to POST, a 404 is a refusal
# Unlike other answers from 500 on, it is definite: the service doesn't do this (any more).
NOT_IMPLEMENTED = 501
# A second in all, since a whole tick waits for it.
_PAUSES_S = (0.2, 0.8)
# So that an absurd Retry-After doesn't stop a run for days.
MOST_WAIT_S = 3600.0

ErrorKind = Literal["timeout", "connection", "rate_limit", "server", "refused", "unreadable"]
ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)


@dataclass(frozen=True)
class ProviderCall:
    """One request; a retry is another. `error_kind` is None if it was answered, also by saying that there is nothing of
    that name (404)."""

    provider: str
    seconds: float
    error_kind: ErrorKind | None


def to_trainer_error(error: openai.OpenAIError, action: str, provider: Provider) -> TrainerError:
    import openai

    # First, since it is a subclass of APIConnectionError.
    if isinstance(error, openai.APITimeoutError):
        return Uncertain(
            f"{action}: no answer in time. The trainer at {provider.base_url} may be busy or stuck.",
            was_sent=_was_sent(error),
        )
    if isinstance(error, openai.APIConnectionError):
        reason = _system_error(error)
        return Uncertain(
            f"{action}: {reason}; is the trainer running? It should be at {provider.base_url}.",
            was_sent=_was_sent(error),
        )
    if not isinstance(error, openai.APIStatusError):
        return InvalidResponse(f"{action}: the answer can't be read ({error}).")

    status = error.status_code
    text = _quoted(error)
    # Redirects are not followed, so one arrives here as an error.
    if status < 400:
        return InvalidResponse(
            f"{action}: answered with a redirect (HTTP {status}). Set base_url to the final address."
        )
    if status in _UNCLEAR or (status >= 500 and status != NOT_IMPLEMENTED):
        wait = _retry_after(error)
        when = "later"
        if wait is not None:
            when = f"in {wait:.0f} s"
        message = (
            f"{action}: HTTP {status}{text}. The trainer is busy or failing; it may answer again {when}."
        )
        return Uncertain(message, retry_after=wait, status=status)
    message = f"{action}: refused (HTTP {status}){text}.{_next_step(error, provider)}"
    return Refused(message, code=error.code, status=status, param=error.param)


def _quoted(error: openai.APIStatusError) -> str:
    """Returns the trainer's own message after a colon, shortened and on one line, or "" if it sent none. A web page is
    never quoted."""
    if not isinstance(error.body, dict):
        return ""
    message = error.body.get("message")
    if not isinstance(message, str):
        return ""
    words = " ".join(message.split())
    words = "".join(char for char in words if char.isprintable())
    key = error.request.headers.get("authorization", "").removeprefix("Bearer ")
    if key not in ("", NO_KEY):  # some vendors repeat the refused key, and this message is shown in channels
        words = words.replace(key, "(the key)")
    if not words:
        return ""
    shortened = words[:300].rstrip(". ")
    return f": {shortened}"


def _was_sent(error: openai.APIConnectionError) -> bool:
    """False if no connection was made, so that the trainer knows nothing of the request."""
    import httpx2

    return not isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)


def _kind_of(error: openai.OpenAIError) -> ErrorKind | None:
    import openai

    if isinstance(error, openai.APITimeoutError):
        return "timeout"
    if isinstance(error, openai.APIConnectionError):
        return "connection"
    if not isinstance(error, openai.APIStatusError) or error.status_code < 400:  # a redirect is no answer
        return "unreadable"
    status = error.status_code
    if status == 404 and error.request.method in _ABSENCE_IS_AN_ANSWER:
        return None
    if status == 429:
        return "rate_limit"
    if status >= 500 or status in _UNCLEAR:
        return "server"
    return "refused"


def _is_transient(error: openai.OpenAIError) -> bool:
    """True if the request failed at once and no waiting time was given, so a retry in a moment may succeed."""
    import openai

    if isinstance(error, openai.APIStatusError):
        # If a waiting time was given, the caller plans the next try instead of sleeping here.
        is_fault = error.status_code >= 500 and error.status_code != NOT_IMPLEMENTED
        return is_fault and _retry_after(error) is None
    # After a time-out, a retry would make the caller wait as long again.
    return isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError)


def _next_step(error: openai.APIStatusError, provider: Provider) -> str:
    if error.code == "training_not_available":
        return (
            f" {provider.name} does not offer fine-tuning to this organisation any more."
            " Choose a target that starts with local/, or open weights like crusoe/llama-3.1-8b."
        )
    if error.status_code == NOT_IMPLEMENTED:
        return f" {provider.name} does not offer this (any more). Choose another target; nothing was started."
    named = _where_key_is(provider)
    if error.status_code == 402:
        return " The account there is out of credit: add some, then start again."
    if error.status_code == 403 and error.request.method != "GET":
        return (
            f" The key{named} has no write access here. It may belong to another project: such keys can still read. "
            "Use a key of the project that trains."
        )
    if error.status_code in (401, 403):
        return f" Check the key{named} and its permissions."
    if error.status_code == 413:
        return " The file is too large for this trainer: use fewer or shorter examples."
    return ""


def _system_error(error: openai.APIConnectionError) -> str:
    """Returns the operating system's description of the error, taken from the innermost cause."""
    cause: BaseException = error
    # The SDK wraps the error several times, each time with a vaguer text.
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return str(cause).rstrip(".") or type(cause).__name__


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Reads the header Retry-After, which holds seconds or an HTTP date. Returns seconds, capped at an hour, or None if
    it is missing, unreadable, or zero or past, which would be no pause at all."""
    text = error.response.headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    if not seconds > 0:  # NaN too
        return None
    return min(seconds, MOST_WAIT_S)


def check_key(provider: Provider, key: str) -> str:
    """Returns the key without surrounding white space. Raises TrainerError if it is empty or malformed: a stray line
    break would otherwise end up, with the key, in an error message of the HTTP library."""
    stripped = key.strip()
    if provider.key_env is None and not stripped:
        return NO_KEY
    if not stripped.isascii() or not stripped.isprintable() or " " in stripped or not stripped:
        where = _where_key_is(provider)
        raise TrainerError(f"the key{where} for {provider.name} is empty or has characters that no key has.")
    return stripped


def _where_key_is(provider: Provider) -> str:
    if not provider.key_env:
        return ""
    return f" in {provider.key_env}"


def _ignore(call: ProviderCall) -> None:
    pass


class ApiClient:
    """Base class for clients of a provider's API. Raises only TrainerErrors.

    Retries are done here and not by the SDK, which would sleep inside a tick for as long as Retry-After says. `observe`
    is told of each request.
    """

    def __init__(self, provider: Provider, key: str) -> None:
        self.provider = provider
        self._key = check_key(provider, key)
        self.observe: Callable[[ProviderCall], None] = _ignore
        self._connected: openai.OpenAI | None = None
        self._connecting = threading.Lock()

    def close(self) -> None:
        if self._connected is not None:
            self._connected.close()

    @property
    def _url(self) -> str:
        return self.provider.base_url

    @property
    def _client(self) -> openai.OpenAI:
        # Several threads may ask at once, and a second client would stay open.
        with self._connecting:
            if self._connected is None:
                self._connected = self._connect()
            return self._connected

    def _connect(self) -> openai.OpenAI:
        # The SDK takes half a second to import, and not every client is asked something.
        import openai

        seconds = self.provider.timeout_s
        url = self._url
        is_here = is_loopback(url)
        return openai.OpenAI(
            api_key=self._key,
            base_url=url,
            # A host that is down is noticed soon, while one that computes may take its time.
            timeout=openai.Timeout(seconds, connect=min(5.0, seconds)),
            max_retries=0,
            default_headers=self.provider.headers,
            # Following a redirect would turn a POST into a GET. Loopback addresses bypass any proxy, and plain HTTP to
            # them needs no certificates, which take a while to read.
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False,
                trust_env=not is_here,
                verify=not (is_here and url.startswith("http:")),
            ),
        )

    def _action(self, what: str) -> str:
        return f"{what} on {self.provider.name}"

    def _get(self, action: str, ask: Callable[[], _T]) -> _T:
        import openai

        for pause in _PAUSES_S:
            try:
                return self._observed(ask)
            except openai.OpenAIError as error:
                if not _is_transient(error):
                    raise to_trainer_error(error, action, self.provider) from error
            time.sleep(pause)
        return self._send_once(action, ask)

    def _find(self, action: str, ask: Callable[[], _T]) -> _T | None:
        """Like `_get`, but returns None if the trainer answers that it doesn't exist."""
        try:
            return self._get(action, ask)
        except Refused as refusal:
            if not refusal.is_missing:
                raise
            return None

    def _send_once(self, action: str, ask: Callable[[], _T]) -> _T:
        import openai

        try:
            return self._observed(ask)
        except openai.OpenAIError as error:
            raise to_trainer_error(error, action, self.provider) from error

    def _observed(self, ask: Callable[[], _T]) -> _T:
        """Sends a request, and tells `observe` how long it took and how it failed."""
        import openai

        kind: ErrorKind | None = None
        started = time.monotonic()
        try:
            return ask()
        except openai.OpenAIError as error:
            kind = _kind_of(error)
            raise
        except InvalidResponse:  # where `ask` reads the answer too
            kind = "unreadable"
            raise
        finally:
            self.observe(ProviderCall(self.provider.name, time.monotonic() - started, kind))

    def _read(self, action: str, path: str) -> Json:
        return self._get(action, lambda: read_object(self._client.get(path, cast_to=bytes), action))

    def _look_up(self, action: str, path: str) -> Json | None:
        """Returns None if the trainer answers that it doesn't exist."""
        return self._find(action, lambda: read_object(self._client.get(path, cast_to=bytes), action))

    def _post(
        self, action: str, path: str, body: Mapping[str, object], timeout_s: float | None = None
    ) -> Json:
        """`path` may be a complete address too. `timeout_s` is None for the provider's own."""
        timeout = timeout_s or self._client.timeout
        post = partial(self._client.post, path, body=body, cast_to=bytes, options={"timeout": timeout})
        # Read within the call, so that `observe` hears of an answer that can't be read.
        return self._send_once(action, lambda: read_object(post(), action))

    def _delete_if_present(self, action: str, delete: Callable[[], bytes]) -> bool:
        """Deletes something. Returns False if it didn't exist (404), which is no error, since it is gone."""
        try:
            self._send_once(action, delete)
        except Refused as refusal:
            if not refusal.is_missing:
                raise
            return False
        return True
