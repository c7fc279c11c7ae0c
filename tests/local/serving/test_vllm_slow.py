"""The serving tests against vLLM itself. $FINETUNE_TEST_ENGINES is a folder of engines with vllm in it. Without it the
engine is installed first, which takes 3 GB, 5 minutes and the network. Starting it takes minutes on a CPU."""

# ruff: noqa: F401, F811  tests of other files, which run here against another engine

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.local.api.test_server_chat import (
    client,
    reference,
    test_a_client_that_hangs_up_leaves_the_server_answering,
    test_a_prompt_beyond_the_context_is_refused,
    test_a_stream_has_the_same_text_and_usage,
    test_an_answer_ends_at_max_tokens,
    test_an_answer_ends_before_its_stop_text,
    test_an_answer_ends_where_the_context_ends,
    test_batched_answers_equal_transformers_generate,
    test_text_parts_and_developer_messages_are_read,
    test_the_same_seed_gives_the_same_answer,
    test_top_p_of_zero_is_greedy,
)
from tests.local.api.test_server_constrained import (
    embedding_dir,
    test_a_guided_choice_is_always_one_of_the_labels,
    test_a_json_object_is_valid_unless_it_is_cut_off,
    test_a_stream_has_the_same_tokens_with_log_probabilities,
    test_a_stream_of_several_answers_indexes_each_part,
    test_an_answer_with_a_schema_conforms_to_it,
    test_an_enum_schema_gives_a_quoted_label,
    test_an_unsatisfiable_schema_is_refused_and_the_server_goes_on_answering,
    test_embeddings_are_the_mean_of_the_last_states,
    test_log_probabilities_are_those_of_the_model,
    test_several_answers_differ_and_a_seed_repeats_them,
    test_the_tokens_with_log_probabilities_spell_the_answer,
)
from tests.local.conftest import make_tokenizer
from tests.local.serving.fake_vllm import BY_VLLM
from tests.local.serving.test_vllm import (
    builtin_answers,
    test_base_and_adapter_answer_as_by_the_builtin_engine,
)
from tests.local.trainer_server import ROOT, TrainerServer, serve_in_process

pytestmark = [pytest.mark.slow]
START_S = 1200.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trainer's data folder with vLLM in it."""
    folder = tmp_path_factory.mktemp("trainer")
    installed = os.environ.get("FINETUNE_TEST_ENGINES")
    if installed:
        (folder / "engines").symlink_to(installed)
    else:
        command = [sys.executable, "-m", "trainers.local.engines", "--data", str(folder), "install", "vllm"]
        subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def babbling_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like conftest.py's, but with heads of the size that vLLM's kernels require."""
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
def trainer(
    data: Path, babbling_model_dir: Path, embedding_dir: Path, builtin_answers: list[str]
) -> Iterator[TrainerServer]:
    models = {"local/tiny": babbling_model_dir, "tiny": babbling_model_dir, "embedder": embedding_dir}
    arguments = (f"{name}={folder}" for name, folder in models.items())
    with serve_in_process(data, *arguments, more=BY_VLLM) as served:
        served.timeout_s = START_S
        yield served
