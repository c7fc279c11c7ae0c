"""What a file of preference pairs is told about itself, and what `finetune check` makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bot.cli.analysis import check
from tests.trainers.test_sizing_timing import MACHINE
from trainers.dataset.preference_pairs import check_pairs


def pair(question: str, better: str, worse: str) -> str:
    said = [{"role": "assistant", "content": each} for each in (better, worse)]
    asked = {"messages": [{"role": "user", "content": question}]}
    return json.dumps({"input": asked, "preferred_output": said[:1], "non_preferred_output": said[1:]})


GOOD = [pair(f"Where is parcel {n}?", "On its way.", "I do not know at all.") for n in range(30)]


def written(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def codes(path: Path) -> list[tuple[int | None, str, str]]:
    found = check_pairs(path, listed=10)
    assert found is not None
    return [(each.line, each.code, each.message) for each in found.findings]


def test_prompts_and_lengths_are_counted(tmp_path: Path) -> None:
    found = check_pairs(
        written(tmp_path, *GOOD, pair("Where is parcel 3?", "Here.", "There it is.")), listed=10
    )
    assert found is not None
    assert (found.pairs, found.prompts, found.preferred_longer, found.findings) == (31, 30, 0.0, ())
    assert (found.prompt.max, found.longer.max) == (6, 13)


def test_a_pair_that_says_the_opposite_of_another_and_one_that_repeats_it_are_found_on_their_lines(
    tmp_path: Path,
) -> None:
    swapped = pair("Where is parcel 4?", "I do not know at all.", "On its way.")
    assert codes(written(tmp_path, *GOOD, "", swapped, GOOD[7])) == [
        (
            32,
            "preference_contradiction",
            "Line 32 prefers the answer that line 5 rejects for the same prompt.",
        ),
        (33, "preference_repeated", "Line 33 repeats line 8."),
    ]


def test_pairs_whose_better_answer_is_mostly_the_longer_one_are_told(tmp_path: Path) -> None:
    long = [pair(f"Is parcel {n} lost?", "No, it is on its way to you.", "No.") for n in range(90)]
    assert codes(written(tmp_path, *GOOD, *long)) == [
        (None, "preferred_is_longer", "The preferred answer is the longer one in 75% of the pairs.")
    ]


def test_what_the_api_does_not_take_blocks_with_its_cure(tmp_path: Path) -> None:
    plain = json.dumps({"prompt": "x", "chosen": "a", "rejected": "b"})
    several = json.loads(GOOD[0])
    several["preferred_output"] *= 2
    assert codes(written(tmp_path, *GOOD, plain, json.dumps(several))) == [
        (32, "not_one_answer", "Line 32 has an answer of more than one message."),
        (None, "pairs_in_another_form", "1 pair is written as prompt, chosen and rejected."),
    ]


def test_a_file_without_a_good_pair_is_none(tmp_path: Path) -> None:
    assert check_pairs(written(tmp_path, "{}", "no", pair("x", "same", "same")), listed=10) is None


def checked(path: Path, *options: str) -> Any:
    return CliRunner().invoke(check, [str(path), "--quick", *options])


def test_finetune_check_says_what_pairs_are_and_how_they_are_trained(tmp_path: Path) -> None:
    told = checked(written(tmp_path, *GOOD))
    assert told.exit_code == 0
    assert told.output.splitlines()[:4] == [
        "pairs.jsonl: 30 preference pairs, 30 prompts",
        "nothing to mend",
        "A prompt has 6 tokens on average, 6 at most; with its longer answer 13 and 13 (o200k_base)",
        "The preferred answer is the longer one in 0% of the pairs",
    ]
    assert (
        "They can be used. Pairs are trained through our own trainer's API, with the method dpo"
        in told.output
    )


def test_finetune_check_says_what_training_them_on_a_model_takes_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toml = '[trainer.models]\nours = "HuggingFaceTB/SmolLM2-135M-Instruct"\n'
    (tmp_path / "finetune.toml").write_text(toml)
    file = written(tmp_path, *GOOD)
    assert "Training them" not in checked(file).output
    before = checked(file, "--target", "ours").output
    assert "Training them on HuggingFaceTB/SmolLM2-135M-Instruct here: fits, about " in before
    assert "finetune calibrate measures how fast this machine is" in before
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "calibration.json").write_text(MACHINE.to_json())
    assert "if nothing else runs" in checked(file, "--target", "ours").output
    raw = json.loads(checked(file, "--target", "ours", "--json").output)
    assert raw["takes"]["minutes"] > 0.2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (pair("x", "same", "same"), "line 31 has the same answer twice"),
        (pair("My key is sk-proj-" + "a1B2" * 12, "a", "b"), "line 31"),
        ("{", "line 31 is not JSON"),
    ],
)
def test_finetune_check_exits_with_1_where_a_pair_must_be_mended(
    tmp_path: Path, line: str, said: str
) -> None:
    told = checked(written(tmp_path, *GOOD, line))
    assert told.exit_code == 1
    assert said in told.output
    assert "They can't be used until this is mended." in told.output
    raw = json.loads(checked(written(tmp_path, *GOOD, line), "--json").output)
    assert (raw["blocked"], raw["format"]) == (True, "preference")
