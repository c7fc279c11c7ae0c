"""Calls providers. Knows no recipes: it gets an address, a key and a body, and passes on what comes back."""

from __future__ import annotations

import itertools
import logging
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import orjson

from trainers.http.errors import ApiError
from trainers.http.guard import LOOPBACK_NAMES
from trainers.recipes.values import Upstream

# A client of httpx2 walks all its connections with every request, which takes twice the time with 200 open calls.
CLIENTS = 16
# Of one client, idle ones included: with fewer idle ones, a busy door would open connections over and over.
MOST_CONNECTIONS = 1_000
IDLE_S = 4.0  # less than any server keeps a connection, so that none is closed just as a call is sent
CONNECT_S = 5.0
LOG_EVERY_S = 60.0
# What a vendor says about limits and tracing, which SDKs and support read.
PASSED_ON = frozenset({"content-type", "retry-after", "retry-after-ms", "x-should-retry", "x-request-id"})
PASSED_PREFIXES = ("x-ratelimit-", "openai-")
TAKEN_ALONG = ("openai-beta", "idempotency-key", "x-client-request-id")

log = logging.getLogger(__name__)


class UpstreamDown(ApiError):
    """A provider that could not be reached, broke off, or took too long."""


@dataclass
class VendorError(Exception):
    """A provider's own answer other than 2xx, which is passed on as it is."""

    status: int
    content: bytes
    headers: Mapping[str, str]

    @property
    def error(self) -> Mapping[str, object]:
        """What the answer has under `error`, {} if it isn't in OpenAI's shape."""
        try:
            body = orjson.loads(self.content)
        except orjson.JSONDecodeError:
            return {}
        error = body.get("error") if isinstance(body, dict) else None
        return error if isinstance(error, dict) else {}


@dataclass
class UpstreamClients:
    """Sends requests, each with the next of several clients. `answer_s` bounds the wait for an answer, and for each
    part of a stream."""

    answer_s: float
    _direct: Iterator[httpx2.AsyncClient] | None = None
    _usual: Iterator[httpx2.AsyncClient] | None = None
    _all: list[httpx2.AsyncClient] = field(default_factory=list)
    _logged_at: dict[str, float] = field(default_factory=dict)

    async def send(
        self, upstream: Upstream, url: str, body: bytes, headers: Mapping[str, str], *, is_stream: bool
    ) -> httpx2.Response:
        """Returns an answer of 2xx, whose body is still to be read if it is a stream. Raises UpstreamDown, and
        VendorError for any other answer."""
        key = find_key(upstream)
        client = self._next(url)
        sent = {**headers, "content-type": "application/json", "authorization": f"Bearer {key}"}
        request = client.build_request("POST", parse_url(url), content=body, headers=sent)
        try:
            response = await client.send(request, stream=is_stream)
            if response.is_success:
                return response
            content = await response.aread()
        except httpx2.HTTPError as error:
            raise self.down(upstream, error) from error
        self._log(f"{upstream.name}: HTTP {response.status_code}")
        if response.status_code == 401:
            raise _key_refused(upstream)
        without_key = content.replace(key.encode(), b"(the key)")
        raise VendorError(response.status_code, without_key, passed_headers(response.headers))

    def down(self, upstream: Upstream, error: httpx2.HTTPError) -> UpstreamDown:
        """Returns the error for a program when a provider gave no complete answer."""
        self._log(f"{upstream.name}: {type(error).__name__}")
        status = 502
        code = "upstream_unreachable"
        what = "broke off its answer"
        if isinstance(error, httpx2.ConnectError):
            what = "can't be reached"
        if isinstance(error, httpx2.TimeoutException):
            status = 504
            code = "upstream_timeout"
            what = "gave no answer in time"
        return UpstreamDown(status, f"{upstream.name} {what}. Try again later.", code, kind="server_error")

    def _next(self, url: str) -> httpx2.AsyncClient:
        """Returns a client. Plain HTTP on loopback bypasses any proxy of the environment, and needs no certificates,
        which take 40 ms to read."""
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname in LOOPBACK_NAMES:
            if self._direct is None:
                self._direct = self._open(verify=False, trust_env=False)
            return next(self._direct)
        if self._usual is None:
            self._usual = self._open(verify=httpx2.create_ssl_context(), trust_env=True)
        return next(self._usual)

    def _open(self, *, verify: ssl.SSLContext | bool, trust_env: bool) -> Iterator[httpx2.AsyncClient]:
        clients = [
            httpx2.AsyncClient(
                verify=verify,
                trust_env=trust_env,
                follow_redirects=False,
                timeout=httpx2.Timeout(self.answer_s, connect=CONNECT_S, pool=CONNECT_S),
                limits=httpx2.Limits(
                    max_connections=MOST_CONNECTIONS,
                    max_keepalive_connections=MOST_CONNECTIONS,
                    keepalive_expiry=IDLE_S,
                ),
                headers={"accept-encoding": "identity", "user-agent": "finetune-door"},
            )
            for _ in range(CLIENTS)
        ]
        self._all += clients
        return itertools.cycle(clients)

    async def close(self) -> None:
        for client in self._all:
            await client.aclose()

    def _log(self, what: str) -> None:
        """Logs a provider's trouble once a minute, without anybody's text."""
        now = time.monotonic()
        if now - self._logged_at.get(what, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged_at[what] = now
            log.warning("%s", what)


@lru_cache(maxsize=256)
def parse_url(url: str) -> httpx2.URL:
    return httpx2.URL(url)


def find_key(upstream: Upstream) -> str:
    """Returns the key for a provider. Raises ApiError (503) if there is none where the door runs."""
    if upstream.key_variable is None and upstream.key_file is None:
        return "none"  # some servers insist on a header
    key = os.environ.get(upstream.key_variable or "", "").strip()
    where = upstream.key_variable
    if not key and upstream.key_file is not None:
        path = Path(upstream.key_file)
        where = path.name
        if path.exists():
            key = path.read_text(encoding="utf-8").strip()
    if key and key.isascii() and key.isprintable():
        return key
    text = (
        f"There is no key for {upstream.name} where this server runs: {where} is missing or unusable there."
    )
    raise ApiError(503, text, "no_upstream_key", kind="server_error")


def _key_refused(upstream: Upstream) -> ApiError:
    """The program's key is right; a 401 would have its author look for a fault there."""
    text = f"{upstream.name} refused this server's key. Its operator has to renew that key."
    return ApiError(502, text, "upstream_key_refused", kind="server_error")


def passed_headers(headers: Mapping[str, str]) -> dict[str, str]:
    passed = {}
    for name, value in headers.items():
        is_known = name in PASSED_ON or name.startswith(PASSED_PREFIXES)
        if is_known and value.isascii():  # others could not be sent on
            passed[name] = value
    return passed
