"""Cards as one HTML page that needs no network: the semantic blocks of Slack and the terminal, with charts as pictures
inside. What people, data and models wrote was made inert by `blocks.escape` before it gets here, so the page
only turns our own markup into tags."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import assert_never

from bot.cards.blocks import (
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

_DATE = re.compile(r"<!date\^[^|>]*\|([^>]*)>")
_LINK = re.compile(r"<(https?://[^|>\"]*)\|([^>]*)>")
_PERSON = re.compile(r"<@([A-Z0-9]+)>")
_CHANNEL = re.compile(r"<#[A-Z0-9]+(?:\|([^>]*))?>")
_CODE = re.compile(r"`([^`\n]+)`")
_BOLD = re.compile(r"\*([^*\n]+)\*")
_ITALIC = re.compile(r"(?<![^\W_])_([^_\n]+)_(?![^\W_])")
# What `blocks.escape` put in place of Slack's markers.
_ORIGINAL = str.maketrans({"∗": "*", "∼": "~", "ˋ": "`", "ˍ": "_", "＞": ">"})

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; background: #fff; margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid #e3e8ec; padding-bottom: .25rem; }
p { margin: .6rem 0; }
.note { color: #52606d; font-size: .875rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: .75rem 1.5rem; }
dt { font-weight: 600; } dd { margin: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .925rem; }
th, td { padding: .35rem .75rem .35rem 0; text-align: right; border-bottom: 1px solid #e3e8ec; }
th:first-child, td:first-child { text-align: left; }
td + td { white-space: nowrap; }
caption { text-align: left; color: #52606d; font-size: .875rem; padding-bottom: .25rem; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #52606d; font-size: .875rem; }
code { font-size: .9em; background: #f1f4f6; padding: .1em .3em; border-radius: 3px; overflow-wrap: anywhere; }
@media print { main { padding: 0; max-width: none; }
  h2, figure, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""


@dataclass(frozen=True)
class Picture:
    path: Path
    alt: str


@dataclass(frozen=True)
class Section:
    """`title` is plain text; so are the names of `pictures`."""

    title: str
    parts: Sequence[CardBlock]
    pictures: Sequence[Picture] = ()


def page(title: str, subtitle: str, sections: Iterable[Section], name_of: Callable[[str], str]) -> str:
    """A whole document. `title` and `subtitle` are plain text; `name_of` a person's id in Slack."""
    body = "\n".join(_section(section, name_of) for section in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body><main>
<h1>{escape(title)}</h1>
<p class="note">{escape(subtitle)}</p>
{body}
</main></body>
</html>
"""


def _section(section: Section, name_of: Callable[[str], str]) -> str:
    heading = f"<h2>{escape(section.title)}</h2>" if section.title else ""
    figures = []
    for picture in section.pictures:
        data, alt = base64.b64encode(picture.path.read_bytes()).decode("ascii"), escape(picture.alt)
        image = f'<img alt="{alt}" src="data:image/png;base64,{data}">'
        figures.append(f"<figure>{image}<figcaption>{alt}</figcaption></figure>")
    pictures = "\n".join(figures)
    return f"<section>\n{heading}\n{_html(section.parts, name_of)}\n{pictures}\n</section>"


def _html(parts: Iterable[CardBlock], name_of: Callable[[str], str]) -> str:
    return "\n".join(_block(part, name_of) for part in parts)


def _block(part: CardBlock, name_of: Callable[[str], str]) -> str:
    match part:
        case Headline():
            return f"<p><strong>{escape(part.text)}</strong></p>"
        case Text():
            return f"<p>{_inline(part.mrkdwn, name_of)}</p>"
        case Note():
            return f'<p class="note">{_inline(part.mrkdwn, name_of)}</p>'
        case Lines():
            return f"<p>{'<br>'.join(_inline(line, name_of) for line in part.lines)}</p>"
        case Facts():
            pairs = (
                f"<div><dt>{_inline(name, name_of)}</dt><dd>{_inline(value, name_of)}</dd></div>"
                for name, value in part.pairs
            )
            return f"<dl>{''.join(pairs)}</dl>"
        case Table():
            head, *body = part.rows
            caption = f"<caption>{escape(part.caption)}</caption>" if part.caption else ""
            heading = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
            rows = "".join(
                f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in body
            )
            table = f"<table>{caption}<thead><tr>{heading}</tr></thead><tbody>{rows}</tbody></table>"
            return f'<div class="scroll">{table}</div>'
        case Chart() | Steps():
            return _html(part.otherwise, name_of)
        case Divider() | Actions():
            return ""
    assert_never(part)


def _inline(mrkdwn: str, name_of: Callable[[str], str]) -> str:
    """Slack's markup as tags. Entities are the same in both."""
    text = mrkdwn.replace('"', "&quot;")
    text = _DATE.sub(r"\1", text)
    text = _PERSON.sub(lambda match: escape(name_of(match[1])), text)
    text = _CHANNEL.sub(lambda match: f"#{match[1] or 'channel'}", text)
    text = _LINK.sub(r'<a href="\1">\2</a>', text)
    text = _ITALIC.sub(r"<em>\1</em>", _BOLD.sub(r"<strong>\1</strong>", _CODE.sub(r"<code>\1</code>", text)))
    return text.translate(_ORIGINAL).replace("\n", "<br>\n")
