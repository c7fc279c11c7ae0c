"""How free text was judged, how far the judge can be trusted, and the question that asks people which of two anonymous
answers is better. That question contains customers' words, so it is for private channels only."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cards.blocks import CardBlock, Lines, Message, Note, Text, actions, button, escape, quote
from bot.cards.candidates import arm_name
from bot.cards.words import SLACK, Spelling, pluralize
from bot.rules import judge_agreement
from bot.rules.judge_agreement import MIN_LABELS, HumanAgreement
from bot.values.evaluations import JudgedPair, JudgeProgress, LadderPlan
from trainers.evaluation.judge_agreement import Agreement
from trainers.evaluation.results import Candidate, Scoring
from trainers.evaluation.scores import Choice

FIRST, SECOND, SAME = "prefer_first", "prefer_second", "prefer_same"
JUDGE_SOME, JUDGE_SOME_WORDS = "judge_some", "Judge a few yourself"
CHOICES: dict[str, Choice] = {FIRST: "first", SECOND: "second", SAME: "tie"}
CHOSEN: dict[Choice, str] = {
    "first": "prefers the first",
    "second": "prefers the second",
    "tie": "finds both equally good",
}
LONGEST = 900
NO_LABELS = HumanAgreement(0, 0, 0, 0, 0, None, None)  # nobody has compared answers
WHAT_KAPPA_SAYS = (
    "κ is agreement beyond chance: 1 is perfect, 0 none. "
    "Below 0.4, don't trust the judge. In brackets: 95% intervals."
)


def judge_notes(
    model: str | None,
    judged: Sequence[str],
    judge: JudgeProgress | None,
    scoring: Scoring,
    people: HumanAgreement,
    spelling: Spelling = SLACK,
) -> list[str]:
    """Sentences about the judge for the result's bullets; none if the answers are labels or JSON. `model` is the judge,
    None without one; `judged` are the models whose answers it read."""
    if model is None or judge is None:
        only_words = (
            "F1 only counts words shared with the expected answer, so a right answer in other words scores low. With "
            f"{spelling.option('judge', 'MODEL')}, a model judges the content instead."
        )
        return [only_words] if scoring == "f1" else []
    if judge.failed:
        instead = "Fields were compared instead."
        if scoring == "f1":
            instead = "The score is F1 instead, which only counts shared words."
        end = "" if judge.failed.endswith((".", "!", "?")) else "."
        return [f"The verdicts of {model} were not used: {judge.failed}{end} {instead}"]
    lines = [f"Judged by {model}, {trust_text(people)}."]
    if judge.unread:
        lines.append(
            f"{judge.unread:,} of {pluralize(judge.judged, 'answer')} got no readable verdict and count as not "
            "acceptable."
        )
    if judge.pair:
        lines.append(_compared(judge.pair))
    if judge.unpaired:
        lines.append(f"The best two were not compared side by side: {judge.unpaired}")
    warning = bias_warning(model, judged)
    return [*lines, warning] if warning else lines


def judged_models(plan: LadderPlan) -> list[str]:
    return [arm.model for arm in plan.arms if arm.model]


def bias_warning(judge: str | None, models: Sequence[str]) -> str | None:
    """A warning if the judge judges answers of its own or of models of its family; else None."""
    if judge is None:
        return None
    kin = judge_agreement.find_relatives(judge, models)
    if judge in kin:
        return f"{judge} also judges its own answers, which models tend to prefer. Another judge would be fairer."
    family = (
        f"The judge {judge} is from the same family as {', '.join(kin[:3])}, and models tend to prefer their own "
        "family. Another judge would be fairer."
    )
    return family if kin else None


def unreadable_text(judge: str, unread: int, of: int) -> str:
    return f"{judge} gave no readable verdict on {unread:,} of {of:,} answers of one alternative."


def trust_text(people: HumanAgreement) -> str:
    """'κ = 0.61 (0.32 to 0.90) on 14 human choices'."""
    beside = people.beside_judge
    if beside is None and people.labels >= MIN_LABELS:
        return "agreement with people unknown, because too few of its verdicts stay the same in both orders"
    if beside is None:
        so_far = f" ({people.labels} of {MIN_LABELS} human choices)" if people.labels else ""
        return f"agreement with people not measured yet{so_far}"
    if beside.kappa is None:
        return f"agreement with people unknown, because all {beside.n} choices are the same"
    doubt = ": don't trust this judge" if people.distrusts else ""
    return f"{kappa_text(beside)} on {pluralize(beside.n, 'human choice')}{doubt}"


def kappa_text(agreement: Agreement) -> str:
    """κ with its 95% interval: 'κ = 0.61 (0.32 to 0.90)'."""
    if agreement.kappa is None or agreement.low is None or agreement.high is None:
        return "κ = –"
    return f"κ = {_signed(agreement.kappa)} ({_signed(agreement.low)} to {_signed(agreement.high)})"


def max_judge_questions(plan: LadderPlan) -> int:
    """The most questions that the judge may get: each answer once, and the best two side by side in both orders."""
    return plan.n_holdout * (len(plan.arms) + 2 * (len(plan.arms) > 1))


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _compared(pair: JudgedPair) -> str:
    first, second = arm_name(pair.first, 40), arm_name(pair.second, 40)
    unsure = pair.count(None)
    left = (
        f" On {pluralize(unsure, 'row')} its verdict changed with the order, which counts for neither."
        if unsure
        else ""
    )
    return (
        f"Side by side, the judge prefers {first} on {pluralize(pair.count('first'), 'row')} and {second} on "
        f"{pair.count('second'):,}; on {pair.count('tie'):,} it finds both equal.{left}"
    )


def question_card(key: str, question: str, first: str, second: str, *, done: int, wanted: int) -> Message:
    """Asks which answer is better. `key` identifies the pair and comes back with the button."""
    title = "Which answer is better?"
    buttons = actions(button("First", FIRST, key), button("Second", SECOND, key), button("Same", SAME, key))
    count = (
        f"{done:,} of {pluralize(wanted, 'pair')} judged. Your choices show how far to trust the judge model."
    )
    return Message.titled(title, *_pair(question, first, second), buttons, Note(count))


def choice_card(question: str, first: str, second: str, choice: Choice, person: str) -> Message:
    """The same card with the choice in place of the buttons."""
    text = f"<@{person}> {CHOSEN[choice]}."
    return Message(text, (*_pair(question, first, second), Note(text)))


def agreement_card(
    number: int, judge: str | None, agreement: HumanAgreement, first: Candidate, second: Candidate
) -> Message:
    """How far the judge can be trusted, once people judged enough pairs; `judge` is None without one. `first` is the
    candidate that was measured to be the better one."""
    title = "Which answers people prefer"
    if judge:
        title = "Don't trust this judge" if agreement.distrusts else "The judge agrees with people"
        if agreement.kappa is None:
            title = "Not known yet: how far the judge can be trusted"
    name, other = escape(arm_name(first, 40)), escape(arm_name(second, 40))
    who = pluralize(agreement.people, "person", "people")
    tally = (
        f"{pluralize(agreement.labels, 'choice')} of {who}: {agreement.first:,} for {name}, "
        f"{agreement.second:,} for {other}, "
        f"{agreement.same:,} for neither."
    )
    lines = [*([_beside(judge, agreement)] if judge else []), tally]
    between = agreement.between
    if between:
        agreed = f"{between.agreed:,} of {between.n:,}"
        lines.append(f"Pairs that two people judged: they agree on {agreed}, {escape(kappa_text(between))}.")
    note = Note(f"Measurement m{number}. {WHAT_KAPPA_SAYS}")
    return Message.titled(title, Lines([f"• {line}" for line in lines]), note)


def _beside(judge: str, agreement: HumanAgreement) -> str:
    beside = agreement.beside_judge
    if beside is None:
        return f"Too few of {escape(judge)}'s verdicts on these pairs stay the same in both orders to be compared."
    agreed = f"{escape(judge)} and people agree on {beside.agreed:,} of {pluralize(beside.n, 'choice')}"
    if beside.kappa is None:
        return f"{agreed}, but all choices are the same, so κ can't be calculated."
    text = f"{agreed}: {escape(kappa_text(beside))}."
    return f"{text} Below 0.4, its scores say little." if agreement.distrusts else text


def _pair(question: str, first: str, second: str) -> tuple[CardBlock, ...]:
    return (
        Text(f"*The text*\n{quote(question, LONGEST)}"),
        Text(f"*First*\n{quote(first, LONGEST)}"),
        Text(f"*Second*\n{quote(second, LONGEST)}"),
    )
