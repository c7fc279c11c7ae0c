"""The whole story in local-slack's page: two people take a file of tickets to a measured model.

`finetune run` and its trainer are real child processes; only the model is a toy, so that training takes seconds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.rules.facts import TASK_KINDS
from demo.people import ANA, BEN, TICKETS
from tests.e2e.scene import Scene, opened
from tests.patience import wait_until
from tests.peers.programs import CallingProgram, call_once, five_lines, open_client

pytestmark = pytest.mark.e2e

TICKETS_CSV = Path(__file__).parents[2] / "examples" / "support_tickets.csv"
ROWS = 300  # a third is held out; each is asked three times, in prompts of thousands of letters
MEASURED = "differences below about"  # only on the card of a measurement
STAGES = "›"
CALLED = "now get it, without a change"  # on the card of what programs get
LABELS = {line.rpartition(",")[2] for line in TICKETS_CSV.read_text(encoding="utf-8").splitlines()[1:]}
CLASSIFICATION = TASK_KINDS["classification"]
PLAN = "current=gpt-4o volume=100M target=local/smollm2-135m"


@pytest.fixture
def scene(tmp_path: Path, tiny_model_dir: Path) -> Iterator[Scene]:
    tickets = tmp_path / TICKETS_CSV.name
    lines = TICKETS_CSV.read_text(encoding="utf-8").splitlines()
    tickets.write_text("\n".join(lines[: ROWS + 1]), encoding="utf-8")
    with opened("story", tmp_path, tiny_model_dir, tickets, serves=True) as scene:
        yield scene


def test_two_people_take_a_file_to_a_measured_model(scene: Scene) -> None:
    upload(scene)
    cancel_a_measurement(scene)
    measure_by_the_form(scene)
    estimate(scene)
    ask_for_approval(scene)
    refuse_own_approval(scene)
    approve(scene)
    watch(scene)
    read_result(scene)
    ask_around(scene)
    reject_another(scene)
    use_what_wins(scene)


def upload(scene: Scene) -> None:
    page = scene.page
    page.act_as(ANA.real_name)
    page.go_to(TICKETS.name)
    page.type("/finetune upload")
    page.wait_for_modal("Use as training data")
    scene.shot("upload-empty")
    page.fill({"File: a table with text and label, or JSONL": scene.tickets, "Dataset name": "tickets"})
    scene.shot("upload-filled")
    page.submit()
    page.wait_for_no_modal()
    page.wait_for("tickets is ready", seconds=30)
    scene.shot("dataset-card")


def cancel_a_measurement(scene: Scene) -> None:
    page = scene.page
    page.type("/finetune baseline tickets")
    page.wait_for("Measurement m1 is running")
    page.click("Cancel", inside="Measurement m1")
    scene.shot("measurement-cancel")
    assert "are kept" in page.confirm("Keep it running")
    page.click("Cancel", inside="Measurement m1")
    page.confirm("Cancel it")
    page.wait_for("Cancelled by @Ana Reyes")
    scene.shot("measurement-cancelled")


def measure_by_the_form(scene: Scene) -> None:
    """Questions asked before the cancellation are not asked again."""
    page = scene.page
    page.type("/finetune baseline")
    page.wait_for_modal("Measure alternatives")
    assert page.ticked("Alternatives to measure") == 5
    page.fill({"Models to ask": "local/smollm2-135m", "Quality bar": "good"})
    scene.shot("baseline-form")
    page.submit()
    assert "like 90%" in page.complaints()[0]
    page.fill({"Quality bar": "50%", "What should the model get better at?": CLASSIFICATION})
    page.submit()
    page.wait_for_no_modal()
    page.wait_for("Measurement m2 is running", seconds=60)
    scene.shot("measurement-progress")
    page.wait_for(MEASURED, seconds=300)
    scene.shot("comparison-card")
    card = page.read(MEASURED)
    assert all(
        name in card for name in ("classical", "prompt alone", "ten examples", "retrieval", "meets the bar")
    )
    wait_until(lambda: "comparison.png" in plots(scene), "the comparison's chart", seconds=30)
    page.click("Details", inside=MEASURED)
    page.wait_for_modal("Measurement m2")
    scene.shot("comparison-details")
    assert "Measuring cost only" in page.close_modal()
    page.open_thread(MEASURED)
    page.wait_for("m2 is done")
    scene.shot("comparison-thread")
    assert page.broken_images() == []
    page.close_thread()


def estimate(scene: Scene) -> None:
    page = scene.page
    page.type(f"/finetune estimate tickets {PLAN}")
    page.wait_for("Share in the channel")
    assert "Not now: the encoder is good enough" in page.read("Share in the channel")
    scene.shot("estimate")
    page.click("Details", inside="Share in the channel")
    page.wait_for_modal("Details of the estimate")
    scene.shot("estimate-details")
    page.close_modal()
    page.type("/finetune estimate")
    page.wait_for_modal("Estimate a fine-tune")
    page.fill({"Model that you prompt today": "gpt-4o-mini", "Requests per month": "lots"})
    page.submit()
    assert "lots" in page.complaints()[0]
    scene.shot("estimate-form-complains")
    page.fill({"Requests per month": "2M tokens"})
    page.submit()
    page.wait_for_no_modal()
    page.wait_for("(2M input tokens)")
    scene.shot("estimate-from-form")


def ask_for_approval(scene: Scene) -> None:
    scene.page.type(f"/finetune start tickets {PLAN} epochs=1")
    scene.page.wait_for("Needs one approver")
    scene.shot("approval-card")


def refuse_own_approval(scene: Scene) -> None:
    page = scene.page
    page.click("Approve", inside="Needs one approver")
    page.wait_for("You requested this, so somebody else has to approve it.")
    scene.shot("own-approval-refused")
    page.act_as(BEN.real_name)
    wait_until(lambda: not page.sees("somebody else has to approve it"), "Ana's refusal to vanish")


def approve(scene: Scene) -> None:
    page = scene.page
    page.show("Needs one approver")
    scene.shot("approval-card-as-ben")
    page.click("Approve", inside="Needs one approver")
    page.wait_for_modal("Approve this plan")
    page.fill({"Why should it be trained anyway?": "It is a test, and costs nothing"})
    scene.shot("approval-form")
    page.submit()
    page.wait_for_no_modal()
    page.wait_for("Approved by @Ben Okafor")
    assert "It is a test, and costs nothing" in page.read("Approved by @Ben Okafor")
    scene.shot("approved")


def watch(scene: Scene) -> None:
    """One card is edited in place until the run is done. A screenshot shows each new headline or set of numbers."""
    page = scene.page
    page.wait_for(STAGES)
    cards: list[str] = []
    pictured: set[tuple[str, bool]] = set()
    end = time.monotonic() + 90
    while "✓ done" not in "".join(cards[-1:]):
        assert time.monotonic() < end, f"the run did not finish; its cards were {cards}"
        card = page.read(STAGES)
        if card not in cards:
            cards.append(card)
        kind = (headline(card), "Training loss" in card)
        if kind not in pictured:
            pictured.add(kind)
            scene.shot(f"progress-{len(pictured)}")
        time.sleep(0.2)
    assert len(cards) >= 3, cards
    assert any("Training loss" in card for card in cards), cards
    assert sum(STAGES in str(message.blocks) for message in scene.slack.messages(TICKETS.id)) == 1


def headline(card: str) -> str:
    return next(line for line in card.splitlines() if line.startswith("Run "))


def read_result(scene: Scene) -> None:
    page = scene.page
    page.wait_for("Try it")
    scene.shot("result-card")
    page.click("Details", inside="Try it")
    page.wait_for_modal("Run 1")
    scene.shot("result-details")
    assert "Rows that changed" in page.close_modal()
    wait_until(lambda: plots(scene) >= {"loss.png", "quality.png"}, "the two plots", seconds=30)
    page.open_thread("Try it")
    scene.shot("result-thread")
    assert page.broken_images() == []


def plots(scene: Scene) -> set[str]:
    return {file.name for message in scene.slack.messages(TICKETS.id) for file in message.files}


def ask_around(scene: Scene) -> None:
    page = scene.page
    page.close_thread()
    page.act_as(ANA.real_name)
    page.type("/finetune try tickets-1 hi, the courier says delivered but there is no parcel here")
    page.wait_for("It answers:", seconds=30)
    scene.shot("try")
    assert "Nothing is running" in ask(scene, "status")
    assert "Try it" in ask(scene, "status 1")
    assert "held-out rows" in ask(scene, "runs")
    assert f"{ROWS} rows" in ask(scene, "datasets")
    assert "Find out in five steps" in ask(scene, "help")
    assert "Did you mean tickets?" in ask(scene, "estimate tikets")


def ask(scene: Scene, line: str) -> str:
    reply = scene.page.ask(f"/finetune {line}")
    scene.shot(line.replace(" ", "-"))
    return reply


def reject_another(scene: Scene) -> None:
    page = scene.page
    page.type(f"/finetune start tickets {PLAN} epochs=2")
    page.wait_for("Run 2: train")
    page.act_as(BEN.real_name)
    page.click("Reject", inside="Run 2: train")
    page.wait_for_modal("Reject this plan")
    page.fill({"What should change?": "Collect 1,000 rows first, and <b>ask</b> the *legal* team"})
    scene.shot("reject-form")
    page.submit()
    page.wait_for_no_modal()
    page.wait_for("Rejected by @Ben Okafor")
    assert "and <b>ask</b> the" in page.read("Rejected by @Ben Okafor")
    scene.shot("rejected")
    page.go_to("Finetune")
    page.wait_in_home("Latest results")
    scene.shot("home")


def use_what_wins(scene: Scene) -> None:
    """A program calls what was measured best, by the card's own lines, while it is replaced, rolled back, and taken out
    of use."""
    page = scene.page
    page.act_as(ANA.real_name)
    page.go_to(TICKETS.name)
    page.click("Use it", inside=MEASURED)
    page.confirm("Use it")
    page.wait_for(CALLED, seconds=60)
    scene.shot("in-use")
    program = five_lines(page.read_code(CALLED))
    first = call_once(program)
    assert first.stdout.strip() in LABELS, first.stderr

    question = "The courier says delivered, but there is no parcel here"
    with open_client(program) as client, CallingProgram(client, "team/tickets", question) as calling:
        calling.wait_for(10)
        replaced = replace_by_another(scene)
        choose_a_fallback(scene, replaced)
        calling.wait_for(10)
        page.click("Roll back", inside=CALLED)
        page.confirm("Roll back")
        page.wait_for("is in use again for tickets", seconds=60)
        page.wait_for(CALLED, seconds=60)
        calling.wait_for(10)
    assert calling.failures == []
    assert set(calling.answers) <= LABELS

    page.click("Take out of use", inside="is in use again for tickets")
    page.confirm("Take out of use")
    page.wait_for("Taken out of use", seconds=60)
    scene.shot("out-of-use")
    wait_until(lambda: "Error code: 404" in call_once(program).stderr, "an answer of 404", seconds=30)


def replace_by_another(scene: Scene) -> str:
    """Deploys the other free candidate, which isn't shown to be better: that takes a reason and Ben. Returns the one
    that it replaces."""
    page = scene.page
    before = "classical"
    other = "encoder"
    if "The encoder" in page.read(CALLED):
        before = "encoder"
        other = "classical"
    page.type(f"/finetune promote tickets {other} because=to see how a program takes it")
    page.wait_for("asks to deploy it against the evidence", seconds=60)
    scene.shot("promotion-request")
    page.act_as(BEN.real_name)
    page.click("Approve", inside="asks to deploy it against the evidence")
    page.confirm("Approve")
    page.wait_for(f"The {other}", seconds=60)
    page.wait_for(CALLED, seconds=60)
    scene.shot("in-use-instead")
    return before


def choose_a_fallback(scene: Scene, candidate: str) -> None:
    """What was in use before meets the bar, so it may stand in, until it is in use again itself."""
    page = scene.page
    page.act_as(ANA.real_name)
    page.go_to(TICKETS.name)
    page.type(f"/finetune fallback tickets {candidate}")
    page.wait_for("will answer programs that call", seconds=60)
    page.wait_for("If it can't answer", seconds=60)
    card = page.read("If it can't answer")
    assert re.search(r"Chosen by @Ana Reyes on [A-Z][a-z]{2} \d{1,2}, 20\d\d\.", card), card
    scene.shot("fallback")
