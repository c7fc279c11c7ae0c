"""The card of a live test: what is tried beside what is in use, what the calls say so far, and what can be done."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cards.common.blocks import Block, Message, button, code, confirm, cut, escape
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import promotable_name, promotable_text
from bot.cards.common.words import by_whom, capitalize, charge, day, mention, pluralize, usd_or_nothing
from bot.rules.models.promotion import alias_for
from bot.values.monitoring import LiveTestSummary, Pause
from storage.monitoring.live_tests import LiveTest, LiveTestEnd
from storage.records import Promotable
from trainers.monitoring.switch_tests import DECISIVE, MOST_PAIRS, MOST_WEEKS, Outcome

COMPARE = "compare_calls"
END = "end_live_test"
USE = "use_tried"
MOST_LABELS = 20  # named on the button
TITLES: dict[LiveTestEnd | None, str] = {
    None: "is tried on live calls",
    "better": "is right more often on live calls",
    "not_worse": "is not worse on live calls, and cheaper",
    "worse": "is worse on live calls",
    "cannot_tell": "was tried on live calls, and it can't be told",
    "stopped": "erred too often, so its canary was stopped",
    "ended": "is no longer tried on live calls",
    "outdated": "is no longer tried on live calls",
}
ANSWERS: dict[Outcome, str] = {
    "better": "Yes",
    "not_worse": "Yes",
    "worse": "No",
    "cannot_tell": "It can't be told",
    "open": "Not known yet",
}
PAUSES: dict[Pause, str] = {
    "no_sample": "No call is sampled now, so nothing is put to it.",
    "no_money": "What watching may cost this month is spent, so nothing is put to it until next month "
    "(`usd_per_month` of `[policy.watch]`, or the budget).",
    "no_recipe": "Its recipe is being built; calls are put to it once that is done.",
}


def live_test_card(summary: LiveTestSummary) -> Message:
    """Posted once, and edited while calls come in, people label them, and when the test ends."""
    test = summary.test
    parts = Parts()
    parts.text(_how(summary))
    if test.is_shadow:
        parts.text(_figures(summary))
        parts.text(_answer(summary))
    if summary.errors is not None:
        parts.text(
            f"*Errors and slow answers*: in {pluralize(summary.errors.candidate, 'conversation')} of the canary, in "
            f"{summary.errors.incumbent:,} of what is in use. Where the canary failed, what is in use has answered."
        )
    hindrance = _hindrance(summary)
    if hindrance:
        parts.note(hindrance)
    parts.note(_money(summary))
    parts.buttons(*_buttons(summary))
    return parts.titled(f"{test.dataset}: {promotable_name(test.what)} {TITLES[test.outcome]}")


def ended_text(summary: LiveTestSummary) -> str:
    """For the channel, since an edit of the card notifies nobody."""
    test = summary.test
    name = capitalize(promotable_text(test.what))
    match test.outcome:
        case "better":
            return f"{name} is right more often than what is in use for {code(test.dataset)}, on live calls."
        case "not_worse":
            return (
                f"{name} is cheaper than what is in use for {code(test.dataset)}, and on live calls not worse by more "
                f"than {_margin(test)}."
            )
        case "worse":
            return f"{name} is worse than what is in use for {code(test.dataset)}, on live calls. Nothing was switched."
        case "stopped":
            return (
                f"{name} erred or was too slow far more often than what is in use for {code(test.dataset)}, so its "
                "canary was stopped. What is in use answers everything again."
            )
        case "ended":
            return f"{name} is no longer tried on the calls to {code(test.dataset)}. {escape(test.trouble or '')}"
        case _:
            return (
                f"Whether {promotable_text(test.what)} should replace what is in use for {code(test.dataset)} can't be "
                f"told from {pluralize(summary.standing.calls, 'call')}."
            )


def week_text(summary: LiveTestSummary) -> str:
    """The line on the card of a week: what is tried, and what the calls say so far."""
    name = capitalize(promotable_text(summary.test.what))
    return f"*Tried*: {name}. {_figures(summary)}"


def begun_text(test: LiveTest) -> str:
    """For the person who began it in another channel than that of its card."""
    name = capitalize(promotable_text(test.what))
    return f"{name} is tried on the calls of {code(test.dataset)}; its card is in <#{test.channel}>."


def canary_name(what: Promotable) -> str:
    """As its calls are counted: 'encoder, as canary'. Unescaped."""
    return f"{promotable_name(what)}, as canary"


def judge_button(summary: LiveTestSummary) -> Block:
    """Opens the form with the first call that waits for people."""
    return button(f"Judge {min(summary.to_label, MOST_LABELS)}", COMPARE, str(summary.test.id))


def _how(summary: LiveTestSummary) -> str:
    test = summary.test
    used = promotable_text(summary.used)
    ways = []
    if test.is_shadow:
        ways.append("sampled calls are put to it too, which no program sees")
    if test.canary:
        ways.append(f"it answers {100 * test.canary:g}% of the conversations itself")
    text = f"{mention(test.person)} has it tried against {used}: {', and '.join(ways)}."
    if test.ended_at is not None:
        text = f"{mention(test.person)} had it tried against {used} until {day(test.ended_at)}."
        if test.outcome == "outdated":
            text += " Something else is in use by now."
        if test.ended_by:
            text += f" Ended by {by_whom(test.ended_by)}."
    return text


def _figures(summary: LiveTestSummary) -> str:
    """What the calls say, in numbers."""
    verdicts = summary.verdicts
    calls = verdicts.total()
    if not calls:
        return "No call was answered by both yet. Calls with personal data are left out."
    same = verdicts["same"]
    differ = calls - same
    text = f"*{pluralize(calls, 'call')} answered by both*: the same in {same:,}"
    if not differ:
        return f"{text}."
    judged = differ - verdicts["unlabelled"]
    if not judged:
        return f"{text}, another in {differ:,}, of which nobody has judged any yet."
    return (
        f"{text}, another in {differ:,}. People judged {judged:,} of those: it alone was right in "
        f"{verdicts['candidate']:,}, what is in use alone in {verdicts['incumbent']:,}, a tie in {verdicts['tie']:,}."
    )


def _answer(summary: LiveTestSummary) -> str:
    """The question, and how far the evidence is."""
    test = summary.test
    standing = summary.standing
    question = "Is it right more often?"
    if test.question == "not_worse":
        question = f"Is it worse by less than {_margin(test)}?"
    evidence = (
        f"evidence {standing.e_for:.1f} for it, {standing.e_against:.1f} against it; {DECISIVE:g} decides"
    )
    answer = ANSWERS[standing.outcome]
    text = f"{_prices(summary)}*{question}* {answer} ({evidence})."
    if standing.outcome != "open" or test.ended_at is not None:
        return text
    if standing.expected_calls is not None:
        return f"{text} If it goes on like this, about {pluralize(standing.expected_calls, 'more call')} will tell."
    return f"{text} It ends after {MOST_PAIRS} judged calls or {MOST_WEEKS} weeks at the latest."


def _hindrance(summary: LiveTestSummary) -> str:
    """Why it can't be tried now or any more, "" if it can."""
    test = summary.test
    if test.ended_at is not None:
        if test.trouble and test.ended_by is None:
            return f"Why it ended: {escape(cut(test.trouble, 300))}"
        return ""
    if test.trouble:
        return f"It can't be tried yet, so the bot keeps trying. Reason: {escape(cut(test.trouble, 300))}"
    if summary.pause is not None:
        return PAUSES[summary.pause]
    return ""


