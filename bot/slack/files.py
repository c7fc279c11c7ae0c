"""Downloads a file that a person gave the bot: only from Slack's hosts, up to a size, hashing it on the way."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from bot.context import FetchedFile, FetchLater
from bot.slack.users import NO_ANSWER
from bot.values.runs import Refusal

DEADLINE_S = 120.0
CHUNK = 256 * 1024
GONE = frozenset({"file_not_found", "file_deleted", "not_visible", "access_denied"})


@dataclass(frozen=True)
class SlackFiles:
    """`slack` must have no retry handlers, which would hide errors. `token` is sent only to `hosts`."""

    slack: WebClient
    token: str
    hosts: frozenset[str]

    def fetch(self, file_id: str, folder: Path, most: int) -> FetchedFile | Refusal:
        """Downloads a file of at most `most` bytes into `folder`, named by its sha256. Raises FetchLater if Slack can't
        be reached or has trouble."""
        try:
            info: Any = self.slack.files_info(file=file_id)["file"]
        except SlackApiError as error:
            code = str(error.response.get("error", ""))
            if code in GONE:
                return Refusal(
                    "The file was deleted, or the app is not allowed to see it. Invite the app (/invite @Finetune), "
                    "and upload it again."
                )
            raise FetchLater(f"asking Slack about the file: {code or error.response.status_code}") from error
        except NO_ANSWER as error:
            raise FetchLater(f"asking Slack about the file: {error}") from error
        size = int(info.get("size") or 0)
        if size > most:
            return Refusal(too_big_text(size, most))
        url = str(info.get("url_private_download") or "")
        parts = urlsplit(url)
        is_loopback = parts.hostname in ("127.0.0.1", "localhost")
        is_encrypted = parts.scheme == "https" or is_loopback
        if parts.netloc not in self.hosts or not is_encrypted:
            return Refusal(
                "This file is kept outside Slack, so it can't be fetched. Upload it to Slack itself."
            )
        name = str(info.get("name") or "file")
        return self._download(url, name, folder, most)

    def _download(self, url: str, name: str, folder: Path, most: int) -> FetchedFile | Refusal:
        request = Request(url, headers={"Authorization": f"Bearer {self.token}"})  # noqa: S310 - checked host
        digest = hashlib.sha256(url.encode()).hexdigest()
        partial = folder / f"incoming-{digest[:16]}"
        try:
            with build_opener(_NoRedirects).open(request, timeout=30) as response:
                if response.headers.get_content_type() == "text/html":
                    return Refusal(
                        "Slack sent its sign-in page instead of the file: the app lacks the scope files:read. "
                        "Reinstall it from manifest.yml, then upload again."
                    )
                return _save(response, partial, name, folder, most)
        except HTTPError as error:
            if error.code in (429, 500, 502, 503, 504):
                raise FetchLater(f"downloading '{name}' from Slack: HTTP {error.code}") from error
            return Refusal(f"Slack refused the download (HTTP {error.code}). Upload it again.")
        except (URLError, OSError, HTTPException) as error:
            raise FetchLater(f"downloading '{name}' from Slack: {error}") from error
        finally:
            partial.unlink(missing_ok=True)


def too_big_text(size: int, most: int) -> str:
    return (
        f"The file has {size / 1e6:,.0f} MB; the limit is {most / 1e6:,.0f} MB. "
        "Send less: a sample of a few thousand rows is enough, or the chapters of a document that matter."
    )


def _save(response: HTTPResponse, partial: Path, name: str, folder: Path, most: int) -> FetchedFile | Refusal:
    digest = hashlib.sha256()
    size = 0  # counted, as what Slack said of it may be wrong
    deadline = time.monotonic() + DEADLINE_S
    with partial.open("wb") as file:
        while chunk := response.read(CHUNK):
            size += len(chunk)
            if size > most:
                return Refusal(too_big_text(size, most))
            if time.monotonic() > deadline:
                raise FetchLater(f"downloading '{name}' from Slack took longer than {DEADLINE_S:.0f} s")
            digest.update(chunk)
            file.write(chunk)
    if size < int(response.headers.get("Content-Length") or 0):
        raise FetchLater(f"downloading '{name}' from Slack ended early, after {size:,} bytes")
    path = folder / digest.hexdigest()
    partial.replace(path)
    return FetchedFile(path=path, name=name, sha256=digest.hexdigest())


class _NoRedirects(HTTPRedirectHandler):
    """The token must not follow a redirect to another host."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None
