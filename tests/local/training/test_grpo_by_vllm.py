"""GRPO whose answers vLLM writes, with a stand-in for vLLM that really has the base and the adapter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import openai
import pytest
import torch

from tests.local.runs import assert_same_result, event_messages, kill_after_step, read_results, start_run
from tests.local.serving.fake_vllm import MODEL_SERVER, install_fake_vllm
from tests.local.trainer_server import KEY, examples, serve_in_thread, upload, wait_for
from tests.local.training.test_grpo import STEPS, make_grpo_job, prepare_method, rewards
from trainers.local.job_directory import read_events, read_job
from trainers.local.serving.vllm_sampler import FOLDER, LOG, start_sampler
from trainers.local.train import run_training
from trainers.local.training.methods.grpo import LARGEST_RATIO, Grpo
from trainers.local.training.methods.sampling import Agreement, SampledAnswer, SamplerFailed, SamplerSetup
from trainers.local.training.metrics_logger import NullLogger
from trainers.methods import GrpoParameters

pytestmark = [
    pytest.mark.deep,
    pytest.mark.usefixtures("exact_numbers"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning"),  # of TRL
]
SAMPLES = 32  # with fewer, chance decides which of the labels is learnt first
# Few answers, where it doesn't matter what is learnt: the stand-in writes one after the other.
SHORT: Mapping[str, Any] = MappingProxyType({"rows": 8, "samples": 8})
SHORT_STEPS = 4
# Has a fault while it answers the first time.
FAILS_ONCE = """import os
from pathlib import Path
from tests.peers import vllm_server
seen = Path({path!r})
answer = vllm_server.Model.answer
def answer_or_end(self, body):
    if not seen.exists():
        seen.touch()
        {fault}
    return answer(self, body)
vllm_server.Model.answer = answer_or_end
from tests.peers.vllm_server import main as main
"""
# Loads two adapters, those of the first two steps, and never a third.
ENDS_IN_THE_THIRD_STEP = """import os
from tests.peers import vllm_server
load = vllm_server.Model.load
def load_or_end(self, name, path):
    if path.endswith("3"):
        os._exit(3)
    load(self, name, path)
vllm_server.Model.load = load_or_end
from tests.peers.vllm_server import main as main
"""


def make_vllm_job(data: Path, base: Path, command_line: str = MODEL_SERVER, **changes: Any) -> Path:
    """Returns the job's folder in a trainer's `data` folder with a stand-in for vLLM."""
    install_fake_vllm(data, command_line)
    (data / "jobs").mkdir()
    return make_grpo_job(data / "jobs" / "job", base, **{"engine": "vllm", "samples": SAMPLES, **changes})


@pytest.fixture(scope="module")
def undisturbed(exact_numbers: None, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_vllm_job(tmp_path_factory.mktemp("undisturbed"), tiny_model_dir)
    assert run_training(folder) == 0
    return folder


@pytest.fixture(scope="module")
def undisturbed_short(
    exact_numbers: None, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = make_vllm_job(tmp_path_factory.mktemp("short"), tiny_model_dir, **SHORT)
    assert run_training(folder) == 0
    assert len(rewards(folder)) == SHORT_STEPS
    return folder


def test_rewards_rise_until_the_right_label_is_the_likeliest(undisturbed: Path) -> None:
    trained = rewards(undisturbed)
    assert len(trained) == STEPS
    assert sum(trained[:3]) / 3 < 0.2 < 0.6 < sum(trained[-3:]) / 3
    validated = [row for row in read_results(undisturbed) if row["valid_loss"]]
    assert float(validated[-1]["valid_reward_mean"]) == 1.0


def test_events_say_that_vllm_wrote_the_answers_and_how_well_it_agrees(undisturbed: Path) -> None:
    messages = event_messages(undisturbed)
    assert any(message.startswith("Starting vLLM 0.32") for message in messages)
    assert any(message.startswith("vLLM is ready after") for message in messages)
    (agreement,) = (event for event in read_events(undisturbed) if "nats on average" in event["message"])
    assert "0 of 128 answers differ too much to count" in agreement["message"]
    measured = agreement["data"]
    assert (measured["left_out"], measured["answers"]) == (0, 128)
    assert measured["sampled_gap_nats"] < 1e-5


def test_the_copies_of_the_adapter_are_deleted_and_the_log_stays(undisturbed: Path) -> None:
    assert [path.name for path in (undisturbed / FOLDER).iterdir()] == [LOG]


def test_a_killed_run_resumes_to_the_same_bytes(
    undisturbed_short: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = make_vllm_job(tmp_path, tiny_model_dir, **SHORT)
    kill_after_step(folder, 2)
    wait_for(lambda: servers_of(folder), lambda servers: not servers)
    assert run_training(folder) == 0
    assert servers_of(folder) == []
    assert_same_result(folder, undisturbed_short)


def test_a_server_is_recognised_by_the_log_that_it_writes(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = make_vllm_job(tmp_path, tiny_model_dir)
    training = start_run(folder)
    servers = wait_for(lambda: servers_of(folder), bool)
    assert len(servers) == 1
    training.kill()
    training.join(20)
    wait_for(lambda: servers_of(folder), lambda servers: not servers)


def servers_of(job: Path) -> list[str]:
    """Returns the process ids of servers that write the log in this job's folder."""
    log = str(job / FOLDER / LOG)
    servers = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            output = os.readlink(folder / "fd" / "1")
        except OSError:  # it has just ended, or is another user's
            continue
        if output.startswith(log):
            servers.append(folder.name)
    return servers


