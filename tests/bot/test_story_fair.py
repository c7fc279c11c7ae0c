"""A tuned model is judged as the alternatives are, and promoted where it is cheaper and not worse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bot.cards import results
from bot.rules.plans import plan_from_json
from bot.values.runs import RunResult
from demo.people import ANA, BEN
from storage.records import Run
from tests.bot import test_story_judge as judging
from tests.bot.test_story_judge import JUDGE, asked_of_judge
from tests.bot.test_story_ladder import CHAT, PRICES, MakeWorld, until
from tests.bot.world import MODEL, TARGET, Rules, World
from trainers.evaluation.prompts import BETTER

START_FAQ = f"/finetune start faq target={TARGET}"
LIMITS = "[policy.promotion]\nmargin_points = 20\n"


def answered(model: str, messages: judging.Messages) -> str:
    """The tuned model knows every parcel, in words of its own."""
    if model.startswith("ft:"):
        number = int(messages[-1]["content"].rsplit(" ", 1)[1].rstrip("?"))
        return f"It goes out in {number % 7 + 1} days at the latest."
    return judging.answered(model, messages)


@pytest.fixture
def faq(make_world: MakeWorld) -> World:
    world = judging.with_faq(make_world)
    world.provider.service.answer = answered
    return world


def trained(world: World, line: str = START_FAQ, number: int = 1) -> Run:
    assert world.type(line) == ""
    world.send()
    world.approve()
    run = world.tick_until_state("done", number)
    world.send()
    return run


def asked_models(world: World) -> list[dict[str, Any]]:
    return [seen.body for seen in world.provider.requests if seen.route == CHAT]


def result_of(world: World, number: int = 1) -> RunResult:
    return RunResult.from_json(world.run(number).result)


def details(world: World) -> str:
    world.click(BEN, results.DETAILS)
    return world.read_form(BEN)


# Judged.


def test_a_tuned_model_is_judged_by_the_judge_of_the_newest_measurement(faq: World) -> None:
    judging.judged(faq)
    before = len(asked_of_judge(faq))
    run = trained(faq)
    result, rows = result_of(faq), judging.held(faq)
    ladder = result.ladder
    assert ladder and [rung.scoring for rung in ladder.rungs] == ["judge", "judge"]
    tuned = ladder.rung("tuned")[0]
    assert tuned.score == 1.0 == result.tuned.share and 0.1 < result.base.share < 0.6
    judge = result.judge
    assert judge and judge.failed is None and judge.pair and judge.pair.count(None) == 0
    assert judge.pair.count("first") == rows - round(result.base.share * rows)
    asked = asked_of_judge(faq)[before:]
    both_orders = [one for one in asked if one[0]["content"] == BETTER]
    assert len(both_orders) == 2 * rows
    assert len(asked) - len(both_orders) == rows, "the base's answers were judged by the measurement"
    card = faq.find_message("100.0% acceptable")
    assert f"judged by acme/{JUDGE}" in card
    shown = details(faq)
    assert f"Judged by acme/{JUDGE}, agreement with people not measured yet" in shown
    assert "Side by side, the judge prefers" in shown and "acceptable to the judge" in shown
    assert run.actual_micros == faq.ledger()["settle"]


def test_its_cost_is_in_the_plan_and_in_the_bill(faq: World) -> None:
    plain = f"{START_FAQ} judge=none"
    assert faq.type(plain) == ""
    faq.send()
    most = json.loads(faq.run(1).plan)["maximum_micros"]
    assert faq.type(f"{START_FAQ} judge=acme/{JUDGE}") == ""
    faq.send()
    plan = json.loads(faq.run(2).plan)
    assert plan["judge"] == f"acme/{JUDGE}" and plan["maximum_micros"] > most
    card = faq.find_message("Run 2: train", f"acme/{JUDGE} judges its free text")
    assert "Replaces" in card or "replaces" in card
    faq.approve()
    run = faq.tick_until_state("done", 2)
    tokens = faq.store.answers.totals_of(f"acme/{JUDGE}", since=0.0)
    judged = tokens.prompt_tokens * 1 + tokens.completion_tokens * 4
    assert 0 < judged < (run.actual_micros or 0) <= plan["maximum_micros"]


def test_without_a_judge_words_are_compared_and_the_card_says_so(faq: World) -> None:
    trained(faq)
    ladder = result_of(faq).ladder
    assert ladder and ladder.scoring == "f1" and asked_of_judge(faq) == []
    assert "F1" in faq.find_message("Result of run 1")


def test_a_judge_that_contradicts_itself_decides_nothing_side_by_side(faq: World) -> None:
    def always_a(model: str, messages: judging.Messages) -> str:
        is_pair = model == JUDGE and messages[0]["content"] == BETTER
        return "A" if is_pair else answered(model, messages)

    faq.provider.service.answer = always_a
    trained(faq, f"{START_FAQ} judge=acme/{JUDGE}")
    judge = result_of(faq).judge
    assert judge and judge.pair and judge.pair.count(None) > 0 == judge.pair.count("first")
    assert "its verdict changed with the order" in details(faq)


def test_a_judge_that_cannot_be_asked_is_said_and_words_are_compared(faq: World) -> None:
    def silent(model: str, messages: judging.Messages) -> str:
        return "Well, it depends." if model == JUDGE else answered(model, messages)

    faq.provider.service.answer = silent
    trained(faq, f"{START_FAQ} judge=acme/{JUDGE}")
    result = result_of(faq)
    assert result.ladder and result.ladder.scoring == "f1" and result.judge and result.judge.failed
    assert f"The verdicts of acme/{JUDGE} were not used" in faq.find_message("Result of run 1")


def test_a_restart_in_the_middle_asks_the_judge_nothing_twice(faq: World) -> None:
    faq.type(f"{START_FAQ} judge=acme/{JUDGE}")
    faq.send()
    faq.approve()
    faq.tick_until(lambda: len(asked_of_judge(faq)) > 5, "the judge at work")
    faq.restart()
    faq.tick_until_state("done")
    asked = [json.dumps(one) for one in asked_of_judge(faq)]
    assert len(asked) - len(set(asked)) <= 4, "at most what was under way"


def test_labels_need_no_judge(world: World) -> None:
    world.seed_dataset()
    said = world.type(f"/finetune start tickets target={TARGET} judge=acme/{MODEL}")
    assert "Labels need no judge" in (said or world.tick_until_answered())


def test_a_model_is_given_the_length_of_the_longest_answer_in_a_ladder_and_in_a_run(
    make_world: MakeWorld,
) -> None:
    """JSON of 400 tokens that is cut off after 256 is no JSON, however good the model is."""
    order = {"order": 7, "lines": [{"article": f"A-{number}", "pieces": number} for number in range(35)]}
    rows = [json.loads(row) for row in judging.faq().splitlines()]
    for number, row in enumerate(rows):
        row["messages"][-1]["content"] = json.dumps(order | {"order": number})

    def knows_orders(_model: str, messages: judging.Messages) -> str:
        return json.dumps(order | {"order": int(messages[-1]["content"].rsplit(" ", 1)[1].rstrip("?"))})

    world = make_world(Rules(more=PRICES))
    world.provider.service.answer = knows_orders
    world.upload("faq.jsonl", "\n".join(map(json.dumps, rows)), called="faq")
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    judging.judged(world, f"/finetune baseline faq models={TARGET} rungs=zero")
    measured = len(asked_models(world))
    trained(world)
    caps = {body["max_tokens"] for body in asked_models(world)}
    assert len(caps) == 1 and min(caps) > 420, caps
    assert len(asked_models(world)) == 2 * measured, "the base has answered in the ladder"
    assert world.run(1).actual_micros <= plan_from_json(world.run(1).plan).maximum_micros


# Cheaper and not worse.


def knows_examples(model: str, messages: list[dict[str, Any]]) -> str:
    """The prompt with examples is right, and so is the tuned model with a shorter prompt; the base alone is not."""
    is_right = model.startswith("ft:") or len(messages) > 3
    return messages[-1]["content"].split("about ")[1].split(",")[0] if is_right else "billing"


def measured_and_trained(make_world: MakeWorld, limits: str) -> World:
    world = make_world(Rules(more=PRICES + limits))
    world.provider.service.answer = knows_examples
    world.seed_dataset(rows=240)
    world.type(f"/finetune baseline tickets models={TARGET} rungs=zero,kshot")
    judging.until_asked(world)
    world.click(BEN, "measure")
    until(world, "done")
    world.start(f"/finetune start tickets target={TARGET} current=gpt-4o volume=100M")
    world.approve()
    world.tick_until_state("done")
    world.send()
    return world


def test_a_cheaper_model_that_is_not_worse_is_promoted_by_a_button(make_world: MakeWorld) -> None:
    world = measured_and_trained(make_world, LIMITS)
    result = result_of(world)
    assert result.not_worse and result.margin == 0.2
    assert result.not_worse.low > -0.2 and not result.not_worse.is_better and result.not_worse.is_cheaper
    card = world.find_message("Result of run 1", "cheaper and not worse than ten examples")
    assert "20 allowed" in card and "per 1,000 requests" in card
    world.click(BEN, "put_to_work")
    world.send()
    card = world.find_message("tickets-1 is in use for tickets", "cheaper and not worse")
    (entry,) = [one for one in world.store.audit.entries("run 1") if one.action == "promote"]
    assert "cheaper and not worse" in entry.detail and "margin 20 points" in entry.detail


def test_what_may_be_worse_by_more_than_the_margin_takes_a_reason(make_world: MakeWorld) -> None:
    world = measured_and_trained(make_world, "[policy.promotion]\nmargin_points = 1\n")
    assert result_of(world).not_worse is None and not world.has_button("put_to_work")
    said = world.type("/finetune promote tickets-1", user=BEN)
    assert "may be worse by more than the 1 point that is allowed" in said


def test_a_label_below_the_floor_takes_a_reason(make_world: MakeWorld) -> None:
    floor = LIMITS + "floor_percent = 90\nfloor_rows = 5\n"
    world = make_world(Rules(more=PRICES + floor))
    world.provider.service.answer = lambda model, messages: (
        "billing" if "about refund" in messages[-1]["content"] else knows_examples(model, messages)
    )
    world.seed_dataset(rows=240)
    world.start(f"/finetune start tickets target={TARGET}")
    world.approve()
    world.tick_until_state("done")
    said = world.type("/finetune promote tickets-1", user=BEN)
    assert "Labels clearly below the minimum of 90%" in said and "refund 0 of" in said
    world.type("/finetune promote tickets-1 because=refunds go to people anyway", user=BEN)
    world.send()
    (entry,) = [one for one in world.store.audit.entries("run 1") if one.action == "promote"]
    assert "floor 90%" in entry.detail


# Who sets the bar.


def test_a_bar_is_set_by_those_whom_the_policy_names_and_audited(make_world: MakeWorld) -> None:
    who = "".join(
        f'{rule} = ["anyone"]\n' for rule in ("read", "upload", "estimate", "measure", "start", "promote")
    )
    world = make_world(
        Rules(more=f'{PRICES}[policy.who]\n{who}bar = ["approvers"]\napprove = ["approvers"]\n')
    )
    world.seed_dataset()
    said = world.type("/finetune baseline tickets rungs=classical bar=60%", user=ANA)
    assert "Only" in said and measurement_count(world) == 0
    assert world.type("/finetune baseline tickets rungs=classical bar=60%", user=BEN) == ""
    until(world, "done")
    (entry,) = [one for one in world.store.audit.entries("dataset 1") if one.action == "bar"]
    assert (entry.who, entry.detail) == (BEN.id, "85% to 60%")
    world.type("/finetune baseline tickets rungs=classical bar=60%", user=ANA)
    assert len([one for one in world.store.audit.entries("dataset 1") if one.action == "bar"]) == 1


def measurement_count(world: World) -> int:
    return len(world.store.database.rows("SELECT id FROM measurements"))


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


def test_calls_are_asked_with_their_tools_and_scored_by_name_and_arguments(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    questions = [json.loads(line)["messages"][0]["content"] for line in judging.faq().splitlines()]

    def answer(model: str, messages: list[dict[str, Any]]) -> Any:
        number = int(messages[-1]["content"].rsplit(" ", 1)[1].rstrip("?"))
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
    world.type(f"/finetune baseline faq models={TARGET} rungs=zero")
    judging.until_asked(world)
    world.click(BEN, "measure")
    until(world, "done")
    asked = [one.body for one in world.provider.requests if one.route == CHAT]
    assert asked and all(body["tools"] == [TRACK] for body in asked)
    trained(world)
    ladder = result_of(world).ladder
    assert ladder and [rung.scoring for rung in ladder.rungs] == ["calls", "calls"]
    base, tuned = ladder.rungs
    assert tuned.score == 1.0 and 0.1 < base.score < 0.6
    assert "100.0% right calls" in world.find_message("Result of run 1")
