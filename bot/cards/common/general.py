"""Cards that belong to no subject: plain messages, rights, dialogs without fields, and notices about delivery."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Chart,
    Divider,
    Facts,
    Figure,
    Lines,
    Message,
    Note,
    Steps,
    Table,
    Task,
    Text,
    actions,
    button,
    code,
    cut,
    escape,
    plain,
    slack_blocks,
)
from bot.cards.common.builder import Parts
from bot.values.runs import AskedBack, Refusal

MODAL_BLOCKS = 100  # Slack refuses a dialog with more
# Buttons that run a command, and those for the meanings of a value. In a row, each needs a name of its own.
RUN_LINES = ("run_line_0", "run_line_1", "run_line_2")
READINGS = ("read_as_0", "read_as_1")
LONGEST_ALT = 1000  # letters of a text alternative that Slack takes
LONGEST_VALUE = 2000  # characters of a button's value that Slack takes


def unchecked_text(channels: int) -> str:
    """Says that a list may be shorter than it should be."""
    in_channels = f"in {channels} channels"
    if channels == 1:
        in_channels = "in a channel"
    return (
        f"Slack did not answer just now whether you are {in_channels} with datasets, so what belongs to them is left "
        "out. Try again in a minute."
    )


def unchecked_notes(channels: int) -> list[CardBlock]:
    if not channels:
        return []
    return [Note(unchecked_text(channels))]


def text_message(text: str) -> Message:
    """A card of one text, which is our own mrkdwn."""
    return Message(text, (Text(text),))


def command_button(text: str, line: str, *, position: int = 0) -> Block:
    """A button that runs a command, as if the person who presses it had typed the `line` after `/finetune`. Several in
    a row need a `position` each."""
    return button(text, RUN_LINES[position], line)


def sample_card() -> Message:
    """One of each block that cards are made of, for Slack to validate. It is never sent."""
    rows = [("Model", "Right"), ("small", Figure("70%", 70.0))]
    return Message.titled(
        "A sample",
        Text("*text*"),
        Lines(["• one", "• two"]),
        Facts([("Cost", "$1.00")]),
        Table(rows, "A table"),
        Chart("A chart", "loss", [("1", 2.5), ("2", 0.5)], "step", "loss", otherwise=(Text("0.5"),)),
        Steps("Steps", [Task("1", "train", "in_progress")], otherwise=(Text("training"),)),
        Divider(),
        actions(button("Details", "sample", "1")),
        Note("a note"),
    )


CURES = {
    "not_in_channel": "Invite me there with `/invite @Finetune`, and I will post it within five minutes.",
    "channel_not_found": "Invite me there with `/invite @Finetune`, and I will post it within five minutes.",
    "is_archived": "Unarchive the channel, and I will post it within five minutes.",
    "its channel is no longer private": (
        "Others read there now. Ask for it again: it comes to you alone if you may have it."
    ),
    "restricted_action": "Let apps post in that channel, and I will post it within five minutes.",
}


def undelivered_notice(target: str, error: str, words: str | None) -> Message:
    """`target` and `words` are mrkdwn; `words` is the text of the message's notification."""
    cure = CURES.get(error, "It won't be sent again. `/finetune status` shows the current state.")
    text = f"A message for {target} could not be delivered: {code(error)}. {cure}"
    if words:
        # Slack quotes a single line, so each line gets a mark of its own.
        quoted = words.replace("\n", "\n>")
        text = f"{text}\n>{quoted}"
    return text_message(text)


def missing_scope(needed: str) -> Message:
    return text_message(
        f"The app lacks the scope {code(needed)}, so some messages and files can't be delivered. Reinstall the app "
        "from manifest.yml, and they follow within five minutes."
    )


@dataclass(frozen=True)
class Right:
    """A right of the policy, the commands that need it, and why it is denied (None if it is granted). `doing` are the
    words for a right that no command needs."""

    name: str
    commands: Sequence[str]
    denied: str | None
    doing: str = ""


