"""Calls providers. Knows no recipes: it gets an address, a key and a body, and passes on what comes back."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson

from trainers.http.errors import ApiError
from trainers.http.guard import LOOPBACK_NAMES
from trainers.recipes.values import Upstream

# At once; a call beyond waits for a connection. Programs can't have more open, unless many classify lists of texts.
MOST_CONNECTIONS = 1_000
IDLE_S = 4.0  # less than any server keeps a connection, so that none is closed just as a call is sent
CONNECT_S = 5.0
MOST_HEADER_BYTES = 65_536  # of one header; some gateways send long policies
LOG_EVERY_S = 60.0
# What a vendor says about limits and tracing, which SDKs and support read.
PASSED_ON = frozenset({"content-type", "retry-after", "retry-after-ms", "x-should-retry", "x-request-id"})
PASSED_PREFIXES = ("x-ratelimit-", "openai-")
TAKEN_ALONG = ("openai-beta", "idempotency-key", "x-client-request-id")

UNREACHABLE = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.InvalidURL)
NOT_CONNECTED = (*UNREACHABLE, aiohttp.ConnectionTimeoutError)

log = logging.getLogger(__name__)


@dataclass
class UpstreamDown(ApiError):
    """A provider that could not be reached, broke off, or took too long. `has_connected`: it has at least let us
    connect."""

    has_connected: bool = True


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
        if not isinstance(body, dict):
            return {}
        error = body.get("error")
        if not isinstance(error, dict):
            return {}
        return error


@dataclass
class UpstreamAnswer:
    """A provider's answer of 2xx, with the headers that are passed on. `content` is b"" for a stream, which is read by
    its parts."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    _response: aiohttp.ClientResponse
    _client: UpstreamClient
    _upstream: Upstream

    async def parts(self) -> AsyncIterator[bytes]:
        """Yields the parts of a stream as they come. Raises UpstreamDown."""
        try:
            async for part in self._response.content.iter_any():
                yield part
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._client.down(self._upstream, error) from error

    def close(self) -> None:
        """Closes the connection of a stream that is not read to its end, so that its provider stops writing."""
        self._response.close()


@dataclass
class UpstreamClient:
    """Sends requests. `answer_s` bounds the wait for an answer's beginning, and for each part of it."""

    answer_s: float
    _opened: aiohttp.ClientSession | None = None
    _logged_at: dict[str, float] = field(default_factory=dict)

    async def send(
        self, upstream: Upstream, url: str, body: bytes, headers: Mapping[str, str], *, is_stream: bool
    ) -> UpstreamAnswer:
        """Returns an answer of 2xx, whose parts are still to be read if it is a stream. Raises UpstreamDown, and
        VendorError for any other answer."""
        key = find_key(upstream)
        own = dict(upstream.headers)
        sent = {**headers, **own, "content-type": "application/json", "authorization": f"Bearer {key}"}
        content = b""
        try:
            response = await self._post(url, body, sent)
            is_success = 200 <= response.status < 300
            if not (is_success and is_stream):
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self.down(upstream, error) from error
        passed = passed_headers(response.headers)
        if is_success:
            return UpstreamAnswer(response.status, passed, content, response, self, upstream)
        self._log(f"{upstream.name}: HTTP {response.status}")
        if response.status == 401:
            raise _key_refused(upstream)
        without_key = content.replace(key.encode(), b"(the key)")
        raise VendorError(response.status, without_key, passed)

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        certificates: ssl.SSLContext | bool = True
        if url.startswith("https:"):
            certificates = trusted_certificates()
        # aiohttp alone would wait for ever for a provider that doesn't read a long request.
        async with asyncio.timeout(self.answer_s):
            return await self._session().post(
                url,
                data=body,
                headers=headers,
                allow_redirects=False,
                proxy=find_proxy(url),
                ssl=certificates,
            )

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MOST_CONNECTIONS, keepalive_timeout=IDLE_S),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self.answer_s),
                headers={"accept-encoding": "identity", "user-agent": "finetune-door"},
                cookie_jar=aiohttp.DummyCookieJar(),  # a provider's cookie is for one program
                max_line_size=MOST_HEADER_BYTES,
                max_field_size=MOST_HEADER_BYTES,
            )
        return self._opened

    def down(self, upstream: Upstream, error: aiohttp.ClientError | TimeoutError) -> UpstreamDown:
        """Returns the error for a program when a provider gave no complete answer."""
        self._log(f"{upstream.name}: {type(error).__name__}")
        status = 502
        code = "upstream_unreachable"
        what = "broke off its answer"
        if isinstance(error, UNREACHABLE):
            what = "can't be reached"
        if isinstance(error, TimeoutError):
            status = 504
            code = "upstream_timeout"
            what = "gave no answer in time"
        text = f"{upstream.name} {what}. Try again later."
        has_connected = not isinstance(error, NOT_CONNECTED)
        return UpstreamDown(status, text, code, kind="server_error", has_connected=has_connected)

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    def _log(self, what: str) -> None:
        """Logs a provider's trouble once a minute, without anybody's text."""
        now = time.monotonic()
        if now - self._logged_at.get(what, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged_at[what] = now
            log.warning("%s", what)


@cache
def trusted_certificates() -> ssl.SSLContext:
    """Returns the certificates that all our other calls trust. They are read with the first call that needs them."""
    import httpx2

    return httpx2.create_ssl_context()


@lru_cache(maxsize=256)
def find_proxy(url: str) -> str | None:
    """Returns the proxy that the environment names for an address. A provider on loopback never has one. aiohttp itself
    would look for it with each call, in a thread, and for a password in ~/.netrc."""
    parts = urlsplit(url)
    if parts.hostname in LOOPBACK_NAMES or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    return proxy


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
        name = name.lower()
        is_known = name in PASSED_ON or name.startswith(PASSED_PREFIXES)
        if is_known and value.isascii():  # others could not be sent on
            passed[name] = value
    return passed
