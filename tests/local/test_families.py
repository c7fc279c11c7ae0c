"""Every family that the presets name, trained a few steps through train.py and asked through the server's
generator."""

from __future__ import annotations

import json
import queue
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoTokenizer

from tests.local.families import FAMILIES, HYBRIDS, make_family
from trainers.local.api_errors import ApiError
from trainers.local.job_directory import TrainingJob, read_events, read_json, write_job
from trainers.local.serving.generator import Generator
from trainers.local.serving.values import AnswerEnd, ChatMessage, Piece, Request, Sampling, Target
from trainers.local.tool_calls import render_chat
from trainers.local.train import run_training
from trainers.local.training.base_model import add_lora, load_model
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.model_structure import find_targets
from trainers.methods import Parameters, Quantization

QUESTIONS = {"billing": "my card was charged twice", "shipping": "the parcel has not arrived"}
SETTINGS = Parameters(n_epochs=4, batch_size=4, learning_rate=1e-2, lora_r=8, lora_alpha=16)
KINDS: tuple[Quantization, ...] = ("none", "nf4", "int8")
GREEDY = Sampling(temperature=0, top_p=1, max_tokens=6, stop=(), seed=None)


@pytest.fixture(autouse=True)
def _exact_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_DTYPE", "fp32")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    rows = [conversation(label) for label in QUESTIONS for _ in range(10)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    made = Generator()
    yield made
    made.stop()


def conversation(label: str) -> dict[str, Any]:
    told = {"role": "system", "content": "Sort."}
    return {
        "messages": [
            told,
            {"role": "user", "content": QUESTIONS[label]},
            {"role": "assistant", "content": label},
        ]
    }


def base_of(bases: Path, name: str) -> Path:
    folder = bases / name
    return folder if folder.exists() else make_family(folder, (FAMILIES | HYBRIDS)[name])


def make_job(folder: Path, base: Path, rows: Path, settings: Parameters) -> Path:
    job = TrainingJob(
        id="ftjob-" + "0" * 24,
        base=str(base),
        base_name="toy",
        training_file=str(rows),
        validation_file=None,
        seed=7,
        settings=settings,
        suffix=None,
        metadata={},
        created_at=0,
    )
    write_job(folder, job)
    return folder


def ask(generator: Generator, target: Target, label: str) -> str:
    said: queue.Queue[Any] = queue.Queue()
    messages = [ChatMessage(m["role"], m["content"]) for m in conversation(label)["messages"][:2]]
    generator.submit(Request(target, messages, GREEDY, streams=False, emit=said.put))
    return answered(said)


def answered(said: queue.Queue[Any]) -> str:
    text = ""
    while isinstance(piece := said.get(timeout=60), Piece):
        text += piece.text
    assert isinstance(piece, AnswerEnd), piece
    return text


def losses(folder: Path) -> list[float]:
    lines = (folder / "results.csv").read_text(encoding="utf-8").splitlines()[1:]
    return [float(line.split(",")[1]) for line in lines]


def adapted(folder: Path) -> set[str]:
    """Names of the layers that have matrices in the adapter."""
    names = load_file(folder / "adapter" / "adapter_model.safetensors")
    return {re.sub(r"^base_model\.model\.|\.lora_[AB]\.weight$", "", name) for name in names}


def greedy(model: Any, base: Path, messages: Sequence[dict[str, str]] | None = None) -> str:
    """What transformers itself generates, for the first question where there are no `messages`."""
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    messages = messages or conversation("billing")["messages"][:2]
    text = render_chat(tokenizer, messages, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    made = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=[2, tokenizer.eos_token_id],  # as configured, and as the tokenizer says
    )
    return str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))


