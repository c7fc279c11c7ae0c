"""Every card as a person reads it, against files that were read by a person; as Slack gets it, against its limits;
and our own voice.

FINETUNE_UPDATE_GOLDEN=1 writes the files again: read their difference before it is committed.
"""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path

import pytest
from slack_sdk.models.blocks import Block
from slack_sdk.models.views import View

from bot.cards import calibration, datasets, interventions, plans
from bot.slack.commands import help_list
from demo.slack_emulator.blocks import complaints, view_complaints
from tests.cards import builders, labelling_cards, measurements
from tests.cards.all_cards import messages, payloads, views
from tests.cards.golden_text import readable
from tests.cards.slack_limits import SDK_DROPS, limit_violations
from tests.cards.style_rules import length_faults, style_faults, texts
from trainers.dataset.checks import Finding, LabelCount

GOLDEN = Path(__file__).parent / "golden"
PAYLOADS = payloads()


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_card_is_what_it_was(name: str) -> None:
    path, now = GOLDEN / f"{name}.txt", readable(PAYLOADS[name])
    if os.environ.get("FINETUNE_UPDATE_GOLDEN"):
        path.write_text(now, encoding="utf-8")
    assert now == path.read_text(encoding="utf-8")


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == PAYLOADS.keys()


@pytest.mark.parametrize("name", PAYLOADS)
def test_slack_would_take_it(name: str) -> None:
    assert limit_violations(PAYLOADS[name]) == []


@pytest.mark.parametrize("name", PAYLOADS)
def test_slack_sdk_s_models_keep_every_key(name: str) -> None:
    """What a model does not know it drops, or refuses; its limits are asked for by the walker."""
    payload = PAYLOADS[name]
    if "type" in payload:
        view = View(**payload)
        view.validate_json()
        assert view.to_dict() == payload
    for form in ("blocks", "newest"):
        for block in payload.get(form, []):
            if block["type"] not in SDK_DROPS:
                parsed = Block.parse(dict(block))
                assert parsed is not None and parsed.to_dict() == block


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_slack_emulator_takes_it_too(name: str) -> None:
    payload = PAYLOADS[name]
    if "type" in payload:
        assert view_complaints(payload) == ()
    else:
        assert (
            complaints(payload["blocks"], "message") == complaints(payload.get("newest", []), "message") == ()
        )


@pytest.mark.parametrize("name", PAYLOADS)
def test_it_speaks_in_our_voice(name: str) -> None:
    assert style_faults(PAYLOADS[name]) == []


@pytest.mark.parametrize("name", PAYLOADS)
def test_it_is_as_short_as_its_kind_must_be(name: str) -> None:
    assert length_faults(name, PAYLOADS[name]) == []


@pytest.mark.parametrize("name", [name for name, message in messages().items() if message.newest])
def test_the_newest_form_says_what_the_classic_one_says(name: str) -> None:
    message = messages()[name]
    newest, classic = "\n".join(texts(message.newest)), "\n".join(texts(message.blocks))
    assert message.newest[0] == message.blocks[0]
    for word in ("saves", "Difference", "█", "Approve", "Next"):
        assert (word in newest) >= (word in classic), word


def test_the_body_holds_nothing_that_slack_does_not_know() -> None:
    for message in messages().values():
        assert "newest" not in message.body()
        assert message.body() == {key: part for key, part in message.letter().items() if key != "newest"}


def test_headlines_are_answers() -> None:
    heads = {
        name: message.blocks[0]["text"]["text"] for name, message in messages().items() if message.blocks
    }
    assert heads["result-better"] == "Tuned model: 85.7% right; 62 points above the prompted base model"
    assert (
        heads["result-equal"]
        == "Tuned model: 26.0% right; no clear difference from the prompted base model (23.4%)"
    )
    above = "77.5% right, below your 85% bar; 22 points above the free classical model"
    assert heads["result-below-the-bar"] == f"Not good enough: {above}"
    below = "0.0% right, below your 85% bar; 45 points below the free classical model"
    assert heads["result-failed"] == f"Failed: {below}"
    assert heads["result-to-be-used"].startswith(
        "Deploy it: 95.0% right, meets your 85% bar; 25 points above"
    )
    assert heads["result-to-be-used-undecided"].startswith("Undecided: 95.0% right, meets your 85% bar")
    assert heads["result-cheaper-rung"].startswith("Not needed: 92.0% right")
    assert heads["result-nothing-read"].endswith("; nothing else was measured")
    assert heads["ladder-silent"].startswith("The classical model meets your 85% bar without training: 92.0%")
    assert heads["curve-untold"].endswith("no measurable gain expected (−9 to +14 points)")
    assert heads["plan-asked-free"] == "Run 7: train smollm2-135m on tickets at no charge?"
    assert heads["run-training"] == "Run 7 is training: smollm2-135m on tickets"
    assert (
        heads["estimate-free-machine"]
        == "Worth measuring: it would save about $280 a month if it is good enough"
    )
    assert heads["dataset-ready"] == "tickets (version 2) is ready: 383 rows, 4 labels"


def test_a_payback_has_the_plans_people_and_labels_in_it() -> None:
    """$1,550 for people and labels at $23 a month take 5.6 years to come back, not the minutes of the bill alone."""
    said = "\n".join(texts(messages()["result-go-with-people"].blocks))
    assert "*Planned saving*\nabout $23 a month; pays back in 6 years" in said
    unsaid = "\n".join(texts(messages()["result-go-time-unsaid"].blocks))
    assert "; pays back within a day, ignoring staff time" in unsaid


