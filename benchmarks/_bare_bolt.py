"""A Bolt app that acks commands and does nothing else: what an ack costs at least.

`python _bare_bolt.py SECRET TOKEN API_URL PORT`
"""

from __future__ import annotations

import sys

from slack_bolt import Ack, App
from slack_bolt.adapter.wsgi import SlackRequestHandler
from slack_sdk import WebClient
from waitress import serve


def main(secret: str, token: str, api_url: str, port: int) -> None:
    app = App(name="bare", client=WebClient(token, base_url=api_url), signing_secret=secret)

    @app.command("/finetune")
    def listen(ack: Ack) -> None:
        ack()

    print("ready", flush=True)
    serve(SlackRequestHandler(app), host="127.0.0.1", port=port, threads=32, _quiet=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
