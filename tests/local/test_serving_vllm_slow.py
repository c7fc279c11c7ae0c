"""The serving tests against vLLM itself. $FINETUNE_TEST_ENGINES is a folder of engines with vllm in it; without it the
engine is installed first: 3 GB, 5 minutes and the network. Starting it takes minutes on a CPU. `pytest -m slow`"""

# ruff: noqa: F401, F811  tests of other files, which run here against another engine

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.local.conftest import make_tokenizer
from tests.local.exports import MODEL, tune
from tests.local.fake_vllm import BY_VLLM, answer_of
from tests.local.test_server_chat import (
    client,
    reference,
    test_a_client_that_hangs_up_leaves_the_server_answering,
    test_a_prompt_beyond_the_context_is_refused,
    test_a_prompt_beyond_the_context_is_refused_before_a_stream_begins,
    test_a_seed_makes_chance_repeatable,
    test_a_stream_says_the_same_and_its_usage,
    test_a_tiny_top_p_is_greedy,
    test_an_answer_stops_where_the_context_ends,
    test_answers_in_a_batch_are_those_of_each_prompt_alone,
    test_text_in_parts_and_a_developer_message_are_read,
    test_the_answer_ends_before_a_stop_text,
    test_the_limit_of_tokens_is_kept_and_named,
)
from tests.local.test_server_constrained import (
    embedding_dir,
    test_a_choice_is_one_of_the_labels_and_nothing_else,
    test_a_json_object_is_one_unless_it_is_cut_off,
    test_a_schema_that_nothing_satisfies_is_refused_while_others_are_answered,
    test_a_stream_names_the_same_tokens,
    test_a_stream_of_several_answers_says_whose_each_part_is,
    test_an_enum_as_schema_is_a_quoted_label,
    test_embeddings_are_the_mean_of_the_last_states,
    test_json_of_a_schema_keeps_it,
    test_log_probabilities_are_those_of_the_model,
    test_several_answers_to_one_prompt_differ_and_can_be_repeated,
    test_the_named_tokens_are_the_answer,
)
from tests.local.trainer_server import ROOT, TrainerServer, serve_in_process

pytestmark = [pytest.mark.slow]
START_S = 1200.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trainer's data folder with vLLM in it."""
    folder = tmp_path_factory.mktemp("trainer")
    there = os.environ.get("FINETUNE_TEST_ENGINES")
    if there:
        (folder / "engines").symlink_to(there)
    else:
        command = [sys.executable, "-m", "trainers.local.engines", "--data", str(folder), "install", "vllm"]
        subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def babbling_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As conftest.py's, with heads as large as vLLM's kernels want them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model") / "babbling"
    make_tokenizer(folder)
    torch.manual_seed(20261124)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
        initializer_range=0.15,
    )
    model: Any = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.mul_(6)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def by_builtin(data: Path, babbling_model_dir: Path) -> list[str]:
    """What base and tuned model answer by the built-in engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_DTYPE", "fp32")
        tune(data, babbling_model_dir)
    with serve_in_process(data, f"local/tiny={babbling_model_dir}") as served:
        served.timeout_s = START_S
        with served.client() as client:
            return [answer_of(client, name) for name in ("local/tiny", MODEL)]


@pytest.fixture(scope="module")
def trainer(
    data: Path, babbling_model_dir: Path, embedding_dir: Path, by_builtin: list[str]
) -> Iterator[TrainerServer]:
    names = {"local/tiny": babbling_model_dir, "tiny": babbling_model_dir, "embedder": embedding_dir}
    models = (f"{name}={folder}" for name, folder in names.items())
    with serve_in_process(data, *models, more=BY_VLLM) as served:
        served.timeout_s = START_S
        yield served


def test_base_and_adapter_answer_as_by_the_builtin_engine(
    client: openai.OpenAI, by_builtin: list[str]
) -> None:
    assert by_builtin[0] != by_builtin[1]
    assert [answer_of(client, name) for name in ("local/tiny", MODEL)] == by_builtin
