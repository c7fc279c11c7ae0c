"""How free text was judged, how far people agree with the judge and, without a judge, the question to people which of
two anonymous answers is better. That question contains customers' words, so it is for private channels only."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cards.common.blocks import CardBlock, Message, Note, Text, button, code, escape, quote
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import calls_text, mix_text, table_name
from bot.cards.common.words import SLACK, Spelling, pluralize, shorten, signed
from bot.cards.common.words import interval as interval_text
from bot.rules import judge_agreement
from bot.rules.facts import Evidence, OtherJudge
from bot.rules.judge_agreement import CheckedJudge, HumanAgreement, JudgeChecks
from bot.values.evaluations import ComparisonPlan, JudgedPair, JudgeProgress
from trainers.evaluation.results import Candidate, Comparison
from trainers.evaluation.scores import Choice
from trainers.evaluation.statistics import Agreement

FIRST = "prefer_first"
SECOND = "prefer_second"
SAME = "prefer_same"
JUDGE_SOME = "judge_some"
JUDGE_SOME_WORDS = "Judge a few yourself"
CHOICES: dict[str, Choice] = {FIRST: "first", SECOND: "second", SAME: "tie"}
CHOSEN: dict[Choice, str] = {
    "first": "prefers the first",
    "second": "prefers the second",
    "tie": "finds both equally good",
}
LONGEST = 900


def judge_notes(
    model: str | None,
    judged: Sequence[str],
    judge: JudgeProgress | None,
    comparison: Comparison,
    people: JudgeChecks,
    spelling: Spelling = SLACK,
) -> list[str]:
    """Sentences about the judge for the result's bullets; none if the answers are labels or JSON. `model` is the judge,
    None without one; `judged` are the models whose answers it read."""
    if model is None or judge is None:
        return _unjudged_notes(comparison, spelling)
    if judge.failed:
        return [_failed_judge(model, judge.failed, comparison)]
    by_judge = f"Judged by {model}; {trust_text(people)}."
    if comparison.calls:
        by_judge += f" {calls_text(comparison)}, compared exactly instead."
    lines = [by_judge]
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
    if warning:
        lines.append(warning)
    return lines


def _failed_judge(model: str, why: str, comparison: Comparison) -> str:
    """Says that the judge's verdicts don't count, and what does. `why` may be the words of a vendor."""
    if not why.endswith((".", "!", "?")):
        why += "."
    instead = "Fields were compared instead."
    if comparison.scoring == "f1":
        instead = _score_instead(comparison)
    return f"The verdicts of {model} were not used: {why} {instead}"


def _unjudged_notes(comparison: Comparison, spelling: Spelling) -> list[str]:
    """What the score of texts doesn't see. Nothing if the answers are labels, JSON or calls."""
    if comparison.scoring != "f1":
        return []
    judge = spelling.option("judge", "MODEL")
    if not comparison.calls:
        return [
            "F1 only counts words shared with the expected answer, so a right answer in other words scores low. With "
            f"{judge}, a model judges the content instead."
        ]
    return [f"{mix_text(comparison)} With {judge}, a model judges those texts instead."]


def _score_instead(comparison: Comparison) -> str:
    if not comparison.calls:
        return "The score is F1 instead, which only counts shared words."
    return f"Instead: {mix_text(comparison)}"


def judged_models(plan: ComparisonPlan) -> list[str]:
    return [candidate.model for candidate in plan.candidates if candidate.model]


def bias_warning(judge: str | None, models: Sequence[str]) -> str | None:
    """A warning if the judge judges answers of its own or of models of its family; else None."""
    if judge is None:
        return None
    kin = judge_agreement.find_relatives(judge, models)
    if judge in kin:
        return f"{judge} also judges its own answers, which models tend to prefer. Another judge would be fairer."
    if not kin:
        return None
    return (
        f"The judge {judge} is from the same family as {', '.join(kin[:3])}, and models tend to prefer their own "
        "family. Another judge would be fairer."
    )


def unreadable_text(judge: str, unread: int, of: int) -> str:
    return f"{judge} gave no readable verdict on {unread:,} of {of:,} answers of one alternative."


def agreement_text(name: str, people: JudgeChecks) -> str:
    """'people agree with it on 27 of 30 answers (74-97%)'; `name` is 'it' or the judge's."""
    if people.interval is None:
        return "nobody has checked it yet"
    between = interval_text(people.interval.low, people.interval.high)
    answers = pluralize(people.answers, "answer")
    return f"people agree with {name} on {people.agreed:,} of {answers} ({between})"


def trust_text(people: JudgeChecks) -> str:
    """'trusted: people agree with it on 27 of 30 answers (74-97%)'."""
    agreed = agreement_text("it", people)
    if people.interval is None:
        return agreed
    match people.trust:
        case "trusted":
            return f"trusted: {agreed}"
        case "distrusted":
            return f"don't trust it: {agreed}"
        case _:
            return f"not known yet whether to trust it: {agreed}"


def untrusted_notes(judge: CheckedJudge | None) -> list[Note]:
    """Says on whose verdicts the scores of a card rest while people have not found that judge to be right."""
    if judge is None or judge.is_trusted:
        return []
    return [Note(f"{untrusted_text(judge)}.")]


