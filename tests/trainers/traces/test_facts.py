"""What recorded calls say about models, tokens, instructions and a month."""

from __future__ import annotations

import pytest

from tests.trainers.traces.exports import BEGIN, SYSTEM, call
from trainers.traces.facts import (
    DAY_S,
    Amount,
    Group,
    LeftOut,
    NoSuchGroup,
    choose_group,
    find_prompts,
    gather_facts,
    month_of,
)
from trainers.types import Message

OTHER = (Message("system", "Translate it."), Message("user", "Bonjour"))
PLAIN = (Message("user", "Hello"),)


def test_facts_of_each_model() -> None:
    calls = [
        call(prompt_tokens=100, completion_tokens=2, cached_tokens=None, seconds=0.1),
        call(prompt_tokens=200, completion_tokens=4, cached_tokens=50, seconds=0.2),
        call("Another", prompt_tokens=600, completion_tokens=None, seconds=0.9),
        call(model="small", is_error=True, prompt_tokens=None, seconds=9.0),
    ]
    facts = gather_facts(calls)
    assert (facts.calls, facts.errors, facts.questions, facts.repeated) == (4, 1, 4, 2)
    large, small = facts.models
    assert (large.model, large.calls, large.share, large.errors) == ("gpt-4o", 3, 0.75, 0)
    assert large.prompt == Amount(3, 300.0, 200.0)
    assert large.cached == Amount(2, 57.0, 57.0)
    assert large.completion == Amount(2, 3.0, 3.0)
    assert (large.seconds_p50, large.seconds_p95) == (0.2, 0.9)
    assert (small.errors, small.prompt, small.seconds_p50) == (1, None, None)
    assert facts.tokens_a_request == 300


def test_calls_without_tokens_or_times_say_so() -> None:
    facts = gather_facts([call(prompt_tokens=None, at=None, messages=())])
    assert facts.tokens_a_request is None
    assert (facts.first, facts.last, facts.month, facts.prompts) == (None, None, None, ())


def test_a_month_is_extrapolated_from_the_days() -> None:
    # 10 calls on each of 14 days, evenly.
    even = month_of([BEGIN + number * DAY_S / 10 for number in range(141)])
    assert even is not None
    assert (even.days, even.is_uncertain) == (14.0, False)
    assert even.calls == pytest.approx(306, abs=1)
    assert even.low <= even.calls <= even.high
    assert even.high - even.low < 10

    # 20 on each of five days, then none on two: the days differ.
    week = [BEGIN + day * DAY_S + number * 60 for day in (0, 1, 2, 3, 4) for number in range(20)]
    uneven = month_of([*week, *[time + 7 * DAY_S for time in week], BEGIN + 14 * DAY_S])
    assert uneven is not None and not uneven.is_uncertain
    assert uneven.low < 340 < uneven.calls < 530 < uneven.high


def test_a_few_days_are_uncertain_and_less_than_one_says_nothing() -> None:
    few = month_of([BEGIN, BEGIN + 60, BEGIN + 1.5 * DAY_S, BEGIN + 2 * DAY_S])
    assert few is not None and few.is_uncertain
    assert (few.low, few.calls, few.high) == (30, 61, 61)
    assert month_of([BEGIN, BEGIN + 0.9 * DAY_S]) is None
    assert month_of([]) is None


def test_prompts_are_numbered_by_frequency() -> None:
    plain = [call(messages=PLAIN)] * 2
    prompts = find_prompts([call(), call("b"), call("c"), call(messages=OTHER), *plain, call(messages=())])
    assert [(each.number, each.text, each.calls) for each in prompts] == [
        (1, SYSTEM, 3),
        (2, "", 2),
        (3, "Translate it.", 1),
    ]
    assert prompts[0].share == 0.5


def test_the_largest_group_is_chosen_and_the_others_are_counted() -> None:
    calls = [
        *[call(f"question {number}") for number in range(5)],
        *[call(messages=OTHER) for _ in range(3)],
        *[call(model="small", messages=OTHER) for _ in range(2)],
        call(messages=()),
    ]
    group = choose_group(calls)
    assert isinstance(group, Group)
    assert (group.model, group.prompt, len(group.calls)) == ("gpt-4o", 1, 5)
    assert group.left_out == (LeftOut("gpt-4o", 2, 3), LeftOut("small", 2, 2), LeftOut("gpt-4o", 0, 1))

    small = choose_group(calls, model="small")
    assert isinstance(small, Group)
    assert (small.model, small.prompt, len(small.calls)) == ("small", 2, 2)
    translated = choose_group(calls, prompt=2)
    assert isinstance(translated, Group)
    assert (translated.model, len(translated.calls)) == ("gpt-4o", 3)
    everything = choose_group(calls, all_prompts=True)
    assert isinstance(everything, Group)
    assert (everything.prompt, len(everything.calls)) == (None, 9)
    assert choose_group(calls, model="huge") == NoSuchGroup("huge", None)
    assert choose_group(calls, model="small", prompt=1) == NoSuchGroup("small", 1)


def test_instructions_that_differ_in_most_calls_are_one_group() -> None:
    calls = [
        call(messages=(Message("system", f"It is {hour}:00."), Message("user", "Hello"))) for hour in range(9)
    ]
    group = choose_group([*calls, call(messages=PLAIN)])
    assert isinstance(group, Group)
    assert (group.prompt, len(group.calls), group.left_out) == (None, 10, ())
