"""Training by GRPO through TRL on a tiny model: what it learns, its loss by hand, and what it survives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from tests.local.runs import (
    assert_same_result,
    event_messages,
    kill_after_step,
    make_job,
    read_done,
    read_results,
    run_processes,
)
from tests.local.trainer_server import KEY, examples, serve_in_thread, upload, wait_for_status
from trainers.local.job_directory import read_events, read_job
from trainers.local.train import run_training
from trainers.local.training.errors import Pauses
from trainers.local.training.methods import grpo
from trainers.local.training.methods.grpo import REWARDS, Grpo, prepare
from trainers.local.training.methods.sampling import SampledAnswer
from trainers.local.training.metrics_logger import NullLogger
from trainers.methods import METHODS, GrpoParameters

# One token each, of which the base is 2% sure
ANSWERS = {"my card was charged twice": "N", "the parcel has not arrived": "not"}
SETTINGS = GrpoParameters(
    n_epochs=2,
    batch_size=4,
    learning_rate=4e-2,
    lora_r=4,
    lora_alpha=8,
    lora_dropout=0.1,
    samples=16,
    max_new_tokens=1,
)
STEPS = 10
pytestmark = [
    pytest.mark.deep,
    pytest.mark.usefixtures("exact_numbers"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning"),  # of TRL
]


def make_grpo_job(
    folder: Path, base: Path, *, rows: int = 20, tuned: Path | None = None, **changes: Any
) -> Path:
    """It is validated on its first four rows. `tuned` is the adapter to continue from."""
    lines = []
    for number in range(rows):
        question = list(ANSWERS)[number % 2]
        turns = [("user", f"{question} ({number})"), ("assistant", ANSWERS[question])]
        lines.append(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))
    file = folder.with_suffix(".jsonl")
    file.write_text("\n".join(lines), encoding="utf-8")
    validation = folder.with_name("valid.jsonl")
    validation.write_text("\n".join(lines[:4]), encoding="utf-8")
    settings, start = replace(SETTINGS, **changes), "ft:tiny" if tuned else None
    make_job(folder, base, file, settings, validation=validation, method="grpo", continues=start)
    if tuned:
        shutil.copytree(tuned, folder / "tuned")
    return folder


@pytest.fixture(scope="module")
def undisturbed(exact_numbers: None, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_grpo_job(tmp_path_factory.mktemp("undisturbed") / "job", tiny_model_dir)
    assert run_training(folder) == 0
    return folder


def rewards(folder: Path) -> list[float]:
    return [float(row["train_reward_mean"]) for row in read_results(folder)]


def test_rewards_rise_until_the_right_label_is_the_likeliest(undisturbed: Path) -> None:
    trained = rewards(undisturbed)
    assert len(trained) == STEPS
    assert sum(trained[:3]) / 3 < 0.2 < 0.8 < sum(trained[-3:]) / 3
    validated = [row for row in read_results(undisturbed) if row["valid_loss"]]
    assert float(validated[-1]["valid_reward_mean"]) == 1.0
    assert all(
        float(row["valid_loss"]) == pytest.approx(1 - float(row["valid_reward_mean"])) for row in validated
    )


def test_events_have_the_rewards_but_no_divergence_without_a_reference(undisturbed: Path) -> None:
    measured = [event["data"] for event in read_events(undisturbed) if event["data"]][-1]
    assert {"train_reward_mean", "train_reward_std", "valid_reward_mean"} <= measured.keys()
    assert not {"train_kl", "train_mean_token_accuracy"} & measured.keys()


def test_a_long_step_logs_its_progress(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo, "LOG_INTERVAL_S", 0.0)
    folder = make_grpo_job(tmp_path / "job", tiny_model_dir, rows=4, samples=32, n_epochs=1)
    assert run_training(folder) == 0
    messages = event_messages(folder)
    samples = (
        "Each step samples 32 answers of at most 1 tokens to each of 4 questions, and then learns from them"
    )
    progress = "This step has learnt from the answers to 1 of 4 questions"
    (step,) = (message for message in messages if message.startswith("Step 1/1"))
    assert messages.index(samples) < messages.index(progress) < messages.index(step)


def test_a_warning_says_once_that_no_answer_scored_better_than_another(
    undisturbed: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = make_grpo_job(tmp_path / "job", tiny_model_dir, rows=8, n_epochs=4, reward="json", samples=2)
    assert run_training(folder) == 0
    (warning,) = (message for message in event_messages(folder) if "nothing to learn" in message)
    assert warning.startswith("In 8 steps all answers to each question had the same reward (now 0.00")
    assert not any("nothing to learn" in message for message in event_messages(undisturbed))


def test_a_killed_run_resumes_to_the_same_bytes(
    undisturbed: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = make_grpo_job(tmp_path / "job", tiny_model_dir)
    kill_after_step(folder, 4)
    assert run_training(folder) == 0
    assert_same_result(folder, undisturbed)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_loss_and_gradient_are_those_of_the_paper(beta: float, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Each answer alone and without padding, compared with TRL's padded batch."""
    folder = make_grpo_job(tmp_path / "job", tiny_model_dir, beta=beta, temperature=0.7, lora_dropout=0.0)
    method = prepare_method(folder)
    with torch.no_grad():
        for name, weight in method.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.01)  # away from the reference
    questions, answers = method.rows[:2], ([7, 8, 9], [20, 2], [30, 31, 2], [2])
    answer_rewards = [1.0, 0.0, 0.25, 0.75]
    method.model.train()
    sampled = [SampledAnswer(tokens) for tokens in answers]
    loss, part = method._trainer.measure(questions, sampled, answer_rewards)
    loss.backward()  # type: ignore[no-untyped-call]
    matrices = [weight for weight in method.model.parameters() if weight.requires_grad]
    gradients = [
        torch.zeros_like(matrix) if matrix.grad is None else matrix.grad.clone() for matrix in matrices
    ]
    method.model.zero_grad()
    expected, kl = loss_by_hand(
        method, [questions[0], questions[0], questions[1], questions[1]], answers, answer_rewards, beta
    )
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert (part.reward, part.kl) == (0.5, pytest.approx(kl, rel=1e-3))
    for gradient, matrix in zip(gradients, matrices, strict=True):
        assert torch.allclose(gradient, matrix.grad, atol=1e-5)  # type: ignore[arg-type]


