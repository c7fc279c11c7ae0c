"""Every card compared with its golden file, checked against Slack's limits and against our own style.

FINETUNE_UPDATE_GOLDEN=1 rewrites the golden files. Read the diff before committing it.
"""

from __future__ import annotations

import difflib
import html
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from slack_sdk.models.blocks import Block
from slack_sdk.models.views import View

from bot.cards.common import calibration
from bot.cards.datasets import check_reports, row_labels
from bot.cards.datasets.row_labels import RowToLabel
from bot.cards.decisions import plans
from bot.cards.training import interventions
from bot.slack.commands import help_list
from demo.slack_emulator.blocks import complaints, view_complaints
from tests.cards import builders, measurements
from tests.cards.all_cards import messages, payloads, views
from tests.cards.datasets import labelling_cards
from tests.cards.golden_text import readable
from tests.cards.slack_limits import SDK_DROPS, limit_violations
from tests.cards.style_rules import length_faults, style_faults, texts
from trainers.dataset.checks import Finding, LabelCount

GOLDEN = Path(__file__).parent / "golden"
MESSAGES = messages()
VIEWS = views()
PAYLOADS = payloads()


def test_each_card_reads_as_its_golden_file() -> None:
    differences: list[str] = []
    for name, payload in PAYLOADS.items():
        path, text = GOLDEN / f"{name}.txt", readable(payload)
        if os.environ.get("FINETUNE_UPDATE_GOLDEN"):
            path.write_text(text, encoding="utf-8")
        golden = path.read_text(encoding="utf-8")
        differences += difflib.unified_diff(golden.splitlines(), text.splitlines(), path.name, lineterm="")
    assert not differences, "\n".join(differences)


def test_each_golden_file_has_its_card() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == PAYLOADS.keys()


def test_every_card_is_within_slack_s_limits() -> None:
    violations = {name: limit_violations(payload) for name, payload in PAYLOADS.items()}
    assert {name: texts for name, texts in violations.items() if texts} == {}


def test_the_slack_emulator_accepts_every_card() -> None:
    for name, view in VIEWS.items():
        assert view_complaints(view) == (), name
    for name, message in MESSAGES.items():
        assert complaints(message.blocks, "message") == complaints(message.newest, "message") == (), name


def test_slack_sdk_s_models_keep_every_key() -> None:
    """A model drops or refuses what it doesn't know."""
    for name, payload in PAYLOADS.items():
        if "type" in payload:
            view = View(**payload)
            view.validate_json()
            assert view.to_dict() == payload, name
        for block in (*payload.get("blocks", []), *payload.get("newest", [])):
            if block["type"] not in SDK_DROPS:
                parsed = Block.parse(dict(block))
                assert parsed is not None and parsed.to_dict() == block, name


def test_every_card_is_short_and_in_our_style() -> None:
    faults = {
        name: [*style_faults(payload), *length_faults(name, payload)] for name, payload in PAYLOADS.items()
    }
    assert {name: texts for name, texts in faults.items() if texts} == {}


def test_the_newest_form_says_what_the_classic_one_says() -> None:
    for name, message in MESSAGES.items():
        if message.newest:
            newest, classic = "\n".join(texts(message.newest)), "\n".join(texts(message.blocks))
            assert message.newest[0] == message.blocks[0], name
            for word in ("saves", "Difference", "█", "Approve", "Next"):
                assert (word in newest) >= (word in classic), (name, word)


def test_a_message_s_body_leaves_out_the_other_forms() -> None:
    for message in MESSAGES.values():
        letter = message.letter()
        others = {key: letter[key] for key in letter.keys() & {"newest", "elsewhere"}}
        assert {**message.body(), **others} == letter


def test_a_card_with_a_row_has_none_for_other_channels() -> None:
    letter = PAYLOADS["dataset-ready"]
    assert "For example" in str(letter["blocks"]) and "For example" not in str(letter["elsewhere"])
    assert "elsewhere" not in PAYLOADS["dataset-in-public"]


def test_payback_counts_the_plan_s_staff_time_and_labels() -> None:
    """$1,550 for people and labels at $23 a month take 5.6 years; training alone is paid back within a day."""
    assert "pays back in 6 years" in text_of("result-go-with-people")
    assert "pays back within a day, ignoring staff time" in text_of("result-go-time-unsaid")


@pytest.mark.parametrize("name", ["result-below-the-bar", "result-cheaper-candidate", "result-better"])
def test_a_model_that_should_not_be_deployed_shows_no_saving(name: str) -> None:
    shown = MESSAGES[name].text + text_of(name)
    assert "a month" not in shown and "Each month" not in shown


def test_fixes_of_the_rows_are_offered_before_an_estimate() -> None:
    report = builders.report(*labelling_cards.LABEL_FINDINGS, builders.DUPLICATE)
    card = check_reports.checked_card(builders.dataset(), report)
    assert [button["text"]["text"] for button in buttons(card.blocks)] == [
        "Measure",
        "Check 2 doubtful labels",
        "Post a cleaned file",
    ]


def test_an_intervention_on_a_free_run_does_not_mention_money() -> None:
    run, plan = builders.run("needs_human"), builders.free_plan()
    assert "charge" not in interventions.card(run, plan, ()).body()["blocks"][1]["text"]["text"]
    assert "charge" not in plans.voided_card(run, plan, "a rule changed", "run 7").text


