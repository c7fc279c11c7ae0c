"""A tuned model is judged as the alternatives are, and promoted if it is cheaper and not worse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bot.cards.training import results
from bot.reconciler import apply_retention
from bot.rules.plans import plan_from_json
from bot.values.runs import RunResult
from demo.people import ANA, BEN
from storage.records import AuditEntry, Run
from tests.bot.faq import (
    JUDGE,
    Messages,
    answer_faq,
    faq,
    number_of,
    questions_to_judge,
    seed_judged,
    with_faq,
)
from tests.bot.measurements import BASELINE, CHAT, PRICES, measure, until
from tests.bot.models.test_story_promote import promote
from tests.bot.saved_worlds import reached_once
from tests.bot.world import MODEL, TARGET, MakeWorld, Rules, World, words_of
from trainers.evaluation.prompts import BETTER

START_FAQ = f"/finetune start faq target={TARGET}"
JUDGED = f"{START_FAQ} judge=acme/{JUDGE}"
LIMITS = "[policy.promotion]\nmargin_points = 20\n"


def answer_better(model: str, messages: Messages) -> str:
    """The tuned model knows every parcel, in words of its own."""
    if model.startswith("ft:"):
        return f"It goes out in {number_of(messages) % 7 + 1} days at the latest."
    return answer_faq(model, messages)


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """The FAQ, and a company whose tuned model answers all of it."""
    world = with_faq(make_world)
    world.provider.service.answer = answer_better
    return world


def train(world: World, line: str = START_FAQ, number: int = 1) -> Run:
    assert world.type(line) == ""
    world.send()
    world.approve()
    run = world.tick_until_state("done", number)
    world.send()
    return run


def chats(world: World) -> list[dict[str, Any]]:
    return [request.body for request in world.provider.requests if request.route == CHAT]


def result_of(world: World, number: int = 1) -> RunResult:
    return RunResult.from_json(world.run(number).result)


def read_details(world: World) -> str:
    world.click(BEN, results.DETAILS)
    return world.read_form(BEN)


# Judged.


@pytest.mark.deep
def test_the_judge_of_the_newest_measurement_judges_the_tuned_model(world: World) -> None:
    seed_judged(world)
    before = len(questions_to_judge(world))
    run = train(world)
    result = result_of(world)
    comparison, rows = result.comparison, result.tuned.n
    assert comparison and [candidate.scoring for candidate in comparison.candidates] == ["judge", "judge"]
    assert comparison.of_kind("tuned")[0].score == 1.0 == result.tuned.share and 0.1 < result.base.share < 0.6
    judge = result.judge
    assert judge and judge.failed is None and judge.pair and judge.pair.count(None) == 0
    assert judge.pair.count("first") == rows - round(result.base.share * rows)
    questions = questions_to_judge(world)[before:]
    pairs = [question for question in questions if question[0]["content"] == BETTER]
    assert len(pairs) == 2 * rows
    assert len(questions) - len(pairs) == rows, "the base's answers were judged by the measurement"
    card = world.find_message("100.0% acceptable")
    assert f"judged by acme/{JUDGE}" in card
    shown = read_details(world)
    assert f"Judged by acme/{JUDGE}; nobody has checked it yet" in shown
    assert "Side by side, the judge prefers" in shown and "acceptable to the judge" in shown
    assert run.actual_micros == world.ledger()["settle"]
    questions_folder = world.service.settings.data / "plots" / "run-1" / "judge"
    assert any(questions_folder.iterdir()), "held-out rows, with the answers to them"
    apply_retention(world.service.context)
    world.slack.close_modal(BEN.id)
    assert not questions_folder.exists() and "acceptable to the judge" in read_details(world)
    world.slack.close_modal(BEN.id)

    # The team measures again with another judge.
    replaced = "UPDATE measurements SET plan = replace(plan, ?, 'acme/sage-2')"
    world.store.database.change(replaced, (f"acme/{JUDGE}",))
    before = len(world.slack.ephemerals(ANA.id))
    world.type(f"/finetune estimate faq current=gpt-4o volume=10B target={TARGET}")
    world.wait_for_answer(ANA, before)
    estimate = words_of(world.slack.ephemerals(ANA.id)[-1])
    assert f"is not counted: acme/{JUDGE} judged it, acme/sage-2 the others" in estimate
    refusal = world.type("/finetune promote faq-1", user=BEN)
    assert f"not compared with the alternatives: acme/{JUDGE} judged it, acme/sage-2 the others" in refusal
    promote(world, "faq-1", "because=the new judge is being tried out")
    world.send()
    assert "verdicts of two judges don't compare" in world.find_message("faq-1 is in use for faq")


@pytest.mark.deep
def test_the_judges_cost_is_in_the_plan_and_in_the_bill(world: World) -> None:
    plain = f"{START_FAQ} judge=none"
    assert world.type(plain) == ""
    world.send()
    most = json.loads(world.run(1).plan)["maximum_micros"]
    assert world.type(JUDGED) == ""
    world.send()
    plan = json.loads(world.run(2).plan)
    assert plan["judge"] == f"acme/{JUDGE}" and plan["maximum_micros"] > most
    card = world.find_message("Run 2: train", f"acme/{JUDGE} judges its free text")
    assert "Replaces" in card or "replaces" in card
    world.approve()
    run = world.tick_until_state("done", 2)
    tokens = world.store.answers.totals_of(f"acme/{JUDGE}", since=0.0)
    judged = tokens.prompt_tokens * 1 + tokens.completion_tokens * 4
    assert 0 < judged < (run.actual_micros or 0) <= plan["maximum_micros"]


def test_without_a_judge_the_score_is_f1(world: World) -> None:
    train(world)
    comparison = result_of(world).comparison
    assert comparison and comparison.scoring == "f1" and questions_to_judge(world) == []
    assert "F1" in world.find_message("Result of run 1")


def test_a_judge_that_contradicts_itself_decides_no_pair(world: World) -> None:
    def always_a(model: str, messages: Messages) -> str:
        is_pair = model == JUDGE and messages[0]["content"] == BETTER
        return "A" if is_pair else answer_better(model, messages)

    world.provider.service.answer = always_a
    train(world, JUDGED)
    judge = result_of(world).judge
    assert judge and judge.pair and judge.pair.count(None) > 0 == judge.pair.count("first")
    assert "its verdict changed with the order" in read_details(world)


def test_f1_is_the_score_if_the_judge_gives_no_verdicts(world: World) -> None:
    def silent(model: str, messages: Messages) -> str:
        return "Well, it depends." if model == JUDGE else answer_better(model, messages)

    world.provider.service.answer = silent
    train(world, JUDGED)
    result = result_of(world)
    assert result.comparison and result.comparison.scoring == "f1" and result.judge and result.judge.failed
    assert f"The verdicts of acme/{JUDGE} were not used" in world.find_message("Result of run 1")


@pytest.mark.deep
def test_a_restart_while_judging_asks_no_question_twice(world: World) -> None:
    world.type(JUDGED)
    world.send()
    world.approve()
    world.tick_until(lambda: len(questions_to_judge(world)) > 5, "the judge at work")
    world.restart()
    world.tick_until_state("done")
    questions = [json.dumps(question) for question in questions_to_judge(world)]
    assert len(questions) - len(set(questions)) <= 4, "at most those in flight are asked again"


def test_labels_need_no_judge(world: World) -> None:
    world.seed_dataset()
    reply = world.type(f"/finetune start tickets target={TARGET} judge=acme/{MODEL}")
    assert "Labels need no judge" in reply


@pytest.mark.deep
def test_comparisons_and_runs_allow_answers_as_long_as_the_longest_one(
    make_world: MakeWorld,
) -> None:
    """JSON of 400 tokens that is cut off after 256 is no JSON, however good the model is."""
    order = {"order": 7, "lines": [{"article": f"A-{number}", "pieces": number} for number in range(35)]}
    rows = [json.loads(row) for row in faq().splitlines()]
    for number, row in enumerate(rows):
        row["messages"][-1]["content"] = json.dumps(order | {"order": number})

    def knows_orders(_model: str, messages: Messages) -> str:
        return json.dumps(order | {"order": number_of(messages)})

    world = make_world(Rules(more=PRICES))
    world.provider.service.answer = knows_orders
    world.upload("faq.jsonl", "\n".join(map(json.dumps, rows)), called="faq")
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    measure(world, f"/finetune baseline faq models={TARGET} candidates=zero")
    measured = len(chats(world))
    train(world)
    caps = {body["max_tokens"] for body in chats(world)}
    assert len(caps) == 1 and min(caps) > 420, caps
    assert len(chats(world)) == 2 * measured, "the base has answered in the measurement"
    assert (world.run(1).actual_micros or 0) <= plan_from_json(world.run(1).plan).maximum_micros


# Cheaper and not worse.


def knows_examples(model: str, messages: list[dict[str, Any]]) -> str:
    """The prompt with examples is right, and so is the tuned model with a shorter prompt; the base alone is not."""
    is_right = model.startswith("ft:") or len(messages) > 3
    return messages[-1]["content"].split("about ")[1].split(",")[0] if is_right else "billing"


@reached_once
def measure_examples(world: World) -> None:
    world.seed_dataset(rows=150)
    measure(world, f"{BASELINE} candidates=kshot")


def promotions_of(world: World) -> list[AuditEntry]:
    return [entry for entry in world.store.audit.entries("run 1") if entry.action == "promote"]


def measure_and_train(make_world: MakeWorld, limits: str) -> World:
    """The prompt with ten examples was measured before these limits held, and the tuned model under them."""
    world = make_world(Rules(more=PRICES))
    world.provider.service.answer = knows_examples
    measure_examples(world)
    world.rules.more += limits
    world.restart()
    world.start(f"/finetune start tickets target={TARGET} current=gpt-4o volume=100M")
    world.approve()
    world.tick_until_state("done")
    return world


@pytest.mark.deep
def test_a_cheaper_model_that_is_not_worse_is_promoted(make_world: MakeWorld) -> None:
    world = measure_and_train(make_world, LIMITS)
    result = result_of(world)
    assert result.not_worse and result.margin == 0.2
    assert result.not_worse.low > -0.2 and not result.not_worse.is_better and result.not_worse.is_cheaper
    card = world.find_message("Result of run 1", "cheaper and not worse than ten examples")
    assert "20 allowed" in card and "per 1,000 requests" in card
    world.click(BEN, "put_to_work")
    world.send()
    card = world.find_message("tickets-1 is in use for tickets", "cheaper and not worse")
    (entry,) = promotions_of(world)
    assert "cheaper and not worse" in entry.detail and "margin 20 points" in entry.detail


@pytest.mark.deep
def test_a_model_that_may_be_worse_than_the_margin_needs_a_reason(make_world: MakeWorld) -> None:
    world = measure_and_train(make_world, "[policy.promotion]\nmargin_points = 1\n")
    assert result_of(world).not_worse is None and not world.has_button("put_to_work")
    refusal = world.type("/finetune promote tickets-1", user=BEN)
    assert "can't show that it is at most 1 point worse" in refusal


def test_a_label_below_the_minimum_needs_a_reason(make_world: MakeWorld) -> None:
    floor = LIMITS + "floor_percent = 90\nfloor_rows = 5\n"
    world = make_world(Rules(more=PRICES + floor))
    world.provider.service.answer = lambda model, messages: (
        "billing" if "about refund" in messages[-1]["content"] else knows_examples(model, messages)
    )
    world.seed_dataset(rows=120)
    world.start(f"/finetune start tickets target={TARGET}")
    world.approve()
    world.tick_until_state("done")
    refusal = world.type("/finetune promote tickets-1", user=BEN)
    assert "Labels clearly below the minimum of 90%" in refusal and "refund 0 of" in refusal
    promote(world, why="because=refunds go to people anyway")
    world.send()
    (entry,) = promotions_of(world)
    assert "floor 90%" in entry.detail


# Who sets the bar.


def test_the_policy_says_who_sets_the_bar_and_a_change_is_audited(make_world: MakeWorld) -> None:
    who = "".join(
        f'{rule} = ["anyone"]\n' for rule in ("read", "upload", "estimate", "measure", "start", "promote")
    )
    world = make_world(
        Rules(more=f'{PRICES}[policy.who]\n{who}bar = ["approvers"]\napprove = ["approvers"]\n')
    )
    world.seed_dataset()
    baseline = "/finetune baseline tickets candidates=classical bar=60%"
    assert "Only" in world.type(baseline, user=ANA) and not world.store.measurements.newest()
    assert world.type(baseline, user=BEN) == ""
    until(world, "done")
    world.type(baseline, user=ANA)
    (entry,) = [entry for entry in world.store.audit.entries("dataset 1") if entry.action == "bar"]
    assert (entry.who, entry.detail) == (BEN.id, "85% to 60%"), "a bar that stays is no change"


# Calls of functions.


def called(number: int) -> list[dict[str, Any]]:
    function = {"name": "track", "arguments": json.dumps({"parcel": number})}
    return [{"id": f"call-{number}", "type": "function", "function": function}]


TRACK = {
    "type": "function",
    "function": {
        "name": "track",
        "parameters": {"type": "object", "properties": {"parcel": {"type": "integer"}}},
    },
}


@pytest.mark.deep
def test_tool_calls_are_scored_by_name_and_arguments(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    questions = [json.loads(line)["messages"][0]["content"] for line in faq().splitlines()]

    def answer(model: str, messages: list[dict[str, Any]]) -> Any:
        number = number_of(messages)
        return called(number) if model.startswith("ft:") or number % 3 == 0 else "Which parcel?"

    rows = [
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": None, "tool_calls": called(number)},
            ],
            "tools": [TRACK],
        }
        for number, question in enumerate(questions)
    ]
    world.provider.service.answer = answer
    world.upload("faq.jsonl", "\n".join(map(json.dumps, rows)), called="faq")
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    measure(world, f"/finetune baseline faq models={TARGET} candidates=zero")
    assert chats(world) and all(body["tools"] == [TRACK] for body in chats(world))
    train(world)
    comparison = result_of(world).comparison
    assert comparison and [candidate.scoring for candidate in comparison.candidates] == ["calls", "calls"]
    base, tuned = comparison.candidates
    assert tuned.score == 1.0 and 0.1 < base.score < 0.6
    assert "100.0% right calls" in world.find_message("Result of run 1")

    # Version 0.1.0 scored calls as texts.
    as_texts = 'UPDATE measurements SET result = replace(result, \'"scoring": "calls"\', \'"scoring": "f1"\')'
    world.store.database.change(as_texts)
    older = world.type("/finetune results m1")
    assert (
        "are compared by name and arguments since: measure again" in older and "F1 only counts" not in older
    )


def test_calls_among_texts_are_named_as_what_they_are(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    questions = [json.loads(line)["messages"][0]["content"] for line in faq().splitlines()]

    def reply(number: int) -> dict[str, Any]:
        if number % 3:
            return {"role": "assistant", "content": None, "tool_calls": called(number)}
        return {
            "role": "assistant",
            "content": f"Parcel {number} arrives on a working day, in the afternoon.",
        }

    rows = [
        {"messages": [{"role": "user", "content": question}, reply(number)], "tools": [TRACK]}
        for number, question in enumerate(questions)
    ]
    world.provider.service.answer = lambda model, messages: called(number_of(messages))
    world.upload("faq.jsonl", "\n".join(map(json.dumps, rows)), called="faq")
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    calling = sum(1 for number in range(len(rows)) if number % 3)
    assert f"{len(rows)} rows, of which {calling} call 1 function" in world.find_message("faq is readable")
    measure(world, f"/finetune baseline faq models={TARGET} candidates=zero")
    card = world.find_message("Measurement m1")
    assert (
        "Calls and words" in card and "expected answers are function calls, right only with the same" in card
    ), card
    assert "F1 only counts" not in card
