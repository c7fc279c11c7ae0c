"""Labels, JSON and verdicts that are read from a model's answer."""

from __future__ import annotations

import pytest

from trainers.evaluation.scores import read_choice, read_json, read_label, read_yes

LABELS = ("refund", "card_declined", "card", "lost_or_stolen", "card_not_working", "no", "A")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("refund", "refund"),
        (" Refund.\n", "refund"),
        ("**refund**", "refund"),
        ("ｒefund", "refund"),
        ("Lost or stolen", "lost_or_stolen"),
        ("Label: refund", "refund"),
        ("The correct label is: `card_declined`.", "card_declined"),
        ("refund\n\nUser: and my card?", "refund"),
        ("I think it is card_declined, as the card was refused.", None),
        ("I think it is card_declined.", "card_declined"),
        ("Let me think.\nIt is a refund.", "refund"),
        ("<think>card or refund? refund.</think>card", "card"),
        ("<think>refund, and then the words ran out", None),
        ("A refund? No, the card was refused.</think>\n\ncard", "card"),
        ("refund <think>or card?</think>", "refund"),
        pytest.param(f"<think>{'A refund? ' * 500}</think>card", "card", id="thoughts of 5,000 letters"),
        ("It's card not working, card_not_working!", "card_not_working"),
        ("refund or card", None),
        ("refunds", None),
        ("This is not a refund.", None),
        ("I'm sorry, I can't help with a refund.", None),
        ("I’m sorry, I can’t help with that.", None),
        ("As an AI I can't answer. Refund", "refund"),
        ("no", "no"),
        ("No, it is none.", "no"),
        ("A", "A"),
        ("A customer writes", None),
        ("refund\ncard\ncard_declined", "refund"),
        ("", None),
        ("🙂", None),
    ],
)
def test_an_answer_is_read_as_the_label_that_it_means(text: str, label: str | None) -> None:
    assert read_label(text, LABELS) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("取消。", "取消"),
        ("ラベル：取消", "取消"),
        ("答えは 取消 です。", "取消"),
        ("取消、それとも日本語", None),
        ("GRÖSSE, FALSCH", "Größe, falsch"),
        ("Es ist Größe, falsch.", "Größe, falsch"),
    ],
)
def test_labels_in_other_scripts_and_with_commas_are_read(text: str, label: str | None) -> None:
    assert read_label(text, ("取消", "日本語", "Größe, falsch", "Größe")) == label


def test_labels_that_differ_only_in_separators_must_match_exactly() -> None:
    assert read_label("a_b", ("a_b", "a b")) == "a_b"
    assert read_label("A-B", ("a_b", "a b")) is None


@pytest.mark.parametrize(
    ("labels", "text", "label"),
    [
        (("C", "C#", "C++"), "C#\n", "C#"),
        (("C", "C#", "C++"), " c# ", "C#"),
        (("C", "C#", "C++"), "C", "C"),
        (("C", "C#", "C++"), "Label: C#", "C#"),
        (("C", "C#", "C++"), "The answer is C#.", "C#"),
        (("C", "C#", "C++"), "**C#**", "C#"),
        (("C", "C#", "C++"), "C#\n\nIt is Microsoft's.", "C#"),
        (("C", "C#", "C++"), "C# or C++", None),
        (("1", "2", "10"), "10/10", "10"),
        (("1", "2", "10"), "Label: 2 out of 10.", "2"),
        (("1", "2", "10"), "3/10", None),
        (("1", "2", "10"), "1/2", None),
        (("1", "2"), "1/2", None),
        (("+", "-"), '"-"', "-"),
        (("+", "-"), "Label: -", "-"),
        (("+", "-"), "- billing", None),
        (("yes", "no", "?"), "?\n", "?"),
        (("5", "5*"), "5*\n", "5*"),
        (("5", "5*"), "5\n", "5"),
        ((".NET", "net"), ".net\n", ".NET"),
        (("A/B", "A-B"), "A-B\n", "A-B"),
        (("-1", "0", "1"), "−1", "-1"),
        (("true", "false"), "TRUE.", "true"),
        (("0", "1"), "Label: 0", "0"),
        (("NaN", "other"), "nan\n", "NaN"),
    ],
)
def test_labels_of_symbols_numbers_and_words_of_programs_are_read(
    labels: tuple[str, ...], text: str, label: str | None
) -> None:
    assert read_label(text, labels) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("-1", "-1"),
        ("Label: -1", "-1"),
        ("The answer is -1.", "-1"),
        ("**1**", "1"),
        ("- 1", "1"),
        ("-100", None),
    ],
)
def test_the_minus_of_a_number_belongs_to_a_label(text: str, label: str | None) -> None:
    assert read_label(text, ("-1", "0", "1", "100")) == label


def test_of_two_spellings_of_a_label_the_first_is_read() -> None:
    assert read_label("REFUND", ("Refund", "refund")) == "Refund"


@pytest.mark.parametrize("labels", [(), ("",), ("...",), ("(", "[a-z]+", "c++")])
def test_labels_of_punctuation_or_patterns_are_handled(labels: tuple[str, ...]) -> None:
    assert read_label("something", labels) is None
    assert read_label("C++", ("(", "[a-z]+", "c++")) == "c++"


def test_a_megabyte_of_rambling_is_read_quickly() -> None:
    assert read_label("card? refund! " * 80_000, LABELS) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Here it is:\n```json\n{"a": {"b": []}}\n```\nDone.', {"a": {"b": []}}),
        ('```\n[1]\n```\n{"a": 2}', {"a": 2}),
        ('Set {x} to {"a": 3} or {"a": 4}', {"a": 3}),
        ('[{"a": 5}]', {"a": 5}),
        ('{"a": 1', None),
        ('Perhaps {"a": 6}?</think>{"a": 7}', {"a": 7}),
        ('{"a": NaN}', None),
        ("{" * 100_000, None),
        ('{"a":' * 100_000, None),
        ('{"a": ' + "9" * 5_000 + "}", None),
        ("I'm sorry, I can't do that.", None),
        ("", None),
    ],
)
def test_the_first_json_object_of_an_answer_is_read(text: str, value: object) -> None:
    assert read_json(text) == value


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("A", "first"),
        ("b.", "second"),
        ("**TIE**", "tie"),
        ("Answer: B", "second"),
        ("A is better", None),
        ("", None),
    ],
)
def test_a_judges_choice_of_a_b_or_tie_is_read(text: str, choice: str | None) -> None:
    assert read_choice(text) == choice


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("YES", True),
        ("No.", False),
        ("Yes, it is.", True),
        ("", None),
        ("YES and NO", None),
        ("<think>YES or NO? The answer is complete.</think>YES", True),
        ("Yes, no word is missing.", True),
    ],
)
def test_a_judges_yes_or_no_is_read(text: str, yes: bool | None) -> None:
    assert read_yes(text) is yes
