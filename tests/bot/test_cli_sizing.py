"""`finetune plan-memory` and `finetune calibrate` as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bot.cli import hardware, main

ROOT = Path(__file__).parents[2]


def finetune(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def plan(*arguments: str) -> Result:
    return finetune("plan-memory", *arguments)


def test_scout_in_4_bits_names_its_parts_and_why_they_are_large() -> None:
    done = plan("meta-llama/Llama-4-Scout-17B-16E-Instruct", "--method", "qlora", "--gpu", "h100")
    assert done.exit_code == 0, done.output
    assert (
        "It fits on the NVIDIA H100 80 GB: about 74.0 of 85.5 GB, with 4 of the 8 rows of a step at a time"
        in done.output
    )
    assert "58.67 GB  linear layers and experts at 4.13 bits each" in done.output
    assert "experts are unpacked one layer at a time; activations are always recomputed" in done.output
    assert "if memory is too small for one row" not in done.output


def test_scout_in_8_bits_keeps_its_experts_and_hears_of_4() -> None:
    done = plan("meta-llama/Llama-4-Scout-17B-16E-Instruct", "--method", "8bit", "--gpu", "h200")
    assert "It does not fit on the NVIDIA H200" in done.output
    assert "stay unquantized with 8 bits" in done.output
    assert "all weights take 58.7 GB" in done.output


def test_a_plan_says_what_would_fit() -> None:
    done = plan("mistral-7b", "--gpu", "16")
    even = "even with checkpointing and 1 of the 8 rows of a step at a time it takes about 16.9 GB, and there are 16.0."
    assert f"It does not fit on a GPU of 16 GB: {even}" in done.output
    assert "What would fit" in done.output
    assert "QLoRA (--method qlora): about 6.7 GB" in done.output


def test_the_first_thing_said_is_what_the_trainer_will_do() -> None:
    done = plan("mistral-7b", "--gpu", "24", "--method", "qlora").output.splitlines()
    assert done[0].endswith("8 a step")
    assert done[2] == (
        "It fits on a GPU of 24 GB: about 10.6 of 24.0 GB, with checkpointing, which the trainer does by itself."
    )
    assert any("Without these changes it would take 55.3 GB" in line for line in done)
    assert plan("mistral-7b", "--gpu", "24", "--method", "qlora", "--checkpointing").output.splitlines()[
        2
    ] == ("It fits on a GPU of 24 GB: about 10.6 of 24.0 GB.")


def test_json_holds_bytes_that_add_up() -> None:
    told = json.loads(plan("phi-4", "--gpu", "24", "--json").output)
    parts = {name: size for name, size in told["bytes"].items() if name != "total"}
    assert sum(parts.values()) == told["bytes"]["total"]
    assert told["parameters"]["total"] == 14_659_507_200
    assert (told["fits"], told["class"], told["gated"]) == ("too large", "Phi3ForCausalLM", False)
    assert (told["asked"]["batch"], told["work"]["batch"], told["work"]["checkpoints"]) == (8, 1, True)
    assert {one["method"] for one in told["what_would_fit"]} <= {"lora", "qlora"}


def test_pairs_have_both_answers_and_all_words_among_their_parts() -> None:
    done = plan("smollm2-135m", "--pairs", "--length", "128", "--gpu", "24").output
    assert "preference pairs of 128 tokens, 8 a step" in done
    assert "for 2,048 tokens at a time, both answers of a pair" in done
    assert "both answers' tokens × 49,152 words, 32,768 at a time, and their gradients" in done
    assert "not a second copy. Its logits (" in done
    told = json.loads(plan("smollm2-135m", "--pairs", "--length", "128", "--gpu", "24", "--json").output)
    assert told["work"]["pairs"] is True
    assert 0 < told["reference_pass_bytes"] <= told["bytes"]["logits"]
    chats = json.loads(plan("smollm2-135m", "--length", "128", "--gpu", "24", "--json").output)
    assert told["total_gb"] > chats["total_gb"]
    assert chats["reference_pass_bytes"] is None


def test_this_machine_is_meant_where_no_gpu_is_named() -> None:
    assert "this machine" in plan("smollm2-135m").output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gpt-4o",), "Unknown base model 'gpt-4o'"),
        (("smollm2-135m", "--length", "9000"), "reads 8,192 tokens at most"),
        (("smollm2-135m", "--length", "0"), "Invalid value for '--length'"),
        (("smollm2-135m", "--length", "1000000"), "Invalid value for '--length'"),
        (("smollm2-135m", "--batch", "0"), "Invalid value for '--batch'"),
        (("smollm2-135m", "--method", "dora"), "Invalid value for '--method'"),
        (("smollm2-135m", "--pairs", "--method", "full"), "Pairs need LoRA"),
        (("gemma-3-1b", "--gpu", "potato"), "I don't know the GPU 'potato'"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(arguments: tuple[str, ...], said: str) -> None:
    done = plan(*arguments)
    assert done.exit_code == 2
    assert said in done.output


def test_calibrate_measures_by_a_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("FINETUNE_CONFIG", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("FINETUNE_DTYPE", "fp32")
    monkeypatch.setattr(hardware, "MEASURING", "tests.bot.quick_calibrate")
    done = CliRunner().invoke(main, ["calibrate", "--seconds", "2"])
    assert done.exit_code == 0, done.output
    assert "This machine trains at" in done.output
    assert "smollm2-135m" in done.output
    assert json.loads((tmp_path / "finetune" / "calibration.json").read_text())["speed"] > 0


def test_a_measuring_process_that_fails_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("FINETUNE_CONFIG", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("FINETUNE_DTYPE", "fp3")
    done = CliRunner().invoke(main, ["calibrate", "--seconds", "2"])
    assert done.exit_code == 2
    assert "FINETUNE_DTYPE is 'fp3'" in done.output
    assert not (tmp_path / "finetune").exists()


def test_a_base_is_advised_by_task_licence_and_what_fits() -> None:
    done = finetune("models", "advise", "--gpu", "24")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(
        "For labels on a GPU of 24 GB, start with smollm2-360m (0.36B, Apache 2.0)."
    )
    (gpt,) = (line for line in done.stdout.splitlines() if line.startswith("openai/gpt-oss-20b"))
    assert gpt.endswith("fits in 4 bits") and "llama-3.3-70b" not in done.stdout.lower()
    assert '"smollm2-360m" = "HuggingFaceTB/SmolLM2-360M-Instruct"' in done.stdout

    found = json.loads(
        finetune("models", "advise", "--task", "texts", "--gpu", "h100", "--free", "--json").stdout
    )
    assert {row["licence"] for row in found["models"]} == {"Apache 2.0", "MIT"}
    (first,) = (row for row in found["models"] if row["model"] == found["first"])
    assert (first["fits"], first["source"]) == ("lora", f"https://huggingface.co/{found['first']}")
    assert 10e9 < first["parameters"] <= 15e9

    assert "No model is recommended" in finetune("models", "advise", "--gpu", "1").stdout
    assert finetune("models", "advise", "--gpu", "no-such").exit_code == 2
