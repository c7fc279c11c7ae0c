"""Training by GRPO through TRL, on a model made in process: what it learns, its loss by hand, what it survives."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import openai
import pytest
import torch

from tests.local.runs import adapter_bytes, kill_after_step, make_job, run_processes, run_to_end
from tests.local.test_life import results
from tests.local.trainer_server import KEY, examples, serve_in_thread, upload, wait_for_status
from tests.local.test_run_lifecycle import results
from trainers.local.job_directory import read_events, read_job, read_json
from trainers.local.train import run_training
from trainers.local.training.errors import Pauses
from trainers.local.training.methods import grpo
from trainers.local.training.methods.grpo import REWARDS, GroupLoss, Grpo, prepare
from trainers.local.training.metrics_logger import NullLogger
from trainers.methods import METHODS, GrpoParameters

ANSWERS = {
    "my card was charged twice": "N",
    "the parcel has not arrived": "not",
}  # a token each, at first 2% likely
SETTINGS = GrpoParameters(
    n_epochs=6,
    batch_size=4,
    learning_rate=1e-2,
    lora_r=4,
    lora_alpha=8,
    lora_dropout=0.1,
    samples=32,
    max_new_tokens=1,
    eval_steps=4,
)
STEPS = 30
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # of TRL


@pytest.fixture(autouse=True, scope="module")
def _exact_numbers() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_DTYPE", "fp32")
        yield
    torch.set_num_threads(threads)


def job(folder: Path, base: Path, *, tuned: Path | None = None, **changes: Any) -> Path:
    """Measured on its own rows."""
    lines = []
    for number in range(20):
        question = list(ANSWERS)[number % 2]
        turns = [("user", f"{question} ({number})"), ("assistant", ANSWERS[question])]
        lines.append(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))
    file = folder.with_suffix(".jsonl")
    file.write_text("\n".join(lines), encoding="utf-8")
    settings, start = replace(SETTINGS, **changes), "ft:tiny" if tuned else None
    made = make_job(folder, base, file, settings, validation=file, method="grpo", continues=start)
    if tuned:
        shutil.copytree(tuned, folder / "tuned")
    return made


@pytest.fixture(scope="module")
def undisturbed(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = job(tmp_path_factory.mktemp("undisturbed") / "job", tiny_model_dir)
    assert run_training(folder) == 0
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rewards_rise_until_the_right_label_is_the_likeliest(undisturbed: Path) -> None:
    rewards = [float(row["train_reward_mean"]) for row in rows(undisturbed)]
    assert len(rewards) == STEPS
    assert sum(rewards[:3]) / 3 < 0.1 < 0.8 < sum(rewards[-3:]) / 3
    validated = [row for row in rows(undisturbed) if row["valid_loss"]]
    assert float(validated[-1]["valid_reward_mean"]) == 1.0
    assert all(
        float(row["valid_loss"]) == pytest.approx(1 - float(row["valid_reward_mean"])) for row in validated
    )


def test_rewards_are_told_and_what_is_not_measured_is_not(undisturbed: Path) -> None:
    measured = [event["data"] for event in read_events(undisturbed) if event["data"]][-1]
    assert {"train_reward_mean", "train_reward_std", "valid_reward_mean"} <= measured.keys()
    assert not {"train_kl", "train_mean_token_accuracy"} & measured.keys(), (
        "beta is 0, and nothing is compared"
    )


def test_what_a_step_samples_is_told_before_it_ends(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo, "LOG_INTERVAL_S", 0.0)
    folder = job(tmp_path / "job", tiny_model_dir, n_epochs=1)
    assert run_training(folder) == 0
    told = [event["message"] for event in read_events(folder)]
    samples = (
        "Each step samples 32 answers of at most 1 tokens to each of 4 questions, and then learns from them"
    )
    under_way = "This step has learnt from the answers to 1 of 4 questions"
    first = next(place for place, message in enumerate(told) if message.startswith("Step 1/5"))
    assert told.index(samples) < told.index(under_way) < first


def test_a_run_that_was_killed_ends_with_the_same_bytes(
    undisturbed: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    again = job(tmp_path / "job", tiny_model_dir)
    for step in (2, 7):
        kill_after_step(again, step)
    assert run_to_end(again) == 0
    assert adapter_bytes(again) == adapter_bytes(undisturbed)
    assert results(again) == results(undisturbed)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_loss_and_gradient_are_those_of_the_paper(beta: float, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Each answer alone and without padding, against TRL's padded batch."""
    folder = job(tmp_path / "job", tiny_model_dir, beta=beta, temperature=0.7, lora_dropout=0.0)
    method = prepared(folder)
    with torch.no_grad():
        for name, weight in method.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.01)  # away from the reference
    questions, answers = method.rows[:2], ([7, 8, 9], [20, 2], [30, 31, 2], [2])
    rewards = [1.0, 0.0, 0.25, 0.75]
    method.model.train()
    loss, part = cast(GroupLoss, method._trainer).measure(questions, answers, rewards)
    loss.backward()  # type: ignore[no-untyped-call]
    learnt = [weight for weight in method.model.parameters() if weight.requires_grad]
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad.clone() for each in learnt]
    method.model.zero_grad()
    expected, kl = by_hand(
        method, [questions[0], questions[0], questions[1], questions[1]], answers, rewards, beta
    )
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert (part.reward, part.kl) == (0.5, pytest.approx(kl, rel=1e-3))
    for gradient, weight in zip(gradients, learnt, strict=True):
        assert torch.allclose(gradient, weight.grad, atol=1e-5)  # type: ignore[arg-type]


