"""May a model judge, and may its verdicts be trusted? Family ties, too many missing verdicts, agreement. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

MOST_UNREAD = 0.1  # of an arm's answers; with more, its score would say how the judge talks
LEAST_LABELS = 10
TRUSTED_FROM = 0.4  # Cohen's κ; Landis and Koch 1977, doi.org/10.2307/2529310, call it moderate from there on
# Families whose models go by several first words.
_ALSO: Mapping[str, str] = {
    "chatgpt": "gpt",
    "o": "gpt",
    "davinci": "gpt",
    "mixtral": "mistral",
    "ministral": "mistral",
    "magistral": "mistral",
    "codestral": "mistral",
    "qwq": "qwen",
    "gemma": "gemini",
}


def family(model: str) -> str:
    """'gpt' of 'openai/gpt-4o-mini', 'llama' of 'nebius/meta-llama/Llama-3.1-8B-Instruct': the letters with which
    the model's own name begins."""
    name = model.removeprefix("ft:").rsplit("/", 1)[-1].removeprefix("ft:").removeprefix("Meta-").lower()
    found = re.match(r"[a-z]+", name)
    word = found[0] if found else name
    return _ALSO.get(word, word)


def favours(judge: str, models: Iterable[str]) -> str | None:
    """A judge finds its own answers and its relatives' better than people do: a warning where that may be.

    Panickssery and others 2024, arxiv.org/abs/2404.13076."""
    asked = tuple(dict.fromkeys(models))
    if judge in asked:
        return f"{judge} judges its own answers too: models tend to prefer their own. Another judge would be fairer."
    kin = [model for model in asked if family(model) == family(judge)]
    if not kin:
        return None
    return (
        f"The judge {judge} is of the same family as {', '.join(kin[:3])}: models tend to prefer answers of their "
        "own kind. A judge of another family would be fairer."
    )


def doubts(judge: str, unread: int, of: int) -> str | None:
    """Why the verdicts on an arm can't be its score."""
    if not of or unread <= MOST_UNREAD * of:
        return None
    return f"{judge} gave no verdict that could be read on {unread:,} of {of:,} answers of one alternative."
