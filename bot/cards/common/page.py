"""Cards as one HTML page that needs no network: the same semantic blocks as in Slack and the terminal, with embedded
pictures. Text from people, data and models was made inert by `blocks.escape` before it gets here, so the page only
turns our own markup into tags."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import assert_never

from bot.cards.common.blocks import (
    Actions,
    CardBlock,
    Chart,
    Divider,
    Facts,
    Headline,
    Lines,
    Note,
    Steps,
    Table,
    Text,
)
from bot.cards.common.general import Attachment
from bot.resources import read_resource

_DATE = re.compile(r"<!date\^[^<|>]*\|([^<>]*)>")
_LINK = re.compile(r"<(https?://[^<|>\"]*)\|([^<>]*)>")
_PERSON = re.compile(r"<@([A-Z0-9]+)>")
_CHANNEL = re.compile(r"<#[A-Z0-9]+(?:\|([^<>]*))?>")
_CODE = re.compile(r"`([^`\n]+)`")
_BOLD = re.compile(r"\*([^*\n]+)\*")
_ITALIC = re.compile(r"(?<![^\W_])_([^_\n]+)_(?![^\W_])")
BULLET = "• "
# Undoes the lookalikes that `blocks.escape` put in place of Slack's markers.
_ORIGINAL = str.maketrans({"∗": "*", "∼": "~", "ˋ": "`", "ˍ": "_", "＞": ">"})


@dataclass(frozen=True)
class Section:
    """A section of the page. `title` is plain text. Without a title, it is the page's summary, shown in a box."""

    title: str
    parts: Sequence[CardBlock]
    pictures: Sequence[Attachment] = ()


def page(title: str, subtitle: str, sections: Iterable[Section], name_of: Callable[[str], str]) -> str:
    """A whole HTML document. `title` and `subtitle` are plain text; `name_of` maps a Slack user id to a name."""
    body = "\n".join(_section(section, name_of) for section in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{read_resource("report.css")}</style>
</head>
<body><main>
<h1>{escape(title)}</h1>
<p class="note">{escape(subtitle)}</p>
{body}
</main></body>
</html>
"""


def _section(section: Section, name_of: Callable[[str], str]) -> str:
    opening = '<section class="lead">\n'
    if section.title:
        opening = f"<section>\n<h2>{escape(section.title)}</h2>"
    figures = ""
    if section.pictures:
        pictures = "\n".join(_figure(picture) for picture in section.pictures)
        figures = f'<div class="figures">\n{pictures}\n</div>'
    return f"{opening}\n{_html(section.parts, name_of)}\n{figures}\n</section>"


def _figure(picture: Attachment) -> str:
    # The page is mailed and archived as one file, so its pictures can't be links.
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    alt = escape(picture.alt)
    image = f'<img alt="{alt}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(picture.title)}</figcaption></figure>"


def _html(parts: Iterable[CardBlock], name_of: Callable[[str], str]) -> str:
    return "\n".join(_block(part, name_of) for part in parts)


def _block(part: CardBlock, name_of: Callable[[str], str]) -> str:
    match part:
        case Headline():
            return f"<p><strong>{escape(part.text)}</strong></p>"
        case Text():
            return _paragraphs(part.mrkdwn.split("\n"), name_of)
        case Note():
            return f'<p class="note">{_inline(part.mrkdwn, name_of)}</p>'
        case Lines():
            return _paragraphs("\n".join(part.with_rest).split("\n"), name_of)
        case Facts():
            return _facts(part, name_of)
        case Table():
            return _table(part)
        case Chart() | Steps():
            return _html(part.otherwise, name_of)
        case Divider() | Actions():
            return ""
    assert_never(part)


def _facts(facts: Facts, name_of: Callable[[str], str]) -> str:
    pairs = []
    for name, value in facts.pairs:
        term = f"<dt>{_inline(name, name_of)}</dt>"
        details = f"<dd>{_inline(value, name_of)}</dd>"
        pairs.append(f"<div>{term}{details}</div>")
    return f"<dl>{''.join(pairs)}</dl>"


def _table(table: Table) -> str:
    head, *body = table.rows
    caption = ""
    if table.caption:
        caption = f"<caption>{escape(table.caption)}</caption>"
    heading = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    rows = []
    for row in body:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        rows.append(f"<tr>{cells}</tr>")
    # Only the table scrolls sideways on a phone, not the page.
    return (
        f'<div class="scroll"><table>{caption}<thead><tr>{heading}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _paragraphs(lines: Iterable[str], name_of: Callable[[str], str]) -> str:
    """Consecutive lines with bullets become a list, other consecutive lines one paragraph."""
    parts = []
    for is_list, together in groupby(lines, lambda line: line.startswith(BULLET)):
        texts = [_inline(line.removeprefix(BULLET), name_of) for line in together]
        if is_list:
            entries = "".join(f"<li>{text}</li>" for text in texts)
            parts.append(f"<ul>{entries}</ul>")
        else:
            paragraph = "<br>".join(texts)
            parts.append(f"<p>{paragraph}</p>")
    return "\n".join(parts)


def _inline(mrkdwn: str, name_of: Callable[[str], str]) -> str:
    """Slack's markup as HTML tags. Entities are the same in both."""
    text = mrkdwn.replace('"', "&quot;")
    text = _DATE.sub(r"\1", text)
    text = _PERSON.sub(lambda match: escape(name_of(match[1])), text)
    text = _CHANNEL.sub(lambda match: f"#{match[1] or 'channel'}", text)
    text = _LINK.sub(r'<a href="\1">\2</a>', text)
    text = _CODE.sub(r"<code>\1</code>", text)
    text = _BOLD.sub(r"<strong>\1</strong>", text)
    text = _ITALIC.sub(r"<em>\1</em>", text)
    # Last, so that what stood in somebody's text is never read as markup.
    text = text.translate(_ORIGINAL)
    return text.replace("\n", "<br>\n")