@pytest.mark.parametrize(
    ("fault", "event"),
    [
        ("os._exit(3)", "vLLM is started again. It ended while it answered."),
        ("raise RuntimeError", "vLLM is started again. vLLM: Internal Server Error"),
    ],
)
def test_a_server_that_fails_is_started_again_with_the_same_result(
    fault: str, event: str, undisturbed_short: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    command_line = FAILS_ONCE.format(path=str(tmp_path / "failed"), fault=fault)
    folder = make_vllm_job(tmp_path, tiny_model_dir, command_line, **SHORT)
    assert run_training(folder) == 0
    assert event in event_messages(folder)
    assert_same_result(folder, undisturbed_short)


def test_without_a_server_that_works_the_training_writes_its_answers_itself(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = make_vllm_job(tmp_path, tiny_model_dir, "raise ImportError('libcuda.so.1')\n")
    assert run_training(folder) == 0
    messages = event_messages(folder)
    (again,) = (message for message in messages if message.startswith("vLLM is started again."))
    assert "libcuda.so.1" in again
    (alone,) = (message for message in messages if "writes its answers itself" in message)
    assert "vLLM did not start" in alone and "libcuda.so.1" in alone
    assert sum(rewards(folder)[-3:]) / 3 > 0.6


def test_the_training_goes_on_by_itself_after_steps_that_vllm_has_answered(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    # Four steps in one epoch, so that no validation comes before the third.
    folder = make_vllm_job(tmp_path, tiny_model_dir, ENDS_IN_THE_THIRD_STEP, rows=16, n_epochs=1, samples=8)
    assert run_training(folder) == 0
    messages = event_messages(folder)
    assert any("nats on average" in message for message in messages), "vLLM has answered before"
    (alone,) = (message for message in messages if "writes its answers itself" in message)
    assert alone.startswith("vLLM ended while it answered.")
    assert len(rewards(folder)) == 4


def test_a_tuned_model_is_trained_further(undisturbed: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    tuned = undisturbed / "adapter"
    changes: dict[str, Any] = {"n_epochs": 1, "beta": 0.05, "lora_dropout": 0.0}
    folder = make_vllm_job(tmp_path, tiny_model_dir, tuned=tuned, **{**SHORT, **changes})
    assert run_training(folder) == 0
    first = read_results(folder)[0]
    assert float(first["train_reward_mean"]) > 0.5
    assert float(first["train_kl"]) == pytest.approx(0, abs=1e-6)
    assert not any("writes its answers itself" in message for message in event_messages(folder))


def test_the_loss_weighs_each_answer_by_how_likely_it_is_here(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = make_grpo_job(tmp_path / "job", tiny_model_dir, temperature=0.7, lora_dropout=0.0)
    method = prepare_method(folder)
    trainer, rows = method._trainer, method.rows[:1]
    tokens = [[5, 6], [7], [8, 9, 10]]
    drawn = [SampledAnswer(each) for each in tokens]
    _, plain = trainer.measure(rows, drawn, [1.0, 0.0, 0.0])
    assert plain.importance is None

    here = own_logprobs(method, tokens)
    same = [SampledAnswer(each, logprobs) for each, logprobs in zip(tokens, here, strict=True)]
    loss, equal = trainer.measure(rows, same, [1.0, 0.0, 0.0])
    assert equal.importance is not None
    assert equal.importance.ratio.flatten().tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert loss.item() == pytest.approx(plain.loss, abs=1e-6)

    # The first is twice as likely here, and the second so much more that it doesn't count.
    half = [here[0][0] - torch.tensor(2.0).log().item(), here[0][1]]
    far = [here[1][0] - torch.tensor(LARGEST_RATIO + 1).log().item()]
    other = [
        SampledAnswer(tokens[0], half),
        SampledAnswer(tokens[1], far),
        SampledAnswer(tokens[2], here[2]),
    ]
    loss, weighed = trainer.measure(rows, other, [1.0, 0.0, 0.0])
    assert weighed.importance is not None
    assert weighed.importance.ratio.flatten().tolist() == pytest.approx([2.0, 0.0, 1.0], abs=1e-4)
    assert weighed.importance.left_out == 1
    rewarded = torch.tensor([1.0, 0.0, 0.0])
    advantages = (rewarded - rewarded.mean()) / (rewarded.std() + 1e-4)
    by_hand = -(advantages * torch.tensor([2.0, 0.0, 1.0])).mean().item()
    assert loss.item() == pytest.approx(by_hand, abs=1e-4)


def own_logprobs(method: Grpo, tokens: list[list[int]]) -> list[list[float]]:
    """Computes each answer alone and without padding."""
    model, prompt = method.model, list(method.rows[0].prompt)
    model.eval()
    all_logprobs = []
    for answer in tokens:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].float() / 0.7
        logprobs = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
        all_logprobs.append([float(row[token]) for row, token in zip(logprobs, answer, strict=True)])
    model.train()
    return all_logprobs


def test_a_step_of_which_most_answers_do_not_count_is_warned_of_once(tmp_path: Path) -> None:
    warned: list[str] = []

    class Noted(NullLogger):
        def warn(self, message: str) -> None:
            warned.append(message)

    agreement = Agreement(Noted(tmp_path))
    for left_out in (8, 9, 16):
        agreement.add(0.5, left_out, 16)
    (warning,) = warned
    assert warning.startswith("9 of this step's 16 answers")


def test_a_gpu_without_room_for_a_second_copy_is_refused_in_a_sentence(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = make_vllm_job(tmp_path, tiny_model_dir)
    method = prepare_method(folder)
    job = read_job(folder)
    assert isinstance(job.settings, GrpoParameters)
    setup = SamplerSetup(
        folder=folder,
        job=job,
        settings=job.settings,
        model=method.model,
        ends=(2,),
        device=torch.device("cpu"),
        dtype=torch.float32,
        spare=1000,
        logger=NullLogger(folder),
    )
    sampler = start_sampler(setup)
    with pytest.raises(SamplerFailed, match="too little for vLLM with a second copy of the weights"):
        sampler.answer([[1, 2, 3]], 4, is_sampled=True)
    sampler.close()


def test_a_job_is_refused_without_vllm_and_with_what_it_can_not_do(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    with (
        serve_in_thread(tmp_path, {"toy": "/nowhere"}) as served,
        openai.OpenAI(base_url=served.url, api_key=KEY, max_retries=0) as client,
    ):
        file = upload(client, examples())

        def create(method: str, **hyperparameters: Any) -> None:
            spec: Any = {"type": method, method: {"hyperparameters": {"engine": "vllm", **hyperparameters}}}
            client.fine_tuning.jobs.create(model="toy", training_file=file, method=spec)

        with pytest.raises(openai.BadRequestError, match="finetune engines install vllm"):
            create("grpo")
        with pytest.raises(openai.BadRequestError, match="vllm can't train with the method supervised"):
            create("supervised")
        install_fake_vllm(tmp_path)
        with pytest.raises(openai.BadRequestError, match="loads the base without quantization"):
            create("grpo", quantization="nf4")
