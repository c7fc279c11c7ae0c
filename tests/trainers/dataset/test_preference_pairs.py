"""Checks of preference pairs, and what `finetune check` prints about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bot.cli import main
from tests.trainers.sizing.test_training_time import MACHINE
from trainers.dataset import Columns, Report, check_file


def pair(question: str, better: str, worse: str) -> str:
    answers = [{"role": "assistant", "content": text} for text in (better, worse)]
    prompt = {"messages": [{"role": "user", "content": question}]}
    return json.dumps({"input": prompt, "preferred_output": answers[:1], "non_preferred_output": answers[1:]})


GOOD = [pair(f"Where is parcel {n}?", "On its way.", "I do not know at all.") for n in range(30)]


def write_pairs(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def report_of(path: Path, out: Path | None = None) -> Report:
    return check_file(path, path.name, Columns(), out, 7)


def findings_in(path: Path) -> list[tuple[int | None, str, str]]:
    in_every_file = ("preference_pairs", "not_yet", "blank_lines")
    return [(f.line, f.code, f.message) for f in report_of(path).findings if f.code not in in_every_file]


def rows_in(folder: Path, sha256: str | None) -> list[Any]:
    return [json.loads(line) for line in (folder / f"{sha256}.jsonl").read_text().splitlines()]


def test_prompts_and_lengths_are_counted(tmp_path: Path) -> None:
    path = write_pairs(tmp_path, *GOOD, pair("Where is parcel 3?", "Here.", "There it is."))
    pairs = report_of(path).pairs
    assert pairs is not None
    assert (pairs.pairs, pairs.prompts, pairs.preferred_longer) == (31, 30, 0.0)
    assert findings_in(path) == []
    assert (pairs.prompt.max, pairs.longer.max) == (6, 13)


def test_contradicting_and_repeated_pairs_are_found_on_their_lines(
    tmp_path: Path,
) -> None:
    swapped = pair("Where is parcel 4?", "I do not know at all.", "On its way.")
    assert findings_in(write_pairs(tmp_path, *GOOD, "", swapped, GOOD[7])) == [
        (
            32,
            "preference_contradiction",
            "Line 32 prefers the answer that line 5 rejects for the same prompt.",
        ),
        (33, "preference_repeated", "Line 33 repeats line 8."),
    ]


def test_pairs_whose_preferred_answer_is_mostly_the_longer_one_are_reported(tmp_path: Path) -> None:
    long = [pair(f"Is parcel {n} lost?", "No, it is on its way to you.", "No.") for n in range(90)]
    assert findings_in(write_pairs(tmp_path, *GOOD, *long)) == [
        (None, "preferred_is_longer", "The preferred answer is the longer one in 75% of the pairs.")
    ]


def test_an_answer_of_several_messages_blocks_and_another_format_is_reported(tmp_path: Path) -> None:
    plain = json.dumps({"prompt": "x", "chosen": "a", "rejected": "b"})
    several = json.loads(GOOD[0])
    several["preferred_output"] *= 2
    assert findings_in(write_pairs(tmp_path, *GOOD, plain, json.dumps(several))) == [
        (32, "not_one_answer", "Line 32 has an answer of more than one message."),
        (None, "pairs_in_another_form", "1 pair is in TRL's format (prompt, chosen, rejected)."),
    ]


def test_a_file_without_a_good_pair_is_blocked(tmp_path: Path) -> None:
    report = report_of(write_pairs(tmp_path, "{}", "no", pair("x", "same", "same")))
    assert report.pairs is None and report.is_blocked


def test_training_rows_are_written_as_pairs_and_held_out_rows_with_the_preferred_answer(
    tmp_path: Path,
) -> None:
    plain = [json.dumps({"prompt": f"Ask {n}", "chosen": "yes", "rejected": f"no {n}"}) for n in range(30)]
    report = report_of(write_pairs(tmp_path, *GOOD, *plain), tmp_path / "out")
    assert not report.is_blocked
    pairs, train, held = (
        rows_in(tmp_path / "out", sha256)
        for sha256 in (report.pairs_sha256, report.train_sha256, report.holdout_sha256)
    )
    assert (len(pairs), len(train), len(held)) == (40, 40, 20)
    assert (report.n_train, report.n_holdout) == (40, 20)
    assert all(set(row) == {"input", "preferred_output", "non_preferred_output"} for row in pairs)
    assert [[*row["input"]["messages"], *row["preferred_output"]] for row in pairs] == [
        row["messages"] for row in train
    ]
    assert {row["messages"][-1]["content"] for row in held} <= {"On its way.", "yes"}
    assert Report.from_json(report.to_json()) == report


def test_a_written_pair_keeps_its_tools_and_drops_keys_that_no_trainer_reads(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "find", "parameters": {}}}
    row = json.loads(GOOD[0])
    row["input"] |= {"tools": [tool], "quux": 1}
    row["non_preferred_output"][0]["annotator"] = "quux"
    row["reviewer"] = "quux"
    prompts = [{"messages": [{"role": "user", "content": f"Ask {n}"}]} for n in range(15)]
    lines = [json.dumps(row | {"input": row["input"] | prompt}) for prompt in prompts]
    report = report_of(write_pairs(tmp_path, *lines), tmp_path / "out")
    assert "annotator, quux, reviewer" in str([finding.message for finding in report.findings])
    pairs = rows_in(tmp_path / "out", report.pairs_sha256)
    assert all(pair["input"]["tools"] == [tool] for pair in pairs)
    assert "quux" not in json.dumps(pairs)
    assert all(row["tools"] == [tool] for row in rows_in(tmp_path / "out", report.train_sha256))


def test_secrets_and_personal_data_in_a_rejected_answer_are_found(tmp_path: Path) -> None:
    secret = pair("a", "b", "My key is sk-proj-" + "a1B2" * 12)
    mail = pair("c", "d", "Write to anna.quux@quux-mail.org")
    both = pair("anna.quux@quux-mail.org?", "d", "Write to anna.quux@quux-mail.org")
    findings = report_of(write_pairs(tmp_path, *GOOD, secret, mail, both)).findings
    by_line = sorted((finding.line, finding.code) for finding in findings if finding.line)
    assert by_line == [(31, "secret"), (32, "personal_data"), (33, "personal_data")]


def run_check(path: Path, *options: str) -> Any:
    return CliRunner().invoke(main, ["check", str(path), "--quick", *options])


def test_finetune_check_describes_pairs_and_how_to_train_on_them(tmp_path: Path) -> None:
    run = run_check(write_pairs(tmp_path, *GOOD))
    assert run.exit_code == 0
    assert run.output.splitlines()[:4] == [
        "pairs.jsonl: 30 preference pairs, 30 prompts",
        "nothing to fix",
        "A prompt has 6 tokens on average, 6 at most; with its longer answer 13 and 13 (o200k_base)",
        "The preferred answer is the longer one in 0% of the pairs",
    ]
    assert "In Slack, /finetune start NAME method=dpo trains on them" in run.output


def test_finetune_check_estimates_training_on_pairs_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toml = '[trainer.models]\nours = "HuggingFaceTB/SmolLM2-135M-Instruct"\n'
    (tmp_path / "finetune.toml").write_text(toml)
    file = write_pairs(tmp_path, *GOOD)
    assert "Training them" not in run_check(file).output
    output = run_check(file, "--target", "ours").output
    assert "Training them on HuggingFaceTB/SmolLM2-135M-Instruct here: fits, about " in output
    assert "run finetune calibrate to measure" in output
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "calibration.json").write_text(MACHINE.to_json())
    assert "if nothing else runs" in run_check(file, "--target", "ours").output
    raw = json.loads(run_check(file, "--target", "ours", "--json").output)
    assert raw["takes"]["minutes"] > 0.2


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (pair("x", "same", "same"), "line 31 has the same answer twice"),
        (pair("My key is sk-proj-" + "a1B2" * 12, "a", "b"), "line 31"),
        (
            GOOD[0]
            .replace("I do not know at all.", "On its way.", 1)
            .replace('assistant"', 'assistant", "by": "a"', 1),
            "line 31 has the same answer twice",
        ),
        ("{", "line 31 is not valid JSON"),
    ],
)
def test_finetune_check_exits_with_1_if_a_pair_has_to_be_fixed(tmp_path: Path, line: str, fault: str) -> None:
    run = run_check(write_pairs(tmp_path, *GOOD, line))
    assert run.exit_code == 1
    assert fault in run.output and "They can't be used until this is fixed." in run.output
    raw = json.loads(run_check(write_pairs(tmp_path, *GOOD, line), "--json").output)
    assert (raw["blocked"], raw["format"]) == (True, "preference")
