"""Measures how long a person waits for an ack, on an idle bot and while a file of 100,000 rows is checked.

`python benchmarks/acks.py [REQUESTS] [ROWS] [--model FOLDER]`: 20 callers send `/finetune status` to the real
`finetune run` over HTTP, signed like Slack's requests: in the first seconds after a start, while its trainer starts
beside it; then alone; then while the check runs in its worker process. Before that they send them to a Bolt app that
only acks, so that a busy machine can be told from a slow bot.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.checking import LABELS, ROOT, random_sentences, sentences_of
from bot.embedded_trainer import free_port
from demo.people import ANA, TICKETS
from demo.service import RunningBot
from demo.slack_emulator import SlackEmulator
from demo.workspace import wait_until

CALLERS = 20
SETTLED_S = 15.0  # after this the trainer that the bot starts has imported its libraries
MODEL = ROOT / ".cache" / "smollm2-135m"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time until an ack, alone and during a check.")
    parser.add_argument("requests", type=int, nargs="?", default=400)
    parser.add_argument("rows", type=int, nargs="?", default=100_000)
    parser.add_argument("--model", type=Path, default=MODEL)
    arguments = parser.parse_args()
    measure_acks(arguments.requests, arguments.rows, arguments.model)


def measure_acks(requests: int, count: int, model: Path) -> None:
    with tempfile.TemporaryDirectory() as name, SlackEmulator() as slack:
        folder = Path(name)
        rows = folder / "rows.jsonl"
        write_short_rows(rows, count)
        with bare_bolt(slack):
            measure(slack, CALLERS)
            print_waits("bare Bolt", measure(slack, requests))
        with RunningBot(folder, slack.access, model) as bot:
            slack.deliver_to(bot.request_url)
            measure(slack, CALLERS)  # warms up
            print_waits("in the first seconds", measure(slack, requests))
            time.sleep(SETTLED_S)
            print_waits("alone", measure(slack, requests))
            upload_rows(slack, rows)
            time.sleep(0.5)
            waits = measure(slack, requests)
            done = is_checked(slack)
            print_waits(f"while {count:,} rows ({rows.stat().st_size / 1e6:.0f} MB) are checked", waits)
            print("  the check ended before the last request" if done else "  the check ran all the time")
            wait_until(lambda: is_checked(slack), "the check", seconds=120)


@contextmanager
def bare_bolt(slack: SlackEmulator) -> Iterator[None]:
    port = free_port()
    access = slack.access
    program = [sys.executable, str(ROOT / "benchmarks" / "_bare_bolt.py")]
    values = [access.signing_secret, access.bot_token, access.api_url, str(port)]
    with subprocess.Popen([*program, *values], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        slack.deliver_to(f"http://127.0.0.1:{port}/slack/events")
        wait_until(lambda: is_listening(port), "bare Bolt")
        try:
            yield
        finally:
            process.terminate()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def write_short_rows(path: Path, count: int) -> None:
    """Writes rows of about 330 bytes, since an upload may have up to 50 MB."""
    chance, sentences = random.Random(7), sentences_of(ROOT / "examples" / "support_tickets.csv")
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            question = {
                "role": "user",
                "content": f"Ticket {number}: {random_sentences(chance, sentences, 180)}",
            }
            answer = {"role": "assistant", "content": chance.choice(LABELS)}
            file.write(json.dumps({"messages": [question, answer]}) + "\n")


def measure(slack: SlackEmulator, requests: int) -> list[float]:
    def ask(_: int) -> float:
        started = time.monotonic()
        slack.command(ANA.id, TICKETS.id, "/finetune status")
        return time.monotonic() - started

    with ThreadPoolExecutor(CALLERS) as callers:
        return sorted(callers.map(ask, range(requests)))


def upload_rows(slack: SlackEmulator, rows: Path) -> None:
    """Uploads by the message shortcut, since a form takes at most 10 MB."""
    slack.upload(ANA.id, rows, channel=TICKETS.id)
    (message,) = [each for each in slack.messages(TICKETS.id) if each.files]
    slack.message_shortcut(ANA.id, TICKETS.id, message.ts, "use_as_training_data")
    wait_until(lambda: slack.view(ANA.id), "the form")
    sent = slack.submit_modal(ANA.id, {"name": "big", "text": "", "label": ""})
    assert sent.accepted, sent.errors


def is_checked(slack: SlackEmulator) -> bool:
    return any("is ready" in message.text for message in slack.messages(TICKETS.id))


def print_waits(when: str, waits: list[float]) -> None:
    def at(share: float) -> float:
        return 1000 * waits[min(int(share * len(waits)), len(waits) - 1)]

    print(
        f"ack, {CALLERS} callers, {when}: p50 {at(0.5):.0f} ms, p95 {at(0.95):.0f} ms, p99 {at(0.99):.0f} ms, "
        f"max {1000 * waits[-1]:.0f} ms ({len(waits)} requests)"
    )


if __name__ == "__main__":
    main()
