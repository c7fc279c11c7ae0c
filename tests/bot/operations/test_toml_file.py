"""The line of each key in a TOML file."""

from __future__ import annotations

from bot.settings.toml_file import line_numbers

TEXT = '''# a comment with = and [brackets]
data = "data"   # and behind a value

[policy]
expires_h = 24
who.upload = [
    "anyone",   # ] not the end
    "S1",
]
text = """
[not.a.table]
x = 1
"""
[policy."who is"]
'approve' = ["U1"]

[[policy.tiers]]
up_to_usd = "20"
[[policy.tiers]]
approvers = 2
[policy.tiers.more]
x = { a = 1, b = 2 }'''


def test_every_key_and_table_has_its_line() -> None:
    assert line_numbers(TEXT) == {
        ("data",): 2,
        ("policy",): 4,
        ("policy", "expires_h"): 5,
        ("policy", "who"): 6,
        ("policy", "who", "upload"): 6,
        ("policy", "text"): 10,
        ("policy", "who is"): 14,
        ("policy", "who is", "approve"): 15,
        ("policy", "tiers", 0): 17,
        ("policy", "tiers", 0, "up_to_usd"): 18,
        ("policy", "tiers", 1): 19,
        ("policy", "tiers", 1, "approvers"): 20,
        ("policy", "tiers", 1, "more"): 21,
        ("policy", "tiers", 1, "more", "x"): 22,
        ("policy", "tiers", 1, "more", "x", "a"): 22,
        ("policy", "tiers", 1, "more", "x", "b"): 22,
    }


def test_brackets_and_signs_in_quotes_are_text() -> None:
    text = "a = '[#='\n\"b = c\".d = \"]]\\\" [\"\ne = '''\n\n'''\nf = 1\n"
    assert line_numbers(text) == {("a",): 1, ("b = c",): 2, ("b = c", "d"): 2, ("e",): 3, ("f",): 6}


def test_the_example_is_read_to_its_end() -> None:
    with open("finetune.example.toml", encoding="utf-8") as file:
        text = file.read()
    lines = text.splitlines()
    for place, line in line_numbers(text).items():
        assert str(place[-1]) in lines[line - 1], place
