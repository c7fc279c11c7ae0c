"""Every family that the presets name is trained for a few steps, and answers through the server's generator."""

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

from tests.local.families import FAMILIES, HYBRIDS, ONE_BY_ONE, make_family
from tests.local.preferences import QUESTIONS
from tests.local.runs import event_messages, make_job, read_failure, train_losses
from trainers.http.errors import ApiError
from trainers.local.chat_renderer import render_chat
from trainers.local.job_directory import read_json
from trainers.local.serving.generator import Generator
from trainers.local.serving.values import AnswerEnd, ChatMessage, Piece, Request, Sampling, Target
from trainers.local.train import run_training
from trainers.local.training import packing
from trainers.local.training.base_model import add_lora, load_model
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.model_structure import find_targets
from trainers.methods import Parameters, Quantization
from trainers.packages import install_line

pytestmark = pytest.mark.usefixtures("exact_numbers")
SETTINGS = Parameters(n_epochs=4, batch_size=2, learning_rate=2e-2, lora_r=8, lora_alpha=16)
KINDS: tuple[Quantization, ...] = ("none", "nf4", "int8")
SIDE_BY_SIDE = "Rows of similar length are computed side by side, the shorter ones padded"
GREEDY = Sampling(temperature=0, top_p=1, max_tokens=6, stop=(), seed=None)
# One of each kind of architecture; a change to training or templates is tried with all of them by `-m slow`.
OFTEN_TRIED = ("llama-3", "llama-4-scout", "mistral-small-24b", "phi-4", "gpt-oss", "qwen-3.5")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    rows = [conversation(label) for label in QUESTIONS for _ in range(3)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    generator = Generator()
    yield generator
    generator.stop()


def conversation(label: str) -> dict[str, Any]:
    turns = [("system", "Sort."), ("user", QUESTIONS[label]), ("assistant", label)]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def base_of(bases: Path, name: str) -> Path:
    folder = bases / name
    return folder if folder.exists() else make_family(folder, (FAMILIES | HYBRIDS | ONE_BY_ONE)[name])


def train(folder: Path, base: Path, rows: Path, settings: Parameters) -> Path:
    make_job(folder, base, rows, settings)
    assert run_training(folder) == 0, read_failure(folder)
    return folder


def submit(
    generator: Generator, target: Target, messages: Sequence[dict[str, str]]
) -> queue.Queue[Piece | AnswerEnd | ApiError]:
    answer: queue.Queue[Any] = queue.Queue()
    chat = [ChatMessage(message["role"], message["content"]) for message in messages]
    generator.submit(Request(target, chat, GREEDY, streams=False, emit=answer.put))
    return answer


def ask(generator: Generator, target: Target, label: str) -> str:
    return read_answer(submit(generator, target, conversation(label)["messages"][:2]))


def read_answer(answer: queue.Queue[Any]) -> str:
    text = ""
    while isinstance(piece := answer.get(timeout=60), Piece):
        text += piece.text
    assert isinstance(piece, AnswerEnd), piece
    return text


def adapted_layers(folder: Path) -> set[str]:
    """Names of the layers that have matrices in the adapter."""
    names = load_file(folder / "adapter" / "adapter_model.safetensors")
    return {re.sub(r"^base_model\.model\.|\.lora_[AB]\.weight$", "", name) for name in names}


def last_parts(names: set[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


def generate(model: Any, base: Path, messages: Sequence[dict[str, str]]) -> str:
    """What transformers itself generates."""
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    text = render_chat(tokenizer, messages, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    generated = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=[2, tokenizer.eos_token_id],  # the config's and the tokenizer's
    )
    return str(tokenizer.decode(generated[0, ids.shape[1] :], skip_special_tokens=True))


def cpu_model(base: Path, **options: Any) -> Any:
    return load_model(str(base), torch.device("cpu"), torch.float32, **options)


@pytest.mark.deep
@pytest.mark.parametrize(
    "name",
    [
        *OFTEN_TRIED,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (*FAMILIES, *HYBRIDS)
            if name not in OFTEN_TRIED
        ),
    ],
)
def test_a_family_is_trained_and_its_adapter_answers(
    name: str, bases: Path, rows_file: Path, tmp_path: Path, generator: Generator
) -> None:
    family, base = (FAMILIES | HYBRIDS)[name], base_of(bases, name)
    folder = train(tmp_path, base, rows_file, SETTINGS)
    losses = train_losses(folder)
    assert losses[-1] < 0.2 * losses[0]
    assert type(cpu_model(base)).__name__ == family.model_class
    layers = adapted_layers(folder)
    assert all(layer.startswith(family.part) for layer in layers)
    assert last_parts(layers) == family.layers
    config = read_json(folder / "adapter" / "adapter_config.json") or {}
    assert config["base_model_name_or_path"] == str(base)
    target = Target(str(base), folder / "adapter")
    assert [ask(generator, target, label).strip() for label in QUESTIONS] == list(QUESTIONS)
    messages = event_messages(folder)
    assert not any(message.startswith("Rows are computed one by one") for message in messages)
    assert (SIDE_BY_SIDE in messages) is (name in HYBRIDS)


def test_a_job_learns_the_same_from_padded_rows_as_from_rows_one_by_one(
    bases: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of(bases, "lfm-2")
    settings = replace(SETTINGS, n_epochs=1, batch_size=6)
    padded = make_job(tmp_path / "padded", base, rows_file, settings, validation=rows_file)
    assert run_training(padded) == 0, read_failure(padded)
    assert SIDE_BY_SIDE in event_messages(padded)
    monkeypatch.setattr(packing, "TRIAL_TOKENS", ())  # without rows, the trial can't run
    alone = make_job(tmp_path / "alone", base, rows_file, settings, validation=rows_file)
    assert run_training(alone) == 0, read_failure(alone)
    (warning,) = [message for message in event_messages(alone, "warn") if message.startswith("Rows are")]
    assert "one by one, which takes longer: the trial with padded rows did not run" in warning
    assert train_losses(padded) == pytest.approx(train_losses(alone), rel=1e-5)
    trained, expected = (
        load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (padded, alone)
    )
    for name, weight in expected.items():
        torch.testing.assert_close(trained[name], weight, rtol=0, atol=1e-4)


@pytest.mark.deep
@pytest.mark.parametrize("name", [*HYBRIDS, *ONE_BY_ONE])
def test_a_hybrid_answers_a_batch_of_different_lengths_as_transformers_does(
    name: str, bases: Path, generator: Generator
) -> None:
    base = base_of(bases, name)
    model = cpu_model(base)  # before the generator's thread loads it: transformers can't do both at once
    questions = ["a", "my card was charged twice", "the parcel has not arrived " * 4]
    chats = [[{"role": "user", "content": question}] for question in questions]
    answers = [submit(generator, Target(str(base), None), chat) for chat in chats]
    expected = [generate(model, base, chat) for chat in chats]
    assert [read_answer(answer) for answer in answers] == expected


@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("llama-3", "nf4"),
        ("llama-3", "int8"),
        ("llama-4-scout", "nf4"),
        ("llama-4-scout", "int8"),
        ("qwen-3-moe", "nf4"),
        ("mixtral", "nf4"),
        ("gpt-oss", "nf4"),
    ],
)
def test_a_quantized_base_is_trained_and_its_adapter_answers(
    name: str, kind: Quantization, bases: Path, rows_file: Path, tmp_path: Path, generator: Generator
) -> None:
    base = base_of(bases, name)
    folder = train(tmp_path, base, rows_file, replace(SETTINGS, quantization=kind))
    losses = train_losses(folder)
    assert losses[-1] < 0.2 * losses[0]
    assert last_parts(adapted_layers(folder)) == (FAMILIES | HYBRIDS)[name].layers
    target = Target(str(base), folder / "adapter", kind)
    assert [ask(generator, target, label).strip() for label in QUESTIONS] == list(QUESTIONS)
    weights = load_file(folder / "adapter" / "adapter_model.safetensors").values()
    assert {weight.dtype for weight in weights} == {torch.float32}


def test_nf4_quantizes_layers_and_experts_twice_but_not_the_head(bases: Path) -> None:
    model = cpu_model(base_of(bases, "llama-4-scout"), quantization="nf4")
    layer = model.model.layers[0]
    packed = layer.self_attn.q_proj.weight
    assert (packed.quant_type, packed.quant_state.nested, packed.dtype) == ("nf4", True, torch.uint8)
    assert packed.numel() * 2 == 64 * 64
    experts = layer.feed_forward.experts
    assert (experts.down_proj_packed.dtype, experts.states["down_proj"].nested) == (torch.uint8, True)
    assert experts.down_proj.shape == (2, 128, 64)
    assert model.lm_head.weight.dtype == torch.float32


def test_quantizing_changes_logits_only_a_little(bases: Path) -> None:
    ids = torch.arange(20, 60)[None]
    dense, nf4, int8 = (
        cpu_model(base_of(bases, "llama-3"), quantization=kind)(input_ids=ids).logits for kind in KINDS
    )
    assert 0 < (dense - int8).norm() / dense.norm() < 0.05
    assert 0.02 < (dense - nf4).norm() / dense.norm() < 0.4


def test_a_base_stored_in_another_quantized_format_is_refused(bases: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base_of(bases, "llama-3"), tmp_path / "fp8")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(TrainingFailed) as caught:
        cpu_model(folder)
    assert (caught.value.code, "in the format fp8" in caught.value.message) == ("base_quantized", True)


def test_a_base_in_mxfp4_cannot_be_loaded_in_8_bits(bases: Path) -> None:
    with pytest.raises(TrainingFailed) as caught:
        cpu_model(base_of(bases, "gpt-oss"), quantization="int8")
    assert (caught.value.code, caught.value.param) == ("base_quantized", "quantization")


def test_without_bitsandbytes_a_quantized_job_fails_and_says_how_to_install_it(
    bases: Path, rows_file: Path, tmp_path: Path, without_bitsandbytes: None
) -> None:
    folder = make_job(tmp_path, base_of(bases, "llama-3"), rows_file, replace(SETTINGS, quantization="nf4"))
    assert run_training(folder) == 1
    failure = read_failure(folder)
    assert (failure["code"], failure["param"]) == ("quantization_unavailable", "quantization")
    assert install_line("quantized") in failure["message"]


@pytest.mark.deep
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_experts_named_in_target_modules_are_trained(
    bases: Path, rows_file: Path, tmp_path: Path, generator: Generator
) -> None:
    base, targets = base_of(bases, "llama-4-scout"), "q_proj,experts.gate_up_proj,experts.down_proj"
    folder = train(tmp_path, base, rows_file, replace(SETTINGS, target_modules=targets))
    losses = train_losses(folder)
    assert losses[-1] < 0.5 * losses[0]
    config = read_json(folder / "adapter" / "adapter_config.json") or {}
    assert sorted(config["target_parameters"]) == ["experts.down_proj", "experts.gate_up_proj"]
    assert sum(".experts" in layer for layer in adapted_layers(folder)) == 4
    reference = PeftModel.from_pretrained(cpu_model(base), str(folder / "adapter"))
    expected = generate(reference, base, conversation("billing")["messages"][:2])
    assert ask(generator, Target(str(base), folder / "adapter"), "billing") == expected


def test_dropout_on_experts_is_refused(bases: Path) -> None:
    settings = replace(SETTINGS, target_modules="experts.down_proj", lora_dropout=0.1)
    with pytest.raises(TrainingFailed) as caught:
        add_lora(cpu_model(base_of(bases, "llama-4-scout")), settings)
    assert (caught.value.code, caught.value.param) == ("dropout_on_experts", "lora_dropout")


@pytest.mark.parametrize(
    ("name", "targets", "message"),
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
        (
            "mamba-2",
            "out_proj",
            "The base model has no linear layer 'out_proj' to adapt. Set target_modules to all-linear, or to some of "
            "in_proj.",
        ),
    ],
)
def test_an_unknown_target_module_is_refused_with_those_that_exist(
    name: str, targets: str, message: str, bases: Path
) -> None:
    with pytest.raises(TrainingFailed) as caught:
        find_targets(cpu_model(base_of(bases, name)), targets)
    assert (caught.value.message, caught.value.param) == (message, "target_modules")


