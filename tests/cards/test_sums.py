"""The numbers on each card add up: what a person adds in their head gives what the card says elsewhere. Read from the
golden files, which are the cards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CARDS = {
    path.stem: path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("golden/*.txt"))
}


def number(text: str) -> int:
    return int(text.replace(",", ""))


def find(pattern: str, text: str) -> int:
    """Returns the number that the pattern's group finds, 0 if it isn't there."""
    match = re.search(pattern, text)
    return number(match[1]) if match else 0


def lines() -> Iterator[tuple[str, str]]:
    for name, text in CARDS.items():
        yield from ((name, line) for line in text.splitlines())


def test_rows_of_a_dataset_are_trained_on_or_held_out_or_left_out_with_a_reason() -> None:
    seen = 0
    for name, text in CARDS.items():
        trained = find(r"\*To train on\*: ([\d,]+) row", text)
        if not trained:
            continue
        seen += 1
        set_aside = re.findall(
            r"\*(?:Held out for measuring|Sealed until a promotion)\*: ([\d,]+) rows?(?:, ([\d,]+) only)?",
            text,
        )
        in_file = sum(number(rows) - number(earlier or "0") for rows, earlier in set_aside)
        left_out = re.search(r"\*Left out of ([\d,]+) rows in the file\*: (.*)", text)
        reasons = sum(number(part) for part in re.findall(r"([\d,]+) [a-z]", left_out[2])) if left_out else 0
        all_rows = number(left_out[1]) if left_out else find(r": ([\d,]+) rows", text)
        assert trained + in_file + reasons == all_rows, name
    assert seen >= 10


def test_nothing_is_more_than_what_it_is_a_part_of() -> None:
    for name, line in lines():
        for part, total in re.findall(r"(?<![\d.,$])([\d,]+) of (?:about )?(\d[\d,]*)(?![\d.]*%)", line):
            assert number(part) <= number(total), f"{name}: {line}"


def test_a_bar_of_progress_counts_what_is_named_beside_it() -> None:
    bars = [(name, text) for name, text in CARDS.items() if "█" in text]
    assert len(bars) >= 5
    for name, text in bars:
        percent = find(r"(\d+)% [█░]{20}", text)
        beside = re.search(r"% [█░]{20}, ([\d,]+) of (?:about )?([\d,]+)", text)
        counted = beside or re.search(r"\*(?:Step|Answers)\*: ([\d,]+) of ([\d,]+)", text)
        if counted:
            share = number(counted[1]) / number(counted[2])
            assert min(round(100 * share), 99) == percent, name


@pytest.mark.parametrize("name", [name for name in CARDS if name.startswith("measure-")])
def test_candidates_of_a_measurement_add_up(name: str) -> None:
    text = CARDS[name].partition("In the newest blocks")[0]
    headline = find(r"# .*?([\d,]+) alternatives", text)
    done = re.search(r"✓ ([\d,]+) of ([\d,]+) alternatives answered", text)
    if not headline or not done:
        return
    under_way = re.findall(r"• .*: [\d,]+ of [\d,]+", text)
    waiting = find(r"• ([\d,]+) (?:waiting|not started)", text)
    left_out = len(re.findall(r"• Left out: ", text))
    assert number(done[1]) + len(under_way) + waiting + left_out == number(done[2]) == headline


def test_answers_of_people_add_up() -> None:
    seen = 0
    for name, text in CARDS.items():
        labelled = find(r"# .*: ([\d,]+) rows? labelled by [\d,]+ p", text)
        if not labelled:
            continue
        seen += 1
        parts = (
            r"([\d,]+) changed",
            r"([\d,]+) kept as labelled",
            r"([\d,]+) skipped",
            r"([\d,]+) added",
            r"([\d,]+) not used",
        )
        assert sum(find(part, text) for part in parts) == labelled == find(r"\*Answered\*: ([\d,]+)", text), (
            name
        )
    assert seen >= 3


def test_a_share_of_right_answers_is_possible_with_so_many_rows() -> None:
    seen = 0
    for name, line in lines():
        for share, rows in re.findall(
            r"(\d+\.\d)% right (?:\([^)]*\) )?on ([\d,]+) (?:held-out|training) rows", line
        ):
            seen += 1
            right = round(float(share) / 100 * number(rows))
            assert abs(100 * right / number(rows) - float(share)) < 0.051, f"{name}: {line}"
    assert seen >= 10


def test_the_difference_of_two_shares_is_the_one_that_is_named() -> None:
    seen = 0
    for name, text in CARDS.items():
        own = re.search(r"\*Right\*: (\d+\.\d)%", text)
        for share, gain in re.findall(
            r"\*Against [^*]*?(\d+\.\d)%\*: ([+−]\d+\.\d) points (?!.*rows that both)", text
        ):
            if own:
                seen += 1
                difference = float(own[1]) - float(share)
                assert abs(difference - float(gain.replace("−", "-"))) < 0.11, name
    assert seen >= 5
