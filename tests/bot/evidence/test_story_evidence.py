"""What was measured stays known: teams press the first button of each card until a verdict comes that asks for no
further measurement, and no card forgets what an earlier one has shown."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any

import pytest

from bot.cards.common.candidates import table_name
from bot.cards.decisions import estimates
from bot.cards.evidence import evaluation_results, evaluations
from bot.services.datasets import datasets
from bot.services.datasets.datasets import CheckedDataset
from bot.services.evidence.evidence import load_evidence
from bot.values.evaluations import ComparisonPlan
from demo.people import ANA, BEN
from demo.workspace import PostedMessage
from storage.records import Measurement
from tests.bot.faq import JUDGE, answer_faq, faq
from tests.bot.faq import PRICES as FAQ_PRICES
from tests.bot.measurements import comparison_of, measure, until
from tests.bot.world import MODEL, PRIVATE, TARGET, MakeWorld, Rules, World, words_of
from trainers.evaluation.results import Candidate, MeasuredCandidate

BIG = "acme-big"
PRICES = (
    '[prices."acme/acme-small"]\ninput = "0.10"\noutput = "0.40"\n'
    f'[prices."acme/{BIG}"]\ninput = "2.50"\noutput = "10.00"\n'
)
ROWS = 240
COLOURS = ("amber", "blue", "coral")
TOWNS = ("Bath", "Derby", "York")
QUESTION = {"volume": "10B tokens", "target": TARGET, "hours": "8"}
MOST_PRESSES = 12


def some_words(seed: int) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices(ascii_lowercase, k=3)) for _ in range(600)]


def riddles() -> str:
    """Texts whose label follows from a number that no classifier over words can compute with."""
    words = some_words(11)
    chance = random.Random(11)
    rows = [f"{' '.join(chance.sample(words, 3))} {number},{colour_of(number)}" for number in range(ROWS)]
    return "text,label\n" + "\n".join(rows)


def colour_of(number: int) -> str:
    return COLOURS[number * number % 7 % 3]


def answer_riddle(model: str, messages: list[dict[str, Any]]) -> str:
    """The large model is right in 19 of 20 cases by the prompt alone, the small one in 3 of 5, whatever it is shown."""
    number = int(messages[-1]["content"].rsplit(" ", 1)[1])
    is_right = number % 20 != 0 if model == BIG else number % 5 < 3
    return colour_of(number) if is_right else colour_of(number + 1)


def orders() -> str:
    """Mails with the right JSON: a town that repeats, and a number that is computed, so that it can't be copied."""
    words = some_words(5)
    chance = random.Random(5)
    rows = []
    for number in range(220):
        mail = f"{' '.join(chance.sample(words, 3))} for {TOWNS[number % 3]} number {number}"
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": mail},
                    {"role": "assistant", "content": extract(number)},
                ]
            }
        )
    return "\n".join(map(json.dumps, rows))


def extract(number: int, order: int | None = None) -> str:
    return json.dumps({"town": TOWNS[number % 3], "order": 7 * number + 1 if order is None else order})


def answer_order(model: str, messages: list[dict[str, Any]]) -> str:
    """The large model reads both fields, the small one only the town."""
    number = int(messages[-1]["content"].rsplit(" ", 1)[1])
    return extract(number) if model == BIG else extract(number, 0)