def by_hand(
    method: Grpo, questions: Sequence[Any], answers: Sequence[Any], rewards: Sequence[float], beta: float
) -> tuple[Any, float]:
    """Loss, and the KL a token."""
    groups = torch.tensor(rewards).view(-1, 2)
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


def prepared(folder: Path) -> Grpo:
    return prepare(folder, read_job(folder), NullLogger(folder), Pauses(folder))


def test_a_question_ends_where_the_last_answer_that_counts_begins(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = job(tmp_path / "job", tiny_model_dir)
    turns = [("user", "hello"), ("assistant", "login"), ("user", "charged twice"), ("assistant", "billing")]
    chat = {"messages": [{"role": role, "content": content} for role, content in turns]}
    (tmp_path / "job.jsonl").write_text(json.dumps(chat), encoding="utf-8")
    method = prepared(folder)
    question = method.rows[0]
    text = method._tokenizer.decode(question.prompt)
    assert text.endswith("charged twice<|im_end|>\n<|im_start|>assistant\n")
    assert "login" in text
    assert question.answer == "billing"


@pytest.mark.parametrize(
    ("reward", "answer", "worth"),
    [
        ("exact", '"Billing."', 1.0),
        ("exact", "Label: billing", 0.0),
        ("json", '{"label": "billing", "urgent": true}', 0.5),
        ("json", "billing", 0.0),
    ],
)
def test_an_answer_is_worth_what_a_measurement_would_give(reward: Any, answer: str, worth: float) -> None:
    right = "billing" if reward == "exact" else '{"label": "billing", "urgent": false}'
    assert float(REWARDS[reward](right, answer)) == worth


def test_a_tuned_model_is_gone_on_from_and_is_the_reference(
    undisturbed: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = job(tmp_path / "job", tiny_model_dir, tuned=undisturbed / "adapter", beta=0.05, lora_dropout=0.0)
    assert run_training(folder) == 0
    first, last = rows(folder)[0], rows(folder)[-1]
    assert float(first["train_reward_mean"]) > 0.5
    assert float(first["train_kl"]) == pytest.approx(0, abs=1e-6)
    assert float(last["train_kl"]) > 1e-6
    done, other = (read_json(each / "DONE") or {} for each in (folder, undisturbed))
    assert done["trainable_parameters"] == other["trainable_parameters"]


def test_two_processes_share_the_questions_of_a_step(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = job(tmp_path / "job", tiny_model_dir)
    assert run_processes(folder, 2) == [0, 0]
    assert float(rows(folder)[-1]["train_reward_mean"]) > 0.5


def test_a_job_of_grpo_over_http(tmp_path: Path) -> None:
    with (
        serve_in_thread(tmp_path / "trainer", {"toy": "/nowhere"}) as served,
        openai.OpenAI(base_url=served.url, api_key=KEY, max_retries=0) as client,
    ):

        def create(**hyperparameters: Any) -> Any:
            method: Any = {"type": "grpo", "grpo": {"hyperparameters": hyperparameters}}
            return client.fine_tuning.jobs.create(
                model="toy", training_file=upload(client, examples()), method=method
            )

        made = create(samples=4, reward="json", beta=0)
        resolved = made.hyperparameters.model_dump()
        assert (resolved["samples"], resolved["reward"], resolved["beta"]) == (4, "json", 0)
        assert resolved["n_epochs"] == METHODS["grpo"].epochs(12)
        assert wait_for_status(client, made.id, "succeeded", "failed").status == "succeeded"
        with pytest.raises(openai.BadRequestError, match="can't train with the method grpo"):
            create(engine="unsloth")
        with pytest.raises(openai.BadRequestError, match="it must be a number above 0"):
            method: Any = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}}
            client.fine_tuning.jobs.create(model="toy", training_file=upload(client), method=method)
