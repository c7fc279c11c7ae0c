"""The same plan in each engine's own words."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml  # type: ignore[import-untyped]

from tests.local.families import FAMILIES, gemma3, make_family, mistral3
from trainers.local.engines.catalog import AXOLOTL, ENGINES, Engine
from trainers.local.engines.installation import constraints_file
from trainers.local.engines.plan import EngineConfig, EnginePlan, write_files
from trainers.local.engines.plan import yaml as as_yaml
from trainers.local.engines.runner import build_config
from trainers.local.engines.workdir import target_names, write_rows
from trainers.local.training.data import Row, Rows
from trainers.local.training.errors import TrainingFailed
from trainers.methods import Parameters, Quantization

ENV = Path("/data/engines/x/env")
SETTINGS = Parameters(
    n_epochs=3,
    batch_size=4,
    learning_rate=1e-5,
    lora_r=8,
    lora_alpha=24,
    lora_dropout=0.05,
    max_length=512,
)
PLAN = EnginePlan(
    base="/models/tiny",
    settings=SETTINGS,
    seed=7,
    targets=("q_proj", "v_proj"),
    rows=250,
    has_validation=True,
    device="cpu",
    is_bf16=False,
)


def written(name: str, plan: EnginePlan = PLAN) -> EngineConfig:
    return build_config(ENGINES[name], plan, ENV)


def config(name: str, plan: EnginePlan = PLAN) -> dict[str, Any]:
    files = written(name, plan).files
    loaded: dict[str, Any] = (
        json.loads(files["config.json"]) if name == "unsloth" else yaml.safe_load(files["config.yml"])
    )
    return loaded


def test_unsloth_is_told_the_plan() -> None:
    told = config("unsloth")
    assert (told["model"]["model_name"], told["model"]["load_in_4bit"]) == ("/models/tiny", False)
    assert told["lora"] | {"use_gradient_checkpointing": None} == {
        "r": 8,
        "lora_alpha": 24,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "v_proj"],
        "random_state": 7,
        "use_gradient_checkpointing": None,
    }
    arguments = told["arguments"]
    assert (arguments["num_train_epochs"], arguments["per_device_train_batch_size"]) == (3, 4)
    assert (arguments["learning_rate"], arguments["seed"], arguments["max_length"]) == (1e-5, 7, 512)
    assert told["valid"] == "rows/valid.jsonl"


def test_llamafactory_is_told_the_plan() -> None:
    told = config("llamafactory")
    assert (told["lora_rank"], told["lora_alpha"], told["lora_dropout"]) == (8, 24, 0.05)
    assert (told["lora_target"], told["model_name_or_path"]) == ("q_proj,v_proj", "/models/tiny")
    assert (told["num_train_epochs"], told["per_device_train_batch_size"]) == (3, 4)
    assert (told["learning_rate"], told["seed"], told["cutoff_len"]) == (1e-5, 7, 512)


def test_axolotl_is_told_the_plan() -> None:
    told = config("axolotl")
    assert (told["lora_r"], told["lora_alpha"], told["lora_dropout"]) == (8, 24, 0.05)
    assert (told["lora_target_modules"], told["base_model"]) == (["q_proj", "v_proj"], "/models/tiny")
    assert (told["num_epochs"], told["micro_batch_size"]) == (3, 4)
    assert (told["learning_rate"], told["seed"], told["sequence_len"]) == (1e-5, 7, 512)


@pytest.mark.parametrize("name", list(ENGINES))
def test_no_engine_runs_a_models_code_or_skips_a_step_in_its_log(name: str) -> None:
    told = config(name)
    flat = {**told, **told.get("model", {}), **told.get("arguments", {})}
    assert flat["trust_remote_code"] is False
    assert flat["logging_steps"] == 1
    assert (flat["save_steps"], flat["eval_steps"]) == (63, 63)


@pytest.mark.parametrize("name", list(ENGINES))
def test_every_engine_is_told_the_weight_decay(name: str) -> None:
    told = config(name, replace(PLAN, settings=replace(SETTINGS, weight_decay=0.01)))
    assert {**told, **told.get("arguments", {})}["weight_decay"] == 0.01


@pytest.mark.parametrize("name", list(ENGINES))
def test_without_validation_rows_nothing_is_validated(name: str) -> None:
    told = config(name, replace(PLAN, has_validation=False))
    assert "eval_steps" not in {**told, **told.get("arguments", {})}


@pytest.mark.parametrize("name", list(ENGINES))
def test_the_keys_that_are_checked_are_those_that_are_written(name: str) -> None:
    told = config(name)
    parts = (
        {key: told[key] for key in ("model", "lora", "arguments")} if name == "unsloth" else {"config": told}
    )
    assert written(name).keys == {part: frozenset(keys) for part, keys in parts.items()}


BITS: dict[tuple[str, Quantization], dict[str, object]] = {
    ("unsloth", "none"): {"load_in_4bit": False, "load_in_8bit": False},
    ("unsloth", "nf4"): {"load_in_4bit": True, "load_in_8bit": False},
    ("unsloth", "int8"): {"load_in_4bit": False, "load_in_8bit": True},
    ("axolotl", "none"): {"adapter": "lora", "load_in_4bit": None, "load_in_8bit": None},
    ("axolotl", "nf4"): {"adapter": "qlora", "load_in_4bit": True, "load_in_8bit": None},
    ("axolotl", "int8"): {"adapter": "lora", "load_in_4bit": None, "load_in_8bit": True},
    ("llamafactory", "none"): {"quantization_bit": None, "quantization_method": None},
    ("llamafactory", "nf4"): {
        "quantization_bit": 4,
        "quantization_method": "bnb",
        "quantization_type": "nf4",
        "double_quantization": True,
    },
    ("llamafactory", "int8"): {"quantization_bit": 8, "quantization_method": "bnb"},
}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("name", "kind"), list(BITS))
def test_an_engine_is_told_how_to_load_the_base_and_its_callback_what_to_find(
    name: str, kind: Quantization, device: Literal["cpu", "cuda"]
) -> None:
    plan = replace(PLAN, settings=replace(SETTINGS, quantization=kind), device=device)
    told = config(name, plan)
    told = told.get("model", told)
    assert {key: told.get(key) for key in BITS[name, kind]} == BITS[name, kind]
    assert written(name, plan).environment["FINETUNE_QUANTIZATION"] == kind


@pytest.mark.parametrize("name", list(ENGINES))
def test_validations_within_an_epoch_are_the_callbacks(name: str) -> None:
    made = written(name, replace(PLAN, settings=replace(SETTINGS, eval_steps=10)))
    assert made.environment["FINETUNE_EVAL_STEPS"] == "10"
    assert "class JobCallback" in made.files["callback.py"]
    assert any("JobCallback()" in text for file, text in made.files.items() if file != "callback.py")


def test_axolotl_finds_the_plugin_that_is_written_beside_its_config() -> None:
    assert config("axolotl")["plugins"] == ["plugin.JobPlugin"]
    assert "class JobPlugin" in written("axolotl").files["plugin.py"]
    assert written("axolotl").environment["PYTHONPATH"] == "."


def test_on_a_gpu_nothing_is_held_to_the_cpu() -> None:
    on_gpu = replace(PLAN, device="cuda", is_bf16=True)
    assert config("llamafactory", on_gpu)["use_cpu"] is False
    assert "lora_mlp_kernel" not in config("axolotl", on_gpu)
    assert written("axolotl", on_gpu).environment.get("ACCELERATE_USE_CPU") is None
    assert "UNSLOTH_FORCE_CPU" not in written("unsloth", on_gpu).environment
    assert config("unsloth", on_gpu)["model"]["dtype"] == "bfloat16"


def test_a_gpu_without_bfloat16_trains_in_float16() -> None:
    on_t4 = replace(PLAN, device="cuda", is_fp16=True)
    for engine in ("llamafactory", "axolotl"):
        assert (config(engine, on_t4)["fp16"], config(engine, on_t4)["bf16"]) == (True, False)
    unsloth = config("unsloth", on_t4)
    assert (unsloth["arguments"]["fp16"], unsloth["model"]["dtype"]) == (True, "float16")


def test_a_long_epoch_has_checkpoints_within() -> None:
    plan = replace(PLAN, rows=4_000)
    assert (plan.steps_an_epoch, plan.save_steps, plan.total_steps) == (1000, 100, 3000)
    assert replace(PLAN, rows=4 * 254).save_steps == 100  # 2 · 127
    assert replace(PLAN, rows=4 * 130).save_steps == 65


def test_under_a_ceiling_checkpoints_are_closer() -> None:
    plan = replace(PLAN, rows=4_000, settings=replace(SETTINGS, max_seconds=3600))
    assert (plan.steps_an_epoch, plan.save_steps) == (1000, 25)
    assert replace(plan, rows=4 * 127).save_steps == 25
    assert replace(plan, rows=4 * 66).save_steps == 22
    assert replace(plan, rows=4 * 24).save_steps == 24


@pytest.mark.parametrize("number", [1e-5, 1e-05, 2.0, 0.05, 1e-3, 3e22, 1.5e-7])
def test_a_small_number_stays_one_in_yaml(number: float) -> None:
    assert yaml.safe_load(as_yaml({"rate": number})) == {"rate": number}


def test_a_text_that_looks_like_something_else_stays_text_in_yaml() -> None:
    values: dict[str, Any] = {
        "a": "no",
        "b": "1e5",
        "c": "x: y # z",
        "d": ["é", "it's"],
        "e": None,
        "f": "1:30",
    }
    assert yaml.safe_load(as_yaml(values)) == values


def test_the_script_runs_from_anywhere_and_with_its_environment(tmp_path: Path) -> None:
    folder = tmp_path / "a job's folder"
    tool = tmp_path / "show"
    tool.write_text('#!/bin/sh\npwd; echo "$HF_HUB_OFFLINE $SECRET"; echo "$@"\n')
    tool.chmod(0o700)
    script = write_files(
        folder, EngineConfig({"x": "1"}, ((str(tool), "rows"), (str(tool), "a b")), {"SECRET": "it's"}, {})
    )
    done = subprocess.run([str(script)], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.splitlines() == [str(folder), "1 it's", "rows", str(folder), "1 it's", "a b"]
    assert os.access(script, os.X_OK)


def test_rows_end_with_their_last_answer_and_say_what_is_learnt(tmp_path: Path) -> None:
    row = Row(1, [5, 6, 7, 8, 9], [False, False, True, True, False])
    write_rows(tmp_path / "train.jsonl", Rows([row], 0, 0))
    assert json.loads((tmp_path / "train.jsonl").read_text()) == {
        "input_ids": [5, 6, 7, 8],
        "attention_mask": [1, 1, 1, 1],
        "labels": [-100, -100, 7, 8],
    }


def test_all_linear_is_every_linear_layer_but_the_output(tiny_model_dir: Path) -> None:
    names = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    assert target_names(tiny_model_dir, Parameters(engine="axolotl")) == names


def test_a_module_that_is_not_there_is_a_sentence(tiny_model_dir: Path) -> None:
    assert target_names(
        tiny_model_dir, Parameters(engine="axolotl", target_modules="self_attn.q_proj,v_proj")
    ) == (
        "self_attn.q_proj",
        "v_proj",
    )
    with pytest.raises(
        TrainingFailed, match=r"no linear layer 'w_pack'.*all-linear, or to some of down_proj"
    ):
        target_names(tiny_model_dir, Parameters(engine="axolotl", target_modules="q_proj,w_pack"))


@pytest.mark.parametrize("family", [gemma3, mistral3])
def test_a_base_that_also_sees_is_for_our_own_engine(family: Callable[[], Any], tmp_path: Path) -> None:
    family().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        TrainingFailed, match=r"axolotl can't train this: the base's model also processes images"
    ) as caught:
        target_names(tmp_path, Parameters(engine="axolotl"))
    assert (caught.value.code, caught.value.param) == ("engine_cannot", "model")


def test_a_base_that_is_quantised_already_is_for_our_own_engine(tiny_model_dir: Path, tmp_path: Path) -> None:
    for each in tiny_model_dir.iterdir():
        (tmp_path / each.name).symlink_to(each)
    config = json.loads((tiny_model_dir / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "gptq"}})
    )
    with pytest.raises(TrainingFailed, match="weights are stored in the format gptq"):
        target_names(tmp_path, Parameters(engine="unsloth"))


@pytest.mark.parametrize(
    "engine", [*ENGINES.values(), *(replace(AXOLOTL, version=version) for version in ("0.19.0", "0.21.0"))]
)
def test_an_engines_versions_are_pinned_and_pytorch_is_not(engine: Engine) -> None:
    """axolotl's for either Python."""
    lines = constraints_file(engine).read_text().splitlines()
    packages = {line.partition("==")[0].lower().replace("_", "-"): line for line in lines}
    assert all("==" in line for line in lines)
    assert packages[engine.package] == engine.requirements(has_gpu=True)[0]
    assert "bitsandbytes" in packages
    assert {"transformers", "peft", "trl"} <= set(packages)
    assert not {"torch", "torchvision", "torchaudio", "triton", "xformers"} & set(packages)


def test_experts_in_4_bits_are_the_builtin_engines_alone(tmp_path: Path) -> None:
    """Others leave them in full, and the adapter would be asked over packed ones."""
    base = make_family(tmp_path / "mixtral", FAMILIES["mixtral"])
    with pytest.raises(TrainingFailed) as caught:
        target_names(base, Parameters(engine="unsloth", quantization="nf4"))
    assert (caught.value.code, caught.value.param) == ("engine_cannot", "quantization")
    assert "experts would not be quantised" in caught.value.message
    assert "q_proj" in target_names(base, Parameters(engine="unsloth", quantization="int8"))
