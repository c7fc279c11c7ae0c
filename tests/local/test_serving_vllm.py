"""The serving engine vLLM, with a small server of our own in its place: the same answers by the same API, adapters that
come and go, its faults and its end. test_serving_vllm_slow.py asks the real one."""

# ruff: noqa: F401  tests of other files, which run here against another engine

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.local.served import Served, served_process
from tests.local.test_server_chat import (
    client,
    reference,
    test_a_client_that_hangs_up_leaves_the_server_answering,
    test_a_prompt_beyond_the_context_is_refused_before_a_stream_begins,
    test_a_seed_makes_chance_repeatable,
    test_a_stream_says_the_same_and_its_usage,
    test_answers_in_a_batch_are_those_of_each_prompt_alone,
    test_the_answer_ends_before_a_stop_text,
    test_the_limit_of_tokens_is_kept_and_named,
)
from tests.local.vllm import BY_VLLM, install_stand_in


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory, babbling_model_dir: Path) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("trainer")
    install_stand_in(data)
    with served_process(data, f"local/tiny={babbling_model_dir}", more=BY_VLLM) as served:
        yield served
