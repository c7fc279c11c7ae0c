"""A server in vLLM's place for tests that need no model: every answer is the same two tokens, to a prompt of
which three were read before.

A request with the stop text "die" ends the process. Unlike tests/peers/vllm_server.py it doesn't import torch, which
takes four seconds of CPU.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingUnixStreamServer

TOKENS = [40, 41]
CACHED = 3


class Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:  # /health and /v1/models
        self._send({"data": [{"id": "base", "max_model_len": 2048}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["stop"] == ["die"]:
            os._exit(3)
        choice = {"index": 0, "text": "", "finish_reason": "length", "token_ids": TOKENS}
        usage = {"prompt_tokens_details": {"cached_tokens": CACHED}}
        if not body.get("stream"):
            self._send({"choices": [choice], "usage": usage})
            return
        parts = [{"choices": [choice]}, {"choices": [], "usage": usage}]
        lines = [f"data: {json.dumps(part)}\n\n" for part in parts]
        self._send_text("".join(lines))

    def _send(self, body: object) -> None:
        self._send_text(json.dumps(body))

    def _send_text(self, text: str) -> None:
        content = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    path = sys.argv[sys.argv.index("--uds") + 1]
    ThreadingUnixStreamServer(path, Handler).serve_forever()
