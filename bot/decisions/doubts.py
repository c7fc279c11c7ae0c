"""What people may decide on a run whose money is in doubt, and by how many. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from storage.doubts import Choice, Word

# What creates again may pay twice, what frees the money may let it be spent twice: four eyes. A job that is named is
# compared with the plan where it runs, so one person's word is enough. Who asked for the run has none (permission.py).
WORDS_NEEDED: dict[Choice, int] = {"retry": 2, "adopt": 1, "give_up": 2}


def carried(words: Sequence[Word], approvers: Collection[str]) -> list[Word]:
    """Those words of one choice that are enough to carry it out, none where none is. Counted are people who may still
    decide now; of several choices the one that was spoken for last."""
    for choice in dict.fromkeys(word.choice for word in reversed(words)):
        counted = [word for word in words if word.choice == choice and word.person in approvers]
        if len({word.person for word in counted}) >= WORDS_NEEDED[choice]:
            return counted
    return []
