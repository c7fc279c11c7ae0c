"""How people check a judge: the button that asks them to, the question whether an answer is acceptable, and what their
verdicts say about the judge. The question contains customers' words, so it is for private channels only."""

from __future__ import annotations

from typing import Literal

from bot.cards.common.blocks import Block, CardBlock, Message, Note, Text, button, escape, quote
from bot.cards.common.builder import Parts
from bot.cards.common.judge_agreement import JUDGE_SOME, LONGEST, kappa_text
from bot.cards.common.words import interval as interval_text
from bot.cards.common.words import pluralize
from bot.cards.datasets.datasets import MEASURE
from bot.rules.judge_agreement import (
    MIN_CHECKED,
    TRUSTED_FROM,
    CheckedJudge,
    JudgeChecks,
    JudgeStep,
)

CHECK_JUDGE_WORDS = "Check the judge"
REPLACE_JUDGE_WORDS = "Choose another judge"
ACCEPT = "accept_answer"
REJECT = "reject_answer"
UNSURE = "unsure_about_answer"
Verdict = Literal["yes", "no", "unsure"]
VERDICTS: dict[str, Verdict] = {ACCEPT: "yes", REJECT: "no", UNSURE: "unsure"}
JUDGED: dict[Verdict, str] = {
    "yes": "finds this acceptable",
    "no": "finds this not acceptable",
    "unsure": "can't tell",
}
MIN_MORE_CHECKED = 10  # answers are shown in tens
HOW_TRUSTED = f"Trusted from {MIN_CHECKED} answers on, if the 95% interval is above {TRUSTED_FROM:.0%}."
UNCHECKABLE = (
    "Nobody can check the judge here: that takes a private channel that the dataset belongs to, and answers of the "
    "last 30 days."
)


def judge_step_text(judge: CheckedJudge, step: JudgeStep) -> str:
    """The next step of a card whose scores come from a judge that isn't trusted yet."""
    if step == "check":
        count = max(MIN_CHECKED - judge.checks.answers, MIN_MORE_CHECKED)
        answers = f"{count} of these answers"
        if judge.checks.answers:
            answers = f"{count} more of these answers"
        return (
            f"Check the judge: say of {answers} whether they are acceptable. Until people agree with it, its scores "
            "may mean little."
        )
    if judge.checks.trust == "distrusted":
        return "Measure again with another judge: people disagree with this one, so its scores say little."
    return (
        f"Measure again with another judge: after {judge.checks.answers:,} answers it is still too close to tell "
        "whether people agree with this one."
    )


def uncheckable_notes(judge: CheckedJudge | None) -> list[str]:
    """Says why nobody can check a judge that nobody has checked."""
    if judge is None or judge.checks.trust != "unchecked" or judge.next_step is not None:
        return []
    return [UNCHECKABLE]


def judge_button(judge: CheckedJudge, step: JudgeStep, dataset: str) -> Block:
    """Opens the check of the judge, or the form in which to choose another one."""
    if step == "check":
        return button(CHECK_JUDGE_WORDS, JUDGE_SOME, str(judge.measurement))
    return button(REPLACE_JUDGE_WORDS, MEASURE, dataset)


def answer_card(value: str, question: str, expected: str, answer: str, *, done: int, wanted: int) -> Message:
    """Asks whether an answer is acceptable, as the judge was asked. `value` comes back with the button."""
    parts = Parts()
    parts.add(*_answer(question, expected, answer))
    parts.buttons(
        button("Acceptable", ACCEPT, value),
        button("Not acceptable", REJECT, value),
        button("Can't tell", UNSURE, value),
    )
    answers = pluralize(wanted, "answer")
    parts.note(f"{done:,} of {answers} judged. You don't see what the judge said: it is being checked.")
    return parts.titled("Is this answer acceptable?")


def verdict_card(question: str, expected: str, answer: str, verdict: Verdict, person: str) -> Message:
    """The same card with the verdict in place of the buttons."""
    text = f"<@{person}> {JUDGED[verdict]}."
    return Message(text, (*_answer(question, expected, answer), Note(text)))


def checks_card(number: int, judge: str, checks: JudgeChecks) -> Message:
    """How far the judge can be trusted, once people have judged enough answers."""
    interval = checks.interval
    if interval is None:
        raise ValueError("the card of a judge that nobody has checked")
    titles = {"trusted": "You can trust this judge", "distrusted": "Don't trust this judge"}
    title = titles.get(checks.trust, "Not known yet whether to trust this judge")
    who = pluralize(checks.people, "person", "people")
    answers = pluralize(checks.answers, "answer")
    between_ends = interval_text(interval.low, interval.high)
    sentences = [
        f"{escape(judge)} and {who} agree on {checks.agreed:,} of {answers}: {between_ends}.",
        f"Of {checks.accepted:,} that it accepted, people accept {checks.accepted_right:,}; of {checks.rejected:,} "
        f"that it rejected, people reject {checks.rejected_right:,}.",
        *_missing(checks),
    ]
    between = checks.between
    if between:
        kappa = escape(kappa_text(between))
        sentences.append(
            f"Answers that two people judged: they agree on {between.agreed:,} of {between.n:,}, {kappa}."
        )
    parts = Parts()
    parts.bullets(sentences)
    parts.note(f"m{number} and other measurements of this dataset. {HOW_TRUSTED}")
    return parts.titled(title)


def _missing(checks: JudgeChecks) -> list[str]:
    """What it takes to know whether the judge can be trusted."""
    if checks.trust == "distrusted":
        return ["Its scores say little: measure again with another judge."]
    match checks.lack:
        case None:
            return []
        case "answers":
            return [f"Judge {MIN_CHECKED - checks.answers:,} more: that takes about ten minutes."]
        case "answers of a side":
            few = "accepted" if checks.accepted < checks.rejected else "rejected"
            return [f"It has {few} too few answers to know whether people agree with it there."]
        case "a few more":
            return ["It is close: judge ten more."]
        case "another judge":
            return ["It is too close to tell. Another judge may agree with people more."]


def _answer(question: str, expected: str, answer: str) -> tuple[CardBlock, ...]:
    return (
        Text(f"*The text*\n{quote(question, LONGEST)}"),
        Text(f"*The right answer in your data*\n{quote(expected, LONGEST)}"),
        Text(f"*The answer to judge*\n{quote(answer, LONGEST)}"),
    )
