"""The method all_weights: every weight of the model learns, as in a plain loop with transformers and torch, through
kills, and the result is a model of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.local.reference import messages_of
from tests.local.runs import (
    SIGKILLED,
    event_messages,
    make_job,
    read_done,
    read_failure,
    start_run,
    train_losses,
    wait_for_step,
    write_ticket_rows,
)
from tests.local.training.test_families import generate, read_answer, submit
from trainers.local.serving.generator import Generator
from trainers.local.serving.values import Target
from trainers.local.train import run_training
from trainers.local.training.base_model import load_tokenizer
from trainers.local.training.checkpoints import list_checkpoints
from trainers.local.training.data import Row, read_rows
from trainers.local.training.loop import batches
from trainers.local.training.schedule import MAX_NORM, learning_rate_share
from trainers.methods import Parameters

pytestmark = pytest.mark.usefixtures("exact_numbers")
SETTINGS = Parameters(n_epochs=2, batch_size=4, learning_rate=1e-3)
ROWS = 24
STEPS = 12
SEED = 7  # make_job's


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ticket_rows(tmp_path_factory.mktemp("data") / "train.jsonl", ROWS)


@pytest.fixture(scope="module")
def trained(tiny_model_dir: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = job(tmp_path_factory.mktemp("all") / "job", tiny_model_dir, rows_file)
    assert run_training(folder) == 0, read_failure(folder)
    return folder


@pytest.fixture
def generator() -> Iterator[Generator]:
    generator = Generator()
    yield generator
    generator.stop()


def job(
    folder: Path, base: Path, rows: Path, settings: Parameters = SETTINGS, *, validation: Path | None = None
) -> Path:
    return make_job(folder, base, rows, settings, method="all_weights", validation=validation)


def train_plainly(base: Path, file: Path) -> tuple[Any, list[float]]:
    """Returns the model and the loss of each step, with transformers' model, torch's AdamW and one row at a time."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=SETTINGS.learning_rate, weight_decay=0.0)
    rows = read_rows(file, load_tokenizer(str(base)), 512, "training_file").rows
    losses = []
    for epoch in range(SETTINGS.n_epochs):
        for batch in batches(rows, SETTINGS.batch_size, SEED, epoch):
            count = sum(sum(row.supervised) for row in batch)
            total = torch.stack([plain_loss(model, row) for row in batch]).sum() / count
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            losses.append(total.item())
            share = learning_rate_share(len(losses), STEPS)
            optimizer.param_groups[0]["lr"] = SETTINGS.learning_rate * share
            optimizer.step()
            optimizer.zero_grad()
    return model.eval(), losses


def plain_loss(model: Any, row: Row) -> torch.Tensor:
    ids = torch.tensor([list(row.ids)])
    logits = model(input_ids=ids).logits[0]
    learnt = [place for place, is_learnt in enumerate(row.supervised) if is_learnt]
    targets = ids[0, learnt]
    return functional.cross_entropy(logits[[place - 1 for place in learnt]], targets, reduction="sum")


def test_it_learns_what_a_plain_loop_learns(trained: Path, tiny_model_dir: Path, rows_file: Path) -> None:
    plain, expected = train_plainly(tiny_model_dir, rows_file)
    losses = train_losses(trained)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < 0.8 * losses[0]

    tuned: Any = AutoModelForCausalLM.from_pretrained(trained / "adapter", dtype=torch.float32)
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    ours = dict(tuned.named_parameters())
    before = dict(base.named_parameters())
    for name, weight in plain.named_parameters():
        assert not torch.equal(ours[name], before[name]), f"{name} has learnt nothing"
        change = (weight - before[name]).norm()
        assert (ours[name] - weight).norm() < 0.01 * change, name
    assert read_done(trained)["trainable_parameters"] == sum(weight.numel() for weight in ours.values())
    assert any(line.endswith("model saved") for line in event_messages(trained))


def test_its_result_answers_like_transformers_does(trained: Path, generator: Generator) -> None:
    result = trained / "adapter"
    questions = [messages_of("Ticket 1: my card was charged twice"), messages_of("Ticket 2: the parcel")]
    target = Target(str(result), None)
    submitted = [submit(generator, target, question) for question in questions]
    answers = [read_answer(each) for each in submitted]
    model: Any = AutoModelForCausalLM.from_pretrained(result).eval()
    assert answers == [generate(model, result, question) for question in questions]
    assert AutoTokenizer.from_pretrained(result).chat_template
    # tied weights are written once
    assert "lm_head.weight" not in load_file(result / "model.safetensors")


def test_a_killed_training_ends_with_the_same_bytes(
    trained: Path, tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    folder = job(tmp_path / "job", tiny_model_dir, rows_file)
    process = start_run(folder, checkpoint_s=0.0)
    wait_for_step(folder, 3, process)
    process.kill()
    process.join(60)
    assert process.exitcode == SIGKILLED
    assert run_training(folder) == 0
    for path in (trained / "adapter").iterdir():
        assert (folder / "adapter" / path.name).read_bytes() == path.read_bytes(), path.name
    assert len(list_checkpoints(folder)) == 1, "a model's checkpoints are large"


def test_the_best_checkpoint_is_the_result(tiny_model_dir: Path, rows_file: Path, tmp_path: Path) -> None:
    # Answers that nobody trains on become ever less likely.
    rows = [json.loads(line) for line in rows_file.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["messages"][-1]["content"] = "none of these"
    others = tmp_path / "others.jsonl"
    others.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    settings = replace(SETTINGS, n_epochs=3)
    folder = job(tmp_path / "job", tiny_model_dir, rows_file, settings, validation=others)
    assert run_training(folder) == 0
    done = read_done(folder)
    assert done["result_step"] < done["step"]
    result = folder / "adapter" / "model.safetensors"
    checkpoint = folder / "checkpoints" / f"step-{done['result_step']:06d}" / "model.safetensors"
    assert result.read_bytes() == checkpoint.read_bytes()


def test_in_bfloat16_it_learns_about_the_same_and_is_written_like_the_base(
    trained: Path, tiny_model_dir: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_DTYPE", "bf16")
    base = tmp_path / "base"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16)
    model.save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(base)
    folder = job(tmp_path / "job", base, rows_file)
    assert run_training(folder) == 0, read_failure(folder)
    assert event_messages(folder)[0].endswith("in bfloat16")
    assert train_losses(folder) == pytest.approx(train_losses(trained), rel=0.05)
    weights = load_file(folder / "adapter" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    config = json.loads((folder / "adapter" / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "bfloat16"
    # what it goes on with is in float32
    (checkpoint,) = list_checkpoints(folder)
    state = torch.load(checkpoint / "state.pt", weights_only=True)
    assert {weight.dtype for weight in state["weights"].values()} == {torch.float32}


def test_a_quantised_base_is_refused(tiny_model_dir: Path, rows_file: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_model_dir).save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    folder = job(tmp_path / "job", base, rows_file)
    assert run_training(folder) == 1
    failure = read_failure(folder)
    assert (failure["code"], failure["param"]) == ("base_quantized", "method")
