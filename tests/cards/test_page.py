"""A card as an HTML page: our markup becomes tags, and everybody else's text stays text."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from bot.cards.common.blocks import Facts, Headline, Lines, Note, Table, Text, actions, button, code, escape
from bot.cards.common.general import Attachment
from bot.cards.common.page import Section, page

VOID = {"meta", "img", "br"}
HOSTILE = (
    *("<script>alert(1)</script>", '"><img src=x onerror=y>', "*_`~<@U1>&lt;b&gt;"),
    *("<https://evil|text>", "_a_ *b*"),
)


class Reader(HTMLParser):
    """Reads a page's text and its tags with their attributes, and checks that each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def read(*parts: object, pictures: tuple[Attachment, ...] = ()) -> Reader:
    section = Section("Part", parts, pictures)  # type: ignore[arg-type]
    reader = Reader(page("Title", "below", [section], {"U1": "Ana Reyes"}.get))  # type: ignore[arg-type]
    assert not reader.open
    return reader


def test_a_page_reads_like_the_card_in_slack() -> None:
    table = Table([("model", "right"), ("small", "70%")], "Scores", otherwise=(Text("never shown"),))
    reader = read(
        Headline("Ready"),
        Facts([("Requested by", "<@U1>")]),
        table,
        actions(button("Go", "go", "1")),
        Lines(["• one", "• *two*, `finetune check`"]),
        Note("See <https://a.b/c|the plan>, by <!date^1^{time}|14:03 UTC>."),
    )
    assert reader.text == (
        "Title Title below Part Ready Requested byAna Reyes Scoresmodelrightsmall70% onetwo, finetune check "
        "See the plan, by 14:03 UTC."
    )
    assert ("a", {"href": "https://a.b/c"}) in reader.tags
    assert {"strong", "code", "table", "th", "dl", "li"} <= {tag for tag, _ in reader.tags}


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_others_stays_text(text: str) -> None:
    plain = read(Headline(text), Table([(text, "b"), (text, text)], text))
    marked = read(
        Text(escape(text)), Facts([(escape(text), escape(text))]), Lines([escape(text)]), Note(code("x"))
    )
    assert plain.text.count(" ".join(text.split())) == 4 + 1
    assert " ".join(text.split()) in marked.text
    for reader in (plain, marked):
        assert not {"script", "a", "em"} & {tag for tag, _ in reader.tags}
        assert not [tag for tag, attributes in reader.tags if "onerror" in attributes]


def test_a_picture_is_embedded_in_the_page(tmp_path: Path) -> None:
    (tmp_path / "loss.png").write_bytes(b"\x89PNG")
    picture = Attachment(tmp_path / "loss.png", 'the "loss"', "From 3 to 1")
    reader = read(pictures=(picture,))
    (image,) = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert image == {"alt": 'the "loss". From 3 to 1', "src": "data:image/png;base64,iVBORw=="}
    assert 'the "loss"' in reader.text and "From 3 to 1" not in reader.text
