"""From the upload to the result by buttons and forms: after `/finetune upload` nobody types a command.

`finetune run` and its trainer are real child processes; only the model is a toy, so that training takes seconds.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.people import ANA, BEN, TICKETS
from tests.e2e.scene import Scene, opened
from tests.patience import wait_until

pytestmark = pytest.mark.e2e

TICKETS_CSV = Path(__file__).parents[2] / "examples" / "support_tickets.csv"
ROWS = 230
LADDER = "Measurement m1: tickets,"
ESTIMATE = "Share in the channel"
RESULT = "Run 1: smollm2-135m on tickets,"


@pytest.fixture
def scene(tmp_path: Path, tiny_model_dir: Path) -> Iterator[Scene]:
    tickets = tmp_path / "tickets.csv"
    write_with_two_label_columns(tickets)
    with opened("buttons", tmp_path, tiny_model_dir, tickets) as scene:
        yield scene


def write_with_two_label_columns(path: Path) -> None:
    """Columns `category` and `topic` could both be the label, so somebody has to choose."""
    with TICKETS_CSV.open(encoding="utf-8", newline="") as source:
        tickets = list(csv.DictReader(source))[:ROWS]
    with path.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(("message", "topic", "category"))
        for number, ticket in enumerate(tickets):
            writer.writerow((ticket["text"], ("old", "new")[number % 2], ticket["label"]))


def test_buttons_and_forms_lead_from_an_upload_to_a_result(scene: Scene) -> None:
    upload(scene)
    choose_columns(scene)
    measure(scene)
    estimate(scene)
    start(scene)
    approve(scene)
    read_result(scene)


def upload(scene: Scene) -> None:
    page = scene.page
    page.act_as(ANA.real_name)
    page.go_to(TICKETS.name)
    page.type("/finetune upload")
    page.wait_for_modal("Use as training data")
    page.fill({"File: a table with text and label, or JSONL": scene.tickets, "Dataset name": "tickets"})
    page.submit()
    page.wait_for_no_modal()


def choose_columns(scene: Scene) -> None:
    page = scene.page
    page.wait_for("choose the", seconds=60)
    scene.shot("which-column")
    page.click("Choose columns", inside="choose the")
    page.wait_for_modal("Choose columns")
    scene.shot("columns-form")
    page.fill({"Column with the label": "category"})
    page.submit()
    page.wait_for_no_modal()
    page.wait_for("tickets is ready", seconds=60)
    assert f"{ROWS} rows, 10 labels" in page.read("tickets is ready")
    scene.shot("ready")


def measure(scene: Scene) -> None:
    page = scene.page
    page.click("Measure", inside="tickets is ready")
    page.wait_for_modal("Measure alternatives")
    scene.shot("measure-form")
    page.submit()
    page.wait_for_no_modal()
    page.wait_for(LADDER, seconds=240)
    scene.shot("comparison")


def estimate(scene: Scene) -> None:
    page = scene.page
    page.click("Estimate", inside=LADDER)
    page.wait_for_modal("Estimate a fine-tune")
    page.fill({"Model that you prompt today": "gpt-4o", "Requests per month": "1B tokens"})
    scene.shot("estimate-form")
    page.submit()
    page.wait_for_no_modal()
    page.wait_for(ESTIMATE, seconds=30)
    scene.shot("estimate")
    page.click("Details", inside=ESTIMATE)
    page.wait_for_modal("Estimate")
    scene.shot("estimate-details")
    page.close_modal()


def start(scene: Scene) -> None:
    page = scene.page
    page.click("Start anyway", inside=ESTIMATE)
    page.wait_for("Needs one approver", seconds=30)
    scene.shot("approval")


def approve(scene: Scene) -> None:
    page = scene.page
    page.act_as(BEN.real_name)
    page.click("Approve", inside="Needs one approver")
    page.wait_for_modal("Approve this plan")
    page.fill({"Why should it be trained anyway?": "It is a test, and costs nothing"})
    scene.shot("approve-form")
    page.submit()
    page.wait_for_no_modal()
    page.wait_for("Approved by @Ben Okafor")


def read_result(scene: Scene) -> None:
    page = scene.page
    page.wait_for(RESULT, seconds=180)
    scene.shot("result")
    wait_until(lambda: any(name.endswith(".html") for name in files(scene)), "the report", seconds=60)
    page.click("Details", inside=RESULT)
    page.wait_for_modal("Run 1")
    scene.shot("result-details")
    assert "Rows that changed" in page.close_modal()


def files(scene: Scene) -> set[str]:
    return {file.name for message in scene.slack.messages(TICKETS.id) for file in message.files}
