"""What a person types into the form of an upload: the dataset's name, and how many rows to seal. Pure.

What it says in return names the cure; the form shows it below the field.
"""

from __future__ import annotations

import re
import unicodedata

from bot.rules.units import FEWEST_SEALED, MOST_SEALED, Misread

LONGEST_NAME = 40
USUAL_SEALED = 200


def dataset_name(text: str) -> str | Misread:
    """Turns a text into a name that people can type: letters and digits of any script in lower case, dashes between.

    Different texts may give the same name; `is_dataset_name` tells if a text already is its name."""
    folded = unicodedata.normalize("NFKC", text.strip().lower())
    letters = [letter if _is_in_names(letter) else "-" for letter in folded]
    name = re.sub("-+", "-", "".join(letters)).strip("-")
    if not any(letter.isalnum() for letter in name):
        return Misread("A dataset's name needs at least one letter or digit, like `tickets`.")
    if len(name) > LONGEST_NAME:
        return Misread(
            f"A dataset's name has {LONGEST_NAME} letters at most, and this one would have {len(name)}: type a "
            "shorter one into “Dataset name”."
        )
    return name


def is_dataset_name(text: str) -> bool:
    """True if the text is a dataset's name as it stands, ignoring case and how accents are encoded (macOS decomposes
    them in file names)."""
    return dataset_name(text) == unicodedata.normalize("NFC", text.strip().lower())


def normalize_name(word: str) -> str:
    """Returns a dataset's name in the form in which it is stored: lower case, Unicode-normalized."""
    return unicodedata.normalize("NFKC", word.lower())


def parse_sealed(text: str) -> int | Misread:
    """Reads how many rows to seal: '200', 'yes' for the usual number, 'no' for none."""
    word = text.strip().lower().replace(",", "")
    if word in ("", "0", "no"):
        return 0
    if word == "yes":
        return USUAL_SEALED
    if word.isdecimal() and len(word) <= 9 and FEWEST_SEALED <= int(word) <= MOST_SEALED:
        return int(word)
    return Misread(
        f"“{text.strip()[:40]}” should be a number of rows to seal: type {FEWEST_SEALED} to {MOST_SEALED:,}, or leave "
        f"it empty. Fewer than {FEWEST_SEALED} would not tell two models apart."
    )


def _is_in_names(letter: str) -> bool:
    """True for letters, digits, and the combining marks that many scripts write vowels with."""
    return letter.isalnum() or unicodedata.category(letter).startswith("M")
