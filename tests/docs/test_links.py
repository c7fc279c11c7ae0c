"""Each link between the pages leads to a file and a heading that exist, and the index lists every page."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, prose, read, title

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
ANCHOR = re.compile(r'<a id="([\w-]+)">')


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_the_links_resolve(page: Path) -> None:
    links = [link for link in LINK.findall(prose(page)) if "://" not in link]
    assert [link for link in links if not _resolves(page, link)] == []


def _resolves(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    return target.exists() and (not anchor or anchor in _anchors(target))


@cache
def _anchors(page: Path) -> frozenset[str]:
    headings = [_slug(heading) for heading in HEADING.findall(prose(page))]
    return frozenset([*headings, *ANCHOR.findall(read(page))])


def _slug(heading: str) -> str:
    """Returns the anchor that GitHub gives a heading."""
    letters = re.sub(r"[^\w\- ]", "", heading.lower())
    return letters.replace(" ", "-")


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    links = set(LINK.findall(read(index)))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages - links == set()