def cpu_model(base: Path, **more: Any) -> Any:
    return load_model(str(base), torch.device("cpu"), torch.float32, **more)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_learns_is_saved_and_answers(
    name: str, bases: Path, rows_file: Path, tmp_path: Path, generator: Generator
) -> None:
    family, base = FAMILIES[name], base_of(bases, name)
    folder = make_job(tmp_path, base, rows_file, SETTINGS)
    assert run_training(folder) == 0, read_json(folder / "FAILED")
    assert losses(folder)[-1] < 0.2 * losses(folder)[0]
    assert type(cpu_model(base)).__name__ == family.model_class
    layers = adapted(folder)
    assert all(layer.startswith(family.part) for layer in layers)
    assert {layer.rpartition(".")[2] for layer in layers} == family.layers
    config = read_json(folder / "adapter" / "adapter_config.json") or {}
    assert config["base_model_name_or_path"] == str(base)
    target = Target(str(base), folder / "adapter")
    assert [ask(generator, target, label).strip() for label in QUESTIONS] == list(QUESTIONS)
    told = [event["message"] for event in read_events(folder)]
    assert not any(message.startswith("Rows are computed one by one") for message in told)


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_learns_is_saved_and_answers(
    name: str, bases: Path, rows_file: Path, tmp_path: Path, generator: Generator
) -> None:
    family, base = HYBRIDS[name], base_of(bases, name)
    folder = make_job(tmp_path, base, rows_file, SETTINGS)
    assert run_training(folder) == 0, read_json(folder / "FAILED")
    assert losses(folder)[-1] < 0.3 * losses(folder)[0]
    assert type(cpu_model(base)).__name__ == family.model_class
    layers = adapted(folder)
    assert all(layer.startswith(family.part) for layer in layers)
    assert {layer.rpartition(".")[2] for layer in layers} == family.layers
    target = Target(str(base), folder / "adapter")
    assert [ask(generator, target, label).strip() for label in QUESTIONS] == list(QUESTIONS)


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_answers_many_questions_of_unlike_lengths_as_transformers_does_each(
    name: str, bases: Path, generator: Generator
) -> None:
    base = base_of(bases, name)
    model = cpu_model(base)  # before the generator's thread loads it: transformers can't do both at once
    questions = ["a", "my card was charged twice", "the parcel has not arrived " * 4]
    waiting: list[queue.Queue[Any]] = [queue.Queue() for _ in questions]
    for question, said in zip(questions, waiting, strict=True):
        message = ChatMessage("user", question)
        generator.submit(Request(Target(str(base), None), [message], GREEDY, streams=False, emit=said.put))
    alone = [greedy(model, base, [{"role": "user", "content": question}]) for question in questions]
    assert [answered(said) for said in waiting] == alone


def test_a_layer_that_a_model_does_not_let_adapt_is_refused_with_a_sentence(bases: Path) -> None:
    model = cpu_model(base_of(bases, "mamba-2"))
    with pytest.raises(TrainingFailed, match=r"no linear layer 'out_proj' to adapt.* in_proj") as caught:
        find_targets(model, "out_proj")
    assert caught.value.param == "target_modules"


PACKED = ("llama-3", "phi-4", "llama-4-scout", "qwen-3-moe", "mixtral")


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, kind) for name in PACKED for kind in KINDS[1:]), ("gpt-oss", "nf4")]
)
def test_a_quantised_base_learns_and_its_adapter_answers_over_it(
    name: str, kind: Quantization, bases: Path, rows_file: Path, tmp_path: Path, generator: Generator
) -> None:
    base = base_of(bases, name)
    folder = make_job(tmp_path, base, rows_file, replace(SETTINGS, quantization=kind))
    assert run_training(folder) == 0, read_json(folder / "FAILED")
    assert losses(folder)[-1] < 0.2 * losses(folder)[0]
    assert {layer.rpartition(".")[2] for layer in adapted(folder)} == (FAMILIES | HYBRIDS)[name].layers
    target = Target(str(base), folder / "adapter", kind)
    assert [ask(generator, target, label).strip() for label in QUESTIONS] == list(QUESTIONS)
    weights = load_file(folder / "adapter" / "adapter_model.safetensors").values()
    assert {weight.dtype for weight in weights} == {torch.float32}


