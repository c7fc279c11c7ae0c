"""A card's blocks, collected from top to bottom. A block that depends on something is an `if` around its call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Facts,
    Lines,
    Message,
    Note,
    Text,
    actions,
    cut_mrkdwn,
)

BULLET = 900  # characters of a bullet, a few lines of a card


class Parts(list[CardBlock]):
    """The blocks of a card or of a part of it. What is empty adds nothing, since Slack refuses empty blocks."""

    def add(self, *blocks: CardBlock) -> None:
        """Blocks that were made elsewhere."""
        self.extend(blocks)

    def text(self, mrkdwn: str) -> None:
        """A paragraph."""
        if mrkdwn:
            self.append(Text(mrkdwn))

    def lines(self, lines: Sequence[str]) -> None:
        """One block for all lines, of which Slack shows as many whole ones as fit."""
        if lines:
            self.append(Lines(lines))

    def bullets(self, sentences: Iterable[str]) -> None:
        """A list of sentences in mrkdwn, each cut to a few lines."""
        self.lines([f"• {cut_mrkdwn(sentence, BULLET)}" for sentence in sentences])

    def facts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Names and values, both in mrkdwn."""
        if pairs:
            self.append(Facts(pairs))

    def note(self, mrkdwn: str) -> None:
        """Small grey text."""
        if mrkdwn:
            self.append(Note(mrkdwn))

    def buttons(self, *buttons: Block) -> None:
        """One row of buttons, as Slack's JSON."""
        if buttons:
            self.append(actions(*buttons))

    def titled(self, headline: str, *, notice: str = "") -> Message:
        """The card under its plain-text headline. `notice` is mrkdwn that a notification shows after it."""
        return Message.titled(headline, *self, notice=notice)
