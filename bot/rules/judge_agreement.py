"""May a model judge, and may its verdicts be trusted? Family ties, unreadable verdicts, and its agreement with people
and theirs with each other. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from trainers.evaluation.judge_agreement import Agreement, agreement
from trainers.evaluation.scores import Choice

if TYPE_CHECKING:  # storage opens the database's library, which the command line need not load
    from storage.records import Preference

MAX_UNREAD = 0.1  # of an arm's answers; with more, its score would say how the judge talks
MIN_LABELS = 10
TRUSTED_FROM = 0.4  # Cohen's κ; Landis and Koch 1977, doi.org/10.2307/2529310, call it moderate from there on
# Families whose models go by several first words.
_FAMILY_ALIASES: Mapping[str, str] = {
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


def model_family(model: str) -> str:
    """'gpt' of 'openai/gpt-4o-mini', 'llama' of 'nebius/meta-llama/Llama-3.1-8B-Instruct': the letters with which
    the model's own name begins."""
    name = model.removeprefix("ft:").rsplit("/", 1)[-1].removeprefix("ft:").removeprefix("Meta-").lower()
    match = re.match(r"[a-z]+", name)
    word = match[0] if match else name
    return _FAMILY_ALIASES.get(word, word)


def find_relatives(judge: str, models: Iterable[str]) -> tuple[str, ...]:
    """The models of the judge's family, itself included: it finds their answers better than people do (Panickssery and
    others 2024, arxiv.org/abs/2404.13076)."""
    return tuple(model for model in dict.fromkeys(models) if model_family(model) == model_family(judge))


def is_unreadable(unread: int, of: int) -> bool:
    """Whether so many verdicts on an arm are missing that they can't be its score."""
    return bool(of) and unread > MAX_UNREAD * of


SWAPPED: Mapping[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}


@dataclass(frozen=True)
class HumanAgreement:
    """`first` and so on count choices for the arm that was measured as the better one, for the other, for neither.

    `beside_judge` is over the labels on rows where the judge has a verdict, `between` over rows that two people
    judged, pair by pair of people; each None below ten.
    """

    labels: int
    people: int
    first: int
    second: int
    same: int
    beside_judge: Agreement | None
    between: Agreement | None

    @property
    def kappa(self) -> float | None:
        """Cohen's κ of the judge and people; None where it is not known."""
        return self.beside_judge.kappa if self.beside_judge else None

    @property
    def distrusts(self) -> bool:
        return self.kappa is not None and self.kappa < TRUSTED_FROM


def summarize_labels(
    labels: Sequence[Preference], first_arm: str, judged: Mapping[int, Choice | None]
) -> HumanAgreement:
    """`first_arm` is the better arm's key; `judged` the judge's verdicts by row, for that arm or the other."""
    choices, beside_judge = [], []
    by_row: dict[int, list[tuple[str, Choice]]] = defaultdict(list)
    for label in labels:
        choice = label.choice if label.first_arm == first_arm else SWAPPED[label.choice]
        choices.append(choice)
        verdict = judged.get(label.row)
        if verdict is not None:
            beside_judge.append((verdict, choice))
        by_row[label.row].append((label.person, choice))
    # Who comes first in a pair is settled by name: kappa is the same with both turned, and must not hang on who was
    # quicker.
    between = [
        (earlier[1], later[1])
        for on_row in by_row.values()
        for earlier, later in combinations(sorted(on_row), 2)
    ]
    return HumanAgreement(
        labels=len(labels),
        people=len({label.person for label in labels}),
        first=choices.count("first"),
        second=choices.count("second"),
        same=choices.count("tie"),
        beside_judge=_agreement(beside_judge),
        between=_agreement(between),
    )


def _agreement(pairs: Sequence[tuple[Choice, Choice]]) -> Agreement | None:
    if len(pairs) < MIN_LABELS:
        return None
    return agreement([name for name, _ in pairs], [other for _, other in pairs])
