"""May a model judge answers, and can its verdicts be trusted? Looks at the families of models, at unreadable verdicts,
and at the agreement of judge and people and of people with each other. Pure.

People answer the question that is scored: is this answer acceptable? They are shown answers from both sides of the
judge's own verdicts, half and half where it has enough of both. Then chance alone agrees on half of them, so an
agreement of 70% is a Cohen's κ of 0.4.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from trainers.evaluation.scores import Choice
from trainers.evaluation.statistics import Agreement, Interval, agreement, wilson_of_share

if TYPE_CHECKING:  # storage opens the database's library, which the command line need not load
    from storage.records import HumanVerdict, Preference

MAX_UNREAD = 0.1  # share of a candidate's answers; beyond it, the score would depend on how the judge writes
MIN_LABELS = 10
# With half of the answers from each side this is a Cohen's κ of 0.4, above which Landis and Koch (1977,
# doi.org/10.2307/2529310) call agreement moderate.
TRUSTED_FROM = 0.7
# By simulation (tests/rules/test_judge_agreement.py): with a look after each of 20 to 60 answers, a judge of κ 0.2 is
# trusted in 0.5% of cases, one of κ 0.4 in 8%, one of κ 0.8 in 99%. By κ alone from ten answers on, one of κ 0.2 was
# trusted in 18%.
MIN_CHECKED = 20
MOST_CHECKED = 60
MIN_OF_A_SIDE = 5
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
    _, _, own_name = model.removeprefix("ft:").rpartition("/")
    name = own_name.removeprefix("ft:").removeprefix("Meta-").lower()
    word = name
    match = re.match(r"[a-z]+", name)
    if match:
        word = match[0]
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

    `between` is the agreement of people who judged the same row, over all pairs, and None below MIN_LABELS.
    `beside_judge` is in results of older versions, in which people compared answers to check a judge.
    """

    labels: int
    people: int
    first: int
    second: int
    same: int
    beside_judge: Agreement | None
    between: Agreement | None


Trust = Literal["unchecked", "open", "trusted", "distrusted"]


Lack = Literal["answers", "answers of a side", "a few more", "another judge"]


@dataclass(frozen=True)
class JudgeChecks:
    """What people said about answers that a judge had judged, in all measurements of a dataset. Of the `accepted`
    answers that the judge found acceptable, people agreed on `accepted_right`; of the `rejected` ones on
    `rejected_right`. Each answer counts once, as most people judged it. `between` compares people who judged the same
    answer."""

    accepted: int = 0
    accepted_right: int = 0
    rejected: int = 0
    rejected_right: int = 0
    people: int = 0
    between: Agreement | None = None

    @property
    def answers(self) -> int:
        return self.accepted + self.rejected

    @property
    def agreed(self) -> int:
        return self.accepted_right + self.rejected_right

    @property
    def share(self) -> float:
        """The agreement as if half of the answers were from each side. Without that, a judge that accepts everything
        would agree with people on every good model."""
        if not self.answers:
            return 0.0
        if not self.accepted or not self.rejected:
            return self.agreed / self.answers
        share_of_accepted = self.accepted_right / self.accepted
        share_of_rejected = self.rejected_right / self.rejected
        return (share_of_accepted + share_of_rejected) / 2

    @property
    def interval(self) -> Interval | None:
        """The 95% interval of the share; None if nobody has judged an answer."""
        if not self.answers:
            return None
        if not self.accepted or not self.rejected:
            return wilson_of_share(self.share, self.answers)
        # So many answers, half from each side, have the mean of two shares with the same variance.
        effective = 4 / (1 / self.accepted + 1 / self.rejected)
        return wilson_of_share(self.share, effective)

    @property
    def is_lopsided(self) -> bool:
        """True if the judge has given too few verdicts of one kind to know whether people agree with those."""
        return min(self.accepted, self.rejected) < MIN_OF_A_SIDE

    @property
    def trust(self) -> Trust:
        interval = self.interval
        if interval is None:
            return "unchecked"
        if self.answers < MIN_CHECKED or self.is_lopsided:
            return "open"
        if interval.low >= TRUSTED_FROM:
            return "trusted"
        if interval.high < TRUSTED_FROM:
            return "distrusted"
        return "open"

    @property
    def lack(self) -> Lack | None:
        """What it takes to know whether the judge can be trusted; None if that is known."""
        if self.trust in ("trusted", "distrusted"):
            return None
        if self.answers < MIN_CHECKED:
            return "answers"
        if self.is_lopsided:
            return "answers of a side"
        if self.answers < MOST_CHECKED:
            return "a few more"
        return "another judge"


UNCHECKED = JudgeChecks()

JudgeStep = Literal["check", "replace"]


@dataclass(frozen=True)
class CheckedJudge:
    """The judge whose verdicts are the scores of a card, and what people said about them. `measurement` is the one
    whose answers people can still check where the card is shown, None if there is none."""

    name: str
    checks: JudgeChecks = UNCHECKED
    measurement: int | None = None

    @property
    def is_trusted(self) -> bool:
        return self.checks.trust == "trusted"

    @property
    def next_step(self) -> JudgeStep | None:
        """What to do before anything rests on the scores: have people check the judge, or replace it. None if it is
        trusted, or if people can check no more answers here and what they said is not against it."""
        if self.is_trusted:
            return None
        if self.checks.trust == "distrusted":
            return "replace"
        if self.measurement is not None and self.checks.answers < MOST_CHECKED:
            return "check"
        if self.checks.answers >= MOST_CHECKED and not self.checks.is_lopsided:
            # It is too close to tell, and more answers would not change that.
            return "replace"
        return None


def summarize_verdicts(verdicts: Sequence[HumanVerdict]) -> JudgeChecks:
    """Counts people's verdicts on answers that the same judge had judged. An answer on which people are split, or of
    which nobody was sure, doesn't count."""
    by_answer: dict[str, list[HumanVerdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.verdict != "unsure":
            by_answer[verdict.answer].append(verdict)
    agreed: dict[str, list[bool]] = {"yes": [], "no": []}
    between: list[tuple[str, str]] = []
    for on_answer in by_answer.values():
        by_person = sorted(on_answer, key=lambda verdict: verdict.person)
        votes = [verdict.verdict for verdict in by_person]
        between += combinations(votes, 2)
        n_yes = votes.count("yes")
        n_no = votes.count("no")
        if n_yes != n_no:
            majority = "yes" if n_yes > n_no else "no"
            # The judge gave the answer one verdict, so that all of these have the same.
            judged = on_answer[0].judged
            agreed[judged].append(judged == majority)
    return JudgeChecks(
        accepted=len(agreed["yes"]),
        accepted_right=sum(agreed["yes"]),
        rejected=len(agreed["no"]),
        rejected_right=sum(agreed["no"]),
        people=len({verdict.person for verdict in verdicts}),
        between=_agreement(between),
    )


def summarize_labels(labels: Sequence[Preference], first_candidate: str) -> HumanAgreement:
    """`first_candidate` is the key of the better candidate."""
    choices = []
    by_row: dict[int, list[tuple[str, Choice]]] = defaultdict(list)
    for label in labels:
        choice = label.choice
        if label.first_arm != first_candidate:
            # The two were shown the other way round.
            choice = SWAPPED[choice]
        choices.append(choice)
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
        beside_judge=None,
        between=_agreement(between),
    )


def _agreement(pairs: Sequence[tuple[str, str]]) -> Agreement | None:
    if len(pairs) < MIN_LABELS:
        return None
    return agreement([name for name, _ in pairs], [other for _, other in pairs])
