"""A new adapter changes nothing, and a base computes what plain transformers computes, before and after it. What can't
be trained so is refused, with the reason that was found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from tests.local.families import CHATML, CHATML_TOKENS, Family, config, make_family
from tests.local.preferences import QUESTIONS, write_pairs
from tests.local.runs import make_job, read_failure
from tests.local.training.test_families import generate, read_answer, submit
from trainers.http.errors import ApiError
from trainers.local.kernels import fused_layers
from trainers.local.kernels.fused_layers import KeptPositions, trim_last_mlp
from trainers.local.serving.generator import Generator
from trainers.local.serving.model_cache import Base
from trainers.local.serving.values import Target
from trainers.local.train import run_training
from trainers.local.training import model_structure
from trainers.local.training.base_model import add_lora, load_config, load_model, load_tokenizer
from trainers.local.training.data import Row, read_rows
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.methods.sft import measure_rows
from trainers.local.training.model_structure import choose_class
from trainers.local.training.packing import find_abilities
from trainers.local.training.tuned_weights import write_tuned
from trainers.methods import DpoParameters, Parameters

pytestmark = [
    pytest.mark.usefixtures("exact_numbers"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
CPU = torch.device("cpu")
SETTINGS = Parameters(n_epochs=1, batch_size=2, lora_r=4, lora_alpha=8)
COMPASS_ROPE = {"full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
# Their norms subtract the mean, but look like RMS norms.
COHERE: dict[str, Callable[[], Any]] = {
    "cohere": lambda: config("cohere", use_qk_norm=True),
    "cohere2": lambda: config("cohere2", sliding_window=256),
    "cohere2_moe": lambda: config("cohere2_moe", num_experts=4, num_experts_per_tok=2, sliding_window=256),
    "cohere_compass": lambda: config("cohere_compass_text", sliding_window=256, rope_parameters=COMPASS_ROPE),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        name: make_family(folder / name, Family(make, "", CHATML, CHATML_TOKENS))
        for name, make in COHERE.items()
    }


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    rows = [chat(question, label) for label, question in QUESTIONS.items()]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    generator = Generator()
    yield generator
    generator.stop()


def chat(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
    }


def plain_model(base: Path) -> Any:
    choice = choose_class(str(base), load_config(str(base)))
    return choice.model_class.from_pretrained(base, config=choice.config, dtype=torch.float32).eval()


def tuned(base: Path, folder: Path) -> Any:
    """A model with an adapter that changes its answers. The adapter is also written to `folder`."""
    model = add_lora(load_model(str(base), CPU, torch.float32), SETTINGS).eval()
    torch.manual_seed(4)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    folder.mkdir()
    write_tuned(folder, model)
    return model


def plain_loss(model: Any, row: Row) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([list(row.ids)])).logits[0]
    learnt = [place for place, is_learnt in enumerate(row.supervised) if is_learnt]
    targets = torch.tensor([row.ids[place] for place in learnt])
    return functional.cross_entropy(logits[[place - 1 for place in learnt]], targets, reduction="sum")


@pytest.mark.deep
@pytest.mark.parametrize("family", COHERE)
def test_loss_and_answers_of_coheres_models_are_those_of_plain_transformers(
    family: str, bases: dict[str, Path], rows_file: Path, tmp_path: Path, generator: Generator
) -> None:
    base, adapter = bases[family], tmp_path / "adapter"
    model = tuned(base, adapter)
    reference = PeftModel.from_pretrained(plain_model(base), str(adapter)).eval()
    rows = read_rows(rows_file, load_tokenizer(str(base)), 512, "training_file").rows
    able = find_abilities(model, longest=100)
    parts = [rows] if able.packs else [[row] for row in rows]
    with torch.no_grad():
        loss = sum(measure_rows(model, part, able, torch.float32).total.item() for part in parts)
        assert loss == pytest.approx(sum(plain_loss(reference, row).item() for row in rows), rel=1e-5)
    questions = [[{"role": "user", "content": text}] for text in (*QUESTIONS.values(), "a parcel " * 9)]
    answers = [submit(generator, Target(str(base), adapter), question) for question in questions]
    assert [read_answer(answer) for answer in answers] == [
        generate(reference, base, question) for question in questions
    ]


@pytest.mark.parametrize("family", COHERE)
def test_a_base_answers_the_same_after_an_adapter_was_loaded(
    family: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    tuned(bases[family], adapter)
    base = Base(str(bases[family]), "none", CPU)
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        before = base.with_adapters([None])(input_ids=ids).logits
        base.ensure_adapter(adapter, in_use=())
        assert not torch.allclose(base.with_adapters([adapter])(input_ids=ids).logits, before, rtol=0.1)
        assert torch.equal(base.with_adapters([None])(input_ids=ids).logits, before)


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_a_layer_that_is_computed_wrongly_stops_the_job_before_its_first_step(
    method: Any,
    bases: dict[str, Path],
    rows_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fused_layers, "is_plain_norm", lambda module: module.weight.dim() == 1)
    training = rows_file if method == "supervised" else write_pairs(tmp_path / "pairs.jsonl", 4)
    settings = SETTINGS if method == "supervised" else DpoParameters(n_epochs=1, batch_size=2)
    folder = make_job(tmp_path / "job", bases["cohere2"], training, settings, method=method)
    assert run_training(folder) == 1
    failure = read_failure(folder)
    assert failure["code"] == "adapter_changes_base"
    assert (
        "a layer of the family cohere2 is computed wrongly here. Nothing was trained." in failure["message"]
    )
    assert not (folder / "results.csv").exists()


def test_the_check_leaves_a_trimmed_model_as_it_was(bases: dict[str, Path]) -> None:
    """The next trial of a sweep begins with the positions that the last step of the one before has kept."""
    model = load_model(str(bases["cohere2"]), CPU, torch.float32)
    last_mlp = trim_last_mlp(model)
    assert isinstance(last_mlp, KeptPositions)
    last_mlp.keep(torch.tensor([90]), tokens=100)
    model.train()
    add_lora(model, SETTINGS)
    assert last_mlp.positions is not None and last_mlp.positions.tolist() == [90]
    assert model.training


def test_a_base_with_a_broken_weight_is_refused_by_its_name(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(bases["cohere2"], tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingFailed) as caught:
        add_lora(load_model(str(folder), CPU, torch.float32), SETTINGS)
    assert (caught.value.code, caught.value.param) == ("base_not_finite", "model")
    assert caught.value.message.startswith(
        "The base model's weight model.layers.1.mlp.up_proj.weight holds values that are not numbers"
    )


def test_the_row_that_breaks_the_first_step_is_named_and_not_the_learning_rate(
    rows_file: Path, tmp_path: Path
) -> None:
    sizes = {"tie_word_embeddings": False, "sliding_window": 256}
    family = Family(lambda: config("cohere2", **sizes), "", CHATML, CHATML_TOKENS)
    folder = make_family(tmp_path / "overflowing", family)
    tokenizer = load_tokenizer(str(folder))
    (last,) = tokenizer("~", add_special_tokens=False).input_ids
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][last] = 3e38  # finite, but its sum is not
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    training = tmp_path / "train.jsonl"
    training.write_text(f"{rows_file.read_text()}\n{json.dumps(chat('a ~ b', 'billing'))}\n")
    settings = Parameters(n_epochs=1, batch_size=3, lora_r=4)
    job = make_job(tmp_path / "job", folder, training, settings)
    assert run_training(job) == 1
    failure = read_failure(job)
    assert (failure["code"], failure["param"]) == ("row_not_finite", "training_file")
    assert failure["message"].startswith(
        "Before anything was learnt, line 3 of the training file made the loss"
    )


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_a_tokenizer_with_tokens_that_the_model_lacks_is_refused(
    method: Any, bases: dict[str, Path], rows_file: Path, tmp_path: Path, generator: Generator
) -> None:
    small = {"vocab_size": 300, "sliding_window": 256}
    folder = make_family(
        tmp_path / "small", Family(lambda: config("cohere2", **small), "", CHATML, CHATML_TOKENS)
    )
    training = rows_file if method == "supervised" else write_pairs(tmp_path / "pairs.jsonl", 4)
    settings = SETTINGS if method == "supervised" else DpoParameters(n_epochs=1, batch_size=2)
    job = make_job(tmp_path / "job", folder, training, settings, method=method)
    assert run_training(job) == 1
    failure = read_failure(job)
    assert failure["code"] == "tokenizer_too_large"
    assert "but the model knows only 300 tokens, so they don't belong together" in failure["message"]
    error = submit(
        generator, Target(str(folder), None), chat("my card was charged twice", "")["messages"][:1]
    )
    refused = error.get(timeout=60)
    assert isinstance(refused, ApiError)
    assert (refused.status, refused.code) == (500, "tokenizer_too_large")


def test_families_that_cannot_be_trained_here_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_structure, "PLAIN", ())  # a family whose own linear layers nobody has looked at
    sizes = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("falcon", **sizes)).save_pretrained(tmp_path)
    with pytest.raises(
        TrainingFailed, match="falcon, has no plain linear layers, so there is nothing to adapt"
    ):
        add_lora(load_model(str(tmp_path), CPU, torch.float32), SETTINGS)
    for family in ("minimax", "rwkv"):
        with pytest.raises(TrainingFailed, match=f"is of the family {family}, whose tuned models") as caught:
            choose_class("a-base", AutoConfig.for_model(family))
        assert caught.value.code == "family_not_supported"
