"""Every family that transformers has a class for, as a toy: it trains, its first loss and its answers are those of
transformers and peft, and three questions at once are answered like each alone. What can't be is refused by the base's
files, before anybody approves a training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import CONFIG_MAPPING, AutoTokenizer

from tests.local.families import CHATML, CHATML_TOKENS, Family, make_family
from tests.local.runs import make_job, read_failure, train_losses
from tests.local.toys.configs import toy_config
from tests.local.training.test_families import generate, read_answer, submit, train
from trainers.local.serving.generator import Generator
from trainers.local.serving.values import Target
from trainers.local.train import run_training
from trainers.local.training.base_model import load_config
from trainers.local.training.data import Row, read_rows
from trainers.local.training.loop import batches
from trainers.local.training.model_structure import choose_class
from trainers.methods import Parameters
from trainers.models.base_models import why_untrainable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("exact_numbers"),
    pytest.mark.filterwarnings("ignore"),  # each family has its own deprecated words
]
# By the names of transformers 5.24.
NAMES = """
    afmoe apertus arcee aya_vision bamba beam bitnet bloom codegen cohere cohere2 cohere2_moe cohere2_vision cwm
    deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 diffllama doge dots1 ernie4_5 ernie4_5_moe exaone exaone4
    exaone4_5 exaone_moe falcon falcon_h1 falcon_mamba flex_olmo flint gemma gemma2 gemma3 gemma3_text
    gemma3n_text gemma4 gemma4_text gemma4_unified gemma4_unified_text glm glm4 glm46v glm4_moe glm4_moe_lite
    glm4v glm_moe_dsa gpt2 gpt_bigcode gpt_neo gpt_neox gpt_oss gptj granite granite_swa granitemoe granitemoe_swa
    granitemoehybrid granitemoeshared helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax
    idefics3 inkling_text internlm3 internvl iquestcoder jais2 jamba jetmoe kimi_k25 kimi_linear kolibri1 laguna
    lara_mini lfm2 lfm2_moe lfm2_vl lfm3 lfm3_vl llama llama4 llama4_text llava llava_next llava_onevision mamba
    mamba2 mellum mimo_v2_flash minicpm3 minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mistral3
    mistral_large4 mixtral mpt nanochat nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe opt persimmon phi
    phi3 phimoe qwen2 qwen2_5_vl qwen2_moe qwen2_vl qwen3 qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text
    qwen3_moe qwen3_next qwen3_vl qwen3_vl_moe recurrent_gemma sarvam_mla sarvam_moe seed_oss smollm3 smolvlm
    solar_open stablelm starcoder2 step3p7 vaultgemma youtu zamba2