def test_free_training_pays_back_at_once_and_has_no_break_even_volume() -> None:
    assert "*Pays back*\nat once" in text_of("estimate-free-machine")
    assert "Break-even volume" not in text_of("estimate-details-free")


def test_the_help_names_eight_commands_and_the_lists_every_command_with_what_it_does() -> None:
    first = re.findall(r"`/finetune (\w+)( [A-Z]+)?`:", text_of("help"))
    assert len(first) == 8
    for command in help_list():
        for name in ("all-commands", "form-all-commands"):
            assert f"`{command.short_usage}`: {command.what}" in text_of(name), command.name


@pytest.mark.parametrize(("name", "label"), [("blocked", "Post a cleaned file"), ("few", "Upload again")])
def test_a_refused_file_s_primary_button_helps_most(name: str, label: str) -> None:
    offered = buttons(MESSAGES[f"dataset-{name}"].blocks)
    assert [button["text"]["text"] for button in offered if button.get("style") == "primary"] == [label]


def test_a_comparison_has_a_line_for_each_candidate_that_fits_on_a_desktop() -> None:
    """On a phone, which breaks it, the line still reads from its beginning; a wide code block would be cut off."""
    for name, message in MESSAGES.items():
        if name.startswith("comparison"):
            assert not [text for text in texts(message.blocks) if text.startswith("```")], name
    lines = [line for line in text_of("comparison-many").splitlines() if " the bar, " in line]
    assert len(lines) > 3
    assert max(len(html.unescape(line).replace("*", "")) for line in lines) <= 90


def test_classic_blocks_have_no_table_that_is_wider_than_a_phone() -> None:
    for name, message in MESSAGES.items():
        for text in texts(message.blocks):
            if text.startswith("```") and "openai" not in text:  # code to copy is as wide as it is
                widths = [len(html.unescape(line)) for line in text.splitlines()]
                assert max(widths) <= 40 or name.startswith("optimised"), name


def test_a_model_that_mostly_answers_nothing_gets_room_to_think() -> None:
    for form in ("blocks", "newest"):
        assert "`reasoning = true`" in "\n".join(texts(PAYLOADS["comparison-silent"][form]))
    assert "reasoning" not in text_of("comparison-met")


def test_free_text_explains_that_it_has_two_measures() -> None:
    assert "70.5% F1" in text_of("result-by-words")
    assert "Two measures" in text_of("result-by-words-details")
    assert "Two measures" not in text_of("result-details")


def test_the_first_button_of_a_result_does_the_next_step() -> None:
    rows = {name: buttons(message.blocks) for name, message in MESSAGES.items() if name.startswith("result-")}
    first = {name: row[0] for name, row in rows.items() if row}
    assert first["result-to-be-used"]["action_id"] == "put_to_work"
    assert first["result-to-compare"]["text"]["text"] == "Measure gpt-4o"
    assert "Deploy" not in str(PAYLOADS["result-go"]), "no next step names a button that is absent"
    assert first["result-alone"]["text"]["text"] == "Measure alternatives"
    assert "style" not in first["result-failed"]
    assert all("Next" not in str(PAYLOADS[name]) for name, button in first.items() if "style" in button)


def test_a_long_finding_is_cut_between_labels_and_equal_counts_are_named_once() -> None:
    listed = ", ".join(f"a_rather_long_label_{number} (7)" for number in range(10))
    finding = Finding(
        None, "warns", "few_rows_of_label", f"10 of 10 labels have few rows: {listed}.", "Add rows."
    )
    equal = tuple(LabelCount(name, 100) for name in ("billing", "shipping"))
    card = str(check_reports.checked_card(builders.dataset(), builders.report(finding, labels=equal)).blocks)
    assert "a_rather_long_label_3 (7), … Add rows." in card and "a_rather_long_label_4" not in card

    details = str(check_reports.full_report(builders.report(finding, labels=equal)).parts)
    assert "100 each" in details


def test_the_error_of_past_estimates_is_shown_from_five_runs_on() -> None:
    assert calibration.recent_errors(measurements.ERRORS) == []
    assert calibration.recent_errors(measurements.MANY_ERRORS)


def text_of(name: str) -> str:
    return "\n".join(texts(PAYLOADS[name]["blocks"]))


def buttons(blocks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [button for block in blocks if block["type"] == "actions" for button in block["elements"]]


@pytest.mark.parametrize("count", [2, 100, 101, 500])
def test_every_label_can_be_chosen_in_the_form(count: int) -> None:
    labels = tuple(f"Größe {number} — {'ü' * 60}" for number in range(count))
    form = row_labels.row_form(RowToLabel(labelling_cards.ROWS[0], labels, 0, 20))
    selects = [block["accessory"]["options"] for block in form["blocks"] if "accessory" in block]
    assert len(selects) == -(-count // 100)
    values = [option["value"].split()[-1] for options in selects for option in options]
    assert sorted(map(int, values)) == list(range(count))
    texts = [option["text"]["text"] for options in selects for option in options]
    assert len(set(texts)) == count
    assert limit_violations(form) == []