@pytest.mark.parametrize("name", ["result-below-the-bar", "result-cheaper-rung", "result-better"])
def test_nothing_is_saved_by_a_model_that_may_not_be_used(name: str) -> None:
    said = "\n".join([messages()[name].text, *texts(messages()[name].blocks)])
    assert "a month" not in said and "Each month" not in said


def test_what_mends_the_rows_comes_before_an_estimate() -> None:
    card = datasets.checked_card(
        builders.dataset(), builders.report(*labelling_cards.DOUBTS, builders.DUPLICATE)
    )
    (buttons,) = [block["elements"] for block in card.blocks if block["type"] == "actions"]
    assert [button["text"]["text"] for button in buttons] == [
        "Measure",
        "Check 2 doubtful labels",
        "Post a cleaned file",
    ]


def test_a_free_run_has_no_money_to_speak_of_while_a_person_decides() -> None:
    run, plan = builders.run("needs_human"), builders.free_plan()
    assert "charge" not in interventions.card(run, plan, ()).body()["blocks"][2]["text"]["text"]
    assert "charge" not in plans.voided_card(run, plan, "a rule changed", "run 7").text


def test_what_costs_nothing_pays_back_at_once_and_has_no_least_volume() -> None:
    said = "\n".join(texts(messages()["estimate-free-machine"].blocks))
    assert "*Pays back*\nat once" in said and "only your machine's time" in said
    details = "\n".join(texts(views()["estimate-details-free"]["blocks"]))
    assert "no charge for 109k tokens" in details and "Break-even volume" not in details


def test_the_help_and_its_list_name_every_command() -> None:
    card, form = PAYLOADS["help"], PAYLOADS["form-all-commands"]
    for command in help_list():
        assert re.search(rf"`(/finetune )?{command.name}\b", "\n".join(texts(card["blocks"]))), command.name
        assert f"`{command.usage}`" in "\n".join(texts(form["blocks"])), command.name


@pytest.mark.parametrize(("name", "buttons"), [("blocked", "Post a cleaned file"), ("few", "Upload again")])
def test_a_refused_file_is_offered_what_helps_it_first(name: str, buttons: str) -> None:
    card = messages()[f"dataset-{name}"]
    offered = [block["elements"] for block in card.blocks if block["type"] == "actions"]
    assert [one["text"]["text"] for one in offered[0] if one.get("style") == "primary"] == [buttons]


@pytest.mark.parametrize("name", views())
def test_views_keep_their_inputs_apart(name: str) -> None:
    ids = [block["block_id"] for block in views()[name]["blocks"] if block["type"] == "input"]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", [name for name in PAYLOADS if name.startswith("ladder")])
def test_a_ladders_table_fits_beside_an_open_thread(name: str) -> None:
    for table in re.findall(
        r"```\n(.*?)```", json.dumps(PAYLOADS[name]["blocks"]).replace("\\n", "\n"), re.DOTALL
    ):
        lines = json.loads(f'"{table}"'.replace("\n", "\\n")).splitlines()
        assert max(len(html.unescape(line)) for line in lines) <= 74


def test_a_model_that_answers_mostly_nothing_is_given_room_to_think() -> None:
    said = json.dumps(PAYLOADS["ladder-silent"], ensure_ascii=False)
    assert "`reasoning = true`" in said and said.count("providers.acme.models") == 2  # once in each form
    assert "reasoning" not in json.dumps(PAYLOADS["ladder-met"])


def test_free_text_says_which_measure_is_which() -> None:
    assert "70.5% F1" in json.dumps(PAYLOADS["result-by-words"], ensure_ascii=False)
    assert "Two measures" in json.dumps(PAYLOADS["result-by-words-details"], ensure_ascii=False)
    assert "Two measures" not in json.dumps(PAYLOADS["result-details"])


def test_the_first_button_does_the_next_step() -> None:
    first = {
        name: payload["blocks"][-1]["elements"][0]
        for name, payload in PAYLOADS.items()
        if name.startswith("result-") and payload["blocks"][-1]["type"] == "actions"
    }
    assert first["result-to-be-used"]["action_id"] == "put_to_work"
    assert first["result-to-compare"]["text"]["text"] == "Measure gpt-4o"
    assert "Measure gpt-4o" in str(PAYLOADS["result-to-be-used-undecided"])
    assert "Deploy" not in str(PAYLOADS["result-go"]), "the next step is no button that is not there"
    assert first["result-alone"]["text"]["text"] == "Measure alternatives"
    assert "style" not in first["result-failed"]
    assert all("Next" not in str(PAYLOADS[name]) for name, button in first.items() if "style" in button)


def test_labels_are_listed_whole_and_equal_ones_said_once() -> None:
    listed = ", ".join(f"a_rather_long_label_{number} (7)" for number in range(10))
    finding = Finding(
        None, "warns", "few_rows_of_label", f"10 of 10 labels have few rows: {listed}.", "Add rows."
    )
    equal = tuple(LabelCount(name, 100) for name in ("billing", "shipping"))
    card = str(datasets.checked_card(builders.dataset(), builders.report(finding, labels=equal)).blocks)
    assert "a_rather_long_label_3 (7), … Add rows." in card and "a_rather_long_label_4" not in card
    assert "100 each" in card


def test_how_far_off_estimates_were_is_told_from_five_runs_on() -> None:
    assert calibration.recent_errors(measurements.ERRORS) == []
    assert calibration.recent_errors(measurements.MANY_ERRORS)


def test_a_price_under_a_cent_is_short() -> None:
    assert "&lt;$0.01" in json.dumps(PAYLOADS["ladder-silent"]["blocks"])
