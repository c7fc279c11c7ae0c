"""The same plan as each engine's own config."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from tests.local.families import FAMILIES, gemma3, make_family, mistral3
from trainers.local.engines.catalog import AXOLOTL, ENGINES, ON_THIS_MACHINE, Engine
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


def build(name: str, plan: EnginePlan = PLAN) -> EngineConfig:
    return build_config(ENGINES[name], plan, ENV)


def config(name: str, plan: EnginePlan = PLAN) -> dict[str, Any]:
    files = build(name, plan).files
    if name == "unsloth":
        return dict(json.loads(files["config.json"]))
    return dict(yaml.safe_load(files["config.yml"]))


def test_unsloths_config_has_the_plan() -> None:
    settings = config("unsloth")
    assert (settings["model"]["model_name"], settings["model"]["load_in_4bit"]) == ("/models/tiny", False)
    assert settings["lora"] | {"use_gradient_checkpointing": None} == {
        "r": 8,
        "lora_alpha": 24,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "v_proj"],
        "random_state": 7,
        "use_gradient_checkpointing": None,
    }
    arguments = settings["arguments"]
    assert (arguments["num_train_epochs"], arguments["per_device_train_batch_size"]) == (3, 4)
    assert (arguments["learning_rate"], arguments["seed"], arguments["max_length"]) == (1e-5, 7, 512)
    assert settings["valid"] == "rows/valid.jsonl"


def test_llamafactorys_config_has_the_plan() -> None:
    settings = config("llamafactory")
    assert (settings["lora_rank"], settings["lora_alpha"], settings["lora_dropout"]) == (8, 24, 0.05)
    assert (settings["lora_target"], settings["model_name_or_path"]) == ("q_proj,v_proj", "/models/tiny")
    assert (settings["num_train_epochs"], settings["per_device_train_batch_size"]) == (3, 4)
    assert (settings["learning_rate"], settings["seed"], settings["cutoff_len"]) == (1e-5, 7, 512)


def test_axolotls_config_has_the_plan() -> None:
    settings = config("axolotl")
    assert (settings["lora_r"], settings["lora_alpha"], settings["lora_dropout"]) == (8, 24, 0.05)
    assert (settings["lora_target_modules"], settings["base_model"]) == (["q_proj", "v_proj"], "/models/tiny")
    assert (settings["num_epochs"], settings["micro_batch_size"]) == (3, 4)
    assert (settings["learning_rate"], settings["seed"], settings["sequence_len"]) == (1e-5, 7, 512)


@pytest.mark.parametrize("name", ON_THIS_MACHINE)
def test_no_engine_runs_a_models_code_and_all_log_every_step(name: str) -> None:
    settings = config(name)
    flat = {**settings, **settings.get("model", {}), **settings.get("arguments", {})}
    assert flat["trust_remote_code"] is False
    assert flat["logging_steps"] == 1
    assert (flat["save_steps"], flat["eval_steps"]) == (63, 63)


@pytest.mark.parametrize("name", ON_THIS_MACHINE)
def test_every_engine_gets_the_weight_decay(name: str) -> None:
    settings = config(name, replace(PLAN, settings=replace(SETTINGS, weight_decay=0.01)))
    assert {**settings, **settings.get("arguments", {})}["weight_decay"] == 0.01


@pytest.mark.parametrize("name", ON_THIS_MACHINE)
def test_without_validation_rows_nothing_is_validated(name: str) -> None:
    settings = config(name, replace(PLAN, has_validation=False))
    assert "eval_steps" not in {**settings, **settings.get("arguments", {})}


@pytest.mark.parametrize("name", ON_THIS_MACHINE)
def test_the_checked_keys_are_those_in_the_config(name: str) -> None:
    settings = config(name)
    parts = (
        {key: settings[key] for key in ("model", "lora", "arguments")}
        if name == "unsloth"
        else {"config": settings}
    )
    assert build(name).keys == {part: frozenset(keys) for part, keys in parts.items()}


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
def test_an_engine_gets_the_quantization_and_its_callback_checks_it(
    name: str, kind: Quantization, device: Literal["cpu", "cuda"]
) -> None:
    plan = replace(PLAN, settings=replace(SETTINGS, quantization=kind), device=device)
    settings = config(name, plan)
    loading = settings.get("model", settings)
    assert {key: loading.get(key) for key in BITS[name, kind]} == BITS[name, kind]
    assert build(name, plan).environment["FINETUNE_QUANTIZATION"] == kind


@pytest.mark.parametrize("name", ON_THIS_MACHINE)
def test_validations_within_an_epoch_are_left_to_the_callback(name: str) -> None:
    built = build(name, replace(PLAN, settings=replace(SETTINGS, eval_steps=10)))
    assert built.environment["FINETUNE_EVAL_STEPS"] == "10"
    assert "class JobCallback" in built.files["callback.py"]
    assert any("JobCallback()" in text for file, text in built.files.items() if file != "callback.py")


def test_axolotl_finds_the_plugin_beside_its_config() -> None:
    assert config("axolotl")["plugins"] == ["plugin.JobPlugin"]
    assert "class JobPlugin" in build("axolotl").files["plugin.py"]
    assert build("axolotl").environment["PYTHONPATH"] == "."


def test_on_a_gpu_no_engine_is_restricted_to_the_cpu() -> None:
    on_gpu = replace(PLAN, device="cuda", is_bf16=True)
    assert config("llamafactory", on_gpu)["use_cpu"] is False
    assert "lora_mlp_kernel" not in config("axolotl", on_gpu)
    assert build("axolotl", on_gpu).environment.get("ACCELERATE_USE_CPU") is None
    assert "UNSLOTH_FORCE_CPU" not in build("unsloth", on_gpu).environment
    assert config("unsloth", on_gpu)["model"]["dtype"] == "bfloat16"


def test_a_gpu_without_bfloat16_trains_in_float16() -> None:
    on_t4 = replace(PLAN, device="cuda", is_fp16=True)
    for engine in ("llamafactory", "axolotl"):
        assert (config(engine, on_t4)["fp16"], config(engine, on_t4)["bf16"]) == (True, False)
    unsloth = config("unsloth", on_t4)
    assert (unsloth["arguments"]["fp16"], unsloth["model"]["dtype"]) == (True, "float16")


def test_a_long_epoch_has_several_checkpoints() -> None:
    plan = replace(PLAN, rows=4_000)
    assert (plan.steps_an_epoch, plan.save_steps, plan.total_steps) == (1000, 100, 3000)
    assert replace(PLAN, rows=4 * 254).save_steps == 100  # 2 · 127
    assert replace(PLAN, rows=4 * 130).save_steps == 65


def test_with_a_ceiling_checkpoints_are_more_frequent() -> None:
    plan = replace(PLAN, rows=4_000, settings=replace(SETTINGS, max_seconds=3600))
    assert (plan.steps_an_epoch, plan.save_steps) == (1000, 25)
    assert replace(plan, rows=4 * 127).save_steps == 25
    assert replace(plan, rows=4 * 66).save_steps == 22
    assert replace(plan, rows=4 * 24).save_steps == 24


@pytest.mark.parametrize("number", [1e-05, 2.0, 0.05, 3e22, 1.5e-7])
def test_a_number_stays_a_number_in_yaml(number: float) -> None:
    assert yaml.safe_load(as_yaml({"rate": number})) == {"rate": number}


def test_a_string_stays_a_string_in_yaml() -> None:
    values: dict[str, Any] = {
        "a": "no",
        "b": "1e5",
        "c": "x: y # z",
        "d": ["é", "it's"],
        "e": None,
        "f": "1:30",
    }
    assert yaml.safe_load(as_yaml(values)) == values


def test_the_script_runs_from_any_folder_with_its_environment(tmp_path: Path) -> None:
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


def test_rows_end_with_their_last_answer_and_mark_what_is_learned(tmp_path: Path) -> None:
    row = Row(1, [5, 6, 7, 8, 9], [False, False, True, True, False])
    write_rows(tmp_path / "train.jsonl", Rows([row], 0, 0))
    assert json.loads((tmp_path / "train.jsonl").read_text()) == {
        "input_ids": [5, 6, 7, 8],
        "attention_mask": [1, 1, 1, 1],
        "labels": [-100, -100, 7, 8],
    }


def test_all_linear_means_every_linear_layer_but_the_output(tiny_model_dir: Path) -> None:
    names = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    assert target_names(tiny_model_dir, Parameters(engine="axolotl")) == names


def test_target_modules_must_exist(tiny_model_dir: Path) -> None:
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
def test_a_base_that_processes_images_needs_the_builtin_engine(
    family: Callable[[], Any], tmp_path: Path
) -> None:
    family().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        TrainingFailed, match=r"axolotl can't train this: the base's model also processes images"
    ) as caught:
        target_names(tmp_path, Parameters(engine="axolotl"))
    assert (caught.value.code, caught.value.param) == ("engine_cannot", "model")


def test_a_base_stored_quantised_needs_the_builtin_engine(tiny_model_dir: Path, tmp_path: Path) -> None:
    for path in tiny_model_dir.iterdir():
        (tmp_path / path.name).symlink_to(path)
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
    """Axolotl has one version per Python."""
    lines = constraints_file(engine).read_text().splitlines()
    packages = {line.partition("==")[0].lower().replace("_", "-"): line for line in lines}
    assert all("==" in line for line in lines)
    assert packages[engine.package] == engine.requirements(has_gpu=True)[0]
    if not engine.is_hosted:
        assert {"bitsandbytes", "transformers", "peft", "trl"} <= set(packages)
    assert not {"torch", "torchvision", "torchaudio", "triton", "xformers"} & set(packages)


def test_experts_in_4_bits_need_the_builtin_engine(tmp_path: Path) -> None:
    """Other engines don't quantise experts, but our server would."""
    base = make_family(tmp_path / "mixtral", FAMILIES["mixtral"])
    with pytest.raises(TrainingFailed) as caught:
        target_names(base, Parameters(engine="unsloth", quantization="nf4"))
    assert (caught.value.code, caught.value.param) == ("engine_cannot", "quantization")
    assert "experts would not be quantised" in caught.value.message
    assert "q_proj" in target_names(base, Parameters(engine="unsloth", quantization="int8"))