"""
TRAINED = tuple(NAMES.split())
CHOOSES_AT_RANDOM = ("phimoe",)  # its experts, while it is trained, so the loss can't be computed again
REFUSED = ("minimax", "rwkv")
SETTINGS = Parameters(n_epochs=1, batch_size=2, learning_rate=2e-2, lora_r=8, lora_alpha=16)
SEED = 7  # make_job's
LOSS_TOLERANCE = 2e-4
ROWS = {
    "my card was charged twice": "billing",
    "the parcel has not arrived and my card was charged twice": "shipping",
    "the parcel": "shipping",
    "my card": "billing",
}
QUESTIONS = ("my card was charged twice", "the parcel has not arrived " * 4, "card")


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    lines = []
    for question, answer in ROWS.items():
        turns = [*chat(question), {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": turns}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def generator() -> Iterator[Generator]:
    """One for each family: it keeps the models that it has loaded."""
    generator = Generator()
    yield generator
    generator.stop()


def test_no_family_is_forgotten() -> None:
    """A family that leaves the list is one that a change has broken, or one that transformers has dropped."""
    assert (len(set(TRAINED)), len(set(REFUSED))) == (144, 2)
    present = [family for family in TRAINED if family in CONFIG_MAPPING]
    assert len(present) == 144, f"missing in transformers: {sorted(set(TRAINED) - set(present))}"


@pytest.mark.parametrize("family", TRAINED)
def test_a_family_trains_and_answers_as_transformers_does(
    family: str, rows_file: Path, tmp_path: Path, generator: Generator
) -> None:
    base = make_toy(tmp_path / "base", family)
    assert why_untrainable(str(base)) is None
    folder = train(tmp_path / "job", base, rows_file, SETTINGS)
    losses = train_losses(folder)
    assert len(losses) == 2

    plain = plain_model(base)
    if family not in CHOOSES_AT_RANDOM:
        expected = first_loss(plain, base, rows_file)
        assert abs(losses[0] - expected) < LOSS_TOLERANCE * expected

    tuned: Any = PeftModel.from_pretrained(plain, folder / "adapter").eval()
    chats = [chat(question) for question in QUESTIONS]
    expected_answers = [generate(tuned, base, each) for each in chats]
    target = Target(str(base), folder / "adapter")
    together = [submit(generator, target, each) for each in chats]
    assert [read_answer(answer) for answer in together] == expected_answers
    generator.forget_texts()
    alone = [read_answer(submit(generator, target, each)) for each in chats]
    assert alone == expected_answers


@pytest.mark.parametrize("family", TRAINED)
def test_all_weights_of_a_family_train_and_answer_as_transformers_does(
    family: str, rows_file: Path, tmp_path: Path, generator: Generator
) -> None:
    base = make_toy(tmp_path / "base", family)
    settings = replace(SETTINGS, learning_rate=2e-3)
    folder = make_job(tmp_path / "job", base, rows_file, settings, method="all_weights")
    assert run_training(folder) == 0, read_failure(folder)
    if family not in CHOOSES_AT_RANDOM:
        expected = first_loss(plain_model(base), base, rows_file)
        assert abs(train_losses(folder)[0] - expected) < LOSS_TOLERANCE * expected

    result = folder / "adapter"
    tuned = plain_model(result)
    chats = [chat(question) for question in QUESTIONS]
    together = [submit(generator, Target(str(result), None), each) for each in chats]
    assert [read_answer(answer) for answer in together] == [generate(tuned, result, each) for each in chats]


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_cannot_be_tuned_is_refused_before_and_in_a_training(
    family: str, rows_file: Path, tmp_path: Path
) -> None:
    base = make_toy(tmp_path / "base", family)
    refusal = str(why_untrainable(str(base)))
    assert re.search(rf"\b{family}\b.* Choose another base model\.$", refusal)
    job = make_job(tmp_path / "job", base, rows_file, SETTINGS)
    assert run_training(job) == 1
    assert read_failure(job) == {"code": "family_not_supported", "message": refusal, "param": "model"}


def make_toy(folder: Path, family: str) -> Path:
    if family not in CONFIG_MAPPING:
        pytest.skip(f"the installed transformers has no family {family}")
    toy = Family(lambda: toy_config(family), "", CHATML, CHATML_TOKENS)
    return make_family(folder, toy)


def chat(question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Sort."}, {"role": "user", "content": question}]


def plain_model(base: Path) -> Any:
    """The model as transformers computes it."""
    choice = choose_class(str(base), load_config(str(base)))
    model = choice.model_class.from_pretrained(base, config=choice.config, dtype=torch.float32)
    return model.eval()


def first_loss(model: Any, base: Path, rows_file: Path) -> float:
    """The mean loss of the first step's supervised tokens, one row at a time."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = read_rows(rows_file, tokenizer, SETTINGS.max_length, "training_file").rows
    batch = next(batches(rows, SETTINGS.batch_size, SEED, 0))
    losses = torch.cat([token_losses(model, row) for row in batch])
    return float(losses.mean())


def token_losses(model: Any, row: Row) -> torch.Tensor:
    ids = torch.tensor([list(row.ids)])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0].float()
    supervised = torch.tensor(row.supervised)[1:]
    losses = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
    return losses[supervised]