def test_nf4_is_double_quantised_in_the_text_part_and_in_experts_and_leaves_the_head(bases: Path) -> None:
    model = cpu_model(base_of(bases, "llama-4-scout"), quantization="nf4")
    layer = model.model.layers[0]
    packed = layer.self_attn.q_proj.weight
    assert (packed.quant_type, packed.quant_state.nested, packed.dtype) == ("nf4", True, torch.uint8)
    assert packed.numel() * 2 == 64 * 64
    experts = layer.feed_forward.experts
    assert (experts.down_proj_packed.dtype, experts.states["down_proj"].nested) == (torch.uint8, True)
    assert experts.down_proj.shape == (2, 128, 64)
    assert model.lm_head.weight.dtype == torch.float32


def test_a_quantised_base_answers_as_its_dense_form_nearly_does(bases: Path) -> None:
    ids = torch.arange(20, 60)[None]
    dense, nf4, int8 = (
        cpu_model(base_of(bases, "llama-3"), quantization=kind)(input_ids=ids).logits for kind in KINDS
    )
    assert 0 < (dense - int8).norm() / dense.norm() < 0.05
    assert 0.02 < (dense - nf4).norm() / dense.norm() < 0.4


def test_a_base_that_is_stored_in_another_quantised_form_is_refused(bases: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base_of(bases, "llama-3"), tmp_path / "fp8")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(TrainingFailed) as caught:
        cpu_model(folder)
    assert (caught.value.code, "in the format fp8" in caught.value.message) == ("base_quantized", True)


def test_a_base_in_mxfp4_takes_no_8_bits(bases: Path) -> None:
    with pytest.raises(TrainingFailed) as caught:
        cpu_model(base_of(bases, "gpt-oss"), quantization="int8")
    assert (caught.value.code, caught.value.param) == ("base_quantized", "quantization")


def test_without_bitsandbytes_a_quantised_job_ends_with_the_way_to_it(
    bases: Path, rows_file: Path, tmp_path: Path, without_bitsandbytes: None
) -> None:
    folder = make_job(tmp_path, base_of(bases, "llama-3"), rows_file, replace(SETTINGS, quantization="nf4"))
    assert run_training(folder) == 1
    failed = read_json(folder / "FAILED") or {}
    assert (failed["code"], failed["param"]) == ("quantization_unavailable", "quantization")
    assert "pip install '.[quantized]' in a checkout" in failed["message"]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_experts_are_trained_where_they_are_named(
    bases: Path, rows_file: Path, tmp_path: Path, generator: Generator
) -> None:
    base, named = base_of(bases, "llama-4-scout"), "q_proj,experts.gate_up_proj,experts.down_proj"
    folder = make_job(tmp_path, base, rows_file, replace(SETTINGS, target_modules=named))
    assert run_training(folder) == 0, read_json(folder / "FAILED")
    assert losses(folder)[-1] < 0.5 * losses(folder)[0]
    config = read_json(folder / "adapter" / "adapter_config.json") or {}
    assert sorted(config["target_parameters"]) == ["experts.down_proj", "experts.gate_up_proj"]
    assert sum(".experts" in layer for layer in adapted(folder)) == 4
    reference = PeftModel.from_pretrained(cpu_model(base), str(folder / "adapter"))
    assert ask(generator, Target(str(base), folder / "adapter"), "billing") == greedy(reference, base)


