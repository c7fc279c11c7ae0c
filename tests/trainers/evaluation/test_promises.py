"""benchmarks/evidence.py fails if docs/deciding.md promises more than it measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import evidence
from benchmarks._promises import PAGE, read_promises


def change_page(folder: Path, old: str, new: str) -> Path:
    """Writes a copy of the page with one passage replaced, wherever the page breaks its lines."""
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert text.count(old) == 1, old
    page = folder / "deciding.md"
    page.write_text(text.replace(old, new), encoding="utf-8")
    return page


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(promised: 3)", "(promised: 2)"),
        ("(promised: within 1.5)", "(promised: within 0.5)"),
        ("its gain by 0.8 (promised: 2)", "its gain by 0.8 (promised: 0.5)"),
        ("21 of 24 files (promised: 8 in 10)", "21 of 24 files (promised: 9.5 in 10)"),
        ("A gain was found in 20 (promised: 8 in 10)", "A gain was found in 20 (promised: 9 in 10)"),
    ],
)
def test_a_promise_about_curves_that_does_not_hold_fails(tmp_path: Path, old: str, new: str) -> None:
    """With the figures that the page itself states."""
    figures = {"count": 24, "off": 2.29, "bias": -0.92, "off_gain": 0.84, "inside": 21, "gains": 20}
    assert evidence.fits_promises(read_promises(), **figures)
    assert not evidence.fits_promises(read_promises(change_page(tmp_path, old, new)), **figures)


def test_a_promise_about_looks_that_does_not_hold_fails(tmp_path: Path) -> None:
    stricter = read_promises(change_page(tmp_path, "ten looks add up to 7%", "ten looks add up to 3%"))
    shares = {"200 rows": 0.053}
    held, broken = (
        evidence.print_share("", shares, each.false_meets, 4_000) for each in (read_promises(), stricter)
    )
    assert held and not broken


def test_a_promise_that_left_the_page_is_missed(tmp_path: Path) -> None:
    page = change_page(tmp_path, "ten looks add up to 7%", "ten looks are fine")
    with pytest.raises(ValueError, match="false_meets"):
        read_promises(page)
