"""A folder that the trainer and all nodes of a cluster can access, by its URL: a path, file://, s3:// or gs://.

It uses pyarrow.fs, which is a dependency already and supports S3 and Google Cloud Storage; fsspec would need s3fs and
gcsfs as well. Credentials come from the environment of the trainer and the nodes, never from the URL, since Ray shows
it to everybody.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson

SCHEMES = ("", "file", "s3", "gs")
CHUNK_BYTES = 8 * 1024 * 1024
REQUEST_S = 30.0
CONNECT_S = 10.0
OPTIONS = {
    "s3": ("region", "endpoint_override", "scheme"),
    "gs": ("project_id", "endpoint_override", "scheme"),
}


class StorageAway(Exception):
    """The storage doesn't answer, or refuses. Callers try again."""


class Stopped(Exception):
    """A transfer was given up because its attempt no longer counts."""


class Storage:
    """Names are relative to the URL, for example `ftjob-1/control.json`. All methods raise StorageAway."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def local(self) -> Path | None:
        """The folder, or None if the URL is of an object store."""
        return local_folder(self.url)

    def read(self, name: str) -> bytes | None:
        """Returns None if there is no such object."""
        with self._translate_errors("reading", name):
            try:
                with self._system.open_input_stream(self._path(name)) as stream:
                    content: bytes = stream.read()
                    return content
            except FileNotFoundError:
                return None

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Returns None if there is no such object, or if its content is not a JSON object."""
        content = self.read(name)
        if content is None:
            return None
        try:
            value = orjson.loads(content)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(value, dict):
            return None
        return value

    def write(self, name: str, content: bytes) -> None:
        """Writes atomically: a reader sees either the old content or the new one."""
        with self._translate_errors("writing", name):
            self._put(name, iter((content,)))

    def write_json(self, name: str, value: object) -> None:
        self.write(name, orjson.dumps(value))

    def upload(self, name: str, source: Path, is_wanted: Callable[[], bool] = lambda: True) -> int:
        """Returns the size. Raises FileNotFoundError if `source` is gone, and Stopped once `is_wanted` returns
        False."""
        size = 0

        def chunks() -> Iterator[bytes]:
            nonlocal size
            while chunk := file.read(CHUNK_BYTES):
                if not is_wanted():
                    raise Stopped(name)
                size += len(chunk)
                yield chunk

        with source.open("rb") as file, self._translate_errors("writing", name):
            self._put(name, chunks())
        return size

    def download(self, name: str, target: Path, size: int | None) -> None:
        """Replaces `target` atomically. Raises StorageAway if the object doesn't have `size` bytes; None allows any
        size."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(target.name + ".tmp")
        with self._translate_errors("reading", name):
            stream = self._system.open_input_stream(self._path(name))
        with stream, temporary.open("wb") as file:
            while True:
                with self._translate_errors("reading", name):
                    chunk: bytes = stream.read(CHUNK_BYTES)
                if not chunk:
                    break
                file.write(chunk)  # outside _translate_errors, since an error here is of our own disk
            file.flush()
            os.fsync(file.fileno())
        if size is not None and temporary.stat().st_size != size:
            temporary.unlink()
            raise StorageAway(f"{name} at {self.url} doesn't have the {size} bytes that were written")
        temporary.replace(target)

    def delete(self, name: str) -> None:
        """Deletes one object, if it exists."""
        with self._translate_errors("deleting", name), suppress(FileNotFoundError):
            self._system.delete_file(self._path(name))

    def delete_folder(self, name: str) -> None:
        with self._translate_errors("deleting", name), suppress(FileNotFoundError):
            self._system.delete_dir(self._path(name))

    def check(self) -> None:
        """Raises StorageAway unless an object can be written, read and deleted."""
        name = f".finetune-{os.getpid()}"
        self.write(name, b"checked")
        if self.read(name) != b"checked":
            raise StorageAway(f"an object written to {self.url} can't be read back")
        self.delete(name)

    def _put(self, name: str, chunks: Iterator[bytes]) -> None:
        path = self._path(name)
        if self.local is None:  # an object store writes atomically by itself
            with self._system.open_output_stream(path) as stream:
                for chunk in chunks:
                    stream.write(chunk)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)

    def _path(self, name: str) -> str:
        parts = urlsplit(self.url)
        root = self.local or f"{parts.netloc}{parts.path}".rstrip("/")
        return f"{root}/{name}"

    @cached_property
    def _system(self) -> Any:
        from pyarrow import fs  # takes 50 MB of memory, which only a trainer with a storage needs

        if self.local:
            return fs.LocalFileSystem()
        parts = urlsplit(self.url)
        options = dict(parse_qsl(parts.query))
        if parts.scheme == "s3":
            return _s3(parts.netloc, options)
        # Google's library would try for 15 minutes, also to find credentials.
        return fs.GcsFileSystem(**options, retry_time_limit=timedelta(seconds=REQUEST_S))

    @contextmanager
    def _translate_errors(self, action: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            text = " ".join(str(error).split())[:300]
            raise StorageAway(f"{action} {name} at {self.url}: {text}") from error


def _s3(bucket: str, options: dict[str, str]) -> Any:
    from pyarrow import fs

    is_amazon = "endpoint_override" not in options and "AWS_ENDPOINT_URL" not in os.environ
    has_region = "region" in options or {"AWS_REGION", "AWS_DEFAULT_REGION"} & os.environ.keys()
    if is_amazon and not has_region:
        options["region"] = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        **options,
        request_timeout=REQUEST_S,
        connect_timeout=CONNECT_S,
        allow_delayed_open=True,  # one request for a small object instead of three
    )


def local_folder(url: str) -> Path | None:
    """Returns the folder of a path or a file:// URL, or None for an object store."""
    parts = urlsplit(url)
    if parts.scheme not in ("", "file"):
        return None
    return Path(parts.path)


def url_refusal(url: str) -> str | None:
    """Returns why `url` can't be used as a storage, or None."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        return f"{url} is not a storage: give a path, file://, s3:// or gs://."
    if parts.username or parts.password:
        where = f"{parts.scheme}://{parts.hostname}{parts.path}"
        return (
            "The storage's URL holds credentials, which Ray would show to everybody. Set them as environment variables "
            f"and write {where}."
        )
    if parts.scheme in ("", "file") and (parts.netloc or not parts.path.startswith("/")):
        return f"{url} is not a full path: give one that is valid on all nodes, such as /mnt/shared/finetune."
    if parts.scheme in ("s3", "gs") and not parts.netloc:
        return f"{url} has no bucket: give one, such as {parts.scheme}://bucket/finetune."
    if parts.scheme in OPTIONS:
        options = OPTIONS[parts.scheme]
        unknown = sorted(set(dict(parse_qsl(parts.query))) - set(options))
        if unknown:
            return (
                f"{url}: {parts.scheme}:// URLs have no option {', '.join(unknown)}. "
                f"The options are {', '.join(options)}."
            )
    return None
