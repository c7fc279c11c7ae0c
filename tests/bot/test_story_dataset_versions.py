"""Upload again under a name: its next version, whose test holds the test of the version before."""

from __future__ import annotations

import json
from pathlib import Path

from demo.people import ANA
from storage.records import Dataset
from tests.bot.props import tickets_csv
from tests.bot.world import START, World
from trainers.dataset import Report, read


def second_csv() -> str:
    """Of ninety rows the first sixty were there before: four are gone, three have another label."""
    header, *rows = tickets_csv(90).splitlines()
    relabelled = [row.replace(",billing", ",refund") for row in rows[:9]]
    kept = [*relabelled, *rows[9:20], *rows[24:]]
    return "\n".join([header, *kept]) + "\n"


def _report(dataset: Dataset) -> Report:
    assert dataset.report is not None
    return Report.from_json(dataset.report)


def _questions(world: World, sha256: str | None) -> set[str]:
    path: Path = world.service.settings.files / f"{sha256}.jsonl"
    return {example.prompt[-1].content for example in read(path, path.name).examples}


def test_the_test_of_the_first_version_stays_a_test(world: World) -> None:
    first = world.upload_and_check(tickets_csv())
    second = world.upload_and_check(second_csv())
    assert (first.version, second.version, second.state) == (1, 2, "ready")
    before, after = _report(first), _report(second)
    held_before, held_after = (_questions(world, one.holdout_sha256) for one in (before, after))
    assert held_before < held_after, "all of the first are in the second, and new ones joined"
    assert not held_after & _questions(world, after.train_sha256)
    assert not held_before & _questions(world, after.train_sha256)
    assert after.diff is not None
    assert (after.diff.added, after.diff.removed, after.diff.relabelled) == (30, 4, 3)


def test_the_thread_says_what_changed(world: World) -> None:
    world.upload_and_check(tickets_csv())
    assert not [text for text in world.texts() if "removed" in text]
    world.upload_and_check(second_csv())
    world.find_message("tickets (version 2): 30 added, 4 removed, 3 relabelled")
    assert len(world.cards()) == 2, "the diff stands in the second card's thread"


def test_a_run_on_the_second_version_is_measured_on_its_test(world: World) -> None:
    world.upload_and_check(tickets_csv())
    second = world.upload_and_check(second_csv())
    assert world.type(START, user=ANA) == ""
    world.send()
    world.approve()
    run = world.tick_until_state("done")
    plan, report = json.loads(run.plan), _report(second)
    assert (plan["dataset_version"], plan["holdout_sha256"]) == (2, report.holdout_sha256)
    for arm in ("base", "tuned"):
        assert len(world.store.runs.answers(run.id, arm)) == report.n_holdout


def test_a_version_that_cannot_be_used_is_passed_over(world: World) -> None:
    first = world.upload_and_check(tickets_csv())
    assert world.upload_and_check("text,label\nonly one,row\n").state == "refused"
    third = world.upload_and_check(second_csv())
    held = _questions(world, _report(first).holdout_sha256)
    assert (third.version, third.state) == (3, "ready")
    assert held < _questions(world, _report(third).holdout_sha256)


def test_two_versions_at_once_follow_each_other(world: World) -> None:
    assert world.upload("tickets.csv", tickets_csv()).accepted
    assert world.upload("tickets.csv", second_csv()).accepted
    world.tick_until(lambda: {one.state for one in world.store.datasets.all()} == {"ready"}, "both checks")
    second, first = world.store.datasets.all()
    assert (first.version, second.version) == (1, 2)
    held = _questions(world, _report(first).holdout_sha256)
    assert held < _questions(world, _report(second).holdout_sha256)


def test_another_name_has_nothing_to_follow(world: World) -> None:
    world.upload_and_check(tickets_csv())
    assert world.upload("faq.csv", second_csv(), called="faq").accepted
    world.tick_until(lambda: world.dataset().name == "faq" and world.dataset().state == "ready", "the check")
    assert _report(world.dataset()).diff is None
