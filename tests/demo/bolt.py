"""A real Bolt app behind HTTP on loopback, for tests of the Slack emulator."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from slack_bolt import App, BoltRequest
from slack_sdk import WebClient

from demo.slack_emulator import SlackEmulator


def bolt_app(slack: SlackEmulator) -> App:
    access = slack.access
    client = WebClient(access.bot_token, base_url=access.api_url)
    return App(client=client, signing_secret=access.signing_secret, process_before_response=False)


@contextmanager
def serving(app: App) -> Iterator[str]:
    """Yields the URL at which Bolt verifies and handles requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            headers = {name.lower(): [value] for name, value in self.headers.items()}
            response = app.dispatch(BoltRequest(body=body, headers=headers))
            self.send_response(response.status)
            self.end_headers()
            self.wfile.write((response.body or "").encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/slack/events"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
