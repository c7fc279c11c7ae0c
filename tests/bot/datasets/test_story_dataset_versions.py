"""An upload under a known name is its next version, whose holdout contains the holdout of the version before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo.people import ANA
from storage.records import Dataset
from tests.bot.props import tickets_csv
from tests.bot.world import START, World
from trainers.dataset import Report, read


def second_csv() -> str:
    """Ninety rows. Of the first version's sixty, four are missing and three have another label."""
    header, *rows = tickets_csv(90).splitlines()
    relabelled = [row.replace(",billing", ",refund") for row in rows[:9]]
    rows = [*relabelled, *rows[9:20], *rows[24:]]
    return "\n".join([header, *rows]) + "\n"


def _report(dataset: Dataset) -> Report:
    assert dataset.report is not None
    return Report.from_json(dataset.report)


def _questions(world: World, sha256: str | None) -> set[str]:
    path: Path = world.service.settings.files / f"{sha256}.jsonl"
    return {example.prompt[-1].content for example in read(path, path.name).examples}


@pytest.mark.deep
def test_a_new_version_keeps_the_holdout_of_the_one_before_and_a_run_is_evaluated_on_it(world: World) -> None:
    first = world.upload_and_check(tickets_csv())
    assert world.upload_and_check("text,label\nonly one,row\n").state == "refused", (
        "the next version ignores it"
    )
    assert not [text for text in world.texts() if "removed" in text]
    third = world.upload_and_check(second_csv())
    assert (first.version, third.version, third.state) == (1, 3, "ready")
    before, after = _report(first), _report(third)
    held_before, held_after = (_questions(world, report.holdout_sha256) for report in (before, after))
    assert held_before < held_after, "all of the first are in the next, and new ones joined"
    assert not held_after & _questions(world, after.train_sha256)
    assert after.diff is not None
    assert (after.diff.added, after.diff.removed, after.diff.relabelled) == (30, 4, 3)
    world.find_message("tickets (version 3): 30 added, 4 removed, 3 relabelled")
    assert len(world.cards()) == 3, "the changes are in the thread of the new version's card"

    assert world.upload("faq.csv", second_csv(), called="faq").accepted
    world.tick_until(lambda: world.dataset().name == "faq" and world.dataset().state == "ready", "the check")
    assert _report(world.dataset()).diff is None, "another name has no version before"

    assert world.type(START, user=ANA) == ""
    world.send()
    world.approve()
    run = world.tick_until_state("done")
    plan = json.loads(run.plan)
    assert (plan["dataset_version"], plan["holdout_sha256"]) == (3, after.holdout_sha256)
    for model in ("base", "tuned"):
        assert len(world.store.runs.answers(run.id, model)) == after.n_holdout


def test_two_versions_uploaded_at_once_follow_each_other(world: World) -> None:
    assert world.upload("tickets.csv", tickets_csv()).accepted
    assert world.upload("tickets.csv", second_csv()).accepted
    world.tick_until(
        lambda: {dataset.state for dataset in world.store.datasets.all()} == {"ready"}, "both checks"
    )
    second, first = world.store.datasets.all()
    assert (first.version, second.version) == (1, 2)
    held = _questions(world, _report(first).holdout_sha256)
    assert held < _questions(world, _report(second).holdout_sha256)