@dataclass
class Team:
    """Ana, who presses the first button of each card. `asked` are the measurements' candidates in their order."""

    world: World
    dataset: str
    current: str
    task: str = "classification"
    asked: list[tuple[Candidate, ...]] = field(default_factory=list)

    def estimate(self) -> PostedMessage:
        """Asks for the estimate by its form, and returns its card."""
        before = len(self.estimates())
        self.world.slack.command(ANA.id, PRIVATE.id, "/finetune estimate")
        return self.submit(before)

    def submit(self, before: int) -> PostedMessage:
        answers = {"dataset": self.dataset, "current": self.current, **QUESTION}
        if self.task:
            answers["task"] = self.task
        assert self.world.slack.submit_modal(ANA.id, answers).accepted
        self.world.tick_until(lambda: len(self.estimates()) > before, "the estimate")
        return self.estimates()[-1]

    def estimates(self) -> list[PostedMessage]:
        cards = self.world.slack.ephemerals(ANA.id)
        return [card for card in cards if estimates.DETAILS in str(card.blocks)]

    def press_to_verdict(self) -> PostedMessage:
        """Presses first buttons, from estimate to measurement and back, and returns the first estimate whose first
        button measures nothing."""
        card = self.estimate()
        for _ in range(MOST_PRESSES):
            self.assert_names_nothing_measured_as_unmeasured(card)
            if first_button(card) != estimates.MEASURE:
                return card
            self.world.slack.click(ANA.id, PRIVATE.id, card.ts, estimates.MEASURE)
            number = self.measure_next()
            card = self.press_after(number)
        raise AssertionError(f"no verdict after {MOST_PRESSES} measurements: {self.asked}")

    def measure_next(self) -> int:
        """Agrees to the price of the open measurement if it has one, and takes it to its result."""
        (opened,) = self.world.store.measurements.open()
        number: int = opened.id

        def is_done_or_waits() -> Measurement | None:
            now = self.world.store.measurements.get(number)
            return now if now.state != "asked" or now.reserved_micros else None

        self.world.tick_until(is_done_or_waits, f"the price of m{number}", seconds=60)
        self.world.send()
        if self.world.store.measurements.get(number).state == "asked":
            self.world.click(BEN, evaluations.MEASURE)
        until(self.world, "done", number, seconds=120)
        plan = ComparisonPlan.from_json(self.world.store.measurements.get(number).plan)
        assert plan.candidates not in self.asked, "the same was measured before"
        self.asked.append(plan.candidates)
        return number

    def press_after(self, number: int) -> PostedMessage:
        """Checks that the measurement's card knows all earlier ones, and presses its *Estimate*."""
        self.world.click(ANA, evaluation_results.DETAILS)
        details = self.world.read_form(ANA)
        self.world.slack.close_modal(ANA.id)
        assert details.startswith(f"Measurement m{number}\n")
        for candidate in self.measured:
            assert table_name(candidate) in details
        before = len(self.estimates())
        self.world.click(ANA, evaluation_results.ESTIMATE)
        form = self.world.slack.view(ANA.id)
        assert form is not None
        assert self.current in json.dumps(form.blocks), "the form is filled in as it was before"
        return self.submit(before)

    @property
    def measured(self) -> set[Candidate]:
        comparisons = [
            comparison_of(self.world, each.id)
            for each in self.world.store.measurements.newest()
            if each.result
        ]
        return {candidate.identity for comparison in comparisons for candidate in comparison.candidates}

    def known(self) -> tuple[MeasuredCandidate, ...]:
        """What an estimate knows now."""
        checked = datasets.load_usable(self.world.service.context, self.dataset, ANA.id, PRIVATE.id)
        assert isinstance(checked, CheckedDataset)
        return load_evidence(self.world.service.context, checked.dataset, checked.report, None).candidates

    def assert_names_nothing_measured_as_unmeasured(self, card: PostedMessage) -> None:
        kinds = {candidate.kind for candidate in self.measured}
        assert {candidate.identity for candidate in self.known()} == self.measured
        names = {
            "zero": "prompt alone",
            "kshot": "ten examples",
            "retrieval": "retrieval",
            "encoder": "encoder",
        }
        text = words_of(card)
        if "Not measured yet" not in text:
            return
        unmeasured = text.split("Not measured yet", 1)[1].split("\n", 1)[0]
        for kind in kinds & names.keys():
            assert names[kind] not in unmeasured


def first_button(card: PostedMessage) -> str:
    actions = next(block for block in card.blocks if block["type"] == "actions")
    action: str = actions["elements"][0]["action_id"]
    return action


@pytest.fixture
def labelled(make_world: MakeWorld, quick_encoder: str) -> World:
    world = make_world(Rules(more=PRICES + quick_encoder, budget="500"))
    world.provider.service.models = (MODEL, BIG)
    world.provider.service.answer = answer_riddle
    world.upload("riddles.csv", riddles(), called="riddles")
    world.tick_until(lambda: world.dataset().state == "ready", "the check", seconds=60)
    world.send()
    return world


