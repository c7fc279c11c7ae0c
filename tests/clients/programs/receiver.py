"""For programs that record calls: what they send over HTTP, as it arrives; and the calls that all of them make."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SYSTEM = {"role": "system", "content": "Which team answers?"}
QUESTIONS = ("Where is my parcel?", "My card was charged twice.", "Where is my parcel?")
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


def make_calls(ask):
    """Asks three questions, one of them twice, lets the model call a tool, and fails once. `ask` takes a key, or None
    for the right one, and the parameters of a chat."""
    for question in QUESTIONS:
        ask(None, model="gpt-4o", messages=[SYSTEM, {"role": "user", "content": question}])
    ask(None, model="gpt-4o", messages=[{"role": "user", "content": "Look it up."}], tools=[TOOL])
    with contextlib.suppress(Exception):
        ask("sk-wrong", model="gpt-4o", messages=[SYSTEM, {"role": "user", "content": "No key."}])


def receive():
    """Returns an address, and the list of paths and bodies that arrive there, without gzip."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            bodies.append((self.path, body))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_PUT = do_POST

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}", bodies
