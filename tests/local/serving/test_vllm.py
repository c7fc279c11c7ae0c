"""The serving engine vLLM, with small servers in its place: the same answers as the built-in engine through the same
API, adapters that come and go, crashes, and the server's end. test_vllm_slow.py uses vLLM itself."""

# ruff: noqa: F401, F811  tests of other files, which run here against another engine

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from tests.local.api.test_server_aliases import send
from tests.local.api.test_server_chat import (
    client,
    reference,
    test_a_client_that_hangs_up_leaves_the_server_answering,
    test_a_prompt_beyond_the_context_is_refused,
    test_a_stream_has_the_same_text_and_usage,
    test_an_answer_ends_at_max_tokens,
    test_an_answer_ends_before_its_stop_text,
    test_batched_answers_equal_transformers_generate,
    test_the_same_seed_gives_the_same_answer,
)
from tests.local.api.test_server_constrained import (
    embedding_dir,
    test_a_chat_model_refuses_embeddings,
    test_a_guided_choice_is_always_one_of_the_labels,
    test_a_stream_has_the_same_tokens_with_log_probabilities,
    test_a_stream_of_several_answers_indexes_each_part,
    test_an_answer_with_a_schema_conforms_to_it,
    test_an_unsatisfiable_schema_is_refused_and_the_server_goes_on_answering,
    test_embeddings_are_the_mean_of_the_last_states,
    test_log_probabilities_are_those_of_the_model,
    test_several_answers_differ_and_a_seed_repeats_them,
    test_the_tokens_with_log_probabilities_spell_the_answer,
)
from tests.local.export.exports import JOB, MODEL, tune
from tests.local.serving.canned_vllm import CACHED
from tests.local.serving.fake_vllm import BY_VLLM, CANNED_SERVER, ROOT, answer_of, install_fake_vllm
from tests.local.trainer_server import (
    TrainerServer,
    close,
    ready_url,
    serve_in_process,
    start_process,
    wait_for,
)
from trainers import host
from trainers.local.engines.catalog import VLLM, find_installation
from trainers.local.engines.vllm import VllmOptions, serve_command
from trainers.local.serving.answers import Preparation
from trainers.local.serving.values import ChatMessage, Request, Sampling, Target
from trainers.local.serving.vllm_engine import VllmEngine, completion_body

pytestmark = pytest.mark.deep


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trainer's data folder with a stand-in for vLLM in it."""
    folder = tmp_path_factory.mktemp("trainer")
    install_fake_vllm(folder)
    return folder


@pytest.fixture(scope="module")
def builtin_answers(data: Path, babbling_model_dir: Path) -> list[str]:
    """What the base and a model tuned from it answer by the built-in engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_DTYPE", "fp32")
        tune(data, babbling_model_dir)
    with serve_in_process(data, f"local/tiny={babbling_model_dir}") as served, served.client() as client:
        return [answer_of(client, name) for name in ("local/tiny", MODEL)]


@pytest.fixture(scope="module")
def trainer(
    data: Path, babbling_model_dir: Path, embedding_dir: Path, builtin_answers: list[str]
) -> Iterator[TrainerServer]:
    models = {"local/tiny": babbling_model_dir, "tiny": babbling_model_dir, "embedder": embedding_dir}
    arguments = (f"{name}={folder}" for name, folder in models.items())
    with serve_in_process(data, *arguments, more=BY_VLLM) as served:
        served.timeout_s = 180  # the stand-in loads torch with the first question
        yield served


def test_base_and_adapter_answer_as_by_the_builtin_engine(
    client: openai.OpenAI, builtin_answers: list[str]
) -> None:
    assert builtin_answers[0] != builtin_answers[1]
    assert [answer_of(client, name) for name in ("local/tiny", MODEL)] == builtin_answers


def test_an_alias_is_answered_until_its_adapter_is_missing(
    client: openai.OpenAI, data: Path, builtin_answers: list[str]
) -> None:
    assert send(client, "PUT", "aliases/team/tickets", {"model": MODEL})[0] == 200
    assert answer_of(client, "team/tickets") == builtin_answers[1]
    adapter = data / "jobs" / JOB / "adapter"
    adapter.rename(adapter.with_name("gone"))
    try:
        with pytest.raises(openai.InternalServerError, match=f"{JOB}.* its folder is missing. Restore"):
            answer_of(client, MODEL)
        assert answer_of(client, "local/tiny") == builtin_answers[0]
    finally:
        adapter.with_name("gone").rename(adapter)


@pytest.mark.parametrize("streams", [False, True])
def test_the_usage_says_what_vllm_had_read_before(
    tmp_path: Path, tiny_model_dir: Path, streams: bool
) -> None:
    install_fake_vllm(tmp_path, CANNED_SERVER)
    options: dict[str, Any] = {}
    if streams:
        options = {"stream": True, "stream_options": {"include_usage": True}}
    with (
        serve_in_process(tmp_path, f"tiny={tiny_model_dir}", more=BY_VLLM) as served,
        served.client() as client,
    ):
        answer: Any = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=2, **options
        )
        parts = [answer]
        if streams:
            parts = [part for part in answer if part.usage]
        usage = parts[-1].usage
    assert usage.prompt_tokens_details.cached_tokens == CACHED


def test_after_a_crash_of_vllm_the_next_request_starts_it_again(tmp_path: Path, tiny_model_dir: Path) -> None:
    home = install_fake_vllm(tmp_path, CANNED_SERVER)
    with (
        serve_in_process(tmp_path, f"tiny={tiny_model_dir}", more=BY_VLLM) as served,
        served.client() as client,
    ):
        before = answer_of(client, "tiny")
        with pytest.raises(openai.InternalServerError, match="vLLM ended while it answered") as caught:
            answer_of(client, "tiny", stop="die")
        assert caught.value.response.headers["retry-after"] == "30"
        assert answer_of(client, "tiny") == before
    assert (home / "serve.log").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_vllm_ends_with_the_trainer(tmp_path: Path, tiny_model_dir: Path, number: signal.Signals) -> None:
    install_fake_vllm(tmp_path, CANNED_SERVER)
    process = start_process(tmp_path, f"tiny={tiny_model_dir}", more=BY_VLLM)
    try:
        with TrainerServer(ready_url(process)).client() as client:
            answer_of(client, "tiny")
        vllm, command = find_vllm(process.pid)
        socket = Path(command[command.index(b"--uds") + 1].decode())
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        assert not any(b"API_KEY" in word or b"api-key" in word for word in command)
        process.send_signal(number)
        process.wait(20)
        wait_for(lambda: is_running(vllm), lambda running: not running)
    finally:
        process.kill()
        close(process)


def find_vllm(trainer: int) -> tuple[int, list[bytes]]:
    """Returns the process id and command line of the server that this trainer started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if b"--uds" in command and f"\nPPid:\t{trainer}\n" in (folder / "status").read_text():
                return int(folder.name), command
        except FileNotFoundError:  # it has just ended
            continue
    raise AssertionError(f"{trainer} has started no vLLM")


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()