def notes_on_evidence(evidence: Evidence) -> list[Note]:
    """Names the judge whose scores a decision rests on while people have not checked it enough, and a tuned model that
    another judge scored."""
    if evidence.judge is None or not evidence.is_judged:
        return []
    notes = []
    # A distrusted judge is a reason of the verdict, which names it already.
    if not evidence.is_judge_distrusted:
        notes += untrusted_notes(CheckedJudge(evidence.judge, evidence.judge_checks))
    if evidence.other_judge:
        notes.append(Note(_other_judge_text(evidence.other_judge, evidence.judge)))
    return notes


def _other_judge_text(other: OtherJudge, judge: str) -> str:
    """Says that a tuned model has no score that counts since the team changed the judge, and what gives it one."""
    return (
        f"{code(shorten(other.model, 60))} is not counted: {escape(shorten(other.judge))} judged it, "
        f"{escape(shorten(judge))} the others, and verdicts of two judges don't compare. Measure it by the new judge: "
        "start its training again."
    )


def untrusted_text(judge: CheckedJudge) -> str:
    return f"The scores are verdicts of {escape(shorten(judge.name))}; {escape(trust_text(judge.checks))}"


def kappa_text(agreement: Agreement) -> str:
    """κ with its 95% interval: 'κ = 0.61 (0.32 to 0.90)'."""
    if agreement.kappa is None or agreement.low is None or agreement.high is None:
        return "κ = –"
    kappa = signed(agreement.kappa, ".2f")
    low = signed(agreement.low, ".2f")
    high = signed(agreement.high, ".2f")
    return f"κ = {kappa} ({low} to {high})"


def earlier_choices(people: HumanAgreement) -> list[str]:
    """What people chose in an older version, which asked them to compare two answers."""
    if not people.labels:
        return []
    return [
        f"In an earlier version people compared the best two, in {pluralize(people.labels, 'choice')}: "
        f"{people.first:,} for the better one, {people.second:,} for the other, {people.same:,} for neither."
    ]


def max_judge_questions(plan: ComparisonPlan) -> int:
    """The most questions that the judge may get: each answer once, and the best two side by side in both orders."""
    times_judged = len(plan.candidates)
    if len(plan.candidates) > 1:
        times_judged += 2
    return plan.n_holdout * times_judged


def _compared(pair: JudgedPair) -> str:
    first = table_name(pair.first, 40)
    second = table_name(pair.second, 40)
    first_rows = pluralize(pair.count("first"), "row")
    text = (
        f"Side by side, the judge prefers {first} on {first_rows} and {second} on {pair.count('second'):,}; on "
        f"{pair.count('tie'):,} it finds both equal."
    )
    unsure = pair.count(None)
    if unsure:
        rows = pluralize(unsure, "row")
        text += f" On {rows} its verdict changed with the order, which counts for neither."
    return text


def question_card(key: str, question: str, first: str, second: str, *, done: int, wanted: int) -> Message:
    """Asks which answer is better. `key` identifies the pair and comes back with the button."""
    parts = Parts()
    parts.add(*_pair(question, first, second))
    parts.buttons(button("First", FIRST, key), button("Second", SECOND, key), button("Same", SAME, key))
    pairs = pluralize(wanted, "pair")
    parts.note(f"{done:,} of {pairs} judged. Your choices show which answers people prefer.")
    return parts.titled("Which answer is better?")


def choice_card(question: str, first: str, second: str, choice: Choice, person: str) -> Message:
    """The same card with the choice in place of the buttons."""
    text = f"<@{person}> {CHOSEN[choice]}."
    return Message(text, (*_pair(question, first, second), Note(text)))


def agreement_card(number: int, agreement: HumanAgreement, first: Candidate, second: Candidate) -> Message:
    """Which answers people prefer, once they judged enough pairs. `first` is the candidate that was measured to be the
    better one."""
    name = escape(table_name(first, 40))
    other = escape(table_name(second, 40))
    choices = pluralize(agreement.labels, "choice")
    people = pluralize(agreement.people, "person", "people")
    sentences = [
        f"{choices} of {people}: {agreement.first:,} for {name}, {agreement.second:,} for {other}, "
        f"{agreement.same:,} for neither."
    ]
    between = agreement.between
    if between:
        agreed = f"{between.agreed:,} of {between.n:,}"
        kappa = escape(kappa_text(between))
        sentences.append(f"Pairs that two people judged: they agree on {agreed}, {kappa}.")
    parts = Parts()
    parts.bullets(sentences)
    parts.note(f"Measurement m{number}. κ is agreement beyond chance: 1 is perfect, 0 none.")
    return parts.titled("Which answers people prefer")


def _pair(question: str, first: str, second: str) -> tuple[CardBlock, ...]:
    return (
        Text(f"*The text*\n{quote(question, LONGEST)}"),
        Text(f"*First*\n{quote(first, LONGEST)}"),
        Text(f"*Second*\n{quote(second, LONGEST)}"),
    )