def test_experts_take_no_dropout(bases: Path) -> None:
    settings = replace(SETTINGS, target_modules="experts.down_proj", lora_dropout=0.1)
    with pytest.raises(TrainingFailed) as caught:
        add_lora(cpu_model(base_of(bases, "llama-4-scout")), settings)
    assert (caught.value.code, caught.value.param) == ("dropout_on_experts", "lora_dropout")


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        (
            "phi-4",
            "q_proj",
            "The base model has no linear layer 'q_proj' to adapt. Its qkv_proj holds q_proj. Set target_modules to "
            "all-linear, or to some of down_proj, gate_up_proj, o_proj, qkv_proj.",
        ),
        (
            "mistral-small-24b",
            "q_proj,patch_conv",
            "The base model has no linear layer 'patch_conv' to adapt in the part that reads and writes text. Set "
            "target_modules to all-linear, or to some of down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, "
            "v_proj.",
        ),
        (
            "llama-4-scout",
            "router",
            "The base model has no linear layer 'router' to adapt. Set target_modules to all-linear, or to some of "
            "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj, experts.down_proj, experts.gate_up_proj.",
        ),
        (
            "llama-3",
            "lm_head",
            "The base model has no linear layer 'lm_head' to adapt. Set target_modules to all-linear, or to some of "
            "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj.",
        ),
    ],
)
def test_a_target_that_is_not_there_is_said_with_what_is(
    name: str, asked: str, said: str, bases: Path
) -> None:
    with pytest.raises(TrainingFailed) as caught:
        find_targets(cpu_model(base_of(bases, name)), asked)
    assert caught.value.message == said


def test_a_named_layer_is_found_in_the_text_part_alone(bases: Path) -> None:
    model = add_lora(cpu_model(base_of(bases, "gemma-3-4b")), replace(SETTINGS, target_modules="q_proj"))
    layers = {name for name, _ in model.named_modules() if name.endswith("q_proj.lora_A")}
    assert layers == {
        f"base_model.model.model.language_model.layers.{layer}.self_attn.q_proj.lora_A" for layer in (0, 1)
    }


def test_a_base_that_lacks_weights_is_refused(bases: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base_of(bases, "llama-3"), tmp_path / "lacking")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingFailed) as caught:
        cpu_model(folder)
    assert caught.value.code == "base_incomplete"
    assert "model.layers.1.mlp.up_proj.weight" in caught.value.message


def test_a_base_whose_file_is_cut_off_is_refused(bases: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base_of(bases, "llama-3"), tmp_path / "cut")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingFailed) as caught:
        cpu_model(folder)
    assert caught.value.code == "base_not_loaded"


def test_an_adapter_of_another_base_is_not_put_on(
    bases: Path, rows_file: Path, tmp_path: Path, generator: Generator
) -> None:
    base = shutil.copytree(base_of(bases, "smollm2"), tmp_path / "base")
    folder = make_job(tmp_path / "job", base, rows_file, replace(SETTINGS, n_epochs=1))
    assert run_training(folder) == 0, read_json(folder / "FAILED")
    torch.manual_seed(1)
    made = FAMILIES["smollm2"].config()
    MODEL_FOR_CAUSAL_LM_MAPPING[type(made)](made).save_pretrained(base)
    for adapter in (folder / "adapter", folder / "checkpoints" / "step-000005"):
        problem = refusal(generator, Target(str(base), adapter))
        assert problem.code == "adapter_of_another_base"
        assert problem.message.startswith(f"The weights of the base model {base} have changed")
    (folder / "DONE").unlink()
    assert run_training(folder) == 1
    assert (read_json(folder / "FAILED") or {})["code"] == "base_changed"


def refusal(generator: Generator, target: Target) -> ApiError:
    said: queue.Queue[Any] = queue.Queue()
    generator.submit(Request(target, [ChatMessage("user", "hi")], GREEDY, streams=False, emit=said.put))
    problem = said.get(timeout=60)
    assert isinstance(problem, ApiError)
    return problem


def test_a_row_longer_than_the_model_reads_is_left_out_counted_and_said(bases: Path, tmp_path: Path) -> None:
    rows = [conversation(label) for label in QUESTIONS for _ in range(2)]
    rows[1]["messages"][1]["content"] = "parcel " * 600
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    settings = replace(SETTINGS, n_epochs=1, max_length=4096)
    folder = make_job(tmp_path / "job", base_of(bases, "llama-3"), path, settings)
    assert run_training(folder) == 0, read_json(folder / "FAILED")
    told = [event["message"] for event in read_events(folder) if event["level"] == "warn"]
    assert told == [
        "max_length 4096 exceeds the base's context: rows may have at most 512 tokens",
        "Training rows left out because they are longer than max_length: 1",
    ]
