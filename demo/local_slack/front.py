"""A proxy in front of local-slack that adds `page.js`, with features that its web page lacks. Loopback only.

It serves the page itself and passes everything else through, including the websocket.
"""

from __future__ import annotations

import http.client
import selectors
import socket
import threading
from importlib.resources import files

_LONGEST_HEAD = 65_536
_CHUNK = 65_536


class PageProxy:
    def __init__(self, port: int) -> None:
        self._upstream = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Closes all connections; the page then shows that it is reconnecting."""
        with self._lock:
            self._stopping = True
            for item in (self._listener, *self._open):
                _hang_up(item)
        self._thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            if not self._register(client):
                return
            try:
                self._answer(client)
            except OSError:
                return  # the client or local-slack hung up: there is nobody to tell
            finally:
                with self._lock:
                    self._open.discard(client)

    def _register(self, client: socket.socket) -> bool:
        with self._lock:
            self._open.add(client)
            return not self._stopping

    def _answer(self, client: socket.socket) -> None:
        head, rest = _read_head(client)
        verb, path = [*head.split(b" ", 2), b"", b""][:2]
        if verb == b"GET" and (path == b"/" or path.startswith((b"/?", b"/archives/"))):
            client.sendall(self._page())
        elif verb:
            with socket.create_connection(self._upstream, 10) as inner:
                inner.settimeout(None)
                inner.sendall(_one_request(head) + rest)
                _pass_on(client, inner)

    def _page(self) -> bytes:
        connection = http.client.HTTPConnection(*self._upstream, timeout=10)
        try:
            connection.request("GET", "/")
            page = with_script(connection.getresponse().read())
        finally:
            connection.close()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(page)}"
        return head.encode() + b"\r\nConnection: close\r\nCache-Control: no-store\r\n\r\n" + page


def with_script(page: bytes) -> bytes:
    """Returns the page with our script before its own, since ours has to wrap the websocket first."""
    script = files("demo.local_slack").joinpath("page.js").read_bytes()
    return page.replace(b"<head>", b"<head><script>" + script + b"</script>", 1)


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    got = b""
    while b"\r\n\r\n" not in got and len(got) < _LONGEST_HEAD:
        chunk = client.recv(_CHUNK)
        if not chunk:
            return b"", b""
        got += chunk
    head, _, rest = got.partition(b"\r\n\r\n")
    return head, rest


def _one_request(head: bytes) -> bytes:
    """Returns the head with `Connection: close`, so that the next request comes to us again. A websocket stays open."""
    lines = head.split(b"\r\n")
    if not any(line.lower().startswith(b"upgrade:") for line in lines):
        lines = [line for line in lines if not line.lower().startswith(b"connection:")]
        lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _pass_on(client: socket.socket, inner: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ, inner)
        selector.register(inner, selectors.EVENT_READ, client)
        while True:
            for key, _ in selector.select():
                source = key.fileobj
                target = key.data
                assert isinstance(source, socket.socket)  # noqa: S101  only sockets were registered
                chunk = source.recv(_CHUNK)
                if not chunk:
                    return
                target.sendall(chunk)


def _hang_up(item: socket.socket) -> None:
    try:
        item.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it was not connected any more