def loss_by_hand(
    method: Grpo,
    questions: Sequence[Any],
    answers: Sequence[Any],
    answer_rewards: Sequence[float],
    beta: float,
) -> tuple[Any, float]:
    """The loss, and the KL divergence per token."""
    groups = torch.tensor(answer_rewards).view(-1, 2)
    advantages = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()
    losses, divergences = [], []
    for question, answer, advantage in zip(questions, answers, advantages, strict=True):
        p = log_probabilities(method.model, question.prompt, answer)
        divergence = torch.zeros(len(answer))
        if beta:
            with torch.no_grad(), method.model.disable_adapter():
                reference = log_probabilities(method.model, question.prompt, answer)
            divergence = (reference - p).exp() - (reference - p) - 1
        ratio = (p - p.detach()).exp()
        losses.append((ratio * (beta * divergence - advantage)).mean())
        divergences.append(divergence.detach())
    return torch.stack(losses).mean(), float(torch.cat(divergences).mean())


def log_probabilities(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1] / 0.7
    return logits.log_softmax(-1)[range(len(answer)), list(answer)]


def prepare_method(folder: Path) -> Grpo:
    return prepare(folder, read_job(folder), NullLogger(folder), Pauses(folder))


def test_a_question_ends_before_the_last_answer(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = make_grpo_job(tmp_path / "job", tiny_model_dir)
    turns = [("user", "hello"), ("assistant", "login"), ("user", "charged twice"), ("assistant", "billing")]
    chat = {"messages": [{"role": role, "content": content} for role, content in turns]}
    (tmp_path / "job.jsonl").write_text(json.dumps(chat), encoding="utf-8")
    method = prepare_method(folder)
    question = method.rows[0]
    text = method._tokenizer.decode(question.prompt)
    assert text.endswith("charged twice<|im_end|>\n<|im_start|>assistant\n")
    assert "login" in text
    assert question.answer == "billing"


@pytest.mark.parametrize(
    ("reward", "answer", "value"),
    [
        ("exact", '"Billing."', 1.0),
        ("exact", "Label: billing", 0.0),
        ("json", '{"label": "billing", "urgent": true}', 0.5),
        ("json", "billing", 0.0),
    ],
)
def test_an_answer_is_rewarded_as_a_measurement_scores_it(reward: Any, answer: str, value: float) -> None:
    right = "billing" if reward == "exact" else '{"label": "billing", "urgent": false}'
    assert float(REWARDS[reward](right, answer)) == value


def test_training_continues_from_a_tuned_model_which_is_the_reference(
    undisturbed: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = make_grpo_job(
        tmp_path / "job",
        tiny_model_dir,
        tuned=undisturbed / "adapter",
        n_epochs=1,
        beta=0.05,
        lora_dropout=0.0,
    )
    assert run_training(folder) == 0
    first, *_, last = read_results(folder)
    assert float(first["train_reward_mean"]) > 0.5
    assert float(first["train_kl"]) == pytest.approx(0, abs=1e-6)
    assert float(last["train_kl"]) > 1e-6
    assert read_done(folder)["trainable_parameters"] == read_done(undisturbed)["trainable_parameters"]


def test_two_processes_share_the_questions_of_a_step(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = make_grpo_job(tmp_path / "job", tiny_model_dir)
    assert run_processes(folder, 2) == [0, 0]
    assert rewards(folder)[-1] > 0.3


def test_a_grpo_job_over_http(tmp_path: Path) -> None:
    with (
        serve_in_thread(tmp_path / "trainer", {"toy": "/nowhere"}) as served,
        openai.OpenAI(base_url=served.url, api_key=KEY, max_retries=0) as client,
    ):

        def create(method: str, **hyperparameters: Any) -> Any:
            spec: Any = {"type": method, method: {"hyperparameters": hyperparameters}}
            file = upload(client, examples())
            return client.fine_tuning.jobs.create(model="toy", training_file=file, method=spec)

        job = create("grpo", samples=4, reward="json", beta=0)
        resolved = job.hyperparameters.model_dump()
        assert (resolved["samples"], resolved["reward"], resolved["beta"]) == (4, "json", 0)
        assert resolved["n_epochs"] == METHODS["grpo"].epochs(12)
        assert wait_for_status(client, job.id, "succeeded", "failed").status == "succeeded"
        with pytest.raises(openai.BadRequestError, match="can't train with the method grpo"):
            create("grpo", engine="unsloth")
        with pytest.raises(openai.BadRequestError, match="it must be a number above 0"):
            create("dpo", beta=0)
