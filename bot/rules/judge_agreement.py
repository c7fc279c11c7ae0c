"""May a model judge answers, and can its verdicts be trusted? Looks at the families of models, at unreadable verdicts,
and at the agreement of judge and people and of people with each other. Pure."""

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

MAX_UNREAD = 0.1  # share of a candidate's answers; beyond it, the score would depend on how the judge writes
MIN_LABELS = 10
# Cohen's κ, above which Landis and Koch (1977, doi.org/10.2307/2529310) call agreement moderate
TRUSTED_FROM = 0.4
# First words of model names that differ from the name of their family.
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
    """Returns the model's family, which is the first word of its own name: 'gpt' for 'openai/gpt-4o-mini', 'llama' for
    'nebius/meta-llama/Llama-3.1-8B-Instruct'."""
    name = model.removeprefix("ft:").rsplit("/", 1)[-1].removeprefix("ft:").removeprefix("Meta-").lower()
    match = re.match(r"[a-z]+", name)
    word = match[0] if match else name
    return _FAMILY_ALIASES.get(word, word)


def find_relatives(judge: str, models: Iterable[str]) -> tuple[str, ...]:
    """Returns the models of the judge's family, including itself. A judge rates their answers higher than people do
    (Panickssery and others 2024, arxiv.org/abs/2404.13076)."""
    return tuple(model for model in dict.fromkeys(models) if model_family(model) == model_family(judge))


def is_unreadable(unread: int, of: int) -> bool:
    """True if too many of a candidate's verdicts are missing for the others to be its score."""
    return bool(of) and unread > MAX_UNREAD * of


SWAPPED: Mapping[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}


@dataclass(frozen=True)
class HumanAgreement:
    """How people compared the answers of two candidates. `first` counts choices for the one that was measured as
    better, `second` those for the other, `same` those for neither.

    `beside_judge` is the agreement of people and judge on rows where the judge has a verdict, `between` that of people
    who judged the same row, over all pairs. Each is None below MIN_LABELS.
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
        """Cohen's κ of the judge and people; None if unknown."""
        return self.beside_judge.kappa if self.beside_judge else None

    @property
    def distrusts(self) -> bool:
        return self.kappa is not None and self.kappa < TRUSTED_FROM


def summarize_labels(
    labels: Sequence[Preference], first_arm: str, judged: Mapping[int, Choice | None]
) -> HumanAgreement:
    """`first_arm` is the key of the better candidate; `judged` are the judge's verdicts by row, where "first" means
    that candidate."""
    choices, beside_judge = [], []
    by_row: dict[int, list[tuple[str, Choice]]] = defaultdict(list)
    for label in labels:
        choice = label.choice if label.first_arm == first_arm else SWAPPED[label.choice]
        choices.append(choice)
        verdict = judged.get(label.row)
        if verdict is not None:
            beside_judge.append((verdict, choice))
        by_row[label.row].append((label.person, choice))
    # Each pair is sorted by person, so that kappa doesn't depend on who answered first.
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
