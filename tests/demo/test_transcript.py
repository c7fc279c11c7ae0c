"""The conversation in the terminal: expected text for its drawing, and the emulator for its live part."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime
from textwrap import dedent
from typing import Any

import pytest
from rich.console import Console, RenderableType
from slack_sdk import WebClient

from demo.drawing import draw, render, render_modal
from demo.people import ANA, BEN, BOT, TICKETS
from demo.slack_emulator import SlackEmulator
from demo.transcript import Transcript, names_in, progress_line
from demo.workspace import Modal, PostedMessage, SharedFile, WorkspaceError

NAMES = {ANA.id: "Ana Reyes", BEN.id: "Ben Okafor", BOT.id: "Finetune", TICKETS.id: "#ml-tickets"}
NOON = str(datetime(2026, 1, 5, 12, 0).timestamp())
Json = dict[str, Any]


def plain(text: str) -> Json:
    return {"type": "plain_text", "text": text}


def md(text: str) -> Json:
    return {"type": "mrkdwn", "text": text}


def button(text: str) -> Json:
    return {"type": "button", "action_id": text, "text": plain(text)}


def print_plain(*drawn: RenderableType, width: int = 64) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    for item in drawn:
        console.print(item)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def golden(text: str) -> str:
    return dedent(text).strip("\n")


def test_a_card_with_everything_a_result_needs() -> None:
    card = (
        {"type": "header", "text": plain("Tuned model is 14 points better")},
        {
            "type": "section",
            "text": md("For <@U0BEN> in <#C0TICKETS|x>: *bold*, `code`, <https://a.b|a link> &lt;5"),
        },
        {"type": "section", "fields": [md("*Base*\n81%"), md("*Tuned*\n95%"), md("*Cost*\n$0.02")]},
        {"type": "divider"},
        {"type": "actions", "elements": [button("Try it"), button("Forget it")]},
        {"type": "context", "elements": [md("run 7"), plain("by Ana")]},
    )
    message = PostedMessage(NOON, TICKETS.id, BOT.id, "fallback", blocks=card)
    assert print_plain(render(message, NAMES)) == golden("""
        Finetune  12:00
          Tuned model is 14 points better
          For @Ben Okafor in #ml-tickets: bold, code, a link <5
          Base     Tuned
          81%      95%
          Cost
          $0.02
          ──────────────────────────────────────────────────────────────
          [Try it] [Forget it]
          run 7  by Ana
    """)


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (
            {"type": "section", "text": md("```two\nlines```"), "accessory": button("Details")},
            "two\nlines\n[Details]",
        ),
        ({"type": "hologram"}, "[hologram]"),
    ],
)
def test_single_blocks(block: Json, text: str) -> None:
    assert print_plain(draw(block, NAMES)).strip("\n") == text


def test_an_ephemeral_names_its_reader_and_a_reply_is_indented() -> None:
    private = PostedMessage(NOON, TICKETS.id, BOT.id, "Only you", only_for=ANA.id)
    png = SharedFile("F1", "loss.png", "image/png", 10_558)
    reply = PostedMessage(NOON, TICKETS.id, BOT.id, "The loss", thread_ts="1.0", files=(png,))
    assert print_plain(render(private, NAMES), render(reply, NAMES, edited=True)) == golden("""
        Finetune  12:00  only visible to Ana Reyes
          Only you
            Finetune  12:00  in the thread  edited
              The loss
              (loss.png, 10 KB)
    """)


def test_a_modal_shows_its_answers() -> None:
    options = [{"text": plain("A CSV file"), "value": "csv"}]
    blocks = (
        {"type": "section", "text": md("Tell us *what* it is")},
        {"type": "input", "block_id": "n", "label": plain("Name"), "element": {"type": "plain_text_input"}},
        {
            "type": "input",
            "block_id": "k",
            "label": plain("Kind"),
            "element": {"type": "static_select", "options": options},
        },
        {
            "type": "input",
            "block_id": "i",
            "label": plain("Note"),
            "element": {"type": "x", "initial_value": "as it was"},
        },
        {"type": "input", "block_id": "f", "label": plain("File"), "element": {"type": "file_input"}},
        {
            "type": "input",
            "block_id": "c",
            "label": plain("Channel"),
            "element": {"type": "conversations_select"},
        },
    )
    modal = Modal("V1", "upload", "Upload data", blocks, "Check")
    answers = {"n": "tickets", "k": "csv", "f": ["F1"], "c": TICKETS.id}
    assert print_plain(render_modal(modal, answers, {**NAMES, "F1": "a.csv"})) == golden("""
        ┌ Upload data
          Tell us what it is
        │ Name: tickets
        │ Kind: A CSV file
        │ Note: as it was
        │ File: a.csv
        │ Channel: #ml-tickets
        └ [Check]
    """)


# Live.


@pytest.fixture
def slack() -> Iterator[SlackEmulator]:
    with SlackEmulator() as slack:
        yield slack


@pytest.fixture
def client(slack: SlackEmulator) -> WebClient:
    return WebClient(slack.access.bot_token, base_url=slack.access.api_url)


def card(percent: int, stage: str = "training") -> list[Json]:
    bar = "█" * (percent // 10) + "░" * (10 - percent // 10)
    stages = {"type": "section", "text": md(f"✓ approved  ›  *now {stage}*  ›  done")}
    moving = {"type": "section", "text": md(f"{percent}% {bar}  about 4 minutes left")}
    return [{"type": "header", "text": plain("Run 7")}, stages, moving]


def watched(slack: SlackEmulator, *, terminal: bool) -> tuple[Transcript, io.StringIO]:
    output = io.StringIO()
    console = Console(width=70, file=output, force_terminal=terminal, color_system=None, legacy_windows=False)
    return Transcript(slack, [TICKETS.id, slack.dm(ANA.id)], console), output


def test_outside_a_terminal_each_tenth_and_each_stage_prints_a_line(
    slack: SlackEmulator, client: WebClient
) -> None:
    transcript, output = watched(slack, terminal=False)
    with transcript.running():
        ts = client.chat_postMessage(channel=TICKETS.id, text="x", blocks=card(0))["ts"]
        transcript.refresh()
        for percent in (3, 9, 11, 15, 29):
            client.chat_update(channel=TICKETS.id, ts=ts, text="x", blocks=card(percent))
            transcript.refresh()
        client.chat_update(channel=TICKETS.id, ts=ts, text="x", blocks=card(29, "measuring"))
        transcript.refresh()
    lines = [line.strip() for line in output.getvalue().splitlines() if "·" in line]
    assert lines == [
        "now training · 11% █░░░░░░░░░  about 4 minutes left",
        "now training · 29% ██░░░░░░░░  about 4 minutes left",
        "now measuring · 29% ██░░░░░░░░  about 4 minutes left",
    ]


def test_of_a_list_the_line_shows_only_the_item_in_progress(slack: SlackEmulator, client: WebClient) -> None:
    candidates = "✓ classical\n• prompt alone: 120 of 200\n• retrieval: 0 of 200"
    blocks = [
        *card(40)[:1],
        {"type": "section", "text": md(candidates)},
        {"type": "section", "text": md("40% ████░░")},
    ]
    ts = client.chat_postMessage(channel=TICKETS.id, text="x", blocks=blocks)["ts"]
    (message,) = [message for message in slack.messages(TICKETS.id) if message.ts == ts]
    assert progress_line(message, NAMES) == "prompt alone: 120 of 200 · 40% ████░░"


def test_in_a_terminal_the_card_is_redrawn_in_place(
    slack: SlackEmulator, client: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    transcript, output = watched(slack, terminal=True)
    with transcript.running():
        ts = client.chat_postMessage(channel=TICKETS.id, text="x", blocks=card(10))["ts"]
        transcript.refresh()
        client.chat_update(channel=TICKETS.id, ts=ts, text="x", blocks=card(50))
        transcript.refresh()
        done = [{"type": "header", "text": plain("Run 7 is done")}]
        client.chat_update(channel=TICKETS.id, ts=ts, text="x", blocks=done)
        transcript.refresh()
    assert output.getvalue().count("Run 7 is done") == 1
    assert "\x1b[" in output.getvalue()


def test_actions_private_replies_and_other_channels_print_in_order(
    slack: SlackEmulator, client: WebClient
) -> None:
    transcript, output = watched(slack, terminal=False)
    transcript.did(ANA.id, "/finetune help")
    client.chat_postEphemeral(channel=TICKETS.id, user=ANA.id, text="Five commands")
    client.chat_postMessage(channel=slack.dm(ANA.id), text="Hello Ana")
    transcript.did(BEN.id, "presses [Approve]")
    transcript.refresh()
    lines = [line.strip() for line in output.getvalue().splitlines() if line.strip()]
    assert [line for line in lines if not line.startswith("Finetune")] == [
        "Ana Reyes  /finetune help",
        "Five commands",
        "— Ana Reyes's direct messages —",
        "Hello Ana",
        "Ben Okafor  presses [Approve]",
    ]
    assert "only visible to Ana Reyes" in output.getvalue()


def test_waiting_returns_the_result_or_names_what_did_not_come(
    slack: SlackEmulator, client: WebClient
) -> None:
    transcript, _ = watched(slack, terminal=False)
    client.chat_postMessage(channel=TICKETS.id, text="there")
    assert transcript.until(lambda: slack.messages(TICKETS.id), "a message", seconds=1)[0].text == "there"
    with pytest.raises(WorkspaceError, match="waited 0 s for the end without success"):
        transcript.until(lambda: None, "the end", seconds=0)


def test_names_cover_people_channels_and_the_bot(slack: SlackEmulator) -> None:
    names = names_in(slack)
    assert (names[ANA.id], names[TICKETS.id], names[BOT.id]) == ("Ana Reyes", "#ml-tickets", "Finetune")
