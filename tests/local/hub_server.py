"""A model hub on loopback, with as much of the hub's HTTP as a download needs, over a folder of models.

The names org/gated…, org/private… and org/broken… behave so. A name without a folder doesn't exist.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REVISION = "0123456789abcdef0123456789abcdef01234567"
TERABYTES = 10**15


@dataclass
class Hub:
    """`fetched` are the names of the downloaded files. `sizes` replace the true sizes in the hub's answers."""

    root: Path
    url: str = ""
    fetched: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)


@contextmanager
def serve_hub(root: Path) -> Iterator[Hub]:
    hub = Hub(root)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._file(sends=False)

        def do_GET(self) -> None:
            if match := re.fullmatch(
                r"/api/models/([\w.-]+/[\w.-]+)(/revision/\w+|/tree/\w+)?(\?.*)?", self.path
            ):
                self._info(match[1], is_tree=(match[2] or "").startswith("/tree"))
            else:
                self._file(sends=True)

        def _info(self, name: str, is_tree: bool) -> None:
            folder = hub.root / name
            if name.startswith("org/private"):
                return self._refuse(401, "RepoNotFound")
            if name.startswith("org/broken"):
                return self._refuse(500, "")
            if not folder.is_dir():
                return self._refuse(404, "RepoNotFound")
            files = [(path.name, hub.sizes.get(path.name, path.stat().st_size)) for path in folder.iterdir()]
            tree = [{"type": "file", "path": n, "size": size, "oid": _tag(n)} for n, size in files]
            siblings = [{"rfilename": n, "size": size} for n, size in files]
            info = {
                "id": name,
                "_id": name,
                "sha": REVISION,
                "siblings": siblings,
                "tags": [],
                "downloads": 0,
            }
            self._send(json.dumps(tree if is_tree else info).encode(), {"Content-Type": "application/json"})

        def _file(self, sends: bool) -> None:
            match = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/\w+/([\w.-]+)(\?.*)?", self.path)
            if match is None or not (hub.root / match[1] / match[2]).is_file():
                return self._refuse(404, "EntryNotFound")
            if match[1].startswith("org/gated"):
                return self._refuse(403, "GatedRepo")
            content = (hub.root / match[1] / match[2]).read_bytes()
            headers = {"ETag": f'"{_tag(match[2])}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
            if sends:
                hub.fetched.append(match[2])
            self._send(content, headers, sends=sends)

        def _refuse(self, status: int, code: str) -> None:
            self._send(b"", {"X-Error-Code": code}, status)

        def _send(
            self, content: bytes, headers: dict[str, str], status: int = 200, *, sends: bool = True
        ) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if sends:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _tag(name: str) -> str:
    return hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