def rights_card(rights: Sequence[Right], person: str | None = None) -> Message:
    """A line for each right. Denied ones stand below their reason, since most are denied for the same. `person` is
    whose they are, None for the person who reads it."""
    by_answer: dict[str | None, list[str]] = {None: []}
    for right in rights:
        by_answer.setdefault(right.denied, []).append(_right_line(right))

    parts = Parts()
    if person:
        parts.text(f"Of <@{person}>:")
    for denied, lines in by_answer.items():
        heading = "*Yes*"
        if denied:
            heading = f"*No.* {denied}"
        if lines:
            parts.lines([heading, *lines])
    parts.note(
        "The bot's operator sets these in finetune.toml, [people] and [policy]. Nobody can approve what they requested "
        "or uploaded."
    )
    if person:
        return parts.titled("What somebody may do in this channel", notice=f"Of <@{person}>")
    return parts.titled("What you may do in this channel")


def _right_line(right: Right) -> str:
    if not right.commands:
        return f"• {right.name}: {right.doing}"
    return f"• {right.name}: {' '.join(map(code, right.commands))}"


def answer(result: str | Refusal) -> Message:
    """The answer to a command; to one that can be read in several ways, with a button for each."""
    if isinstance(result, str):
        return text_message(result)
    message = text_message(result.text)
    if not isinstance(result, AskedBack):
        return message
    # Half a command would do something else, so a long one has to be typed again.
    if any(len(reading.command) > LONGEST_VALUE for reading in result.readings):
        return message
    buttons = [
        button(reading.words, name, reading.command)
        for name, reading in zip(READINGS, result.readings, strict=False)
    ]
    return replace(message, parts=(*message.parts, actions(*buttons)))


def notice_modal(title: str, text: str) -> Block:
    """A dialog with one text and no fields."""
    return details_modal(title, [Text(text)])


def details_modal(title: str, parts: Sequence[CardBlock | Block]) -> Block:
    """A dialog without fields, for what a card shows behind its *Details* button."""
    return {
        "type": "modal",
        "title": plain(title, 24),
        "close": plain("Close", 24),
        "blocks": slack_blocks(parts)[:MODAL_BLOCKS],
    }


@dataclass(frozen=True)
class Attachment:
    """A file to post, or a picture of a page. Its title and what a picture shows (`finding`) are plain text."""

    path: Path
    title: str
    finding: str = ""

    @property
    def alt(self) -> str:
        """For who can't see a picture, or has it read aloud."""
        if not self.finding:
            return self.title
        return cut(f"{self.title}. {self.finding}", LONGEST_ALT)


def files_body(files: Iterable[Attachment], comment: str = "") -> dict[str, Any]:
    """The body of a message with files. `comment` is our own mrkdwn."""
    uploads = []
    for file in files:
        uploads.append(
            {
                "file": str(file.path),
                "filename": file.path.name,
                "title": file.title,
                "alt_txt": file.alt,
            }
        )
    body: dict[str, Any] = {"file_uploads": uploads}
    if comment:
        body["initial_comment"] = comment
    return body


def file_hint() -> Message:
    return text_message(
        "To train on this file, open the message's menu (the three dots) and choose “Use as training data”, "
        "or type `/finetune upload` in the channel that should get the report."
    )


def needs_slash(typed: str) -> Message:
    """Slack lets an app open a form only after a slash command or a click."""
    return text_message(
        f"This command opens a form, so type it with the slash: {code(f'/finetune {cut(typed, 200)}')}"
    )


def interrupted_notice(typed: str | None) -> Message:
    """A notice that a command (`typed`), or a click or form if None, arrived while the bot was shutting down."""
    what = "What you clicked"
    if typed:
        what = code(cut(typed, 200))
    return text_message(
        f"{what} arrived while the bot was shutting down, so nothing was done. Try again if you still want it."
    )


def too_late_notice(typed: str | None) -> Message:
    """A notice that a form could not be opened in time. `typed` is None if the person clicked."""
    again = "Click it again."
    if typed:
        again = f"Type it again: {code(cut(typed, 200))}"
    return text_message(f"The form could not open within Slack's limit of three seconds. {again}")


def closed_form_refusal(complaints: Sequence[str]) -> Message:
    """What is wrong with a form that is already closed."""
    return text_message(
        "Your form arrived while the bot was shutting down and can't be accepted: "
        + " ".join(escape(complaint) for complaint in complaints)
    )