def test_a_trainer_without_vllm_says_how_to_install_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainers.local", "--data", str(tmp_path), *BY_VLLM]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"trainer: vLLM is not installed in {tmp_path}/engines/vllm. Run finetune engines install vllm, or "
        "set the serving engine to builtin.\n"
    )


def test_if_vllm_does_not_start_the_error_quotes_its_log(tmp_path: Path, tiny_model_dir: Path) -> None:
    install_fake_vllm(tmp_path, "def main():\n    raise ValueError('no kernel for this head')\n")
    expected = pytest.raises(openai.InternalServerError, match="vLLM did not start: ValueError: no kernel")
    with (
        serve_in_process(tmp_path, f"tiny={tiny_model_dir}", more=BY_VLLM) as served,
        served.client() as client,
        expected as caught,
    ):
        answer_of(client, "tiny")
    assert caught.value.code == "engine_not_started"


def test_a_request_is_translated_for_vllm() -> None:
    sampling = Sampling(
        0.0, 0.0, 5, ("end",), 2**63 - 1, n=2, top_logprobs=0, grammar='start: "a"', logit_bias={7: 1.5}
    )
    request = Request(Target("b", None), [ChatMessage("user", "?")], sampling, False, print)
    body = completion_body(
        request, 1, Preparation([1, 2], 5, sampling.grammar, None), "base", frozenset({3, 2})
    )
    assert body == {
        "model": "base",
        "prompt": [1, 2],
        "max_tokens": 5,
        "temperature": 0,
        "top_p": 1e-6,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "stop": ["end"],
        "stop_token_ids": [2, 3],
        "seed": 0,
        "return_token_ids": True,
        "logit_bias": {"7": 1.5},
        "logprobs": 0,
        "return_tokens_as_token_ids": True,
        "structured_outputs": {"grammar": 'start: "a"'},
    }


def test_vllms_own_parameters_are_passed_on() -> None:
    sampling = Sampling(1.0, 1.0, 5, (), 1, top_k=40, min_p=0.1, repetition_penalty=1.2)
    request = Request(Target("b", None), [ChatMessage("user", "?")], sampling, False, print)
    body = completion_body(request, 0, Preparation([1, 2], 5, None, None), "base", frozenset({3}))
    passed = {name: body[name] for name in ("top_k", "min_p", "repetition_penalty")}
    assert passed == {"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.2}


def test_a_server_serves_lower_ranks_but_no_other_memory_share(tmp_path: Path) -> None:
    running = VllmOptions(tmp_path, "bfloat16", 32, 8, 0.9)
    assert running.serves(VllmOptions(tmp_path, "bfloat16", 16, 8, 0.9))
    assert not running.serves(VllmOptions(tmp_path, "bfloat16", 64, 8, 0.9))
    assert not running.serves(VllmOptions(tmp_path, "bfloat16", 16, 8, 0.3))


def test_on_a_cpu_vllm_takes_half_of_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8000 kB\nMemAvailable: 3000 kB\nHugePages_Total: 0\n", encoding="ascii")
    monkeypatch.setattr(host, "MEMINFO", meminfo)
    installation = find_installation(install_fake_vllm(tmp_path).parent, VLLM)
    assert installation is not None
    command = serve_command(installation, VllmOptions(tmp_path, "float32", 16, 8, None), tmp_path / "socket")
    assert command[-3:] == ["--enforce-eager", "--gpu-memory-utilization", "0.188"]


def test_a_request_that_arrives_while_another_ends_is_counted(tmp_path: Path) -> None:
    class Engine(VllmEngine):
        async def _write_answers(self, request: Request) -> None:
            """Finishes at once."""

    class EndingRequest(Request):
        @property
        def rows(self) -> int:
            if threading.current_thread().name == "vllm":  # as its end is counted
                caller = threading.Thread(target=engine.submit, args=(second,))
                caller.start()
                caller.join(0.3)
            return 1

    builtin: Any = SimpleNamespace(stop=lambda: None)
    engine = Engine(tmp_path, builtin, lambda: False, None)
    values: Any = (Target("tiny", None), [], Sampling(0.0, 1.0, None, (), None), False, lambda outcome: None)
    second = Request(*values)
    engine.submit(EndingRequest(*values))
    try:
        wait_for(lambda: engine._open_rows, lambda rows: rows == 0, seconds=10)
        time.sleep(0.5)
        assert engine._open_rows == 0
    finally:
        engine.stop()
