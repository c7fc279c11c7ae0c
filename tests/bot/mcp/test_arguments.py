"""An agent's arguments become words of a command line, and its paths stay below the folders that a person named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bot.cli import main
from bot.mcp.arguments import Folders, command_words
from bot.mcp.calls import Allowance, Bill
from bot.mcp.reports import Report
from bot.mcp.tools import find_tool, offered
from bot.values.runs import Refusal


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    for name in ("here", "there", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.csv").touch()
    (tmp_path / "here" / "link.csv").symlink_to(tmp_path / "elsewhere" / "rows.csv")
    (tmp_path / "here" / "up").symlink_to(tmp_path / "elsewhere")
    return Folders((tmp_path / "here", tmp_path / "there"))


def words(folders: Folders, tool: str, **arguments: Any) -> tuple[str, ...] | Refusal:
    spec = find_tool(tool)
    return command_words(offered(spec, main.commands[spec.command]), arguments, folders)


def test_options_flags_lists_and_arguments_are_words(folders: Folders) -> None:
    assert words(folders, "check", file="rows.csv", quick=True, presidio=False, sealed=60.0) == (
        "--quick",
        "--sealed=60",
        "--",
        "rows.csv",
    )
    assert words(folders, "curve", file="rows.csv", predict=[200, 300], label=None) == (
        "--predict=200",
        "--predict=300",
        "--",
        "rows.csv",
    )
    assert words(folders, "prices", models=["--json", "gpt-4o"]) == ("--", "--json", "gpt-4o")


@pytest.mark.parametrize(
    "path",
    [
        "../elsewhere/rows.csv",
        "/etc/passwd",
        "link.csv",
        "up/rows.csv",
        "~/rows.csv",
        "rows\0.csv",
        "~nobody-here/x",
    ],
)
@pytest.mark.parametrize(
    ("tool", "name"),
    [
        ("check", "file"),
        ("check", "against"),
        ("check", "holdout"),
        ("estimate", "baseline"),
        ("compare", "database"),
    ],
)
def test_a_path_outside_is_refused(folders: Folders, tool: str, name: str, path: str) -> None:
    value = [path] if name == "baseline" else path
    refused = words(
        folders, tool, **{"file": "rows.csv", name: value} if tool != "compare" else {name: value}
    )
    assert isinstance(refused, Refusal)
    assert "outside of what this server may read" in refused.text or "can't be read as a path" in refused.text


@pytest.mark.parametrize("folder", ["../elsewhere", "up", "/", "~", "."])
def test_a_models_folder_is_a_path_and_its_name_is_not(folders: Folders, folder: str) -> None:
    planned = words(folders, "plan_memory", model=folder)
    checked = words(folders, "check", file="rows.csv", target=folder)
    assert isinstance(planned, Refusal) == isinstance(checked, Refusal) == (folder != ".")
    assert words(folders, "plan_memory", model="org/name") == ("--", "org/name")


def test_a_second_folder_may_be_read_and_an_earlier_result_by_its_name(
    folders: Folders, tmp_path: Path
) -> None:
    there = str(tmp_path / "there" / "rows.csv")
    assert words(folders, "check", file=there) == ("--", there)
    folders.stored["baseline-1"] = tmp_path / "stored.json"
    named = words(folders, "estimate", file="rows.csv", baseline="baseline-1")
    assert named == (f"--baseline={tmp_path / 'stored.json'}", "--", "rows.csv")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"fix": "out.csv"}, "There is no argument fix."),
        ({"quick": "yes"}, "quick should be true or false."),
        ({"text": ["a", "b"]}, "text should be a single value, not a list."),
        ({"text": {"a": 1}}, "text should be a text or a number."),
    ],
)
def test_what_is_no_argument_is_refused_with_a_sentence(
    folders: Folders, arguments: dict[str, Any], why: str
) -> None:
    refused = words(folders, "check", file="rows.csv", **arguments)
    assert isinstance(refused, Refusal) and refused.text.startswith(why)


def test_a_waiver_and_the_limit_are_not_an_agents(folders: Folders) -> None:
    for name in ("waive", "max_usd"):
        refused = words(folders, "baseline", file="rows.csv", **{name: "5"})
        assert isinstance(refused, Refusal) and f"no argument {name}" in refused.text


def test_a_command_that_ended_early_owes_its_maximum() -> None:
    bill = Bill()
    bill.add(Report(progress="reading"))
    assert bill.owed_micros == 0
    bill.add(Report(most_micros=900))
    assert bill.owed_micros == 900
    bill.add(Report(spent_micros=20))
    assert bill.owed_micros == 20
    assert Allowance(limit_micros=100, booked_micros=130).left_micros == 0


def test_a_report_is_told_from_a_sentence() -> None:
    report = Report(most_micros=7)
    assert Report.from_line(report.to_line()) == report
    assert [Report.from_line(line) for line in ("Two rows.", "{not JSON", '{"other": 1}')] == [None] * 3
