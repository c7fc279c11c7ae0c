"""The report of a run: its reasons and approvals on one page, which needs no network and shows no row. Two runs side by
side, in Slack and in the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bot.cli import main
from demo.people import ANA, BEN
from tests.bot.measurements import PRICES, until
from tests.bot.models.test_story_promote import WHY, promote
from tests.bot.runs import ENOUGH_ROWS, seed_runs
from tests.bot.world import MakeWorld, Rules, World
from tests.cards.test_page import Reader


def write_report(world: World, out: Path, subject: str = "1") -> Result:
    access = world.slack.access
    environment = {
        "FINETUNE_CONFIG": str(world.folder / "finetune.toml"),
        "SLACK_BOT_TOKEN": access.bot_token,
    }
    return CliRunner().invoke(
        main, ["report", subject, "--out", str(out)], env=environment, catch_exceptions=False
    )


def test_a_report_for_a_missing_folder_is_refused(world: World, tmp_path: Path) -> None:
    result = write_report(world, tmp_path / "nowhere" / "report.html")
    assert result.exit_code == 2
    assert "There is no folder" in result.output


@pytest.mark.deep
def test_a_report_has_the_run_on_one_page_and_no_row(world: World, tmp_path: Path) -> None:
    world.seed_dataset(rows=ENOUGH_ROWS)
    world.type("/finetune baseline tickets candidates=classical")
    until(world, "done")
    world.start_approved()
    run = world.tick_until_state("done")
    out = tmp_path / "report.html"
    result = write_report(world, out)
    assert result.exit_code == 0, result.output
    text = out.read_text(encoding="utf-8")
    reader = Reader(text)
    assert not reader.open
    assert reader.text.startswith("Not needed: 100.0% right, meets the usual bar of 85%")
    assert f"Run 1: {json.loads(run.plan)['base_model']} on tickets" in reader.text
    for part in (
        "100.0%",
        "classical",
        run.plan_hash,
        ANA.real_name,
        f"{BEN.real_name} approved it",
        "Prices, read on 20",
        "Cost and expected saving",
        "By label",
        "Tuned right",
        "posted",
    ):
        assert part in reader.text, part
    assert ANA.id not in reader.text
    links = [
        value
        for _, attributes in reader.tags
        for name, value in attributes.items()
        if name in ("src", "href")
    ]
    assert len(links) >= 3 and all(str(link).startswith("data:image/png") for link in links)
    held = world.service.settings.files / f"{json.loads(run.plan)['holdout_sha256']}.jsonl"
    questions = [json.loads(row)["messages"][-2]["content"] for row in held.read_text().splitlines()]
    assert questions and not [question for question in questions if question in text]
    assert write_report(world, out, "m1").exit_code == 0
    measurement = Reader(out.read_text(encoding="utf-8"))
    assert "Measurement m1 of tickets" in measurement.text and ANA.real_name in measurement.text
    assert "held-out rows were looked at twice." in measurement.text, "by the measurement and the run"
    assert "The commonest label alone gets" in measurement.text


@pytest.mark.deep
def test_a_report_says_what_happened_to_the_model_since(world: World, tmp_path: Path) -> None:
    def read_report() -> str:
        assert write_report(world, out).exit_code == 0
        return Reader(out.read_text(encoding="utf-8")).text

    out = tmp_path / "report.html"
    seed_runs(world, 2)
    undeployed = read_report()
    assert undeployed.startswith("Undecided: ") and "Deployed by" not in undeployed
    promote(world, "tickets-1", WHY)
    deployed = read_report()
    assert deployed.startswith("In use: ") and f"Deployed by {BEN.real_name}" in deployed
    promote(world, "tickets-2", WHY)
    replaced = read_report()
    assert replaced.startswith("Undecided: ") and "Replaced by tickets-2 on 20" in replaced


@pytest.mark.deep
def test_two_runs_side_by_side_quote_no_row_and_are_no_look(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    seed_runs(world, 2)
    world.type("/finetune baseline tickets candidates=classical")
    until(world, "done")
    looked_at = world.type("/finetune datasets")
    compared = world.type("/finetune compare 1 2")
    assert "Can't tell run 1 and run 2 apart" in compared and "right on the same rows" in compared
    assert "epochs" in compared and "lora" not in compared, "only what differs"
    assert "m1" in world.type("/finetune compare 2, m1")
    assert world.type("/finetune datasets") == looked_at
    refusals = {"1": "Name two or more", "1 1": "Name two or more", "1 9": "There is no run 9"}
    for typed, refusal in refusals.items():
        assert refusal in world.type(f"/finetune compare {typed}")

    printed = run_finetune(world, "compare", "1", "2", "m1")
    assert printed.exit_code == 0 and "right on the same rows" in printed.output, printed.output
    answer = json.loads(run_finetune(world, "compare", "1", "2", "--json").output)
    assert answer["outcome"] == "can't tell" and answer["winner"] is None
    (pair,) = answer["pairs"]
    assert (pair["only_first"], pair["only_other"], pair["difference"]) == (0, 0, 0.0)
    assert [each["settings"]["epochs"] for each in answer["results"]] == ["5", "6"]
    assert run_finetune(world, "compare", "1").exit_code == 2


def run_finetune(world: World, *arguments: str) -> Result:
    environment = {"FINETUNE_CONFIG": str(world.folder / "finetune.toml")}
    return CliRunner().invoke(main, [*arguments], env=environment, catch_exceptions=False)


def test_a_run_without_a_result_is_refused(world: World, tmp_path: Path) -> None:
    world.start()
    out = tmp_path / "report.html"
    result = write_report(world, out)
    assert result.exit_code == 2 and "has no result to report: it is awaiting approval" in result.output
    assert write_report(world, out, subject="9").exit_code == 2
    for subject in ("m4", "seven", "-1", "7;8"):
        assert write_report(world, out, subject).exit_code == 2
    assert not out.exists()
