"""Cuts lines of JSONL into the texts that differ and the frame around them, which many lines share.

Cut at its quotes, {"messages": [{"role": "user", "content": "hi"}, …]} has the role in place 5 and the text in
place 9; the same of each further message is 8 places on, and 3 places come after the last.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from trainers.dataset.findings import Fault
from trainers.dataset.formats.jsonl import parse_row
from trainers.dataset.scan.escapes import shown_again
from trainers.dataset.scan.shapes import Shape, shape_of
from trainers.dataset.values import Limits

Texts = Sequence[bytes]

_TEXT, _MESSAGE, _AFTER = 9, 8, 3
_FRAMES = 10_000


class Frames:
    """Those that were met in a file, each parsed once. The usual one is looked for first, by a pattern that finds a
    line's texts in half the time that cutting it takes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._shapes: dict[bytes, Shape | None] = {}
        self._usual: tuple[re.Pattern[bytes], Shape] | None = None

    def cut(self, lines: Sequence[bytes]) -> tuple[list[Shape | None], list[Texts]]:
        """Each line's shape and its texts; no shape where it must be parsed. `lines` have no control characters but
        those that stand for escapes: a quote in them begins or ends a text."""
        if self._usual is None:
            return self._cut_at_quotes(lines, len(lines))
        pattern, shape = self._usual
        matches = list(map(pattern.fullmatch, lines))
        if None not in matches:
            return [shape] * len(lines), [match.groups() for match in matches if match]
        rest = [line for line, match in zip(lines, matches, strict=True) if not match]
        others = zip(*self._cut_at_quotes(rest, len(lines)), strict=True)
        cut = [(shape, match.groups()) if match else next(others) for match in matches]
        return [shape for shape, _ in cut], [texts for _, texts in cut]

    def _cut_at_quotes(self, lines: Sequence[bytes], among: int) -> tuple[list[Shape | None], list[Texts]]:
        frames: list[bytes] = []
        texts: list[Texts] = []
        for line in lines:
            parts = line.split(b'"')
            texts.append(parts[_TEXT::_MESSAGE])
            del parts[_TEXT::_MESSAGE]
            frames.append(b'"'.join(parts))
        shapes = [self._shape(frame, len(cut)) for frame, cut in zip(frames, texts, strict=True)]
        self._choose_usual(frames, among)
        return shapes, texts

    def _shape(self, frame: bytes, texts: int) -> Shape | None:
        shape = self._shapes.get(frame)
        if shape is None and frame not in self._shapes and len(self._shapes) < _FRAMES:
            shape = self._shapes[frame] = _learnt(frame, texts, self._limits)
        return shape if shape is None or len(shape.roles) == texts else None

    def _choose_usual(self, frames: Sequence[bytes], among: int) -> None:
        """The most frequent of these, where that is half of all that are looked at now."""
        frame, lines = Counter(frames).most_common(1)[0]
        shape = self._shapes.get(frame)
        if shape is not None and (self._usual is None or 2 * lines > among):
            self._usual = _pattern(frame, len(shape.roles)), shape


def _learnt(frame: bytes, texts: int, limits: Limits) -> Shape | None:
    """The shape of rows that are only roles and texts, and have them in the places that were cut out: other texts
    that are put there are read as theirs."""
    others = [b"text %d" % number for number in range(texts)]
    parts = _filled(frame.split(b'"'), others)
    if len(parts) != _MESSAGE * texts + _AFTER:
        return None
    parsed = parse_row(1, shown_again(b'"'.join(parts)), limits)
    if isinstance(parsed, Fault) or parsed[0] != "chat" or parsed[1].row is not None:
        return None
    messages = parsed[1].messages
    same = [message.content.encode() for message in messages] == others
    return shape_of(tuple([message.role for message in messages])) if same else None


def _pattern(frame: bytes, texts: int) -> re.Pattern[bytes]:
    parts = [re.escape(part) for part in frame.split(b'"')]
    return re.compile(b'"'.join(_filled(parts, [b'([^"]*+)'] * texts)))


def _filled(parts: list[bytes], texts: Sequence[bytes]) -> list[bytes]:
    """With texts in the places of texts."""
    for number, text in enumerate(texts):
        parts.insert(_TEXT + _MESSAGE * number, text)
    return parts
