"""`finetune plan-memory`, `finetune calibrate` and `finetune models advise`."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.cli import hardware
from tests.bot.cli_runner import ROOT, finetune, finetune_json
from trainers.sizing.hardware import this_machine
from trainers.sizing.training_time import guess_calibration


def plan(*arguments: str) -> str:
    result = finetune("plan-memory", *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def plan_json(*arguments: str) -> dict[str, Any]:
    return finetune_json("plan-memory", *arguments)


def test_a_plan_in_4_bits_names_its_parts_and_why_they_are_large() -> None:
    text = plan("meta-llama/Llama-4-Scout-17B-16E-Instruct", "--method", "qlora", "--gpu", "h100")
    assert (
        "It fits on the NVIDIA H100 80 GB: about 72.5 of 85.5 GB, with 4 of the 8 rows of a step at a time"
        in text
    )
    assert "58.67 GB  linear layers and experts at 4.13 bits each" in text
    assert "experts are unpacked one layer at a time; activations are always recomputed" in text
    assert "if memory is too small for one row" not in text


def test_experts_stay_unquantized_in_8_bits_and_4_bits_are_suggested() -> None:
    text = plan("meta-llama/Llama-4-Scout-17B-16E-Instruct", "--method", "8bit", "--gpu", "h200")
    assert "It does not fit on the NVIDIA H200" in text
    assert "stay unquantized with 8 bits" in text
    assert "all weights take 58.7 GB" in text


def test_a_plan_that_does_not_fit_says_what_would() -> None:
    text = plan("mistral-7b", "--gpu", "16")
    need = "even with checkpointing and 1 of the 8 rows of a step at a time it takes about 16.9 GB, and there are 16.0."
    assert f"It does not fit on a GPU of 16 GB: {need}" in text
    assert "What would fit" in text
    assert "QLoRA (--method qlora): about 6.7 GB" in text


def test_a_plan_begins_with_what_the_trainer_will_do() -> None:
    lines = plan("mistral-7b", "--gpu", "24", "--method", "qlora").splitlines()
    fits = "It fits on a GPU of 24 GB: about 10.5 of 24.0 GB"
    assert lines[0].endswith("8 a step")
    assert lines[2] == f"{fits}, with checkpointing, which the trainer does by itself."
    assert any("Without these changes it would take 55.2 GB" in line for line in lines)
    chosen = plan("mistral-7b", "--gpu", "24", "--method", "qlora", "--checkpointing")
    assert chosen.splitlines()[2] == f"{fits}."


def test_json_has_bytes_that_add_up() -> None:
    answer = plan_json("phi-4", "--gpu", "24")
    parts = {name: size for name, size in answer["bytes"].items() if name != "total"}
    assert sum(parts.values()) == answer["bytes"]["total"]
    assert answer["parameters"]["total"] == 14_659_507_200
    assert (answer["fits"], answer["class"], answer["gated"]) == ("too large", "Phi3ForCausalLM", False)
    work = answer["work"]
    assert (answer["asked"]["batch"], work["batch"], work["checkpoints"]) == (8, 1, True)
    assert {choice["method"] for choice in answer["what_would_fit"]} <= {"lora", "qlora"}


def test_a_plan_for_pairs_counts_both_answers_and_all_words() -> None:
    chats = ("smollm2-135m", "--length", "128", "--gpu", "24")
    text, answer = plan(*chats, "--pairs"), plan_json(*chats, "--pairs")
    assert "preference pairs of 128 tokens, 8 a step" in text
    assert "for 2,048 tokens at a time, both answers of a pair" in text
    assert "both answers' tokens × 49,152 words, 32,768 at a time, and their gradients" in text
    assert "not a second copy. Its logits (" in text
    assert answer["work"]["pairs"] is True
    assert 0 < answer["reference_pass_bytes"] <= answer["bytes"]["logits"]
    without = plan_json(*chats)
    assert answer["total_gb"] > without["total_gb"]
    assert without["reference_pass_bytes"] is None


def test_without_a_gpu_the_plan_is_for_this_machine() -> None:
    assert "this machine" in plan("smollm2-135m")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("gpt-4o",), "Unknown base model 'gpt-4o'"),
        (("smollm2-135m", "--length", "9000"), "reads 8,192 tokens at most"),
        (("smollm2-135m", "--length", "0"), "Invalid value for '--length'"),
        (("smollm2-135m", "--batch", "0"), "Invalid value for '--batch'"),
        (("smollm2-135m", "--method", "dora"), "Invalid value for '--method'"),
        (("smollm2-135m", "--pairs", "--method", "full"), "Pairs need LoRA"),
        (("gemma-3-1b", "--gpu", "potato"), "I don't know the GPU 'potato'"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    result = finetune("plan-memory", *arguments)
    assert result.exit_code == 2
    assert sentence in result.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a measurement is stored."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("FINETUNE_CONFIG", raising=False)
    if "PYTHONPATH" not in os.environ:
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path / "finetune"


@pytest.mark.deep
def test_calibrate_stores_what_a_child_process_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_DTYPE", "fp32")
    monkeypatch.setattr(hardware, "MEASURING", "tests.bot.quick_calibrate")
    result = finetune("calibrate", "--seconds", "2")
    assert result.exit_code == 0, result.output
    assert "This machine trains at" in result.output
    assert "smollm2-135m" in result.output
    assert json.loads((folder / "calibration.json").read_text())["speed"] > 0


@pytest.mark.deep
def test_a_failed_measurement_stores_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_DTYPE", "fp3")
    result = finetune("calibrate", "--seconds", "2")
    assert result.exit_code == 2
    assert "FINETUNE_DTYPE is 'fp3'" in result.output
    assert not list(folder.glob("*"))


def test_a_base_is_advised_by_task_licence_and_what_fits() -> None:
    result = finetune("models", "advise", "--gpu", "24")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(
        "For labels on a GPU of 24 GB, start with smollm2-360m (0.36B, Apache 2.0)."
    )
    (gpt,) = (line for line in result.stdout.splitlines() if line.startswith("openai/gpt-oss-20b"))
    assert gpt.endswith("fits in 4 bits") and "llama-3.3-70b" not in result.stdout.lower()
    assert '"smollm2-360m" = "HuggingFaceTB/SmolLM2-360M-Instruct"' in result.stdout

    answer = finetune_json("models", "advise", "--task", "texts", "--gpu", "h100", "--free")
    assert {row["licence"] for row in answer["models"]} == {"Apache 2.0", "MIT"}
    (first,) = (row for row in answer["models"] if row["model"] == answer["first"])
    assert (first["fits"], first["source"]) == ("lora", f"https://huggingface.co/{answer['first']}")
    assert 10e9 < first["parameters"] <= 15e9
    small = finetune_json("models", "advise", "--task", "texts", "--gpu", "16")
    open_rows = [row for row in small["models"] if row["fits"] and row["licence"] in ("Apache 2.0", "MIT")]
    largest = max((row for row in open_rows if row["parameters"] <= 15e9), key=lambda row: row["parameters"])
    assert small["first"] == largest["model"], "whichever of the licences it has"

    assert "No model is recommended" in finetune("models", "advise", "--gpu", "1").stdout
    assert finetune("models", "advise", "--gpu", "no-such").exit_code == 2


def test_advice_has_the_time_of_a_pass_as_measured_or_guessed_here(folder: Path) -> None:
    guess = finetune("models", "advise").stdout
    assert "guessed: it may be a third or three times as much. `finetune calibrate` measures" in guess
    assert finetune_json("models", "advise")["pass"] == {"rows": 1000, "tokens": 64, "speed": "guessed"}

    measured = guess_calibration(this_machine())
    assert measured is not None
    folder.mkdir()
    slow = replace(measured, speed=measured.speed / 10, measured_at=1_790_000_000.0)
    (folder / "calibration.json").write_text(slow.to_json(), encoding="utf-8")
    before = {
        row["model"]: row["pass_seconds"]
        for row in finetune_json("models", "advise", "--gpu", "h100")["models"]
    }
    after = finetune_json("models", "advise")
    assert after["pass"]["speed"] == "measured"
    assert all(row["pass_seconds"] > before[row["model"]] for row in after["models"])
    assert "as measured on 2026-09-21" in finetune("models", "advise").stdout

    (folder / "calibration.json").write_text("{}", encoding="utf-8")
    assert "measure again with finetune calibrate" in finetune("models", "advise").output


def test_the_time_on_a_gpu_without_a_name_is_unknown_with_its_cure(folder: Path) -> None:
    text = finetune("models", "advise", "--gpu", "24").stdout
    assert "It is unknown for a GPU without a name: name it, like --gpu rtx4090." in text
    assert {row["pass_seconds"] for row in finetune_json("models", "advise", "--gpu", "24")["models"]} == {
        None
    }