def test_a_team_with_labels_is_led_to_a_verdict_without_measuring_anything_twice(labelled: World) -> None:
    team = Team(labelled, "riddles", f"acme/{BIG}")
    card = team.press_to_verdict()
    assert {candidate.kind for candidate in team.measured} == {
        "classical",
        "encoder",
        "zero",
        "kshot",
        "retrieval",
    }
    assert len(team.asked) <= len(team.measured)
    assert f"prompt alone on acme/{BIG} meets the bar of 85%: 97.4% right" in words_of(card)


@pytest.mark.deep
def test_a_measurement_of_something_worse_changes_no_verdict(labelled: World) -> None:
    """A prompt of the large model meets the bar. Measuring the small one afterwards, on other kinds, neither forgets it
    nor makes a training look better."""
    team = Team(labelled, "riddles", f"acme/{BIG}")
    measure(labelled, f"/finetune baseline riddles models=acme/{BIG} candidates=zero,kshot", 1)
    best = max(team.known(), key=lambda candidate: candidate.score)
    assert (best.model, best.standing) == (f"acme/{BIG}", "meets")
    card = words_of(team.estimate())
    for number, kind in enumerate(("retrieval", "zero"), 2):
        measure(labelled, f"/finetune baseline riddles models={TARGET} candidates={kind}", number)
        shown = labelled.find_message(f"Measurement m{number}")
        assert f"prompt alone on acme/{BIG}" in shown and "Measured now" in shown
    assert best in team.known()
    again = words_of(team.estimate())
    assert saving_of(again) == saving_of(card)
    best_measured = f"Best measured: prompt alone, acme/{BIG}, 97.4%"
    assert best_measured in labelled.type("/finetune datasets")


def saving_of(card: str) -> str:
    return next((line for line in card.split("\n") if "a month" in line), "")


@pytest.mark.deep
def test_a_team_with_free_text_keeps_its_judge_on_the_way_to_a_verdict(
    make_world: MakeWorld, quick_encoder: str
) -> None:
    world = make_world(Rules(more=FAQ_PRICES + quick_encoder, budget="500"))
    world.provider.service.models = (MODEL, JUDGE)
    world.provider.service.answer = answer_faq
    world.upload("faq.jsonl", faq(220), called="faq")
    world.tick_until(lambda: world.dataset().state == "ready", "the check", seconds=60)
    world.send()
    measure(world, f"/finetune baseline faq models={TARGET} candidates=zero judge=acme/{JUDGE}", 1)
    team = Team(world, "faq", "gpt-4o", task="format")
    card = team.press_to_verdict()
    assert {candidate.scoring for candidate in team.known()} == {"judge"}
    assert {candidate.kind for candidate in team.measured} == {"zero", "kshot", "retrieval"}
    assert "Not measured yet" not in words_of(card)


@pytest.mark.deep
def test_a_team_with_json_answers_is_led_to_a_verdict(make_world: MakeWorld, quick_encoder: str) -> None:
    world = make_world(Rules(more=PRICES + quick_encoder, budget="500"))
    world.provider.service.models = (MODEL, BIG)
    world.provider.service.answer = answer_order
    world.upload("orders.jsonl", orders(), called="orders")
    world.tick_until(lambda: world.dataset().state == "ready", "the check", seconds=60)
    world.send()
    team = Team(world, "orders", f"acme/{BIG}", task="")
    card = team.press_to_verdict()
    assert {candidate.scoring for candidate in team.known()} == {"json"}
    assert {"classical", "encoder", "zero"} <= {candidate.kind for candidate in team.measured}
    assert len(team.asked) <= len(team.measured)
    assert f"prompt alone on acme/{BIG} meets the bar of 85%: 100.0% of fields right" in words_of(card)


@pytest.mark.deep
def test_another_bar_judges_what_was_measured_and_asks_for_nothing_again(labelled: World) -> None:
    team = Team(labelled, "riddles", f"acme/{BIG}")
    measure(labelled, f"/finetune baseline riddles models=acme/{BIG} candidates=zero", 1)
    assert [candidate.standing for candidate in team.known()] == ["meets"]
    labelled.type("/finetune baseline riddles candidates=classical bar=99.9%")
    until(labelled, "done", 2)
    assert {candidate.kind: candidate.standing for candidate in team.known()}["zero"] == "misses"
