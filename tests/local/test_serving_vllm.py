"""The serving engine vLLM, with a small server of our own in its place: the same answers by the same API, adapters that
come and go, its faults and its end. test_serving_vllm_slow.py asks the real one."""

# ruff: noqa: F401, F811  tests of other files, which run here against another engine

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest

from tests.local.exports import MODEL, tune
from tests.local.fake_vllm import BY_VLLM, ROOT, answer_of, install_fake_vllm
from tests.local.test_server_aliases import asked
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
from tests.local.test_server_constrained import (
    embedding_dir,
    test_a_chat_model_makes_no_embeddings,
    test_a_choice_is_one_of_the_labels_and_nothing_else,
    test_a_schema_that_nothing_satisfies_is_refused_while_others_are_answered,
    test_a_stream_names_the_same_tokens,
    test_a_stream_of_several_answers_says_whose_each_part_is,
    test_embeddings_are_the_mean_of_the_last_states,
    test_json_of_a_schema_keeps_it,
    test_log_probabilities_are_those_of_the_model,
    test_several_answers_to_one_prompt_differ_and_can_be_repeated,
    test_the_named_tokens_are_the_answer,
)
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


@pytest.fixture(scope="module")
def trainer(
    tmp_path_factory: pytest.TempPathFactory, babbling_model_dir: Path, embedding_dir: Path
) -> Iterator[TrainerServer]:
    data = tmp_path_factory.mktemp("trainer")
    install_fake_vllm(data)
    names = {"local/tiny": babbling_model_dir, "tiny": babbling_model_dir, "embedder": embedding_dir}
    models = (f"{name}={folder}" for name, folder in names.items())
    with serve_in_process(data, *models, more=BY_VLLM) as served:
        served.timeout_s = 180  # the stand-in loads torch with the first question
        yield served


def vllm_of(trainer: int) -> tuple[int, list[bytes]]:
    """The process that the trainer started, and its command line."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if b"--uds" in command and f"\nPPid:\t{trainer}\n" in (folder / "status").read_text():
                return int(folder.name), command
        except FileNotFoundError:  # it has just ended
            continue
    raise AssertionError(f"{trainer} has started no vLLM")


def test_a_tuned_model_answers_by_its_names_as_the_builtin_engine_does(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_DTYPE", "fp32")
    folder = tune(tmp_path, tiny_model_dir)
    base = f"local/tiny={tiny_model_dir}"
    with serve_in_process(tmp_path, base) as served, replace(served, timeout_s=180).client() as client:
        by_builtin = [answer_of(client, name) for name in ("local/tiny", MODEL)]
    home = install_fake_vllm(tmp_path)
    with (
        serve_in_process(tmp_path, base, more=BY_VLLM) as served,
        replace(served, timeout_s=180).client() as client,
    ):
        assert asked(client, "PUT", "aliases/team/tickets", {"model": MODEL})[0] == 200
        assert [answer_of(client, name) for name in ("local/tiny", MODEL)] == by_builtin
        assert answer_of(client, "team/tickets") == by_builtin[1] != by_builtin[0]
        (folder / "adapter").rename(folder / "gone")
        with pytest.raises(openai.NotFoundError, match="was deleted while the request waited"):
            answer_of(client, MODEL)
        assert answer_of(client, "local/tiny") == by_builtin[0]
    assert "serve.log" in {path.name for path in home.iterdir()}


def test_where_vllm_ends_its_answers_are_refused_and_the_next_one_starts_it_again(
    client: openai.OpenAI,
) -> None:
    before = answer_of(client, "tiny")
    with pytest.raises(openai.InternalServerError, match="vLLM ended while it answered") as ended:
        answer_of(client, "tiny", "die now")
    assert ended.value.response.headers["retry-after"] == "30"
    assert answer_of(client, "tiny") == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_vllm_ends_with_the_trainer(tmp_path: Path, tiny_model_dir: Path, number: signal.Signals) -> None:
    install_fake_vllm(tmp_path)
    process = start_process(tmp_path, f"tiny={tiny_model_dir}", more=BY_VLLM)
    try:
        with TrainerServer(ready_url(process), timeout_s=180).client() as client:
            answer_of(client, "tiny")
        vllm, command = vllm_of(process.pid)
        socket = Path(command[command.index(b"--uds") + 1].decode())
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        assert not any(b"API_KEY" in word or b"api-key" in word for word in command)
        process.send_signal(number)
        process.wait(20)
        wait_for(lambda: is_running(vllm), lambda running: not running)
    finally:
        process.kill()
        close(process)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()


def test_a_trainer_without_vllm_says_how_to_get_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainers.local", "--data", str(tmp_path), *BY_VLLM]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"trainer: vLLM is not installed in {tmp_path}/engines/vllm. Run finetune engines install vllm, or "
        "set the serving engine to builtin.\n"
    )


def test_a_server_that_can_not_start_says_its_last_words(tmp_path: Path, tiny_model_dir: Path) -> None:
    home = install_fake_vllm(tmp_path)
    line = next(home.rglob("cli/main.py"))
    line.write_text("def main():\n    raise ValueError('no kernel for this head')\n")
    with (
        serve_in_process(tmp_path, f"tiny={tiny_model_dir}", more=BY_VLLM) as served,
        served.client() as client,
        pytest.raises(
            openai.InternalServerError, match="vLLM did not start: ValueError: no kernel"
        ) as refused,
    ):
        answer_of(client, "tiny")
    assert refused.value.code == "engine_not_started"


def test_a_request_is_said_in_vllms_words() -> None:
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


def test_a_server_answers_lower_ranks_and_no_other_share(tmp_path: Path) -> None:
    running = VllmOptions(tmp_path, "bfloat16", 32, 8, 0.9)
    assert running.serves(VllmOptions(tmp_path, "bfloat16", 16, 8, 0.9))
    assert not running.serves(VllmOptions(tmp_path, "bfloat16", 64, 8, 0.9))
    assert not running.serves(VllmOptions(tmp_path, "bfloat16", 16, 8, 0.3))


def test_on_a_cpu_vllm_takes_half_of_the_memory_that_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8000 kB\nMemAvailable: 3000 kB\nHugePages_Total: 0\n", encoding="ascii")
    monkeypatch.setattr(host, "MEMINFO", meminfo)
    installation = find_installation(install_fake_vllm(tmp_path).parent, VLLM)
    assert installation is not None
    command = serve_command(installation, VllmOptions(tmp_path, "float32", 16, 8, None), tmp_path / "socket")
    assert command[-3:] == ["--enforce-eager", "--gpu-memory-utilization", "0.188"]


def test_a_request_that_comes_while_another_ends_is_counted(tmp_path: Path) -> None:
    class Engine(VllmEngine):
        async def _write_answers(self, request: Request) -> None:
            """Is done at once."""

    class Ending(Request):
        @property
        def rows(self) -> int:
            if threading.current_thread().name == "vllm":  # as its end is counted
                caller = threading.Thread(target=engine.submit, args=(other,))
                caller.start()
                caller.join(0.3)
            return 1

    engine = Engine(tmp_path, SimpleNamespace(stop=lambda: None), lambda: False, None)  # type: ignore[arg-type]
    values = (Target("tiny", None), [], Sampling(0.0, 1.0, None, (), None), False, lambda outcome: None)
    other = Request(*values)
    engine.submit(Ending(*values))
    try:
        wait_for(lambda: engine._open_rows, lambda rows: rows == 0, seconds=10)
        time.sleep(1.0)
        assert engine._open_rows == 0
    finally:
        engine.stop()