def _prices(summary: LiveTestSummary) -> str:
    """'It costs $0.02 instead of $0.12 per 1,000 calls. ', if that is known."""
    if summary.usd is None or summary.used_usd is None:
        return ""
    then = usd_or_nothing(summary.usd)
    now = usd_or_nothing(summary.used_usd)
    return f"It costs {then} instead of {now} per 1,000 calls. "


def _money(summary: LiveTestSummary) -> str:
    test = summary.test
    alias = code(alias_for(test.dataset))
    text = f"What it answers is counted among the calls to {alias}."
    if test.is_shadow and summary.micros is None:
        text = "What its answers to sampled calls cost is not known for all of them."
    elif test.is_shadow and summary.micros:
        text = f"Its answers to sampled calls have cost {charge(summary.micros)}."
    elif test.is_shadow:
        text = "Its answers to sampled calls have cost nothing."
    return f"{text} Programs call {alias} as before, and nothing is switched by itself."


def _buttons(summary: LiveTestSummary) -> Sequence[Block]:
    test = summary.test
    buttons = []
    if test.ended_at is None and summary.to_label:
        buttons.append(judge_button(summary))
    # A person has to click, as nothing is switched by itself.
    if test.outcome in ("better", "not_worse"):
        sure = confirm(
            "Use it?", "It replaces what is in use, which is kept for a rollback.", "Use it", "Not yet"
        )
        buttons.append(button("Use it", USE, str(test.id), style="primary", confirm=sure))
    if test.ended_at is None:
        buttons.append(button("End the test", END, str(test.id)))
    return buttons


def _margin(test: LiveTest) -> str:
    return f"{100 * test.margin:g} points"
