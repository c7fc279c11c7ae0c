"""How free text was judged and how far the judge can be trusted, and the question to people which of two answers is
better, without who gave which. That question holds customers' words: it is for private channels only."""

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
    "first": "finds the first better",
    "second": "finds the second better",
    "tie": "finds both the same",
}
LONGEST = 900
NO_LABELS = HumanAgreement(0, 0, 0, 0, 0, None, None)  # nobody has compared answers
WHAT_KAPPA_SAYS = (
    "κ: agreement beyond chance, 1 always, 0 none; below 0.4, don't trust the judge. In brackets: 95%."
)


def judge_notes(
    model: str | None,
    judged: Sequence[str],
    judge: JudgeProgress | None,
    scoring: Scoring,
    people: HumanAgreement,
    spelling: Spelling = SLACK,
) -> list[str]:
    """Sentences for the result's bullets; none where the answers are labels or JSON. `model`: the judge, None where
    there is none; `judged`: the models whose answers it read."""
    if model is None or judge is None:
        only_words = (
            "F1 measures only the words that an answer shares with the reference: a right answer in other words "
            f"scores low. With {spelling.option('judge', 'MODEL')} a model judges what answers say."
        )
        return [only_words] if scoring == "f1" else []
    if judge.failed:
        instead = "So fields are compared."
        if scoring == "f1":
            instead = "So the score is F1, which only measures shared words."
        end = "" if judge.failed.endswith((".", "!", "?")) else "."
        return [f"The verdicts of {model} do not count: {judge.failed}{end} {instead}"]
    lines = [f"Judged by {model}, {trust_text(people)}."]
    if judge.unread:
        lines.append(
            f"{judge.unread:,} of {pluralize(judge.judged, 'answer')} got no verdict that could be read, and count as "
            "not acceptable."
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
    """A warning where the judge judges its own or its relatives' answers."""
    if judge is None:
        return None
    kin = judge_agreement.relatives(judge, models)
    if judge in kin:
        own = f"{judge} judges its own answers too: models tend to prefer their own."
        return f"{own} Another judge would be fairer."
    family = (
        f"The judge {judge} is of the same family as {', '.join(kin[:3])}, and models tend to prefer their own "
        "kind. Another judge would be fairer."
    )
    return family if kin else None


def unreadable_text(judge: str, unread: int, of: int) -> str:
    return f"{judge} gave no verdict that could be read on {unread:,} of {of:,} answers of one alternative."


def trust_text(people: HumanAgreement) -> str:
    """'κ = 0.61 (0.32 to 0.90) on 14 human labels'."""
    beside = people.beside_judge
    if beside is None and people.labels >= MIN_LABELS:
        return "agreement with people not known: on too few of their pairs it has a verdict that holds in both orders"
    if beside is None:
        so_far = f" ({people.labels} of {MIN_LABELS} human labels)" if people.labels else ""
        return f"agreement with people not measured yet{so_far}"
    if beside.kappa is None:
        return f"agreement with people not known: all {beside.n} labels say the same thing"
    doubt = ": don't trust this judge" if people.distrusts else ""
    return f"{kappa_text(beside)} on {pluralize(beside.n, 'human label')}{doubt}"


def kappa_text(agreement: Agreement) -> str:
    """κ with its 95% interval: 'κ = 0.61 (0.32 to 0.90)'."""
    if agreement.kappa is None or agreement.low is None or agreement.high is None:
        return "κ = –"
    return f"κ = {_signed(agreement.kappa)} ({_signed(agreement.low)} to {_signed(agreement.high)})"


def max_judge_questions(plan: LadderPlan) -> int:
    """How many the judge may be asked: each answer once, the best two in both orders."""
    return plan.n_holdout * (len(plan.arms) + 2 * (len(plan.arms) > 1))


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _compared(pair: JudgedPair) -> str:
    first, second = arm_name(pair.first, 40), arm_name(pair.second, 40)
    unsure = pair.count(None)
    left = (
        f" On {pluralize(unsure, 'row')} it said nothing that held in both orders, which counts for neither."
        if unsure
        else ""
    )
    return (
        f"Side by side the judge finds {first} better on {pluralize(pair.count('first'), 'row')}, {second} on "
        f"{pair.count('second'):,}, both the same on {pair.count('tie'):,}.{left}"
    )


def question_card(key: str, question: str, first: str, second: str, *, done: int, wanted: int) -> Message:
    """`key` says which pair it is and goes back with the button."""
    title = "Which answer is better?"
    buttons = actions(button("First", FIRST, key), button("Second", SECOND, key), button("Same", SAME, key))
    count = f"{done:,} of {pluralize(wanted, 'pair')} judged. Your choices show how far the judge model can be trusted."
    return Message.titled(title, *_pair(question, first, second), buttons, Note(count))


def choice_card(question: str, first: str, second: str, choice: Choice, person: str) -> Message:
    """The same card with who chose what in the buttons' place."""
    text = f"<@{person}> {CHOSEN[choice]}."
    return Message(text, (*_pair(question, first, second), Note(text)))


def agreement_card(
    number: int, judge: str | None, agreement: HumanAgreement, first: Candidate, second: Candidate
) -> Message:
    """How far the judge can be trusted, once enough pairs were judged; `judge` is None where there was none.
    `first` is the arm that was measured as the better one."""
    title = "What people found better"
    if judge:
        title = "Don't trust this judge" if agreement.distrusts else "The judge agrees with people"
        if agreement.kappa is None:
            title = "How far the judge can be trusted is not known yet"
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
        lines.append(
            f"Where two people judged the same pair, they agree on {agreed}: {escape(kappa_text(between))}."
        )
    note = Note(f"Measurement m{number}. {WHAT_KAPPA_SAYS}")
    return Message.titled(title, Lines([f"• {line}" for line in lines]), note)


def _beside(judge: str, agreement: HumanAgreement) -> str:
    beside = agreement.beside_judge
    if beside is None:
        return f"{escape(judge)} has a verdict that holds in both orders on too few of these pairs to be compared."
    agreed = f"{escape(judge)} and people agree on {beside.agreed:,} of {pluralize(beside.n, 'choice')}"
    if beside.kappa is None:
        return f"{agreed}, but all say the same thing, so κ can't be worked out."
    text = f"{agreed}: {escape(kappa_text(beside))}."
    return f"{text} Below 0.4: its scores say little." if agreement.distrusts else text


def _pair(question: str, first: str, second: str) -> tuple[CardBlock, ...]:
    return (
        Text(f"*The text*\n{quote(question, LONGEST)}"),
        Text(f"*First*\n{quote(first, LONGEST)}"),
        Text(f"*Second*\n{quote(second, LONGEST)}"),
    )