def test_target_modules_are_looked_up_in_the_text_part_only(bases: Path) -> None:
    model = add_lora(cpu_model(base_of(bases, "gemma-3-4b")), replace(SETTINGS, target_modules="q_proj"))
    layers = {name for name, _ in model.named_modules() if name.endswith("q_proj.lora_A")}
    assert layers == {
        f"base_model.model.model.language_model.layers.{layer}.self_attn.q_proj.lora_A" for layer in (0, 1)
    }


def test_a_base_with_missing_weights_is_refused(bases: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base_of(bases, "llama-3"), tmp_path / "lacking")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingFailed) as caught:
        cpu_model(folder)
    assert caught.value.code == "base_incomplete"
    assert "model.layers.1.mlp.up_proj.weight" in caught.value.message


def test_a_truncated_base_is_refused(bases: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base_of(bases, "llama-3"), tmp_path / "cut")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(TrainingFailed) as caught:
        cpu_model(folder)
    assert caught.value.code == "base_not_loaded"


def test_an_adapter_is_not_used_after_its_base_has_changed(
    bases: Path, rows_file: Path, tmp_path: Path, generator: Generator
) -> None:
    base = shutil.copytree(base_of(bases, "smollm2"), tmp_path / "base")
    folder = train(tmp_path / "job", base, rows_file, replace(SETTINGS, n_epochs=1))
    torch.manual_seed(1)
    config = FAMILIES["smollm2"].config()
    MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).save_pretrained(base)  # type: ignore[operator]
    for adapter in (folder / "adapter", folder / "checkpoints" / "step-000003"):
        target = Target(str(base), adapter)
        error = submit(generator, target, [{"role": "user", "content": "hi"}]).get(timeout=60)
        assert isinstance(error, ApiError)
        assert error.code == "adapter_of_another_base"
        assert error.message.startswith(f"The weights of the base model {base} have changed")
    (folder / "DONE").unlink()
    assert run_training(folder) == 1
    assert read_failure(folder)["code"] == "base_changed"


def test_rows_beyond_the_bases_context_are_left_out_and_counted(bases: Path, tmp_path: Path) -> None:
    rows = [conversation(label) for label in QUESTIONS for _ in range(2)]
    rows[1]["messages"][1]["content"] = "parcel " * 600
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    settings = replace(SETTINGS, n_epochs=1, max_length=4096)
    folder = train(tmp_path / "job", base_of(bases, "llama-3"), path, settings)
    assert event_messages(folder, "warn") == [
        "max_length 4096 exceeds the base's context: rows may have at most 512 tokens",
        "Training rows left out because they are longer than max_length: 1",
    ]
